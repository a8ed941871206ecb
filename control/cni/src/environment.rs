//! What the runtime says in variables of the environment.

use std::{ffi::OsString, path::PathBuf};

use weir_table::cni::PodRef;

use crate::failure::{Failure, code};

/// What the plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// An interface was made.
    Add,
    /// Is it as it was?
    Check,
    /// It goes.
    Del,
    /// Can an ADD be served?
    Status,
    /// Forget what does not exist.
    Gc,
    /// Which versions of CNI?
    Version,
}

/// The variables, checked as far as the verb needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub verb: Verb,
    /// `CNI_CONTAINERID`; empty for verbs that are not about one.
    pub container: String,
    /// `CNI_NETNS`; present for ADD and CHECK.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`; empty for verbs that are not about one.
    pub ifname: String,
    /// From `CNI_ARGS`, for ADD and CHECK: what Kubernetes' runtimes say of the pod.
    pub pod: Option<PodRef>,
}

/// Longest container id, and longest of a pod's names, in bytes.
const MAX_NAME: usize = 253;

impl Environment {
    /// Reads the variables through `get`.
    ///
    /// # Errors
    /// [`code::ENVIRONMENT`] with the names of those that are missing or wrong.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Environment, Failure> {
        let text = |name: &str| -> Result<String, Failure> {
            let value = get(name).unwrap_or_default();
            value.into_string().map_err(|_| wrong(name, "is not UTF-8"))
        };
        let command = text("CNI_COMMAND")?;
        let (verb, needed): (_, &[&str]) = match command.as_str() {
            "ADD" => (Verb::Add, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            "CHECK" => (Verb::Check, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            "DEL" => (Verb::Del, &["CNI_CONTAINERID", "CNI_IFNAME"]),
            "STATUS" => (Verb::Status, &[]),
            "GC" => (Verb::Gc, &[]),
            "VERSION" => (Verb::Version, &[]),
            "" => return Err(missing(&["CNI_COMMAND"])),
            other => return Err(wrong("CNI_COMMAND", &format!("is {other:?}, which is no verb"))),
        };
        let lacking: Vec<_> = needed
            .iter()
            .copied()
            .filter(|name| get(name).is_none_or(|value| value.is_empty()))
            .collect();
        if !lacking.is_empty() {
            return Err(missing(&lacking));
        }
        let mut environment = Environment {
            verb,
            container: String::new(),
            netns: None,
            ifname: String::new(),
            pod: None,
        };
        if matches!(verb, Verb::Add | Verb::Check | Verb::Del) {
            environment.container = text("CNI_CONTAINERID")?;
            if !is_container_id(&environment.container) {
                return Err(wrong(
                    "CNI_CONTAINERID",
                    "must begin with a letter or digit, and consist of these, _ . and -",
                ));
            }
            environment.ifname = text("CNI_IFNAME")?;
            if !is_ifname(&environment.ifname) {
                return Err(wrong("CNI_IFNAME", "is no name that an interface can have"));
            }
        }
        if matches!(verb, Verb::Add | Verb::Check) {
            environment.netns = get("CNI_NETNS").map(PathBuf::from);
            environment.pod = pod_of(&text("CNI_ARGS")?)?;
        }
        Ok(environment)
    }
}

/// What Kubernetes' runtimes put into `CNI_ARGS`. Whatever else is there is for others.
fn pod_of(arguments: &str) -> Result<Option<PodRef>, Failure> {
    let (mut namespace, mut name, mut uid) = (None, None, None);
    for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(wrong("CNI_ARGS", &format!("has {pair:?}, which is not KEY=VALUE")));
        };
        let slot = match key {
            "K8S_POD_NAMESPACE" => &mut namespace,
            "K8S_POD_NAME" => &mut name,
            "K8S_POD_UID" => &mut uid,
            _ => continue,
        };
        // Of a pod without one some runtimes say an empty UID.
        if key == "K8S_POD_UID" && value.is_empty() {
            continue;
        }
        if !is_object_name(value) {
            let problem = format!("has {key}={value:?}, which is no name of an object");
            return Err(wrong("CNI_ARGS", &problem));
        }
        *slot = Some(value.to_owned());
    }
    match (namespace, name) {
        (Some(namespace), Some(name)) => Ok(Some(PodRef { namespace, name, uid })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(wrong("CNI_ARGS", "has K8S_POD_NAMESPACE, but no K8S_POD_NAME")),
        (None, Some(_)) => Err(wrong("CNI_ARGS", "has K8S_POD_NAME, but no K8S_POD_NAMESPACE")),
    }
}

/// As the specification has it for containers and for networks.
pub fn is_container_id(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// As the specification and the kernel have it.
pub fn is_ifname(name: &str) -> bool {
    (1..16).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
}

/// A DNS subdomain, loosely; UIDs pass too.
fn is_object_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
}

fn missing(names: &[&str]) -> Failure {
    Failure::new(
        code::ENVIRONMENT,
        format!("required environment variables missing: {}", names.join(", ")),
    )
}

fn wrong(name: &str, problem: &str) -> Failure {
    Failure::new(code::ENVIRONMENT, format!("{name} {problem}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, Failure> {
        Environment::read(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    const ADD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "0a1b"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
    ];

    fn with<'a>(changed: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
        ADD.into_iter().filter(|(key, _)| *key != changed).chain([(changed, value)]).collect()
    }

    #[test]
    fn a_kubernetes_pod_is_named() {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;\
                         K8S_POD_INFRA_CONTAINER_ID=0a1b;K8S_POD_UID=1-2;MAC=a=b";
        let environment = read(&with("CNI_ARGS", arguments)).unwrap();
        let pod =
            PodRef { namespace: "shop".into(), name: "web-0".into(), uid: Some("1-2".into()) };
        assert_eq!(environment.pod, Some(pod));
        assert_eq!(environment.container, "0a1b");
        assert_eq!(environment.netns, Some("/run/netns/x".into()));
        assert_eq!(read(&ADD).unwrap().pod, None);
        let arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=";
        assert_eq!(read(&with("CNI_ARGS", arguments)).unwrap().pod.unwrap().uid, None);
    }

    #[test]
    fn each_verb_needs_what_it_needs() {
        for verb in ["STATUS", "GC", "VERSION"] {
            read(&[("CNI_COMMAND", verb)]).unwrap();
        }
        // The namespace may be gone when an interface is deleted, and arguments do not matter.
        read(&[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "broken"),
        ])
        .unwrap();
        for (variables, words) in [
            (vec![], "missing: CNI_COMMAND"),
            (vec![("CNI_COMMAND", "ADD")], "missing: CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
            (vec![("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "a")], "missing: CNI_CONTAINERID"),
            (with("CNI_NETNS", ""), "missing: CNI_NETNS"),
            (with("CNI_COMMAND", "add"), "CNI_COMMAND is \"add\""),
            (with("CNI_CONTAINERID", "../x"), "CNI_CONTAINERID must begin"),
            (with("CNI_IFNAME", "a b"), "CNI_IFNAME is no name"),
            (with("CNI_IFNAME", "0123456789012345"), "CNI_IFNAME is no name"),
            (with("CNI_ARGS", "x"), "CNI_ARGS has \"x\""),
            (with("CNI_ARGS", "K8S_POD_NAME=a"), "no K8S_POD_NAMESPACE"),
            (with("CNI_ARGS", "K8S_POD_NAMESPACE=a"), "no K8S_POD_NAME"),
            (with("CNI_ARGS", "K8S_POD_NAME=a b;K8S_POD_NAMESPACE=a"), "K8S_POD_NAME=\"a b\""),
        ] {
            let failure = read(&variables).unwrap_err();
            assert_eq!(failure.code, code::ENVIRONMENT);
            assert!(failure.msg.contains(words), "{} should say: {words}", failure.msg);
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_the_dataplane_accepts(
            container in "\\PC{0,20}", ifname in "\\PC{0,20}", arguments in "[K8S_POD_NAMECUI=;a\n]{0,60}",
        ) {
            let mut variables = with("CNI_CONTAINERID", &container);
            variables.retain(|(key, _)| *key != "CNI_IFNAME");
            variables.extend([("CNI_IFNAME", ifname.as_str()), ("CNI_ARGS", &arguments)]);
            if let Ok(read) = read(&variables) {
                let request = weir_table::cni::Request::Del {
                    id: weir_table::cni::AttachmentId {
                        network: "n".into(), container: read.container, ifname: read.ifname,
                    },
                };
                prop_assert_eq!(request.check(), Ok(()));
            }
        }
    }
}
