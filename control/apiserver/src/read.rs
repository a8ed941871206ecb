//! Lists and watches: which objects and changes an answer has, and of which version.

use std::sync::Arc;

use hyper::Response;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::answer::{JSON, respond};
use crate::body::{self, Body, Course};
use crate::fault::Pace;
use crate::kind::Kind;
use crate::object::Key;
use crate::path::Target;
use crate::query::{ListQuery, Token, Version, WatchQuery};
use crate::state::{Shared, State};
use crate::status::Refusal;
use crate::store::{Change, Gone, Verb};

/// The answer to a list.
///
/// # Errors
/// 410 of a version that is compacted away, 504 of one of the future.
pub fn list(
    shared: &Shared,
    target: &Target,
    query: ListQuery,
    pace: Pace,
) -> Result<Response<Body>, Refusal> {
    let state = shared.lock();
    let now = state.store.version();
    let kind = target.kind;
    let (version, after, mut limit) = match (query.version, query.token) {
        (_, Some(token)) => (token.version.unwrap_or(now), Some(token.after), query.limit),
        (Version::Newest, None) => (now, None, query.limit),
        // Lists from the watch cache are not in pages, whatever the limit.
        (Version::Any, None) => (now, None, 0),
        (Version::NotOlder(least), None) if least > now => {
            return Err(Refusal::too_large_version(least, now));
        }
        (Version::NotOlder(_), None) => (now, None, query.limit),
        (Version::Exact(version), None) if version > now => {
            return Err(Refusal::too_large_version(version, now));
        }
        (Version::Exact(version), None) => (version, None, query.limit),
    };
    let most = state.manners.page_limit;
    if most > 0 && limit > 0 {
        limit = limit.min(most);
    }
    let selector = query.selector;
    let namespace = (!target.namespace.is_empty()).then_some(target.namespace.as_str());
    let result =
        state.store.page(kind, namespace, after.as_ref(), version, limit, |key, object| {
            selector.matches(kind, key, object)
        });
    let page = result.map_err(|gone| match after {
        None => expired(version, gone),
        Some(after) => {
            let mut refusal = Refusal::expired(
                "The provided continue parameter is too old to display a consistent list result. \
                 You can start a new list without the continue parameter, or use the continue \
                 token in this response to retrieve the remainder of the results.",
            );
            refusal.resume = Some(Token { version: None, after }.text());
            refusal
        }
    })?;
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some(last) = page.last {
        metadata["continue"] = Token { version: Some(version), after: last }.text().into();
        if state.manners.says_remaining && selector.is_empty() {
            metadata["remainingItemCount"] = page.remaining.into();
        }
    }
    drop(state);
    let mut head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        kind.name(),
        kind.api_version(),
    );
    if page.objects.is_empty() {
        head.push_str("]}");
    }
    Ok(respond(200, JSON, body::list(kind, head, page.objects, pace)))
}

fn expired(version: u64, gone: Gone) -> Refusal {
    Refusal::expired(format!("too old resource version: {version} ({})", gone.horizon))
}

/// The line with which a watch says that its version is compacted away.
#[must_use]
pub fn expired_line(version: u64, horizon: u64) -> String {
    let status = expired(version, Gone { horizon }).status();
    json!({"type": "ERROR", "object": status}).to_string()
}

/// The answer to a watch.
///
/// # Errors
/// As of a list.
pub fn watch(
    shared: &Arc<Shared>,
    target: &Target,
    query: &WatchQuery,
    pace: Pace,
) -> Result<Response<Body>, Refusal> {
    let mut guard = shared.lock();
    let state: &mut State = &mut guard;
    let kind = target.kind;
    let now = state.store.version();
    if let Some(since) = query.since
        && since > now
    {
        return Err(Refusal::too_large_version(since, now));
    }
    let past: Vec<Change> = match query.since {
        Some(since) => match state.store.since(kind, since) {
            Ok(changes) => changes.cloned().collect(),
            Err(gone) if state.manners.gone_as_status => return Err(expired(since, gone)),
            Err(gone) => {
                let line = expired_line(since, gone.horizon) + "\n";
                return Ok(respond(200, JSON, body::full(line, pace)));
            }
        },
        None => existing(state, kind),
    };
    let manners = &state.manners;
    let bookmarks = query.bookmarks.then_some(manners.bookmark_interval);
    let timeout = query.timeout.unwrap_or(manners.watch_timeout);
    let course = Course { end: Instant::now() + timeout, bookmarks, pace };
    let wake = Arc::new(Notify::new());
    let namespace = (!target.namespace.is_empty()).then_some(target.namespace.as_str());
    let selector = query.selector.clone();
    let id = state.hub.open(kind, namespace, selector, now, query.bookmarks, &past, &wake);
    drop(guard);
    Ok(respond(200, JSON, body::watch(Arc::clone(shared), kind, id, wake, course)))
}

/// All that is there, as if it were new.
fn existing(state: &State, kind: Kind) -> Vec<Change> {
    let change = |key: &Key| {
        let now = state.store.get(kind, key)?.clone();
        Some(Change { verb: Verb::Added, key: key.clone(), now, before: None })
    };
    state.store.keys(kind).filter_map(change).collect()
}
