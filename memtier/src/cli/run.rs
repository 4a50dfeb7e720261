//! `memtier run`: the daemon. Without options it only reads and advises.

use super::{Common, Ended, Exit, Trouble, with_memory};
use crate::config::{CacheRule, Target};
use crate::daemon::client::{Client, ClientError};
use crate::daemon::setup::{Setup, SetupError};
use crate::daemon::start::{Signals, Start, StartError};
use crate::observe::bpf::Options;
use crate::observe::memcached::Address;
use crate::vocab::PolicyId;
use clap::ValueEnum;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Run the daemon: look, advise, and with --act page out what is cold. Ctrl-C puts every setting back. Prints the decision
/// log; with --json the lines of /v1/events
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Carry out what is advised; needs a selection, or a --cache
    #[arg(long)]
    act: bool,
    /// Clear accessed bits of selected processes, so that idle ages are known; --act implies it
    #[arg(long)]
    arm: bool,
    #[command(flatten)]
    choice: Choice,
    /// Look after this memcached server: HOST[:PORT], [IPV6]:PORT or the path of a unix socket. May be repeated
    #[arg(long, value_name = "SERVER")]
    cache: Vec<Address>,
    /// Keep sampled keys of caches in the recording as they are, not only their hash
    #[arg(long)]
    keep_keys: bool,
    /// Record everything to this directory
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    #[command(flatten)]
    eyes: EyeArgs,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file, followed by the *.toml of the directory beside it that ends in .d
    /// [default: /etc/memtier/memtier.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one knob of the configuration
    #[arg(long, value_name = "TABLE.KEY=VALUE")]
    set: Vec<String>,
}

/// What eBPF is given.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EyeArgs {
    /// BPF object to load instead of the built-in one
    #[arg(long, value_name = "FILE")]
    bpf_object: Option<PathBuf>,
    /// Let the BPF programs log what they see (much)
    #[arg(long)]
    probe_log: bool,
    /// Let the kernel count the run time of all BPF programs; off again when memtier ends
    #[arg(long)]
    bpf_stats: bool,
}

/// Which processes, beside the target rules of the configuration. Each option may be repeated; each is a rule of its own.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Selection")]
pub struct Choice {
    /// Select every process that no rule excludes and the code does not protect
    #[arg(long)]
    all: bool,
    /// Select this process and those it forks
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Select by process name; * and ? as in a shell
    #[arg(long, value_name = "NAME")]
    comm: Vec<String>,
    /// Select by path of the executable; * and ? as in a shell
    #[arg(long, value_name = "PATH")]
    exe: Vec<String>,
    /// Select by memory cgroup and everything below it; * and ? as in a shell
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,
    /// Select by systemd unit
    #[arg(long, value_name = "UNIT")]
    unit: Vec<String>,
    /// Select by user
    #[arg(long, value_name = "UID")]
    uid: Vec<u32>,
    /// Policy for what the options above select
    #[arg(long, value_enum)]
    policy: Option<PolicyArg>,
    /// Never take more than leaves this much resident, per process
    #[arg(long, value_name = "MIB")]
    floor_mib: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyArg {
    Autocold,
    Slide,
    Watch,
}

impl Choice {
    fn rules(&self) -> Vec<Target> {
        let Self { all: _, pid, comm, exe, cgroup, unit, uid, policy, floor_mib } = self;
        let base = Target {
            policy: policy.map(|policy| match policy {
                PolicyArg::Autocold => PolicyId::Autocold,
                PolicyArg::Slide => PolicyId::Slide,
                PolicyArg::Watch => PolicyId::Watch,
            }),
            floor_mib: *floor_mib,
            ..Target::default()
        };
        let rule = |change: &dyn Fn(&mut Target)| {
            let mut rule = base.clone();
            change(&mut rule);
            rule
        };
        let mut rules: Vec<Target> = pid.iter().map(|v| rule(&|t| t.pid = Some(*v))).collect();
        rules.extend(comm.iter().map(|v| rule(&|t| t.comm = Some(v.clone()))));
        rules.extend(exe.iter().map(|v| rule(&|t| t.exe = Some(v.clone()))));
        rules.extend(cgroup.iter().map(|v| rule(&|t| t.cgroup = Some(v.clone()))));
        rules.extend(unit.iter().map(|v| rule(&|t| t.unit = Some(v.clone()))));
        rules.extend(uid.iter().map(|v| rule(&|t| t.uid = Some(*v))));
        rules
    }
}

impl ConfigArgs {
    /// The configuration of one run; `flags` are knobs that the command line turns on.
    pub fn setup(&self, flags: &[(&str, bool)], targets: Vec<Target>) -> Setup {
        let mut sets = self.set.clone();
        sets.extend(flags.iter().filter(|(_, on)| *on).map(|(knob, _)| format!("{knob} = true")));
        Setup { path: self.config.clone(), sets, targets, caches: Vec::new() }
    }
    /// The options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        let Self { config, set } = self;
        [("--config", config.is_some()), ("--set", !set.is_empty())].into_iter().filter_map(|(name, given)| given.then_some(name))
    }
}

impl EyeArgs {
    pub fn options(&self) -> Options {
        let Self { bpf_object, probe_log, bpf_stats } = self;
        Options { object: bpf_object.clone(), probe_log: *probe_log, run_times: *bpf_stats, ..Options::default() }
    }
    /// The options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        let Self { bpf_object, probe_log, bpf_stats } = self;
        let all = [("--bpf-object", bpf_object.is_some()), ("--probe-log", *probe_log), ("--bpf-stats", *bpf_stats)];
        all.into_iter().filter_map(|(name, given)| given.then_some(name))
    }
}

pub fn run(common: &Common, args: &Args) -> Ended {
    let Args { config, act, arm, choice, cache, keep_keys, record, eyes } = args;
    choice.pid.iter().try_for_each(|pid| with_memory(*pid))?;
    let flags = [("daemon.act", *act), ("daemon.arm", *arm), ("daemon.all", choice.all), ("caches.keep_keys", *keep_keys)];
    let caches = cache.iter().map(|address| CacheRule { server: address.to_string(), ..CacheRule::default() }).collect();
    let start = Start {
        run_dir: common.run_dir(),
        role: "run",
        setup: Setup { caches, ..config.setup(&flags, choice.rules()) },
        record: record.clone(),
        signals: Signals::Stop,
        eyes: eyes.options(),
        log: if common.json { Box::new(std::io::sink()) } else { Box::new(std::io::LineWriter::new(std::io::stdout())) },
    };
    let client = common.json.then(|| common.client()).transpose()?;
    let mut events = None;
    let (_never, stop) = oneshot::channel();
    let ended = start.run(stop, || {
        events = client.map(print_events);
        tracing::info!("ready");
    });
    // The stream ends with the daemon; its last lines are still told.
    if events.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("printing the events panicked; please report this");
    }
    ended.map_err(trouble)?;
    Ok(Exit::Ok)
}

/// What `GET /v1/events` tells, to stdout: the daemon is its own client, so that there is one form of it.
fn print_events(client: Client) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let told = client.lines("/v1/events", |line| {
            let mut out = std::io::stdout().lock();
            out.write_all(line)?;
            out.write_all(b"\n")?;
            Ok(ControlFlow::Continue(()))
        });
        match told {
            // How the stream ends when the daemon stops.
            Ok(()) | Err(ClientError::Talk(_)) => {}
            Err(error) => tracing::warn!(%error, "no more events on stdout"),
        }
    })
}

/// A loop that did not come up, in terms of an exit code.
pub fn trouble(error: StartError) -> Trouble {
    match error {
        StartError::Lock(error) => Trouble::locked(error),
        StartError::Setup(error) => {
            let next = error.next();
            let exit = match error {
                SetupError::NothingSelected => Exit::Refused,
                SetupError::Unreadable(_) | SetupError::Bad(_) | SetupError::BadCache(_) => Exit::Usage,
            };
            Trouble::new(exit, error).next(next)
        }
        error @ StartError::Trace(_) => Trouble::new(Exit::Failure, error).next("name a directory with room for the recording"),
        error @ (StartError::Footprint(_) | StartError::Io { .. }) => Trouble::new(Exit::Failure, error),
    }
}
