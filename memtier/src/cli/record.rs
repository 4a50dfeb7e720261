//! `memtier record [-- COMMAND]`: everything that happens, to be replayed.

use super::inside::{Inward, Session};
use super::run::{ConfigArgs, EyeArgs};
use super::{Common, Ended, Exit, Trouble, print_json};
use crate::daemon::client::{Client, ClientError};
use crate::daemon::start::Signals;
use crate::daemon::views::{Done, Recorded};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Record all events and decisions while COMMAND runs, for a time, or until Ctrl-C
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop after this many seconds; COMMAND gets SIGTERM then, and SIGKILL ten seconds later
    #[arg(long = "for", value_name = "SECS")]
    secs: Option<f64>,
    /// Directory of the recording
    #[arg(long, value_name = "DIR", default_value = "memtier-trace")]
    out: PathBuf,
    /// Clear accessed bits of COMMAND's processes, so that ages are known; a daemon that runs must do so already
    #[arg(long)]
    arm: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    eyes: EyeArgs,
    /// Runs while everything is recorded; it is watched, and its exit code is ours
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn run(common: &Common, args: &Args) -> Ended {
    let Args { secs, out, arm, config, eyes, command } = args;
    let limit = secs.map(Duration::try_from_secs_f64).transpose().map_err(|error| Trouble::new(Exit::Usage, error))?;
    let dir = std::path::absolute(out)?;
    let inward = Inward { role: "record", config, eyes, arm: *arm, targets: Vec::new(), signals: Signals::Ignore };
    let session = Session::open(common, inward)?;
    let recorded = record(&session.client, &dir, limit, command);
    session.close()?;
    let (recorded, exit) = recorded?;
    let Recorded { dir, events, decisions } = &recorded;
    if common.json {
        print_json(&recorded)?;
    } else {
        // COMMAND owns stdout.
        writeln!(
            std::io::stderr(),
            "recorded {events} events and {decisions} decisions to {dir}; memtier replay {dir} shows them"
        )?;
    }
    Ok(exit)
}

fn record(client: &Client, dir: &Path, limit: Option<Duration>, command: &[String]) -> Result<(Recorded, Exit), Trouble> {
    let _: Done = client.post("/v1/record/start", &json!({ "dir": dir })).map_err(Trouble::from_daemon)?;
    let waited = wait(client, limit, command);
    let recorded = client.post("/v1/record/stop", &serde_json::Value::Null).map_err(Trouble::from_daemon);
    Ok((recorded?, waited?))
}

fn wait(client: &Client, limit: Option<Duration>, command: &[String]) -> Result<Exit, Trouble> {
    let until = limit.map(|limit| Instant::now() + limit);
    let Some((program, arguments)) = command.split_first() else {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        interruption(left)?;
        return Ok(Exit::Ok);
    };
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .map_err(|error| Trouble::new(Exit::Failure, anyhow::Error::new(error).context(format!("cannot run {program}"))))?;
    let pid = child.id();
    match client.post::<Done>("/v1/watch", &json!({ "pid": pid })) {
        // Over before we could look.
        Ok(_) | Err(ClientError::Refused(_)) => {}
        Err(error) => return Err(Trouble::from_daemon(error)),
    }
    let status = watch_over(&mut child, until)?;
    let _: Result<Done, ClientError> = client.post("/v1/unwatch", &json!({ "pid": pid }));
    Ok(Exit::Command(code(status)))
}

/// What COMMAND is given to end in, once its time is up.
const GRACE: Duration = Duration::from_secs(10);

/// Ctrl-C goes to COMMAND too; we stay until it is done, or the time is up.
fn watch_over(child: &mut Child, mut until: Option<Instant>) -> std::io::Result<ExitStatus> {
    let (shown, mut asked) = (std::io::stderr().is_terminal(), false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut ended, mut interrupted) = (signal(SignalKind::child())?, signal(SignalKind::interrupt())?);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let left = until.map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(Instant::now()));
            tokio::select! {
                _ = ended.recv() => {}
                _ = interrupted.recv() => {}
                () = tokio::time::sleep(left) => match until {
                    Some(end) if Instant::now() >= end && asked => {
                        child.kill()?;
                        return child.wait();
                    }
                    Some(end) if Instant::now() >= end => {
                        if shown {
                            eprintln!("memtier: time is up, ending the command");
                        }
                        // It is our child and not waited for, so the pid is still its own.
                        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
                        (asked, until) = (true, Some(Instant::now() + GRACE));
                    }
                    Some(_) | None => {}
                },
            }
        }
    })
}

/// Until SIGINT, SIGTERM, or the time is up.
fn interruption(limit: Option<Duration>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            () = tokio::time::sleep(limit.unwrap_or(Duration::MAX)) => {}
        }
        Ok(())
    })
}

/// As a shell does it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
