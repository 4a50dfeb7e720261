//! Randomness of the simulated world: one seed, an own stream for every purpose and item, so that one item more
//! leaves all others as they were.

/// What a stream is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Access = 1,
    Churn,
    Step,
    Lost,
    Blind,
    Cache,
}

/// splitmix64 (Steele, Lea, Flood, OOPSLA'14).
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) const fn of(seed: u64, purpose: Purpose, item: u64) -> Self {
        Self(mix(mix(seed ^ mix(purpose as u64)) ^ item))
    }
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
    /// Even over 0..n; 0 for n = 0.
    pub(super) const fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }
    pub(super) const fn chance(&mut self, permil: u64) -> bool {
        self.below(1000) < permil
    }
}

const fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
