//! The daemon of one command: where none runs, `heat` and `record` bring the same loop up in their own process, under the
//! same lock and behind the same socket, and then are its clients like everybody else.

use super::run::{ConfigArgs, EyeArgs, trouble};
use super::{Common, Exit, Trouble};
use crate::config::Target;
use crate::daemon::client::{Client, ClientError};
use crate::daemon::start::{Signals, Start, StartError};
use crate::daemon::views::Status;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// A daemon to talk to, and how to end it if it is ours.
pub struct Session {
    pub client: Client,
    inside: Option<Inside>,
}

struct Inside {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), StartError>>,
}

/// What to bring up where no daemon runs.
pub struct Inward<'a> {
    pub role: &'static str,
    pub config: &'a ConfigArgs,
    pub eyes: &'a EyeArgs,
    pub arm: bool,
    pub targets: Vec<Target>,
    pub signals: Signals,
}

impl Session {
    /// The daemon that runs, or one of our own. It never acts.
    pub fn open(common: &Common, inward: Inward<'_>) -> Result<Self, Trouble> {
        let client = common.client()?;
        match client.get::<Status>("/v1/status") {
            Ok(status) => inward.agrees(&status).map(|()| Self { client, inside: None }),
            Err(ClientError::NoDaemon { .. }) => {
                let inside = Inside::start(common, inward)?;
                Ok(Self { client, inside: Some(inside) })
            }
            Err(error) => Err(Trouble::from_daemon(error)),
        }
    }

    /// Ends our own daemon; leaves any other alone.
    pub fn close(self) -> Result<(), Trouble> {
        let Some(Inside { stop, thread }) = self.inside else { return Ok(()) };
        // Stopped by a signal meanwhile: the same end.
        let _ = stop.send(());
        ended(thread)
    }
}

impl Inward<'_> {
    /// A daemon that runs has a configuration of its own: what asks for another is refused rather than ignored.
    fn agrees(&self, status: &Status) -> Result<(), Trouble> {
        let arms = status.mode.arm || status.mode.act;
        let arm = (self.arm && !arms).then_some("--arm");
        let vain: Vec<&str> = self.config.given().chain(self.eyes.given()).chain(arm).collect();
        if vain.is_empty() {
            return Ok(());
        }
        let error =
            anyhow::anyhow!("a daemon runs (pid {}) with its own configuration: {} would do nothing", status.pid, vain.join(", "));
        Err(Trouble::new(Exit::Refused, error)
            .next("change its configuration (daemon.arm = true for --arm) and `memtier reload`, or leave the option away"))
    }
}

impl Inside {
    fn start(common: &Common, inward: Inward<'_>) -> Result<Self, Trouble> {
        let Inward { role, config, eyes, arm, targets, signals } = inward;
        // Whatever the configured files say: a command that looks does not act.
        let mut setup = config.setup(&[], targets);
        setup.sets.push(format!("daemon.act = false\ndaemon.arm = {arm}"));
        let start = Start {
            run_dir: common.run_dir(),
            role,
            setup,
            record: None,
            signals,
            eyes: eyes.options(),
            log: Box::new(std::io::sink()),
        };
        let (stop, stopped) = oneshot::channel();
        let (up, is_up) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("memtier-loop".into()).spawn(move || {
            start.run(stopped, || {
                // Whoever waits for this is still there: it waits.
                let _ = up.send(());
            })
        })?;
        match is_up.recv() {
            Ok(()) => Ok(Self { stop, thread }),
            Err(_) => Err(ended(thread).err().unwrap_or_else(|| anyhow::anyhow!("the loop ended before it began").into())),
        }
    }
}

fn ended(thread: JoinHandle<Result<(), StartError>>) -> Result<(), Trouble> {
    match thread.join() {
        Ok(ended) => ended.map_err(trouble),
        Err(_) => Err(anyhow::anyhow!("the loop panicked; please report this").into()),
    }
}
