//! What a server pays for being watched. Two servers with the same items are asked for the same at the same time. memtier first
//! moves pages of both until nothing is worth a move; then it watches one of them, and then the other, without acting: what the
//! two have of their own cancels. It does so at rest, as it is nearly all of the time on a steady server, and reading records.

use super::COST;
use super::arms::{MIB, server, watch};
use super::lanes::{BATCH, Lane, serve};
use super::workload::{Phase, RATE, Stream, WORKLOADS};
use memtier_tests::daemon::Daemon;
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
const AWAKE: &str = "caches = { fetchers_on_ms = 167, fetchers_every_s = 10 }";
/// In seconds what takes minutes by default.
const AT_REST: &str = "caches = { rest_after_s = 2, warmup_s = 1 }";
const BALANCE: &str = "caches = { rest_after_s = 30 }";
/// From the start of a daemon until it only watches; and until it rests, at most.
const SETTLE_S: u64 = 2;
const REST_MOST_S: u64 = 60;
const BALANCE_MOST_S: u64 = 300;
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

    /// Load, until all of these rest.
    fn rest(&mut self, daemons: &[&Daemon], most: u64, interrupt: &Interrupt) -> Result<(), String> {
        for _ in 0..most {
            self.paced(1, interrupt)?;
            if daemons.iter().map(|daemon| rested(daemon)).collect::<Result<Vec<_>, _>>()?.iter().all(Option::is_some) {
                return Ok(());
            }
        }
        Err(format!("after {most} s it still reads records"))
    }

    fn balance(&mut self, memtier: &Path, interrupt: &Interrupt) -> Result<(), String> {
        let dirs = [memtier_tests::scratch(), memtier_tests::scratch()];
        let start = |n: usize| watch(memtier, dirs[n].path(), &self.servers[n].socket, true, BALANCE);
        let daemons = [start(0)?, start(1)?];
        self.rest(&[&daemons[0], &daemons[1]], BALANCE_MOST_S, interrupt)?;
        daemons.into_iter().try_for_each(Daemon::end)
    }

    fn cpu_ns(&self) -> Result<[u64; 2], String> {
        let [one, other] = &self.servers;
        Ok([cpu_ns(one.pid())?, cpu_ns(other.pid())?])
    }
}

/// For so long it reads no records; none: it reads them.
fn rested(daemon: &Daemon) -> Result<Option<u64>, String> {
    let view: serde_json::Value = serde_json::from_str(&daemon.ask(&["caches", "--json"])?).map_err(|e| format!("caches: {e}"))?;
    Ok(view["servers"][0]["rested_s"].as_u64())
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

/// Of the watched server over the other, in percent; of the other for a request, in us; and of the daemon, in percent of a core.
#[derive(Default)]
struct Costs {
    server: Vec<f64>,
    each_us: Vec<f64>,
    daemon: Vec<f64>,
}

impl Rig {
    fn costs(&mut self, memtier: &Path, config: &str, rests: bool, interrupt: &Interrupt) -> Result<Costs, String> {
        let mut costs = Costs::default();
        for _ in 0..ROUNDS {
            let mut watched_over_other = [0.0; 2];
            for (half, ratio) in watched_over_other.iter_mut().enumerate() {
                let dir = memtier_tests::scratch();
                let watcher = watch(memtier, dir.path(), &self.servers[half].socket, false, config)?;
                self.paced(SETTLE_S, interrupt)?;
                if rests {
                    self.rest(&[&watcher], REST_MOST_S, interrupt)?;
                }
                let (before, began, spent) = (self.cpu_ns()?, Instant::now(), watcher.cpu()?);
                self.paced(HALF_S, interrupt)?;
                let after = self.cpu_ns()?;
                costs.daemon.push(watcher.cpu()?.since(&spent, began.elapsed()).percent());
                if rests && rested(&watcher)?.is_none_or(|seconds| seconds + 1 < HALF_S) {
                    return Err("it woke up meanwhile".to_owned());
                }
                watcher.end()?;
                let [watched, other] = [half, 1 - half].map(|n| (after[n] - before[n]) as f64);
                *ratio = watched / other;
                costs.each_us.push(other / 1e3 / (HALF_S * RATE) as f64);
            }
            costs.server.push(100.0 * ((watched_over_other[0] * watched_over_other[1]).sqrt() - 1.0));
        }
        Ok(costs)
    }
}

pub fn measure(memtier: &Path, interrupt: &Interrupt) -> Result<Vec<Row>, String> {
    let dir = memtier_tests::scratch();
    let mut rig = Rig::start(dir.path())?;
    rig.balance(memtier, interrupt)?;
    let rest = rig.costs(memtier, AT_REST, true, interrupt)?;
    let awake = rig.costs(memtier, AWAKE, false, interrupt)?;
    let what = |costs: &[f64], how: &str| {
        let bound = Interval::of(costs).map_or_else(String::new, |i| format!("95 % interval {:.2} .. {:.2}; ", i.low, i.high));
        format!("{bound}CPU time per request of a server of {MIB} MiB at {RATE} requests/s, watched {how} over not watched")
    };
    let at_rest = "at rest (its counters), as by default all but 2 of 32 minutes of a steady server,";
    Ok(vec![
        Row::new(COST.0, COST.1, COST.2, what(&rest.server, at_rest), &rest.server),
        Row::new("server_cpu_cost_awake", "%", Goal::None, what(&awake.server, "with its records"), &awake.server),
        Row::new("server_cpu_per_request", "us", Goal::None, "not watched; gets, and a set for each miss", &awake.each_us),
        Row::new("watching_daemon_cpu", "% of a core", Goal::None, "the daemon itself at rest", &rest.daemon),
        Row::new("watching_daemon_cpu_awake", "% of a core", Goal::None, "and when it reads records", &awake.daemon),
    ])
}
