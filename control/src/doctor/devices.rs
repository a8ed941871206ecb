//! Pods' devices and the network around them.

use super::{Chain, Finding, Net, PodDevice, Run};

/// What the shim adds to a frame on its way to a worker, in bytes.
const SHIM: u32 = 16;
/// Weir's programs, by direction; the kernel keeps 15 bytes of a name.
const OURS: [(&str, &str); 2] = [("ingress", "weir_from_pod"), ("egress", "weir_to_pod")];
/// Whose devices are called so, and what that engine does.
const ENGINES: [(&str, &str); 9] = [
    ("cilium_", "Cilium"),
    ("lxc_health", "Cilium"),
    ("cali", "Calico"),
    ("vxlan.calico", "Calico"),
    ("bpfin.cali", "Calico"),
    ("antrea-gw", "Antrea"),
    ("ovn-k8s-", "OVN-Kubernetes"),
    ("kube-bridge", "kube-router"),
    ("weave", "Weave Net"),
];

pub(super) fn check(net: &Net, run: &Run) -> Vec<Finding> {
    let mut findings = hooks(net, run);
    findings.extend(net.pods.iter().flat_map(order));
    findings.extend(mtu(net));
    findings.extend(engines(net));
    findings.extend(bridges(net));
    findings.extend(source_filter(net));
    findings.push(conntrack(net));
    findings.extend(zones(net));
    findings
}

fn hooks(net: &Net, run: &Run) -> Vec<Finding> {
    let names = |wanted: fn(&PodDevice) -> bool| {
        net.pods.iter().filter(|pod| wanted(pod)).map(|pod| pod.name.as_str()).collect::<Vec<_>>()
    };
    let (bare, quarantined) = (names(|pod| !pod.attached), names(|pod| pod.quarantined));
    let mut findings = Vec::new();
    if net.pods.is_empty() {
        findings.push(Finding::note(
            "hooks",
            "no pod's interface is known here",
            "fine on a node without pods of its own network; else compare --netns-dir with where \
             the runtime keeps namespaces",
        ));
    } else if bare.is_empty() {
        findings
            .push(Finding::ok("hooks", format!("{} pod interfaces have hooks", net.pods.len())));
    } else {
        let remedy = match run.generation {
            0 => "no policy table has been published yet: see control, below",
            _ => "the log of weir-dataplane says why",
        };
        let what = format!("{} NOT enforced: {}", interfaces(bare.len()), bare.join(", "));
        findings.push(Finding::fail("hooks", what, remedy));
    }
    if !quarantined.is_empty() {
        findings.push(Finding::note(
            "quarantine",
            format!("{} quarantined: {}", interfaces(quarantined.len()), quarantined.join(", ")),
            "each claims an address that is another's: the log of weir-dataplane names both",
        ));
    }
    findings
}

fn interfaces(count: usize) -> String {
    format!("{count} pod interface{}", if count == 1 { " is" } else { "s are" })
}

/// Whether Weir sees a pod's packets first.
fn order(pod: &PodDevice) -> Vec<Finding> {
    let name = &pod.name;
    let chains = match &pod.chains {
        Ok(chains) => chains,
        Err(error) => {
            return vec![Finding::note(
                "order",
                format!("which programs run on {name} cannot be read: {error}"),
                "run weir doctor as root in the host's network namespace",
            )];
        }
    };
    if !pod.attached {
        return Vec::new();
    }
    chains.iter().filter_map(|chain| before_ours(name, chain)).collect()
}

fn before_ours(device: &str, chain: &Chain) -> Option<Finding> {
    let (_, ours) = OURS.iter().find(|(direction, _)| *direction == chain.direction)?;
    let all: Vec<&str> = chain.tcx.iter().chain(&chain.filters).map(String::as_str).collect();
    let is_ours = |name: &&str| name.len() >= 8 && ours.starts_with(*name);
    let direction = chain.direction;
    match all.iter().position(is_ours) {
        Some(0) => None,
        Some(at) => Some(Finding::fail(
            "order",
            format!(
                "{} runs before Weir on {device} ({direction}) and may let packets past it",
                all.get(..at).unwrap_or_default().join(", ")
            ),
            "attach it behind weir_from_pod and weir_to_pod; a restart of weir-dataplane does not \
             move its own",
        )),
        None => Some(Finding::fail(
            "order",
            format!("Weir's program is not on {device} ({direction}) any more: NOT enforced"),
            "something has taken it off: restart weir-dataplane, and look for what did",
        )),
    }
}

fn mtu(net: &Net) -> Option<Finding> {
    let punt = net.punt_mtu?;
    let mtu_of = |name: &str| net.devices.iter().find(|device| device.name == name).map(|d| d.mtu);
    let largest = net.pods.iter().filter_map(|pod| Some((mtu_of(&pod.name)?, &pod.name))).max()?;
    Some(match largest {
        (mtu, name) if mtu + SHIM > punt => Finding::fail(
            "mtu",
            format!(
                "{name} has MTU {mtu}, and what is larger than {} is lost on its way to a worker",
                punt.saturating_sub(SHIM)
            ),
            "restart weir-dataplane, which looks for the largest MTU; for jumbo frames with --io tap",
        ),
        (mtu, _) => Finding::ok("mtu", format!("packets of the pods' MTU ({mtu}) fit weir0")),
    })
}

fn engines(net: &Net) -> Option<Finding> {
    let mut found: Vec<&str> = net
        .devices
        .iter()
        .filter_map(|d| ENGINES.iter().find(|(start, _)| d.name.starts_with(start)))
        .map(|(_, engine)| *engine)
        .collect();
    found.sort_unstable();
    found.dedup();
    (!found.is_empty()).then(|| {
        Finding::note(
            "engines",
            format!("there are devices of {}", found.join(", ")),
            "if it enforces NetworkPolicies too, packets have to pass both: switch one off \
             (deploy/README.md, \"Beside another engine's policies\")",
        )
    })
}

fn bridges(net: &Net) -> Option<Finding> {
    let bridge = net.pods.iter().find_map(|pod| {
        net.devices.iter().find(|device| device.name == pod.name)?.master.as_deref()
    })?;
    Some(match net.bridge_calls_iptables {
        Some(true) => {
            Finding::ok("bridge", format!("what crosses {bridge} meets the Services' rules"))
        }
        found => Finding::note(
            "bridge",
            format!(
                "what pods send each other over {bridge} does not meet the Services' rules, and \
                 conntrack does not see it"
            ),
            match found {
                None => "modprobe br_netfilter, and sysctl -w net.bridge.bridge-nf-call-iptables=1",
                Some(_) => "sysctl -w net.bridge.bridge-nf-call-iptables=1",
            },
        ),
    })
}

fn source_filter(net: &Net) -> Option<Finding> {
    let (device, filter) = net.uplink.as_ref()?;
    Some(if *filter == 1 {
        Finding::ok("rp_filter", format!("{device} takes in nothing under a pod's address"))
    } else {
        Finding::note(
            "rp_filter",
            format!(
                "{device} takes in packets under addresses of this node's pods (rp_filter {filter})"
            ),
            format!(
                "sysctl -w net.ipv4.conf.{device}.rp_filter=1, if routes are symmetric there, or \
                     filter them upstream"
            ),
        )
    })
}

fn conntrack(net: &Net) -> Finding {
    match net.conntrack {
        None => Finding::note(
            "conntrack",
            "there is no conntrack here",
            "connections that are open when Weir arrives count as opened by whoever speaks next; \
             modprobe nf_conntrack before Weir, where Services or masquerading are used",
        ),
        Some((count, most)) if count.saturating_mul(100) >= most.saturating_mul(95) => {
            Finding::fail(
                "conntrack",
                format!("conntrack is full ({count} of {most}): the kernel drops new connections"),
                "sysctl -w net.netfilter.nf_conntrack_max=..., and look for who opens so many",
            )
        }
        Some((count, most)) if count.saturating_mul(100) >= most.saturating_mul(80) => {
            Finding::note(
                "conntrack",
                format!("conntrack holds {count} of {most} connections"),
                "raise net.netfilter.nf_conntrack_max before it is full",
            )
        }
        Some((count, most)) => {
            Finding::ok("conntrack", format!("conntrack holds {count} of {most} connections"))
        }
    }
}

/// Whether connections from before Weir can be taken over.
fn zones(net: &Net) -> Option<Finding> {
    match net.zones {
        None => net.conntrack.map(|_| {
            Finding::note(
                "zones",
                "whether conntrack uses zones does not show: the kernel does not list its entries",
                "nothing has to be done, unless the CNI is Open vSwitch or the like: see zones in \
                 conntrack -L",
            )
        }),
        Some((_, 0)) => None,
        Some((all, zoned)) => Some(Finding::note(
            "zones",
            format!(
                "{zoned} of {all} connections are in conntrack zones: such ones that are open when \
                 Weir arrives are not taken over, and count as opened by whoever speaks next"
            ),
            "install Weir while the node is drained, or expect the clients of long connections to \
             open them anew",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Device, Level};
    use super::*;

    fn chain(direction: &'static str, tcx: &[&str], filters: &[&str]) -> Chain {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Chain { direction, tcx: names(tcx), filters: names(filters) }
    }

    fn pod(name: &str) -> PodDevice {
        PodDevice {
            name: name.to_owned(),
            attached: true,
            quarantined: false,
            chains: Ok([
                chain("ingress", &["weir_from_pod"], &[]),
                chain("egress", &["weir_to_pod"], &[]),
            ]),
        }
    }

    fn device(name: &str, mtu: u32) -> Device {
        Device { name: name.to_owned(), mtu, master: Some("cni0".to_owned()) }
    }

    fn good() -> Net {
        Net {
            devices: vec![device("veth1", 1500), device("veth2", 1450)],
            pods: vec![pod("veth1"), pod("veth2")],
            punt_mtu: Some(1516),
            bridge_calls_iptables: Some(true),
            uplink: Some(("eth0".to_owned(), 1)),
            conntrack: Some((10, 262_144)),
            zones: Some((10, 0)),
        }
    }

    fn wrong(net: &Net) -> Vec<(Level, String)> {
        let run = Run { generation: 3, ..Run::default() };
        let findings = check(net, &run).into_iter().filter(|finding| finding.level != Level::Ok);
        findings.map(|f| (f.level, format!("{} — {}", f.what, f.remedy.unwrap()))).collect()
    }

    #[test]
    fn pods_behind_hooks_on_a_bridge_are_well() {
        assert_eq!(wrong(&good()), []);
    }

    #[test]
    fn what_runs_before_weir_is_named() {
        let cases: [(&[&str], &[&str], Option<&str>); 8] = [
            (&["other", "weir_from_pod"], &[], Some("other runs before Weir on veth1")),
            (&["weir_from_pod", "other"], &["x"], None),
            // By clsact: any tcx program comes first, and filters in their order.
            (&["other"], &["weir_from_pod"], Some("other runs before")),
            (&[], &["weir_from_pod", "u32"], None),
            (&[], &["u32", "weir_from_pod"], Some("u32 runs before")),
            (&[], &[], Some("is not on veth1 (ingress) any more")),
            (&["weir_to_pod"], &[], Some("is not on veth1")),
            // As much of the name as some kernels keep.
            (&["weir_from_po"], &[], None),
        ];
        for (tcx, filters, expect) in cases {
            let mut net = good();
            net.pods[0].chains =
                Ok([chain("ingress", tcx, filters), chain("egress", &["weir_to_pod"], &[])]);
            match (wrong(&net).as_slice(), expect) {
                ([], None) => {}
                ([(Level::Fail, text)], Some(words)) => assert!(text.contains(words), "{text}"),
                (found, _) => panic!("{tcx:?} {filters:?}: {found:?}"),
            }
        }
        let mut net = good();
        net.pods[1].chains = Err("permission denied".to_owned());
        let found = wrong(&net);
        assert!(found[0].0 == Level::Note && found[0].1.contains("permission denied"), "{found:?}");
    }

    #[test]
    fn interfaces_without_hooks_and_in_quarantine_are_named() {
        let mut net = good();
        net.pods[1].attached = false;
        net.pods[0].quarantined = true;
        let found = wrong(&net);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].1.starts_with("1 pod interface is NOT enforced: veth2 — the log"));
        assert_eq!((found[1].0, found[1].1.contains("veth1")), (Level::Note, true));
        let none_yet = check(&net, &Run::default());
        assert!(none_yet[0].remedy.as_deref().unwrap().contains("no policy table"));
        net.pods.clear();
        assert!(wrong(&net)[0].1.starts_with("no pod's interface is known"));
    }

    #[test]
    fn frames_must_fit_the_punt_device() {
        let mut net = good();
        net.devices[1].mtu = 9000;
        let found = wrong(&net);
        assert!(
            found[0].0 == Level::Fail && found[0].1.contains("veth2 has MTU 9000"),
            "{found:?}"
        );
        assert!(found[0].1.contains("larger than 1500") && found[0].1.contains("--io tap"));
        net.punt_mtu = Some(9016);
        assert_eq!(wrong(&net), []);
    }

    #[test]
    fn the_network_around_is_looked_at() {
        let said = |change: fn(&mut Net)| {
            let mut net = good();
            change(&mut net);
            let found = wrong(&net);
            let [(level, text)] = found.as_slice() else { panic!("{found:?}") };
            (*level, text.clone())
        };
        let (level, text) = said(|net| net.bridge_calls_iptables = None);
        assert!(level == Level::Note && text.contains("modprobe br_netfilter"), "{text}");
        let (_, text) = said(|net| net.bridge_calls_iptables = Some(false));
        assert!(text.contains("cni0") && !text.contains("modprobe"), "{text}");
        let (level, text) = said(|net| net.uplink = Some(("eth0".to_owned(), 2)));
        assert!(level == Level::Note && text.contains("conf.eth0.rp_filter=1"), "{text}");
        let (level, text) = said(|net| net.conntrack = Some((95, 100)));
        assert!(level == Level::Fail && text.contains("95 of 100"), "{text}");
        assert_eq!(said(|net| net.conntrack = Some((80, 100))).0, Level::Note);
        assert_eq!(said(|net| net.conntrack = None).0, Level::Note);
        let (level, text) = said(|net| net.zones = Some((10, 4)));
        assert!(level == Level::Note && text.contains("4 of 10 connections are in"), "{text}");
        let (level, text) = said(|net| net.zones = None);
        assert!(level == Level::Note && text.contains("does not show"), "{text}");
        let (level, text) = said(|net| {
            for name in ["cilium_host", "cali1a2b3c", "cilium_net"] {
                net.devices.push(Device { name: name.to_owned(), ..Device::default() });
            }
        });
        assert!(level == Level::Note && text.contains("devices of Calico, Cilium"), "{text}");
    }
}
