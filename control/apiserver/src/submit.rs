//! Writes as they come over HTTP: what the query and the body may be, and what is answered.

use hyper::Response;
use serde_json::{Value, json};

use crate::answer::{JSON, one, respond};
use crate::body::{self, Body};
use crate::fault::Pace;
use crate::kind::Kind;
use crate::object::Key;
use crate::path::Target;
use crate::query::Query;
use crate::state::Shared;
use crate::status::Refusal;
use crate::write::{Part, Removal, Removed};

const MERGE_PATCH: &str = "application/merge-patch+json";
/// What a write may say about itself.
const WRITE: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "pretty"];
const DELETE: [&str; 5] =
    ["dryRun", "gracePeriodSeconds", "propagationPolicy", "orphanDependents", "pretty"];

/// Does a write and answers it.
///
/// # Errors
/// 400, 405, 415, and those of [`State`](crate::state::State)'s writes.
pub fn write(
    shared: &Shared,
    target: &Target,
    verb: &str,
    query: &Query,
    content_type: &str,
    body: &[u8],
    pace: Pace,
) -> Result<Response<Body>, Refusal> {
    let kind = target.kind;
    let part = if target.subresource.is_empty() { Part::Main } else { Part::Status };
    let is_placed = kind.is_namespaced() != target.namespace.is_empty();
    let is_allowed = match verb {
        "create" => target.name.is_empty() && is_placed,
        "update" | "patch" => !target.name.is_empty(),
        "delete" => part == Part::Main,
        _ => false,
    };
    if !is_allowed {
        return Err(Refusal::method_not_allowed());
    }
    query.allow(if verb == "delete" { &DELETE } else { &WRITE })?;
    let is_dry = match query.get("dryRun") {
        None => false,
        Some("All") => true,
        Some(other) => return Err(Refusal::bad_request(format!("dryRun: {other:?} is not All"))),
    };
    let expected = if verb == "patch" { MERGE_PATCH } else { JSON };
    let given = content_type.split(';').next().unwrap_or_default().trim();
    let has_body = verb != "delete" || !body.is_empty();
    if has_body && given != expected {
        return Err(Refusal::unsupported_media_type(content_type, expected));
    }
    let value: Value = if has_body {
        serde_json::from_slice(body)
            .map_err(|error| Refusal::bad_request(format!("the body is no JSON: {error}")))?
    } else {
        Value::Null
    };
    let key = Key::new(&target.namespace, &target.name);
    let mut state = shared.lock();
    match verb {
        "create" => {
            let (_, object) = state.create(kind, &target.namespace, value, part, is_dry)?;
            Ok(one(201, kind, &object, pace))
        }
        "update" => {
            let object = state.replace(kind, &key, value, part, is_dry)?;
            Ok(one(200, kind, &object, pace))
        }
        "patch" => {
            let object = state.patch(kind, &key, &value, part, is_dry)?;
            Ok(one(200, kind, &object, pace))
        }
        _ => {
            let removal = removal(query, &value)?;
            match state.remove(kind, &key, &removal, is_dry)? {
                Removed::Marked(object) => Ok(one(200, kind, &object, pace)),
                Removed::Gone(object) if kind == Kind::Pod => Ok(one(200, kind, &object, pace)),
                Removed::Gone(object) => {
                    let uid = object.value(kind)["metadata"]["uid"].clone();
                    let details = json!({
                        "name": target.name, "group": kind.group(), "kind": kind.plural(), "uid": uid,
                    });
                    let status = json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                        "details": details,
                    });
                    Ok(respond(200, JSON, body::full(status.to_string(), pace)))
                }
            }
        }
    }
}

/// What the query and the body, `DeleteOptions`, say; the body counts.
fn removal(query: &Query, options: &Value) -> Result<Removal, Refusal> {
    let asked = match (&options["gracePeriodSeconds"], query.get("gracePeriodSeconds")) {
        (Value::Null, None) => None,
        (Value::Null, Some(text)) => Some(text.parse().ok()),
        (value, _) => Some(value.as_u64()),
    };
    let grace = match asked {
        Some(None) => return Err(Refusal::bad_request("gracePeriodSeconds is no whole number")),
        Some(Some(grace)) => Some(grace),
        None => None,
    };
    let text = |name: &str| options["preconditions"][name].as_str().map(str::to_owned);
    Ok(Removal { grace, uid: text("uid"), version: text("resourceVersion") })
}
