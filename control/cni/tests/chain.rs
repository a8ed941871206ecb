//! Behind the real plugins, as a runtime would run them, on a node made for the test.
//!
//! Debian's plugins speak CNI up to 1.0.0: STATUS and GC of 1.1.0 are in `plugin.rs` alone.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

#[path = "../../../dataplane/tests/support/root.rs"]
mod root;
mod support;

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use weir_table::cni::{Answer, Attachment, Protocol, Refusal, Request};

use support::{Answered, Dataplane, Namespace, Reply, run, text};

/// Where Debian's containernetworking-plugins has them.
const PLUGINS: &str = "/usr/lib/cni";

/// A node: a namespace, a chain of plugins with weir-cni installed in it, and its state.
struct Node {
    namespace: Namespace,
    directory: TempDir,
}

/// What a runtime knows of a pod's interface.
struct Pod {
    namespace: Namespace,
    container: String,
    /// What the chain has made of it.
    result: Value,
}

impl Node {
    fn new(dataplane: &Dataplane, version: &str, kind: &str) -> Node {
        let namespace = Namespace::new().expect("root can make namespaces");
        let node = Node { namespace, directory: TempDir::new().unwrap() };
        node.ip(&["link", "set", "lo", "up"]);
        let ipam = json!({
            "type": "host-local",
            "dataDir": node.directory.path().join("leases"),
            "ranges": [[{"subnet": "10.244.7.0/24"}], [{"subnet": "fd00:7::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        });
        let mut maker = json!({"type": kind, "ipam": ipam});
        if kind == "bridge" {
            maker["bridge"] = "cni0".into();
            maker["isGateway"] = true.into();
        }
        let list = json!({
            "cniVersion": version,
            "name": "lab",
            "plugins": [maker, {"type": "portmap", "capabilities": {"portMappings": true}}],
        });
        fs::create_dir(node.conf()).unwrap();
        fs::write(node.list(), serde_json::to_string_pretty(&list).unwrap()).unwrap();
        let mut install = support::plugin();
        install.arg("install").arg("--conf-dir").arg(node.conf());
        install.arg("--bin-dir").arg(node.bin()).arg("--socket").arg(dataplane.socket());
        install.args(["--timeout-ms", "20000"]);
        assert!(install.status().unwrap().success());
        node
    }

    fn conf(&self) -> PathBuf {
        self.directory.path().join("net.d")
    }

    fn list(&self) -> PathBuf {
        self.conf().join("10-lab.conflist")
    }

    fn bin(&self) -> PathBuf {
        self.directory.path().join("bin")
    }

    /// `ip` on the node.
    fn ip(&self, arguments: &[&str]) -> String {
        said(self.namespace.command("ip").args(arguments))
    }

    fn links(&self) -> BTreeSet<String> {
        let links: Value = serde_json::from_str(&self.ip(&["-json", "link"])).unwrap();
        links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap().into()).collect()
    }

    /// The addresses that are given out.
    fn leases(&self) -> BTreeSet<IpAddr> {
        let leases = fs::read_dir(self.directory.path().join("leases/lab")).unwrap();
        let names = leases.map(|lease| lease.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// One plugin of the chain, as libcni runs it.
    fn plugin(
        &self,
        verb: &str,
        number: usize,
        container: &str,
        netns: &str,
        prev: Option<&Value>,
    ) -> Answered {
        let list: Value = serde_json::from_str(&text(&self.list())).unwrap();
        let mut config = list["plugins"][number].clone();
        for key in ["name", "cniVersion"] {
            config[key] = list[key].clone();
        }
        if config["capabilities"]["portMappings"] == true {
            config["runtimeConfig"]["portMappings"] =
                json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        }
        if let Some(prev) = prev {
            config["prevResult"] = prev.clone();
        }
        let kind = config["type"].as_str().unwrap();
        let program =
            if kind == "weir-cni" { self.bin().join(kind) } else { Path::new(PLUGINS).join(kind) };
        let path = format!("{}:{PLUGINS}", self.bin().display());
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={container};\
             K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID=uid-{container}"
        );
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &arguments),
            ("CNI_PATH", &path),
        ];
        run(self.namespace.command(program), &variables, &config.to_string())
    }

    /// ADD through the chain; the error is what the plugin that failed has said.
    fn add(&self, container: &str) -> Result<Pod, Answered> {
        let namespace = Namespace::new().unwrap();
        let mut result = None;
        for number in 0..3 {
            let answered =
                self.plugin("ADD", number, container, &namespace.path(), result.as_ref());
            if !answered.success {
                // What a runtime does then.
                for number in (0..3).rev() {
                    self.plugin("DEL", number, container, &namespace.path(), result.as_ref()).ok();
                }
                return Err(answered);
            }
            let said = answered.json();
            if number == 2 {
                assert_eq!(Some(&said), result.as_ref(), "handed on unchanged");
            }
            result = Some(said);
        }
        Ok(Pod { namespace, container: container.into(), result: result.unwrap() })
    }

    /// CHECK through the chain, but for portmap: in Debian's version it looks for the rules of
    /// one address family in the other's table, and finds nothing right that has both.
    fn check(&self, pod: &Pod) {
        for number in [0, 2] {
            let netns = pod.namespace.path();
            let answered = self.plugin("CHECK", number, &pod.container, &netns, Some(&pod.result));
            assert_eq!(answered.ok().output, "");
        }
    }

    fn del(&self, pod: &Pod, netns: &str) {
        for number in (0..3).rev() {
            self.plugin("DEL", number, &pod.container, netns, Some(&pod.result)).ok();
        }
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn can_run() -> bool {
    let there = Path::new(PLUGINS).join("bridge").exists();
    let required = std::env::var_os("WEIR_REQUIRE_E2E").is_some_and(|value| value == "1");
    assert!(there || !required, "no CNI plugins in {PLUGINS}: scripts/setup installs them");
    if !there {
        eprintln!("SKIPPED: no CNI plugins in {PLUGINS} (scripts/setup installs them)");
    }
    there && root::can_run()
}

fn attachment(request: &Request) -> &Attachment {
    match request {
        Request::Add(attachment) | Request::Check(attachment) => attachment,
        other => panic!("{other:?}"),
    }
}

/// The addresses that the kernel has on a pod's interface, link-local ones left out.
fn addresses_in(namespace: &Namespace) -> BTreeSet<IpAddr> {
    let shown = said(namespace.command("ip").args(["-json", "address", "show", "eth0"]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let infos = shown[0]["addr_info"].as_array().unwrap().iter();
    infos
        .filter(|i| i["scope"] == "global")
        .map(|i| i["local"].as_str().unwrap().parse().unwrap())
        .collect()
}

fn life_of_a_pod(version: &str, kind: &str) {
    let dataplane = Dataplane::willing();
    let node = Node::new(&dataplane, version, kind);
    let before = node.links();
    let pod = node.add("web-0").unwrap();

    let told = dataplane.told();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].netns, Some(pod.namespace.id()));
    let add = attachment(&told[0].request);
    assert_eq!(add.pod.as_ref().unwrap().name, "web-0");
    assert_eq!(add.pod.as_ref().unwrap().uid.as_deref(), Some("uid-web-0"));
    // What was said is what the kernel has.
    let addresses: BTreeSet<_> = add.addresses.iter().copied().collect();
    assert_eq!(addresses, addresses_in(&pod.namespace));
    assert_eq!(addresses.len(), 2, "one of each family");
    let inside = said(pod.namespace.command("ip").args(["-json", "link", "show", "eth0"]));
    let inside: Value = serde_json::from_str(&inside).unwrap();
    assert_eq!(add.mac.as_deref(), inside[0]["address"].as_str());
    // Among the devices of the node that were made is the interface's other end.
    let peer = inside[0]["link_index"].as_u64().unwrap();
    let ends: Vec<_> = add.host.iter().filter(|host| u64::from(host.ifindex) == peer).collect();
    assert_eq!(ends.len(), 1, "{:?}", add.host);
    assert!(node.links().contains(&ends[0].name));
    let port = &add.host_ports[0];
    assert_eq!((port.protocol, port.host, port.pod), (Protocol::Tcp, 8080, 80));

    if version != "0.3.1" {
        node.check(&pod);
        let told = dataplane.told();
        assert_eq!(attachment(&told[1].request), add, "CHECK says what ADD said");
    }
    let asked = dataplane.told().len();
    // Once in order, and once more with the namespace gone.
    node.del(&pod, &pod.namespace.path());
    node.del(&pod, "");
    let told = dataplane.told();
    assert_eq!(told.len(), asked + 2);
    for told in &told[asked..] {
        assert_eq!(told.request, Request::Del { id: add.id.clone() });
    }
    assert!(node.leases().is_empty());
    let left: BTreeSet<_> = node.links().difference(&before).cloned().collect();
    assert!(left.iter().all(|name| name == "cni0"), "{left:?}");
}

#[test]
fn a_pods_life_behind_bridge() {
    if can_run() {
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            life_of_a_pod(version, "bridge");
        }
    }
}

#[test]
fn a_pods_life_behind_ptp() {
    if can_run() {
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            life_of_a_pod(version, "ptp");
        }
    }
}

#[test]
fn what_is_refused_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let dataplane = Dataplane::start(|incoming| {
        Reply::Now(match &incoming.request {
            Request::Add(_) => {
                Answer::Refused { code: Refusal::AddressTaken, words: "it is web-1's".into() }
            }
            other => support::willing(other),
        })
    });
    let node = Node::new(&dataplane, "1.0.0", "ptp");
    let before = node.links();
    let refused = node.add("web-0").err().expect("it was refused");
    refused.failed(103, "pod shop/web-0 is not connected: it is web-1's");
    assert_eq!(node.links(), before);
    assert!(node.leases().is_empty());
    // And the same when nobody is there at all.
    drop(dataplane);
    let refused = node.add("web-0").err().expect("nobody is there");
    refused.failed(11, "cannot reach the dataplane");
    assert_eq!(node.links(), before);
    assert!(node.leases().is_empty());
}

#[test]
fn an_address_given_out_again_is_told_for_the_new_pod() {
    if !can_run() {
        return;
    }
    let dataplane = Dataplane::willing();
    let node = Node::new(&dataplane, "1.0.0", "bridge");
    // A range of one address of each family: whoever comes next gets the same.
    let list = text(&node.list());
    let narrow = list
        .replace(
            "\"10.244.7.0/24\"",
            "\"10.244.7.0/24\",\"rangeStart\":\"10.244.7.9\",\"rangeEnd\":\"10.244.7.9\"",
        )
        .replace(
            "\"fd00:7::/64\"",
            "\"fd00:7::/64\",\"rangeStart\":\"fd00:7::9\",\"rangeEnd\":\"fd00:7::9\"",
        );
    fs::write(node.list(), narrow).unwrap();
    let mut seen = BTreeSet::new();
    for number in 0..5 {
        let pod = node.add(&format!("web-{number}")).unwrap();
        node.del(&pod, &pod.namespace.path());
        seen.insert(pod.namespace.id());
    }
    let told = dataplane.told();
    assert_eq!(told.len(), 10);
    for (number, pair) in told.chunks(2).enumerate() {
        let add = attachment(&pair[0].request);
        assert_eq!(add.pod.as_ref().unwrap().name, format!("web-{number}"));
        let wanted: Vec<IpAddr> = vec!["10.244.7.9".parse().unwrap(), "fd00:7::9".parse().unwrap()];
        assert_eq!(add.addresses, wanted);
        assert_eq!(pair[1].request, Request::Del { id: add.id.clone() });
    }
    assert!(!seen.is_empty());
}
