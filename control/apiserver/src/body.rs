//! Bodies of answers: lists that are written as they are sent, and watches.
//!
//! A list holds the objects, which share their texts with the store, and writes them into pieces of
//! some 64 KiB when the connection can take them; so a list of 150,000 pods costs a vector of
//! pointers. A watch waits for its queue in the [`Hub`](crate::hub::Hub).

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::fault::Pace;
use crate::hub::Item;
use crate::kind::Kind;
use crate::object::Object;
use crate::state::Shared;

/// Bytes of a piece of a list, about.
const PIECE: usize = 64 << 10;
/// For what was written to be on the wire before the connection is closed.
const FLUSH: Duration = Duration::from_millis(20);

/// The connection is to be closed here.
#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is broken on purpose")
    }
}

impl std::error::Error for Broken {}

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Broken {
        match never {}
    }
}

/// A body of any sort.
pub type Body = UnsyncBoxBody<Bytes, Broken>;
type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Broken>> + Send>>;

/// A body that is there already.
#[must_use]
pub fn full(text: String, pace: Pace) -> Body {
    match pace {
        Pace::Full => Full::new(Bytes::from(text)).map_err(Broken::from).boxed_unsync(),
        pace => paced(Box::pin(stream::iter([Ok(Bytes::from(text))])), pace),
    }
}

/// `head`, the objects as items, and `]}`.
#[must_use]
pub fn list(kind: Kind, head: String, objects: Vec<Object>, pace: Pace) -> Body {
    let start = (Some(head), objects.into_iter().peekable());
    let pieces = stream::unfold(start, move |(head, mut objects)| async move {
        let mut piece = match head {
            Some(head) => head,
            // The last piece has emptied it.
            None if objects.peek().is_none() => return None,
            None => String::with_capacity(PIECE + PIECE / 4),
        };
        while piece.len() < PIECE {
            let Some(object) = objects.next() else { break };
            object.write_item(kind, &mut piece);
            piece.push_str(if objects.peek().is_some() { "," } else { "]}" });
        }
        Some((Ok(Bytes::from(piece)), (None, objects)))
    });
    paced(Box::pin(pieces), pace)
}

/// How a watch goes on.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// When it ends.
    pub end: Instant,
    /// Between two bookmarks; `None`: the client cannot read them.
    pub bookmarks: Option<Duration>,
    /// How its bytes are sent.
    pub pace: Pace,
}

/// The stream of the watch with this number, which closes it when it is dropped.
#[must_use]
pub fn watch(shared: Arc<Shared>, kind: Kind, id: u64, wake: Arc<Notify>, course: Course) -> Body {
    let task = WatchTask {
        shared,
        kind,
        id,
        wake,
        end: course.end,
        bookmarks: course.bookmarks,
        next: course.bookmarks.map(|interval| Instant::now() + interval),
        state: Phase::Open,
    };
    let pieces = stream::unfold(task, |mut task| async move {
        let piece = task.piece().await?;
        Some((piece, task))
    });
    paced(Box::pin(pieces), course.pace)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Its last bookmark is in the queue.
    Ending,
    /// What was sent is to be flushed, and then the connection breaks.
    Breaking,
    Over,
}

struct WatchTask {
    shared: Arc<Shared>,
    kind: Kind,
    id: u64,
    wake: Arc<Notify>,
    end: Instant,
    bookmarks: Option<Duration>,
    next: Option<Instant>,
    state: Phase,
}

impl Drop for WatchTask {
    fn drop(&mut self) {
        self.shared.lock().hub.close(self.id);
    }
}

impl WatchTask {
    async fn piece(&mut self) -> Option<Result<Bytes, Broken>> {
        loop {
            match self.state {
                Phase::Over => return None,
                Phase::Breaking => {
                    sleep(FLUSH).await;
                    self.state = Phase::Over;
                    return Some(Err(Broken));
                }
                Phase::Open | Phase::Ending => {}
            }
            self.shared.thawed().await;
            let item = self.shared.lock().take(self.id);
            match item {
                Some(Item::Half) => {
                    let next = self.shared.lock().take(self.id);
                    let line = next.and_then(|item| self.line(&item)).unwrap_or_else(|| {
                        let version = self.shared.lock().store.version();
                        bookmark(self.kind, version)
                    });
                    self.state = Phase::Breaking;
                    return Some(Ok(Bytes::copy_from_slice(&line.as_bytes()[..line.len() / 2])));
                }
                Some(Item::Broken) => self.state = Phase::Breaking,
                Some(Item::End) => return None,
                Some(item) => return self.line(&item).map(|line| Ok(Bytes::from(line))),
                None if self.state == Phase::Ending => return None,
                None => self.wait().await,
            }
        }
    }

    /// Until there is something to send, or it is time for a bookmark or the end.
    async fn wait(&mut self) {
        let until = self.next.map_or(self.end, |next| next.min(self.end));
        tokio::select! {
            () = self.wake.notified() => return,
            () = sleep_until(until) => {}
        }
        let is_end = Instant::now() >= self.end;
        let mut state = self.shared.lock();
        if let Some(interval) = self.bookmarks {
            let version = state.store.version();
            state.hub.mark(self.id, version);
            self.next = Some(Instant::now() + interval);
        }
        if is_end {
            self.state = Phase::Ending;
        }
    }

    fn line(&self, item: &Item) -> Option<String> {
        match item {
            Item::Event(verb, object) => {
                let mut line = String::with_capacity(object.size() + 160);
                line.push_str("{\"type\":\"");
                line.push_str(verb.name());
                line.push_str("\",\"object\":");
                object.write(self.kind, &mut line);
                line.push_str("}\n");
                Some(line)
            }
            Item::Bookmark(version) => Some(bookmark(self.kind, *version)),
            Item::Line(line) => Some(format!("{line}\n")),
            Item::Half | Item::End | Item::Broken => None,
        }
    }
}

/// The line of a bookmark.
fn bookmark(kind: Kind, version: u64) -> String {
    let (name, api) = (kind.name(), kind.api_version());
    // As the server writes objects of which only the version is set: creationTimestamp is null.
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"{name}\",\"apiVersion\":\"{api}\",\
         \"metadata\":{{\"resourceVersion\":\"{version}\",\"creationTimestamp\":null}}}}}}\n"
    )
}

fn paced(pieces: Pieces, pace: Pace) -> Body {
    let pieces = match pace {
        Pace::Full => pieces,
        Pace::Half => half(pieces),
        Pace::Pieces(bytes, pause) => cut_up(pieces, bytes.max(1), pause),
    };
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// Half of everything, and then the connection breaks.
fn half(pieces: Pieces) -> Pieces {
    let whole = async move {
        let all: Vec<Result<Bytes, Broken>> = pieces.collect().await;
        let all: Vec<u8> = all.into_iter().flatten().flatten().collect();
        Bytes::copy_from_slice(&all[..all.len() / 2])
    };
    let broken = async {
        sleep(FLUSH).await;
        Err(Broken)
    };
    Box::pin(stream::once(whole).map(Ok).chain(stream::once(broken)))
}

/// Each piece in smaller ones, with a pause before each.
fn cut_up(pieces: Pieces, size: usize, pause: Duration) -> Pieces {
    let start = (pieces, Bytes::new());
    Box::pin(stream::unfold(start, move |(mut pieces, mut rest)| async move {
        if rest.is_empty() {
            match pieces.next().await? {
                Ok(piece) => rest = piece,
                Err(broken) => return Some((Err(broken), (pieces, rest))),
            }
        }
        // Also a pause of nothing lets the connection send what it has.
        sleep(pause.max(Duration::from_micros(1))).await;
        let piece = rest.split_to(size.min(rest.len()));
        Some((Ok(piece), (pieces, rest)))
    }))
}
