//! A process whose threads come and go: `brood THREADS` keeps so many, and makes others all the time that end at once. Orders
//! on standard input: `more N` threads to keep, `pin CPU` makes one that binds itself, `child` starts a process,
//! `orphan` one whose parent ends at once. Every order is answered by one number: but for `more` that of the thread or process. Ends when standard input does.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use std::io::{self, BufRead as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

type Said = Box<dyn std::error::Error + Send + Sync>;

/// Between two short-lived threads: a program that does nothing but make threads is none.
const BREATH: Duration = Duration::from_micros(200);

/// A thread that stays, made by one that was made for it.
fn keep() -> Result<(), Said> {
    let (to, started) = mpsc::channel();
    thread::spawn(move || {
        thread::spawn(move || {
            // Whoever waits for it may have gone.
            let _ = to.send(());
            loop {
                thread::park();
            }
        });
    });
    Ok(started.recv()?)
}

/// A thread that stays and runs on one CPU by its own will.
fn pin(cpu: usize) -> Result<i32, Said> {
    let (to, bound) = mpsc::channel();
    thread::spawn(move || {
        let mut set = CpuSet::new();
        let own = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).map(|()| gettid().as_raw());
        let _ = to.send(own);
        loop {
            thread::park();
        }
    });
    Ok(bound.recv()??)
}

fn main() -> Result<(), Said> {
    let count: usize = std::env::args().nth(1).ok_or("usage: brood THREADS")?.parse()?;
    (0..count).try_for_each(|_| keep())?;
    thread::spawn(|| {
        loop {
            let made = thread::spawn(|| thread::spawn(|| ()).join());
            if made.join().is_err() {
                std::process::exit(1);
            }
            thread::sleep(BREATH);
        }
    });
    let (mut children, mut pipes) = (Vec::new(), Vec::new());
    let mut out = io::stdout().lock();
    writeln!(out, "{count}")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["more", count] => {
                let count = count.parse()?;
                (0..count).try_for_each(|_| keep())?;
                count
            }
            ["pin", cpu] => pin(cpu.parse()?)?,
            ["child"] => {
                // It ends with the pipe to its standard input.
                let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
                let pid = i32::try_from(child.id())?;
                children.push(child);
                pid
            }
            ["orphan"] => {
                let (pid, pipe) = memtier_tests::brood::orphan()?;
                pipes.push(pipe);
                i32::try_from(pid)?
            }
            _ => return Err(format!("unknown order {line}").into()),
        };
        writeln!(out, "{answer}")?;
    }
    for mut child in children {
        drop(child.stdin.take());
        child.wait()?;
    }
    Ok(())
}
