//! Records of a stream, counted by class, and a sample of their keys by hash.

use super::record::What;
use super::watch::Seen;
use crate::model::caches::MAX_GHOSTS;
use crate::vocab::{CacheEvictions, CacheFetches, ClassEvictions, ClassId, EvictedKey, FetchedKey, ServerLife};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// Records between two looks at the clock.
const DUE: u64 = 256;
/// A key of no more than this is kept as it is, where keys are kept.
const KEY_MOST: usize = 256;
/// Keys of one batch; more come only before anybody knows how many will.
const BATCH_MOST: usize = 4096;

/// Which keys are in the sample: those whose hash ends in so many bits of nought. Of two streams of a server the one that takes fewer has a part of the other's.
#[derive(Debug)]
pub struct Sampling {
    seed: u64,
    keep_keys: bool,
    keys_per_s: u64,
    /// Bits, by how fast records come.
    by_rate: AtomicU8,
    /// Items that the server holds.
    items: AtomicU64,
}

impl Sampling {
    #[must_use]
    pub const fn new(life: Option<ServerLife>, keep_keys: bool, keys_per_s: u64) -> Self {
        let seed = match life {
            Some(ServerLife { pid, since }) => since.rotate_left(32) ^ pid as u64,
            None => 0,
        };
        Self { seed, keep_keys, keys_per_s, by_rate: AtomicU8::new(0), items: AtomicU64::new(0) }
    }

    pub fn holds(&self, items: u64) {
        self.items.store(items, Ordering::Relaxed);
    }

    fn shift(&self) -> u8 {
        // Twice the items must fit where they are remembered.
        let times = self.items.load(Ordering::Relaxed).saturating_mul(2).div_ceil(MAX_GHOSTS as u64).max(1);
        let by_items = times.next_power_of_two().trailing_zeros() as u8;
        self.by_rate.load(Ordering::Relaxed).max(by_items)
    }

    /// Keys of a batch that was over; the next one samples by it.
    fn came(&self, keys: usize, span: Duration) {
        let most = u128::from(self.keys_per_s) * span.as_millis().max(1) / 1000;
        let bits = self.by_rate.load(Ordering::Relaxed);
        if keys as u128 > most {
            self.by_rate.store((bits + 1).min(63), Ordering::Relaxed);
        } else if (keys as u128) * 4 < most && span > Duration::ZERO {
            self.by_rate.store(bits.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// FNV-1a, and a finish that spreads it over all bits: names of keys differ at their end.
    fn hash(&self, key: &[u8]) -> u64 {
        let mut hash = key
            .iter()
            .fold(0xcbf2_9ce4_8422_2325 ^ self.seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }

    /// The hash of a key that is in the sample.
    fn pick(&self, key: &[u8], shift: u8) -> Option<u64> {
        let hash = self.hash(key);
        (hash & ((1u64 << shift.min(63)) - 1) == 0).then_some(hash)
    }

    fn kept(&self, key: &[u8]) -> Option<String> {
        self.keep_keys.then(|| String::from_utf8_lossy(&key[..key.len().min(KEY_MOST)]).into_owned())
    }
}

/// Evictions of one batch.
#[derive(Debug, Default)]
pub struct Batch {
    classes: BTreeMap<ClassId, ClassEvictions>,
    keys: Vec<EvictedKey>,
    shift: Option<u8>,
    skipped: u64,
    records: u64,
}

impl Batch {
    pub fn see(&mut self, seen: Seen, sampling: &Sampling) {
        self.records += 1;
        let record = match seen {
            Seen::Record(record) => record,
            Seen::Lost(count) => {
                self.skipped = self.skipped.saturating_add(count);
                return;
            }
        };
        let What::Eviction { key, fetched, ttl: _, idle, class, size } = record.what else { return };
        let none = ClassEvictions { class, evicted: 0, fetched: 0, bytes: 0, idle: 0 };
        let told = self.classes.entry(class).or_insert(none);
        told.evicted += 1;
        told.fetched += u64::from(fetched);
        told.bytes = told.bytes.saturating_add(size.unwrap_or(0));
        told.idle = told.idle.saturating_add(idle);
        let shift = *self.shift.get_or_insert_with(|| sampling.shift());
        if let Some(hash) = sampling.pick(&key, shift) {
            self.keys.push(EvictedKey { class, hash, nth: told.evicted, key: sampling.kept(&key) });
        }
        if self.keys.len() >= BATCH_MOST {
            let shift = shift.saturating_add(1).min(63);
            self.shift = Some(shift);
            self.keys.retain(|key| key.hash & ((1u64 << shift) - 1) == 0);
        }
    }

    /// So many records came that the clock should be looked at.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.records.is_multiple_of(DUE)
    }

    pub fn take(&mut self, sampling: &Sampling, span: Duration) -> CacheEvictions {
        let Self { classes, keys, shift, skipped, records: _ } = std::mem::take(self);
        sampling.came(keys.len(), span);
        CacheEvictions {
            span_ns: u64::try_from(span.as_nanos()).unwrap_or(u64::MAX),
            shift: shift.unwrap_or_else(|| sampling.shift()),
            classes: classes.into_values().collect(),
            keys,
            skipped,
        }
    }
}

/// Fetches of one batch.
#[derive(Debug, Default)]
pub struct Fetched {
    found: u64,
    missed: u64,
    keys: Vec<FetchedKey>,
    shift: Option<u8>,
    skipped: u64,
}

impl Fetched {
    pub fn see(&mut self, key: &[u8], class: Option<ClassId>, sampling: &Sampling) {
        if class.is_some() {
            self.found += 1;
        } else {
            self.missed += 1;
        }
        let shift = *self.shift.get_or_insert_with(|| sampling.shift());
        if let Some(hash) = sampling.pick(key, shift) {
            self.keys.push(FetchedKey { class, hash, key: sampling.kept(key) });
        }
        if self.keys.len() >= BATCH_MOST {
            let shift = shift.saturating_add(1).min(63);
            self.shift = Some(shift);
            self.keys.retain(|key| key.hash & ((1u64 << shift) - 1) == 0);
        }
    }

    pub fn lost(&mut self, count: u64) {
        self.skipped = self.skipped.saturating_add(count);
    }

    /// As of a batch of evictions.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        (self.found + self.missed).is_multiple_of(DUE)
    }

    pub fn take(&mut self, sampling: &Sampling, span: Duration, last: bool) -> CacheFetches {
        let Self { found, missed, keys, shift, skipped } = std::mem::take(self);
        CacheFetches {
            span_ns: u64::try_from(span.as_nanos()).unwrap_or(u64::MAX),
            shift: shift.unwrap_or_else(|| sampling.shift()),
            found,
            missed,
            keys,
            skipped,
            last,
        }
    }
}
