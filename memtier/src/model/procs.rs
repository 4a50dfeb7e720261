//! Processes: who lives, what /proc says of them, and which of their memory may be touched at all.
//!
//! Deliberately absent: which of them are selected or protected (plan/targets.rs).

use super::capped::Capped;
use crate::vocab::{
    AddrRange, Bytes, Event, KernelEvent, MapsSample, ProcKey, ProcSample, Sample, Stamped, Time, Vma, VmaFlags, VmaKind,
};
use serde::{Deserialize, Serialize};

/// Processes known at most; pid_max is 32768 or more, but then most of them are too small to matter.
const PROCS: usize = 16_384;
/// Mappings known at most, over all processes: 3 MiB, and twice what one may have by default.
const VMAS: usize = 131_072;

/// One process. Known by key alone between its fork and its first sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcInfo {
    /// Fork, or the first time we heard of it.
    pub since: Time,
    pub exec_at: Option<Time>,
    /// Who forked it, if we saw that.
    pub parent: Option<ProcKey>,
    /// What /proc said last; none before the first sample and after an exec.
    pub sample: Option<Box<ProcSample>>,
    pub sampled_at: Option<Time>,
    /// Mappings as of the last walk, ascending.
    pub vmas: Vec<Vma>,
    pub mapped_at: Option<Time>,
}

impl ProcInfo {
    /// When what it runs now began, as far as we heard of it.
    #[must_use]
    pub fn born(&self) -> Time {
        self.since.max(self.exec_at.unwrap_or_default())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Procs {
    known: Capped<ProcKey, ProcInfo, PROCS>,
    /// Mappings dropped at the cap.
    vmas_evicted: u64,
}

impl Procs {
    pub(super) fn fold(&mut self, stamped: &Stamped) {
        let at = stamped.at;
        match &stamped.event {
            Event::Kernel(KernelEvent::Fork { parent, child }) => self.meet(at, *child).parent = Some(*parent),
            Event::Kernel(KernelEvent::Exec { proc }) => {
                let ProcInfo { since: _, exec_at, parent: _, sample, sampled_at, vmas, mapped_at } = self.meet(at, *proc);
                (*exec_at, *sample, *sampled_at, *mapped_at) = (Some(at), None, None, None);
                *vmas = Vec::new();
            }
            Event::Kernel(KernelEvent::Exit { proc }) => {
                self.known.remove(proc);
            }
            Event::Sample(Sample::Proc(sample)) => {
                let info = self.meet(at, sample.proc);
                info.sample = Some(sample.clone());
                info.sampled_at = Some(at);
            }
            Event::Sample(Sample::Maps(maps)) => self.map(at, maps),
            Event::Kernel(
                KernelEvent::Fault { .. }
                | KernelEvent::TaskMoved { .. }
                | KernelEvent::PagesMoved { .. }
                | KernelEvent::Region { .. },
            )
            | Event::Sample(
                Sample::Pages(_)
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

    /// The entry of a process that lives now. Older processes of the same pid are dead, whether or not we saw them exit.
    fn meet(&mut self, at: Time, proc: ProcKey) -> &mut ProcInfo {
        while let Some(stale) = self.by_pid(proc.pid).filter(|k| k.start < proc.start) {
            self.known.remove(&stale);
        }
        let info = self.known.touch(at, proc);
        if info.since == Time::ZERO {
            info.since = at;
        }
        info
    }

    fn map(&mut self, at: Time, maps: &MapsSample) {
        let kept = maps.vmas.len().min(VMAS);
        self.vmas_evicted += (maps.vmas.len() - kept) as u64;
        let info = self.meet(at, maps.proc);
        info.vmas = maps.vmas[..kept].to_vec();
        info.mapped_at = Some(at);
        let mut total: usize = self.known.iter().map(|(_, i)| i.vmas.len()).sum();
        while total > VMAS {
            let others = self.known.iter().filter(|(k, i)| **k != maps.proc && !i.vmas.is_empty());
            let Some(oldest) = others.min_by_key(|(k, i)| (i.mapped_at, **k)).map(|(k, _)| *k) else { break };
            if let Some(info) = self.known.get_mut(&oldest) {
                total -= info.vmas.len();
                self.vmas_evicted += info.vmas.len() as u64;
                info.vmas = Vec::new();
                info.mapped_at = None;
            }
        }
    }

    #[must_use]
    pub fn get(&self, proc: ProcKey) -> Option<&ProcInfo> {
        self.known.get(&proc)
    }
    /// What /proc said last of this process.
    #[must_use]
    pub fn sample(&self, proc: ProcKey) -> Option<&ProcSample> {
        self.get(proc)?.sample.as_deref()
    }
    /// All processes, ascending by pid.
    pub fn iter(&self) -> impl Iterator<Item = (ProcKey, &ProcInfo)> {
        self.known.iter().map(|(k, i)| (*k, i))
    }
    /// All processes that have been sampled, ascending by pid.
    pub fn samples(&self) -> impl Iterator<Item = &ProcSample> {
        self.iter().filter_map(|(_, i)| i.sample.as_deref())
    }
    /// The living process with this pid.
    #[must_use]
    pub fn by_pid(&self, pid: u32) -> Option<ProcKey> {
        self.known.range(ProcKey { pid, start: 0 }..=ProcKey { pid, start: u64::MAX }).next_back().map(|(k, _)| *k)
    }
    /// Who forked it; else whoever has the parent pid that /proc names.
    #[must_use]
    pub fn parent(&self, proc: ProcKey) -> Option<ProcKey> {
        let info = self.get(proc)?;
        info.parent.or_else(|| self.by_pid(info.sample.as_ref()?.parent))
    }
    /// Whose parent it is, as `parent` says; without a look for each.
    pub fn children(&self, proc: ProcKey) -> impl Iterator<Item = ProcKey> {
        let lives = self.by_pid(proc.pid) == Some(proc);
        let told = move |info: &ProcInfo| lives && info.sample.as_ref().is_some_and(|sample| sample.parent == proc.pid);
        self.iter().filter(move |(_, info)| info.parent.map_or_else(|| told(info), |parent| parent == proc)).map(|(k, _)| k)
    }
    /// Memory that a hand may touch: private anonymous, not locked, not device memory, not under userfaultfd. File pages
    /// cost a read from their file, not swap, and shared ones belong to others too: both stay with the kernel's reclaim.
    #[must_use]
    pub fn eligible_ranges(&self, proc: ProcKey) -> Vec<AddrRange> {
        self.ranges(proc, eligible)
    }
    /// Of that, what may go to another node: what its owner bound to nodes (mbind) stays where it is.
    #[must_use]
    pub fn movable_ranges(&self, proc: ProcKey) -> Vec<AddrRange> {
        self.ranges(proc, |vma| eligible(vma) && !vma.flags.has(VmaFlags::POLICY))
    }
    /// And what stays for that reason alone.
    #[must_use]
    pub fn bound_ranges(&self, proc: ProcKey) -> Vec<AddrRange> {
        self.ranges(proc, |vma| eligible(vma) && vma.flags.has(VmaFlags::POLICY))
    }

    fn ranges(&self, proc: ProcKey, of: impl Fn(&Vma) -> bool) -> Vec<AddrRange> {
        let mut ranges: Vec<AddrRange> = Vec::new();
        for vma in self.get(proc).map_or(&[][..], |i| &i.vmas).iter().filter(|v| of(v)) {
            match ranges.last_mut() {
                Some(last) if last.end == vma.start => last.end = vma.end,
                Some(_) | None => ranges.push(AddrRange { start: vma.start, end: vma.end }),
            }
        }
        ranges
    }

    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let hanging = self.known.iter().map(|(_, i)| {
            let text = i.sample.as_ref().map_or(0, |s| {
                size_of::<ProcSample>()
                    + s.comm.capacity()
                    + s.exe.capacity()
                    + s.cgroup.capacity()
                    + s.cpus_allowed.held()
                    + s.mems_allowed.held()
                    + s.mempolicy.capacity()
            });
            text + i.vmas.capacity() * size_of::<Vma>()
        });
        Bytes(self.known.bytes() + hanging.sum::<usize>() as u64)
    }
    /// Processes and mappings dropped at the cap.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.known.evicted() + self.vmas_evicted
    }
}

fn eligible(vma: &Vma) -> bool {
    let touchable = match vma.kind {
        VmaKind::Anon => true,
        VmaKind::File | VmaKind::SharedFile | VmaKind::Shmem | VmaKind::Hugetlb | VmaKind::Special => false,
    };
    touchable && vma.start < vma.end && ![VmaFlags::LOCKED, VmaFlags::IO, VmaFlags::UFFD].iter().any(|f| vma.flags.has(*f))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pid: u32, start: u64) -> ProcKey {
        ProcKey { pid, start }
    }
    fn fold(procs: &mut Procs, at: u64, event: Event) {
        procs.fold(&Stamped { seq: at, at: Time(at), event });
    }
    fn sample(proc: ProcKey, parent: u32, comm: &str) -> Event {
        Event::Sample(Sample::Proc(Box::new(ProcSample { proc, parent, comm: comm.into(), ..ProcSample::default() })))
    }

    #[test]
    fn processes_are_learned_followed_and_forgotten() {
        let mut procs = Procs::default();
        fold(&mut procs, 1, sample(key(10, 1), 1, "sh"));
        fold(&mut procs, 2, Event::Kernel(KernelEvent::Fork { parent: key(10, 1), child: key(11, 5) }));
        fold(&mut procs, 3, sample(key(12, 6), 10, "ls"));
        assert_eq!((procs.by_pid(11), procs.sample(key(11, 5))), (Some(key(11, 5)), None));
        assert_eq!(procs.children(key(10, 1)).collect::<Vec<_>>(), [key(11, 5), key(12, 6)]);
        assert_eq!((procs.get(key(11, 5)).unwrap().since, procs.by_pid(99)), (Time(2), None));
        // An exec keeps who it is and forgets what it was.
        fold(&mut procs, 4, Event::Kernel(KernelEvent::Exec { proc: key(12, 6) }));
        assert_eq!((procs.sample(key(12, 6)), procs.get(key(12, 6)).unwrap().since), (None, Time(3)));
        // A reused pid is somebody else, even when the exit was lost.
        fold(&mut procs, 5, sample(key(11, 9), 1, "cat"));
        assert_eq!((procs.get(key(11, 5)), procs.by_pid(11), procs.parent(key(11, 9))), (None, Some(key(11, 9)), None));
        fold(&mut procs, 6, Event::Kernel(KernelEvent::Exit { proc: key(11, 9) }));
        assert_eq!((procs.by_pid(11), procs.samples().count()), (None, 1));
    }

    #[test]
    fn only_private_anonymous_unlocked_memory_is_eligible() {
        let vma = |start, kind, flags| Vma { start, end: start + 1, kind, flags };
        let none = VmaFlags::default();
        let vmas = vec![
            vma(0, VmaKind::Anon, none),
            vma(1, VmaKind::Anon, VmaFlags::WRITE.with(VmaFlags::HUGE)),
            vma(2, VmaKind::Anon, VmaFlags::LOCKED),
            vma(3, VmaKind::Anon, VmaFlags::IO),
            vma(4, VmaKind::Anon, VmaFlags::UFFD),
            vma(5, VmaKind::File, none),
            vma(6, VmaKind::SharedFile, none),
            vma(7, VmaKind::Shmem, none),
            vma(8, VmaKind::Hugetlb, none),
            vma(9, VmaKind::Special, none),
            vma(10, VmaKind::Anon, none),
            vma(11, VmaKind::Anon, VmaFlags::POLICY),
            vma(12, VmaKind::Anon, VmaFlags::POLICY.with(VmaFlags::LOCKED)),
            vma(13, VmaKind::Shmem, VmaFlags::POLICY),
        ];
        let mut procs = Procs::default();
        fold(&mut procs, 1, Event::Sample(Sample::Maps(MapsSample { proc: key(1, 1), vmas })));
        let range = |start, end| AddrRange { start, end };
        assert_eq!(procs.eligible_ranges(key(1, 1)), [range(0, 2), range(10, 12)]);
        // What its owner bound to nodes may be paged out, and stays on them.
        assert_eq!(procs.movable_ranges(key(1, 1)), [range(0, 2), range(10, 11)]);
        assert_eq!(procs.bound_ranges(key(1, 1)), [range(11, 12)]);
        assert_eq!(procs.eligible_ranges(key(2, 1)), []);
    }

    #[test]
    fn mappings_are_capped_oldest_first() {
        let mut procs = Procs::default();
        for pid in 1..=3 {
            let vmas = vec![Vma::default(); VMAS / 2];
            fold(&mut procs, u64::from(pid), Event::Sample(Sample::Maps(MapsSample { proc: key(pid, 1), vmas })));
        }
        let held = |pid| procs.get(key(pid, 1)).unwrap().vmas.len();
        assert_eq!(([1, 2, 3].map(held), procs.evicted()), ([0, VMAS / 2, VMAS / 2], VMAS as u64 / 2));
    }
}
