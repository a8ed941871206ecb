//! Sets of classes, as bits.

/// A set of class numbers below a bound that all sets of one compilation share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ClassSet {
    words: Box<[u64]>,
}

impl ClassSet {
    /// The empty set over `bound` classes.
    pub(super) fn empty(bound: usize) -> Self {
        Self { words: vec![0; bound.div_ceil(64)].into_boxed_slice() }
    }

    /// Every class below `bound`.
    pub(super) fn full(bound: usize) -> Self {
        let mut set = Self::empty(bound);
        for class in 0..bound {
            set.insert(class);
        }
        set
    }

    /// Adds a class, which must be below the bound.
    pub(super) fn insert(&mut self, class: usize) {
        self.words[class / 64] |= 1 << (class % 64);
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Removes from `self` what is in `a` (and in `b`, if given), calling `f` for each removed.
    pub(super) fn take(&mut self, a: &Self, b: Option<&Self>, mut f: impl FnMut(usize)) {
        for (i, word) in self.words.iter_mut().enumerate() {
            let mut taken = *word & a.words[i] & b.map_or(u64::MAX, |b| b.words[i]);
            *word &= !taken;
            while taken != 0 {
                f(i * 64 + taken.trailing_zeros() as usize);
                taken &= taken - 1;
            }
        }
    }
}
