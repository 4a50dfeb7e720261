//! Heat: which pages of which processes are in use, and for how long the others have been idle.
//!
//! Cost of a steady walk: a binary search per chunk, then per block a comparison of three bitmaps; pages are looked at
//! only where a bit changed. Memory: under four bytes a page (block.rs holds that), so 0.1 % of what is tracked, plus a
//! fixed part for blocks with few pages. At the cap the blocks with the fewest present pages go first: they
//! tell least per byte.
//!
//! Walks are the picture; DAMON's regions, where there are any, correct it towards warm (docs/sources.md), sampled major
//! faults tell refaults between walks.
//!
//! Deliberately absent: what is cold enough (policies), when to walk and to arm (policies), who may be touched (plan).

#[cfg(test)]
mod asking;
mod block;
#[cfg(test)]
mod laws;
mod pick;
mod proc;
mod rhythm;
mod tempo;
#[cfg(test)]
mod tests;

pub use proc::ProcHeat;

use super::sched::Sched;
use crate::config::Config;
use crate::vocab::{
    AddrRange, Bits, BlockId, Bytes, Event, FaultKind, KernelEvent, Leaf, PageChunk, Pages, ProcKey, Sample, Span, Stamped, Time,
};
use block::BLOCK_COST;
use proc::Course;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Lower edges of the idle-age histogram.
pub const IDLE_EDGES: [Span; 6] = [
    Span::from_secs(30),
    Span::from_secs(60),
    Span::from_secs(120),
    Span::from_secs(300),
    Span::from_secs(900),
    Span::from_secs(3600),
];
/// Part of `heat.fixed_mib` that is for the other models (25 MiB when all are at their caps, and 3 MiB for the nodes of a host
/// that has several) and the BPF maps.
const OTHERS: Bytes = Bytes::from_mib(32);
/// Blocks with fewer present pages than this cost more than four bytes for each.
const PAYING: usize = BLOCK_COST.div_ceil(4);
/// A process that was not walked for this many ticks: every age in it would read the same.
const FORGOTTEN: u64 = 255;

/// Resident bytes by idle age. `young` and `unknown` are the rest: accessed since last asked, and never asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleHistogram {
    /// Idle for at least the edge of the same place.
    pub idle: [Bytes; IDLE_EDGES.len()],
    pub young: Bytes,
    pub unknown: Bytes,
    pub resident: Bytes,
    pub swapped: Bytes,
}

impl IdleHistogram {
    pub fn add(&mut self, other: &Self) {
        let Self { idle, young, unknown, resident, swapped } = other;
        for (mine, theirs) in self.idle.iter_mut().zip(idle) {
            *mine = mine.saturating_add(*theirs);
        }
        self.young = self.young.saturating_add(*young);
        self.unknown = self.unknown.saturating_add(*unknown);
        self.resident = self.resident.saturating_add(*resident);
        self.swapped = self.swapped.saturating_add(*swapped);
    }
}

/// Pages that may go, coldest first in choice, ascending in address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cold {
    pub ranges: Vec<AddrRange>,
    pub pages: Pages,
    /// Least and greatest idle age among them.
    pub youngest: Span,
    pub oldest: Span,
    /// There were more than `most`.
    pub more: bool,
}

/// A block that may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueBlock {
    pub block: BlockId,
    /// Accessed pages: what arming all of it would ask.
    pub young: Bits,
    /// It has settled, and this quarter has its turn.
    pub turn: Option<u8>,
    /// Those of them whose bit could not be cleared the last time.
    pub stuck: Bits,
    pub leaf: Leaf,
}

impl DueBlock {
    /// What to ask, the first of these in which anything can be asked: all accessed pages, or quarters from the one on that
    /// has its turn.
    pub fn parts(&self) -> impl Iterator<Item = Bits> {
        let quarters = self.turn.into_iter().flat_map(|first| (first..first + 4).map(|turn| self.young.and(&Bits::quarter(turn))));
        let whole = self.turn.is_none().then_some(self.young);
        quarters.chain(whole).filter(|part| !part.is_empty())
    }
}

/// One cell of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeatCell {
    pub resident: Pages,
    /// Accessed since last asked.
    pub young: Pages,
    /// Their bits are set and prove nothing.
    pub unknown: Pages,
    /// Mean idle age of the rest.
    pub idle: Span,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heat {
    procs: BTreeMap<ProcKey, ProcHeat>,
    tick: Span,
    /// What heat may take whatever is tracked.
    fixed: Bytes,
    /// Sums over `procs`.
    bytes: u64,
    tracked: u64,
    /// While the cap presses, new blocks with fewer pages than this are not taken in, lest they push out better ones
    /// and go themselves in the next walk.
    admit: u32,
    evicted: u64,
}

impl Default for Heat {
    fn default() -> Self {
        let (tick, fixed) = knobs(&Config::default());
        Self { procs: BTreeMap::new(), tick, fixed, bytes: 0, tracked: 0, admit: 0, evicted: 0 }
    }
}

impl Heat {
    pub(super) fn fold(&mut self, stamped: &Stamped, config: &Config, sched: &Sched) {
        self.configure(config);
        match &stamped.event {
            Event::Sample(Sample::Pages(chunk)) => self.fold_chunk(stamped.at, chunk, config, sched),
            // An exec leaves nothing of the old address space.
            Event::Kernel(KernelEvent::Exec { proc } | KernelEvent::Exit { proc }) => {
                self.forget(*proc);
            }
            Event::Kernel(KernelEvent::Fault { proc, tid: _, addr, kind: FaultKind::Major, period }) => {
                if let Some(heat) = self.procs.get_mut(proc) {
                    heat.major_fault(*addr, *period);
                }
            }
            Event::Kernel(KernelEvent::Region { proc, range, accesses, samples }) => {
                if let Some(heat) = self.procs.get_mut(proc) {
                    heat.region(stamped.at, *range, *accesses, *samples);
                }
            }
            Event::Kernel(
                KernelEvent::Fault { kind: FaultKind::Minor, .. }
                | KernelEvent::Fork { .. }
                | KernelEvent::TaskMoved { .. }
                | KernelEvent::PagesMoved { .. },
            )
            | Event::Sample(
                Sample::Proc(_)
                | Sample::Maps(_)
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
            | Event::Request(_)
            | Event::Outcome(_) => {}
        }
    }

    fn configure(&mut self, config: &Config) {
        let (tick, fixed) = knobs(config);
        self.fixed = fixed;
        if tick != self.tick {
            self.procs.values_mut().for_each(|heat| heat.retick(tick));
            self.tick = tick;
        }
    }

    fn fold_chunk(&mut self, at: Time, chunk: &PageChunk, config: &Config, sched: &Sched) {
        let older = ProcKey { pid: chunk.proc.pid, start: 0 }..chunk.proc;
        while let Some(reused) = self.procs.range(older.clone()).next_back().map(|(k, _)| *k) {
            self.forget(reused);
        }
        let course = Course { sched, longest: config.arm.longest_walks.ilog2() as u8, admit: self.admit };
        self.evicted += self.with(chunk.proc, |heat| heat.fold(at, chunk, &course));
        self.keep_under_cap(at, chunk.proc);
        if chunk.last && self.bytes < self.cap() / 8 * 7 {
            self.admit = 0;
        }
    }

    /// Changes the heat of one process, made if there is none, and keeps the sums right.
    fn with<R>(&mut self, proc: ProcKey, f: impl FnOnce(&mut ProcHeat) -> R) -> R {
        let heat = self.procs.entry(proc).or_insert_with(|| {
            let heat = ProcHeat::new(self.tick);
            self.bytes += heat.bytes();
            heat
        });
        let (bytes, tracked) = (heat.bytes(), heat.tracked());
        let result = f(heat);
        self.bytes = self.bytes - bytes + heat.bytes();
        self.tracked = self.tracked - tracked + heat.tracked();
        result
    }

    fn forget(&mut self, proc: ProcKey) -> u64 {
        let Some(heat) = self.procs.remove(&proc) else { return 0 };
        self.bytes -= heat.bytes();
        self.tracked -= heat.tracked();
        heat.blocks() as u64
    }

    /// Four bytes a present page, and the fixed part.
    fn cap(&self) -> u64 {
        self.tracked * 4 + self.fixed.0
    }

    fn keep_under_cap(&mut self, at: Time, current: ProcKey) {
        if self.bytes <= self.cap() {
            return;
        }
        let horizon = Span(self.tick.0.saturating_mul(FORGOTTEN));
        let stale = |heat: &ProcHeat| !heat.walking() && heat.scan_at().is_none_or(|t| at.since(t) >= horizon);
        let forgotten: Vec<ProcKey> = self.procs.iter().filter(|(k, h)| **k != current && stale(h)).map(|(k, _)| *k).collect();
        for proc in forgotten {
            self.evicted += self.forget(proc);
        }
        if self.bytes > self.cap() {
            self.drop_sparsest();
        }
        // Only a great many processes with hardly a block each get here.
        while self.bytes > self.cap() {
            let Some(oldest) = self.procs.iter().min_by_key(|(k, h)| (**k == current, h.scan_at(), **k)).map(|(k, _)| *k) else {
                break;
            };
            self.evicted += self.forget(oldest);
        }
    }

    /// Drops the blocks with the fewest present pages until a sixteenth of the fixed part is free. Blocks that pay for
    /// themselves stay: without them the cap would be lower by more.
    fn drop_sparsest(&mut self) {
        let mut density = [0u64; PAYING];
        self.procs.values().for_each(|heat| heat.density(&mut density));
        let wanted = self.bytes.saturating_sub(self.cap()) + self.fixed.0 / 16;
        let (mut cut, mut freed) = (0, 0);
        while cut < PAYING && freed < wanted {
            freed += density[cut] * (BLOCK_COST - 4 * cut) as u64;
            cut += 1;
        }
        let procs: Vec<ProcKey> = self.procs.keys().copied().collect();
        for proc in procs {
            self.evicted += self.with(proc, |heat| heat.drop_sparse(cut as u32));
        }
        self.admit = cut as u32;
    }

    /// Bits of `ranges` were cleared at `at` (when the clearing began), but for those of `missed`.
    pub fn armed(&mut self, at: Time, proc: ProcKey, ranges: &[AddrRange], missed: &[AddrRange]) {
        if let Some(heat) = self.procs.get_mut(&proc) {
            heat.armed(at, ranges, missed);
        }
    }

    /// Counts accesses over rounds of `scans` scans from now on; 0 goes back to estimating. Saying it again changes
    /// nothing; an exec forgets it.
    pub fn expect_counts(&mut self, proc: ProcKey, scans: u32) {
        if scans > 0 || self.procs.contains_key(&proc) {
            self.with(proc, |heat| heat.expect_counts(scans));
        }
    }

    /// Ascending by pid.
    pub fn procs(&self) -> impl Iterator<Item = (ProcKey, &ProcHeat)> {
        self.procs.iter().map(|(k, h)| (*k, h))
    }
    #[must_use]
    pub fn get(&self, proc: ProcKey) -> Option<&ProcHeat> {
        self.procs.get(&proc)
    }
    /// Memory of the model, reserves of its vectors included.
    #[must_use]
    pub const fn bytes(&self) -> Bytes {
        Bytes(self.bytes + size_of::<Self>() as u64)
    }
    /// Present memory that is tracked.
    #[must_use]
    pub const fn tracked(&self) -> Bytes {
        Pages(self.tracked).bytes()
    }
    /// Blocks dropped or refused at the cap so far.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }
}

/// Length of a tick, and the fixed part of the memory.
fn knobs(config: &Config) -> (Span, Bytes) {
    (Span::from_millis(config.heat.age_tick_ms.max(1)), Bytes::from_mib(config.heat.fixed_mib).saturating_sub(OTHERS))
}

/// Ticks of length `from` as ticks of length `to`, rounded down: never older than it is.
fn retick(ticks: u64, from: u64, to: u64) -> u64 {
    u64::try_from(u128::from(ticks) * u128::from(from) / u128::from(to.max(1))).unwrap_or(u64::MAX)
}
