//! Ways out of the kernel that all families share: the event ring, the tallies, the loss counters.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use core::arch::asm;
use memtier_common::{TallyKey, lost};

/// Sized by the loader.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);
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

/// Sends a record, or counts it as lost.
#[inline(always)]
pub fn send<T: Copy + 'static>(record: T, family: u32) {
    match EVENTS.reserve::<T>(0) {
        Some(mut room) => {
            room.write(record);
            room.submit(0);
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
