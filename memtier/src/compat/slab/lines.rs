//! The lines of the scripts, to the blank.

use super::sample::{Change, total};
use super::{Aged, Move};
use crate::vocab::Place;
use std::fmt;

impl fmt::Display for Move {
    /// As Python prints the pair; class ids are text there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |place| match place {
            Place::Pool => "0".to_owned(),
            Place::Class(class) => format!("'{}'", class.0),
        };
        write!(f, "({}, {})", quoted(self.from), quoted(self.to))
    }
}

pub(super) fn global_pool(pages: u64) -> String {
    format!("global pool: [{pages}]")
}

fn aged(label: &str, Aged { class, age }: Aged) -> String {
    format!("{label}[class: {}] [age: {age:.2}]", class.0)
}
pub(super) fn oldest(of: Aged) -> String {
    aged("oldest:  ", of)
}
pub(super) fn old_and_young(old: Aged, young: Aged) -> [String; 2] {
    [aged("old:   ", old), aged("young: ", young)]
}

/// What the sister script weighs of a class.
pub(super) fn weighed(of: Aged, looks: usize, window: usize, share: f64) -> String {
    let Aged { class, age } = of;
    let least = float(window as f64 / 2.0);
    format!("sid {} age {} ev_total {looks} window_min {least} ev_total_sum {}", class.0, float(age), float(share))
}

/// The table of the sister script. What it calls percent are parts of one.
pub(super) fn table(changes: &[Change]) -> Vec<String> {
    let evicted: i64 = changes.iter().filter_map(|change| change.evicted).fold(0, i64::saturating_add);
    let (items, pages) = (total(changes, |c| c.now.number), total(changes, |c| c.now.total_pages));
    let part = |of: f64, all: f64| if all == 0.0 { 0.0 } else { of / all };
    let row = |change: &Change| {
        let Change { class, now, evicted: gone, .. } = change;
        let (gone, number, held, age) = ((*gone)?, now.number?, now.total_pages?, now.age?);
        Some(format!(
            "  {:2}: {gone:8} ({:.2}%) {number:10} ({:.4}%) {held:6} ({:.2}%) {age:6}",
            class.0,
            part(gone as f64, evicted as f64),
            part(number as f64, items as f64),
            part(held as f64, pages as f64),
        ))
    };
    let head = "\n  sb: evicted  (pct  ) items      (pct    ) pages  (pct)   age   ".to_owned();
    [head].into_iter().chain(changes.iter().filter_map(row)).collect()
}

/// As Python writes a float that is no less than nought.
fn float(number: f64) -> String {
    if number == 0.0 || (1e-4..1e16).contains(&number) {
        return format!("{number:?}");
    }
    let scientific = format!("{number:e}");
    match scientific.split_once('e').and_then(|(digits, power)| Some((digits, power.parse::<i32>().ok()?))) {
        Some((digits, power)) => format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.unsigned_abs()),
        None => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::slab::ClassStats;
    use crate::vocab::ClassId;

    #[test]
    fn lines_of_the_scripts() {
        let class = |id| Place::Class(ClassId(id));
        assert_eq!(Move { from: class(20), to: Place::Pool }.to_string(), "('20', 0)");
        assert_eq!(Move { from: Place::Pool, to: class(5) }.to_string(), "(0, '5')");
        assert_eq!(Move { from: class(5), to: class(20) }.to_string(), "('5', '20')");
        let at = |id, age| Aged { class: ClassId(id), age };
        assert_eq!(global_pool(8), "global pool: [8]");
        assert_eq!(oldest(at(20, 1.0 / 3.0)), "oldest:  [class: 20] [age: 0.33]");
        assert_eq!(old_and_young(at(9, 100.0), at(2, 7.125)), ["old:   [class: 9] [age: 100.00]", "young: [class: 2] [age: 7.12]"]);
        assert_eq!(weighed(at(9, 100.0), 2, 5, 0.25), "sid 9 age 100.0 ev_total 2 window_min 2.5 ev_total_sum 0.25");
    }

    #[test]
    fn the_table() {
        let of = |id, evicted, number, total_pages, age| Change {
            class: ClassId(id),
            now: ClassStats { number: Some(number), total_pages: Some(total_pages), age: Some(age), ..ClassStats::default() },
            evicted,
            pages: Some(0),
        };
        let untold = Change { now: ClassStats::default(), ..of(6, Some(0), 0, 0, 0) };
        let lines = table(&[of(5, Some(10), 1000, 3, 77), of(20, Some(30), 3000, 1, 1234), of(21, None, 4000, 4, 0), untold]);
        assert_eq!(
            lines,
            [
                "\n  sb: evicted  (pct  ) items      (pct    ) pages  (pct)   age   ",
                "   5:       10 (0.25%)       1000 (0.1250%)      3 (0.38%)     77",
                "  20:       30 (0.75%)       3000 (0.3750%)      1 (0.12%)   1234",
            ]
        );
    }

    #[test]
    fn floats_as_python_writes_them() {
        for (number, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (100.0 / 3.0, "33.333333333333336"),
            (0.0001, "0.0001"),
            (0.00005, "5e-05"),
            (1.25e-7, "1.25e-07"),
            (1e16, "1e+16"),
            (123_456_789_012_345.0, "123456789012345.0"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}
