//! The API's refusals, as the answer of a request and in the stream of a watch.

use std::fmt;

use serde::de::DeserializeSeed;

use super::trim::Keep;
use crate::model::document::{Node, Value};

/// Why the API refuses: the object `Status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The HTTP code that it stands for; 0 if it says none.
    pub code: u16,
    /// One word, `Expired` for example.
    pub reason: String,
    /// For people.
    pub message: String,
    /// `ResourceVersionTooLarge` among its causes.
    pub is_too_large_version: bool,
}

impl Status {
    /// Reads a response's body; whatever it is, its code counts.
    pub fn of_response(code: u16, body: &[u8]) -> Self {
        let mut json = serde_json::Deserializer::from_slice(body);
        let status = Keep::Whole.deserialize(&mut json).map(|object| Self::of(&object));
        let mut status = status.unwrap_or_default();
        if status.message.is_empty() {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            status.message = text.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        Self { code, ..status }
    }

    /// Reads the object.
    pub(super) fn of(object: &Node) -> Self {
        let text = |key| object.get_str(key).unwrap_or_default().to_owned();
        let causes = object.get("details").and_then(|details| details.get("causes"));
        let causes = match causes.map(|causes| &causes.value) {
            Some(Value::List(causes)) => &causes[..],
            _ => &[],
        };
        let too_large = |cause: &Node| cause.get_str("reason") == Some("ResourceVersionTooLarge");
        let message = text("message");
        Self {
            code: match object.get("code").map(|code| &code.value) {
                Some(Value::Integer(code)) => u16::try_from(*code).unwrap_or(0),
                _ => 0,
            },
            reason: text("reason"),
            is_too_large_version: causes.iter().any(too_large)
                || message.contains("Too large resource version"),
            message,
        }
    }

    /// Whether what was asked for is not to be had any more, or not yet, and a new list is. "Not yet"
    /// is a version larger than any that the server has given: etcd was restored from a backup.
    pub fn is_gone(&self) -> bool {
        self.code == 410
            || matches!(self.reason.as_str(), "Expired" | "Gone")
            || self.is_too_large_version
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.message.as_str()) {
            (0, "") => f.write_str("the server gives no reason"),
            (0, message) => f.write_str(message),
            (code, "") => write!(f, "HTTP {code}"),
            (code, message) => write!(f, "HTTP {code}: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_words_and_what_they_lead_to() {
        for (code, body, gone, words) in [
            (410, "", true, "HTTP 410"),
            (
                504,
                r#"{"reason":"Timeout","message":"Too large resource version: 9, current: 3"}"#,
                true,
                "HTTP 504: Too large resource version: 9, current: 3",
            ),
            (
                504,
                r#"{"details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}"#,
                true,
                "HTTP 504: {\"details\":{\"causes\":[{\"reason\":\"ResourceVersionTooLarge\"}]}}",
            ),
            (504, r#"{"reason":"Timeout","message":"slow"}"#, false, "HTTP 504: slow"),
            (
                403,
                r#"{"code":403,"message":"pods is forbidden"}"#,
                false,
                "HTTP 403: pods is forbidden",
            ),
            (502, "<html>\n <b>no</b>", false, "HTTP 502: <html> <b>no</b>"),
        ] {
            let status = Status::of_response(code, body.as_bytes());
            assert_eq!((status.is_gone(), status.to_string().as_str()), (gone, words));
        }
    }
}
