//! What the server answers when it does not do what was asked: a code and a `Status` object.
//!
//! Reasons, codes and words follow `k8s.io/apimachinery/pkg/api/errors`, since clients look at all
//! three: kube at the code and at `reason`, people at the words.

use serde_json::{Map, Value, json};

use crate::kind::Kind;

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable: `Expired`, `Forbidden`, `Conflict`, …
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `details`, an object; may be empty.
    pub details: Value,
    /// Seconds, for `Retry-After` as well.
    pub retry_after: Option<u64>,
    /// `metadata.continue`, of an expired list.
    pub resume: Option<String>,
    /// Whether no correct client would have asked this.
    pub is_complaint: bool,
}

impl Refusal {
    /// A refusal without details that is nobody's mistake.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            reason,
            message: message.into(),
            details: json!({}),
            retry_after: None,
            resume: None,
            is_complaint: false,
        }
    }

    /// It is the client's mistake, and a test has to see it.
    #[must_use]
    pub fn complaint(mut self) -> Refusal {
        self.is_complaint = true;
        self
    }

    fn about(mut self, kind: Kind, name: &str) -> Refusal {
        let mut details = Map::new();
        for (key, value) in [("name", name), ("group", kind.group()), ("kind", kind.plural())] {
            if !value.is_empty() {
                details.insert(key.to_owned(), value.into());
            }
        }
        self.details = Value::Object(details);
        self
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "BadRequest", message).complaint()
    }

    /// 401: no token, or one that is unknown or expired.
    #[must_use]
    pub fn unauthorized() -> Refusal {
        Refusal::new(401, "Unauthorized", "Unauthorized")
    }

    /// 404 of an object.
    #[must_use]
    pub fn not_found(kind: Kind, name: &str) -> Refusal {
        let message = format!("{} \"{name}\" not found", kind.qualified());
        Refusal::new(404, "NotFound", message).about(kind, name)
    }

    /// 404 of a path.
    #[must_use]
    pub fn no_such_path() -> Refusal {
        Refusal::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405
    #[must_use]
    pub fn method_not_allowed() -> Refusal {
        let message = "the server does not allow this method on the requested resource";
        Refusal::new(405, "MethodNotAllowed", message).complaint()
    }

    /// 406
    #[must_use]
    pub fn not_acceptable() -> Refusal {
        let message = "only the following media types are accepted: application/json, \
                       application/json;stream=watch";
        Refusal::new(406, "NotAcceptable", message).complaint()
    }

    /// 409 of a name that is taken.
    #[must_use]
    pub fn already_exists(kind: Kind, name: &str) -> Refusal {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        Refusal::new(409, "AlreadyExists", message).about(kind, name)
    }

    /// 409 of an object that is no longer as the client believes.
    #[must_use]
    pub fn conflict(kind: Kind, name: &str, why: &str) -> Refusal {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified());
        Refusal::new(409, "Conflict", message).about(kind, name)
    }

    /// 410 of a resourceVersion whose history is compacted away.
    pub fn expired(message: impl Into<String>) -> Refusal {
        Refusal::new(410, "Expired", message)
    }

    /// 415
    #[must_use]
    pub fn unsupported_media_type(given: &str, accepted: &str) -> Refusal {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: \
             {accepted} (it was {given:?})"
        );
        Refusal::new(415, "UnsupportedMediaType", message).complaint()
    }

    /// 422: each cause is a field and what is wrong with it.
    #[must_use]
    pub fn invalid(kind: Kind, name: &str, causes: &[Cause]) -> Refusal {
        let words: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.words)).collect();
        let list = match words.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message =
            format!("{}{} \"{name}\" is invalid: {list}", kind.name(), group_suffix(kind));
        let mut refusal = Refusal::new(422, "Invalid", message).about(kind, name);
        refusal.details["kind"] = kind.name().into();
        refusal.details["causes"] = causes
            .iter()
            .map(|c| json!({"reason": c.reason, "message": c.words, "field": c.field}))
            .collect();
        refusal.complaint()
    }

    /// 504 of a resourceVersion that this server has not seen.
    #[must_use]
    pub fn too_large_version(asked: u64, current: u64) -> Refusal {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut refusal = Refusal::new(504, "Timeout", message);
        refusal.retry_after = Some(1);
        refusal.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        refusal
    }

    /// The `Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut metadata = json!({});
        if let Some(resume) = &self.resume {
            metadata["continue"] = resume.as_str().into();
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        let mut details = self.details.clone();
        if let Some(seconds) = self.retry_after {
            details["retryAfterSeconds"] = seconds.into();
        }
        if details.as_object().is_some_and(|map| !map.is_empty()) {
            status["details"] = details;
        }
        status
    }
}

fn group_suffix(kind: Kind) -> String {
    match kind.group() {
        "" => String::new(),
        group => format!(".{group}"),
    }
}

/// What is wrong with a field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Path of the field.
    pub field: String,
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// For people.
    pub words: String,
}

impl Cause {
    /// The field has to be there.
    #[must_use]
    pub fn required(field: &str) -> Cause {
        let words = "Required value".to_owned();
        Cause { field: field.to_owned(), reason: "FieldValueRequired", words }
    }

    /// The field's value cannot be.
    #[must_use]
    pub fn invalid(field: &str, value: &str, why: &str) -> Cause {
        let words = format!("Invalid value: {value:?}: {why}");
        Cause { field: field.to_owned(), reason: "FieldValueInvalid", words }
    }

    /// The field's value may not change.
    #[must_use]
    pub fn immutable(field: &str) -> Cause {
        let words = "Invalid value: field is immutable".to_owned();
        Cause { field: field.to_owned(), reason: "FieldValueInvalid", words }
    }
}
