//! What steers a numad that manages processes: its options, at start and while it runs.

use super::{Request, Settings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Seconds between two rounds: the least after one that changed something, the most after one that had nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    pub min: u64,
    /// Nought ends the daemon.
    pub max: u64,
}

impl Default for Interval {
    fn default() -> Self {
        Self { min: 5, max: 15 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// -C, -R, -t
    pub measure: Settings,
    /// -i
    pub interval: Interval,
    /// -K
    pub keep_interleaved: bool,
    /// -m: percent of its memory that a process shall have on its nodes.
    pub locality: u64,
    /// -u: percent of a CPU that shall be used.
    pub utilization: u64,
    /// -S
    pub scan_all: bool,
    /// -p
    pub included: BTreeSet<u32>,
    /// -x
    pub excluded: BTreeSet<u32>,
    /// -d, -v, -l
    pub level: i64,
    /// -H: milliseconds that khugepaged shall sleep between two scans; nought leaves it.
    pub thp_sleep_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            measure: Settings::default(),
            interval: Interval::default(),
            keep_interleaved: false,
            locality: 90,
            utilization: 85,
            scan_all: true,
            included: BTreeSet::new(),
            excluded: BTreeSet::new(),
            level: 5,
            thp_sleep_ms: 1000,
        }
    }
}

/// One thing that a numad that runs is told, or asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    CacheIsFree(bool),
    ThpSleep(u64),
    Interval(Interval),
    KeepInterleaved(bool),
    Level(i64),
    Locality(u64),
    Include(u32),
    Remove(u32),
    ScanAll(bool),
    Smt(u64),
    Utilization(u64),
    Advise(Request),
    Exclude(u32),
}

impl Options {
    /// What an order changes here; the rest of it is for whoever runs the loop.
    pub fn heed(&mut self, order: Order) {
        match order {
            Order::CacheIsFree(free) => self.measure.inactive_file_is_free = free,
            Order::ThpSleep(ms) => self.thp_sleep_ms = ms,
            Order::Interval(interval) => self.interval = interval,
            Order::KeepInterleaved(keep) => self.keep_interleaved = keep,
            Order::Level(level) => self.level = level,
            Order::Locality(percent) => self.locality = percent,
            Order::Include(pid) => {
                self.excluded.remove(&pid);
                self.included.insert(pid);
            }
            Order::Exclude(pid) => {
                self.included.remove(&pid);
                self.excluded.insert(pid);
            }
            Order::Remove(pid) => {
                self.included.remove(&pid);
                self.excluded.remove(&pid);
            }
            Order::ScanAll(all) => self.scan_all = all,
            Order::Smt(percent) => self.measure.smt_percent = percent,
            Order::Utilization(percent) => self.utilization = percent,
            Order::Advise(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_changes_one_thing() {
        let heeded = |orders: &[Order]| {
            let mut options = Options::default();
            orders.iter().for_each(|order| options.heed(*order));
            options
        };
        let plain = Options::default();
        assert_eq!(heeded(&[Order::ThpSleep(0)]), Options { thp_sleep_ms: 0, ..plain.clone() });
        let interval = Interval { min: 1, max: 2 };
        assert_eq!(heeded(&[Order::Interval(interval)]), Options { interval, ..plain.clone() });
        assert_eq!(heeded(&[Order::KeepInterleaved(true)]), Options { keep_interleaved: true, ..plain.clone() });
        assert_eq!(heeded(&[Order::Level(7)]), Options { level: 7, ..plain.clone() });
        assert_eq!(heeded(&[Order::Locality(95)]), Options { locality: 95, ..plain.clone() });
        assert_eq!(heeded(&[Order::Utilization(100)]), Options { utilization: 100, ..plain.clone() });
        assert_eq!(heeded(&[Order::ScanAll(false)]), Options { scan_all: false, ..plain.clone() });
        let measure = Settings { inactive_file_is_free: false, smt_percent: 35, ..Settings::default() };
        assert_eq!(heeded(&[Order::CacheIsFree(false), Order::Smt(35)]), Options { measure, ..plain.clone() });
        assert_eq!(heeded(&[Order::Advise(Request { cpus: 1, mb: 1 })]), plain);
        // In one list at a time.
        assert_eq!(heeded(&[Order::Include(1), Order::Exclude(1)]), Options { excluded: [1].into(), ..plain.clone() });
        assert_eq!(heeded(&[Order::Exclude(1), Order::Include(1)]), Options { included: [1].into(), ..plain.clone() });
        assert_eq!(heeded(&[Order::Exclude(1), Order::Include(2), Order::Remove(1), Order::Remove(2)]), plain);
    }
}
