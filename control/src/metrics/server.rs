//! `/metrics`, `/healthz` and `/readyz` over HTTP.
//!
//! Whoever asks must not keep weir-control from its work. So connections are few, and each has only
//! a short life, whatever its other end does or leaves undone: file descriptors stay for the source
//! and the dataplane.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use crate::ledger::Ledger;

/// What the text encoder writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections at a time; others wait to be accepted.
const CONNECTIONS: usize = 32;
/// Life of a connection: its headers, its answers, and what it is idle in between.
const LIFE: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted, for want of descriptors perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes the address, `127.0.0.1:9101` or `[::]:9101`; port 0 lets the kernel choose.
///
/// # Errors
/// It is no address, not of this host, or in use.
pub fn bind(address: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("--metrics {address} (as in 127.0.0.1:9101) cannot be served"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers until the runtime ends.
///
/// # Errors
/// The listener cannot be used any more.
pub async fn serve(listener: TcpListener, ledger: Arc<Ledger>) -> Result<()> {
    serve_within(listener, ledger, CONNECTIONS, LIFE).await
}

async fn serve_within(
    listener: TcpListener,
    ledger: Arc<Ledger>,
    connections: usize,
    life: Duration,
) -> Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(ledger);
    let listener = Bounded {
        listener: tokio::net::TcpListener::from_std(listener)?,
        free: Arc::new(Semaphore::new(connections)),
        life,
    };
    axum::serve(listener, routes).await?;
    Ok(())
}

async fn metrics(State(ledger): State<Arc<Ledger>>) -> Response {
    match ledger.metrics().text() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(ledger): State<Arc<Ledger>>) -> Response {
    match ledger.metrics().unready() {
        None => match ledger.metrics().source().stale() {
            None => "ready\n".into_response(),
            Some(words) => format!("ready; the source is {words}\n").into_response(),
        },
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

/// Accepts a connection only while few are open.
struct Bounded {
    listener: tokio::net::TcpListener,
    free: Arc<Semaphore>,
    life: Duration,
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // The semaphore is never closed.
            if let Ok(permit) = Arc::clone(&self.free).acquire_owned().await
                && let Ok((stream, address)) = self.listener.accept().await
            {
                let end = Box::pin(sleep(self.life));
                return (Connection { stream, end, _permit: permit }, address);
            }
            sleep(PAUSE).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over.
struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// The stream, while there is time.
    fn stream(&mut self, cx: &mut TaskContext<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::thread;
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn answer(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Connections that say nothing, half a header, or that stay after an answer.
    #[test]
    fn connections_are_few_and_end() {
        const LIFE: Duration = Duration::from_millis(400);
        let dir = tempfile::tempdir().unwrap();
        let listener = bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Arc::new(Ledger::new(dir.path(), "test"));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(serve_within(listener, ledger, 3, LIFE))
        });
        assert!(answer(address).ends_with("ok\n"));
        let begin = Instant::now();
        let mut idle: Vec<TcpStream> = Vec::new();
        for text in ["", "GET /met", "GET /healthz HTTP/1.1\r\nHost: weir\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            idle.push(stream);
        }
        // The fourth waits for one of them to end, and then has its answer.
        assert!(answer(address).ends_with("ok\n"));
        let waited = begin.elapsed();
        assert!(waited >= LIFE * 3 / 4, "{waited:?}");
        for mut stream in idle {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut rest = Vec::new();
            // Closed or reset, but ended by the other side.
            if let Err(error) = stream.read_to_end(&mut rest) {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
        }
    }
}
