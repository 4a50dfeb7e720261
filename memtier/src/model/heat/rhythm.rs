//! When a block is asked again: S5 of the arming study, in integers.
//!
//! A block's period doubles each time its pages answer as expected, and shrinks when fewer do: only cooling is news, for
//! heating is seen in every walk at no cost. The process as a whole is watched for a change point, a hot set that moves;
//! then every block is due within two rounds.
//!
//! Rounds are walks in which the process had its usual CPU time. One that hardly ran touched little, and its hot pages
//! would look cold.
//!
//! Differences from the study: pages of which nothing is known are no part of any expectation; a process that grows is no
//! change point; blocks are first asked at the rate of a change point.

use crate::model::sched::Sched;
use crate::model::series::Series;
use crate::vocab::{BlockId, ProcKey, Span, Time};
use serde::{Deserialize, Serialize};

/// Newly accessed of all accessed pages that mean "the hot set moves", unless it always moves like that.
const HEATING_PERMIL: u64 = 50;
/// What a newly accessed share must exceed twice its usual value by.
const HEATING_OVER_PERMIL: u64 = 20;
/// Asked pages that went missing beyond the usual share.
const COOLING_OVER_PERMIL: u64 = 100;
/// Fewer judged pages than this say nothing about the process.
const JUDGED: u64 = 64;
/// Rounds from the first question until a change point can be told: the estimates have not settled.
const WARMUP: u32 = 16;
/// Rounds in which more may be asked, from the first question on and after a change point.
const BOOST: u32 = 4;
/// Rounds from one change point to the next.
const COOLDOWN: u32 = 6;
const SECOND: u128 = 1_000_000_000;
/// First rounds of which the bias is taken as it is.
const RAW: u32 = 3;

/// What one process is like as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rhythm {
    /// Rounds begun.
    pub round: u32,
    /// The walk under way is one.
    pub counted: bool,
    /// CPU time since the last round, and what would have been enough for another, in ns.
    pub ran: u64,
    pub enough: u64,
    /// Begin of the last round, and of the last walk.
    counted_at: Option<Time>,
    walked_at: Option<Time>,
    /// CPU time per second that the process has usually, in ns.
    usual_cpu: u64,
    sums: Sums,
    /// Rounds with a verdict on the expectations.
    verdicts: u32,
    /// Share of the expected pages that usually do not answer: they were chosen for having been hit.
    bias_permil: u64,
    /// Newly accessed share that is usual.
    heating_permil: u64,
    /// Round of the first question; that may be long after the first walk, while the host was short of memory.
    asked_from: Option<u32>,
    boosted_until: u32,
    /// Change points so far.
    pub changes: u32,
    /// Pages touched after we cleared their bit: each costs the process 0.2 to 0.4 us.
    touched: Series,
    /// Share of asked pages that are touched again, once known.
    pub retouched_permil: Option<u64>,
}

/// What the blocks said in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    newly: u64,
    retouched: u64,
    asked: u64,
    answered: u64,
    judged: Answer,
    blocks: u64,
    surprised: u64,
}

/// How a block answered the last question: pages with a known past, those of them that were accessed again, and the
/// number expected with its variance, both in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub pages: u64,
    pub survived: u64,
    pub expected: u64,
    pub variance: u64,
}

impl Answer {
    /// Fewer than expected by three standard deviations, and by a tenth of the pages.
    fn surprises(&self, bias_permil: u64) -> bool {
        let usual = self.expected * (1000 - bias_permil.min(1000)) / 1000;
        let missing = usual.saturating_sub(self.survived * 1000);
        let beyond = u128::from(missing.saturating_sub(1000));
        beyond * beyond > 9 * 1000 * u128::from(self.variance) && missing > self.pages * 100
    }
}

impl Rhythm {
    /// Pages of the process were asked.
    pub fn asked(&mut self) {
        if self.asked_from.is_none() {
            (self.asked_from, self.boosted_until) = (Some(self.round), self.round + BOOST);
        }
    }

    /// A walk begins. It is a round if the process had half of its usual CPU time since the last one.
    pub fn begin(&mut self, at: Time, proc: ProcKey, sched: &Sched) {
        self.counted = self.ran_enough(at, proc, sched);
        self.walked_at = Some(at);
        if self.counted {
            self.round += 1;
            self.counted_at = Some(at);
        }
    }

    /// What rounds lacked is made up for by later walks. Where the scheduler tells nothing every walk is a round.
    fn ran_enough(&mut self, at: Time, proc: ProcKey, sched: &Sched) -> bool {
        let (Some(counted), Some(walked)) = (self.counted_at, self.walked_at) else { return true };
        let Some(heard) = sched.heard(counted) else { return true };
        if heard <= walked {
            return true;
        }
        let narrow = |wide: u128| u64::try_from(wide).unwrap_or(u64::MAX);
        let usual = self.usual_cpu;
        let told = heard.since(counted);
        self.ran = sched.ran_since(proc, counted).0;
        self.enough = narrow(u128::from(usual) * u128::from(at.since(walked).min(told).0) / SECOND / 2);
        let per_second = narrow(u128::from(self.ran) * SECOND / u128::from(told.0.max(1)));
        self.usual_cpu = usual.saturating_mul(7).saturating_add(per_second) / 8;
        self.ran >= self.enough
    }

    /// A block gained pages that were known and had not been accessed since they were last asked.
    pub fn heated(&mut self, pages: u32) {
        self.sums.newly += u64::from(pages);
    }
    /// Pages were touched for which we had cleared the bit.
    pub fn retouched(&mut self, pages: u32) {
        self.sums.retouched += u64::from(pages);
    }
    /// `answered` of `asked` pages were accessed again.
    pub fn answered(&mut self, asked: u32, answered: u32) {
        self.sums.asked += u64::from(asked);
        self.sums.answered += u64::from(answered);
    }
    /// Takes the answer of a block; whether it is a surprise.
    pub fn judge(&mut self, answer: &Answer) -> bool {
        let Sums { judged, blocks, surprised, .. } = &mut self.sums;
        judged.pages += answer.pages;
        judged.survived += answer.survived;
        judged.expected += answer.expected;
        *blocks += 1;
        let surprise = answer.surprises(self.bias_permil);
        *surprised += u64::from(surprise);
        surprise
    }

    /// A walk ended that found `young` pages accessed since they were last asked; whether the hot set moves.
    pub fn end(&mut self, at: Time, young: u64) -> bool {
        let since = self.walked_at.map_or(Span::ZERO, |begun| at.since(begun));
        self.touched.add(at, since, std::mem::take(&mut self.sums.retouched));
        if !self.counted {
            return false;
        }
        let Sums { newly, retouched: _, asked, answered, judged, blocks, surprised } = std::mem::take(&mut self.sums);
        if let Some(share) = (answered * 1000).checked_div(asked) {
            self.retouched_permil = Some(self.retouched_permil.map_or(share, |usual| (4 * usual + share) / 5));
        }
        let (bias, usual) = (self.bias_permil, self.heating_permil);
        let heating = newly * 1000 / young.max(1);
        self.heating_permil = if self.round <= 2 { heating } else { (7 * usual + 3 * heating.min(500)) / 10 };
        let mut moves = heating > HEATING_PERMIL && heating > 2 * usual + HEATING_OVER_PERMIL;
        if judged.pages > JUDGED {
            let cooling = 1000u64.saturating_sub(judged.survived * 1_000_000 / judged.expected.max(1));
            moves |= cooling > bias + COOLING_OVER_PERMIL && surprised * 4 > blocks;
            self.verdicts += 1;
            let over = cooling.min(bias + COOLING_OVER_PERMIL);
            self.bias_permil = if self.verdicts <= RAW { cooling.min(900) } else { (4 * bias + over) / 5 };
        }
        let warm = self.asked_from.is_some_and(|first| self.round > first + WARMUP);
        let moved = moves && warm && self.round + BOOST >= self.boosted_until + COOLDOWN;
        if moved {
            self.boosted_until = self.round + BOOST;
            self.changes += 1;
        }
        moved
    }

    /// More may be asked than usual.
    pub const fn boosted(&self) -> bool {
        self.asked_from.is_none() || self.round < self.boosted_until
    }
    /// Pages touched since `from` after their bit was cleared by us.
    pub fn touched_since(&self, from: Time) -> u64 {
        self.touched.since(from)
    }
}

/// Rounds until a block of period `2^k` is asked again; a quarter either way from period 4 on, so that blocks asked
/// together do not stay in step.
pub(super) fn rest(k: u8, block: BlockId, round: u32) -> u32 {
    let period = 1u32 << k;
    if period <= 2 { period - 1 } else { period - period / 4 + scatter(block, round) % (period / 2) }
}

/// A number that looks random and is the same in every replay.
pub(super) fn scatter(block: BlockId, round: u32) -> u32 {
    let mut x = (block.0 as u32 ^ round << 16).wrapping_mul(0x9e37_79b9);
    x = (x ^ x >> 15).wrapping_mul(0x85eb_ca6b);
    x ^ x >> 13
}
