//! The script for servers with flash: the free pages of small classes go to the pool, the pool is kept within bounds, and the
//! large class whose items go to flash youngest gets pages from it.

use super::history::History;
use super::lines;
use super::sample::{Change, total};
use super::{Aged, Mode, Move, Pass, Raised, Rule};
use crate::vocab::{ClassId, Place};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A class with no more pages gives none.
const SOURCE_PAGES: u64 = 2;
/// A class with more free pages can give one away.
const RECLAIM_PAGES: f64 = 2.5;
/// A class keeps so many pages free at least, so that a page that moves hardly loses items.
const FREE_PAGES: f64 = 1.5;
const CHECK: Duration = Duration::from_secs(60);
/// Pages of the pool before the first check.
const POOL_FIRST: u64 = 2;
/// A server moves no page from a pool that has but one, so a pool with a lower target is never low and feeds nobody: the
/// original's on servers of less than 200 pages.
const POOL_LEAST: u64 = 4;

/// How much shall be free.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Targets {
    pool: u64,
    classes: BTreeMap<ClassId, u64>,
    checked: Option<Duration>,
}

impl Default for Targets {
    fn default() -> Self {
        Self { pool: POOL_FIRST, classes: BTreeMap::new(), checked: None }
    }
}

impl Targets {
    /// Once a minute, and for classes that are new. Returns what the server must be told.
    pub fn check(&mut self, mode: Mode, free: f64, changes: &[Change], now: Duration) -> Result<Vec<(ClassId, u64)>, Raised> {
        let pages = total(changes, |change| change.now.total_pages);
        let due = pages > 0 && self.checked.is_none_or(|checked| checked + CHECK < now);
        let mut told: BTreeMap<ClassId, u64> = BTreeMap::new();
        for change in changes.iter().filter(|change| due || mode == Mode::Repaired && !self.classes.contains_key(&change.class)) {
            match (mode, hold(change, free)) {
                (Mode::Repaired, hold) => told.extend(hold.filter(|_| change.class.0 != 0).map(|chunks| (change.class, chunks))),
                (Mode::Compat2017, Some(chunks)) => told.extend([(change.class, chunks)]),
                (Mode::Compat2017, None) => return Err(Raised::Missing("used_chunks".into())),
            }
        }
        match mode {
            // All anew; the server is told what it knows already, too.
            Mode::Compat2017 if due => self.classes = told.clone(),
            Mode::Compat2017 => {}
            Mode::Repaired => {
                told.retain(|class, chunks| self.classes.get(class) != Some(chunks));
                self.classes.extend(&told);
            }
        }
        if due {
            self.pool = match mode {
                Mode::Repaired => share(pages, free).max(POOL_LEAST),
                Mode::Compat2017 => share(pages, free),
            };
            self.checked = Some(now);
        }
        Ok(told.into_iter().collect())
    }
}

fn share(of: u64, free: f64) -> u64 {
    (of as f64 * free) as u64
}

fn hold(change: &Change, free: f64) -> Option<u64> {
    let hold = share(change.now.used_chunks?.saturating_add(change.now.free_chunks?), free);
    let least = change.now.chunks_per_page? as f64 * FREE_PAGES;
    Some(if least > hold as f64 { least as u64 } else { hold })
}

/// A class as the rules see it.
struct Row {
    class: ClassId,
    small: bool,
    chunks_per_page: u64,
    total_pages: u64,
    free_chunks: u64,
    target: u64,
    age: Option<u64>,
    grew: bool,
    evicted: bool,
}

impl Row {
    /// `None`: the class is passed over.
    fn of(change: &Change, mode: Mode, size: u64, targets: &Targets) -> Result<Option<Self>, Raised> {
        let Change { class, now, evicted, pages } = change;
        let target = targets.classes.get(class).copied();
        let row = |age, evicted| {
            Some(Self {
                class: *class,
                small: now.chunk_size? < size,
                chunks_per_page: now.chunks_per_page?,
                total_pages: now.total_pages?,
                free_chunks: now.free_chunks?,
                target: target?,
                age,
                grew: (*pages)? > 0,
                evicted,
            })
        };
        match (mode, evicted, pages) {
            // Without items nothing is told of evictions; it is then the last to need its pages.
            (Mode::Repaired, evicted, _) => Ok(row(now.age, evicted.unwrap_or_default() > 0).filter(|row| row.class.0 != 0)),
            (Mode::Compat2017, None, _) | (Mode::Compat2017, _, None) => Ok(None),
            (Mode::Compat2017, Some(evicted), Some(_)) => {
                let row = now.age.and_then(|age| row(Some(age), *evicted > 0));
                row.map(Some).ok_or_else(|| Raised::Missing(class.0.to_string()))
            }
        }
    }
}

/// One look, when memory was full once.
pub(super) fn decide(
    history: &mut History,
    (mode, size, ratio): (Mode, u64, f64),
    targets: &Targets,
    changes: &[Change],
    pass: &mut Pass,
) -> Result<(), Raised> {
    if mode == Mode::Compat2017 && pass.pool.is_none() {
        return Err(Raised::Missing("slab_global_page_pool".into()));
    }
    pass.pool_target = targets.pool;
    if let Some(pool) = pass.pool {
        history.now().pool_low = (pool as f64) < targets.pool as f64 / 2.0;
        history.now().pool_high = pool > targets.pool;
        pass.lines.push(lines::global_pool(pool));
    }
    let mut free_of = BTreeMap::new();
    let (mut reclaim, mut oldest, mut youngest) = (None, None::<Aged>, None::<Aged>);
    for change in changes {
        let Some(row) = Row::of(change, mode, size, targets)? else { continue };
        let Row { class, small, chunks_per_page, total_pages, free_chunks, target, age: told, grew, evicted } = row;
        let mark = history.mark(class);
        mark.dirty |= grew || evicted;
        mark.excess_free = target > 0 && free_chunks > target.saturating_mul(2);
        mark.age = told;
        free_of.insert(class, (free_chunks, target));
        let excess = history.count(class, |mark| mark.excess_free);
        let quiet = history.count(class, |mark| mark.dirty) == 0;
        let has_pages = free_chunks as f64 > chunks_per_page as f64 * RECLAIM_PAGES;
        if reclaim.is_none() && has_pages && quiet && (small || excess >= history.len()) {
            reclaim = Some(class);
        }
        if small || told.is_none() {
            continue;
        }
        let age = history.age(class);
        if age > oldest.map_or(0.0, |o| o.age) && total_pages > SOURCE_PAGES {
            oldest = Some(Aged { class, age });
        }
        let fed = free_chunks > target && history.count(class, |mark| mark.relaxed) > 0;
        if youngest.is_none_or(|y| age < y.age) && total_pages > 0 && excess < history.len() && !fed {
            youngest = Some(Aged { class, age });
        }
    }
    (pass.oldest, pass.youngest) = (oldest, youngest);
    let give = |class| Move { from: Place::Class(class), to: Place::Pool };
    let lacks = |class: ClassId| free_of.get(&class).is_some_and(|(free, target)| free <= target);
    let mut fed = None;
    let decided = match (reclaim, oldest, youngest) {
        (_, _, Some(young)) if pass.pool.is_some_and(|pool| pool > targets.pool) => {
            let lacks = match mode {
                Mode::Repaired => lacks(young.class),
                Mode::Compat2017 => last_lacks(changes, targets, young.class)?,
            };
            fed = Some(young.class);
            match (lacks, reclaim) {
                (true, _) => (Rule::PoolHigh, fed.map(feed)),
                (false, Some(class)) => (Rule::Free, Some(give(class))),
                (false, None) => (Rule::HasFree, None),
            }
        }
        (Some(class), ..) => (Rule::Free, Some(give(class))),
        (None, Some(old), _) if history.pool_low() > 0 => {
            pass.lines.push(lines::oldest(old));
            (Rule::PoolLow, Some(give(old.class)))
        }
        (None, Some(old), Some(young)) if old.class != young.class => {
            pass.lines.extend(lines::old_and_young(old, young));
            if young.age < old.age * ratio {
                fed = Some(young.class);
                if lacks(young.class) { (Rule::TooYoung, fed.map(feed)) } else { (Rule::HasFree, None) }
            } else {
                (Rule::Even, None)
            }
        }
        (None, _, _) => (Rule::Even, None),
    };
    if let Some(class) = fed {
        history.mark(class).relaxed = true;
    }
    pass.rule = decided.0;
    pass.decision = decided.1.filter(|_| history.is_full());
    Ok(())
}

fn feed(class: ClassId) -> Move {
    Move { from: Place::Pool, to: Place::Class(class) }
}

/// Whether the class that was looked at last has no more free chunks than the youngest shall have: what the original takes for
/// the youngest.
fn last_lacks(changes: &[Change], targets: &Targets, young: ClassId) -> Result<bool, Raised> {
    let free = changes.last().and_then(|change| change.now.free_chunks).ok_or_else(|| Raised::Missing("free_chunks".into()))?;
    Ok(targets.classes.get(&young).is_some_and(|target| free <= *target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::slab::ClassStats;

    /// Id, chunk size, age, free chunks, pages; 100 chunks a page.
    type Class = (u8, u64, u64, u64, u64);

    fn changes(classes: &[Class], evicted: i64) -> Vec<Change> {
        let change = |&(id, chunk_size, age, free, pages): &Class| Change {
            class: ClassId(id),
            now: ClassStats {
                chunk_size: Some(chunk_size),
                chunks_per_page: Some(100),
                total_pages: Some(pages),
                used_chunks: Some(0),
                free_chunks: Some(free),
                number: Some(1),
                age: Some(age),
                evicted: Some(9),
            },
            evicted: Some(if id == 20 { evicted } else { 0 }),
            pages: Some(0),
        };
        classes.iter().map(change).collect()
    }

    /// Answers to the same look, four times; targets of 150 chunks a class, and 10 pages of the pool.
    fn answers(mode: Mode, pool: u64, classes: &[Class], evicted: i64) -> [Option<(u8, u8)>; 4] {
        let targets = Targets { pool: 10, classes: classes.iter().map(|class| (ClassId(class.0), 150)).collect(), checked: None };
        let mut history = History::new(3, mode);
        [0; 4].map(|_| {
            let mut pass = Pass { pool: Some(pool), ..Pass::default() };
            history.begin(false);
            decide(&mut history, (mode, 512, 0.8), &targets, &changes(classes, evicted), &mut pass).expect("all is told");
            let id = |place| if let Place::Class(class) = place { class.0 } else { 0 };
            pass.decision.map(|due| (id(due.from), id(due.to)))
        })
    }

    /// The original's answers; the last but one of them is wrong: class 20 starves, and it is 25 that is looked at.
    #[test]
    fn vectors_of_the_original() {
        let (none, then) = ([None; 4], |from, to| [None, Some((from, to)), Some((from, to)), Some((from, to))]);
        let apart = [(20, 1024, 100, 0, 10), (25, 4096, 500, 0, 10)];
        let small = |free| (5, 96, 10, free, 10);
        let full = [(20, 1024, 100, 500, 10), (25, 4096, 110, 0, 10)];
        for (pool, classes, evicted, compat, repaired) in [
            (8, &[small(0), apart[0], apart[1]][..], 0, then(0, 20), then(0, 20)),
            (1, &apart[..], 0, then(25, 0), then(25, 0)),
            (8, &[small(300), (20, 1024, 100, 0, 10), (25, 4096, 110, 0, 10)], 0, then(5, 0), then(5, 0)),
            (8, &full, 0, [None, None, Some((20, 0)), Some((20, 0))], [None, None, Some((20, 0)), Some((20, 0))]),
            (8, &full, 1, none, none),
            (20, &apart, 0, then(0, 20), then(0, 20)),
            (20, &[apart[0], (25, 4096, 500, 200, 10)], 0, none, then(0, 20)),
            (8, &[(20, 1024, 450, 0, 10), apart[1]], 0, none, none),
            (1, &[(20, 1024, 100, 0, 2), (25, 4096, 500, 0, 2)], 0, none, none),
        ] {
            assert_eq!(answers(Mode::Compat2017, pool, classes, evicted), compat, "pool {pool}, {classes:?}");
            assert_eq!(answers(Mode::Repaired, pool, classes, evicted), repaired, "pool {pool}, {classes:?}, repaired");
        }
    }

    #[test]
    fn what_is_held_free() {
        let hold = |used, free, per_page, share| {
            let now =
                ClassStats { used_chunks: used, free_chunks: Some(free), chunks_per_page: Some(per_page), ..ClassStats::default() };
            hold(&Change { class: ClassId(1), now, evicted: None, pages: None }, share)
        };
        assert_eq!(hold(Some(100_000), 0, 100, 0.005), Some(500));
        assert_eq!(hold(Some(10_000), 0, 101, 0.005), Some(151));
        assert_eq!(hold(Some(29_999), 1, 100, 0.005), Some(150));
        assert_eq!(hold(None, 1, 100, 0.005), None);
    }
}
