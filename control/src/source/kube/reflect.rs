//! Following one kind: which request comes next, and what an answer means. Pure.
//!
//! ```text
//!  Listing{no token} ──page──► Listing{token} ──last page──► sweep ──► Watching{version}
//!    ▲   ▲                        │    ▲  │                             │  ▲    │
//!    │   └── 410, 400 on a page ──┘    └──┘ failure: back off,          │  └────┘ close, cut, failure:
//!    │                                      same page again             │    the same version again
//!    └──────── 410 at the start or in the stream, 504 "too large" ──────┘
//! ```
//!
//! It is client-go's reflector, with what kube's own watcher does not do: a watch that is refused
//! with 410 or 504 at its start leads to a list, an object that cannot be read costs that object
//! alone, and bookmarks count as signs of life.
//!
//! Pages are asked for without a version, so that the first comes from a quorum and the others
//! from its snapshot. A list changes what is known object by object, as its pages come, and takes
//! out what it lacked when it is complete; a list that is given up takes nothing out. So whatever
//! happens between, nothing that is there all the time is ever withdrawn.

use std::time::Duration;

use super::backoff::Backoff;
use super::book::{Book, Name, Step};
use super::kinds::Meta;

/// How long a watch lasts, in seconds, before jitter of a quarter either way. A server ends it in
/// good order then, which shows that the connection lives and spreads watches over servers.
const WATCH: f64 = 120.0;
/// A watch that ends sooner and brings nothing counts as a failure.
pub(super) const SHORT: Duration = Duration::from_secs(1);
/// So many unreadable events at one place, and the kind is listed anew.
const UNREADABLE: u32 = 3;

/// The next request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A page of the list.
    List {
        /// Objects at most.
        limit: u32,
        /// Where it goes on; `None` for the first page.
        token: Option<String>,
    },
    /// All changes after a version.
    Watch {
        /// The version.
        version: String,
        /// For how long, in seconds.
        seconds: u32,
    },
}

/// How a request ended, if not with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A watch was closed, in good order or not, after that time.
    Closed {
        /// Since the server's answer.
        lasted: Duration,
        /// Whether it brought anything.
        fruitful: bool,
    },
    /// What was asked for is not to be had any more: 410, 400 for a token.
    Gone,
    /// What was asked for is newer than anything that the server has (504 "too large resource
    /// version"): it was restored from a backup, and versions are given anew.
    FromTheFuture,
    /// The page was larger than what is accepted.
    TooLarge,
    /// An event could not be read.
    Unreadable,
    /// Anything else: nobody there, 401, 403, 429, 5xx; with what the server asks to wait.
    Failed(Option<Duration>),
}

/// What follows the end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Before the next request.
    pub wait: Duration,
    /// Everything is listed anew.
    pub relist: bool,
}

#[derive(Debug)]
enum State {
    Listing(Option<String>),
    Watching(String),
}

/// The state of one kind.
#[derive(Debug)]
pub struct Reflector {
    state: State,
    book: Book,
    limit: u32,
    backoff: Backoff,
    unreadable: u32,
}

impl Reflector {
    /// Nothing is known yet; pages of `limit` objects.
    pub fn new(limit: u32) -> Self {
        let mut book = Book::default();
        book.begin_list();
        Self {
            state: State::Listing(None),
            book,
            limit,
            backoff: Backoff::default(),
            unreadable: 0,
        }
    }

    /// How many objects are known.
    pub fn len(&self) -> usize {
        self.book.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.book.is_empty()
    }

    /// The next request; `chance` is uniform in 0 to 1.
    pub fn request(&self, chance: f64) -> Request {
        match &self.state {
            State::Listing(token) => Request::List { limit: self.limit, token: token.clone() },
            State::Watching(version) => Request::Watch {
                version: version.clone(),
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 90 to 150
                seconds: (WATCH * (0.75 + chance.clamp(0.0, 1.0) / 2.0)) as u32,
            },
        }
    }

    /// An object of a page.
    pub fn listed(&mut self, meta: &Meta) -> Step {
        self.book.listed(meta)
    }

    /// A page is complete. If it was the last: what the list lacked, and is gone.
    pub fn page(&mut self, version: &str, token: Option<&str>) -> Option<Vec<Name>> {
        match token {
            Some(token) => {
                self.state = State::Listing(Some(token.to_owned()));
                None
            }
            None => {
                self.state = State::Watching(version.to_owned());
                self.unreadable = 0;
                Some(self.book.end_list(version.parse().unwrap_or(0)))
            }
        }
    }

    /// An event of the watch: an object, its version, and whether it is gone.
    pub fn event(&mut self, meta: &Meta, version: &str, gone: bool) -> Step {
        self.bookmark(version);
        match gone {
            true => self.book.gone(meta),
            false => self.book.seen(meta),
        }
    }

    /// The watch has come to a version; whether that is further than before.
    pub fn bookmark(&mut self, version: &str) -> bool {
        self.unreadable = 0;
        if let State::Watching(at) = &mut self.state {
            // A late event does not take the watch back.
            let is_older = match (version.parse::<u64>(), at.parse::<u64>()) {
                (Ok(new), Ok(old)) => new <= old,
                _ => version.is_empty(),
            };
            if !is_older {
                version.clone_into(at);
                return true;
            }
        }
        false
    }

    /// A request ended at `now` (time since any fixed moment).
    pub fn ended(&mut self, end: End, now: Duration, chance: f64) -> Next {
        let (mut relist, mut asked) = (false, None);
        match end {
            End::Closed { lasted, fruitful } if fruitful || lasted >= SHORT => {
                return Next { wait: Duration::ZERO, relist: false };
            }
            End::Closed { .. } => {}
            End::Gone => relist = true,
            End::FromTheFuture => {
                relist = true;
                self.book.restored();
            }
            End::TooLarge if self.limit > 1 => {
                self.limit = (self.limit / 4).max(1);
                return Next { wait: Duration::ZERO, relist: false };
            }
            End::TooLarge => {}
            End::Unreadable => {
                self.unreadable += 1;
                relist = self.unreadable >= UNREADABLE;
            }
            End::Failed(wait) => asked = wait,
        }
        if relist {
            self.unreadable = 0;
            self.state = State::Listing(None);
            self.book.begin_list();
        }
        Next { wait: self.backoff.failed(now, asked, chance), relist }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(500);

    fn meta(name: &str, version: u64) -> Meta {
        Meta { namespace: "ns".to_owned(), name: name.to_owned(), uid: 1, version }
    }

    fn list(reflector: &Reflector) -> Option<Option<String>> {
        match reflector.request(0.5) {
            Request::List { token, .. } => Some(token),
            Request::Watch { .. } => None,
        }
    }

    fn watching(version: &str) -> Reflector {
        let mut reflector = Reflector::new(10);
        assert_eq!(reflector.page(version, None), Some(vec![]));
        reflector
    }

    #[test]
    fn pages_then_a_watch_from_where_they_end() {
        let mut reflector = Reflector::new(10);
        assert_eq!(reflector.request(0.5), Request::List { limit: 10, token: None });
        assert_eq!(reflector.listed(&meta("a", 3)), Step::Apply);
        assert_eq!(reflector.page("7", Some("t1")), None);
        // A failure keeps the place.
        let next = reflector.ended(End::Failed(None), NOW, 0.5);
        assert_eq!((next.wait, next.relist), (Duration::from_millis(800), false));
        assert_eq!(list(&reflector), Some(Some("t1".to_owned())));
        assert_eq!(reflector.page("7", None), Some(vec![]));
        let watch =
            |version: &str, seconds| Request::Watch { version: version.to_owned(), seconds };
        assert_eq!(reflector.request(0.0), watch("7", 90));
        assert_eq!(reflector.event(&meta("a", 9), "9", false), Step::Apply);
        reflector.bookmark("8");
        reflector.bookmark("");
        assert_eq!(reflector.request(1.0), watch("9", 150));
        reflector.bookmark("12");
        assert_eq!(reflector.request(0.5), watch("12", 120));
    }

    #[test]
    fn what_leads_to_a_list_and_what_does_not() {
        let closed = |ms, fruitful| End::Closed { lasted: Duration::from_millis(ms), fruitful };
        let first = Duration::from_millis(800);
        for (end, relists, wait) in [
            (closed(90_000, false), false, Duration::ZERO),
            (closed(5, true), false, Duration::ZERO),
            (closed(5, false), false, first),
            (End::Gone, true, first),
            (End::FromTheFuture, true, first),
            (End::Failed(None), false, first),
            (End::Failed(Some(Duration::from_secs(9))), false, Duration::from_secs(9)),
            (End::Unreadable, false, first),
        ] {
            let mut reflector = watching("7");
            let next = reflector.ended(end, NOW, 0.5);
            assert_eq!((next.relist, next.wait), (relists, wait), "{end:?}");
            assert_eq!(list(&reflector).is_some(), relists, "{end:?}");
        }
        let mut reflector = watching("7");
        let ends: Vec<bool> =
            (0..3).map(|_| reflector.ended(End::Unreadable, NOW, 0.5).relist).collect();
        assert_eq!(ends, [false, false, true]);
    }

    /// The same version, and yet another object.
    #[test]
    fn after_a_restore_everything_is_handed_on_again() {
        let mut reflector = watching("7");
        for (end, step) in [
            (End::Gone, Step::Apply),
            (End::Gone, Step::Nothing),
            (End::FromTheFuture, Step::Apply),
            (End::Gone, Step::Nothing),
        ] {
            assert!(reflector.ended(end, NOW, 0.5).relist);
            assert_eq!(reflector.listed(&meta("a", 6)), step, "{end:?}");
            assert_eq!(reflector.page("7", None), Some(vec![]));
        }
    }

    #[test]
    fn pages_that_are_too_large_get_smaller() {
        let mut reflector = Reflector::new(250);
        let mut limits = Vec::new();
        for _ in 0..6 {
            let Request::List { limit, .. } = reflector.request(0.5) else { unreachable!() };
            limits.push(limit);
            let next = reflector.ended(End::TooLarge, NOW, 0.5);
            assert_eq!(next.wait.is_zero(), limit > 1);
        }
        assert_eq!(limits, [250, 62, 15, 3, 1, 1]);
    }
}
