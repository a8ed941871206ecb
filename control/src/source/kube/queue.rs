//! From the tasks that follow the API to the thread that compiles: bounded, in order.
//!
//! A task that finds the queue full waits, which makes the server wait, which costs nobody memory.
//! The thread waits without a runtime.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::kinds::Kind;
use crate::model::{Complaint, Object, ObjectId};

/// How much may be on its way.
pub const ROOM: usize = 1024;

/// What the API said.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// An object is new or has changed.
    Apply {
        /// Its identity.
        id: ObjectId,
        /// Its UID, if anything is wrong with it.
        uid: Option<Box<str>>,
        /// What it says; `None` if it cannot be honoured at all.
        object: Option<Box<Object>>,
        /// What is wrong with it.
        complaints: Vec<Complaint>,
    },
    /// An object is gone.
    Delete(ObjectId),
    /// A kind has been listed completely.
    Listed(Kind),
}

/// What a wait ended with.
#[derive(Debug, Clone, PartialEq)]
pub enum Wake {
    /// News, and when it came from the network.
    News(News, Instant),
    /// [`Sender::nudge`] was called; nothing is known of the cluster.
    Nudged,
    /// Nothing in that time.
    Nothing,
    /// It is over.
    Stop,
}

#[derive(Debug)]
enum Message {
    News(News, Instant),
    Nudge,
    Stop,
}

/// Where news goes in.
#[derive(Debug, Clone)]
pub struct Sender {
    room: Arc<Semaphore>,
    messages: mpsc::Sender<Message>,
}

/// Where it comes out.
#[derive(Debug)]
pub struct Receiver {
    room: Arc<Semaphore>,
    messages: mpsc::Receiver<Message>,
}

/// Nobody takes news any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// A queue for so many news.
pub fn queue(room: usize) -> (Sender, Receiver) {
    let room = Arc::new(Semaphore::new(room));
    let (sender, receiver) = mpsc::channel();
    let sender = Sender { room: Arc::clone(&room), messages: sender };
    (sender, Receiver { room, messages: receiver })
}

impl Sender {
    /// Puts news in, and waits for room before that.
    ///
    /// # Errors
    /// [`Closed`] if the receiver is gone.
    pub async fn send(&self, news: News, at: Instant) -> Result<(), Closed> {
        let permit = self.room.acquire().await.map_err(|_| Closed)?;
        self.messages.send(Message::News(news, at)).map_err(|_| Closed)?;
        // The receiver gives it back.
        permit.forget();
        Ok(())
    }

    /// Ends the receiver's wait, behind what is in the queue, for another reason than news.
    pub fn nudge(&self) {
        // Without a receiver there is no wait.
        let _ = self.messages.send(Message::Nudge);
    }

    /// Ends the receiver's work, behind what is in the queue.
    pub fn stop(&self) {
        // Without a receiver there is no wait.
        let _ = self.messages.send(Message::Stop);
    }
}

impl Receiver {
    /// Waits for the next.
    pub fn next(&self, wait: Duration) -> Wake {
        match self.messages.recv_timeout(wait) {
            Ok(Message::News(news, at)) => {
                self.room.add_permits(1);
                Wake::News(news, at)
            }
            Ok(Message::Nudge) => Wake::Nudged,
            Err(RecvTimeoutError::Timeout) => Wake::Nothing,
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => Wake::Stop,
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.room.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_full_queue_makes_the_sender_wait_and_nothing_is_lost() {
        let (sender, receiver) = queue(2);
        let at = Instant::now();
        let task = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                for i in 0..50 {
                    let id = ObjectId::Node(i.to_string());
                    assert_eq!(sender.send(News::Delete(id), at).await, Ok(()));
                }
                sender.stop();
            });
        });
        let mut seen = 0;
        loop {
            assert!(receiver.room.available_permits() <= 2);
            match receiver.next(PATIENCE) {
                Wake::News(News::Delete(ObjectId::Node(name)), _) => {
                    assert_eq!(name, seen.to_string());
                    seen += 1;
                }
                Wake::Stop => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, 50);
        task.join().unwrap();
        assert_eq!(receiver.next(PATIENCE), Wake::Stop);
    }

    #[test]
    fn without_a_receiver_nobody_waits() {
        let (sender, receiver) = queue(1);
        assert_eq!(receiver.next(Duration::ZERO), Wake::Nothing);
        drop(receiver);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sent = runtime.block_on(sender.send(News::Listed(Kind::Pods), Instant::now()));
        assert_eq!(sent, Err(Closed));
        sender.stop();
    }
}
