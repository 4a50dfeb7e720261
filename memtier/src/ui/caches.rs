//! `memtier caches` for people: the scripts' own table of details, and beside it what a page is worth.

use super::Table;
use crate::daemon::views::{CacheView, ClassView, MoveView};
use std::fmt::Write as _;

macro_rules! put {
    ($out:expr, $($arg:tt)*) => { writeln!($out, $($arg)*).expect("a String takes everything") };
}

/// One server.
#[must_use]
pub fn caches(view: &CacheView) -> String {
    let mut out = String::new();
    let pid = view.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
    let acts = if view.acts { "moves pages" } else { "advice only" };
    put!(out, "{}  memcached {}{pid}: {} {acts}", view.server, view.version, view.policy);
    if let Some(why) = &view.blind {
        put!(out, "  blind: {why}");
    }
    view.lacks.iter().for_each(|lack| put!(out, "  lacks {lack}"));
    let moving = view.moving.map_or_else(String::new, |MoveView { from, to }| format!(", one from {from} to {to} now"));
    put!(out, "  pages {} and {} in the pool; moved {}{moving}", view.pages, view.pool, view.moves);
    let rested = view.rested_s.map_or_else(String::new, |seconds| format!("; none read for {seconds} s, while it rests"));
    put!(out, "  records read {}, lost {}{rested}", view.events, view.lost);
    let mut table = Table::new(&[
        ">class",
        ">chunk",
        ">evicted/s",
        ">%",
        ">items",
        ">%",
        ">pages",
        ">%",
        ">age s",
        ">%",
        ">free",
        ">hits/s",
        ">costs",
        ">earns",
        ">sure %",
        ">got",
        ">gave",
    ]);
    for class in &view.classes {
        let ClassView { class: id, chunk_size, pages, pages_permil, items, items_permil, free_chunks, age_s, age_permil, .. } =
            class;
        table.row([
            id.to_string(),
            chunk_size.to_string(),
            class.evictions_per_s.to_string(),
            percent(class.evictions_permil),
            items.to_string(),
            percent(*items_permil),
            pages.to_string(),
            percent(*pages_permil),
            age_s.to_string(),
            percent(*age_permil),
            free_chunks.to_string(),
            class.hits_per_s.to_string(),
            hits(class.loss_milli),
            hits(class.gain_milli),
            percent(class.confidence_permil),
            class.got.to_string(),
            class.gave.to_string(),
        ]);
    }
    if !table.is_empty() {
        out.push_str(&table.to_string());
        put!(out, "  costs, earns: hits per second of a page less, and of a page more");
    }
    view.held.iter().for_each(|held| put!(out, "  {held}"));
    view.log.iter().for_each(|line| put!(out, "  {line}"));
    out
}

fn percent(permil: u64) -> String {
    format!("{}.{}", permil / 10, permil % 10)
}

fn hits(milli: u64) -> String {
    format!("{}.{}", milli / 1000, milli % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_and_its_classes() {
        let class = ClassView {
            class: 5,
            chunk_size: 240,
            pages: 3,
            pages_permil: 750,
            items: 10,
            items_permil: 1000,
            age_s: 9,
            age_permil: 1000,
            loss_milli: 1250,
            gain_milli: 99,
            ..ClassView::default()
        };
        let view = CacheView {
            id: 0,
            server: "/run/m.sock".into(),
            version: "1.6.18".into(),
            pid: Some(7),
            blind: None,
            lacks: vec!["evictions: /run/m.sock answers \"ERROR\"".into()],
            policy: "slab-marginal".into(),
            acts: true,
            pages: 4,
            pool: 1,
            moves: 2,
            moving: Some(MoveView { from: 5, to: 6 }),
            events: 3,
            lost: 0,
            rested_s: Some(12),
            held: Some("hold cache 0 by slab-marginal; not-worth".into()),
            classes: vec![class],
            log: Vec::new(),
        };
        let text = caches(&view);
        for part in [
            "/run/m.sock  memcached 1.6.18, pid 7: slab-marginal moves pages\n",
            "  lacks evictions: /run/m.sock answers \"ERROR\"\n",
            "  records read 3, lost 0; none read for 12 s, while it rests\n",
            "pages 4 and 1 in the pool; moved 2, one from 5 to 6 now",
            "240          0  0.0     10  100.0      3  75.0      9  100.0     0       0    1.2    0.0     0.0    0     0\n",
            "hold cache 0 by slab-marginal; not-worth\n",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
