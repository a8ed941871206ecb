//! Verdicts without a dataplane: manifests in, answers out, through the compiled table.
//!
//! [`Offline`] holds what the workers would hold: the encoded, validated table and an address map,
//! joined in the same [`Classifier`]. So `weir eval` shows what would be enforced and not what some
//! second implementation thinks.

mod line;
pub mod matrix;
pub mod probe;

use serde::Serialize;
use weir_table::addrmap::{AddressMapError, AddressMapWriter};
use weir_table::classify::{Classifier, GenerationMismatch, Judgement, Outlook};
use weir_table::mem::{SharedWords, Words};
use weir_table::policy::{
    ClassId, DecodeError, EncodeError, PolicyTable, ProgramId, Verdict, encode,
};

use crate::compile::{Compiled, compile};
use crate::index::Index;

/// Why a compiled index could not be made into a table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The image is beyond the format's limits.
    #[error("the policies do not fit the table: {0}")]
    Encode(#[from] EncodeError),
    /// The encoder's bytes were refused by the decoder.
    #[error("the encoded table is invalid: {0}")]
    Decode(#[from] DecodeError),
    /// The address map could not be made.
    #[error("the address map cannot be made: {0}")]
    Addresses(#[from] AddressMapError),
    /// Table and map disagree.
    #[error(transparent)]
    Generation(#[from] GenerationMismatch),
}

/// A compiled table in this process's own memory.
#[derive(Debug)]
pub struct Offline {
    /// The objects.
    pub index: Index,
    /// The compiler's result.
    pub compiled: Compiled,
    /// The function that the workers call, on the same bytes.
    pub classifier: Classifier<Vec<u8>, SharedWords>,
}

impl Offline {
    /// Compiles, encodes and validates.
    ///
    /// # Errors
    /// [`TableError`], if the policies exceed what a table can hold.
    pub fn of(index: Index) -> Result<Self, TableError> {
        const GENERATION: u64 = 1;
        let mut compiled = compile(&index);
        compiled.image.generation = GENERATION;
        let table = PolicyTable::from_bytes(encode(&compiled.image)?)?;
        let mut map = AddressMapWriter::private(GENERATION, compiled.addresses.len())?;
        for (address, class) in &compiled.addresses {
            map.insert(*address, ClassId(*class))?;
        }
        let classifier = Classifier::new(table, map.into_reader()?)?;
        Ok(Self { index, compiled, classifier })
    }
}

/// One direction's verdict, as `weir eval` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SideAnswer {
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// The policy that decided: of the matching rule, or the first that isolates. Absent if no
    /// policy selects this end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The rule that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// `allow` or `deny`.
pub fn word(allowed: bool) -> &'static str {
    if allowed { "allow" } else { "deny" }
}

/// Puts a verdict of `program` into words.
pub fn side_answer<B: AsRef<[u8]>>(
    table: &PolicyTable<B>,
    program: Option<ProgramId>,
    verdict: Verdict,
) -> SideAnswer {
    let rule = verdict.rule().and_then(|rule| table.rule(rule));
    let policy = match &rule {
        Some(rule) => Some(rule.policy.to_owned()),
        None => program.and_then(|program| table.isolating(program).next()).map(str::to_owned),
    };
    SideAnswer {
        verdict: word(verdict.is_allow()),
        policy,
        rule: rule.map(|rule| rule.path.to_owned()),
    }
}

/// Both directions of a judgement in words: egress, ingress.
pub fn answers<B: AsRef<[u8]>, W: Words>(
    classifier: &Classifier<B, W>,
    connection: &weir_table::classify::Connection,
    judgement: Judgement,
) -> (SideAnswer, SideAnswer) {
    let table = classifier.table();
    // A pod's traffic to itself is judged by no program.
    let own = connection.src == connection.dst;
    let programs = |address| {
        let programs = table.programs(classifier.class_of(address)).filter(|_| !own);
        (programs.map(|p| p.0), programs.map(|p| p.1))
    };
    let egress = side_answer(table, programs(connection.src).1, judgement.egress);
    let ingress = side_answer(table, programs(connection.dst).0, judgement.ingress);
    (egress, ingress)
}

/// What becomes of a connection to a Service, by kinds of its backends: those that policies do not
/// tell apart are one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Backends {
    /// Kinds that both ends' policies let the connection have.
    pub reached: usize,
    /// All kinds.
    pub kinds: usize,
}

impl Backends {
    /// Of a connection; `None` if it goes to no Service of which policies have to know.
    pub fn of(outlook: &Outlook) -> Option<Self> {
        let reach = outlook.reach?;
        let kinds = reach.allowed + reach.denied_here + reach.denied_elsewhere;
        Some(Self { reached: outlook.reached, kinds })
    }
}
