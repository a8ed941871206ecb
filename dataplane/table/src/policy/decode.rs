//! Reading a policy table: parse, then check, in an order that lets each check
//! rely on those before it.
//!
//! The order is: label, endianness, version, length, hash, section directory,
//! strings, then every index that any record holds, and at last that nothing is
//! without a meaning (`canonical`). After [`parse`] a lookup only follows
//! indices that are known to be in range.

use super::{
    image::Verdict,
    layout::{
        self, AT_DIRECTORY, AT_ENDIAN, AT_GENERATION, AT_HASH, AT_LENGTH, AT_VERSION, CLOSED_BITS,
        ENDIAN_MARK, FORMAT_VERSION, HEADER_BYTES, LABEL, ROW_BITS, SECTION_ALIGN, SECTIONS,
        Section, u32_at, u64_at, u128_at,
    },
};

/// Why bytes are no policy table.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the header, or than the header says.
    #[error("the policy table is cut off: {found} bytes where {needed} are needed")]
    TooShort {
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        found: u64,
    },
    /// Longer than the header says.
    #[error("the policy table has {found} bytes but its header says {expected}")]
    TooLong {
        /// Length by the header.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// Something else altogether.
    #[error("these bytes are no policy table: they do not begin with \"weir policy\"")]
    Label,
    /// Written on a machine of the other byte order.
    #[error("the policy table was written in another byte order (mark {found:#010x})")]
    Endianness {
        /// The mark found.
        found: u32,
    },
    /// Written by another version.
    #[error(
        "the policy table has format version {found} but this program reads {FORMAT_VERSION}; \
         run weir-control and weir-dataplane of the same release"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// The content does not match its hash.
    #[error("the policy table is damaged: its content does not match its hash")]
    Hash,
    /// A section lies outside the table, overlaps another, or is too large.
    #[error("the policy table's section \"{section}\" does not lie where it must")]
    Section {
        /// The section.
        section: &'static str,
    },
    /// Names that are not UTF-8, or that lie outside the strings.
    #[error("record {record} of the policy table's \"{section}\" has no readable name")]
    Name {
        /// The section.
        section: &'static str,
        /// The record in it.
        record: usize,
    },
    /// An index out of range, or an order that does not hold.
    #[error("record {record} of the policy table's \"{section}\" is invalid: {problem}")]
    Record {
        /// The section.
        section: &'static str,
        /// The record in it.
        record: usize,
        /// What does not hold.
        problem: &'static str,
    },
    /// A section that must not be empty.
    #[error("the policy table has no {section}")]
    Empty {
        /// The section.
        section: &'static str,
    },
}

/// The section directory, read once: byte offsets and counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory {
    pub(super) generation: u64,
    offsets: [usize; SECTIONS],
    counts: [usize; SECTIONS],
}

impl Directory {
    /// How many elements a section has.
    #[inline]
    pub(super) fn count(&self, section: Section) -> usize {
        self.counts[section as usize]
    }

    /// Byte offset of field `field` (in u32 units) of an element.
    #[inline]
    pub(super) fn at(&self, section: Section, element: usize, field: usize) -> usize {
        self.offsets[section as usize] + element * section.element() + field * 4
    }
}

/// Checks all of `bytes` and gives the directory.
pub(super) fn parse(bytes: &[u8]) -> Result<Directory, DecodeError> {
    let found = bytes.len() as u64;
    if bytes.len() < HEADER_BYTES {
        return Err(DecodeError::TooShort { needed: HEADER_BYTES as u64, found });
    }
    if bytes[..LABEL.len()] != LABEL {
        return Err(DecodeError::Label);
    }
    let mark = u32_at(bytes, AT_ENDIAN);
    if mark != ENDIAN_MARK {
        return Err(DecodeError::Endianness { found: mark });
    }
    let version = u32_at(bytes, AT_VERSION);
    if version != FORMAT_VERSION {
        return Err(DecodeError::Version { found: version });
    }
    let length = u64_at(bytes, AT_LENGTH);
    if found < length {
        return Err(DecodeError::TooShort { needed: length, found });
    }
    if found > length {
        return Err(DecodeError::TooLong { expected: length, found });
    }
    if u64_at(bytes, AT_HASH) != layout::content_hash(bytes) {
        return Err(DecodeError::Hash);
    }
    let directory = parse_directory(bytes)?;
    Checker { bytes, directory: &directory }.all()?;
    Ok(directory)
}

fn parse_directory(bytes: &[u8]) -> Result<Directory, DecodeError> {
    let mut directory = Directory {
        generation: u64_at(bytes, AT_GENERATION),
        offsets: [0; SECTIONS],
        counts: [0; SECTIONS],
    };
    let mut end = HEADER_BYTES as u64;
    for section in Section::ALL {
        let error = DecodeError::Section { section: section.name() };
        let at = AT_DIRECTORY + 16 * section as usize;
        let (offset, count) = (u64_at(bytes, at), u64_at(bytes, at + 8));
        // Indices are u32, so no section can use more.
        if offset != end || count > u64::from(u32::MAX) {
            return Err(error);
        }
        let size = (count * section.element() as u64).next_multiple_of(SECTION_ALIGN as u64);
        end = match offset.checked_add(size) {
            Some(end) if end <= bytes.len() as u64 => end,
            _ => return Err(error),
        };
        match (usize::try_from(offset), usize::try_from(count)) {
            (Ok(offset), Ok(count)) => {
                directory.offsets[section as usize] = offset;
                directory.counts[section as usize] = count;
            }
            _ => return Err(error),
        }
    }
    if end != bytes.len() as u64 {
        return Err(DecodeError::TooLong { expected: end, found: bytes.len() as u64 });
    }
    Ok(directory)
}

/// The checks of what the sections hold.
pub(super) struct Checker<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) directory: &'a Directory,
}

impl Checker<'_> {
    fn all(&self) -> Result<(), DecodeError> {
        for section in [Section::Classes, Section::Programs, Section::V4Starts, Section::V6Starts] {
            if self.directory.count(section) == 0 {
                return Err(DecodeError::Empty { section: section.name() });
            }
        }
        self.names()?;
        self.classes()?;
        self.intervals()?;
        self.rows()?;
        self.programs()?;
        self.unrestricted()?;
        self.services()?;
        self.canonical()
    }

    pub(super) fn field(&self, section: Section, record: usize, field: usize) -> u32 {
        u32_at(self.bytes, self.directory.at(section, record, field))
    }

    /// Whether `index` names an element of `section`.
    pub(super) fn names_one(&self, section: Section, index: u32) -> bool {
        (index as usize) < self.directory.count(section)
    }

    /// Whether `first .. first + count` lies in `section`.
    pub(super) fn names_range(&self, section: Section, first: u32, count: usize) -> bool {
        first as usize + count <= self.directory.count(section)
    }

    pub(super) fn require(
        &self,
        holds: bool,
        section: Section,
        record: usize,
        problem: &'static str,
    ) -> Result<(), DecodeError> {
        if holds {
            Ok(())
        } else {
            Err(DecodeError::Record { section: section.name(), record, problem })
        }
    }

    fn names(&self) -> Result<(), DecodeError> {
        let start = self.directory.at(Section::Strings, 0, 0);
        let strings = self
            .bytes
            .get(start..start + self.directory.count(Section::Strings))
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .ok_or(DecodeError::Name { section: Section::Strings.name(), record: 0 })?;
        for section in [Section::Policies, Section::Rules] {
            for record in 0..self.directory.count(section) {
                let first = self.field(section, record, 1) as usize;
                let length = self.field(section, record, 2) as usize;
                if strings.get(first..first + length).is_none() {
                    return Err(DecodeError::Name { section: section.name(), record });
                }
                let kind_or_policy = self.field(section, record, 0);
                let holds = match section {
                    Section::Policies => kind_or_policy <= 1,
                    _ => self.names_one(Section::Policies, kind_or_policy),
                };
                self.require(holds, section, record, "unknown kind or policy")?;
            }
        }
        Ok(())
    }

    fn classes(&self) -> Result<(), DecodeError> {
        for record in 0..self.directory.count(Section::Classes) {
            for field in 0..2 {
                let program = self.field(Section::Classes, record, field);
                let holds = self.names_one(Section::Programs, program);
                self.require(holds, Section::Classes, record, "unknown program")?;
            }
        }
        Ok(())
    }

    fn intervals(&self) -> Result<(), DecodeError> {
        let start = |section, record| {
            let at = self.directory.at(section, record, 0);
            match section {
                Section::V6Starts => u128_at(self.bytes, at),
                _ => u128::from(u32_at(self.bytes, at)),
            }
        };
        for (starts, classes) in
            [(Section::V4Starts, Section::V4Classes), (Section::V6Starts, Section::V6Classes)]
        {
            let count = self.directory.count(starts);
            let holds = count == self.directory.count(classes);
            self.require(holds, classes, 0, "not one class an interval")?;
            self.require(start(starts, 0) == 0, starts, 0, "does not begin at address 0")?;
            for record in 0..count {
                let ascends = record == 0 || start(starts, record - 1) < start(starts, record);
                self.require(ascends, starts, record, "does not ascend")?;
                let class = self.field(classes, record, 0);
                let holds = self.names_one(Section::Classes, class);
                self.require(holds, classes, record, "unknown class")?;
            }
        }
        Ok(())
    }

    fn rows(&self) -> Result<(), DecodeError> {
        let rules = u32::try_from(self.directory.count(Section::Rules)).unwrap_or(u32::MAX);
        for record in 0..self.directory.count(Section::Palette) {
            let verdict = Verdict::from_bits(self.field(Section::Palette, record, 0));
            let holds = verdict.is_valid(rules);
            self.require(holds, Section::Palette, record, "verdict of an unknown rule")?;
        }
        let classes = self.directory.count(Section::Classes);
        for row in 0..self.directory.count(Section::Rows) {
            let require = |holds, problem| self.require(holds, Section::Rows, row, problem);
            let [bits, first_entry, entries, first_word] =
                [0, 1, 2, 3].map(|field| self.field(Section::Rows, row, field));
            require(ROW_BITS.contains(&bits), "unknown index width")?;
            let closed = bits <= CLOSED_BITS;
            require(!closed || entries == 1 << bits, "palette does not fit the width")?;
            require(
                self.names_range(Section::Palette, first_entry, entries as usize),
                "palette out of range",
            )?;
            let words = layout::index_words(classes, bits);
            require(self.names_range(Section::Indices, first_word, words), "out of range")?;
            if !closed {
                let mask = u32::MAX >> (32 - bits);
                let in_range = (0..classes).all(|class| {
                    let bit = class * bits as usize;
                    let word = self.field(Section::Indices, first_word as usize + bit / 32, 0);
                    (word >> (bit % 32)) & mask < entries
                });
                require(in_range, "index beyond the palette")?;
            }
        }
        Ok(())
    }

    fn programs(&self) -> Result<(), DecodeError> {
        for program in 0..self.directory.count(Section::Programs) {
            let require = |holds, problem| self.require(holds, Section::Programs, program, problem);
            let field = |field| self.field(Section::Programs, program, field);
            for row in [field(0), field(1)] {
                require(self.names_one(Section::Rows, row), "unknown row")?;
            }
            for protocol in 0..3 {
                let (first, count) = (field(2 + 2 * protocol), field(3 + 2 * protocol) as usize);
                require(count > 0, "no port spans")?;
                require(self.names_range(Section::Spans, first, count), "spans out of range")?;
                let first = first as usize;
                require(self.field(Section::Spans, first, 0) == 0, "ports do not begin at 0")?;
                for span in first..first + count {
                    let port = self.field(Section::Spans, span, 0);
                    let ascends = span == first || self.field(Section::Spans, span - 1, 0) < port;
                    require(ascends && port <= 0xffff, "ports do not ascend")?;
                    let row = self.field(Section::Spans, span, 1);
                    require(self.names_one(Section::Rows, row), "span of an unknown row")?;
                }
            }
            let (first, count) = (field(8), field(9) as usize);
            require(self.names_range(Section::Isolating, first, count), "policies out of range")?;
        }
        for record in 0..self.directory.count(Section::Isolating) {
            let policy = self.field(Section::Isolating, record, 0);
            let holds = self.names_one(Section::Policies, policy);
            self.require(holds, Section::Isolating, record, "unknown policy")?;
        }
        Ok(())
    }

    /// Program 0 allows everything; lookups rely on it without reading it.
    fn unrestricted(&self) -> Result<(), DecodeError> {
        let field = |field| self.field(Section::Programs, 0, field);
        let allows = |row: u32| {
            let row = row as usize;
            self.field(Section::Rows, row, 0) == 0
                && self.field(Section::Palette, self.field(Section::Rows, row, 1) as usize, 0)
                    == Verdict::ALLOW_UNRESTRICTED.to_bits()
        };
        let mut holds = field(9) == 0 && allows(field(0)) && allows(field(1));
        for protocol in 0..3 {
            let first = field(2 + 2 * protocol) as usize;
            let count = field(3 + 2 * protocol) as usize;
            holds &= (first..first + count).all(|s| allows(self.field(Section::Spans, s, 1)));
        }
        self.require(holds, Section::Programs, 0, "does not allow everything")
    }
}
