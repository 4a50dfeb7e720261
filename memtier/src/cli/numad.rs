//! `memtier numad`, and memtier called `numad`: numad's command line, as far as it asks for placement advice.
//!
//! Deliberately absent: the options that steer a managing daemon. They are refused in words, for nothing of memtier places
//! processes yet. docs/numad.md.

use super::{Cli, Common, Ended, Exit, Trouble, print_json};
use crate::compat::numad::{
    self, Choice, Look, Mode, Node, Request, Settings, Unparsable, Unplaceable, choose, figures, node_list,
};
use crate::observe::nodes;
use crate::sys::files::{ReadError, Root, number_list};
use crate::vocab::CpuId;
use clap::{ArgAction, CommandFactory as _};
use serde::Serialize;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

const NAME: &str = "numad";
/// The original waits 2 s; it takes at least 0.07 s for two samples of /proc/stat, which count in hundredths, to differ.
const APART: Duration = Duration::from_millis(100);
const APART_COMPAT: Duration = Duration::from_secs(2);
/// The version whose command line and arithmetic this is.
const VERSION: &str = "20150602";

const USAGE: &str = "\
Usage: numad -w CPUS[:MB] [options]
  -w CPUS[:MB]  print the nodes on which to place so many CPUs (2, 1.5, ...) and so much memory
  -C 0|1        count inactive file cache as free memory (1)
  -R CPULIST    leave these CPUs out
  -t PERCENT    what a second hardware thread of a core is worth (20)
  -u PERCENT    target utilization (85), of no effect on advice
  -m PERCENT    target memory locality (90), of no effect on advice
  -d, -v, -l N  log to standard error: debug, verbose, or level 5, 6, 7
  -D DIR        obsolete, ignored
  -h, -V        this text; the version
  --compat      the original's arithmetic to the digit, and its two seconds
  --json        the answer with the figures seen and why
Not yet: -H, -i, -K, -p, -r, -S and -x, which steer a numad that manages processes.";

/// Say on which NUMA nodes to place a workload: numad's command line (`numad -w`), without a daemon
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, args_override_self = true)]
pub struct Args {
    /// CPUs, with up to two decimals, and MiB to be placed
    #[arg(short = 'w', value_name = "CPUS[:MB]", allow_hyphen_values = true)]
    wanted: Option<String>,
    /// Whether inactive file cache counts as free memory
    #[arg(short = 'C', value_name = "0|1", default_value = "1", allow_hyphen_values = true)]
    cache_is_free: String,
    /// CPUs to leave out, e.g. 0-1,8
    #[arg(short = 'R', value_name = "CPULIST", allow_hyphen_values = true)]
    reserved: Option<String>,
    /// What a second hardware thread of a core is worth, in percent of a CPU, 0 to 100
    #[arg(short = 't', value_name = "PERCENT", allow_hyphen_values = true)]
    smt: Option<String>,
    /// Target utilization, 10 to 130: accepted, of no effect on advice
    #[arg(short = 'u', value_name = "PERCENT", allow_hyphen_values = true)]
    utilization: Option<String>,
    /// Target memory locality, 50 to 100: accepted, of no effect on advice
    #[arg(short = 'm', value_name = "PERCENT", allow_hyphen_values = true)]
    locality: Option<String>,
    /// Log as numad does, to standard error
    #[arg(short = 'v')]
    verbose: bool,
    /// Log more
    #[arg(short = 'd')]
    debug: bool,
    /// Log level: 5, 6 as -v, 7 as -d
    #[arg(short = 'l', value_name = "N", default_value = "5", allow_hyphen_values = true)]
    level: String,
    /// Obsolete, ignored
    #[arg(short = 'D', value_name = "DIR", allow_hyphen_values = true)]
    cpuset: Option<String>,
    /// The version of numad this follows
    #[arg(short = 'V')]
    version: bool,
    /// numad's usage on standard error, exit code 1
    #[arg(short = 'h')]
    usage: bool,
    /// This text
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Reckon and wait exactly as the original, defects included
    #[arg(long)]
    compat: bool,
    #[command(flatten)]
    managing: Managing,
    #[arg(hide = true)]
    unexpected: Vec<String>,
}

/// What only a daemon that places processes could heed.
#[derive(Debug, clap::Args)]
struct Managing {
    #[arg(short = 'H', hide = true, allow_hyphen_values = true)]
    thp: Option<String>,
    #[arg(short = 'i', hide = true, allow_hyphen_values = true)]
    interval: Option<String>,
    #[arg(short = 'K', hide = true, allow_hyphen_values = true)]
    keep: Option<String>,
    #[arg(short = 'p', hide = true, allow_hyphen_values = true)]
    include: Option<String>,
    #[arg(short = 'r', hide = true, allow_hyphen_values = true)]
    remove: Option<String>,
    #[arg(short = 'S', hide = true, allow_hyphen_values = true)]
    scan: Option<String>,
    #[arg(short = 'x', hide = true, allow_hyphen_values = true)]
    exclude: Option<String>,
}

impl Managing {
    /// The first option given.
    fn given(&self) -> Option<&'static str> {
        let Self { thp, interval, keep, include, remove, scan, exclude } = self;
        let all = [("-H", thp), ("-i", interval), ("-K", keep), ("-p", include), ("-r", remove), ("-S", scan), ("-x", exclude)];
        all.into_iter().find_map(|(name, value)| value.as_ref().map(|_| name))
    }
}

/// Why there is no advice. numad has one exit code for all of them, and so has this: 1.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Unparsable(#[from] Unparsable),
    #[error("Unexpected arg = {0}")]
    Unexpected(String),
    #[error("{USAGE}")]
    Usage,
    #[error("numad {0}: memtier does not manage placement yet, it only advises: `numad -w CPUS[:MB]` prints the nodes to use")]
    Managing(&'static str),
    #[error("numad: {0}")]
    Unread(#[from] ReadError),
    #[error("numad: {0}")]
    Unplaceable(#[from] Unplaceable),
}

/// What the options come to.
struct Order {
    request: Request,
    settings: Settings,
    level: i64,
}

/// The answer for programs.
#[derive(Serialize)]
struct Advice<'a> {
    nodes: String,
    request: Request,
    settings: &'a Settings,
    sampled_ms: u64,
    figures: &'a [Node],
    why: &'a Choice,
}

pub fn run(common: &Common, args: &Args) -> Ended {
    if args.version && !args.usage {
        writeln!(std::io::stdout(), "{NAME} version: {VERSION}: memtier {}", env!("CARGO_PKG_VERSION"))?;
        return Ok(Exit::Ok);
    }
    match advise(common, args) {
        Ok(()) => Ok(Exit::Ok),
        Err(error) => match error.downcast::<Refusal>() {
            Ok(refusal) if common.json => Err(Trouble::new(Exit::Failure, refusal)),
            // Word for word what scripts know, with nothing around it.
            Ok(refusal) => {
                tell(&refusal);
                Ok(Exit::Failure)
            }
            Err(error) => Err(error.into()),
        },
    }
}

fn advise(common: &Common, args: &Args) -> anyhow::Result<()> {
    let order = Order::of(args)?;
    let Order { request, settings, level } = &order;
    let apart = match settings.mode {
        Mode::Repaired => APART,
        Mode::Compat => APART_COMPAT,
    };
    let look = nodes::look(&Root::host(), apart).map_err(Refusal::from)?;
    let figures = figures(&look, settings);
    log(*level, 6, || numad::seen(&figures));
    log(*level, 7, || vec![numad::asked(*request)]);
    let choice = choose(&figures, *request, settings.mode).map_err(Refusal::from)?;
    log(*level, 6, || vec![numad::advised(&choice)]);
    order.answer(common, &look, &figures, &choice)?;
    Ok(())
}

impl Order {
    /// In the order in which numad would stumble.
    fn of(args: &Args) -> Result<Self, Refusal> {
        let Args { wanted, cache_is_free, reserved, smt, utilization, locality, verbose, debug, level, .. } = args;
        // `cpuset` and `help` need nothing, `version` was seen to.
        let Args { cpuset: _, version: _, help: _, usage, compat, managing, unexpected, .. } = args;
        if *usage {
            return Err(Refusal::Usage);
        }
        let request = wanted.as_deref().map(str::parse).transpose()?;
        let smt_percent = smt.as_deref().map_or(Ok(None), |text| in_range(text, 0, 100))?.unwrap_or(Settings::SMT_PERCENT);
        utilization.as_deref().map_or(Ok(None), |text| in_range(text, 10, 130))?;
        locality.as_deref().map_or(Ok(None), |text| in_range(text, 50, 100))?;
        let settings = Settings {
            mode: if *compat { Mode::Compat } else { Mode::Repaired },
            inactive_file_is_free: number(cache_is_free)? != 0,
            smt_percent,
            reserved: reserved.as_deref().map_or(Ok(BTreeSet::new()), cpus)?,
        };
        let level = number(level)?.max(if *debug { 7 } else { 0 }).max(if *verbose { 6 } else { 0 });
        if let Some(unexpected) = unexpected.first() {
            return Err(Refusal::Unexpected(unexpected.clone()));
        }
        match (managing.given(), request) {
            (Some(option), _) => Err(Refusal::Managing(option)),
            (None, None) => Err(Refusal::Managing("without -w")),
            (None, Some(request)) => Ok(Self { request, settings, level }),
        }
    }

    fn answer(&self, common: &Common, look: &Look, figures: &[Node], choice: &Choice) -> std::io::Result<()> {
        let Self { request, settings, level: _ } = self;
        let nodes = node_list(&choice.nodes);
        if !common.json {
            return writeln!(std::io::stdout().lock(), "{nodes}");
        }
        let sampled_ms = look.elapsed.as_millis();
        print_json(&Advice { nodes, request: *request, settings, sampled_ms, figures, why: choice })
    }
}

/// The original takes what is no number for 0; here it is an error.
fn number(text: &str) -> Result<i64, Unparsable> {
    text.parse().map_err(|_| Unparsable(text.to_owned()))
}

/// Out of range is as good as not given, as in the original.
fn in_range(text: &str, least: u64, most: u64) -> Result<Option<u64>, Unparsable> {
    let number = number(text)?;
    Ok(u64::try_from(number).ok().filter(|n| (least..=most).contains(n)))
}

fn cpus(list: &str) -> Result<BTreeSet<CpuId>, Unparsable> {
    let numbers = number_list(list).ok_or_else(|| Unparsable(list.to_owned()))?;
    Ok(numbers.into_iter().map(CpuId).collect())
}

/// Lines in the original's form. It has a file for them and writes more of them there; here only who asks is told.
fn log(level: i64, least: i64, lines: impl FnOnce() -> Vec<String>) {
    if level < least {
        return;
    }
    let now = jiff::Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string();
    lines().iter().for_each(|line| tell(&format_args!("{now}: {line}")));
}

/// To standard error. Where nobody listens the answer is still due.
fn tell(what: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// The command line, with the subcommand in it where the program's own name says it.
pub fn by_name(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let called = args.first().and_then(|arg| Path::new(arg).file_name());
    if called == Some(OsStr::new(NAME)) {
        args.splice(..1, ["memtier".into(), NAME.into()]);
    }
    args
}

/// Whether a command line that clap refused was for us: numad then ends with 1.
pub fn is_meant(args: &[OsString]) -> bool {
    let parsed = Cli::command().ignore_errors(true).try_get_matches_from(args);
    parsed.is_ok_and(|matches| matches.subcommand_name() == Some(NAME))
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::*;
    use clap::Parser as _;

    fn line(args: &[&str]) -> Vec<OsString> {
        args.iter().map(OsString::from).collect()
    }

    fn order(options: &[&str]) -> Result<Order, String> {
        let cli = Cli::try_parse_from([&["memtier", "numad"], options].concat()).map_err(|e| e.to_string())?;
        let Command::Numad(args) = cli.command else { panic!("another subcommand") };
        Order::of(&args).map_err(|e| e.to_string())
    }

    #[test]
    fn options() {
        let plain = order(&["-w", "4:100"]).expect("in order");
        assert_eq!((plain.request, plain.level), (Request { cpus: 400, mb: 100 }, 5));
        let Settings { mode, inactive_file_is_free, smt_percent, reserved } = plain.settings;
        assert_eq!((mode, inactive_file_is_free, smt_percent, reserved.len()), (Mode::Repaired, true, 20, 0));
        let all = ["-C0", "-t", "35", "-u130", "-m", "95", "-R", "0-1,8", "-D", "/cpusets", "-vd", "--compat", "-w1", "-w1.5"];
        let all = order(&all).expect("in order");
        assert_eq!((all.request, all.level), (Request { cpus: 150, mb: 0 }, 7));
        let Settings { mode, inactive_file_is_free, smt_percent, reserved } = all.settings;
        assert_eq!((mode, inactive_file_is_free, smt_percent), (Mode::Compat, false, 35));
        assert_eq!(reserved, [CpuId(0), CpuId(1), CpuId(8)].into());
        // Out of range is ignored.
        let ignored = order(&["-w1", "-m", "5000", "-u", "9", "-t", "-3", "-l6"]).expect("in order");
        assert_eq!((ignored.settings.smt_percent, ignored.level), (20, 6));
    }

    #[test]
    fn refusals() {
        for (options, told) in [
            (&["-w", "x"][..], "Can't parse arg value(s): x"),
            (&["-w", "-1"], "Can't parse arg value(s): -1"),
            (&["-w", ""], "Can't parse arg value(s): "),
            (&["-w1", "-t", "many"], "Can't parse arg value(s): many"),
            (&["-w1", "-C", "yes"], "Can't parse arg value(s): yes"),
            (&["-w1", "-R", "0-x"], "Can't parse arg value(s): 0-x"),
            (&["-w1", "more", "yet"], "Unexpected arg = more"),
            (&["-w", "x", "more"], "Can't parse arg value(s): x"),
        ] {
            assert_eq!(order(options).err().as_deref(), Some(told), "{options:?}");
        }
        for options in ["-H0", "-i15", "-i0", "-K1", "-p1", "-r1", "-S0", "-x1"] {
            let told = order(&["-w1", options]).err().expect(options);
            assert!(told.starts_with(&format!("numad {}: memtier does not manage placement yet", &options[..2])), "{told}");
        }
        assert!(order(&[]).is_err_and(|told| told.contains("without -w") && told.contains("`numad -w CPUS[:MB]`")));
        assert!(order(&["-h"]).is_err_and(|told| told.starts_with("Usage: numad")));
    }

    #[test]
    fn the_programs_name_is_a_subcommand() {
        assert_eq!(by_name(line(&["/usr/bin/numad", "-w", "1"]).into_iter()), line(&["memtier", "numad", "-w", "1"]));
        assert_eq!(by_name(line(&["memtier", "status"]).into_iter()), line(&["memtier", "status"]));
        assert_eq!(by_name(line(&[]).into_iter()), line(&[]));
    }

    #[test]
    fn whose_mistake_it_is() {
        for (args, ours) in [
            (&["memtier", "numad", "-z"][..], true),
            (&["memtier", "numad", "-w"], true),
            (&["memtier", "--json", "--log", "debug", "numad", "--nonsense"], true),
            (&["memtier", "status", "-z"], false),
            (&["memtier", "nonsense"], false),
            (&["memtier"], false),
        ] {
            assert_eq!(is_meant(&line(args)), ours, "{args:?}");
        }
    }
}
