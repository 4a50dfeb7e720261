//! Pressure stall information: the last words of the host and of each cgroup, and when they were last too loud.

use super::capped::Capped;
use crate::config::Config;
use crate::vocab::{Bytes, Event, Pressure, PressureKind, Sample, Stamped, Time};
use serde::{Deserialize, Serialize};

const CGROUPS: usize = 2_048;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stall {
    at: Time,
    last: Pressure,
    /// Last time it was over the bound of `brake`, or its trigger fired.
    over_at: Option<Time>,
}

/// Pressure of the host (empty cgroup path) and of cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressures {
    stalls: Capped<(PressureKind, String), Option<Stall>, CGROUPS>,
}

impl Pressures {
    pub(super) fn fold(&mut self, stamped: &Stamped, config: &Config) {
        let Event::Sample(Sample::Pressure(pressure)) = &stamped.event else { return };
        let bound = match pressure.kind {
            PressureKind::Memory => Some(config.brake.memory_some_centipercent),
            PressureKind::Io => Some(config.brake.io_some_centipercent),
            // A busy CPU is no reason to keep memory in.
            PressureKind::Cpu => None,
        };
        let stall = self.stalls.touch(stamped.at, (pressure.kind, pressure.cgroup.clone()));
        let over = bound.is_some_and(|b| u64::from(pressure.some_avg10) > b || pressure.triggered);
        let over_at = if over { Some(stamped.at) } else { stall.as_ref().and_then(|s| s.over_at) };
        *stall = Some(Stall { at: stamped.at, last: pressure.clone(), over_at });
    }

    fn stall(&self, kind: PressureKind, cgroup: &str) -> Option<&Stall> {
        self.stalls.get(&(kind, cgroup.to_owned()))?.as_ref()
    }
    /// What was last heard of a cgroup (empty: the host).
    #[must_use]
    pub fn last(&self, kind: PressureKind, cgroup: &str) -> Option<&Pressure> {
        self.stall(kind, cgroup).map(|s| &s.last)
    }
    /// When that was.
    #[must_use]
    pub fn heard_at(&self, kind: PressureKind, cgroup: &str) -> Option<Time> {
        self.stall(kind, cgroup).map(|s| s.at)
    }
    /// "some" avg10 of the host in hundredths of a percent.
    #[must_use]
    pub fn some_avg10(&self, kind: PressureKind) -> Option<u32> {
        self.last(kind, "").map(|p| p.some_avg10)
    }
    /// Last time a cgroup (empty: the host) was over the bound of `brake`, or its trigger fired.
    #[must_use]
    pub fn over_at(&self, kind: PressureKind, cgroup: &str) -> Option<Time> {
        self.stall(kind, cgroup)?.over_at
    }
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes(self.stalls.bytes() + self.stalls.iter().map(|(k, _)| 2 * k.1.capacity() as u64).sum::<u64>())
    }
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.stalls.evicted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_loud_moment_is_remembered() {
        let (mut pressures, config) = (Pressures::default(), Config::default());
        let bound = config.brake.memory_some_centipercent as u32;
        let mut tell = |at, kind, cgroup: &str, some_avg10, triggered| {
            let pressure = Pressure {
                kind,
                cgroup: cgroup.into(),
                some_avg10,
                some_avg60: 0,
                full_avg10: 0,
                some_total_us: 0,
                full_total_us: 0,
                triggered,
            };
            pressures.fold(&Stamped { seq: at, at: Time(at), event: Event::Sample(Sample::Pressure(pressure)) }, &config);
        };
        tell(1, PressureKind::Memory, "", bound, false);
        tell(2, PressureKind::Memory, "/a", bound + 1, false);
        tell(3, PressureKind::Memory, "/a", 0, false);
        tell(4, PressureKind::Cpu, "", 10_000, true);
        tell(5, PressureKind::Io, "", 0, true);
        let over = |kind, cgroup| pressures.over_at(kind, cgroup);
        assert_eq!(pressures.some_avg10(PressureKind::Memory), Some(bound));
        assert_eq!(over(PressureKind::Memory, ""), None, "at the bound is not over it");
        assert_eq!(
            (over(PressureKind::Memory, "/a"), pressures.heard_at(PressureKind::Memory, "/a")),
            (Some(Time(2)), Some(Time(3)))
        );
        assert_eq!((over(PressureKind::Cpu, ""), over(PressureKind::Io, "")), (None, Some(Time(5))));
    }
}
