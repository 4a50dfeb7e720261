//! One server's mover: what the script keeps from look to look.

use super::history::History;
use super::patience::Patience;
use super::{Mode, Move, Pass, Raised, Sample, Script, Settings, extstore, lines, plain};
use crate::vocab::{ClassId, Place, Reply};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long until the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// As long as the operator wants.
    Sleep,
    /// A page went to the pool; more may be free.
    Soon(Duration),
}

/// Of the sister script.
const SOON: Duration = Duration::from_millis(50);
/// The original looks again at once, as fast as the server answers; this is as fast and leaves the CPU to others.
const AT_ONCE: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mover {
    settings: Settings,
    before: Option<Sample>,
    history: History,
    targets: extstore::Targets,
    patience: Patience,
    /// Something was evicted once, so memory was full.
    filled: bool,
    /// It made a decision once, if only for nothing, and the last one.
    decided: bool,
    last: Option<Move>,
    /// A page went to the pool after the last look.
    at_once: bool,
}

impl Mover {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            before: None,
            history: History::new(settings.window, settings.mode),
            targets: extstore::Targets::default(),
            patience: Patience::default(),
            filled: false,
            decided: false,
            last: None,
            at_once: false,
        }
    }

    /// Takes a look in. `now` is the time since any one moment. The decision is what the script would decide and, but for the
    /// repairs, do; `held` says that it must wait.
    pub fn look(&mut self, sample: Sample, now: Duration) -> Result<Pass, Raised> {
        let lives = |sample: &Sample| sample.life;
        let other = self.before.as_ref().and_then(lives).zip(lives(&sample)).is_some_and(|(was, is)| was != is);
        if self.settings.mode == Mode::Repaired && other {
            *self = Self::new(self.settings);
        }
        self.patience.tick();
        let pass = self.pass(&sample, now);
        match &pass {
            Err(_) => self.disconnected(),
            // The original keeps the old one, so that what changed since is counted twice.
            Ok(_) if self.again() => {}
            Ok(_) => self.before = Some(sample),
        }
        pass
    }

    fn pass(&mut self, sample: &Sample, now: Duration) -> Result<Pass, Raised> {
        let Settings { mode, script, window, ratio } = self.settings;
        let changes = sample.since(self.before.as_ref());
        let mut pass = Pass { pool: sample.pool, window, looks: self.history.len(), ..Pass::default() };
        match script {
            Script::Extstore { free, size } => {
                match (mode, sample.evictions) {
                    (Mode::Compat2017, None) => return Err(Raised::Missing("evictions".into())),
                    (Mode::Compat2017, Some(evictions)) => self.filled = evictions > 0,
                    // Counters can be reset; memory stays full.
                    (Mode::Repaired, evictions) => self.filled |= evictions.is_some_and(|evictions| evictions > 0),
                }
                if !self.filled {
                    return match (mode, self.decided) {
                        (Mode::Compat2017, false) => Err(Raised::Undecided),
                        (Mode::Compat2017, true) | (Mode::Repaired, _) => Ok(pass),
                    };
                }
                pass.targets = self.targets.check(mode, free, &changes, now)?;
                self.begin();
                (self.decided, self.last) = (true, None);
                extstore::decide(&mut self.history, (mode, size, ratio), &self.targets, &changes, &mut pass)?;
            }
            Script::Plain => {
                pass.lines = lines::table(&changes);
                self.begin();
                plain::decide(&mut self.history, (mode, window, ratio), &changes, &mut pass)?;
            }
        }
        pass.looks = self.history.len();
        (self.decided, self.last) = (true, pass.decision);
        pass.held = pass.decision.and_then(|due| self.patience.held(due));
        Ok(pass)
    }

    fn begin(&mut self) {
        self.history.begin(std::mem::take(&mut self.at_once));
    }

    /// The original reads a page from a class to the pool as an order to look again at once.
    fn again(&self) -> bool {
        let Settings { mode, script, .. } = self.settings;
        let to_pool = matches!(self.last, Some(Move { to: Place::Pool, .. }));
        mode == Mode::Compat2017 && matches!(script, Script::Extstore { .. }) && to_pool
    }

    /// Whether the original would have carried this out: it asks for a source above nought, which the pool is not.
    #[must_use]
    pub fn executes(&self, due: Move) -> bool {
        let Settings { mode, script, .. } = self.settings;
        let nought = matches!(due.from, Place::Pool | Place::Class(ClassId(0)));
        mode == Mode::Repaired || !(nought && matches!(script, Script::Extstore { .. }))
    }

    /// The server was asked for a move, and answered.
    pub fn heard(&mut self, due: Move, reply: Reply) {
        if self.settings.mode == Mode::Repaired {
            self.patience.heard(due, reply, self.settings.window);
            self.at_once = reply == Reply::Ok && due.to == Place::Pool;
        }
    }

    /// After a look, and the answer if there was one.
    #[must_use]
    pub fn pause(&self) -> Pause {
        let to_pool = matches!(self.last, Some(Move { to: Place::Pool, .. }));
        match (self.settings.mode, self.settings.script) {
            (Mode::Compat2017, Script::Extstore { .. }) if to_pool => Pause::Soon(AT_ONCE),
            (Mode::Compat2017, Script::Plain) if to_pool => Pause::Soon(SOON),
            (Mode::Repaired, _) if self.at_once => Pause::Soon(SOON),
            (Mode::Compat2017 | Mode::Repaired, _) => Pause::Sleep,
        }
    }

    /// The connection is lost. The original forgets what it saw; it is the same server as long as it says so.
    pub fn disconnected(&mut self) {
        if self.settings.mode == Mode::Compat2017 {
            self.before = None;
            self.history = History::new(self.settings.window, self.settings.mode);
        }
    }
}
