//! `bench harm`: what memtier does to a process that it watches, arms and pages out, against the same process alone.

use memtier_tests::daemon::{Daemon, Run};
use memtier_tests::interrupt::Interrupt;
use memtier_tests::memcg::Memcg;
use memtier_tests::pairs::{Interval, ratios};
use memtier_tests::rows::{Goal, Row};
use memtier_tests::victim::{Latency, Steady, Sweeps, Victim, Work};
use memtier_tests::vital;
use memtier_tests::zram::Zram;
use std::time::Duration;

const STALL: (&str, Goal) = ("mmap_stall_added_ms_max", Goal::Most(2.0));
const FAULT: (&str, Goal) = ("fault_p999_ratio", Goal::Most(1.5));
const SLOWDOWN: (&str, Goal) = ("target_slowdown_permil", Goal::Most(5.0));
const REFAULT: (&str, Goal) = ("refault_ratio", Goal::Most(1.05));

const MIB: u64 = 3072;
const HOT_MIB: u64 = 128;
/// The walk that finds what was just filled comes at once.
const SETTLE: Duration = Duration::from_secs(2);

/// A daemon to be harmed by.
struct Setting {
    name: &'static str,
    config: &'static str,
    rounds: usize,
    /// Of each side of a round.
    time: Duration,
}

/// Each round begins with all pages accessed, so that half of them are asked after its first walk.
const DEFAULT: Setting =
    Setting { name: "`run --act` with default settings", config: "", rounds: 6, time: Duration::from_secs(15) };
/// Everything that is allowed: all accessed bits cleared every second, everything idle paged out at once, no budget felt.
const HEAVY: Setting = Setting {
    name: "every page armed each second, cold ones paged out at full rate",
    config: HEAVY_CONFIG,
    rounds: 6,
    time: Duration::from_secs(12),
};
const HEAVY_CONFIG: &str = r"[scan]
period_ms = 1000
[heat]
age_tick_ms = 500
[arm]
share_permil = 1000
longest_walks = 1
tax_permil_of_core = 1000
cpu_permil_of_core = 1000
quota_mib_per_s = 1048576
[budget]
moved_mib_per_s = 100000
[autocold]
slo_permil_per_min = 1000
min_idle_s = 3
warmup_s = 3
step_permil = 200
period_ms = 1000
";

/// The case in which arming everything made of 8 major faults 62,856: the hot part fits well, the cold part does not.
const SWEEPS: Work = Work::Sweeps { hot_mib: 300, hot_ms: 500, cold_mib: 700, cold_ms: 14_000 };
const LIMIT_MIB: u64 = 700;
const PRESSED_ROUNDS: usize = 5;
const PRESSED: Duration = Duration::from_secs(15);

pub fn measure() -> Vec<Row> {
    let said = |(metric, goal): (&'static str, Goal), unit, why: &str| Row::absent(metric, unit, goal, why);
    let grounds = memtier_tests::footing::host()
        .and_then(|_| memtier_tests::footing::memory(MIB + 3072))
        .and_then(|()| Interrupt::catch())
        .and_then(|interrupt| {
            let swap = if vital::has_swap() { None } else { Some(Zram::start(MIB + 1024)?) };
            Ok((interrupt, swap))
        });
    let (interrupt, swap) = match grounds {
        Ok(grounds) => grounds,
        Err(why) => {
            return vec![
                said(STALL, "ms", &why),
                said(FAULT, "times", &why),
                said(SLOWDOWN, "permil", &why),
                said(REFAULT, "times", &why),
            ];
        }
    };
    let mut rows = Vec::new();
    for setting in [DEFAULT, HEAVY] {
        match steady(&setting, &interrupt) {
            Ok(pairs) => rows.extend(steady_rows(&setting, &pairs)),
            Err(why) => rows.extend([said(STALL, "ms", &why), said(FAULT, "times", &why), said(SLOWDOWN, "permil", &why)]),
        }
    }
    for (name, config) in [(DEFAULT.name, ""), (HEAVY.name, HEAVY_CONFIG)] {
        match pressed(config, &interrupt) {
            Ok(pairs) => rows.extend(pressed_rows(name, &pairs)),
            Err(why) => rows.push(said(REFAULT, "times", &why)),
        }
    }
    if let Some(Err(why)) = swap.map(Zram::stop) {
        eprintln!("zram: {why}");
    }
    rows
}

/// One round: the process alone, then with a daemon.
struct Pair<T> {
    without: T,
    with: T,
    armed_mib: f64,
    paged_out_mib: f64,
}

/// Runs `measure` alone and beside a daemon of its own, after which the process is `reset`.
fn pairs<T>(
    rounds: usize,
    config: &str,
    victim: &mut Victim,
    interrupt: &Interrupt,
    mut reset: impl FnMut(&mut Victim) -> Result<(), String>,
    mut measure: impl FnMut(&mut Victim) -> Result<T, String>,
) -> Result<Vec<Pair<T>>, String> {
    let (binary, dir) = (memtier_tests::binary("memtier")?, memtier_tests::scratch());
    let run = Run { pid: Some(victim.pid()), config, options: &["--act"], record: false, cpu: None };
    (0..rounds)
        .map(|_| {
            reset(victim)?;
            interrupt.sleep(SETTLE)?;
            let without = measure(victim)?;
            interrupt.check()?;
            reset(victim)?;
            let daemon = Daemon::start(&binary, dir.path(), &run)?;
            interrupt.sleep(SETTLE)?;
            let with = measure(victim)?;
            let mib = |name| daemon.metric(name, "").map(|bytes| bytes / f64::from(1 << 20));
            let (armed_mib, paged_out_mib) = (mib("memtier_armed_bytes_total")?, mib("memtier_paged_out_bytes_total")?);
            daemon.end()?;
            interrupt.check()?;
            Ok(Pair { without, with, armed_mib, paged_out_mib })
        })
        .collect()
}

fn steady(setting: &Setting, interrupt: &Interrupt) -> Result<Vec<Pair<Steady>>, String> {
    let mut victim = Victim::start(Work::Steady { mib: MIB, hot_mib: HOT_MIB })?;
    victim.fill()?;
    pairs(setting.rounds, setting.config, &mut victim, interrupt, Victim::recall, |victim| victim.steady(setting.time))
}

fn steady_rows(setting: &Setting, pairs: &[Pair<Steady>]) -> Vec<Row> {
    let side = |of: &dyn Fn(&Steady) -> f64| {
        let each = |pick: fn(&Pair<Steady>) -> &Steady| pairs.iter().map(pick).map(of).collect::<Vec<f64>>();
        (each(|p| &p.without), each(|p| &p.with))
    };
    let most = |runs: &[f64]| runs.iter().copied().fold(0.0, f64::max);
    let ms = |ns: u64| ns as f64 / 1e6;
    let longest = |of: fn(&Latency) -> u64| {
        let (without, with) = side(&|s| ms(of(&s.map).max(of(&s.unmap))));
        (most(&without), most(&with))
    };
    let (alone, beside) = longest(|l| l.max_unstolen);
    let (alone_all, beside_all) = longest(|l| l.max);
    let (alone_kept, beside_kept) = longest(|l| l.max_kept_cpu);
    let (faults_alone, faults) = side(&|s| s.fault.p999 as f64 / 1e3);
    let (cost_alone, cost) = side(&|s| s.cpu_ns as f64 / s.touches.max(1) as f64);
    let slowdown: Vec<f64> = ratios(&cost, &cost_alone).iter().map(|ratio| 1000.0 * (ratio - 1.0)).collect();
    let interval = Interval::of(&slowdown).map_or_else(String::new, |i| format!("95 % interval {:.1} .. {:.1}; ", i.low, i.high));
    let middle = |runs: &[f64]| memtier_tests::rows::Spread::of(runs).map_or(0.0, |s| s.median);
    let did: (Vec<f64>, Vec<f64>) = pairs.iter().map(|p| (p.armed_mib, p.paged_out_mib)).unzip();
    let what = format!(
        "{}: {:.0} MiB armed and {:.0} paged out of {MIB} in {} s",
        setting.name,
        middle(&did.0),
        middle(&did.1),
        (setting.time + SETTLE).as_secs()
    );
    let stall = format!(
        "{what}; longest mmap() or munmap() while the hypervisor took no CPU: {beside:.2} ms, alone {alone:.2}; of all: {beside_all:.2}, alone \
         {alone_all:.2}"
    );
    let kept = format!("the same, where nobody took the CPU from the caller: {beside_kept:.2} ms, alone {alone_kept:.2}");
    let fault = format!("{}; page faults: {:.1} us, alone {:.1}", setting.name, middle(&faults), middle(&faults_alone));
    let slow = format!(
        "{}; {interval}CPU time per touch of a random page of {HOT_MIB} MiB, {:.2} ns alone",
        setting.name,
        middle(&cost_alone)
    );
    vec![
        Row::new(STALL.0, "ms", STALL.1, stall, &[(beside - alone).max(0.0)]),
        Row::new("mmap_stall_kept_cpu_ms_max", "ms", Goal::None, kept, &[(beside_kept - alone_kept).max(0.0)]),
        Row::new(FAULT.0, "times", FAULT.1, fault, &ratios(&faults, &faults_alone)),
        Row::new(SLOWDOWN.0, "permil", SLOWDOWN.1, slow, &slowdown),
    ]
}

fn pressed(config: &str, interrupt: &Interrupt) -> Result<Vec<Pair<Sweeps>>, String> {
    let group = Memcg::start(&format!("memtier-bench-{}", std::process::id()), LIMIT_MIB)?;
    let mut victim = Victim::start(SWEEPS)?;
    group.add(victim.pid())?;
    victim.fill()?;
    // Until reclaim has sorted out what is hot.
    interrupt.sleep(PRESSED)?;
    pairs(PRESSED_ROUNDS, config, &mut victim, interrupt, |_| Ok(()), |victim| victim.sweeps(PRESSED))
}

fn pressed_rows(name: &str, pairs: &[Pair<Sweeps>]) -> Vec<Row> {
    // By work done: whoever sweeps slower faults less.
    let per_page = |s: &Sweeps| (s.hot.1 + s.cold.1) as f64 / (s.hot.0 + s.cold.0).max(1) as f64;
    let all: Vec<f64> = pairs.iter().map(|p| per_page(&p.with) / per_page(&p.without).max(1e-9)).collect();
    let faults = |of: fn(&Sweeps) -> u64| {
        let sum = |pick: fn(&Pair<Sweeps>) -> &Sweeps| pairs.iter().map(pick).map(of).sum::<u64>();
        (sum(|p| &p.with), sum(|p| &p.without))
    };
    let (hot, cold) = (faults(|s| s.hot.1), faults(|s| s.cold.1));
    let armed: f64 = pairs.iter().map(|p| p.armed_mib).sum();
    let what = format!(
        "{name}: major faults of the hot part {} (alone {}), of the cold part {} ({}); {armed:.0} MiB armed in {} s; hot 300 MiB each \
         0.5 s, cold 700 each 14 s, limit {LIMIT_MIB}",
        hot.0,
        hot.1,
        cold.0,
        cold.1,
        (PRESSED + SETTLE).as_secs() * pairs.len() as u64
    );
    vec![Row::new(REFAULT.0, "times", REFAULT.1, what, &all)]
}
