//! The list of endpoints in the run directory: for `weir status`, and for a daemon that starts
//! again, which would else not know what is whose.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Pods;
use crate::claims::{Claims, Held};
use crate::clock;
use crate::discover::Binding;
use crate::state;
use crate::words::{Word, Words};

/// One pod interface (`endpoints.json`).
#[derive(Debug, Serialize)]
pub struct EndpointRecord<'a> {
    /// Index of the host-side device.
    pub ifindex: u32,
    /// Name of the host-side device.
    pub device: &'a str,
    /// Name of the pod's network namespace.
    pub netns: &'a str,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
    /// What of these it came with.
    pub came_with: &'a [IpAddr],
    /// What of these control has named: its own to others.
    pub settled: &'a [IpAddr],
    /// What of these it has added to the ones that it came with: without effect.
    pub ignored: &'a [IpAddr],
    /// True if it claims an address that another has.
    pub quarantined: bool,
    /// True if both hooks are on the device.
    pub attached: bool,
    /// True if it was there before the first daemon.
    pub adopted: bool,
    /// True if the CNI plugin has spoken of it, be it that it has withdrawn its word.
    pub worded: bool,
    /// Whose it is by the CNI plugin's word, `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// True if that pod's policy is in force.
    pub placed: bool,
    /// True if it is cut off: not placed yet, or without the word that it needs.
    pub held: bool,
    /// What the CNI plugin says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word: Option<&'a Word>,
}

/// What a daemon that starts again wants of a record.
#[derive(Debug, Deserialize)]
struct Kept {
    ifindex: u32,
    #[serde(default)]
    device: String,
    #[serde(default)]
    netns: String,
    #[serde(default)]
    came_with: Vec<IpAddr>,
    settled: Vec<IpAddr>,
    #[serde(default = "before_words")]
    adopted: bool,
    #[serde(default)]
    worded: bool,
    #[serde(default)]
    word: Option<Word>,
}

/// An interface that a daemon has seen which knew of no words does without one.
fn before_words() -> bool {
    true
}

/// What the last daemon left.
pub(super) struct Before {
    pub claims: Claims,
    pub words: Words,
    /// The interfaces of which there is a word: known even if no scan finds them.
    pub bindings: Vec<Binding>,
}

/// What was whose when the last daemon wrote its endpoints; nothing, if there is no such file
/// or, which is said, it is not readable.
pub(super) fn before(run_dir: &Path, required: bool) -> Before {
    // Above every ticket of this boot: tickets are given far more seldom than once a microsecond.
    let floor = clock::monotonic_ns() / 1000;
    let path = run_dir.join(state::ENDPOINTS);
    let read = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.to_string())),
        Ok(json) => Some(serde_json::from_slice::<Vec<Kept>>(&json).map_err(|e| e.to_string())),
    };
    if let Some(Err(error)) = &read {
        tracing::error!(
            path = %path.display(), error,
            "what an earlier daemon has left cannot be read: pods that the CNI plugin has told of \
             are known by their looks alone; make pods anew that are cut off"
        );
    }
    let Some(Ok(records)) = read else {
        let (claims, words) = (Claims::new(required), Words::resumed([], floor));
        return Before { claims, words, bindings: Vec::new() };
    };
    let mut bindings = Vec::new();
    let (mut held, mut words) = (Vec::new(), Vec::new());
    for record in records {
        let Kept { ifindex, device, netns, came_with, settled, adopted, worded, word } = record;
        held.push((ifindex, Held { came_with, settled, worded, adopted }));
        let Some(word) = word else { continue };
        bindings.push(Binding {
            ifindex,
            device,
            mtu: 0,
            mac: None,
            addresses: word.addresses.clone(),
            netns,
            namespace: (0, 0),
            interface: word.id.ifname.clone(),
        });
        words.push((ifindex, word));
    }
    let claims = Claims::resumed(required, held);
    Before { claims, words: Words::resumed(words, floor), bindings }
}

impl Pods {
    /// Writes the list; whether it is written is remembered, since nobody may be told of a word
    /// that a restart would forget.
    pub(super) fn write_records(&mut self) {
        let held: Vec<Held> = self.bindings.iter().map(|b| self.claims.held(b.ifindex)).collect();
        let records: Vec<EndpointRecord<'_>> = self
            .bindings
            .iter()
            .zip(&self.standings)
            .zip(&held)
            .map(|((b, standing), held)| (b, standing, held, self.words.of(b.ifindex)))
            .map(|(b, standing, held, word)| EndpointRecord {
                ifindex: b.ifindex,
                device: &b.device,
                netns: &b.netns,
                addresses: &b.addresses,
                came_with: &held.came_with,
                settled: &held.settled,
                ignored: &standing.added,
                quarantined: !standing.stolen.is_empty(),
                attached: self.attached.contains(&b.ifindex),
                adopted: held.adopted,
                worded: held.worded,
                pod: word.filter(|word| word.pod.is_some()).map(Word::name),
                placed: word.is_some_and(Word::is_placed),
                held: standing.wordless
                    || word.is_some_and(|word| word.pod.is_some() && !word.is_placed()),
                word,
            })
            .collect();
        let written: io::Result<()> = serde_json::to_vec(&records)
            .map_err(io::Error::from)
            .and_then(|json| state::replace(&self.run_dir.join(state::ENDPOINTS), &json));
        self.unrecorded = written.err().map(|error| error.to_string());
        if let Some(error) = &self.unrecorded {
            tracing::warn!(
                error,
                "cannot write {}; `weir status` shows old pods, and pods that are made now are not \
                 told to be enforced",
                state::ENDPOINTS
            );
        }
    }
}
