//! Identities that survive reuse of the small numbers behind them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A process: its pid together with its start time, so that a reused pid is another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcKey {
    pub pid: u32,
    /// Start in clock ticks (1/100 s) since boot: field 22 of /proc/PID/stat, task_struct.start_boottime / 10 ms.
    pub start: u64,
}

/// Kernel id of a cgroup: its inode number in the hierarchy that accounts memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CgroupId(pub u64);

/// NUMA node number as the kernel gives it; may be sparse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u16);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuId(pub u32);

/// Who asked for a step. The order is the arbiter's last tie-break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyId {
    /// Decides which processes are looked at and when.
    Watch,
    /// Decides which accessed bits are cleared so that the next look says something.
    Arm,
    /// etmem's slide: pages counted fewer than T accesses in n scans go out.
    Slide,
    /// Pages out the oldest idle ages whose predicted promotion rate stays under the SLO.
    Autocold,
}

impl PolicyId {
    pub const ALL: [Self; 4] = [Self::Watch, Self::Arm, Self::Slide, Self::Autocold];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Arm => "arm",
            Self::Slide => "slide",
            Self::Autocold => "autocold",
        }
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
impl fmt::Display for ProcKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)
    }
}
impl fmt::Display for CgroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cgroup {}", self.0)
    }
}
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}
impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu {}", self.0)
    }
}
