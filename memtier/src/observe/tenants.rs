//! Processes as numad looks at them: all of them briefly, and a few of them closely.

use crate::compat::numad::{Allowed, Mode, PageSizes, Spread, Tenant, Ticks};
use crate::sys::files::{ReadError, Root, field, number_list};
use crate::vocab::{Bytes, CpuId, NodeId};
use std::collections::BTreeSet;

/// Those that live, by pid: all, or those `wanted`. One whose line in /proc cannot be read is left out.
pub fn tenants(root: &Root, wanted: Option<&BTreeSet<u32>>, mode: Mode) -> Result<Vec<Tenant>, ReadError> {
    let ticks = Ticks { per_second: procfs::ticks_per_second(), page: procfs::page_size() };
    let mut pids: Vec<u32> = match wanted {
        Some(wanted) => wanted.iter().copied().collect(),
        None => root.list("/proc")?.iter().filter_map(|name| name.parse().ok()).collect(),
    };
    pids.sort_unstable();
    let one = |pid| Tenant::of(&root.text(format!("/proc/{pid}/stat")).ok()?, ticks, mode);
    Ok(pids.into_iter().filter_map(one).collect())
}

/// Where others let a process be; `None`: it is gone, or says nothing that makes sense.
#[must_use]
pub fn allowed(root: &Root, pid: u32) -> Option<Allowed> {
    let text = root.text(format!("/proc/{pid}/status")).ok()?;
    let list = |key: &str| number_list(text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?);
    let nodes = list("Mems_allowed_list")?.into_iter().filter_map(|node| node.try_into().ok()).map(NodeId).collect();
    Some(Allowed { nodes, cpus: list("Cpus_allowed_list")?.into_iter().map(CpuId).collect() })
}

/// Where its memory lies; `None`: it is gone, or we may not look.
#[must_use]
pub fn spread(root: &Root, pid: u32, sizes: PageSizes, mode: Mode) -> Option<Spread> {
    Some(Spread::of(&root.text(format!("/proc/{pid}/numa_maps")).ok()?, sizes, mode))
}

#[must_use]
pub fn command_line(root: &Root, pid: u32) -> Option<Vec<u8>> {
    root.bytes(format!("/proc/{pid}/cmdline")).ok()
}

pub fn page_sizes(root: &Root) -> Result<PageSizes, ReadError> {
    // A kernel without huge pages says nothing of them.
    let huge = field(&root.text("/proc/meminfo")?, "Hugepagesize").map_or(Bytes(2 << 20), Bytes::from_kib);
    Ok(PageSizes { base: Bytes(procfs::page_size()), huge })
}
