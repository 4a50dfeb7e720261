//! What is asked for: populations of keys, phases that mix them, and one stream of requests for each workload.

use memtier_tests::zipf::Zipf;

/// Requests per second to each server. Movers work by the clock, so a request must have its time.
pub const RATE: u64 = 20_000;
/// Flash is read by one thread of a server, one item after another.
const FLASH_RATE: u64 = 8_000;

/// How the next key of a population is chosen.
#[derive(Clone, Copy, Debug)]
pub enum Law {
    /// By Zipf 0.99 over so many.
    Zipf(u64),
    /// Evenly over so many.
    Uniform(u64),
    /// Each once: no cache can have it.
    Once,
    /// Evenly over the `live` newest; every so many requests begin a new one.
    Sessions { live: u64, new_each: u64 },
}

/// Keys of one kind. The size of a key's value is its own, whoever asks.
#[derive(Clone, Copy, Debug)]
pub struct Population {
    pub law: Law,
    /// Bytes of values: ranges that are as frequent as each other, evenly within.
    pub bytes: &'static [(u64, u64)],
    /// Seconds that a value is good for; 0: for ever.
    pub ttl: u32,
}

/// So long, requests to each population, in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    pub seconds: u64,
    pub mix: &'static [(u64, usize)],
}

#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    pub what: &'static str,
    pub seed: u64,
    pub rate: u64,
    /// On a server with extstore.
    pub flash: bool,
    /// One of those whose shift is judged by misses.
    pub shifting: bool,
    pub populations: &'static [Population],
    /// Of the first phase, as fast as they are answered, so that memory is full.
    pub fill: u64,
    /// The first one is what was before; figures are of the others.
    pub phases: &'static [Phase],
}

const SMALL: &[(u64, u64)] = &[(80, 160), (160, 400)];
const LARGE: &[(u64, u64)] = &[(1000, 1800), (1800, 3000)];
const BEFORE_S: u64 = 35;

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "sizes",
        what: "items of 80 to 400 bytes give way to such of 1 to 3 kB: 95 % of requests, then 10 %",
        seed: 1,
        rate: RATE,
        flash: false,
        shifting: true,
        populations: &[
            Population { law: Law::Zipf(400_000), bytes: SMALL, ttl: 0 },
            Population { law: Law::Zipf(60_000), bytes: LARGE, ttl: 0 },
        ],
        fill: 600_000,
        phases: &[Phase { seconds: BEFORE_S, mix: &[(950, 0), (50, 1)] }, Phase { seconds: 90, mix: &[(100, 0), (900, 1)] }],
    },
    Workload {
        name: "scan",
        what: "half small items, half large ones; for 20 s 40 % of requests are for items of 1 to 8 kB that are asked for once",
        seed: 2,
        rate: RATE,
        flash: false,
        shifting: true,
        populations: &[
            Population { law: Law::Zipf(400_000), bytes: SMALL, ttl: 0 },
            Population { law: Law::Zipf(60_000), bytes: LARGE, ttl: 0 },
            Population { law: Law::Once, bytes: &[(1000, 3000), (3000, 8000)], ttl: 0 },
        ],
        fill: 600_000,
        phases: &[
            Phase { seconds: BEFORE_S, mix: &[(500, 0), (500, 1)] },
            Phase { seconds: 20, mix: &[(300, 0), (300, 1), (400, 2)] },
            Phase { seconds: 60, mix: &[(500, 0), (500, 1)] },
        ],
    },
    Workload {
        name: "ttl",
        what: "half of requests are for sessions of 500 to 900 bytes: first 45,000 that last a minute, then new ones all the time \
               that are good for 3 s",
        seed: 3,
        rate: RATE,
        flash: false,
        shifting: true,
        populations: &[
            Population { law: Law::Zipf(400_000), bytes: SMALL, ttl: 0 },
            Population { law: Law::Sessions { live: 45_000, new_each: 50 }, bytes: &[(500, 900)], ttl: 60 },
            Population { law: Law::Sessions { live: 2_000, new_each: 3 }, bytes: &[(500, 900)], ttl: 3 },
        ],
        fill: 400_000,
        phases: &[Phase { seconds: BEFORE_S, mix: &[(500, 0), (500, 1)] }, Phase { seconds: 90, mix: &[(500, 0), (500, 2)] }],
    },
    Workload {
        name: "zipf",
        what: "one mix of 80 bytes to 8 kB, Zipf, nothing changes",
        seed: 4,
        rate: RATE,
        flash: false,
        shifting: false,
        populations: &[Population {
            law: Law::Zipf(250_000),
            bytes: &[(80, 160), (160, 400), (400, 1000), (1000, 3000), (3000, 8000)],
            ttl: 0,
        }],
        fill: 400_000,
        phases: &[Phase { seconds: BEFORE_S, mix: &[(1000, 0)] }, Phase { seconds: 45, mix: &[(1000, 0)] }],
    },
    Workload {
        name: "uniform",
        what: "60,000 keys of 200 bytes to 5 kB, each as likely as the others, nothing changes",
        seed: 5,
        rate: RATE,
        flash: false,
        shifting: false,
        populations: &[Population {
            law: Law::Uniform(60_000),
            bytes: &[(200, 250), (600, 800), (1500, 2000), (4000, 5000)],
            ttl: 0,
        }],
        fill: 300_000,
        phases: &[Phase { seconds: BEFORE_S, mix: &[(1000, 0)] }, Phase { seconds: 45, mix: &[(1000, 0)] }],
    },
    Workload {
        name: "flash-sizes",
        what: "with extstore: items of 80 to 400 bytes give way to such of 1 to 3 kB: 80 % of requests, then 20 %",
        seed: 6,
        rate: FLASH_RATE,
        flash: true,
        shifting: false,
        populations: &[
            Population { law: Law::Zipf(400_000), bytes: SMALL, ttl: 0 },
            Population { law: Law::Zipf(80_000), bytes: LARGE, ttl: 0 },
        ],
        fill: 500_000,
        phases: &[Phase { seconds: BEFORE_S, mix: &[(800, 0), (200, 1)] }, Phase { seconds: 75, mix: &[(200, 0), (800, 1)] }],
    },
    Workload {
        name: "flash-zipf",
        what: "with extstore: one mix of 80 bytes to 8 kB, Zipf, nothing changes",
        seed: 7,
        rate: FLASH_RATE,
        flash: true,
        shifting: false,
        populations: &[Population {
            law: Law::Zipf(150_000),
            bytes: &[(80, 160), (160, 400), (400, 1000), (1000, 3000), (3000, 8000)],
            ttl: 0,
        }],
        fill: 400_000,
        phases: &[Phase { seconds: BEFORE_S, mix: &[(1000, 0)] }, Phase { seconds: 45, mix: &[(1000, 0)] }],
    },
];

/// One request: a get, and a set of so many bytes if it misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub key: u64,
    pub bytes: usize,
    pub ttl: u32,
    /// It was never asked for, and never will be again: misses in every cache.
    pub once: bool,
}

/// splitmix64.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    const fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Where a population stands.
struct Source {
    population: Population,
    zipf: Option<Zipf>,
    asked: u64,
}

/// The requests of a workload, always the same ones.
pub struct Stream {
    random: Random,
    sources: Vec<Source>,
}

impl Stream {
    pub fn new(workload: &Workload) -> Self {
        let source = |population: &Population| {
            let zipf = match population.law {
                Law::Zipf(keys) => Some(Zipf::new(keys)),
                Law::Uniform(_) | Law::Once | Law::Sessions { .. } => None,
            };
            Source { population: *population, zipf, asked: 0 }
        };
        Self { random: Random(workload.seed << 32), sources: workload.populations.iter().map(source).collect() }
    }

    pub fn next(&mut self, phase: &Phase) -> Request {
        let mut at = self.random.below(phase.mix.iter().map(|(share, _)| share).sum());
        let mut mix = phase.mix.iter();
        let number = loop {
            match mix.next() {
                Some((share, _)) if at >= *share => at -= share,
                Some((_, number)) => break *number,
                None => break 0,
            }
        };
        let (random, source) = (&mut self.random, &mut self.sources[number]);
        source.asked += 1;
        let id = match (source.population.law, &source.zipf) {
            (Law::Zipf(_), Some(zipf)) => zipf.draw(|| random.unit()),
            (Law::Zipf(keys) | Law::Uniform(keys), _) => random.below(keys),
            (Law::Once, _) => source.asked,
            (Law::Sessions { live, new_each }, _) => live + source.asked / new_each - random.below(live),
        };
        let key = (number as u64) << 40 | id;
        // The same for a key whenever it is asked for.
        let mut own = Random(key);
        let ranges = source.population.bytes;
        let (low, high) = ranges[own.below(ranges.len() as u64) as usize];
        let bytes = (low + own.below(high - low)) as usize;
        Request { key, bytes, ttl: source.population.ttl, once: matches!(source.population.law, Law::Once) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn a_workload_is_always_the_same() {
        for workload in WORKLOADS {
            let (mut one, mut other) = (Stream::new(workload), Stream::new(workload));
            let mut bytes = HashMap::new();
            for _ in 0..20_000 {
                let request = one.next(&workload.phases[0]);
                assert_eq!(request, other.next(&workload.phases[0]));
                assert_eq!(*bytes.entry(request.key).or_insert(request.bytes), request.bytes);
            }
            for phase in workload.phases {
                assert_eq!(phase.mix.iter().map(|(share, _)| share).sum::<u64>(), 1000, "{}", workload.name);
            }
        }
    }

    #[test]
    fn what_a_scan_asks_for_it_asks_once() {
        let scan = WORKLOADS.iter().find(|w| w.name == "scan").expect("there is one");
        let (mut stream, mut seen) = (Stream::new(scan), HashSet::new());
        let scanned: Vec<Request> = (0..10_000).map(|_| stream.next(&scan.phases[1])).filter(|r| r.once).collect();
        assert!((3_700..4_300).contains(&scanned.len()), "{}", scanned.len());
        assert!(scanned.iter().all(|r| seen.insert(r.key)));
    }

    #[test]
    fn sessions_end() {
        let ttl = WORKLOADS.iter().find(|w| w.name == "ttl").expect("there is one");
        let mut stream = Stream::new(ttl);
        let mut ids =
            |n: u64| (0..n).map(|_| stream.next(&ttl.phases[1])).filter(|r| r.ttl == 3).map(|r| r.key).collect::<Vec<_>>();
        let (early, late) = (ids(1_000), ids(40_000));
        let newest = early.iter().max().expect("some");
        // 20,000 requests for sessions later, all of the early ones are over.
        assert!(late[late.len() - 500..].iter().all(|key| key > newest));
    }
}
