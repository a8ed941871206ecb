//! `weir flows`: the flow table, each flow with the rule that lets it pass.

use serde::Serialize;
use weir_table::classify::{Classifier, Connection};
use weir_table::flow::{Flow, FlowView, Side, Tick};
use weir_table::mem::Words;
use weir_table::stamps::Stamps;

use crate::eval::{SideAnswer, answers, word};
use crate::explain::protocol_name;

/// A flow as it is printed. Source is the end that opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowRow {
    /// Source address.
    pub src: String,
    /// Destination address.
    pub dst: String,
    /// `TCP`, `UDP`, `ICMP`, or the IP protocol number.
    pub protocol: String,
    /// Source port; for ICMP the echo identifier.
    pub sport: u16,
    /// Destination port; for ICMP the echo identifier.
    pub dport: u16,
    /// Where the flow stands in its life.
    pub state: &'static str,
    /// `allow`, or `deny` for one that a change of policy has cut.
    pub verdict: &'static str,
    /// Whether the kernel decides its packets by itself at present.
    pub offloaded: bool,
    /// The policy that decides for the destination, else for the source, by the present table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Its rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The generation under which its verdict holds; 0 if the flow is to be judged again.
    pub generation: u64,
    /// Seconds since its last packet.
    pub idle_seconds: u64,
}

/// What says whether a flow's verdict holds, and who applies it.
#[derive(Debug)]
pub struct Validity<W> {
    /// Which verdicts are out of date.
    pub stamps: Stamps<W>,
    /// Whether decided flows stay in the kernel.
    pub offload: bool,
}

/// Every flow whose time is not over, by the present table if there is one.
pub fn rows<W: Words, B: AsRef<[u8]>, V: Words, S: Words>(
    flows: &FlowView<W>,
    validity: &Validity<S>,
    classifier: Option<&Classifier<B, V>>,
    now: Tick,
) -> Vec<FlowRow> {
    let live = flows.iter().filter(|flow| !flow.is_expired(now));
    live.map(|flow| row(&flow, validity, classifier, now)).collect()
}

fn row<B: AsRef<[u8]>, W: Words, S: Words>(
    flow: &Flow,
    validity: &Validity<S>,
    classifier: Option<&Classifier<B, W>>,
    now: Tick,
) -> FlowRow {
    let holds = validity.stamps.hold(flow.stamps);
    let is_out = [Side::Lo, Side::Hi].iter().any(|side| flow.counts.is_held(*side));
    let ((src, sport), (dst, dport)) = (flow.source(), flow.destination());
    let protocol = flow.key.protocol();
    let has_ports = matches!(protocol, 6 | 17 | 132);
    let connection = Connection { src, dst, protocol, dport: if has_ports { dport } else { 0 } };
    let decided = classifier.and_then(|classifier| {
        let judgement = classifier.evaluate(&connection);
        let (egress, ingress) = answers(classifier, &connection, judgement);
        decisive(egress, ingress)
    });
    let one_second = u64::from(Tick::in_seconds(1)).max(1);
    FlowRow {
        src: src.to_ip().to_string(),
        dst: dst.to_ip().to_string(),
        protocol: protocol_name(protocol),
        sport,
        dport,
        state: flow.state().as_str(),
        verdict: word(!flow.denied),
        offloaded: validity.offload && holds && !is_out,
        policy: decided.as_ref().and_then(|side| side.policy.clone()),
        rule: decided.and_then(|side| side.rule),
        generation: classifier.filter(|_| holds).map_or(0, Classifier::generation),
        idle_seconds: u64::from(now.since(flow.last_seen)) / one_second,
    }
}

/// The side to name: one that denies, else one whose policies were asked.
fn decisive(egress: SideAnswer, ingress: SideAnswer) -> Option<SideAnswer> {
    let mut sides = [ingress, egress];
    sides.sort_by_key(|side| (side.verdict == "allow", side.policy.is_none()));
    let [first, _] = sides;
    first.policy.is_some().then_some(first)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_table::Address;
    use weir_table::flow::layout::{HASH_KEY_WORDS, v4_words, v6_words};
    use weir_table::flow::{FlowKey, FlowTable, HashKey, NewFlow};
    use weir_table::mem::SharedWords;

    use super::*;
    use crate::eval::Offline;
    use crate::index::Index;
    use crate::model::load;

    const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web}
status: {podIP: 10.0.0.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}
";

    #[test]
    fn a_flow_names_its_rule() {
        let index = Index::of(load("t", OBJECTS.as_bytes()).unwrap().objects);
        let offline = Offline::of(index).unwrap();
        let v4 = Arc::new(SharedWords::heap(v4_words(64)));
        let v6 = Arc::new(SharedWords::heap(v6_words(64)));
        let key = HashKey::from_words(std::array::from_fn::<u64, HASH_KEY_WORDS, _>(|i| i as u64));
        let table = FlowTable::new(Arc::clone(&v4), Arc::clone(&v6), key.clone()).unwrap();
        let validity = Validity {
            stamps: Stamps::new(SharedWords::heap(1 << 16), key).unwrap(),
            offload: true,
        };
        let now = Tick(1000);
        let address = |text: &str| text.parse::<Address>().unwrap();
        for (src, sport, dst, dport, protocol) in [
            ("192.0.2.7", 40000, "10.0.0.1", 80, 6),
            ("10.0.0.1", 53000, "192.0.2.53", 53, 17),
            ("fd00::2", 9, "fd00::1", 9, 58),
        ] {
            let (key, initiator) =
                FlowKey::new((address(src), sport), (address(dst), dport), protocol);
            let stamps = [key.end(Side::Lo), key.end(Side::Hi)]
                .map(|(address, _)| validity.stamps.of(address));
            let hold = protocol == 17;
            let flow = NewFlow { initiator, tcp_flags: 2, ifindex: [0, 3], stamps, hold };
            table.insert(&key, table.hash(&key), &flow, now).unwrap();
        }
        let view = FlowView::new(v4, v6).unwrap();
        let later = now.plus(Tick::in_seconds(2));
        let mut rows = rows(&view, &validity, Some(&offline.classifier), later);
        rows.sort_by(|a, b| a.protocol.cmp(&b.protocol));
        let text: Vec<String> =
            rows.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
        assert_eq!(text.len(), 3);
        assert!(text[0].contains(r#""protocol":"ICMPv6""#), "{}", text[0]);
        assert_eq!(
            text[1],
            r#"{"src":"192.0.2.7","dst":"10.0.0.1","protocol":"TCP","sport":40000,"dport":80,"state":"opening","verdict":"allow","offloaded":true,"policy":"shop/web","rule":"spec.ingress[0]","generation":1,"idle_seconds":2}"#
        );
        assert!(!text[2].contains("policy"), "{}", text[2]);
        assert!(
            super::rows(
                &view,
                &validity,
                Some(&offline.classifier),
                now.plus(Tick::in_seconds(7200))
            )
            .is_empty()
        );
    }
}
