//! The walk program's chunks: one read(2) each, handed over in mapped slots that the next read fills again.
//!
//! Page samples could also travel through a ring buffer. Both were built and measured, in turns, on a Xeon shared with other
//! work (8 GiB of 4 KiB pages: walk, transport, decoding and fold; medians of 7 in ns per page, three times): mapped slots 1.9,
//! 2.1, 2.6; ring of 1 MiB 2.2, 2.7, 2.6. Slots are used over and over and stay in the second-level cache, and need no
//! reservation per block; a ring moves on through memory. A chunk of 64 blocks fills 256 KiB, and its originals as
//! much: where a core has 1 MiB of cache, 128 blocks cost up to a third more; fewer than 32 pay for the system call.
//!
//! About 70 % of a walk is the program's copying, which seems to wait for memory. Touching the first lines of the next table
//! early does not help (2 to 16 lines tried): the loads that BPF has hold up the CPU as the copy itself would.

use super::decode::{Record, TABLE_BYTES};
use super::object::Object;
use crate::sys::bpf::{MappedMap, iterate_task, open_iterator};
use crate::vocab::{AddrRange, ProcKey};
use memtier_common::{BlockHead, CHUNK_BLOCKS, WalkControl, walk_status};
use std::fs::File;
use std::io::{self, Read as _};
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

/// The kernel side ends a chunk that takes longer; it looks at its clock every 64 steps, so that 1 ms is never reached.
const CHUNK_NS: u64 = 400_000;

/// What the page-table format depends on besides the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    pub levels: u64,
    /// Bits of an entry that hold a physical address.
    pub frame_mask: u64,
}

impl Machine {
    /// End of the user half of the address space.
    #[must_use]
    pub const fn user_end(&self) -> u64 {
        if self.levels == 5 { 1 << 56 } else { 1 << 47 }
    }
}

/// What came of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Walked,
    /// No such process, or the pid is another process's by now.
    Gone,
    NoMemory,
    Replaced,
}

/// One chunk as the kernel handed it over.
#[derive(Debug)]
pub struct Chunk<'a> {
    heads: &'a [u8],
    tables: &'a [u8],
    pub status: Status,
    /// Looked at; the last chunk ends where the walk was to end.
    pub range: AddrRange,
    pub last: bool,
    /// Tables that could not be read.
    pub unreadable: u64,
    pub kernel_ns: u64,
}

impl<'a> Chunk<'a> {
    /// The records in address order.
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'a>> + use<'a> {
        let (heads, tables) = (self.heads.as_chunks().0, self.tables.as_chunks().0);
        heads.iter().zip(tables).map(|(head, table)| Record { head, table })
    }
}

/// The loaded walk program and the maps it shares with us.
#[derive(Debug)]
pub struct Feed {
    program: OwnedFd,
    control: MappedMap,
    heads: MappedMap,
    tables: MappedMap,
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    file: File,
    _link: OwnedFd,
    until: u64,
}

impl Feed {
    /// Loads the walk program; `direct_map` is where the kernel maps physical page 0.
    pub fn open(object: &mut Object, machine: Machine, direct_map: u64, memory_end: u64) -> Result<Self, String> {
        let feed = Self {
            program: object.iterator("walk", "task")?,
            control: object.mapped("WALK", size_of::<WalkControl>())?,
            heads: object.mapped("HEADS", CHUNK_BLOCKS * size_of::<BlockHead>())?,
            tables: object.mapped("TABLES", CHUNK_BLOCKS * TABLE_BYTES)?,
        };
        feed.set(offset_of!(WalkControl, direct_map), direct_map);
        feed.set(offset_of!(WalkControl, frame_mask), machine.frame_mask);
        feed.bound(memory_end);
        feed.set(offset_of!(WalkControl, levels), machine.levels);
        feed.set(offset_of!(WalkControl, most_blocks), CHUNK_BLOCKS as u64);
        feed.set(offset_of!(WalkControl, most_ns), CHUNK_NS);
        Ok(feed)
    }

    fn get(&self, offset: usize) -> u64 {
        self.control.word(offset).load(Relaxed)
    }
    fn set(&self, offset: usize, value: u64) {
        self.control.word(offset).store(value, Relaxed);
    }

    /// From now on nothing is read from this physical address on.
    pub fn bound(&self, memory_end: u64) {
        self.set(offset_of!(WalkControl, memory_end), memory_end);
    }

    /// Begins a walk. A walk that was not finished is forgotten.
    pub fn begin(&mut self, proc: ProcKey, range: AddrRange) -> io::Result<Walk> {
        let link = iterate_task(self.program.as_fd(), proc.pid)?;
        let file = open_iterator(link.as_fd())?;
        self.set(offset_of!(WalkControl, cursor), range.start.min(range.end));
        self.set(offset_of!(WalkControl, end), range.end);
        self.set(offset_of!(WalkControl, start_ticks), proc.start);
        self.set(offset_of!(WalkControl, mm), 0);
        Ok(Walk { file, _link: link, until: range.end })
    }

    /// The next chunk; none may be asked for after the last.
    pub fn next(&mut self, walk: &mut Walk) -> io::Result<Chunk<'_>> {
        let start = self.get(offset_of!(WalkControl, cursor));
        for answer in [offset_of!(WalkControl, status), offset_of!(WalkControl, records), offset_of!(WalkControl, unreadable)] {
            self.set(answer, 0);
        }
        // The iterator prints nothing: it is done, or has more to say.
        let last = loop {
            match walk.file.read(&mut [0; 8]) {
                Ok(_) => break true,
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => break false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        };
        let records = usize::try_from(self.get(offset_of!(WalkControl, records))).map_or(CHUNK_BLOCKS, |n| n.min(CHUNK_BLOCKS));
        // SAFETY: the program runs only inside the read above, and the next one needs `self` again.
        let heads = unsafe { self.heads.bytes() };
        // SAFETY: as above.
        let tables = unsafe { self.tables.bytes() };
        Ok(Chunk {
            heads: heads.get(..records * size_of::<BlockHead>()).unwrap_or_default(),
            tables,
            status: match self.get(offset_of!(WalkControl, status)) {
                walk_status::WALKED => Status::Walked,
                walk_status::NO_MEMORY => Status::NoMemory,
                walk_status::REPLACED => Status::Replaced,
                _ => Status::Gone,
            },
            range: AddrRange { start, end: if last { walk.until } else { self.get(offset_of!(WalkControl, cursor)) } },
            last,
            unreadable: self.get(offset_of!(WalkControl, unreadable)),
            kernel_ns: self.get(offset_of!(WalkControl, kernel_ns)),
        })
    }
}
