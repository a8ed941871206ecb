//! Lookups in a validated policy table.

use super::{
    decode::{self, DecodeError, Directory},
    image::{ClassId, PolicyKind, ProgramId, RuleId, Verdict},
    layout::{AT_DIRECTORY, AT_HASH, Section, u32_at, u128_at},
};
use crate::addr::Address;

/// IANA protocol numbers that have rules of their own.
const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;

/// One generation of policy, generic over where its bytes live: a sealed
/// mapping in the dataplane, a `Vec<u8>` in `weir eval` and in tests.
///
/// Invariant: the bytes passed [`PolicyTable::from_bytes`] and cannot change
/// (`B::as_ref` gives the same bytes each time). No lookup panics, allocates or
/// reads outside the bytes; every index that it follows was checked then.
#[derive(Debug)]
pub struct PolicyTable<B> {
    bytes: B,
    directory: Directory,
}

/// A rule, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleRef<'a> {
    /// `namespace/name` of the policy.
    pub policy: &'a str,
    /// The policy's kind.
    pub kind: PolicyKind,
    /// Where the rule stands in the policy: `spec.ingress[0].from[1]`.
    pub path: &'a str,
}

/// How large a table is, for `weir status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Policies.
    pub policies: usize,
    /// Rules of all policies.
    pub rules: usize,
    /// Classes that some policy tells apart.
    pub classes: usize,
    /// Address intervals of both families.
    pub intervals: usize,
    /// Distinct programs (directions of endpoints).
    pub programs: usize,
    /// Distinct rows of verdicts.
    pub rows: usize,
    /// Addresses and ports of Services.
    pub services: usize,
    /// Bytes in memory.
    pub bytes: usize,
}

impl<B: AsRef<[u8]>> PolicyTable<B> {
    /// Checks all of `bytes`, once, and takes them over.
    ///
    /// # Errors
    /// [`DecodeError`] names the first thing that does not hold.
    pub fn from_bytes(bytes: B) -> Result<PolicyTable<B>, DecodeError> {
        let directory = decode::parse(bytes.as_ref())?;
        Ok(PolicyTable { bytes, directory })
    }

    /// The generation that this table is.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.directory.generation
    }

    /// Where the sections are.
    #[inline]
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The whole table as bytes, to keep a copy.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// How large the table is.
    pub fn counts(&self) -> Counts {
        let count = |section| self.directory.count(section);
        Counts {
            policies: count(Section::Policies),
            rules: count(Section::Rules),
            classes: count(Section::Classes),
            intervals: count(Section::V4Starts) + count(Section::V6Starts),
            programs: count(Section::Programs),
            rows: count(Section::Rows),
            services: count(Section::Services),
            bytes: self.bytes.as_ref().len(),
        }
    }

    /// How many classes there are; a [`ClassId`] from elsewhere must be lower.
    #[inline]
    pub fn classes(&self) -> usize {
        self.directory.count(Section::Classes)
    }

    /// The class of an address that belongs to no known pod: that of the
    /// longest prefix that contains it.
    #[inline]
    pub fn class_of_prefix(&self, address: Address) -> ClassId {
        let bytes = self.bytes.as_ref();
        let directory = &self.directory;
        let (interval, classes) = match address.v4_bits() {
            Some(bits) => {
                let start = |i| u32_at(bytes, directory.at(Section::V4Starts, i, 0));
                let interval =
                    last_at_most(directory.count(Section::V4Starts), |i| start(i) <= bits);
                (interval, Section::V4Classes)
            }
            None => {
                let start = |i| u128_at(bytes, directory.at(Section::V6Starts, i, 0));
                let bits = address.bits();
                let interval =
                    last_at_most(directory.count(Section::V6Starts), |i| start(i) <= bits);
                (interval, Section::V6Classes)
            }
        };
        ClassId(u32_at(bytes, directory.at(classes, interval, 0)))
    }

    /// The programs (ingress, egress) of a class; `None` for a class that this
    /// generation does not know.
    #[inline]
    pub fn programs(&self, class: ClassId) -> Option<(ProgramId, ProgramId)> {
        let class = class.0 as usize;
        if class >= self.directory.count(Section::Classes) {
            return None;
        }
        let field = |field| {
            let at = self.directory.at(Section::Classes, class, field);
            ProgramId(u32_at(self.bytes.as_ref(), at))
        };
        Some((field(0), field(1)))
    }

    /// What `program` says about a connection with a member of class `peer`.
    ///
    /// `protocol` is the IANA number; `dport` the destination port in host
    /// order, ignored where the protocol has no ports. A peer class or a program
    /// that this generation does not know is [`Verdict::DENY_BAD_CLASS`].
    #[inline]
    pub fn judge(&self, program: ProgramId, peer: ClassId, protocol: u8, dport: u16) -> Verdict {
        let peer = peer.0 as usize;
        if peer >= self.directory.count(Section::Classes)
            || program.0 as usize >= self.directory.count(Section::Programs)
        {
            return Verdict::DENY_BAD_CLASS;
        }
        if program == ProgramId::UNRESTRICTED {
            return Verdict::ALLOW_UNRESTRICTED;
        }
        self.verdict(self.row(program.0 as usize, protocol, dport), peer)
    }

    /// The row that a program has for a protocol and port.
    #[inline]
    fn row(&self, program: usize, protocol: u8, dport: u16) -> usize {
        let bytes = self.bytes.as_ref();
        let field = |field| u32_at(bytes, self.directory.at(Section::Programs, program, field));
        let spans = match protocol {
            TCP => 2,
            UDP => 4,
            SCTP => 6,
            ICMP | ICMPV6 => return field(0) as usize,
            _ => return field(1) as usize,
        };
        let (first, count) = (field(spans) as usize, field(spans + 1) as usize);
        let port = |i| u32_at(bytes, self.directory.at(Section::Spans, first + i, 0));
        let span = last_at_most(count, |i| port(i) <= u32::from(dport));
        u32_at(bytes, self.directory.at(Section::Spans, first + span, 1)) as usize
    }

    /// The verdict of a row for a class: load, shift, mask, palette.
    #[inline]
    fn verdict(&self, row: usize, class: usize) -> Verdict {
        let bytes = self.bytes.as_ref();
        let field = |field| u32_at(bytes, self.directory.at(Section::Rows, row, field));
        let bits = field(0);
        let entry = if bits == 0 {
            0
        } else {
            let bit = class * bits as usize;
            let word = field(3) as usize + bit / 32;
            let word = u32_at(bytes, self.directory.at(Section::Indices, word, 0));
            // The width divides 32, so no index straddles two words.
            (word >> (bit % 32)) & (u32::MAX >> (32u32.wrapping_sub(bits) & 31))
        };
        let at = self.directory.at(Section::Palette, field(1) as usize + entry as usize, 0);
        Verdict::from_bits(u32_at(bytes, at))
    }

    /// A rule in words; `None` for a rule that this generation does not know.
    pub fn rule(&self, rule: RuleId) -> Option<RuleRef<'_>> {
        let rule = rule.0 as usize;
        if rule >= self.directory.count(Section::Rules) {
            return None;
        }
        let policy = u32_at(self.bytes.as_ref(), self.directory.at(Section::Rules, rule, 0));
        let (kind, name) = self.policy(policy as usize)?;
        Some(RuleRef { policy: name, kind, path: self.name(Section::Rules, rule) })
    }

    /// The policies that select the endpoints of `program` in its direction:
    /// why they are isolated.
    pub fn isolating(&self, program: ProgramId) -> impl ExactSizeIterator<Item = &str> {
        let program = program.0 as usize;
        let known = program < self.directory.count(Section::Programs);
        let field = move |field| {
            u32_at(self.bytes.as_ref(), self.directory.at(Section::Programs, program, field))
        };
        let (first, count) = if known { (field(8), field(9)) } else { (0, 0) };
        (first..first + count).map(move |i| {
            let at = self.directory.at(Section::Isolating, i as usize, 0);
            // That there is one was checked when the table was read.
            let policy = self.policy(u32_at(self.bytes.as_ref(), at) as usize);
            policy.map_or("", |(_, name)| name)
        })
    }

    /// Every policy: its kind and its name.
    pub fn policies(&self) -> impl Iterator<Item = (PolicyKind, &str)> {
        (0..self.directory.count(Section::Policies)).filter_map(|policy| self.policy(policy))
    }

    /// Whether another table says the same, word for word; it may be another
    /// generation.
    pub(crate) fn says_the_same<C: AsRef<[u8]>>(&self, other: &PolicyTable<C>) -> bool {
        // Generation and hash stand between the length and the directory.
        let (one, other) = (self.bytes.as_ref(), other.bytes.as_ref());
        one.get(..AT_HASH) == other.get(..AT_HASH)
            && one.get(AT_DIRECTORY..) == other.get(AT_DIRECTORY..)
    }

    /// The intervals of IPv4 addresses: the first address's bits and the class,
    /// ascending from 0.
    pub(crate) fn v4_intervals(&self) -> impl Iterator<Item = (u32, ClassId)> {
        let bytes = self.bytes.as_ref();
        (0..self.directory.count(Section::V4Starts)).map(move |i| {
            let start = u32_at(bytes, self.directory.at(Section::V4Starts, i, 0));
            (start, ClassId(u32_at(bytes, self.directory.at(Section::V4Classes, i, 0))))
        })
    }

    /// The intervals of IPv6 addresses, in the same way.
    pub(crate) fn v6_intervals(&self) -> impl Iterator<Item = (u128, ClassId)> {
        let bytes = self.bytes.as_ref();
        (0..self.directory.count(Section::V6Starts)).map(move |i| {
            let start = u128_at(bytes, self.directory.at(Section::V6Starts, i, 0));
            (start, ClassId(u32_at(bytes, self.directory.at(Section::V6Classes, i, 0))))
        })
    }

    /// Protocols whose ports programs tell apart: TCP, UDP, SCTP.
    pub(crate) const PORT_PROTOCOLS: usize = 3;

    /// The rows of a program for ICMP and for other protocols without ports.
    /// `program` is one that a class of this table names.
    pub(crate) fn portless_rows(&self, program: ProgramId) -> impl Iterator<Item = u32> {
        (0..2).map(move |field| self.program_field(program, field))
    }

    /// The spans of a program for one of the [`PolicyTable::PORT_PROTOCOLS`]:
    /// first port and row, ascending from port 0.
    pub(crate) fn spans(
        &self,
        program: ProgramId,
        protocol: usize,
    ) -> impl Iterator<Item = (u32, u32)> {
        let first = self.program_field(program, 2 + 2 * protocol) as usize;
        let count = self.program_field(program, 3 + 2 * protocol) as usize;
        (first..first + count).map(move |span| {
            let field =
                |field| u32_at(self.bytes.as_ref(), self.directory.at(Section::Spans, span, field));
            (field(0), field(1))
        })
    }

    fn program_field(&self, program: ProgramId, field: usize) -> u32 {
        let at = self.directory.at(Section::Programs, program.0 as usize, field);
        u32_at(self.bytes.as_ref(), at)
    }

    /// Which classes a row allows: bit `c % 64` of word `c / 64` of `allowed` for
    /// class `c`; bits behind the last class mean nothing. `row` is one that a
    /// program of this table names. Gives how many steps that took.
    pub(crate) fn allowed_classes(&self, row: u32, allowed: &mut Vec<u64>) -> usize {
        let bytes = self.bytes.as_ref();
        let [bits, palette, entries, first] = [0, 1, 2, 3]
            .map(|field| u32_at(bytes, self.directory.at(Section::Rows, row as usize, field)));
        let allows = |entry: u32| {
            let at = self.directory.at(Section::Palette, (palette + entry) as usize, 0);
            Verdict::from_bits(u32_at(bytes, at)).is_allow()
        };
        let ones = |yes: bool| if yes { u64::MAX } else { 0 };
        let classes = self.classes();
        allowed.clear();
        allowed.resize(classes.div_ceil(64), ones(bits == 0 && allows(0)));
        if bits == 0 {
            return allowed.len();
        }
        let index = |word| {
            u64::from(u32_at(bytes, self.directory.at(Section::Indices, first as usize + word, 0)))
        };
        if bits == 1 {
            // Deny or one rule, as most rows: the indices are the bits.
            let (zero, one) = (ones(allows(0)), ones(allows(1)));
            for (i, out) in allowed.iter_mut().enumerate() {
                let upper = if 64 * i + 32 < classes { index(2 * i + 1) } else { 0 };
                let bits = upper << 32 | index(2 * i);
                *out = bits & one | !bits & zero;
            }
            return allowed.len();
        }
        let palette: Vec<bool> = (0..entries).map(allows).collect();
        let mask = u64::MAX >> (64 - bits);
        let per_word = 32 / bits as usize;
        for first in (0..classes).step_by(per_word) {
            let mut word = index(first / per_word);
            for class in first..classes.min(first + per_word) {
                let entry = usize::try_from(word & mask).unwrap_or(usize::MAX);
                let yes = palette.get(entry).copied().unwrap_or(false);
                allowed[class / 64] |= u64::from(yes) << (class % 64);
                word >>= bits;
            }
        }
        palette.len() + classes
    }

    fn policy(&self, policy: usize) -> Option<(PolicyKind, &str)> {
        if policy >= self.directory.count(Section::Policies) {
            return None;
        }
        let kind = u32_at(self.bytes.as_ref(), self.directory.at(Section::Policies, policy, 0));
        let kind = match kind {
            0 => PolicyKind::NetworkPolicy,
            _ => PolicyKind::ClusterNetworkPolicy,
        };
        Some((kind, self.name(Section::Policies, policy)))
    }

    fn name(&self, section: Section, record: usize) -> &str {
        let bytes = self.bytes.as_ref();
        let field = |field| u32_at(bytes, self.directory.at(section, record, field)) as usize;
        let start = self.directory.at(Section::Strings, 0, 0) + field(1);
        let text = bytes.get(start..start + field(2)).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

/// The last index below `count` for which `at_most` holds, given that it holds
/// for index 0 and, once false, stays false. No branch depends on the data, so
/// an unpredictable address costs no misprediction.
#[inline]
pub(super) fn last_at_most(count: usize, at_most: impl Fn(usize) -> bool) -> usize {
    let (mut base, mut size) = (0, count);
    while size > 1 {
        let half = size / 2;
        base = if at_most(base + half) { base + half } else { base };
        size -= half;
    }
    base
}
