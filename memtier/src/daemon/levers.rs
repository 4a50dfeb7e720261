//! Settings of memcached servers, as the footprint keeps them: read and put back by whoever undoes, which may be another process
//! than the one that changed them.
//!
//! They live as long as the server does. One that was started anew has those of its command line, and is left alone.

use crate::compat::slab::Sample;
use crate::observe::memcached::{Address, Auth, Command, Connection, Lever, Server, Table, TalkError};
use crate::vocab::{ClassId, Reply, ServerLife};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A server that does not answer meanwhile keeps its setting for now.
const PATIENCE: Duration = Duration::from_secs(5);

/// One setting of one life of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServerSetting {
    /// Where it listens.
    pub server: String,
    /// Holds what it wants to hear first; the word itself is nowhere but there.
    pub auth_file: Option<PathBuf>,
    pub life: Option<ServerLife>,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Whether the server moves pages itself.
    Automove,
    /// Free chunks of a class with extstore. No server tells them; they begin with nought.
    FreeMemchunks(ClassId),
}

impl What {
    /// Before anybody sets it, where nobody can tell.
    pub const UNTOLD: &str = "0";
}

impl fmt::Display for ServerSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Automove => write!(f, "slabs automove")?,
            What::FreeMemchunks(class) => write!(f, "extstore free_memchunks {}", class.0)?,
        }
        write!(f, " of memcached at {}", self.server)?;
        self.life.map_or(Ok(()), |life| write!(f, " (pid {})", life.pid))
    }
}

/// The first line of a file with user:password.
pub fn auth(file: &Path) -> io::Result<Auth> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().next().unwrap_or_default();
    Auth::of_line(line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its first line is not user:password"))
}

/// Its present value; `None`: the server does not tell. `NotFound`: that life of it is over.
pub fn ask(setting: &ServerSetting) -> io::Result<Option<String>> {
    block(|| async {
        let mut connection = reach(setting).await?;
        match setting.what {
            What::FreeMemchunks(_) => Ok(None),
            What::Automove => {
                let [settings] = connection.tables([Table::Settings]).await.map_err(io::Error::other)?;
                Ok(settings.get("slab_automove").map(str::to_owned))
            }
        }
    })
}

pub fn set(setting: &ServerSetting, value: &str) -> io::Result<()> {
    let number = |value: &str| value.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{value:?}")));
    let lever = match setting.what {
        What::Automove => Lever::Automove(u8::try_from(number(value)?).map_err(io::Error::other)?),
        What::FreeMemchunks(class) => Lever::FreeMemchunks(class, number(value)?),
    };
    let said = block(|| async { reach(setting).await?.order(Command::Set(lever)).await.map_err(io::Error::other) })?;
    if said.reply == Reply::Ok { Ok(()) } else { Err(io::Error::other(said.line)) }
}

/// A connection to that very life of the server.
async fn reach(setting: &ServerSetting) -> io::Result<Connection> {
    let over = || io::Error::from(io::ErrorKind::NotFound);
    let address: Address = setting.server.parse().map_err(io::Error::other)?;
    let auth = setting.auth_file.as_deref().map(auth).transpose();
    // A file that is not found is not a server that is not found.
    let auth = auth.map_err(|error| io::Error::other(format!("its password: {error}")))?;
    let opened = Connection::open(&Server { address, auth, patience: PATIENCE }).await;
    let mut connection = opened.map_err(|error| match error {
        TalkError::Connect { source, .. } if gone(&source) => over(),
        error => io::Error::other(error),
    })?;
    let [general] = connection.tables([Table::General]).await.map_err(io::Error::other)?;
    let life = Sample::read(std::iter::empty(), general.iter()).life;
    if life == setting.life { Ok(connection) } else { Err(over()) }
}

fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Whoever undoes may be in the middle of an event loop, or have none.
fn block<T: Send, F: Future<Output = io::Result<T>>>(talk: impl FnOnce() -> F + Send) -> io::Result<T> {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(talk());
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_| Err(io::Error::other("asking a server broke off")))
}
