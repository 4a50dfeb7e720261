//! A numad of ours that runs in the background, with directories of its own.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far beyond what it takes to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with its owner.
#[derive(Debug)]
pub struct NumadDaemon {
    memtier: PathBuf,
    dir: TempDir,
    /// What runs it: `unshare -T ...`
    wrapper: Vec<OsString>,
}

impl NumadDaemon {
    /// Nothing runs yet.
    #[must_use]
    pub fn at(memtier: &Path) -> Self {
        Self { memtier: memtier.to_owned(), dir: crate::scratch(), wrapper: Vec::new() }
    }

    /// Starts one, which answers when this returns.
    pub fn start(memtier: &Path, args: &[&str]) -> Result<Self, String> {
        let numad = Self::at(memtier);
        numad.begin(args)?;
        Ok(numad)
    }

    /// Every command is run by these words.
    #[must_use]
    pub fn wrapped(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    pub fn begin(&self, args: &[&str]) -> Result<(), String> {
        match self.run(args) {
            (0, ..) => Ok(()),
            (code, _, err) => Err(format!("numad {args:?}: {code}: {err}")),
        }
    }

    /// `numad ARGS` in these directories.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut words: Vec<OsString> = self.wrapper.clone();
        words.push(self.memtier.clone().into());
        words.extend(["--run-dir".into(), self.run_dir().into(), "numad".into()]);
        words.extend(["--pid-file".into(), self.pid_file().into(), "--log-file".into(), self.log_file().into()]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(args).stdin(Stdio::null()).env_remove("MEMTIER_LOG");
        command
    }

    /// Its exit code, what it prints and what it complains about.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let out = self.command(args).output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
    }

    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.dir.path().join("numad.pid")
    }
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("numad.log")
    }
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
    /// Who runs, by the pid file.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.pid_file()).ok()?.strip_suffix('\n')?.parse().ok()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).expect("a pid file");
        kill(Pid::from_raw(pid), signal).expect("it lives");
    }

    /// Waits until a pid is nobody's.
    pub fn gone(pid: u32) {
        let begun = Instant::now();
        while lives(pid) {
            assert!(begun.elapsed() < PATIENCE, "pid {pid} does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A zombie is gone: whoever adopted it may take its time.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

impl Drop for NumadDaemon {
    fn drop(&mut self) {
        // Never anybody else's: some tests write pid files of their own.
        let ours = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(5).any(|w| w == b"numad"));
        if let Some(pid) = self.pid().filter(ours) {
            self.signal(Signal::SIGTERM);
            if !std::thread::panicking() {
                Self::gone(pid);
            }
        }
    }
}
