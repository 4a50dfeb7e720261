//! What /proc and /sys say about a process and about swap, in the numbers that the demo and the benches print.

use procfs::WithCurrentSystemInfo as _;
use std::fs;

/// One process at one moment. Times are totals since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vital {
    pub rss: u64,
    pub swapped: u64,
    pub major_faults: u64,
    pub user_s: f64,
    pub system_s: f64,
}

pub fn of(pid: u32) -> Result<Vital, String> {
    let said = |e: procfs::ProcError| format!("process {pid}: {e}");
    let pid = i32::try_from(pid).map_err(|e| e.to_string())?;
    let process = procfs::process::Process::new(pid).map_err(said)?;
    let (stat, status) = (process.stat().map_err(said)?, process.status().map_err(said)?);
    let tick = procfs::ticks_per_second() as f64;
    Ok(Vital {
        rss: stat.rss_bytes().get(),
        swapped: status.vmswap.unwrap_or(0) << 10,
        major_faults: stat.majflt,
        user_s: stat.utime as f64 / tick,
        system_s: stat.stime as f64 / tick,
    })
}

/// Memory that all zram devices take (mem_used_total), and what they hold uncompressed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Zram {
    pub stored: u64,
    pub cost: u64,
}

pub fn zram() -> Zram {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|d| d.path().join("mm_stat"));
    devices.filter_map(|path| fs::read_to_string(path).ok()).fold(Zram::default(), |sum, text| {
        let field = |n| text.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        Zram { stored: sum.stored + field(0), cost: sum.cost + field(2) }
    })
}

/// Pages swapped in since boot, host-wide.
#[must_use]
pub fn swapped_in() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("pswpin ")?.parse().ok()).unwrap_or(0)
}

/// True if the host has a swap area on.
#[must_use]
pub fn has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// Run time of all BPF programs that a process holds open, from the descriptors' own statistics.
/// Zero while the kernel does not count it (`memtier run --bpf-stats`).
pub fn bpf_seconds(pid: u32) -> f64 {
    let programs = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let mut seen = std::collections::BTreeMap::new();
    for text in programs.filter_map(|fd| fs::read_to_string(fd.path()).ok()) {
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok());
        if let (Some(id), Some(ns)) = (field("prog_id"), field("run_time_ns")) {
            // A program may be open more than once, and its links show it too.
            seen.insert(id, ns);
        }
    }
    seen.values().sum::<u64>() as f64 / 1e9
}
