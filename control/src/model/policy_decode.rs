//! From a value tree to a NetworkPolicy, with the validation of the API server.
//!
//! Source of the rules: `pkg/apis/networking/validation` of Kubernetes, and the API reference of
//! `networking.k8s.io/v1`. The API server refuses a policy that fails any of them as a whole; here
//! it still isolates, because whoever wrote it wanted something closed:
//!
//! * a fault inside one rule refuses that rule. It allows nothing; the others stay in force. That
//!   is safe, since a rule can do nothing but allow;
//! * any other fault refuses the policy as a whole. If the selector or the policy types cannot be
//!   read, more is isolated rather than less; a field that is not known may have been meant to
//!   restrict what the rules allow.

use std::ops::Range;

use super::common::{decode_name, decode_namespace, unnamed};
use super::decode::{Place, Problems};
use super::label::{LabelSelector, is_dns_subdomain};
use super::policy::{Direction, Fault, NetworkPolicy, Rule};
use super::policy_rule::decode_rule;
use super::{Complaint, Effect, ObjectKey, Origin, Severity};

/// The one version of the API that serves NetworkPolicy.
pub(super) const API_VERSION: &str = "networking.k8s.io/v1";

/// Reads a NetworkPolicy. `None` only if its namespace cannot be read, so that nobody can say what
/// it would isolate.
pub(super) fn decode(
    root: &Place<'_>,
    origin: &Origin,
    complaints: &mut Vec<Complaint>,
) -> Option<NetworkPolicy> {
    let mut problems = Problems::default();
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"], &mut problems);
    if root.node.get_str("apiVersion") != Some(API_VERSION) {
        let place = root.field("apiVersion").unwrap_or_else(|| root.clone());
        problems.at(&place, format!("write `apiVersion: {API_VERSION}`"));
    }
    let (namespace, name) = decode_metadata(root, &mut problems);
    let spec = root.field("spec");
    let spec = spec.filter(|spec| spec.is_map(&mut problems));
    let decoded = spec.as_ref().map(|spec| decode_spec(spec, &mut problems)).unwrap_or_else(|| {
        // Without a spec the API's zero value applies: every pod of the namespace, ingress. If a
        // misspelt field took its place, nothing at all is known.
        let directions = if problems.refusals() == 0 {
            vec![Direction::Ingress]
        } else {
            vec![Direction::Ingress, Direction::Egress]
        };
        Decoded { directions, ..Decoded::default() }
    });

    let is_of_rule = |i: usize| decoded.refused.iter().find(|(range, _)| range.contains(&i));
    let beside_rules = problems.list.iter().enumerate();
    let beside_rules = beside_rules.filter(|(i, p)| !p.warning && is_of_rule(*i).is_none()).count();
    let refused = beside_rules > 0 || decoded.selector.is_none();
    let name = name.unwrap_or_else(|| unnamed(origin));
    let object = match &namespace {
        Some(namespace) => format!("NetworkPolicy {namespace}/{name}"),
        None => format!("NetworkPolicy ?/{name}"),
    };
    let key = namespace.map(|namespace| ObjectKey::new(namespace, name));
    let consequence = match refused {
        true => refused_policy(key.as_ref(), &decoded),
        false => refused_rule(&decoded),
    };
    let mut faults = Vec::new();
    for (i, problem) in problems.list.into_iter().enumerate() {
        if !problem.warning {
            faults.push(Fault {
                rule: is_of_rule(i).map(|(_, rule)| *rule),
                field: problem.path.clone(),
                line: problem.line,
                message: problem.message.clone(),
            });
        }
        complaints.push(Complaint {
            severity: if problem.warning { Severity::Warning } else { Severity::Refused },
            effect: match (problem.warning, &key) {
                (true, _) => Effect::Nothing,
                (false, Some(_)) => Effect::Closed,
                (false, None) => Effect::NotEnforced,
            },
            origin: Origin { line: problem.line, ..origin.clone() },
            object: object.clone(),
            field: problem.path,
            message: problem.message,
            consequence: if problem.warning { String::new() } else { consequence.clone() },
        });
    }
    let [ingress, egress] = if refused { [vec![], vec![]] } else { decoded.rules };
    Some(NetworkPolicy {
        key: key?,
        pod_selector: decoded.selector.unwrap_or_default(),
        directions: decoded.directions,
        ingress,
        egress,
        refused,
        faults,
        origin: origin.clone(),
    })
}

/// What becomes of a refused rule, for the complaint.
fn refused_rule(decoded: &Decoded) -> String {
    let directions: Vec<&str> = decoded.directions.iter().map(|d| d.field()).collect();
    let others = match decoded.rules.iter().map(Vec::len).sum() {
        0usize => "it has no other rule",
        _ => "its other rules stay in force",
    };
    format!(
        "the rule is refused and allows nothing; the policy isolates for {} all the same, and {others}",
        directions.join(" and ")
    )
}

/// What becomes of a refused policy, for the complaint.
fn refused_policy(key: Option<&ObjectKey>, decoded: &Decoded) -> String {
    let Some(key) = key else {
        return "the policy is refused, and as its namespace cannot be read it isolates nothing"
            .to_owned();
    };
    let directions: Vec<&str> = decoded.directions.iter().map(|d| d.field()).collect();
    let directions = directions.join(" and ");
    match &decoded.selector {
        Some(selector) if !selector.is_empty() => format!(
            "the policy is refused: the pods it selects are isolated for {directions} and it allows nothing"
        ),
        _ => format!(
            "the policy is refused: every pod of namespace {} is isolated for {directions} and it allows nothing",
            key.namespace
        ),
    }
}

/// Namespace (`default` if absent, `None` if unreadable) and name.
fn decode_metadata(root: &Place<'_>, problems: &mut Problems) -> (Option<String>, Option<String>) {
    let metadata = root.field("metadata").filter(|metadata| metadata.is_map(problems));
    let Some(metadata) = metadata else {
        if problems.list.iter().all(|problem| problem.path != "metadata") {
            problems.at(root, "metadata.name is required");
        }
        return (Some("default".to_owned()), None);
    };
    let name = decode_name(&metadata, problems);
    if let (Some(name), Some(field)) = (&name, metadata.field("name"))
        && !is_dns_subdomain(name)
    {
        problems.at(&field, format!("`{name}` is no object name (RFC 1123 subdomain)"));
    }
    let namespace = decode_namespace(&metadata, problems);
    (namespace, name)
}

struct Decoded {
    /// `None`: could not be read, so that the whole namespace is meant.
    selector: Option<LabelSelector>,
    directions: Vec<Direction>,
    /// Ingress, egress; those that can be honoured.
    rules: [Vec<Rule>; 2],
    /// The rules that cannot be, and which of the problems are theirs.
    refused: Vec<(Range<usize>, (Direction, usize))>,
}

impl Default for Decoded {
    /// A policy without a spec: every pod, no rules.
    fn default() -> Self {
        Self {
            selector: Some(LabelSelector::everything()),
            directions: Vec::new(),
            rules: [vec![], vec![]],
            refused: Vec::new(),
        }
    }
}

fn decode_spec(spec: &Place<'_>, problems: &mut Problems) -> Decoded {
    let mut decoded = Decoded::default();
    spec.only(&["podSelector", "policyTypes", "ingress", "egress"], problems);
    if let Some(field) = spec.field("podSelector") {
        decoded.selector = LabelSelector::decode(&field, problems);
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        if let Some(field) = spec.field(direction.field()) {
            decode_rules(&field, direction, &mut decoded, problems);
        }
    }
    decoded.directions = decode_policy_types(spec, problems);
    decoded
}

fn decode_rules(
    field: &Place<'_>,
    direction: Direction,
    decoded: &mut Decoded,
    problems: &mut Problems,
) {
    for (position, item) in field.slots(problems).iter().enumerate() {
        let (begin, refusals) = (problems.list.len(), problems.refusals());
        let rule = match item.is_written(problems) {
            true => decode_rule(item, direction, position, problems),
            false => None,
        };
        match rule {
            Some(rule) if problems.refusals() == refusals => {
                decoded.rules[direction as usize].push(rule);
            }
            _ => decoded.refused.push((begin..problems.list.len(), (direction, position))),
        }
    }
}

/// "If this field is not specified, it will default based on the existence of ingress or egress
/// rules; policies that contain an egress section are assumed to affect egress, and all policies
/// (whether or not they contain an ingress section) are assumed to affect ingress." The defaulting
/// code looks at the number of egress rules, so `egress: []` does not count.
fn decode_policy_types(spec: &Place<'_>, problems: &mut Problems) -> Vec<Direction> {
    let both = || vec![Direction::Ingress, Direction::Egress];
    let before = problems.refusals();
    let mut directions = Vec::new();
    if let Some(field) = spec.field("policyTypes") {
        let items = field.items(problems);
        if items.len() > 2 {
            problems.at(&field, "at most two policy types can be given");
        }
        for item in items {
            match item.string(problems) {
                Some("Ingress") => directions.push(Direction::Ingress),
                Some("Egress") => directions.push(Direction::Egress),
                Some(other) => problems
                    .at(&item, format!("`{other}` is no policy type; write Ingress or Egress")),
                None => {}
            }
        }
    }
    if problems.refusals() > before {
        // Which direction was meant cannot be known.
        return both();
    }
    directions.sort_unstable();
    directions.dedup();
    if !directions.is_empty() {
        return directions;
    }
    use super::document::Value;
    let has_egress = spec.field("egress").is_some_and(|field| match &field.node.value {
        Value::List(items) => !items.is_empty(),
        _ => true,
    });
    if has_egress { both() } else { vec![Direction::Ingress] }
}
