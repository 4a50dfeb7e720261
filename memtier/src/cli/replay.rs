//! `memtier replay`: a recording through the planner again. Needs neither root nor BPF, on any machine.

use super::export::stopped;
use super::{Common, Ended, Exit, Trouble, check};
use crate::trace::Reader;
use crate::trace::replay::{self, Differing, Overlay, Shown, Verified, WhatIf, WhatIfError};
use crate::vocab::Action;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{BufWriter, IsTerminal as _, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Replay a recording: print its decision log, verify it, or ask what another configuration would have done
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of a recording, or one of its files
    trace: PathBuf,
    /// Only say whether every decision comes out the same, byte for byte
    #[arg(long, conflicts_with_all = ["what_if", "set"])]
    verify: bool,
    /// Send the events through frames of N on their way: decisions must not depend on it
    #[arg(long, value_name = "N", conflicts_with_all = ["what_if", "set"])]
    rebatch: Option<NonZeroUsize>,
    /// Print the steps that differ under this configuration, laid over the recorded one, and why
    #[arg(long, value_name = "CONFIG")]
    what_if: Option<PathBuf>,
    /// The same for one knob
    #[arg(long, value_name = "TABLE.KEY=VALUE")]
    set: Vec<String>,
    /// Step over damaged parts
    #[arg(long)]
    salvage: bool,
}

pub fn run(common: &Common, args: &Args) -> Ended {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let ended = print(common.json, args, &mut out);
    out.flush()?;
    ended
}

fn print(json: bool, args: &Args, out: &mut dyn Write) -> Ended {
    let overlay = if args.what_if.is_some() || !args.set.is_empty() {
        let sources = check::sources(args.what_if.as_slice(), &args.set)?;
        Some(Overlay::new(sources).map_err(|e| Trouble::new(Exit::Usage, e))?)
    } else {
        None
    };
    let reader = Reader::open(&args.trace).map_err(|e| stopped(e.into()))?.salvage(args.salvage);
    match overlay {
        Some(overlay) => what_if(json, WhatIf::new(reader, overlay), out),
        None => verify(json, args, reader, out),
    }
}

fn verify(json: bool, args: &Args, reader: Reader, out: &mut dyn Write) -> Ended {
    let mut progress = Progress::new(!json && args.verify);
    // Walks are not in the decision log, and so neither is what came of them.
    let mut walks = BTreeSet::new();
    let verified = replay::verify(reader, args.rebatch, |shown| {
        progress.turn();
        match shown {
            _ if args.verify => Ok(()),
            Shown::Outcome(at, outcome) if json => writeln!(out, "{}", json!({"at": at, "outcome": outcome})),
            Shown::Outcome(_, outcome) if walks.remove(&outcome.step) => Ok(()),
            Shown::Outcome(at, outcome) => writeln!(out, "{at} {outcome}"),
            Shown::Decision(decision, _) if json => writeln!(out, "{}", json!({"decision": decision})),
            Shown::Decision(decision, planner) => {
                walks.extend(decision.plan.iter().filter(|step| matches!(step.action, Action::Scan { .. })).map(|step| step.id));
                planner.journal().turn(decision.number).map_or(Ok(()), |turn| write!(out, "{turn}"))
            }
        }
    });
    progress.clear();
    let verified = verified.map_err(stopped)?;
    let Verified { events, decisions, steps, starts, damage, first_difference } = &verified;
    if json {
        writeln!(out, "{}", json!({"same": first_difference.is_none(), "verified": &verified}))?;
    } else {
        damage.iter().for_each(|d| eprintln!("memtier: {d}"));
        if let Some(difference) = first_difference {
            write!(out, "{difference}")?;
        }
        if args.verify || first_difference.is_some() {
            let verdict = if first_difference.is_none() { "the replay is the same" } else { "the replay differs after" };
            let restarts = if *starts > 1 { format!(", {starts} starts") } else { String::new() };
            writeln!(out, "{verdict}: {decisions} decisions with {steps} steps, {events} events{restarts}")?;
        }
    }
    Ok(if first_difference.is_none() { Exit::Ok } else { Exit::Differs })
}

fn what_if(json: bool, mut what_if: WhatIf, out: &mut dyn Write) -> Ended {
    let (mut differing, mut only_recorded, mut only_ours) = (0u64, 0, 0);
    for turn in &mut what_if {
        let turn: Differing = turn.map_err(|e| match e {
            WhatIfError::Trace(e) => stopped(e.into()),
            WhatIfError::Config(e) => Trouble::new(Exit::Usage, e),
        })?;
        differing += 1;
        only_recorded += turn.only_recorded.len();
        only_ours += turn.only_ours.len();
        if json {
            writeln!(out, "{}", json!({"differing": turn}))?;
        } else {
            write!(out, "{turn}")?;
        }
    }
    let turns = what_if.turns;
    if json {
        let counts = json!({"turns": turns, "differing": differing, "only_recorded": only_recorded, "only_here": only_ours});
        writeln!(out, "{}", json!({"summary": counts, "damage": what_if.damage()}))?;
    } else {
        what_if.damage().iter().for_each(|d| eprintln!("memtier: {d}"));
        writeln!(out, "{differing} of {turns} turns differ: {only_recorded} steps only recorded, {only_ours} only here")?;
    }
    Ok(Exit::Ok)
}

/// A count of turns on the terminal, for recordings that take a while.
struct Progress {
    shown: bool,
    turns: u64,
}

impl Progress {
    /// Turns between two looks of the user.
    const EVERY: u64 = 4096;

    fn new(wanted: bool) -> Self {
        Self { shown: wanted && std::io::stderr().is_terminal(), turns: 0 }
    }

    fn turn(&mut self) {
        self.turns += 1;
        if self.shown && self.turns.is_multiple_of(Self::EVERY) {
            eprint!("\r{} decisions and outcomes the same so far", self.turns);
        }
    }

    fn clear(&self) {
        if self.shown && self.turns >= Self::EVERY {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Target};
    use crate::plan::Governor;
    use crate::sim::{self, Pattern, ProcSpec, RegionSpec, Scenario, Turn, World};
    use crate::trace::{Clocks, Item, Limits, Record, Writer};
    use crate::vocab::{Bytes, Span, Time};
    use clap::Parser;
    use std::path::Path;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    const KEEP: Limits = Limits { segment: Bytes::MAX, keep: Bytes::MAX, keep_for: Span::MAX };

    /// Five simulated minutes of a process that goes cold.
    fn recording(dir: &Path) {
        let mut config = Config::default();
        config.daemon.act = true;
        config.scan.min_resident_mib = 0;
        config.autocold.warmup_s = 30;
        config.autocold.min_idle_s = 30;
        config.target.push(Target { comm: Some("cache".to_owned()), ..Target::default() });
        let regions = vec![RegionSpec::new(500, Pattern::Random { touches: 50 }), RegionSpec::new(4000, Pattern::Idle)];
        let scenario = Scenario::new("cli", Span::from_secs(300)).with(ProcSpec::new("cache", regions));
        let mut world = World::new(1, &scenario, &config);
        let clocks = |at: Time| Clocks { at, unix_ns: at.0 };
        let mut writer = Writer::create(dir, "sim", "boot", clocks(world.now()), KEEP).expect("a recording");
        let until = world.now().after(scenario.length);
        sim::drive(&mut world, &mut Governor::new(), until, |turn, _| match turn {
            Turn::Event(event) => writer.event(&event).expect("an event"),
            Turn::Decision(decision) => writer.decision(&decision).expect("a decision"),
        });
        writer.finish().expect("a file");
    }

    fn replay(dir: &Path, json: bool, line: &[&str]) -> (u8, String) {
        let args = Line::try_parse_from(["replay", dir.to_str().expect("utf-8")].iter().chain(line)).expect("a valid line").args;
        let mut out = Vec::new();
        match print(json, &args, &mut out) {
            Ok(exit) => (exit.code(), String::from_utf8(out).expect("utf-8")),
            Err(trouble) => (trouble.exit.code(), format!("{:#}", trouble.error)),
        }
    }

    #[test]
    fn log_verdict_what_if_and_trouble() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        recording(dir.path());
        let (code, log) = replay(dir.path(), false, &[]);
        assert!(code == 0 && log.contains(" page-out pid ") && log.contains("outcome "), "{code} {log}");
        for line in log.lines().filter(|line| line.contains(" outcome ")) {
            let id = line.split(' ').nth(2).expect("the step");
            assert!(log.contains(&format!("step {id} ")), "{line} of a step that is not shown");
        }
        let (code, text) = replay(dir.path(), false, &["--verify", "--rebatch", "3"]);
        assert!(code == 0 && text.starts_with("the replay is the same: ") && text.lines().count() == 1, "{code} {text}");
        let (code, text) = replay(dir.path(), true, &["--verify"]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("one JSON document");
        assert!(code == 0 && value["same"] == true && value["verified"]["decisions"].as_u64() > Some(20), "{value}");
        let (code, text) = replay(dir.path(), false, &["--set", "autocold.min_idle_s=86400"]);
        assert!(code == 0 && text.contains("only recorded: page-out") && text.contains(" turns differ: "), "{code} {text}");
        let (code, text) = replay(dir.path(), true, &["--set", "autocold.min_idle_s=86400"]);
        assert!(code == 0 && text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{text}");
        let (code, text) = replay(dir.path(), false, &["--set", "autocold.min_idle=1"]);
        assert!(code == 2 && text.contains("did you mean min_idle_s?"), "{code} {text}");
        let (code, text) = replay(&dir.path().join("none"), false, &["--verify"]);
        assert!(code == 7 && text.starts_with("cannot read "), "{code} {text}");
    }

    #[test]
    fn a_difference_ends_with_eight() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        recording(dir.path());
        let forged = tempfile::tempdir().expect("a scratch directory");
        let mut writer = Writer::create(forged.path(), "sim", "boot", Clocks::default(), KEEP).expect("a recording");
        for item in Reader::open(dir.path()).expect("a recording") {
            match item.expect("an item") {
                Item::Record(Record::Event(event)) => writer.event(&event).expect("an event"),
                Item::Record(Record::Decision(mut decision)) => {
                    decision.plan.clear();
                    writer.decision(&decision).expect("a decision");
                }
                Item::Record(Record::Checkpoint(_)) | Item::Segment { .. } => {}
            }
        }
        writer.finish().expect("a file");
        let (code, text) = replay(forged.path(), false, &["--verify"]);
        assert!(
            code == 8 && text.contains(" recorded: nothing\n") && text.contains("\nthe replay differs after: "),
            "{code} {text}"
        );
        let (code, text) = replay(forged.path(), true, &[]);
        assert!(code == 8 && text.contains("\"same\":false"), "{code} {text}");
    }
}
