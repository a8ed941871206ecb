//! Whether the contender was at work while a value was taken.
//!
//! A filter that is not in the path is the fastest. So every sample brings the node's
//! counters from before and after the load, and a value whose counters do not account
//! for the load's packets does not enter any median.

use super::sample::Sample;
use crate::run::contender::{Contender, Counters, Evidence, Filter};
use crate::run::scenario::{Flows, Load};

/// The part of the packets that must be accounted for: others of the node's packets
/// blur the counters a little, in both directions.
const PART: f64 = 0.98;

/// A packet between two pods of a node passes two hooks: one leaving, one entering.
const HOOKS: f64 = 2.0;

/// Packets of the node's own that may blur a counter, whatever the load: neighbour discovery,
/// the first packets that find the way.
const BLUR: f64 = 200.0;

/// `Err` says why the value proves nothing.
pub fn check(sample: &Sample) -> Result<(), String> {
    let Sample { before, after, contender, .. } = sample;
    require(sample.packets + sample.flows >= 1.0, || "the load names no packets".to_owned())?;
    for evidence in [before, after] {
        alone(*contender, evidence)?;
    }
    match contender {
        Contender::Plain => plain(before, after),
        Contender::NftLinear | Contender::NftSets | Contender::IptablesIpset => filter(sample),
        Contender::Ovs | Contender::Testpmd => redirected(sample),
        Contender::Weir => weir(sample),
        Contender::WeirOff | Contender::WeirTap => weir_off(sample),
    }
}

/// Nobody else may be in the way.
fn alone(contender: Contender, evidence: &Evidence) -> Result<(), String> {
    let own: &[&str] = match contender {
        Contender::Plain => &[],
        Contender::NftLinear | Contender::NftSets => &["nft table inet weir_bench"],
        Contender::IptablesIpset => &["nft table ip filter", "nft table ip6 filter"],
        Contender::Ovs | Contender::Testpmd => &["an XDP program at "],
        Contender::Weir | Contender::WeirOff | Contender::WeirTap => {
            &["Weir's pins", "tc programs at "]
        }
    };
    let stranger =
        evidence.present.iter().find(|name| !own.iter().any(|own| name.starts_with(own)));
    stranger.map_or(Ok(()), |name| Err(format!("also in the way: {name}")))
}

fn plain(before: &Evidence, after: &Evidence) -> Result<(), String> {
    let nothing = |evidence: &Evidence| evidence.counters == Counters::default();
    require(nothing(before) && nothing(after), || "somebody counts packets".to_owned())?;
    // Entries of an earlier contender time out; new ones would mean that connections
    // are still tracked.
    require(after.conntrack <= before.conntrack, || {
        format!("conntrack is on: {} entries, then {}", before.conntrack, after.conntrack)
    })
}

fn filter(sample: &Sample) -> Result<(), String> {
    let (Some(start), Some(end)) = (sample.before.counters.filter, sample.after.counters.filter)
    else {
        return Err("the filter's counters are missing".to_owned());
    };
    // The policy is drop, so what arrived was accepted: the first packets of flows by the
    // rule that counts, all others by the rule for established ones. A counter in front
    // of every packet would be charged to the filter.
    let accepted = end.accepted - start.accepted;
    let Sample { flows, packets, .. } = *sample;
    require(end.accepted >= 1.0, || "no new flow was accepted".to_owned())?;
    require(sample.after.conntrack >= 1.0, || "conntrack holds no flow".to_owned())?;
    require(accepted >= PART * flows, || format!("{accepted} packets accepted for {flows} flows"))?;
    // From above: counters stand around the establishing of flows and the warm-up as well,
    // so a bound from below alone would hold even if nothing measured was established.
    require(accepted <= most_new(sample) + BLUR, || {
        format!("{accepted} of {packets} packets were accepted as new: not established")
    })?;
    let dropped = dropped(start, end);
    require(dropped <= (1.0 - PART) * (packets + flows) + 10.0, || {
        format!("{dropped} packets dropped")
    })
}

/// Flows that may have been new, and a part of the packets.
fn most_new(sample: &Sample) -> f64 {
    let established = match sample.scenario.load {
        Load::Packets { flows: Flows::Established(flows), .. } => f64::from(flows),
        _ => 0.0,
    };
    // Applications open a flow again that was reset on its way.
    1.02 * sample.flows.max(established) + (1.0 - PART) * sample.packets
}

fn dropped(start: Filter, end: Filter) -> f64 {
    end.dropped - start.dropped
}

fn redirected(sample: &Sample) -> Result<(), String> {
    let of = |evidence: &Evidence| evidence.counters.redirected;
    let (Some(start), Some(end)) = (of(&sample.before), of(&sample.after)) else {
        return Err("the devices do not count redirected frames".to_owned());
    };
    let (counted, wanted) = (end - start, PART * (sample.packets + sample.flows));
    require(counted >= wanted, || {
        format!("XDP handed {counted} frames to user space, not {wanted:.0}")
    })?;
    let tracked = sample.after.counters.tracked;
    require(sample.contender != Contender::Ovs || tracked.is_some_and(|n| n >= 1.0), || {
        "Open vSwitch tracks no connection".to_owned()
    })
}

/// What one of Weir's counters gained.
fn gained(sample: &Sample, name: &str) -> Result<f64, String> {
    let of = |evidence: &Evidence| {
        let counters = evidence.counters.weir.as_ref().ok_or("Weir is not there")?;
        Ok::<_, String>(counters.get(name).copied().unwrap_or(0.0))
    };
    Ok(of(&sample.after)? - of(&sample.before)?)
}

fn weir(sample: &Sample) -> Result<(), String> {
    let gained = |name| gained(sample, name);
    let (hit, opened, punted) = (gained("hit")?, gained("opened")?, gained("punted")?);
    let wanted = PART * HOOKS * sample.packets;
    require(hit >= wanted, || format!("steering counted {hit} hit, not {wanted:.0}"))?;
    // The first packet of a flow: by a cached verdict, or by a worker.
    let (first, wanted) = (opened + punted, PART * sample.flows);
    require(first >= wanted, || format!("{first} flows were opened, not {wanted:.0}"))?;
    if matches!(sample.scenario.load, Load::Packets { flows: Flows::First, .. }) {
        // No verdict may have served for two.
        return require(punted >= wanted, || {
            format!("{punted} first packets went through user space, not {wanted:.0}")
        });
    }
    // From above, as the counters stand around more than what was measured: a verdict is
    // asked for once a kind, and a flow is opened once.
    let most = (1.0 - PART) * (sample.packets + sample.flows) + BLUR;
    require(punted <= most, || {
        format!("{punted} packets went through user space, not at most {most:.0}")
    })?;
    let most = most_new(sample) + BLUR;
    require(opened <= most, || format!("{opened} flows were opened, not at most {most:.0}"))?;
    // And all that the devices counted: at each of two hooks a hit, but for the packets that
    // opened a flow at one of them or went through user space.
    let (Some(start), Some(end)) = (sample.before.passed, sample.after.passed) else {
        return Err("the devices do not count packets".to_owned());
    };
    let wanted = PART * (end - start) - opened - HOOKS * punted - BLUR;
    require(hit >= wanted, || format!("{hit} hits for {} packets at the devices", end - start))
}

fn weir_off(sample: &Sample) -> Result<(), String> {
    let (hit, punted) = (gained(sample, "hit")?, gained(sample, "punted")?);
    let wanted = PART * (sample.packets + sample.flows);
    require(punted >= wanted, || format!("steering counted {punted} punted, not {wanted:.0}"))?;
    let most = (1.0 - PART) * sample.packets + BLUR;
    require(hit <= most, || format!("{hit} packets passed in the kernel"))
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(contender: Contender, before: Evidence, after: Evidence) -> Sample {
        Sample {
            round: 1,
            scenario: "64b-1r-1f".parse().unwrap(),
            measure: "cpu".to_owned(),
            contender,
            value: 1.0,
            packets: 1000.0,
            flows: 1.0,
            before,
            after,
            detail: serde_json::Value::Null,
        }
    }

    fn holds(contender: Contender, before: Evidence, after: Evidence) -> bool {
        check(&sample(contender, before, after)).is_ok()
    }

    fn with(present: &[&str], conntrack: f64, counters: Counters) -> Evidence {
        let present = present.iter().map(|name| (*name).to_owned()).collect();
        Evidence { conntrack, passed: None, present, counters }
    }

    fn conntrack(entries: f64) -> Evidence {
        with(&[], entries, Counters::default())
    }

    fn table(accepted: f64, dropped: f64) -> Evidence {
        let filter = Some(Filter { accepted, dropped });
        with(&["nft table inet weir_bench"], 1.0, Counters { filter, ..Counters::default() })
    }

    fn steering(hit: f64, opened: f64, punted: f64) -> Evidence {
        let counters = [("hit", hit), ("opened", opened), ("punted", punted)];
        let weir = Some(counters.map(|(name, n)| (name.to_owned(), n)).into());
        let evidence = with(&["Weir's pins"], 0.0, Counters { weir, ..Counters::default() });
        Evidence { passed: Some(hit + opened + HOOKS * punted), ..evidence }
    }

    fn xdp(redirected: f64, tracked: Option<f64>) -> Evidence {
        let counters = Counters { redirected: Some(redirected), tracked, ..Counters::default() };
        with(&["an XDP program at veth1"], 0.0, counters)
    }

    #[test]
    fn plain_means_nothing_in_the_way() {
        let holds = |before, after| holds(Contender::Plain, before, after);
        assert!(holds(conntrack(0.0), conntrack(0.0)));
        assert!(holds(conntrack(7.0), conntrack(3.0)), "old entries time out");
        assert!(!holds(conntrack(3.0), conntrack(4.0)), "conntrack is still on");
        assert!(!holds(conntrack(0.0), table(0.0, 0.0)));
        assert!(!holds(steering(0.0, 0.0, 0.0), conntrack(0.0)));
        for left in ["an XDP program at veth1", "tc programs at veth1: 2"] {
            let left = with(&[left], 0.0, Counters::default());
            assert!(!holds(left.clone(), left), "what an earlier contender left behind");
        }
    }

    #[test]
    fn a_filter_accepts_new_flows_by_its_rule_and_the_rest_as_established() {
        for contender in [Contender::NftLinear, Contender::NftSets] {
            let holds = |before, after| holds(contender, before, after);
            assert!(holds(table(5.0, 0.0), table(6.0, 0.0)));
            assert!(!holds(table(5.0, 0.0), table(5.0, 0.0)), "nothing came by");
            assert!(!holds(table(0.0, 0.0), table(900.0, 0.0)), "nothing was established");
            assert!(!holds(table(0.0, 0.0), table(1.0, 500.0)), "half was dropped");
            assert!(!holds(conntrack(0.0), conntrack(0.0)));
        }
    }

    #[test]
    fn weir_counts_a_hit_for_every_packet_at_both_hooks_and_every_flow_once() {
        let holds = |before, after| holds(Contender::Weir, before, after);
        assert!(holds(steering(10.0, 0.0, 0.0), steering(2008.0, 1.0, 0.0)));
        assert!(holds(steering(10.0, 0.0, 0.0), steering(2008.0, 0.0, 1.0)));
        assert!(!holds(steering(10.0, 0.0, 0.0), steering(1008.0, 1.0, 0.0)), "one hook missed");
        assert!(!holds(steering(0.0, 0.0, 0.0), steering(0.0, 0.0, 1000.0)), "all punted");
        assert!(!holds(steering(0.0, 0.0, 0.0), steering(2000.0, 0.0, 0.0)), "no flow opened");
        assert!(!holds(conntrack(0.0), conntrack(0.0)));
    }

    #[test]
    fn what_surrounds_the_load_does_not_prove_it() {
        // A thousand packets were counted; establishing and warm-up made the hits.
        let slow =
            sample(Contender::Weir, steering(0.0, 0.0, 0.0), steering(50_000.0, 1.0, 1000.0));
        assert!(check(&slow).unwrap_err().contains("user space"), "all of them were punted");
        let opened = steering(50_000.0, 1000.0, 1.0);
        let again = sample(Contender::Weir, steering(0.0, 0.0, 0.0), opened);
        assert!(check(&again).unwrap_err().contains("opened"), "a flow for every packet");
        let accepted = sample(Contender::NftSets, table(0.0, 0.0), table(600.0, 0.0));
        assert!(check(&accepted).unwrap_err().contains("not established"));
        let off = steering(1000.0, 0.0, 5000.0);
        let off = sample(Contender::WeirOff, steering(0.0, 0.0, 0.0), off);
        assert!(check(&off).unwrap_err().contains("passed in the kernel"));
    }

    #[test]
    fn every_segment_that_the_devices_count_is_a_hit() {
        // A load of 64 KiB segments at least, which came as 1448 bytes each.
        let mut tcp =
            sample(Contender::Weir, steering(0.0, 0.0, 0.0), steering(90_000.0, 1.0, 1.0));
        tcp.scenario = "apps-1r".parse().unwrap();
        assert_eq!(check(&tcp), Ok(()));
        tcp.after.passed = Some(100_000.0);
        assert!(check(&tcp).unwrap_err().contains("100000 packets at the devices"));
        tcp.after.passed = None;
        assert!(check(&tcp).is_err(), "nobody counted");
    }

    #[test]
    fn first_packets_ask_the_policy() {
        let mut first =
            sample(Contender::Weir, steering(0.0, 0.0, 0.0), steering(1000.0, 0.0, 1000.0));
        first.scenario = "64b-100r-first".parse().unwrap();
        (first.packets, first.flows) = (0.0, 1000.0);
        assert_eq!(check(&first), Ok(()));
        first.after = steering(1000.0, 1000.0, 3.0);
        assert!(check(&first).is_err(), "a cached verdict served");
    }

    #[test]
    fn without_offload_every_packet_is_punted_once() {
        let holds = |before, after| holds(Contender::WeirOff, before, after);
        assert!(holds(steering(0.0, 0.0, 0.0), steering(0.0, 0.0, 1001.0)));
        assert!(!holds(steering(0.0, 0.0, 0.0), steering(2000.0, 0.0, 1.0)));
    }

    #[test]
    fn ports_in_user_space_are_handed_every_frame() {
        assert!(holds(Contender::Testpmd, xdp(5.0, None), xdp(1006.0, None)));
        assert!(!holds(Contender::Testpmd, xdp(5.0, None), xdp(505.0, None)));
        assert!(holds(Contender::Ovs, xdp(0.0, Some(0.0)), xdp(1001.0, Some(1.0))));
        assert!(!holds(Contender::Ovs, xdp(0.0, Some(0.0)), xdp(1001.0, Some(0.0))));
        assert!(!holds(Contender::Ovs, xdp(0.0, None), xdp(1001.0, None)));
    }

    #[test]
    fn a_load_without_packets_proves_nothing() {
        let mut sample =
            sample(Contender::Weir, steering(0.0, 0.0, 0.0), steering(9000.0, 9.0, 0.0));
        assert!(check(&sample).is_ok());
        (sample.packets, sample.flows) = (0.0, 0.0);
        assert!(check(&sample).is_err());
    }

    #[test]
    fn every_new_flow_is_accounted_for() {
        let mut new = sample(Contender::NftLinear, table(0.0, 0.0), table(990.0, 0.0));
        (new.packets, new.flows) = (0.0, 1000.0);
        assert!(check(&new).is_ok());
        new.after = table(900.0, 0.0);
        assert!(check(&new).is_err());
    }
}
