//! What the runtime says on standard input: the plugin's entry of the configuration list, with
//! what the plugins before it have done.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use weir_table::{
    DEFAULT_RUN_DIR,
    cni::{CNI_SOCKET_FILE, HostPort, Protocol},
};

use crate::{
    CNI_VERSIONS,
    environment::{is_container_id, is_ifname},
    failure::{Failure, code},
    text::{self, Member},
};

/// How long an ADD waits unless the entry says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that an entry may say: runtimes give up after two minutes themselves.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// What an ADD does when the pod is not enforced in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// It fails; the runtime tears the pod down and tries again.
    #[default]
    Fail,
    /// It succeeds; until it is enforced, the pod is cut off from all but its node.
    Quarantine,
}

/// What an ADD does when the dataplane is absent. One that is there without policies yet is waited
/// for like any other ([`OnTimeout`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It fails: no pod starts that nobody watches.
    #[default]
    Closed,
    /// It succeeds: pods start, unjudged until the dataplane finds them.
    Open,
}

/// The plugin's own keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `socket`: where the dataplane listens.
    pub socket: PathBuf,
    /// `timeoutMs`: how long an ADD waits.
    pub timeout: Duration,
    /// `onTimeout`: and then.
    pub on_timeout: OnTimeout,
    /// `onFailure`: when nobody enforces.
    pub on_failure: OnFailure,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            socket: Path::new(DEFAULT_RUN_DIR).join(CNI_SOCKET_FILE),
            timeout: DEFAULT_TIMEOUT,
            on_timeout: OnTimeout::default(),
            on_failure: OnFailure::default(),
        }
    }
}

/// A configuration whose JSON holds.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    text: &'a str,
    members: Vec<Member>,
}

/// What the plugins before this one have made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// The interfaces on the node, by name.
    pub host: Vec<String>,
    /// The hardware address of the interface in the pod.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

// Shapes of CNI results from 0.3.1 to 1.1.0, as far as they are of use.
#[derive(Deserialize)]
struct PrevResult {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    mac: Option<String>,
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    interface: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    port_mappings: Option<Vec<PortMapping>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    #[serde(default)]
    host_port: u16,
    #[serde(default)]
    container_port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

impl<'a> Config<'a> {
    /// Takes the text apart.
    ///
    /// # Errors
    /// [`code::DECODE`] when it is no JSON object.
    pub fn parse(text: &'a str) -> Result<Config<'a>, Failure> {
        let range = text::value(text).map_err(|e| decode("the network configuration", &e))?;
        let members = text::members(text, &range).ok_or_else(|| {
            Failure::new(code::DECODE, "the network configuration is no JSON object")
        })?;
        Ok(Config { text, members })
    }

    fn raw(&self, name: &str) -> Option<&'a str> {
        let member = text::member(&self.members, name)?;
        self.text.get(member.value.clone())
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        serde_json::from_str(raw).map_err(|e| decode(name, &e))
    }

    /// `cniVersion` as written; 0.1.0 if it is not, as the specification has it.
    ///
    /// # Errors
    /// [`code::DECODE`] when it is no string.
    pub fn written_version(&self) -> Result<String, Failure> {
        Ok(self.get("cniVersion")?.unwrap_or_else(|| "0.1.0".into()))
    }

    /// `cniVersion`, if the plugin speaks it, and not before `first`.
    ///
    /// # Errors
    /// [`code::VERSION`].
    pub fn version(&self, verb: &str, first: &str) -> Result<&'static str, Failure> {
        let written = self.written_version()?;
        let known = CNI_VERSIONS.iter().find(|known| **known == written);
        let Some(version) = known else {
            let known = CNI_VERSIONS.join(", ");
            return Err(Failure::new(
                code::VERSION,
                format!(
                    "incompatible CNI versions: config is {written:?}, weir-cni speaks {known}"
                ),
            )
            .advise("set cniVersion of the node's CNI configuration list to one of these"));
        };
        // They sort as text.
        if *version < first {
            let msg = format!("CNI {version} has no {verb}; it came with {first}");
            return Err(Failure::new(code::VERSION, msg));
        }
        Ok(*version)
    }

    /// `name` of the network.
    ///
    /// # Errors
    /// [`code::CONFIGURATION`] when it is missing or not one.
    pub fn network(&self) -> Result<String, Failure> {
        match self.get::<String>("name")? {
            Some(name) if is_container_id(&name) => Ok(name),
            Some(name) => Err(invalid(format!("the network's name cannot be {name:?}"))),
            None => Err(invalid("the network has no name")),
        }
    }

    /// `prevResult` as it is written; `None` if it is absent or null.
    pub fn prev_result(&self) -> Option<&'a str> {
        self.raw("prevResult").filter(|raw| *raw != "null")
    }

    /// What `prevResult` says about the interface of that name.
    ///
    /// # Errors
    /// [`code::CONFIGURATION`] when it is missing, [`code::DECODE`] when it is no result.
    pub fn made(&self, ifname: &str) -> Result<Made, Failure> {
        let raw = self.prev_result().ok_or_else(|| {
            invalid("weir-cni got no prevResult").advise(
                "it makes no interfaces: chain it behind the plugin that does, as weir-cni \
                 install does",
            )
        })?;
        let result: PrevResult = serde_json::from_str(raw).map_err(|e| decode("prevResult", &e))?;
        let interfaces = result.interfaces.unwrap_or_default();
        let mut made = Made::default();
        for interface in &interfaces {
            let inside = interface.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty());
            if !inside {
                made.host.push(interface.name.clone());
            } else if interface.name == ifname {
                made.mac = interface.mac.clone().filter(|mac| !mac.is_empty());
            }
        }
        for (number, ip) in result.ips.unwrap_or_default().into_iter().enumerate() {
            // Without an index it belongs to the interface that the call is about.
            if let Some(index) = ip.interface.and_then(|index| usize::try_from(index).ok()) {
                let interface = interfaces.get(index).ok_or_else(|| {
                    let count = interfaces.len();
                    invalid(format!(
                        "prevResult.ips[{number}] is on interface {index}, but there are {count}"
                    ))
                })?;
                let inside = interface.sandbox.as_ref().is_some_and(|s| !s.is_empty());
                if !inside || interface.name != ifname {
                    continue;
                }
            }
            let address = ip.address.split_once('/').and_then(|(address, _)| address.parse().ok());
            let address = address.ok_or_else(|| {
                invalid(format!(
                    "prevResult.ips[{number}].address is {:?}, which is no ADDRESS/LENGTH",
                    ip.address
                ))
            })?;
            made.addresses.push(address);
        }
        Ok(made)
    }

    /// The plugin's own keys.
    ///
    /// # Errors
    /// [`code::CONFIGURATION`] with the key and what it may be.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let mut settings = Settings::default();
        let own = |name: &str, may_be: String| {
            invalid(format!("{name} is {}", self.raw(name).unwrap_or_default())).advise(may_be)
        };
        if self.raw("socket").is_some() {
            settings.socket = self
                .get("socket")
                .ok()
                .flatten()
                .filter(|path: &PathBuf| path.is_absolute())
                .ok_or_else(|| own("socket", "give the path of the dataplane's socket".into()))?;
        }
        if self.raw("timeoutMs").is_some() {
            let most = MAX_TIMEOUT.as_millis();
            settings.timeout = self
                .get("timeoutMs")
                .ok()
                .flatten()
                .map(Duration::from_millis)
                .filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT)
                .ok_or_else(|| own("timeoutMs", format!("give milliseconds, 1 to {most}")))?;
        }
        let word = |name: &str| self.get::<String>(name).ok().flatten();
        if self.raw("onFailure").is_some() {
            settings.on_failure = word("onFailure")
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| own("onFailure", "give \"closed\" or \"open\"".into()))?;
        }
        // Who lets pods start that nobody watches does not keep those waiting that are watched.
        if settings.on_failure == OnFailure::Open {
            settings.on_timeout = OnTimeout::Quarantine;
        }
        if self.raw("onTimeout").is_some() {
            settings.on_timeout = word("onTimeout")
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| own("onTimeout", "give \"fail\" or \"quarantine\"".into()))?;
        }
        Ok(settings)
    }

    /// `runtimeConfig.portMappings`: ports of the node that lead to this pod.
    ///
    /// # Errors
    /// [`code::DECODE`] or [`code::CONFIGURATION`].
    pub fn host_ports(&self) -> Result<Vec<HostPort>, Failure> {
        let runtime: Option<RuntimeConfig> = self.get("runtimeConfig")?;
        let mappings = runtime.and_then(|config| config.port_mappings).unwrap_or_default();
        // A mapping without a port of the node is none.
        let mapped = mappings.into_iter().filter(|mapping| mapping.host_port != 0);
        mapped
            .map(|mapping| {
                let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
                    "tcp" | "" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    "sctp" => Protocol::Sctp,
                    other => {
                        return Err(invalid(format!("a port mapping's protocol is {other:?}")));
                    }
                };
                let host_ip = match mapping.host_ip.as_str() {
                    "" => None,
                    text => Some(text.parse().map_err(|_| {
                        invalid(format!("a port mapping's hostIP is {text:?}, which is no address"))
                    })?),
                };
                let (host, pod) = (mapping.host_port, mapping.container_port);
                Ok(HostPort { protocol, host_ip, host, pod })
            })
            .collect()
    }

    /// The attachments that exist, for GC.
    ///
    /// # Errors
    /// [`code::CONFIGURATION`] when there is no list: that is not the same as an empty one.
    pub fn valid_attachments(&self) -> Result<Vec<(String, String)>, Failure> {
        // The second is what the first libraries for 1.1 wrote.
        let name = ["cni.dev/valid-attachments", "cni.dev/attachments"]
            .into_iter()
            .find(|name| self.raw(name).is_some())
            .ok_or_else(|| invalid("GC got no cni.dev/valid-attachments: nothing is removed"))?;
        // What Go makes of an empty list is null.
        let valid: Vec<ValidAttachment> = self.get(name)?.unwrap_or_default();
        valid
            .into_iter()
            .map(|ValidAttachment { container, ifname }| {
                if is_container_id(&container) && is_ifname(&ifname) {
                    Ok((container, ifname))
                } else {
                    Err(invalid(format!("{name} has {container:?}, {ifname:?}")))
                }
            })
            .collect()
    }
}

impl std::str::FromStr for OnTimeout {
    type Err = ();

    fn from_str(word: &str) -> Result<OnTimeout, ()> {
        match word {
            "fail" => Ok(OnTimeout::Fail),
            "quarantine" => Ok(OnTimeout::Quarantine),
            _ => Err(()),
        }
    }
}

impl OnTimeout {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            OnTimeout::Fail => "fail",
            OnTimeout::Quarantine => "quarantine",
        }
    }
}

impl std::str::FromStr for OnFailure {
    type Err = ();

    fn from_str(word: &str) -> Result<OnFailure, ()> {
        match word {
            "closed" => Ok(OnFailure::Closed),
            "open" => Ok(OnFailure::Open),
            _ => Err(()),
        }
    }
}

impl OnFailure {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            OnFailure::Closed => "closed",
            OnFailure::Open => "open",
        }
    }
}

fn decode(what: &str, error: &serde_json::Error) -> Failure {
    Failure::new(code::DECODE, format!("cannot read {what}: {error}"))
}

fn invalid(problem: impl Into<String>) -> Failure {
    Failure::new(code::CONFIGURATION, problem)
}

#[cfg(test)]
mod tests;
