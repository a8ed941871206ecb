//! What CNI asks of a plugin: ADD, CHECK, DEL, STATUS, GC, VERSION.
//!
//! | | dataplane says | |
//! |---|---|---|
//! | ADD | enforced | `prevResult`, handed on |
//! | | pending when the wait is over | error 11; with `"onTimeout": "quarantine"` as enforced |
//! | | refused | error 100–104; 11 if it may pass |
//! | | nothing: absent, silent | error 11; with `"onFailure": "open"` as enforced |
//! | CHECK | enforced, pending, refused | nothing, error 11, error 101 |
//! | DEL | anything or nothing | nothing: success |
//! | STATUS | ready, not ready, nothing | nothing, error 50 or 51, error 50; never an error with `"open"` |
//! | GC | done, nothing | nothing, error 11 |

use std::{ffi::OsString, fs::File, io::Read, os::fd::AsFd, path::Path, time::Duration};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use weir_table::cni::{
    Answer, Attachment, AttachmentId, Client, CniError, HostDevice, Patience, Refusal, Request,
    WaitingFor, namespace_id,
};

use crate::{
    CNI_VERSIONS, SOFTWARE,
    config::{Config, OnFailure, OnTimeout, Settings},
    environment::{Environment, Verb},
    failure::{Failure, code},
    text,
};

/// Longest configuration, in bytes.
const MAX_CONFIG: usize = 1 << 20;
/// How long a dataplane may be away before an ADD or CHECK gives up: one that restarts is
/// back before that.
const ABSENT: Duration = Duration::from_secs(2);
/// How long the verbs take that wait for nothing but an answer.
const PROMPT: Duration = Duration::from_secs(1);

/// What a call comes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output; may be empty.
    pub output: String,
    /// For standard error.
    pub note: Option<String>,
    /// Whether it succeeded.
    pub success: bool,
}

impl Outcome {
    fn silent() -> Outcome {
        Outcome { output: String::new(), note: None, success: true }
    }
}

/// Does what the environment asks for.
pub fn run(get: impl Fn(&str) -> Option<OsString>, input: impl Read) -> Outcome {
    // Errors are said in the version of the configuration, as soon as that is known.
    let mut version = CNI_VERSIONS[CNI_VERSIONS.len() - 1];
    match serve(get, input, &mut version) {
        Ok(outcome) => outcome,
        Err(failure) => Outcome { output: failure.to_json(version), note: None, success: false },
    }
}

fn serve(
    get: impl Fn(&str) -> Option<OsString>,
    input: impl Read,
    version: &mut &'static str,
) -> Result<Outcome, Failure> {
    let environment = Environment::read(get)?;
    let input = read(input)?;
    if environment.verb == Verb::Version {
        return Ok(versions(&input));
    }
    let config = Config::parse(&input)?;
    let (name, first) = match environment.verb {
        Verb::Check => ("CHECK", "0.4.0"),
        Verb::Status => ("STATUS", "1.1.0"),
        Verb::Gc => ("GC", "1.1.0"),
        _ => ("ADD", CNI_VERSIONS[0]),
    };
    *version = config.version(name, first)?;
    match environment.verb {
        Verb::Add => add(&environment, &config, version),
        Verb::Check => check(&environment, &config),
        Verb::Del => Ok(del(&environment, &config)),
        Verb::Gc => gc(&config),
        Verb::Status | Verb::Version => status(&config),
    }
}

fn read(input: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_CONFIG).unwrap_or(u64::MAX);
    input
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::new(code::IO, format!("cannot read standard input: {e}")))?;
    if bytes.len() > MAX_CONFIG {
        let msg = format!("the network configuration has more than {MAX_CONFIG} bytes");
        return Err(Failure::new(code::IO, msg));
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::new(code::DECODE, "the network configuration is not UTF-8"))
}

/// VERSION: the version that was asked with is echoed.
fn versions(input: &str) -> Outcome {
    let newest = CNI_VERSIONS[CNI_VERSIONS.len() - 1];
    let asked = Config::parse(input).ok().and_then(|config| config.written_version().ok());
    let version = CNI_VERSIONS.iter().find(|known| Some(**known) == asked.as_deref());
    let output = serde_json::json!({
        "cniVersion": version.copied().unwrap_or(newest),
        "supportedVersions": CNI_VERSIONS,
    });
    Outcome { output: output.to_string(), ..Outcome::silent() }
}

fn add(environment: &Environment, config: &Config<'_>, version: &str) -> Result<Outcome, Failure> {
    let settings = config.settings()?;
    let attachment = attachment(environment, config)?;
    let who = who(&attachment);
    let netns = open_namespace(environment.netns.as_deref().unwrap_or(Path::new("")))?;
    let result = handed_on(config.prev_result().unwrap_or("{}"), version);
    let patience = Patience { total: settings.timeout, absent: ABSENT };
    // Chosen for when nobody enforces. What is refused for what it is stays refused.
    let unwatched = |words: &dyn std::fmt::Display| Outcome {
        note: Some(format!("{who} starts unjudged, as \"onFailure\": \"open\" wants: {words}")),
        output: result.clone(),
        success: true,
    };
    let open = settings.on_failure == OnFailure::Open;
    let answer =
        match client(&settings, patience).ask(&Request::Add(attachment), Some(netns.as_fd())) {
            Ok(answer) => answer,
            Err(error) if open => return Ok(unwatched(&error)),
            Err(error) => return Err(unanswered(&who, &error)),
        };
    match answer {
        Answer::Enforced { .. } => Ok(Outcome { output: result, ..Outcome::silent() }),
        Answer::Refused { code: Refusal::NoTable | Refusal::Busy, words } if open => {
            Ok(unwatched(&words))
        }
        Answer::Pending { waiting_for, words } => match settings.on_timeout {
            OnTimeout::Quarantine => {
                let note = format!("{who} is cut off until its policy is in force: {words}");
                Ok(Outcome { output: result, note: Some(note), success: true })
            }
            OnTimeout::Fail => Err(late(&who, &settings, waiting_for, &words)),
        },
        other => Err(refused(&who, other)),
    }
}

fn check(environment: &Environment, config: &Config<'_>) -> Result<Outcome, Failure> {
    let settings = config.settings()?;
    let attachment = attachment(environment, config)?;
    let who = who(&attachment);
    let netns = open_namespace(environment.netns.as_deref().unwrap_or(Path::new("")))?;
    let patience = Patience { total: settings.timeout, absent: ABSENT };
    let answer = client(&settings, patience)
        .ask(&Request::Check(attachment), Some(netns.as_fd()))
        .map_err(|error| unanswered(&who, &error))?;
    match answer {
        Answer::Enforced { .. } => Ok(Outcome::silent()),
        Answer::Pending { waiting_for, words } => Err(late(&who, &settings, waiting_for, &words)),
        // Whatever was lost since the ADD: it is not as it was.
        Answer::Refused { code: Refusal::NoDevice | Refusal::AddressTaken, words } => {
            Err(refused(&who, Answer::Refused { code: Refusal::Differs, words }))
        }
        other => Err(refused(&who, other)),
    }
}

/// A pod must always be removable: what is wrong is noted, no more. A dataplane that is away
/// finds by itself that the interface is gone.
fn del(environment: &Environment, config: &Config<'_>) -> Outcome {
    let tell = || -> Result<(), String> {
        let network = config.network().map_err(|failure| failure.msg)?;
        let settings = config.settings().unwrap_or_default();
        let id = AttachmentId {
            network,
            container: environment.container.clone(),
            ifname: environment.ifname.clone(),
        };
        let patience = Patience { total: PROMPT, absent: Duration::ZERO };
        match client(&settings, patience).ask(&Request::Del { id }, None) {
            Ok(Answer::Refused { words, .. }) => Err(words),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    };
    let note = tell()
        .err()
        .map(|words| format!("DEL of {} {}: {words}", environment.container, environment.ifname));
    Outcome { note, ..Outcome::silent() }
}

fn gc(config: &Config<'_>) -> Result<Outcome, Failure> {
    let settings = config.settings()?;
    let (network, valid) = (config.network()?, config.valid_attachments()?);
    let patience = Patience { total: settings.timeout, absent: Duration::ZERO };
    let who = format!("network {network}");
    match client(&settings, patience).ask(&Request::Gc { network, valid, more: false }, None) {
        Ok(Answer::Done { .. }) => Ok(Outcome::silent()),
        Ok(other) => Err(refused(&who, other)),
        Err(error) => Err(unanswered(&who, &error)),
    }
}

fn status(config: &Config<'_>) -> Result<Outcome, Failure> {
    let settings = config.settings()?;
    let patience = Patience { total: PROMPT, absent: Duration::ZERO };
    let (code, words) = match client(&settings, patience).ask(&Request::Status, None) {
        Ok(Answer::Ready) => return Ok(Outcome::silent()),
        Ok(Answer::NotReady { limited: true, words }) => (code::LIMITED, words),
        Ok(Answer::NotReady { words, .. } | Answer::Refused { words, .. }) => {
            (code::UNAVAILABLE, words)
        }
        Ok(other) => (code::UNAVAILABLE, format!("{other:?}")),
        Err(error) => (code::UNAVAILABLE, error.to_string()),
    };
    match settings.on_failure {
        OnFailure::Open => Ok(Outcome {
            note: Some(format!("pods start unjudged, as \"onFailure\": \"open\" wants: {words}")),
            ..Outcome::silent()
        }),
        OnFailure::Closed => Err(Failure::new(code, format!("weir cannot serve pods: {words}"))
            .advise("weir status and weir doctor say more")),
    }
}

fn client(settings: &Settings, patience: Patience) -> Client<'_> {
    Client { path: &settings.socket, software: SOFTWARE, patience }
}

/// What the dataplane is told.
fn attachment(environment: &Environment, config: &Config<'_>) -> Result<Attachment, Failure> {
    let made = config.made(&environment.ifname)?;
    let attachment = Attachment {
        id: AttachmentId {
            network: config.network()?,
            container: environment.container.clone(),
            ifname: environment.ifname.clone(),
        },
        netns: environment
            .netns
            .as_ref()
            .map_or_else(String::new, |path| path.display().to_string()),
        pod: environment.pod.clone(),
        host: devices(&made.host),
        mac: made.mac,
        addresses: made.addresses,
        host_ports: config.host_ports()?,
    };
    Request::Add(attachment.clone()).check().map_err(|words| {
        Failure::new(code::CONFIGURATION, format!("{}: {words}", who(&attachment)))
    })?;
    Ok(attachment)
}

/// Those of the devices that exist. Which of them is the pod's, the dataplane finds out.
fn devices(names: &[String]) -> Vec<HostDevice> {
    let flags = SocketFlags::CLOEXEC;
    let Ok(socket) = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None) else {
        return Vec::new();
    };
    let index = |name: &String| {
        let ifindex = netdevice::name_to_index(&socket, name).ok()?;
        Some(HostDevice { name: name.clone(), ifindex })
    };
    names.iter().filter_map(index).collect()
}

/// Opens the pod's namespace, and sees that it is one, and not the node's.
fn open_namespace(path: &Path) -> Result<File, Failure> {
    let wrong = |words: &str| {
        Failure::new(code::ENVIRONMENT, format!("CNI_NETNS is {}: {words}", path.display()))
    };
    let netns = File::open(path).map_err(|e| wrong(&e.to_string()))?;
    let id = namespace_id(&netns).map_err(|words| wrong(&words))?;
    let own = File::open("/proc/self/ns/net").ok().and_then(|own| namespace_id(own).ok());
    if own == Some(id) {
        return Err(wrong("it is the node's own namespace, which has no policies"));
    }
    Ok(netns)
}

/// `prevResult` to the byte, but that it must say the version of the configuration.
fn handed_on(prev: &str, version: &str) -> String {
    let quoted = format!("\"{version}\"");
    let whole = 0..prev.len();
    let members = text::members(prev, &whole).unwrap_or_default();
    match text::member(&members, "cniVersion") {
        Some(member) if text::string(prev, &member.value).as_deref() == Some(version) => {
            prev.to_owned()
        }
        Some(member) => {
            let mut result = prev.to_owned();
            result.replace_range(member.value.clone(), &quoted);
            result
        }
        None => {
            let rest = prev.strip_prefix('{').unwrap_or("}");
            let comma = if members.is_empty() { "" } else { "," };
            format!("{{\"cniVersion\":{quoted}{comma}{rest}")
        }
    }
}

/// What an attachment is called in messages.
fn who(attachment: &Attachment) -> String {
    match &attachment.pod {
        Some(pod) => format!("pod {}/{}", pod.namespace, pod.name),
        None => format!("container {}", attachment.id.container),
    }
}

fn late(who: &str, settings: &Settings, waiting_for: WaitingFor, words: &str) -> Failure {
    let seconds = settings.timeout.as_secs_f64();
    let advice = match waiting_for {
        WaitingFor::Control => "see that weir-control runs on this node (weir status)",
        WaitingFor::PodObject => {
            "weir-control does not know the pod: see that it reaches the API server (weir status)"
        }
        WaitingFor::Worker | WaitingFor::Other => "weir status says more",
    };
    Failure::new(
        code::LATER,
        format!("{who} is not connected: its policy is not in force after {seconds} s: {words}"),
    )
    .advise(advice)
}

fn unanswered(who: &str, error: &CniError) -> Failure {
    let (code, advice) = match error {
        CniError::Version { .. } => (code::SKEW, ""),
        CniError::Peer { .. } | CniError::Message { .. } => {
            (code::REFUSED, "see what listens at the socket")
        }
        _ => (
            code::LATER,
            "while Weir is in the chain, pods are connected only if weir-dataplane runs; \
             weir-cni uninstall takes it out",
        ),
    };
    Failure::new(code, format!("{who} is not connected: {error}")).advise(advice)
}

fn refused(who: &str, answer: Answer) -> Failure {
    let Answer::Refused { code: kind, words } = answer else {
        return Failure::new(code::REFUSED, format!("{who}: the dataplane answered {answer:?}"));
    };
    let (code, advice) = match kind {
        Refusal::Skew => (code::SKEW, "run weir-cni and weir-dataplane of the same release"),
        Refusal::Differs => (code::DIFFERS, "the pod must be made anew"),
        Refusal::NoDevice => (
            code::NO_DEVICE,
            "weir watches veth pairs; ipvlan, macvlan and SR-IOV interfaces cannot be enforced",
        ),
        Refusal::AddressTaken => (
            code::ADDRESS_TAKEN,
            "two that live have one address: see what the IPAM plugin has given out",
        ),
        Refusal::NoTable => (code::LATER, "no policies have come yet: see that weir-control runs"),
        Refusal::Busy => (code::LATER, ""),
        Refusal::BadRequest | Refusal::Other => (code::REFUSED, ""),
    };
    Failure::new(code, format!("{who} is not connected: {words}")).advise(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_is_handed_on_to_the_byte() {
        let prev = "{ \"ips\":[ {\"address\":\"10.0.0.1/32\",  \"x\":1.50e3} ],\n\"cniVersion\" : \"1.0.0\" ,\"z\":null}";
        assert_eq!(handed_on(prev, "1.0.0"), prev);
        assert_eq!(handed_on(prev, "0.4.0"), prev.replace("\"1.0.0\"", "\"0.4.0\""));
        assert_eq!(handed_on("{ \"a\":1}", "1.1.0"), "{\"cniVersion\":\"1.1.0\", \"a\":1}");
        assert_eq!(handed_on("{}", "1.1.0"), "{\"cniVersion\":\"1.1.0\"}");
    }

    fn call(variables: &[(&str, &str)], input: &[u8]) -> (bool, serde_json::Value) {
        let outcome = run(
            |name| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| v.into()),
            input,
        );
        (outcome.success, serde_json::from_str(&outcome.output).unwrap())
    }

    #[test]
    fn version_is_answered_whatever_it_is_asked_with() {
        for (input, said) in [
            (&br#"{"cniVersion":"0.4.0"}"#[..], "0.4.0"),
            (br#"{"cniVersion":"9.9.9"}"#, "1.1.0"),
            (b"", "1.1.0"),
        ] {
            let (success, answer) = call(&[("CNI_COMMAND", "VERSION")], input);
            assert!(success);
            assert_eq!(answer["cniVersion"], said);
            assert_eq!(answer["supportedVersions"][3], "1.1.0");
        }
    }

    #[test]
    fn errors_are_said_in_the_version_of_the_configuration() {
        let add = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", "/proc/self/ns/net"),
            ("CNI_IFNAME", "eth0"),
        ];
        let config = |rest: &str| {
            format!(r#"{{"cniVersion":"0.4.0","name":"lab","type":"weir-cni"{rest}}}"#)
        };
        let prev = config(r#","prevResult":{"ips":[]}"#);
        for (input, version, code, words) in [
            ("{".to_owned(), "1.1.0", code::DECODE, "cannot read the network configuration"),
            (r#"{"cniVersion":"0.2.0"}"#.into(), "1.1.0", code::VERSION, "incompatible CNI"),
            (config(""), "0.4.0", code::CONFIGURATION, "no prevResult"),
            (prev, "0.4.0", code::ENVIRONMENT, "the node's own namespace"),
            ("x".repeat(MAX_CONFIG + 1), "1.1.0", code::IO, "more than 1048576 bytes"),
        ] {
            let (success, answer) = call(&add, input.as_bytes());
            assert!(!success);
            assert_eq!(answer["cniVersion"], version);
            assert_eq!(answer["code"], code);
            let msg = answer["msg"].as_str().unwrap();
            assert!(msg.contains(words), "{msg} should say: {words}");
        }
        let (_, answer) = call(&add, b"\xff");
        assert_eq!(answer["code"], code::DECODE);
    }
}
