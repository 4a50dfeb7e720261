//! Threads: which blocks each thread of a process touched, by the samples of page faults, and who of them belongs together.
//!
//! Kept only of processes that may be placed, and without the main thread: it often fills what others work on. A fault is the
//! first touch of a page, or the next one after swap or a NUMA hint; what a thread reads that is in place already nobody tells.
//!
//! Cost: 24 bytes a block and 48 a thread. At `BLOCKS` every second block is forgotten, chosen by its number, so that of all
//! threads the same blocks are looked at, and shares of them stay what they were: 102 KiB a process (8 GiB), 6.5 MiB in all.
//!
//! Deliberately absent: where a group should go (policies); who wakes whom (docs/policies/numa.md says why).

use super::capped::Capped;
use super::sched::Halves;
use crate::vocab::{BlockId, Bytes, Event, KernelEvent, ProcKey, Sample, SchedSample, Span, Stamped, Time};
use serde::{Deserialize, Serialize};

/// Processes known at most; `scan.max_procs` is 64.
const PROCS: usize = 64;
/// Threads told apart in one process; a bit each.
const THREADS: usize = 128;
/// Blocks known of one process.
const BLOCKS: usize = 4_096;
/// A thread that was not heard of for so long gives its place to another.
const SILENT: Span = Span::from_secs(60);
/// Blocks that a thread must have touched before it is said to share none.
const ENOUGH: u32 = 8;
/// Of two blocks that are known one after the other so many (thousandths) must be of one group: else groups lie side by side more
/// finely than is known, and what lies between two blocks is nobody's.
const ALIKE_PERMIL: usize = 900;

/// Threads by their place in `ProcThreads::threads`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Set([u64; THREADS / 64]);

impl Set {
    fn of(place: usize) -> Self {
        let mut set = Self::default();
        set.0[place / 64] = 1 << (place % 64);
        set
    }
    fn add(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a |= b);
    }
    fn remove(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a &= !b);
    }
    fn meets(self, other: Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Thread {
    tid: u32,
    heard: Time,
    ran: Halves,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProcThreads {
    threads: Vec<Thread>,
    /// Ascending.
    blocks: Vec<(BlockId, Set)>,
    /// Of 2^sparse blocks one is kept.
    sparse: u32,
}

/// Threads that share memory with each other and with no other group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Ascending.
    pub tids: Vec<u32>,
    /// CPU time in the last 30 to 60 s.
    pub ran: Span,
    /// Blocks that they touched, of those that are kept.
    pub blocks: u32,
}

/// The groups of a process, those that run most first, and what each of them touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    pub all: Vec<Group>,
    /// Ascending; none where several groups touched it.
    owners: Vec<(BlockId, Option<usize>)>,
    /// What lies between two blocks of a group is its own.
    even: bool,
}

impl Groups {
    /// The group that uses a block: of one that is not known, whoever has the known ones before and after it, if that is the rule.
    #[must_use]
    pub fn owner(&self, block: BlockId) -> Option<usize> {
        let at = self.owners.partition_point(|(known, _)| *known < block);
        let here = self.owners.get(at)?;
        if here.0 == block {
            return here.1;
        }
        let before = self.owners.get(at.checked_sub(1)?)?;
        here.1.filter(|_| self.even && here.1 == before.1)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threads {
    procs: Capped<ProcKey, ProcThreads, PROCS>,
    evicted: u64,
}

impl Threads {
    pub(super) fn fold(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::Sample(Sample::Sched(sample)) => self.ran(stamped.at, sample),
            Event::Kernel(KernelEvent::Exec { proc } | KernelEvent::Exit { proc }) => drop(self.procs.remove(proc)),
            // Faults only of those that may be placed, which the caller knows: `touched`.
            Event::Kernel(
                KernelEvent::Fork { .. }
                | KernelEvent::Fault { .. }
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

    /// A thread of a process that may be placed faulted on a block.
    pub fn touched(&mut self, at: Time, proc: ProcKey, tid: u32, block: BlockId) {
        if tid != 0 && tid != proc.pid {
            self.evicted += u64::from(!self.procs.touch(at, proc).touched(at, tid, block));
        }
    }

    fn ran(&mut self, at: Time, sample: &SchedSample) {
        for time in &sample.times {
            let known = self.procs.get_mut(&time.proc);
            if let Some(thread) = known.and_then(|known| known.threads.iter_mut().find(|thread| thread.tid == time.tid)) {
                thread.heard = at;
                thread.ran.add(at, time.runtime_ns);
            }
        }
    }

    /// How many threads of it are known, and ran lately.
    #[must_use]
    pub fn known(&self, proc: ProcKey, now: Time) -> usize {
        self.procs.get(&proc).map_or(0, |known| known.told(now).len())
    }

    /// The groups of a process. Two belong together if of the blocks of the one that touched fewer, at least `shared` thousandths
    /// were touched by the other too. Threads that did not run lately, or touched too little, are in none.
    #[must_use]
    pub fn groups(&self, proc: ProcKey, now: Time, shared: u64) -> Groups {
        self.procs.get(&proc).map_or_else(Groups::default, |known| known.groups(now, shared))
    }

    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let hanging = |known: &ProcThreads| {
            known.threads.capacity() * size_of::<Thread>() + known.blocks.capacity() * size_of::<(BlockId, Set)>()
        };
        Bytes(self.procs.bytes() + self.procs.iter().map(|(_, known)| hanging(known) as u64).sum::<u64>())
    }
    /// Processes dropped at the cap, and samples of threads that found no place.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.procs.evicted() + self.evicted
    }
}

/// Numbers of blocks are no even sample: threads have memory side by side, at distances that are powers of two.
const fn kept(block: BlockId, sparse: u32) -> bool {
    // The finalizer of splitmix64.
    let x = (block.0 ^ block.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31).trailing_zeros() >= sparse
}

impl ProcThreads {
    /// Whether there was a place for the thread.
    fn touched(&mut self, at: Time, tid: u32, block: BlockId) -> bool {
        let Some(place) = self.place(at, tid) else { return false };
        self.threads[place].heard = at;
        if let Ok(known) = self.blocks.binary_search_by_key(&block, |(known, _)| *known) {
            self.blocks[known].1.add(Set::of(place));
            return true;
        }
        while self.blocks.len() >= BLOCKS && kept(block, self.sparse) {
            self.sparse += 1;
            self.blocks.retain(|(block, _)| kept(*block, self.sparse));
        }
        if kept(block, self.sparse) {
            let before = self.blocks.partition_point(|(known, _)| *known < block);
            self.blocks.insert(before, (block, Set::of(place)));
        }
        true
    }

    fn place(&mut self, at: Time, tid: u32) -> Option<usize> {
        if let Some(place) = self.threads.iter().position(|thread| thread.tid == tid) {
            return Some(place);
        }
        let fresh = Thread { tid, heard: at, ran: Halves::default() };
        if self.threads.len() < THREADS {
            self.threads.push(fresh);
            return Some(self.threads.len() - 1);
        }
        let place = (0..THREADS).min_by_key(|&place| self.threads[place].heard)?;
        if at.since(self.threads[place].heard) < SILENT {
            return None;
        }
        self.blocks.iter_mut().for_each(|(_, by)| by.remove(Set::of(place)));
        self.threads[place] = fresh;
        Some(place)
    }

    /// Threads that ran lately and touched enough, each with what it touched, a bit a block.
    fn told(&self, now: Time) -> Vec<(usize, Vec<u64>)> {
        let ran = |&place: &usize| self.threads[place].ran.sum(now) > Span::ZERO;
        let all = (0..self.threads.len()).filter(ran).map(|place| (place, self.bits(Set::of(place))));
        all.filter(|(_, bits)| count(bits) >= ENOUGH).collect()
    }

    fn bits(&self, by: Set) -> Vec<u64> {
        let mut bits = vec![0u64; self.blocks.len().div_ceil(64)];
        for (at, _) in self.blocks.iter().enumerate().filter(|(_, (_, who))| who.meets(by)) {
            bits[at / 64] |= 1 << (at % 64);
        }
        bits
    }

    fn groups(&self, now: Time, shared: u64) -> Groups {
        let mut all: Vec<(Set, Vec<u64>)> = self.told(now).into_iter().map(|(place, bits)| (Set::of(place), bits)).collect();
        // Those that two groups share together may be more than either member shared.
        while let Some((a, b)) = alike(&all, shared) {
            let (by, bits) = all.remove(b);
            all[a].0.add(by);
            all[a].1.iter_mut().zip(bits).for_each(|(to, from)| *to |= from);
        }
        let group = |(by, bits): &(Set, Vec<u64>)| {
            let mut group = Group { blocks: count(bits), ..Group::default() };
            for (_, thread) in self.threads.iter().enumerate().filter(|(place, _)| by.meets(Set::of(*place))) {
                group.tids.push(thread.tid);
                group.ran = group.ran.saturating_add(thread.ran.sum(now));
            }
            group.tids.sort_unstable();
            (group, *by)
        };
        let mut groups: Vec<(Group, Set)> = all.iter().map(group).collect();
        groups.sort_by(|(a, _), (b, _)| b.ran.cmp(&a.ran).then_with(|| a.tids.cmp(&b.tids)));
        let owner = |by: Set| {
            let mut owners = (0..groups.len()).filter(|&at| groups[at].1.meets(by));
            owners.next().filter(|_| owners.next().is_none())
        };
        let known = self.blocks.iter().filter(|(_, by)| *by != Set::default());
        let owners: Vec<(BlockId, Option<usize>)> = known.map(|(block, by)| (*block, owner(*by))).collect();
        let same = owners.windows(2).filter(|pair| pair[0].1 == pair[1].1).count();
        let even = same * 1000 >= owners.len().saturating_sub(1) * ALIKE_PERMIL;
        Groups { owners, even, all: groups.into_iter().map(|(group, _)| group).collect() }
    }
}

fn count(bits: &[u64]) -> u32 {
    bits.iter().map(|word| word.count_ones()).sum()
}

/// The first two that share enough, the lower one first.
fn alike(all: &[(Set, Vec<u64>)], shared: u64) -> Option<(usize, usize)> {
    let share = |a: &[u64], b: &[u64]| {
        let both: u32 = a.iter().zip(b).map(|(a, b)| (a & b).count_ones()).sum();
        u64::from(both) * 1000 / u64::from(count(a).min(count(b)).max(1))
    };
    (0..all.len()).find_map(|a| {
        let b = (a + 1..all.len()).find(|&b| share(&all[a].1, &all[b].1) >= shared)?;
        Some((a, b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{CpuId, CpuTime};

    const PROC: ProcKey = ProcKey { pid: 7, start: 1 };
    const SHARED: u64 = 125;

    fn at(second: u64) -> Time {
        Time(0).after(Span::from_secs(second))
    }
    /// Each thread touched these blocks, and ran for so many seconds by second 100.
    fn model(threads: &[(u32, u64, std::ops::Range<u64>)]) -> Threads {
        let mut model = Threads::default();
        for (tid, _, blocks) in threads {
            blocks.clone().for_each(|block| model.touched(at(1), PROC, *tid, BlockId(block)));
        }
        run(&mut model, 100, &threads.iter().map(|(tid, ran, _)| (*tid, *ran)).collect::<Vec<_>>());
        model
    }
    fn run(model: &mut Threads, second: u64, ran: &[(u32, u64)]) {
        let time = |&(tid, s): &(u32, u64)| CpuTime { proc: PROC, tid, cpu: CpuId(0), runtime_ns: s * 1_000_000_000, switches: 1 };
        let sample = SchedSample { period_ns: 1_000_000_000, times: ran.iter().map(time).collect() };
        model.fold(&Stamped { seq: 1, at: at(second), event: Event::Sample(Sample::Sched(sample)) });
    }
    fn check(model: &Threads, second: u64, expect: &[&[u32]]) -> Groups {
        let groups = model.groups(PROC, at(second), SHARED);
        assert_eq!(groups.all.iter().map(|group| &group.tids[..]).collect::<Vec<_>>(), expect, "{groups:?}");
        groups
    }

    #[test]
    fn who_touches_the_same_blocks_belongs_together() {
        let mut model = model(&[(10, 5, 0..20), (11, 9, 100..120), (12, 5, 10..30), (13, 1, 100..140)]);
        let groups = check(&model, 101, &[&[10, 12], &[11, 13]]);
        assert_eq!(groups.all[0].ran, Span::from_secs(10));
        assert_eq!((groups.all[0].blocks, groups.all[1].blocks), (30, 40));
        let owner = |block| groups.owner(BlockId(block));
        assert_eq!(
            [owner(0), owner(29), owner(30), owner(99), owner(100), owner(139), owner(140)],
            [Some(0), Some(0), None, None, Some(1), Some(1), None]
        );
        // One that uses an eighth of both joins them, and less than that does not.
        (0..2).chain(100..116).for_each(|block| model.touched(at(101), PROC, 14, BlockId(block)));
        run(&mut model, 101, &[(14, 1)]);
        assert_eq!(check(&model, 101, &[&[11, 13, 14], &[10, 12]]).owner(BlockId(1)), None);
        model.touched(at(101), PROC, 14, BlockId(2));
        model.touched(at(101), PROC, 14, BlockId(3));
        check(&model, 101, &[&[10, 11, 12, 13, 14]]);
    }

    #[test]
    fn who_sleeps_or_touched_little_is_in_no_group_and_main_is_not_asked() {
        let mut model = model(&[(7, 5, 0..200), (10, 5, 0..20), (11, 4, 100..107), (12, 0, 0..200)]);
        check(&model, 101, &[&[10]]);
        model.touched(at(101), PROC, 11, BlockId(107));
        let groups = check(&model, 101, &[&[10], &[11]]);
        // Blocks on the way from one group to another are nobody's, and those within one are its own.
        assert_eq!([groups.owner(BlockId(50)), groups.owner(BlockId(104))], [None, Some(1)]);
        assert_eq!(model.known(PROC, at(101)), 2);
        check(&model, 161, &[]);
        model.fold(&Stamped { seq: 2, at: at(102), event: Event::Kernel(KernelEvent::Exec { proc: PROC }) });
        check(&model, 101, &[]);
    }

    #[test]
    fn large_processes_are_known_by_a_part_of_their_blocks() {
        // Halves of 64 GiB, one after the other, and in turns of 64 MiB.
        for (turn, right_least) in [(16_384, 32_000), (32, 2_048)] {
            let (mut model, whose) = (Threads::default(), |block: u64| (block / turn % 2) as usize);
            (0..32_768).for_each(|block| model.touched(at(1), PROC, 10 + whose(block) as u32, BlockId(block)));
            run(&mut model, 100, &[(10, 1), (11, 1)]);
            let groups = check(&model, 101, &[&[10], &[11]]);
            assert!(groups.owners.len() <= BLOCKS && groups.owners.len() > BLOCKS / 4, "{}", groups.owners.len());
            let told: Vec<(usize, usize)> =
                (0..32_768).filter_map(|block| Some((groups.owner(BlockId(block))?, whose(block)))).collect();
            let right = told.iter().filter(|(said, is)| said == is).count();
            println!("turns of {turn}: {} known, {right} of {} right", groups.owners.len(), told.len());
            assert!(right >= right_least && told.len() - right < 32, "{right} of {}", told.len());
            assert!(model.bytes() <= Bytes::from_kib(128), "{}", model.bytes());
        }
    }

    #[test]
    fn more_threads_than_have_a_place_are_counted() {
        let mut model = Threads::default();
        (0..THREADS as u32 + 2).for_each(|n| model.touched(at(1), PROC, 100 + n, BlockId(u64::from(n))));
        assert_eq!(model.evicted(), 2);
        // A place is given away when its thread is silent.
        model.touched(at(2), PROC, 100, BlockId(1));
        (0..20).for_each(|block| model.touched(at(62), PROC, 99, BlockId(block)));
        run(&mut model, 62, &[(99, 1)]);
        assert_eq!((model.evicted(), check(&model, 63, &[&[99]]).all[0].blocks), (2, 20));
        for proc in 0..2 * PROCS as u32 {
            (0..4 * BLOCKS as u64).for_each(|block| model.touched(at(63), ProcKey { pid: proc + 10, start: 2 }, 9, BlockId(block)));
        }
        assert!(model.bytes() <= Bytes::from_mib(8) && model.evicted() > 2, "{}", model.bytes());
    }
}
