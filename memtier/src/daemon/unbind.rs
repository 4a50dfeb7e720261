//! Giving the threads of a process back where they could run before memtier bound them.
//!
//! A task that we bound gets exactly what it had. One that was born bound gets what the main thread had. Whoever changed a
//! task after us is right, and it is left alone. Looks repeat until two in a row find nothing of ours: a thread that is not
//! set free yet may make another.
//!
//! Child processes are born bound, too. Those that still descend from the process are found by their parents. When one of these
//! ends, its children belong to init and nobody can tell any more whose they were: the daemon, which hears of forks and of the
//! end, keeps each of them in the footprint as one that was bound itself.

use super::footprint::{Footprint, HostSettings, Setting, Undone, Verdict};
use crate::act::{Former, Whose};
use crate::sys::affinity::{CpuMask, online};
use crate::sys::files::{parent_pid, start_ticks};
use crate::sys::tasks::{Task, TaskKey, Tasks, gone};
use crate::vocab::ProcKey;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Looks at a process at most.
const LOOKS_MOST: u32 = 64;

/// A task as it was found, and what came of the change that was chosen for it.
#[derive(Debug)]
pub struct Looked {
    pub task: Task,
    pub set: Option<io::Result<()>>,
}

/// Threads and where they may run: the host's, or a table in a test.
pub trait Threads {
    /// Looks at every thread of a process and changes those for which `choose` names CPUs. `None`: the process is gone.
    fn pass(&mut self, proc: ProcKey, choose: &mut dyn FnMut(&Task) -> Option<CpuMask>) -> io::Result<Option<Vec<Looked>>>;
    /// CPUs that are online.
    fn online(&mut self) -> io::Result<CpuMask>;
    /// Every process and the pid of its parent.
    fn processes(&mut self) -> io::Result<Vec<(ProcKey, u32)>>;
}

impl Threads for HostSettings {
    fn pass(&mut self, proc: ProcKey, choose: &mut dyn FnMut(&Task) -> Option<CpuMask>) -> io::Result<Option<Vec<Looked>>> {
        let Some(mut tasks) = Tasks::of(proc)? else { return Ok(None) };
        let all = tasks.all()?;
        if all.is_empty() {
            return Ok(None);
        }
        let set = |task: Task| {
            let set = choose(&task).map(|cpus| tasks.bind(task.key, &cpus));
            Looked { task, set }
        };
        Ok(Some(all.into_iter().map(set).collect()))
    }

    fn online(&mut self) -> io::Result<CpuMask> {
        online()
    }

    fn processes(&mut self) -> io::Result<Vec<(ProcKey, u32)>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            match std::fs::read(entry.path().join("stat")) {
                Ok(stat) => {
                    all.extend(start_ticks(&stat).zip(parent_pid(&stat)).map(|(start, parent)| (ProcKey { pid, start }, parent)));
                }
                Err(error) if gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

impl Footprint {
    /// Keeps those that a process leaves behind and that were born bound. `line`: the one that ended, who made it, who made that
    /// one, and so on.
    pub fn adopt(&mut self, line: &[ProcKey], children: impl Iterator<Item = ProcKey>) -> io::Result<()> {
        let Some((ended, above)) = line.split_first() else { return Ok(()) };
        // Most that end have nothing to do with who is bound, and are to cost nothing.
        if self.former(*ended, above).gave.is_empty() {
            return Ok(());
        }
        let mut failed = Ok(());
        for child in children {
            let former = self.former(child, line);
            if !former.gave.is_empty() {
                failed = failed.and(self.keep(child, former, &mut || {}));
            }
        }
        failed
    }
}

/// Undoes all that is ours, of the process and of those that were born bound by it; not of such as are `held` themselves.
pub fn unbind(host: &mut impl Threads, proc: ProcKey, former: &Former, held: impl Fn(ProcKey) -> bool) -> Vec<Undone> {
    let mut told = Told::default();
    if told.process(host, proc, former) {
        let heir = former.heir();
        let heirs = heirs(host, proc.pid).unwrap_or_else(|error| {
            let why = format!("listing its children: {error}");
            told.say(proc, &former.usual, Verdict::Failed { why }, TaskKey { tid: proc.pid, start: proc.start });
            BTreeMap::new()
        });
        for (child, start) in heirs {
            let child = ProcKey { pid: child, start };
            if start >= former.since && !held(child) {
                told.process(host, child, &heir);
            }
        }
    }
    let undone = |((proc, old, verdict), tasks): (_, BTreeSet<u32>)| {
        let tasks = tasks.into_iter().collect();
        Undone { setting: Setting::Affinity { proc, tasks }, old: CpuMask::to_string(&old), verdict }
    };
    told.0.into_iter().map(undone).collect()
}

/// All that descend from a process: pid and start.
fn heirs(host: &mut impl Threads, pid: u32) -> io::Result<BTreeMap<u32, u64>> {
    let all = host.processes()?;
    let (mut line, mut heirs) = (BTreeSet::from([pid]), BTreeMap::new());
    loop {
        let born = |(child, parent): &&(ProcKey, u32)| line.contains(parent) && !line.contains(&child.pid);
        let children: BTreeMap<u32, u64> = all.iter().filter(born).map(|(child, _)| (child.pid, child.start)).collect();
        if children.is_empty() {
            return Ok(heirs);
        }
        line.extend(children.keys());
        heirs.extend(children);
    }
}

/// Numbers of tasks, by what they had and what became of them.
#[derive(Debug, Default)]
struct Told(BTreeMap<(ProcKey, CpuMask, Verdict), BTreeSet<u32>>);

impl Told {
    fn say(&mut self, proc: ProcKey, old: &CpuMask, verdict: Verdict, task: TaskKey) {
        self.0.entry((proc, old.clone(), verdict)).or_default().insert(task.tid);
    }

    /// False: the process is gone.
    fn process(&mut self, host: &mut impl Threads, proc: ProcKey, former: &Former) -> bool {
        let (mut seen, mut settled) = (BTreeSet::new(), BTreeSet::new());
        let (mut quiet, mut looks, mut there) = (0, 0, true);
        // Where that cannot be read, a mask must be the one that was given to be ours.
        let online = host.online().unwrap_or_else(|_| CpuMask::every());
        while there && quiet < 2 && looks < LOOKS_MOST {
            looks += 1;
            let mut choose = |task: &Task| match former.whose(task, &online) {
                Whose::Ours(old) if !settled.contains(&task.key) => Some(former.to_write(&old)),
                Whose::Ours(_) | Whose::Own | Whose::Theirs => None,
            };
            let looked = match host.pass(proc, &mut choose) {
                Ok(Some(looked)) => looked,
                Ok(None) => Vec::new(),
                Err(error) => {
                    let failed = Verdict::Failed { why: error.to_string() };
                    former.tasks.iter().for_each(|(task, old)| self.say(proc, old, failed.clone(), *task));
                    return true;
                }
            };
            (quiet, there) = (quiet + 1, !looked.is_empty());
            for Looked { task, set } in looked {
                let first = seen.insert(task.key);
                if set.is_some() {
                    (quiet, _) = (0, settled.insert(task.key));
                }
                if let Some(verdict) = verdict(former, &task, &online, set, first) {
                    self.say(proc, former.tasks.get(&task.key).unwrap_or(&former.usual), verdict, task.key);
                }
            }
        }
        let gone = former.tasks.iter().filter(|(task, _)| !seen.contains(*task));
        gone.for_each(|(task, old)| self.say(proc, old, Verdict::Gone, *task));
        there
    }
}

/// What became of a task, if that is to be told.
fn verdict(former: &Former, task: &Task, online: &CpuMask, set: Option<io::Result<()>>, first: bool) -> Option<Verdict> {
    match set {
        Some(Ok(())) => Some(Verdict::Restored),
        Some(Err(error)) if gone(&error) => Some(Verdict::Gone),
        Some(Err(error)) => Some(Verdict::Failed { why: error.to_string() }),
        None if !first || !former.tasks.contains_key(&task.key) => None,
        None => match former.whose(task, online) {
            Whose::Own => Some(Verdict::WasOld),
            Whose::Ours(_) => None,
            Whose::Theirs => Some(Verdict::LeftAlone { present: task.cpus.to_string() }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::footprint::{Footprint, Settings, Shared};
    use super::*;
    use crate::act::Diary as _;
    use std::path::Path;

    const PROC: ProcKey = ProcKey { pid: 7, start: 70 };
    const CHILD: ProcKey = ProcKey { pid: 30, start: 150 };

    /// Threads of some processes; no files.
    #[derive(Clone, Default)]
    struct Host {
        threads: BTreeMap<ProcKey, BTreeMap<u32, (u64, CpuMask)>>,
        parents: BTreeMap<ProcKey, u32>,
        refuses: BTreeMap<u32, i32>,
        /// Threads that are born at the first changes, by whoever is not set free yet.
        unborn: Vec<u32>,
    }

    impl Settings for Host {
        fn read(&self, _: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }
        fn write(&mut self, _: &Path, _: &str) -> io::Result<()> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    impl Threads for Host {
        fn pass(&mut self, proc: ProcKey, choose: &mut dyn FnMut(&Task) -> Option<CpuMask>) -> io::Result<Option<Vec<Looked>>> {
            let Some(threads) = self.threads.get_mut(&proc) else { return Ok(None) };
            let mut looked = Vec::new();
            for (tid, (start, cpus)) in threads.clone() {
                let task = Task { key: TaskKey { tid, start }, cpus: cpus.clone() };
                let set = choose(&task).map(|to| match self.refuses.get(&tid) {
                    Some(errno) => Err(io::Error::from_raw_os_error(*errno)),
                    None => {
                        threads.extend(self.unborn.pop().map(|tid| (tid, (200, cpus))));
                        // The kernel knows of CPUs 0 to 7.
                        threads.insert(tid, (start, to.and(&mask("0-7"))));
                        Ok(())
                    }
                });
                looked.push(Looked { task, set });
            }
            Ok(Some(looked))
        }
        fn online(&mut self) -> io::Result<CpuMask> {
            Ok(mask("0-7"))
        }
        fn processes(&mut self) -> io::Result<Vec<(ProcKey, u32)>> {
            Ok(self.parents.iter().map(|(proc, parent)| (*proc, *parent)).collect())
        }
    }

    fn mask(text: &str) -> CpuMask {
        CpuMask::parse(text).expect("a list")
    }

    fn threads(masks: &[(u32, u64, &str)]) -> BTreeMap<u32, (u64, CpuMask)> {
        masks.iter().map(|(tid, start, cpus)| (*tid, (*start, mask(cpus)))).collect()
    }

    /// Four threads, of which three are bound to 0-1 at tick 123; the last has 2 by somebody's will.
    fn bound(dir: &Path) -> (Footprint, Host) {
        let mut host = Host::default();
        host.threads.insert(PROC, threads(&[(7, 70, "0-1"), (8, 80, "0-1"), (9, 90, "0-1"), (10, 100, "2")]));
        host.parents.insert(PROC, 1);
        let had = [(7, 70, "0-6"), (8, 80, "0-6"), (9, 90, "1-6")];
        let tasks = had.map(|(tid, start, cpus)| (TaskKey { tid, start }, mask(cpus))).into();
        let more = Former { since: 123, online: mask("0-6"), usual: mask("0-6"), gave: [mask("0-1")].into(), tasks };
        let mut foot = Footprint::open(dir, "boot").expect("empty");
        let mut changed = false;
        foot.keep(PROC, more, &mut || changed = std::fs::read(dir.join("footprint.log")).is_ok_and(|log| !log.is_empty()))
            .expect("room");
        assert!(changed, "changed before it was kept");
        // Killed: another process reads what the log says.
        (Footprint::open(dir, "boot").expect("reopens"), host)
    }

    fn now(host: &Host, proc: ProcKey) -> Vec<(u32, String)> {
        host.threads[&proc].iter().map(|(tid, (_, cpus))| (*tid, cpus.to_string())).collect()
    }

    fn told(undone: &[Undone]) -> Vec<String> {
        undone.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn exact_masks_go_back_and_the_log_goes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut foot, mut host) = bound(dir.path());
        let held: Vec<_> = foot.held().iter().map(|held| format!("{} {:?} was {}", held.setting, held.ours, held.old)).collect();
        assert_eq!(held, ["CPUs of pid 7 (task 9) [\"0-1\"] was 1-6", "CPUs of pid 7 (2 tasks: 7-8) [\"0-1\"] was 0-6"]);
        let undone = foot.undo(&mut host).expect("undoes");
        assert_eq!(
            told(&undone),
            ["CPUs of pid 7 (task 9): restored to \"1-6\"", "CPUs of pid 7 (2 tasks: 7-8): restored to \"0-6\""]
        );
        // What ran on all CPUs there were may run on those that come later, too.
        let all = [(7, "0-7"), (8, "0-7"), (9, "1-6"), (10, "2")].map(|(tid, cpus)| (tid, cpus.to_owned()));
        assert_eq!(now(&host, PROC), all);
        assert_eq!(foot.undo(&mut host).expect("again"), []);
        assert!(!dir.path().join("footprint.log").exists());
    }

    #[test]
    fn what_somebody_changed_and_what_is_gone_is_said() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut foot, mut host) = bound(dir.path());
        // 7 was set by somebody, 8 ended and its number is another thread's, 9 has its old mask, 11 was born bound, 12 was
        // born bound and then set.
        host.threads.insert(PROC, threads(&[(7, 70, "0"), (8, 140, "3"), (9, 90, "1-6"), (11, 123, "0-1"), (12, 150, "1")]));
        let undone = foot.undo(&mut host).expect("undoes");
        assert_eq!(
            told(&undone),
            [
                "CPUs of pid 7 (task 9): holds \"1-6\" already",
                "CPUs of pid 7 (task 11): restored to \"0-6\"",
                "CPUs of pid 7 (task 7): left alone, somebody set it to \"0\" after memtier (it was \"0-6\" before)",
                "CPUs of pid 7 (task 8): left alone, it does not exist any more",
            ]
        );
        let all = [(7, "0"), (8, "3"), (9, "1-6"), (11, "0-7"), (12, "1")].map(|(tid, cpus)| (tid, cpus.to_owned()));
        assert_eq!(now(&host, PROC), all);
        let (mut foot, _) = bound(dir.path());
        let undone = foot.undo(&mut Host::default()).expect("undoes");
        assert!(undone.iter().all(|undone| undone.verdict == Verdict::Gone), "{undone:?}");
        assert_eq!(foot.held(), []);
    }

    #[test]
    fn threads_born_under_the_undo_and_children_are_set_free() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut foot, mut host) = bound(dir.path());
        let grandchild = ProcKey { pid: 40, start: 160 };
        let (older, stranger) = (ProcKey { pid: 31, start: 99 }, ProcKey { pid: 32, start: 170 });
        host.unborn = vec![20, 21];
        host.threads.extend([CHILD, grandchild, older, stranger].map(|p| (p, threads(&[(p.pid, p.start, "0-1")]))));
        host.parents.extend([(CHILD, 7), (grandchild, 30), (older, 7), (stranger, 1)]);
        let undone = foot.undo(&mut host).expect("undoes");
        assert!(undone.iter().all(|undone| undone.verdict == Verdict::Restored), "{undone:?}");
        assert!(now(&host, PROC).iter().all(|(_, cpus)| cpus != "0-1"), "{:?}", now(&host, PROC));
        let free = |proc: ProcKey| now(&host, proc)[0].1 == "0-7";
        assert_eq!([CHILD, grandchild, older, stranger].map(free), [true, true, false, false]);
    }

    #[test]
    fn who_outlives_its_bound_parent_is_set_free() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut foot, mut host) = bound(dir.path());
        let [grandchild, older, stranger, orphan] =
            [(40, 160), (31, 99), (32, 170), (33, 180)].map(|(pid, start)| ProcKey { pid, start });
        host.threads.extend([CHILD, grandchild, older, stranger, orphan].map(|p| (p, threads(&[(p.pid, p.start, "0-1")]))));
        let init = ProcKey { pid: 1, start: 1 };
        // Nothing of who is bound to whom.
        foot.adopt(&[stranger, init], [orphan].into_iter()).expect("room");
        foot.adopt(&[older, PROC, init], [orphan].into_iter()).expect("room");
        assert_eq!(foot.bound().collect::<Vec<_>>(), [PROC]);
        // In the middle one ends, and then the first of all.
        foot.adopt(&[CHILD, PROC, init], [grandchild].into_iter()).expect("room");
        foot.adopt(&[PROC, init], [CHILD, older].into_iter()).expect("room");
        let log = std::fs::read(dir.path().join("footprint.log")).expect("the log");
        foot.adopt(&[PROC, init], [CHILD, older].into_iter()).expect("room");
        assert_eq!(std::fs::read(dir.path().join("footprint.log")).expect("the log"), log, "known already");
        host.threads.remove(&PROC);
        // The loop forgets who is gone; then it is killed.
        foot.unbind(&mut host, PROC).expect("the log takes it");
        let mut foot = Footprint::open(dir.path(), "boot").expect("reopens");
        let held: Vec<_> = foot.held().iter().map(|held| format!("{} was {}", held.setting, held.old)).collect();
        assert_eq!(held, ["CPUs of pid 30 (born bound) was 0-6", "CPUs of pid 40 (born bound) was 0-6"]);
        host.threads.insert(CHILD, threads(&[(30, 150, "0-1"), (34, 190, "1")]));
        let undone = foot.undo(&mut host).expect("undoes");
        assert_eq!(
            told(&undone),
            ["CPUs of pid 30 (task 30): restored to \"0-6\"", "CPUs of pid 40 (task 40): restored to \"0-6\""]
        );
        assert_eq!(now(&host, CHILD), [(30, "0-7".to_owned()), (34, "1".to_owned())], "its own will");
        assert!([older, stranger, orphan].iter().all(|one| now(&host, *one)[0].1 == "0-1"));
        assert_eq!(foot.held(), []);
    }

    #[test]
    fn what_cannot_be_restored_stays_held() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut foot, mut host) = bound(dir.path());
        host.refuses.insert(8, libc::EINVAL);
        let undone = foot.unbind(&mut host, PROC).expect("the log takes it");
        assert!(undone.iter().any(|undone| matches!(undone.verdict, Verdict::Failed { .. })), "{undone:?}");
        assert_eq!(foot.bound().collect::<Vec<_>>(), [PROC]);
        host.refuses.clear();
        foot.unbind(&mut host, PROC).expect("the log takes it");
        assert_eq!((foot.bound().count(), foot.unbind(&mut host, PROC).expect("nothing to do")), (0, vec![]));
        assert_eq!(now(&host, PROC)[1], (8, "0-7".to_owned()));
    }

    #[test]
    fn a_child_of_a_bound_process_had_what_its_parent_had() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (foot, mut host) = bound(dir.path());
        let mut foot = Shared::new(foot);
        let init = ProcKey { pid: 1, start: 1 };
        let line = [PROC, init];
        assert_eq!(foot.former(ProcKey { start: 99, ..CHILD }, &line), Former::default(), "born before its parent was bound");
        assert_eq!(foot.former(CHILD, &[init]), Former::default());
        let (between, older) = (ProcKey { pid: 20, start: 140 }, ProcKey { pid: 20, start: 99 });
        assert_eq!(foot.former(CHILD, &[older, PROC, init]), Former::default(), "of one that was born before");
        assert_eq!(foot.former(CHILD, &[between, PROC, init]), foot.former(CHILD, &line));
        let former = foot.former(CHILD, &line);
        assert_eq!((former.since, &former.usual, former.tasks.len()), (123, &mask("0-6"), 0));
        let tasks = [(TaskKey { tid: 30, start: 150 }, mask("0-6"))].into();
        let gave = [mask("0-1"), mask("3")].into();
        foot.keep(CHILD, Former { gave, tasks, ..former }, &mut || {}).expect("room");
        host.threads.insert(CHILD, threads(&[(30, 150, "3"), (31, 155, "0-1")]));
        host.parents.insert(CHILD, 7);
        let undone = foot.lock().undo(&mut host).expect("undoes");
        assert!(undone.iter().all(|undone| undone.verdict == Verdict::Restored), "{undone:?}");
        assert_eq!(now(&host, CHILD), [(30, "0-7".to_owned()), (31, "0-7".to_owned())]);
    }

    #[test]
    fn closed_it_changes_nothing_and_renewed_it_says_the_same() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut foot, mut host) = bound(dir.path());
        let log = || std::fs::metadata(dir.path().join("footprint.log")).expect("the log").len();
        let before = foot.held();
        // Others come and go, until the log is written anew.
        let masks = CpuMask::every().cpus().step_by(2).take(2000).collect::<CpuMask>();
        for pid in 100..400 {
            let proc = ProcKey { pid, start: 1 };
            let gave = [masks.clone()].into();
            let tasks = [(TaskKey { tid: pid, start: 1 }, mask("0"))].into();
            foot.keep(proc, Former { gave, tasks, ..Former::default() }, &mut || {}).expect("room");
            foot.unbind(&mut host, proc).expect("gone");
        }
        assert!(log() < 1 << 20, "{}", log());
        assert_eq!((foot.held(), Footprint::open(dir.path(), "boot").expect("reopens").held()), (before.clone(), before));
        foot.close();
        let late = foot.keep(PROC, Former::default(), &mut || panic!("changed behind a closed door"));
        assert!(late.is_err());
        assert_eq!(foot.undo(&mut host).expect("undoes").len(), 2);
    }

    #[test]
    fn cut_anywhere_what_was_changed_can_be_undone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (_, host) = bound(dir.path());
        let log = dir.path().join("footprint.log");
        let whole = std::fs::read(&log).expect("the log");
        for cut in 0..=whole.len() {
            std::fs::write(&log, &whole[..cut]).expect("cut");
            let mut foot = Footprint::open(dir.path(), "boot").expect("opens");
            // Before the entry is whole nothing was changed yet.
            let mut host = host.clone();
            if cut < whole.len() {
                host.threads.insert(PROC, threads(&[(7, 70, "0-6"), (8, 80, "0-6"), (9, 90, "1-6")]));
            }
            foot.undo(&mut host).expect("undoes");
            assert!(now(&host, PROC).iter().all(|(_, cpus)| cpus != "0-1"), "cut at {cut}");
        }
    }
}
