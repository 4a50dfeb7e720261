//! What paired runs show: the mean of their ratios, and how far it can be trusted.

/// Mean and 95 % confidence interval (Student).
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    pub low: f64,
    pub mean: f64,
    pub high: f64,
}

/// 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
const T: [f64; 20] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
    2.093, 2.086,
];

impl Interval {
    /// None for fewer than two runs.
    #[must_use]
    pub fn of(runs: &[f64]) -> Option<Self> {
        Self::of_parts(&[runs])
    }

    /// Of runs in equal parts that differ by something else than what is measured, which the mean over all parts cancels: by how
    /// runs vary within their part. None unless there are more runs than parts.
    #[must_use]
    pub fn of_parts(parts: &[&[f64]]) -> Option<Self> {
        let n = parts.iter().map(|part| part.len()).sum::<usize>();
        let freedom = n.checked_sub(parts.len())?;
        // With more than 20 the last is taken: a little too wide.
        let t = T[freedom.checked_sub(1)?.min(T.len() - 1)];
        let sum = |part: &[f64]| part.iter().sum::<f64>();
        let mean = parts.iter().map(|part| sum(part)).sum::<f64>() / n as f64;
        let off = |part: &[f64]| part.iter().map(|run| (run - sum(part) / part.len() as f64).powi(2)).sum::<f64>();
        let variance = parts.iter().map(|part| off(part)).sum::<f64>() / freedom as f64;
        let half = t * (variance / n as f64).sqrt();
        Some(Self { low: mean - half, mean, high: mean + half })
    }
}

/// Pair by pair: with / without.
#[must_use]
pub fn ratios(with: &[f64], without: &[f64]) -> Vec<f64> {
    with.iter().zip(without).map(|(with, without)| with / without).collect()
}

#[cfg(test)]
mod tests {
    use super::Interval;

    #[test]
    fn an_interval_of_four_runs() {
        let Interval { low, mean, high } = Interval::of(&[1.0, 2.0, 3.0, 4.0]).expect("four runs");
        // s = 1.291, s / 2 = 0.6455, t(3) = 3.182.
        assert!((mean - 2.5).abs() < 1e-9 && (high - mean - 2.054).abs() < 1e-3 && (mean - low - 2.054).abs() < 1e-3);
        assert!(Interval::of(&[1.0]).is_none());
        // The parts' own means, 1 and 3, are no spread: s = 0.1414 with 2 degrees of freedom, of 4 runs.
        let Interval { low, mean, high } = Interval::of_parts(&[&[0.9, 1.1], &[2.9, 3.1]]).expect("two parts of two runs");
        assert!((mean - 2.0).abs() < 1e-9 && (high - mean - 0.3042).abs() < 1e-3 && (mean - low - 0.3042).abs() < 1e-3);
    }
}
