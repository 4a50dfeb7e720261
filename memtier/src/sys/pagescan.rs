//! PAGEMAP_SCAN: the kernel's own answer to "which pages are like this", as ranges instead of one word per page (Linux 6.7).
//!
//! memtier does not look through it: it knows nothing of accesses. It is here as a peer to be measured against, and as a fact.

use crate::vocab::AddrRange;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Categories of pages, `PAGE_IS_*` of linux/fs.h.
pub const PRESENT: u64 = 1 << 3;
pub const SWAPPED: u64 = 1 << 4;

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    pub start: u64,
    pub end: u64,
    pub categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Question {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}
const _: () = assert!(size_of::<Question>() == 96 && size_of::<Region>() == 24);

nix::ioctl_readwrite!(pagemap_scan, b'f', 16, Question);

/// Fills `regions` with the ranges of `range` whose pages are in any of `categories`; returns how many there are and where
/// the walk ended (at `range.end` unless `regions` was too short).
///
/// | errno | meaning |
/// | --- | --- |
/// | ENOTTY | the kernel has no PAGEMAP_SCAN |
/// | ESRCH | the address space is gone |
/// | EINVAL | the range is not page aligned |
pub fn scan(pagemap: impl AsFd, range: AddrRange, categories: u64, regions: &mut [Region]) -> io::Result<(usize, u64)> {
    let mut question = Question {
        size: size_of::<Question>() as u64,
        start: range.start,
        end: range.end,
        vec: regions.as_mut_ptr().expose_provenance() as u64,
        vec_len: regions.len() as u64,
        category_anyof_mask: categories,
        return_mask: categories,
        ..Question::default()
    };
    // SAFETY: the argument is a pm_scan_arg of the size it states, and vec points at vec_len regions that we hold exclusively.
    let found = unsafe { pagemap_scan(pagemap.as_fd().as_raw_fd(), &raw mut question) }?;
    Ok((usize::try_from(found).unwrap_or(0), question.walk_end))
}
