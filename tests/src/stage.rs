//! What the demo and `bench saved` set up, in an order in which it can be taken down: swap, memcached, a load, the daemon.

use crate::daemon::{self, Cpu, Daemon, Run};
use crate::load::{Load, Shape};
use crate::memcached::Memcached;
use crate::vital::{self, Vital};
use crate::zram::Zram;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sizes at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub memcached: Vital,
    pub zram: vital::Zram,
}

/// Fields are dropped in this order.
#[derive(Debug)]
pub struct Stage {
    load: Option<Load>,
    daemon: Option<Daemon>,
    memcached: Option<Memcached>,
    swap: Option<Zram>,
    dir: tempfile::TempDir,
    binary: PathBuf,
}

impl Stage {
    pub fn new(binary: PathBuf) -> Result<Self, String> {
        crate::footing::root()?;
        crate::footing::bpf()?;
        crate::footing::memory(4096)?;
        Ok(Self { load: None, daemon: None, memcached: None, swap: None, dir: crate::scratch(), binary })
    }

    /// A zram swap of our own if the host has no swap.
    pub fn swap(&mut self) -> Result<(), String> {
        if !vital::has_swap() {
            self.swap = Some(Zram::start(2048)?);
        }
        Ok(())
    }
    /// Brings back to memory what lies in our swap.
    pub fn recall(&mut self) -> Result<(), String> {
        let swap = self.swap.take().ok_or("the host has swap of its own: what memtier pages out cannot be told apart")?;
        swap.stop()?;
        self.swap()
    }
    pub fn memcached(&mut self, mib: u64, options: &[&str]) -> Result<PathBuf, String> {
        Ok(self.memcached.insert(Memcached::start(mib, options)?).socket.clone())
    }
    pub fn end_memcached(&mut self) {
        self.memcached = None;
    }
    /// Another memcached takes the place of the one that is looked at; that one is handed out.
    pub fn exchange(&mut self, other: Memcached) -> Result<Memcached, String> {
        self.memcached.replace(other).ok_or_else(|| "memcached does not run".into())
    }
    pub fn memcached_pid(&self) -> Result<u32, String> {
        self.memcached.as_ref().map(Memcached::pid).ok_or_else(|| "memcached does not run".into())
    }
    pub fn start_load(&mut self, shape: &Shape) -> Result<(), String> {
        let socket = self.memcached.as_ref().map(|m| m.socket.clone()).ok_or("memcached does not run")?;
        self.load = Some(Load::start(&socket, shape).map_err(|e| format!("load: {e}"))?);
        Ok(())
    }
    pub fn load(&self) -> Result<&Load, String> {
        self.load.as_ref().ok_or_else(|| "no load runs".into())
    }
    pub fn end_load(&mut self) {
        self.load = None;
    }
    pub fn sizes(&self) -> Result<Sizes, String> {
        Ok(Sizes { memcached: vital::of(self.memcached_pid()?)?, zram: vital::zram() })
    }

    /// Starts memtier on memcached alone.
    pub fn start_daemon(&mut self, config: &str, options: &[&str], record: bool, cpu: Option<usize>) -> Result<(), String> {
        let run = Run { pid: Some(self.memcached_pid()?), config, options, record, cpu };
        self.daemon = Some(Daemon::start(&self.binary, self.dir.path(), &run)?);
        Ok(())
    }
    pub fn daemon(&self) -> Result<&Daemon, String> {
        self.daemon.as_ref().ok_or_else(|| "no daemon runs".into())
    }
    pub fn daemon_cpu(&self) -> Result<Cpu, String> {
        self.daemon()?.cpu()
    }
    /// What a memtier command prints.
    pub fn memtier(&self, args: &[&str]) -> Result<String, String> {
        self.daemon()?.ask(args)
    }
    pub fn memtier_at(&self, args: &[&str], path: &Path) -> Result<String, String> {
        let mut command = Command::new(&self.binary);
        command.args(args).arg(path);
        daemon::output(command)
    }
    /// Ends the daemon and returns where its trace lies.
    pub fn end_daemon(&mut self) -> Result<PathBuf, String> {
        self.daemon.take().ok_or("no daemon runs")?.end()?;
        Ok(daemon::trace_dir(self.dir.path()))
    }

    pub fn keep_trace(&self, to: &Path) -> Result<(), String> {
        let said = |e: std::io::Error| format!("{}: {e}", to.display());
        fs::create_dir_all(to).map_err(said)?;
        for entry in fs::read_dir(daemon::trace_dir(self.dir.path())).map_err(said)? {
            let from = entry.map_err(said)?.path();
            let name = from.file_name().unwrap_or_default();
            fs::copy(&from, to.join(name)).map_err(said)?;
        }
        Ok(())
    }

    /// Takes everything down and says what could not be.
    pub fn undo(mut self) -> Result<(), String> {
        self.end_load();
        let daemon = self.daemon.take().map_or(Ok(()), Daemon::end);
        self.memcached = None;
        let swap = self.swap.take().map_or(Ok(()), Zram::stop);
        daemon.and(swap)
    }
}
