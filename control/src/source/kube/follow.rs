//! Follows one kind: sends what the reflector asks for, and hands on what the answers say.
//!
//! Everything that has to be decided is decided elsewhere (`reflect`, `wire`); here is the waiting.
//! Every wait has an end:
//!
//! | for | at most |
//! |---|---|
//! | a connection | 5 s (`client`) |
//! | the head of an answer, the next bytes of a page | 30 s (`http`) |
//! | the end of a watch | its own time and [`GRACE`] |
//! | room in the queue | as long as it takes: the agent is at work |

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use tracing::{debug, info, warn};

use super::backoff::FIRST;
use super::book::{Name, Step};
use super::client::Access;
use super::health::Health;
use super::http::{self, Fault};
use super::kinds::{Kind, Meta};
use super::lines::Lines;
use super::queue::{Closed, News, Sender};
use super::reflect::{End, Reflector, Request, SHORT};
use super::wire::{self, Event};
use crate::model::document::Node;
use crate::model::load::load_node;
use crate::model::{Complaint, Effect, Origin, Severity};

/// How much longer than it was asked for a watch may last.
const GRACE: Duration = Duration::from_secs(15);

/// Follows a kind.
#[derive(Debug)]
pub(super) struct Follower {
    kind: Kind,
    access: Arc<Access>,
    health: Arc<Health>,
    queue: Sender,
    origin: Arc<str>,
    reflector: Reflector,
    began: Instant,
    /// The last watch went on beyond its time: until one says something, that the next one has
    /// begun is no sign of life.
    is_mute: bool,
}

enum Outcome {
    /// A page, and all that was in it was handed on.
    Page,
    /// The watch is over.
    Watched { lasted: Duration, fruitful: bool },
    /// Anything else.
    Fault(Fault),
}

/// What a piece of a watch brought.
#[derive(Debug, Default)]
struct Heard {
    /// Lines that could be read.
    lines: u64,
    /// Objects among them.
    objects: u64,
    /// Some line told of more than was known.
    is_new: bool,
}

impl Follower {
    pub(super) fn new(
        kind: Kind,
        access: Arc<Access>,
        health: Arc<Health>,
        queue: Sender,
        origin: Arc<str>,
    ) -> Self {
        let reflector = Reflector::new(kind.page());
        let began = Instant::now();
        Self { kind, access, health, queue, origin, reflector, began, is_mute: false }
    }

    /// Follows until nobody takes the news any more.
    pub(super) async fn run(mut self) {
        while self.turn().await.is_ok() {}
        debug!(kind = self.kind.resource(), "not followed any more");
    }

    /// One request and what follows from it.
    async fn turn(&mut self) -> Result<(), Closed> {
        let (number, client) = self.access.client();
        let outcome = match self.reflector.request(chance()) {
            Request::List { limit, token } => self.list(&client, limit, token).await?,
            Request::Watch { version, seconds } => self.watch(&client, &version, seconds).await?,
        };
        let (end, fault) = match outcome {
            Outcome::Page => {
                self.access.trust(number);
                return Ok(());
            }
            Outcome::Watched { lasted, fruitful } => (End::Closed { lasted, fruitful }, None),
            Outcome::Fault(fault) => (fault.end, Some(fault)),
        };
        match &fault {
            Some(fault) if fault.doubt => self.access.doubt(number).await,
            _ => self.access.trust(number),
        }
        let next = self.reflector.ended(end, self.began.elapsed(), chance());
        let words = fault.map(|fault| fault.words).unwrap_or_default();
        let kind = self.kind.resource();
        if next.relist {
            self.health.relists(self.kind);
            info!(kind, "is listed anew: {words}");
        } else if next.wait.is_zero() {
            debug!(kind, "goes on: {words}");
        }
        // What leads to a list is no failure of the server's, unless the list becomes one.
        let is_failure = !matches!(end, End::Gone | End::FromTheFuture) && !next.wait.is_zero();
        if is_failure && self.health.failed(self.kind, &words) {
            warn!(kind, "cannot be followed: {words}");
        }
        if !next.wait.is_zero() {
            debug!(kind, wait = ?next.wait, "waits");
            // The kinds come back together, or what is known of one is older than of another for
            // as long as their waits differ. A server that names a time is given it.
            let together = matches!(end, End::Failed(None));
            tokio::select! {
                () = tokio::time::sleep(next.wait) => {}
                () = self.access.until_back(), if together => {
                    tokio::time::sleep(FIRST.mul_f64(chance()).min(next.wait)).await;
                }
            }
        }
        Ok(())
    }

    /// A sign of life.
    fn contact(&self, events: u64) {
        if self.health.of(self.kind).failing.is_some() {
            info!(kind = self.kind.resource(), "is followed again");
            self.access.is_back();
        }
        self.health.contact(self.kind, events);
    }

    async fn list(
        &mut self,
        client: &kube::Client,
        limit: u32,
        token: Option<String>,
    ) -> Result<Outcome, Closed> {
        let is_first = token.is_none();
        let mut path = format!("{}?limit={limit}", self.kind.path());
        if let Some(token) = token {
            path.push_str("&continue=");
            path.push_str(&http::encoded(&token));
        }
        let text = match http::get(client, &path).await {
            Ok(body) => match http::collect(body).await {
                Ok(text) => text,
                Err(fault) => return Ok(Outcome::Fault(fault)),
            },
            // A token that is not understood (any more).
            Err(fault) if !is_first && fault.code == Some(400) => {
                return Ok(Outcome::Fault(Fault { end: End::Gone, ..fault }));
            }
            Err(fault) => return Ok(Outcome::Fault(fault)),
        };
        let at = Instant::now();
        let mut news = Vec::new();
        let page = wire::page(self.kind, &text, |object| match Meta::of(&object) {
            Some(meta) => {
                let step = self.reflector.listed(&meta);
                tell(self.kind, &self.origin, step, &meta, &object, &mut news);
            }
            None => warn!(kind = self.kind.resource(), "an object without a name is left out"),
        });
        drop(text);
        // Before anything else, whatever the rest says: the book has them.
        self.send(news, at).await?;
        let page = match page {
            Ok(page) => page,
            Err(words) => return Ok(Outcome::Fault(Fault::with(End::Failed(None), words))),
        };
        self.contact(0);
        if let Some(gone) = self.reflector.page(&page.version, page.token.as_deref()) {
            let gone = gone
                .iter()
                .map(|Name { namespace, name }| News::Delete(self.kind.id(namespace, name)));
            let mut news: Vec<News> = gone.collect();
            news.push(News::Listed(self.kind));
            self.health.listed(self.kind);
            debug!(kind = self.kind.resource(), objects = self.reflector.len(), "listed");
            self.send(news, at).await?;
        }
        Ok(Outcome::Page)
    }

    async fn watch(
        &mut self,
        client: &kube::Client,
        version: &str,
        seconds: u32,
    ) -> Result<Outcome, Closed> {
        let path = format!(
            "{}?watch=1&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={seconds}",
            self.kind.path(),
            http::encoded(version)
        );
        let mut body = match http::get(client, &path).await {
            Ok(body) => body,
            Err(fault) => return Ok(Outcome::Fault(fault)),
        };
        let begin = tokio::time::Instant::now();
        let deadline = begin + Duration::from_secs(seconds.into()) + GRACE;
        // An answer that is over at once is none. One that goes on is a sign of life, before there
        // is any news.
        let mut lives = false;
        let (mut lines, mut fruitful) = (Lines::default(), false);
        loop {
            let until = if lives { deadline } else { begin + SHORT };
            let bytes = match tokio::time::timeout_at(until, body.frame()).await {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                // Cut or closed, in the middle of a line or not: what came whole counts.
                Ok(None | Some(Err(_))) => {
                    let lasted = begin.elapsed();
                    self.is_mute &= !lives;
                    return Ok(match lives || fruitful {
                        true => Outcome::Watched { lasted, fruitful },
                        false => Outcome::Fault(Fault::with(
                            End::Closed { lasted, fruitful },
                            "a watch ends as soon as it has begun",
                        )),
                    });
                }
                Err(_) if !lives => {
                    lives = true;
                    if !self.is_mute {
                        self.contact(0);
                    }
                    continue;
                }
                Err(_) => {
                    let words = "a watch went on beyond its time: is the server there?";
                    self.is_mute = true;
                    return Ok(Outcome::Fault(Fault::unreachable(words)));
                }
            };
            let (at, mut news, mut heard) = (Instant::now(), Vec::new(), Heard::default());
            let read = lines.push(&bytes, |line| self.line(line, &mut news, &mut heard));
            self.send(news, at).await?;
            if heard.lines > 0 {
                lives = true;
                fruitful |= heard.is_new || heard.objects > 0;
                self.is_mute = false;
                self.contact(heard.objects);
            }
            if let Err(fault) = read {
                return Ok(Outcome::Fault(fault));
            }
        }
    }

    /// Takes a line. One that cannot be read, or that says that the watch is over, is not `heard`.
    fn line(&mut self, line: &[u8], news: &mut Vec<News>, heard: &mut Heard) -> Result<(), Fault> {
        let unreadable = |words: String| Fault::with(End::Unreadable, words);
        let (object, gone) = match wire::event(self.kind, line).map_err(unreadable)? {
            Event::Present(object) => (object, false),
            Event::Gone(object) => (object, true),
            Event::Bookmark(version) => {
                heard.lines += 1;
                // A server that says at each watch no more than where it began is not asked
                // again without a pause.
                heard.is_new |= self.reflector.bookmark(&version);
                return Ok(());
            }
            Event::Error(status) => return Err(Fault::in_stream(&status)),
        };
        let Some(meta) = Meta::of(&object) else {
            return Err(unreadable("an event of an object without a name".to_owned()));
        };
        heard.lines += 1;
        heard.objects += 1;
        let step = self.reflector.event(&meta, wire::version(&object), gone);
        tell(self.kind, &self.origin, step, &meta, &object, news);
        Ok(())
    }

    async fn send(&self, news: Vec<News>, at: Instant) -> Result<(), Closed> {
        for news in news {
            self.queue.send(news, at).await?;
        }
        Ok(())
    }
}

/// What a step is to the agent.
fn tell(kind: Kind, file: &Arc<str>, step: Step, meta: &Meta, node: &Node, news: &mut Vec<News>) {
    let id = kind.id(&meta.namespace, &meta.name);
    match step {
        Step::Nothing => return,
        Step::Delete => return news.push(News::Delete(id)),
        Step::Replace => news.push(News::Delete(id.clone())),
        Step::Apply => {}
    }
    let mut loaded = load_node(node, file);
    let mut object = loaded.objects.pop();
    if object.as_ref().is_some_and(|object| object.id() != id) {
        object = None;
        loaded.complaints.push(Complaint {
            severity: Severity::Refused,
            effect: Effect::NotEnforced,
            origin: Origin { file: Arc::clone(file), line: 0 },
            object: id.to_string(),
            field: "metadata".to_owned(),
            message: "is not the object that the API server names".to_owned(),
            consequence: "the object is left out".to_owned(),
        });
    }
    let uid = (!loaded.complaints.is_empty()).then(|| wire::uid(node).into());
    let object = object.map(Box::new);
    news.push(News::Apply { id, uid, object, complaints: loaded.complaints });
}

/// Uniform in 0 to 1. Without a source of chance, the middle.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(4) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        _ => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_in_its_bounds_and_varies() {
        let drawn: Vec<f64> = (0..64).map(|_| chance()).collect();
        assert!(drawn.iter().all(|chance| (0.0..=1.0).contains(chance)));
        assert!(drawn.windows(2).any(|pair| (pair[0] - pair[1]).abs() > f64::EPSILON));
    }
}
