//! Which conditions of a peer an address fails.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ends::no_selector_matches;
use super::near::{Edit, Fix, Miss, Question};
use super::words::one_of;
use crate::index::NamespaceLabels;
use crate::model::namespace::NAME_LABEL;
use crate::model::{LabelSelector, Labels, NetworkPolicy, Operator, Peer, Requirement};

/// The conditions of a peer that fail; none if it matches.
pub(super) fn peer_misses(
    question: &Question<'_>,
    policy: &NetworkPolicy,
    peer: &Peer,
) -> Vec<Miss> {
    match peer {
        Peer::IpBlock { cidr, except } => block_miss(question.peer_address, cidr, except),
        Peer::Pods { namespaces, pods } => pod_misses(question, policy, namespaces, pods),
    }
}

fn block_miss(address: IpAddr, cidr: &IpNet, except: &[IpNet]) -> Vec<Miss> {
    let family = |v4: bool| if v4 { "IPv4" } else { "IPv6" };
    if cidr.contains(&address) {
        let holes: Vec<IpNet> =
            except.iter().filter(|hole| hole.contains(&address)).copied().collect();
        if holes.is_empty() {
            return Vec::new();
        }
        let named: Vec<String> = holes.iter().map(ToString::to_string).collect();
        let text = format!("{address} is inside {cidr}, but excepted by {}", named.join(" and "));
        return vec![Miss::new(text, Fix::Edit(Edit::DropExcept(holes)))];
    }
    let text = if address.is_ipv4() == cidr.addr().is_ipv4() {
        format!("{address} is outside of {cidr}")
    } else {
        let (ours, theirs) = (family(address.is_ipv4()), family(cidr.addr().is_ipv4()));
        format!("{address} is {ours}, the block {cidr} is {theirs}")
    };
    vec![Miss::new(text, Fix::Edit(Edit::AddBlock(IpNet::from(address))))]
}

fn pod_misses(
    question: &Question<'_>,
    policy: &NetworkPolicy,
    namespaces: &Option<LabelSelector>,
    pods: &Option<LabelSelector>,
) -> Vec<Miss> {
    let Some(pod) = question.peer else {
        let text = format!(
            "selectors match pods only, and {}; an ipBlock could match it",
            no_selector_matches(question.peer_address, question.peer_is)
        );
        let block = IpNet::from(question.peer_address);
        return vec![Miss::new(text, Fix::Edit(Edit::AddBlock(block)))];
    };
    let mut misses = Vec::new();
    let namespace = &pod.key.namespace;
    let labels = question.index.namespace_labels(namespace);
    match (namespaces, labels) {
        (None, labels) if *namespace != policy.key.namespace => {
            let text = format!(
                "pod {} is in namespace {namespace}, and a podSelector alone means the policy's own, {}",
                pod.key, policy.key.namespace
            );
            let selector = LabelSelector::labels([(NAME_LABEL, &**namespace)]);
            let fix = match labels {
                NamespaceLabels::Unknown => Fix::Nothing,
                _ => Fix::Edit(Edit::NamespaceSelector(selector)),
            };
            misses.push(Miss::new(text, fix));
        }
        (None, _) => {}
        (Some(_), NamespaceLabels::Unknown) => {
            let text = format!("namespace {namespace} was refused, and no selector matches it");
            misses.push(Miss::new(text, Fix::Nothing));
        }
        (Some(selector), labels) => {
            let subject = format!("namespace {namespace}");
            let implied = Labels::from([(NAME_LABEL.to_owned(), namespace.to_string())]);
            let labels = match labels {
                NamespaceLabels::Known(labels) => labels,
                _ => {
                    misses.extend(unknown_labels(namespace, selector));
                    &implied
                }
            };
            misses.extend(label_misses(&subject, selector, labels, |key, value| {
                // Every namespace has this label, and its value is its name.
                match key == NAME_LABEL {
                    true => Fix::Nothing,
                    false => Fix::NamespaceLabel(namespace.to_string(), key.to_owned(), value),
                }
            }));
        }
    }
    if let Some(selector) = pods {
        let subject = format!("pod {}", pod.key);
        misses.extend(label_misses(&subject, selector, &pod.labels, |key, value| {
            Fix::PodLabel(pod.key.clone(), key.to_owned(), value)
        }));
    }
    misses
}

/// What a selector requires to be absent, or to have no such value, of a namespace that is not
/// declared: nobody knows whether it has.
fn unknown_labels(namespace: &str, selector: &LabelSelector) -> Vec<Miss> {
    let unknown =
        |requirement: &&Requirement| requirement.key != NAME_LABEL && holds(requirement, None);
    let miss = |requirement: &Requirement| {
        let text = format!(
            "namespace {namespace} is not declared, so its label {} is not known",
            requirement.key
        );
        Miss::new(text, Fix::Nothing)
    };
    selector.requirements.iter().filter(unknown).map(miss).collect()
}

fn label_misses(
    subject: &str,
    selector: &LabelSelector,
    labels: &Labels,
    fix: impl Fn(&str, Option<String>) -> Fix,
) -> Vec<Miss> {
    let miss = |requirement: &Requirement| match remedy(selector, &requirement.key) {
        Some(value) => {
            Miss::new(sentence(subject, requirement, labels), fix(&requirement.key, value))
        }
        None => Miss::new(
            format!(
                "nothing matches a selector that contradicts itself on label {}",
                requirement.key
            ),
            Fix::Nothing,
        ),
    };
    failing(selector, labels).into_iter().map(miss).collect()
}

/// The requirements of a selector that labels do not fulfil.
pub(super) fn failing<'a>(selector: &'a LabelSelector, labels: &Labels) -> Vec<&'a Requirement> {
    let fails = |requirement: &&Requirement| {
        !holds(requirement, labels.get(&requirement.key).map(String::as_str))
    };
    selector.requirements.iter().filter(fails).collect()
}

fn holds(requirement: &Requirement, value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| requirement.values.iter().any(|v| v == value));
    match requirement.operator {
        Operator::In => listed(),
        Operator::NotIn => !listed(),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

/// A value of a label, or its absence, that fulfils all that a selector requires of the key; `None`
/// if there is none.
fn remedy(selector: &LabelSelector, key: &str) -> Option<Option<String>> {
    let about: Vec<&Requirement> =
        selector.requirements.iter().filter(|requirement| requirement.key == key).collect();
    let fits = |value: Option<&str>| about.iter().all(|requirement| holds(requirement, value));
    let listed = about.iter().flat_map(|requirement| &requirement.values);
    // One more value than any selector excludes.
    let fresh = (0..=about.iter().map(|r| r.values.len()).sum()).map(|i| format!("other-{i}"));
    let values = listed.cloned().chain(["true".to_owned()]).chain(fresh).map(Some);
    std::iter::once(None).chain(values).find(|value| fits(value.as_deref()))
}

/// `label app of pod ns/x is web, the rule wants api or db`.
fn sentence(subject: &str, requirement: &Requirement, labels: &Labels) -> String {
    let Requirement { key, operator, values } = requirement;
    let value = labels.get(key).map(|value| quoted(value));
    let listed: Vec<String> = values.iter().map(|value| quoted(value)).collect();
    match (operator, value) {
        (Operator::In, Some(value)) => {
            format!("label {key} of {subject} is {value}, the rule wants {}", one_of(&listed))
        }
        (Operator::In, None) if listed.len() == 1 => {
            format!("{subject} lacks {key}={}", listed[0])
        }
        (Operator::In, None) => format!("{subject} lacks {key} in ({})", listed.join(", ")),
        (Operator::Exists, _) => format!("{subject} lacks the label {key}"),
        (Operator::NotIn, value) => format!(
            "label {key} of {subject} is {}, the rule wants it not to be {}",
            value.unwrap_or_default(),
            one_of(&listed)
        ),
        (Operator::DoesNotExist, value) => format!(
            "{subject} has {key}={}, the rule wants it without the label {key}",
            value.unwrap_or_default()
        ),
    }
}

/// A label's value; the empty one is shown as such.
fn quoted(value: &str) -> String {
    if value.is_empty() { "\"\"".to_owned() } else { value.to_owned() }
}
