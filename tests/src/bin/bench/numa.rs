//! `bench numa`: the policy numa of `memtier run --act` beside Debian's numad, in a guest of several nodes. The same busy
//! processes, their memory spread over the nodes, under one and under the other in turn: when has the last page moved, how
//! many did, how many lie wrong in the end, and what did that cost.

use memtier::compat::numad::node_list;
use memtier::observe::topology;
use memtier::policy::{Place, far, gap};
use memtier::sys::affinity::CpuMask;
use memtier::sys::files::{Root, field};
use memtier::vocab::{Bytes, CpuId, NodeFacts, NodeId, Pages};
use memtier_tests::daemon::{Daemon, Run};
use memtier_tests::footing;
use memtier_tests::numad_daemon::NumadDaemon;
use memtier_tests::rows::{Goal, Row};
use memtier_tests::spread::{Spread, Tenant};
use memtier_tests::vital::{self, Vital};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// From the start of the hogs on; longer only while something still changes.
const WINDOW: Duration = Duration::from_secs(40);
/// More than one of numad's rounds.
const QUIET: Duration = Duration::from_secs(17);
const MOST: Duration = Duration::from_secs(120);
/// Threads are taken apart after the settle time (a minute), if the process was bound while it came up.
const APART: Duration = Duration::from_secs(100);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Before the hogs: both have looked at the nodes twice.
const WARM: Duration = Duration::from_secs(6);
/// numad's rounds while nobody is moved, as Debian ships it. Hogs start at different times of one.
const ROUND: Duration = Duration::from_secs(15);
/// The clock of a host that has been up for a day: numad moves nobody on one that came up just now.
const AGED: [&str; 5] = ["-T", "--monotonic", "100000", "--fork", "--"];

/// What numad does, and no more: no accessed bits are cleared, nothing is paged out.
const PLACES_ONLY: &str =
    "[arm]\nquota_mib_per_s = 0\n[autocold]\nenabled = false\n[[target]]\ncomm = 'hog'\n[[target]]\ncomm = 'tenants'\n";
/// Suffixes of the metrics to measure, in words; without it all that this guest can.
const ONLY: &str = "MEMTIER_BENCH_NUMA";
/// numad's.
const LOG: &str = "/var/log/numad.log";

const SETTLE: (&str, Goal) = ("settle_ratio", Goal::Least(5.0));
const MOVED: (&str, Goal) = ("pages_moved_ratio", Goal::Most(1.0));
const WRONG: (&str, Goal) = ("wrong_pages_permil", Goal::Most(10.0));
const CPU: (&str, Goal) = ("cpu_ratio", Goal::Most(1.0));
/// By how much the answer of memtier loses more than numad's.
const WORSE: (&str, Goal) = ("answer_worse_permil", Goal::Most(0.0));

/// What it was compared with, and a value for each pair; or why there is none.
type Told = Result<(String, Vec<f64>), String>;

pub fn measure() -> Vec<Row> {
    match Ground::here() {
        Ok(grounds) => grounds.iter().flat_map(told).collect(),
        Err(why) => [SETTLE, MOVED, WRONG, CPU, WORSE].map(|(metric, goal)| Row::absent(metric, "", goal, &why)).into(),
    }
}

fn told(ground: &Ground) -> Vec<Row> {
    let runs = ground.pairs();
    let row = |(metric, goal), unit, of: &dyn Fn(&[[Ended; 2]]) -> Told| {
        let row = match runs.as_ref().map_err(Clone::clone).and_then(|runs| of(runs)) {
            Ok((against, values)) => Row::new(metric, unit, goal, against, &values),
            Err(why) => Row::absent(metric, unit, goal, why),
        };
        row.of(ground.suffix, &ground.place)
    };
    vec![
        row(SETTLE, "", &|runs| ratios(runs, "s", |run| run.settled_s, true)),
        row(MOVED, "", &|runs| ratios(runs, "pages", |run| run.moved, false)),
        row(WRONG, "permil", &|runs| Ok((format!("numad {}", listed(runs, 1, |run| run.wrong)), values(runs, 0, |run| run.wrong)))),
        row(CPU, "", &|runs| {
            let (against, values) = ratios(runs, "s", |run| run.cpu_s.iter().sum(), false)?;
            let part = |of: usize| listed(runs, 0, |run| run.cpu_s[of]);
            Ok((
                format!("{against}; memtier's in user mode {}, in the kernel {}, in BPF programs {}", part(0), part(1), part(2)),
                values,
            ))
        }),
        row(WORSE, "permil", &|runs| Ok((answers(runs), runs.iter().map(|[ours, theirs]| ours.lost - theirs.lost).collect()))),
    ]
}

fn values(runs: &[[Ended; 2]], arm: usize, of: impl Fn(&Ended) -> f64) -> Vec<f64> {
    runs.iter().map(|run| of(&run[arm])).collect()
}

fn listed(runs: &[[Ended; 2]], arm: usize, of: impl Fn(&Ended) -> f64) -> String {
    values(runs, arm, of).iter().map(|value| format!("{value:.*}", usize::from(*value < 100.0))).collect::<Vec<_>>().join(", ")
}

/// Ours by theirs, or the other way round.
fn ratios(runs: &[[Ended; 2]], unit: &str, of: fn(&Ended) -> f64, theirs: bool) -> Told {
    let against = format!("{unit}: memtier {}; numad {}", listed(runs, 0, of), listed(runs, 1, of));
    let below = usize::from(!theirs);
    if values(runs, below, of).contains(&0.0) {
        return Err(format!("no ratio to nothing; {against}"));
    }
    Ok((against, runs.iter().map(|run| of(&run[1 - below]) / of(&run[below])).collect()))
}

/// What was chosen last.
fn answers(runs: &[[Ended; 2]]) -> String {
    let Some([ours, theirs]) = runs.last() else { return String::new() };
    let said = |run: &Ended| format!("{}: {:.0} permil lost", run.answer, run.lost);
    format!("of the CPU time wanted; memtier {}; numad {}", said(ours), said(theirs))
}

/// A guest, and what is run in it.
struct Ground {
    suffix: &'static str,
    place: String,
    nodes: Vec<NodeFacts>,
    whom: Whom,
    pairs: u32,
}

/// Who is to be placed.
#[derive(Clone, Copy, Debug)]
enum Whom {
    /// A process of one busy thread each; MiB.
    Hogs(&'static [u64]),
    /// One process: MiB of each tenant, and the busy threads of each.
    Tenants(u64, &'static [usize]),
}

/// How one run ended.
struct Ended {
    settled_s: f64,
    moved: f64,
    wrong: f64,
    /// In user mode, in the kernel, in BPF programs.
    cpu_s: [f64; 3],
    answer: String,
    /// Thousandths of the CPU time wanted.
    lost: f64,
}

impl Ground {
    fn here() -> Result<Vec<Self>, String> {
        if !footing::lab() {
            return Err("only in a guest of `cargo xtask vm`".into());
        }
        footing::host()?;
        for knob in ["kernel/numa_balancing", "vm/compaction_proactiveness"] {
            // A kernel that is not built with it has no such file.
            let _ = fs::write(format!("/proc/sys/{knob}"), "0");
        }
        let nodes = topology::nodes(&Root::host()).map_err(|e| e.to_string())?;
        let sizes = || nodes.iter().map(|node| node.total.0 >> 20);
        let uneven = sizes().max() > sizes().min().map(|least| least * 3 / 2);
        let bare = nodes.iter().any(|node| node.cpus.is_empty());
        let runs: &[(_, _, _)] = match nodes.len() {
            0 | 1 => return Err("one node".into()),
            _ if bare => &[("_cxl", Whom::Hogs(&[480]), 2)],
            _ if uneven => &[("_uneven", Whom::Hogs(&[700]), 2)],
            // The tenants need three of the four CPUs.
            2 => &[("_2", Whom::Hogs(&[480]), 3), ("_apart", Whom::Tenants(160, &[2, 1]), 1)],
            _ => &[("_4", Whom::Hogs(&[400, 320]), 3)],
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let each: Vec<String> = nodes.iter().map(|node| format!("{} CPUs {} MiB", node.cpus.len(), node.total.0 >> 20)).collect();
        let ground = |&(suffix, whom, pairs)| {
            let place = format!("Linux {}, nodes of {}; {whom:?}", kernel.trim(), each.join(", "));
            Self { suffix, place, nodes: nodes.clone(), whom, pairs }
        };
        let only = std::env::var(ONLY);
        let named = |suffix: &str, only: &String| only.split_whitespace().any(|word| suffix.strip_prefix('_') == Some(word));
        let wanted = |suffix: &str| only.as_ref().map_or(true, |only| named(suffix, only));
        Ok(runs.iter().filter(|(suffix, _, _)| wanted(suffix)).map(ground).collect())
    }

    /// Ours and theirs, in turn and each first in turn.
    fn pairs(&self) -> Result<Vec<[Ended; 2]>, String> {
        let mut pairs = Vec::new();
        for pair in 0..self.pairs {
            let warm = WARM + ROUND * (2 * pair + 1) / (2 * self.pairs);
            pairs.push(if pair % 2 == 0 {
                let ours = self.run(&Peer::ours()?, warm)?;
                [ours, self.run(&Peer::theirs()?, warm)?]
            } else {
                let theirs = self.run(&Peer::theirs()?, warm)?;
                [self.run(&Peer::ours()?, warm)?, theirs]
            });
        }
        Ok(pairs)
    }

    fn run(&self, peer: &Peer, warm: Duration) -> Result<Ended, String> {
        std::thread::sleep(warm);
        let (mut moved_before, before, begun) = (moved()?, peer.cpu_s()?, Instant::now());
        let cpus: Vec<CpuId> = self.nodes.iter().filter_map(|node| node.cpus.first().copied()).collect();
        let hogs = match self.whom {
            Whom::Hogs(all) => all.iter().map(|&mib| Spread::hog(mib, &cpus)).collect::<Result<Vec<_>, _>>()?,
            Whom::Tenants(mib, threads) => {
                let nodes: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
                let tenants = Spread::tenants(mib, &nodes, threads)?;
                // What moved before they began was moved by us.
                moved_before = moved()?;
                vec![tenants]
            }
        };
        let (mut last, mut changed) = (None, Duration::ZERO);
        let least = if matches!(self.whom, Whom::Tenants(..)) { APART } else { WINDOW };
        while begun.elapsed() < least.max(changed + QUIET).min(MOST) {
            let now = (moved_since(moved_before)?, hogs.iter().map(Spread::glance).collect::<Result<Vec<_>, _>>()?);
            if last.as_ref() != Some(&now) {
                (last, changed) = (Some(now), begun.elapsed());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let (moved, after) = (moved_since(moved_before)?, peer.cpu_s()?);
        hogs.iter().for_each(|hog| peer.tell(hog.pid()));
        let spots = hogs.iter().map(|hog| self.spots(hog)).collect::<Result<Vec<_>, _>>()?.concat();
        let pages = |of: fn(&Spot) -> u64| spots.iter().map(of).sum::<u64>() as f64;
        let answer = spots.iter().map(|spot| spot.answer.as_str()).collect::<Vec<_>>();
        Ok(Ended {
            settled_s: changed.as_secs_f64(),
            moved: moved as f64,
            wrong: 1000.0 * pages(|spot| spot.wrong) / pages(|spot| spot.pages.iter().sum()),
            cpu_s: std::array::from_fn(|of| after[of] - before[of]),
            answer: answer.join(", "),
            lost: 1000.0 * self.lost(&spots) / spots.iter().map(|spot| spot.wants).sum::<u64>() as f64,
        })
    }

    fn spots(&self, hog: &Spread) -> Result<Vec<Spot>, String> {
        if hog.tenants.is_empty() {
            return Ok(vec![self.spot(1000, &hog.may_run(&[]), &hog.lies()?)]);
        }
        let spot = |tenant: &Tenant| {
            let wants = 1000 * tenant.tids.len() as u64;
            Ok(self.spot(wants, &hog.may_run(&tenant.tids), &hog.tenant_lies(tenant)?))
        };
        hog.tenants.iter().map(spot).collect()
    }

    fn spot(&self, wants: u64, mask: &CpuMask, lies: &BTreeMap<NodeId, Pages>) -> Spot {
        let runs: Vec<u64> = self.nodes.iter().map(|node| on(node, mask)).collect();
        let pages: Vec<u64> = self.nodes.iter().map(|node| lies.get(&node.id).map_or(0, |Pages(pages)| *pages)).collect();
        let free = self.nodes.iter().zip(&runs).all(|(node, &cpus)| cpus > 0 || node.cpus.is_empty());
        let most = pages.iter().copied().max().unwrap_or(0);
        // Who may run everywhere has its place where most of it lies.
        let at_home = |at: usize| if free { pages[at] == most } else { runs[at] > 0 };
        let wrong = (0..pages.len()).filter(|&at| !at_home(at)).map(|at| pages[at]).sum();
        let list = |some: &dyn Fn(usize) -> bool| {
            let some: Vec<NodeId> = (0..self.nodes.len()).filter(|&at| some(at)).map(|at| self.nodes[at].id).collect();
            node_list(&some)
        };
        let on = if free { "on any CPU".to_owned() } else { format!("on CPUs of {}", list(&|at| runs[at] > 0)) };
        let mib = pages.iter().sum::<u64>() >> 8;
        let answer = format!("{mib} MiB {on} with memory on {}", list(&|at| pages[at] > most / 50));
        Spot { wants, runs, pages, wrong, answer }
    }

    /// CPU time lost in a second by the arithmetic of policy/placement.rs, in thousandths of a CPU: waiting for memory that is
    /// far, and for CPUs that others on the same nodes want too.
    fn lost(&self, spots: &[Spot]) -> f64 {
        let place = |node: &NodeFacts| Place {
            id: node.id,
            cpus: node.cpus.len() as u64 * 1000,
            idle: 0,
            room: Bytes::ZERO,
            gaps: self.nodes.iter().map(|to| gap(node, to)).collect(),
        };
        let places: Vec<Place> = self.nodes.iter().map(place).collect();
        let far: f64 = spots.iter().map(|spot| far(&places, spot.wants, &spot.runs, &spot.pages).0 as f64 / 1e6).sum();
        let part = |spot: &Spot, at: usize| spot.wants * spot.runs[at] / spot.runs.iter().sum::<u64>().max(1);
        let wanted = |at: usize| spots.iter().map(|spot| part(spot, at)).sum::<u64>();
        let short: u64 = places.iter().enumerate().map(|(at, place)| wanted(at).saturating_sub(place.cpus)).sum();
        far + short as f64
    }
}

/// Where a hog or a tenant is at the end; vectors go by the nodes.
#[derive(Clone)]
struct Spot {
    /// Thousandths of a CPU.
    wants: u64,
    /// CPUs that it may run on.
    runs: Vec<u64>,
    pages: Vec<u64>,
    wrong: u64,
    answer: String,
}

fn on(node: &NodeFacts, mask: &CpuMask) -> u64 {
    node.cpus.iter().filter(|cpu| mask.contains(**cpu)).count() as u64
}

/// Pages that were moved since boot, by whomever.
fn moved() -> Result<u64, String> {
    let text = fs::read_to_string("/proc/vmstat").map_err(|e| format!("/proc/vmstat: {e}"))?;
    field(&text, "pgmigrate_success").ok_or_else(|| "/proc/vmstat has no pgmigrate_success".into())
}

fn moved_since(before: u64) -> Result<u64, String> {
    Ok(moved()? - before)
}

/// Who places.
enum Peer {
    Ours(Daemon, #[expect(dead_code, reason = "goes away with its owner")] tempfile::TempDir),
    Theirs(Original),
}

impl Peer {
    fn ours() -> Result<Self, String> {
        let dir = memtier_tests::scratch();
        let run = Run { pid: None, config: PLACES_ONLY, options: &["--act", "--bpf-stats"], record: false, cpu: None };
        let daemon = Daemon::start(&memtier_tests::binary("memtier")?, dir.path(), &run)?;
        Ok(Self::Ours(daemon, dir))
    }

    fn theirs() -> Result<Self, String> {
        let numad = footing::program("numad", "numad")?;
        let _ = fs::remove_file(LOG);
        let mut command = Command::new("/usr/bin/unshare");
        let status = command.args(AGED).arg(numad).args(["-l", "7"]).stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.map_err(|e| format!("unshare: {e}"))?;
        // It says who it is after it went to the background.
        let begun = Instant::now();
        while begun.elapsed() < WARM {
            if let Some(pid) = fs::read_to_string("/var/run/numad.pid").ok().and_then(|pid| pid.trim().parse().ok()) {
                return Ok(Self::Theirs(Original(pid)));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(format!("numad did not come up: {status}"))
    }

    /// What it has to say of its choices.
    fn tell(&self, hog: u32) {
        match self {
            Self::Ours(daemon, _) => match daemon.ask(&["explain", &hog.to_string()]) {
                Ok(said) => said.lines().for_each(|line| eprintln!("memtier: {line}")),
                Err(why) => eprintln!("memtier: {why}"),
            },
            Self::Theirs(_) => {
                let log = fs::read_to_string(LOG).unwrap_or_default();
                let words = ["PICK", "Advising", "moved to", "Skipping", "Candidates"];
                let said = |line: &&str| words.iter().any(|word| line.contains(word));
                log.lines().filter(said).for_each(|line| eprintln!("numad: {line}"));
            }
        }
    }

    /// User and system time of all its threads, and run time of BPF programs.
    fn cpu_s(&self) -> Result<[f64; 3], String> {
        match self {
            Self::Ours(daemon, _) => daemon.cpu().map(|cpu| [cpu.user_s, cpu.system_s, cpu.bpf_s]),
            Self::Theirs(Original(pid)) => vital::of(*pid).map(|Vital { user_s, system_s, .. }| [user_s, system_s, 0.0]),
        }
    }
}

/// Debian's numad in the background.
struct Original(u32);

impl Drop for Original {
    fn drop(&mut self) {
        if kill(Pid::from_raw(self.0.cast_signed()), Signal::SIGTERM).is_ok() {
            NumadDaemon::gone(self.0);
        }
    }
}
