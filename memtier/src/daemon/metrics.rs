//! The small set of figures for Prometheus, in its text format (docs/control-api.md lists them), and what they count.

use super::recorder::Recording;
use super::views::OwnView;
use crate::model::Sight;
use crate::plan::Governor;
use crate::vocab::{Action, Amount, Bytes, End, Guard, Outcome, Source, Span, Time};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What only the loop sees.
#[derive(Debug, Default)]
pub struct Tally {
    pub decisions: u64,
    /// Steps by verb and end.
    ends: BTreeMap<(&'static str, &'static str), u64>,
    paged_out: Bytes,
    armed: Bytes,
    /// Moved between nodes.
    placed: Bytes,
    /// Moved between classes of memcached servers.
    slab_pages: u64,
}

impl Tally {
    pub fn settle(&mut self, action: &Action, outcome: &Outcome) {
        let Outcome { done: Amount { pages, .. }, end, .. } = outcome;
        *self.ends.entry((action.verb(), end_name(end))).or_default() += 1;
        match action {
            Action::PageOut { .. } => self.paged_out = self.paged_out.saturating_add(pages.bytes()),
            Action::Arm { .. } => self.armed = self.armed.saturating_add(pages.bytes()),
            Action::MovePages { .. } | Action::Migrate { .. } => self.placed = self.placed.saturating_add(pages.bytes()),
            Action::MoveSlabPage { .. } => self.slab_pages = self.slab_pages.saturating_add(pages.0),
            Action::Scan { .. }
            | Action::Deactivate { .. }
            | Action::Bind { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => {}
        }
    }
}

const fn end_name(end: &End) -> &'static str {
    match end {
        End::Done => "done",
        End::Partial(_) => "partial",
        End::Skipped(Guard::DryRun) => "advice",
        End::Skipped(_) => "skipped",
        End::Expired => "expired",
        End::Failed(_) => "failed",
    }
}

macro_rules! put {
    ($out:expr, $($arg:tt)*) => { writeln!($out, $($arg)*).expect("a String takes everything") };
}

struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        put!(self.0, "# HELP memtier_{name} {help}\n# TYPE memtier_{name} {kind}");
    }
    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        put!(self.0, "memtier_{name}{labels} {value}");
    }
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.metric(name, kind, help);
        self.value(name, "", value);
    }
}

/// The page that a scraper gets.
#[must_use]
pub fn render(governor: &Governor, tally: &Tally, own: &OwnView, recording: &Recording, now: Time) -> String {
    let mut page = Page(String::with_capacity(8 << 10));
    sources(&mut page, governor);
    page.one("decisions_total", "counter", "Turns of the planner", tally.decisions);
    page.metric("steps_total", "counter", "Steps by what was done and how it ended");
    for ((verb, end), count) in &tally.ends {
        page.value("steps_total", &format!("{{verb=\"{verb}\",end=\"{end}\"}}"), count);
    }
    page.one("paged_out_bytes_total", "counter", "Memory that went to swap by our steps, measured", tally.paged_out.0);
    page.one("placed_bytes_total", "counter", "Memory moved between nodes by our steps, measured", tally.placed.0);
    page.one(
        "slab_pages_moved_total",
        "counter",
        "Slab pages of memcached servers that our steps moved, measured",
        tally.slab_pages,
    );
    page.one("armed_bytes_total", "counter", "Mapped memory whose accessed bits were cleared", tally.armed.0);
    page.one(
        "recording",
        "gauge",
        "1 while records reach the recording",
        u8::from(recording.dir.is_some() && recording.stalled.is_none()),
    );
    page.one("recording_stalled", "gauge", "1 while a recording runs and cannot be written", u8::from(recording.stalled.is_some()));
    page.one("recording_missing_records", "gauge", "Records that the running recording misses", recording.missing);
    page.one("paused", "gauge", "1 while an operator holds memtier", u8::from(governor.paused()));
    page.metric("model_bytes", "gauge", "Memory of each model");
    for fill in governor.models().fill() {
        page.value("model_bytes", &format!("{{model=\"{}\"}}", fill.model), fill.bytes.0);
    }
    page.metric(
        "cpu_seconds_total",
        "counter",
        "CPU time of the daemon; bpf: run time of its programs, spent in whoever triggered them",
    );
    page.value("cpu_seconds_total", "{mode=\"user\"}", seconds(own.cpu_user));
    page.value("cpu_seconds_total", "{mode=\"system\"}", seconds(own.cpu_system));
    if let Some(run) = own.bpf_run {
        page.value("cpu_seconds_total", "{mode=\"bpf\"}", seconds(run));
    }
    page.one("resident_bytes", "gauge", "Resident memory of the daemon", own.resident.0);
    targets(&mut page, governor, now);
    page.0
}

fn sources(page: &mut Page, governor: &Governor) {
    let freshness = &governor.models().freshness;
    let label = |source: Source| format!("{{source=\"{source}\"}}");
    page.metric("records_total", "counter", "Records that came in, by source");
    Source::ALL.iter().for_each(|s| page.value("records_total", &label(*s), freshness.records(*s)));
    page.metric("lost_total", "counter", "Records known to be lost, by source");
    Source::ALL.iter().for_each(|s| page.value("lost_total", &label(*s), freshness.lost(*s)));
    page.metric("blind", "gauge", "1 while a source cannot tell");
    for source in Source::ALL {
        page.value("blind", &label(source), u8::from(matches!(freshness.sight(source), Sight::Blind { .. })));
    }
}

fn targets(page: &mut Page, governor: &Governor, now: Time) {
    let models = governor.models();
    let views: Vec<_> = models
        .heat
        .procs()
        .filter(|(proc, _)| governor.selection(*proc).policy().is_some())
        .map(|(proc, heat)| {
            let comm = models.procs.sample(proc).map(|s| escaped(&s.comm)).unwrap_or_default();
            (format!("pid=\"{}\",comm=\"{comm}\"", proc.pid), heat.idle_histogram(now), heat.refaults_per_min(now))
        })
        .collect();
    page.metric("target_resident_bytes", "gauge", "Resident memory of a selected process, as walked");
    views.iter().for_each(|(who, idle, _)| page.value("target_resident_bytes", &format!("{{{who}}}"), idle.resident.0));
    page.metric("target_swapped_bytes", "gauge", "Swapped memory of a selected process, as walked");
    views.iter().for_each(|(who, idle, _)| page.value("target_swapped_bytes", &format!("{{{who}}}"), idle.swapped.0));
    page.metric("target_idle_bytes", "gauge", "Resident memory that was idle for at least so many seconds");
    for (who, idle, _) in &views {
        for (edge, bytes) in crate::model::IDLE_EDGES.iter().zip(idle.idle) {
            page.value("target_idle_bytes", &format!("{{{who},idle=\"{}\"}}", edge.as_secs()), bytes.0);
        }
    }
    page.metric("target_refaults_per_minute", "gauge", "Pages that came back from swap, mean of about ten minutes");
    views.iter().for_each(|(who, _, refaults)| page.value("target_refaults_per_minute", &format!("{{{who}}}"), refaults));
}

fn seconds(span: Span) -> String {
    format!("{}.{:06}", span.as_secs(), span.0 % 1_000_000_000 / 1000)
}

/// A process may call itself anything.
fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
