//! Sampled keys that were evicted, and when in the order of their class.

use crate::vocab::ClassId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Keys remembered of one server, 2 MiB or so. Whoever samples goes by it: it takes so small a part of the keys that twice the
/// items of the server fit.
pub const MAX_GHOSTS: usize = 32_768;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ghosts {
    /// With the bits of its sample: it stands for so many as were not in that.
    keys: BTreeMap<u64, (ClassId, u64, u8)>,
    /// In the order of their evictions; what was evicted again, or missed, is void.
    queue: VecDeque<(u64, ClassId, u64)>,
    shift: u8,
    forgotten: u64,
    /// Of each class, the last that was forgotten.
    dropped: BTreeMap<ClassId, u64>,
}

impl Ghosts {
    /// It was evicted as the so-manieth of its class; when it was before, if that is known, and the bits of that sample.
    pub fn evicted(&mut self, hash: u64, class: ClassId, order: u64, shift: u8) -> Option<(u64, u8)> {
        self.coarsen(shift);
        let before = self.keys.insert(hash, (class, order, shift));
        self.queue.push_back((hash, class, order));
        while self.keys.len() > MAX_GHOSTS || self.queue.len() > 2 * MAX_GHOSTS {
            let Some((hash, class, order)) = self.queue.pop_front() else { break };
            if self.keys.get(&hash).is_some_and(|(of, at, _)| (*of, *at) == (class, order)) {
                self.keys.remove(&hash);
                self.forgotten += 1;
                self.dropped.insert(class, order);
            }
        }
        // A value of another size is another item.
        before.filter(|(was, ..)| *was == class).map(|(_, order, then)| (order, then.max(shift)))
    }

    /// Somebody asked for it in vain: it will be stored again, and this is all that it has to say.
    pub fn missed(&mut self, hash: u64) -> Option<(ClassId, u64, u8)> {
        self.keys.remove(&hash).map(|(class, order, then)| (class, order, then.max(self.shift)))
    }

    /// What was forgotten since the last call: before that nothing is known of the class.
    pub fn take_dropped(&mut self) -> BTreeMap<ClassId, u64> {
        std::mem::take(&mut self.dropped)
    }

    /// With a smaller sample the keys that are no longer in it would never be seen again.
    fn coarsen(&mut self, shift: u8) {
        if shift > self.shift {
            let mask = (1u64 << shift.min(63)) - 1;
            self.keys.retain(|hash, _| hash & mask == 0);
            self.queue.retain(|(hash, ..)| hash & mask == 0);
        }
        self.shift = shift;
    }

    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
    pub fn bytes(&self) -> u64 {
        (self.keys.len() * 48 + self.queue.len() * 24) as u64
    }
}
