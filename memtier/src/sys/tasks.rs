//! The tasks of a process, held so that nothing here hits whoever gets their numbers later: start times are looked at right
//! before. Only sched_setaffinity knows no handle for a thread, and between that look and the call lie some microseconds.

use super::affinity::{CpuMask, set_affinity};
use super::files::{parent_pid, start_ticks, state};
use crate::vocab::ProcKey;
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

/// 52 numbers and a name of at most 64 bytes.
const STAT_MOST: usize = 2048;
/// Descriptors looked at of a process, the lowest: what it opened when it began.
const DESCRIPTORS: usize = 256;
/// Of a family that is looked at: no real one is older.
pub const GENERATIONS: usize = 64;

/// A thread: its number together with its start time, so that a reused number is another thread. Same units as `ProcKey`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u64)", into = "(u32, u64)")]
pub struct TaskKey {
    pub tid: u32,
    pub start: u64,
}

/// A thread and where it may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub key: TaskKey,
    pub cpus: CpuMask,
}

/// The directory of a process in /proc. It goes stale with the process: a later one with the same pid is never met through it.
#[derive(Debug)]
pub struct Tasks {
    dir: File,
    stat: File,
    proc: ProcKey,
    calls: u64,
}

impl Tasks {
    /// `None`: the process is gone, or its pid is another process's.
    ///
    /// | errno | meaning |
    /// | --- | --- |
    /// | EACCES, EPERM | /proc is mounted with hidepid and we may not look |
    /// | EMFILE, ENFILE | out of file descriptors |
    pub fn of(proc: ProcKey) -> io::Result<Option<Self>> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let open = || -> io::Result<(File, File)> {
            let dir = OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/{}", proc.pid))?;
            let stat = openat(dir.as_fd(), "stat", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            Ok((dir, File::from(stat)))
        };
        let Some((dir, stat)) = unless_gone(open())? else { return Ok(None) };
        let mut tasks = Self { dir, stat, proc, calls: 2 };
        Ok(tasks.there()?.then_some(tasks))
    }

    #[must_use]
    pub const fn proc(&self) -> ProcKey {
        self.proc
    }
    /// System calls made so far.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    /// Opens a file of the process.
    pub fn open(&mut self, name: &str, how: OFlag) -> io::Result<File> {
        self.calls += 1;
        Ok(File::from(openat(self.dir.as_fd(), name, how | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// The process is there, if only as a zombie: its pid is nobody else's.
    pub fn there(&mut self) -> io::Result<bool> {
        Ok(self.own()?.is_some_and(|stat| start_ticks(&stat) == Some(self.proc.start)))
    }

    /// It is there and has memory: what the main thread left behind has none.
    pub fn has_memory(&mut self) -> io::Result<bool> {
        let own = self.own()?.filter(|stat| start_ticks(stat) == Some(self.proc.start));
        Ok(own.and_then(|stat| state(&stat)).is_some_and(|state| !matches!(state, 'Z' | 'X' | 'x')))
    }

    fn own(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.calls += 1;
        unless_gone(read_stat(&self.stat))
    }

    /// Whether one of its first descriptors is this, as the kernel names it in /proc/PID/fd. A server may have very many.
    pub fn has_open(&mut self, what: &str) -> io::Result<bool> {
        self.calls += 4;
        let how = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = Dir::openat(self.dir.as_fd(), "fd", how, Mode::empty()).map_err(io::Error::from);
        let Some(mut dir) = unless_gone(dir)? else { return Ok(false) };
        let mut names = Vec::new();
        for entry in dir.iter().take(DESCRIPTORS) {
            match entry {
                Ok(entry) => names.push(entry.file_name().to_owned()),
                Err(error) if gone(&error.into()) => break,
                Err(error) => return Err(error.into()),
            }
        }
        for name in names.iter().filter(|name| !name.to_bytes().starts_with(b".")) {
            self.calls += 1;
            // One may be closed by now.
            let link = unless_gone(readlinkat(dir.as_fd(), name.as_c_str()).map_err(io::Error::from))?;
            if link.is_some_and(|link| link == what) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who made it, or adopted it since, who made that one, and so on; as far as they are there.
    pub fn ancestors(&mut self) -> io::Result<Vec<ProcKey>> {
        let mut line = Vec::new();
        let mut next = self.own()?.and_then(|stat| parent_pid(&stat));
        while let Some(pid) = next.filter(|_| line.len() < GENERATIONS) {
            self.calls += 3;
            let Some(stat) = unless_gone(std::fs::read(format!("/proc/{pid}/stat")))? else { break };
            line.extend(start_ticks(&stat).map(|start| ProcKey { pid, start }));
            next = parent_pid(&stat);
        }
        Ok(line)
    }

    /// Its threads as they are now, ascending; those that end meanwhile are left out. None: the process is gone.
    pub fn all(&mut self) -> io::Result<Vec<Task>> {
        self.calls += 4;
        let how = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = Dir::openat(self.dir.as_fd(), "task", how, Mode::empty()).map_err(io::Error::from);
        let Some(mut dir) = unless_gone(dir)? else { return Ok(Vec::new()) };
        let mut tids = Vec::new();
        for entry in dir.iter() {
            match entry {
                Ok(entry) => tids.extend(entry.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok())),
                Err(error) if gone(&error.into()) => break,
                Err(error) => return Err(error.into()),
            }
        }
        tids.sort_unstable();
        let mut tasks = Vec::with_capacity(tids.len());
        for tid in tids {
            tasks.extend(self.task(tid)?);
        }
        Ok(tasks)
    }

    fn task(&mut self, tid: u32) -> io::Result<Option<Task>> {
        // Unlike sched_getaffinity this tells of CPUs, too, that are offline at the moment.
        let Some(status) = self.read_of(tid, "status")? else { return Ok(None) };
        let cpus = CpuMask::of_status(&status).ok_or_else(|| io::Error::other(format!("no Cpus_allowed of task {tid}")))?;
        // The directory of the process still lists it after the answer, so that the answer was about it.
        let start = self.read_of(tid, "stat")?.and_then(|stat| start_ticks(&stat));
        Ok(start.map(|start| Task { key: TaskKey { tid, start }, cpus }))
    }

    /// Lets a thread run on these CPUs only. A number that is another thread's by now is ESRCH.
    pub fn bind(&mut self, task: TaskKey, cpus: &CpuMask) -> io::Result<()> {
        let start = self.read_of(task.tid, "stat")?.and_then(|stat| start_ticks(&stat));
        if start != Some(task.start) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        self.calls += 1;
        set_affinity(task.tid, cpus)
    }

    /// The same, if it still may run where it could when it was looked at. False: somebody else bound it since.
    pub fn rebind(&mut self, task: &Task, cpus: &CpuMask) -> io::Result<bool> {
        let as_seen = self.task(task.key.tid)?.is_none_or(|now| now.key != task.key || now.cpus == task.cpus);
        if as_seen { self.bind(task.key, cpus).map(|()| true) } else { Ok(false) }
    }

    /// A file of a thread; `None` when it is gone.
    fn read_of(&mut self, tid: u32, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.calls += 3;
        let name = format!("task/{tid}/{name}");
        let file = openat(self.dir.as_fd(), name.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let read = |file| -> io::Result<Vec<u8>> {
            let mut text = Vec::with_capacity(STAT_MOST);
            File::from(file).read_to_end(&mut text)?;
            Ok(text)
        };
        unless_gone(file.map_err(io::Error::from).and_then(read))
    }
}

fn read_stat(file: &File) -> io::Result<Vec<u8>> {
    let mut text = vec![0; STAT_MOST];
    let len = file.read_at(&mut text, 0)?;
    text.truncate(len);
    Ok(text)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if gone(&error) => Ok(None),
        result => result.map(Some),
    }
}

/// Says of an error that the process or thread it is about is not there any more.
pub fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT))
}

impl From<(u32, u64)> for TaskKey {
    fn from((tid, start): (u32, u64)) -> Self {
        Self { tid, start }
    }
}
impl From<TaskKey> for (u32, u64) {
    fn from(TaskKey { tid, start }: TaskKey) -> Self {
        (tid, start)
    }
}
impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.tid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> ProcKey {
        let stat = std::fs::read("/proc/self/stat").expect("ours");
        ProcKey { pid: std::process::id(), start: start_ticks(&stat).expect("a start time") }
    }

    #[test]
    fn our_own_threads_are_listed_and_a_reused_number_is_not_touched() {
        let mut tasks = Tasks::of(own()).expect("opens").expect("we live");
        let all = tasks.all().expect("lists");
        let tid = nix::unistd::gettid().as_raw().cast_unsigned();
        let ours = all.iter().find(|task| task.key.tid == tid).expect("we are among them").clone();
        assert!(all.is_sorted_by_key(|task| task.key.tid) && tasks.calls() > 8);
        assert!(tasks.there().expect("reads") && tasks.has_memory().expect("reads"));
        tasks.bind(ours.key, &ours.cpus).expect("changes nothing");
        let reused = TaskKey { start: ours.key.start + 1, ..ours.key };
        assert_eq!(tasks.bind(reused, &ours.cpus).expect_err("another").raw_os_error(), Some(libc::ESRCH));
        assert!(tasks.rebind(&ours, &ours.cpus).expect("changes nothing"));
        let bound = Task { cpus: CpuMask::default(), ..ours.clone() };
        assert!(!tasks.rebind(&bound, &ours.cpus).expect("looks"), "not as it was seen");
        let exe = File::open("/proc/self/exe").expect("ours");
        let path = std::fs::read_link("/proc/self/exe").expect("a link");
        assert!(tasks.has_open(path.to_str().expect("text")).expect("lists"));
        drop(exe);
        assert!(!tasks.has_open("anon_inode:kvm-vm").expect("lists"));
        let line = tasks.ancestors().expect("reads");
        assert_eq!(line[0].pid, std::os::unix::process::parent_id());
        let other = ProcKey { start: own().start + 1, ..own() };
        assert!(Tasks::of(other).expect("looks").is_none());
        assert!(Tasks::of(ProcKey { pid: u32::MAX >> 1, start: 1 }).expect("looks").is_none());
        let json = serde_json::to_string(&TaskKey { tid: 7, start: 70 }).expect("text");
        assert_eq!((json.as_str(), serde_json::from_str::<TaskKey>(&json).expect("reads").start), ("[7,70]", 70));
    }
}
