//! The hands on a fake table of system calls: every error path, and what is asked of the kernel in which order.

use super::{Actuator, Calls, Ground, Hands};
use crate::config;
use crate::plan::calls::calls;
use crate::sys::memory::{Advice, MOST_BYTES, MOST_RANGES};
use crate::sys::page_idle::Words;
use crate::sys::pagemap::{Entry, Flags};
use crate::vocab::{
    Action, AddrRange, BLOCK_BYTES, Bytes, Charge, End, Fault, Guard, NodeId, Outcome, PAGE_BYTES, Pages, Permil, PolicyId,
    ProcKey, Reason, Rule, Step, StepId, Time,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::time::Duration;

const PROC: ProcKey = ProcKey { pid: 7, start: 70 };
const BASE: u64 = 0x7f00_0000_0000;
const PRESENT: u64 = 1 << 63 | 1 << 56;
const SWAPPED: u64 = 1 << 62;
const TAIL: u64 = 1 << 16;

/// A process of some pages and a kernel that obeys, but for what a test sets.
#[derive(Debug, Default)]
struct World {
    pages: BTreeMap<u64, u64>,
    /// Pages that reclaim cannot take.
    stuck: BTreeSet<u64>,
    /// Mappings that advice refuses, with their errno.
    bad: Vec<(AddrRange, i32)>,
    /// Errno of every advice after so many.
    breaks_after: Option<(usize, i32)>,
    flags: BTreeMap<u64, u64>,
    owner: ProcKey,
    /// Pauses until the process is gone.
    dies_after: Option<usize>,
    swap: (u64, u64),
    /// Pressure of each look, the last one for ever.
    pressure: Vec<u32>,
    swap_pages: Option<Vec<u64>>,
    /// What was written to the page_idle bitmap, and where memory ends; none without one.
    marks: Option<Vec<Words>>,
    last_frame: Option<u64>,
    /// Errno of every mark after so many.
    marks_break_after: Option<(usize, i32)>,
    vectors: Vec<Vec<AddrRange>>,
    pauses: usize,
    attached: usize,
    /// CPU time used, and what a page of advice takes.
    cpu: u64,
    page_ns: u64,
    /// System calls, counted as act/kernel.rs does.
    made: u64,
}

#[derive(Clone, Debug)]
struct Fake(Rc<RefCell<World>>);

fn range(first: u64, pages: u64) -> AddrRange {
    let start = BASE + first * PAGE_BYTES;
    AddrRange { start, end: start + pages * PAGE_BYTES }
}

fn errno(n: i32) -> io::Error {
    io::Error::from_raw_os_error(n)
}

impl World {
    /// `pages` present pages from BASE on, on frames that are not consecutive.
    fn of(pages: u64) -> Self {
        let entry = |page: u64| (BASE + page * PAGE_BYTES, PRESENT | (1000 + 2 * page));
        Self { pages: (0..pages).map(entry).collect(), owner: PROC, swap: (1 << 30, 1 << 30), pressure: vec![0], ..Self::default() }
    }
    fn huge(&mut self, block: u64) {
        for page in block * 512..block * 512 + 512 {
            let frame = (1 << 20) + page;
            self.pages.insert(BASE + page * PAGE_BYTES, PRESENT | frame);
            self.flags.insert(frame, if page % 512 == 0 { 0 } else { TAIL });
        }
    }
    fn reclaim(&mut self, addr: u64) {
        if let Some(entry) = self.pages.get_mut(&addr)
            && *entry & PRESENT == PRESENT
            && !self.stuck.contains(&addr)
        {
            *entry = SWAPPED;
        }
    }
}

impl Ground for Fake {
    fn attach(&mut self, proc: ProcKey) -> io::Result<bool> {
        let mut world = self.0.borrow_mut();
        world.attached += 1;
        world.made += 7;
        Ok(world.owner == proc)
    }
    fn release(&mut self) {}
    fn entries(&mut self, range: AddrRange, out: &mut Vec<Entry>) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        if world.owner != PROC {
            return Err(errno(libc::ESRCH));
        }
        world.made += range.pages().0.div_ceil(16_384);
        let page = |addr| Entry(world.pages.get(&addr).copied().unwrap_or(0));
        out.extend((range.start..range.end).step_by(PAGE_BYTES as usize).map(page));
        Ok(())
    }
    fn flags(&mut self, frame: u64, count: usize) -> io::Result<Vec<Flags>> {
        let world = self.0.borrow();
        Ok((frame..frame + count as u64).map(|f| Flags(world.flags.get(&f).copied().unwrap_or(0))).collect())
    }
    fn swap(&mut self) -> io::Result<(Bytes, Bytes)> {
        self.0.borrow_mut().made += 1;
        let (free, total) = self.0.borrow().swap;
        Ok((Bytes(free), Bytes(total)))
    }
    fn pressure(&mut self) -> io::Result<u32> {
        let mut world = self.0.borrow_mut();
        world.made += 1;
        if world.pressure.len() > 1 {
            Ok(world.pressure.remove(0))
        } else {
            world.pressure.first().copied().ok_or(errno(libc::ENOENT))
        }
    }
    fn now(&self) -> Time {
        Time(100)
    }
    fn cpu_ns(&self) -> u64 {
        self.0.borrow().cpu
    }
    fn made(&self) -> u64 {
        self.0.borrow().made
    }
    fn pause(&mut self, _: Duration) {
        let mut world = self.0.borrow_mut();
        (world.pauses, world.made) = (world.pauses + 1, world.made + 1);
        if world.dies_after == Some(world.pauses) {
            world.owner = ProcKey::default();
        }
    }
    fn node_free(&mut self, _: NodeId) -> io::Result<Bytes> {
        Err(errno(libc::ENOENT))
    }
}

impl Calls for Fake {
    fn advise(&mut self, ranges: &[AddrRange], advice: Advice) -> io::Result<u64> {
        assert!(ranges.len() <= MOST_RANGES && ranges.iter().map(|r| r.end - r.start).sum::<u64>() <= MOST_BYTES);
        let mut world = self.0.borrow_mut();
        world.vectors.push(ranges.to_vec());
        world.made += 1;
        if let Some((_, e)) = world.breaks_after.filter(|(calls, _)| world.vectors.len() > *calls) {
            return Err(errno(e));
        }
        world.cpu += world.page_ns * ranges.iter().map(|r| r.pages().0).sum::<u64>();
        let mut done = 0;
        for range in ranges {
            if let Some((_, e)) = world.bad.iter().find(|(bad, _)| bad.start < range.end && range.start < bad.end) {
                return if done > 0 { Ok(done) } else { Err(errno(*e)) };
            }
            if advice == Advice::PageOut {
                (range.start..range.end).step_by(PAGE_BYTES as usize).for_each(|addr| world.reclaim(addr));
            }
            done += range.end - range.start;
        }
        Ok(done)
    }
    fn has_swap_pages(&self) -> bool {
        self.0.borrow().swap_pages.is_some()
    }
    fn swap_pages(&mut self, addresses: &[u64]) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        addresses.iter().for_each(|addr| world.reclaim(*addr));
        world.swap_pages.as_mut().expect("asked for first").extend(addresses);
        Ok(())
    }
    fn has_page_idle(&self) -> bool {
        self.0.borrow().marks.is_some()
    }
    /// As mm/page_idle.c does where memory ends.
    fn mark_idle(&mut self, words: &Words) -> io::Result<usize> {
        let mut world = self.0.borrow_mut();
        world.made += 1;
        let (breaks, last) = (world.marks_break_after, world.last_frame.unwrap_or(u64::MAX));
        let marks = world.marks.as_mut().expect("asked for first");
        if let Some((_, e)) = breaks.filter(|(writes, _)| marks.len() >= *writes) {
            return Err(errno(e));
        }
        if words.frame(0) > last {
            return Err(errno(libc::ENXIO));
        }
        marks.push(words.clone());
        Ok((0..words.bits.len()).take_while(|at| words.frame(*at) + 63 <= last).count())
    }
}

fn step(action: Action, guards: Vec<Guard>) -> Step {
    Step {
        id: StepId { decision: 3, index: 1 },
        action,
        guards,
        expires: Time(1000),
        charge: Charge::default(),
        by: PolicyId::Autocold,
        reason: Reason { rule: Rule::AutocoldIdle, evidence: Vec::new(), note: String::new() },
    }
}

fn page_out(ranges: Vec<AddrRange>) -> Action {
    Action::PageOut { proc: PROC, ranges }
}

/// Applies one step to the world and hands both back.
fn apply(world: World, step: &Step) -> (Outcome, World) {
    let fake = Fake(Rc::new(RefCell::new(world)));
    let mut hands = Hands::with(fake.clone(), &config::Arm::default());
    let outcome = hands.apply(step);
    drop(hands);
    assert_eq!((outcome.step, outcome.done.asked), (step.id, step.action.pages()));
    (outcome, Rc::into_inner(fake.0).expect("the hands are gone").into_inner())
}

fn partial(outcome: &Outcome) -> &str {
    match &outcome.end {
        End::Partial(why) => why,
        end => panic!("not partial: {end}"),
    }
}

#[test]
fn pages_go_out_and_are_counted_one_by_one() {
    let (outcome, world) = apply(World::of(64), &step(page_out(vec![range(0, 16), range(32, 8)]), vec![Guard::Alive(PROC)]));
    assert_eq!((outcome.end, outcome.done.pages), (End::Done, Pages(24)));
    assert_eq!(world.vectors, [[range(0, 16), range(32, 8)]]);
}

#[test]
fn what_did_not_move_is_not_claimed() {
    let mut world = World::of(20);
    world.stuck = [BASE, BASE + 5 * PAGE_BYTES].into();
    world.pages.insert(BASE + 6 * PAGE_BYTES, SWAPPED);
    let (outcome, _) = apply(world, &step(page_out(vec![range(0, 24)]), vec![]));
    assert_eq!(outcome.done.pages, Pages(17));
    assert_eq!(
        partial(&outcome),
        "5 pages were not in memory, 2 pages stayed in memory (busy, just touched, shared, or no room in swap)"
    );
}

/// A swap area may be slower than it was thought to be.
#[test]
fn calls_shrink_where_pages_cost_more() {
    let mut world = World::of(2048);
    world.page_ns = 18_000;
    let (outcome, world) = apply(world, &step(page_out(vec![range(0, 2048)]), vec![]));
    assert_eq!((outcome.end, outcome.done.pages), (End::Done, Pages(2048)));
    let pages: Vec<u64> = world.vectors.iter().map(|v| v.iter().map(|r| r.pages().0).sum()).collect();
    assert_eq!(pages[0], 128);
    assert!(pages[8..].iter().all(|pages| (16..=40).contains(pages)), "{pages:?}");
}

/// What the planner charges covers what the hands do, and not by much.
#[test]
fn a_step_is_charged_the_calls_that_it_makes() {
    let calm = Guard::Calm { most_avg10: 500 };
    let near = (0..300).map(|i| range(i * 8, 1)).collect::<Vec<_>>();
    let far = (0..20).map(|i| range(i * 512 + 9, 4)).collect::<Vec<_>>();
    for ranges in [vec![range(0, 1)], vec![range(0, 4096)], vec![range(3, 9000)], near, far] {
        let cold = (Action::Arm { proc: PROC, ranges: ranges.clone() }, vec![calm.clone()]);
        let out = (page_out(ranges), vec![calm.clone(), Guard::SwapFree { least: Permil(0) }]);
        for (action, guards) in [cold, out] {
            let (outcome, _) = apply(World::of(10_240), &step(action.clone(), guards));
            let (charged, made) = (calls(&action, &config::Config::default()), outcome.done.syscalls);
            let fair = made <= charged && charged <= made * 5 / 4 + 2;
            assert!(
                fair,
                "{} of {} in {} ranges: charged {charged}, made {made}",
                action.verb(),
                action.pages(),
                action.ranges().len()
            );
        }
    }
}

#[test]
fn a_dry_run_does_not_even_look() {
    let (outcome, world) = apply(World::of(8), &step(page_out(vec![range(0, 8)]), vec![Guard::Alive(PROC), Guard::DryRun]));
    assert_eq!((outcome.end, world.attached), (End::Skipped(Guard::DryRun), 0));
}

#[test]
fn too_late_is_too_late() {
    let mut late = step(page_out(vec![range(0, 8)]), vec![]);
    late.expires = Time(99);
    let (outcome, world) = apply(World::of(8), &late);
    assert_eq!((outcome.end, world.attached), (End::Expired, 0));
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut world = World::of(8);
    world.owner = ProcKey { pid: PROC.pid, start: 71 };
    let (outcome, world) = apply(world, &step(page_out(vec![range(0, 8)]), vec![]));
    assert_eq!(outcome.end, End::Skipped(Guard::Alive(PROC)));
    assert!(world.vectors.is_empty());
}

#[test]
fn free_swap_is_kept_with_the_slice_counted() {
    let guard = Guard::SwapFree { least: Permil(500) };
    let mut world = World::of(1024);
    // Room for 1024 pages over the reserve, and one page less.
    world.swap = ((16 << 20) + (4 << 20), 32 << 20);
    let (outcome, mut world) = apply(world, &step(page_out(vec![range(0, 1024)]), vec![guard.clone()]));
    assert_eq!(outcome.end, End::Done);
    world.swap.0 -= PAGE_BYTES;
    let (outcome, mut world) = apply(world, &step(page_out(vec![range(0, 1024)]), vec![guard.clone()]));
    assert_eq!(outcome.end, End::Skipped(guard.clone()));
    world.swap = (0, 0);
    let (outcome, _) = apply(world, &step(page_out(vec![range(0, 1)]), vec![guard.clone()]));
    assert_eq!(outcome.end, End::Skipped(guard));
}

#[test]
fn pressure_stops_it_between_slices() {
    let mut world = World::of(4096);
    world.pressure = vec![100, 100, 501];
    let (outcome, world) = apply(world, &step(page_out(vec![range(0, 4096)]), vec![Guard::Calm { most_avg10: 500 }]));
    assert_eq!((outcome.done.pages, world.vectors.len(), world.pauses), (Pages(2048), 16, 16));
    assert_eq!(partial(&outcome), "stopped: memory pressure avg10 is over 5.00%");
}

#[test]
fn pressure_that_cannot_be_read_stops_it() {
    let mut world = World::of(8);
    world.pressure = vec![];
    let (outcome, _) = apply(world, &step(page_out(vec![range(0, 8)]), vec![Guard::Calm { most_avg10: 500 }]));
    let call = "read of /proc/pressure/memory".to_owned();
    let message = "No such file or directory".to_owned();
    assert_eq!(outcome.end, End::Failed(Fault { call, on: "pid 7".into(), errno: libc::ENOENT, message }));
}

#[test]
fn reins_stop_it() {
    let fake = Fake(Rc::new(RefCell::new(World::of(8))));
    let mut hands = Hands::with(fake.clone(), &config::Arm::default());
    let reins = hands.reins();
    reins.stop(true);
    let job = step(page_out(vec![range(0, 8)]), vec![]);
    assert_eq!(partial(&hands.apply(&job)), "stopped: paused or shutting down");
    reins.stop(false);
    assert_eq!(hands.apply(&job).end, End::Done);
}

#[test]
fn one_bad_mapping_does_not_stop_the_others() {
    let mut world = World::of(512);
    world.bad = vec![(range(64, 64), libc::EINVAL), (range(256, 8), libc::ENOMEM)];
    let ranges = vec![range(0, 32), range(64, 32), range(128, 32), range(250, 20), range(300, 10)];
    let (outcome, world) = apply(world, &step(page_out(ranges.clone()), vec![]));
    assert_eq!(outcome.done.pages, Pages(32 + 32 + 10));
    assert_eq!(
        partial(&outcome),
        format!(
            "52 pages stayed in memory (busy, just touched, shared, or no room in swap), {} refused: locked, hugetlb or device memory in it, {} refused: an unmapped hole in it",
            ranges[1], ranges[3]
        )
    );
    // The range that stops a vector is asked alone to learn its errno, then left out.
    assert_eq!(world.vectors.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2, 1, 2, 1]);
}

#[test]
fn a_process_that_dies_midway() {
    let mut world = World::of(4096);
    world.breaks_after = Some((2, libc::ESRCH));
    let (outcome, _) = apply(world, &step(page_out(vec![range(0, 4096)]), vec![]));
    assert_eq!(outcome.done.pages, Pages(256));
    assert!(partial(&outcome).starts_with("process_madvise(MADV_PAGEOUT) on pid 7: No such process (errno 3)"), "{}", outcome.end);
    let mut world = World::of(8);
    world.breaks_after = Some((0, libc::ESRCH));
    let (outcome, _) = apply(world, &step(page_out(vec![range(0, 8)]), vec![]));
    assert!(matches!(&outcome.end, End::Failed(fault) if fault.errno == libc::ESRCH), "{}", outcome.end);
}

#[test]
fn no_right_is_a_failure_and_not_a_bad_mapping() {
    let mut world = World::of(8);
    world.breaks_after = Some((0, libc::EPERM));
    let (outcome, world) = apply(world, &step(page_out(vec![range(0, 4), range(5, 3)]), vec![]));
    assert!(matches!(&outcome.end, End::Failed(fault) if fault.errno == libc::EPERM), "{}", outcome.end);
    assert_eq!(world.vectors.len(), 1);
}

#[test]
fn vectors_stay_within_the_kernel_s_limits() {
    let ranges: Vec<AddrRange> = (0..3000).map(|i| range(i * 2, 1)).collect();
    let (outcome, world) = apply(World::of(6000), &step(Action::Deactivate { proc: PROC, ranges }, vec![]));
    assert_eq!((outcome.end, outcome.done.pages), (End::Done, Pages(3000)));
    assert_eq!(world.vectors.iter().map(Vec::len).collect::<Vec<_>>(), [[121; 24].as_slice(), &[96]].concat());
}

#[test]
fn arming_goes_in_calls_with_pauses() {
    let blocks = 40;
    let (outcome, world) =
        apply(World::of(blocks * 512), &step(Action::Arm { proc: PROC, ranges: vec![range(0, blocks * 512)] }, vec![]));
    assert_eq!((outcome.end, outcome.done.pages, world.pauses), (End::Done, Pages(blocks * 512), 9));
    let calls: Vec<_> = (0..10).map(|call| [range(call * 4 * 512, 4 * 512)]).collect();
    assert_eq!(world.vectors, calls);
}

#[test]
fn pages_mapped_twice_are_not_armed() {
    let mut world = World::of(512);
    (10..20).for_each(|page| *world.pages.get_mut(&(BASE + page * PAGE_BYTES)).expect("there") &= !(1 << 56));
    let (outcome, _) = apply(world, &step(Action::Arm { proc: PROC, ranges: vec![range(0, 512)] }, vec![]));
    assert_eq!((outcome.done.pages, partial(&outcome)), (Pages(502), "10 pages are mapped more than once"));
}

fn arm(ranges: Vec<AddrRange>) -> Step {
    step(Action::Arm { proc: PROC, ranges }, vec![Guard::Alive(PROC)])
}

/// A world that tracks idle pages, with these pages from BASE on.
fn tracked(entries: &[u64]) -> World {
    let pages = (BASE..).step_by(PAGE_BYTES as usize).zip(entries.iter().copied()).collect();
    World { pages, marks: Some(Vec::new()), ..World::of(0) }
}

fn words(first: u64, bits: &[u64]) -> Words {
    Words { first, bits: bits.to_vec() }
}

#[test]
fn frames_are_marked_bit_by_bit_in_few_writes() {
    // Words 1, 2 and 4 in one write, word 80 in another; out of order, one frame twice, a swapped page and a hole between.
    let frame = |frame: u64| PRESENT | frame;
    let world = tracked(&[frame(5120), frame(256), frame(64), SWAPPED, frame(191), frame(127), 0, frame(64), frame(130)]);
    let (outcome, world) = apply(world, &arm(vec![range(0, 9)]));
    assert_eq!(world.marks, Some(vec![words(1, &[1 | 1 << 63, 1 << 2 | 1 << 63, 0, 1]), words(80, &[1])]));
    assert_eq!((outcome.done.pages, partial(&outcome)), (Pages(7), "2 pages were not in memory"));
    assert_eq!((outcome.missed, world.vectors.len()), (vec![], 0));
}

#[test]
fn a_write_takes_a_page_of_words() {
    let entries: Vec<u64> = (0..600).map(|i| PRESENT | (64 * (i + 1))).collect();
    let (outcome, world) = apply(tracked(&entries), &arm(vec![range(0, 600)]));
    assert_eq!(world.marks, Some(vec![words(1, &[1; 512]), words(513, &[1; 88])]));
    assert_eq!((outcome.end, outcome.done.pages), (End::Done, Pages(600)));
}

#[test]
fn pages_that_others_map_are_not_marked() {
    let shared = 1 << 63;
    let (outcome, world) = apply(tracked(&[shared | 70, PRESENT | 71]), &arm(vec![range(0, 2)]));
    assert_eq!((outcome.done.pages, partial(&outcome)), (Pages(1), "1 pages are mapped more than once"));
    assert_eq!((outcome.missed, world.marks), (vec![range(0, 1)], Some(vec![words(1, &[1 << 7])])));
}

/// The kernel heeds the first frame and passes over the others.
#[test]
fn a_huge_page_is_marked_whole_and_never_in_part() {
    let mut world = tracked(&[]);
    (0..2).for_each(|block| world.huge(block));
    let (outcome, world) = apply(world, &arm(vec![range(0, 512), range(600, 100)]));
    assert_eq!(world.marks, Some(vec![words((1 << 20) / 64, &[!0; 8])]));
    assert_eq!((outcome.done.pages, partial(&outcome)), (Pages(512), "100 pages belong to huge pages that reach beyond the range"));
    assert_eq!(outcome.missed, [range(600, 100)]);
}

#[test]
fn where_the_bitmap_ends_pages_are_missed_and_the_rest_goes_on() {
    // Memory ends inside of word 2: that word is not counted, and the next one is refused.
    let mut world = tracked(&[PRESENT | 150, PRESENT | 64, PRESENT | 100, PRESENT | 400, PRESENT | 65]);
    world.last_frame = Some(160);
    // In the next slice.
    world.pages.insert(BASE + 16_384 * PAGE_BYTES, PRESENT | 66);
    let (outcome, world) = apply(world, &arm(vec![range(0, 8192), range(16_384, 1)]));
    let why = "8187 pages were not in memory, 2 pages lie where the page_idle bitmap ends";
    assert_eq!((outcome.done.pages, partial(&outcome)), (Pages(4), why));
    assert_eq!(outcome.missed, [range(0, 1), range(3, 1)]);
    assert_eq!(world.marks.map(|m| m.len()), Some(2));
    let mut world = tracked(&[PRESENT | 400]);
    world.last_frame = Some(160);
    let (outcome, _) = apply(world, &arm(vec![range(0, 1)]));
    assert_eq!((partial(&outcome), &outcome.missed[..]), ("1 pages lie where the page_idle bitmap ends", &[range(0, 1)][..]));
}

#[test]
fn a_bitmap_that_breaks_fails_the_step() {
    let broken = |after| {
        let mut world = tracked(&[PRESENT | 64, PRESENT | 5120, PRESENT | 65, PRESENT | 12_800]);
        world.marks_break_after = Some((after, libc::EIO));
        apply(world, &arm(vec![range(0, 4)])).0
    };
    let outcome = broken(0);
    assert!(matches!(&outcome.end, End::Failed(fault) if fault.errno == libc::EIO), "{}", outcome.end);
    assert_eq!((outcome.done.pages, outcome.missed), (Pages(0), vec![range(0, 4)]));
    let outcome = broken(1);
    assert_eq!(partial(&outcome), "write to the page_idle bitmap on pid 7: I/O error (errno 5)");
    assert_eq!((outcome.done.pages, outcome.missed), (Pages(2), vec![range(1, 1), range(3, 1)]));
}

#[test]
fn a_process_that_vanishes_between_marks() {
    let mut world = World::of(3 * 8192);
    (world.marks, world.dies_after) = (Some(Vec::new()), Some(2));
    let (outcome, _) = apply(world, &arm(vec![range(0, 3 * 8192)]));
    assert_eq!(outcome.done.pages, Pages(2 * 8192));
    assert_eq!(partial(&outcome), "read of pagemap on pid 7: No such process (errno 3)");
    assert_eq!(outcome.missed, [range(2 * 8192, 8192)]);
}

#[test]
fn without_frames_or_a_bitmap_it_is_advice() {
    let mut hidden = World::of(512);
    hidden.marks = Some(Vec::new());
    hidden.pages.values_mut().for_each(|entry| *entry = PRESENT);
    for world in [hidden, World::of(512)] {
        let marks = world.marks.clone();
        let (outcome, world) = apply(world, &arm(vec![range(0, 512)]));
        assert_eq!((outcome.end, outcome.done.pages), (End::Done, Pages(512)));
        assert_eq!((world.vectors.concat(), world.marks), (vec![range(0, 512)], marks));
    }
    // Marking keeps a page where it is among the young and the old: deactivation is another thing.
    let (_, world) = apply(tracked(&[PRESENT | 64]), &step(Action::Deactivate { proc: PROC, ranges: vec![range(0, 1)] }, vec![]));
    assert_eq!((world.vectors.concat(), world.marks), (vec![range(0, 1)], Some(vec![])));
}

/// A large range goes in several calls, of which one may be refused.
#[test]
fn what_advice_did_not_clear_is_told() {
    let mut world = World::of(20_000);
    world.huge(20);
    *world.pages.get_mut(&(BASE + 5 * PAGE_BYTES)).expect("there") &= !(1 << 56);
    world.bad = vec![(range(3000, 10), libc::EINVAL)];
    let (outcome, world) = apply(world, &arm(vec![range(0, 10_000), range(20 * 512 + 7, 3)]));
    let refused = world.vectors.iter().flatten().find(|r| r.contains(range(3000, 1).start)).copied().expect("asked");
    assert_eq!(outcome.missed, [range(5, 1), refused, range(20 * 512 + 7, 3)]);
    assert_eq!(outcome.done.pages, Pages(10_000 - 1 - refused.pages().0));
    let mut world = World::of(20_000);
    world.breaks_after = Some((5, libc::ESRCH));
    let (outcome, _) = apply(world, &arm(vec![range(0, 20_000)]));
    // One slice was done, and of the next nobody knows.
    assert_eq!((outcome.done.pages, outcome.missed), (Pages(8192), vec![range(8192, 8192), range(16_384, 20_000 - 16_384)]));
}

#[test]
fn a_huge_page_is_never_cut() {
    let mut world = World::of(2048);
    (0..4).for_each(|block| world.huge(block));
    // Ends inside of block 0, covers 1, begins inside of 2: only 1 is whole.
    let (outcome, world) = apply(world, &step(page_out(vec![range(0, 100), range(512, 512), range(1030, 200)]), vec![]));
    assert_eq!(world.vectors, [[range(512, 512)]]);
    assert_eq!((outcome.done.pages, partial(&outcome)), (Pages(512), "300 pages belong to huge pages that reach beyond the range"));
}

#[test]
fn small_folios_are_rounded_to_their_edges() {
    let mut world = World::of(512);
    // Pages 16..32 and 48..64 are folios of 16 frames each; the rest is single pages that happen to be neighbours.
    for page in 0..512 {
        let frame = 5000 + page;
        world.pages.insert(BASE + page * PAGE_BYTES, PRESENT | frame);
        world.flags.insert(frame, if [1, 3].contains(&(page / 16)) && page % 16 != 0 { TAIL } else { 0 });
    }
    let (outcome, world) = apply(world, &step(page_out(vec![range(20, 34)]), vec![]));
    assert_eq!(world.vectors, [[range(32, 16)]]);
    assert_eq!((outcome.done.pages, partial(&outcome)), (Pages(16), "18 pages belong to huge pages that reach beyond the range"));
}

#[test]
fn hidden_frames_leave_only_whole_blocks() {
    let mut world = World::of(2048);
    world.pages.values_mut().for_each(|entry| *entry = PRESENT);
    let (outcome, world) = apply(world, &step(page_out(vec![range(100, 1500)]), vec![]));
    assert_eq!(world.vectors.concat(), [range(512, 512), range(1024, 512)]);
    assert_eq!(outcome.done.pages, Pages(1024));
}

#[test]
fn swap_pages_gets_present_pages_only() {
    let mut world = World::of(8);
    world.swap_pages = Some(Vec::new());
    world.pages.insert(BASE + PAGE_BYTES, SWAPPED);
    let (outcome, world) = apply(world, &step(page_out(vec![range(0, 4)]), vec![]));
    assert_eq!(world.swap_pages, Some(vec![BASE, BASE + 2 * PAGE_BYTES, BASE + 3 * PAGE_BYTES]));
    assert_eq!((outcome.done.pages, world.vectors.len()), (Pages(3), 0));
}

#[test]
fn pages_unmapped_meanwhile_are_not_counted() {
    let mut world = World::of(4);
    world.pages.insert(BASE, PRESENT | 1 << 61);
    let fake = Fake(Rc::new(RefCell::new(world)));
    let mut before = Vec::new();
    fake.clone().entries(range(0, 4), &mut before).expect("fake");
    let mut tally = super::pages::Tally::default();
    before.iter().for_each(|was| tally.page_out(*was, Entry(0)));
    assert_eq!(tally.shortfall(), "3 pages were not in memory");
}

#[test]
fn a_scan_is_not_for_these_hands() {
    let (outcome, world) = apply(World::of(1), &step(Action::Scan { proc: PROC }, vec![]));
    assert!(matches!(outcome.end, End::Failed(_)));
    assert_eq!(world.attached, 0);
}

mod slices {
    use super::super::pages::slices;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Slices hold exactly the pages asked for, once each, in order, within the limit, cut at block boundaries only.
        #[test]
        fn hold_what_was_asked(raw in proptest::collection::vec((0u64..6000, 0u64..3000), 0..20), blocks in 0u64..20) {
            let ranges: Vec<AddrRange> = raw.iter().map(|(first, pages)| range(*first, *pages)).collect();
            let most = blocks * BLOCK_BYTES;
            let sliced = slices(&ranges, most);
            let pages = |all: &[AddrRange]| all.iter().flat_map(|r| (r.start..r.end).step_by(PAGE_BYTES as usize)).collect::<Vec<_>>();
            let got = pages(&sliced.concat());
            let want: Vec<u64> = pages(&ranges).into_iter().collect::<BTreeSet<_>>().into_iter().collect();
            prop_assert_eq!(got, want);
            for slice in &sliced {
                prop_assert!(!slice.is_empty());
                prop_assert!(slice.iter().map(|r| r.end - r.start).sum::<u64>() <= most.max(BLOCK_BYTES));
            }
            let edges: BTreeSet<u64> = ranges.iter().flat_map(|r| [r.start, r.end]).collect();
            for piece in sliced.concat() {
                prop_assert!(piece.start % BLOCK_BYTES == 0 || edges.contains(&piece.start));
                prop_assert!(piece.end % BLOCK_BYTES == 0 || edges.contains(&piece.end));
            }
        }
    }
}
