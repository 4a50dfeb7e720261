//! `bench accuracy-guest`: `accuracy` where an emulator stands for the hardware, in a guest of the lab. TCG keeps a translation
//! until its CPU goes to another address space or the kernel has it flushed, so a process alone on its CPU shows an access
//! only if whoever cleared the bit also flushed: like a hot set that fits the TLB for ever. A neighbour is what ends that
//! elsewhere. Each target is measured alone on its CPU, then with a neighbour there.

use crate::accuracy::{self, Ground};
use memtier::vocab::Span;
use memtier_tests::cpu;
use memtier_tests::rows::Row;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What an emulator on two busy cores can touch and walk in the time: with 8192 pages, most of the touches are of their tail. A
/// CPU for each process, and one for the daemon's parts: on one CPU they would be neighbours of each other.
const GROUND: Ground = Ground {
    sets: &[16, 64, 512, 2048],
    // Of less than `scan.min_resident_mib` nothing is walked.
    region: 1 << 14,
    ranks: false,
    period: Some(Span::from_secs(3)),
    // What walks and calls cost here is the emulator's: by the defaults most would be put off.
    cpu_permil: Some(1000),
    needed_mib: 1 << 10,
    apart: true,
};
/// Time between two wakes of a neighbour: several between two bursts of its target.
const NEIGHBOUR_SLEEPS: Duration = Duration::from_micros(700);

pub fn measure() -> Vec<Row> {
    let place = place();
    let named = |rows: Result<Vec<Row>, String>, suffix: &str, on_cpu: &str| {
        let rows = rows.unwrap_or_else(|why| accuracy::absent(&GROUND, &why));
        rows.into_iter().map(|row| row.of(suffix, &format!("{on_cpu}, {place}"))).collect::<Vec<_>>()
    };
    let mut rows = named(accuracy::run(&GROUND), "_alone", "alone on its CPU");
    let beside = neighbours().and_then(|_awake| accuracy::run(&GROUND));
    rows.extend(named(beside, "_neighbour", "a neighbour on its CPU wakes each 0.7 ms"));
    rows
}

/// Kernel and processor, as they call themselves: that it is a guest is seen from the rows, not believed.
fn place() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("Linux {} on {}", read("/proc/sys/kernel/osrelease").trim(), model.map_or("?", |(_, name)| name))
}

/// A thread of ours on the CPU of each target, in an address space that is not the target's. They end with what is returned.
fn neighbours() -> Result<Arc<()>, String> {
    let awake = Arc::new(());
    for cpu in 1..=GROUND.processes() {
        // Which the thread inherits.
        cpu::pin(0, cpu)?;
        let awake = Arc::downgrade(&awake);
        thread::spawn(move || {
            while awake.strong_count() > 0 {
                thread::sleep(NEIGHBOUR_SLEEPS);
            }
        });
    }
    Ok(awake)
}
