//! Where paged-out memory goes: room, what a stored byte costs in memory, whether writing wears, and what comes back.

use super::capped::Capped;
use super::series::{MINUTE, Series};
use crate::vocab::{
    Bytes, CgroupId, CgroupSample, Event, HostSample, Pages, Permil, Sample, Stamped, SwapBacking, SwapSample, Time,
};
use serde::{Deserialize, Serialize};

const CGROUPS: usize = 2_048;
/// A zram area that holds less than this has not shown yet how well its pages compress.
const TELLING: Bytes = Bytes::from_mib(4);

/// What the next bytes paged out will cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapCost {
    /// Memory per stored byte; none while an area that will be used has not shown it.
    pub memory: Option<Permil>,
    /// Share of the bytes that is written to flash or disk.
    pub wears: Permil,
    /// Room left in these areas.
    pub room: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    host: Option<(Time, HostSample)>,
    swapped_in: Series,
    swapped_out: Series,
    refaults: Series,
    cgroups: Capped<CgroupId, CgroupSample, CGROUPS>,
}

impl Swap {
    pub(super) fn fold(&mut self, stamped: &Stamped) {
        let at = stamped.at;
        match &stamped.event {
            Event::Sample(Sample::Host(host)) => {
                self.swapped_in.set(at, host.swapped_in.0);
                self.swapped_out.set(at, host.swapped_out.0);
                self.refaults.set(at, host.refault_anon.0);
                self.host = Some((at, (**host).clone()));
            }
            Event::Sample(Sample::Cgroup(group)) => {
                if self.cgroups.get(&group.id).is_none() {
                    // A cgroup made anew has the path of the one that was removed, and not its limits.
                    let same = self.cgroups.iter().filter(|(_, old)| old.path == group.path).map(|(id, _)| *id);
                    for removed in same.collect::<Vec<_>>() {
                        self.cgroups.remove(&removed);
                    }
                }
                *self.cgroups.touch(at, group.id) = group.clone();
            }
            Event::Sample(
                Sample::Proc(_)
                | Sample::Maps(_)
                | Sample::Pages(_)
                | Sample::Pressure(_)
                | Sample::Sched(_)
                | Sample::Reclaim(_)
                | Sample::Nodes(_)
                | Sample::Cache(_),
            )
            | Event::Kernel(_)
            | Event::Facts(_)
            | Event::Config(_)
            | Event::Lost { .. }
            | Event::Blind { .. }
            | Event::Sight { .. }
            | Event::Request(_)
            | Event::Outcome(_) => {}
        }
    }

    /// The host's memory and swap as last sampled.
    #[must_use]
    pub fn host(&self) -> Option<&HostSample> {
        self.host.as_ref().map(|(_, h)| h)
    }
    #[must_use]
    pub fn areas(&self) -> &[SwapSample] {
        self.host().map_or(&[], |h| &h.swaps)
    }
    #[must_use]
    pub fn total(&self) -> Bytes {
        self.host().map_or(Bytes::ZERO, |h| h.swap_total)
    }
    #[must_use]
    pub fn free(&self) -> Bytes {
        self.host().map_or(Bytes::ZERO, |h| h.swap_free)
    }
    /// Free swap of all swap; 0 where there is none.
    #[must_use]
    pub fn free_permil(&self) -> Permil {
        Permil::of(self.free().0, self.total().0)
    }
    /// What the kernel will use next: the areas of the highest priority that have room, in turn. None without room.
    #[must_use]
    pub fn cost(&self) -> Option<SwapCost> {
        let top = self.areas().iter().filter(|a| room(a) > Bytes::ZERO).map(|a| a.priority).max()?;
        let next: Vec<&SwapSample> = self.areas().iter().filter(|a| a.priority == top && room(a) > Bytes::ZERO).collect();
        // Areas of one priority take turns, so each counts alike.
        let count = next.len() as u64;
        let memory: Option<u64> = next.iter().map(|a| area_cost(a).map(|c| c.0)).sum();
        let wearing = next.iter().filter(|a| wears(a.backing)).count() as u64;
        Some(SwapCost {
            memory: memory.map(|sum| Permil(sum / count)),
            wears: Permil::of(wearing, count),
            room: next.iter().map(|a| room(a)).sum(),
        })
    }
    /// Memory that a stored byte costs where the next ones go; none when unknown.
    #[must_use]
    pub fn cost_permil(&self) -> Option<Permil> {
        self.cost()?.memory
    }
    #[must_use]
    pub fn swapped_in_per_min(&self, now: Time) -> Pages {
        Pages(self.swapped_in.per_min(now, MINUTE))
    }
    #[must_use]
    pub fn swapped_out_per_min(&self, now: Time) -> Pages {
        Pages(self.swapped_out.per_min(now, MINUTE))
    }
    /// Anonymous pages of the host that came back soon after they were evicted (workingset_refault_anon).
    #[must_use]
    pub fn refaults_per_min(&self, now: Time) -> Pages {
        Pages(self.refaults.per_min(now, MINUTE))
    }
    #[must_use]
    pub fn cgroup(&self, id: CgroupId) -> Option<&CgroupSample> {
        self.cgroups.get(&id)
    }
    pub fn cgroups(&self) -> impl Iterator<Item = &CgroupSample> {
        self.cgroups.iter().map(|(_, g)| g)
    }
    /// The cgroup at `path` and those above it, the root included.
    pub fn above(&self, path: &str) -> impl Iterator<Item = &CgroupSample> {
        self.cgroups().filter(move |g| {
            let group = g.path.trim_end_matches('/');
            path.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
    /// Swap that the cgroup at `path` may still use: the least of what it and those above it may.
    #[must_use]
    pub fn cgroup_room(&self, path: &str) -> Bytes {
        let limited = self.above(path).filter(|g| g.swap_limit != Bytes::MAX);
        limited.map(|g| g.swap_limit.saturating_sub(g.swap_usage)).min().unwrap_or(Bytes::MAX)
    }
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes(self.cgroups.bytes() + self.cgroups.iter().map(|(_, g)| g.path.capacity() as u64).sum::<u64>())
    }
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.cgroups.evicted()
    }
}

/// Memory that a stored byte costs in this area; none while too little is stored to tell.
#[must_use]
pub fn area_cost(area: &SwapSample) -> Option<Permil> {
    match area.backing {
        SwapBacking::Zram => (area.stored >= TELLING).then(|| Permil::of(area.cost.0, area.stored.0)),
        SwapBacking::Disk | SwapBacking::File => Some(Permil(0)),
    }
}

/// Whether writing to it wears something out.
#[must_use]
pub const fn wears(backing: SwapBacking) -> bool {
    match backing {
        SwapBacking::Disk | SwapBacking::File => true,
        SwapBacking::Zram => false,
    }
}

/// What still fits: a zram area also ends at its memory limit, at the ratio it has shown (or none).
fn room(area: &SwapSample) -> Bytes {
    let slots = area.size.saturating_sub(area.used);
    match area.backing {
        SwapBacking::Zram if area.limit > Bytes::ZERO => {
            let ratio = area_cost(area).unwrap_or(Permil(1000));
            slots.min(area.limit.saturating_sub(area.cost).scale(1000, ratio.0.max(1)))
        }
        SwapBacking::Zram | SwapBacking::Disk | SwapBacking::File => slots,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(n: u64) -> Bytes {
        Bytes::from_mib(n)
    }
    fn area(backing: SwapBacking, priority: i32, used: u64) -> SwapSample {
        SwapSample { backing, priority, size: mib(1000), used: mib(used), ..SwapSample::default() }
    }
    fn zram(used: u64, stored: u64, cost: u64, limit: u64) -> SwapSample {
        SwapSample { stored: mib(stored), cost: mib(cost), limit: mib(limit), ..area(SwapBacking::Zram, 10, used) }
    }
    fn with(swaps: Vec<SwapSample>) -> Swap {
        let mut swap = Swap::default();
        let host = HostSample { swap_total: mib(1000), swap_free: mib(250), swaps, ..HostSample::default() };
        swap.fold(&Stamped { seq: 1, at: Time(1), event: Event::Sample(Sample::Host(Box::new(host))) });
        swap
    }

    #[test]
    fn the_next_area_tells_what_a_byte_costs() {
        assert_eq!((Swap::default().cost(), with(vec![]).cost(), with(vec![]).free_permil()), (None, None, Permil(250)));
        let cost = |swaps| with(swaps).cost().map(|c| (c.memory.map(|p| p.0), c.wears.0, c.room.0 >> 20));
        assert_eq!(cost(vec![zram(100, 100, 40, 0), area(SwapBacking::Disk, 5, 0)]), Some((Some(400), 0, 900)));
        // A full area hands over to the next.
        assert_eq!(cost(vec![zram(1000, 1000, 400, 0), area(SwapBacking::Disk, 5, 1)]), Some((Some(0), 1000, 999)));
        // Equal priorities take turns; an area that holds next to nothing tells nothing.
        assert_eq!(cost(vec![zram(100, 100, 40, 0), area(SwapBacking::File, 10, 0)]), Some((Some(200), 500, 1900)));
        assert_eq!(cost(vec![zram(1, 1, 1, 0)]), Some((None, 0, 999)));
        // A limit on its memory ends a zram area earlier: 10 MiB left hold 25 MiB at 2.5 to 1.
        assert_eq!(cost(vec![zram(100, 100, 40, 50)]), Some((Some(400), 0, 25)));
        assert_eq!(cost(vec![zram(100, 100, 50, 50)]), None);
    }

    #[test]
    fn a_cgroup_has_the_least_room_of_all_above_it() {
        let mut swap = Swap::default();
        let mut group = |id, path: &str, limit| {
            let group = CgroupSample {
                id: CgroupId(id),
                path: path.into(),
                swap_usage: mib(10),
                swap_limit: limit,
                ..CgroupSample::default()
            };
            swap.fold(&Stamped { seq: id, at: Time(id), event: Event::Sample(Sample::Cgroup(group)) });
        };
        group(1, "/", Bytes::MAX);
        group(2, "/a", mib(30));
        group(3, "/a/b", mib(100));
        group(4, "/ab", mib(5));
        let room = |path| swap.cgroup_room(path);
        assert_eq!([room("/a/b"), room("/a/c"), room("/ab"), room("/z")], [mib(20), mib(20), Bytes(0), Bytes::MAX]);
    }
}
