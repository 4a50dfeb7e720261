//! Running other programs: named in errors, in a process group of their own, ended with us or when their time is up.

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Process group that runs now; 0 when none does. xtask runs one program at a time.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// How long a program that was told to end may take to clean up before it is killed.
const GRACE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// Ctrl-C and SIGTERM reach the program that runs now, and wait for it: it may have something to undo.
pub fn end_children_on_signal() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("catching signals")?;
    thread::spawn(move || {
        if let Some(number) = signals.forever().next() {
            let group = RUNNING.load(SeqCst);
            if group != 0 {
                end(Pid::from_raw(group), Signal::try_from(number).unwrap_or(Signal::SIGTERM));
            }
            std::process::exit(128 + number);
        }
    });
    Ok(())
}

/// Tells a process group to end, waits for it, and kills what is left.
fn end(group: Pid, signal: Signal) {
    let deadline = Instant::now() + GRACE;
    let _ = killpg(group, signal);
    while Instant::now() < deadline && RUNNING.load(SeqCst) != 0 {
        thread::sleep(Duration::from_millis(50));
    }
    let _ = killpg(group, Signal::SIGKILL);
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    Badly(Option<i32>),
    /// Its time was up; the whole process group was ended.
    Late,
}

pub fn command(program: impl AsRef<OsStr>, args: &[&str], root: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root);
    command
}

/// cargo, as it was called; without what the outer `cargo run` put into the environment for xtask alone.
pub fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args, root);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_PRIMARY_PACKAGE" {
            command.env_remove(&name);
        }
    }
    command
}

pub fn show(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).map(|w| w.to_string_lossy()).collect();
    words.join(" ")
}

/// Runs to the end; an error names the command.
pub fn run(command: &mut Command) -> Result<()> {
    match follow(command, Duration::MAX, None)? {
        Ended::Well => Ok(()),
        Ended::Badly(code) => {
            bail!("`{}` failed{}", show(command), code.map_or_else(|| " by a signal".into(), |c| format!(" with {c}")))
        }
        Ended::Late => bail!("`{}` took too long", show(command)),
    }
}

/// What a program prints when it succeeds; `None` if it does not exist or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let out = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Runs to the end or until `cap` is over. With `each_line`, standard output passes through it line by line.
pub fn follow(command: &mut Command, cap: Duration, mut each_line: Option<&mut dyn FnMut(&str)>) -> Result<Ended> {
    command.process_group(0).stdin(Stdio::null());
    if each_line.is_some() {
        command.stdout(Stdio::piped());
    }
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", show(command)))?;
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits i32"));
    RUNNING.store(group.as_raw(), SeqCst);
    let stdout = child.stdout.take();
    let began = Instant::now();
    let (to_us, lines) = channel::<String>();
    let reader = stdout.map(|out| {
        thread::spawn(move || {
            let lines = BufReader::new(out).split(b'\n').map_while(Result::ok);
            lines.map(|line| to_us.send(String::from_utf8_lossy(&line).into_owned())).take_while(Result::is_ok).count()
        })
    });
    let mut each = |line: &str| {
        if let Some(each) = each_line.as_mut() {
            each(line);
        }
    };
    let mut late = false;
    let status = loop {
        // The wait for a line is the poll interval of a program whose output is not read, too.
        match lines.recv_timeout(POLL) {
            Ok(line) => each(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
        }
        if let Some(status) = child.try_wait().context("waiting for a program")? {
            break status;
        }
        if !late && began.elapsed() > cap {
            late = true;
            thread::spawn(move || end(group, Signal::SIGTERM));
        }
    };
    RUNNING.store(0, SeqCst);
    // What it left behind in its group keeps the pipe open and must not outlive it.
    let _ = killpg(group, Signal::SIGKILL);
    if let Some(reader) = reader {
        let _ = reader.join();
        lines.try_iter().for_each(|line| each(&line));
    }
    Ok(match status.code() {
        _ if late => Ended::Late,
        Some(0) => Ended::Well,
        code => Ended::Badly(code),
    })
}
