//! `memtier status` for people.

use super::{Style, Table};
use crate::daemon::views::{BudgetView, OwnView, SightView, SourceView, Status, TargetView};
use crate::vocab::{Bytes, Span};
use std::fmt::Write as _;

macro_rules! put {
    ($out:expr, $($arg:tt)*) => { writeln!($out, $($arg)*).expect("a String takes everything") };
}

/// The whole screen, ready to print.
#[must_use]
pub fn status(status: &Status, style: Style) -> String {
    let Status { version, pid, started, now, mode, paused, config, recording, .. } = status;
    let mut out = String::new();
    let paused = if *paused { ", PAUSED (memtier resume)" } else { "" };
    put!(out, "{}  {}{paused}, up {}", style.bold(&format!("memtier {version} (pid {pid})")), mode.phrase(), now.since(*started));
    put!(out, "configuration: {}", if config.is_empty() { "built-in defaults".to_owned() } else { config.join(", ") });
    put!(out, "recording: {}", recording.as_deref().unwrap_or("off (memtier record)"));
    match (&status.recording_stalled, status.recording_missing) {
        (Some(why), missing) => put!(
            out,
            "  STALLED, {missing} records missing: {why}\n  next: make room or mend the directory; it is tried again every minute"
        ),
        (None, 0) => {}
        (None, missing) => put!(out, "  {missing} records are missing, from when it could not be written"),
    }
    sources(&mut out, &status.sources, style);
    targets(&mut out, &status.targets, status.more_targets, style);
    if !status.vain_rules.is_empty() {
        section(&mut out, "rules in vain", status.vain_rules.iter().cloned(), style);
        put!(out, "  next: wait for the process to start, or mend the rule and `memtier reload`");
    }
    budgets(&mut out, &status.budgets, style);
    section(&mut out, "brakes that hold", status.brakes.iter().cloned(), style);
    section(&mut out, "idle policies", status.idles.iter().map(|idle| format!("{}: {}", idle.policy, idle.reason)), style);
    section(&mut out, "last decisions", status.log.iter().cloned(), style);
    if !status.footprint.is_empty() {
        let changed: Vec<String> = status.footprint.iter().map(|held| held.setting.to_string()).collect();
        put!(out, "\nchanged on the host: {} (memtier status --footprint)", changed.join(", "));
    }
    own(&mut out, &status.own, now.since(*started));
    out
}

fn section(out: &mut String, name: &str, lines: impl Iterator<Item = String>, style: Style) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        put!(out, "\n{}", style.bold(name));
        lines.for_each(|line| put!(out, "  {line}"));
    }
}

fn sources(out: &mut String, sources: &[SourceView], style: Style) {
    let mut table = Table::new(&["source", "state", ">records", ">lost", "last"]);
    for SourceView { source, sight, silent, records, lost } in sources {
        let state = match sight {
            SightView::Seeing => "sees".to_owned(),
            SightView::Waiting => "not heard of yet".to_owned(),
            SightView::Blind { why } => format!("blind: {why}"),
        };
        let last = silent.map_or_else(|| "-".to_owned(), |span| format!("{span} ago"));
        table.row([source.to_string(), state, records.to_string(), lost.to_string(), last]);
    }
    put!(out, "\n{}\n{table}", style.bold("sources"));
}

fn targets(out: &mut String, targets: &[TargetView], more: u64, style: Style) {
    let mut table = Table::new(&[
        ">pid",
        "name",
        ">resident",
        ">swapped",
        ">idle 2 min",
        ">unknown",
        ">walks",
        ">confidence",
        ">refaults/min",
        "why",
    ]);
    for view in targets {
        let TargetView { proc, comm, selection, resident, swapped, idle_2min, unknown, scans, confidence, refaults_per_min } = view;
        table.row([
            proc.pid.to_string(),
            comm.clone(),
            resident.to_string(),
            swapped.to_string(),
            idle_2min.to_string(),
            unknown.to_string(),
            scans.to_string(),
            confidence.to_string(),
            refaults_per_min.to_string(),
            selection.clone(),
        ]);
    }
    if table.is_empty() {
        put!(out, "{}\n  none selected or walked yet", style.bold("targets"));
    } else {
        write!(out, "{}\n{table}", style.bold("targets")).expect("a String takes everything");
    }
    if more > 0 {
        put!(out, "  and {more} more");
    }
}

fn budgets(out: &mut String, budgets: &[BudgetView], style: Style) {
    let mut table = Table::new(&["budget", ">used", ">limit", "window"]);
    for BudgetView { name, used, limit, unit, window } in budgets {
        let say = |n: u64| if unit == "bytes" { Bytes(n).to_string() } else { n.to_string() };
        table.row([name.clone(), say(*used), say(*limit), window.to_string()]);
    }
    write!(out, "\n{}\n{table}", style.bold("budgets")).expect("a String takes everything");
}

fn own(out: &mut String, own: &OwnView, up: Span) {
    let OwnView { cpu_user, cpu_system, bpf_run, resident, models, tracked, events, decisions, steps_open } = own;
    let share = |span: Span| {
        let hundredths = span.0.saturating_mul(10_000) / up.0.max(1);
        format!("{span} ({}.{:02}%)", hundredths / 100, hundredths % 100)
    };
    let bpf = bpf_run.map_or_else(|| "not counted (run --bpf-stats)".to_owned(), share);
    put!(out, "\nmemtier itself: user {}, system {}, BPF {bpf}", share(*cpu_user), share(*cpu_system));
    put!(
        out,
        "  {resident} resident; models {models} for {tracked} tracked; {events} events, {decisions} decisions, {steps_open} steps open"
    );
}
