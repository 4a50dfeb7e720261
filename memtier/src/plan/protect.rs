//! What is never touched, whatever the configuration says, `--all` included.
//!
//! Names only ever add protection: a process that calls itself sshd is left alone, and no name takes protection away.
//! Pages that are locked or pinned inside an ordinary process are kept out by `eligible_ranges` of the process model.

use super::targets::glob;
use crate::vocab::{HostFacts, ProcSample, SchedClass};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a process is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    Init,
    KernelThread,
    Memtier,
    RealTime,
    IoFlusher,
    OomExempt,
    Locked,
    RemoteLogin,
    Journal,
    MessageBus,
    ContainerRuntime,
    Virtualization,
    BacksStorage,
}

impl Protection {
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Init => "it is pid 1",
            Self::KernelThread => "it is a kernel thread",
            Self::Memtier => "it is memtier itself",
            Self::RealTime => "it runs in a real-time or deadline class",
            Self::IoFlusher => "it is on the I/O path (PR_SET_IO_FLUSHER)",
            Self::OomExempt => "its oom_score_adj is -1000",
            Self::Locked => "all of its memory is locked or pinned",
            Self::RemoteLogin => "it serves remote logins",
            Self::Journal => "it writes the journal",
            Self::MessageBus => "it is the message bus",
            Self::ContainerRuntime => "it is a container runtime",
            Self::Virtualization => "it manages virtual machines",
            Self::BacksStorage => "it backs a filesystem, a block device or swap: paging it out can deadlock reclaim",
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why())
    }
}

/// Matched against the name of the process and of its executable. The kernel cuts process names at 15 bytes.
const NAMES: &[(&str, Protection)] = &[
    ("sshd", Protection::RemoteLogin),
    ("sshd-*", Protection::RemoteLogin),
    ("dropbear", Protection::RemoteLogin),
    ("systemd-journal*", Protection::Journal),
    ("dbus-daemon", Protection::MessageBus),
    ("dbus-broker*", Protection::MessageBus),
    ("containerd", Protection::ContainerRuntime),
    ("containerd-*", Protection::ContainerRuntime),
    ("dockerd", Protection::ContainerRuntime),
    ("cri-dockerd", Protection::ContainerRuntime),
    ("crio", Protection::ContainerRuntime),
    ("runc", Protection::ContainerRuntime),
    ("crun", Protection::ContainerRuntime),
    ("conmon", Protection::ContainerRuntime),
    ("conmonrs", Protection::ContainerRuntime),
    ("podman", Protection::ContainerRuntime),
    ("lxd", Protection::ContainerRuntime),
    ("incusd", Protection::ContainerRuntime),
    ("lxc-*", Protection::ContainerRuntime),
    ("runsc*", Protection::ContainerRuntime),
    ("youki", Protection::ContainerRuntime),
    ("buildkitd", Protection::ContainerRuntime),
    ("systemd-nspawn*", Protection::ContainerRuntime),
    ("libvirtd", Protection::Virtualization),
    ("virtqemud", Protection::Virtualization),
    ("virtlogd", Protection::Virtualization),
    ("virtlockd", Protection::Virtualization),
    ("virtiofsd", Protection::BacksStorage),
    ("fuse*", Protection::BacksStorage),
    ("mount.*", Protection::BacksStorage),
    ("ntfs-3g", Protection::BacksStorage),
    ("lowntfs-3g", Protection::BacksStorage),
    ("glusterfs*", Protection::BacksStorage),
    ("ceph-fuse", Protection::BacksStorage),
    ("gcsfuse", Protection::BacksStorage),
    ("s3fs", Protection::BacksStorage),
    ("rclone", Protection::BacksStorage),
    ("mergerfs*", Protection::BacksStorage),
    ("juicefs", Protection::BacksStorage),
    ("gocryptfs", Protection::BacksStorage),
    ("bindfs", Protection::BacksStorage),
    ("sshfs", Protection::BacksStorage),
    ("lxcfs", Protection::BacksStorage),
    ("squashfuse*", Protection::BacksStorage),
    ("nbd-client", Protection::BacksStorage),
    ("nbdkit", Protection::BacksStorage),
    ("qemu-nbd", Protection::BacksStorage),
    ("ublk*", Protection::BacksStorage),
    ("iscsid", Protection::BacksStorage),
    ("tgtd", Protection::BacksStorage),
    ("multipathd", Protection::BacksStorage),
    ("dmeventd", Protection::BacksStorage),
];

/// The first protection that holds, if any.
#[must_use]
pub fn protection(sample: &ProcSample, facts: &HostFacts) -> Option<Protection> {
    let pid = sample.proc.pid;
    if pid == 1 {
        return Some(Protection::Init);
    }
    if sample.kernel_thread {
        return Some(Protection::KernelThread);
    }
    if pid == facts.own_pid {
        return Some(Protection::Memtier);
    }
    match sample.class {
        SchedClass::RealTime | SchedClass::Deadline => return Some(Protection::RealTime),
        SchedClass::Normal => {}
    }
    if sample.io_flusher {
        return Some(Protection::IoFlusher);
    }
    if sample.oom_score_adj <= -1000 {
        return Some(Protection::OomExempt);
    }
    if sample.locked.0 > 0 && sample.locked >= sample.rss {
        return Some(Protection::Locked);
    }
    let file = sample.exe.rsplit('/').next().unwrap_or_default().trim_end_matches(" (deleted)");
    NAMES.iter().find(|(name, _)| glob(name, &sample.comm) || glob(name, file)).map(|&(_, why)| why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{Bytes, ProcKey};

    fn ordinary() -> ProcSample {
        ProcSample {
            proc: ProcKey { pid: 500, start: 9 },
            comm: "memcached".into(),
            exe: "/usr/bin/memcached".into(),
            rss: Bytes::from_mib(100),
            ..ProcSample::default()
        }
    }

    fn check(change: impl FnOnce(&mut ProcSample), expect: Option<Protection>) {
        let mut sample = ordinary();
        change(&mut sample);
        let facts = HostFacts { own_pid: 77, ..HostFacts::default() };
        assert_eq!(protection(&sample, &facts), expect, "{sample:?}");
    }

    #[test]
    fn each_protection_holds() {
        check(|_| {}, None);
        check(|s| s.proc.pid = 1, Some(Protection::Init));
        check(|s| s.kernel_thread = true, Some(Protection::KernelThread));
        check(|s| s.proc.pid = 77, Some(Protection::Memtier));
        check(|s| s.class = SchedClass::RealTime, Some(Protection::RealTime));
        check(|s| s.class = SchedClass::Deadline, Some(Protection::RealTime));
        check(|s| s.io_flusher = true, Some(Protection::IoFlusher));
        check(|s| s.oom_score_adj = -1000, Some(Protection::OomExempt));
        check(|s| s.oom_score_adj = -999, None);
        check(|s| s.locked = s.rss, Some(Protection::Locked));
        check(|s| s.locked = Bytes::from_mib(99), None);
        check(|s| s.rss = Bytes::ZERO, None);
    }

    #[test]
    fn names_protect_by_comm_and_by_file() {
        for (name, _) in NAMES {
            let name = name.replace('*', "x");
            check(|s| s.exe = format!("/opt/{name} (deleted)"), protection_of(&name));
            check(|s| s.comm = name.clone(), protection_of(&name));
        }
        check(|s| s.comm = "systemd-journal".into(), Some(Protection::Journal));
        check(|s| s.comm = "containerd-shim".into(), Some(Protection::ContainerRuntime));
        check(|s| s.comm = "sshdx".into(), None);
    }

    fn protection_of(name: &str) -> Option<Protection> {
        NAMES.iter().find(|(pattern, _)| glob(pattern, name)).map(|&(_, why)| why)
    }

    #[test]
    fn a_name_never_takes_protection_away() {
        check(|s| (s.proc.pid, s.comm) = (1, "memcached".into()), Some(Protection::Init));
        check(|s| (s.exe, s.comm) = ("/usr/sbin/sshd".into(), "memcached".into()), Some(Protection::RemoteLogin));
    }
}
