//! The clocks that memtier reads.

use crate::vocab::Time;
use nix::time::{ClockId, clock_gettime};

/// Now, on the clock that stamps kernel events too.
#[must_use]
pub fn boottime() -> Time {
    Time(nanoseconds(ClockId::CLOCK_BOOTTIME))
}

/// Now, on the clock that stands still while the host sleeps.
#[must_use]
pub fn monotonic() -> Time {
    Time(nanoseconds(ClockId::CLOCK_MONOTONIC))
}

/// Unix time at zero of that clock, by the wall clock as it goes now.
#[must_use]
pub fn unix_at_zero() -> i64 {
    nanoseconds(ClockId::CLOCK_REALTIME).cast_signed() - nanoseconds(ClockId::CLOCK_BOOTTIME).cast_signed()
}

/// User and system time of the calling thread so far, in nanoseconds.
#[must_use]
pub fn thread_cpu() -> u64 {
    nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let t = clock_gettime(clock).expect("these clocks exist since Linux 2.6.39 and the pointer is ours");
    t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
}
