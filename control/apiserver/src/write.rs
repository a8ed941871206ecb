//! Writes: what a new, changed or removed object becomes before it is stored.
//!
//! As the real server does it: names, uids and times are the server's, `status` is written apart
//! where it is a subresource, a stale resourceVersion is a conflict, a write that changes nothing
//! has no event, and a Pod on a node is first marked and then removed by its kubelet.
//!
//! Not done, and not to be relied on: defaults of `spec`, validation of anything but Events and
//! names, finalizers, removal of what a namespace holds, allocation of cluster addresses.

use serde_json::Value;

use crate::event;
use crate::kind::Kind;
use crate::object::{Key, Object};
use crate::stamp::{begin, merge, renew};
use crate::state::{State, timestamp};
use crate::status::{Cause, Refusal};

/// Which part of an object a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but `status`, if that is a subresource.
    Main,
    /// `status` alone (and labels and the like, which the real server takes as well, are not).
    Status,
    /// Everything: only tests do that.
    All,
}

/// What a removal asks for.
#[derive(Debug, Clone, Default)]
pub struct Removal {
    /// Seconds that a Pod is given; `None`: as it says itself.
    pub grace: Option<u64>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only this version of it.
    pub version: Option<String>,
}

/// What became of a removal.
#[derive(Debug)]
pub enum Removed {
    /// It is marked, and will be gone when its kubelet says so.
    Marked(Object),
    /// It is gone; this was it.
    Gone(Object),
}

const MODIFIED: &str = "the object has been modified; please apply your changes to the latest \
                        version and try again";

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether it can stand in a path: a DNS subdomain, as the names of all kinds here.
fn is_name(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=253).contains(&name.len())
        && name.chars().all(|c| is_inner(c) || c == '-' || c == '.')
        && name.split('.').all(|label| label.starts_with(is_inner) && label.ends_with(is_inner))
}

/// Refuses a body that is not of the kind and place that the path names.
fn check_place(kind: Kind, key: &Key, value: &Value) -> Result<(), Refusal> {
    let refuse = |what: &str, given: &str, expected: &str| {
        Err(Refusal::bad_request(format!(
            "the {what} in the data ({given:?}) does not match the expected {what} ({expected:?})"
        )))
    };
    if !value.is_object() {
        return Err(Refusal::bad_request("the body has to be a JSON object"));
    }
    if text(value, "/kind") != kind.name() {
        return refuse("kind", text(value, "/kind"), kind.name());
    }
    if text(value, "/apiVersion") != kind.api_version() {
        return refuse("API version", text(value, "/apiVersion"), &kind.api_version());
    }
    for map in ["labels", "annotations"] {
        let is_map = match &value["metadata"][map] {
            Value::Null => true,
            Value::Object(map) => map.values().all(Value::is_string),
            _ => false,
        };
        if !is_map {
            return Err(Refusal::bad_request(format!(
                "metadata.{map} has to map names to strings"
            )));
        }
    }
    let namespace = text(value, "/metadata/namespace");
    if !namespace.is_empty() && *namespace != *key.namespace {
        return refuse("namespace", namespace, &key.namespace);
    }
    let name = text(value, "/metadata/name");
    if !key.name.is_empty() && *name != *key.name {
        return refuse("name", name, &key.name);
    }
    Ok(())
}

fn object(value: Value) -> Result<Object, Refusal> {
    Object::new(0, value).map_err(Refusal::bad_request)
}

impl State {
    /// Takes a new object into a namespace (empty: the kind has none).
    ///
    /// # Errors
    /// 400, 404 of the namespace, 409 of the name, 422.
    pub fn create(
        &mut self,
        kind: Kind,
        namespace: &str,
        mut value: Value,
        part: Part,
        is_dry: bool,
    ) -> Result<(Key, Object), Refusal> {
        check_place(kind, &Key::new(namespace, ""), &value)?;
        let uid = self.uid();
        if text(&value, "/metadata/name").is_empty() {
            let prefix = text(&value, "/metadata/generateName");
            if !prefix.is_empty() {
                let name = format!("{prefix}{}", &uid[uid.len() - 5..]);
                value["metadata"]["name"] = name.into();
            }
        }
        let name = text(&value, "/metadata/name").to_owned();
        if name.is_empty() {
            let words = Cause::required("metadata.name");
            return Err(Refusal::invalid(kind, "", &[words]));
        }
        if !is_name(&name) {
            let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                       characters, '-' or '.', and must start and end with an alphanumeric character";
            return Err(Refusal::invalid(
                kind,
                &name,
                &[Cause::invalid("metadata.name", &name, why)],
            ));
        }
        if part != Part::All && !text(&value, "/metadata/resourceVersion").is_empty() {
            let why = "resourceVersion should not be set on objects to be created";
            return Err(Refusal::bad_request(why));
        }
        let key = Key::new(namespace, &name);
        let home = Key::new("", namespace);
        if self.manners.needs_namespaces
            && kind.is_namespaced()
            && self.store.get(Kind::Namespace, &home).is_none()
        {
            return Err(Refusal::not_found(Kind::Namespace, namespace));
        }
        if self.store.get(kind, &key).is_some() {
            return Err(Refusal::already_exists(kind, &name));
        }
        if kind == Kind::Event && part != Part::All {
            let causes = event::validate(&value, namespace);
            if !causes.is_empty() {
                return Err(Refusal::invalid(kind, &name, &causes));
            }
        }
        begin(kind, &key, &uid, &mut value, part);
        let object = object(value)?;
        Ok((key.clone(), self.store_unless(is_dry, kind, &key, object)))
    }

    /// Replaces an object, or a part of it.
    ///
    /// # Errors
    /// 400, 404, 409, 422.
    pub fn replace(
        &mut self,
        kind: Kind,
        key: &Key,
        mut value: Value,
        part: Part,
        is_dry: bool,
    ) -> Result<Object, Refusal> {
        check_place(kind, key, &value)?;
        let Some(before) = self.store.get(kind, key).cloned() else {
            return Err(Refusal::not_found(kind, &key.name));
        };
        let version = text(&value, "/metadata/resourceVersion");
        if part != Part::All && !version.is_empty() && version != before.version.to_string() {
            return Err(Refusal::conflict(kind, &key.name, MODIFIED));
        }
        let old = before.value(kind);
        let uid = text(&value, "/metadata/uid");
        if !uid.is_empty() && uid != text(&old, "/metadata/uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(&old, "/metadata/uid")
            );
            return Err(Refusal::conflict(kind, &key.name, &why));
        }
        if kind == Kind::Event && part != Part::All {
            let causes = event::validate_update(&value, &old);
            if !causes.is_empty() {
                return Err(Refusal::invalid(kind, &key.name, &causes));
            }
        }
        renew(kind, &old, &mut value, part);
        let object = object(value)?;
        Ok(self.store_unless(is_dry, kind, key, object))
    }

    /// Merges a patch (RFC 7386) into an object, or a part of it.
    ///
    /// # Errors
    /// 400, 404, 409, 422.
    pub fn patch(
        &mut self,
        kind: Kind,
        key: &Key,
        patch: &Value,
        part: Part,
        is_dry: bool,
    ) -> Result<Object, Refusal> {
        let Some(before) = self.store.get(kind, key) else {
            return Err(Refusal::not_found(kind, &key.name));
        };
        if !patch.is_object() {
            return Err(Refusal::bad_request("a merge patch has to be a JSON object"));
        }
        let mut value = before.value(kind);
        merge(&mut value, patch);
        self.replace(kind, key, value, part, is_dry)
    }

    /// Removes an object, or marks a Pod that is on a node.
    ///
    /// # Errors
    /// 404, 409 of a precondition.
    pub fn remove(
        &mut self,
        kind: Kind,
        key: &Key,
        removal: &Removal,
        is_dry: bool,
    ) -> Result<Removed, Refusal> {
        let Some(before) = self.store.get(kind, key).cloned() else {
            return Err(Refusal::not_found(kind, &key.name));
        };
        let mut value = before.value(kind);
        let is_other =
            |wanted: &Option<String>, is: &str| wanted.as_ref().is_some_and(|wanted| wanted != is);
        if is_other(&removal.uid, text(&value, "/metadata/uid"))
            || is_other(&removal.version, &before.version.to_string())
        {
            let why = "the UID or resourceVersion in the precondition does not match";
            return Err(Refusal::conflict(kind, &key.name, why));
        }
        let own = value["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        let grace = removal.grace.unwrap_or(own);
        let is_placed = !text(&value, "/spec/nodeName").is_empty();
        if kind == Kind::Pod && is_placed && grace > 0 {
            let metadata = &mut value["metadata"];
            if metadata["deletionTimestamp"].is_null() {
                metadata["deletionTimestamp"] = timestamp().into();
                metadata["deletionGracePeriodSeconds"] = grace.into();
            }
            let object = object(value)?;
            return Ok(Removed::Marked(self.store_unless(is_dry, kind, key, object)));
        }
        if !is_dry {
            self.commit(kind, key, None);
        }
        Ok(Removed::Gone(before))
    }

    /// Stores it unless that changes nothing; as it is then.
    fn store_unless(&mut self, is_dry: bool, kind: Kind, key: &Key, object: Object) -> Object {
        if is_dry {
            let version = self.store.get(kind, key).map_or(0, |before| before.version);
            return object.at(version);
        }
        self.commit(kind, key, Some(&object));
        self.store.get(kind, key).cloned().unwrap_or(object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::{Manners, Shared};

    fn pod(name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "a"}, "status": {"phase": "Running"},
        })
    }

    fn shared() -> Shared {
        Shared::new(Manners { needs_namespaces: false, ..Manners::default() })
    }

    #[test]
    fn status_is_apart() {
        let shared = shared();
        let mut state = shared.lock();
        let (key, _) = state.create(Kind::Pod, "shop", pod("web"), Part::Main, false).unwrap();
        let value = |state: &State| state.store.get(Kind::Pod, &key).unwrap().value(Kind::Pod);
        assert_eq!(value(&state)["status"]["phase"], "Pending");
        let running = json!({"status": {"phase": "Running"}, "metadata": {"labels": {"a": "b"}}});
        state.patch(Kind::Pod, &key, &running, Part::Main, false).unwrap();
        assert_eq!(value(&state)["status"]["phase"], "Pending");
        assert_eq!(value(&state)["metadata"]["labels"]["a"], "b");
        state.patch(Kind::Pod, &key, &running, Part::Status, false).unwrap();
        assert_eq!(value(&state)["status"]["phase"], "Running");
        // The same again is no change.
        let version = state.store.version();
        state.patch(Kind::Pod, &key, &running, Part::Status, false).unwrap();
        state
            .patch(Kind::Pod, &key, &json!({"status": {"phase": "x"}}), Part::Status, true)
            .unwrap();
        assert_eq!(state.store.version(), version);
    }

    #[test]
    fn conflicts() {
        let shared = shared();
        let mut state = shared.lock();
        let (key, web) = state.create(Kind::Pod, "shop", pod("web"), Part::Main, false).unwrap();
        let code = |result: Result<Object, Refusal>| result.unwrap_err().code;
        let again = state.create(Kind::Pod, "shop", pod("web"), Part::Main, false);
        assert_eq!(again.unwrap_err().reason, "AlreadyExists");
        let mut stale = web.value(Kind::Pod);
        stale["metadata"]["resourceVersion"] = "1".into();
        assert_eq!(code(state.replace(Kind::Pod, &key, stale, Part::Main, false)), 409);
        let other = json!({"metadata": {"uid": "x"}});
        assert_eq!(code(state.patch(Kind::Pod, &key, &other, Part::Main, false)), 409);
        let nobody = Key::new("shop", "nobody");
        assert_eq!(code(state.patch(Kind::Pod, &nobody, &other, Part::Main, false)), 404);
        let renamed = json!({"metadata": {"name": "db"}});
        assert_eq!(code(state.patch(Kind::Pod, &key, &renamed, Part::Main, false)), 400);
        for name in ["", "A", "-a", "a..b", "a_b"] {
            let refused = state.create(Kind::Pod, "shop", pod(name), Part::Main, false);
            assert_eq!(refused.unwrap_err().code, 422, "{name:?}");
        }
    }

    #[test]
    fn pods_are_marked_and_then_removed() {
        let shared = shared();
        let mut state = shared.lock();
        let (key, web) = state.create(Kind::Pod, "shop", pod("web"), Part::Main, false).unwrap();
        let marked = state.remove(Kind::Pod, &key, &Removal::default(), false).unwrap();
        let Removed::Marked(marked) = marked else { panic!("{marked:?}") };
        assert_eq!(marked.value(Kind::Pod)["metadata"]["deletionGracePeriodSeconds"], 30);
        let now = |uid: &str| Removal { grace: Some(0), uid: Some(uid.into()), version: None };
        assert_eq!(state.remove(Kind::Pod, &key, &now("x"), false).unwrap_err().code, 409);
        let uid = text(&web.value(Kind::Pod), "/metadata/uid").to_owned();
        let gone = state.remove(Kind::Pod, &key, &now(&uid), false).unwrap();
        assert!(matches!(gone, Removed::Gone(_)));
        assert_eq!(state.remove(Kind::Pod, &key, &now(&uid), false).unwrap_err().code, 404);
    }

    #[test]
    fn generation_counts_what_is_desired() {
        let shared = shared();
        let mut state = shared.lock();
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "a"}, "spec": {"podSelector": {}},
        });
        let (key, _) =
            state.create(Kind::NetworkPolicy, "shop", policy, Part::Main, false).unwrap();
        for (patch, generation) in [
            (json!({"metadata": {"labels": {"a": "b"}}}), 1),
            (json!({"spec": {"policyTypes": ["Ingress"]}}), 2),
            (json!({"metadata": {"generation": 9}}), 2),
        ] {
            let now = state.patch(Kind::NetworkPolicy, &key, &patch, Part::Main, false).unwrap();
            assert_eq!(now.value(Kind::NetworkPolicy)["metadata"]["generation"], generation);
        }
    }
}
