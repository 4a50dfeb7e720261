//! `memtier numad`, and memtier called `numad`: numad's command line. It asks for placement advice, steers a numad that runs, or
//! becomes it. docs/numad.md.

use super::{Cli, Common, Ended, Exit, Trouble, print_json};
use crate::compat::numad::{Advice, Interval, Look, Mode, NodeReading, Options, Order, Request, Settings, Unparsable, Unplaceable};
use crate::daemon::client::Client;
use crate::daemon::lock::LockError;
use crate::daemon::numad::socket::{AskError, Reply, ask};
use crate::daemon::numad::{Log, Start, StartError};
use crate::daemon::views::{NodeView, NodesView};
use crate::observe::nodes::{self, TICK};
use crate::sys::detach::{Side, detach};
use crate::sys::files::{ReadError, Root, number_list};
use crate::vocab::CpuId;
use clap::{ArgAction, CommandFactory as _};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "numad";
/// The original waits 2 s; it takes at least 0.07 s for two samples of /proc/stat, which count in hundredths, to differ.
const APART: Duration = Duration::from_millis(100);
const APART_COMPAT: Duration = Duration::from_secs(2);
/// For `memtier run` to answer from what it knows; a look of our own takes less.
const PATIENCE: Duration = Duration::from_millis(500);
/// The version whose command line and arithmetic this is.
const VERSION: &str = "20150602";
const PID_FILE: &str = "/var/run/numad.pid";
const LOG_FILE: &str = "/var/log/numad.log";

const USAGE: &str = "\
Usage: numad <options> ...
-C 1  to count inactive file cache as available memory (default 1)
-C 0  to count inactive file cache memory as unavailable (default 1)
-d for debug logging (same effect as '-l 7')
-h to print this usage info
-H <N> to set THP scan_sleep_ms (default 1000)
-i [<MIN>:]<MAX> to specify interval seconds
-K 1  to keep interleaved memory spread across nodes (default 0)
-K 0  to merge interleaved memory to local NUMA nodes (default 0)
-l <N> to specify logging level (usually 5, 6, or 7 -- default 5)
-m <N> to specify memory locality target percent (default 90)
-p <PID> to add PID to inclusion pid list
-r <PID> to remove PID from explicit pid lists
-R <CPU_LIST> to reserve some CPUs for non-numad use
-S 1  to scan all processes (default 1)
-S 0  to scan only explicit PID list processes (default 1)
-t <N> to specify thread / logical CPU valuation percent (default 20)
-u <N> to specify utilization target percent (default 85)
-v for verbose  (same effect as '-l 6')
-V to show version info
-w <CPUs>[:<MBs>] for NUMA node suggestions
-x <PID> to add PID to exclusion pid list
--compat for the original's arithmetic to the digit, and nothing put back at the end
--json with -w, for the answer with the figures seen and why
--pid-file <FILE>, --log-file <FILE> instead of /var/run/numad.pid and /var/log/numad.log";

/// Place processes on NUMA nodes as numad does, or say where to place one (-w): numad's command line
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, args_override_self = true)]
pub struct Args {
    /// Only say where to place so many CPUs, with up to two decimals, and MiB
    #[arg(short = 'w', value_name = "CPUS[:MB]", allow_hyphen_values = true)]
    wanted: Option<String>,
    /// Whether inactive file cache counts as free memory [default: 1]
    #[arg(short = 'C', value_name = "0|1", allow_hyphen_values = true)]
    cache_is_free: Option<String>,
    /// How long khugepaged shall sleep between scans; 0 leaves it [default: 1000]
    #[arg(short = 'H', value_name = "MS", allow_hyphen_values = true)]
    thp: Option<String>,
    /// Seconds between rounds; 0 ends the numad that runs [default: 5:15]
    #[arg(short = 'i', value_name = "[MIN:]MAX", allow_hyphen_values = true)]
    interval: Option<String>,
    /// Whether interleaved memory stays spread [default: 0]
    #[arg(short = 'K', value_name = "0|1", allow_hyphen_values = true)]
    keep: Option<String>,
    /// Percent of its memory that a process shall have on its nodes, 50 to 100 [default: 90]
    #[arg(short = 'm', value_name = "PERCENT", allow_hyphen_values = true)]
    locality: Option<String>,
    /// Manage this process too
    #[arg(short = 'p', value_name = "PID", allow_hyphen_values = true)]
    include: Vec<String>,
    /// Take this process from both lists
    #[arg(short = 'r', value_name = "PID", allow_hyphen_values = true)]
    remove: Vec<String>,
    /// CPUs to leave out, e.g. 0-1,8; only at start
    #[arg(short = 'R', value_name = "CPULIST", allow_hyphen_values = true)]
    reserved: Option<String>,
    /// Whether all processes are scanned, or only those of -p [default: 1]
    #[arg(short = 'S', value_name = "0|1", allow_hyphen_values = true)]
    scan: Option<String>,
    /// What a second hardware thread of a core is worth, in percent of a CPU, 0 to 100 [default: 20]
    #[arg(short = 't', value_name = "PERCENT", allow_hyphen_values = true)]
    smt: Option<String>,
    /// Percent of a CPU that shall be used, 10 to 130 [default: 85]
    #[arg(short = 'u', value_name = "PERCENT", allow_hyphen_values = true)]
    utilization: Option<String>,
    /// Leave this process alone
    #[arg(short = 'x', value_name = "PID", allow_hyphen_values = true)]
    exclude: Vec<String>,
    /// Log rounds
    #[arg(short = 'v')]
    verbose: bool,
    /// Log more
    #[arg(short = 'd')]
    debug: bool,
    /// Log level: 5, 6 as -v, 7 as -d
    #[arg(short = 'l', value_name = "N", allow_hyphen_values = true)]
    level: Option<String>,
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
    /// Reckon, wait and leave bound exactly as the original, defects included
    #[arg(long)]
    compat: bool,
    /// Names the numad that runs
    #[arg(long, value_name = "FILE", default_value = PID_FILE)]
    pid_file: PathBuf,
    /// What it says
    #[arg(long, value_name = "FILE", default_value = LOG_FILE)]
    log_file: PathBuf,
    #[arg(hide = true)]
    unexpected: Vec<String>,
}

/// Why there is no advice, and no numad. The original has one exit code for all of them, and so has this: 1.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Unparsable(#[from] Unparsable),
    #[error("Unexpected arg = {0}")]
    Unexpected(String),
    #[error("Max interval ({max}) must be greater than min interval ({min})")]
    Interval { min: u64, max: u64 },
    #[error("THP scan_sleep_ms must be > 9 and < 1000001")]
    Thp,
    #[error("{USAGE}")]
    Usage,
    #[error("numad: {0}")]
    Unread(#[from] ReadError),
    #[error("numad: {0}")]
    Unplaceable(#[from] Unplaceable),
    #[error("numad: {0}")]
    Ask(#[from] AskError),
    #[error("numad: the one that runs says: {0}")]
    Refused(String),
    #[error("numad: {0}; two that place processes would undo each other: end that one first")]
    Locked(LockError),
    #[error("numad: {0}")]
    Start(StartError),
    #[error("numad: going to the background: {0}")]
    Background(io::Error),
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Lock(error @ LockError::Held { .. }) => Self::Locked(error),
            error => Self::Start(error),
        }
    }
}

/// What the options come to.
#[derive(Debug)]
struct Line {
    /// In the order in which the original sends them.
    orders: Vec<Order>,
    /// Of a numad that starts with them, and of advice without one.
    options: Options,
    advise: Option<Request>,
}

pub fn run(common: &Common, args: &Args) -> Ended {
    if args.version && !args.usage {
        writeln!(io::stdout(), "{NAME} version: {VERSION}: memtier {}", env!("CARGO_PKG_VERSION"))?;
        return Ok(Exit::Ok);
    }
    match carry_out(common, args) {
        Ok(exit) => Ok(exit),
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

/// Tells the numad that runs, or does it here.
fn carry_out(common: &Common, args: &Args) -> anyhow::Result<Exit> {
    let Line { orders, options, advise } = Line::of(args)?;
    let run_dir = std::path::absolute(common.run_dir())?;
    let reply = match (ask(&run_dir, &orders), advise) {
        (Ok(reply), _) => reply,
        // Advice can be had without it.
        (Err(error), Some(_)) => {
            tracing::warn!(%error, "the numad that runs does not answer");
            None
        }
        (Err(error), None) => return Err(Refusal::from(error).into()),
    };
    match (reply, advise) {
        (Some(reply), _) => {
            if args.reserved.is_some() {
                tell(&"numad: -R is of no effect on the one that runs: it is read at start");
            }
            match reply {
                Reply::Heeded => {}
                Reply::Advice(advice) => answer(common, &advice)?,
                Reply::Refused(why) => return Err(Refusal::Refused(why).into()),
            }
            Ok(Exit::Ok)
        }
        (None, Some(request)) => {
            answer(common, &advice(&run_dir, request, &options)?)?;
            Ok(Exit::Ok)
        }
        // There is none to end.
        (None, None) if options.interval.max == 0 => Ok(Exit::Ok),
        (None, None) => {
            let (pid_file, log_file) = (std::path::absolute(&args.pid_file)?, std::path::absolute(&args.log_file)?);
            Ok(start(Start { run_dir, pid_file, log_file, options, version: VERSION })?)
        }
    }
}

/// Advice without a numad that runs: from what `memtier run` knows of the nodes, else from a look of our own.
fn advice(run_dir: &Path, request: Request, options: &Options) -> Result<Advice, Refusal> {
    let apart = match options.measure.mode {
        Mode::Repaired => APART,
        Mode::Compat => APART_COMPAT,
    };
    let told = Client::new(run_dir).ok().and_then(|client| client.get_within("/v1/nodes", PATIENCE).ok());
    let look = told.map_or_else(|| nodes::look(&Root::host(), apart), |view| Ok(seen_by_run(view)))?;
    let log = Log::stderr(options.level);
    // The original has a file for what it says unasked; here only who asks is told.
    Ok(Advice::on(&look, request, &options.measure, |level, line| log.say(level.max(6), line))?)
}

/// Idle time is known by node there: each of its CPUs idled as much as the others.
fn seen_by_run(view: NodesView) -> Look {
    let NodesView { apart, smt_width, nodes } = view;
    let mut idle = [BTreeMap::new(), BTreeMap::new()];
    for node in &nodes {
        let (ticks, cpus) = (apart.scale(node.idle, 1000).0 / TICK.0, node.cpus.len() as u64);
        for (nth, cpu) in (0..cpus).zip(&node.cpus) {
            idle[0].insert(*cpu, 0);
            idle[1].insert(*cpu, ticks / cpus + u64::from(nth < ticks % cpus));
        }
    }
    let reading = |NodeView { node, total, free, inactive_file, cpus, idle: _, distances }| NodeReading {
        node,
        total,
        free,
        inactive_file,
        cpus,
        distances,
    };
    Look { nodes: nodes.into_iter().map(reading).collect(), idle, elapsed: apart, smt_width }
}

/// In the background; on return it answers.
fn start(start: Start) -> Result<Exit, Refusal> {
    match detach().map_err(Refusal::Background)? {
        Side::Starter { up: true } => Ok(Exit::Ok),
        // It said why.
        Side::Starter { up: false } => Ok(Exit::Failure),
        Side::Daemon(detached) => {
            start.run(detached)?;
            Ok(Exit::Ok)
        }
    }
}

fn answer(common: &Common, advice: &Advice) -> io::Result<()> {
    if common.json { print_json(advice) } else { writeln!(io::stdout().lock(), "{}", advice.nodes) }
}

impl Line {
    /// In the order in which numad would stumble.
    fn of(args: &Args) -> Result<Self, Refusal> {
        if args.usage {
            return Err(Refusal::Usage);
        }
        let orders = orders(args)?;
        let reserved = args.reserved.as_deref().map_or(Ok(BTreeSet::new()), cpus)?;
        if let Some(unexpected) = args.unexpected.first() {
            return Err(Refusal::Unexpected(unexpected.clone()));
        }
        let mode = if args.compat { Mode::Compat } else { Mode::Repaired };
        let measure = Settings { mode, reserved, ..Settings::default() };
        let mut options = Options { measure, ..Options::default() };
        orders.iter().for_each(|order| options.heed(*order));
        let advise = orders.iter().find_map(|order| if let Order::Advise(request) = order { Some(*request) } else { None });
        Ok(Self { orders, options, advise })
    }
}

fn orders(args: &Args) -> Result<Vec<Order>, Refusal> {
    let Args { cache_is_free, thp, interval: every, keep, level, locality, include, remove, scan, smt, .. } = args;
    let Args { utilization, wanted, exclude, verbose, debug, .. } = args;
    let mut orders = Vec::new();
    orders.extend(given(cache_is_free, |text| Ok(Order::CacheIsFree(flag(text)?)))?);
    orders.extend(given(thp, |text| Ok(Order::ThpSleep(scan_sleep(text)?)))?);
    orders.extend(given(every, |text| Ok(Order::Interval(interval(text)?)))?);
    orders.extend(given(keep, |text| Ok(Order::KeepInterleaved(flag(text)?)))?);
    let level = given(level, |text| Ok(number(text)?))?.into_iter().chain(debug.then_some(7)).chain(verbose.then_some(6)).max();
    orders.extend(level.map(Order::Level));
    orders.extend(given(locality, |text| Ok(in_range(text, 50, 100)?.map(Order::Locality)))?.flatten());
    for (list, order) in [(include, Order::Include as fn(u32) -> Order), (remove, Order::Remove)] {
        list.iter().try_for_each(|text| pid(text).map(|pid| orders.push(order(pid))))?;
    }
    orders.extend(given(scan, |text| Ok(Order::ScanAll(flag(text)?)))?);
    orders.extend(given(smt, |text| Ok(in_range(text, 0, 100)?.map(Order::Smt)))?.flatten());
    orders.extend(given(utilization, |text| Ok(in_range(text, 10, 130)?.map(Order::Utilization)))?.flatten());
    orders.extend(given(wanted, |text| Ok(Order::Advise(text.parse()?)))?);
    exclude.iter().try_for_each(|text| pid(text).map(|pid| orders.push(Order::Exclude(pid))))?;
    Ok(orders)
}

fn given<T>(option: &Option<String>, read: impl Fn(&str) -> Result<T, Refusal>) -> Result<Option<T>, Refusal> {
    option.as_deref().map(read).transpose()
}

/// The original takes what is no number for 0; here it is an error.
fn number(text: &str) -> Result<i64, Unparsable> {
    text.parse().map_err(|_| Unparsable(text.to_owned()))
}

fn flag(text: &str) -> Result<bool, Unparsable> {
    Ok(number(text)? != 0)
}

fn pid(text: &str) -> Result<u32, Unparsable> {
    text.parse().ok().filter(|pid| *pid > 0).ok_or_else(|| Unparsable(text.to_owned()))
}

/// Out of range is as good as not given, as in the original.
fn in_range(text: &str, least: u64, most: u64) -> Result<Option<u64>, Unparsable> {
    let number = number(text)?;
    Ok(u64::try_from(number).ok().filter(|n| (least..=most).contains(n)))
}

fn scan_sleep(text: &str) -> Result<u64, Refusal> {
    match number(text)? {
        0 => Ok(0),
        ms @ 10..=1_000_000 => Ok(ms.unsigned_abs()),
        _ => Err(Refusal::Thp),
    }
}

fn interval(text: &str) -> Result<Interval, Refusal> {
    let seconds = |part: &str| u64::try_from(number(part)?).map_err(|_| Unparsable(text.to_owned()));
    let (min, max) = match text.split_once(':') {
        Some((min, max)) => (seconds(min)?, seconds(max)?),
        None => (Interval::default().min, seconds(text)?),
    };
    if max < min && max != 0 { Err(Refusal::Interval { min, max }) } else { Ok(Interval { min, max }) }
}

fn cpus(list: &str) -> Result<BTreeSet<CpuId>, Unparsable> {
    let numbers = number_list(list).ok_or_else(|| Unparsable(list.to_owned()))?;
    Ok(numbers.into_iter().map(CpuId).collect())
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

    fn order(options: &[&str]) -> Result<Line, String> {
        let cli = Cli::try_parse_from([&["memtier", "numad"], options].concat()).map_err(|e| e.to_string())?;
        let Command::Numad(args) = cli.command else { panic!("another subcommand") };
        Line::of(&args).map_err(|e| e.to_string())
    }

    #[test]
    fn options() {
        let plain = order(&["-w", "4:100"]).expect("in order");
        assert_eq!((plain.advise, plain.options), (Some(Request { cpus: 400, mb: 100 }), Options::default()));
        let none = order(&[]).expect("in order");
        assert_eq!((none.orders, none.options, none.advise), (vec![], Options::default(), None));
        let all = ["-C0", "-t", "35", "-u130", "-m", "95", "-R", "0-1,8", "-D", "/cpusets", "-vd", "--compat", "-w1", "-w1.5"];
        let more = ["-H", "0", "-i", "1:2", "-K1", "-S0", "-p3", "-p", "4", "-x5", "-x6", "-r4", "-r5"];
        let all = order(&[&all[..], &more].concat()).expect("in order");
        let Options {
            measure,
            interval,
            keep_interleaved,
            locality,
            utilization,
            scan_all,
            included,
            excluded,
            level,
            thp_sleep_ms,
        } = all.options;
        assert_eq!((all.advise, level), (Some(Request { cpus: 150, mb: 0 }), 7));
        let Settings { mode, inactive_file_is_free, smt_percent, reserved } = measure;
        assert_eq!((mode, inactive_file_is_free, smt_percent), (Mode::Compat, false, 35));
        assert_eq!(reserved, [CpuId(0), CpuId(1), CpuId(8)].into());
        assert_eq!((interval, keep_interleaved, locality, utilization), (Interval { min: 1, max: 2 }, true, 95, 130));
        // Those to be removed before those to be excluded, as the original sends them.
        assert_eq!((scan_all, included, excluded, thp_sleep_ms), (false, [3].into(), [5, 6].into(), 0));
        // Out of range is ignored.
        let ignored = order(&["-w1", "-m", "5000", "-u", "9", "-t", "-3", "-l6"]).expect("in order");
        assert_eq!((ignored.options.measure.smt_percent, ignored.options.level, ignored.orders.len()), (20, 6, 2));
        // What is given alone is sent alone.
        assert_eq!(order(&["-i", "0"]).expect("in order").orders, [Order::Interval(Interval { min: 5, max: 0 })]);
        assert_eq!(order(&["-v"]).expect("in order").orders, [Order::Level(6)]);
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
            (&["-p", "0"], "Can't parse arg value(s): 0"),
            (&["-x", "-4"], "Can't parse arg value(s): -4"),
            (&["-i", "10:5"], "Max interval (5) must be greater than min interval (10)"),
            (&["-i", "3"], "Max interval (3) must be greater than min interval (5)"),
            (&["-i", "-3"], "Can't parse arg value(s): -3"),
            (&["-H", "9"], "THP scan_sleep_ms must be > 9 and < 1000001"),
            (&["-H", "1000001"], "THP scan_sleep_ms must be > 9 and < 1000001"),
        ] {
            assert_eq!(order(options).err().as_deref(), Some(told), "{options:?}");
        }
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
