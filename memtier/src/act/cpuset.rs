//! Binding all that is in a cgroup by its `cpuset.cpus`: one write, and who is born later is bound from birth.
//!
//! As with affinities nobody is let onto CPUs that it could not run on before, and nobody is bound who is not meant. What is in
//! the way is told; nothing else is tried instead. `cpuset.mems` is never written: the kernel would move all pages at once by
//! itself, and nothing could be allocated elsewhere when the node is full.

use super::ground::{Coming, Stop, guards};
use super::place::{Placing, Sum, counted};
use super::{Diary, Reins};
use crate::sys::affinity::CpuMask;
use crate::sys::tasks::Task;
use crate::vocab::{CpuId, Group, ProcKey, Step};
use std::io;
use std::path::{Path, PathBuf};

/// The call that a refusal names.
const CALL: &str = "binding the cgroup";
const EFFECTIVE: &str = "cpuset.cpus.effective";

/// What is asked of the kernel about a cgroup and those in it.
pub trait Cgroups {
    /// The directory of a cgroup; none when it is gone or not to be seen.
    fn cgroup(&mut self, group: &Group) -> io::Result<Option<PathBuf>>;
    /// A file of a cgroup, without the line end; none where there is no such file.
    fn cgroup_file(&mut self, path: &Path) -> io::Result<Option<String>>;
    /// The cgroups in one.
    fn cgroups_below(&mut self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Of any process: itself and whom it descends from, the nearest first; and its threads. None when it is gone.
    fn family(&mut self, pid: u32) -> io::Result<Option<(Vec<ProcKey>, Vec<Task>)>>;
    /// Whether a mask that somebody gave a task lies ready while a cpuset allows less, as it does since Linux 6.2.
    fn keeps_masks(&mut self) -> bool;
}

pub(super) struct Cpuset<'a, C, D> {
    pub calls: &'a mut C,
    pub diary: &'a mut D,
    pub reins: &'a Reins,
    pub step: &'a Step,
    pub group: &'a Group,
}

/// A process in the cgroup or below.
struct Inmate {
    proc: ProcKey,
    tasks: Vec<Task>,
    /// CPUs of the cgroup that it is in.
    effective: CpuMask,
}

impl<C: Placing, D: Diary> Cpuset<'_, C, D> {
    pub fn run(mut self, cpus: &[CpuId], sum: &mut Sum) -> Result<(), Stop> {
        guards(self.calls, self.step, Coming::default())?;
        let group = self.group;
        let dir = self.calls.cgroup(group).map_err(fault)?;
        let dir = dir.ok_or_else(|| self.refusal("it is gone, or in no hierarchy of version 2 that is mounted here"))?;
        self.fit(&dir)?;
        let online = self.calls.online().map_err(|e| Stop::Fault("read of the CPUs online", e))?;
        let new = self.room(&dir)?.and(&cpus.iter().copied().collect());
        if new.and(&online).is_empty() {
            return Err(self.refusal("it may run on none of these CPUs"));
        }
        let inmates = self.inmates(&dir)?;
        if !inmates.iter().any(|one| one.proc == self.step.action.proc()) {
            return Err(self.refusal("the process is not in it any more"));
        }
        self.own_masks(&inmates, &new, &online)?;
        if self.reins.stopped() {
            return Err(Stop::Braked);
        }
        if !self.diary.set_cpuset(group.id, &dir, &new).map_err(|e| Stop::Fault("writing cpuset.cpus", e))? {
            return Err(self.refusal("somebody else set its cpuset.cpus after memtier"));
        }
        let within = |task: &&Task| task.cpus.and(&online).within(&new);
        let tasks: Vec<Task> = self.inmates(&dir)?.into_iter().flat_map(|one| one.tasks).collect();
        sum.asked = tasks.len() as u64;
        sum.done = tasks.iter().filter(within).count() as u64;
        sum.whole = sum.done == sum.asked;
        sum.shortfall = counted("tasks", [(sum.asked - sum.done, format!("may still run elsewhere than on {new}"))]);
        Ok(())
    }

    fn refusal(&self, why: &str) -> Stop {
        Stop::Refused { call: CALL, errno: 0, why: format!("{}: {why}", self.group.path) }
    }

    /// Whether the cgroup is one that can be bound at all.
    fn fit(&mut self, dir: &Path) -> Result<(), Stop> {
        let has = |list: Option<String>| list.is_some_and(|list| list.split_ascii_whitespace().any(|one| one == "cpuset"));
        let offered = has(self.file(dir, "cgroup.controllers")?);
        if !offered || self.file(dir, "cpuset.cpus")?.is_none() {
            let parent = dir.parent().unwrap_or(dir).display();
            let how = format!("write +cpuset to {parent}/cgroup.subtree_control, and above it where it lacks there");
            return Err(self.refusal(&format!("the cpuset controller is not on for it: {how} (systemd: AllowedCPUs= of the unit)")));
        }
        match self.file(dir, "cgroup.type")?.as_deref() {
            Some("domain") => {}
            Some(other) => return Err(self.refusal(&format!("its type is {other:?}, and only processes as a whole are bound"))),
            None => return Err(self.refusal("it is the root cgroup")),
        }
        // Kernels without partitions have no such file.
        match self.file(dir, "cpuset.cpus.partition")?.as_deref() {
            None | Some("member") => Ok(()),
            Some(other) => Err(self.refusal(&format!("it is a partition ({other}), whose CPUs are taken from others"))),
        }
    }

    /// CPUs that it had before memtier bound it, as far as what is above it has them.
    fn room(&mut self, dir: &Path) -> Result<CpuMask, Stop> {
        let above = self.cpus(dir.parent().unwrap_or(dir), EFFECTIVE)?.unwrap_or_default();
        let had = match self.diary.cpuset_had(self.group.id) {
            Some(had) => parse(&had).map_err(fault)?,
            None => self.cpus(dir, "cpuset.cpus")?.unwrap_or_default(),
        };
        // One that is empty has what is above it.
        Ok(if had.is_empty() { above } else { above.and(&had) })
    }

    /// All who are in the cgroup and below, if all of them are meant.
    fn inmates(&mut self, dir: &Path) -> Result<Vec<Inmate>, Stop> {
        let all = self.cpus(dir, EFFECTIVE)?.unwrap_or_default();
        let mut open: Vec<(PathBuf, CpuMask)> = vec![(dir.to_owned(), all)];
        let mut inmates = Vec::new();
        while let Some((dir, effective)) = open.pop() {
            let text = match self.file(&dir, "cgroup.procs") {
                Err(Stop::Fault(_, e)) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Err(self.refusal("a cgroup in it is threaded, and only processes as a whole are bound"));
                }
                text => text?.unwrap_or_default(),
            };
            for pid in text.lines().filter_map(|pid| pid.trim().parse().ok()) {
                let Some((line, tasks)) = self.calls.family(pid).map_err(fault)? else { continue };
                if !line.iter().any(|proc| self.group.members.contains(proc)) {
                    return Err(self.refusal(&format!("pid {pid} is in it, and its rule does not select that one")));
                }
                inmates.extend(line.first().map(|&proc| Inmate { proc, tasks, effective: effective.clone() }));
            }
            for below in self.calls.cgroups_below(&dir).map_err(fault)? {
                if self.file(&below, "cpuset.cpus.partition")?.is_some_and(|partition| partition != "member") {
                    return Err(self.refusal("a cgroup in it is a partition"));
                }
                // Where the controller goes no further, it has what is above.
                let effective = self.cpus(&below, EFFECTIVE)?.unwrap_or_else(|| effective.clone());
                open.push((below, effective));
            }
        }
        Ok(inmates)
    }

    /// The kernel gives a task what its own mask and the cpuset have in common, and forgets the mask where that is nothing.
    fn own_masks(&mut self, inmates: &[Inmate], new: &CpuMask, online: &CpuMask) -> Result<(), Stop> {
        let own = |one: &&Task, effective: &CpuMask| one.cpus.and(online) != effective.and(online);
        let own: Vec<&Task> = inmates.iter().flat_map(|one| one.tasks.iter().filter(|task| own(task, &one.effective))).collect();
        let astray = own.iter().filter(|task| task.cpus.and(new).and(online).is_empty()).count() as u64;
        let why = counted("tasks", [(astray, format!("bound by somebody else, to CPUs other than {new}"))]);
        if astray > 0 {
            return Err(self.refusal(&why));
        }
        if !own.is_empty() && !self.calls.keeps_masks() {
            let why = counted("tasks", [(own.len() as u64, "bound by somebody else, and this kernel would forget it".to_owned())]);
            return Err(self.refusal(&why));
        }
        Ok(())
    }

    fn file(&mut self, dir: &Path, name: &str) -> Result<Option<String>, Stop> {
        self.calls.cgroup_file(&dir.join(name)).map_err(|e| Stop::Fault("read of the cgroup's files", e))
    }

    fn cpus(&mut self, dir: &Path, name: &str) -> Result<Option<CpuMask>, Stop> {
        self.file(dir, name)?.map(|text| parse(&text)).transpose().map_err(fault)
    }
}

fn parse(text: &str) -> io::Result<CpuMask> {
    CpuMask::parse(text).ok_or_else(|| io::Error::other(format!("{text:?} is no list of CPUs")))
}

fn fault(e: io::Error) -> Stop {
    Stop::Fault("look at the cgroup", e)
}
