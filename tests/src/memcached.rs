//! A real memcached, on a unix socket in a scratch directory unless it is told otherwise.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[derive(Debug)]
pub struct Memcached {
    child: Child,
    pub socket: PathBuf,
    _dir: TempDir,
}

impl Memcached {
    /// Starts Debian's memcached with `mib` MiB for items and further options, and waits until it answers.
    pub fn start(mib: u64, options: &[&str]) -> Result<Self, String> {
        let dir = crate::scratch();
        let socket = dir.path().join("memcached.sock");
        let place = socket.display().to_string();
        Self::run(mib, &[&["-s", &place], options].concat(), (dir, socket), |server| server.connect().is_ok())
    }

    /// The same on an address of this host instead of its socket.
    pub fn listen(mib: u64, host: &str, port: u16) -> Result<Self, String> {
        let dir = crate::scratch();
        let socket = dir.path().join("memcached.sock");
        let options = ["-l", host, "-p", &port.to_string(), "-U", "0"];
        Self::run(mib, &options, (dir, socket), |_| TcpStream::connect((host, port)).is_ok())
    }

    fn run(mib: u64, options: &[&str], at: (TempDir, PathBuf), answers: impl Fn(&Self) -> bool) -> Result<Self, String> {
        let program = crate::footing::program("memcached", "memcached")?;
        // setpriv ends the server with us even if we are killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(["-u", "root", "-m", &mib.to_string(), "-t", "2"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("memcached: {e}"))?;
        let (dir, socket) = at;
        let mut server = Self { child, socket, _dir: dir };
        let patience = Instant::now() + Duration::from_secs(20);
        while !answers(&server) {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("memcached ended at once: {status}"));
            }
            if Instant::now() > patience {
                return Err("memcached does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    pub fn connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(&self.socket)
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
