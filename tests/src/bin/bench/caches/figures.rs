//! What series of misses say: when a cache is steady again, and how two of them compare.

/// The miss ratio counts as steady when it is no more than this share, and these points, above the best arm's at the end.
const MARGIN_SHARE: f64 = 0.05;
const MARGIN_POINTS: f64 = 0.005;
/// Windows that are averaged, so that no single one decides.
const SMOOTH: usize = 5;

/// What came of some requests, one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub requests: u64,
    pub misses: u64,
    /// Gets that were answered from flash.
    pub flash: u64,
}

pub fn sum(windows: &[Window]) -> Window {
    windows.iter().fold(Window::default(), |all, one| Window {
        requests: all.requests + one.requests,
        misses: all.misses + one.misses,
        flash: all.flash + one.flash,
    })
}

impl Window {
    pub fn miss_ratio(&self) -> f64 {
        self.misses as f64 / self.requests.max(1) as f64
    }
    pub fn flash_ratio(&self) -> f64 {
        self.flash as f64 / self.requests.max(1) as f64
    }
}

/// The last fifth.
pub fn end(windows: &[Window]) -> Window {
    sum(&windows[windows.len() - (windows.len() / 5).max(1).min(windows.len())..])
}

/// Windows from the shift until the miss ratio, averaged, is within the margin of `best` for good; all of them, and false, if it
/// never is. At least one: nothing can be told sooner.
pub fn steady(windows: &[Window], best: f64) -> (usize, bool) {
    let bound = best * (1.0 + MARGIN_SHARE) + MARGIN_POINTS;
    match windows.windows(SMOOTH).rposition(|some| sum(some).miss_ratio() > bound) {
        None => (1, true),
        Some(at) if at + SMOOTH < windows.len() => (at + 1, true),
        Some(_) => (windows.len(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(percents: &[u64]) -> Vec<Window> {
        percents.iter().map(|p| Window { requests: 10_000, misses: p * 100, flash: 0 }).collect()
    }

    #[test]
    fn steady_is_when_it_stays_so() {
        let falling: Vec<u64> = [vec![60; 10], vec![20; 30]].concat();
        assert_eq!(end(&series(&falling)).miss_ratio(), 0.2);
        assert_eq!(steady(&series(&falling), 0.2), (10, true));
        assert_eq!(steady(&series(&[21; 40]), 0.2), (1, true));
        assert_eq!(steady(&series(&[22; 40]), 0.2), (40, false));
        // Steady at the shift, and not for good.
        let later = [vec![20; 10], vec![60; 10], vec![20; 20]].concat();
        assert_eq!(steady(&series(&later), 0.2), (20, true));
    }
}
