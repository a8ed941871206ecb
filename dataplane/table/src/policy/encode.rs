//! Packs a [`PolicyImage`] into the bytes of a policy table.
//!
//! Equal rows are stored once. A row holds a palette of the verdicts that occur
//! in it and, for each class, an index of just as many bits as the palette
//! needs; a row of one verdict needs none. So a cluster of ten thousand classes
//! costs about a kilobyte a row, and a lookup stays one load, shift and mask.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::{
    image::{PolicyImage, PolicyKind, Program, ProgramId, Span, Verdict},
    layout::{
        self, AT_DIRECTORY, AT_ENDIAN, AT_GENERATION, AT_HASH, AT_LENGTH, AT_VERSION, CLOSED_BITS,
        ENDIAN_MARK, FORMAT_VERSION, HEADER_BYTES, LABEL, ROW_BITS, SECTION_ALIGN, SECTIONS,
        Section,
    },
    prefix, service,
};
use crate::addr::Address;

/// Why an image cannot be made into a table: always a fault of the compiler
/// that made the image, or a limit of the format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// An index points outside.
    #[error("the image's {from} names {what} {index}, but there are only {count}")]
    Unknown {
        /// Where the index stands.
        from: &'static str,
        /// What it names.
        what: &'static str,
        /// The index.
        index: u32,
        /// How many there are.
        count: usize,
    },
    /// There has to be at least one.
    #[error("the image has no {what}; at least one is needed")]
    Empty {
        /// What is missing.
        what: &'static str,
    },
    /// Program 0 is not the one that allows everything.
    #[error("program 0 of the image must allow everything and be isolated by no policy")]
    UnrestrictedProgram,
    /// A row does not hold one verdict a class.
    #[error("row {row} of the image holds {found} verdicts for {classes} classes")]
    RowLength {
        /// The row.
        row: usize,
        /// Verdicts in it.
        found: usize,
        /// Classes of the image.
        classes: usize,
    },
    /// A verdict that may not stand in a table, or that names an unknown rule.
    #[error("row {row} of the image holds {verdict:?}, but there are only {rules} rules")]
    BadVerdict {
        /// The row.
        row: usize,
        /// The verdict.
        verdict: Verdict,
        /// Rules of the image.
        rules: usize,
    },
    /// Spans that do not cover all ports once.
    #[error("the {protocol} spans of program {program} must begin at port 0 and ascend")]
    Spans {
        /// The program.
        program: usize,
        /// The protocol.
        protocol: &'static str,
    },
    /// An address family without a prefix that matches everything.
    #[error("the image's prefixes lack {prefix}")]
    NoDefaultPrefix {
        /// The missing prefix.
        prefix: &'static str,
    },
    /// One prefix, two classes.
    #[error("the image gives one prefix of length /{length} two classes, {} and {}", .classes.0, .classes.1)]
    PrefixConflict {
        /// Its length in bits.
        length: u8,
        /// The two classes.
        classes: (u32, u32),
    },
    /// An address, protocol or port that no Service can have, or two Services with the same.
    #[error("the image's Service at {} protocol {protocol} port {port} {problem}", .address.to_ip())]
    Service {
        /// Its address.
        address: Address,
        /// Its protocol.
        protocol: u8,
        /// Its port.
        port: u16,
        /// What does not hold.
        problem: &'static str,
    },
    /// More than 32 bits of index can name.
    #[error("the image has too many {what} for one table; narrow the policies' selectors")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
}

/// Checks `image` and packs it.
///
/// # Errors
/// [`EncodeError`] names what does not hold; nothing is left half done.
pub fn encode(image: &PolicyImage) -> Result<Vec<u8>, EncodeError> {
    let mut out = Sections::default();
    let mut strings = Strings::default();
    encode_policies(image, &mut out, &mut strings)?;
    out.raw(Section::Strings, strings.bytes.as_bytes());
    encode_classes(image, &mut out)?;
    let rows = encode_rows(image, &mut out)?;
    encode_programs(image, &rows, &mut out)?;
    service::encode(image, &mut out)?;
    out.finish(image.generation)
}

fn encode_policies(
    image: &PolicyImage,
    out: &mut Sections,
    strings: &mut Strings,
) -> Result<(), EncodeError> {
    for policy in &image.policies {
        let kind = match policy.kind {
            PolicyKind::NetworkPolicy => 0,
            PolicyKind::ClusterNetworkPolicy => 1,
        };
        let (offset, length) = strings.intern(&policy.name)?;
        out.u32s(Section::Policies, &[kind, offset, length]);
    }
    if image.rules.len() >= Verdict::MAX_RULES as usize {
        return Err(EncodeError::TooMany { what: "rules" });
    }
    for rule in &image.rules {
        known("rule", "policy", rule.policy, image.policies.len())?;
        let (offset, length) = strings.intern(&rule.path)?;
        out.u32s(Section::Rules, &[rule.policy, offset, length]);
    }
    Ok(())
}

fn encode_classes(image: &PolicyImage, out: &mut Sections) -> Result<(), EncodeError> {
    if image.classes.is_empty() {
        return Err(EncodeError::Empty { what: "class" });
    }
    for class in &image.classes {
        known("class", "program", class.ingress.0, image.programs.len())?;
        known("class", "program", class.egress.0, image.programs.len())?;
        out.u32s(Section::Classes, &[class.ingress.0, class.egress.0]);
    }
    for &(_, class) in &image.prefixes {
        known("prefix", "class", class, image.classes.len())?;
    }
    let (v4, v6) = prefix::intervals(&image.prefixes)?;
    for (first, class) in v4 {
        let first = u32::try_from(first).map_err(|_| EncodeError::TooMany { what: "addresses" })?;
        out.u32s(Section::V4Starts, &[first]);
        out.u32s(Section::V4Classes, &[class]);
    }
    for (first, class) in v6 {
        out.raw(Section::V6Starts, &first.to_ne_bytes());
        out.u32s(Section::V6Classes, &[class]);
    }
    Ok(())
}

/// Packs the rows; gives the stored row of each row of the image.
fn encode_rows(image: &PolicyImage, out: &mut Sections) -> Result<Vec<u32>, EncodeError> {
    let rules = u32::try_from(image.rules.len()).unwrap_or(u32::MAX);
    // With all the room at once: to grow is to hash every long row again.
    let mut stored: FxHashMap<&[Verdict], u32> =
        FxHashMap::with_capacity_and_hasher(image.rows.len(), Default::default());
    let mut palettes: FxHashMap<Vec<Verdict>, u32> = FxHashMap::default();
    let mut map = Vec::with_capacity(image.rows.len());
    for (number, row) in image.rows.iter().enumerate() {
        if row.len() != image.classes.len() {
            return Err(EncodeError::RowLength {
                row: number,
                found: row.len(),
                classes: image.classes.len(),
            });
        }
        let slot = match stored.entry(&row[..]) {
            Entry::Occupied(same) => {
                map.push(*same.get());
                continue;
            }
            Entry::Vacant(slot) => slot,
        };
        let (palette, indices) = palette_of(row);
        if let Some(&verdict) = palette.iter().find(|v| !v.is_valid(rules)) {
            let rules = image.rules.len();
            return Err(EncodeError::BadVerdict { row: number, verdict, rules });
        }
        let bits = bits_for(palette.len());
        let mut padded = palette;
        if bits <= CLOSED_BITS {
            padded.resize(1 << bits, Verdict::DENY_ISOLATED);
        }
        let entries = index("palette entries", padded.len())?;
        let first_entry = match palettes.get(&padded) {
            Some(&first) => first,
            None => {
                let first = index("palette entries", out.count(Section::Palette))?;
                for verdict in &padded {
                    out.u32s(Section::Palette, &[verdict.to_bits()]);
                }
                palettes.insert(padded, first);
                first
            }
        };
        let first_word = index("row indices", out.count(Section::Indices))?;
        out.u32s(Section::Indices, &pack(&indices, bits));
        let this = index("rows", out.count(Section::Rows))?;
        out.u32s(Section::Rows, &[bits, first_entry, entries, first_word]);
        slot.insert(this);
        map.push(this);
    }
    Ok(map)
}

fn encode_programs(
    image: &PolicyImage,
    rows: &[u32],
    out: &mut Sections,
) -> Result<(), EncodeError> {
    let Some(unrestricted) = image.programs.first() else {
        return Err(EncodeError::Empty { what: "program" });
    };
    let row = |from, row: u32| match rows.get(row as usize) {
        Some(&stored) => Ok(stored),
        None => Err(EncodeError::Unknown { from, what: "row", index: row, count: rows.len() }),
    };
    for (number, program) in image.programs.iter().enumerate() {
        let mut record = vec![row("program", program.icmp)?, row("program", program.other)?];
        for (protocol, spans) in spans_of(program) {
            if spans.first().is_none_or(|s| s.first != 0)
                || spans.windows(2).any(|pair| pair[0].first >= pair[1].first)
            {
                return Err(EncodeError::Spans { program: number, protocol });
            }
            let first = index("port spans", out.count(Section::Spans))?;
            record.extend([first, index("port spans", spans.len())?]);
            for span in spans {
                out.u32s(Section::Spans, &[u32::from(span.first), row("span", span.row)?]);
            }
        }
        record.extend([
            index("isolating policies", out.count(Section::Isolating))?,
            index("isolating policies", program.isolating.len())?,
        ]);
        for &policy in &program.isolating {
            known("program", "policy", policy, image.policies.len())?;
            out.u32s(Section::Isolating, &[policy]);
        }
        out.u32s(Section::Programs, &record);
    }
    // Checked after the rest, so that its row numbers are known to be good.
    let allows =
        |row: u32| image.rows[row as usize].iter().all(|&v| v == Verdict::ALLOW_UNRESTRICTED);
    let all_rows = spans_of(unrestricted)
        .into_iter()
        .flat_map(|(_, spans)| spans.iter().map(|s| s.row))
        .chain([unrestricted.icmp, unrestricted.other]);
    debug_assert_eq!(ProgramId::UNRESTRICTED.0, 0);
    if !unrestricted.isolating.is_empty() || !all_rows.into_iter().all(allows) {
        return Err(EncodeError::UnrestrictedProgram);
    }
    Ok(())
}

fn spans_of(program: &Program) -> [(&'static str, &[Span]); 3] {
    [("TCP", &program.tcp), ("UDP", &program.udp), ("SCTP", &program.sctp)]
}

/// The distinct verdicts in order of appearance, and each class's index.
fn palette_of(row: &[Verdict]) -> (Vec<Verdict>, Vec<u32>) {
    /// Up to this many verdicts are compared one by one, which for them is faster than a hash.
    const FEW: usize = 8;
    let mut palette: Vec<Verdict> = Vec::new();
    let mut known: FxHashMap<Verdict, u32> = FxHashMap::default();
    let number = |position: usize| u32::try_from(position).unwrap_or(u32::MAX);
    let mut indices = Vec::with_capacity(row.len());
    let mut previous: Option<(Verdict, u32)> = None;
    for &verdict in row {
        // Neighbours are often equal.
        let position = match previous {
            Some((same, position)) if same == verdict => position,
            _ => match palette.iter().take(FEW).position(|known| *known == verdict) {
                Some(position) => number(position),
                None if palette.len() < FEW => {
                    palette.push(verdict);
                    number(palette.len() - 1)
                }
                None => *known.entry(verdict).or_insert_with(|| {
                    palette.push(verdict);
                    number(palette.len() - 1)
                }),
            },
        };
        previous = Some((verdict, position));
        indices.push(position);
    }
    (palette, indices)
}

/// Bits of an index into a palette of `entries` verdicts.
fn bits_for(entries: usize) -> u32 {
    ROW_BITS.into_iter().find(|&bits| entries <= 1usize << bits).unwrap_or(32)
}

fn pack(indices: &[u32], bits: u32) -> Vec<u32> {
    let mut words = vec![0u32; layout::index_words(indices.len(), bits)];
    if bits == 0 {
        return words;
    }
    // The width divides 32, so no index straddles two words.
    for (word, indices) in words.iter_mut().zip(indices.chunks(32 / bits as usize)) {
        *word = indices.iter().rev().fold(0, |word, position| {
            // The shift is by 32 for the widest index, of which there is one a word.
            word.checked_shl(bits).unwrap_or(0) | position
        });
    }
    words
}

pub(super) fn known(
    from: &'static str,
    what: &'static str,
    index: u32,
    count: usize,
) -> Result<(), EncodeError> {
    if (index as usize) < count {
        Ok(())
    } else {
        Err(EncodeError::Unknown { from, what, index, count })
    }
}

pub(super) fn index(what: &'static str, value: usize) -> Result<u32, EncodeError> {
    u32::try_from(value).map_err(|_| EncodeError::TooMany { what })
}

/// The strings, each once.
#[derive(Default)]
struct Strings {
    bytes: String,
    known: FxHashMap<String, (u32, u32)>,
}

impl Strings {
    fn intern(&mut self, text: &str) -> Result<(u32, u32), EncodeError> {
        if let Some(&place) = self.known.get(text) {
            return Ok(place);
        }
        let place = (index("names", self.bytes.len())?, index("names", text.len())?);
        self.bytes.push_str(text);
        self.known.insert(text.to_owned(), place);
        Ok(place)
    }
}

/// The sections while they grow.
#[derive(Default)]
pub(super) struct Sections {
    bytes: [Vec<u8>; SECTIONS],
}

impl Sections {
    pub(super) fn raw(&mut self, section: Section, bytes: &[u8]) {
        self.bytes[section as usize].extend_from_slice(bytes);
    }

    pub(super) fn u32s(&mut self, section: Section, values: &[u32]) {
        for value in values {
            self.raw(section, &value.to_ne_bytes());
        }
    }

    pub(super) fn count(&self, section: Section) -> usize {
        self.bytes[section as usize].len() / section.element()
    }

    fn finish(self, generation: u64) -> Result<Vec<u8>, EncodeError> {
        let padded = |len: usize| len.next_multiple_of(SECTION_ALIGN);
        let total = HEADER_BYTES + self.bytes.iter().map(|b| padded(b.len())).sum::<usize>();
        let mut out = Vec::with_capacity(total);
        out.resize(HEADER_BYTES, 0);
        let put = |out: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(&mut out, 0, &LABEL);
        put(&mut out, AT_ENDIAN, &ENDIAN_MARK.to_ne_bytes());
        put(&mut out, AT_VERSION, &FORMAT_VERSION.to_ne_bytes());
        put(&mut out, AT_LENGTH, &(total as u64).to_ne_bytes());
        put(&mut out, AT_GENERATION, &generation.to_ne_bytes());
        for section in Section::ALL {
            index(section.name(), self.count(section))?;
            let at = AT_DIRECTORY + 16 * section as usize;
            let offset = out.len() as u64;
            put(&mut out, at, &offset.to_ne_bytes());
            put(&mut out, at + 8, &(self.count(section) as u64).to_ne_bytes());
            out.extend_from_slice(&self.bytes[section as usize]);
            out.resize(padded(out.len()), 0);
        }
        let hash = layout::content_hash(&out);
        put(&mut out, AT_HASH, &hash.to_ne_bytes());
        Ok(out)
    }
}
