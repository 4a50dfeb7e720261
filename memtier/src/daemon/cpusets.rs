//! Cgroups that are bound, as the footprint keeps them: `cpuset.cpus` goes back while it still holds what memtier wrote, to that very
//! cgroup. One of the same name that was made later is another, and one that is gone took the setting with it.

use super::footprint::{Footprint, FootprintError, Held, Setting, Settings, Undone, present};
use crate::sys::affinity::CpuMask;
use crate::vocab::CgroupId;
use std::io;
use std::path::{Path, PathBuf};

pub(super) fn cpus_file(dir: &Path) -> PathBuf {
    dir.join("cpuset.cpus")
}

/// An empty one is written as a line end. The kernel takes none while somebody is in the cgroup; every CPU that there may ever be
/// does the same, and is told.
pub(super) fn write_cpus(host: &mut impl Settings, path: &Path, cpus: &str) -> io::Result<Option<String>> {
    if !cpus.is_empty() {
        return host.write(path, cpus).map(|()| None);
    }
    match host.write(path, "\n") {
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
            let every = host.read(Path::new("/sys/devices/system/cpu/possible"))?;
            host.write(path, &every).map(|()| Some(every))
        }
        written => written.map(|()| None),
    }
}

impl Footprint {
    /// Cgroups that are bound.
    pub fn cgroups(&self) -> impl Iterator<Item = CgroupId> {
        self.changed().iter().filter_map(|held| match &held.setting {
            Setting::Cpuset { cgroup, .. } => Some(*cgroup),
            Setting::File { .. } | Setting::Affinity { .. } | Setting::Server(_) => None,
        })
    }

    /// What a cgroup's `cpuset.cpus` held before we wrote it. None where we did not, or somebody else did since.
    #[must_use]
    pub fn cpuset_had(&self, host: &impl Settings, cgroup: CgroupId) -> Option<String> {
        let held = self.changed().iter().find(|held| matches!(held.setting, Setting::Cpuset { cgroup: of, .. } if of == cgroup))?;
        let present = present(host, &held.setting).ok().flatten()?;
        held.ours.contains(&present).then(|| held.old.clone())
    }

    /// Binds a cgroup, after the log knows how to put it back. False: somebody else bound it since, and that stays.
    pub fn set_cpuset(&mut self, host: &mut impl Settings, cgroup: CgroupId, dir: &Path, cpus: &CpuMask) -> io::Result<bool> {
        if self.is_closed() {
            return Err(io::Error::other("all was put back already"));
        }
        let setting = Setting::Cpuset { cgroup, dir: dir.to_owned() };
        self.change_file(host, setting, &cpus_file(dir), &cpus.to_string()).map_err(io::Error::other)
    }

    /// Lets a cgroup run where it could before.
    pub fn free_cgroup(&mut self, host: &mut impl Settings, cgroup: CgroupId) -> Result<Vec<Undone>, FootprintError> {
        let of = |held: &&Held| matches!(held.setting, Setting::Cpuset { cgroup: of, .. } if of == cgroup);
        let goes: Vec<Setting> = self.changed().iter().filter(of).map(|held| held.setting.clone()).collect();
        let mut told = Vec::new();
        for setting in goes {
            told.extend(self.put_back(host, setting)?);
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::super::footprint::Verdict;
    use super::super::unbind::{Looked, Threads};
    use super::*;
    use crate::sys::tasks::Task;
    use crate::vocab::ProcKey;

    const ID: CgroupId = CgroupId(5);
    const DIR: &str = "/g";

    /// Cgroups of one host: who is in them, and their CPUs.
    #[derive(Clone, Default)]
    struct Host {
        id: Option<CgroupId>,
        cpus: String,
        /// Somebody is in it: then the kernel takes no empty value.
        inhabited: bool,
    }

    impl Settings for Host {
        fn read(&self, path: &Path) -> io::Result<String> {
            match (path.to_str(), self.id) {
                (Some("/sys/devices/system/cpu/possible"), _) => Ok("0-7".into()),
                (Some("/g/cpuset.cpus"), Some(_)) => Ok(self.cpus.clone()),
                (_, None | Some(_)) => Err(io::ErrorKind::NotFound.into()),
            }
        }
        fn write(&mut self, path: &Path, value: &str) -> io::Result<()> {
            self.read(path)?;
            if value.trim().is_empty() && self.inhabited {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            assert!(!value.is_empty(), "nothing would be written");
            value.trim().clone_into(&mut self.cpus);
            Ok(())
        }
        fn cgroup(&self, dir: &Path) -> io::Result<CgroupId> {
            self.id.filter(|_| dir == Path::new(DIR)).ok_or(io::ErrorKind::NotFound.into())
        }
    }

    /// Nobody is bound by affinity here.
    impl Threads for Host {
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

    fn mask(text: &str) -> CpuMask {
        CpuMask::parse(text).expect("a list")
    }

    /// Held `had`, bound to 0-1; then the daemon was killed, and another process reads what the log says.
    fn bound(run: &Path, had: &str) -> (Footprint, Host) {
        let mut host = Host { id: Some(ID), cpus: had.into(), inhabited: false };
        let mut foot = Footprint::open(run, "boot").expect("empty");
        assert!(foot.set_cpuset(&mut host, ID, Path::new(DIR), &mask("0-1")).expect("writes"));
        assert_eq!((host.cpus.as_str(), foot.cpuset_had(&host, ID).as_deref()), ("0-1", Some(had)));
        (Footprint::open(run, "boot").expect("reopens"), host)
    }

    fn undone(foot: &mut Footprint, host: &mut Host) -> Vec<String> {
        foot.undo(host).expect("undoes").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_it_held_goes_back_and_the_log_goes() {
        let every = "restored to \"0-7\", which does what \"\" did: that is not taken while somebody is in it";
        for (had, inhabited, now, told) in
            [("", false, "", "restored to \"\""), ("2-3", true, "2-3", "restored to \"2-3\""), ("", true, "0-7", every)]
        {
            let run = tempfile::tempdir().expect("temporary directory");
            let (mut foot, mut host) = bound(run.path(), had);
            host.inhabited = inhabited;
            assert_eq!(undone(&mut foot, &mut host), [format!("/g/cpuset.cpus: {told}")]);
            assert_eq!(host.cpus, now);
            assert_eq!((foot.undo(&mut host).expect("again"), foot.cgroups().count()), (vec![], 0));
            assert!(!run.path().join("footprint.log").exists());
        }
    }

    #[test]
    fn what_somebody_set_and_what_is_gone_is_left() {
        let run = tempfile::tempdir().expect("temporary directory");
        let (mut foot, mut host) = bound(run.path(), "");
        host.cpus = "3".into();
        assert_eq!(foot.cpuset_had(&host, ID), None);
        let left = "/g/cpuset.cpus: left alone, somebody set it to \"3\" after memtier (it was \"\" before)";
        assert_eq!((undone(&mut foot, &mut host), host.cpus.as_str()), (vec![left.to_owned()], "3"));
        // Bound once more by the daemon, it stays theirs.
        let (mut foot, mut host) = bound(run.path(), "");
        host.cpus = "3".into();
        for _ in 0..2 {
            assert!(!foot.set_cpuset(&mut host, ID, Path::new(DIR), &mask("0")).expect("looks"));
        }
        assert_eq!((host.cpus.as_str(), foot.cgroups().count()), ("3", 1));
        // Gone, and another one in its place.
        for id in [None, Some(CgroupId(6))] {
            let (mut foot, mut host) = bound(run.path(), "");
            host.id = id;
            assert_eq!(undone(&mut foot, &mut host), ["/g/cpuset.cpus: left alone, it does not exist any more"]);
            assert_eq!(host.cpus, "0-1");
        }
    }

    #[test]
    fn one_is_freed_and_what_cannot_be_stays_held() {
        struct Frozen(Host);
        impl Settings for Frozen {
            fn read(&self, path: &Path) -> io::Result<String> {
                self.0.read(path)
            }
            fn write(&mut self, _: &Path, _: &str) -> io::Result<()> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
            fn cgroup(&self, dir: &Path) -> io::Result<CgroupId> {
                self.0.cgroup(dir)
            }
        }
        let run = tempfile::tempdir().expect("temporary directory");
        let (mut foot, mut host) = bound(run.path(), "");
        let told = foot.free_cgroup(&mut Frozen(host.clone()), ID).expect("the log takes it");
        assert!(matches!(&told[..], [Undone { verdict: Verdict::Failed { .. }, .. }]), "{told:?}");
        assert_eq!(foot.cgroups().collect::<Vec<_>>(), [ID]);
        foot.free_cgroup(&mut host, CgroupId(6)).expect("nothing to do");
        assert_eq!(host.cpus, "0-1");
        assert_eq!(foot.free_cgroup(&mut host, ID).expect("frees").len(), 1);
        assert_eq!((host.cpus.as_str(), foot.cgroups().count()), ("", 0));
        // When all was put back for good, a hand that comes late finds the door shut.
        foot.close();
        foot.set_cpuset(&mut host, ID, Path::new(DIR), &mask("0")).expect_err("shut");
        assert_eq!(host.cpus, "");
    }
}
