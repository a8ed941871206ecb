//! Why a packet was dropped, in the words that records use.

use crate::abi::STEERING_COUNTERS;
use crate::counters::Reason;

/// The reason of a hook by the number of its steering counter; where a worker would have had the
/// same reason, by its name there. `unknown` if no counter has this number.
pub fn reason_of_hook(counter: u8) -> &'static str {
    STEERING_COUNTERS.get(usize::from(counter)).map_or("unknown", |name| in_words(name))
}

/// Every reason that a record may have: those of the workers, then those of the hooks alone.
pub fn reasons() -> Vec<&'static str> {
    let mut reasons = Reason::NAMES.to_vec();
    for counter in STEERING_COUNTERS.iter().filter(|name| name.starts_with("drop_")) {
        let reason = in_words(counter);
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons
}

fn in_words(counter: &'static str) -> &'static str {
    match counter {
        "drop_egress" => Reason::PolicyEgress.as_str(),
        "drop_ingress" => Reason::PolicyIngress.as_str(),
        "drop_cut_egress" | "drop_cut_ingress" => Reason::FlowCut.as_str(),
        other => other.strip_prefix("drop_").unwrap_or(other),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_drop_of_a_hook_has_a_reason() {
        for (number, name) in (0..).zip(STEERING_COUNTERS) {
            let reason = reason_of_hook(number);
            assert!(!reason.starts_with("drop_"), "{name}: {reason}");
            assert_eq!(reasons().contains(&reason), name.starts_with("drop_"), "{name}: {reason}");
        }
        let of =
            |name| reason_of_hook(STEERING_COUNTERS.iter().position(|n| *n == name).unwrap() as u8);
        assert_eq!(of("drop_egress"), "policy_egress");
        assert_eq!(of("drop_l2"), "l2");
        assert_eq!(of("drop_punt_rate"), "punt_rate");
        assert_eq!(reason_of_hook(u8::MAX), "unknown");
        let mut unique = reasons();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), reasons().len());
    }
}
