//! `bench tier`: the policy tier of `memtier run --act` in a guest of two nodes with CPUs and a slow one without. What a process
//! has in use lies on the slow node, what it does not use fills the fast one. The kernel's own tiering stands beside.

use memtier::observe::topology;
use memtier::sys::files::{Root, field};
use memtier::sys::numa::move_pages;
use memtier::vocab::{Bytes, NodeFacts, NodeId, Pages, is_slow};
use memtier_tests::daemon::{Daemon, Run};
use memtier_tests::hog::{Fill, Hog};
use memtier_tests::rows::{Goal, Row};
use memtier_tests::toucher::{Law, Spec, Toucher};
use memtier_tests::{cpu, footing};
use std::fs;
use std::time::{Duration, Instant};

/// A little more is touched than is not, each page several times between two walks: so all that is not touched has to make
/// room, whether a few MiB more are free or less.
const SPEC: Spec = Spec { pages: 1 << 15, set: 35 << 9, law: Law::Uniform, contiguous: true, rate: 30_000 };
/// One minute stands for six; nothing else is set otherwise than by default but what an emulated CPU needs: there each call
/// and each walk is ten times as dear.
const CONFIG: &str = "scan = { period_ms = 2000, walk_permil_of_core = 1000 }
heat = { age_tick_ms = 1000 }
arm = { tax_permil_of_core = 1000, cpu_permil_of_core = 1000 }
brake = { hold_s = 10 }
tier = { period_ms = 1000, cold_s = 10, settle_s = 20 }
";
/// What stays free beside what must, so that a page that somebody else takes does not decide.
const SPARE: Bytes = Bytes::from_mib(2);
/// What must stay free of a node, in thousandths: `numa.node_free_permil` and `tier.reserve_permil`.
const KEPT_PERMIL: u64 = 40;
const HOGS: usize = 5;
/// From the start on, and for so long nothing has changed: whatever goes to and fro after the settle time is seen.
const WINDOW: Duration = Duration::from_secs(90);
const QUIET: Duration = Duration::from_secs(45);
const MOST: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;

const MOVED: (&str, &str, Goal) = ("moved_over_least", "", Goal::Most(1.1));
const PINGPONG: (&str, &str, Goal) = ("pingpong_pages", "pages", Goal::Most(0.0));
const HOT: (&str, &str, Goal) = ("hot_on_fast_permil", "permil", Goal::Least(950.0));
const COLD: (&str, &str, Goal) = ("cold_on_slow_permil", "permil", Goal::Least(950.0));
const TOOK: (&str, &str, Goal) = ("last_move_s", "s", Goal::None);

pub fn measure() -> Vec<Row> {
    let mut rows = Vec::new();
    for (peer, suffix) in [(Peer::Memtier, ""), (Peer::Kernel, "_kernel")] {
        let ran = Ground::here().and_then(|ground| {
            let ended = (0..ROUNDS).map(|_| ground.run(peer).inspect(|ended| eprintln!("{peer:?}: {ended:?}")));
            let ended = ended.collect::<Result<Vec<_>, _>>()?;
            Ok((ground.place, ended))
        });
        let of: [fn(&Ended) -> f64; 5] =
            [Ended::moved_over_least, |e| e.twice as f64, |e| e.hot_permil, |e| e.cold_permil, |e| e.last_s];
        for ((metric, unit, goal), of) in [MOVED, PINGPONG, HOT, COLD, TOOK].into_iter().zip(of) {
            let goal = if peer == Peer::Memtier { goal } else { Goal::None };
            let row = match &ran {
                Ok((place, ended)) => {
                    let sums: Vec<String> =
                        ended.iter().map(|e| format!("{} pages moved, {} at least", e.moved, e.least)).collect();
                    let values: Vec<f64> = ended.iter().map(of).collect();
                    Row::new(metric, unit, goal, format!("{}; {place}", sums.join(", ")), &values)
                }
                Err(why) => Row::absent(metric, unit, goal, why),
            };
            rows.push(row.of(suffix, ""));
        }
    }
    rows
}

/// Who moves pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Memtier,
    /// numa_balancing=2 and demotion.
    Kernel,
}

/// A guest, and how it is called.
struct Ground {
    fast: NodeFacts,
    other: NodeFacts,
    slow: NodeFacts,
    place: String,
}

/// How one run ended.
#[derive(Debug)]
struct Ended {
    moved: u64,
    least: u64,
    /// Pages of the region that were seen to change their node more than once.
    twice: u64,
    hot_permil: f64,
    cold_permil: f64,
    last_s: f64,
}

impl Ended {
    fn moved_over_least(&self) -> f64 {
        self.moved as f64 / self.least as f64
    }
}

impl Ground {
    fn here() -> Result<Self, String> {
        if !footing::lab() {
            return Err("only in a guest of `cargo xtask vm`".into());
        }
        footing::host()?;
        let nodes = topology::nodes(&Root::host()).map_err(|e| e.to_string())?;
        let (slow, fast): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| is_slow(&nodes, node));
        let (Some(slow), [fast, other, ..]) = (slow.first(), &fast[..]) else {
            return Err("needs two fast nodes and a slow one".into());
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let place = format!(
            "Linux {}, {} MiB a node; {} MiB in use on the slow one, {} MiB not in use on the fast one",
            kernel.trim(),
            fast.total.0 >> 20,
            Pages(SPEC.set).bytes().0 >> 20,
            Pages(SPEC.pages - SPEC.set).bytes().0 >> 20
        );
        Ok(Self { fast: (*fast).clone(), other: (*other).clone(), slow: (*slow).clone(), place })
    }

    fn run(&self, peer: Peer) -> Result<Ended, String> {
        let first_cpu = |node: &NodeFacts| node.cpus.first().map_or(0, |cpu| cpu.0 as usize);
        for (knob, value) in [("kernel/numa_balancing", "0"), ("vm/compaction_proactiveness", "0"), ("vm/drop_caches", "3")] {
            // A kernel that is not built with it has no such file.
            let _ = fs::write(format!("/proc/sys/{knob}"), value);
        }
        demote(false)?;
        // What is started from the fast node's CPU stays there, and has its memory there from the first touch on.
        cpu::pin(0, first_cpu(&self.fast))?;
        let toucher = Toucher::start(SPEC)?;
        let pages: Vec<u64> = (0..SPEC.pages).map(|page| toucher.base + page * 4096).collect();
        let (hot, cold) = pages.split_at(SPEC.set as usize);
        send(toucher.pid(), hot, self.slow.id)?;
        send(toucher.pid(), cold, self.fast.id)?;
        let _hogs = self.fill()?;
        // What measures has another node.
        cpu::pin(0, first_cpu(&self.other))?;
        let kept = self.fast.total.scale(KEPT_PERMIL, 1000);
        let start = lies(toucher.pid(), &pages)?;
        let on = |lies: &[i32], node: NodeId| lies.iter().filter(|at| **at == i32::from(node.0)).count() as u64;
        let free = Bytes::from_kib(free_kib(self.fast.id)?);
        let waiting = on(&start[..hot.len()], self.slow.id);
        // Each page in use goes once, and so does each that makes room for one.
        let least = waiting + Pages(waiting).bytes().saturating_add(kept).saturating_sub(free).pages().0.min(cold.len() as u64);
        let (before, begun) = (migrated()?, Instant::now());
        let dir = memtier_tests::scratch();
        let _daemon = match peer {
            Peer::Memtier => {
                let run = Run {
                    pid: Some(toucher.pid()),
                    config: CONFIG,
                    options: &["--act"],
                    record: false,
                    cpu: Some(first_cpu(&self.other)),
                };
                Some(Daemon::start(&memtier_tests::binary("memtier")?, dir.path(), &run)?)
            }
            Peer::Kernel => {
                demote(true)?;
                fs::write("/proc/sys/kernel/numa_balancing", "2").map_err(|e| format!("numa_balancing: {e}"))?;
                None
            }
        };
        let (mut last, mut crossed, mut changed) = (start, vec![0_u32; pages.len()], Duration::ZERO);
        while begun.elapsed() < WINDOW.max(changed + QUIET).min(MOST) {
            std::thread::sleep(LOOK_EVERY);
            let now = lies(toucher.pid(), &pages)?;
            // One that is on its way is on no node.
            for (count, (was, is)) in crossed.iter_mut().zip(last.iter_mut().zip(now)).filter(|(_, (_, is))| *is >= 0) {
                if *was != is {
                    (*was, changed) = (is, begun.elapsed());
                    *count += 1;
                }
            }
        }
        let _ = fs::write("/proc/sys/kernel/numa_balancing", "0");
        demote(false)?;
        let (hot_at, cold_at) = last.split_at(hot.len());
        let fast = on(hot_at, self.fast.id) + on(hot_at, self.other.id);
        Ok(Ended {
            moved: migrated()? - before,
            least,
            twice: crossed.iter().filter(|count| **count > 1).count() as u64,
            hot_permil: 1000.0 * fast as f64 / hot.len() as f64,
            cold_permil: 1000.0 * on(cold_at, self.slow.id) as f64 / cold.len() as f64,
            last_s: changed.as_secs_f64(),
        })
    }

    /// Takes what is free on the fast node but for what must stay so, and a little: by several, for what is freed is not all
    /// told at once.
    fn fill(&self) -> Result<Vec<Hog>, String> {
        let kept = self.fast.total.scale(KEPT_PERMIL, 1000).saturating_add(SPARE);
        let mut hogs = Vec::new();
        for _ in 0..HOGS {
            // Pages of files that nobody uses are as good as free.
            let _ = fs::write("/proc/sys/vm/drop_caches", "3");
            let mib = Bytes::from_kib(free_kib(self.fast.id)?).saturating_sub(kept).0 >> 20;
            if mib > 0 {
                hogs.push(Hog::start(mib, Fill::Half)?);
            }
        }
        Ok(hogs)
    }
}

/// Moves pages, and holds that they went.
fn send(pid: u32, pages: &[u64], to: NodeId) -> Result<(), String> {
    for _ in 0..3 {
        move_pages(pid, pages, Some(to.0)).map_err(|e| format!("move_pages to {to}: {e}"))?;
        if lies(pid, pages)?.iter().all(|at| *at == i32::from(to.0)) {
            return Ok(());
        }
    }
    let there = lies(pid, pages)?.iter().filter(|at| **at == i32::from(to.0)).count();
    // A few that were busy do not matter.
    if there * 100 >= pages.len() * 99 { Ok(()) } else { Err(format!("{there} of {} pages went to {to}", pages.len())) }
}

fn lies(pid: u32, pages: &[u64]) -> Result<Vec<i32>, String> {
    move_pages(pid, pages, None).map_err(|e| format!("move_pages: {e}"))
}

fn free_kib(node: NodeId) -> Result<u64, String> {
    let path = format!("/sys/devices/system/node/node{}/meminfo", node.0);
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = text.lines().find_map(|line| line.split_once("MemFree:")).ok_or(format!("{path} has no MemFree"))?;
    line.1.trim().trim_end_matches(" kB").parse().map_err(|e| format!("{path}: {e}"))
}

fn migrated() -> Result<u64, String> {
    let text = fs::read_to_string("/proc/vmstat").map_err(|e| format!("/proc/vmstat: {e}"))?;
    field(&text, "pgmigrate_success").ok_or_else(|| "/proc/vmstat has no pgmigrate_success".into())
}

fn demote(on: bool) -> Result<(), String> {
    let path = "/sys/kernel/mm/numa/demotion_enabled";
    fs::write(path, if on { "true" } else { "false" }).map_err(|e| format!("{path}: {e}"))
}
