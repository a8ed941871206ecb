//! A node with pods for tests: `scripts/lab`, and code of this process run inside.
//!
//! A socket belongs for ever to the network namespace in which it was made. So a
//! thread steps into a pod, makes the socket and ends; from then on the socket is
//! used like any other ([`Lab::within`]).

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

/// The CNI plugin that wires the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cni {
    /// All pods on one Linux bridge: pod-to-pod traffic is switched.
    Bridge,
    /// A routed veth a pod: pod-to-pod traffic is routed.
    Ptp,
}

/// An IP family of a dual-stack lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// A throw-away node; taken down when dropped.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    node: String,
}

impl Lab {
    /// Makes a dual-stack node.
    pub fn up(cni: Cni) -> Self {
        Self::up_with_mtu(cni, 1500)
    }

    /// The same, with pods of another MTU.
    pub fn up_with_mtu(cni: Cni, mtu: u32) -> Self {
        Self::up_with(cni, mtu, ["10.244.0.0/24", "fd00:10:244::/64"])
    }

    /// The same, with pods in other networks, IPv4 first.
    pub fn up_with(cni: Cni, mtu: u32, nets: [&str; 2]) -> Self {
        let cni = match cni {
            Cni::Bridge => "bridge",
            Cni::Ptp => "ptp",
        };
        let mtu = mtu.to_string();
        let mut arguments = vec!["up", "--family", "46", "--cni", cni, "--mtu", &mtu];
        arguments.extend(["--net4", nets[0], "--net6", nets[1]]);
        let out = script().args(arguments).output().unwrap();
        assert!(out.status.success(), "lab up: {}", text(&out.stderr));
        let dir = PathBuf::from(text(&out.stdout).trim());
        let node = fs::read_to_string(dir.join("node.pid")).unwrap().trim().to_owned();
        Self { dir, node }
    }

    /// The lab's folder on this machine; the same path inside the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a pod by CNI.
    pub fn pod(&self, name: &str) {
        self.run(&["pod", name]);
    }

    /// Makes a pod by CNI with the addresses of one that is gone, one a family. Nobody
    /// else may make pods meanwhile.
    pub fn pod_at(&self, name: &str, addresses: [IpAddr; 2]) {
        for (range, address) in addresses.into_iter().enumerate() {
            // host-local goes on behind the address that it gave last.
            let before = match address {
                IpAddr::V4(address) => IpAddr::from(Ipv4Addr::from(u32::from(address) - 1)),
                IpAddr::V6(address) => IpAddr::from(Ipv6Addr::from(u128::from(address) - 1)),
            };
            let state = self.node_path("/var/lib/cni/networks/weir-lab");
            fs::create_dir_all(&state).unwrap();
            let last = state.join(format!("last_reserved_ip.{range}"));
            fs::write(last, before.to_string()).unwrap();
        }
        self.pod(name);
        let got = Family::BOTH.map(|family| self.address(name, family));
        assert_eq!(got, addresses, "the CNI plugin did not give the addresses again");
    }

    /// Takes a pod away.
    pub fn unpod(&self, name: &str) {
        self.run(&["unpod", name]);
    }

    /// The address of a pod, from the CNI plugin's answer.
    pub fn address(&self, pod: &str, family: Family) -> IpAddr {
        let result = fs::read(self.dir.join("pods").join(format!("{pod}.json"))).unwrap();
        let result: Value = serde_json::from_slice(&result).unwrap();
        let addresses = result["ips"].as_array().unwrap();
        addresses
            .iter()
            .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse::<IpAddr>().ok())
            .find(|address| address.is_ipv4() == (family == Family::V4))
            .unwrap_or_else(|| panic!("{pod} has no {family:?} address: {result}"))
    }

    /// The Pod as the API server would show it.
    pub fn manifest(&self, name: &str, pod: &str, labels: &[&str]) -> String {
        let mut arguments = vec!["manifest", name, pod];
        arguments.extend(labels);
        self.run(&arguments)
    }

    /// A Service by the rules of one of kube-proxy's modes, at an address and behind a port of the
    /// node, under an external traffic policy.
    pub fn service(
        &self,
        (proxy, external): (&str, &str),
        name: &str,
        (vip, node_port): (SocketAddr, u16),
        backends: &[String],
    ) {
        let (vip, node_port) = (vip.to_string(), node_port.to_string());
        let mut arguments = vec!["service", "--proxy", proxy, "--external", external];
        arguments.extend(["--node-port", &node_port, name, &vip]);
        arguments.extend(backends.iter().map(String::as_str));
        self.run(&arguments);
    }

    /// The hardware address of a pod's interface.
    pub fn mac(&self, pod: &str) -> [u8; 6] {
        let link = self.command(pod, "ip", &["-json", "link", "show", "eth0"]);
        let link: Value = serde_json::from_slice(&link).unwrap();
        mac_of(link[0]["address"].as_str().unwrap())
    }

    /// A file of the node, as this process reaches it.
    pub fn node_path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.node))
    }

    /// Runs a command on the `node`, `outside` or in a pod; gives its output.
    pub fn command(&self, place: &str, program: &str, arguments: &[&str]) -> Vec<u8> {
        let out = self.enter(place, program).args(arguments).output().unwrap();
        let told = text(&out.stderr);
        assert!(out.status.success(), "{program} {arguments:?} in {place}: {told}");
        out.stdout
    }

    /// The same, whatever the outcome.
    pub fn attempt(&self, place: &str, program: &str, arguments: &[&str]) -> Output {
        self.enter(place, program).args(arguments).output().unwrap()
    }

    /// A command that will run in a place of the lab. The process is the program
    /// itself (nsenter gives way to it), so its id can be signalled.
    pub fn enter(&self, place: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.node, "--mount"])
            .arg(format!("--net={}", self.namespace(place).display()))
            .args(["--", program])
            .stdin(Stdio::null());
        command
    }

    /// Runs `job` on a thread inside a place of the lab.
    pub fn within<T: Send>(&self, place: &str, job: impl FnOnce() -> T + Send) -> T {
        self.door(place).within(job)
    }

    /// A way into a place of the lab that may be kept.
    pub fn door(&self, place: &str) -> Door {
        Door(File::open(self.namespace(place)).unwrap())
    }

    fn namespace(&self, place: &str) -> PathBuf {
        match place {
            "node" => PathBuf::from(format!("/proc/{}/ns/net", self.node)),
            // `far` is made by the tests that need a host behind `outside`.
            "outside" | "far" => self.node_path(&format!("/run/lab/{place}")),
            pod => self.node_path(&format!("/run/netns/{pod}")),
        }
    }

    fn run(&self, arguments: &[&str]) -> String {
        let out = script().env("WEIR_LAB", &self.dir).args(arguments).output().unwrap();
        assert!(out.status.success(), "lab {arguments:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }
}

/// A way into a place of a lab.
#[derive(Debug)]
pub struct Door(File);

impl Door {
    /// Runs `job` on a thread inside.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let namespace = self.0.as_fd();
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).unwrap();
                    job()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = script().env("WEIR_LAB", &self.dir).arg("down").status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("the lab {} may still be up", self.dir.display());
        }
    }
}

fn script() -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lab"));
    command.env_remove("WEIR_LAB");
    command
}

/// The address of the host beyond the uplink.
pub fn outside(family: Family) -> IpAddr {
    let address = if family == Family::V4 { "198.51.100.2" } else { "2001:db8:1::2" };
    address.parse().unwrap()
}

/// A hardware address as `ip` writes it.
pub fn mac_of(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16).unwrap();
    }
    mac
}

/// Output as text, for messages.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
