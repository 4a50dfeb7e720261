//! A memtier daemon to measure: the real binary, watching processes of ours, with directories of its own.

use crate::vital::{self, Vital};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the daemon may take to come up and to put everything back.
const PATIENCE: Duration = Duration::from_secs(20);

/// CPU seconds of the daemon; BPF programs run in the kernel on whoever's behalf and are counted apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub user_s: f64,
    pub system_s: f64,
    pub bpf_s: f64,
    pub rss: u64,
    /// Zero for a moment, the time between two of them for a difference.
    pub over: Duration,
}

impl Cpu {
    #[must_use]
    pub fn since(&self, earlier: &Self, over: Duration) -> Self {
        let Self { user_s, system_s, bpf_s, rss, over: _ } = *self;
        Self { user_s: user_s - earlier.user_s, system_s: system_s - earlier.system_s, bpf_s: bpf_s - earlier.bpf_s, rss, over }
    }
    /// All of it, as a share of one core.
    #[must_use]
    pub fn percent(&self) -> f64 {
        100.0 * (self.user_s + self.system_s + self.bpf_s) / self.over.as_secs_f64()
    }
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// None where the options select.
    pub pid: Option<u32>,
    /// Empty for the defaults.
    pub config: &'a str,
    pub options: &'a [&'a str],
    pub record: bool,
    /// The one CPU that it may use.
    pub cpu: Option<usize>,
}

/// Ends with its owner; then everything that it had set is put back.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    binary: PathBuf,
    dir: PathBuf,
    over: bool,
}

impl Daemon {
    /// Starts memtier with its files below `dir`, and waits until it answers on its socket.
    pub fn start(binary: &Path, dir: &Path, run: &Run<'_>) -> Result<Self, String> {
        let file = dir.join("memtier.toml");
        let target = run.pid.map_or_else(String::new, |pid| format!("[[target]]\npid = {pid}\n"));
        fs::write(&file, format!("{}\n{target}", run.config)).map_err(|e| e.to_string())?;
        // In a group of its own, so that Ctrl-C at the terminal reaches it through us; setpriv ends it with us in any case.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        if let Some(cpu) = run.cpu {
            command.args(["taskset", "-c", &cpu.to_string()]);
        }
        command.arg(binary).arg("--run-dir").arg(dir.join("run")).arg("run").args(run.options).arg("--config").arg(&file);
        if run.record {
            command.arg("--record").arg(trace_dir(dir));
        }
        let log = fs::File::create(dir.join("daemon.log")).map_err(|e| e.to_string())?;
        let child = command.stdin(Stdio::null()).stdout(log).process_group(0).spawn().map_err(|e| format!("memtier run: {e}"))?;
        let mut daemon = Self { child, binary: binary.to_owned(), dir: dir.to_owned(), over: false };
        let patience = Instant::now() + PATIENCE;
        while let Err(why) = daemon.ask(&["status"]) {
            if let Ok(Some(status)) = daemon.child.try_wait() {
                return Err(format!("memtier run ended at once: {status}"));
            }
            if Instant::now() > patience {
                return Err(format!("memtier run does not answer: {why}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    pub fn cpu(&self) -> Result<Cpu, String> {
        let pid = self.child.id();
        let Vital { user_s, system_s, rss, .. } = vital::of(pid)?;
        Ok(Cpu { user_s, system_s, bpf_s: vital::bpf_seconds(pid), rss, over: Duration::ZERO })
    }

    /// What a memtier command prints that speaks to this daemon.
    pub fn ask(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.binary);
        command.arg("--run-dir").arg(self.dir.join("run")).args(args);
        output(command)
    }

    /// One value of its metrics page, summed over all labels that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64, String> {
        let client = memtier::daemon::client::Client::new(&self.dir.join("run")).map_err(|e| e.to_string())?;
        let page = client.get_text("/metrics").map_err(|e| e.to_string())?;
        let page = String::from_utf8_lossy(&page);
        let ours = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        };
        Ok(page.lines().filter(ours).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Asks it to end; one that does not is killed, and what it left is undone without it.
    pub fn end(mut self) -> Result<(), String> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), String> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        let pid = Pid::from_raw(i32::try_from(self.child.id()).map_err(|e| e.to_string())?);
        let _ = kill(pid, Signal::SIGTERM);
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("memtier run ended with {status}")),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.ask(&["undo"])?;
        Err("memtier run did not end on SIGTERM; it was killed, and `memtier undo` put back what it had set".into())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(why) = self.stop() {
            eprintln!("{why}");
        }
    }
}

/// Where a daemon below `dir` records.
#[must_use]
pub fn trace_dir(dir: &Path) -> PathBuf {
    dir.join("trace")
}

/// What a memtier command prints.
pub fn output(mut command: Command) -> Result<String, String> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("memtier: {e}"))?;
    let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(format!("memtier {}: {}: {}", words.join(" "), out.status, String::from_utf8_lossy(&out.stderr).trim()))
    }
}
