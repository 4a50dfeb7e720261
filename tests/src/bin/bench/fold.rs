//! `bench fold`: how many events one core absorbs, and whether loss is counted exactly.

use memtier::config::Config;
use memtier::observe::Observer as _;
use memtier::observe::bpf::{Eyes, Options};
use memtier::plan::Governor;
use memtier::sim::{self, Pattern, ProcSpec, RegionSpec, Scenario};
use memtier::vocab::{CpuId, Event, FaultKind, KernelEvent, ProcKey, Sample, Source, Span, Stamped, Time};
use memtier_tests::rows::{Goal, Row};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 9;
/// Processes started while nobody drains: each is three records, and its faults are sampled.
const SPAWNS: u32 = 1000;
/// Pairs of seconds in which the host may fall silent.
const QUIET_TRIES: u32 = 60;
const SEED: u64 = 2;
const LENGTH: Span = Span::from_secs(300);
/// Kernel events per simulated second, beside what the simulated host tells by itself: a busy host.
const BURST_PER_S: u64 = 10_000;

pub fn measure() -> Vec<Row> {
    let stream = stream();
    let walks = stream.iter().filter(|s| matches!(s.event, Event::Sample(Sample::Pages(_)))).count();
    let runs: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            let mut governor = Governor::new();
            stream.iter().for_each(|event| governor.absorb(event));
            let took = began.elapsed();
            black_box(&governor);
            stream.len() as f64 / took.as_secs_f64()
        })
        .collect();
    let against = format!("{} events, {walks} of them page samples, through Governor::absorb", stream.len());
    vec![Row::new("events_per_s", "events/s", Goal::Least(1e6), against, &runs), loss_exact()]
}

/// Lets a ring of 4 KiB run over on purpose. The kernel counts how often the fault probes ran, and each run is one record:
/// what did not arrive must have been counted as lost.
fn loss_exact() -> Row {
    let goal = Goal::Least(1.0);
    match loss() {
        Ok((made, arrived, lost)) => {
            let exact = f64::from(u8::from(lost > 0 && arrived + lost == made));
            Row::new("loss_exact", "", goal, format!("{made} fault records made, {arrived} arrived, {lost} counted lost"), &[exact])
        }
        Err(why) => Row::absent("loss_exact", "", goal, why),
    }
}

/// Records made, arrived, and counted lost.
fn loss() -> Result<(u64, u64, u64), String> {
    memtier_tests::footing::host()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let mut eyes = Eyes::open(&Options { events_bytes: Some(4096), run_times: true, ..Options::default() });
        if let Some(Err(why)) = eyes.families().get(&Source::Faults) {
            return Err(why.clone());
        }
        let costs = eyes.costs();
        let made = || costs.programs().iter().filter(|p| p.name.ends_with("_fault")).map(|p| p.stats.runs).sum::<u64>();
        for _ in 0..SPAWNS {
            std::process::Command::new("/bin/true").status().map_err(|e| format!("/bin/true: {e}"))?;
        }
        let (mut arrived, mut lost) = (0, 0);
        for _ in 0..QUIET_TRIES {
            let before = made();
            let mut drains = 0;
            while drains < 2 {
                match eyes.next().await {
                    Event::Kernel(KernelEvent::Fault { .. }) => arrived += 1,
                    Event::Lost { source: Source::Faults, count } => lost += count,
                    // The last that every drain tells.
                    Event::Sample(Sample::Reclaim(_)) => drains += 1,
                    _ => {}
                }
            }
            // Only when nobody faulted meanwhile do the two sides speak of the same records.
            if made() == before {
                return Ok((before, arrived, lost));
            }
        }
        Err("other programs faulted all the time: the two sides could not be compared".into())
    })
}

/// What a simulated host of eight processes tells, with the kernel events of a busy one spread evenly between.
fn stream() -> Vec<Stamped> {
    const MIB: u64 = 256;
    let patterns = [
        Pattern::Idle,
        Pattern::Hot { pages: 2_000 },
        Pattern::Zipf { touches: 3_000 },
        Pattern::Sweep { pages: 1_000 },
        Pattern::Moving { pages: 2_000, every: Span::from_secs(60) },
        Pattern::Random { touches: 500 },
        Pattern::Growing { pages: 50 },
        Pattern::Zipf { touches: 300 },
    ];
    let scenario = patterns.into_iter().fold(Scenario::new("fold", LENGTH), |scenario, pattern| {
        scenario.with(ProcSpec::new("worker", vec![RegionSpec::new(64 * MIB, pattern)]))
    });
    let mut config = Config::default();
    (config.daemon.all, config.daemon.act) = (true, true);
    let told = sim::run(SEED, &scenario, &config).events;
    let procs: Vec<ProcKey> = told
        .iter()
        .filter_map(|s| match &s.event {
            Event::Sample(Sample::Proc(sample)) => Some(sample.proc),
            _ => None,
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let start = told.first().map_or(Time::ZERO, |s| s.at);
    let burst = (0..LENGTH.as_secs() * BURST_PER_S).map(|n| {
        let at = start.after(Span(n * 1_000_000_000 / BURST_PER_S));
        Stamped { seq: 0, at, event: Event::Kernel(kernel_event(n, procs[n as usize % procs.len()])) }
    });
    let mut all: Vec<Stamped> = told.into_iter().chain(burst).collect();
    // Stable: what has the same time keeps its order.
    all.sort_by_key(|s| s.at);
    (1..).zip(&mut all).for_each(|(seq, stamped)| stamped.seq = seq);
    all
}

/// Half fault samples, most of the rest moves between CPUs, some short-lived processes.
fn kernel_event(n: u64, proc: ProcKey) -> KernelEvent {
    let child = ProcKey { pid: 100_000 + (n / 32 % 1000) as u32, start: n / 32 };
    match n % 32 {
        0 => KernelEvent::Fork { parent: proc, child },
        1 => KernelEvent::Exec { proc: child },
        31 => KernelEvent::Exit { proc: child },
        m if m % 2 == 0 => {
            let kind = if m % 8 == 0 { FaultKind::Major } else { FaultKind::Minor };
            KernelEvent::Fault { proc, tid: 1, addr: 0x7f00_0000_0000 + (n % 4096) * 4096, kind, period: 64 }
        }
        m => KernelEvent::TaskMoved { proc, tid: proc.pid, from: CpuId((m % 4) as u32), to: CpuId((m % 3) as u32), count: 1 },
    }
}
