//! Who may do what: bearer tokens and the rules of ClusterRoles.
//!
//! Without a token given out, everybody may do everything. With one, a request without a token
//! that is valid now is answered with 401, and one that no rule of its holder allows with 403, in
//! the words of the real authorizer. Only ClusterRoles bound cluster-wide are known: the rules
//! of a manifest can be taken as they are and are then proved to suffice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::kind::Kind;
use crate::status::Refusal;

/// A rule of a ClusterRole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rule {
    /// `""` is the core group, `*` all.
    pub api_groups: Vec<String>,
    /// `pods`, `pods/status`, `*`
    pub resources: Vec<String>,
    /// `get`, `list`, …, `*`
    pub verbs: Vec<String>,
    /// Only these objects; empty: all.
    pub resource_names: Vec<String>,
    /// `/metrics`, `/apis/*`
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed<'a> {
    /// Something with objects.
    Resource {
        /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`
        verb: &'a str,
        /// Of which kind.
        kind: Kind,
        /// `status`, or nothing.
        subresource: &'a str,
        /// Empty: in all, or the kind has none.
        namespace: &'a str,
        /// Empty: a collection.
        name: &'a str,
    },
    /// Something else.
    Url {
        /// `get`
        verb: &'a str,
        /// `/apis`
        path: &'a str,
    },
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    fn allows(&self, deed: &Deed<'_>) -> bool {
        match *deed {
            Deed::Resource { verb, kind, subresource, name, .. } => {
                let resource = match subresource {
                    "" => kind.plural().to_owned(),
                    subresource => format!("{}/{subresource}", kind.plural()),
                };
                has(&self.verbs, verb)
                    && has(&self.api_groups, kind.group())
                    && has(&self.resources, &resource)
                    && (self.resource_names.is_empty()
                        || self.resource_names.iter().any(|item| item == name))
            }
            Deed::Url { verb, path } => {
                let fits = |url: &String| match url.strip_suffix('*') {
                    Some(prefix) => path.starts_with(prefix),
                    None => url == path,
                };
                has(&self.verbs, verb) && self.non_resource_urls.iter().any(fits)
            }
        }
    }
}

/// The rules of all ClusterRoles among the documents of a YAML text.
///
/// # Errors
/// It is no YAML, a rule is not of the shape of RBAC rules, or there is no ClusterRole.
pub fn rules_of(yaml: &str) -> Result<Vec<Rule>, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).map_err(|error| error.to_string())?;
    let mut rules = None;
    for document in documents.into_iter().filter(|d| d["kind"] == "ClusterRole") {
        let more: Vec<Rule> = serde_json::from_value(document["rules"].clone())
            .map_err(|error| format!("ClusterRole {}: {error}", document["metadata"]["name"]))?;
        rules.get_or_insert_with(Vec::new).extend(more);
    }
    rules.ok_or_else(|| "there is no ClusterRole".to_owned())
}

/// The holder of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// `system:serviceaccount:weir:weir-control`
    pub user: String,
    /// What it may do; `None`: everything.
    pub rules: Option<Vec<Rule>>,
    until: Option<Instant>,
}

impl Holder {
    /// Somebody who may do everything.
    #[must_use]
    pub fn admin(user: &str) -> Holder {
        Holder { user: user.to_owned(), rules: None, until: None }
    }

    /// Somebody who may do what the rules allow, and look at what the server offers.
    #[must_use]
    pub fn with_rules(user: &str, rules: Vec<Rule>) -> Holder {
        Holder { user: user.to_owned(), rules: Some(rules), until: None }
    }

    /// The token is valid only so long from now.
    #[must_use]
    pub fn expiring_in(mut self, life: Duration) -> Holder {
        self.until = Some(Instant::now() + life);
        self
    }
}

/// Paths that every authenticated user may read (ClusterRole `system:discovery`).
const DISCOVERY: [&str; 7] =
    ["/api", "/apis", "/healthz", "/livez", "/readyz", "/version", "/openapi"];

/// The tokens given out.
#[derive(Debug, Default)]
pub struct Access {
    tokens: BTreeMap<String, Holder>,
    is_closed: bool,
}

impl Access {
    /// Gives a token out; the same token again changes its holder.
    pub fn add(&mut self, token: &str, holder: Holder) {
        self.is_closed = true;
        self.tokens.insert(token.to_owned(), holder);
    }

    /// The token is valid no more.
    pub fn remove(&mut self, token: &str) {
        self.tokens.remove(token);
    }

    /// Whose request this is, by its `Authorization`.
    ///
    /// # Errors
    /// 401
    pub fn holder(&self, authorization: Option<&str>) -> Result<Holder, Refusal> {
        if !self.is_closed {
            return Ok(Holder::admin("system:anonymous"));
        }
        let token = authorization.and_then(|text| text.strip_prefix("Bearer "));
        token
            .and_then(|token| self.tokens.get(token.trim()))
            .filter(|holder| holder.until.is_none_or(|until| Instant::now() < until))
            .cloned()
            .ok_or_else(Refusal::unauthorized)
    }
}

impl Holder {
    /// Refuses what no rule allows.
    ///
    /// # Errors
    /// 403
    pub fn check(&self, deed: &Deed<'_>) -> Result<(), Refusal> {
        let Some(rules) = &self.rules else { return Ok(()) };
        if let Deed::Url { verb: "get", path } = deed
            && DISCOVERY.iter().any(|root| {
                path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        {
            return Ok(());
        }
        if rules.iter().any(|rule| rule.allows(deed)) { Ok(()) } else { Err(self.forbidden(deed)) }
    }

    fn forbidden(&self, deed: &Deed<'_>) -> Refusal {
        let user = &self.user;
        match *deed {
            Deed::Url { verb, path } => {
                let words = format!("forbidden: User {user:?} cannot {verb} path {path:?}");
                Refusal::new(403, "Forbidden", words).complaint()
            }
            Deed::Resource { verb, kind, subresource, namespace, name } => {
                let resource = match subresource {
                    "" => kind.plural().to_owned(),
                    subresource => format!("{}/{subresource}", kind.plural()),
                };
                let place = match namespace {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                let object = if name.is_empty() { String::new() } else { format!(" {name:?}") };
                let message = format!(
                    "{}{object} is forbidden: User {user:?} cannot {verb} resource {resource:?} \
                     in API group {:?} {place}",
                    kind.qualified(),
                    kind.group(),
                );
                let mut refusal = Refusal::new(403, "Forbidden", message).complaint();
                for (key, value) in
                    [("name", name), ("group", kind.group()), ("kind", kind.plural())]
                {
                    if !value.is_empty() {
                        refusal.details[key] = value.into();
                    }
                }
                refusal
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: weir}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: weir}
rules:
- apiGroups: ['']
  resources: [pods, namespaces]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
- apiGroups: ['']
  resources: [pods/status]
  resourceNames: [web]
  verbs: ['*']
- nonResourceURLs: [/metrics, /debug/*]
  verbs: [get]
";

    #[test]
    fn rules() {
        let holder = Holder::with_rules("weir", rules_of(ROLE).unwrap());
        let resource = |verb, kind, subresource, name| {
            holder.check(&Deed::Resource { verb, kind, subresource, namespace: "shop", name })
        };
        assert!(resource("list", Kind::Pod, "", "").is_ok());
        assert!(resource("create", Kind::Event, "", "").is_ok());
        assert!(resource("patch", Kind::Pod, "status", "web").is_ok());
        for refused in [
            resource("list", Kind::Node, "", ""),
            resource("create", Kind::Pod, "", ""),
            resource("patch", Kind::Pod, "", "web"),
            resource("patch", Kind::Pod, "status", "db"),
            resource("list", Kind::Event, "", ""),
            holder.check(&Deed::Url { verb: "get", path: "/metricsx" }),
            holder.check(&Deed::Url { verb: "get", path: "/apiserver" }),
            holder.check(&Deed::Url { verb: "post", path: "/apis" }),
        ] {
            let refusal = refused.unwrap_err();
            assert_eq!((refusal.code, refusal.is_complaint), (403, true));
        }
        for path in ["/metrics", "/debug/pprof", "/apis", "/apis/apps/v1", "/version"] {
            assert!(holder.check(&Deed::Url { verb: "get", path }).is_ok(), "{path}");
        }
        assert_eq!(
            resource("list", Kind::NetworkPolicy, "", "").unwrap_err().message,
            "networkpolicies.networking.k8s.io is forbidden: User \"weir\" cannot list resource \
             \"networkpolicies\" in API group \"networking.k8s.io\" in the namespace \"shop\""
        );
    }

    #[test]
    fn unknown_fields_and_no_role_are_errors() {
        assert!(rules_of("kind: Pod").is_err());
        assert!(rules_of("kind: ClusterRole\nrules: [{verb: [get]}]").is_err());
    }

    #[test]
    fn tokens() {
        let mut access = Access::default();
        assert!(access.holder(None).is_ok());
        access.add("old", Holder::admin("a").expiring_in(Duration::ZERO));
        access.add("new", Holder::admin("b"));
        assert_eq!(access.holder(Some("Bearer new")).unwrap().user, "b");
        for authorization in [None, Some("Bearer old"), Some("Basic new"), Some("Bearer x")] {
            assert_eq!(access.holder(authorization).unwrap_err().code, 401);
        }
        access.remove("new");
        assert!(access.holder(Some("Bearer new")).is_err());
    }
}
