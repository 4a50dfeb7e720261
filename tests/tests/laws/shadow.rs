//! An independent reading of a stream: what anybody could know from the events alone, kept the simplest way there is.
//! It shares no code with the models, the arbiter or the audit.

use memtier::config::{self, Config};
use memtier::plan::Decision;
use memtier::vocab::{
    Action, Event, HostFacts, HostSample, KernelEvent, NodeSample, Outcome, PressureKind, ProcKey, ProcSample, Request, Sample,
    Source, Stamped, Step, StepId, Time, Vma,
};
use std::collections::BTreeMap;

/// Whether a source tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    #[default]
    Never,
    Seeing,
    Blind,
}

/// A step that was decided, and what came of it.
#[derive(Clone, Debug)]
pub struct Done {
    pub at: Time,
    pub step: Step,
    pub outcome: Option<Outcome>,
}

#[derive(Debug, Default)]
pub struct Shadow {
    pub config: Config,
    pub facts: HostFacts,
    pub procs: BTreeMap<ProcKey, (Time, ProcSample)>,
    pub maps: BTreeMap<ProcKey, Vec<Vma>>,
    pub host: Option<(Time, HostSample)>,
    /// Memory and I/O pressure of the host: last avg10, and when it was last over its bound.
    pub pressure: BTreeMap<PressureKind, (u32, Option<Time>)>,
    pub sight: BTreeMap<Source, Sight>,
    pub heard: BTreeMap<Source, Time>,
    pub paused: bool,
    /// Samples of the nodes: how many, the last one, and when.
    pub nodes: (u64, Time, Vec<NodeSample>),
    pub steps: BTreeMap<StepId, Done>,
    pub strays: Vec<Outcome>,
}

impl Shadow {
    pub fn absorb(&mut self, Stamped { at, event, .. }: &Stamped) {
        let at = *at;
        match event {
            Event::Facts(facts) => self.facts = (**facts).clone(),
            Event::Config(text) => self.config = config::parse(text).expect("the simulation only tells sound configurations"),
            Event::Blind { source, .. } => drop(self.sight.insert(*source, Sight::Blind)),
            Event::Sight { source } => drop(self.sight.insert(*source, Sight::Seeing)),
            Event::Request(Request::Pause { .. }) => self.paused = true,
            Event::Request(Request::Resume { .. }) => self.paused = false,
            Event::Request(Request::Look { .. }) | Event::Lost { .. } => {}
            Event::Outcome(outcome) => match self.steps.get_mut(&outcome.step) {
                Some(done) if done.outcome.is_none() => done.outcome = Some(outcome.clone()),
                Some(_) | None => self.strays.push(outcome.clone()),
            },
            Event::Kernel(KernelEvent::Exit { proc }) => drop(self.procs.remove(proc)),
            Event::Kernel(_) => {}
            Event::Sample(sample) => self.sample(at, sample),
        }
    }

    fn sample(&mut self, at: Time, sample: &Sample) {
        match sample {
            Sample::Proc(p) => {
                // Its exit may have been lost.
                self.procs.retain(|old, _| old.pid != p.proc.pid || *old == p.proc);
                self.procs.insert(p.proc, (at, (**p).clone()));
            }
            Sample::Maps(m) => drop(self.maps.insert(m.proc, m.vmas.clone())),
            Sample::Host(h) => {
                self.heard.insert(Source::Host, at);
                self.host = Some((at, (**h).clone()));
            }
            Sample::Pressure(p) if p.cgroup.is_empty() => {
                let brake = &self.config.brake;
                let bound = match p.kind {
                    PressureKind::Memory => brake.memory_some_centipercent,
                    PressureKind::Io => brake.io_some_centipercent,
                    PressureKind::Cpu => u64::MAX,
                };
                self.heard.insert(Source::Psi, at);
                let last = self.pressure.get(&p.kind).and_then(|(_, over)| *over);
                let over = if u64::from(p.some_avg10) > bound { Some(at) } else { last };
                self.pressure.insert(p.kind, (p.some_avg10, over));
            }
            Sample::Pages(_) => drop(self.heard.insert(Source::Walker, at)),
            Sample::Pressure(_) | Sample::Sched(_) | Sample::Reclaim(_) | Sample::Cgroup(_) | Sample::Cache(_) => {}
            Sample::Nodes(nodes) => self.nodes = (self.nodes.0 + 1, at, nodes.nodes.clone()),
        }
    }

    pub fn decided(&mut self, decision: &Decision) {
        for step in &decision.plan {
            self.steps.insert(step.id, Done { at: decision.at, step: step.clone(), outcome: None });
        }
    }

    pub fn in_flight(&self) -> impl Iterator<Item = &Done> {
        self.steps.values().filter(|d| d.outcome.is_none())
    }

    pub fn sight(&self, source: Source) -> Sight {
        self.sight.get(&source).copied().unwrap_or_default()
    }
}

/// Steps that take memory away.
pub fn takes(step: &Step) -> bool {
    matches!(step.action, Action::PageOut { .. } | Action::Deactivate { .. })
}

/// Steps that place threads or memory.
pub fn places(step: &Step) -> bool {
    matches!(step.action, Action::Bind { .. } | Action::MovePages { .. } | Action::Migrate { .. })
}

/// Goes through a run in order; `look` sees the shadow just before each decision.
pub fn follow(events: &[Stamped], decisions: &[Decision], mut look: impl FnMut(&Shadow, &Decision)) -> Shadow {
    let mut shadow = Shadow::default();
    let mut rest = decisions.iter().peekable();
    for event in events {
        while let Some(decision) = rest.next_if(|d| d.after < event.seq) {
            look(&shadow, decision);
            shadow.decided(decision);
        }
        shadow.absorb(event);
    }
    for decision in rest {
        look(&shadow, decision);
        shadow.decided(decision);
    }
    shadow
}
