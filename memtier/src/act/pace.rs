//! How much one call may take: what a page costs is guessed at first (docs/hands.md), then learned from the calls.

use crate::vocab::{Bytes, Pages, Span};

/// Calls smaller than this say more about calling than about pages.
const TELLING: Pages = Pages(16);

/// What a page costs in a call, in ns of CPU time, how long a call may take, and how many pages it takes in any case.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    page_ns: u64,
    hold: Span,
    least: Pages,
}

impl Pace {
    pub const fn guess(page_ns: u64, hold: Span) -> Self {
        Self { page_ns, hold, least: TELLING }
    }

    pub const fn at_least(self, least: Pages) -> Self {
        Self { least, ..self }
    }

    pub const fn note(&mut self, pages: Pages, took: u64) {
        if pages.0 >= TELLING.0 {
            self.page_ns = (3 * self.page_ns + took / pages.0) / 4;
        }
    }

    /// Bytes that one call may take, `most` or less.
    pub fn room(self, most: Bytes) -> Bytes {
        most.min(Pages(self.hold.0 / self.page_ns.max(1)).max(self.least).bytes())
    }
}
