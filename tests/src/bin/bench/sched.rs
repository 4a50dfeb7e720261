//! `bench sched`: what the probes add to a context switch.
//!
//! A switch takes microseconds and its time wanders by more than a probe costs, so nothing is compared over long times: every
//! arm with a probe stands between two without, whose mean is taken off it, which cancels any steady drift; an arm is the
//! median of many short slices, which drops those that something else fell into; and the result is the median over all
//! cycles with its confidence interval.

use memtier::observe::bpf::{Costs, Eyes, Object, Options, attach_nothing, deepest};
use memtier::vocab::Source;
use memtier_tests::cpu;
use memtier_tests::rows::{Goal, Row, Spread};
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};

const CYCLES: usize = 41;
/// Slices of an arm, after one that warms up.
const SLICES: usize = 31;
/// Round trips of a slice; each is two switches.
const TRIPS: u32 = 250;

/// Nanoseconds per switch, cycle by cycle.
#[derive(Default)]
struct Arms {
    bare: Vec<f64>,
    /// What a program that does nothing adds.
    empty: Vec<f64>,
    /// What all of the daemon's probes add.
    probes: Vec<f64>,
    /// Run time of the scheduler probe by the kernel's own clock.
    counted: Vec<f64>,
}

pub fn measure() -> Vec<Row> {
    let unit = "ns";
    let goal = Goal::Most(200.0);
    match arms() {
        Ok(Arms { bare, empty, probes, counted }) => vec![
            Row::confident("ns_per_switch", unit, goal, "added by all of memtier's probes, their call included", &probes),
            Row::confident("empty_probe_ns", unit, Goal::None, "added by a program that does nothing on the same hook", &empty),
            Row::confident("bare_switch_ns", unit, Goal::None, "pipe ping-pong on one CPU, no probe", &bare),
            Row::confident(
                "kernel_counted_ns",
                unit,
                Goal::None,
                "sched_switch by the kernel's BPF statistics, their clock included",
                &counted,
            ),
        ],
        Err(why) => vec![Row::absent("ns_per_switch", unit, goal, why)],
    }
}

fn arms() -> Result<Arms, String> {
    memtier_tests::footing::host()?;
    // The echo thread inherits it.
    memtier_tests::cpu::pin(0, 0)?;
    let mut echo = Echo::start().map_err(|e| format!("pipes: {e}"))?;
    let mut arms = Arms::default();
    let mut before = echo.switch_ns()?;
    for _ in 0..CYCLES {
        let empty = with_nothing(&mut echo)?;
        let between = echo.switch_ns()?;
        let probed = with_probes(&mut echo)?;
        let after = echo.switch_ns()?;
        arms.empty.push(empty - f64::midpoint(before, between));
        arms.probes.push(probed - f64::midpoint(between, after));
        arms.bare.push(between);
        arms.counted.push(counted(&mut echo)?);
        before = echo.switch_ns()?;
    }
    Ok(arms)
}

fn with_nothing(echo: &mut Echo) -> Result<f64, String> {
    let mut object = Object::load(&Options::default()).map_err(|e| deepest(&e))?;
    attach_nothing(&mut object)?;
    echo.switch_ns()
}

/// Opens what the daemon opens; dropping it detaches every probe.
fn probes(options: &Options) -> Result<Eyes, String> {
    let eyes = Eyes::open(options);
    match eyes.families().get(&Source::Sched) {
        Some(Err(why)) => Err(why.clone()),
        Some(Ok(())) | None => Ok(eyes),
    }
}

fn with_probes(echo: &mut Echo) -> Result<f64, String> {
    let _eyes = probes(&Options::default())?;
    echo.switch_ns()
}

/// Run time per run of the scheduler probe.
fn counted(echo: &mut Echo) -> Result<f64, String> {
    let eyes = probes(&Options { run_times: true, ..Options::default() })?;
    let stats = |costs: &Costs| costs.programs().into_iter().find(|p| p.name == "sched_switch").map(|p| p.stats);
    let before = stats(&eyes.costs()).ok_or("the kernel tells nothing of sched_switch")?;
    echo.switch_ns()?;
    let after = stats(&eyes.costs()).ok_or("the kernel tells nothing of sched_switch")?;
    Ok((after.run_ns - before.run_ns) as f64 / (after.runs - before.runs).max(1) as f64)
}

/// A thread that sends every byte back; it ends when its pipe closes.
struct Echo {
    to: PipeWriter,
    from: PipeReader,
}

impl Echo {
    fn start() -> std::io::Result<Self> {
        let (theirs, to) = pipe()?;
        let (from, back) = pipe()?;
        std::thread::spawn(move || bounce(theirs, back));
        Ok(Self { to, from })
    }

    /// One arm.
    fn switch_ns(&mut self) -> Result<f64, String> {
        self.slice()?;
        let slices = (0..SLICES).map(|_| self.slice()).collect::<Result<Vec<_>, _>>()?;
        Spread::of(&slices).map(|s| s.median).ok_or_else(|| "no slice".to_owned())
    }

    fn slice(&mut self) -> Result<f64, String> {
        let mut byte = [0];
        let began = cpu::now()?;
        for _ in 0..TRIPS {
            self.to.write_all(&byte).and_then(|()| self.from.read_exact(&mut byte)).map_err(|e| format!("ping-pong: {e}"))?;
        }
        Ok((cpu::now()? - began).as_nanos() as f64 / f64::from(2 * TRIPS))
    }
}

fn bounce(mut from: PipeReader, mut to: PipeWriter) {
    let mut byte = [0];
    while from.read_exact(&mut byte).is_ok() && to.write_all(&byte).is_ok() {}
}
