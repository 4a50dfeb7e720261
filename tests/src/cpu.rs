//! CPU time of this process: what a measurement costs, whoever else wants the CPU meanwhile. And where a process runs.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::time::Duration;

/// User and system time of all threads so far.
pub fn now() -> Result<Duration, String> {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).map_err(|e| format!("CLOCK_PROCESS_CPUTIME_ID: {e}"))
}

/// Keeps a thread to one CPU; 0 is the calling one. Threads and processes that it starts later inherit it.
pub fn pin(pid: u32, cpu: usize) -> Result<(), String> {
    let mut one = CpuSet::new();
    one.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(pid.cast_signed()), &one))
        .map_err(|e| format!("process {pid} on CPU {cpu}: {e}"))
}
