//! Whether the contender was at work while a value was taken.
//!
//! A fast path that is not in the path is the fastest. So every sample brings the
//! node's counters from before and after the load, and a value whose counters do not
//! account for the load's packets does not enter any median.

use super::sample::{Contender, Evidence, Sample};

/// The part of the packets that must be accounted for: others of the node's packets
/// blur the counters a little, in both directions.
const PART: f64 = 0.98;

/// A packet between two pods of a node passes two hooks: one leaving, one entering.
const HOOKS: f64 = 2.0;

/// `Err` says why the value proves nothing.
pub fn check(sample: &Sample) -> Result<(), String> {
    let Sample { before, after, .. } = sample;
    match sample.contender {
        Contender::Plain => plain(before, after),
        Contender::Nft => nft(sample),
        Contender::Weir => weir(sample, "hit"),
        Contender::WeirOff | Contender::WeirTap => weir(sample, "punted"),
    }
}

fn plain(before: &Evidence, after: &Evidence) -> Result<(), String> {
    for evidence in [before, after] {
        require(evidence.nft.is_none(), || "the nft table is still there".to_owned())?;
        require(evidence.weir.is_none(), || "Weir is still there".to_owned())?;
    }
    // Entries of an earlier contender time out; new ones would mean that connections
    // are still tracked.
    require(after.conntrack <= before.conntrack, || {
        format!("conntrack is on: {} entries, then {}", before.conntrack, after.conntrack)
    })
}

fn nft(sample: &Sample) -> Result<(), String> {
    let Sample { before, after, .. } = sample;
    let (Some(start), Some(end)) = (&before.nft, &after.nft) else {
        return Err("there is no nft table".to_owned());
    };
    require(before.weir.is_none() && after.weir.is_none(), || "Weir is still there".to_owned())?;
    // The chain's policy is drop, so what arrived was accepted: the first packets of
    // flows by the set, all others by the rule for established ones. Only the former
    // are counted; a counter in front of every packet would be charged to nft.
    let accepted = end.accepted_by_set - start.accepted_by_set;
    require(accepted >= 1.0, || "the set accepted no new flow".to_owned())?;
    require(accepted >= PART * sample.flows, || {
        format!("the set accepted {accepted} packets for {} flows", sample.flows)
    })?;
    require(accepted <= sample.packets / 2.0, || {
        format!("the set accepted {accepted} of {} packets: not established", sample.packets)
    })?;
    let dropped = end.dropped - start.dropped;
    require(dropped <= (1.0 - PART) * sample.packets, || format!("{dropped} packets dropped"))
}

fn weir(sample: &Sample, counter: &str) -> Result<(), String> {
    let Sample { before, after, .. } = sample;
    let (Some(start), Some(end)) = (&before.weir, &after.weir) else {
        return Err("Weir is not there".to_owned());
    };
    require(before.nft.is_none() && after.nft.is_none(), || {
        "the nft table is still there".to_owned()
    })?;
    let value = |evidence: &std::collections::BTreeMap<String, f64>| {
        evidence.get(counter).copied().unwrap_or(0.0)
    };
    let counted = value(end) - value(start);
    let hooks = if sample.contender == Contender::Weir { HOOKS } else { 1.0 };
    let wanted = PART * hooks * sample.packets;
    require(wanted >= 1.0, || "the load names no packets".to_owned())?;
    require(counted >= wanted, || format!("steering counted {counted} {counter}, not {wanted:.0}"))
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

#[cfg(test)]
mod tests {
    use super::super::sample::NftCounters;
    use super::*;

    fn sample(contender: Contender, before: Evidence, after: Evidence) -> Sample {
        let measure = "established-1".to_owned();
        let (packets, flows) = (1000.0, 1.0);
        Sample { round: 1, measure, contender, value: 1.0, packets, flows, before, after }
    }

    fn conntrack(entries: f64) -> Evidence {
        Evidence { conntrack: entries, ..Evidence::default() }
    }

    fn table(accepted_by_set: f64, dropped: f64) -> Evidence {
        let nft = Some(NftCounters { accepted_by_set, dropped });
        Evidence { conntrack: 1.0, nft, weir: None }
    }

    fn hits(hit: f64, punted: f64) -> Evidence {
        let counters = [("hit".to_owned(), hit), ("punted".to_owned(), punted)];
        Evidence { weir: Some(counters.into()), ..Evidence::default() }
    }

    #[test]
    fn plain_means_nothing_in_the_way() {
        let check = |before, after| check(&sample(Contender::Plain, before, after)).is_ok();
        assert!(check(conntrack(0.0), conntrack(0.0)));
        assert!(check(conntrack(7.0), conntrack(3.0)), "old entries time out");
        assert!(!check(conntrack(3.0), conntrack(4.0)), "conntrack is still on");
        assert!(!check(conntrack(0.0), table(0.0, 0.0)));
        assert!(!check(hits(0.0, 0.0), conntrack(0.0)));
    }

    #[test]
    fn nft_accepts_new_flows_by_the_set_and_the_rest_as_established() {
        let check = |before, after| check(&sample(Contender::Nft, before, after)).is_ok();
        assert!(check(table(5.0, 0.0), table(6.0, 0.0)));
        assert!(!check(table(5.0, 0.0), table(5.0, 0.0)), "nothing came by");
        assert!(!check(table(0.0, 0.0), table(900.0, 0.0)), "nothing was established");
        assert!(!check(table(0.0, 0.0), table(1.0, 500.0)), "half was dropped");
        assert!(!check(conntrack(0.0), conntrack(0.0)));
    }

    #[test]
    fn weir_counts_a_hit_for_every_packet_at_both_hooks() {
        let check = |before, after| check(&sample(Contender::Weir, before, after)).is_ok();
        assert!(check(hits(10.0, 0.0), hits(2008.0, 1.0)));
        assert!(!check(hits(10.0, 0.0), hits(1008.0, 1.0)), "one hook missed");
        assert!(!check(hits(0.0, 0.0), hits(0.0, 1000.0)), "all through user space");
        assert!(!check(conntrack(0.0), conntrack(0.0)));
    }

    #[test]
    fn a_load_without_packets_proves_nothing() {
        let mut sample = sample(Contender::Weir, hits(0.0, 0.0), hits(9000.0, 0.0));
        assert!(check(&sample).is_ok());
        sample.packets = 0.0;
        assert!(check(&sample).is_err());
    }

    #[test]
    fn without_offload_every_packet_is_punted_once() {
        let check = |before, after| check(&sample(Contender::WeirOff, before, after)).is_ok();
        assert!(check(hits(0.0, 0.0), hits(0.0, 1000.0)));
        assert!(!check(hits(0.0, 0.0), hits(2000.0, 1.0)));
    }
}
