//! The daemon without its shell: the real eyes, walker, Governor and hands in one thread, one after another, so that a
//! bench can look at the model at the end of each walk and knows what each part cost.

use memtier::act::{Actuator as _, Hands};
use memtier::config::{self, Config, Target};
use memtier::observe::bpf::{Eyes, Options};
use memtier::observe::cgroup::Hierarchy;
use memtier::observe::host::HostSensor;
use memtier::observe::psi::PsiObserver;
use memtier::observe::walker::Walker;
use memtier::observe::{Observer, Polled, Watched, probe, proc};
use memtier::plan::Governor;
use memtier::sys::clock::{boottime, thread_cpu};
use memtier::sys::files::Root;
use memtier::vocab::{
    Action, Amount, End, Event, Fault, Guard, Outcome, Pages, ProcKey, Sample, Source, Span, Stamped, Step, Time,
};
use std::num::NonZeroU64;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const SENSE_EVERY: Duration = Duration::from_secs(2);

/// What the parts cost so far, in ns of CPU time of this thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub walk: u64,
    pub arm: u64,
    pub decide: u64,
}

impl Spent {
    pub const fn total(&self) -> u64 {
        self.walk + self.arm + self.decide
    }
}

/// What a run is told of.
pub enum Seen {
    /// A walk of this process has ended; it was not answered yet.
    Walked(ProcKey),
    /// Something else happened, at least once a second.
    Else,
}

pub struct Rig {
    runtime: Runtime,
    eyes: Eyes,
    walker: Walker,
    hands: Hands,
    pub governor: Governor,
    pub spent: Spent,
    hierarchy: Option<Hierarchy>,
    seq: u64,
}

impl Rig {
    /// Watches and arms these processes, whatever else `config` says.
    pub fn new(config: &Config, pids: impl Iterator<Item = u32>) -> Result<(Self, Vec<ProcKey>), String> {
        memtier_tests::footing::host()?;
        let mut config = config.clone();
        config.daemon.arm = true;
        config.target = pids.map(|pid| Target { pid: Some(pid), ..Target::default() }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let mut eyes = Eyes::open(&Options::default());
        let walker = eyes.take_walker().ok_or_else(|| format!("no walker: {:?}", eyes.families().get(&Source::Walker)))?;
        let root = Root::host();
        let facts = probe::facts(&root, eyes.learned());
        let hands = Hands::new(&config.arm);
        let hierarchy = Hierarchy::find(&root).map_err(|e| e.to_string())?;
        let governor = Governor::new();
        let mut rig = Self { runtime, eyes, walker, hands, governor, spent: Spent::default(), hierarchy, seq: 0 };
        rig.absorb(Event::Facts(Box::new(facts)));
        rig.absorb(Event::Config(config::canonical(&config)));
        rig.absorb(Event::Sight { source: Source::Walker });
        let mut keys = Vec::new();
        for target in &config.target {
            keys.push(rig.look(target.pid.unwrap_or_default())?);
        }
        Ok((rig, keys))
    }

    fn look(&mut self, pid: u32) -> Result<ProcKey, String> {
        let sample = proc::sample(&Root::host(), self.hierarchy.as_ref(), pid).map_err(|e| e.to_string())?;
        let proc = sample.proc;
        self.absorb(Event::Sample(Sample::Proc(Box::new(sample))));
        Ok(proc)
    }

    fn absorb(&mut self, event: Event) {
        self.seq += 1;
        self.governor.absorb(&Stamped { seq: self.seq, at: boottime(), event });
    }

    /// Turns until `told` has enough.
    pub fn run(&mut self, mut told: impl FnMut(&Self, Seen) -> Result<bool, String>) -> Result<(), String> {
        let entered = self.runtime.handle().clone();
        let _entered = entered.enter();
        let stall = self.governor.config().brake.memory_some_centipercent;
        // Each in a task of its own: a look that is dropped half way is lost, and the eyes have something to say all the time.
        let (to_us, mut told_by) = mpsc::channel(64);
        pump(Polled::new(HostSensor { root: Root::host() }, SENSE_EVERY), to_us.clone());
        pump(PsiObserver::new(Root::host(), None, Watched::default(), SENSE_EVERY, stall), to_us);
        loop {
            let due = Duration::from_nanos(self.governor.due().since(boottime()).0);
            let Self { runtime, eyes, .. } = self;
            let event = runtime.block_on(async {
                tokio::select! {
                    event = eyes.next() => Some(event),
                    event = told_by.recv() => event,
                    () = tokio::time::sleep(due) => None,
                }
            });
            if let Some(event) = event {
                self.absorb(event);
            }
            let now = boottime();
            if now < self.governor.due() {
                if !told(self, Seen::Else)? {
                    return Ok(());
                }
                continue;
            }
            let before = thread_cpu();
            let decision = self.governor.decide(now);
            self.spent.decide += thread_cpu() - before;
            for step in decision.plan {
                if !self.carry_out(&step, &mut told)? {
                    return Ok(());
                }
            }
        }
    }

    fn carry_out(&mut self, step: &Step, told: &mut impl FnMut(&Self, Seen) -> Result<bool, String>) -> Result<bool, String> {
        let (proc, before) = (step.action.proc(), thread_cpu());
        let outcome = if step.guards.contains(&Guard::DryRun) {
            ended(step, boottime(), Pages::ZERO, End::Skipped(Guard::DryRun))
        } else if matches!(step.action, Action::Scan { .. }) {
            self.walk(step)
        } else {
            self.hands.apply(step)
        };
        self.absorb(Event::Outcome(outcome));
        let took = thread_cpu() - before;
        let seen = match step.action {
            Action::Scan { .. } => {
                self.spent.walk += took;
                self.look(proc.pid)?;
                Seen::Walked(proc)
            }
            Action::Arm { .. } => {
                self.spent.arm += took;
                Seen::Else
            }
            Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::Bind { .. }
            | Action::MovePages { .. }
            | Action::Migrate { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => Seen::Else,
        };
        told(self, seen)
    }

    /// Every chunk is folded before the next one comes, as in the daemon.
    fn walk(&mut self, step: &Step) -> Outcome {
        let (began, proc) = (boottime(), step.action.proc());
        let Self { walker, governor, seq, .. } = self;
        let mut absorb = |sample| {
            *seq += 1;
            governor.absorb(&Stamped { seq: *seq, at: boottime(), event: Event::Sample(sample) });
        };
        let walked = walker.maps(proc).and_then(|maps| {
            absorb(Sample::Maps(maps));
            walker.scan(proc, &mut |chunk| absorb(Sample::Pages(chunk)))
        });
        match walked {
            Ok(stats) => ended(step, began, stats.pages, End::Done),
            Err(error) => {
                let fault = Fault { call: "walk".into(), on: proc.to_string(), errno: 0, message: error.to_string() };
                ended(step, began, Pages::ZERO, End::Failed(fault))
            }
        }
    }
}

fn pump(mut observer: impl Observer + Send + 'static, to: mpsc::Sender<Event>) {
    tokio::spawn(async move { while to.send(observer.next().await).await.is_ok() {} });
}

fn ended(step: &Step, began: Time, pages: Pages, end: End) -> Outcome {
    let done = Amount { pages, asked: pages, syscalls: 0, cpu_ns: 0 };
    Outcome { step: step.id, began, ended: boottime(), done, end, missed: Vec::new() }
}

/// The default configuration with another scan period. What clearing may cost us and the target, a rate, follows: a round may
/// cost what it may at the default period.
pub fn paced(period: Span) -> Config {
    let mut config = Config::default();
    let default = config.scan.period_ms;
    config.scan.period_ms = period.as_millis();
    let period = config.scan.period_ms;
    for rate in [&mut config.arm.tax_permil_of_core, &mut config.arm.cpu_permil_of_core] {
        *rate = (*rate * default / period).max(1);
    }
    config
}

/// Scan period of a bench: what `MEMTIER_BENCH_PERIOD_MS` says, else `otherwise`, else the default.
pub fn config(otherwise: Option<Span>) -> Result<Config, String> {
    const NAME: &str = "MEMTIER_BENCH_PERIOD_MS";
    let said = std::env::var(NAME).ok().map(|text| text.parse::<NonZeroU64>().map_err(|e| format!("{NAME}={text}: {e}")));
    let period = said.transpose()?.map(|ms| Span::from_millis(ms.get()));
    Ok(period.or(otherwise).map_or_else(Config::default, paced))
}

pub fn period(config: &Config) -> Span {
    Span::from_millis(config.scan.period_ms)
}
