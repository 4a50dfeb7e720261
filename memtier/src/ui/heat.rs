//! One process as a histogram of idle ages and a picture of its address space, hot to cold.

use super::Style;
use crate::daemon::views::{AreaView, CellView, HeatView};
use crate::vocab::{Bytes, Permil, Span, VmaKind};
use std::fmt::Write as _;

/// Hottest first: colour on a 256-colour terminal, shade on any other, and the least idle age that it stands for.
const SCALE: [(u8, char, Span, &str); 6] = [
    (196, '@', Span::ZERO, "in use"),
    (208, '#', Span::from_secs(30), "30 s"),
    (220, '+', Span::from_secs(60), "1 min"),
    (71, '=', Span::from_secs(120), "2 min"),
    (31, '-', Span::from_secs(300), "5 min"),
    (60, '.', Span::from_secs(900), "15 min"),
];
/// Where no bit proves anything.
const UNKNOWN: (u8, char) = (244, '?');
const BLOCK: &str = "\u{2588}";
/// A cell counts as in use when more than this share of it is.
const MOSTLY: u64 = 4;

/// The whole picture, ready to print.
#[must_use]
pub fn heat(view: &HeatView, style: Style) -> String {
    let mut out = String::new();
    head(&mut out, view, style);
    histogram(&mut out, view, style);
    map(&mut out, view, style);
    notes(&mut out, view);
    out
}

macro_rules! put {
    ($out:expr, $($arg:tt)*) => { writeln!($out, $($arg)*).expect("a String takes everything") };
}

fn head(out: &mut String, view: &HeatView, style: Style) {
    let HeatView { proc, comm, selection, resident, swapped, scans, working_set, confidence, refaults_per_min, .. } = view;
    put!(out, "{}  {selection}", style.bold(&format!("{comm} ({proc})")));
    put!(out, "resident {resident}, swapped {swapped}, working set at least {working_set}, refaults {refaults_per_min} pages/min");
    put!(out, "{scans} walks, confidence {confidence}\n");
}

fn histogram(out: &mut String, view: &HeatView, style: Style) {
    let width = style.columns.saturating_sub(40).clamp(10, 60);
    let mut bar = |name: &str, bytes: Bytes, color: u8| {
        let share = Permil::of(bytes.0, view.resident.0);
        let length = (bytes.0 as u128 * width as u128).div_ceil(u128::from(view.resident.0.max(1))) as usize;
        write!(out, "  {name:<14} {:>10}  {:>6}  ", bytes.to_string(), share.to_string()).expect("a String takes everything");
        style.paint(out, color, &if style.color { BLOCK } else { "#" }.repeat(length.min(width)));
        out.push('\n');
    };
    bar("in use", view.young, SCALE[0].0);
    if let Some((age, longer)) = view.idle.first() {
        let recent = [view.young, view.unknown, *longer].into_iter().fold(view.resident, Bytes::saturating_sub);
        bar(&format!("idle < {}", words(*age)), recent, SCALE[0].0);
    }
    // Each of these holds all those below it.
    for (age, bytes) in &view.idle {
        bar(&format!("idle >= {}", words(*age)), *bytes, color_of(*age));
    }
    bar("not known", view.unknown, UNKNOWN.0);
    put!(out, "  (each \">=\" row includes those below it; the first of them and the other rows make up what is resident)\n");
}

fn words(age: Span) -> String {
    match age.as_secs() {
        s if s < 60 => format!("{s} s"),
        s => format!("{} min", s / 60),
    }
}

fn color_of(age: Span) -> u8 {
    SCALE.iter().rev().find(|(_, _, least, _)| age >= *least).map_or(244, |(color, ..)| *color)
}

fn map(out: &mut String, view: &HeatView, style: Style) {
    if view.areas.is_empty() {
        return;
    }
    put!(out, "address space, {} a cell:", view.cell);
    let columns = style.columns.saturating_sub(30).max(8);
    for AreaView { range, kinds, resident, cells } in &view.areas {
        let kinds: Vec<_> = kinds.iter().map(|kind| kind_name(*kind)).collect();
        put!(out, "  {:x}-{:x}  {resident} resident  {}", range.start, range.end, kinds.join(", "));
        for (row, cells) in cells.chunks(columns).enumerate() {
            write!(out, "  {:>14x}  ", range.start + row as u64 * columns as u64 * view.cell.0).expect("a String takes everything");
            cells.iter().for_each(|cell| shade(out, cell, style));
            out.push('\n');
        }
    }
    if view.elsewhere > Bytes::ZERO {
        put!(out, "  and {} resident in small areas", view.elsewhere);
    }
    out.push_str("  ");
    for (color, letter, _, name) in SCALE {
        style.paint(out, color, &if style.color { BLOCK.to_owned() } else { letter.to_string() });
        write!(out, " {name}   ").expect("a String takes everything");
    }
    style.paint(out, UNKNOWN.0, &if style.color { BLOCK.to_owned() } else { UNKNOWN.1.to_string() });
    out.push_str(" not known   (blank: not resident)\n");
}

/// A touch that was seen is certain; else a cell of which half proves nothing is not known, rather than cold.
fn shade(out: &mut String, cell: &CellView, style: Style) {
    if cell.resident == Bytes::ZERO {
        out.push(' ');
        return;
    }
    let in_use = cell.young.0 * MOSTLY >= cell.resident.0;
    let age = if in_use { Span::ZERO } else { cell.idle };
    let (color, letter) = if !in_use && cell.unknown.0 * 2 >= cell.resident.0 {
        UNKNOWN
    } else {
        SCALE.iter().rev().find(|(_, _, least, _)| age >= *least).map_or(UNKNOWN, |(color, letter, ..)| (*color, *letter))
    };
    style.paint(out, color, &if style.color { BLOCK.to_owned() } else { letter.to_string() });
}

const fn kind_name(kind: VmaKind) -> &'static str {
    match kind {
        VmaKind::Anon => "anonymous",
        VmaKind::File => "file",
        VmaKind::SharedFile => "shared file",
        VmaKind::Shmem => "shared memory",
        VmaKind::Hugetlb => "hugetlb",
        VmaKind::Special => "special",
    }
}

fn notes(out: &mut String, view: &HeatView) {
    if let Some(why) = &view.blind {
        put!(out, "\nno exact picture: {why}");
    }
    if view.huge > Bytes::ZERO {
        put!(out, "\n{} lie under huge leaves: one accessed bit for 2 MiB, so any touch makes all of it read in use", view.huge);
    }
    if !view.armed {
        put!(
            out,
            "\naccessed bits are not being cleared, so \"in use\" means since anybody last cleared them; --arm makes ages known"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{AddrRange, Pages, ProcKey, Time};

    #[test]
    fn picture_without_colour() {
        let cell = |resident, young, idle| CellView {
            resident: Pages(resident).bytes(),
            young: Pages(young).bytes(),
            unknown: Bytes::ZERO,
            idle: Span::from_secs(idle),
        };
        let cells = vec![cell(512, 512, 0), cell(512, 0, 45), cell(0, 0, 0), cell(512, 1, 1000), cell(512, 0, 130)];
        let range = AddrRange { start: 0x4000_0000, end: 0x40a0_0000 };
        let view = HeatView {
            proc: ProcKey { pid: 7, start: 1 },
            comm: "memcached".into(),
            selection: "selected by target rule 1 for autocold".into(),
            now: Time(0),
            scan_at: None,
            scans: 3,
            resident: Bytes::from_mib(8),
            swapped: Bytes::ZERO,
            idle: vec![(Span::from_secs(30), Bytes::from_mib(4))],
            young: Bytes::from_mib(2),
            unknown: Bytes::ZERO,
            working_set: Bytes::from_mib(2),
            refaults_per_min: 0,
            confidence: Permil(1000),
            huge: Bytes::from_mib(2),
            armed: true,
            blind: None,
            cell: Bytes::from_mib(2),
            areas: vec![AreaView { range, kinds: vec![VmaKind::Anon], resident: Bytes::from_mib(8), cells }],
            elsewhere: Bytes::ZERO,
        };
        let text = heat(&view, Style { color: false, columns: 80 });
        assert!(text.contains("  idle < 30 s      2048 KiB   25.0%"), "{text}");
        assert!(text.contains("        40000000  @# .="), "{text}");
        assert!(text.contains("idle >= 30 s"), "{text}");
        assert!(text.contains("one accessed bit for 2 MiB"), "{text}");
        // What nobody asked is not known, cell by cell, whatever the rest of the picture proves.
        let mut view = view;
        let unknown = |pages| Pages(pages).bytes();
        let cells = &mut view.areas[0].cells;
        (cells[1].unknown, cells[3].unknown, cells[4].unknown) = (unknown(512), unknown(256), unknown(100));
        let text = heat(&view, Style { color: false, columns: 80 });
        assert!(text.contains("        40000000  @? ?="), "{text}");
    }
}
