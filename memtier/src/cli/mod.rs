//! The command line: one file per subcommand, each a client of the daemon (or of the same pipeline started for one look).
//!
//! Deliberately absent: decisions, and any way to act that the control socket does not offer too.

pub mod caches;
pub mod check;
pub mod doctor;
pub mod explain;
pub mod export;
pub mod heat;
mod inside;
pub mod numad;
pub mod record;
pub mod replay;
pub mod run;
pub mod slab_automove;
pub mod status;
mod steer;
pub mod undo;

use crate::daemon::client::{Client, ClientError};
use crate::daemon::lock::LockError;
use crate::observe::bpf::{Eyes, Options};
use crate::sys::files::Root;
use crate::ui::Style;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

const EXIT_CODES: &str = "Exit codes: 0 ok; 1 failure; 2 usage or bad configuration; 3 no daemon to talk to; 4 another daemon holds the \
lock; 5 missing privilege or kernel feature; 6 no such process; 7 trace unreadable; 8 replay differs; 9 refused (no selection, or no \
right to act).\n`memtier record -- COMMAND` returns the exit code of COMMAND; `memtier numad` knows 0 and 1 only. See docs/exit-codes.md.";

/// Puts a Linux host's memory where it belongs, and says why.
#[derive(Debug, Parser)]
#[command(name = "memtier", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Directory of control socket, lock and footprint [default: $MEMTIER_RUN_DIR or /run/memtier]
    #[arg(long, global = true, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// Colour on the terminal
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Diagnostics on stderr, as in RUST_LOG: "debug", "memtier=trace", ... [default: $MEMTIER_LOG or "warn"; "info" for run]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

impl Common {
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(crate::daemon::default_run_dir)
    }
    /// The daemon of this run directory, if one answers.
    pub fn client(&self) -> std::io::Result<Client> {
        Client::new(&self.run_dir())
    }
    /// How stdout is written to.
    #[must_use]
    pub fn style(&self) -> Style {
        let terminal = std::io::stdout().is_terminal();
        let color = match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none(),
        };
        Style { color, columns: terminal.then(crate::sys::terminal::columns).flatten().unwrap_or(100) }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::Args),
    Status(status::Args),
    Explain(explain::Args),
    Heat(heat::Args),
    Caches(caches::Args),
    Record(record::Args),
    Replay(replay::Args),
    Export(export::Args),
    Check(check::Args),
    Doctor(doctor::Args),
    Undo(undo::Args),
    Numad(numad::Args),
    SlabAutomove(slab_automove::Args),
    /// Hold everything that acts, until resume, through restarts too; walks go on
    Pause,
    /// Let memtier act again
    Resume,
    /// Let the daemon read its configuration anew; taken whole or not at all
    Reload,
}

/// What a command ends with; documented in docs/exit-codes.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok,
    Failure,
    /// Usage, or a configuration that is not let in.
    Usage,
    /// No daemon, or its socket cannot be reached.
    NoDaemon,
    /// Another daemon holds the lock.
    Locked,
    /// A privilege or a kernel feature is missing.
    Privilege,
    NoProcess,
    /// Truncated at the head, corrupt, or written by a newer memtier.
    Trace,
    /// The replay differs from the recording.
    Differs,
    /// No selection, or no right to act.
    Refused,
    /// `record -- COMMAND` hands on what COMMAND ended with.
    Command(u8),
}

impl Exit {
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NoDaemon => 3,
            Self::Locked => 4,
            Self::Privilege => 5,
            Self::NoProcess => 6,
            Self::Trace => 7,
            Self::Differs => 8,
            Self::Refused => 9,
            Self::Command(code) => code,
        }
    }
}

/// Why a command failed, the code it ends with, and what to do next (empty where the error says it all).
#[derive(Debug)]
pub struct Trouble {
    pub exit: Exit,
    pub error: anyhow::Error,
    pub next: String,
}

impl Trouble {
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), next: String::new() }
    }
    /// The lock of the run directory could not be had.
    #[must_use]
    pub fn locked(error: LockError) -> Self {
        match &error {
            LockError::Held { .. } => {
                Self::new(Exit::Locked, error).next("use that daemon, or stop it: `memtier status` shows what it does")
            }
            LockError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Privilege, error)
                    .next("run it as root, or give --run-dir a directory of your own; `memtier doctor` says what else it takes")
            }
            LockError::Io { .. } => Self::new(Exit::Failure, error),
        }
    }
    /// What the daemon said, or that it said nothing.
    #[must_use]
    pub fn from_daemon(error: ClientError) -> Self {
        match error {
            ClientError::NoDaemon { .. } => Self::new(Exit::NoDaemon, error)
                .next("start it: `memtier run`, or `systemctl start memtier`; see --run-dir if it runs elsewhere"),
            ClientError::Shut { .. } => Self::new(Exit::Refused, error).next("be root, or join the group memtier"),
            ClientError::Refused(refusal) => {
                let exit = match refusal.status {
                    400 | 405 | 413 => Exit::Usage,
                    403 => Exit::Refused,
                    404 => Exit::NoProcess,
                    501 => Exit::Privilege,
                    _ => Exit::Failure,
                };
                Self::new(exit, anyhow::anyhow!("{}", refusal.error)).next(refusal.next)
            }
            ClientError::Talk(_) | ClientError::Answer { .. } | ClientError::Io(_) | ClientError::Late { .. } => {
                Self::new(Exit::Failure, error)
            }
        }
    }
    /// The error with its causes, but for those that it quotes already.
    #[must_use]
    pub fn told(&self) -> String {
        self.error.chain().map(ToString::to_string).fold(String::new(), |mut told, cause| {
            if !told.ends_with(&cause) {
                told.push_str(if told.is_empty() { "" } else { ": " });
                told.push_str(&cause);
            }
            told
        })
    }
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::new(Exit::Failure, error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memtier: {}", self.told())?;
        if self.next.is_empty() { Ok(()) } else { write!(f, "\n  next: {}", self.next) }
    }
}

/// What every subcommand returns.
pub type Ended = Result<Exit, Trouble>;

/// Runs the command line and gives the process its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let line = slab_automove::by_name(numad::by_name(std::env::args_os()));
    let Cli { common, command } = match Cli::try_parse_from(&line) {
        Ok(cli) => cli,
        Err(error) => return misread(&error, &line),
    };
    diagnostics(&common, &command);
    match dispatch(&common, &command) {
        Ok(exit) => exit.code().into(),
        // A reader that went away (`memtier status | head`) is not an error of ours.
        Err(trouble) if is_broken_pipe(&trouble.error) => ExitCode::SUCCESS,
        Err(trouble) => {
            if common.json {
                let told = serde_json::json!({"error": trouble.told(), "next": trouble.next, "exit": trouble.exit.code()});
                eprintln!("{told}");
            } else {
                eprintln!("{trouble}");
            }
            trouble.exit.code().into()
        }
    }
}

/// What clap has to say, which may also be help that was asked for.
fn misread(error: &clap::Error, line: &[OsString]) -> ExitCode {
    // Nobody is left to be told when this fails.
    let _ = error.print();
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if numad::is_meant(line) => Exit::Failure.code().into(),
        _ => Exit::Usage.code().into(),
    }
}

fn dispatch(common: &Common, command: &Command) -> Ended {
    match command {
        Command::Run(args) => run::run(common, args),
        Command::Status(args) => status::run(common, args),
        Command::Explain(args) => explain::run(common, args),
        Command::Heat(args) => heat::run(common, args),
        Command::Caches(args) => caches::run(common, args),
        Command::Record(args) => record::run(common, args),
        Command::Replay(args) => replay::run(common, args),
        Command::Export(args) => export::run(common, args),
        Command::Check(args) => check::run(common, args),
        Command::Doctor(args) => doctor::run(common, args, Eyes::open(&Options::default()).learned()),
        Command::Undo(args) => undo::run(common, args),
        Command::Numad(args) => numad::run(common, args),
        Command::SlabAutomove(args) => slab_automove::run(common, args),
        Command::Pause => steer::tell(common, "pause"),
        Command::Resume => steer::tell(common, "resume"),
        Command::Reload => steer::tell(common, "reload"),
    }
}

/// Refuses a pid behind which there is no memory: nobody has it, it is dead, or it is the kernel's own.
pub fn with_memory(pid: u32) -> Result<(), Trouble> {
    let stat = Root::host().bytes(format!("/proc/{pid}/stat")).map_err(|_| {
        Trouble::new(Exit::NoProcess, anyhow::anyhow!("no process has pid {pid}"))
            .next("`ps` or `memtier status` lists those that live")
    })?;
    match memoryless(&String::from_utf8_lossy(&stat)) {
        None => Ok(()),
        Some(why) => Err(Trouble::new(Exit::NoProcess, anyhow::anyhow!("pid {pid} is {why}: it has no memory of its own"))),
    }
}

/// Why a process with this /proc/PID/stat has no memory.
fn memoryless(stat: &str) -> Option<&'static str> {
    // include/linux/sched.h
    const PF_KTHREAD: u32 = 0x0020_0000;
    let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    match fields.next() {
        Some("Z" | "X") => Some("dead, and waits for its parent to notice"),
        _ => {
            let flags: u32 = fields.nth(5)?.parse().ok()?;
            (flags & PF_KTHREAD != 0).then_some("a kernel thread")
        }
    }
}

/// One JSON document on stdout.
pub fn print_json(value: &impl serde::Serialize) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

fn diagnostics(common: &Common, command: &Command) {
    let default = if matches!(command, Command::Run(_)) { "info" } else { "warn" };
    let filter = common.log.clone().or_else(|| std::env::var("MEMTIER_LOG").ok()).unwrap_or_else(|| default.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&filter).unwrap_or_else(|error| {
        eprintln!("memtier: --log {filter}: {error}; using \"{default}\"");
        tracing_subscriber::EnvFilter::new(default)
    });
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).with_target(false).init();
}

#[cfg(test)]
mod tests {
    use super::memoryless;

    #[test]
    fn who_has_no_memory() {
        assert_eq!(memoryless("7 (a) Z) S 1 7 7 0 -1 4194560 99 0"), None);
        assert_eq!(memoryless("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"), Some("a kernel thread"));
        assert!(memoryless("9 (x) Z 1 9 9 0 -1 4227084 0 0").is_some_and(|why| why.starts_with("dead")));
    }
}
