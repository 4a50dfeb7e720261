//! How fast idle memory is touched again: the promotion histogram by idle age (Lagar-Cavilla et al., ASPLOS '19) in slots
//! of about a minute, so that both the mean and the worst recent minute can be told.

use crate::model::series::{MINUTE, per_min};
use crate::vocab::Time;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The open slot and ten closed ones.
pub(super) const SLOTS: usize = 11;

/// A minute, or one walk where walks are rarer: what a walk finds cannot be dated within it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    from: Time,
    /// Pages touched, by idle age in ticks: exact below 16, then eight steps per octave.
    touched: [[u32; 8]; 6],
    /// Swapped pages that the walker found present again.
    refaulted: u64,
    /// Sampled major faults on swapped pages, weighted by their period.
    sampled: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tempo {
    /// Ascending in time; the last is open.
    slots: VecDeque<Slot>,
}

impl Tempo {
    /// A walk begins.
    pub fn open(&mut self, at: Time) {
        if self.slots.is_empty() {
            self.push(at);
        }
    }
    /// A walk ended: everything noted so far happened before.
    pub fn close(&mut self, at: Time) {
        if self.slots.back().is_some_and(|s| at.since(s.from) >= MINUTE) {
            self.push(at);
        }
    }
    fn push(&mut self, from: Time) {
        if self.slots.capacity() < SLOTS {
            self.slots.reserve_exact(SLOTS - self.slots.len());
        }
        if self.slots.len() == SLOTS {
            self.slots.pop_front();
        }
        self.slots.push_back(Slot { from, touched: [[0; 8]; 6], refaulted: 0, sampled: 0 });
    }

    /// Pages were touched after `idle` ticks.
    pub fn touched(&mut self, idle: u32, pages: u32) {
        if let Some(slot) = self.slots.back_mut() {
            let (row, column) = bucket(idle);
            slot.touched[row][column] = slot.touched[row][column].saturating_add(pages);
        }
    }
    pub fn refaulted(&mut self, pages: u32) {
        if let Some(slot) = self.slots.back_mut() {
            slot.refaulted += u64::from(pages);
        }
    }
    pub fn sampled(&mut self, period: u64) {
        if let Some(slot) = self.slots.back_mut() {
            slot.sampled = slot.sampled.saturating_add(period);
        }
    }

    /// Ticks of another length: every count moves to the bucket of its lowest age.
    pub fn retick(&mut self, from: u64, to: u64) {
        for slot in &mut self.slots {
            let mut moved = [[0u32; 8]; 6];
            for age in 0..256 {
                let (row, column) = bucket(age);
                let (to_row, to_column) = bucket(super::retick(u64::from(age), from, to).min(255) as u32);
                moved[to_row][to_column] = moved[to_row][to_column].saturating_add(std::mem::take(&mut slot.touched[row][column]));
            }
            slot.touched = moved;
        }
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// Pages per minute touched after at least `ticks`, over the whole memory of ten minutes or so.
    pub fn mean(&self, now: Time, ticks: u32) -> u64 {
        self.rate(now, |s| s.at_least(ticks))
    }
    /// The same in the worst slot.
    pub fn worst(&self, now: Time, ticks: u32) -> u64 {
        let ends = self.slots.iter().skip(1).map(|s| s.from).chain([now]);
        self.slots.iter().zip(ends).map(|(s, end)| per_min(s.at_least(ticks), end.since(s.from).max(MINUTE))).max().unwrap_or(0)
    }
    /// Pages per minute that came back from swap. The walker misses what came and went between two walks, the samples
    /// miss most of a small number: the larger counts.
    pub fn refaults(&self, now: Time) -> u64 {
        self.rate(now, |s| s.refaulted).max(self.rate(now, |s| s.sampled))
    }
    fn rate(&self, now: Time, count: impl Fn(&Slot) -> u64) -> u64 {
        let Some(first) = self.slots.front() else { return 0 };
        per_min(self.slots.iter().map(count).sum(), now.since(first.from).max(MINUTE))
    }
}

impl Slot {
    /// A threshold inside a bucket counts the whole bucket: rather too many promotions than too few.
    fn at_least(&self, ticks: u32) -> u64 {
        let (row, column) = bucket(ticks);
        self.touched.as_flattened()[row * 8 + column..].iter().map(|n| u64::from(*n)).sum()
    }
}

fn bucket(ticks: u32) -> (usize, usize) {
    let ticks = ticks.min(255);
    if ticks < 16 {
        (ticks as usize / 8, ticks as usize % 8)
    } else {
        let octave = ticks.ilog2();
        (octave as usize - 2, (ticks >> (octave - 3)) as usize & 7)
    }
}
