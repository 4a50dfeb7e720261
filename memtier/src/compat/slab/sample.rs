//! What a server says of itself in one look, and what changed since another.

use crate::vocab::{ClassId, ServerLife};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A class, as far as the server tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassStats {
    pub chunk_size: Option<u64>,
    pub chunks_per_page: Option<u64>,
    pub total_pages: Option<u64>,
    pub used_chunks: Option<u64>,
    pub free_chunks: Option<u64>,
    /// Items.
    pub number: Option<u64>,
    /// Of the item that is next to go, in seconds.
    pub age: Option<u64>,
    pub evicted: Option<u64>,
}

/// One look. A class without items is missing among the items, not among the slabs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub life: Option<ServerLife>,
    /// Pages of the global pool.
    pub pool: Option<u64>,
    pub evictions: Option<u64>,
    /// In the order in which the server named them first.
    pub classes: Vec<(ClassId, ClassStats)>,
}

/// What a class is, and what became of two of its counters since the look before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub class: ClassId,
    /// Without what the look before did not tell.
    pub now: ClassStats,
    pub evicted: Option<i64>,
    pub pages: Option<i64>,
}

impl Sample {
    /// Of the names and values in `stats items`, `stats slabs` and `stats`.
    pub fn read<'a>(
        per_class: impl Iterator<Item = (&'a str, &'a str)>,
        general: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut sample = Self::default();
        let mut known = BTreeMap::new();
        for (name, value) in per_class {
            let name = name.strip_prefix("items:").unwrap_or(name);
            let Some((class, name)) = name.split_once(':').and_then(|(id, name)| Some((ClassId(id.parse().ok()?), name))) else {
                continue;
            };
            let at = *known.entry(class).or_insert_with(|| {
                sample.classes.push((class, ClassStats::default()));
                sample.classes.len() - 1
            });
            if let Some(field) = sample.classes[at].1.field(name) {
                *field = number(value);
            }
        }
        let (mut pid, mut uptime, mut time) = (None, None, None);
        for (name, value) in general {
            match name {
                "slab_global_page_pool" => sample.pool = number(value),
                "evictions" => sample.evictions = number(value),
                "pid" => pid = value.parse().ok(),
                "uptime" => uptime = number(value),
                "time" => time = number(value),
                _ => {}
            }
        }
        sample.life = (|| Some(ServerLife { pid: pid?, since: time?.checked_sub(uptime?)? }))();
        sample
    }

    /// Of the classes that both have.
    pub(super) fn since(&self, before: Option<&Self>) -> Vec<Change> {
        let was: BTreeMap<ClassId, ClassStats> = before.iter().flat_map(|sample| sample.classes.iter().copied()).collect();
        let change = |&(class, now): &(ClassId, ClassStats)| {
            let was = was.get(&class)?;
            let now = now.known_to(was);
            Some(Change { class, now, evicted: delta(was.evicted, now.evicted), pages: delta(was.total_pages, now.total_pages) })
        };
        self.classes.iter().filter_map(change).collect()
    }
}

impl ClassStats {
    fn field(&mut self, name: &str) -> Option<&mut Option<u64>> {
        Some(match name {
            "chunk_size" => &mut self.chunk_size,
            "chunks_per_page" => &mut self.chunks_per_page,
            "total_pages" => &mut self.total_pages,
            "used_chunks" => &mut self.used_chunks,
            "free_chunks" => &mut self.free_chunks,
            "number" => &mut self.number,
            "age" => &mut self.age,
            "evicted" => &mut self.evicted,
            _ => return None,
        })
    }

    fn known_to(self, was: &Self) -> Self {
        let Self { chunk_size, chunks_per_page, total_pages, used_chunks, free_chunks, number, age, evicted } = self;
        Self {
            chunk_size: chunk_size.filter(|_| was.chunk_size.is_some()),
            chunks_per_page: chunks_per_page.filter(|_| was.chunks_per_page.is_some()),
            total_pages: total_pages.filter(|_| was.total_pages.is_some()),
            used_chunks: used_chunks.filter(|_| was.used_chunks.is_some()),
            free_chunks: free_chunks.filter(|_| was.free_chunks.is_some()),
            number: number.filter(|_| was.number.is_some()),
            age: age.filter(|_| was.age.is_some()),
            evicted: evicted.filter(|_| was.evicted.is_some()),
        }
    }
}

/// Less than nothing where a counter was reset.
fn delta(before: Option<u64>, after: Option<u64>) -> Option<i64> {
    Some(after?.wrapping_sub(before?).cast_signed())
}

/// Digits only.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Sum over all classes of what is known.
pub(super) fn total(changes: &[Change], of: impl Fn(&Change) -> Option<u64>) -> u64 {
    changes.iter().filter_map(of).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
        text.lines().filter_map(|line| line.split_once(' '))
    }

    #[test]
    fn a_look() {
        let per_class = "items:7:number 3\nitems:7:age 9\nitems:7:evicted 1\n7:chunk_size 96\n7:free_chunks x\n9:total_pages 4\n\
                         active_slabs 2\nitems:300:age 1\nitems:x:age 1\n7:odd 1";
        let sample = Sample::read(pairs(per_class), pairs("pid 12\nuptime 5\ntime 105\nevictions 8\nslab_global_page_pool +3"));
        let seven = ClassStats { chunk_size: Some(96), number: Some(3), age: Some(9), evicted: Some(1), ..ClassStats::default() };
        let nine = ClassStats { total_pages: Some(4), ..ClassStats::default() };
        assert_eq!(sample.classes, [(ClassId(7), seven), (ClassId(9), nine)]);
        assert_eq!((sample.life, sample.evictions, sample.pool), (Some(ServerLife { pid: 12, since: 100 }), Some(8), None));
    }

    #[test]
    fn changes_are_of_what_both_tell() {
        let class = |id, evicted, total_pages| (ClassId(id), ClassStats { evicted, total_pages, ..ClassStats::default() });
        let before = Sample { classes: vec![class(1, Some(5), Some(2)), class(2, None, Some(1))], ..Sample::default() };
        let after = Sample {
            classes: vec![class(1, Some(3), Some(4)), class(2, Some(9), Some(1)), class(3, Some(1), None)],
            ..before.clone()
        };
        let changes: Vec<_> = after.since(Some(&before)).iter().map(|c| (c.class.0, c.evicted, c.pages, c.now.evicted)).collect();
        assert_eq!(changes, [(1, Some(-2), Some(2), Some(3)), (2, None, Some(0), None)]);
        assert!(after.since(None).is_empty());
    }
}
