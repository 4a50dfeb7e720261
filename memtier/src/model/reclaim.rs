//! What the kernel's own reclaim is doing: host, per process and per cgroup. Clearing accessed bits of memory under
//! reclaim misleads it, so arming asks here first.

use super::capped::Capped;
use super::series::{MINUTE, Series};
use crate::vocab::{Bytes, CgroupId, Event, KernelEvent, Pages, Permil, ProcKey, ReclaimCounts, Sample, Span, Stamped, Time};
use serde::{Deserialize, Serialize};
use std::fmt;

const PROCS: usize = 2_048;
const CGROUPS: usize = 2_048;
/// Background reclaim of page cache never quite stops; the host, or a cgroup, counts as under reclaim when more than this
/// share of its memory is scanned in a minute.
pub const SCANNED: Permil = Permil(5);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProcReclaim {
    swap_writes: Series,
    major_faults: Series,
    direct: Series,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct CgroupReclaim {
    /// Zero until it is sampled: then one page is enough.
    usage: Bytes,
    reclaimed: Series,
    scanned: Series,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaim {
    memory: Bytes,
    scanned: Series,
    scanned_anon: Series,
    stolen: Series,
    procs: Capped<ProcKey, ProcReclaim, PROCS>,
    cgroups: Capped<CgroupId, CgroupReclaim, CGROUPS>,
}

/// Why memory counts as under reclaim, with what the last minute showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReclaimSign {
    /// Direct reclaim passes by the process itself.
    Direct(u64),
    /// Pages reclaimed or scanned in its cgroup or one above it.
    Cgroup(Pages),
    /// Anonymous pages scanned on the host.
    Host(Pages),
}

impl fmt::Display for ReclaimSign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(passes) => write!(f, "{passes} direct reclaim passes of the process in the last minute"),
            Self::Cgroup(pages) => write!(f, "reclaim went over {pages} of its cgroup in the last minute"),
            Self::Host(pages) => write!(f, "reclaim scanned {pages} of the host's anonymous memory in the last minute"),
        }
    }
}

impl Reclaim {
    pub(super) fn fold(&mut self, stamped: &Stamped) {
        let at = stamped.at;
        match &stamped.event {
            Event::Sample(Sample::Reclaim(counts)) => self.drain(at, counts),
            Event::Sample(Sample::Host(host)) => {
                self.memory = host.total;
                self.scanned.set(at, host.scanned.0);
                self.scanned_anon.set(at, host.scanned_anon.unwrap_or(host.scanned).0);
                self.stolen.set(at, host.stolen.0);
            }
            Event::Sample(Sample::Cgroup(group)) => {
                let known = self.cgroups.touch(at, group.id);
                known.usage = group.usage;
                known.scanned.set(at, group.scanned.0);
            }
            Event::Kernel(KernelEvent::Exit { proc }) => {
                self.procs.remove(proc);
            }
            Event::Kernel(
                KernelEvent::Fork { .. }
                | KernelEvent::Exec { .. }
                | KernelEvent::Fault { .. }
                | KernelEvent::TaskMoved { .. }
                | KernelEvent::PagesMoved { .. }
                | KernelEvent::Region { .. },
            )
            | Event::Sample(
                Sample::Proc(_)
                | Sample::Maps(_)
                | Sample::Pages(_)
                | Sample::Pressure(_)
                | Sample::Sched(_)
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

    fn drain(&mut self, at: Time, counts: &ReclaimCounts) {
        let ReclaimCounts { period_ns, swap_writes, reclaimed, major_faults, direct_reclaim } = counts;
        let period = Span(*period_ns);
        for (proc, pages) in swap_writes {
            self.procs.touch(at, *proc).swap_writes.add(at, period, pages.0);
        }
        for (proc, count) in major_faults {
            self.procs.touch(at, *proc).major_faults.add(at, period, *count);
        }
        for (proc, count) in direct_reclaim {
            self.procs.touch(at, *proc).direct.add(at, period, *count);
        }
        for (group, pages) in reclaimed {
            self.cgroups.touch(at, *group).reclaimed.add(at, period, pages.0);
        }
    }

    /// Signs that the kernel took memory from this process, from `cgroups` or from the whole host in the last minute.
    #[must_use]
    pub fn under_reclaim(&self, proc: ProcKey, cgroups: &[CgroupId], now: Time) -> Option<ReclaimSign> {
        let since = Time(now.0.saturating_sub(MINUTE.0));
        let direct = self.procs.get(&proc).map_or(0, |p| p.direct.since(since));
        let groups = cgroups.iter().filter_map(|id| self.cgroups.get(id));
        let seen = groups.map(|g| (g.reclaimed.since(since).max(g.scanned.since(since)), g.usage.pages().0));
        let group =
            seen.filter(|(pages, of)| *of == 0 || Permil::of(*pages, *of) > SCANNED).map(|(pages, _)| pages).max().unwrap_or(0);
        // What is armed is anonymous: reclaim of page cache does not go by its bits. Neither counter says enough alone.
        let host = Pages(self.scanned.since(since).min(self.scanned_anon.since(since)));
        if direct > 0 {
            Some(ReclaimSign::Direct(direct))
        } else if group > 0 {
            Some(ReclaimSign::Cgroup(Pages(group)))
        } else {
            (Permil::of(host.0, self.memory.pages().0) > SCANNED).then_some(ReclaimSign::Host(host))
        }
    }
    /// Pages that reclaim scanned on the host in the last minute, without proactive reclaim.
    #[must_use]
    pub fn scanned_per_min(&self, now: Time) -> Pages {
        Pages(self.scanned.per_min(now, MINUTE))
    }
    /// Pages that it took.
    #[must_use]
    pub fn stolen_per_min(&self, now: Time) -> Pages {
        Pages(self.stolen.per_min(now, MINUTE))
    }
    /// Major faults of the process, file and swap.
    #[must_use]
    pub fn major_faults_per_min(&self, proc: ProcKey, now: Time) -> u64 {
        self.procs.get(&proc).map_or(0, |p| p.major_faults.per_min(now, MINUTE))
    }
    /// Pages that the process itself wrote to swap.
    #[must_use]
    pub fn swap_writes_per_min(&self, proc: ProcKey, now: Time) -> Pages {
        Pages(self.procs.get(&proc).map_or(0, |p| p.swap_writes.per_min(now, MINUTE)))
    }
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        // A series is 32 points at most.
        let points = 32 * size_of::<(Time, u64)>() as u64;
        Bytes(self.procs.bytes() + self.cgroups.bytes() + points * (3 * self.procs.len() + 2 * self.cgroups.len()) as u64)
    }
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.procs.evicted() + self.cgroups.evicted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{CgroupSample, HostSample};

    const PROC: ProcKey = ProcKey { pid: 5, start: 1 };
    const GROUP: CgroupId = CgroupId(77);

    fn at(s: u64) -> Time {
        Time(0).after(Span::from_secs(s))
    }
    fn counts(reclaim: &mut Reclaim, s: u64, direct: u64, group: u64) {
        let sample = ReclaimCounts {
            period_ns: 1_000_000_000,
            swap_writes: vec![],
            reclaimed: vec![(GROUP, Pages(group))],
            major_faults: vec![(PROC, 3)],
            direct_reclaim: vec![(PROC, direct)],
        };
        reclaim.fold(&Stamped { seq: s, at: at(s), event: Event::Sample(Sample::Reclaim(sample)) });
    }

    #[test]
    fn signs_of_reclaim_last_a_minute() {
        let mut reclaim = Reclaim::default();
        counts(&mut reclaim, 1, 0, 0);
        assert_eq!(reclaim.under_reclaim(PROC, &[GROUP], at(1)), None);
        counts(&mut reclaim, 2, 4, 9);
        assert_eq!(reclaim.under_reclaim(PROC, &[GROUP], at(30)), Some(ReclaimSign::Direct(4)));
        assert_eq!(reclaim.under_reclaim(ProcKey::default(), &[GROUP], at(30)), Some(ReclaimSign::Cgroup(Pages(9))));
        assert_eq!(reclaim.under_reclaim(PROC, &[GROUP], at(62)), None);
        assert_eq!(reclaim.major_faults_per_min(PROC, at(60)), 6);
    }

    #[test]
    fn counters_count_from_their_first_sight() {
        let mut reclaim = Reclaim::default();
        let host = |s, scanned, anon| {
            let (total, scanned, scanned_anon) = (Pages(100_000).bytes(), Pages(scanned), Some(Pages(anon)));
            let host = HostSample { total, scanned, scanned_anon, ..HostSample::default() };
            Stamped { seq: s, at: at(s), event: Event::Sample(Sample::Host(Box::new(host))) }
        };
        let group = |s, scanned| {
            let usage = Pages(1_000).bytes();
            let group = CgroupSample { id: GROUP, usage, scanned: Pages(scanned), ..CgroupSample::default() };
            Stamped { seq: s, at: at(s), event: Event::Sample(Sample::Cgroup(group)) }
        };
        reclaim.fold(&host(1, 1_000_000, 0));
        reclaim.fold(&group(1, 5_000));
        assert_eq!(reclaim.under_reclaim(PROC, &[GROUP], at(1)), None);
        // Half a percent a minute is the usual noise.
        reclaim.fold(&host(31, 1_000_500, 500));
        assert_eq!(reclaim.under_reclaim(PROC, &[GROUP], at(31)), None);
        // Page cache alone, then anonymous memory.
        reclaim.fold(&host(51, 1_009_000, 500));
        assert_eq!(reclaim.under_reclaim(PROC, &[GROUP], at(51)), None);
        reclaim.fold(&host(61, 1_009_200, 700));
        assert_eq!(reclaim.under_reclaim(PROC, &[GROUP], at(61)), Some(ReclaimSign::Host(Pages(700))));
        assert_eq!(reclaim.scanned_per_min(at(61)), Pages(9_200));
        // The same of a cgroup of 1000 pages.
        reclaim.fold(&host(121, 1_009_200, 700));
        reclaim.fold(&group(121, 5_000));
        reclaim.fold(&group(126, 5_005));
        assert_eq!(reclaim.under_reclaim(PROC, &[GROUP], at(126)), None);
        reclaim.fold(&group(131, 5_006));
        assert_eq!(reclaim.under_reclaim(PROC, &[GROUP], at(131)), Some(ReclaimSign::Cgroup(Pages(6))));
    }
}
