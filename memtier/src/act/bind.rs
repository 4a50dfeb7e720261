//! Binding all threads of a process to CPUs, those too that are born meanwhile: a child has the mask of whoever made it, so
//! that once all are bound all later ones are. Two looks in a row that find nobody unbound end it. Or some of its threads,
//! by their numbers; the others only tell what is usual.
//!
//! A thread is never let onto CPUs that it could not run on before: it gets those of the wanted ones that it had. Thereby
//! the kernel takes every mask as it is given (a cpuset cuts nothing off), and what is in the log is what is set.

use super::ground::{Coming, Stop, guards};
use super::place::{Placing, Sum, counted};
use super::{Diary, Former, Reins, Whose};
use crate::sys::affinity::CpuMask;
use crate::sys::tasks::{Task, TaskKey};
use crate::vocab::{CpuId, Guard, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Passes that find threads to bind; more than this and they are born faster than they are bound.
const PASSES_MOST: u32 = 64;
/// Threads changed at a time, while nobody else gets at the log: half a millisecond.
const BATCH: usize = 128;

pub(super) struct Bind<'a, C, D> {
    calls: &'a mut C,
    diary: &'a mut D,
    reins: &'a Reins,
    step: &'a Step,
    former: Former,
    /// CPUs that are online.
    online: CpuMask,
    /// Threads that the kernel refused to bind, and its errno; they are not asked again.
    refused: BTreeMap<TaskKey, i32>,
}

/// What one look at the threads says.
#[derive(Default)]
struct Look {
    /// They run on wanted CPUs only.
    placed: u64,
    /// Somebody else bound them.
    theirs: u64,
    /// They may run on none of the wanted CPUs.
    nowhere: u64,
    refused: BTreeMap<i32, u64>,
    /// To be bound: to what, and what they had.
    unbound: Vec<Unbound>,
}

struct Unbound {
    task: Task,
    to: CpuMask,
    former: CpuMask,
}

impl<'a, C: Placing, D: Diary> Bind<'a, C, D> {
    pub fn new(calls: &'a mut C, diary: &'a mut D, reins: &'a Reins, step: &'a Step) -> Self {
        Self { calls, diary, reins, step, former: Former::default(), online: CpuMask::default(), refused: BTreeMap::new() }
    }

    /// All threads, or those of `tids` (ascending) where it names any.
    pub fn run(mut self, cpus: &[CpuId], tids: &[u32], sum: &mut Sum) -> Result<(), Stop> {
        let wanted: CpuMask = cpus.iter().copied().collect();
        let proc = self.step.action.proc();
        let since = Former::ticks(self.calls.now());
        let ancestors = self.calls.ancestors().map_err(|e| Stop::Fault("look at the ancestors", e))?;
        self.online = self.calls.online().map_err(|e| Stop::Fault("read of the CPUs online", e))?;
        self.former = self.diary.former(proc, &ancestors);
        if self.former.gave.is_empty() {
            (self.former.since, self.former.online) = (since, self.online.clone());
        }
        let (mut quiet, mut passes) = (0, 0);
        while quiet < 2 {
            self.proceed()?;
            let tasks = self.calls.tasks().map_err(|e| Stop::Fault("look at the threads", e))?;
            if tasks.is_empty() {
                return Err(Stop::Skip(Guard::Alive(proc)));
            }
            let mut look = self.look(&tasks, &wanted, tids);
            look.tell(sum);
            if look.unbound.is_empty() {
                quiet += 1;
                continue;
            }
            (quiet, passes) = (0, passes + 1);
            if passes > PASSES_MOST {
                return Ok(());
            }
            self.change(&mut look, sum)?;
        }
        Ok(())
    }

    fn proceed(&mut self) -> Result<(), Stop> {
        if self.reins.stopped() {
            return Err(Stop::Braked);
        }
        guards(self.calls, self.step, Coming::default())
    }

    /// Sorts the threads that are meant by what is to be done with them. What is usual the others tell too.
    fn look(&mut self, tasks: &[Task], wanted: &CpuMask, tids: &[u32]) -> Look {
        let whose: Vec<Whose> = tasks.iter().map(|task| self.former.whose(task, &self.online)).collect();
        let had = |(task, whose): (&Task, &Whose)| match whose {
            Whose::Own => Some(task.cpus.clone()),
            Whose::Ours(former) => Some(former.clone()),
            Whose::Theirs => None,
        };
        let had: Vec<Option<CpuMask>> = tasks.iter().zip(&whose).map(had).collect();
        let usual = usual(had.iter().flatten());
        if self.former.gave.is_empty() {
            // The main thread is the first.
            self.former.usual = had.first().cloned().flatten().filter(|had| usual.within(had)).unwrap_or_else(|| usual.clone());
            // Born in the tick in which this began, and not bound by us: else it would pass for born bound.
            let young = tasks.iter().filter(|task| task.key.start >= self.former.since);
            self.former.tasks = young.map(|task| (task.key, task.cpus.clone())).collect();
        }
        let mut look = Look::default();
        let meant = |task: &Task| tids.is_empty() || tids.binary_search(&task.key.tid).is_ok();
        for ((task, whose), had) in tasks.iter().zip(whose).zip(had).filter(|((task, _), _)| meant(task)) {
            let to = had.as_ref().map(|had| had.and(wanted)).unwrap_or_default();
            let runs = task.cpus.and(&self.online);
            let placed = match whose {
                // What we gave it for another bind may be less than it gets by this one.
                Whose::Ours(_) => runs == to.and(&self.online),
                Whose::Own | Whose::Theirs => !runs.is_empty() && runs.within(wanted),
            };
            if placed {
                look.placed += 1;
                continue;
            }
            // Somebody bound whoever may not run on all of what most have.
            let Some(had) = had.filter(|had| usual.within(had)) else {
                look.theirs += 1;
                continue;
            };
            match self.refused.get(&task.key) {
                Some(errno) => *look.refused.entry(*errno).or_default() += 1,
                None if to.and(&self.online).is_empty() => look.nowhere += 1,
                None => look.unbound.push(Unbound { task: task.clone(), to, former: had }),
            }
        }
        look
    }

    /// Changes what the log knows first: with the first batch it learns of all of them, so that a pass waits for the medium
    /// once. Later batches name theirs again: what was undone meanwhile is not in it any more.
    fn change(&mut self, look: &mut Look, sum: &mut Sum) -> Result<(), Stop> {
        let Former { since, online, usual, gave: _, tasks: young } = self.former.clone();
        let masks = look.unbound.iter().map(|unbound| unbound.to.clone());
        let gave: BTreeSet<CpuMask> = masks.chain(self.former.gave.iter().cloned()).collect();
        let more = |unbound: &[Unbound]| {
            let tasks = unbound.iter().map(|unbound| (unbound.task.key, unbound.former.clone())).collect();
            Former { since, online: online.clone(), usual: usual.clone(), gave: gave.clone(), tasks }
        };
        let mut keep = more(&look.unbound);
        if self.former.gave.is_empty() {
            keep.tasks.extend(young);
        }
        self.former.add(keep.clone());
        while !look.unbound.is_empty() {
            if self.reins.stopped() {
                return Err(Stop::Braked);
            }
            let batch: Vec<Unbound> = look.unbound.drain(..look.unbound.len().min(BATCH)).collect();
            let calls = &mut *self.calls;
            let mut tried = Vec::new();
            let mut change =
                || tried.extend(batch.iter().map(|unbound| (unbound.task.key, calls.rebind(&unbound.task, &unbound.to))));
            let kept = self.diary.keep(self.step.action.proc(), std::mem::take(&mut keep), &mut change);
            kept.map_err(|e| Stop::Fault("keeping what the threads had", e))?;
            for (task, bound) in tried {
                match bound.map_err(|e| e.raw_os_error().unwrap_or(0)) {
                    Ok(true) => look.placed += 1,
                    // Somebody bound it since we looked, or it ended: the next look tells.
                    Ok(false) | Err(libc::ESRCH) => {}
                    Err(errno) => {
                        self.refused.insert(task, errno);
                        *look.refused.entry(errno).or_default() += 1;
                    }
                }
            }
            look.tell(sum);
            keep = more(&look.unbound[..look.unbound.len().min(BATCH)]);
        }
        Ok(())
    }
}

impl Look {
    fn tell(&self, sum: &mut Sum) {
        let Self { placed, theirs, nowhere, refused, unbound } = self;
        let unbound = unbound.len() as u64;
        sum.done = *placed;
        sum.asked = placed + theirs + nowhere + refused.values().sum::<u64>() + unbound;
        sum.whole = sum.done == sum.asked;
        let own = [
            (*theirs, "left alone: bound by somebody else".to_owned()),
            (*nowhere, "may run on none of these CPUs".to_owned()),
            (unbound, "not bound yet when it ended".to_owned()),
        ];
        let refused = refused.iter().map(|(errno, count)| (*count, format!("refused: {}", refusal(*errno))));
        sum.shortfall = counted("tasks", own.into_iter().chain(refused));
    }
}

/// What most have; of two that as many have, the one with more CPUs.
fn usual<'a>(masks: impl Iterator<Item = &'a CpuMask>) -> CpuMask {
    let mut counts: BTreeMap<&CpuMask, usize> = BTreeMap::new();
    masks.for_each(|mask| *counts.entry(mask).or_default() += 1);
    let most = counts.into_iter().max_by_key(|(mask, count)| (*count, mask.cpus().count()));
    most.map(|(mask, _)| mask.clone()).unwrap_or_default()
}

/// What an errno of sched_setaffinity says (sys::affinity has the table).
fn refusal(errno: i32) -> String {
    match errno {
        libc::EINVAL => "its cpuset forbids these CPUs, or it is a kernel thread tied to its own".into(),
        libc::EPERM => "no right to bind it".into(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}
