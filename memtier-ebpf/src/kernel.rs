//! What differs between kernels: offsets that the loader patches in before the verifier sees them, so that it takes them
//! for constants.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_kernel};
use core::ffi::c_void;

macro_rules! offsets {
    ($($name:ident)+) => {
        $(#[unsafe(no_mangle)] pub static $name: Global<u64> = Global::new(0);)+
    };
}

offsets! {
    TASK_MM TASK_START_BOOTTIME
    MM_PGD
    VMA_START VMA_END VMA_FLAGS VMA_FILE VMA_OPS VMA_UFFD VMA_POLICY POLICY_MODE
    FILE_INODE INODE_SB SB_MAGIC
    TASK_PID TASK_TGID TASK_CPU TASK_LEADER
    FOLIO_FLAGS FOLIO_PAGES FOLIO_MEMCG PG_HEAD
    MEMCG_CGROUP CGROUP_KN KN_ID
    TASK_KTHREAD KTHREAD_DATA TASK_PID_LINKS PID_TASKS
    DAMON_VADDR DAMON_FVADDR DAMON_OPS DAMON_SAMPLE_US DAMON_AGGR_US DAMON_PASSED DAMON_TARGETS
    TARGET_LIST TARGET_PID REGION_START REGION_END REGION_ACCESSES
    OWN_PID EXIT_TELLS_LAST SIGNAL_LIVE TASK_SIGNAL
}

/// A pointer or integer in kernel memory; zero where that cannot be read.
#[inline(always)]
pub fn word(addr: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the destination is eight bytes of ours; the helper survives any source address and zeroes on failure.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast::<c_void>(), 8, addr as *const c_void) };
    value
}

/// A 32-bit integer in kernel memory; zero where that cannot be read.
#[inline(always)]
pub fn half(addr: u64) -> u32 {
    let mut value = 0u32;
    // SAFETY: the destination is four bytes of ours; the helper survives any source address and zeroes on failure.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast::<c_void>(), 4, addr as *const c_void) };
    value
}

/// A process: pid and start of its first thread.
#[derive(Clone, Copy)]
pub struct Process {
    pub pid: u32,
    pub start_ns: u64,
}

impl Process {
    /// The process that a task belongs to.
    #[inline(always)]
    pub fn of(task: u64) -> Self {
        let leader = word(task + TASK_LEADER.load());
        Self { pid: half(task + TASK_TGID.load()), start_ns: word(leader + TASK_START_BOOTTIME.load()) }
    }
    #[inline(always)]
    pub fn current() -> Self {
        Self::of(current())
    }
}

/// The task that runs.
#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_get_current_task() }
}

/// Copies a page table; false where it cannot be read.
#[inline(always)]
pub fn table(to: *mut [u64; 512], addr: u64) -> bool {
    // SAFETY: the destination is a whole table of ours; the helper survives any source address.
    unsafe { bpf_probe_read_kernel(to.cast::<c_void>(), 4096, addr as *const c_void) == 0 }
}

/// CLOCK_MONOTONIC, for lengths of time.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_ktime_get_ns() }
}
