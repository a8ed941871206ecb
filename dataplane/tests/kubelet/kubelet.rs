//! A small kubelet with its runtime: it makes and removes pods as containerd and libcni do.
//!
//! - The configuration is the first of a directory that can be loaded; programs are looked for
//!   in two directories: where `weir-cni install` puts itself, and where Debian has its plugins.
//! - Each plugin gets its own entry with `name`, `cniVersion`, what it is capable of
//!   (`runtimeConfig`), and what the one before has said (`prevResult`), in `CNI_ARGS` what
//!   containerd says of the pod.
//! - The last result is kept and handed to CHECK and DEL, DEL goes through the chain backwards,
//!   and whatever fails is undone by a DEL.
//! - The Pod object is there before the sandbox; its addresses are written later, as the
//!   kubelet reports them: seconds after ADD has returned. Where it is, is [`Objects`]' to know.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clock::now_ns;
use crate::lab::{Cni, Lab};
use crate::objects::{Objects, Pod};
use crate::weir::binary;

/// Where Debian's containernetworking-plugins has them.
const PLUGINS: &str = "/usr/lib/cni";

/// The interface that the kubelet asks for.
const IFNAME: &str = "eth0";
/// One that a meta plugin asks for, on a network of its own.
const SECOND: &str = "net1";

/// The kubelet of a lab's node.
pub struct Kubelet<'a> {
    lab: &'a Lab,
    objects: Objects<'a>,
    next: AtomicU64,
    /// How long `weir-cni` took for each ADD that succeeded.
    delays: Mutex<Vec<Duration>>,
}

/// A sandbox: a network namespace that waits for its interface, or has it.
#[derive(Debug)]
pub struct Sandbox {
    pub pod: Pod,
    /// The name of its namespace, by which the lab knows it as a place.
    pub place: String,
    pub container: String,
    /// Which interface of its this is about.
    ifname: &'static str,
    /// What the chain has made of it.
    result: Option<Value>,
}

/// Why a plugin of the chain failed.
#[derive(Debug)]
pub struct Failure {
    /// Its type.
    pub plugin: String,
    /// The code of its error result; 0 if it gave none.
    pub code: u64,
    /// All that it has said.
    pub words: String,
}

/// How the network is laid out.
pub struct Network {
    pub cni: Cni,
    /// First and last address of each family; `None` for the whole subnets.
    pub ranges: Option<[[&'static str; 2]; 2]>,
}

impl<'a> Kubelet<'a> {
    /// Writes the node's network configuration: the lab's own network, as a list.
    pub fn new(lab: &'a Lab, folder: &Path, network: &Network) -> Kubelet<'a> {
        Self::with(lab, Objects::Folder(folder.to_owned()), network)
    }

    /// The same for one whose Pod objects are anywhere.
    pub fn with(lab: &'a Lab, objects: Objects<'a>, network: &Network) -> Kubelet<'a> {
        let kubelet = Kubelet { lab, objects, next: AtomicU64::new(1), delays: Mutex::default() };
        for directory in [kubelet.conf_dir(), kubelet.bin_dir()] {
            fs::create_dir(directory).unwrap();
        }
        let list = list(network);
        fs::write(kubelet.list(), serde_json::to_string_pretty(&list).unwrap()).unwrap();
        kubelet
    }

    fn conf_dir(&self) -> PathBuf {
        self.lab.dir().join("net.d")
    }

    fn bin_dir(&self) -> PathBuf {
        self.lab.dir().join("cni-bin")
    }

    /// The node's configuration file.
    pub fn list(&self) -> PathBuf {
        self.conf_dir().join("10-lab.conflist")
    }

    /// `weir-cni install` or `uninstall`, on the node.
    pub fn weir_cni(&self, verb: &str, options: &[&str]) {
        let (conf, bin) = (self.conf_dir(), self.bin_dir());
        let mut arguments = vec![verb, "--conf-dir", conf.to_str().unwrap()];
        arguments.extend(["--bin-dir", bin.to_str().unwrap()]);
        arguments.extend(options);
        self.lab.command("node", &binary("weir-cni"), &arguments);
    }

    /// A Pod of a name, `namespace/name`, with labels `key=value`. Another of the same name is
    /// another pod: it has another UID.
    pub fn pod(&self, name: &str, labels: &[&str]) -> Pod {
        let (namespace, name) = name.split_once('/').unwrap();
        let number = self.number();
        Pod {
            namespace: namespace.into(),
            name: name.into(),
            uid: format!("00000000-0000-4000-8000-{number:012}"),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            host_ports: Vec::new(),
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The Pod is created, and bound to this node: it has no address.
    pub fn create(&self, pod: &Pod) {
        self.objects.put(pod, "Pending", &[]);
    }

    /// What the kubelet reports after a while: it runs, and has these addresses.
    pub fn report(&self, sandbox: &Sandbox) {
        self.objects.put(&sandbox.pod, "Running", &sandbox.addresses());
    }

    /// Somebody wants it gone; its addresses stay in its status until it is.
    pub fn terminate(&self, sandbox: &Sandbox) {
        self.objects.terminate(&sandbox.pod, &sandbox.addresses());
    }

    /// The Pod object goes.
    pub fn forget(&self, pod: &Pod) {
        self.objects.remove(pod);
    }

    /// A sandbox without an interface, its namespace under a name that no other has.
    pub fn sandbox(&self, pod: &Pod, place: &str) -> Sandbox {
        self.lab.command("node", "ip", &["netns", "add", place]);
        self.lab.within(place, || {
            // An address is usable at once instead of after duplicate address detection.
            for key in ["all/accept_dad", "default/accept_dad", "default/dad_transmits"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{key}"), "0").unwrap();
            }
        });
        self.lab.command(place, "ip", &["link", "set", "lo", "up"]);
        let container = format!("{:064x}", self.number());
        Sandbox { pod: pod.clone(), place: place.into(), container, ifname: IFNAME, result: None }
    }

    /// A second interface of a sandbox, on a network that the node has beside the pods' own; to
    /// be added and deleted like the first.
    pub fn second(&self, sandbox: &Sandbox) -> Sandbox {
        let Sandbox { pod, place, container, .. } = sandbox;
        let (pod, place, container) = (pod.clone(), place.clone(), container.clone());
        Sandbox { pod, place, container, ifname: SECOND, result: None }
    }

    /// ADD through the chain; gives the moment of its return. A failure is undone.
    pub fn add(&self, sandbox: &mut Sandbox) -> Result<u64, Failure> {
        let list = self.load(sandbox);
        let mut result = None;
        for entry in list["plugins"].as_array().unwrap() {
            match self.plugin("ADD", &list, entry, sandbox, result.as_ref()) {
                Ok(said) => result = said,
                Err(failure) => {
                    // Only what the whole chain has made is kept: this DEL knows nothing.
                    self.del(sandbox);
                    return Err(failure);
                }
            }
        }
        let returned = now_ns();
        let result = result.unwrap();
        if sandbox.ifname == IFNAME {
            // Where the lab looks for a pod's addresses.
            let known = self.lab.dir().join("pods").join(format!("{}.json", sandbox.place));
            fs::write(known, result.to_string()).unwrap();
        }
        sandbox.result = Some(result);
        Ok(returned)
    }

    /// CHECK through the chain.
    pub fn check(&self, sandbox: &Sandbox) -> Result<(), Failure> {
        let list = self.load(sandbox);
        for entry in list["plugins"].as_array().unwrap() {
            // Debian's portmap looks for the rules of one address family in the other's table.
            if entry["type"] != "portmap" {
                self.plugin("CHECK", &list, entry, sandbox, sandbox.result.as_ref())?;
            }
        }
        Ok(())
    }

    /// DEL through the chain, backwards. It must succeed, however often.
    pub fn del(&self, sandbox: &mut Sandbox) {
        let list = self.load(sandbox);
        for entry in list["plugins"].as_array().unwrap().iter().rev() {
            self.plugin("DEL", &list, entry, sandbox, sandbox.result.as_ref())
                .unwrap_or_else(|failure| panic!("DEL failed: {failure:?}"));
        }
        sandbox.result = None;
    }

    /// The namespace goes, with all that is in it.
    pub fn remove(&self, sandbox: Sandbox) {
        self.lab.command("node", "ip", &["netns", "del", &sandbox.place]);
        let known = self.lab.dir().join("pods").join(format!("{}.json", sandbox.place));
        let _ = fs::remove_file(known);
    }

    /// The first configuration that can be loaded, as runtimes do; for a second interface the
    /// same plugins on another network, which has no routes to elsewhere.
    fn load(&self, sandbox: &Sandbox) -> Value {
        let entries = fs::read_dir(self.conf_dir()).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
        files.sort();
        let load = |path: &PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        let mut list: Value = files.iter().find_map(load).expect("a configuration");
        if sandbox.ifname == SECOND {
            list["name"] = "second".into();
            let maker = &mut list["plugins"][0];
            if maker["type"] == "bridge" {
                maker["bridge"] = "cni1".into();
            }
            maker["ipam"]["ranges"] =
                json!([[{"subnet": "10.245.0.0/24"}], [{"subnet": "fd00:10:245::/64"}]]);
            maker["ipam"]["routes"] = json!([]);
        }
        list
    }

    /// One plugin.
    fn plugin(
        &self,
        verb: &str,
        list: &Value,
        entry: &Value,
        sandbox: &Sandbox,
        prev: Option<&Value>,
    ) -> Result<Option<Value>, Failure> {
        let mut config = entry.clone();
        for key in ["name", "cniVersion"] {
            config[key] = list[key].clone();
        }
        let ports = &sandbox.pod.host_ports;
        if config["capabilities"]["portMappings"] == true && !ports.is_empty() {
            let mapping = |(host, pod): &(u16, u16)| json!({"hostPort": host, "containerPort": pod, "protocol": "tcp"});
            let mappings: Vec<_> = ports.iter().map(mapping).collect();
            config["runtimeConfig"] = json!({"portMappings": mappings});
        }
        if let Some(prev) = prev {
            config["prevResult"] = prev.clone();
        }
        let kind = entry["type"].as_str().unwrap();
        let own = self.bin_dir().join(kind);
        let program = if own.exists() { own } else { Path::new(PLUGINS).join(kind) };
        let Pod { namespace, name, uid, .. } = &sandbox.pod;
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={uid}",
            sandbox.container
        );
        let netns = format!("/run/netns/{}", sandbox.place);
        let started = Instant::now();
        let mut child = self
            .lab
            .enter("node", program.to_str().unwrap())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", sandbox.ifname)
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", format!("{}:{PLUGINS}", self.bin_dir().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that does not read is told nothing.
        let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
        let output = child.wait_with_output().unwrap();
        let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        if output.status.success() {
            if verb == "ADD" && kind == "weir-cni" {
                self.delays.lock().unwrap().push(started.elapsed());
            }
            return Ok(said);
        }
        let words = [output.stdout, output.stderr].concat();
        Err(Failure {
            plugin: kind.into(),
            code: said.and_then(|said| said["code"].as_u64()).unwrap_or(0),
            words: String::from_utf8_lossy(&words).into_owned(),
        })
    }

    /// Median and 99th percentile of what `weir-cni` has added to ADDs, the start of its
    /// process included; `None` before the first.
    pub fn delays(&self) -> Option<(usize, Duration, Duration)> {
        let mut delays = self.delays.lock().unwrap().clone();
        delays.sort_unstable();
        let last = delays.len().checked_sub(1)?;
        Some((delays.len(), delays[last / 2], delays[last * 99 / 100]))
    }
}

impl Sandbox {
    /// What the chain has given it, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let Some(result) = &self.result else { return Vec::new() };
        let addresses = result["ips"].as_array().unwrap().iter();
        addresses
            .map(|ip| {
                let (address, _) = ip["address"].as_str().unwrap().split_once('/').unwrap();
                address.parse().unwrap()
            })
            .collect()
    }
}

/// The lab's network as a list of plugins, as an administrator writes it.
fn list(network: &Network) -> Value {
    let range = |family: usize, subnet: &str| {
        let mut range = json!({"subnet": subnet});
        if let Some(ranges) = network.ranges {
            range["rangeStart"] = ranges[family][0].into();
            range["rangeEnd"] = ranges[family][1].into();
        }
        json!([range])
    };
    let mut maker = json!({
        "type": "ptp", "ipMasq": false,
        "ipam": {"type": "host-local",
                 "ranges": [range(0, "10.244.0.0/24"), range(1, "fd00:10:244::/64")],
                 "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]},
    });
    if network.cni == Cni::Bridge {
        maker["type"] = "bridge".into();
        maker["bridge"] = "cni0".into();
        maker["isGateway"] = true.into();
        maker["hairpinMode"] = true.into();
    }
    json!({"cniVersion": "1.0.0", "name": "weir-lab",
           "plugins": [maker, {"type": "portmap", "capabilities": {"portMappings": true}}]})
}
