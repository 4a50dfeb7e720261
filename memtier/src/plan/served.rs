//! What was done to one memcached server, and what came of it.

use super::ledger::WINDOW;
use crate::vocab::{Action, ClassId, End, Guard, Outcome, Pages, Place, ProcKey, ServerLife, Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// First pause after a step that did nothing; doubles each time, 9 times at most.
const BACKOFF: Span = Span::from_millis(500);
const MAX_DOUBLINGS: u32 = 9;
/// Pages of which a class is told how many it got and gave.
const MAX_TOLD: usize = 64;

/// Pages that a class, or the pool, got from us and gave to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub got: u64,
    pub gave: u64,
    got_at: Option<Time>,
    gave_at: Option<Time>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The life of the server that all of this is about.
    life: Option<ServerLife>,
    /// When pages were asked for, and whose, within the window.
    asked: VecDeque<(Time, Place)>,
    /// Its process when that was last told.
    pub proc: ProcKey,
    /// End of the last step.
    pub at: Time,
    /// That step was advice only: the same would be said again at once.
    pub unchanged: bool,
    /// Steps in a row that did nothing, and why the last one did.
    pub fruitless: u32,
    pub why: String,
    /// End of the last step about a page, advice too.
    #[serde(default)]
    pub paged_at: Option<Time>,
    /// End of the last step that moved a page, or set one off that did not come in time; and how many moved so far.
    pub moved_at: Option<Time>,
    pub moved: u64,
    told: Vec<(Place, Told)>,
    /// Free chunks that classes were told to keep, and when the last was.
    #[serde(default)]
    kept_free: BTreeMap<ClassId, u64>,
    #[serde(default)]
    pub freed_at: Option<Time>,
}

impl Served {
    /// Pages asked for in the window that ends at the last turn.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.len() as u64
    }

    /// While this lies ahead, trying again is known to be futile.
    #[must_use]
    pub fn futile_until(&self) -> Option<Time> {
        let doublings = self.fruitless.checked_sub(1)?.min(MAX_DOUBLINGS);
        Some(self.at.after(Span(BACKOFF.0 << doublings)))
    }

    #[must_use]
    pub fn told(&self, place: Place) -> Told {
        self.told.iter().find(|(known, _)| *known == place).map(|(_, told)| *told).unwrap_or_default()
    }
    /// When it got its last page from us.
    #[must_use]
    pub fn got_at(&self, place: Place) -> Option<Time> {
        self.told(place).got_at
    }
    /// When it gave its last page to us.
    #[must_use]
    pub fn gave_at(&self, place: Place) -> Option<Time> {
        self.told(place).gave_at
    }
    /// Pages asked of it since then, within the window.
    #[must_use]
    pub fn gave_since(&self, place: Place, from: Time) -> u64 {
        self.asked.iter().filter(|(at, of)| *of == place && *at > from).count() as u64
    }

    /// Free chunks that this class was told to keep.
    #[must_use]
    pub fn kept_free(&self, class: ClassId) -> Option<u64> {
        self.kept_free.get(&class).copied()
    }

    /// What it was told to keep free was put back.
    pub(super) fn put_back(&mut self) {
        self.kept_free.clear();
        self.freed_at = None;
    }

    pub(super) fn roll(&mut self, now: Time) {
        while self.asked.pop_front_if(|at| now.since(at.0) >= WINDOW).is_some() {}
    }

    /// What was done to another server, or to this one in an earlier life, says nothing.
    pub(super) fn met(&mut self, life: Option<ServerLife>) {
        if self.life != life {
            *self = Self { life, ..Self::default() };
        }
    }

    pub(super) fn begun(&mut self, now: Time, proc: ProcKey, page_of: Option<Place>) {
        self.proc = proc;
        self.asked.extend(page_of.map(|place| (now, place)));
    }

    pub(super) fn settled(&mut self, action: &Action, outcome: &Outcome) {
        self.at = outcome.ended;
        self.unchanged = outcome.end == End::Skipped(Guard::DryRun);
        match &outcome.end {
            End::Done => (self.fruitless, self.why) = (0, String::new()),
            End::Skipped(Guard::DryRun) => {}
            End::Partial(_) | End::Failed(_) | End::Skipped(_) | End::Expired => {
                (self.fruitless, self.why) = (self.fruitless.saturating_add(1), outcome.end.to_string());
            }
        }
        // A server that refused it would do so next time.
        if let (Action::SetFree { chunks, .. }, End::Done | End::Partial(_)) = (action, &outcome.end) {
            self.kept_free.extend(chunks.iter().copied());
            self.freed_at = Some(outcome.ended);
        }
        let Action::MoveSlabPage { from, to, .. } = action else { return };
        self.paged_at = Some(outcome.ended);
        if matches!(outcome.end, End::Done | End::Partial(_)) {
            self.moved_at = Some(outcome.ended);
        }
        if outcome.done.pages > Pages::ZERO {
            self.moved = self.moved.saturating_add(outcome.done.pages.0);
            let at = outcome.ended;
            self.tell(*from, |told| (told.gave, told.gave_at) = (told.gave.saturating_add(1), Some(at)));
            self.tell(*to, |told| (told.got, told.got_at) = (told.got.saturating_add(1), Some(at)));
        }
    }

    fn tell(&mut self, place: Place, change: impl FnOnce(&mut Told)) {
        let known = self.told.iter().position(|(known, _)| *known == place);
        let room = self.told.len() < MAX_TOLD;
        let at = known.or_else(|| {
            room.then(|| {
                self.told.push((place, Told::default()));
                self.told.len() - 1
            })
        });
        if let Some(at) = at {
            change(&mut self.told[at].1);
        }
    }
}
