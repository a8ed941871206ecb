//! Query parameters, read strictly: the real server overlooks what it does not know, this one does
//! not, since a misspelt parameter is a list without a limit.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kind::Kind;
use crate::object::Key;
use crate::select::Selector;
use crate::status::{Cause, Refusal};

/// The parameters of a request, decoded.
#[derive(Debug, Default)]
pub struct Query(BTreeMap<String, String>);

/// What a list takes beside `pretty`.
const LIST: [&str; 9] = [
    "labelSelector",
    "fieldSelector",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
    "limit",
    "continue",
    "watch",
    "pretty",
];
/// What a watch takes.
const WATCH: [&str; 9] = [
    "labelSelector",
    "fieldSelector",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
    "allowWatchBookmarks",
    "sendInitialEvents",
    "watch",
    "pretty",
];

impl Query {
    /// Decodes what stands behind the `?`.
    ///
    /// # Errors
    /// 400: the encoding is wrong, or a parameter is there twice.
    pub fn parse(text: &str) -> Result<Query, Refusal> {
        let mut map = BTreeMap::new();
        // kube writes `?&limit=1`.
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let decoded = decode(key).zip(decode(value));
            let Some((key, value)) = decoded else {
                return Err(Refusal::bad_request(format!("invalid URL escape in query: {part:?}")));
            };
            if map.insert(key.clone(), value).is_some() {
                return Err(Refusal::bad_request(format!(
                    "query parameter {key:?} is there twice"
                )));
            }
        }
        Ok(Query(map))
    }

    /// The value of the parameter; one that is empty is as one that is not there.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Refuses what is not among the known.
    ///
    /// # Errors
    /// 400, which names it.
    pub fn allow(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(Refusal::bad_request(format!(
                "unknown query parameter {key:?}; here are known: {}",
                known.join(", ")
            ))),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let parse = |text: &str| {
            text.parse::<u64>().map_err(|_| {
                Refusal::bad_request(format!("{name}: Invalid value: {text:?}: no whole number"))
            })
        };
        self.get(name).map(parse).transpose()
    }

    fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => {
                Err(Refusal::bad_request(format!("{name}: Invalid value: {other:?}: no boolean")))
            }
        }
    }

    /// Whether a GET of a collection is a watch.
    ///
    /// # Errors
    /// 400: `watch` is no boolean.
    pub fn is_watch(&self) -> Result<bool, Refusal> {
        self.flag("watch")
    }
}

/// `%41+b` → `A b`.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [char::from(rest.next()?), char::from(rest.next()?)];
                let [high, low] = digits.map(|digit| digit.to_digit(16));
                u8::try_from(high? * 16 + low?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// How new what is answered has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// As it is now.
    Newest,
    /// Whatever is at hand: `resourceVersion=0`.
    Any,
    /// No older than this.
    NotOlder(u64),
    /// As it was at this one.
    Exact(u64),
}

/// A list that was asked for.
#[derive(Debug)]
pub struct ListQuery {
    /// Which objects.
    pub selector: Selector,
    /// Of which version.
    pub version: Version,
    /// Objects a page; 0 = all in one.
    pub limit: usize,
    /// Where the page before ended.
    pub token: Option<Token>,
}

impl ListQuery {
    /// Reads a list's parameters.
    ///
    /// # Errors
    /// 400 or 422: what the real server refuses, and what it does not know.
    pub fn parse(kind: Kind, query: &Query) -> Result<ListQuery, Refusal> {
        query.allow(&LIST)?;
        query.number("timeoutSeconds")?;
        let limit = query.number("limit")?.unwrap_or(0);
        let token = match query.get("continue") {
            None => None,
            Some(text) => Some(Token::parse(text).ok_or_else(|| {
                Refusal::bad_request(format!("continue key is not valid: {text:?}"))
            })?),
        };
        let asked = query.number("resourceVersion")?;
        let invalid = |why: &str| {
            let value = query.get("resourceVersionMatch").unwrap_or_default();
            let cause = Cause::invalid("resourceVersionMatch", value, why);
            Err(Refusal::invalid(kind, "", &[cause]))
        };
        let version = match (query.get("resourceVersionMatch"), asked) {
            (Some(_), None) => {
                return invalid("forbidden unless resourceVersion is provided");
            }
            (Some(_), _) if token.is_some() => {
                return invalid("forbidden when continue is provided");
            }
            (Some("Exact"), Some(0)) => {
                return invalid("\"Exact\" is forbidden for resourceVersion \"0\"");
            }
            (Some("Exact"), Some(version)) => Version::Exact(version),
            (Some("NotOlderThan") | None, Some(0)) => Version::Any,
            (Some("NotOlderThan"), Some(version)) => Version::NotOlder(version),
            (Some(_), _) => return invalid("supported values: \"Exact\", \"NotOlderThan\""),
            (None, None) => Version::Newest,
            (None, Some(_)) if token.is_some() => {
                return Err(Refusal::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            // Pages have to be of one version: a limit makes it exact.
            (None, Some(version)) if limit > 0 => Version::Exact(version),
            (None, Some(version)) => Version::NotOlder(version),
        };
        let selector = selector(kind, query)?;
        Ok(ListQuery { selector, version, limit: usize::try_from(limit).unwrap_or(0), token })
    }
}

/// A watch that was asked for.
#[derive(Debug)]
pub struct WatchQuery {
    /// Which objects.
    pub selector: Selector,
    /// After which version; `None`: all that is there first, as if it were new.
    pub since: Option<u64>,
    /// How long, if the client says so.
    pub timeout: Option<Duration>,
    /// Whether bookmarks may be sent.
    pub bookmarks: bool,
}

impl WatchQuery {
    /// Reads a watch's parameters.
    ///
    /// # Errors
    /// 400 or 422: what the real server refuses, and what it does not know.
    pub fn parse(kind: Kind, query: &Query) -> Result<WatchQuery, Refusal> {
        query.allow(&WATCH)?;
        for name in ["sendInitialEvents", "resourceVersionMatch"] {
            if query.get(name).is_some() {
                let mut cause = Cause::invalid(name, "", "");
                cause.words = format!(
                    "Forbidden: {name} is forbidden for watch unless the WatchList feature gate is enabled"
                );
                return Err(Refusal::invalid(kind, "", &[cause]));
            }
        }
        Ok(WatchQuery {
            selector: selector(kind, query)?,
            since: query.number("resourceVersion")?.filter(|version| *version > 0),
            timeout: query.number("timeoutSeconds")?.filter(|s| *s > 0).map(Duration::from_secs),
            bookmarks: query.flag("allowWatchBookmarks")?,
        })
    }
}

fn selector(kind: Kind, query: &Query) -> Result<Selector, Refusal> {
    let text = |name: &str| query.get(name).unwrap_or_default();
    Selector::parse(kind, text("labelSelector"), text("fieldSelector"))
}

/// Where a page ended, as clients hand it back: of what version the list is, and the last key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `None`: go on with what is there now, since the version is compacted away.
    pub version: Option<u64>,
    /// The page begins after it.
    pub after: Key,
}

impl Token {
    /// Digits and letters that no client can take for more than it is.
    #[must_use]
    pub fn text(&self) -> String {
        let version = self.version.map_or_else(|| "-".to_owned(), |version| version.to_string());
        let plain = format!("{version}|{}|{}", self.after.namespace, self.after.name);
        plain.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    fn parse(text: &str) -> Option<Token> {
        let nibbles: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
        let pairs = nibbles.filter(|nibbles| nibbles.len().is_multiple_of(2))?;
        let bytes = pairs.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok());
        let plain = String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()?;
        let mut parts = plain.splitn(3, '|');
        let version = match parts.next()? {
            "-" => None,
            version => Some(version.parse().ok()?),
        };
        Some(Token { version, after: Key::new(parts.next()?, parts.next()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes() {
        let query = Query::parse("?&a%3Db=c%20d+e&watch=1".trim_start_matches('?')).unwrap();
        assert_eq!(query.get("a=b"), Some("c d e"));
        assert!(query.is_watch().unwrap());
        assert_eq!(query.allow(&["watch"]).unwrap_err().code, 400);
        for text in ["a=%4", "a=%zz", "a=%ff", "a=1&a=2"] {
            assert_eq!(Query::parse(text).unwrap_err().code, 400, "{text}");
        }
    }

    #[test]
    fn versions_of_lists() {
        let version = |text: &str| {
            ListQuery::parse(Kind::Pod, &Query::parse(text).unwrap()).map(|query| query.version)
        };
        for (text, expected) in [
            ("", Version::Newest),
            ("limit=5", Version::Newest),
            ("resourceVersion=0", Version::Any),
            ("resourceVersion=0&limit=5", Version::Any),
            ("resourceVersion=7", Version::NotOlder(7)),
            ("resourceVersion=7&limit=5", Version::Exact(7)),
            ("resourceVersion=7&resourceVersionMatch=Exact", Version::Exact(7)),
            ("resourceVersion=7&limit=5&resourceVersionMatch=NotOlderThan", Version::NotOlder(7)),
        ] {
            assert_eq!(version(text).unwrap(), expected, "{text}");
        }
        let token = Token { version: Some(7), after: Key::new("a", "b") }.text();
        for text in [
            "resourceVersionMatch=Exact".to_owned(),
            "resourceVersion=0&resourceVersionMatch=Exact".to_owned(),
            "resourceVersion=7&resourceVersionMatch=Newest".to_owned(),
            format!("resourceVersion=7&continue={token}"),
            "resourceVersion=x".to_owned(),
            "limit=-1".to_owned(),
            "continue=zz".to_owned(),
            "allowWatchBookmarks=true".to_owned(),
        ] {
            assert!(version(&text).unwrap_err().is_complaint, "{text}");
        }
        assert!(WatchQuery::parse(Kind::Pod, &Query::parse("watch=1&limit=5").unwrap()).is_err());
    }

    #[test]
    fn tokens() {
        for version in [None, Some(7)] {
            let token = Token { version, after: Key::new("shop", "web-0") };
            assert_eq!(Token::parse(&token.text()), Some(token));
        }
        assert_eq!(Token::parse("7c"), None);
    }
}
