//! CPU time of this process: what a measurement costs, whoever else wants the CPU meanwhile.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// User and system time of all threads so far.
pub fn now() -> Result<Duration, String> {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).map_err(|e| format!("CLOCK_PROCESS_CPUTIME_ID: {e}"))
}
