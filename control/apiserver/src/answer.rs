//! From a request to its answer: who asks, whether it may, what it wants, and what that gives.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response};
use serde_json::json;

use crate::access::Deed;
use crate::body::{self, Body, Broken};
use crate::fault::{self, Action, Pace};
use crate::journal::Asked;
use crate::kind::Kind;
use crate::object::{Key, Object};
use crate::path::{self, Target};
use crate::query::{ListQuery, Query, WatchQuery};
use crate::read;
use crate::state::{Shared, monotonic_ns};
use crate::status::Refusal;
use crate::submit;

/// Bytes of the largest body of a request, as etcd would take it.
const BODY_LIMIT: usize = 3 << 20;
/// The only form of objects here.
pub const JSON: &str = "application/json";

/// Answers a request; an error closes the connection without an answer.
///
/// # Errors
/// A fault wants it so.
pub async fn answer(
    shared: Arc<Shared>,
    address: Arc<str>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Broken> {
    shared.thawed().await;
    let asked = Ask::new(&request);
    let number = shared.lock().journal.open(asked.record(&request));
    let action = shared.lock().faults.take(asked.verb, asked.target.as_ref().map(|t| t.kind));
    let mut pace = Pace::Full;
    match action {
        None => {}
        Some(Action::Close) => return Err(Broken),
        Some(Action::Hang) => std::future::pending().await,
        Some(Action::Delay { ms }) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Some(Action::Truncate) => pace = Pace::Half,
        Some(Action::Slow { bytes, ms }) => pace = Pace::Pieces(bytes, Duration::from_millis(ms)),
        Some(action) => return Ok(close(&shared, number, disturbed(&shared, &action))),
    }
    let response = match asked.perform(&shared, &address, number, pace, request).await {
        Ok(response) => response,
        Err(refusal) => refused(&shared, number, &refusal, pace),
    };
    Ok(close(&shared, number, response))
}

/// Notes the answer's code.
fn close(shared: &Shared, number: usize, response: Response<Body>) -> Response<Body> {
    if let Some(asked) = shared.lock().journal.get(number) {
        asked.code = response.status().as_u16();
    }
    response
}

/// The answer to a request that a fault meets.
fn disturbed(shared: &Shared, action: &Action) -> Response<Body> {
    match action {
        Action::Raw { code, content_type, body } => {
            respond(*code, content_type, body::full(body.clone(), Pace::Full))
        }
        Action::ErrorEvent { code } => {
            let status = fault::refusal(*code, None).status();
            let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
            respond(200, JSON, body::full(line, Pace::Full))
        }
        Action::TooLarge => {
            let version = shared.lock().store.version();
            status(&Refusal::too_large_version(version + 1, version), Pace::Full)
        }
        Action::Refuse { code, retry_after } => {
            status(&fault::refusal(*code, *retry_after), Pace::Full)
        }
        other => {
            let why = format!("internal: {other:?} is no answer");
            status(&Refusal::new(500, "InternalError", why), Pace::Full)
        }
    }
}

fn refused(shared: &Shared, number: usize, refusal: &Refusal, pace: Pace) -> Response<Body> {
    if refusal.is_complaint {
        let mut state = shared.lock();
        let what = match state.journal.get(number) {
            Some(asked) => format!("{} {}?{}", asked.method, asked.path, asked.query),
            None => "a request".to_owned(),
        };
        state.journal.complain(format!("{what}: {} {}", refusal.code, refusal.message));
    }
    status(refusal, pace)
}

fn status(refusal: &Refusal, pace: Pace) -> Response<Body> {
    let mut response = respond(refusal.code, JSON, body::full(refusal.status().to_string(), pace));
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// An answer with this body.
pub fn respond(code: u16, content_type: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    // Codes and types come from tests; what is none is an error of the server.
    *response.status_mut() =
        hyper::StatusCode::from_u16(code).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    if let Ok(value) = "no-cache, private".parse() {
        response.headers_mut().insert(CACHE_CONTROL, value);
    }
    response
}

fn header(headers: &HeaderMap, name: hyper::header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A request, as far as its line and its path tell.
struct Ask {
    target: Option<Target>,
    verb: &'static str,
    query: Result<Query, Refusal>,
}

impl Ask {
    fn new(request: &Request<Incoming>) -> Ask {
        let target = path::target(request.uri().path());
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let is_watch = query.as_ref().is_ok_and(|query| query.is_watch().unwrap_or(false));
        let is_collection = target.as_ref().is_some_and(|target| target.name.is_empty());
        let verb = match *request.method() {
            Method::GET if is_collection && is_watch => "watch",
            Method::GET if is_collection => "list",
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if is_collection => "deletecollection",
            Method::DELETE => "delete",
            _ => "unknown",
        };
        Ask { target, verb, query }
    }

    fn record(&self, request: &Request<Incoming>) -> Asked {
        let resource = self.target.as_ref().map_or("", |target| target.kind.plural());
        Asked {
            at_ns: monotonic_ns(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            verb: self.verb.to_owned(),
            resource: resource.to_owned(),
            user: String::new(),
            agent: header(request.headers(), USER_AGENT).to_owned(),
            code: 0,
        }
    }

    async fn perform(
        self,
        shared: &Arc<Shared>,
        address: &str,
        number: usize,
        pace: Pace,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (head, incoming) = request.into_parts();
        self.admit(shared, number, head.uri.path(), &head.headers)?;
        let query = self.query?;
        let Some(target) = self.target else {
            return page(shared, address, &head.method, head.uri.path(), pace);
        };
        check_accept(header(&head.headers, ACCEPT))?;
        query.is_watch()?;
        let key = Key::new(&target.namespace, &target.name);
        match self.verb {
            "watch" => {
                return read::watch(
                    shared,
                    &target,
                    &WatchQuery::parse(target.kind, &query)?,
                    pace,
                );
            }
            "list" => {
                return read::list(shared, &target, ListQuery::parse(target.kind, &query)?, pace);
            }
            "get" => {
                query.allow(&["pretty"])?;
                let object = shared.lock().store.get(target.kind, &key).cloned();
                let object = object.ok_or_else(|| Refusal::not_found(target.kind, &target.name))?;
                return Ok(one(200, target.kind, &object, pace));
            }
            _ => {}
        }
        let content_type = header(&head.headers, CONTENT_TYPE);
        let body = match Limited::new(incoming, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let words = format!("the request's body cannot be read: {error}");
                return Err(Refusal::new(413, "RequestEntityTooLarge", words).complaint());
            }
        };
        submit::write(shared, &target, self.verb, &query, content_type, &body, pace)
    }

    /// Who asks, and whether it may.
    fn admit(
        &self,
        shared: &Shared,
        number: usize,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let mut state = shared.lock();
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let holder = state.access.holder(authorization)?;
        if let Some(asked) = state.journal.get(number) {
            asked.user.clone_from(&holder.user);
        }
        holder.check(&match &self.target {
            Some(target) => Deed::Resource {
                verb: self.verb,
                kind: target.kind,
                subresource: &target.subresource,
                namespace: &target.namespace,
                name: &target.name,
            },
            None => Deed::Url { verb: self.verb, path },
        })
    }
}

/// Refuses a client that cannot read JSON, or wants something else made of it.
fn check_accept(accept: &str) -> Result<(), Refusal> {
    let fits = |part: &str| {
        let mut words = part.split(';').map(str::trim);
        let is_json = matches!(words.next(), Some("*/*" | "application/*" | JSON));
        is_json && words.all(|word| word.starts_with("q=") || word == "stream=watch")
    };
    if accept.is_empty() || accept.split(',').any(fits) {
        Ok(())
    } else {
        Err(Refusal::not_acceptable())
    }
}

/// What is not about objects.
fn page(
    shared: &Shared,
    address: &str,
    method: &Method,
    path: &str,
    pace: Pace,
) -> Result<Response<Body>, Refusal> {
    if method != Method::GET {
        return Err(Refusal::method_not_allowed());
    }
    if matches!(path, "/healthz" | "/livez" | "/readyz") {
        return Ok(respond(200, "text/plain; charset=utf-8", body::full("ok".to_owned(), pace)));
    }
    let page = path::discovery(path, address, &shared.lock().groups);
    let page = page.ok_or_else(Refusal::no_such_path)?;
    Ok(respond(200, JSON, body::full(page.to_string(), pace)))
}

/// An object as the answer.
pub fn one(code: u16, kind: Kind, object: &Object, pace: Pace) -> Response<Body> {
    respond(code, JSON, body::full(object.text(kind), pace))
}
