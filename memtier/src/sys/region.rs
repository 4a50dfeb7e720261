//! Memory of our own with known contents: what the walker proves itself on.
//!
//! Errors are the errno as it comes: ENOMEM no memory or an advice outside the mapping, EINVAL an advice that this kernel
//! lacks.

use crate::vocab::AddrRange;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

const PAGE: usize = 4096;

/// A private or shared mapping, unmapped on drop.
#[derive(Debug)]
pub struct Region {
    at: NonNull<u8>,
    len: usize,
}

impl Region {
    /// Private anonymous memory at a multiple of `align`.
    pub fn anonymous(len: usize, align: usize) -> io::Result<Self> {
        let whole = Self::map(len + align, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        let skip = whole.at.as_ptr().addr().next_multiple_of(align) - whole.at.as_ptr().addr();
        let (start, end) = (whole.at, whole.len);
        std::mem::forget(whole);
        // SAFETY: `skip` is below `align`, and `len` more bytes follow it.
        let at = unsafe { start.add(skip) };
        // SAFETY: the rest begins inside the mapping.
        let rest = unsafe { at.add(len) };
        for (from, len) in [(start, skip), (rest, end - skip - len)] {
            if len > 0 {
                // SAFETY: a part of the mapping that nothing refers to.
                unsafe { libc::munmap(from.as_ptr().cast(), len) };
            }
        }
        Ok(Self { at, len })
    }

    /// A file, shared and read only.
    pub fn of_file(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Self::map(len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn map(len: usize, protection: i32, flags: i32, fd: i32) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, 0) };
        match NonNull::new(at.cast::<u8>()) {
            Some(at) if at.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { at, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[must_use]
    pub fn range(&self) -> AddrRange {
        let start = self.at.as_ptr().expose_provenance() as u64;
        AddrRange { start, end: start + self.len as u64 }
    }
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.len / PAGE
    }

    fn word(&self, page: usize, word: usize) -> NonNull<u64> {
        let offset = page * PAGE + word * 8;
        assert!(offset + 8 <= self.len, "page {page} of a region of {} bytes", self.len);
        // SAFETY: inside the mapping, as just asserted.
        unsafe { self.at.add(offset) }.cast()
    }

    /// Writes a word of a page. The page must be writable.
    pub fn write(&mut self, page: usize, word: usize, value: u64) {
        // SAFETY: inside the mapping and aligned; `write` is not called on read-only regions or pages.
        unsafe { self.word(page, word).write_volatile(value) };
    }

    /// Reads the first word of a page. The page must be readable.
    #[must_use]
    pub fn read(&self, page: usize) -> u64 {
        // SAFETY: inside the mapping and aligned; `read` is not called on pages made unreadable.
        unsafe { self.word(page, 0).read_volatile() }
    }

    /// madvise(2) on the whole region.
    pub fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: the advices given here keep the contents; the range is ours.
        done(unsafe { libc::madvise(self.at.as_ptr().cast(), self.len, advice) })
    }

    /// mprotect(2) on one page: none, or read and write.
    pub fn forbid(&mut self, page: usize, forbid: bool) -> io::Result<()> {
        let protection = if forbid { libc::PROT_NONE } else { libc::PROT_READ | libc::PROT_WRITE };
        // SAFETY: the page is ours; it is made accessible again before it is touched.
        done(unsafe { libc::mprotect(self.word(page, 0).as_ptr().cast(), PAGE, protection) })
    }

    /// mlock(2) on the whole region.
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: changes no contents.
        done(unsafe { libc::mlock(self.at.as_ptr().cast(), self.len) })
    }
}

fn done(r: i32) -> io::Result<()> {
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}
