//! What the daemon changed on the host and how to put it back: a write-ahead undo log in the run directory.
//!
//! Before a setting that outlives a step is changed, its old and new value go to RUN/footprint.log and are synced; only
//! then is it written. So at any moment, also after kill -9, the log names at least everything that is changed, and
//! `memtier undo` needs no daemon. A setting goes back only while it still holds a value of ours: whoever changed it
//! after us is right, and is left alone. A log of an earlier boot is void, as are the settings it names.
//!
//! Form: one line per entry, CRC-32 of the JSON in eight hex digits, a space, the JSON. What follows the first bad
//! line is a torn tail: it was never acted on, because the sync came first.
//!
//! Where threads may run is such a setting, too: what each of a process's tasks had is one entry for all that are bound at a
//! time, and daemon/unbind gives it back.
//!
//! Where a cgroup may run (`cpuset.cpus`) is a file like others, but of that cgroup alone: one of the same name that was made later
//! is another.
//!
//! So are settings of memcached servers, whose present value is asked of the server: daemon/levers.
//!
//! The daemon's loop and the hand that binds share it: one lock is held from the entry in the log to the change, and nobody
//! undoes anything in between.
//!
//! Deliberately absent: what is changed and when (daemon/settings, act/bind), effects that vanish with the process, page-outs
//! (paged-out memory comes back on touch).

use super::cpusets::{cpus_file, write_cpus};
use super::levers::{self, ServerSetting};
use super::unbind::{Threads, unbind};
use crate::act::{Diary, Former};
use crate::compat::numad::list;
use crate::sys::affinity::CpuMask;
use crate::vocab::{CgroupId, ProcKey, ServerLife};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A log longer than this is written anew when most of it is void.
const LOG_MOST: u64 = 1 << 20;

/// Something on the host that keeps its value when the daemon is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// A value in sysfs or procfs.
    File { path: PathBuf },
    /// `cpuset.cpus` of a cgroup: the CPUs that all in it may run on.
    Cpuset { cgroup: CgroupId, dir: PathBuf },
    /// The CPUs that tasks of a process may run on.
    Affinity { proc: ProcKey, tasks: Vec<u32> },
    /// Of a memcached server.
    Server(ServerSetting),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path } => path.display().fmt(f),
            Self::Cpuset { cgroup: _, dir } => cpus_file(dir).display().fmt(f),
            Self::Server(setting) => setting.fmt(f),
            Self::Affinity { proc, tasks } => match tasks.as_slice() {
                [] => write!(f, "CPUs of {proc} (born bound)"),
                [task] => write!(f, "CPUs of {proc} (task {task})"),
                tasks => {
                    let all = list(tasks.iter().copied());
                    // Ranges, as long as a line holds them.
                    let shown = all.char_indices().filter(|(_, c)| *c == ',').nth(7).map_or(all.as_str(), |(at, _)| &all[..at]);
                    let more = if shown.len() < all.len() { ",..." } else { "" };
                    write!(f, "CPUs of {proc} ({} tasks: {shown}{more})", tasks.len())
                }
            },
        }
    }
}

/// Reads and writes values in files, and of servers: the host's, or a table in a test.
pub trait Settings {
    fn read(&self, path: &Path) -> io::Result<String>;
    fn write(&mut self, path: &Path, value: &str) -> io::Result<()>;
    /// The kernel's id of the cgroup with this directory.
    fn cgroup(&self, _: &Path) -> io::Result<CgroupId> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// `None`: the server does not tell this one.
    fn ask(&self, _: &ServerSetting) -> io::Result<Option<String>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn set(&mut self, _: &ServerSetting, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The settings of the running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostSettings;

impl Settings for HostSettings {
    fn read(&self, path: &Path) -> io::Result<String> {
        Ok(chosen(&std::fs::read_to_string(path)?).to_owned())
    }
    fn write(&mut self, path: &Path, value: &str) -> io::Result<()> {
        // No O_CREAT: a setting that does not exist must not become a plain file.
        OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
    }
    fn cgroup(&self, dir: &Path) -> io::Result<CgroupId> {
        Ok(CgroupId(std::fs::metadata(dir)?.ino()))
    }
    fn ask(&self, setting: &ServerSetting) -> io::Result<Option<String>> {
        levers::ask(setting)
    }
    fn set(&mut self, setting: &ServerSetting, value: &str) -> io::Result<()> {
        levers::set(setting, value)
    }
}

/// The value in what the kernel prints: without the line end, and of "always [madvise] never" the chosen word.
fn chosen(text: &str) -> &str {
    let text = text.trim_end();
    match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
        Some((word, _)) => word,
        None => text,
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FootprintError {
    #[error("{what} {}: {source}", path.display())]
    Log { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {what} {setting}: {source}")]
    Setting { what: &'static str, setting: Setting, source: io::Error },
}

/// A setting that is ours for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub setting: Setting,
    /// The value before our first change.
    pub old: String,
    /// Every value that we wrote, or read back after writing.
    pub ours: Vec<String>,
}

/// What became of one held setting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Restored,
    /// The kernel does not take the old value any more, and got another that does the same.
    RestoredAs {
        value: String,
    },
    /// It held the old value already: we were killed before the change, or somebody else put it back.
    WasOld,
    /// It holds a value that is neither the old one nor ours: somebody else's now.
    LeftAlone {
        present: String,
    },
    /// It does not exist any more.
    Gone,
    /// It could not be read or written; still held.
    Failed {
        why: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    pub setting: Setting,
    pub old: String,
    pub verdict: Verdict,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, old, verdict } = self;
        match verdict {
            Verdict::Restored => write!(f, "{setting}: restored to {old:?}"),
            Verdict::RestoredAs { value } => {
                write!(
                    f,
                    "{setting}: restored to {value:?}, which does what {old:?} did: that is not taken while somebody is in it"
                )
            }
            Verdict::WasOld => write!(f, "{setting}: holds {old:?} already"),
            Verdict::LeftAlone { present } => {
                write!(f, "{setting}: left alone, somebody set it to {present:?} after memtier (it was {old:?} before)")
            }
            Verdict::Gone => write!(f, "{setting}: left alone, it does not exist any more"),
            Verdict::Failed { why } => write!(f, "{setting}: could not be restored to {old:?}: {why}"),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Entry {
    /// First line: the boot that the settings belong to.
    Boot(String),
    Change {
        setting: Setting,
        old: String,
        new: String,
    },
    /// The kernel reads back another text than was written ("1G" as bytes).
    ReadsAs {
        setting: Setting,
        value: String,
    },
    /// Not ours any more.
    Released(Setting),
    /// Tasks of a process are to be bound.
    Bound {
        proc: ProcKey,
        #[serde(flatten)]
        former: Former,
    },
    /// The process is not bound any more.
    Unbound(ProcKey),
}

/// What a log says is held.
#[derive(Debug, Default)]
struct Kept {
    files: Vec<Held>,
    bound: BTreeMap<ProcKey, Former>,
}

/// The undo log and what it says is held.
#[derive(Debug)]
pub struct Footprint {
    path: PathBuf,
    boot: String,
    kept: Kept,
    /// Length of the sound part of the log; 0: no log, or one of an earlier boot.
    sound: u64,
    /// Everything was put back for good: nothing may be changed any more.
    closed: bool,
}

/// The footprint, for the loop and the hand that binds.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Footprint>>);

impl Shared {
    #[must_use]
    pub fn new(footprint: Footprint) -> Self {
        Self(Arc::new(Mutex::new(footprint)))
    }
    /// Held for as long as a batch of threads takes to bind, and an entry to be synced: a millisecond.
    pub fn lock(&self) -> MutexGuard<'_, Footprint> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Diary for Shared {
    fn former(&mut self, proc: ProcKey, ancestors: &[ProcKey]) -> Former {
        self.lock().former(proc, ancestors)
    }
    fn keep(&mut self, proc: ProcKey, more: Former, change: &mut dyn FnMut()) -> io::Result<()> {
        self.lock().keep(proc, more, change)
    }
    fn cpuset_had(&mut self, cgroup: CgroupId) -> Option<String> {
        self.lock().cpuset_had(&HostSettings, cgroup)
    }
    fn set_cpuset(&mut self, cgroup: CgroupId, dir: &Path, cpus: &CpuMask) -> io::Result<bool> {
        self.lock().set_cpuset(&mut HostSettings, cgroup, dir, cpus)
    }
}

impl Footprint {
    /// Reads the log of this run directory; a missing one is empty. Writes nothing.
    pub fn open(run_dir: &Path, boot: &str) -> Result<Self, FootprintError> {
        let path = run_dir.join("footprint.log");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(FootprintError::Log { what: "cannot read", path, source }),
        };
        let (kept, sound) = fold(&bytes, boot);
        Ok(Self { path, boot: boot.to_owned(), kept, sound, closed: false })
    }

    /// Who paused memtier, here or in an earlier run: a pause lasts until somebody ends it. In doubt it lasts.
    #[must_use]
    pub fn paused(&self) -> Option<String> {
        match std::fs::read_to_string(self.pause_file()) {
            Ok(by) => Some(by.trim_end().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(format!("somebody ({}: {error})", self.pause_file().display())),
        }
    }

    /// Keeps a pause beyond this run; it lies beside the log, which `undo` removes.
    pub fn pause(&self, by: &str) -> Result<(), FootprintError> {
        let (path, fresh) = (self.pause_file(), self.path.with_file_name("paused.new"));
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            writeln!(file, "{by}")?;
            file.sync_data()?;
            std::fs::rename(&fresh, &path)
        };
        written().map_err(|source| FootprintError::Log { what: "cannot write", path: path.clone(), source })
    }

    /// Ends a pause.
    pub fn resume(&self) -> Result<(), FootprintError> {
        match std::fs::remove_file(self.pause_file()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FootprintError::Log { what: "cannot remove", path: self.pause_file(), source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn pause_file(&self) -> PathBuf {
        self.path.with_file_name("paused")
    }

    /// Files and settings of servers that are changed, oldest first.
    pub(super) fn changed(&self) -> &[Held] {
        &self.kept.files
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// What is held: files, oldest first, then tasks by what they had.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let mut held = self.kept.files.clone();
        for (proc, former) in &self.kept.bound {
            let mut by_mask: BTreeMap<&CpuMask, Vec<u32>> = BTreeMap::new();
            former.tasks.iter().for_each(|(task, mask)| by_mask.entry(mask).or_default().push(task.tid));
            // Of one that was born bound its threads are not known.
            if former.tasks.is_empty() {
                by_mask.insert(&former.usual, Vec::new());
            }
            let ours: Vec<String> = former.gave.iter().map(CpuMask::to_string).collect();
            held.extend(by_mask.into_iter().map(|(mask, tasks)| Held {
                setting: Setting::Affinity { proc: *proc, tasks },
                old: mask.to_string(),
                ours: ours.clone(),
            }));
        }
        held
    }

    /// Files that are changed, oldest first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.kept.files.iter().filter_map(|held| match &held.setting {
            Setting::File { path } => Some(path.as_path()),
            Setting::Cpuset { .. } | Setting::Affinity { .. } | Setting::Server(_) => None,
        })
    }

    /// Processes that are bound.
    pub fn bound(&self) -> impl Iterator<Item = ProcKey> {
        self.kept.bound.keys().copied()
    }

    /// Changes a setting, after the log knows how to put it back. False: it is somebody else's now, and stays as it is.
    pub fn change(&mut self, host: &mut impl Settings, path: &Path, new: &str) -> Result<bool, FootprintError> {
        self.change_file(host, Setting::File { path: path.to_owned() }, path, new)
    }

    pub(super) fn change_file(
        &mut self,
        host: &mut impl Settings,
        setting: Setting,
        path: &Path,
        new: &str,
    ) -> Result<bool, FootprintError> {
        let failed = |what| {
            let setting = setting.clone();
            move |source| FootprintError::Setting { what, setting, source }
        };
        let old = host.read(path).map_err(failed("read"))?;
        if old == new {
            return Ok(true);
        }
        // Whoever changed it after us is right, and takes it over. Cgroups are asked for again and again: that this one is
        // somebody else's is kept as long as it is wanted.
        if self.kept.files.iter().any(|held| held.setting == setting && held.old != old && !held.ours.contains(&old)) {
            if !matches!(setting, Setting::Cpuset { .. }) {
                self.append(Entry::Released(setting))?;
            }
            return Ok(false);
        }
        self.append(Entry::Change { setting: setting.clone(), old: old.clone(), new: new.to_owned() })?;
        if let Err(source) = host.write(path, new) {
            // Settles whether anything changed, and forgets what did not.
            self.put_back(host, setting.clone())?;
            return Err(failed("write")(source));
        }
        let reads = host.read(path).map_err(failed("read back"))?;
        if reads != new {
            self.append(Entry::ReadsAs { setting, value: reads })?;
        }
        Ok(true)
    }

    /// Keeps what a setting of a server is before the caller changes it there. `None` for one that no server tells.
    pub fn announce(&mut self, setting: &ServerSetting, present: Option<&str>, new: &str) -> Result<(), FootprintError> {
        let known = self.kept.files.iter().find(|held| matches!(&held.setting, Setting::Server(known) if known == setting));
        let setting = Setting::Server(setting.clone());
        match (known, present) {
            // There is nothing to compare: one entry is enough.
            (Some(_), None) => return Ok(()),
            (Some(held), Some(present)) if present == held.old || held.ours.iter().any(|ours| ours == present) => {
                if held.ours.iter().any(|ours| ours == new) {
                    return Ok(());
                }
            }
            // Whoever changed it after us is right: that is what it goes back to.
            (Some(_), Some(_)) => self.append(Entry::Released(setting.clone()))?,
            (None, Some(present)) if present == new => return Ok(()),
            (None, _) => {}
        }
        let old = present.unwrap_or(levers::What::UNTOLD).to_owned();
        self.append(Entry::Change { setting, old, new: new.to_owned() })
    }

    /// Whether it is still to be put back.
    #[must_use]
    pub fn holds(&self, setting: &ServerSetting) -> bool {
        let is = |held: &Held| matches!(&held.setting, Setting::Server(known) if known == setting);
        !self.closed && self.kept.files.iter().any(is)
    }

    /// Forgets settings of earlier lives of a server, which ended with them.
    pub fn outlived(&mut self, server: &str, by: Option<ServerLife>) -> Result<(), FootprintError> {
        let over =
            |held: &Held| matches!(&held.setting, Setting::Server(setting) if setting.server == server && setting.life != by);
        let over: Vec<Setting> = self.kept.files.iter().filter(|held| over(held)).map(|held| held.setting.clone()).collect();
        over.into_iter().try_for_each(|setting| self.append(Entry::Released(setting)))
    }

    /// Puts back what is changed on servers, but for those that are meant.
    pub fn restore_servers(
        &mut self,
        host: &mut impl Settings,
        keep: impl Fn(&ServerSetting) -> bool,
    ) -> Result<Vec<Undone>, FootprintError> {
        let goes = |held: &Held| matches!(&held.setting, Setting::Server(setting) if !keep(setting));
        let goes: Vec<Setting> = self.kept.files.iter().filter(|held| goes(held)).map(|held| held.setting.clone()).collect();
        self.put_all_back(host, goes)
    }

    /// A server that does not answer is asked once, for it takes seconds, and there may be many settings of it.
    fn put_all_back(&mut self, host: &mut impl Settings, settings: Vec<Setting>) -> Result<Vec<Undone>, FootprintError> {
        let (mut told, mut silent) = (Vec::new(), BTreeMap::<String, Verdict>::new());
        for setting in settings {
            let server = if let Setting::Server(one) = &setting { Some(one.server.clone()) } else { None };
            if let Some(verdict) = server.as_ref().and_then(|server| silent.get(server)) {
                let old = self.kept.files.iter().find(|held| held.setting == setting).map(|held| held.old.clone());
                told.extend(old.map(|old| Undone { setting, old, verdict: verdict.clone() }));
                continue;
            }
            let undone = self.put_back(host, setting)?;
            if let (Some(server), Some(Undone { verdict: verdict @ Verdict::Failed { .. }, .. })) = (server, &undone) {
                silent.insert(server, verdict.clone());
            }
            told.extend(undone);
        }
        Ok(told)
    }

    /// Puts one setting back; nothing to say when it is not held.
    pub fn restore(&mut self, host: &mut impl Settings, path: &Path) -> Result<Option<Undone>, FootprintError> {
        self.put_back(host, Setting::File { path: path.to_owned() })
    }

    pub(super) fn put_back(&mut self, host: &mut impl Settings, setting: Setting) -> Result<Option<Undone>, FootprintError> {
        let Some(Held { old, ours, .. }) = self.kept.files.iter().find(|held| held.setting == setting).cloned() else {
            return Ok(None);
        };
        let failed = |error: io::Error| Verdict::Failed { why: error.to_string() };
        // Held by process: see `unbind`.
        if matches!(setting, Setting::Affinity { .. }) {
            return Ok(None);
        }
        let present = present(host, &setting);
        let mut write = || match &setting {
            Setting::File { path } => host.write(path, &old).map(|()| None),
            Setting::Cpuset { dir, .. } => write_cpus(host, &cpus_file(dir), &old),
            Setting::Server(setting) => host.set(setting, &old).map(|()| None),
            Setting::Affinity { .. } => Ok(None),
        };
        let verdict = match present {
            // The second: a cgroup that was removed under the look.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => Verdict::Gone,
            Err(error) => failed(error),
            Ok(Some(present)) if present == old => Verdict::WasOld,
            Ok(Some(present)) if !ours.contains(&present) => Verdict::LeftAlone { present },
            Ok(Some(_) | None) => match write() {
                Ok(None) => Verdict::Restored,
                Ok(Some(value)) => Verdict::RestoredAs { value },
                Err(error) => failed(error),
            },
        };
        if !matches!(verdict, Verdict::Failed { .. }) {
            self.append(Entry::Released(setting.clone()))?;
        }
        Ok(Some(Undone { setting, old, verdict }))
    }

    /// What is kept of a process; of one that was born bound, what the nearest of its ancestors had that is bound.
    #[must_use]
    pub fn former(&self, proc: ProcKey, ancestors: &[ProcKey]) -> Former {
        let bound = &self.kept.bound;
        if let Some(former) = bound.get(&proc) {
            return former.clone();
        }
        let children = std::iter::once(&proc).chain(ancestors);
        let nearest = ancestors.iter().zip(children).find_map(|(parent, child)| Some((bound.get(parent)?, child)));
        // Who was born before its parent was bound has the mask of before.
        let handed_down = nearest.filter(|(former, child)| former.since <= child.start);
        handed_down.map(|(former, _)| former.heir()).unwrap_or_default()
    }

    /// Keeps more of a process before `change` changes it.
    pub fn keep(&mut self, proc: ProcKey, more: Former, change: &mut dyn FnMut()) -> io::Result<()> {
        if self.closed {
            return Err(io::Error::other("all was put back already"));
        }
        let known = self.kept.bound.get(&proc);
        let news = known
            .is_none_or(|known| !more.gave.is_subset(&known.gave) || more.tasks.keys().any(|task| !known.tasks.contains_key(task)));
        if news {
            self.append(Entry::Bound { proc, former: more }).map_err(io::Error::other)?;
        }
        change();
        Ok(())
    }

    /// Lets a process, and those that were born bound by it, run where they could before.
    pub fn unbind(&mut self, host: &mut impl Threads, proc: ProcKey) -> Result<Vec<Undone>, FootprintError> {
        let Some(former) = self.kept.bound.get(&proc) else { return Ok(Vec::new()) };
        let told = unbind(host, proc, former, |heir| self.kept.bound.contains_key(&heir));
        if !told.iter().any(|undone| matches!(undone.verdict, Verdict::Failed { .. })) {
            self.append(Entry::Unbound(proc))?;
        }
        Ok(told)
    }

    /// Puts everything back, settings newest first, and removes the log when nothing is held any more.
    pub fn undo(&mut self, host: &mut (impl Settings + Threads)) -> Result<Vec<Undone>, FootprintError> {
        let mut told = Vec::new();
        // Before affinities: what a cpuset forbids cannot be given back.
        for cgroup in self.cgroups().collect::<Vec<_>>() {
            told.extend(self.free_cgroup(host, cgroup)?);
        }
        for proc in self.bound().collect::<Vec<_>>() {
            told.extend(self.unbind(host, proc)?);
        }
        let rest = self.kept.files.iter().rev().map(|held| held.setting.clone());
        let rest: Vec<Setting> = rest.filter(|setting| !matches!(setting, Setting::Cpuset { .. })).collect();
        told.extend(self.put_all_back(host, rest)?);
        if self.kept.is_empty() {
            match std::fs::remove_file(&self.path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(FootprintError::Log { what: "cannot remove", path: self.path.clone(), source });
                }
                Ok(()) | Err(_) => self.sound = 0,
            }
        }
        Ok(told)
    }

    /// From now on nothing is changed any more: a hand that comes late finds the door shut.
    pub const fn close(&mut self) {
        self.closed = true;
    }

    /// Adds one entry and waits until it is on the medium; then, and only then, it counts.
    fn append(&mut self, entry: Entry) -> Result<(), FootprintError> {
        let mut bytes = Vec::new();
        if self.sound == 0 {
            line(&mut bytes, &Entry::Boot(self.boot.clone()));
        }
        line(&mut bytes, &entry);
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
            // Cuts off a torn tail, or a log of an earlier boot.
            file.set_len(self.sound)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            if self.sound == 0 { self.sync_dir() } else { Ok(()) }
        };
        written().map_err(|source| FootprintError::Log { what: "cannot append to", path: self.path.clone(), source })?;
        self.sound += bytes.len() as u64;
        self.kept.apply(entry);
        if self.sound > LOG_MOST { self.renew() } else { Ok(()) }
    }

    /// Writes the log anew, with what is held and nothing else, if that is far less.
    fn renew(&mut self) -> Result<(), FootprintError> {
        let mut bytes = Vec::new();
        line(&mut bytes, &Entry::Boot(self.boot.clone()));
        for Held { setting, old, ours } in &self.kept.files {
            for new in ours {
                line(&mut bytes, &Entry::Change { setting: setting.clone(), old: old.clone(), new: new.clone() });
            }
        }
        for (&proc, former) in &self.kept.bound {
            line(&mut bytes, &Entry::Bound { proc, former: former.clone() });
        }
        if bytes.len() as u64 > self.sound / 2 {
            return Ok(());
        }
        let fresh = self.path.with_file_name("footprint.new");
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            std::fs::rename(&fresh, &self.path)?;
            self.sync_dir()
        };
        written().map_err(|source| FootprintError::Log { what: "cannot renew", path: self.path.clone(), source })?;
        self.sound = bytes.len() as u64;
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

/// `None`: nobody can tell it.
pub(super) fn present(host: &impl Settings, setting: &Setting) -> io::Result<Option<String>> {
    match setting {
        Setting::File { path } => host.read(path).map(Some),
        Setting::Cpuset { cgroup, dir } if host.cgroup(dir)? != *cgroup => Err(io::ErrorKind::NotFound.into()),
        Setting::Cpuset { cgroup: _, dir } => host.read(&cpus_file(dir)).map(Some),
        Setting::Server(setting) => host.ask(setting),
        Setting::Affinity { .. } => Ok(None),
    }
}

fn line(out: &mut Vec<u8>, entry: &Entry) {
    let json = serde_json::to_string(entry).expect("an entry has only strings and paths that came from strings");
    out.extend_from_slice(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).as_bytes());
}

/// What the log holds, and how much of it is sound.
fn fold(bytes: &[u8], boot: &str) -> (Kept, u64) {
    let (mut kept, mut sound) = (Kept::default(), 0);
    for (number, text) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        let Some(entry) = parse(text) else { break };
        if let Entry::Boot(of) = &entry {
            if of != boot {
                return (Kept::default(), 0);
            }
        } else if number == 0 {
            break;
        }
        kept.apply(entry);
        sound += text.len() as u64;
    }
    (kept, sound)
}

fn parse(line: &[u8]) -> Option<Entry> {
    let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (crc, json) = text.split_at_checked(8)?;
    let json = json.strip_prefix(' ')?;
    (u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(json.as_bytes())).then(|| serde_json::from_str(json).ok())?
}

impl Kept {
    fn is_empty(&self) -> bool {
        let Self { files, bound } = self;
        files.is_empty() && bound.is_empty()
    }

    fn apply(&mut self, entry: Entry) {
        let Self { files, bound } = self;
        match entry {
            Entry::Boot(_) => {}
            Entry::Change { setting, old, new } => match files.iter_mut().find(|h| h.setting == setting) {
                Some(known) => known.ours.push(new),
                None => files.push(Held { setting, old, ours: vec![new] }),
            },
            Entry::ReadsAs { setting, value } => {
                if let Some(known) = files.iter_mut().find(|h| h.setting == setting) {
                    known.ours.push(value);
                }
            }
            Entry::Released(setting) => files.retain(|h| h.setting != setting),
            Entry::Bound { proc, former } => bound.entry(proc).or_default().add(former),
            Entry::Unbound(proc) => drop(bound.remove(&proc)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::unbind::Looked;
    use crate::sys::tasks::Task;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Table(BTreeMap<String, String>);

    impl Settings for Table {
        fn read(&self, path: &Path) -> io::Result<String> {
            self.0.get(&path.display().to_string()).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        }
        fn write(&mut self, path: &Path, value: &str) -> io::Result<()> {
            *self.0.get_mut(&path.display().to_string()).ok_or(io::ErrorKind::NotFound)? = value.to_owned();
            Ok(())
        }
    }

    /// Nobody is bound here.
    impl Threads for Table {
        fn online(&mut self) -> io::Result<CpuMask> {
            Ok(CpuMask::every())
        }
        fn pass(&mut self, _: ProcKey, _: &mut dyn FnMut(&Task) -> Option<CpuMask>) -> io::Result<Option<Vec<Looked>>> {
            Ok(None)
        }
        fn processes(&mut self) -> io::Result<Vec<(ProcKey, u32)>> {
            Ok(Vec::new())
        }
    }

    fn table() -> Table {
        Table((0..3).map(|i| (format!("s{i}"), format!("old{i}"))).collect())
    }

    #[test]
    fn a_pause_outlives_the_daemon_and_an_undo() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let open = || Footprint::open(dir.path(), "boot").expect("a log");
        assert_eq!(open().paused(), None);
        open().pause("uid 0").expect("room");
        open().undo(&mut table()).expect("nothing to undo");
        assert_eq!(open().paused().as_deref(), Some("uid 0"));
        open().resume().expect("removed");
        open().resume().expect("removed already");
        assert_eq!(open().paused(), None);
        // What cannot be read is a pause.
        std::fs::create_dir(dir.path().join("paused")).expect("room");
        assert!(open().paused().is_some_and(|by| by.starts_with("somebody (")), "{:?}", open().paused());
    }

    #[test]
    fn the_kernel_s_way_to_print_a_choice() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("60\n"), "60");
    }

    #[test]
    fn restores_ours_and_leaves_what_others_set() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut host = table();
        let mut foot = Footprint::open(dir.path(), "boot").expect("empty");
        for (name, new) in [("s0", "a"), ("s1", "b"), ("s0", "c"), ("s2", "d")] {
            foot.change(&mut host, Path::new(name), new).expect("change");
        }
        host.0.insert("s1".into(), "theirs".into());
        host.0.remove("s2");
        // Killed: a new process reads what the log says.
        let mut foot = Footprint::open(dir.path(), "boot").expect("reopen");
        let told = foot.undo(&mut host).expect("undo");
        let verdicts: Vec<_> = told.iter().map(|u| (u.setting.to_string(), u.verdict.clone())).collect();
        let left = Verdict::LeftAlone { present: "theirs".into() };
        assert_eq!(verdicts, [("s2".into(), Verdict::Gone), ("s1".into(), left), ("s0".into(), Verdict::Restored)]);
        assert_eq!(host.0["s0"], "old0");
        assert_eq!(foot.undo(&mut host).expect("again"), []);
        assert!(!dir.path().join("footprint.log").exists());
    }

    #[test]
    fn a_log_of_another_boot_is_void() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut host = table();
        Footprint::open(dir.path(), "boot").expect("open").change(&mut host, Path::new("s0"), "new").expect("change");
        let mut foot = Footprint::open(dir.path(), "reboot").expect("open");
        assert_eq!(foot.undo(&mut host).expect("undo"), []);
        assert_eq!(host.0["s0"], "new");
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_held() {
        let dir = tempfile::tempdir().expect("temporary directory");
        struct Frozen;
        impl Settings for Frozen {
            fn read(&self, _: &Path) -> io::Result<String> {
                Ok("old".into())
            }
            fn write(&mut self, _: &Path, _: &str) -> io::Result<()> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        let mut foot = Footprint::open(dir.path(), "boot").expect("open");
        let told = foot.change(&mut Frozen, Path::new("s0"), "new").expect_err("frozen").to_string();
        assert!(told.starts_with("cannot write s0"), "{told}");
        assert_eq!(foot.held(), []);
    }

    proptest! {
        /// Cut the log anywhere after the last change that took place (the sync comes before the write): undo puts all back.
        #[test]
        fn any_torn_tail_is_safe(changes in prop::collection::vec((0..3u8, 0..3u8), 1..8), stop in 0..8usize, cut in 0.0..1.0f64) {
            let dir = tempfile::tempdir().expect("temporary directory");
            let log = dir.path().join("footprint.log");
            let mut host = table();
            let mut foot = Footprint::open(dir.path(), "boot").expect("open");
            for (i, (name, value)) in changes.iter().enumerate() {
                let before = (host.clone(), std::fs::read(&log).unwrap_or_default().len());
                foot.change(&mut host, Path::new(&format!("s{name}")), &format!("v{value}")).expect("change");
                if i == stop {
                    // Killed inside this change, before its write: only part of its entry is there.
                    let bytes = std::fs::read(&log).unwrap_or_default();
                    let keep = before.1 + ((bytes.len() - before.1) as f64 * cut) as usize;
                    std::fs::write(&log, &bytes[..keep]).expect("cut");
                    host = before.0;
                    break;
                }
            }
            let mut foot = Footprint::open(dir.path(), "boot").expect("reopen");
            foot.undo(&mut host).expect("undo");
            prop_assert_eq!(&host, &table());
            prop_assert_eq!(foot.undo(&mut host).expect("again"), []);
        }
    }
}
