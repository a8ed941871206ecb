//! The second half of a table's checks: nothing in it is without a meaning.
//!
//! A byte that no lookup reads could hold anything. So what is stored is stored in one way only:
//! runs of one record after another fill their section without gap or overlap, padding is zero, and
//! of a palette every entry that does not deny is used. Two tables that say the same are then equal
//! byte for byte, and a fault in whatever wrote or carried one is a refusal or a difference that
//! can be seen.

use super::{
    decode::{Checker, DecodeError},
    image::Verdict,
    layout::{self, Section},
};

/// What classes do with an entry of their row's palette.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A verdict that nobody has would be without a meaning.
    Must,
    /// The first entry that denies: some class's verdict, or the filling.
    May,
    /// The filling behind it, which would say the same a second time.
    MustNot,
}

impl Checker<'_> {
    /// All of it; relies on the checks of indices and ranges.
    pub(super) fn canonical(&self) -> Result<(), DecodeError> {
        self.padding()?;
        self.strings()?;
        self.runs()?;
        self.backend_runs()?;
        self.palettes()
    }

    /// Bytes between the end of a section and the next.
    fn padding(&self) -> Result<(), DecodeError> {
        for (i, section) in Section::ALL.into_iter().enumerate() {
            let end = self.directory.at(section, self.directory.count(section), 0);
            let next = match Section::ALL.get(i + 1) {
                Some(&next) => self.directory.at(next, 0, 0),
                None => self.bytes.len(),
            };
            let zero = self.bytes.get(end..next).is_some_and(|gap| gap.iter().all(|b| *b == 0));
            let record = self.directory.count(section);
            self.require(zero, section, record, "padding is not zero")?;
        }
        Ok(())
    }

    /// Each name begins where the last new one ended, or repeats one from before.
    fn strings(&self) -> Result<(), DecodeError> {
        let mut end = 0;
        for section in [Section::Policies, Section::Rules] {
            for record in 0..self.directory.count(section) {
                let first = self.field(section, record, 1) as usize;
                let last = first + self.field(section, record, 2) as usize;
                if first == end {
                    end = last;
                }
                self.require(last <= end, section, record, "its name leaves a gap")?;
            }
        }
        let all = end == self.directory.count(Section::Strings);
        self.require(all, Section::Strings, 0, "text that nothing names")
    }

    /// Spans, isolating policies and index words, each record's after those of the one before.
    fn runs(&self) -> Result<(), DecodeError> {
        let (mut spans, mut isolating, mut words) = (0, 0, 0);
        for program in 0..self.directory.count(Section::Programs) {
            let field = |field| self.field(Section::Programs, program, field) as usize;
            let mut holds = field(8) == isolating;
            isolating += field(9);
            for protocol in 0..3 {
                holds &= field(2 + 2 * protocol) == spans;
                spans += field(3 + 2 * protocol);
            }
            self.require(holds, Section::Programs, program, "spans or policies out of order")?;
        }
        let classes = self.directory.count(Section::Classes);
        for row in 0..self.directory.count(Section::Rows) {
            let holds = self.field(Section::Rows, row, 3) as usize == words;
            self.require(holds, Section::Rows, row, "indices out of order")?;
            words += layout::index_words(classes, self.field(Section::Rows, row, 0));
        }
        for (section, used) in
            [(Section::Spans, spans), (Section::Isolating, isolating), (Section::Indices, words)]
        {
            let all = used == self.directory.count(section);
            self.require(all, section, used, "a record that nothing names")?;
        }
        Ok(())
    }

    /// Palettes follow one another or are shared; each verdict in one is some class's, or fills the
    /// palette up: then it denies and is no class's; bits of a row's last word behind its last class
    /// are zero.
    fn palettes(&self) -> Result<(), DecodeError> {
        let mut end = 0;
        let mut uses: Vec<Use> = Vec::new();
        for row in 0..self.directory.count(Section::Rows) {
            let require = |holds, problem| self.require(holds, Section::Rows, row, problem);
            let [bits, first, entries, word] =
                [0, 1, 2, 3].map(|field| self.field(Section::Rows, row, field));
            let (first, entries) = (first as usize, entries as usize);
            if first == end {
                end += entries;
            }
            require(first + entries <= end, "its palette leaves a gap")?;
            let mut denies = 0;
            uses.clear();
            uses.extend((first..first + entries).map(|entry| {
                let denied = self.field(Section::Palette, entry, 0);
                let fills = denied == Verdict::DENY_ISOLATED.to_bits();
                denies += usize::from(fills);
                match (fills, denies) {
                    (false, _) => Use::Must,
                    (true, 1) => Use::May,
                    (true, _) => Use::MustNot,
                }
            }));
            require(self.uses_hold(bits, word as usize, &mut uses), "a verdict that no class has")?;
        }
        let all = end == self.directory.count(Section::Palette);
        self.require(all, Section::Palette, end, "a record that nothing names")?;
        self.last_words()
    }

    /// Whether the classes of a row use its palette as they must. For most rows that is known after
    /// few classes.
    fn uses_hold(&self, bits: u32, first_word: usize, uses: &mut [Use]) -> bool {
        if bits == 0 {
            return true;
        }
        let mut wanting = uses.iter().filter(|entry| **entry == Use::Must).count();
        let forbidden = uses.contains(&Use::MustNot);
        let classes = self.directory.count(Section::Classes);
        let per_word = 32 / bits as usize;
        for (word, first) in (first_word..).zip((0..classes).step_by(per_word)) {
            if wanting == 0 && !forbidden {
                return true;
            }
            let mut packed = self.field(Section::Indices, word, 0);
            for _ in first..classes.min(first + per_word) {
                let entry = packed & (u32::MAX >> (32 - bits));
                packed = packed.checked_shr(bits).unwrap_or(0);
                match uses.get_mut(entry as usize) {
                    Some(entry @ Use::Must) => {
                        *entry = Use::May;
                        wanting -= 1;
                    }
                    Some(Use::May) => {}
                    Some(Use::MustNot) | None => return false,
                }
            }
        }
        wanting == 0
    }

    fn last_words(&self) -> Result<(), DecodeError> {
        let classes = self.directory.count(Section::Classes);
        for row in 0..self.directory.count(Section::Rows) {
            let bits = self.field(Section::Rows, row, 0);
            let words = layout::index_words(classes, bits);
            let used = classes * bits as usize % 32;
            if words > 0 && used > 0 {
                let last = self.field(Section::Rows, row, 3) as usize + words - 1;
                let zero = self.field(Section::Indices, last, 0) >> used == 0;
                self.require(zero, Section::Rows, row, "indices behind the last class")?;
            }
        }
        Ok(())
    }
}
