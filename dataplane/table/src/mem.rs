//! Shared memory: the one room of this crate where unsafe code is allowed.
//!
//! Two kinds of memory leave this room, and both are safe to use whatever the
//! process at the other end does:
//!
//! - [`Mapping`]: bytes that nobody can change any more. It is made only of a
//!   memfd that carries all four seals, so that handing out `&[u8]` is sound.
//! - [`SharedWords`]: words that others do change. It only ever hands out
//!   atomics, so a hostile writer can make a value wrong but not undefined.
//!
//! The hint that a word will soon be read ([`prefetch`]) is an instruction that the language has
//! no safe name for, and so is here too.
//!
//! Invariants: a mapping is page aligned, at least as long as the slice made of
//! it, and lives exactly as long as its owner. The one accident left is a file
//! that shrinks under a mapping (SIGBUS): sealed memfds cannot, BPF maps cannot,
//! and [`SharedWords::map`] says what its caller has to know.
#![allow(unsafe_code)]

use crate::sync::{Arc, AtomicU64};

#[cfg(not(loom))]
pub use mapped::{Access, MapError, Mapping, SharedWords};

/// Anything that gives a run of shared 64-bit words: a mapping, or heap words
/// in tests and in loom models.
pub trait Words {
    /// The words. The same slice at every call.
    fn words(&self) -> &[AtomicU64];

    /// Whether the words may be written. A store to words that are mapped
    /// read-only ends the process (SIGSEGV), so every writing type asks this
    /// once when it is made.
    fn writable(&self) -> bool {
        true
    }
}

impl Words for Vec<AtomicU64> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

impl<W: Words + ?Sized> Words for &W {
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        (**self).words()
    }

    fn writable(&self) -> bool {
        (**self).writable()
    }
}

impl<W: Words> Words for Arc<W> {
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        (**self).words()
    }

    fn writable(&self) -> bool {
        (**self).writable()
    }
}

/// Begins to bring the cache line of a word, to be read soon, into the cache, and waits for
/// nothing: an access to the line a few hundred instructions later finds it there. A load
/// would do the same, but the processor can only run as far ahead of a load that misses as it
/// has room to remember what to do afterwards, which is a packet or two.
#[inline]
#[allow(unused_variables)] // nothing to do where there is no such instruction
pub fn prefetch(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: a prefetch reads and writes nothing and cannot fault, whatever the address; this
    // one is that of a live reference. Every x86-64 processor has the instruction (SSE).
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast());
    }
    #[cfg(all(target_arch = "aarch64", not(loom)))]
    // SAFETY: as above; `prfm` is part of the base instruction set and changes no register.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{word}]",
            word = in(reg) std::ptr::from_ref(word),
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Heap words, all zero; what loom and unit tests use.
pub fn heap_words(len: usize) -> Vec<AtomicU64> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

/// Under loom there is no mapped memory, only modelled words.
#[cfg(loom)]
#[derive(Debug)]
pub struct SharedWords(Vec<AtomicU64>);

#[cfg(loom)]
impl SharedWords {
    /// `len` zero words.
    pub fn heap(len: usize) -> SharedWords {
        SharedWords(heap_words(len))
    }
}

#[cfg(loom)]
impl Words for SharedWords {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

#[cfg(not(loom))]
mod mapped {
    use std::{
        ffi::c_void,
        io,
        os::fd::BorrowedFd,
        ptr::{self, NonNull},
        slice,
    };

    use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

    use super::Words;
    use crate::{
        seal::{self, Guarantee, SealError},
        sync::AtomicU64,
    };

    /// Why memory could not be mapped.
    #[derive(Debug, thiserror::Error)]
    pub enum MapError {
        /// The descriptor does not guarantee that its content stays.
        #[error(transparent)]
        Seal(#[from] SealError),
        /// Nothing to map, or more than the address space holds.
        #[error("cannot map the {what}: its length of {bytes} bytes is not usable")]
        Length {
            /// What was to be mapped.
            what: &'static str,
            /// The length asked for or found.
            bytes: u64,
        },
        /// The file ends before the length asked for.
        #[error(
            "cannot map the {what}: {wanted} bytes are needed but the file holds {found}; \
             was it written by another version?"
        )]
        TooShort {
            /// What was to be mapped.
            what: &'static str,
            /// The length asked for.
            wanted: u64,
            /// The length found.
            found: u64,
        },
        /// A system call failed.
        #[error("cannot map the {what}: {source}")]
        System {
            /// What was to be mapped.
            what: &'static str,
            /// What the kernel said.
            source: io::Error,
        },
    }

    /// A page-aligned stretch of mapped memory, unmapped when dropped.
    #[derive(Debug)]
    struct Pages {
        start: NonNull<c_void>,
        bytes: usize,
    }

    // SAFETY: a mapping belongs to the process, not to a thread; what may be
    // done with the memory is governed by the two types that hold `Pages`.
    unsafe impl Send for Pages {}
    // SAFETY: as above; `Pages` itself offers nothing but its address.
    unsafe impl Sync for Pages {}

    impl Pages {
        /// Maps `bytes` of `fd` (or anonymous memory) from offset 0.
        fn map(
            what: &'static str,
            fd: Option<BorrowedFd<'_>>,
            bytes: usize,
            prot: ProtFlags,
            flags: MapFlags,
        ) -> Result<Pages, MapError> {
            if bytes == 0 || isize::try_from(bytes).is_err() {
                return Err(MapError::Length { what, bytes: bytes as u64 });
            }
            let hint = ptr::null_mut();
            // SAFETY: no address is asked for and MAP_FIXED is not among the
            // flags, so the kernel picks a range that nothing else uses.
            let mapped = unsafe {
                match fd {
                    Some(fd) => mmap(hint, bytes, prot, flags, fd, 0),
                    None => mmap_anonymous(hint, bytes, prot, flags),
                }
            };
            let start =
                mapped.map_err(|e| MapError::System { what, source: io::Error::from(e) })?;
            match NonNull::new(start) {
                Some(start) => Ok(Pages { start, bytes }),
                None => Err(MapError::Length { what, bytes: bytes as u64 }),
            }
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: exactly the range that `map` obtained; slices made of it
            // borrow the owner, so none can be alive here.
            let result = unsafe { munmap(self.start.as_ptr(), self.bytes) };
            debug_assert!(result.is_ok(), "munmap of our own range cannot fail");
        }
    }

    fn file_length(what: &'static str, fd: BorrowedFd<'_>) -> Result<u64, MapError> {
        let stat = rustix::fs::fstat(fd)
            .map_err(|e| MapError::System { what, source: io::Error::from(e) })?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// The bytes of a memfd that is sealed for good: immutable, so an ordinary
    /// `&[u8]`. The pages are faulted in when it is made, so that no packet
    /// waits for them.
    #[derive(Debug)]
    pub struct Mapping(Pages);

    impl Mapping {
        /// Maps the whole of `fd`. `what` names it in errors ("policy table").
        ///
        /// # Errors
        /// [`MapError::Seal`] when a seal is missing, [`MapError::Length`] when
        /// it is empty, [`MapError::System`] when the kernel refuses.
        pub fn of_sealed(fd: BorrowedFd<'_>, what: &'static str) -> Result<Mapping, MapError> {
            seal::require(fd, what, Guarantee::Immutable)?;
            // Asked only now: the size cannot change once the seals are there.
            let length = file_length(what, fd)?;
            let bytes =
                usize::try_from(length).map_err(|_| MapError::Length { what, bytes: length })?;
            let flags = MapFlags::SHARED | MapFlags::POPULATE;
            Pages::map(what, Some(fd), bytes, ProtFlags::READ, flags).map(Mapping)
        }
    }

    impl AsRef<[u8]> for Mapping {
        #[inline]
        fn as_ref(&self) -> &[u8] {
            // SAFETY: `start` is valid for `bytes` bytes of readable memory as
            // long as `self` lives, any byte is a valid u8, and the four seals
            // checked by `of_sealed` rule out that anyone writes or truncates.
            unsafe { slice::from_raw_parts(self.0.start.as_ptr().cast::<u8>(), self.0.bytes) }
        }
    }

    /// How shared words are mapped.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Access {
        /// Loads only.
        ReadOnly,
        /// Loads and stores.
        ReadWrite,
    }

    /// Words shared with other processes, with BPF programs, or with nobody.
    #[derive(Debug)]
    pub struct SharedWords {
        pages: Pages,
        words: usize,
        writable: bool,
    }

    impl SharedWords {
        /// Maps `words` 64-bit words of `fd` from its beginning: a memfd or a
        /// `BPF_F_MMAPABLE` map. `what` names it in errors ("address map").
        ///
        /// The length of a file is checked, that of a BPF map by the kernel.
        /// A file that its owner shrinks afterwards ends the process at the next
        /// access (SIGBUS): ask [`seal::require`] first where the other side is
        /// not trusted.
        ///
        /// # Errors
        /// [`MapError`], naming `what`.
        pub fn map(
            fd: BorrowedFd<'_>,
            words: usize,
            access: Access,
            what: &'static str,
        ) -> Result<SharedWords, MapError> {
            let wanted = (words as u64).saturating_mul(8);
            let bytes =
                usize::try_from(wanted).map_err(|_| MapError::Length { what, bytes: wanted })?;
            let stat = rustix::fs::fstat(fd)
                .map_err(|e| MapError::System { what, source: io::Error::from(e) })?;
            let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode)
                == rustix::fs::FileType::RegularFile;
            let found = u64::try_from(stat.st_size).unwrap_or(0);
            if is_file && found < wanted {
                return Err(MapError::TooShort { what, wanted, found });
            }
            let writable = access == Access::ReadWrite;
            let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
            let pages = Pages::map(what, Some(fd), bytes, prot, MapFlags::SHARED)?;
            Ok(SharedWords { pages, words, writable })
        }

        /// Maps the whole of a memory file whose length is a multiple of eight.
        ///
        /// # Errors
        /// [`MapError`], naming `what`.
        pub fn map_all(
            fd: BorrowedFd<'_>,
            access: Access,
            what: &'static str,
        ) -> Result<SharedWords, MapError> {
            let length = file_length(what, fd)?;
            match usize::try_from(length / 8) {
                Ok(words) if length % 8 == 0 => SharedWords::map(fd, words, access, what),
                _ => Err(MapError::Length { what, bytes: length }),
            }
        }

        /// `len` zero words that nobody shares: tests, simulations, `weir eval`.
        ///
        /// # Panics
        /// When the memory is not to be had, as any allocation does.
        pub fn heap(len: usize) -> SharedWords {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let bytes = len.max(1).saturating_mul(8);
            match Pages::map("private words", None, bytes, prot, MapFlags::PRIVATE) {
                Ok(pages) => SharedWords { pages, words: len, writable: true },
                Err(error) => panic!("{error}"),
            }
        }
    }

    impl Words for SharedWords {
        #[inline]
        fn words(&self) -> &[AtomicU64] {
            // SAFETY: the mapping is page aligned and holds at least `words`
            // words (checked in `map`, arranged in `heap`) for as long as `self`
            // lives. Others may write it at any time: that is what atomics
            // allow, and every bit pattern is a valid u64. In a read-only
            // mapping loads of this size are plain loads on all our targets.
            unsafe {
                slice::from_raw_parts(self.pages.start.as_ptr().cast::<AtomicU64>(), self.words)
            }
        }

        #[inline]
        fn writable(&self) -> bool {
            self.writable
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::{seal, sync::Ordering};

    #[test]
    fn a_sealed_memfd_is_mapped_as_it_is() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        let fd = seal::sealed_copy("weir-test", &bytes).unwrap();
        let mapping = Mapping::of_sealed(fd.as_fd(), "test").unwrap();
        drop(fd);
        assert_eq!(mapping.as_ref(), &bytes[..]);
        assert_eq!(mapping.as_ref().as_ptr() as usize % 4096, 0);
    }

    #[test]
    fn an_unsealed_memfd_is_not_mapped_as_bytes() {
        let fd = seal::create("weir-test").unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        let error = Mapping::of_sealed(fd.as_fd(), "policy table").unwrap_err();
        assert!(error.to_string().contains("F_SEAL_WRITE"), "{error}");
    }

    #[test]
    fn an_empty_memfd_is_refused() {
        let fd = seal::sealed_copy("weir-test", b"").unwrap();
        let error = Mapping::of_sealed(fd.as_fd(), "policy table").unwrap_err();
        assert!(matches!(error, MapError::Length { bytes: 0, .. }), "{error}");
    }

    #[test]
    fn words_are_shared_between_two_mappings() {
        let fd = seal::create("weir-test").unwrap();
        rustix::fs::ftruncate(&fd, 8192).unwrap();
        let writer = SharedWords::map_all(fd.as_fd(), Access::ReadWrite, "test").unwrap();
        let reader = SharedWords::map(fd.as_fd(), 1024, Access::ReadOnly, "test").unwrap();
        assert!(writer.writable() && !reader.writable());
        assert_eq!(reader.words().len(), 1024);
        writer.words()[1023].store(7, Ordering::Release);
        assert_eq!(reader.words()[1023].load(Ordering::Acquire), 7);
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let fd = seal::create("weir-test").unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        let error = SharedWords::map(fd.as_fd(), 513, Access::ReadOnly, "address map").unwrap_err();
        assert!(matches!(error, MapError::TooShort { wanted: 4104, found: 4096, .. }), "{error}");
        rustix::fs::ftruncate(&fd, 4097).unwrap();
        let error = SharedWords::map_all(fd.as_fd(), Access::ReadOnly, "address map").unwrap_err();
        assert!(matches!(error, MapError::Length { bytes: 4097, .. }), "{error}");
    }

    #[test]
    fn heap_words_start_at_zero() {
        let words = SharedWords::heap(3);
        assert_eq!(words.words().len(), 3);
        assert!(words.words().iter().all(|w| w.load(Ordering::Relaxed) == 0));
        assert!(SharedWords::heap(0).words().is_empty());
    }
}
