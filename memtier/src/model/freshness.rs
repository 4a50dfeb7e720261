//! Which sources tell, which are blind and why, when each was heard last, and how much it lost.

use crate::vocab::{Event, KernelEvent, Sample, Source, Span, Stamped, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sight {
    /// Not heard of yet.
    #[default]
    Never,
    Seeing {
        since: Time,
    },
    Blind {
        since: Time,
        why: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    sight: Sight,
    heard: Option<Time>,
    records: u64,
    lost: u64,
    lost_at: Option<Time>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    sources: BTreeMap<Source, State>,
}

impl Freshness {
    pub(super) fn fold(&mut self, stamped: &Stamped) {
        let at = stamped.at;
        match &stamped.event {
            Event::Blind { source, why } => self.state(*source).sight = Sight::Blind { since: at, why: why.clone() },
            Event::Sight { source } => self.state(*source).sight = Sight::Seeing { since: at },
            Event::Lost { source, count } => {
                let state = self.state(*source);
                state.lost = state.lost.saturating_add(*count);
                state.lost_at = Some(at);
            }
            Event::Kernel(event) => self.heard(at, kernel_source(event)),
            Event::Sample(sample) => self.heard(at, sample_source(sample)),
            Event::Facts(_) | Event::Config(_) | Event::Request(_) | Event::Outcome(_) => {}
        }
    }

    fn state(&mut self, source: Source) -> &mut State {
        self.sources.entry(source).or_default()
    }
    fn heard(&mut self, at: Time, source: Source) {
        let state = self.state(source);
        state.heard = Some(at);
        state.records = state.records.saturating_add(1);
    }

    #[must_use]
    pub fn sight(&self, source: Source) -> &Sight {
        self.sources.get(&source).map_or(&Sight::Never, |s| &s.sight)
    }
    /// `Ok` where the source tells; else the sentence to show.
    pub fn seeing(&self, source: Source) -> Result<(), String> {
        match self.sight(source) {
            Sight::Seeing { .. } => Ok(()),
            Sight::Blind { why, .. } => Err(format!("{source}: {why}")),
            Sight::Never => Err(format!("{source}: not heard of yet")),
        }
    }
    /// Time of its last record.
    #[must_use]
    pub fn last(&self, source: Source) -> Option<Time> {
        self.sources.get(&source)?.heard
    }
    /// Records that came in so far.
    #[must_use]
    pub fn records(&self, source: Source) -> u64 {
        self.sources.get(&source).map_or(0, |s| s.records)
    }
    /// Silence since its last record; all of time before the first.
    #[must_use]
    pub fn silent(&self, source: Source, now: Time) -> Span {
        self.last(source).map_or(Span::MAX, |at| now.since(at))
    }
    /// Records lost so far.
    #[must_use]
    pub fn lost(&self, source: Source) -> u64 {
        self.sources.get(&source).map_or(0, |s| s.lost)
    }
    /// Last time it lost any.
    #[must_use]
    pub fn lost_at(&self, source: Source) -> Option<Time> {
        self.sources.get(&source)?.lost_at
    }
}

/// Where an event of this kind comes from.
#[must_use]
pub const fn kernel_source(event: &KernelEvent) -> Source {
    match event {
        KernelEvent::Fork { .. } | KernelEvent::Exec { .. } | KernelEvent::Exit { .. } => Source::Procs,
        KernelEvent::Fault { .. } => Source::Faults,
        KernelEvent::TaskMoved { .. } => Source::Sched,
        KernelEvent::PagesMoved { .. } => Source::Migrate,
        KernelEvent::Region { .. } => Source::Damon,
    }
}

const fn sample_source(sample: &Sample) -> Source {
    match sample {
        Sample::Proc(_) => Source::Procs,
        Sample::Maps(_) | Sample::Pages(_) => Source::Walker,
        Sample::Host(_) | Sample::Nodes(_) => Source::Host,
        Sample::Pressure(_) => Source::Psi,
        Sample::Sched(_) => Source::Sched,
        Sample::Reclaim(_) => Source::Reclaim,
        Sample::Cgroup(_) => Source::Cgroup,
        Sample::Cache(_) => Source::Caches,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{CgroupSample, ProcKey};

    #[test]
    fn a_blind_source_stays_blind_until_it_says_otherwise() {
        let mut fresh = Freshness::default();
        let mut fold = |at, event| fresh.fold(&Stamped { seq: at, at: Time(at), event });
        let exit = || Event::Kernel(KernelEvent::Exit { proc: ProcKey::default() });
        fold(1, Event::Sight { source: Source::Procs });
        fold(2, exit());
        fold(3, Event::Blind { source: Source::Procs, why: "no BTF".into() });
        fold(4, exit());
        fold(5, Event::Lost { source: Source::Procs, count: 7 });
        fold(6, Event::Lost { source: Source::Procs, count: 2 });
        fold(7, Event::Sample(Sample::Cgroup(CgroupSample::default())));
        assert_eq!(fresh.seeing(Source::Procs).unwrap_err(), "procs: no BTF");
        assert_eq!(fresh.seeing(Source::Psi).unwrap_err(), "psi: not heard of yet");
        assert_eq!((fresh.last(Source::Procs), fresh.silent(Source::Procs, Time(9))), (Some(Time(4)), Span(5)));
        assert_eq!((fresh.lost(Source::Procs), fresh.lost_at(Source::Procs)), (9, Some(Time(6))));
        assert_eq!((fresh.silent(Source::Psi, Time(9)), fresh.last(Source::Cgroup)), (Span::MAX, Some(Time(7))));
        fresh.fold(&Stamped { seq: 8, at: Time(8), event: Event::Sight { source: Source::Procs } });
        assert_eq!(fresh.seeing(Source::Procs), Ok(()));
    }
}
