//! The last looks, each reduced to what the rules ask of it.

use super::Mode;
use crate::vocab::ClassId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// The newer half of the ages is of another phase of the traffic than the older one if it is more than this many times as much,
/// or as little.
const PHASE: f64 = 2.0;

/// What one look said of a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// It grew, or evicted.
    pub dirty: bool,
    /// Its part of all evictions, where it had one; the extstore script only asks whether.
    pub evicted: f64,
    pub excess_free: bool,
    /// It was given memory, or would have been.
    pub relaxed: bool,
    pub age: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Window {
    pub pool_low: bool,
    pub pool_high: bool,
    pub classes: BTreeMap<ClassId, Mark>,
}

/// Begins with one empty look, as the originals do, so that the first decision is possible one look early.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    windows: VecDeque<Window>,
    most: usize,
    mode: Mode,
}

impl History {
    pub fn new(most: usize, mode: Mode) -> Self {
        Self { windows: VecDeque::from([Window::default()]), most, mode }
    }

    /// Begins a look. One that follows at once on a move adds to the last one instead: a history is as long as it lasts.
    pub fn begin(&mut self, at_once: bool) {
        if at_once && let Some(last) = self.windows.back_mut() {
            // Of the new look alone.
            last.classes.values_mut().for_each(|mark| mark.excess_free = false);
            (last.pool_low, last.pool_high) = (false, false);
            return;
        }
        self.windows.push_back(Window::default());
        if self.windows.len() > self.most {
            self.windows.pop_front();
        }
    }

    /// The look that goes on.
    pub fn now(&mut self) -> &mut Window {
        if self.windows.is_empty() {
            self.windows.push_back(Window::default());
        }
        let last = self.windows.len() - 1;
        &mut self.windows[last]
    }
    pub fn mark(&mut self, class: ClassId) -> &mut Mark {
        self.now().classes.entry(class).or_default()
    }

    pub fn len(&self) -> usize {
        self.windows.len()
    }
    pub fn is_full(&self) -> bool {
        self.windows.len() >= self.most
    }

    fn marks(&self, class: ClassId) -> impl Iterator<Item = &Mark> {
        self.windows.iter().filter_map(move |window| window.classes.get(&class))
    }
    /// In how many looks something held of a class.
    pub fn count(&self, class: ClassId, of: impl Fn(&Mark) -> bool) -> usize {
        self.marks(class).filter(|mark| of(mark)).count()
    }
    pub fn pool_low(&self) -> usize {
        self.windows.iter().filter(|window| window.pool_low).count()
    }
    /// Its parts of the evictions, summed.
    pub fn evicted(&self, class: ClassId) -> f64 {
        // As the original adds: from nought, which is not minus nought.
        self.marks(class).map(|mark| mark.evicted).fold(0.0, |sum, part| sum + part)
    }

    /// The original divides by all looks, also those that did not see the class, and takes a burst of yesterday's for today's.
    pub fn age(&self, class: ClassId) -> f64 {
        let ages: Vec<u64> = self.marks(class).filter_map(|mark| mark.age).collect();
        match self.mode {
            Mode::Compat2017 => mean(&ages, self.windows.len()),
            Mode::Repaired => {
                let (older, newer) = ages.split_at(ages.len() / 2);
                let (was, is) = (mean(older, older.len()), mean(newer, newer.len()));
                if is > was * PHASE || is * PHASE < was { is } else { mean(&ages, ages.len()) }
            }
        }
    }
}

fn mean(ages: &[u64], of: usize) -> f64 {
    if of == 0 { 0.0 } else { ages.iter().map(|age| u128::from(*age)).sum::<u128>() as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mode: Mode, ages: &[Option<u64>]) -> f64 {
        let mut history = History::new(8, mode);
        for age in ages {
            history.begin(false);
            if age.is_some() {
                history.mark(ClassId(1)).age = *age;
            }
        }
        history.age(ClassId(1))
    }

    /// A class that came late looks young to the original.
    #[test]
    fn ages_are_averaged_over_the_looks_that_saw_the_class() {
        let late = [None, None, Some(90), Some(100), Some(110)];
        assert_eq!((of(Mode::Compat2017, &late), of(Mode::Repaired, &late)), (50.0, 100.0));
        assert_eq!(of(Mode::Repaired, &[None]), 0.0);
    }

    #[test]
    fn ages_of_another_phase_do_not_count() {
        let flushed = [900, 901, 902, 903, 1, 2, 3, 4].map(Some);
        assert_eq!((of(Mode::Compat2017, &flushed), of(Mode::Repaired, &flushed)), (452.0, 2.5));
        let risen = [1, 2, 3, 4, 900, 901, 902, 903].map(Some);
        assert_eq!(of(Mode::Repaired, &risen), 901.5);
        let steady = [100, 110, 120, 130, 140, 150, 160, 170].map(Some);
        assert_eq!(of(Mode::Repaired, &steady), 135.0);
    }

    #[test]
    fn a_look_at_once_is_of_the_last_one() {
        let mut history = History::new(3, Mode::Repaired);
        history.begin(false);
        history.mark(ClassId(1)).dirty = true;
        history.now().pool_low = true;
        history.begin(true);
        assert_eq!((history.len(), history.count(ClassId(1), |mark| mark.dirty), history.pool_low()), (2, 1, 0));
        for _ in 0..5 {
            history.begin(false);
        }
        assert_eq!((history.len(), history.count(ClassId(1), |mark| mark.dirty)), (3, 0));
    }
}
