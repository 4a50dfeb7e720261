//! /proc/PID/pagemap: which pages are in memory, which in swap; /proc/kpageflags: which frames belong to a larger folio.

use crate::vocab::{AddrRange, PAGE_BYTES, PAGE_SHIFT};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// One page as pagemap tells it: bit 63 present, 62 swapped, 61 file page or shared memory, 56 mapped by this process
/// alone, 55 soft-dirty, 0..=54 the frame number (zero without CAP_SYS_ADMIN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    #[must_use]
    pub const fn present(self) -> bool {
        self.0 >> 63 & 1 == 1
    }
    #[must_use]
    pub const fn swapped(self) -> bool {
        self.0 >> 62 & 1 == 1
    }
    #[must_use]
    pub const fn file(self) -> bool {
        self.0 >> 61 & 1 == 1
    }
    #[must_use]
    pub const fn exclusive(self) -> bool {
        self.0 >> 56 & 1 == 1
    }
    #[must_use]
    pub const fn soft_dirty(self) -> bool {
        self.0 >> 55 & 1 == 1
    }
    /// The frame of a present page; `None` also where the kernel hides it.
    #[must_use]
    pub const fn frame(self) -> Option<u64> {
        let frame = self.0 & ((1 << 55) - 1);
        if self.present() && frame != 0 { Some(frame) } else { None }
    }
}

/// An open /proc/PID/pagemap. It stays with the address space that it was opened for.
#[derive(Debug)]
pub struct PageMap {
    file: File,
    bytes: Vec<u8>,
}

impl PageMap {
    /// Refuses a kernel whose pages are not of the size that all of memtier counts in (aarch64 with 16 or 64 KiB).
    pub fn new(file: File) -> io::Result<Self> {
        let size = procfs::page_size();
        if size != PAGE_BYTES {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("pages of {size} bytes; memtier knows {PAGE_BYTES}")));
        }
        Ok(Self { file, bytes: Vec::new() })
    }

    /// Appends one entry per page of `range`; returns the number of system calls it took.
    ///
    /// | errno | meaning |
    /// | --- | --- |
    /// | ESRCH | the address space is gone (the kernel reads as empty) |
    /// | EPERM | no right to ptrace-read the process |
    pub fn entries(&mut self, range: AddrRange, out: &mut Vec<Entry>) -> io::Result<u64> {
        let (mut calls, mut at) = (0, range.start >> PAGE_SHIFT);
        let end = range.end >> PAGE_SHIFT;
        while at < end {
            let want = (end - at).min(WINDOW) as usize * 8;
            self.bytes.resize(want, 0);
            let got = self.file.read_at(&mut self.bytes, at * 8)?;
            calls += 1;
            if got < 8 {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            out.extend(words(&self.bytes[..got]).map(Entry));
            at += got as u64 / 8;
        }
        Ok(calls)
    }
}

/// Entries per read(2): 128 KiB of text, 64 MiB of memory.
const WINDOW: u64 = 16 << 10;

/// KPF_COMPOUND_TAIL: not the first frame of its folio.
const TAIL: u32 = 16;
/// KPF_THP: part of a transparent huge page.
const THP: u32 = 22;

/// An open /proc/kpageflags.
#[derive(Debug)]
pub struct FrameFlags(pub File);

/// Flags of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u64);

impl Flags {
    /// The frame belongs to a folio that begins at an earlier frame.
    #[must_use]
    pub const fn tail(self) -> bool {
        self.0 >> TAIL & 1 == 1
    }
    #[must_use]
    pub const fn huge(self) -> bool {
        self.0 >> THP & 1 == 1
    }
}

impl FrameFlags {
    /// Flags of `count` frames from `frame` on, in one system call. EPERM without CAP_SYS_ADMIN.
    pub fn read(&self, frame: u64, count: usize) -> io::Result<Vec<Flags>> {
        let mut bytes = vec![0; count * 8];
        self.0.read_exact_at(&mut bytes, frame * 8)?;
        Ok(words(&bytes).map(Flags).collect())
    }
}

/// Native-endian 64-bit words, as all these files hold them.
pub fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.as_chunks::<8>().0.iter().map(|w| u64::from_ne_bytes(*w))
}

/// The page that holds `addr`.
#[must_use]
pub const fn page_of(addr: u64) -> AddrRange {
    let start = addr & !(PAGE_BYTES - 1);
    AddrRange { start, end: start + PAGE_BYTES }
}
