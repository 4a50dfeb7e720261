//! The one way a model keeps things by key: sorted, bounded, and counting what it had to forget.

use crate::vocab::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// A map of at most `CAP` entries. When it is full, the sixteenth that was touched longest ago goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capped<K: Ord, V, const CAP: usize> {
    entries: BTreeMap<K, (Time, V)>,
    evicted: u64,
}

impl<K: Ord, V, const CAP: usize> Default for Capped<K, V, CAP> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), evicted: 0 }
    }
}

impl<K: Ord + Clone, V: Default, const CAP: usize> Capped<K, V, CAP> {
    /// The entry of `key`, made if there is none, and marked as touched at `at`.
    pub fn touch(&mut self, at: Time, key: K) -> &mut V {
        if self.entries.len() >= CAP && !self.entries.contains_key(&key) {
            let mut oldest: Vec<(Time, K)> = self.entries.iter().map(|(k, (t, _))| (*t, k.clone())).collect();
            oldest.sort_unstable();
            for (_, key) in oldest.into_iter().take((CAP / 16).max(1)) {
                self.entries.remove(&key);
                self.evicted += 1;
            }
        }
        let entry = self.entries.entry(key).or_default();
        entry.0 = at;
        &mut entry.1
    }
}

impl<K: Ord, V, const CAP: usize> Capped<K, V, CAP> {
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|e| &e.1)
    }
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|e| &mut e.1)
    }
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|e| e.1)
    }
    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(k, e)| (k, &e.1))
    }
    pub fn range(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.entries.range(range).map(|(k, e)| (k, &e.1))
    }
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Entries dropped at the cap.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }
    /// Memory of the map without what hangs on its values; half-full tree nodes included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.entries.len() * size_of::<(K, (Time, V))>()) as u64 * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_touched_longest_ago() {
        let mut map = Capped::<u32, u32, 32>::default();
        for key in 0..32 {
            *map.touch(Time(u64::from(key)), key) = key;
        }
        map.touch(Time(100), 0);
        map.touch(Time(101), 99);
        assert_eq!((map.len(), map.evicted()), (31, 2));
        assert!(map.get(&0).is_some() && map.get(&1).is_none() && map.get(&2).is_none() && map.get(&99).is_some());
    }
}
