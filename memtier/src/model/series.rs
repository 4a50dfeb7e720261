//! A growing total over time, in constant space: fine near its end, ever coarser further back.

use crate::vocab::{Span, Time};
use serde::{Deserialize, Serialize};

pub const MINUTE: Span = Span::from_secs(60);

/// Points of a total that only grows. However few, they reach back over any time, as fine as their age allows: a time ago
/// is known to about a quarter of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series<const POINTS: usize = 32> {
    points: Vec<(Time, u64)>,
}

impl<const POINTS: usize> Series<POINTS> {
    /// The total as it stands at `at`. One that fell (reset, other boot) starts the series anew.
    pub fn set(&mut self, at: Time, total: u64) {
        match self.points.last_mut() {
            Some((_, last)) if *last > total => self.points.clear(),
            Some((when, last)) if *when >= at => {
                *last = total;
                return;
            }
            Some(_) | None => {}
        }
        if self.points.len() == POINTS {
            self.thin(at);
        }
        self.points.push((at, total));
    }

    /// Drops the point between whose neighbours there is least time, measured by how long ago that was.
    fn thin(&mut self, now: Time) {
        let gap = |i: usize| u128::from(self.points[i + 1].0.since(self.points[i - 1].0).0);
        let age = |i: usize| u128::from(now.since(self.points[i].0).0);
        let inner = 1..self.points.len().saturating_sub(1);
        if let Some(least) = inner.min_by(|&a, &b| (gap(a) * age(b)).cmp(&(gap(b) * age(a)))) {
            self.points.remove(least);
        }
    }

    /// Growth by `delta` in the `period` that ends at `at`; before it there was none since the last point.
    pub fn add(&mut self, at: Time, period: Span, delta: u64) {
        let from = Time(at.0.saturating_sub(period.0));
        if self.points.last().is_none_or(|(last, _)| *last < from) {
            self.set(from, self.total());
        }
        self.set(at, self.total().saturating_add(delta));
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.points.last().map_or(0, |p| p.1)
    }

    /// Drops what is not needed to tell of the time since `from`.
    pub fn forget(&mut self, from: Time) {
        let known = self.points.partition_point(|p| p.0 <= from);
        self.points.drain(..known.saturating_sub(1));
    }

    /// Since when it is known.
    #[must_use]
    pub fn first(&self) -> Option<Time> {
        self.points.first().map(|p| p.0)
    }

    /// Growth since `from`, interpolated between the points around it; what lies before the first point is unknown.
    #[must_use]
    pub fn since(&self, from: Time) -> u64 {
        let after = self.points.partition_point(|p| p.0 <= from);
        let at_from = match (after.checked_sub(1).map(|i| self.points[i]), self.points.get(after)) {
            (Some((t0, v0)), Some(&(t1, v1))) => {
                let part = u128::from(v1 - v0) * u128::from(from.0 - t0.0) / u128::from(t1.0 - t0.0);
                v0 + part as u64
            }
            (Some((_, v)), None) | (None, Some(&(_, v))) => v,
            (None, None) => 0,
        };
        self.total() - at_from
    }

    /// Growth per minute over the last `window`, or over what is known of it, a second at least.
    #[must_use]
    pub fn per_min(&self, now: Time, window: Span) -> u64 {
        let Some(&(first, _)) = self.points.first() else { return 0 };
        let from = Time(now.0.saturating_sub(window.0)).max(first);
        let over = now.since(from).max(Span::from_secs(1));
        per_min(self.since(from), over)
    }
}

/// `count` in `over`, per minute, rounded up: one event is never none.
#[must_use]
pub fn per_min(count: u64, over: Span) -> u64 {
    let wide = (u128::from(count) * u128::from(MINUTE.0)).div_ceil(u128::from(over.0.max(1)));
    u64::try_from(wide).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Time {
        Time(n * 1_000_000_000)
    }

    #[test]
    fn interpolates_thins_and_restarts() {
        let mut series: Series = Series::default();
        for t in 0..1000 {
            series.set(s(t), t * 10);
        }
        assert!(series.points.len() <= 32);
        for t in [0, 500, 980, 995, 999] {
            assert_eq!(series.since(s(t)), (999 - t) * 10, "since {t}");
        }
        assert_eq!(series.per_min(s(999), MINUTE), 600);
        series.set(s(1000), 5);
        assert_eq!((series.total(), series.since(s(0))), (5, 0));
    }

    #[test]
    fn a_burst_counts_until_it_is_over_the_window() {
        for every in [1, 2, 10] {
            let (mut series, mut t) = (Series::<32>::default(), 0);
            let mut until = |series: &mut Series, end: u64, more: u64| {
                while t < end {
                    t += every;
                    series.add(s(t), Span::from_secs(1), every * more);
                }
                series.since(s(t - 600))
            };
            until(&mut series, 10_000, 1);
            until(&mut series, 10_020, 150);
            for (later, least, most) in
                [(60, 3_500, 3_700), (300, 3_400, 3_700), (500, 2_500, 3_700), (1_000, 600, 1_300), (2_000, 590, 700)]
            {
                let told = until(&mut series, 10_020 + later, 1);
                assert!((least..=most).contains(&told), "{told} {later} s after a burst of 3,000, a point each {every} s");
            }
        }
    }

    #[test]
    fn the_first_delta_counts() {
        let mut series: Series = Series::default();
        series.add(s(10), Span::from_secs(1), 7);
        assert_eq!(series.since(s(0)), 7);
        assert_eq!(series.per_min(s(10), MINUTE), 420);
        assert_eq!(series.per_min(s(69), MINUTE), 7);
        series.add(s(60), Span::from_secs(1), 4);
        assert_eq!((series.since(s(10)), series.since(s(59)), series.since(s(60))), (4, 4, 0));
        assert_eq!(series.per_min(s(200), MINUTE), 0);
    }
}
