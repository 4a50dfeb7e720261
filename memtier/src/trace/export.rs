//! A recording as rows for other tools: JSON lines or CSV, the same rows in both (docs/export-schema.md).

use super::{Clocks, Damage, Header, Item, Opening, Reader, Record, Stopped};
use crate::plan::Decision;
use crate::vocab::{
    AddrRange, BLOCK_BYTES, Bits, BlockSample, End, Event, Hold, Idle, KernelEvent, Leaf, Outcome, PageChunk, ProcKey, Request,
    Sample, Stamped, Step, Subject,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Jsonl,
    Csv,
}

macro_rules! row {
    ($($(#[doc = $doc:literal])+ $name:ident: $ty:ty,)+) => {
        /// One row. In JSON lines, fields without a value are left out.
        #[derive(Clone, Debug, Default, PartialEq, Serialize)]
        pub struct Row {
            $($(#[doc = $doc])+ #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$ty>,)+
        }

        /// (column, meaning), in the order of the CSV.
        pub static COLUMNS: &[(&str, &str)] = &[$((stringify!($name), concat!($($doc, "\n"),+)),)+];

        impl Row {
            fn csv(&self, out: &mut dyn Write) -> io::Result<()> {
                let mut first = true;
                $(
                    if !std::mem::take(&mut first) {
                        out.write_all(b",")?;
                    }
                    if let Some(value) = &self.$name {
                        field(out, &value.to_string())?;
                    }
                )+
                out.write_all(b"\n")
            }
        }
    };
}

row! {
    /// What the row is: segment, event, pages, block, outcome, decision, step, hold, idle or damage.
    row: &'static str,
    /// Number of the event; of the last event absorbed, for a decision and its steps, holds and idles.
    seq: u64,
    /// Event clock: nanoseconds since boot, suspend included.
    time_ns: u64,
    /// Wall clock of the same moment: nanoseconds since 1970, by the clocks in the segment's header.
    unix_ns: u64,
    /// What kind of event, action, outcome, refusal subject or segment.
    kind: String,
    /// Process that the row is about.
    pid: u32,
    /// Its start in clock ticks since boot; with pid, unique.
    start: u64,
    /// Number of the decision.
    decision: u64,
    /// Position of the step in its decision.
    step: u32,
    /// Policy that took or refused the step.
    policy: &'static str,
    /// Rule behind a step, hold or idle (docs/rules.md).
    rule: &'static str,
    /// First address, hexadecimal.
    from: String,
    /// Address after the last, hexadecimal.
    to: String,
    /// Pages of a step; pages that an outcome really moved, cleared or saw.
    pages: u64,
    /// Pages that an outcome was asked for.
    asked: u64,
    /// Pages whose accessed bit was set.
    accessed: u64,
    /// Pages in memory.
    present: u64,
    /// Pages whose dirty bit was set.
    dirty: u64,
    /// Pages in swap.
    swapped: u64,
    /// The reason, the end or the damage in words.
    text: String,
    /// All there is, as JSON in the words of docs/trace-format.md; of page samples only what the columns lack.
    data: Value,
}

fn field(out: &mut dyn Write, text: &str) -> io::Result<()> {
    if text.contains([',', '"', '\n', '\r']) {
        write!(out, "\"{}\"", text.replace('"', "\"\""))
    } else {
        out.write_all(text.as_bytes())
    }
}

/// Writes every record of `reader` as rows; with `pages`, a row for each block of a page sample too. Memory stays
/// constant however long the recording is.
///
/// # Errors
/// When the recording cannot be read on, or `out` takes no more. What was read until then is written.
pub fn export(reader: &mut Reader, format: Format, pages: bool, out: &mut dyn Write) -> Result<(), Stopped> {
    if format == Format::Csv {
        let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
        writeln!(out, "{}", names.join(","))?;
    }
    let mut sink = Sink { out, format, clocks: Clocks::default(), pages };
    for item in &mut *reader {
        match item? {
            Item::Segment { header, joins: _ } => sink.segment(&header)?,
            Item::Record(Record::Event(event)) => sink.event(event)?,
            Item::Record(Record::Decision(decision)) => sink.decision(decision)?,
            Item::Record(Record::Checkpoint(_)) => {}
        }
    }
    for Damage { path, offset, bytes, why } in reader.damage() {
        let data = json!({"file": path, "offset": offset, "bytes": bytes});
        sink.put(&Row { row: Some("damage"), text: Some(why.clone()), data: Some(data), ..Row::default() })?;
    }
    Ok(())
}

struct Sink<'a> {
    out: &'a mut dyn Write,
    format: Format,
    clocks: Clocks,
    pages: bool,
}

impl Sink<'_> {
    fn put(&mut self, row: &Row) -> io::Result<()> {
        match self.format {
            Format::Csv => row.csv(self.out),
            Format::Jsonl => {
                serde_json::to_writer(&mut *self.out, row)?;
                self.out.write_all(b"\n")
            }
        }
    }

    /// The columns that every dated row has.
    fn dated(&self, row: &'static str, seq: u64, at: crate::vocab::Time) -> Row {
        let Clocks { at: anchor, unix_ns } = self.clocks;
        let unix = unix_ns.saturating_add(at.0).saturating_sub(anchor.0);
        Row { row: Some(row), seq: Some(seq), time_ns: Some(at.0), unix_ns: Some(unix), ..Row::default() }
    }

    fn segment(&mut self, header: &Header) -> io::Result<()> {
        self.clocks = header.clocks;
        let kind = match header.opening {
            Opening::Start => "start",
            Opening::Continues => "continues",
            Opening::Resumes => "resumes",
        };
        let row = self.dated("segment", header.next_event, header.clocks.at);
        let text = format!("{} on {}", header.by, header.host);
        self.put(&Row { kind: Some(kind.to_owned()), text: Some(text), data: Some(data(header)), ..row })
    }

    fn event(&mut self, Stamped { seq, at, event }: Stamped) -> io::Result<()> {
        let row = self.dated("event", seq, at);
        match event {
            Event::Sample(Sample::Pages(chunk)) => self.chunk(row, chunk),
            Event::Outcome(outcome) => self.outcome(row, &outcome),
            event => {
                let (kind, proc) = kind(&event);
                // The payload without the names of the variants, which `kind` holds.
                let mut payload = data(&event);
                for _ in kind.split('.') {
                    if let Value::Object(mut map) = payload {
                        payload = map.iter_mut().next().map(|(_, inner)| inner.take()).unwrap_or_default();
                    }
                }
                self.put(&Row { kind: Some(kind.to_owned()), data: Some(payload), ..about(row, proc) })
            }
        }
    }

    fn chunk(&mut self, row: Row, chunk: PageChunk) -> io::Result<()> {
        let PageChunk { proc, scan, range, blocks, last } = chunk;
        let sum = |map: fn(&BlockSample) -> &Bits| Some(blocks.iter().map(|b| u64::from(map(b).count())).sum());
        let huge = blocks.iter().filter(|b| b.leaf != Leaf::Base).count();
        let base = Row { kind: Some("sample.pages".to_owned()), ..about(row, Some(proc)) };
        let summary = Row {
            row: Some("pages"),
            accessed: sum(|b| &b.accessed),
            present: sum(|b| &b.present),
            dirty: sum(|b| &b.dirty),
            swapped: sum(|b| &b.swapped),
            data: Some(json!({"scan": scan, "blocks": blocks.len(), "huge": huge, "last": last})),
            ..located(base.clone(), range)
        };
        self.put(&summary)?;
        if !self.pages {
            return Ok(());
        }
        for block in blocks {
            let start = block.block.0.saturating_mul(BLOCK_BYTES);
            let count = |map: &Bits| Some(u64::from(map.count()));
            let row = Row {
                row: Some("block"),
                accessed: count(&block.accessed),
                present: count(&block.present),
                dirty: count(&block.dirty),
                swapped: count(&block.swapped),
                data: Some(data(&block)),
                ..located(base.clone(), AddrRange { start, end: start.saturating_add(BLOCK_BYTES) })
            };
            self.put(&row)?;
        }
        Ok(())
    }

    fn outcome(&mut self, row: Row, outcome: &Outcome) -> io::Result<()> {
        let kind = match outcome.end {
            End::Done => "done",
            End::Partial(_) => "partial",
            End::Skipped(_) => "skipped",
            End::Expired => "expired",
            End::Failed(_) => "failed",
        };
        self.put(&Row {
            row: Some("outcome"),
            kind: Some(kind.to_owned()),
            decision: Some(outcome.step.decision),
            step: Some(outcome.step.index),
            pages: Some(outcome.done.pages.0),
            asked: Some(outcome.done.asked.0),
            text: Some(outcome.end.to_string()),
            data: Some(data(outcome)),
            ..row
        })
    }

    fn decision(&mut self, decision: Decision) -> io::Result<()> {
        let Decision { number, at, after, plan, report } = decision;
        let dated = |sink: &Self, row| Row { decision: Some(number), ..sink.dated(row, after, at) };
        let counts = json!({"steps": plan.len(), "holds": report.holds.len(), "idles": report.idles.len()});
        self.put(&Row { data: Some(counts), ..dated(self, "decision") })?;
        for step in &plan {
            let Step { id, action, guards: _, expires: _, charge: _, by, reason } = step;
            let row = Row {
                kind: Some(action.verb().to_owned()),
                step: Some(id.index),
                policy: Some(by.name()),
                rule: Some(reason.rule.name()),
                pages: Some(action.pages().0),
                text: Some(reason.to_string()),
                data: Some(data(step)),
                ..about(dated(self, "step"), Some(action.proc()))
            };
            self.put(&row)?;
        }
        for hold in &report.holds {
            let Hold { subject, by, reason } = hold;
            let (kind, proc) = match subject {
                Subject::Host => ("host", None),
                Subject::Proc(proc) => ("proc", Some(*proc)),
                Subject::Cgroup(_) => ("cgroup", None),
                Subject::Cache(_) => ("cache", None),
            };
            let row = Row {
                kind: Some(kind.to_owned()),
                policy: Some(by.name()),
                rule: Some(reason.rule.name()),
                text: Some(reason.to_string()),
                data: Some(data(hold)),
                ..about(dated(self, "hold"), proc)
            };
            self.put(&row)?;
        }
        for idle in &report.idles {
            let Idle { policy, reason } = idle;
            let row = Row {
                policy: Some(policy.name()),
                rule: Some(reason.rule.name()),
                text: Some(reason.to_string()),
                data: Some(data(idle)),
                ..dated(self, "idle")
            };
            self.put(&row)?;
        }
        Ok(())
    }
}

fn about(row: Row, proc: Option<ProcKey>) -> Row {
    Row { pid: proc.map(|p| p.pid), start: proc.map(|p| p.start), ..row }
}

fn located(row: Row, AddrRange { start, end }: AddrRange) -> Row {
    Row { from: Some(format!("{start:x}")), to: Some(format!("{end:x}")), ..row }
}

fn data(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("records serialise: their map keys are names")
}

/// Name of the kind, one part for each enum around the payload, and the one process that the event is about.
fn kind(event: &Event) -> (&'static str, Option<ProcKey>) {
    match event {
        Event::Facts(_) => ("facts", None),
        Event::Config(_) => ("config", None),
        Event::Kernel(KernelEvent::Fork { child, .. }) => ("kernel.fork", Some(*child)),
        Event::Kernel(KernelEvent::Exec { proc }) => ("kernel.exec", Some(*proc)),
        Event::Kernel(KernelEvent::Exit { proc }) => ("kernel.exit", Some(*proc)),
        Event::Kernel(KernelEvent::Fault { proc, .. }) => ("kernel.fault", Some(*proc)),
        Event::Kernel(KernelEvent::TaskMoved { proc, .. }) => ("kernel.task-moved", Some(*proc)),
        Event::Kernel(KernelEvent::PagesMoved { .. }) => ("kernel.pages-moved", None),
        Event::Kernel(KernelEvent::Region { proc, .. }) => ("kernel.region", Some(*proc)),
        Event::Sample(Sample::Proc(s)) => ("sample.proc", Some(s.proc)),
        Event::Sample(Sample::Maps(s)) => ("sample.maps", Some(s.proc)),
        Event::Sample(Sample::Pages(s)) => ("sample.pages", Some(s.proc)),
        Event::Sample(Sample::Host(_)) => ("sample.host", None),
        Event::Sample(Sample::Pressure(_)) => ("sample.pressure", None),
        Event::Sample(Sample::Sched(_)) => ("sample.sched", None),
        Event::Sample(Sample::Reclaim(_)) => ("sample.reclaim", None),
        Event::Sample(Sample::Cgroup(_)) => ("sample.cgroup", None),
        Event::Sample(Sample::Nodes(_)) => ("sample.nodes", None),
        Event::Sample(Sample::Cache(_)) => ("sample.cache", None),
        Event::Lost { .. } => ("lost", None),
        Event::Blind { .. } => ("blind", None),
        Event::Sight { .. } => ("sight", None),
        Event::Request(Request::Pause { .. }) => ("request.pause", None),
        Event::Request(Request::Resume { .. }) => ("request.resume", None),
        Event::Request(Request::Look { proc, .. }) => ("request.look", Some(*proc)),
        Event::Outcome(_) => ("outcome", None),
    }
}
