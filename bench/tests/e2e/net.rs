//! Two pods and a router between them.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// The tests measure: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// `None` without root, and a word of it.
pub fn turn() -> Option<MutexGuard<'static, ()>> {
    if !rustix::process::geteuid().is_root() {
        let required = std::env::var_os("WEIR_REQUIRE_E2E").is_some_and(|value| value == "1");
        assert!(!required, "WEIR_REQUIRE_E2E=1, but the end-to-end tests need root");
        say("SKIPPED: needs root");
        return None;
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Says it past the capture of the test harness: what did not run must not look like what did.
pub fn say(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The address of a place's pod: 1 is the client, 2 the server.
    pub fn address(self, pod: u8, host: u8) -> String {
        match self {
            Self::V4 => format!("198.18.{pod}.{host}"),
            Self::V6 => format!("fd00:18:{pod}::{host}"),
        }
    }

    /// As `ip` wants it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

/// The namespaces; gone when dropped.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    /// The number of the server's subnet: the client's own where nothing routes.
    server: u8,
}

impl Net {
    /// Pods `client` and `server`, each with a device eth0, and a router whose devices are
    /// called as the pods.
    pub fn new() -> Self {
        let net = Self::pods(2);
        net.sysctl("router", "net.ipv4.ip_forward=1");
        net.sysctl("router", "net.ipv6.conf.all.forwarding=1");
        for (pod, name) in [(1, "client"), (2, "server")] {
            for family in [Family::V4, Family::V6] {
                net.own("router", name, family, &family.address(pod, 1));
                let router = family.address(pod, 1);
                net.run(name, "ip", &[family.flag(), "route", "add", "default", "via", &router]);
            }
        }
        net
    }

    /// The same pods in one subnet, who know each other's hardware addresses; their devices
    /// lead to a place in which nobody forwards anything.
    pub fn unwired() -> Self {
        let net = Self::pods(1);
        net.sysctl("router", "net.ipv4.ip_forward=0");
        for (name, other, host) in [("client", "server", 3), ("server", "client", 2)] {
            let mac = net.run(other, "cat", &["/sys/class/net/eth0/address"]);
            for family in [Family::V4, Family::V6] {
                let address = family.address(1, host);
                let words = ["neigh", "add", &address, "lladdr", mac.trim(), "dev", "eth0"];
                net.run(name, "ip", &words);
            }
        }
        net
    }

    /// The pods alone; `server` is the number of the server's subnet.
    fn pods(server: u8) -> Self {
        let net = Self { prefix: format!("wb{}", std::process::id()), server };
        for place in ["client", "server", "router"] {
            ip(&["netns", "add", &net.name(place)]);
            net.run(place, "ip", &["link", "set", "lo", "up"]);
            // An address is usable at once.
            for what in ["all", "default"] {
                net.sysctl(place, &format!("net.ipv6.conf.{what}.accept_dad=0"));
            }
        }
        for name in ["client", "server"] {
            let there = net.name(name);
            let pair =
                ["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &there];
            net.run("router", "ip", &pair);
            net.run("router", "ip", &["link", "set", name, "up"]);
            net.run(name, "ip", &["link", "set", "eth0", "up"]);
            for family in [Family::V4, Family::V6] {
                net.own(name, "eth0", family, &net.address(family, name));
            }
        }
        net
    }

    /// The address of a pod.
    pub fn address(&self, family: Family, pod: &str) -> String {
        match (pod, self.server) {
            ("client", _) => family.address(1, 2),
            (_, 1) => family.address(1, 3),
            (_, server) => family.address(server, 2),
        }
    }

    /// Gives a device an address.
    pub fn own(&self, place: &str, device: &str, family: Family, address: &str) {
        let address = format!("{address}/{}", if family == Family::V4 { 24 } else { 64 });
        let mut words = vec!["addr", "add", &address, "dev", device];
        words.extend((family == Family::V6).then_some("nodad"));
        self.run(place, "ip", &words);
    }

    /// Runs a program in a place, to its end.
    pub fn run(&self, place: &str, program: &str, arguments: &[&str]) -> String {
        self.attempt(place, program, arguments).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The same, if it can fail.
    pub fn attempt(&self, place: &str, program: &str, words: &[&str]) -> Result<String, String> {
        let out = Command::new("ip")
            .args(["netns", "exec", &self.name(place), program])
            .args(words)
            .output()
            .unwrap();
        if out.status.success() {
            Ok(String::from_utf8(out.stdout).unwrap())
        } else {
            Err(format!("{program} {words:?}: {}", String::from_utf8_lossy(&out.stderr).trim()))
        }
    }

    /// Starts the generator from client to server.
    pub fn start(&self, family: Family, options: &str) -> Child {
        let ends = (self.address(family, "client"), self.address(family, "server"));
        self.start_between((&ends.0, &ends.1), options)
    }

    /// The same between other addresses.
    pub fn start_between(&self, (from, to): (&str, &str), options: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_weir-bench"))
            .args(["pktgen", "-o", "json", "--client", &self.name("client")])
            .args(["--server", &self.name("server")])
            .args(["--from", from, "--to", to])
            .args(options.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs the generator from client to server.
    pub fn pktgen(&self, family: Family, options: &str) -> Value {
        result(self.start(family, options))
    }

    /// Adds rules to a hook of the router; in them, `count` counts.
    pub fn rules(&self, family: &str, hook: &str, rules: &[&str]) -> Result<(), String> {
        let mut lines = vec![
            format!("add table {family} t"),
            format!("add counter {family} t c"),
            format!("add chain {family} t f {{ type filter hook {hook} priority -150; }}"),
        ];
        for rule in rules {
            let rule = rule.replace("count", "counter name c");
            lines.push(format!("add rule {family} t f {rule}"));
        }
        lines.iter().try_for_each(|line| self.attempt("router", "nft", &[line]).map(drop))
    }

    /// Packets that a place has sent.
    pub fn sent_by(&self, place: &str) -> u64 {
        let json = self.run(place, "ip", &["-json", "-stats", "link", "show", "eth0"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        json[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    }

    /// Packets that the rules have counted.
    pub fn counted(&self) -> u64 {
        let json = self.run("router", "nft", &["-j", "list", "counter", "inet", "t", "c"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        let found = json["nftables"].as_array().unwrap().iter().find_map(|o| o.get("counter"));
        found.unwrap()["packets"].as_u64().unwrap()
    }

    /// A place's namespace, as the file that `ip netns` keeps.
    pub fn path(&self, place: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(self.name(place))
    }

    fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    fn sysctl(&self, place: &str, setting: &str) {
        self.run(place, "sysctl", &["-qw", setting]);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in ["client", "server", "router"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(place)]).status();
        }
    }
}

/// What a generator printed.
pub fn result(child: Child) -> Value {
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn ip(words: &[&str]) {
    assert!(Command::new("ip").args(words).status().unwrap().success(), "ip {words:?}");
}
