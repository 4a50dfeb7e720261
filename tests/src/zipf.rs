//! Exact Zipfian ranks for any number of items in constant time: rejection-inversion (Hörmann and Derflinger, 1996).

/// Exponent that YCSB draws by.
const EXPONENT: f64 = 0.99;

/// Draws ranks from 0 with probability proportional to `1 / (rank + 1)^0.99`.
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    items: f64,
    /// The integral's values that are drawn from: first item, last item.
    first: f64,
    last: f64,
    /// Nearer to an item than this needs no second look.
    near: f64,
}

impl Zipf {
    #[must_use]
    pub fn new(items: u64) -> Self {
        let items = items as f64;
        let near = 2.0 - inverse(integral(2.5) - 2.0_f64.powf(-EXPONENT));
        Self { items, first: integral(1.5) - 1.0, last: integral(items + 0.5), near }
    }

    /// Probability of a rank, but for a factor.
    #[must_use]
    pub fn weight(rank: u64) -> f64 {
        (rank as f64 + 1.0).powf(-EXPONENT)
    }

    /// `unit`: numbers from 0 to 1, evenly.
    pub fn draw(&self, mut unit: impl FnMut() -> f64) -> u64 {
        loop {
            let under = self.last + unit() * (self.first - self.last);
            let x = inverse(under);
            let item = x.round().clamp(1.0, self.items);
            if item - x <= self.near || under >= integral(item + 0.5) - item.powf(-EXPONENT) {
                return item as u64 - 1;
            }
        }
    }
}

/// Integral of `x^-0.99` up to a constant.
fn integral(x: f64) -> f64 {
    const REST: f64 = 1.0 - EXPONENT;
    (REST * x.ln()).exp_m1() / REST
}

fn inverse(y: f64) -> f64 {
    const REST: f64 = 1.0 - EXPONENT;
    ((y * REST).ln_1p() / REST).exp()
}

#[cfg(test)]
mod tests {
    use super::Zipf;

    #[test]
    fn ranks_come_as_often_as_they_should() {
        const ITEMS: u64 = 50;
        const DRAWS: u64 = 400_000;
        let (zipf, mut x) = (Zipf::new(ITEMS), 7_u64);
        let mut seen = [0_u64; ITEMS as usize];
        for _ in 0..DRAWS {
            let rank = zipf.draw(|| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (x >> 11) as f64 / (1_u64 << 53) as f64
            });
            seen[rank as usize] += 1;
        }
        let total: f64 = (0..ITEMS).map(Zipf::weight).sum();
        for (rank, &seen) in (0..).zip(&seen) {
            let expected = Zipf::weight(rank) / total * DRAWS as f64;
            assert!((seen as f64 - expected).abs() < 6.0 * expected.sqrt(), "rank {rank}: {seen} instead of {expected}");
        }
    }
}
