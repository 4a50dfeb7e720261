//! Where cgroups are mounted, version 1 and 2, and which one a process is in.

use super::files::{ReadError, Root, unescape};
use crate::vocab::CgroupId;
use procfs::process::{MountInfo, MountInfos};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// The hierarchy that accounts memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub version: Version,
    /// Where it is mounted, as seen on the host.
    pub mount: PathBuf,
    /// The cgroup that the mount shows as its root.
    pub base: String,
}

impl Hierarchy {
    /// Version 1's memory controller where it is mounted, else version 2 (a controller is in one hierarchy only).
    pub fn find(root: &Root) -> Result<Option<Self>, ReadError> {
        Ok(Self::among(&root.parse::<MountInfos>("/proc/self/mountinfo")?))
    }

    #[must_use]
    pub fn among(mounts: &MountInfos) -> Option<Self> {
        let v1 = mounts.iter().find(|m| m.fs_type == "cgroup" && m.super_options.contains_key("memory"));
        let v2 = || mounts.iter().find(|m| m.fs_type == "cgroup2");
        let of = |version, m: &MountInfo| Self {
            version,
            mount: PathBuf::from(unescape(&m.mount_point.to_string_lossy()).as_ref()),
            base: unescape(&m.root).into_owned(),
        };
        v1.map(|m| of(Version::V1, m)).or_else(|| v2().map(|m| of(Version::V2, m)))
    }

    /// A process's cgroup in this hierarchy, from the text of its /proc/PID/cgroup ("5:cpu,memory:/a:b").
    #[must_use]
    pub fn path_in<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let ours = match self.version {
                Version::V1 => controllers.split(',').any(|c| c == "memory"),
                Version::V2 => number == "0",
            };
            ours.then_some(path)
        })
    }

    /// The directory of a cgroup; `None` for one outside of what is mounted (another cgroup namespace).
    #[must_use]
    pub fn dir(&self, path: &str) -> Option<PathBuf> {
        let inside = Path::new(path).strip_prefix(&self.base).ok()?;
        let below = |c: std::path::Component<'_>| matches!(c, std::path::Component::Normal(_));
        inside.components().all(below).then(|| self.mount.join(inside))
    }

    /// Kernel id: the inode of the directory. Zero for a cgroup that is gone or out of sight.
    #[must_use]
    pub fn id(&self, root: &Root, path: &str) -> CgroupId {
        let inode = self.dir(path).and_then(|dir| root.path(dir).metadata().ok());
        CgroupId(inode.map_or(0, |m| m.ino()))
    }
}
