//! `memtier slab-automove`, running: looks at one server, the decisions of compat/slab, and what comes of them, in the words of
//! the scripts.
//!
//! Each server has a run directory of its own below the daemon's, with lock and footprint: several of these run beside each other
//! and beside `memtier run`, but no two on one server. A dry run has none, for it changes nothing.
//!
//! Deliberately absent: which page moves where (compat/slab), and the command line (cli/slab_automove).

use super::footprint::{Footprint, FootprintError, HostSettings, Undone, Verdict};
use super::levers::{ServerSetting, What};
use super::lock::{Lock, LockError};
use crate::compat::slab::{Mode, Move, Mover, Pass, Pause, Sample, Settings};
use crate::observe::memcached::{Answer, Backoff, Command, Connection, Lever, Said, Server, Table, TalkError};
use crate::vocab::{Reply, ServerLife};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// Below the run directory.
const DIR: &str = "slab-automove";
/// Of a name in it that is readable.
const NAME_MOST: usize = 80;
/// A server that cannot be talked to is tried again after so long, and then ever less often.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// Without a pause between looks, one all the same.
const PAUSE_LEAST: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum AutomoveError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Footprint(#[from] FootprintError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What to run.
#[derive(Debug)]
pub struct Start {
    pub server: Server,
    pub auth_file: Option<PathBuf>,
    pub run_dir: PathBuf,
    pub settings: Settings,
    /// Between two looks.
    pub sleep: Duration,
    /// Without it nothing is sent that changes anything.
    pub act: bool,
    pub verbose: bool,
    pub json: bool,
}

/// The run directory of this server's mover.
#[must_use]
pub fn dir(run_dir: &Path, server: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
    let name: String = server.chars().take(NAME_MOST).map(plain).collect();
    // Two servers whose names read alike are two.
    run_dir.join(DIR).join(format!("{name}-{:08x}", crc32fast::hash(server.as_bytes())))
}

/// Run directories of all movers that ever acted since the boot.
pub fn dirs(run_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(run_dir.join(DIR)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut dirs = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    dirs.sort_unstable();
    Ok(dirs)
}

impl Start {
    /// Until somebody ends it. What it set is then put back; `--compat` leaves that to `memtier undo`, as the scripts leave all.
    pub fn run(self, out: impl Write) -> Result<(), AutomoveError> {
        let dir = dir(&self.run_dir, &self.server.address.to_string());
        let lock = self.act.then(|| Lock::take(&dir, "slab-automove")).transpose()?;
        let boot = super::boot_id()?;
        let footprint = self.act.then(|| Footprint::open(&dir, &boot)).transpose()?;
        let puts_back = self.settings.mode == Mode::Repaired;
        let mut session = Session { mover: Mover::new(self.settings), start: self, footprint, out, since: Instant::now() };
        if puts_back {
            // What one left that was killed.
            session.put_back()?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(async {
            let mut signals = Signals::new()?;
            tokio::select! {
                biased;
                () = signals.any() => Ok(()),
                error = session.go() => Err(error),
            }
        });
        if puts_back {
            session.put_back()?;
        }
        drop(lock);
        ended
    }
}

/// Whatever ends it.
struct Signals([Signal; 4]);

impl Signals {
    fn new() -> io::Result<Self> {
        let [a, b] = [SignalKind::terminate(), SignalKind::interrupt()];
        let [c, d] = [SignalKind::quit(), SignalKind::hangup()];
        Ok(Self([signal(a)?, signal(b)?, signal(c)?, signal(d)?]))
    }
    async fn any(&mut self) {
        let [a, b, c, d] = &mut self.0;
        tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {}, _ = d.recv() => {} }
    }
}

struct Session<W> {
    start: Start,
    mover: Mover,
    footprint: Option<Footprint>,
    out: W,
    since: Instant,
}

/// Why a connection came to its end.
enum Over {
    /// It is tried anew.
    Lost(String),
    Ended(AutomoveError),
}

impl From<TalkError> for Over {
    fn from(error: TalkError) -> Self {
        Self::Lost(error.to_string())
    }
}
impl From<FootprintError> for Over {
    fn from(error: FootprintError) -> Self {
        Self::Ended(error.into())
    }
}
impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        Self::Ended(error.into())
    }
}

/// A line for programs.
#[derive(Serialize)]
struct Told<'a> {
    /// Seconds since the start.
    at: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a Pass>,
    /// What the server said to the move.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnected: Option<&'a str>,
}

impl<W: Write> Session<W> {
    /// One connection after the other.
    async fn go(&mut self) -> AutomoveError {
        let mut backoff = Backoff::new(self.start.sleep.max(RETRY_FIRST), RETRY_MOST);
        loop {
            let why = match self.connection(&mut backoff).await {
                Ok(never) => match never {},
                Err(Over::Ended(error)) => return error,
                Err(Over::Lost(why)) => why,
            };
            let told = Told { at: self.at().as_secs_f64(), pass: None, answer: None, disconnected: Some(&why) };
            let line = if self.start.json {
                serde_json::to_string(&told).map_err(io::Error::other)
            } else {
                Ok(format!("disconnected: {why}"))
            };
            if let Err(error) = line.and_then(|line| self.say(&line)) {
                return error.into();
            }
            self.mover.disconnected();
            let wait = match self.start.settings.mode {
                Mode::Repaired => backoff.failed(),
                Mode::Compat2017 => self.start.sleep.max(PAUSE_LEAST),
            };
            sleep(wait).await;
        }
    }

    async fn connection(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, Over> {
        let mut server = Connection::open(&self.start.server).await?;
        let life = self.take_over(&mut server).await?;
        loop {
            let [items, slabs, general] = server.tables([Table::Items, Table::Slabs, Table::General]).await?;
            let sample = Sample::read(items.iter().chain(slabs.iter()), general.iter());
            let pass = self.mover.look(sample, self.at()).map_err(|raised| Over::Lost(raised.to_string()))?;
            // Not before something came of the connection.
            backoff.worked();
            self.carry_out(&mut server, life, &pass).await?;
            let pause = match self.mover.pause() {
                Pause::Sleep => self.start.sleep.max(PAUSE_LEAST),
                Pause::Soon(soon) => soon,
            };
            sleep(pause).await;
        }
    }

    /// Two that move pages would undo each other: the server's own mover is switched off.
    async fn take_over(&mut self, server: &mut Connection) -> Result<Option<ServerLife>, Over> {
        let Some(footprint) = &mut self.footprint else { return Ok(None) };
        let [general, settings] = server.tables([Table::General, Table::Settings]).await?;
        let life = Sample::read(std::iter::empty(), general.iter()).life;
        footprint.outlived(&self.start.server.address.to_string(), life)?;
        // A server that does not tell has no mover.
        if let Some(present) = settings.get("slab_automove") {
            footprint.announce(&self.start.setting(life, What::Automove), Some(present), "0")?;
        }
        let said = server.order(Command::Set(Lever::Automove(0))).await?;
        if !self.start.json {
            self.say(&said.line)?;
        }
        Ok(life)
    }

    async fn carry_out(&mut self, server: &mut Connection, life: Option<ServerLife>, pass: &Pass) -> Result<(), Over> {
        if let Some(footprint) = &mut self.footprint
            && !pass.targets.is_empty()
        {
            for (class, chunks) in &pass.targets {
                footprint.announce(&self.start.setting(life, What::FreeMemchunks(*class)), None, &chunks.to_string())?;
            }
            let orders: Vec<Command> =
                pass.targets.iter().map(|(class, chunks)| Command::Set(Lever::FreeMemchunks(*class, *chunks))).collect();
            let refused = server.talk(&orders).await?.into_iter().find_map(|answer| match answer {
                Answer::Said(Said { reply: Reply::Ok, .. }) | Answer::Stats(_) => None,
                Answer::Said(said) => Some(said.line),
            });
            if let Some(line) = refused {
                tracing::debug!(line, "free_memchunks");
            }
        }
        if self.start.verbose && !self.start.json {
            pass.lines.iter().try_for_each(|line| self.say(line))?;
        }
        let due = pass.decision.filter(|due| pass.held.is_none() && self.mover.executes(*due));
        let answer = match due {
            Some(due) => self.move_page(server, due).await?,
            None => None,
        };
        if self.start.json {
            let answer = answer.as_ref().map(|said| said.line.as_str());
            let told = Told { at: self.at().as_secs_f64(), pass: Some(pass), answer, disconnected: None };
            self.say(&serde_json::to_string(&told).map_err(io::Error::other)?)?;
        }
        Ok(())
    }

    async fn move_page(&mut self, server: &mut Connection, due: Move) -> Result<Option<Said>, Over> {
        if !self.start.json {
            self.say(&format!("moving page from, to: {due}"))?;
        }
        if !self.start.act {
            return Ok(None);
        }
        let said = server.order(Command::Reassign { from: Some(due.from), to: due.to }).await?;
        if self.start.verbose && !self.start.json {
            self.say(&format!("move result: {}", said.line))?;
        }
        if matches!(said.reply, Reply::Error | Reply::ClientError | Reply::ServerError) {
            tracing::warn!(server = %self.start.server.address, line = said.line, "it moves no pages");
        }
        self.mover.heard(due, said.reply);
        Ok(Some(said))
    }

    fn at(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whoever reads along shall not wait for a full buffer.
    fn say(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }

    fn put_back(&mut self) -> Result<(), AutomoveError> {
        let undone = match &mut self.footprint {
            Some(footprint) => footprint.undo(&mut HostSettings)?,
            None => Vec::<Undone>::new(),
        };
        for undone in undone {
            if matches!(undone.verdict, Verdict::Failed { .. }) {
                tracing::warn!(%undone, "`memtier undo` tries again");
            } else {
                tracing::info!(%undone, "setting");
            }
        }
        Ok(())
    }
}

impl Start {
    fn setting(&self, life: Option<ServerLife>, what: What) -> ServerSetting {
        ServerSetting { server: self.server.address.to_string(), auth_file: self.auth_file.clone(), life, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_a_directory() {
        let name = |server: &str| dir(Path::new("run"), server).file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name("[::1]:11211").starts_with("___1__11211-"), "{}", name("[::1]:11211"));
        assert_ne!(name("/a/b"), name("/a_b"));
        assert!(name(&"x".repeat(300)).len() < 100);
        let scratch = tempfile::tempdir().expect("temporary directory");
        assert_eq!(dirs(scratch.path()).expect("none"), Vec::<PathBuf>::new());
    }
}
