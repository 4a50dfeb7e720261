//! The servers of one workload, each with its own mover of pages.

use memtier_tests::daemon::{Daemon, Run};
use memtier_tests::memcached::Memcached;
use memtier_tests::vital;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For items, of each server.
pub const MIB: u64 = 64;
/// Flash of a server with extstore, which holds all there is.
const FLASH: &str = "512m";
const PATIENCE: Duration = Duration::from_secs(10);

/// Who moves pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    Nobody,
    /// memcached itself: slab_automove=1.
    Core,
    /// The algorithm of the scripts that come with memcached, to the letter.
    Script,
    /// memtier run --act.
    Memtier,
}

impl Arm {
    pub const ALL: [Self; 4] = [Self::Nobody, Self::Core, Self::Script, Self::Memtier];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Core => "core",
            Self::Script => "script",
            Self::Memtier => "memtier",
        }
    }
}

/// `memtier slab-automove`, which stands for the scripts.
#[derive(Debug)]
struct Script(Child);

impl Script {
    fn start(memtier: &Path, dir: &Path, socket: &Path, flash: bool) -> Result<Self, String> {
        let log = File::create(dir.join("script.log")).map_err(|e| e.to_string())?;
        // setpriv ends it with us in any case.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(memtier).arg("--run-dir").arg(dir.join("run"));
        command.args(["slab-automove", "-a", "--compat"]).args((!flash).then_some("--no-extstore"));
        command.arg("--host").arg(socket).stdin(Stdio::null()).stdout(log);
        Ok(Self(command.spawn().map_err(|e| format!("memtier slab-automove: {e}"))?))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
enum Mover {
    None,
    Script(Script),
    Daemon(Daemon),
}

/// A server and its mover, which ends first.
#[derive(Debug)]
pub struct Ground {
    pub arm: Arm,
    mover: Mover,
    pub server: Memcached,
    dir: TempDir,
}

impl Ground {
    pub fn start(memtier: &Path, arm: Arm, flash: bool) -> Result<Self, String> {
        let dir = memtier_tests::scratch();
        let server = server(dir.path(), flash, arm != Arm::Nobody)?;
        let socket = server.socket.as_path();
        let mover = match arm {
            Arm::Nobody | Arm::Core => Mover::None,
            Arm::Script => Mover::Script(Script::start(memtier, dir.path(), socket, flash)?),
            Arm::Memtier => Mover::Daemon(watch(memtier, dir.path(), socket, true, "")?),
        };
        Ok(Self { arm, mover, server, dir })
    }

    /// CPU seconds of the mover so far; the server's own is not told apart.
    pub fn mover_s(&self) -> Result<f64, String> {
        match &self.mover {
            Mover::None => Ok(0.0),
            Mover::Script(Script(child)) => vital::of(child.id()).map(|v| v.user_s + v.system_s),
            Mover::Daemon(daemon) => daemon.cpu().map(|cpu| cpu.user_s + cpu.system_s),
        }
    }

    /// What the daemon said so far.
    pub fn keep_log(&self, to: &Path, workload: &str) -> Result<(), String> {
        let (Mover::Daemon(_), to) = (&self.mover, to.join(format!("{workload}.log"))) else { return Ok(()) };
        let kept = to.parent().map_or(Ok(()), std::fs::create_dir_all);
        let kept = kept.and_then(|()| std::fs::copy(self.dir.path().join("daemon.log"), &to));
        kept.map(drop).map_err(|e| format!("{}: {e}", to.display()))
    }
}

/// Its own mover is on unless there shall be none; who else moves pages switches it off.
pub fn server(dir: &Path, flash: bool, automove: bool) -> Result<Memcached, String> {
    let file = format!("ext_path={}:{FLASH},ext_threads=1", dir.join("flash").display());
    let automove = format!("slab_automove={}", u8::from(automove));
    let mut options = vec!["-o", &automove];
    if flash {
        options.extend(["-o", &file]);
    }
    Memcached::start(MIB, &options)
}

/// memtier on this cache alone.
pub fn watch(memtier: &Path, dir: &Path, socket: &Path, act: bool, config: &str) -> Result<Daemon, String> {
    let place = socket.display().to_string();
    let mut options = vec!["--cache", place.as_str()];
    options.extend(act.then_some("--act"));
    Daemon::start(memtier, dir, &Run { pid: None, config, options: &options, record: false, cpu: None })
}

/// `stats` of a server.
pub fn stats(server: &Memcached) -> Result<BTreeMap<String, String>, String> {
    let told = || -> std::io::Result<BTreeMap<String, String>> {
        let mut stream = server.connect()?;
        stream.write_all(b"stats\r\n")?;
        let mut table = BTreeMap::new();
        for line in BufReader::new(stream).lines() {
            let line = line?;
            let Some((name, value)) = line.strip_prefix("STAT ").and_then(|rest| rest.split_once(' ')) else { break };
            table.insert(name.to_owned(), value.to_owned());
        }
        Ok(table)
    };
    told().map_err(|e| format!("stats of memcached: {e}"))
}

pub fn counter(stats: &BTreeMap<String, String>, name: &str) -> u64 {
    stats.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}
