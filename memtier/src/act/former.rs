//! Where the tasks of a process could run before memtier bound them, and whose doing it is where they may run now.
//!
//! Deliberately absent: system calls, and the log that keeps this (daemon/footprint).

use crate::sys::affinity::CpuMask;
use crate::sys::tasks::{Task, TaskKey};
use crate::vocab::{CgroupId, ProcKey, Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// What is kept of a process that is bound; also what a bind adds to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// When the first bind began, in the unit of start times: whoever started later was born bound.
    pub since: u64,
    /// CPUs that were online then. A task that could run on all of them was bound to none.
    pub online: CpuMask,
    /// What a task gets back that was born bound: the kernel tells nobody which thread made which.
    pub usual: CpuMask,
    /// All masks that we gave.
    pub gave: BTreeSet<CpuMask>,
    /// What each task had that we bound.
    #[serde(with = "by_mask")]
    pub tasks: BTreeMap<TaskKey, CpuMask>,
}

/// By whose doing a task may run where it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Not ours: it has what it had, or was never bound by us.
    Own,
    /// Ours; this is what it had, or what its like had before it was born.
    Ours(CpuMask),
    /// It was ours, and somebody changed it since.
    Theirs,
}

impl Former {
    /// A start time as /proc tells it.
    #[must_use]
    pub const fn ticks(at: Time) -> u64 {
        at.0 / Span::from_millis(10).0
    }

    /// `now` are the CPUs online: a cpuset takes from a mask those that go offline, so that these tell nothing.
    #[must_use]
    pub fn whose(&self, task: &Task, now: &CpuMask) -> Whose {
        let seen = task.cpus.and(now);
        let is = |mask: &CpuMask| mask.and(now) == seen;
        let gave = self.gave.iter().any(is);
        match self.tasks.get(&task.key) {
            Some(former) if is(former) => Whose::Own,
            Some(former) if gave => Whose::Ours(former.clone()),
            Some(_) => Whose::Theirs,
            None if gave && task.key.start >= self.since => Whose::Ours(self.usual.clone()),
            None => Whose::Own,
        }
    }

    /// Takes in what another bind adds; what was known first stays.
    pub fn add(&mut self, more: Self) {
        let Self { since, online, usual, gave, tasks } = more;
        if self.gave.is_empty() {
            (self.since, self.online, self.usual) = (since, online, usual);
        }
        self.gave.extend(gave);
        for (task, former) in tasks {
            self.tasks.entry(task).or_insert(former);
        }
    }

    /// The same for one that descends from it, and was born bound.
    #[must_use]
    pub fn heir(&self) -> Self {
        let Self { since, online, usual, gave, tasks: _ } = self;
        Self { since: *since, online: online.clone(), usual: usual.clone(), gave: gave.clone(), tasks: BTreeMap::new() }
    }

    /// What to write to give a task back `former`: one that was bound to nothing may also run on CPUs that come later.
    #[must_use]
    pub fn to_write(&self, former: &CpuMask) -> CpuMask {
        if self.online.within(former) { CpuMask::every() } else { former.clone() }
    }
}

/// Keeps former affinities and cpusets where they outlive the daemon.
pub trait Diary {
    /// What is kept of a process. One that was born bound has what the one had that it descends from; `ancestors` are its own,
    /// the nearest first.
    fn former(&mut self, proc: ProcKey, ancestors: &[ProcKey]) -> Former;
    /// Adds to what is kept of a process and waits until it is on the medium; then calls `change`, and lets nobody undo
    /// anything meanwhile. On an error nothing was changed.
    fn keep(&mut self, proc: ProcKey, more: Former, change: &mut dyn FnMut()) -> io::Result<()>;
    /// What `cpuset.cpus` of a cgroup held before we wrote it; none where we did not, or somebody else did since.
    fn cpuset_had(&mut self, cgroup: CgroupId) -> Option<String>;
    /// Writes `cpuset.cpus` in the directory of a cgroup, once what it holds is on the medium. False: somebody else set it since
    /// we did, and it stays.
    fn set_cpuset(&mut self, cgroup: CgroupId, dir: &Path, cpus: &CpuMask) -> io::Result<bool>;
}

/// Tasks under the mask they had: most have the same.
mod by_mask {
    use super::{BTreeMap, CpuMask, TaskKey};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Grouped = BTreeMap<CpuMask, Vec<TaskKey>>;

    pub fn serialize<S: Serializer>(tasks: &BTreeMap<TaskKey, CpuMask>, s: S) -> Result<S::Ok, S::Error> {
        let mut grouped = Grouped::new();
        for (task, mask) in tasks {
            grouped.entry(mask.clone()).or_default().push(*task);
        }
        grouped.serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<TaskKey, CpuMask>, D::Error> {
        let grouped = Grouped::deserialize(d)?;
        Ok(grouped.into_iter().flat_map(|(mask, tasks)| tasks.into_iter().map(move |task| (task, mask.clone()))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(text: &str) -> CpuMask {
        CpuMask::parse(text).expect("a list")
    }

    fn task(tid: u32, start: u64, cpus: &str) -> Task {
        Task { key: TaskKey { tid, start }, cpus: mask(cpus) }
    }

    fn former() -> Former {
        Former {
            since: 100,
            online: mask("0-3"),
            usual: mask("0-3"),
            gave: [mask("0-1")].into(),
            tasks: [(task(7, 70, "").key, mask("0-3")), (task(8, 80, "").key, mask("0-2"))].into(),
        }
    }

    #[test]
    fn whose_doing_it_is() {
        for (seen, whose) in [
            (task(7, 70, "0-1"), Whose::Ours(mask("0-3"))),
            (task(8, 80, "0-1"), Whose::Ours(mask("0-2"))),
            (task(7, 70, "0-3"), Whose::Own),
            (task(7, 70, "2"), Whose::Theirs),
            // Born bound; born before the bind; born since and set to something else; a reused number.
            (task(9, 100, "0-1"), Whose::Ours(mask("0-3"))),
            (task(9, 99, "0-1"), Whose::Own),
            (task(9, 100, "1"), Whose::Own),
            (task(7, 71, "0-1"), Whose::Own),
            (task(7, 170, "0-1"), Whose::Ours(mask("0-3"))),
        ] {
            assert_eq!(former().whose(&seen, &mask("0-7")), whose, "{seen:?}");
        }
        // CPU 1 went offline, and the cpuset took it from the mask; then it came back.
        let seen = task(7, 70, "0");
        assert_eq!(former().whose(&seen, &mask("0,2-7")), Whose::Ours(mask("0-3")));
        assert_eq!(former().whose(&seen, &mask("0-7")), Whose::Theirs);
    }

    #[test]
    fn what_was_first_known_stays() {
        let mut both = former();
        both.add(Former {
            since: 500,
            usual: mask("1"),
            online: mask("0"),
            gave: [mask("2-3")].into(),
            tasks: [(task(7, 70, "").key, mask("0-1")), (task(9, 90, "").key, mask("3"))].into(),
        });
        assert_eq!((both.since, &both.usual, &both.online), (100, &mask("0-3"), &mask("0-3")));
        assert_eq!(both.tasks[&TaskKey { tid: 7, start: 70 }], mask("0-3"));
        assert_eq!(both.tasks[&TaskKey { tid: 9, start: 90 }], mask("3"));
        assert_eq!(both.whose(&task(7, 70, "2-3"), &mask("0-7")), Whose::Ours(mask("0-3")));
        let json = serde_json::to_string(&both).expect("text");
        assert!(json.contains(r#""tasks":{"0-2":[[8,80]],"3":[[9,90]],"0-3":[[7,70]]}"#), "{json}");
        assert_eq!(serde_json::from_str::<Former>(&json).expect("reads"), both);
    }

    #[test]
    fn who_was_bound_to_nothing_is_bound_to_nothing_again() {
        assert_eq!(former().to_write(&mask("0-3")), CpuMask::every());
        assert_eq!(former().to_write(&mask("0-7")), CpuMask::every());
        assert_eq!(former().to_write(&mask("0-2")), mask("0-2"));
        assert_eq!(Former::ticks(Time(1_239_999_999)), 123);
    }
}
