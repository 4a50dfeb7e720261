//! `bench saved`: memory that memtier saves on the demo's cache, and what that costs its clients.

use memtier_tests::cpu;
use memtier_tests::interrupt::Interrupt;
use memtier_tests::load::{self, Load, Shape, Window};
use memtier_tests::memcached::Memcached;
use memtier_tests::pairs::{Interval, ratios};
use memtier_tests::rows::{Goal, Row};
use memtier_tests::stage::Stage;
use memtier_tests::vital;
use memtier_tests::workload::{MEMCACHED, MEMCACHED_MIB, SHAPE};
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

const SAVED: (&str, Goal) = ("net_dram_saved_percent", Goal::Least(25.0));
const THROUGHPUT: (&str, Goal) = ("throughput_ratio_low", Goal::Least(0.99));
const P99: (&str, Goal) = ("p99_ratio", Goal::Most(1.05));
const STOPPED: (&str, Goal) = ("incompressible_stopped", Goal::Least(1.0));

/// Of two servers with the same items memtier looks after one, then after the other: what their memory has of its own cancels.
const HALVES: usize = 2;
const PAIRS_IN_HALF: usize = 20;
/// The load keeps to this CPU; memcached and the daemon share the other one, so that the server meets all that the daemon takes,
/// and the scheduler's choice between CPUs, which is most of the noise, is out of it.
const CLIENT_CPU: usize = 0;
const SERVER_CPU: usize = 1;
/// Each side of a pair: throughput as fast as answers come, by so many connections that neither CPU waits for the other, and
/// latencies at the demo's rate.
const FLAT_OUT: Duration = Duration::from_secs(4);
const SATURATED: Shape = Shape { threads: 32, ..SHAPE };
const PACED: Duration = Duration::from_secs(4);
/// After a change of load, not measured.
const SETTLE: Duration = Duration::from_secs(1);
/// A daemon that was started anew is past its warm-up, and at work: three walks.
const AT_WORK: Duration = Duration::from_secs(6);
/// In each half the first daemon pages out what is cold. A brake that held, and eased for a quarter of a step at a time, makes
/// that long; after so long it is measured anyway.
const MOST_LEARNING: Duration = Duration::from_secs(180);
/// Nothing more went out for so long, which is longer than a brake holds: it is done.
const QUIET: Duration = Duration::from_secs(14);
/// With values that do not compress: by then it must have stopped.
const INCOMPRESSIBLE: Duration = Duration::from_secs(45);

/// The demo's settings (minutes instead of days), faster once more, since each pair begins anew: ages a tenth of the defaults.
const CONFIG: &str = r"[scan]
period_ms = 2000
[heat]
age_tick_ms = 1000
[brake]
hold_s = 10
[autocold]
slo_permil_per_min = 20
min_idle_s = 12
warmup_s = 4
step_permil = 200
period_ms = 2000
";

/// Ends the bench with rows that say why.
pub fn measure() -> Vec<Row> {
    let absent = |(metric, goal): (&'static str, Goal), unit, why: &str| Row::absent(metric, unit, goal, why);
    let mut bench = match Bench::new() {
        Ok(bench) => bench,
        Err(why) => {
            return vec![
                absent(SAVED, "%", &why),
                absent(THROUGHPUT, "times", &why),
                absent(P99, "times", &why),
                absent(STOPPED, "", &why),
            ];
        }
    };
    let mut rows = match bench.pairs() {
        Ok(pairs) => rows(&pairs),
        Err(why) => vec![absent(SAVED, "%", &why), absent(THROUGHPUT, "times", &why), absent(P99, "times", &why)],
    };
    rows.push(match bench.incompressible() {
        Ok(row) => row,
        Err(why) => absent(STOPPED, "", &why),
    });
    if let Err(why) = bench.stage.undo() {
        eprintln!("undoing: {why}");
    }
    rows
}

struct Side {
    paced: Window,
    flat_out: Window,
    /// CPU time of the server for a request of the closed loop.
    request_us: f64,
}

struct Pair {
    without: Side,
    with: Side,
    /// Resident memory of the server without less that of the one with, less what zram takes, of the first.
    saved_percent: f64,
    daemon_percent: f64,
}

struct Pairs {
    pairs: Vec<Pair>,
    /// From the start of the first daemon of each half until it had paged out.
    learned_s: Vec<f64>,
}

struct Bench {
    stage: Stage,
    interrupt: Interrupt,
}

impl Bench {
    fn new() -> Result<Self, String> {
        memtier_tests::footing::host()?;
        let mut stage = Stage::new(memtier_tests::binary("memtier")?)?;
        stage.swap()?;
        Ok(Self { stage, interrupt: Interrupt::catch()? })
    }

    /// Puts the items in.
    fn fill(&self, socket: &Path, shape: &Shape) -> Result<(), String> {
        let interrupt = &self.interrupt;
        load::fill(socket, shape, |_| interrupt.check().map_err(std::io::Error::other))
            .map_err(|e| format!("filling memcached: {e}"))
    }

    /// What the load sees in a while, and the CPU time that the server takes meanwhile.
    fn window(&self, pid: u32, load: &Load, time: Duration, rate: Option<u64>) -> Result<(Window, f64), String> {
        let cpu_s = || vital::of(pid).map(|v| v.user_s + v.system_s);
        load.pace(rate);
        self.interrupt.sleep(SETTLE)?;
        load.take(Instant::now())?;
        let (since, before) = (Instant::now(), cpu_s()?);
        self.interrupt.sleep(time)?;
        Ok((load.take(since)?, cpu_s()? - before))
    }

    fn paced(&self, pid: u32, socket: &Path) -> Result<Window, String> {
        let load = pinned(CLIENT_CPU, || Load::start(socket, &SHAPE).map_err(|e| format!("load: {e}")))?;
        Ok(self.window(pid, &load, PACED, Some(SHAPE.rate))?.0)
    }

    /// The window, and the CPU time of the server for a request in microseconds.
    fn flat_out(&self, pid: u32, socket: &Path) -> Result<(Window, f64), String> {
        let load = pinned(CLIENT_CPU, || Load::start(socket, &SATURATED).map_err(|e| format!("load: {e}")))?;
        let (flat_out, cpu_s) = self.window(pid, &load, FLAT_OUT, None)?;
        let request_us = 1e6 * cpu_s / flat_out.latency.len().max(1) as f64;
        Ok((flat_out, request_us))
    }

    fn paged_out(&self) -> Result<f64, String> {
        self.stage.daemon()?.metric("memtier_paged_out_bytes_total", "")
    }

    /// Waits until the daemon has paged out what it wants to, and no longer than `MOST_LEARNING`.
    fn learn(&self) -> Result<f64, String> {
        let began = Instant::now();
        let (mut out, mut since) = (0.0, began);
        while began.elapsed() < MOST_LEARNING && (out == 0.0 || since.elapsed() < QUIET) {
            self.interrupt.sleep(Duration::from_secs(1))?;
            let now = self.paged_out()?;
            // Single pages still go when it is done.
            if now > out + f64::from(8 << 20) {
                (out, since) = (now, Instant::now());
            }
        }
        Ok(began.elapsed().as_secs_f64())
    }

    fn pairs(&mut self) -> Result<Pairs, String> {
        let (mut pairs, mut learned_s) = (Vec::new(), Vec::new());
        let mut socket = pinned(SERVER_CPU, || self.stage.memcached(MEMCACHED_MIB, &MEMCACHED))?;
        let mut other = pinned(SERVER_CPU, || Memcached::start(MEMCACHED_MIB, &MEMCACHED))?;
        self.fill(&socket, &SHAPE)?;
        self.fill(&other.socket, &SHAPE)?;
        for _ in 0..HALVES {
            self.stage.recall()?;
            self.start_daemon()?;
            // What is hot shows under load only.
            self.load(&SHAPE)?;
            learned_s.push(self.learn()?);
            self.stage.end_load();
            self.stage.end_daemon()?;
            for _ in 0..PAIRS_IN_HALF {
                pairs.push(self.pair(&socket, &other)?);
            }
            let next = other.socket.clone();
            other = self.stage.exchange(other)?;
            socket = next;
        }
        Ok(Pairs { pairs, learned_s })
    }

    fn start_daemon(&mut self) -> Result<(), String> {
        self.stage.start_daemon(CONFIG, &["--act"], false, Some(SERVER_CPU))
    }

    fn load(&mut self, shape: &Shape) -> Result<(), String> {
        pinned(CLIENT_CPU, || self.stage.start_load(shape))
    }

    /// The server whose cold memory is in zram, with a daemon at work on it; at once after that the other one, and no daemon.
    fn pair(&mut self, socket: &Path, other: &Memcached) -> Result<Pair, String> {
        self.start_daemon()?;
        self.load(&SHAPE)?;
        self.interrupt.sleep(AT_WORK)?;
        self.stage.end_load();
        let (cpu, began) = (self.stage.daemon_cpu()?, Instant::now());
        let pid = self.stage.memcached_pid()?;
        let paced = self.paced(pid, socket)?;
        let (flat_out, request_us) = self.flat_out(pid, socket)?;
        let with = Side { paced, flat_out, request_us };
        let daemon_percent = self.stage.daemon_cpu()?.since(&cpu, began.elapsed()).percent();
        let sizes = self.stage.sizes()?;
        self.stage.end_daemon()?;
        // Throughput with and without lie side by side.
        let (flat_out, request_us) = self.flat_out(other.pid(), &other.socket)?;
        let without = Side { paced: self.paced(other.pid(), &other.socket)?, flat_out, request_us };
        eprintln!("requests/s with {:.0}, without {:.0}", with.flat_out.per_second(), without.flat_out.per_second());
        let whole = vital::of(other.pid())?.rss as f64;
        let left = sizes.memcached.rss as f64 + sizes.zram.cost as f64;
        Ok(Pair { without, with, saved_percent: 100.0 * (whole - left) / whole.max(1.0), daemon_percent })
    }

    /// The same cache with values that do not compress: paging them out to zram saves nothing, and memtier must see that.
    fn incompressible(&mut self) -> Result<Row, String> {
        let _ = self.stage.end_daemon();
        self.stage.end_load();
        self.stage.end_memcached();
        let shape = Shape { compressible: false, ..SHAPE };
        let socket = pinned(SERVER_CPU, || self.stage.memcached(MEMCACHED_MIB, &MEMCACHED))?;
        self.fill(&socket, &shape)?;
        self.load(&shape)?;
        let start = self.stage.sizes()?;
        self.start_daemon()?;
        self.interrupt.sleep(INCOMPRESSIBLE)?;
        let before = self.paged_out()?;
        self.interrupt.sleep(QUIET)?;
        let (after, end) = (self.paged_out()?, self.stage.sizes()?);
        let said = self.stage.memtier(&["explain", &self.stage.memcached_pid()?.to_string()])?;
        self.stage.end_daemon()?;
        let reasons = said.lines().map(str::trim).filter(|line| line.contains("memory cost of swap"));
        // Every policy that takes memory says it; autocold is the one that acts here.
        let reason = reasons.max_by_key(|line| line.contains("autocold"));
        let stopped = before == after && end.memcached.swapped < start.memcached.rss / 4 && reason.is_some();
        let out = end.memcached.swapped >> 20;
        let of = start.memcached.rss >> 20;
        let against =
            format!("{out} of {of} MiB went out before it stopped; it says: {}", reason.unwrap_or("nothing of the cost of swap"));
        Ok(Row::new(STOPPED.0, "", STOPPED.1, against, &[f64::from(u8::from(stopped))]))
    }
}

/// Runs `start` on one CPU; the threads and processes that it starts stay there.
fn pinned<T>(on: usize, start: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let said = |e| format!("this thread's CPUs: {e}");
    let everywhere = sched_getaffinity(Pid::from_raw(0)).map_err(said)?;
    cpu::pin(0, on)?;
    let started = start();
    sched_setaffinity(Pid::from_raw(0), &everywhere).map_err(said)?;
    started
}

fn rows(Pairs { pairs, learned_s }: &Pairs) -> Vec<Row> {
    let each = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(of).collect::<Vec<f64>>();
    let compared = |of: fn(&Side) -> f64| ratios(&each(&|p| of(&p.with)), &each(&|p| of(&p.without)));
    let throughput = compared(|side| side.flat_out.per_second());
    let interval = Interval::of_parts(&throughput.chunks(PAIRS_IN_HALF).collect::<Vec<_>>());
    let wrong = each(&|p| [&p.with, &p.without].iter().map(|s| s.paced.wrong + s.flat_out.wrong).sum::<u64>() as f64);
    let row = |metric, unit, against: &str, runs: &[f64]| Row::new(metric, unit, Goal::None, against, runs);
    let what = "memcached, 1.5 GiB of items; with: what is cold was paged out, and a daemon is at work; without: another server, all in \
                memory, no daemon";
    let bound = interval.map_or_else(String::new, |i| format!("95 % interval {:.4} .. {:.4}, mean {:.4}", i.low, i.high, i.mean));
    let low: Vec<f64> = interval.iter().map(|i| i.low).collect();
    vec![
        Row::new(SAVED.0, "%", SAVED.1, what, &each(&|p| p.saved_percent)),
        row("throughput_ratio", "times", "requests/s of a closed loop, with / without", &throughput),
        Row::new(THROUGHPUT.0, "times", THROUGHPUT.1, bound, &low),
        row(
            "server_cpu_ratio",
            "times",
            "CPU time of the server for a request of that loop, with / without",
            &compared(|s| s.request_us),
        ),
        Row::new(P99.0, "times", P99.1, "at 1500 requests/s offered, with / without", &compared(|side| side.paced.micros(0.99))),
        row("p999_ratio", "times", "the same", &compared(|side| side.paced.micros(0.999))),
        row("throughput", "requests/s", "without", &each(&|p| p.without.flat_out.per_second())),
        row("throughput", "requests/s", "with", &each(&|p| p.with.flat_out.per_second())),
        row("p99", "us", "without", &each(&|p| p.without.paced.micros(0.99))),
        row("p99", "us", "with", &each(&|p| p.with.paced.micros(0.99))),
        row("learned_s", "s", "from the start of the daemon until it had paged out", learned_s),
        row(
            "daemon_cpu",
            "% of a core",
            "user and system, while measured; without the BPF programs, whose accounting costs time",
            &each(&|p| p.daemon_percent),
        ),
        Row::new("wrong_values", "reads", Goal::Most(0.0), "every value read is compared with what was stored", &wrong),
    ]
}
