//! Other policy engines, as far as the API shows that they are installed.
//!
//! Whoever writes a policy of another API believes that it protects something. Weir does not read
//! it; and where another engine enforces NetworkPolicies beside Weir, a packet has to please both.
//! Neither is a fault, and both are worth a line. The list of API groups is open to every client;
//! it is read once an hour, and nothing depends on it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::ORIGIN;
use super::client::Access;
use super::http;
use crate::model::{Complaint, Effect, Origin, Severity};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(3600);
/// After one that failed.
const RETRY: Duration = Duration::from_secs(60);

/// API groups and whose they are.
const GROUPS: [(&str, &str); 5] = [
    ("cilium.io", "Cilium"),
    ("crd.projectcalico.org", "Calico"),
    ("projectcalico.org", "Calico"),
    ("crd.antrea.io", "Antrea"),
    ("policy.networking.k8s.io", CLUSTER),
];

/// No engine, but an API that several implement.
const CLUSTER: &str = "ClusterNetworkPolicy";

/// All names that [`Rivals::found`] gives.
pub const NAMES: [&str; 4] = ["Antrea", "Calico", "Cilium", CLUSTER];

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Rivals(Arc<Mutex<Vec<&'static str>>>);

impl Rivals {
    /// The engines, in the order of their names.
    pub fn found(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks now and every hour, for ever.
    pub(super) async fn run(self, access: Arc<Access>) {
        loop {
            let (_, client) = access.client();
            let answer = match http::get(&client, "/apis").await {
                Ok(body) => http::collect(body).await,
                Err(fault) => Err(fault),
            };
            // That the API is away is said by whoever follows it.
            let found = answer.ok().and_then(|text| engines(&text));
            let pause = if found.is_some() { PAUSE } else { RETRY };
            if let Some(found) = found {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

#[derive(Deserialize)]
struct GroupList {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
}

/// Those whose groups are in a list of groups; `None` if it is none.
fn engines(text: &[u8]) -> Option<Vec<&'static str>> {
    let list: GroupList = serde_json::from_slice(text).ok()?;
    let has = |group: &str| list.groups.iter().any(|known| known.name == group);
    let mut found: Vec<&str> =
        GROUPS.into_iter().filter(|(group, _)| has(group)).map(|(_, name)| name).collect();
    found.sort_unstable();
    found.dedup();
    Some(found)
}

/// That it is there, as a complaint.
pub fn complaint(name: &str) -> Complaint {
    let message = match name {
        CLUSTER => {
            "the API has policies for the whole cluster (policy.networking.k8s.io), which are not enforced in this version"
                .to_owned()
        }
        name => format!(
            "{name} is installed: its own policies are not read here, and if it enforces policies on this node, packets have to be allowed by both"
        ),
    };
    Complaint {
        severity: Severity::Warning,
        effect: Effect::Nothing,
        origin: Origin { file: ORIGIN.into(), line: 0 },
        object: String::new(),
        field: String::new(),
        message,
        consequence: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_known_by_their_groups() {
        let of = |groups: &[&str]| {
            let groups: Vec<_> = groups
                .iter()
                .map(|name| serde_json::json!({"name": name, "versions": []}))
                .collect();
            engines(
                serde_json::json!({"kind": "APIGroupList", "groups": groups})
                    .to_string()
                    .as_bytes(),
            )
        };
        assert_eq!(of(&["apps", "networking.k8s.io"]), Some(vec![]));
        let groups = ["projectcalico.org", "apps", "cilium.io", "crd.projectcalico.org"];
        assert_eq!(of(&groups), Some(vec!["Calico", "Cilium"]));
        assert_eq!(of(&["policy.networking.k8s.io"]), Some(vec![CLUSTER]));
        for text in ["", "{}", "[]", "<html>"] {
            assert_eq!(engines(text.as_bytes()), None, "{text}");
        }
        for (_, name) in GROUPS {
            assert!(NAMES.contains(&name));
            assert!(complaint(name).to_string().starts_with("kube: "), "{}", complaint(name));
        }
    }
}
