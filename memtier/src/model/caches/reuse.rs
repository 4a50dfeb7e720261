//! How near to each other the hits of a class are: the near end of its miss-ratio curve, from sampled fetches.
//!
//! A stream of fetches is open for a second in a minute. Within it, between two fetches of a key lie so many other keys of its
//! class; so many chunks must the class have for the second one to hit. What is asked for once in the second is further away.

use crate::vocab::{ClassId, Permil, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Sampled keys of one opening.
const MAX_KEYS: usize = 2048;
/// Bins by doublings of the distance, in chunks.
const BINS: usize = 32;
/// Samples that make half a certainty.
const HALF_SURE: u64 = 64;

/// What one class showed in an opening of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Near {
    /// Fetches whose key was fetched before at a distance of less than 2^n chunks, and not of less than 2^(n-1).
    bins: Vec<u64>,
    /// Fetches of keys that were not fetched before.
    first: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reuse {
    /// The opening that is going on, and the last one that was over.
    now: BTreeMap<ClassId, Near>,
    last: BTreeMap<ClassId, Near>,
    /// Of each sampled key its place in the order, and the places of each class that are last of their key.
    keys: BTreeMap<u64, (ClassId, u64)>,
    places: BTreeMap<(ClassId, u64), ()>,
    count: u64,
    pub closed_at: Option<Time>,
}

impl Reuse {
    pub(super) fn found(&mut self, class: ClassId, hash: u64, shift: u8) {
        if self.keys.len() >= MAX_KEYS && !self.keys.contains_key(&hash) {
            // Else only what comes again would count.
            self.now.entry(class).or_default().first += 1;
            return;
        }
        self.count += 1;
        let before = self.keys.insert(hash, (class, self.count));
        let near = self.now.entry(class).or_default();
        match before {
            Some((was, place)) if was == class => {
                // The keys of the class that were fetched since, each counted where it was fetched last.
                let between = self.places.range((class, place + 1)..=(class, u64::MAX)).count() as u64;
                let distance = (between + 1) << shift.min(32);
                let bin = (64 - distance.leading_zeros() as usize).min(BINS - 1);
                near.bins.resize(BINS, 0);
                near.bins[bin] += 1;
                self.places.remove(&(class, place));
            }
            Some((was, place)) => {
                near.first += 1;
                self.places.remove(&(was, place));
            }
            None => near.first += 1,
        }
        self.places.insert((class, self.count), ());
    }

    pub(super) fn closed(&mut self, at: Time) {
        self.last = std::mem::take(&mut self.now);
        (self.keys, self.places, self.count) = (BTreeMap::new(), BTreeMap::new(), 0);
        self.closed_at = Some(at);
    }

    /// Of the fetches of a class that were hits, how many would a class of so many chunks have answered at least; and how much
    /// that is worth. None where no fetch was seen.
    #[must_use]
    pub fn hits_within(&self, class: ClassId, chunks: u64) -> Option<(Permil, Permil)> {
        let near = self.last.get(&class)?;
        let all = near.first + near.bins.iter().sum::<u64>();
        let within: u64 = near.bins.iter().enumerate().filter(|(bin, _)| 1u64 << bin <= chunks).map(|(_, count)| count).sum();
        let sure = Permil(1000 * all / (all + HALF_SURE));
        (all > 0).then(|| (Permil(1000 * within / all), sure))
    }

    pub(super) fn bytes(&self) -> u64 {
        let classes = (self.now.len() + self.last.len()) * (64 + BINS * 8);
        (classes + self.keys.len() * 48 + self.places.len() * 48) as u64
    }
}
