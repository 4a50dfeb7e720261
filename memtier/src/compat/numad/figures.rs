//! From what the kernel tells to what numad reckons with.

use super::{Mode, Node};
use crate::vocab::{Bytes, CpuId, NodeId, Span};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One node as sysfs tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReading {
    pub node: NodeId,
    pub total: Bytes,
    pub free: Bytes,
    /// File pages on the inactive list: given up without writing to swap.
    pub inactive_file: Bytes,
    pub cpus: Vec<CpuId>,
    pub distances: Vec<u16>,
}

/// The host, with two samples of its CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub nodes: Vec<NodeReading>,
    /// Ticks of 1/100 s that each online CPU has idled so far, at the first sample and at the second.
    pub idle: [BTreeMap<CpuId, u64>; 2],
    /// Between the samples.
    pub elapsed: Span,
    /// Hardware threads of one core.
    pub smt_width: u64,
}

/// Options that change what counts as free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub mode: Mode,
    /// -C
    pub inactive_file_is_free: bool,
    /// -t: what a second thread of a core is worth, in percent of a CPU.
    pub smt_percent: u64,
    /// -R
    pub reserved: BTreeSet<CpuId>,
}

impl Settings {
    pub const SMT_PERCENT: u64 = 20;
}

impl Default for Settings {
    fn default() -> Self {
        let smt_percent = Self::SMT_PERCENT;
        Self { mode: Mode::Repaired, inactive_file_is_free: true, smt_percent, reserved: BTreeSet::new() }
    }
}

#[must_use]
pub fn figures(look: &Look, settings: &Settings) -> Vec<Node> {
    look.nodes.iter().map(|reading| node(reading, look, settings)).collect()
}

fn node(reading: &NodeReading, look: &Look, settings: &Settings) -> Node {
    let NodeReading { node, total, free, inactive_file, cpus, distances } = reading;
    let Settings { mode, inactive_file_is_free, smt_percent, reserved } = settings;
    let Look { nodes: _, idle: [before, after], elapsed, smt_width } = look;
    // Some kernels list offline CPUs too; /proc/stat never does.
    let cpus: Vec<CpuId> = cpus.iter().copied().filter(|cpu| after.contains_key(cpu) && !reserved.contains(cpu)).collect();
    let ticks = cpus.iter().filter_map(|cpu| Some(after.get(cpu)?.saturating_sub(*before.get(cpu)?))).sum();
    let (cpus_total, discount) = worth(cpus.len() as u64, *smt_width, *smt_percent, *mode);
    let inactive = if *inactive_file_is_free { *inactive_file } else { Bytes::ZERO };
    Node {
        node: *node,
        cpus_total,
        cpus_free: idle_cpus(ticks, *elapsed, *mode).saturating_sub(discount).min(cpus_total),
        mb_total: mb(*total),
        mb_free: mb(free.saturating_add(inactive)),
        distances: distances.clone(),
        cpus,
    }
}

/// Hundredths that so many hardware threads are worth, and what is taken off them because some share a core. Whichever are
/// offline or reserved, those that are left are taken to share as few cores as they can; to the original a core that is not full
/// is none, and its threads are worth nothing.
const fn worth(threads: u64, smt_width: u64, smt_percent: u64, mode: Mode) -> (u64, u64) {
    if smt_width <= 1 || smt_percent >= 100 {
        return (threads * 100, 0);
    }
    let (cores, siblings) = match mode {
        Mode::Repaired => (threads.div_ceil(smt_width), threads - threads.div_ceil(smt_width)),
        Mode::Compat => (threads / smt_width, threads / smt_width * (smt_width - 1)),
    };
    (cores * 100 + siblings * smt_percent, (threads - cores) * (100 - smt_percent))
}

/// Hundredths of a CPU that idled. The original's clock has hundredths of a second, of which 100 ms are only ten.
fn idle_cpus(ticks: u64, elapsed: Span, mode: Mode) -> u64 {
    const HUNDREDTH_NS: u64 = 10_000_000;
    let (number, per) = match mode {
        Mode::Repaired => (ticks.saturating_mul(100 * HUNDREDTH_NS), elapsed.0),
        Mode::Compat => (ticks.saturating_mul(100), elapsed.0 / HUNDREDTH_NS),
    };
    number.checked_div(per).unwrap_or(0)
}

const fn mb(bytes: Bytes) -> u64 {
    bytes.0 >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(cpus: u32, smt_width: u64, ticks: u64, elapsed: Span) -> Look {
        let reading = NodeReading {
            node: NodeId(3),
            total: Bytes::from_mib(1000),
            free: Bytes::from_mib(300),
            inactive_file: Bytes::from_mib(50),
            cpus: (0..cpus).map(CpuId).collect(),
            distances: vec![10],
        };
        let idle = |ticks| (0..cpus).map(|cpu| (CpuId(cpu), ticks)).collect();
        Look { nodes: vec![reading], idle: [idle(7), idle(7 + ticks)], elapsed, smt_width }
    }

    fn settings() -> Settings {
        let smt_percent = Settings::SMT_PERCENT;
        Settings { mode: Mode::Repaired, inactive_file_is_free: true, smt_percent, reserved: BTreeSet::new() }
    }

    fn only(look: &Look, settings: &Settings) -> Node {
        figures(look, settings).pop().expect("one node")
    }

    #[test]
    fn cpus_and_memory() {
        let half_idle = look(8, 1, 50, Span::from_secs(1));
        let node = only(&half_idle, &settings());
        assert_eq!((node.cpus_total, node.cpus_free, node.mb_total, node.mb_free), (800, 400, 1000, 350));
        let node = only(&half_idle, &Settings { inactive_file_is_free: false, ..settings() });
        assert_eq!(node.mb_free, 300);
    }

    #[test]
    fn a_second_thread_is_worth_a_part_of_a_cpu() {
        // 4 cores of 2 threads: 400 and 4 * 20; all 8 CPUs idle.
        let idle = look(8, 2, 100, Span::from_secs(1));
        for (smt_percent, total, free) in [(20, 480, 480), (0, 400, 400), (100, 800, 800), (50, 600, 600)] {
            let node = only(&idle, &Settings { smt_percent, ..settings() });
            assert_eq!((node.cpus_total, node.cpus_free), (total, free), "-t {smt_percent}");
        }
        // Half of the threads' time idle: 400 less the discount of 320.
        assert_eq!(only(&look(8, 2, 50, Span::from_secs(1)), &settings()).cpus_free, 80);
        assert_eq!(only(&look(8, 2, 10, Span::from_secs(1)), &settings()).cpus_free, 0);
        // A width that makes no sense.
        assert_eq!(only(&look(2, 0, 100, Span::from_secs(1)), &settings()).cpus_total, 200);
    }

    #[test]
    fn a_core_that_is_not_whole_is_a_core() {
        let three = look(3, 2, 100, Span::from_secs(1));
        let node = only(&three, &settings());
        assert_eq!((node.cpus_total, node.cpus_free), (220, 220));
        let node = only(&three, &Settings { mode: Mode::Compat, ..settings() });
        assert_eq!((node.cpus_total, node.cpus_free), (120, 120));
        assert_eq!(only(&look(1, 4, 100, Span::from_secs(1)), &settings()).cpus_total, 100);
    }

    #[test]
    fn reserved_and_offline_cpus_count_for_nothing() {
        let mut all = look(4, 1, 10, Span::from_millis(100));
        all.idle[1].remove(&CpuId(3));
        let node = only(&all, &Settings { reserved: [CpuId(0), CpuId(99)].into(), ..settings() });
        assert_eq!((node.cpus, node.cpus_total, node.cpus_free), (vec![CpuId(1), CpuId(2)], 200, 200));
        // One that came online between the samples has idled for nobody knows how long.
        let mut late = look(2, 1, 10, Span::from_millis(100));
        late.idle[0].remove(&CpuId(1));
        assert_eq!(only(&late, &settings()).cpus_free, 100);
    }

    #[test]
    fn the_original_counts_time_in_hundredths() {
        let look = look(4, 1, 8, Span::from_millis(109));
        assert_eq!(only(&look, &settings()).cpus_free, 32 * 1000 / 109);
        assert_eq!(only(&look, &Settings { mode: Mode::Compat, ..settings() }).cpus_free, 320);
    }

    #[test]
    fn no_time_and_a_counter_that_went_back() {
        assert_eq!(only(&look(2, 1, 5, Span(0)), &settings()).cpus_free, 0);
        let mut back = look(2, 1, 5, Span::from_secs(1));
        back.idle.swap(0, 1);
        assert_eq!(only(&back, &settings()).cpus_free, 0);
    }
}
