//! The hand that places, on a fake table of system calls: every reason, and what is kept before what is changed.

mod cgroups;
mod threads;

use super::{Actuator as _, Diary, Former, Ground, Placer, Placing, Reins, Whose};
use crate::config;
use crate::sys::affinity::CpuMask;
use crate::sys::numa::UNTOLD;
use crate::sys::pagemap::{Entry, Flags};
use crate::sys::tasks::{Task, TaskKey};
use crate::vocab::{
    Action, AddrRange, BLOCK_BYTES, Bytes, CgroupId, Charge, CpuId, End, Fault, Guard, NodeId, Outcome, PAGE_BYTES, Pages,
    PolicyId, ProcKey, Reason, Rule, Step, StepId, Time, Whom,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const PROC: ProcKey = ProcKey { pid: 7, start: 70 };
const BASE: u64 = 0x7f00_0000_0000;
const TAIL: u64 = 1 << 16;
/// 123 ticks.
const NOW: Time = Time(1_230_000_000);
const TO: NodeId = NodeId(2);

/// A page in memory, and what becomes of it when it is to move.
#[derive(Clone, Copy, Debug)]
struct Page {
    frame: u64,
    /// Where a look finds it, or a negative errno.
    node: i32,
    tail: bool,
    mapped_twice: bool,
    /// Refused when it is named.
    refuses: Option<i32>,
    /// Taken, and found immovable then.
    stuck: bool,
}

type Hook = Box<dyn FnMut(&mut World, &'static str)>;

/// A process and a kernel that obeys, but for what a test sets.
struct World {
    owner: ProcKey,
    parent: Option<ProcKey>,
    runs_guest: bool,
    tasks: BTreeMap<u32, (u64, CpuMask)>,
    online: CpuMask,
    refuses: BTreeMap<u32, i32>,
    pages: BTreeMap<u64, Page>,
    /// Free pages of the nodes that are online.
    free: BTreeMap<NodeId, u64>,
    /// Errno of every move.
    moves_fail: Option<i32>,
    pressure: u32,
    /// Called before every call that changes or lists.
    hook: Option<Hook>,
    kept: BTreeMap<ProcKey, Former>,
    keeps: Vec<Former>,
    diary_full: bool,
    binds: Vec<(u32, String)>,
    /// First pages of each move.
    moves: Vec<Vec<u64>>,
    /// Pages whose node was asked for.
    asked: usize,
    pauses: u64,
    /// Files of cgroups, and who is in them beside the process.
    files: BTreeMap<PathBuf, String>,
    others: BTreeMap<u32, (Vec<ProcKey>, Vec<Task>)>,
    keeps_masks: bool,
    /// What `cpuset.cpus` held, once it is written.
    cpuset: Option<String>,
}

#[derive(Clone)]
struct Fake(Rc<RefCell<World>>);

fn errno(n: i32) -> io::Error {
    io::Error::from_raw_os_error(n)
}
fn mask(text: &str) -> CpuMask {
    CpuMask::parse(text).expect("a list")
}
fn addr(page: u64) -> u64 {
    BASE + page * PAGE_BYTES
}
fn range(first: u64, pages: u64) -> AddrRange {
    AddrRange { start: addr(first), end: addr(first + pages) }
}

impl World {
    fn new() -> Self {
        Self {
            owner: PROC,
            parent: None,
            runs_guest: false,
            tasks: BTreeMap::new(),
            online: mask("0-3"),
            refuses: BTreeMap::new(),
            pages: BTreeMap::new(),
            free: [(NodeId(0), 1 << 20), (TO, 1 << 20)].into(),
            moves_fail: None,
            pressure: 0,
            hook: None,
            kept: BTreeMap::new(),
            keeps: Vec::new(),
            diary_full: false,
            binds: Vec::new(),
            moves: Vec::new(),
            asked: 0,
            pauses: 0,
            files: BTreeMap::new(),
            others: BTreeMap::new(),
            keeps_masks: true,
            cpuset: None,
        }
    }
    /// Threads from 7 on with these masks.
    fn threads(masks: &[&str]) -> Self {
        let tasks = masks.iter().zip(7..).map(|(cpus, tid)| (tid, (u64::from(tid) * 10, mask(cpus)))).collect();
        Self { tasks, ..Self::new() }
    }
    /// Base pages on node 0, on frames that are not consecutive.
    fn of(pages: u64) -> Self {
        let page = |page| Page { frame: 1000 + 2 * page, node: 0, tail: false, mapped_twice: false, refuses: None, stuck: false };
        Self { pages: (0..pages).map(|n| (addr(n), page(n))).collect(), ..Self::new() }
    }
    /// A folio of so many pages.
    fn folio(&mut self, first: u64, pages: u64) {
        for n in 0..pages {
            let frame = (1 << 20) + first + n;
            self.pages.insert(addr(first + n), Page { frame, tail: n > 0, ..Self::of(1).pages[&BASE] });
        }
    }
    fn page(&mut self, page: u64) -> &mut Page {
        self.pages.get_mut(&addr(page)).expect("there")
    }
    fn on(&self, node: NodeId) -> u64 {
        self.pages.values().filter(|page| page.node == i32::from(node.0)).count() as u64
    }
    /// One batch of a move: whether all of it moved.
    fn batch(&mut self, firsts: &[u64], to: NodeId) -> io::Result<bool> {
        let mut all = true;
        for &first in firsts {
            if self.pages[&first].stuck {
                all = false;
                continue;
            }
            let mut at = first;
            loop {
                let free = self.free.get_mut(&to).expect("online");
                *free = free.checked_sub(1).ok_or(errno(libc::ENOMEM))?;
                self.pages.get_mut(&at).expect("there").node = to.0.into();
                at += PAGE_BYTES;
                if !self.pages.get(&at).is_some_and(|page| page.tail) {
                    break;
                }
            }
        }
        Ok(all)
    }
    /// As mm/migrate.c does it.
    fn do_pages_move(&mut self, named: &[u64], to: NodeId) -> io::Result<Vec<i32>> {
        let (mut status, mut start) = (vec![UNTOLD; named.len()], 0);
        for i in 0..=named.len() {
            let refused = named.get(i).map(|at| self.pages.get(at).map_or(Some(-libc::ENOENT), |p| p.refuses.map(|e| -e)));
            if refused == Some(None) {
                continue;
            }
            if let Some(Some(refused)) = refused {
                status[i] = refused;
            }
            if !self.batch(&named[start..i], to)? {
                break;
            }
            status[start..i].fill(to.0.into());
            start = i + 1;
        }
        Ok(status)
    }
}

impl Fake {
    fn hook(&self, call: &'static str) {
        let hook = self.0.borrow_mut().hook.take();
        if let Some(mut hook) = hook {
            let mut world = self.0.borrow_mut();
            hook(&mut world, call);
            world.hook.get_or_insert(hook);
        }
    }
    fn there(&self) -> io::Result<()> {
        if self.0.borrow().owner == PROC { Ok(()) } else { Err(errno(libc::ESRCH)) }
    }
}

impl Ground for Fake {
    fn attach(&mut self, proc: ProcKey) -> io::Result<bool> {
        Ok(self.0.borrow().owner == proc)
    }
    fn release(&mut self) {}
    fn entries(&mut self, range: AddrRange, out: &mut Vec<Entry>) -> io::Result<()> {
        self.there()?;
        let world = self.0.borrow();
        let entry = |at| world.pages.get(&at).map_or(0, |page| 1 << 63 | u64::from(!page.mapped_twice) << 56 | page.frame);
        out.extend((range.start..range.end).step_by(PAGE_BYTES as usize).map(|at| Entry(entry(at))));
        Ok(())
    }
    fn flags(&mut self, frame: u64, count: usize) -> io::Result<Vec<Flags>> {
        let world = self.0.borrow();
        let tails: BTreeSet<u64> = world.pages.values().filter(|page| page.tail).map(|page| page.frame).collect();
        Ok((frame..frame + count as u64).map(|frame| Flags(if tails.contains(&frame) { TAIL } else { 0 })).collect())
    }
    fn swap(&mut self) -> io::Result<(Bytes, Bytes)> {
        Ok((Bytes::ZERO, Bytes::ZERO))
    }
    fn pressure(&mut self) -> io::Result<u32> {
        Ok(self.0.borrow().pressure)
    }
    fn node_free(&mut self, node: NodeId) -> io::Result<Bytes> {
        self.0.borrow().free.get(&node).map(|pages| Pages(*pages).bytes()).ok_or(errno(libc::ENOENT))
    }
    fn now(&self) -> Time {
        NOW
    }
    fn cpu_ns(&self) -> u64 {
        0
    }
    fn made(&self) -> u64 {
        0
    }
    fn pause(&mut self, _: Duration) {
        self.0.borrow_mut().pauses += 1;
    }
}

impl Placing for Fake {
    fn has_memory(&mut self) -> io::Result<bool> {
        Ok(self.0.borrow().owner == PROC)
    }
    fn runs_guest(&mut self) -> io::Result<bool> {
        Ok(self.0.borrow().runs_guest)
    }
    fn ancestors(&mut self) -> io::Result<Vec<ProcKey>> {
        Ok(self.0.borrow().parent.into_iter().collect())
    }
    fn tasks(&mut self) -> io::Result<Vec<Task>> {
        self.hook("tasks");
        let world = self.0.borrow();
        let task =
            |(&tid, (start, cpus)): (&u32, &(u64, CpuMask))| Task { key: TaskKey { tid, start: *start }, cpus: cpus.clone() };
        Ok(if world.owner == PROC { world.tasks.iter().map(task).collect() } else { Vec::new() })
    }
    fn rebind(&mut self, seen: &Task, cpus: &CpuMask) -> io::Result<bool> {
        self.hook("bind");
        let mut world = self.0.borrow_mut();
        let task = seen.key;
        if let Some(refuses) = world.refuses.get(&task.tid) {
            return Err(errno(*refuses));
        }
        let before = world.tasks.get(&task.tid).filter(|(start, _)| *start == task.start).ok_or(errno(libc::ESRCH))?.1.clone();
        if before != seen.cpus {
            return Ok(false);
        }
        let kept = &world.kept[&PROC];
        assert!(kept.tasks.contains_key(&task) && kept.gave.contains(cpus), "{task} is changed before it is kept");
        assert!(kept.tasks[&task] == before || kept.gave.contains(&before), "{task} had {before}");
        world.tasks.insert(task.tid, (task.start, cpus.clone()));
        world.binds.push((task.tid, cpus.to_string()));
        Ok(true)
    }
    fn online(&mut self) -> io::Result<CpuMask> {
        Ok(self.0.borrow().online.clone())
    }
    fn nodes(&mut self, pages: &[u64]) -> io::Result<Vec<i32>> {
        self.there()?;
        let mut world = self.0.borrow_mut();
        world.asked += pages.len();
        Ok(pages.iter().map(|at| world.pages.get(at).map_or(-libc::ENOENT, |page| page.node)).collect())
    }
    fn move_pages(&mut self, pages: &[u64], to: NodeId) -> io::Result<Vec<i32>> {
        self.hook("move");
        self.there()?;
        let mut world = self.0.borrow_mut();
        world.moves.push(pages.to_vec());
        match world.moves_fail {
            Some(e) => Err(errno(e)),
            None if !world.free.contains_key(&to) => Err(errno(libc::ENODEV)),
            None => world.do_pages_move(pages, to),
        }
    }
    fn migrate(&mut self, from: &[NodeId], to: NodeId) -> io::Result<u64> {
        self.hook("migrate");
        self.there()?;
        let mut world = self.0.borrow_mut();
        let heads = |(at, page): (&u64, &Page)| {
            let named = !page.tail && page.refuses.is_none() && from.iter().any(|node| i32::from(node.0) == page.node);
            named.then_some(*at)
        };
        let firsts: Vec<u64> = world.pages.iter().filter_map(heads).collect();
        match world.moves_fail {
            Some(e) => Err(errno(e)),
            None => world.batch(&firsts, to).map(|all| u64::from(!all)),
        }
    }
    fn by_node(&mut self) -> io::Result<BTreeMap<NodeId, Pages>> {
        self.there()?;
        let world = self.0.borrow();
        let mut sums = BTreeMap::<NodeId, Pages>::new();
        world.pages.values().for_each(|page| sums.entry(NodeId(page.node as u16)).or_default().0 += 1);
        Ok(sums)
    }
}

impl Diary for Fake {
    fn former(&mut self, proc: ProcKey, ancestors: &[ProcKey]) -> Former {
        let world = self.0.borrow();
        let of = |proc: ProcKey| world.kept.get(&proc).cloned();
        let inherited = || Some(Former { tasks: BTreeMap::new(), ..of(*ancestors.first()?)? });
        of(proc).or_else(inherited).unwrap_or_default()
    }
    fn keep(&mut self, proc: ProcKey, more: Former, change: &mut dyn FnMut()) -> io::Result<()> {
        {
            let mut world = self.0.borrow_mut();
            if world.diary_full {
                return Err(errno(libc::ENOSPC));
            }
            world.keeps.push(more.clone());
            world.kept.entry(proc).or_default().add(more);
        }
        change();
        Ok(())
    }
    fn cpuset_had(&mut self, _: CgroupId) -> Option<String> {
        self.0.borrow().cpuset.clone()
    }
    fn set_cpuset(&mut self, cgroup: CgroupId, dir: &Path, cpus: &CpuMask) -> io::Result<bool> {
        cgroups::set(self, cgroup, dir, cpus)
    }
}

fn step(action: Action, guards: Vec<Guard>) -> Step {
    Step {
        id: StepId { decision: 3, index: 1 },
        action,
        guards,
        expires: Time::MAX,
        charge: Charge::default(),
        by: PolicyId::Numa,
        reason: Reason { rule: Rule::AutocoldIdle, evidence: Vec::new(), note: String::new() },
    }
}

fn apply(world: World, step: &Step) -> (Outcome, World) {
    let fake = Fake(Rc::new(RefCell::new(world)));
    let mut placer = Placer::with(fake.clone(), fake.clone(), Reins::new(&config::Arm::default()));
    let outcome = placer.apply(step);
    drop(placer);
    (outcome, Rc::into_inner(fake.0).expect("the hand is gone").into_inner())
}

fn bind(world: World, cpus: &str) -> (Outcome, World) {
    bind_some(world, cpus, &[])
}

fn bind_some(world: World, cpus: &str, tids: &[u32]) -> (Outcome, World) {
    let cpus: Vec<CpuId> = mask(cpus).cpus().collect();
    apply(world, &step(Action::Bind { proc: PROC, cpus, whom: Whom::of(tids) }, vec![Guard::Alive(PROC)]))
}

fn moves(ranges: Vec<AddrRange>) -> Action {
    Action::MovePages { proc: PROC, to: TO, ranges }
}

fn move_all(world: World, ranges: Vec<AddrRange>) -> (Outcome, World) {
    apply(world, &step(moves(ranges), vec![Guard::Alive(PROC)]))
}

/// How many of how many, and how it ended.
fn told(outcome: &Outcome) -> (u64, u64, String) {
    (outcome.done.pages.0, outcome.done.asked.0, outcome.end.to_string())
}

fn said(done: u64, asked: u64, end: &str) -> (u64, u64, String) {
    (done, asked, end.to_owned())
}

#[test]
fn a_dry_run_and_a_step_for_another_hand() {
    let action = Action::Bind { proc: PROC, cpus: vec![CpuId(0)], whom: Whom::All };
    let (outcome, world) = apply(World::threads(&["0-3"]), &step(action, vec![Guard::DryRun]));
    assert_eq!((outcome.end, world.binds.len()), (End::Skipped(Guard::DryRun), 0));
    let (outcome, _) = apply(World::new(), &step(Action::Arm { proc: PROC, ranges: vec![] }, vec![]));
    assert!(matches!(outcome.end, End::Failed(_)), "{}", outcome.end);
    let mut late = step(moves(vec![range(0, 1)]), vec![]);
    late.expires = Time::ZERO;
    assert_eq!(apply(World::of(1), &late).0.end, End::Expired);
}

#[test]
fn pages_move_and_a_folio_is_named_once() {
    let mut world = World::of(40);
    world.folio(512, 512);
    world.folio(1024, 16);
    let (outcome, world) = move_all(world, vec![range(0, 2048)]);
    assert_eq!(told(&outcome), said(568, 568, "done"));
    assert_eq!((world.on(TO), world.moves.iter().map(Vec::len).sum::<usize>()), (568, 42));
    assert_eq!(world.asked, 42, "before the move only");
    assert!(world.moves.iter().any(|named| named.contains(&addr(512))));
    let (outcome, world) = move_all(World { moves: Vec::new(), ..world }, vec![range(0, 2048)]);
    assert_eq!((told(&outcome), world.moves.len()), (said(0, 0, "done"), 0));
}

#[test]
fn every_reason_is_told() {
    let mut world = World::of(20);
    world.page(1).stuck = true;
    world.page(2).refuses = Some(libc::EBUSY);
    world.page(3).mapped_twice = true;
    world.page(4).refuses = Some(libc::EACCES);
    world.page(5).node = -libc::ENOENT;
    world.page(6).node = -libc::EFAULT;
    world.page(7).node = TO.0.into();
    world.pages.remove(&addr(8));
    world.page(9).refuses = Some(libc::EFAULT);
    let (outcome, world) = move_all(world, vec![range(0, 20)]);
    let why = "partly done: 1 pages were on node 2 already, 1 pages were not in memory, \
               1 pages wait for a NUMA hint fault, and this kernel neither tells where they are nor moves them, \
               2 pages are mapped more than once, 2 pages stayed (pinned or busy), \
               2 pages are none to be moved (unmapped, or the zero page)";
    assert_eq!(told(&outcome), said(11, 16, why));
    assert_eq!(world.on(TO), 12);
    // Before the move all that are present; after it the batch that was broken off (0 and 1), and those refused (2, 4 and 9).
    assert_eq!(world.asked, 19 + 5);
}

/// The kernel breaks a call off at the first batch that does not move whole: what comes behind is still asked, once.
#[test]
fn a_broken_off_call_goes_on_behind_what_was_tried() {
    let mut world = World::of(12);
    world.page(2).stuck = true;
    world.page(5).refuses = Some(libc::EBUSY);
    world.page(8).stuck = true;
    let (outcome, world) = move_all(world, vec![range(0, 12)]);
    assert_eq!(told(&outcome), said(9, 12, "partly done: 3 pages stayed (pinned or busy)"));
    assert_eq!(world.moves, [(0..12).map(addr).collect::<Vec<_>>(), (6..12).map(addr).collect()]);
}

#[test]
fn a_node_without_room() {
    let mut world = World::of(20);
    world.free.insert(TO, 5);
    let (outcome, _) = move_all(world, vec![range(0, 20)]);
    let why = "partly done: move_pages on pid 7: no room on node 2 (errno 12); before that 15 pages stayed: no room on node 2";
    assert_eq!(told(&outcome), said(5, 20, why));
    // The guard sees it coming.
    let guard = Guard::NodeFree { node: TO, least: Pages(10).bytes() };
    for (free, end) in [(29, End::Skipped(guard.clone())), (30, End::Done)] {
        let mut world = World::of(20);
        world.free.insert(TO, free);
        let (outcome, _) = apply(world, &step(moves(vec![range(0, 20)]), vec![guard.clone()]));
        assert_eq!(outcome.end, end, "{free}");
    }
}

#[test]
fn a_node_that_is_gone_or_forbidden_and_a_process_that_is() {
    for (errno, why) in [
        (libc::ENODEV, "node 2 has no memory online, or is gone"),
        (libc::EACCES, "the cpuset of the process forbids node 2"),
        (libc::EPERM, "Operation not permitted"),
    ] {
        let mut world = World::of(4);
        world.moves_fail = Some(errno);
        let (outcome, world) = move_all(world, vec![range(0, 4)]);
        let fault = Fault { call: "move_pages".into(), on: "pid 7".into(), errno, message: why.into() };
        assert_eq!((outcome.end, world.moves.len()), (End::Failed(fault), 1));
    }
    let mut world = World::of(4);
    world.free.remove(&TO);
    assert!(matches!(move_all(world, vec![range(0, 4)]).0.end, End::Failed(Fault { errno: libc::ENODEV, .. })));
    // It is gone; or it is about to be, and has given its memory back.
    for errno in [libc::ESRCH, libc::EINVAL] {
        let mut world = World::of(4);
        world.moves_fail = Some(errno);
        assert_eq!(move_all(world, vec![range(0, 4)]).0.end, End::Skipped(Guard::Alive(PROC)));
    }
    let mut world = World::of(4);
    world.hook = Some(Box::new(|world, _| world.owner.start = 71));
    assert_eq!(move_all(world, vec![range(0, 4)]).0.end, End::Skipped(Guard::Alive(PROC)));
    let mut world = World::of(4);
    world.moves_fail = Some(libc::EINVAL);
    world.hook = Some(Box::new(|world, _| world.pages.clear()));
    let migrate = Action::Migrate { proc: PROC, from: vec![NodeId(0)], to: TO };
    assert_eq!(apply(world, &step(migrate, vec![])).0.end, End::Skipped(Guard::Alive(PROC)));
}

#[test]
fn between_slices_guards_are_looked_at_again_and_a_death_is_told() {
    let slice = crate::plan::calls::MOVE_SLICE.0 / PAGE_BYTES;
    let calm = Guard::Calm { most_avg10: 500 };
    let mut world = World::of(2 * slice);
    world.hook = Some(Box::new(|world, _| world.pressure = 501));
    let (outcome, world) = apply(world, &step(moves(vec![range(0, 2 * slice)]), vec![calm]));
    let why = format!("partly done: stopped: memory pressure avg10 is over 5.00%; before that {slice} pages were not tried");
    assert_eq!(told(&outcome), (slice, 2 * slice, why));
    assert_eq!(outcome.missed, [range(slice, slice)]);
    assert_eq!((world.on(TO), world.pauses), (slice, world.moves.len() as u64));

    let mut world = World::of(2 * slice);
    world.hook = Some(Box::new(|world, _| {
        if world.moves.len() == 1 {
            world.owner.start = 71;
        }
    }));
    let (outcome, _) = move_all(world, vec![range(0, 2 * slice)]);
    assert!(outcome.end.to_string().starts_with("partly done: stopped: pid 7 is gone"), "{}", outcome.end);
    assert!(outcome.done.pages > Pages::ZERO && outcome.done.pages.0 < slice);
    assert_eq!(outcome.missed, [range(outcome.done.pages.0, slice - outcome.done.pages.0), range(slice, slice)]);
}

#[test]
fn a_guest_is_looked_after_each_2_mib() {
    let block = BLOCK_BYTES / PAGE_BYTES;
    let calm = Guard::Calm { most_avg10: 500 };
    let mut world = World { runs_guest: true, ..World::of(2 * block) };
    world.hook = Some(Box::new(|world, _| world.pressure = 501));
    let (outcome, world) = apply(world, &step(moves(vec![range(0, 2 * block)]), vec![calm]));
    assert_eq!((world.on(TO), outcome.missed), (block, vec![range(block, block)]));
}

#[test]
fn no_huge_page_is_cut() {
    let mut world = World::of(0);
    world.folio(0, 512);
    world.folio(512, 512);
    let (outcome, world) = move_all(world, vec![range(100, 700)]);
    assert_eq!(told(&outcome), said(0, 0, "partly done: 700 pages belong to huge pages that reach beyond the range"));
    assert_eq!(world.moves.len(), 0);
}

#[test]
fn migration_is_counted_by_where_pages_are() {
    let migrate = |world| {
        let action = Action::Migrate { proc: PROC, from: vec![NodeId(0), TO], to: TO };
        apply(world, &step(action, vec![Guard::NodeFree { node: TO, least: Bytes::ZERO }]))
    };
    let (outcome, world) = migrate(World::of(64));
    assert_eq!((told(&outcome), world.on(TO)), (said(64, 64, "done"), 64));
    assert_eq!(told(&migrate(world).0), said(0, 0, "done"));
    let mut world = World::of(64);
    world.page(3).refuses = Some(libc::EACCES);
    world.page(4).stuck = true;
    let why = "partly done: 2 pages stayed, or went away (shared, pinned, busy)";
    assert_eq!(told(&migrate(world).0), said(62, 64, why));
    let mut world = World::of(64);
    world.moves_fail = Some(libc::EINVAL);
    let (outcome, _) = migrate(world);
    let why = "failed: migrate_pages on pid 7: node 2 is none, has no memory online, or is not ours to use (errno 22)";
    assert_eq!(told(&outcome), said(0, 64, why));
    let mut world = World::of(64);
    world.free.insert(TO, 10);
    let (outcome, _) = apply(world, &step(Action::Migrate { proc: PROC, from: vec![NodeId(0)], to: TO }, vec![]));
    assert_eq!(outcome.done.pages, Pages(10));
    assert!(outcome.end.to_string().contains("no room on node 2"), "{}", outcome.end);
}
