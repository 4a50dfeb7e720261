//! How much goes over the link between a fast node and a slow one: the arithmetic of tier, on numbers alone. It is that of
//! etmem's cslide between the nodes of a pair, without its prefetch: what is not hot is not brought because there is room.
//!
//! Hot memory comes first. It takes what is free; what is wanted beyond is exchanged for cold memory, which costs the link
//! twice. Then cold memory goes until the reserve is free again.

use crate::vocab::Bytes;

/// Both ends of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Of the fast node: free, and cold memory that may go.
    pub free: Bytes,
    pub cold: Bytes,
    /// Free on the slow node.
    pub slow_free: Bytes,
    /// What the link may carry.
    pub quota: Bytes,
    /// To be kept free on the fast node.
    pub reserve: Bytes,
}

/// What goes over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    pub promote: Bytes,
    pub demote: Bytes,
}

impl Ends {
    /// The most that can be promoted.
    #[must_use]
    pub const fn promotion_cap(&self) -> Bytes {
        let Self { free: Bytes(free), cold: Bytes(cold), slow_free: Bytes(slow_free), quota: Bytes(quota), reserve: _ } = *self;
        if quota < free {
            return Bytes(least(quota, cold.saturating_add(free)));
        }
        let exchanged = least(free.saturating_add((quota - free) / 2), free.saturating_add(slow_free));
        Bytes(least(exchanged, cold.saturating_add(free)))
    }

    /// What is left once so much was promoted; and what must be demoted for it.
    #[must_use]
    pub const fn promoted(self, moved: Bytes) -> (Self, Bytes) {
        let Self { free: Bytes(free), cold: _, slow_free: Bytes(slow_free), quota: Bytes(quota), reserve: _ } = self;
        let replaced = moved.0.saturating_sub(free);
        let used = if replaced > 0 { free.saturating_add(2 * replaced) } else { moved.0 };
        let left = Self {
            free: Bytes(free.saturating_sub(moved.0)),
            // What is exchanged leaves as much there as it takes.
            slow_free: Bytes(slow_free.saturating_add(least(moved.0, free))),
            quota: Bytes(quota.saturating_sub(used)),
            ..self
        };
        (left, Bytes(replaced))
    }

    /// The most that is demoted besides, for the reserve.
    #[must_use]
    pub const fn reserve_lacks(&self) -> Bytes {
        let Self { free, cold: _, slow_free, quota, reserve } = *self;
        Bytes(least(least(quota.0, reserve.saturating_sub(free).0), slow_free.0))
    }

    /// With so much hot memory waiting on the slow node.
    #[must_use]
    pub const fn flow(self, hot: Bytes) -> Flow {
        let promote = Bytes(least(hot.0, self.promotion_cap().0));
        let (left, replaced) = self.promoted(promote);
        Flow { promote, demote: Bytes(least(replaced.saturating_add(left.reserve_lacks()).0, self.cold.0)) }
    }
}

const fn least(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In MiB: free, cold, free on the slow node, quota, reserve; and the promotion cap.
    #[test]
    fn promotion_takes_what_is_free_and_exchanges_the_rest() {
        let table = [
            // The quota is less than what is free.
            ([100, 0, 0, 60, 0], 60),
            ([100, 500, 500, 60, 0], 60),
            // Beyond what is free each byte costs two.
            ([100, 500, 500, 300, 0], 200),
            ([0, 500, 500, 300, 0], 150),
            // No more than the other end takes in exchange ...
            ([100, 500, 30, 300, 0], 130),
            // ... and than there is cold memory to go.
            ([100, 20, 500, 300, 0], 120),
            ([0, 0, 500, 300, 0], 0),
            ([0, 500, 500, 0, 0], 0),
            // The reserve is no reason to let hot memory wait.
            ([100, 0, 0, 100, 500], 100),
        ];
        for (ends, cap) in table {
            assert_eq!(of(ends).promotion_cap(), Bytes::from_mib(cap), "{ends:?}");
        }
    }

    #[test]
    fn what_goes_over_a_link() {
        let table = [
            // (ends, hot waiting) -> (promoted, demoted)
            (([100, 500, 500, 1000, 0], 40), (40, 0)),
            (([100, 500, 500, 1000, 0], 140), (140, 40)),
            (([0, 500, 500, 1000, 0], 140), (140, 140)),
            // The reserve is made up for by cold memory, within what is left of the quota and the room.
            (([100, 500, 500, 1000, 70], 40), (40, 10)),
            (([0, 500, 500, 1000, 70], 140), (140, 210)),
            (([0, 500, 500, 300, 70], 140), (140, 160)),
            (([50, 500, 20, 1000, 70], 0), (0, 20)),
            (([50, 10, 500, 1000, 70], 0), (0, 10)),
            (([50, 500, 500, 5, 70], 0), (0, 5)),
            // Nothing hot, and free enough: nothing moves, however much is cold.
            (([100, 500, 500, 1000, 70], 0), (0, 0)),
            (([100, 500, 500, 0, 70], 90), (0, 0)),
            // A slow node that is full is exchanged with as far as promoting frees it.
            (([30, 500, 0, 1000, 0], 100), (30, 0)),
        ];
        for ((ends, hot), (promote, demote)) in table {
            let flow = Flow { promote: Bytes::from_mib(promote), demote: Bytes::from_mib(demote) };
            assert_eq!(of(ends).flow(Bytes::from_mib(hot)), flow, "{ends:?}, {hot} hot");
        }
    }

    #[test]
    fn what_is_left_after_a_promotion() {
        // cslide's books: F -= M, Q -= M, CF += M; beyond F: K = M - F, Q -= F + 2K, CF += F, F = 0.
        let (left, replaced) = of([100, 500, 200, 1000, 70]).promoted(Bytes::from_mib(40));
        assert_eq!((left, replaced), (of([60, 500, 240, 960, 70]), Bytes::ZERO));
        let (left, replaced) = of([100, 500, 200, 1000, 70]).promoted(Bytes::from_mib(250));
        assert_eq!((left, replaced), (of([0, 500, 300, 600, 70]), Bytes::from_mib(150)));
    }

    fn of([free, cold, slow_free, quota, reserve]: [u64; 5]) -> Ends {
        let [free, cold, slow_free, quota, reserve] = [free, cold, slow_free, quota, reserve].map(Bytes::from_mib);
        Ends { free, cold, slow_free, quota, reserve }
    }
}
