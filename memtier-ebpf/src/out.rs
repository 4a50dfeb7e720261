//! Ways out of the kernel that all families share: the event ring, the tallies, the loss counters.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST, BPF_RB_NO_WAKEUP};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use core::arch::asm;
use memtier_common::{TallyKey, lost};

/// Sized by the loader.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);
/// Nobody waits for these: they are taken once a period. Sized by the loader.
#[map]
static SAMPLES: RingBuf = RingBuf::with_byte_size(1 << 16, 0);
#[map]
static LOST: Array<u64> = Array::with_max_entries(lost::FAMILIES, BPF_F_MMAPABLE);
/// Word 0 tells which tally is written; the daemon turns it, waits until no program can still hold the other, and empties that.
#[map]
static TALLIED: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TALLY_0: HashMap<TallyKey, u64> = HashMap::with_max_entries(8192, 0);
#[map]
static TALLY_1: HashMap<TallyKey, u64> = HashMap::with_max_entries(8192, 0);

/// Task moves have their own pair, turned by the same word: a flood of them must not leave reclaim without room.
#[map]
static MOVES_0: HashMap<TallyKey, u64> = HashMap::with_max_entries(8192, 0);
#[map]
static MOVES_1: HashMap<TallyKey, u64> = HashMap::with_max_entries(8192, 0);

/// Adds atomically. Rust has no fetch_add for this target, for want of compare-and-swap on old CPUs; BPF always had this one.
#[inline(always)]
fn add(to: *mut u64, n: u64) {
    // SAFETY: map values are aligned words that outlive the program.
    unsafe { asm!("lock *(u64 *)({to} + 0) += {n}", to = in(reg) to, n = in(reg) n, options(nostack)) };
}

/// Counts a record that found no room.
#[inline(always)]
pub fn lose(family: u32) {
    if let Some(count) = LOST.get_ptr_mut(family) {
        add(count, 1);
    }
}

/// Sends a record and wakes the daemon, or counts it as lost.
#[inline(always)]
pub fn send<T: Copy + 'static>(record: T, family: u32) {
    put(&EVENTS, record, 0, family);
}

/// Leaves a record for the daemon's next look. To wake it costs whoever runs here two interrupts: more than a page fault does.
#[inline(always)]
pub fn leave<T: Copy + 'static>(record: T, family: u32) {
    put(&SAMPLES, record, u64::from(BPF_RB_NO_WAKEUP), family);
}

#[inline(always)]
fn put<T: Copy + 'static>(ring: &RingBuf, record: T, flags: u64, family: u32) {
    match ring.reserve::<T>(0) {
        Some(mut room) => {
            room.write(record);
            room.submit(flags);
        }
        None => lose(family),
    }
}

/// Adds to a tally, or counts the event as lost.
#[inline(always)]
pub fn tally(key: &TallyKey, n: u64, family: u32) {
    count(if turned() { &TALLY_1 } else { &TALLY_0 }, key, n, family);
}

/// As `tally`, for tasks that moved.
#[inline(always)]
pub fn tally_move(key: &TallyKey, family: u32) {
    count(if turned() { &MOVES_1 } else { &MOVES_0 }, key, 1, family);
}

#[inline(always)]
fn turned() -> bool {
    // SAFETY: the daemon only ever stores whole words there.
    TALLIED.get_ptr(0).is_some_and(|which| unsafe { which.read_volatile() } & 1 == 1)
}

#[inline(always)]
fn count(counts: &HashMap<TallyKey, u64>, key: &TallyKey, n: u64, family: u32) {
    if let Some(count) = counts.get_ptr_mut(key) {
        return add(count, n);
    }
    if counts.insert(key, n, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    // Another CPU was faster, or the map is full.
    match counts.get_ptr_mut(key) {
        Some(count) => add(count, n),
        None => lose(family),
    }
}
