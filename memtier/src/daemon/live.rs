//! The live loop. It only carries: events in, into the recording and the planner; decisions out, into the recording and
//! to the hands; outcomes back in as events. One task owns all of it, so there is one order of things.
//!
//! Deliberately absent: what to do (plan/), and anything that waits: sources, hands and readers have threads of their own.

use super::caches::Caches;
use super::control::{Ask, Door};
use super::dispatch::Dispatch;
use super::footprint::{Footprint, HostSettings, Shared};
use super::ingest::Intake;
use super::log::Log;
use super::metrics::Tally;
use super::recorder::Recorder;
use super::setup::{Setup, SetupError};
use super::start::StartError;
use super::{settings, usage};
use crate::act;
use crate::config::{self, Config, Target};
use crate::observe::{self, probe};
use crate::plan::Governor;
use crate::sys::clock::boottime;
use crate::sys::files::Root;
use crate::sys::tasks::GENERATIONS;
use crate::vocab::{
    Action, Event, HostFacts, KernelEvent, Outcome, PolicyId, ProcKey, ProcSample, Request, Sample, Source, Span, Stamped, Step,
    StepId, Subject, Time,
};
use bytes::Bytes;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// Events taken in between two looks at the clock.
const BATCH: usize = 256;
/// Housekeeping: kill -9 loses at most this much of a recording.
const TICK: Duration = Duration::from_secs(1);
/// A process that is no older than this may have been small when last looked at.
const YOUNG: Span = Span::from_secs(60);
/// It is looked at again after a part of its age, so often at most: some fifty times in all.
const YOUNG_PARTS: u64 = 8;
const YOUNG_LEAST: Span = Span::from_millis(100);
/// A look takes 60 us and more.
const MOST_YOUNG: usize = 64;
/// Who is not wanted bound for so long is set free.
const UNWANTED: Span = Span::from_millis(900);
/// What the kernel would not put back is tried again after so long.
const UNBIND_AGAIN: Span = Span::from_secs(60);
/// All processes are looked at this often, for those that grew without fork or exec; and the host, for nodes and CPUs that came
/// or went.
const SWEEP: Span = Span::from_secs(60);
/// How long the hands get to come back when the daemon stops. Page-outs stop at their next slice.
const HANDS_BACK: Duration = Duration::from_secs(10);
/// Lines that a slow reader of /v1/events may be behind.
const FEED: usize = 1024;

/// What the loop steers besides the planner: who is looked at, how the hands go about it.
pub struct Wiring {
    pub caches: Caches,
    pub procs: observe::proc::Asks,
    /// What /proc says of the process that has this pid now.
    pub look: Box<dyn Fn(u32) -> Option<ProcSample> + Send>,
    pub cgroups: observe::Watched,
    pub hands: act::Reins,
    /// Run time of our BPF programs, where the kernel counts it.
    pub bpf_run: Box<dyn Fn() -> Option<Span> + Send>,
}

/// Somebody who waits for a walk.
#[derive(Debug)]
pub(super) struct Waiting {
    pub proc: ProcKey,
    pub since: Time,
    pub columns: usize,
    pub ask: Ask,
}

/// All that the loop is made of.
pub struct Live {
    pub(super) governor: Governor,
    pub(super) intake: Intake,
    pub(super) dispatch: Dispatch,
    pub(super) wiring: Wiring,
    pub(super) setup: Setup,
    /// The configuration as it was read last, and the names of its sources.
    pub(super) base: Config,
    pub(super) origins: Vec<String>,
    /// Processes that somebody asked to have watched for as long as they live; whoever gets their pids later is not meant.
    pub(super) watched: BTreeSet<ProcKey>,
    pub(super) recorder: Recorder,
    pub(super) footprint: Shared,
    pub(super) tally: Tally,
    pub(super) waiting: Vec<Waiting>,
    /// Steps under way.
    open: BTreeMap<StepId, Action>,
    /// Bound processes and cgroups that nothing wants bound, and since when.
    unwanted: BTreeMap<Subject, Time>,
    /// Of these, what the kernel would not let go, and when that was.
    refused: BTreeMap<Subject, Time>,
    asks: mpsc::Receiver<Ask>,
    door: Door,
    log: Log,
    pub(super) started: Time,
    swept: Time,
    /// When young processes are to be looked at next.
    young: Time,
    used: usage::Ledger,
}

/// What the loop starts with; made by `start`.
pub struct Parts {
    pub intake: Intake,
    pub dispatch: Dispatch,
    pub wiring: Wiring,
    pub setup: Setup,
    pub recorder: Recorder,
    pub footprint: Shared,
    pub log: Log,
    pub used: usage::Ledger,
}

/// Everything of the loop that others may keep: how to ask it, how to stop it.
impl Live {
    #[must_use]
    pub fn new(parts: Parts) -> (Self, Door) {
        let Parts { intake, dispatch, wiring, setup, recorder, footprint, log, used } = parts;
        let (to, asks) = mpsc::channel(64);
        let (feed, _) = broadcast::channel(FEED);
        let door = Door { asks: to, feed, group_acts: Arc::new(AtomicBool::new(false)) };
        let live = Self {
            governor: Governor::new(),
            intake,
            dispatch,
            wiring,
            setup,
            base: Config::default(),
            origins: Vec::new(),
            watched: BTreeSet::new(),
            recorder,
            footprint,
            tally: Tally::default(),
            waiting: Vec::new(),
            open: BTreeMap::new(),
            unwanted: BTreeMap::new(),
            refused: BTreeMap::new(),
            asks,
            door: door.clone(),
            log,
            started: boottime(),
            swept: boottime(),
            young: Time::MAX,
            used,
        };
        (live, door)
    }

    /// The first two events of every stream; a recording that is wanted begins before them.
    pub fn begin(&mut self, facts: HostFacts, record: Option<PathBuf>) -> Result<(), StartError> {
        let (loaded, origins) = self.setup.load()?;
        if let Some(dir) = record {
            self.recorder.create(&dir, &loaded.config)?;
        }
        (self.base, self.origins) = (loaded.config, origins);
        self.take(Event::Facts(Box::new(facts)));
        self.configure();
        Ok(())
    }

    /// Runs until `stop` comes, then puts everything back.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut tick = observe::every(TICK);
        loop {
            let due = self.governor.due().min(self.young);
            let due = Duration::from_nanos(due.since(boottime()).0).min(Duration::from_secs(3600));
            tokio::select! {
                () = &mut stop => break,
                ask = self.asks.recv() => self.answer(ask.expect("the loop holds a door too")),
                event = self.intake.next() => self.take_some(event),
                () = tokio::time::sleep(due) => {}
                _ = tick.tick() => self.housekeeping(),
            }
            self.decide();
            if self.young <= boottime() {
                self.look_at_young();
            }
        }
        self.end().await;
    }

    fn take_some(&mut self, first: Event) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(event) = next else { break };
            self.take(event);
            next = self.intake.take();
        }
        if let Some(event) = next {
            self.take(event);
        }
    }

    /// One event, through everything that must know of it.
    pub(super) fn take(&mut self, event: Event) {
        if matches!(&event, Event::Outcome(outcome) if !self.dispatch.settle(outcome)) {
            return;
        }
        let stamped = self.intake.stamp(event);
        self.recorder.event(&stamped);
        if let Event::Kernel(KernelEvent::Exit { proc }) = &stamped.event {
            self.adopt(*proc);
        }
        self.governor.absorb(&stamped);
        self.follow(&stamped);
    }

    /// Those that a process leaves behind may be bound by what it, or one before it, was given: from now on only we know.
    fn adopt(&self, ended: ProcKey) {
        let procs = &self.governor.models().procs;
        let line: Vec<ProcKey> = std::iter::successors(Some(ended), |one| procs.parent(*one)).take(GENERATIONS).collect();
        if let Err(error) = self.footprint.lock().adopt(&line, procs.children(ended)) {
            tracing::error!(%error, "keeping what the children of {ended} had");
        }
    }

    /// What an event asks of the shell itself.
    fn follow(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::Kernel(KernelEvent::Fork { child, .. }) => self.wiring.procs.refresh([*child]),
            Event::Kernel(KernelEvent::Exec { proc }) => {
                self.dispatch.revoke(*proc);
                self.wiring.procs.refresh([*proc]);
            }
            Event::Kernel(KernelEvent::Exit { proc }) => {
                self.gone(*proc);
                self.wiring.procs.forget(*proc);
                if self.watched.remove(proc) {
                    self.configure();
                }
            }
            Event::Lost { source: Source::Procs, .. } => self.wiring.procs.sweep(),
            Event::Sample(Sample::Proc(sample)) if self.governor.facts().can_place() => {
                let next = self.grows(stamped.at, sample.proc).unwrap_or(Time::MAX);
                self.young = self.young.min(next);
            }
            Event::Outcome(outcome) => self.settled(outcome),
            Event::Kernel(
                KernelEvent::Fault { .. }
                | KernelEvent::TaskMoved { .. }
                | KernelEvent::PagesMoved { .. }
                | KernelEvent::Region { .. },
            )
            | Event::Sample(
                Sample::Proc(_)
                | Sample::Maps(_)
                | Sample::Pages(_)
                | Sample::Host(_)
                | Sample::Pressure(_)
                | Sample::Sched(_)
                | Sample::Reclaim(_)
                | Sample::Cgroup(_)
                | Sample::Nodes(_)
                | Sample::Cache(_),
            )
            | Event::Facts(_)
            | Event::Config(_)
            | Event::Lost { .. }
            | Event::Blind { .. }
            | Event::Sight { .. }
            | Event::Request(Request::Look { .. } | Request::Pause { .. } | Request::Resume { .. }) => {}
        }
    }

    fn settled(&mut self, outcome: &Outcome) {
        let Some(action) = self.open.remove(&outcome.step) else { return };
        self.tally.settle(&action, outcome);
        match action {
            Action::Scan { proc } => {
                self.wiring.procs.refresh([proc]);
                self.walked(proc, outcome);
            }
            Action::Arm { .. }
            | Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::Bind { .. }
            | Action::MovePages { .. }
            | Action::Migrate { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => {
                self.log.say(outcome.ended, format!("{} {outcome}", outcome.ended));
                self.used.note(self.governor.ledger().used().swap_written, outcome.ended);
            }
        }
        self.tell(&Told::Outcome(outcome));
    }

    fn decide(&mut self) {
        let now = boottime().max(self.governor.now());
        if now < self.governor.due() {
            return;
        }
        let decision = self.governor.decide(now);
        self.tally.decisions = decision.number;
        self.recorder.decision(&decision, &self.governor);
        if let Some(turn) = self.governor.journal().turn(decision.number) {
            let (text, told) = (turn.to_string(), self.listened().then(|| line(&Told::Turn(turn))));
            self.log.say(now, text.trim_end().to_owned());
            told.map(|told| self.door.feed.send(told));
        }
        for step in decision.plan {
            self.submit(step);
        }
    }

    fn submit(&mut self, step: Step) {
        self.open.insert(step.id, step.action.clone());
        self.dispatch.submit(step, &mut self.intake);
    }

    /// Lets the configuration in, whole, with what follows from it outside the planner. Processes to be watched come last
    /// among the rules: they change nothing for whoever another rule selects, and never make anything act. Where nothing
    /// acts anyway they are given advice about too, and armed if the configuration arms.
    pub(super) fn configure(&mut self) {
        let mut config = self.base.clone();
        if !config.daemon.all {
            let policy = config.daemon.act.then_some(PolicyId::Watch);
            let procs = &self.governor.models().procs;
            // Of an exit that was lost the next process with that pid tells.
            self.watched.retain(|proc| procs.by_pid(proc.pid).is_none_or(|now| now == *proc));
            let watch = |proc: &ProcKey| Target { pid: Some(proc.pid), policy, ..Target::default() };
            config.target.extend(self.watched.iter().map(watch));
        }
        self.take(Event::Config(config::canonical(&config)));
        self.wiring.hands.tune(&config.arm);
        self.door.group_acts.store(config.daemon.group_acts, Ordering::Relaxed);
        settings::apply(&mut self.footprint.lock(), &config);
        self.wiring.caches.apply(&config);
    }

    /// Reads the configuration anew; the old one stays if anything is wrong with it. Says whether it is another one.
    pub(super) fn reload(&mut self) -> Result<bool, SetupError> {
        let (loaded, origins) = self.setup.load()?;
        self.origins = origins;
        let changed = loaded.config != self.base;
        if changed {
            self.base = loaded.config;
            self.configure();
        }
        Ok(changed)
    }

    fn housekeeping(&mut self) {
        self.recorder.flush();
        self.used.keep();
        let now = boottime();
        if now.since(self.swept) > SWEEP {
            self.swept = now;
            self.wiring.procs.sweep();
            let facts = probe::renewed(&Root::host(), self.governor.facts());
            if facts != *self.governor.facts() {
                tracing::info!("nodes, CPUs or kernel.numa_balancing are not what they were");
                self.take(Event::Facts(Box::new(facts)));
            }
        }
        self.unbind();
        self.look_at_young();
        let procs = &self.governor.models().procs;
        let selected = procs.samples().filter(|s| self.governor.selection(s.proc).policy().is_some());
        let cgroups: BTreeSet<String> = selected.map(|s| s.cgroup.clone()).filter(|path| !path.is_empty()).collect();
        self.wiring.cgroups.set(cgroups.into_iter().collect());
        // Only a loop that turns says so.
        super::notify(&[sd_notify::NotifyState::Watchdog]);
    }

    /// Whether a process may have been too small to be walked when last looked at, and if so when it is to be looked at again:
    /// on a host of many nodes those that grow are to be placed while they do.
    fn grows(&self, now: Time, proc: ProcKey) -> Option<Time> {
        let models = self.governor.models();
        let info = models.procs.get(proc)?;
        let born = info.born();
        let age = now.since(born);
        let young = age <= YOUNG && models.heat.get(proc).is_none() && self.governor.selection(proc).placed();
        young.then(|| info.sampled_at.unwrap_or(born).after(Span(age.0 / YOUNG_PARTS).max(YOUNG_LEAST)))
    }

    fn look_at_young(&mut self) {
        self.young = Time::MAX;
        if !self.governor.facts().can_place() {
            return;
        }
        let now = boottime();
        let procs = self.governor.models().procs.samples().map(|sample| sample.proc);
        let young: Vec<(ProcKey, Time)> = procs.filter_map(|proc| Some((proc, self.grows(now, proc)?))).take(MOST_YOUNG).collect();
        let (due, later): (Vec<_>, Vec<_>) = young.into_iter().partition(|(_, at)| *at <= now);
        // Those looked at now come again with their samples.
        self.young = later.iter().map(|(_, at)| *at).min().unwrap_or(Time::MAX);
        self.wiring.procs.refresh(due.into_iter().map(|(proc, _)| proc));
    }

    /// Sets processes free that nothing wants bound any more, and forgets those that are gone. A program that was just
    /// executed is selected again with the next look at it, so it takes a while.
    fn unbind(&mut self) {
        let held = bound(&self.footprint.lock());
        let now = boottime();
        let since = |one: Subject| (one, self.unwanted.get(&one).copied().unwrap_or(now));
        self.unwanted = held.into_iter().filter(|one| !self.wanted(*one)).map(since).collect();
        self.refused.retain(|one, at| self.unwanted.contains_key(one) && now.since(*at) < UNBIND_AGAIN);
        let due = self.unwanted.iter().filter(|(one, at)| now.since(**at) >= UNWANTED && !self.refused.contains_key(one));
        for one in due.map(|(one, _)| *one).collect::<Vec<_>>() {
            let mut footprint = self.footprint.lock();
            let undone = match one {
                Subject::Proc(proc) => footprint.unbind(&mut HostSettings, proc),
                Subject::Cgroup(cgroup) => footprint.free_cgroup(&mut HostSettings, cgroup),
                Subject::Host | Subject::Cache(_) => continue,
            };
            match undone {
                Ok(undone) => undone.iter().for_each(|undone| tracing::info!(%undone, "no longer to be placed")),
                Err(error) => tracing::error!(%error, "setting"),
            }
            // What could not be put back is still held.
            if bound(&footprint).contains(&one) {
                self.refused.insert(one, now);
            }
        }
    }

    /// Whether somebody is still to be placed by what is bound.
    fn wanted(&self, bound: Subject) -> bool {
        let config = self.governor.config();
        let placed = |proc, cpuset| {
            let selection = self.governor.selection(proc);
            selection.placed() && selection.cpuset() == cpuset
        };
        let wanted = match bound {
            Subject::Proc(proc) => placed(proc, false),
            Subject::Cgroup(cgroup) => {
                let mut samples = self.governor.models().procs.samples();
                samples.any(|sample| sample.cgroup_id == cgroup && placed(sample.proc, true))
            }
            Subject::Host | Subject::Cache(_) => false,
        };
        config.daemon.act && config.numa.enabled && wanted
    }

    /// No new plans; every step under way comes back or is given up; settings go back; the recording ends on the disk.
    async fn end(mut self) {
        super::notify(&[sd_notify::NotifyState::Stopping]);
        self.asks.close();
        self.dispatch.stop();
        self.wiring.hands.stop(true);
        let patience = tokio::time::sleep(HANDS_BACK);
        let mut patience = std::pin::pin!(patience);
        while self.dispatch.open() > 0 {
            tokio::select! {
                event = self.intake.next() => self.take_some(event),
                () = &mut patience => {
                    tracing::warn!(open = self.dispatch.open(), "steps that did not come back in time");
                    for outcome in self.dispatch.abandon() {
                        let stamped = self.intake.stamp(Event::Outcome(outcome));
                        self.recorder.event(&stamped);
                        self.governor.absorb(&stamped);
                        self.follow(&stamped);
                    }
                }
            }
        }
        match self.recorder.stop() {
            Some(Err(error)) => tracing::error!(%error, "recording"),
            Some(Ok(recorded)) => tracing::info!(dir = recorded.dir, events = recorded.events, "recorded"),
            None => {}
        }
        // A hand that hangs may yet come back, and changes nothing then.
        let undone = {
            let mut footprint = self.footprint.lock();
            footprint.close();
            footprint.undo(&mut HostSettings)
        };
        match undone {
            Ok(undone) => undone.iter().for_each(|undone| tracing::info!(%undone, "setting")),
            Err(error) => tracing::error!(%error, "settings; run `memtier undo`"),
        }
        self.used.keep();
        self.log.end();
    }

    fn listened(&self) -> bool {
        self.door.feed.receiver_count() > 0
    }

    fn tell(&self, told: &Told<'_>) {
        if self.listened() {
            // Nobody left meanwhile: nothing to do.
            let _ = self.door.feed.send(line(told));
        }
    }
}

/// What is bound: processes and cgroups.
fn bound(footprint: &Footprint) -> BTreeSet<Subject> {
    footprint.bound().map(Subject::Proc).chain(footprint.cgroups().map(Subject::Cgroup)).collect()
}

/// A line of /v1/events.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Told<'a> {
    Turn(&'a crate::plan::Turn),
    Outcome(&'a Outcome),
}

fn line(told: &Told<'_>) -> Bytes {
    let mut line = serde_json::to_vec(told).expect("our words become JSON");
    line.push(b'\n');
    line.into()
}

impl std::fmt::Debug for Wiring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wiring").field("hands", &self.hands).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("setup", &self.setup).field("wiring", &self.wiring).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("setup", &self.setup).field("open", &self.open).finish_non_exhaustive()
    }
}
