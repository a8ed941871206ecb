//! The thread that the server runs on: its listener and its connections.
//!
//! The thread has a runtime of its own, so tests may be synchronous or in a runtime of theirs. It is
//! told to listen, to close connections and to be down by messages; to be down closes the listener
//! and every connection, as when the process is killed.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc as channel;
use tokio::task::{JoinHandle as Task, JoinSet};

use crate::answer::answer;
use crate::state::Shared;
use crate::tls::Tls;

/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(20);

/// What the thread is told; each is answered when it is done.
enum Order {
    Listen(TcpListener, Done),
    Close(Done),
    Down(Done),
}

/// Where it is said that something is done.
type Done = mpsc::Sender<io::Result<()>>;

/// The thread.
pub struct Runner {
    orders: Option<channel::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// What connections need.
#[derive(Clone)]
struct Desk {
    shared: Arc<Shared>,
    tls: Arc<Mutex<Option<Tls>>>,
    address: Arc<str>,
}

impl Runner {
    /// Starts the thread; it listens to nothing yet. `address` is what discovery says.
    ///
    /// # Errors
    /// There can be no thread or no runtime.
    pub fn start(
        shared: Arc<Shared>,
        tls: Arc<Mutex<Option<Tls>>>,
        address: &str,
    ) -> io::Result<Runner> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, mut inbox) = channel::unbounded_channel();
        let desk = Desk { shared, tls, address: address.into() };
        let work = async move {
            let mut listening: Option<(channel::UnboundedSender<Done>, Task<()>)> = None;
            while let Some(order) = inbox.recv().await {
                match order {
                    Order::Listen(listener, done) => {
                        let result = listener
                            .set_nonblocking(true)
                            .and_then(|()| tokio::net::TcpListener::from_std(listener));
                        let result = result.map(|listener| {
                            let (close, closing) = channel::unbounded_channel();
                            let task = tokio::spawn(accept(listener, desk.clone(), closing));
                            listening = Some((close, task));
                        });
                        let _ = done.send(result);
                    }
                    Order::Close(done) => match &listening {
                        Some((close, _)) => drop(close.send(done)),
                        None => drop(done.send(Ok(()))),
                    },
                    Order::Down(done) => {
                        if let Some((close, task)) = listening.take() {
                            drop(close);
                            let _ = task.await;
                        }
                        let _ = done.send(Ok(()));
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("apiserver".to_owned())
            .spawn(move || runtime.block_on(work))?;
        Ok(Runner { orders: Some(orders), thread: Some(thread) })
    }

    fn order(&self, order: impl FnOnce(Done) -> Order) -> io::Result<()> {
        let (done, result) = mpsc::channel();
        let over = || io::Error::other("the server's thread is over");
        let orders = self.orders.as_ref().ok_or_else(over)?;
        orders.send(order(done)).map_err(|_| over())?;
        result.recv().map_err(|_| over())?
    }

    /// Serves what comes to the listener.
    ///
    /// # Errors
    /// The listener is none of TCP.
    pub fn listen(&self, listener: TcpListener) -> io::Result<()> {
        self.order(|done| Order::Listen(listener, done))
    }

    /// Closes all connections; they are closed when this returns.
    ///
    /// # Errors
    /// The thread is over.
    pub fn close(&self) -> io::Result<()> {
        self.order(Order::Close)
    }

    /// Closes listener and connections; both are closed when this returns.
    ///
    /// # Errors
    /// The thread is over.
    pub fn down(&self) -> io::Result<()> {
        self.order(Order::Down)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Accepts until nobody can tell it to close any more, and then has closed everything.
async fn accept(
    listener: tokio::net::TcpListener,
    desk: Desk,
    mut closing: channel::UnboundedReceiver<Done>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, desk.clone()))),
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            order = closing.recv() => {
                let Some(done) = order else { break };
                connections.shutdown().await;
                let _ = done.send(Ok(()));
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Serves a connection until it ends.
async fn connection(stream: TcpStream, desk: Desk) {
    let _ = stream.set_nodelay(true);
    let acceptor =
        desk.tls.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Tls::acceptor);
    match acceptor {
        None => requests(stream, &desk).await,
        // A client that does not know the authority goes away here.
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                requests(stream, &desk).await;
            }
        }
    }
}

async fn requests<S: AsyncRead + AsyncWrite + Unpin>(stream: S, desk: &Desk) {
    let service =
        service_fn(|request| answer(Arc::clone(&desk.shared), Arc::clone(&desk.address), request));
    // Errors are of clients that go away, and of faults.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
