//! How one numad tells another that runs what to do: a stream socket in the run directory that only root can open, a line of
//! JSON each way.
//!
//! The original has a System V message queue for this, which any member of its group can write to, whose start eats what was
//! meant for others, and on which a client waits for ever when the daemon died. docs/numad.md says why there is none here.

use crate::compat::numad::{Advice, Order};
use serde::{Deserialize, Serialize};
use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// In the run directory.
pub const SOCKET: &str = "numad.sock";
/// A line longer than this is no order of ours.
const LINE_MOST: u64 = 1 << 20;
/// What a client may take to say something, and the daemon to answer.
const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);

/// What an order is answered with; empty but for advice.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    #[default]
    Heeded,
    Advice(Box<Advice>),
    Refused(String),
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: cannot read the answer: {source}", path.display())]
    Answer { path: PathBuf, source: serde_json::Error },
}

/// Tells the numad of this run directory. `None`: none runs there, or none that we may speak to.
pub fn ask(run_dir: &Path, orders: &[Order]) -> Result<Option<Reply>, AskError> {
    let path = run_dir.join(SOCKET);
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(source) => return Err(AskError::Io { path, source }),
    };
    let talk = || -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(orders)?;
        line.push(b'\n');
        (&stream).write_all(&line)?;
        let mut answer = Vec::new();
        BufReader::new(&stream).take(LINE_MOST).read_until(b'\n', &mut answer)?;
        if answer.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
    };
    match talk() {
        Ok(answer) => serde_json::from_slice(&answer).map(Some).map_err(|source| AskError::Answer { path, source }),
        Err(source) => Err(AskError::Io { path, source }),
    }
}

/// A socket that nobody listens on is what a daemon leaves that was killed.
fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | ConnectionRefused | PermissionDenied | NotADirectory)
}

/// Whoever holds the lock of the run directory may do this: what lies there is stale.
pub fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    let path = run_dir.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// One client: what it orders goes to `heed`, and what that says back. A client that hangs is left.
pub fn serve(mut stream: &UnixStream, heed: impl FnOnce(Vec<Order>) -> Reply) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new(stream).take(LINE_MOST).read_until(b'\n', &mut line)?;
    let reply = match serde_json::from_slice(&line) {
        Ok(orders) => heed(orders),
        Err(error) => Reply::Refused(format!("cannot read the order: {error}")),
    };
    let mut answer = serde_json::to_vec(&reply)?;
    answer.push(b'\n');
    stream.write_all(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_answers() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert!(ask(dir.path(), &[]).expect("nobody").is_none());
        let listener = bind(dir.path()).expect("a socket");
        let mode = fs::metadata(dir.path().join(SOCKET)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let server = std::thread::spawn(move || {
            for _ in 0..3 {
                let (stream, _) = listener.accept().expect("a client");
                let _ = serve(&stream, |orders| Reply::Refused(format!("{orders:?}")));
            }
        });
        let reply = ask(dir.path(), &[Order::Level(7), Order::Include(3)]).expect("answers").expect("somebody");
        assert!(matches!(reply, Reply::Refused(told) if told == "[Level(7), Include(3)]"));
        // Nonsense, and somebody who says nothing and goes.
        let mut stream = UnixStream::connect(dir.path().join(SOCKET)).expect("there");
        stream.write_all(b"{}\n").expect("takes it");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        assert!(answer.starts_with(r#"{"refused":"cannot read the order"#), "{answer}");
        drop(UnixStream::connect(dir.path().join(SOCKET)).expect("there"));
        server.join().expect("no panic");
        // Killed: the socket is there, and nobody behind it.
        assert!(ask(dir.path(), &[]).expect("nobody").is_none());
        bind(dir.path()).expect("made anew");
    }
}
