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

/// A set of CPU or node numbers: disjoint inclusive ranges that do not touch, ascending. As short as the kernel's own lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdSet(Vec<(u32, u32)>);

impl IdSet {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|(low, high)| (high - low) as usize + 1).sum()
    }
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|&(low, high)| low <= id && id <= high)
    }
    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|&(low, high)| low..=high)
    }
    /// Memory that hangs on it.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.0.len() * size_of::<(u32, u32)>()
    }
}

impl FromIterator<u32> for IdSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for id in ids {
            match ranges.last_mut() {
                Some((_, high)) if id - *high <= 1 => *high = id,
                Some(_) | None => ranges.push((id, id)),
            }
        }
        Self(ranges)
    }
}

impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (low, high)) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            if low == high { write!(f, "{comma}{low}") } else { write!(f, "{comma}{low}-{high}") }?;
        }
        Ok(())
    }
}

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
    /// Brings threads and memory of a process together on the nodes that suit it.
    Numa,
    /// Keeps what is in use on fast nodes, and what is not on slow ones.
    Tier,
    /// Has pages of memcached servers in the classes in which they earn hits.
    SlabMarginal,
    /// memcached's automover script for servers with flash.
    SlabExtstore,
    /// Its sister, for servers without.
    SlabAutomove,
}

impl PolicyId {
    pub const ALL: [Self; 9] = [
        Self::Watch,
        Self::Arm,
        Self::Slide,
        Self::Autocold,
        Self::Numa,
        Self::Tier,
        Self::SlabMarginal,
        Self::SlabExtstore,
        Self::SlabAutomove,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Arm => "arm",
            Self::Slide => "slide",
            Self::Autocold => "autocold",
            Self::Numa => "numa",
            Self::Tier => "tier",
            Self::SlabMarginal => "slab-marginal",
            Self::SlabExtstore => "slab-extstore",
            Self::SlabAutomove => "slab-automove",
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
