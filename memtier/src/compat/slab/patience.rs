//! What a server answered to moves, and how long they therefore wait. The original does not listen.

use super::Move;
use crate::vocab::Reply;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Looks that a server is left alone which is busy time and again.
const BUSY_MOST: u64 = 32;
/// Looks until a server that moves no pages at all is asked again.
const UNABLE: u64 = 300;

/// Why a move waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What the server said.
    pub reply: Reply,
    /// For so many looks.
    pub looks: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Patience {
    /// Looks so far.
    now: u64,
    /// Everything waits until then.
    all: Option<(Reply, u64)>,
    /// How long the last `Busy` made it wait.
    busy: u64,
    /// One move waits until then: at most as many as there are pairs of classes.
    moves: BTreeMap<Move, (Reply, u64)>,
}

impl Patience {
    /// A look begins.
    pub fn tick(&mut self) {
        self.now += 1;
        let now = self.now;
        self.all = self.all.filter(|(_, until)| *until > now);
        self.moves.retain(|_, (_, until)| *until > now);
    }

    pub fn held(&self, due: Move) -> Option<Held> {
        let (reply, until) = self.all.or_else(|| self.moves.get(&due).copied())?;
        Some(Held { reply, looks: until - self.now })
    }

    /// A move of which the server will not hear waits until the looks that led to it are forgotten.
    pub fn heard(&mut self, due: Move, reply: Reply, window: usize) {
        match reply {
            Reply::Ok => self.busy = 0,
            Reply::Busy => {
                self.busy = (self.busy * 2).clamp(2, BUSY_MOST);
                self.all = Some((reply, self.now + self.busy));
            }
            Reply::BadClass | Reply::NoSpare | Reply::NotFull | Reply::Unsafe | Reply::Same => {
                self.moves.insert(due, (reply, self.now + (window as u64).max(2)));
            }
            Reply::Error | Reply::ClientError | Reply::ServerError => self.all = Some((reply, self.now + UNABLE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{ClassId, Place};

    const GIVE: Move = Move { from: Place::Class(ClassId(1)), to: Place::Pool };
    const FEED: Move = Move { from: Place::Pool, to: Place::Class(ClassId(2)) };

    /// Looks at which a move is asked for when the server always answers the same.
    fn asked(reply: Reply, looks: u64) -> Vec<u64> {
        let mut patience = Patience::default();
        let mut at = Vec::new();
        for look in 0..looks {
            patience.tick();
            if patience.held(GIVE).is_none() {
                at.push(look);
                patience.heard(GIVE, reply, 5);
            }
        }
        at
    }

    #[test]
    fn a_busy_server_is_asked_less_and_less() {
        assert_eq!(asked(Reply::Busy, 130), [0, 2, 6, 14, 30, 62, 94, 126]);
        assert_eq!(asked(Reply::Ok, 4), [0, 1, 2, 3]);
    }

    #[test]
    fn what_it_refuses_is_not_asked_again_at_once() {
        for reply in [Reply::NoSpare, Reply::BadClass, Reply::Same, Reply::NotFull, Reply::Unsafe] {
            assert_eq!(asked(reply, 12), [0, 5, 10], "{reply:?}");
            let mut patience = Patience::default();
            patience.heard(GIVE, reply, 5);
            assert_eq!((patience.held(GIVE), patience.held(FEED)), (Some(Held { reply, looks: 5 }), None));
        }
        for reply in [Reply::ClientError, Reply::Error, Reply::ServerError] {
            assert_eq!(asked(reply, 301), [0, 300], "{reply:?}");
        }
    }

    #[test]
    fn a_move_that_went_well_ends_the_waiting() {
        let mut patience = Patience::default();
        for (reply, looks) in [(Reply::Busy, 2), (Reply::Busy, 4), (Reply::Ok, 0), (Reply::Busy, 2)] {
            patience.heard(FEED, reply, 5);
            assert_eq!(patience.held(GIVE).map_or(0, |held| held.looks), looks);
            (0..looks).for_each(|_| patience.tick());
        }
    }
}
