//! `bench monitor`: what watching costs, on a real process of 16 GiB and on a simulated host of 1 TiB.

use memtier::config::Config;
use memtier::observe::bpf::{Object, Options, deepest};
use memtier::observe::walker::Walker;
use memtier::plan::Governor;
use memtier::sim::{Pattern, ProcSpec, RegionSpec, Scenario, World};
use memtier::trace::{Clocks, Limits, Writer};
use memtier::vocab::{Action, Bytes, Event, ProcKey, Sample, Span, Time};
use memtier_tests::cpu;
use memtier_tests::daemon::{Cpu, Daemon, Run, trace_dir};
use memtier_tests::interrupt::Interrupt;
use memtier_tests::rows::{Goal, Row};
use memtier_tests::victim::{Victim, Work};
use memtier_tests::vital;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

const CPU: (&str, Goal) = ("cpu_percent_of_core", Goal::Most(1.0));
const MODEL: (&str, Goal) = ("model_permil", Goal::Most(1.0));
const TRACE: (&str, Goal) = ("trace_mib_per_min", Goal::Most(20.0));

const WANTED_MIB: u64 = 16 << 10;
/// Left free for everything else on the machine.
const SPARE_MIB: u64 = 4096;
/// The first walks ask about everything; what is measured comes after.
const SETTLE: Duration = Duration::from_secs(60);
/// Six walks each.
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(60);

const HOST_GIB: u64 = 1024;
const PROCS: u64 = 16;
const SIMULATED: Span = Span::from_secs(1200);
/// What the simulated host's minutes are counted from: as on the real one, not the first.
const SIMULATED_SETTLE: Span = Span::from_secs(360);
/// docs/hands.md: arming, a page, all in.
const ARM_NS: f64 = 101.0;
const SEED: u64 = 3;

pub fn measure() -> Vec<Row> {
    let absent = |why: &str| [(CPU, "%"), (MODEL, "permil"), (TRACE, "MiB/min")].map(|((m, g), unit)| Row::absent(m, unit, g, why));
    let (mut rows, walk_ns) = match watched() {
        Ok((rows, walk_ns)) => (rows, Ok(walk_ns)),
        Err(why) => (absent(&why).to_vec(), Err(why)),
    };
    match walk_ns.and_then(simulated) {
        Ok(more) => rows.extend(more),
        Err(why) => rows.extend(absent(&format!("simulated 1 TiB: {why}"))),
    }
    rows
}

/// The rows, and what one walk takes per page.
fn watched() -> Result<(Vec<Row>, f64), String> {
    memtier_tests::footing::host()?;
    let interrupt = Interrupt::catch()?;
    let mib = WANTED_MIB.min(memtier_tests::footing::available_mib()?.saturating_sub(SPARE_MIB));
    if mib < 1024 {
        return Err(format!("only {mib} MiB of memory are to be had"));
    }
    let hot_mib = mib / 5;
    let mut victim = Victim::start(Work::Sweeps { hot_mib, hot_ms: 5_000, cold_mib: mib - hot_mib, cold_ms: 3_600_000 })?;
    victim.fill()?;
    let dir = memtier_tests::scratch();
    let run = Run { pid: Some(victim.pid()), config: "", options: &["--act", "--bpf-stats"], record: true, cpu: None };
    let trace = trace_dir(dir.path());
    let daemon = Daemon::start(&memtier_tests::binary("memtier")?, dir.path(), &run)?;
    interrupt.sleep(SETTLE)?;
    let (mut cpu, mut grown) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (before, written, began) = (daemon.cpu()?, kept(&trace)?, Instant::now());
        interrupt.sleep(ROUND)?;
        let over = began.elapsed();
        cpu.push(daemon.cpu()?.since(&before, over));
        grown.push(mebi((kept(&trace)? - written) as f64) * 60.0 / over.as_secs_f64());
    }
    let model = daemon.metric("memtier_model_bytes", "")?;
    let heat = daemon.metric("memtier_model_bytes", "model=\"heat\"")?;
    let tracked = vital::of(victim.pid())?.rss as f64;
    daemon.end()?;
    let walk_ns = walk_ns(victim.pid())?;
    let short = if mib < WANTED_MIB { " (all that fits)" } else { "" };
    let what = format!("{mib} MiB of 4 KiB pages{short}, a fifth swept every 5 s, default settings");
    let share = |of: fn(&Cpu) -> f64| cpu.iter().map(|c| 100.0 * of(c) / c.over.as_secs_f64()).sum::<f64>() / cpu.len() as f64;
    let parts = format!(
        "{what}, --act, recording: user {:.2}, system {:.2}, BPF {:.2}",
        share(|c| c.user_s),
        share(|c| c.system_s),
        share(|c| c.bpf_s)
    );
    let all: Vec<f64> = cpu.iter().map(Cpu::percent).collect();
    let sizes = format!("{what}: {:.1} MiB, {:.1} of them heat, for {:.0} MiB", mebi(model), mebi(heat), mebi(tracked));
    let rows = vec![
        Row::new(CPU.0, "%", CPU.1, parts, &all),
        Row::new(MODEL.0, "permil", MODEL.1, sizes, &[1000.0 * model / tracked]),
        Row::new(TRACE.0, "MiB/min", TRACE.1, what, &grown),
    ];
    Ok((rows, walk_ns))
}

fn mebi(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

/// CPU time of a walk with its decoding but without the fold, per page: the median of a few.
fn walk_ns(pid: u32) -> Result<f64, String> {
    let mut object = Object::load(&Options::default()).map_err(|e| deepest(&e))?;
    let mut walker = Walker::open(&mut object)?;
    let process = procfs::process::Process::new(i32::try_from(pid).map_err(|e| e.to_string())?);
    let start = process.and_then(|p| p.stat()).map_err(|e| format!("process {pid}: {e}"))?.starttime;
    let mut runs = Vec::new();
    for _ in 0..5 {
        let began = cpu::now()?;
        let pages = walker.scan(ProcKey { pid, start }, &mut drop).map_err(|e| e.to_string())?.pages.0;
        runs.push((cpu::now()? - began).as_nanos() as f64 / pages.max(1) as f64);
    }
    Ok(memtier_tests::rows::Spread::of(&runs).map_or(0.0, |spread| spread.median))
}

/// What a daemon would do on a host of 1 TiB. Fold, decisions and recording are run and timed; walking and arming are
/// counted, and cost what they cost here.
#[derive(Default)]
struct Spent {
    fold: Duration,
    trace: Duration,
    walked: u64,
    armed: u64,
    bytes: u64,
}

fn simulated(walk_ns: f64) -> Result<Vec<Row>, String> {
    let gib = HOST_GIB / PROCS;
    let pages = (gib << 30) / memtier::vocab::PAGE_BYTES;
    let mut scenario = Scenario::new("tebibyte", SIMULATED);
    scenario.memory = Bytes((HOST_GIB + HOST_GIB / 8) << 30);
    for _ in 0..PROCS {
        let part = |share, pattern: fn(u64) -> Pattern| RegionSpec::new(pages / 100 * share, pattern(pages / 100 * share));
        let regions = vec![
            part(10, |pages| Pattern::Hot { pages }),
            part(10, |_| Pattern::Zipf { touches: 20_000 }),
            part(80, |_| Pattern::Idle),
        ];
        scenario = scenario.with(ProcSpec::new("worker", regions));
    }
    let mut config = Config::default();
    (config.daemon.act, config.daemon.all) = (true, true);
    let dir = memtier_tests::scratch();
    let (spent, model, tracked) = live(&scenario, &config, dir.path())?;
    let over = SIMULATED.0.saturating_sub(SIMULATED_SETTLE.0) as f64 / 1e9;
    let percent = |seconds: f64| 100.0 * seconds / over;
    let (walk, arm) = (percent(spent.walked as f64 * walk_ns / 1e9), percent(spent.armed as f64 * ARM_NS / 1e9));
    let (fold, trace) = (percent(spent.fold.as_secs_f64()), percent(spent.trace.as_secs_f64()));
    let host = format!("simulated: {HOST_GIB} GiB in {PROCS} processes, 10 % hot, 10 % zipfian, default settings");
    let parts = format!(
        "{host}; fold and decisions {fold:.2}, recording {trace:.2} as run; walks {walk:.2} at {walk_ns:.2} ns a page as measured on \
         the real process; arming {arm:.2} at {ARM_NS} ns"
    );
    let sizes = format!("{host}: {:.0} MiB for {:.0} GiB", mebi(model), mebi(tracked) / 1024.0);
    Ok(vec![
        Row::new(CPU.0, "%", CPU.1, parts, &[walk + arm + fold + trace]),
        Row::new(MODEL.0, "permil", MODEL.1, sizes, &[1000.0 * model / tracked.max(1.0)]),
        Row::new(TRACE.0, "MiB/min", TRACE.1, host, &[mebi(spent.bytes as f64) * 60.0 / over]),
    ])
}

/// The daemon's loop on the simulated host, timed after its settling; with bytes of the models and of what they track.
fn live(scenario: &Scenario, config: &Config, dir: &Path) -> Result<(Spent, f64, f64), String> {
    let said = |e: memtier::trace::TraceError| format!("recording: {e}");
    let mut world = World::new(SEED, scenario, config);
    let mut governor = Governor::new();
    let clocks = |at: Time| Clocks { at, unix_ns: at.0 };
    let mut writer =
        Writer::create(dir, "simulated", "simulated", clocks(world.now()), Limits::from(&config.trace)).map_err(said)?;
    let until = world.now().after(scenario.length);
    let settled = world.now().after(SIMULATED_SETTLE);
    let (mut spent, mut arms, mut settled_bytes) = (Spent::default(), BTreeSet::new(), None);
    loop {
        if world.now() >= settled && settled_bytes.is_none() {
            writer.flush().map_err(said)?;
            settled_bytes = Some(kept(dir)?);
            spent = Spent::default();
        }
        if let Some(event) = world.next(governor.due().min(until)) {
            match &event.event {
                Event::Sample(Sample::Pages(chunk)) => {
                    spent.walked += chunk.blocks.iter().map(|b| u64::from(b.present.count())).sum::<u64>();
                }
                Event::Outcome(outcome) if arms.remove(&outcome.step) => spent.armed += outcome.done.pages.0,
                _ => {}
            }
            spent.fold += timed(|| governor.absorb(&event))?.1;
            let (recorded, took) = timed(|| writer.event(&event))?;
            recorded.map_err(said)?;
            spent.trace += took;
            continue;
        }
        let now = world.now();
        if governor.due() <= now {
            let (decision, took) = timed(|| governor.decide(now))?;
            spent.fold += took;
            let (recorded, took) = timed(|| writer.decision(&decision).and_then(|()| writer.turn(&governor, clocks(now))))?;
            recorded.map_err(said)?;
            spent.trace += took;
            for step in &decision.plan {
                if matches!(step.action, Action::Arm { .. }) {
                    arms.insert(step.id);
                }
                world.submit(step);
            }
        } else if now >= until {
            break;
        }
    }
    writer.flush().map_err(said)?;
    spent.bytes = kept(dir)?.saturating_sub(settled_bytes.unwrap_or(0));
    Ok((spent, governor.models().bytes().0 as f64, governor.models().heat.tracked().0 as f64))
}

/// Bytes in a directory.
fn kept(dir: &Path) -> Result<u64, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("recording: {e}"))?;
    Ok(entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum())
}

fn timed<T>(what: impl FnOnce() -> T) -> Result<(T, Duration), String> {
    let began = cpu::now()?;
    let done = what();
    Ok((done, cpu::now()? - began))
}
