//! A connection to a server: commands go out together, answers come back in order, all within a time.

use super::address::Address;
use super::wire::{Answer, Command, Nonsense, Parser, Said, Stats, Table, said};
use crate::vocab::Reply;
use nix::sys::socket::{setsockopt, sockopt};
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Bytes asked for at a time.
const READ: usize = 16 << 10;
/// A peer that vanished without a word is found out after 10 s of silence and three unanswered probes, 5 s apart.
const KEEP_IDLE: u32 = 10;
const KEEP_EVERY: u32 = 5;
const KEEP_PROBES: u32 = 3;
/// What a server says to whoever did not say who asks.
const SHUT: &str = "CLIENT_ERROR unauthenticated";

/// A server, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Server {
    pub address: Address,
    pub auth: Option<Auth>,
    /// For a connection, and for each set of commands with its answers.
    pub patience: Duration,
}

/// What a server wants that was started with an authfile (-Y).
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    user: String,
    password: String,
}

impl Auth {
    /// Of a line of memcached's own file: user:password.
    #[must_use]
    pub fn of_line(line: &str) -> Option<Self> {
        let (user, password) = line.split_once(':')?;
        // A blank is what comes between the two on the way.
        let sound = |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control());
        (sound(user) && sound(password)).then(|| Self { user: user.to_owned(), password: password.to_owned() })
    }
}

impl fmt::Debug for Auth {
    /// Not the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    #[error("cannot connect to {server}: {source}")]
    Connect { server: Address, source: io::Error },
    #[error("{server} takes longer than {:.1} s to {doing}", patience.as_secs_f64())]
    Timeout { server: Address, doing: String, patience: Duration },
    #[error("{server} closed the connection, asked to {doing}")]
    Closed { server: Address, doing: String },
    #[error("talking to {server}, asked to {doing}: {source}")]
    Io { server: Address, doing: String, source: io::Error },
    #[error("{server}, asked to {doing}, answers {source}")]
    Nonsense { server: Address, doing: String, source: Nonsense },
    #[error("{server}, asked to {doing}, refuses: {line}")]
    Refused { server: Address, doing: String, line: String },
}

/// Both kinds of stream.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// After an error it is of no use: what would be read next may be the answer to something else.
pub struct Connection {
    server: Server,
    stream: Box<dyn Stream>,
    parser: Parser,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, and says who asks where the server wants to know.
    pub async fn open(server: &Server) -> Result<Self, TalkError> {
        let address = &server.address;
        let connected = timeout(server.patience, connect(address)).await;
        let late = |_| TalkError::Timeout { server: address.clone(), doing: "accept".to_owned(), patience: server.patience };
        let stream = connected.map_err(late)?.map_err(|source| TalkError::Connect { server: address.clone(), source })?;
        let mut connection = Self { server: server.clone(), stream, parser: Parser::default() };
        if let Some(Auth { user, password }) = &server.auth {
            let word = format!("{user} {password}");
            // Stored nowhere: the key is only there because a set has one.
            let request = format!("set memtier 0 0 {}\r\n{word}\r\n", word.len());
            let line = connection.within("let us in", async |c| {
                c.send(request.as_bytes()).await?;
                c.line().await
            });
            let line = line.await?;
            if &line[..] != b"STORED" {
                return Err(connection.refused("let us in", &String::from_utf8_lossy(&line)));
            }
        }
        Ok(connection)
    }

    /// Sends all of them at once; the answers are in their order.
    pub async fn talk(&mut self, commands: &[Command]) -> Result<Vec<Answer>, TalkError> {
        let doing = commands.first().map(ToString::to_string).unwrap_or_default();
        let fenced = || commands.iter().chain([&Command::Fence]);
        let request: String = fenced().map(|command| format!("{command}\r\n")).collect();
        self.within(&doing, async |c| {
            c.send(request.as_bytes()).await?;
            let mut answers = Vec::with_capacity(commands.len() + 1);
            for command in fenced() {
                let answer = loop {
                    match c.parser.answer(command)? {
                        // It then waits for a password, and reads all that comes as one.
                        Some(Answer::Said(Said { line, .. })) if line == SHUT => return Err(Fault::Refused(line)),
                        Some(answer) => break answer,
                        None => c.read().await?,
                    }
                };
                answers.push(answer);
            }
            // The answer to the fence.
            answers.pop();
            if c.parser.is_empty() { Ok(answers) } else { Err(Fault::Nonsense(Nonsense::line(c.parser.buffer()))) }
        })
        .await
    }

    /// One command that is answered with a line.
    pub async fn order(&mut self, command: Command) -> Result<Said, TalkError> {
        let doing = command.to_string();
        match self.talk(&[command]).await?.pop() {
            Some(Answer::Said(said)) => Ok(said),
            Some(Answer::Stats(_)) | None => Err(self.refused(&doing, "a table")),
        }
    }

    /// Tables, which every server has; one that refuses them is not to be talked to.
    pub async fn tables<const N: usize>(&mut self, tables: [Table; N]) -> Result<[Stats; N], TalkError> {
        let answers = self.talk(&tables.map(Command::Stats)).await?;
        let mut got = [const { Stats::EMPTY }; N];
        for ((table, answer), got) in tables.into_iter().zip(answers).zip(&mut got) {
            match answer {
                Answer::Stats(stats) => *got = stats,
                Answer::Said(said) => return Err(self.refused(&Command::Stats(table).to_string(), &said.line)),
            }
        }
        Ok(got)
    }

    /// Opens a stream with this line. `Err`: the server would not.
    pub(super) async fn subscribe(&mut self, request: &str) -> Result<Result<(), Said>, TalkError> {
        let line = self.within(request, async |c| {
            c.send(format!("{request}\r\n").as_bytes()).await?;
            c.line().await
        });
        let line = line.await?;
        match said(&line) {
            Some(Said { reply: Reply::Ok, .. }) => Ok(Ok(())),
            Some(said) => Ok(Err(said)),
            None => Err(self.error(request, Fault::Nonsense(Nonsense::line(&line)))),
        }
    }

    /// The next line of a stream, however long it takes. May be dropped and called again.
    pub(super) async fn next_line(&mut self, doing: &str) -> Result<bytes::Bytes, TalkError> {
        let line = self.line().await;
        line.map_err(|fault| self.error(doing, fault))
    }

    async fn within<T>(&mut self, doing: &str, talk: impl AsyncFnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, TalkError> {
        let patience = self.server.patience;
        match timeout(patience, talk(self)).await {
            Ok(talked) => talked.map_err(|fault| self.error(doing, fault)),
            Err(_) => Err(TalkError::Timeout { server: self.server.address.clone(), doing: doing.to_owned(), patience }),
        }
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), Fault> {
        Ok(self.stream.write_all(request).await?)
    }

    async fn line(&mut self) -> Result<bytes::Bytes, Fault> {
        loop {
            match self.parser.line()? {
                Some(line) => return Ok(line),
                None => self.read().await?,
            }
        }
    }

    async fn read(&mut self) -> Result<(), Fault> {
        let buffer = self.parser.buffer();
        buffer.reserve(READ);
        if self.stream.read_buf(buffer).await? == 0 { Err(Fault::Closed) } else { Ok(()) }
    }

    fn error(&self, doing: &str, fault: Fault) -> TalkError {
        let (server, doing) = (self.server.address.clone(), doing.to_owned());
        match fault {
            Fault::Closed => TalkError::Closed { server, doing },
            Fault::Io(source) => TalkError::Io { server, doing, source },
            Fault::Nonsense(source) => TalkError::Nonsense { server, doing, source },
            Fault::Refused(line) => TalkError::Refused { server, doing, line },
        }
    }

    fn refused(&self, doing: &str, line: &str) -> TalkError {
        TalkError::Refused { server: self.server.address.clone(), doing: doing.to_owned(), line: line.to_owned() }
    }
}

#[derive(Debug)]
enum Fault {
    Closed,
    Io(io::Error),
    Nonsense(Nonsense),
    Refused(String),
}

impl From<io::Error> for Fault {
    /// How a server closes depends on what it had still to read.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}
impl From<Nonsense> for Fault {
    fn from(nonsense: Nonsense) -> Self {
        Self::Nonsense(nonsense)
    }
}

async fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        // Each address of the name in turn.
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            setsockopt(&stream, sockopt::KeepAlive, &true)?;
            setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_IDLE)?;
            setsockopt(&stream, sockopt::TcpKeepInterval, &KEEP_EVERY)?;
            setsockopt(&stream, sockopt::TcpKeepCount, &KEEP_PROBES)?;
            Box::new(stream)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords() {
        let auth = Auth::of_line("user:pass:word").expect("a user");
        assert_eq!((auth.user.as_str(), auth.password.as_str()), ("user", "pass:word"));
        assert!(!format!("{auth:?}").contains("pass"));
        for line in ["", "user", "user:", ":pass", "us er:pass", "user:pa ss", "user:pass\r"] {
            assert_eq!(Auth::of_line(line), None, "{line:?}");
        }
    }
}
