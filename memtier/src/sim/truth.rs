//! What really happened, which no observer sees and no policy may use: the numbers that the bars of tests are set against.

use super::process::Process;
use crate::vocab::{BLOCK_BYTES, Bytes, End, Pages, Permil, ProcKey, Source, Span, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Truth about all processes of one name together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcTruth {
    pub resident: Pages,
    pub swapped: Pages,
    /// Not touched in the last five to ten minutes, resident or swapped.
    pub untouched: Pages,
    /// Paged out by our steps.
    pub taken: Pages,
    /// Came back after that.
    pub refaults: u64,
    /// Least resident memory right after one of our page-outs.
    pub least_resident: Option<Pages>,
    /// Resident pages by node, and the CPUs that it was bound to.
    pub on: BTreeMap<u16, Pages>,
    pub cpus: Vec<u32>,
    /// CPUs of threads that were bound on their own, by their number in the process.
    pub apart: BTreeMap<u32, Vec<u32>>,
    /// Resident pages of each region by node; a block that two share counts for the first.
    pub regions: Vec<BTreeMap<u16, Pages>>,
}

/// The books of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    pub steps: u64,
    /// Outcomes by kind of end.
    pub ends: BTreeMap<&'static str, u64>,
    pub swapped: Pages,
    /// Memory that the swapped pages cost at the end.
    pub cost: Bytes,
    /// Paged out by our steps, and by the kernel.
    pub paged_out: Pages,
    pub reclaimed: Pages,
    /// Pages that our steps took and that were touched again.
    pub refaults: u64,
    /// The shortest time between a page's return and the next time our steps took it.
    pub shortest_return: Option<Span>,
    /// Least share of swap that was free right after one of our page-outs.
    pub least_swap_free: Option<Permil>,
    /// Huge pages that our steps split.
    pub splits: u64,
    pub oom_kills: u64,
    /// Moved between nodes by our steps.
    pub moved: Pages,
    /// The shortest time between two moves of the same block by our steps.
    pub shortest_crossing: Option<Span>,
    /// Least share of its memory that a node had free right after a move to it.
    pub least_node_free: Option<Permil>,
    /// Records lost by source, as they were told.
    pub lost: BTreeMap<Source, u64>,
    pub procs: BTreeMap<&'static str, ProcTruth>,
    pub(super) last_start: BTreeMap<u32, u64>,
    out: BTreeSet<(ProcKey, u64)>,
    back: BTreeMap<(ProcKey, u64), Time>,
    crossed: BTreeMap<(ProcKey, u64), Time>,
}

impl Truth {
    /// Memory saved at the end.
    #[must_use]
    pub const fn saved(&self) -> Bytes {
        self.swapped.bytes().saturating_sub(self.cost)
    }
    #[must_use]
    pub fn of(&self, comm: &str) -> ProcTruth {
        self.procs.get(comm).cloned().unwrap_or_default()
    }
    #[must_use]
    pub fn outcomes(&self) -> u64 {
        self.ends.values().sum()
    }

    pub(super) fn took(&mut self, now: Time, p: &Process, pages: &[u64], swap_free: Permil) {
        let n = pages.len() as u64;
        if n == 0 {
            return;
        }
        self.paged_out.0 += n;
        self.least_swap_free = Some(self.least_swap_free.map_or(swap_free, |least| least.min(swap_free)));
        let own = self.procs.entry(p.spec.comm).or_default();
        own.taken.0 += n;
        own.least_resident = Some(own.least_resident.map_or(p.resident, |least| least.min(p.resident)));
        for &page in pages {
            self.out.insert((p.key, page));
            if let Some(at) = self.back.remove(&(p.key, page)) {
                let span = now.since(at);
                self.shortest_return = Some(self.shortest_return.map_or(span, |s| s.min(span)));
            }
        }
    }

    pub(super) fn refaulted(&mut self, now: Time, key: ProcKey, comm: &'static str, pages: &[u64]) {
        for &page in pages {
            if self.out.remove(&(key, page)) {
                self.refaults += 1;
                self.procs.entry(comm).or_default().refaults += 1;
                self.back.insert((key, page), now);
            }
        }
    }

    pub(super) fn moved(&mut self, now: Time, proc: ProcKey, blocks: &[u64], pages: Pages, free: Permil) {
        if blocks.is_empty() {
            return;
        }
        self.moved = self.moved.saturating_add(pages);
        self.least_node_free = Some(self.least_node_free.map_or(free, |least| least.min(free)));
        for &block in blocks {
            if let Some(before) = self.crossed.insert((proc, block), now) {
                let span = now.since(before);
                self.shortest_crossing = Some(self.shortest_crossing.map_or(span, |s| s.min(span)));
            }
        }
    }

    /// The kernel took these: what becomes of them is not our doing.
    pub(super) fn forget(&mut self, key: ProcKey, pages: &[u64]) {
        for &page in pages {
            self.back.remove(&(key, page));
        }
    }

    pub(super) fn exited(&mut self, key: ProcKey) {
        self.out.retain(|(proc, _)| *proc != key);
        self.back.retain(|(proc, _), _| *proc != key);
        self.crossed.retain(|(proc, _), _| *proc != key);
    }

    pub(super) fn ended(&mut self, end: &End) {
        let kind = match end {
            End::Done => "done",
            End::Partial(_) => "partial",
            End::Skipped(_) => "skipped",
            End::Expired => "expired",
            End::Failed(_) => "failed",
        };
        *self.ends.entry(kind).or_default() += 1;
    }

    pub(super) fn end<'a>(&mut self, procs: impl Iterator<Item = &'a Process>, swapped: Pages, cost: Bytes) {
        (self.swapped, self.cost) = (swapped, cost);
        for p in procs {
            let own = self.procs.entry(p.spec.comm).or_default();
            own.resident.0 += p.resident.0;
            own.swapped.0 += p.swapped.0;
            own.untouched.0 += p.untouched().0;
            own.cpus.clone_from(&p.cpus);
            own.apart.clone_from(&p.apart);
            own.regions.resize(own.regions.len().max(p.regions.len()), BTreeMap::new());
            for (&id, block) in &p.blocks {
                let pages = u64::from(block.present.count());
                if let Some(at) = p.regions.iter().position(|region| region.range.end > id * BLOCK_BYTES) {
                    own.regions[at].entry(block.node.unwrap_or(0) as u16).or_default().0 += pages;
                }
                own.on.entry(block.node.unwrap_or(0) as u16).or_default().0 += pages;
            }
        }
    }
}
