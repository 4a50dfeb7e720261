//! The processes that numad knows: what they used lately, and where they were bound when.

use super::options::Options;
use super::{Mode, Tenant};
use crate::vocab::{CpuId, NodeId};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Smaller processes are not worth the copying.
pub(super) const MB_LEAST: u64 = 300;
/// Half a CPU: what runs less gains nothing.
const CPUS_LEAST: u64 = 50;
/// How many uses of CPU a process is known by: the most of them counts, so that a pause is no reason to forget it.
const RING: usize = 8;
/// Of the original's hash table.
const SLOTS: usize = 16;

/// Where others let a process be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    pub nodes: Vec<NodeId>,
    pub cpus: BTreeSet<CpuId>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub seen: Tenant,
    /// When, in hundredths; `None` once a pass had no use for it: it then counts as idle.
    at: Option<i64>,
    ring: [u64; RING],
    next: usize,
    /// In hundredths of a CPU.
    pub cpus_used: u64,
    pub bound_at: Option<i64>,
    /// When it last could not be bound.
    pub failed_at: Option<i64>,
    /// Where it is taken to be; empty until it is a candidate for the first time.
    pub nodes: Vec<NodeId>,
    pub interleaved: bool,
    /// As far as others let it when it was last theirs to say.
    pub limits: Allowed,
    /// The CPUs it was bound to; whoever sets others has the last word.
    pub ours: Option<BTreeSet<CpuId>>,
}

impl Entry {
    fn new(seen: Tenant, at: i64) -> Self {
        Self {
            seen,
            at: Some(at),
            ring: [0; RING],
            next: 0,
            cpus_used: 0,
            bound_at: None,
            failed_at: None,
            nodes: Vec::new(),
            interleaved: false,
            limits: Allowed::default(),
            ours: None,
        }
    }

    fn see(&mut self, tenant: Tenant, at: i64, mode: Mode) {
        if mode == Mode::Repaired && self.seen.start != tenant.start {
            *self = Self::new(tenant, at);
            return;
        }
        let elapsed = self.at.map_or(0, |before| (at - before).max(0).unsigned_abs());
        let used = tenant.cpu.saturating_sub(self.seen.cpu).saturating_mul(100);
        if let Some(used) = used.checked_div(elapsed) {
            self.ring[self.next % RING] = used;
            self.next += 1;
        }
        self.cpus_used = self.ring.iter().copied().max().unwrap_or(0);
        (self.seen, self.at) = (tenant, Some(at));
    }

    pub fn magnitude(&self) -> u64 {
        self.cpus_used.saturating_mul(self.seen.mb_used)
    }

    /// Hundredths since it was bound. One that never was has been bound at the start of the clock, to the original: on a host
    /// that came up just now it is left alone.
    pub fn bound_ago(&self, at: i64, mode: Mode) -> Option<i64> {
        match mode {
            Mode::Repaired => self.bound_at.map(|bound| at - bound),
            Mode::Compat => Some(at - self.bound_at.unwrap_or(0)),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    entries: BTreeMap<u32, Entry>,
    slots: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), slots: SLOTS }
    }
}

impl Table {
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.entries.keys().copied()
    }
    pub fn entry(&mut self, pid: u32) -> Option<&mut Entry> {
        self.entries.get_mut(&pid)
    }

    /// One pass over the processes that live. Included ones that do not leave the list.
    pub fn fold(&mut self, at: i64, tenants: Vec<Tenant>, options: &mut Options) {
        let mode = options.measure.mode;
        let live: BTreeSet<u32> = tenants.iter().map(|t| t.pid).collect();
        options.included.retain(|pid| live.contains(pid));
        let mut room = match mode {
            Mode::Repaired => usize::MAX,
            // Its table is searched more slowly the fuller it is.
            Mode::Compat => self.slots / 3,
        };
        let mut seen = BTreeSet::new();
        for tenant in tenants {
            let (pid, included) = (tenant.pid, options.included.contains(&tenant.pid));
            if !included && (!options.scan_all || tenant.mb_used <= MB_LEAST) {
                continue;
            }
            match self.entries.get_mut(&pid) {
                Some(known) => known.see(tenant, at, mode),
                None if !included && room == 0 => continue,
                None => {
                    room = room.saturating_sub(1);
                    self.entries.insert(pid, Entry::new(tenant, at));
                }
            }
            seen.insert(pid);
        }
        while self.entries.len() * 7 / 4 > self.slots {
            self.slots *= 2;
        }
        self.entries.retain(|pid, entry| {
            if !seen.contains(pid) {
                entry.at = None;
            }
            if !seen.contains(pid) || options.excluded.contains(pid) {
                entry.cpus_used = 0;
            }
            live.contains(pid)
        });
    }

    /// Who uses enough to be worth moving.
    pub fn candidates(&self) -> Vec<u32> {
        let enough = |(_, entry): &(&u32, &Entry)| entry.cpus_used > CPUS_LEAST && entry.seen.mb_used > MB_LEAST;
        self.entries.iter().filter(enough).map(|(pid, _)| *pid).collect()
    }

    /// In the order in which they are looked at: those that were never bound by magnitude, then the others in bins of about
    /// the same magnitude, the largest bin first, and in each the one first that was bound longest ago.
    pub fn order(&self, pids: Vec<u32>, mode: Mode) -> Vec<u32> {
        let key = |pid: &u32| self.entries.get(pid).map_or((None, 0), |e| (e.bound_at, e.magnitude()));
        let mut keyed: Vec<Key> = pids.into_iter().map(|pid| (key(&pid), pid)).map(|((at, m), pid)| Key { at, m, pid }).collect();
        match mode {
            Mode::Repaired => binned(&mut keyed),
            Mode::Compat => keyed = merged(keyed),
        }
        keyed.into_iter().map(|key| key.pid).collect()
    }
}

#[derive(Clone, Copy, Debug)]
struct Key {
    at: Option<i64>,
    m: u64,
    pid: u32,
}

/// A bin reaches from its largest magnitude down to five sixths of it: there the difference is a fifth of the smaller one.
fn binned(keys: &mut [Key]) {
    keys.sort_by_key(|key| (key.at.is_some(), std::cmp::Reverse(key.m)));
    let mut rest = &mut keys[..];
    while let Some(first) = rest.first().copied() {
        let alike = |key: &Key| first.at.is_some() && key.m / 5 >= first.m - key.m;
        let len = rest.iter().take_while(|key| alike(key)).count().max(1);
        let (bin, others) = rest.split_at_mut(len);
        bin.sort_by_key(|key| key.at);
        rest = others;
    }
}

/// The original's comparison: the difference is unsigned, so that a magnitude a little less than the other one is never "about
/// the same". What then comes out depends on who is compared with whom; as with qsort of the C library, halves are merged.
fn merged(mut keys: Vec<Key>) -> Vec<Key> {
    if keys.len() < 2 {
        return keys;
    }
    let right = merged(keys.split_off(keys.len() / 2));
    let (mut left, mut right) = (merged(keys).into_iter().peekable(), right.into_iter().peekable());
    let mut out = Vec::new();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        out.extend(if compared(*a, *b).is_gt() { right.next() } else { left.next() });
    }
    out.extend(left);
    out.extend(right);
    out
}

fn compared(a: Key, b: Key) -> Ordering {
    match (a.at, b.at) {
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.m.cmp(&a.m),
        (Some(one), Some(two)) => {
            let difference = a.m.wrapping_sub(b.m);
            let alike = a.m.min(b.m).checked_div(difference).is_none_or(|times| times >= 5);
            if alike { one.cmp(&two) } else { b.m.cmp(&a.m) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(pid: u32, cpu: u64, mb_used: u64) -> Tenant {
        Tenant { pid, start: 1, comm: "hog".into(), threads: 1, cpu, mb_size: mb_used, mb_used }
    }

    fn uses(table: &mut Table, pid: u32) -> u64 {
        table.entry(pid).expect("known").cpus_used
    }

    #[test]
    fn the_most_of_eight_uses_counts() {
        let (mut table, mut options) = (Table::default(), Options::default());
        let mut cpu = 0;
        for (pass, used) in [0, 200, 100, 0, 0, 0, 0, 0, 0].into_iter().enumerate() {
            cpu += used;
            table.fold(pass as i64 * 100, vec![tenant(1, cpu, 400)], &mut options);
        }
        assert_eq!(uses(&mut table, 1), 200);
        table.fold(900, vec![tenant(1, cpu, 400)], &mut options);
        assert_eq!(uses(&mut table, 1), 100);
        // No time between two looks.
        table.fold(900, vec![tenant(1, cpu + 50, 400)], &mut options);
        assert_eq!(uses(&mut table, 1), 100);
        // Smaller for a while: idle, not forgotten; what it uses meanwhile is not counted.
        table.fold(1000, vec![tenant(1, cpu + 50, 300)], &mut options);
        assert_eq!((uses(&mut table, 1), table.candidates()), (0, vec![]));
        table.fold(1100, vec![tenant(1, cpu + 900, 400)], &mut options);
        assert_eq!((uses(&mut table, 1), table.candidates()), (100, vec![1]));
        table.fold(1200, vec![], &mut options);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_pid_that_is_reused() {
        for (mode, left) in [(Mode::Repaired, None), (Mode::Compat, Some(7))] {
            let (mut table, mut options) = (Table::default(), Options::default());
            options.measure.mode = mode;
            table.fold(0, vec![tenant(1, 0, 400)], &mut options);
            table.entry(1).expect("known").bound_at = Some(7);
            table.fold(100, vec![Tenant { start: 9, ..tenant(1, 900, 400) }], &mut options);
            assert_eq!(table.entry(1).expect("known").bound_at, left, "{mode:?}");
        }
    }

    #[test]
    fn lists() {
        let (mut table, mut options) = (Table::default(), Options::default());
        options.included = [2, 9].into();
        options.excluded = [3].into();
        let all = |cpu| vec![tenant(1, cpu, 400), tenant(2, cpu, 10), tenant(3, cpu, 400), tenant(4, cpu, 10)];
        table.fold(0, all(0), &mut options);
        table.fold(100, all(100), &mut options);
        assert_eq!(table.pids().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!([1, 2, 3].map(|pid| uses(&mut table, pid)), [100, 100, 0]);
        // A dead one leaves the list. Included or not, a small one is no candidate.
        assert_eq!((options.included.clone(), table.candidates()), ([2].into(), vec![1]));
        options.scan_all = false;
        table.fold(200, all(200), &mut options);
        assert_eq!([1, 2].map(|pid| uses(&mut table, pid)), [0, 100]);
    }

    #[test]
    fn the_originals_table_fills_slowly() {
        let crowd = || (1..=40).map(|pid| tenant(pid, 0, 400)).collect();
        for (mode, known) in [(Mode::Repaired, [40, 40, 40, 40, 40]), (Mode::Compat, [5, 10, 20, 40, 40])] {
            let (mut table, mut options) = (Table::default(), Options::default());
            options.measure.mode = mode;
            let lens = [0; 5].map(|_| {
                table.fold(0, crowd(), &mut options);
                table.len()
            });
            // 16 slots take 5, 5; 10 * 7 / 4 > 16: 32 take 10; 64 take 21.
            assert_eq!(lens, known, "{mode:?}");
        }
    }

    fn order(of: &[(u32, Option<i64>, u64)], mode: Mode) -> Vec<u32> {
        let mut table = Table::default();
        for &(pid, bound_at, m) in of {
            let entry = Entry { bound_at, cpus_used: m, ..Entry::new(tenant(pid, 0, 1), 0) };
            table.entries.insert(pid, entry);
        }
        table.order(of.iter().map(|(pid, ..)| *pid).collect(), mode)
    }

    #[test]
    fn who_comes_first() {
        for mode in [Mode::Compat, Mode::Repaired] {
            let new = [(1, None, 500), (2, Some(5), 9000), (3, None, 700), (4, Some(3), 100)];
            assert_eq!(order(&new, mode), [3, 1, 2, 4], "{mode:?}");
            // About the same: longest ago first.
            assert_eq!(order(&[(1, Some(9), 1200), (2, Some(5), 1000)], mode), [2, 1], "{mode:?}");
            assert_eq!(order(&[(1, Some(9), 1000), (2, Some(5), 1000)], mode), [2, 1], "{mode:?}");
            // More than a fifth apart.
            assert_eq!(order(&[(1, Some(9), 1201), (2, Some(5), 1000)], mode), [1, 2], "{mode:?}");
            assert!(order(&[], mode).is_empty());
        }
        // The smaller one first in the table: the original does not see that they are alike.
        let turned = [(1, Some(5), 1000), (2, Some(9), 1200)];
        assert_eq!((order(&turned, Mode::Repaired), order(&turned, Mode::Compat)), (vec![1, 2], vec![2, 1]));
        // Bins do not depend on who is asked first.
        let three = [(1, Some(30), 1440), (2, Some(20), 1200), (3, Some(10), 1000)];
        assert_eq!(order(&three, Mode::Repaired), [2, 1, 3]);
        assert_eq!(order(&[three[2], three[0], three[1]], Mode::Repaired), [2, 1, 3]);
    }

    proptest::proptest! {
        #[test]
        fn everybody_is_somewhere(of in proptest::collection::vec((proptest::option::of(0..9i64), 0..2000u64), 0..40)) {
            let of: Vec<(u32, Option<i64>, u64)> = (1..).zip(of).map(|(pid, (at, m))| (pid, at, m)).collect();
            for mode in [Mode::Compat, Mode::Repaired] {
                let mut pids = order(&of, mode);
                let fresh = of.iter().filter(|(_, at, _)| at.is_none()).count();
                proptest::prop_assert!(pids[..fresh].iter().all(|pid| of[*pid as usize - 1].1.is_none()));
                pids.sort_unstable();
                proptest::prop_assert!(pids.iter().copied().eq(1..=of.len() as u32));
            }
        }
    }
}
