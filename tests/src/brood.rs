//! A child process whose threads come and go (tests/src/bin/brood.rs), and where its threads may run.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Ends with its owner.
#[derive(Debug)]
pub struct Brood {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Brood {
    pub fn start(threads: u32) -> Result<Self, String> {
        let mut child = Command::new(crate::binary("brood")?)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("brood: {e}"))?;
        let orders = child.stdin.take().expect("stdin was asked for");
        let answers = BufReader::new(child.stdout.take().expect("stdout was asked for"));
        let mut brood = Self { child, orders, answers };
        brood.answer()?;
        Ok(brood)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// Makes threads that stay.
    pub fn more(&mut self, threads: u32) -> Result<(), String> {
        self.order(&format!("more {threads}")).map(|_| ())
    }
    /// A thread that binds itself; its number.
    pub fn pin(&mut self, cpu: u32) -> Result<u32, String> {
        self.order(&format!("pin {cpu}"))
    }
    /// A child process; its pid.
    pub fn child(&mut self) -> Result<u32, String> {
        self.order("child")
    }

    /// A process that it made and that is nobody's child any more; its pid.
    pub fn orphan(&mut self) -> Result<u32, String> {
        self.order("orphan")
    }

    fn order(&mut self, order: &str) -> Result<u32, String> {
        writeln!(self.orders, "{order}").map_err(|e| format!("brood: {e}"))?;
        self.answer()
    }
    fn answer(&mut self) -> Result<u32, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|e| format!("brood: {e}"))?;
        line.trim().parse().map_err(|_| format!("brood answered {line:?}"))
    }
}

impl Drop for Brood {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a process whose parent ends at once: its pid, and what it ends with.
pub fn orphan() -> io::Result<(u32, ChildStdin)> {
    let mut shell = Command::new("sh");
    // What runs behind a shell has no standard input but by another number.
    shell.args(["-c", "exec 3<&0; cat <&3 >/dev/null & echo $!"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn()?;
    let (pipe, out) = (shell.stdin.take().expect("stdin was asked for"), shell.stdout.take().expect("stdout was asked for"));
    let mut said = String::new();
    BufReader::new(out).read_line(&mut said)?;
    shell.wait()?;
    Ok((said.trim().parse().map_err(io::Error::other)?, pipe))
}

/// Where each thread of a process may run, as /proc/PID/status prints it; what ends meanwhile is left out.
#[must_use]
pub fn masks(pid: u32) -> BTreeMap<u32, String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mask = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("status")).ok()?;
        let mask = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned();
        Some((entry.file_name().to_str()?.parse().ok()?, mask))
    };
    entries.filter_map(mask).collect()
}
