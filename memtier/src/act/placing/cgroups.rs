//! Cgroups bound as one, on the same fake table: what is in the way, and what is left untouched then.

use super::*;
use crate::act::Cgroups;
use crate::vocab::{Group, Whom};

const GROUP: CgroupId = CgroupId(5);

impl World {
    /// The process has four threads, one of them on CPU 1 only, and a cgroup of its own with one below.
    fn grouped() -> Self {
        let files = [
            ("/cpuset.cpus.effective", "0-3"),
            ("/g/cgroup.controllers", "cpuset cpu memory"),
            ("/g/cgroup.procs", "7"),
            ("/g/cgroup.type", "domain"),
            ("/g/cpuset.cpus", ""),
            ("/g/cpuset.cpus.effective", "0-3"),
            ("/g/cpuset.cpus.partition", "member"),
            ("/g/sub/cgroup.procs", "30"),
        ];
        let files = files.map(|(path, text)| (path.into(), text.to_owned())).into();
        let child = ProcKey { pid: 30, start: 300 };
        let task = Task { key: TaskKey { tid: 30, start: 300 }, cpus: mask("0-3") };
        let others = [(30, (vec![child, PROC], vec![task]))].into();
        Self { files, others, ..Self::threads(&["0-3", "0-3", "0-3", "1"]) }
    }
}

impl Cgroups for Fake {
    fn cgroup(&mut self, group: &Group) -> io::Result<Option<PathBuf>> {
        let there = self.0.borrow().files.contains_key(&Path::new(&group.path).join("cgroup.procs"));
        Ok(there.then(|| group.path.clone().into()))
    }
    fn cgroup_file(&mut self, path: &Path) -> io::Result<Option<String>> {
        self.hook("file");
        match self.0.borrow().files.get(path) {
            Some(text) if text == "threaded" && path.ends_with("cgroup.procs") => Err(errno(libc::EOPNOTSUPP)),
            text => Ok(text.cloned()),
        }
    }
    fn cgroups_below(&mut self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let world = self.0.borrow();
        let dirs: BTreeSet<&Path> = world.files.keys().filter_map(|file| file.parent()).collect();
        Ok(dirs.into_iter().filter(|one| one.parent() == Some(dir)).map(Path::to_owned).collect())
    }
    fn family(&mut self, pid: u32) -> io::Result<Option<(Vec<ProcKey>, Vec<Task>)>> {
        if pid != PROC.pid {
            return Ok(self.0.borrow().others.get(&pid).cloned());
        }
        let tasks = self.tasks()?;
        Ok(Some((vec![self.0.borrow().owner], tasks)))
    }
    fn keeps_masks(&mut self) -> bool {
        self.0.borrow().keeps_masks
    }
}

/// As the kernel does it, for a diary that lets it.
pub(super) fn set(fake: &Fake, cgroup: CgroupId, dir: &Path, cpus: &CpuMask) -> io::Result<bool> {
    let mut world = fake.0.borrow_mut();
    if world.diary_full {
        return Err(errno(libc::ENOSPC));
    }
    let file = dir.join("cpuset.cpus");
    let old = world.files[&file].clone();
    if cgroup != GROUP {
        return Ok(false);
    }
    world.cpuset.get_or_insert(old);
    world.files.insert(file, cpus.to_string());
    world.files.insert(dir.join("cpuset.cpus.effective"), cpus.to_string());
    // Nobody here has a mask of its own that is more than what it had.
    let all = |task: &mut CpuMask| *task = if task.cpus().count() > 1 { cpus.clone() } else { task.and(cpus) };
    world.tasks.values_mut().for_each(|(_, mask)| all(mask));
    world.others.values_mut().flat_map(|(_, tasks)| tasks).for_each(|task| all(&mut task.cpus));
    Ok(true)
}

fn bind_group(world: World, id: CgroupId, cpus: &str) -> (Outcome, World) {
    let cpus: Vec<CpuId> = mask(cpus).cpus().collect();
    let whom = Whom::Cgroup(Group { id, path: "/g".into(), members: vec![PROC] });
    apply(world, &step(Action::Bind { proc: PROC, cpus, whom }, vec![Guard::Alive(PROC)]))
}

#[test]
fn all_of_a_cgroup_are_bound_by_one_file() {
    let (outcome, world) = bind_group(World::grouped(), GROUP, "0-1");
    assert_eq!(told(&outcome), said(5, 5, "done"));
    assert_eq!((world.files[Path::new("/g/cpuset.cpus")].as_str(), world.cpuset.as_deref()), ("0-1", Some("")));
    assert!(world.binds.is_empty() && world.kept.is_empty(), "no affinity is touched");
    // Bound anew it gets what it had before memtier, not what memtier left of it; and never more than that, or than what is above.
    let (outcome, world) =
        bind_group(World { cpuset: Some(String::new()), tasks: World::threads(&["0-1"]).tasks, ..world }, GROUP, "2-5");
    assert_eq!(told(&outcome), said(2, 2, "done"));
    assert_eq!(world.files[Path::new("/g/cpuset.cpus")], "2-3");
    let mut world = World::grouped();
    world.files.insert("/g/cpuset.cpus".into(), "1-3".into());
    assert_eq!(bind_group(world, GROUP, "0-1").1.files[Path::new("/g/cpuset.cpus")], "1");
}

#[test]
fn what_is_in_the_way_of_a_cgroup_is_told_and_nothing_is_done() {
    let set = |path: &'static str, text: &'static str| move |world: &mut World| drop(world.files.insert(path.into(), text.into()));
    let gone = |path: &'static str| move |world: &mut World| drop(world.files.remove(Path::new(path)));
    let check = |edit: &dyn Fn(&mut World), cpus: &str, why: &str| {
        let mut world = World::grouped();
        edit(&mut world);
        let (outcome, world) = bind_group(world, GROUP, cpus);
        assert_eq!((outcome.end.to_string(), world.cpuset), (format!("failed: binding the cgroup on pid 7: /g: {why}"), None));
    };
    let off = "the cpuset controller is not on for it: write +cpuset to //cgroup.subtree_control, and above it where it lacks there \
               (systemd: AllowedCPUs= of the unit)";
    check(&set("/g/cgroup.controllers", "cpu memory"), "0-1", off);
    check(&gone("/g/cpuset.cpus"), "0-1", off);
    check(&gone("/g/cgroup.procs"), "0-1", "it is gone, or in no hierarchy of version 2 that is mounted here");
    check(&set("/g/cgroup.procs", ""), "0-1", "the process is not in it any more");
    check(&gone("/g/cgroup.type"), "0-1", "it is the root cgroup");
    let threaded = "its type is \"threaded\", and only processes as a whole are bound";
    check(&set("/g/cgroup.type", "threaded"), "0-1", threaded);
    check(&set("/g/sub/cgroup.procs", "threaded"), "0-1", "a cgroup in it is threaded, and only processes as a whole are bound");
    let partition = "it is a partition (isolated), whose CPUs are taken from others";
    check(&set("/g/cpuset.cpus.partition", "isolated"), "0-1", partition);
    check(&set("/g/sub/cpuset.cpus.partition", "root"), "0-1", "a cgroup in it is a partition");
    check(&|_| (), "4-7", "it may run on none of these CPUs");
    check(&set("/g/cpuset.cpus", "2"), "0-1", "it may run on none of these CPUs");
    let stranger = |world: &mut World| {
        let proc = ProcKey { pid: 31, start: 310 };
        world.files.insert("/g/sub/cgroup.procs".into(), "30\n31".into());
        world.others.insert(31, (vec![proc, ProcKey { pid: 1, start: 1 }], Vec::new()));
    };
    check(&stranger, "0-1", "pid 31 is in it, and its rule does not select that one");
    check(&|_| (), "2-3", "1 task bound by somebody else, to CPUs other than 2-3");
    check(&|world| world.keeps_masks = false, "0-1", "1 task bound by somebody else, and this kernel would forget it");

    let (outcome, world) = bind_group(World { diary_full: true, ..World::grouped() }, GROUP, "0-1");
    assert_eq!(outcome.end.to_string(), "failed: writing cpuset.cpus on pid 7: No space left on device (errno 28)");
    assert_eq!(world.files[Path::new("/g/cpuset.cpus")], "");
    let (outcome, _) = bind_group(World::grouped(), CgroupId(6), "0-1");
    assert!(outcome.end.to_string().ends_with("/g: somebody else set its cpuset.cpus after memtier"), "{}", outcome.end);
}
