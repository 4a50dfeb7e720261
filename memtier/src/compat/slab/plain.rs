//! The sister script, for servers without flash: free pages go to the pool, and the oldest class gives a page to the youngest
//! of those that evict.

use super::history::History;
use super::lines;
use super::sample::Change;
use super::{Aged, Mode, Move, Pass, Raised, Rule};
use crate::vocab::{ClassId, Place};
use std::collections::BTreeSet;

const SOURCE_PAGES: u64 = 2;
pub(super) const RECLAIM_PAGES: f64 = 2.5;
/// A class with a larger part of all evictions counts as one that evicts, in however few looks.
const SHARE: f64 = 0.25;

/// A class as the rules see it.
struct Row {
    class: ClassId,
    free_chunks: u64,
    chunks_per_page: u64,
    total_pages: u64,
    age: Option<u64>,
    grew: bool,
    evicted: i64,
}

impl Row {
    /// `None`: the class is passed over.
    fn of(change: &Change, mode: Mode) -> Result<Option<Self>, Raised> {
        let Change { class, now, evicted, pages } = *change;
        let row = |age, evicted| {
            let (free_chunks, chunks_per_page) = (now.free_chunks?, now.chunks_per_page?);
            Some(Self { class, free_chunks, chunks_per_page, total_pages: now.total_pages?, age, grew: pages? > 0, evicted })
        };
        match (mode, evicted, pages) {
            (Mode::Repaired, evicted, _) => Ok(row(now.age, evicted.unwrap_or_default()).filter(|row| row.class.0 != 0)),
            (Mode::Compat2017, None, _) | (Mode::Compat2017, _, None) => Ok(None),
            (Mode::Compat2017, Some(evicted), Some(_)) => {
                let row = now.age.and_then(|age| row(Some(age), evicted));
                row.map(Some).ok_or_else(|| Raised::Missing(class.0.to_string()))
            }
        }
    }
}

/// One look.
pub(super) fn decide(
    history: &mut History,
    (mode, window, ratio): (Mode, usize, f64),
    changes: &[Change],
    pass: &mut Pass,
) -> Result<(), Raised> {
    pass.rule = Rule::Even;
    let all = changes.iter().filter_map(|change| change.evicted).fold(0, i64::saturating_add);
    let mut evicting = BTreeSet::new();
    for change in changes {
        let Some(Row { class, free_chunks, chunks_per_page, total_pages, age: told, grew, evicted }) = Row::of(change, mode)?
        else {
            continue;
        };
        let mark = history.mark(class);
        mark.dirty |= grew || evicted > 0;
        mark.age = told;
        if evicted > 0 {
            evicting.insert(class);
            mark.evicted = match (mode, all) {
                (Mode::Compat2017, 0) => return Err(Raised::Division),
                (Mode::Compat2017, all) => evicted as f64 / all as f64,
                // Another's counter that was reset makes the sum too small.
                (Mode::Repaired, all) => evicted as f64 / all.max(evicted) as f64,
            };
        }
        let has_pages = free_chunks as f64 > chunks_per_page as f64 * RECLAIM_PAGES;
        if has_pages && history.count(class, |mark| mark.dirty) == 0 {
            pass.rule = Rule::Free;
            pass.decision = Some(Move { from: Place::Class(class), to: Place::Pool });
            break;
        }
        if told.is_none() {
            continue;
        }
        let aged = Aged { class, age: history.age(class) };
        if aged.age > pass.oldest.map_or(0.0, |o| o.age) && total_pages > SOURCE_PAGES {
            pass.oldest = Some(aged);
        }
        let (looks, share) = (history.count(class, |mark| mark.evicted > 0.0), history.evicted(class) / window as f64);
        pass.lines.push(lines::weighed(aged, looks, window, share));
        let evicts = looks as f64 > window as f64 / 2.0 || share > SHARE;
        if evicts && pass.youngest.is_none_or(|y| aged.age < y.age) {
            pass.youngest = Some(aged);
        }
    }
    if let (Some(old), Some(young)) = (pass.oldest, pass.youngest) {
        pass.lines.extend(lines::old_and_young(old, young));
        // With a ratio above one the original moves a page from a class to itself.
        let apart = mode == Mode::Compat2017 || old.class != young.class;
        if apart && young.age < old.age * ratio && evicting.contains(&young.class) {
            pass.rule = Rule::TooYoung;
            pass.decision = Some(Move { from: Place::Class(old.class), to: Place::Class(young.class) });
        }
    }
    pass.decision = pass.decision.filter(|_| history.is_full());
    Ok(())
}
