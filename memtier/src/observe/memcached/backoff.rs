//! How long to leave a server alone that cannot be talked to.

use std::time::Duration;

/// Twice as long after each failure, up to a bound.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    last: Option<Duration>,
}

impl Backoff {
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, last: None }
    }

    /// Once more it did not work: how long to wait now.
    pub fn failed(&mut self) -> Duration {
        let next = self.last.map_or(self.first, |last| last.saturating_mul(2)).min(self.most);
        self.last = Some(next);
        next
    }

    /// Only what came of a connection shows that it works: one that is closed at once does not.
    pub const fn worked(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_a_bound() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits = [0; 4].map(|_| backoff.failed().as_secs());
        assert_eq!(waits, [1, 2, 4, 5]);
        backoff.worked();
        assert_eq!(backoff.failed(), Duration::from_secs(1));
    }
}
