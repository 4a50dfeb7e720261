#![no_std]
//! Records and control blocks shared by the BPF programs and the daemon.
//!
//! Every struct is `repr(C)`, made of fixed-width integers, with its padding spelt out and zero, and has its size and
//! offsets asserted: the two sides are built by different compilers. The daemon never casts bytes to these: it decodes
//! them field by field (memtier/src/observe/bpf/wire.rs); the BPF side fills them in place.

use core::mem::offset_of;

/// Base pages that one last-level page table maps: one block.
pub const BLOCK_PAGES: usize = 512;
/// Address bits below a block.
pub const BLOCK_SHIFT: u32 = 21;
/// Nanoseconds in a clock tick of /proc/PID/stat (USER_HZ is 100 on every architecture we know).
pub const TICK_NS: u64 = 10_000_000;

/// States the size of a record and where each field lies; a change of either stops both builds.
macro_rules! laid_out {
    ($name:ident, $size:literal, $($field:ident @ $offset:literal),+) => {
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == 8);
            $(assert!(offset_of!($name, $field) == $offset);)+
        };
    };
}

/// Questions to the walker and its answers, in one mapped page; all words are u64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkControl {
    /// Where to go on; the walker moves it to the first address it has not looked at.
    pub cursor: u64,
    /// Where to stop.
    pub end: u64,
    /// Blocks that one chunk may hold.
    pub most_blocks: u64,
    /// Nanoseconds after which a chunk is cut short.
    pub most_ns: u64,
    /// Start of the process in clock ticks; another process with that pid is not walked.
    pub start_ticks: u64,
    /// Kernel address of physical page 0.
    pub direct_map: u64,
    /// Bits of a table entry that hold a physical address.
    pub frame_mask: u64,
    /// End of physical memory: an entry that points beyond names no table, and the direct map ends there.
    pub memory_end: u64,
    /// Page-table levels: 4 or 5.
    pub levels: u64,
    /// Address space walked so far; zero before the first chunk.
    pub mm: u64,
    /// One of `walk_status`.
    pub status: u64,
    /// Records of this chunk.
    pub records: u64,
    /// Tables that could not be read.
    pub unreadable: u64,
    /// Nanoseconds this chunk took in the kernel.
    pub kernel_ns: u64,
}
laid_out!(WalkControl, 112, cursor @ 0, end @ 8, most_blocks @ 16, most_ns @ 24, start_ticks @ 32, direct_map @ 40, frame_mask @ 48,
    memory_end @ 56, levels @ 64, mm @ 72, status @ 80, records @ 88, unreadable @ 96, kernel_ns @ 104);

/// Values of `WalkControl::status`.
pub mod walk_status {
    /// The program did not run: there is no such process.
    pub const NOT_RUN: u64 = 0;
    /// The chunk holds.
    pub const WALKED: u64 = 1;
    /// The pid belongs to a process that started at another time.
    pub const STRANGER: u64 = 2;
    /// No address space: a kernel thread or a process that is exiting.
    pub const NO_MEMORY: u64 = 3;
    /// The address space was replaced or torn down during the walk; the chunk is void.
    pub const REPLACED: u64 = 4;
}

/// Blocks that a chunk holds at most: 256 KiB of tables, which stay in the second-level cache beside the originals until they
/// are decoded.
pub const CHUNK_BLOCKS: usize = 64;

/// What maps a block. Where that is a table, the table's entries are in the slot of the same number beside it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHead {
    /// First address of the block.
    pub addr: u64,
    /// Entry that maps it: a pointer to the table below, a huge leaf, or a huge page on its way between nodes.
    pub entry: u64,
    /// One of `block_form`.
    pub form: u64,
    /// Blocks that the entry stands for: 1, or more for a slice of a 1 GiB page.
    pub blocks: u64,
}
laid_out!(BlockHead, 32, addr @ 0, entry @ 8, form @ 16, blocks @ 24);

/// Values of `BlockHead::form`.
pub mod block_form {
    /// 512 entries.
    pub const TABLE: u64 = 0;
    /// A 2 MiB leaf.
    pub const PMD_LEAF: u64 = 1;
    /// Part of a 1 GiB leaf.
    pub const PUD_LEAF: u64 = 2;
}

/// Questions to the calibration program: where does physical page 0 lie in the kernel's address space?
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calibration {
    /// Physical address of a page of ours, and the 16 bytes it begins with.
    pub physical: u64,
    pub magic: [u64; 2],
    /// Steps of 1 GiB to try at most.
    pub most_steps: u64,
    /// The answer; zero while unknown.
    pub direct_map: u64,
}
laid_out!(Calibration, 40, physical @ 0, magic @ 8, most_steps @ 24, direct_map @ 32);

/// One mapping, as the kernel holds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmaRecord {
    /// Start of the process in nanoseconds since boot.
    pub start_ns: u64,
    pub from: u64,
    pub to: u64,
    /// vm_flags.
    pub flags: u64,
    /// Bits of `vma_has`.
    pub has: u64,
    /// Magic number of the file system behind it; zero without a file.
    pub fs_magic: u64,
}
laid_out!(VmaRecord, 48, start_ns @ 0, from @ 8, to @ 16, flags @ 24, has @ 32, fs_magic @ 40);

/// Bits of `VmaRecord::has`.
pub mod vma_has {
    pub const FILE: u64 = 1;
    /// vm_ops: not anonymous.
    pub const OPS: u64 = 2;
    /// Registered with a userfaultfd.
    pub const UFFD: u64 = 4;
    /// A memory policy of its own (mbind) that says more than to take the local node.
    pub const POLICY: u64 = 8;
}

/// A process came, changed its program, or went.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcRecord {
    /// One of `record_kind`.
    pub kind: u32,
    pub pid: u32,
    pub start_ns: u64,
    /// Who forked it; zero in other records.
    pub parent: u32,
    pub pad: u32,
    pub parent_start_ns: u64,
}
laid_out!(ProcRecord, 32, kind @ 0, pid @ 4, start_ns @ 8, parent @ 16, pad @ 20, parent_start_ns @ 24);

/// One sampled page fault.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRecord {
    /// One of `record_kind`.
    pub kind: u32,
    pub pid: u32,
    pub start_ns: u64,
    pub addr: u64,
    /// The thread that it happened to.
    pub tid: u32,
    /// Faults that this one stands for.
    pub period: u32,
}
laid_out!(FaultRecord, 32, kind @ 0, pid @ 4, start_ns @ 8, addr @ 16, tid @ 24, period @ 28);

/// One region of an address space that DAMON watches, at the end of an aggregation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionRecord {
    /// REGION.
    pub kind: u32,
    pub pid: u32,
    pub start_ns: u64,
    pub from: u64,
    pub to: u64,
    /// Of so many samples of a page of the region, so many found it accessed.
    pub accesses: u32,
    pub samples: u32,
}
laid_out!(RegionRecord, 40, kind @ 0, pid @ 4, start_ns @ 8, from @ 16, to @ 24, accesses @ 32, samples @ 36);

/// CPU time of one task on one CPU in one period. All zero: free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedSlot {
    pub tid: u32,
    pub pid: u32,
    /// Start of the process, not of the thread.
    pub start_ns: u64,
    pub runtime_ns: u64,
    pub switches: u64,
}
laid_out!(SchedSlot, 32, tid @ 0, pid @ 4, start_ns @ 8, runtime_ns @ 16, switches @ 24);

/// A slot that had to make room for another task.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpillRecord {
    /// SCHED_SPILL.
    pub kind: u32,
    pub cpu: u32,
    pub slot: SchedSlot,
}
laid_out!(SpillRecord, 40, kind @ 0, cpu @ 4, slot @ 8);

/// Values of the first field of every record in the event ring.
pub mod record_kind {
    pub const FORK: u32 = 1;
    pub const EXEC: u32 = 2;
    pub const EXIT: u32 = 3;
    pub const MINOR_FAULT: u32 = 4;
    pub const MAJOR_FAULT: u32 = 5;
    pub const SCHED_SPILL: u32 = 6;
    pub const REGION: u32 = 7;
}

/// What the scheduler probe keeps per CPU; a cache line, so that CPUs do not share any.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedCpu {
    /// When the running task was switched in, or last accounted.
    pub since_ns: u64,
    /// Which half of the slots is written: 0 or 1. Only a tick, which runs on this CPU, flips it.
    pub half: u64,
    /// Switches since the probe was attached.
    pub switches: u64,
    /// Task that runs now; zero when idle.
    pub running: u64,
    pub pad: [u64; 4],
}
laid_out!(SchedCpu, 64, since_ns @ 0, half @ 8, switches @ 16, running @ 24, pad @ 32);

/// Slots per CPU and half: tasks that may run on one CPU in one period before slots spill. A power of two.
pub const SCHED_SLOTS: usize = 512;

/// What is counted between two drains. Unused fields are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TallyKey {
    /// One of `tally_kind`.
    pub kind: u32,
    pub pid: u32,
    /// Start of the process in nanoseconds, or the id of a cgroup.
    pub id: u64,
    pub tid: u32,
    pub from_cpu: u16,
    pub to_cpu: u16,
}
laid_out!(TallyKey, 24, kind @ 0, pid @ 4, id @ 8, tid @ 16, from_cpu @ 20, to_cpu @ 22);

/// Values of `TallyKey::kind`, and what is counted.
pub mod tally_kind {
    /// Pages written to swap, by the task that wrote them.
    pub const SWAP_WRITES: u32 = 1;
    /// Pages written to swap, by the memory cgroup that owned them.
    pub const CGROUP_SWAP: u32 = 2;
    /// Major faults, by process.
    pub const MAJOR_FAULTS: u32 = 3;
    /// Reclaim passes that a process had to make itself.
    pub const DIRECT_RECLAIM: u32 = 4;
    /// Pages migrated.
    pub const MIGRATED: u32 = 5;
    /// Pages whose migration failed.
    pub const NOT_MIGRATED: u32 = 6;
    /// A task moved from one CPU to another.
    pub const TASK_MOVES: u32 = 7;
}

/// Words of the loss counters, one per probe family: records that found no room.
pub mod lost {
    pub const PROCS: u32 = 0;
    pub const SCHED: u32 = 1;
    pub const RECLAIM: u32 = 2;
    pub const FAULTS: u32 = 3;
    /// Pages and tasks that move.
    pub const MIGRATE: u32 = 4;
    /// Regions of DAMON.
    pub const DAMON: u32 = 5;
    pub const FAMILIES: u32 = 6;
}
