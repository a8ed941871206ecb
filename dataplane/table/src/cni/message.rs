//! The messages: how they are written and read, and what they may say.
//!
//! Reading never panics and never trusts: [`read_request`] and [`read_answer`] take any bytes
//! and give a message within the limits below, or say what is wrong with it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::CniError;

/// Raised whenever a message changes its meaning.
pub const PROTOCOL_VERSION: u32 = 1;
/// The oldest version that a dataplane accepts: the one before its own, if there is one.
pub const OLDEST_PROTOCOL: u32 = 1;

/// Longest datagram, in bytes.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// Longest container id, in bytes. Runtimes take 64.
const MAX_CONTAINER: usize = 256;
/// Longest name of a network, in bytes.
const MAX_NETWORK: usize = 256;
/// Longest name of an interface, in bytes (`IFNAMSIZ` less its zero).
const MAX_IFNAME: usize = 15;
/// Longest name of a namespace, pod, or UID, in bytes (a DNS subdomain).
const MAX_NAME: usize = 253;
/// Longest path and longest text, in bytes.
const MAX_TEXT: usize = 4096;
/// Most devices, addresses and ports of one attachment.
const MAX_DEVICES: usize = 16;
const MAX_ADDRESSES: usize = 32;
const MAX_PORTS: usize = 256;
/// Attachments in one datagram of a `gc` that the longest names cannot make too long.
pub(super) const VALID_A_MESSAGE: usize = 200;
/// Attachments in all datagrams of a `gc`: more than any node can have.
pub(super) const MAX_VALID: usize = 65_536;

/// What every message says first. Later versions may add to it, never change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) protocol: u32,
    /// Name and version of the program, for messages.
    pub(super) software: String,
    /// In a request: how long the sender waits for a final answer, in milliseconds.
    #[serde(default)]
    pub(super) wait_ms: u64,
}

/// What the plugin asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// An interface of a pod was made: enforce, and say when. Brings the namespace.
    Add(Attachment),
    /// Is it as it was said to be, and enforced? Brings the namespace.
    Check(Attachment),
    /// The interface goes, or is gone.
    Del {
        /// Which one.
        id: AttachmentId,
    },
    /// Could an `add` be served?
    Status,
    /// Of this network, only these attachments exist: forget all others.
    Gc {
        /// The network's name.
        network: String,
        /// Container and interface of each attachment.
        valid: Vec<(String, String)>,
        /// Another datagram continues the list. Only on the wire: [`Server`](super::Server)
        /// hands out the whole list, and [`Client`](super::Client) splits it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
}

/// The key of an attachment, as CNI has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// Name of the network (of the configuration list).
    pub network: String,
    /// The runtime's id of the pod's sandbox.
    pub container: String,
    /// Name of the interface in the pod.
    pub ifname: String,
}

/// One interface of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which attachment.
    pub id: AttachmentId,
    /// Where the runtime has the namespace. For people: what counts is the descriptor.
    pub netns: String,
    /// Whose it is; absent when the runtime is not Kubernetes'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Devices that earlier plugins made on the node; one of them may be the interface's
    /// other end. Which, and whether any, only the kernel can say.
    #[serde(default)]
    pub host: Vec<HostDevice>,
    /// Hardware address of the interface in the pod, as an earlier plugin wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The addresses that the interface was given.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to this pod.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

/// A pod, as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: tells it from one of the same name before it. Not every runtime says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// A device of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDevice {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Of which protocol.
    pub protocol: Protocol,
    /// At which address of the node; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host: u16,
    /// The pod's port.
    pub pod: u16,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What the dataplane says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// To `add` and `check`: that pod's policy is in force on that interface.
    Enforced {
        /// The generation in force.
        generation: u64,
        /// The address map's epoch from which on.
        epoch: u64,
        /// How long that took since the request, in microseconds.
        waited_us: u64,
    },
    /// To `add` and `check`, once the sender's wait is over: not yet. The interface is cut
    /// off from everything but its node until then.
    Pending {
        /// Who has not done its part.
        #[serde(rename = "for")]
        waiting_for: WaitingFor,
        /// In words.
        words: String,
    },
    /// To everything: no.
    Refused {
        /// What kind of no.
        code: Refusal,
        /// In words.
        words: String,
    },
    /// To `del` and `gc`.
    Done {
        /// How many attachments were known and are no longer.
        removed: u32,
    },
    /// To `status`.
    Ready,
    /// To `status`: an `add` would not be served.
    NotReady {
        /// Pods that run already are affected too.
        limited: bool,
        /// In words.
        words: String,
    },
}

/// Why a pod is not enforced yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// weir-control is not connected, or has not answered.
    Control,
    /// weir-control does not know the pod yet.
    PodObject,
    /// A worker has not taken it over.
    Worker,
    /// Something that this version has no name for.
    #[serde(other)]
    Other,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The two programs do not speak a common version.
    Skew,
    /// The interface has no other end on the node that Weir could watch.
    NoDevice,
    /// An address belongs to the node or to another interface that lives.
    AddressTaken,
    /// No policy table is in force yet.
    NoTable,
    /// A `check` found another state than was said.
    Differs,
    /// The request says what cannot be.
    BadRequest,
    /// Too many requests wait.
    Busy,
    /// Something that this version has no name for.
    #[serde(other)]
    Other,
}

impl Request {
    /// What the request is called, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Add(_) => "add",
            Request::Check(_) => "check",
            Request::Del { .. } => "del",
            Request::Status => "status",
            Request::Gc { .. } => "gc",
        }
    }

    /// Whether a descriptor of the pod's namespace belongs to it.
    pub fn has_namespace(&self) -> bool {
        matches!(self, Request::Add(_) | Request::Check(_))
    }

    /// Whether everything is within the limits that both sides keep to.
    ///
    /// # Errors
    /// What is not, in words.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Request::Add(attachment) | Request::Check(attachment) => attachment.check(),
            Request::Del { id } => id.check(),
            Request::Status => Ok(()),
            Request::Gc { network, valid, .. } => {
                word("the network's name", network, MAX_NETWORK)?;
                few("attachments", valid.len(), MAX_VALID)?;
                valid.iter().try_for_each(|(container, ifname)| {
                    word("a container's id", container, MAX_CONTAINER)?;
                    device("an interface's name", ifname)
                })
            }
        }
    }
}

impl AttachmentId {
    fn check(&self) -> Result<(), String> {
        word("the network's name", &self.network, MAX_NETWORK)?;
        word("the container's id", &self.container, MAX_CONTAINER)?;
        device("the interface's name", &self.ifname)
    }
}

impl Attachment {
    fn check(&self) -> Result<(), String> {
        self.id.check()?;
        text("the namespace's path", &self.netns, MAX_TEXT)?;
        if let Some(pod) = &self.pod {
            text("the pod's namespace", &pod.namespace, MAX_NAME)?;
            text("the pod's name", &pod.name, MAX_NAME)?;
            pod.uid.as_ref().map_or(Ok(()), |uid| text("the pod's UID", uid, MAX_NAME))?;
        }
        few("devices", self.host.len(), MAX_DEVICES)?;
        self.host.iter().try_for_each(|host| device("a device's name", &host.name))?;
        self.mac.as_ref().map_or(Ok(()), |mac| text("the hardware address", mac, MAX_NAME))?;
        few("addresses", self.addresses.len(), MAX_ADDRESSES)?;
        few("ports of the node", self.host_ports.len(), MAX_PORTS)
    }
}

impl Answer {
    /// Whether this can be an answer to `request`.
    pub fn fits(&self, request: &Request) -> bool {
        match self {
            Answer::Enforced { .. } | Answer::Pending { .. } => request.has_namespace(),
            Answer::Refused { .. } => true,
            Answer::Done { .. } => matches!(request, Request::Del { .. } | Request::Gc { .. }),
            Answer::Ready | Answer::NotReady { .. } => matches!(request, Request::Status),
        }
    }

    /// Cuts words that would not fit into a datagram.
    fn shortened(&self) -> Answer {
        let mut answer = self.clone();
        if let Answer::Pending { words, .. }
        | Answer::Refused { words, .. }
        | Answer::NotReady { words, .. } = &mut answer
        {
            cut(words, MAX_TEXT);
        }
        answer
    }
}

fn text(what: &str, value: &str, most: usize) -> Result<(), String> {
    if value.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if value.len() > most {
        return Err(format!("{what} has {} bytes, more than {most}", value.len()));
    }
    if value.chars().any(char::is_control) {
        return Err(format!("{what} has a control character: {value:?}"));
    }
    Ok(())
}

/// As the specification has it for networks and containers.
fn word(what: &str, value: &str, most: usize) -> Result<(), String> {
    text(what, value, most)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !value.chars().all(fits) || !value.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("{what} cannot be {value:?}"));
    }
    Ok(())
}

fn device(what: &str, name: &str) -> Result<(), String> {
    text(what, name, MAX_IFNAME)?;
    if matches!(name, "." | "..") || name.contains(['/', ':']) || name.contains(char::is_whitespace)
    {
        return Err(format!("{what} cannot be {name:?}"));
    }
    Ok(())
}

/// Cuts a text to at most so many bytes, between two characters.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
    }
}

fn few(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most { Err(format!("{count} {what}, more than {most}")) } else { Ok(()) }
}

/// A message with its header, as it goes out.
#[derive(Serialize)]
struct Outgoing<'a, T> {
    #[serde(flatten)]
    header: &'a Header,
    #[serde(flatten)]
    body: &'a T,
}

pub(super) fn write_request(header: &Header, request: &Request) -> Result<Vec<u8>, CniError> {
    request.check().map_err(|problem| CniError::Message { problem })?;
    write(header, request)
}

pub(super) fn write_answer(header: &Header, answer: &Answer) -> Result<Vec<u8>, CniError> {
    write(header, &answer.shortened())
}

fn write<T: Serialize>(header: &Header, body: &T) -> Result<Vec<u8>, CniError> {
    let bytes = serde_json::to_vec(&Outgoing { header, body })
        .map_err(|e| CniError::Message { problem: e.to_string() })?;
    if bytes.len() > MAX_MESSAGE {
        let problem = format!("{} bytes, more than {MAX_MESSAGE}", bytes.len());
        return Err(CniError::Message { problem });
    }
    Ok(bytes)
}

/// Reads a request of a version that a dataplane accepts.
pub(super) fn read_request(bytes: &[u8]) -> Result<(Header, Request), CniError> {
    let header = read_header(bytes)?;
    if !(OLDEST_PROTOCOL..=PROTOCOL_VERSION).contains(&header.protocol) {
        return Err(skew(header));
    }
    let request: Request = read(bytes)?;
    request.check().map_err(|problem| CniError::Message { problem })?;
    Ok((header, request))
}

/// Reads an answer in the version of our request.
pub(super) fn read_answer(bytes: &[u8]) -> Result<Answer, CniError> {
    let header = read_header(bytes)?;
    if header.protocol != PROTOCOL_VERSION {
        return Err(skew(header));
    }
    read(bytes)
}

fn skew(header: Header) -> CniError {
    let Header { protocol: theirs, software, .. } = header;
    CniError::Version { ours: PROTOCOL_VERSION, theirs, software }
}

/// What the other side calls itself goes into logs and messages: one short line.
fn read_header(bytes: &[u8]) -> Result<Header, CniError> {
    let mut header: Header = read(bytes)?;
    header.software.retain(|c| !c.is_control());
    cut(&mut header.software, MAX_NAME);
    Ok(header)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CniError> {
    serde_json::from_slice(bytes).map_err(|e| CniError::Message { problem: e.to_string() })
}
