//! What a server pays for being watched. Two servers with the same items are asked for the same at the same time; memtier watches
//! one of them, then the other, without acting: what the two have of their own cancels.

use super::COST;
use super::arms::{MIB, server, watch};
use super::lanes::{BATCH, Lane, serve};
use super::workload::{Phase, RATE, Stream, WORKLOADS};
use memtier_tests::interrupt::Interrupt;
use memtier_tests::memcached::Memcached;
use memtier_tests::pairs::Interval;
use memtier_tests::rows::{Goal, Row};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Each consists of two halves, in which one server and then the other is watched.
const ROUNDS: usize = 5;
const HALF_S: u64 = 10;
/// Each half has one turn of `watch fetchers`: as large a share of the time as by default, a second in a minute.
const CONFIG: &str = "caches = { fetchers_on_ms = 167, fetchers_every_s = 10 }";
/// From the start of a daemon until it only watches.
const SETTLE_S: u64 = 2;
/// The steady mix with evictions all the time.
const WORKLOAD: &str = "zipf";

struct Rig {
    servers: [Memcached; 2],
    lanes: Vec<Lane>,
    stream: Stream,
    phase: Phase,
}

impl Rig {
    fn start(dir: &Path) -> Result<Self, String> {
        let workload = WORKLOADS.iter().find(|w| w.name == WORKLOAD).ok_or("no such workload")?;
        let phase = *workload.phases.first().ok_or("a workload without a phase")?;
        let servers = [server(dir, false, false)?, server(dir, false, false)?];
        let lanes = servers.iter().map(|s| Lane::connect(&s.socket)).collect::<Result<_, _>>();
        let lanes = lanes.map_err(|e| format!("memcached: {e}"))?;
        let mut rig = Self { servers, lanes, stream: Stream::new(workload), phase };
        for _ in 0..workload.fill / BATCH {
            rig.once()?;
        }
        Ok(rig)
    }

    fn once(&mut self) -> Result<(), String> {
        let batch: Vec<_> = (0..BATCH).map(|_| self.stream.next(&self.phase)).collect();
        serve(&mut self.lanes, &batch).map_err(|e| format!("load: {e}"))
    }

    fn paced(&mut self, seconds: u64, interrupt: &Interrupt) -> Result<(), String> {
        let mut due = Instant::now();
        for batch in 0..seconds * RATE / BATCH {
            if batch.is_multiple_of(100) {
                interrupt.check()?;
            }
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(wait);
            }
            due += Duration::from_secs(BATCH) / RATE as u32;
            self.once()?;
        }
        Ok(())
    }

    fn cpu_ns(&self) -> Result<[u64; 2], String> {
        let [one, other] = &self.servers;
        Ok([cpu_ns(one.pid())?, cpu_ns(other.pid())?])
    }
}

/// CPU time of all threads, as the scheduler counts it.
fn cpu_ns(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/task");
    let said = |e: std::io::Error| format!("{path}: {e}");
    let mut all = 0;
    for task in fs::read_dir(&path).map_err(said)? {
        let text = fs::read_to_string(task.map_err(said)?.path().join("schedstat")).map_err(said)?;
        all += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).ok_or_else(|| format!("{path}: {text}"))?;
    }
    Ok(all)
}

pub fn measure(memtier: &Path, interrupt: &Interrupt) -> Result<Vec<Row>, String> {
    let dir = memtier_tests::scratch();
    let mut rig = Rig::start(dir.path())?;
    let (mut costs, mut each_us, mut daemon) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut watched_over_other = [0.0; 2];
        for (half, ratio) in watched_over_other.iter_mut().enumerate() {
            let dir = memtier_tests::scratch();
            let watcher = watch(memtier, dir.path(), &rig.servers[half].socket, false, CONFIG)?;
            rig.paced(SETTLE_S, interrupt)?;
            let (before, began, spent) = (rig.cpu_ns()?, Instant::now(), watcher.cpu()?);
            rig.paced(HALF_S, interrupt)?;
            let after = rig.cpu_ns()?;
            daemon.push(watcher.cpu()?.since(&spent, began.elapsed()).percent());
            watcher.end()?;
            let [watched, other] = [half, 1 - half].map(|n| (after[n] - before[n]) as f64);
            *ratio = watched / other;
            each_us.push(other / 1e3 / (HALF_S * RATE) as f64);
        }
        costs.push(100.0 * ((watched_over_other[0] * watched_over_other[1]).sqrt() - 1.0));
    }
    let bound = Interval::of(&costs).map_or_else(String::new, |i| format!("95 % interval {:.2} .. {:.2}; ", i.low, i.high));
    let what = format!("{bound}CPU time per request of a server of {MIB} MiB at {RATE} requests/s, watched over not watched");
    Ok(vec![
        Row::new(COST.0, COST.1, COST.2, what, &costs),
        Row::new("server_cpu_per_request", "us", Goal::None, "not watched; gets, and a set for each miss", &each_us),
        Row::new("watching_daemon_cpu", "% of a core", Goal::None, "the daemon itself, meanwhile", &daemon),
    ])
}
