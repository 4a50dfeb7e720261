//! `memtier export`: a recording as rows for other tools. Needs neither root nor BPF.

use super::{Common, Ended, Exit, Trouble};
use crate::trace::{self, Format, Reader, Stopped, TraceError};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Print a recording as JSON lines or CSV, one row for each event, decision, step, refusal and outcome
#[derive(Debug, clap::Args)]
#[command(after_long_help = "docs/export-schema.md describes rows and columns.")]
pub struct Args {
    /// Directory of a recording, or one of its files
    trace: PathBuf,
    /// Format of the rows
    #[arg(long, value_enum)]
    to: To,
    /// Also a row for each 2 MiB block of a page sample
    #[arg(long)]
    pages: bool,
    /// Step over damaged parts
    #[arg(long)]
    salvage: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum To {
    Jsonl,
    Csv,
}

pub fn run(common: &Common, args: &Args) -> Ended {
    if common.json && matches!(args.to, To::Csv) {
        return Err(Trouble::new(Exit::Usage, anyhow::anyhow!("--json and --to csv exclude each other")).next("give --to jsonl"));
    }
    print(args, std::io::stdout().lock())
}

fn print(args: &Args, out: impl Write) -> Ended {
    let mut reader = Reader::open(&args.trace).map_err(|e| stopped(e.into()))?.salvage(args.salvage);
    let format = match args.to {
        To::Jsonl => Format::Jsonl,
        To::Csv => Format::Csv,
    };
    let mut out = BufWriter::new(out);
    let exported = trace::export(&mut reader, format, args.pages, &mut out);
    // What was read before the trouble is told too.
    out.flush()?;
    exported.map_err(stopped)?;
    Ok(Exit::Ok)
}

/// The exit code of a recording that cannot be read, and of an output that cannot be written.
pub(super) fn stopped(stopped: Stopped) -> Trouble {
    match stopped {
        Stopped::Trace(e) => {
            let next = match &e {
                TraceError::Io { .. } | TraceError::Empty { .. } | TraceError::Foreign { .. } => {
                    "name a directory that `memtier record --out` or `memtier run --record` wrote, as somebody who may read it"
                }
                TraceError::Headless { .. } => "name the other files of the recording one by one",
                TraceError::Damaged { .. } | TraceError::Gap { .. } => {
                    "--salvage goes on with what is good, and says what is missing"
                }
                TraceError::Newer { .. } | TraceError::Checkpoint { .. } => "read it with the memtier that is named",
                TraceError::TooLarge { .. } => "please report this",
            };
            Trouble::new(Exit::Trace, e).next(next)
        }
        Stopped::Write(e) => Trouble::new(Exit::Failure, e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Clocks, Limits, Writer};
    use crate::vocab::{Bytes, Event, Source, Span, Stamped, Time};
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn rows_up_to_the_damage_then_seven() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let limits = Limits { segment: Bytes::MAX, keep: Bytes::MAX, keep_for: Span::MAX };
        let mut writer = Writer::create(dir.path(), "h", "b", Clocks::default(), limits).expect("a recording");
        for seq in 1..=2 {
            writer.event(&Stamped { seq, at: Time(seq), event: Event::Sight { source: Source::Psi } }).expect("an event");
            writer.flush().expect("a frame");
        }
        let path = writer.path().to_owned();
        writer.finish().expect("a file");
        let mut bytes = std::fs::read(&path).expect("bytes");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("write");
        let line = |more: &[&str]| {
            let path = path.to_str().expect("utf-8");
            let args = Line::try_parse_from(["export", path, "--to", "csv"].iter().chain(more)).expect("a valid line").args;
            let mut out = Vec::new();
            let ended = print(&args, &mut out).map_or_else(|t| t.exit.code(), Exit::code);
            let rows = String::from_utf8(out).expect("utf-8");
            (ended, rows.lines().map(|row| row.split(',').next().unwrap_or_default().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(line(&[]), (7, ["row", "segment", "event"].map(str::to_owned).to_vec()));
        assert_eq!(line(&["--salvage"]), (0, ["row", "segment", "event", "damage"].map(str::to_owned).to_vec()));
    }
}
