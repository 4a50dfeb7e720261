//! Going to the background: what daemon(3) does, but the process that was started ends only once its child is ready, and ends
//! badly if the child does. Who starts a daemon so can talk to it at once.

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

/// Which of the two goes on after `detach`.
#[derive(Debug)]
pub enum Side {
    /// The process that was started; whether the daemon came up. It has nothing left to do but to end.
    Starter {
        up: bool,
    },
    Daemon(Detached),
}

/// The daemon, in a session of its own. Standard error still is its starter's.
#[derive(Debug)]
pub struct Detached {
    starter: File,
}

/// Forks. To be called while the process has one thread: a fork leaves all others behind, with the locks they hold.
///
/// | errno | meaning |
/// | --- | --- |
/// | EAGAIN | a limit of processes (RLIMIT_NPROC, pids.max, threads-max) |
/// | ENOMEM | no memory for another process |
/// | EMFILE, ENFILE | out of file descriptors |
pub fn detach() -> io::Result<Side> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: one thread calls this, by contract; so the child may do whatever the parent may.
    let side = unsafe { fork() }?;
    match side {
        ForkResult::Parent { child: _ } => {
            drop(write);
            // Without a byte the end comes when the child does.
            let up = File::from(read).read(&mut [0])? == 1;
            Ok(Side::Starter { up })
        }
        ForkResult::Child => {
            drop(read);
            setsid()?;
            chdir("/")?;
            Ok(Side::Daemon(Detached { starter: File::from(write) }))
        }
    }
}

impl Detached {
    /// Lets go of the terminal, but for standard error where that is still needed, and tells the starter.
    pub fn ready(mut self, keep_stderr: bool) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        if !keep_stderr {
            dup2_stderr(&null)?;
        }
        self.starter.write_all(&[1])
    }
}
