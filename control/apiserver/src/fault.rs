//! Requests that go wrong: what a test has the server do to the next ones.
//!
//! A fault says which requests it meets, how often, and what becomes of them. The first that fits
//! is taken; one that has been used up is gone. Faults of open watches are in [`hub`](crate::hub).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::status::Refusal;

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A `Status` object with this code, and the reason and words that belong to it: 400, 401,
    /// 403, 404, 409, 410, 429, 500, 503, 504; others as 500 has them.
    Refuse {
        /// HTTP status, 400 to 599.
        code: u16,
        /// Seconds, for the header `Retry-After`.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// 504 with cause ResourceVersionTooLarge.
    TooLarge,
    /// 200, and then an event of type ERROR with this code; for watches.
    ErrorEvent {
        /// Of the `Status` object in the event.
        code: u16,
    },
    /// Something that is no Status object, as a proxy says it.
    Raw {
        /// HTTP status, 200 to 599.
        code: u16,
        /// `Content-Type`
        content_type: String,
        /// The body.
        body: String,
    },
    /// No answer, ever.
    Hang,
    /// The connection is closed without an answer.
    Close,
    /// Half of the answer's body, then the connection is closed.
    Truncate,
    /// The answer comes, but later.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The answer comes, in pieces.
    Slow {
        /// Bytes a piece, at least 1.
        bytes: usize,
        /// Milliseconds between two pieces.
        ms: u64,
    },
}

/// Which requests go wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Only `list`, `watch`, `get`, `create`, `update`, `patch`, `delete`; `None`: any.
    #[serde(default)]
    pub verb: Option<String>,
    /// Only requests for this plural (`pods`); `None`: any, also those for no kind.
    #[serde(default)]
    pub resource: Option<String>,
    /// How often; `None`: until [`clear_faults`](crate::ApiServer::clear_faults).
    #[serde(default)]
    pub times: Option<usize>,
    /// Requests that fit and are spared first.
    #[serde(default)]
    pub after: usize,
    /// What becomes of them.
    pub action: Action,
}

impl Fault {
    /// Every request, until cleared.
    #[must_use]
    pub const fn always(action: Action) -> Fault {
        Fault { verb: None, resource: None, times: None, after: 0, action }
    }

    /// The next request.
    #[must_use]
    pub const fn once(action: Action) -> Fault {
        Fault { verb: None, resource: None, times: Some(1), after: 0, action }
    }

    /// Only requests with this verb.
    #[must_use]
    pub fn on_verb(mut self, verb: &str) -> Fault {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Only requests for this kind.
    #[must_use]
    pub fn on_kind(mut self, kind: Kind) -> Fault {
        self.resource = Some(kind.plural().to_owned());
        self
    }

    /// So many requests that fit are spared first.
    #[must_use]
    pub const fn after(mut self, count: usize) -> Fault {
        self.after = count;
        self
    }

    fn fits(&self, verb: &str, kind: Option<Kind>) -> bool {
        self.verb.as_ref().is_none_or(|wanted| wanted == verb)
            && self
                .resource
                .as_ref()
                .is_none_or(|wanted| kind.is_some_and(|k| k.plural() == wanted))
    }
}

/// The faults that are set.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one behind the others.
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What is to become of this request, if anything.
    pub fn take(&mut self, verb: &str, kind: Option<Kind>) -> Option<Action> {
        for at in 0..self.0.len() {
            let fault = &mut self.0[at];
            if !fault.fits(verb, kind) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            let action = fault.action.clone();
            if let Some(times) = &mut fault.times {
                *times = times.saturating_sub(1);
                if *times == 0 {
                    self.0.remove(at);
                }
            }
            return Some(action);
        }
        None
    }
}

/// What the real server says with a code.
#[must_use]
pub fn refusal(code: u16, retry_after: Option<u64>) -> Refusal {
    let (reason, message) = match code {
        400 => ("BadRequest", "the request makes no sense"),
        401 => ("Unauthorized", "Unauthorized"),
        403 => ("Forbidden", "forbidden: User \"system:anonymous\" cannot do this"),
        404 => ("NotFound", "the server could not find the requested resource"),
        409 => (
            "Conflict",
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
        410 => ("Expired", "too old resource version"),
        429 => ("TooManyRequests", "Too many requests, please try again later."),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => ("Timeout", "request did not complete within the allotted timeout"),
        _ => ("InternalError", "Internal error occurred: etcdserver: leader changed"),
    };
    let mut refusal = Refusal::new(code, reason, message);
    refusal.retry_after = retry_after;
    refusal
}

/// How the body of an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// As it comes.
    #[default]
    Full,
    /// Half of it, then the connection is closed.
    Half,
    /// In pieces of so many bytes, with a pause between.
    Pieces(usize, Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_used_up() {
        let mut faults = Faults::default();
        faults.add(Fault::once(Action::Close).on_verb("watch").on_kind(Kind::Pod).after(1));
        faults.add(Fault { times: Some(2), ..Fault::always(Action::Hang) }.on_verb("list"));
        assert_eq!(faults.take("list", Some(Kind::Node)), Some(Action::Hang));
        assert_eq!(faults.take("watch", Some(Kind::Node)), None);
        assert_eq!(faults.take("watch", None), None);
        assert_eq!(faults.take("watch", Some(Kind::Pod)), None);
        assert_eq!(faults.take("watch", Some(Kind::Pod)), Some(Action::Close));
        assert_eq!(faults.take("watch", Some(Kind::Pod)), None);
        assert_eq!(faults.take("list", Some(Kind::Pod)), Some(Action::Hang));
        assert_eq!(faults.take("list", Some(Kind::Pod)), None);
        faults.add(Fault::always(Action::TooLarge));
        assert_eq!(faults.take("get", None), Some(Action::TooLarge));
        faults.clear();
        assert_eq!(faults.take("get", None), None);
    }

    #[test]
    fn as_json() {
        let fault: Fault = serde_json::from_str(
            r#"{"verb":"list","action":{"refuse":{"code":429,"retry_after":2}}}"#,
        )
        .unwrap();
        let action = Action::Refuse { code: 429, retry_after: Some(2) };
        assert_eq!(fault, Fault::always(action).on_verb("list"));
        let hang: Action = serde_json::from_str("\"hang\"").unwrap();
        assert_eq!(hang, Action::Hang);
    }
}
