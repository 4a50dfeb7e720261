//! Steps that place a process: bind its threads, move its pages, and the blunt move of all its memory.
//!
//! Cost (docs/hands.md): a bind takes some eight calls a thread and pass, one of a cgroup no more; a page move a look and a move per 2048 pages
//! at most. A move takes the target's mmap_lock for reading only while it collects pages; whoever touches a page under way
//! waits for it.

use super::bind::Bind;
use super::cpuset::{Cgroups, Cpuset};
use super::ground::{Coming, Ground, Stop, end, guards};
use super::moves::Moves;
use super::{Actuator, Diary, Kernel, Reins};
use crate::sys::affinity::CpuMask;
use crate::sys::tasks::Task;
use crate::vocab::{Action, AddrRange, Amount, End, Guard, NodeId, Outcome, Pages, ProcKey, Step, Whom};
use std::collections::BTreeMap;
use std::io;

/// What this hand asks of the kernel beside what all do; all of it about the process that is held.
pub trait Placing: Ground + Cgroups {
    /// The pid is still its own, and it is no zombie.
    fn has_memory(&mut self) -> io::Result<bool>;
    /// Whether it runs a guest of KVM, by whichever program.
    fn runs_guest(&mut self) -> io::Result<bool>;
    /// The nearest first.
    fn ancestors(&mut self) -> io::Result<Vec<ProcKey>>;
    /// Its threads, ascending; none when it is gone.
    fn tasks(&mut self) -> io::Result<Vec<Task>>;
    /// False: it may not run any more where it could when it was looked at; somebody else bound it.
    fn rebind(&mut self, task: &Task, cpus: &CpuMask) -> io::Result<bool>;
    /// CPUs that are online.
    fn online(&mut self) -> io::Result<CpuMask>;
    /// The node of each page, or a negative errno (sys::numa).
    fn nodes(&mut self, pages: &[u64]) -> io::Result<Vec<i32>>;
    /// Moves pages; what the kernel says of each.
    fn move_pages(&mut self, pages: &[u64], to: NodeId) -> io::Result<Vec<i32>>;
    fn migrate(&mut self, from: &[NodeId], to: NodeId) -> io::Result<u64>;
    /// Pages on each node.
    fn by_node(&mut self) -> io::Result<BTreeMap<NodeId, Pages>>;
}

/// What came of a step so far.
#[derive(Debug, Default)]
pub(super) struct Sum {
    /// Threads or pages that are where they should be, and were to be brought there.
    pub done: u64,
    pub asked: u64,
    /// What is not done is known to the last one.
    pub whole: bool,
    pub shortfall: String,
    /// Of a move: what it did not come to.
    pub missed: Vec<AddrRange>,
}

/// Carries out binds, page moves and migrations.
#[derive(Debug)]
pub struct Placer<D: Diary, C: Placing = Kernel> {
    calls: C,
    diary: D,
    reins: Reins,
}

impl<D: Diary> Placer<D> {
    #[must_use]
    pub fn new(diary: D, reins: Reins) -> Self {
        Self::with(Kernel::default(), diary, reins)
    }
}

impl<D: Diary, C: Placing> Placer<D, C> {
    pub const fn with(calls: C, diary: D, reins: Reins) -> Self {
        Self { calls, diary, reins }
    }

    /// One step; its sum is told in any case.
    fn carry_out(&mut self, step: &Step, sum: &mut Sum) -> Result<(), Stop> {
        // A dry run does not even look at the process.
        if step.guards.contains(&Guard::DryRun) {
            return Err(Stop::Skip(Guard::DryRun));
        }
        let proc = step.action.proc();
        if !self.calls.attach(proc).map_err(|e| Stop::Fault("open", e))? {
            return Err(Stop::Skip(Guard::Alive(proc)));
        }
        let Self { calls, diary, reins } = self;
        match &step.action {
            Action::Bind { proc: _, cpus, whom: Whom::Cgroup(group) } => Cpuset { calls, diary, reins, step, group }.run(cpus, sum),
            Action::Bind { proc: _, cpus, whom } => Bind::new(calls, diary, reins, step).run(cpus, whom.tids(), sum),
            Action::MovePages { proc: _, to, ranges } => Moves::new(calls, reins, step).run(*to, ranges, sum),
            Action::Migrate { proc: _, from, to } => migrate(calls, step, from, *to, sum),
            Action::Scan { .. }
            | Action::Arm { .. }
            | Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => Err(Stop::Fault("placing", io::Error::from(io::ErrorKind::Unsupported))),
        }
    }
}

impl<D: Diary, C: Placing> Actuator for Placer<D, C> {
    fn apply(&mut self, step: &Step) -> Outcome {
        let (began, cpu, made) = (self.calls.now(), self.calls.cpu_ns(), self.calls.made());
        let mut sum = Sum::default();
        let end = if began > step.expires {
            End::Expired
        } else {
            let stop = self.carry_out(step, &mut sum).err();
            end(step, stop, sum.done, sum.whole, std::mem::take(&mut sum.shortfall))
        };
        self.calls.release();
        let done = Amount {
            pages: Pages(sum.done),
            asked: Pages(sum.asked),
            syscalls: self.calls.made() - made,
            cpu_ns: self.calls.cpu_ns() - cpu,
        };
        Outcome { step: step.id, began, ended: self.calls.now(), done, end, missed: sum.missed }
    }
}

/// All movable pages at once, in one call that nobody can stop. What moved is what left the one side and came to the other:
/// the kernel tells only how many did not.
fn migrate(calls: &mut impl Placing, step: &Step, from: &[NodeId], to: NodeId, sum: &mut Sum) -> Result<(), Stop> {
    let from: Vec<NodeId> = from.iter().copied().filter(|node| *node != to).collect();
    let proc = step.action.proc();
    let before = by_node(calls, proc)?;
    let on = |seen: &BTreeMap<NodeId, Pages>, nodes: &[NodeId]| -> u64 {
        nodes.iter().filter_map(|node| seen.get(node)).map(|pages| pages.0).sum()
    };
    sum.asked = on(&before, &from);
    guards(calls, step, Coming { node: Pages(sum.asked).bytes(), ..Coming::default() })?;
    let refused = if sum.asked == 0 { None } else { calls.migrate(&from, to).err() };
    // Whatever ended it, what moved, moved.
    let after = by_node(calls, proc)?;
    if after.is_empty() {
        return Err(Stop::Skip(Guard::Alive(proc)));
    }
    let left = sum.asked.saturating_sub(on(&after, &from));
    let came = on(&after, &[to]).saturating_sub(on(&before, &[to]));
    sum.done = left.min(came);
    sum.whole = sum.done == sum.asked;
    let stayed = sum.asked - sum.done;
    if stayed > 0 {
        sum.shortfall = format!("{stayed} pages stayed, or went away (shared, pinned, busy)");
    }
    match refused {
        None => Ok(()),
        Some(e) => Err(refusal("migrate_pages", e, proc, to)),
    }
}

fn by_node(calls: &mut impl Placing, proc: ProcKey) -> Result<BTreeMap<NodeId, Pages>, Stop> {
    calls.by_node().map_err(|e| fault(calls, proc, "read of numa_maps", e))
}

/// A look that failed, or the process is gone: then that is why.
pub(super) fn fault(calls: &mut impl Placing, proc: ProcKey, call: &'static str, e: io::Error) -> Stop {
    match calls.has_memory() {
        Ok(false) => Stop::Skip(Guard::Alive(proc)),
        Ok(true) | Err(_) => Stop::Fault(call, e),
    }
}

/// The call that moves pages by their addresses.
pub(super) const MOVE: &str = "move_pages";

/// What an errno of a move says (sys::numa has the tables).
pub(super) fn refusal(call: &'static str, e: io::Error, proc: ProcKey, to: NodeId) -> Stop {
    let Some(errno) = e.raw_os_error() else { return Stop::Fault(call, e) };
    let why = match errno {
        libc::ESRCH => return Stop::Skip(Guard::Alive(proc)),
        libc::ENODEV => format!("{to} has no memory online, or is gone"),
        // It gave its memory back and is not gone yet.
        libc::EINVAL if call == MOVE => return Stop::Skip(Guard::Alive(proc)),
        libc::EINVAL => format!("{to} is none, has no memory online, or is not ours to use"),
        libc::EACCES => format!("the cpuset of the process forbids {to}"),
        libc::ENOMEM => format!("no room on {to}"),
        _ => return Stop::Fault(call, e),
    };
    Stop::Refused { call, errno, why }
}

/// Numbers of things with words, as far as there are any.
pub(super) fn counted(what: &str, counts: impl IntoIterator<Item = (u64, String)>) -> String {
    let said = |(count, words): (u64, String)| match (count, what) {
        (0, _) => None,
        (1, "tasks") => Some(format!("1 task {words}")),
        (count, what) => Some(format!("{count} {what} {words}")),
    };
    counts.into_iter().filter_map(said).collect::<Vec<_>>().join(", ")
}
