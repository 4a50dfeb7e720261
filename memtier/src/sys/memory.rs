//! Advice about another process's memory, the probe of PAGEMAP_SCAN, and our own heap.

use crate::vocab::AddrRange;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Ranges that one process_madvise(2) takes (UIO_MAXIOV).
pub const MOST_RANGES: usize = 1024;
/// Bytes that one process_madvise(2) takes (MAX_RW_COUNT); the kernel silently leaves the rest.
pub const MOST_BYTES: u64 = 0x7fff_f000;

/// What is said about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// MADV_COLD: clears accessed bits and moves pages to the inactive list.
    Cold,
    /// MADV_PAGEOUT: reclaims the pages now.
    PageOut,
}

impl Advice {
    const fn number(self) -> libc::c_int {
        match self {
            Self::Cold => libc::MADV_COLD,
            Self::PageOut => libc::MADV_PAGEOUT,
        }
    }
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cold => "process_madvise(MADV_COLD)",
            Self::PageOut => "process_madvise(MADV_PAGEOUT)",
        }
    }
}

/// Gives free memory in the middle of the heap back to the kernel. Only glibc keeps it, and only glibc can.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no memory of ours, and locks the heap itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A handle that means this process and never a later one with the same pid.
///
/// | errno | meaning |
/// | --- | --- |
/// | ESRCH | no such process |
/// | EINVAL | `pid` is zero, or a thread that leads no process |
/// | EMFILE, ENFILE | out of file descriptors |
/// | ENOSYS | Linux before 5.3 |
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two integers, no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Advises ranges of another process in order and returns how many bytes were advised. A range that fails ends the
/// call: if it is the first, its errno comes back, else the bytes of the ranges before it.
///
/// | errno | meaning |
/// | --- | --- |
/// | EINVAL | a range is not page aligned, or lies in mlocked, hugetlb or PFN-mapped memory (its earlier part may be done) |
/// | ENOMEM | a range has an unmapped hole; what is mapped on both sides of it *was* advised |
/// | ESRCH | the process is gone |
/// | EPERM | no CAP_SYS_NICE, or no right to ptrace-read the process |
/// | EINTR | a fatal signal is pending |
/// | EBADF | `process` is no pidfd |
/// | ENOSYS | Linux before 5.10, or CONFIG_ADVISE_SYSCALLS is off |
///
/// The return value says what was *advised*, not what moved: pages mapped twice, busy pages and pages for which swap has
/// no room are passed over in silence. Read pagemap to know.
///
/// # Panics
/// When `ranges` holds more than [`MOST_RANGES`] entries or [`MOST_BYTES`] bytes: the kernel would refuse the one and
/// silently cut the other.
pub fn process_madvise(process: BorrowedFd<'_>, ranges: &[AddrRange], advice: Advice) -> io::Result<u64> {
    assert!(ranges.len() <= MOST_RANGES, "{} ranges in one vector", ranges.len());
    assert!(ranges.iter().map(|r| r.end - r.start).sum::<u64>() <= MOST_BYTES, "too many bytes in one vector");
    let vector: Vec<libc::iovec> = ranges
        .iter()
        .map(|r| libc::iovec { iov_base: r.start as *mut libc::c_void, iov_len: (r.end - r.start) as usize })
        .collect();
    // SAFETY: `vector` outlives the call and its length is given; the addresses in it are of the other process and are
    // never dereferenced on our side; neither advice changes the contents of memory.
    let done =
        unsafe { libc::syscall(libc::SYS_process_madvise, process.as_raw_fd(), vector.as_ptr(), vector.len(), advice.number(), 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as u64) }
}

/// Asks an empty PAGEMAP_SCAN of the page at `addr`: only whether the kernel knows it.
///
/// | errno | meaning |
/// | --- | --- |
/// | ENOTTY | Linux before 6.7 |
/// | EINVAL, EFAULT | the kernel knows the ioctl in another shape |
pub fn pagemap_scan_known(pagemap: impl AsFd, addr: u64) -> io::Result<()> {
    super::pagescan::scan(pagemap, super::pagemap::page_of(addr), super::pagescan::PRESENT, &mut []).map(|_| ())
}
