//! Once a period: empties what the probes counted in the kernel. Blocks (it waits for an RCU grace period), so it runs on
//! a thread of its own.

use super::wire::{cpu_time, key, tally_key};
use crate::sys::bpf::{MappedMap, program_stats, run_on_cpu, take_all, wait_for_programs};
use crate::vocab::{CgroupId, CpuId, CpuTime, Event, KernelEvent, Pages, ProcKey, ReclaimCounts, Sample, SchedSample, Source};
use memtier_common::{SCHED_SLOTS, SchedCpu, SchedSlot, TallyKey, lost, tally_kind};
use std::collections::BTreeMap;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread;
use std::time::{Duration, Instant};

/// The slots of the scheduler probe.
#[derive(Debug)]
pub struct SchedSlots {
    pub cpus: MappedMap,
    pub slots: MappedMap,
    pub tick: OwnedFd,
    /// Switches at the last drain, per possible CPU.
    pub seen: Vec<u64>,
}

impl SchedSlots {
    fn drain(&mut self, times: &mut BTreeMap<(ProcKey, u32, CpuId), (u64, u64)>) -> io::Result<()> {
        for (number, seen) in self.seen.iter_mut().enumerate() {
            let state = |offset: usize| self.cpus.word(number * size_of::<SchedCpu>() + offset);
            let switches = state(offset_of!(SchedCpu, switches)).load(Relaxed);
            // An idle CPU is left asleep.
            if switches == *seen && state(offset_of!(SchedCpu, running)).load(Relaxed) == 0 {
                continue;
            }
            *seen = switches;
            let number = number as u32;
            match run_on_cpu(self.tick.as_fd(), number) {
                Ok(()) => {}
                // Offline: it is drained when it comes back.
                Err(e) if e.raw_os_error() == Some(libc::ENXIO) => continue,
                Err(e) => return Err(e),
            }
            let left = (state(offset_of!(SchedCpu, half)).load(Acquire) & 1) ^ 1;
            let first = (number as usize * 2 + left as usize) * SCHED_SLOTS;
            for slot in first..first + SCHED_SLOTS {
                let word = |offset: usize| self.slots.word(slot * size_of::<SchedSlot>() + offset);
                if word(0).load(Relaxed) == 0 {
                    continue;
                }
                add(times, cpu_time(number, |offset| word(offset).load(Relaxed)));
                for offset in (0..size_of::<SchedSlot>()).step_by(8) {
                    word(offset).store(0, Relaxed);
                }
            }
        }
        Ok(())
    }
}

fn add(times: &mut BTreeMap<(ProcKey, u32, CpuId), (u64, u64)>, time: CpuTime) {
    let CpuTime { proc, tid, cpu, runtime_ns, switches } = time;
    let sum = times.entry((proc, tid, cpu)).or_default();
    *sum = (sum.0.saturating_add(runtime_ns), sum.1.saturating_add(switches));
}

/// The tallies and the word that tells which ones are written; task moves have their own.
#[derive(Debug)]
pub struct Tallies {
    pub turn: MappedMap,
    pub maps: [[OwnedFd; 2]; 2],
    pub most: u32,
}

impl Tallies {
    fn drain(&mut self) -> io::Result<Vec<(TallyKey, u64)>> {
        let written = self.turn.word(0).load(Relaxed) & 1;
        self.turn.word(0).store(written ^ 1, Release);
        if wait_for_programs().is_err() {
            // Kernels with tickless CPUs refuse: no program of ours runs anywhere near this long.
            thread::sleep(Duration::from_millis(100));
        }
        let mut counts = Vec::new();
        for map in &self.maps[usize::from(written == 1)] {
            let (keys, values) = take_all(map.as_fd(), size_of::<TallyKey>(), 8, self.most)?;
            let (keys, _) = keys.as_chunks::<{ size_of::<TallyKey>() }>();
            let (values, _) = values.as_chunks::<8>();
            counts.extend(keys.iter().zip(values).map(|(k, v)| (tally_key(k), u64::from_ne_bytes(*v))));
        }
        Ok(counts)
    }
}

/// Records that found no room, and runs that the kernel left out.
#[derive(Debug)]
pub struct Losses {
    pub counters: MappedMap,
    pub programs: Vec<(Source, OwnedFd)>,
    pub told: BTreeMap<Source, u64>,
}

impl Losses {
    fn drain(&mut self, events: &mut Vec<Event>) {
        let families = [
            (Source::Procs, lost::PROCS),
            (Source::Sched, lost::SCHED),
            (Source::Reclaim, lost::RECLAIM),
            (Source::Faults, lost::FAULTS),
            (Source::Migrate, lost::MIGRATE),
            (Source::Damon, lost::DAMON),
        ];
        for (source, word) in families {
            let missed = self.programs.iter().filter(|p| p.0 == source).map(|p| program_stats(p.1.as_fd()).map_or(0, |s| s.missed));
            let all = self.counters.word(word as usize * 8).load(Relaxed) + missed.sum::<u64>();
            let told = self.told.entry(source).or_default();
            let count = all.saturating_sub(*told);
            if count > 0 {
                *told = all;
                events.push(Event::Lost { source, count });
            }
        }
    }
}

/// Everything that is emptied once a period. A part that fails once is given up, and said.
#[derive(Debug)]
pub struct Drain {
    pub sched: Option<SchedSlots>,
    pub tallies: Option<Tallies>,
    pub losses: Option<Losses>,
    pub since: Instant,
}

impl Drain {
    /// `spilled` came through the event ring since the last drain.
    pub fn run(&mut self, spilled: Vec<CpuTime>) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(losses) = &mut self.losses {
            losses.drain(&mut events);
        }
        let mut times = BTreeMap::new();
        spilled.into_iter().for_each(|time| add(&mut times, time));
        let failed = self.sched.as_mut().map(|sched| sched.drain(&mut times));
        let period_ns = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.since = Instant::now();
        match failed {
            None => {}
            Some(Ok(())) => events.push(Event::Sample(Sample::Sched(sched_sample(period_ns, times)))),
            Some(Err(e)) => {
                self.sched = None;
                events.push(Event::Blind { source: Source::Sched, why: format!("draining CPU times: {e}") });
            }
        }
        match self.tallies.as_mut().map(Tallies::drain) {
            None => {}
            Some(Ok(counts)) => tell(period_ns, counts, &mut events),
            Some(Err(e)) => {
                self.tallies = None;
                let why = format!("draining counts: {e}");
                events.extend([Source::Reclaim, Source::Migrate].map(|source| Event::Blind { source, why: why.clone() }));
            }
        }
        events
    }
}

fn sched_sample(period_ns: u64, times: BTreeMap<(ProcKey, u32, CpuId), (u64, u64)>) -> SchedSample {
    let time = |((proc, tid, cpu), (runtime_ns, switches))| CpuTime { proc, tid, cpu, runtime_ns, switches };
    SchedSample { period_ns, times: times.into_iter().map(time).collect() }
}

/// Tallies to events, in an order that does not depend on the map's.
fn tell(period_ns: u64, mut counts: Vec<(TallyKey, u64)>, events: &mut Vec<Event>) {
    counts.sort_unstable_by_key(|(k, _)| (k.kind, k.pid, k.id, k.tid, k.from_cpu, k.to_cpu));
    let mut reclaim = ReclaimCounts {
        period_ns,
        swap_writes: Vec::new(),
        reclaimed: Vec::new(),
        major_faults: Vec::new(),
        direct_reclaim: Vec::new(),
    };
    let (mut succeeded, mut failed) = (0, 0);
    for (TallyKey { kind, pid, id, tid, from_cpu, to_cpu }, count) in counts {
        let proc = key(pid, id);
        match kind {
            tally_kind::SWAP_WRITES => reclaim.swap_writes.push((proc, Pages(count))),
            tally_kind::CGROUP_SWAP => reclaim.reclaimed.push((CgroupId(id), Pages(count))),
            tally_kind::MAJOR_FAULTS => reclaim.major_faults.push((proc, count)),
            tally_kind::DIRECT_RECLAIM => reclaim.direct_reclaim.push((proc, count)),
            tally_kind::MIGRATED => succeeded += count,
            tally_kind::NOT_MIGRATED => failed += count,
            tally_kind::TASK_MOVES => {
                let (from, to) = (CpuId(from_cpu.into()), CpuId(to_cpu.into()));
                events.push(Event::Kernel(KernelEvent::TaskMoved { proc, tid, from, to, count }));
            }
            _ => events.push(Event::Lost { source: Source::Reclaim, count: 1 }),
        }
    }
    events.push(Event::Sample(Sample::Reclaim(reclaim)));
    if succeeded + failed > 0 {
        events.push(Event::Kernel(KernelEvent::PagesMoved { succeeded: Pages(succeeded), failed: Pages(failed) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_become_events_in_a_fixed_order() {
        let nothing = TallyKey::default();
        let counts = vec![
            (TallyKey { kind: tally_kind::NOT_MIGRATED, ..nothing }, 1),
            (TallyKey { kind: tally_kind::TASK_MOVES, pid: 5, id: 10_000_000, tid: 6, from_cpu: 1, to_cpu: 3 }, 4),
            (TallyKey { kind: tally_kind::SWAP_WRITES, pid: 9, id: 20_000_000, ..nothing }, 7),
            (TallyKey { kind: tally_kind::SWAP_WRITES, pid: 5, id: 10_000_000, ..nothing }, 8),
            (TallyKey { kind: tally_kind::CGROUP_SWAP, id: 77, ..nothing }, 15),
        ];
        let (mut one, mut other) = (Vec::new(), Vec::new());
        tell(5, counts.clone(), &mut one);
        tell(5, counts.into_iter().rev().collect(), &mut other);
        assert_eq!(one, other);
        let moved = KernelEvent::TaskMoved { proc: ProcKey { pid: 5, start: 1 }, tid: 6, from: CpuId(1), to: CpuId(3), count: 4 };
        assert_eq!(one[0], Event::Kernel(moved));
        let Event::Sample(Sample::Reclaim(reclaim)) = &one[1] else { panic!("{one:?}") };
        let writes = [(ProcKey { pid: 5, start: 1 }, Pages(8)), (ProcKey { pid: 9, start: 2 }, Pages(7))];
        assert_eq!(
            (reclaim.swap_writes.as_slice(), reclaim.reclaimed.as_slice()),
            (writes.as_slice(), [(CgroupId(77), Pages(15))].as_slice())
        );
        assert_eq!(one[2], Event::Kernel(KernelEvent::PagesMoved { succeeded: Pages(0), failed: Pages(1) }));
    }

    #[test]
    fn spills_join_their_slot() {
        let mut drain = Drain { sched: None, tallies: None, losses: None, since: Instant::now() };
        assert!(drain.run(vec![CpuTime::for_test(); 2]).is_empty());
        let mut times = BTreeMap::new();
        add(&mut times, CpuTime::for_test());
        add(&mut times, CpuTime::for_test());
        assert_eq!(sched_sample(9, times).times, [CpuTime { runtime_ns: 20, switches: 4, ..CpuTime::for_test() }]);
    }

    impl CpuTime {
        fn for_test() -> Self {
            Self { proc: ProcKey { pid: 2, start: 3 }, tid: 4, cpu: CpuId(1), runtime_ns: 10, switches: 2 }
        }
    }
}
