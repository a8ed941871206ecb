//! What the dataplane tells, on its way from the courier to the agent.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use weir_table::publish::News;

/// Most news that wait. An agent takes them within a compilation; one that does not is told
/// everything anew over another connection.
const ROOM: usize = 65_536;

/// Called when there is something to take.
type Wake = Box<dyn Fn() + Send>;

/// Holds news for the agent, oldest first, each with the number of the connection over which it
/// came.
#[derive(Default)]
pub struct Inbox {
    news: Mutex<VecDeque<(u64, News)>>,
    wake: Mutex<Option<Wake>>,
}

impl Inbox {
    /// Has the agent woken by this when there is something to take.
    pub fn wake_with(&self, wake: impl Fn() + Send + 'static) {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(wake));
    }

    /// Puts news in. False: there is no room for all of them, and none was put in.
    #[must_use]
    pub fn put(&self, session: u64, news: Vec<News>) -> bool {
        if news.is_empty() {
            return true;
        }
        let mut queue = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() + news.len() > ROOM {
            return false;
        }
        queue.extend(news.into_iter().map(|news| (session, news)));
        drop(queue);
        if let Some(wake) = &*self.wake.lock().unwrap_or_else(PoisonError::into_inner) {
            wake();
        }
        true
    }

    /// Takes everything.
    pub fn take(&self) -> Vec<(u64, News)> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Inbox").field("news", &news.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn news_are_taken_in_order_and_once_and_wake() {
        let inbox = Inbox::default();
        let detached = |ticket| News::Detached { ticket };
        assert!(inbox.put(1, vec![detached(1)]), "without anybody to wake");
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        inbox.wake_with(move || _ = count.fetch_add(1, Ordering::Relaxed));
        assert!(inbox.put(1, vec![detached(2), detached(3)]));
        assert!(inbox.put(2, Vec::new()));
        assert!(inbox.put(2, vec![detached(1)]));
        assert_eq!(woken.load(Ordering::Relaxed), 2, "nothing is nothing to wake for");
        let expected = [(1, 1), (1, 2), (1, 3), (2, 1)].map(|(s, ticket)| (s, detached(ticket)));
        assert_eq!(inbox.take(), expected);
        assert_eq!(inbox.take(), []);
    }

    #[test]
    fn what_finds_no_room_is_refused_as_a_whole() {
        let inbox = Inbox::default();
        let many = |count| vec![News::Cleared { ifindex: 1 }; count];
        assert!(inbox.put(1, many(ROOM - 1)));
        assert!(!inbox.put(1, many(2)));
        assert!(inbox.put(1, many(1)));
        assert_eq!(inbox.take().len(), ROOM);
    }
}
