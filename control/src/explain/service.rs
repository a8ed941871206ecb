//! A connection to a Service: what policies say of its backends.

use weir_table::classify::{Outlook, Reach, Ruling};
use weir_table::policy::PolicyTable;

use super::SideWhy;
use crate::eval::side_answer;

/// Adds to the source's side how many kinds of backends its verdict rests on.
pub(super) fn explain_egress(side: &mut SideWhy, from: &str, reach: &Reach) {
    let &Reach { allowed, denied_here, denied_elsewhere, ruling, .. } = reach;
    let all = allowed + denied_here + denied_elsewhere;
    let backends = |count| kinds(count, all);
    let text = match ruling {
        Ruling::Allow => format!("that holds for {}", backends(all)),
        Ruling::Later if allowed == 0 => format!(
            "{from} may not reach {}; if it is a backend itself it reaches itself, which the \
             backends' own hooks decide",
            backends(all)
        ),
        Ruling::Later => format!(
            "that holds for {}; connections that get another are denied at the backend's hook",
            backends(allowed)
        ),
        Ruling::Deny if all == 0 => "the Service has no backends".to_owned(),
        Ruling::Deny if allowed == 0 => format!("that holds for {}", backends(all)),
        Ruling::Deny => format!(
            "{} may be reached, but not {}, of which some are, or may be, on another node, where no \
             hook of this one sees which backend a connection got: so all are denied",
            backends(allowed),
            backends(denied_here + denied_elsewhere)
        ),
    };
    side.why = format!("{} ({text})", side.why);
    // These are about the Service's address, of which no policy was asked.
    side.nearest.clear();
}

/// The backends' side.
pub(super) fn ingress<B: AsRef<[u8]>>(
    table: &PolicyTable<B>,
    outlook: &Outlook,
    reach: &Reach,
    to: &str,
) -> SideWhy {
    let program = table.programs(outlook.receiver).map(|(ingress, _)| ingress);
    let answer = side_answer(table, program, outlook.judgement.ingress);
    let all = reach.allowed + reach.denied_here + reach.denied_elsewhere;
    let selected_by: Vec<String> = match (all, program) {
        (1.., Some(program)) => table.isolating(program).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let by = match (&answer.rule, &answer.policy) {
        (Some(rule), Some(policy)) => format!(", by {rule} of NetworkPolicy {policy}"),
        (None, Some(policy)) => format!(", isolated by NetworkPolicy {policy}"),
        _ => String::new(),
    };
    let why = match (all, answer.verdict) {
        (0, _) => format!("{to} is a Service without backends, so nobody there has a policy"),
        (_, "allow") => {
            format!("allowed into {}{by}", kinds(outlook.reached.max(1).min(all), all))
        }
        (1, _) => format!("denied: the one kind of backends does not let it in{by}"),
        _ => format!("denied: none of the {all} kinds of backends lets it in{by}"),
    };
    SideWhy {
        verdict: answer.verdict,
        policy: answer.policy,
        rule: answer.rule,
        source: None,
        selected_by,
        why,
        nearest: Vec::new(),
        without_effect: Vec::new(),
    }
}

fn kinds(count: usize, all: usize) -> String {
    match (count, all) {
        (1, 1) => "the one kind of backends".to_owned(),
        (count, all) if count == all => format!("all {all} kinds of backends"),
        (count, all) => format!("{count} of {all} kinds of backends"),
    }
}
