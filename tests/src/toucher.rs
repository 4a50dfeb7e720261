//! A child process that touches a known set of its pages all the time and notes for each page in which round it did so
//! (tests/src/bin/toucher.rs): the truth that a picture of heat is held against.

use crate::zipf::Zipf;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};

const PAGE: u64 = 4096;
/// Objects per page where pages are touched by Zipf: 1 KiB each, so that hot and cold ones share pages.
pub const OBJECTS: u64 = 4;

/// How often each page of the set is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// At random, and every fourth time the next one in order, so that none is forgotten.
    Uniform,
    /// Objects by a Zipfian of exponent 0.99.
    Zipf,
}

/// What is touched, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Pages of the region, a power of two; all are present from the start.
    pub pages: u64,
    /// Pages that are touched. In another phase they are others.
    pub set: u64,
    pub law: Law,
    /// The set lies in one piece instead of anywhere.
    pub contiguous: bool,
    /// Touches per second.
    pub rate: u64,
}

impl Spec {
    #[must_use]
    pub fn args(&self) -> [String; 5] {
        let Self { pages, set, law, contiguous, rate } = *self;
        [pages, set, u64::from(law == Law::Zipf), u64::from(contiguous), rate].map(|n| n.to_string())
    }

    #[must_use]
    pub fn parse(args: &[String]) -> Option<Self> {
        let numbers: Vec<u64> = args.iter().map_while(|arg| arg.parse().ok()).collect();
        let [pages, set, zipf, contiguous, rate] = numbers[..] else { return None };
        let law = if zipf == 1 { Law::Zipf } else { Law::Uniform };
        (pages.is_power_of_two() && set <= pages && set > 0).then_some(Self { pages, set, law, contiguous: contiguous == 1, rate })
    }

    /// Page of the region that is number `n` of the set.
    #[must_use]
    pub fn page(&self, phase: u32, n: u64) -> u64 {
        let place = (u64::from(phase) * self.set + n) % self.pages;
        if self.contiguous { place } else { scatter(place, self.pages) }
    }

    /// Object of the set that has this rank, from 0: anywhere in the set.
    #[must_use]
    pub fn object(&self, rank: u64) -> u64 {
        let objects = self.set * OBJECTS;
        let room = objects.next_power_of_two();
        let mut object = scatter(rank, room);
        while object >= objects {
            object = scatter(object, room);
        }
        object
    }

    /// Share of all touches that each page of the region gets in the long run.
    #[must_use]
    pub fn masses(&self, phase: u32) -> Vec<f64> {
        let mut masses = vec![0.0; self.pages as usize];
        match self.law {
            Law::Uniform => (0..self.set).for_each(|n| masses[self.page(phase, n) as usize] = 1.0 / self.set as f64),
            Law::Zipf => {
                let total: f64 = (0..self.set * OBJECTS).map(Zipf::weight).sum();
                for rank in 0..self.set * OBJECTS {
                    masses[self.page(phase, self.object(rank) / OBJECTS) as usize] += Zipf::weight(rank) / total;
                }
            }
        }
        masses
    }
}

/// A bijection of 0..room, a power of two, that leaves no order.
fn scatter(n: u64, room: u64) -> u64 {
    let (mask, half) = (room - 1, room.trailing_zeros().div_ceil(2));
    let mut x = n;
    for odd in [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb_u64] {
        x = x.wrapping_mul(odd).wrapping_add(odd >> 32) & mask;
        x ^= x >> half;
    }
    x
}

/// Ends with its owner, and by itself when the owner dies.
#[derive(Debug)]
pub struct Toucher {
    child: Child,
    memory: File,
    pub spec: Spec,
    /// Address of the first page; aligned to 2 MiB.
    pub base: u64,
    /// Addresses in the child: a round per page, then round and phase to go by.
    stamps: u64,
    orders: u64,
    pub phase: u32,
    round: u32,
}

impl Toucher {
    /// Returns when all pages are present and the touching has begun.
    pub fn start(spec: Spec) -> Result<Self, String> {
        let mut child = Command::new(crate::binary("toucher")?)
            .args(spec.args())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("toucher: {e}"))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout was asked for"))
            .read_line(&mut line)
            .map_err(|e| format!("toucher: {e}"))?;
        let path = format!("/proc/{}/mem", child.id());
        let memory = File::options().read(true).write(true).open(&path).map_err(|e| format!("{path}: {e}"))?;
        let addresses: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [base, stamps, orders] = addresses[..] else { return Err(format!("toucher answered {line:?}")) };
        Ok(Self { child, memory, spec, base, stamps, orders, phase: 0, round: 1 })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Place of an address among the pages of the region.
    #[must_use]
    pub fn page_at(&self, addr: u64) -> Option<usize> {
        let page = addr.checked_sub(self.base)? / PAGE;
        (page < self.spec.pages).then_some(page as usize)
    }

    /// Ends a round; says of each page whether it was touched in it.
    pub fn round(&mut self) -> Result<Vec<bool>, String> {
        let ended = self.round;
        self.round += 1;
        self.order(0, self.round)?;
        let mut bytes = vec![0; self.spec.pages as usize * 4];
        self.memory.read_exact_at(&mut bytes, self.stamps).map_err(|e| format!("toucher: {e}"))?;
        // What was touched since this round ended most likely was before, too: the two are moments apart.
        Ok(bytes.as_chunks::<4>().0.iter().map(|stamp| u32::from_ne_bytes(*stamp) >= ended).collect())
    }

    /// The set becomes another one.
    pub fn shift(&mut self) -> Result<(), String> {
        self.phase += 1;
        self.order(1, self.phase)
    }

    fn order(&self, word: u64, value: u32) -> Result<(), String> {
        self.memory.write_all_at(&value.to_ne_bytes(), self.orders + word * 4).map_err(|e| format!("toucher: {e}"))
    }
}

impl Drop for Toucher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::{Law, OBJECTS, Spec, scatter};
    use std::collections::BTreeSet;

    #[test]
    fn scattering_loses_nothing() {
        for room in [1, 2, 64, 1 << 13] {
            let all: BTreeSet<u64> = (0..room).map(|n| scatter(n, room)).collect();
            assert_eq!(all.len() as u64, room);
            assert!(all.last().is_some_and(|&last| last < room));
        }
    }

    #[test]
    fn phases_share_no_page_while_there_are_others() {
        let spec = Spec { pages: 1 << 10, set: 100, law: Law::Zipf, contiguous: false, rate: 1 };
        let pages: BTreeSet<u64> = (0..10).flat_map(|phase| (0..100).map(move |n| spec.page(phase, n))).collect();
        assert_eq!(pages.len(), 1000);
        let objects: BTreeSet<u64> = (0..100 * OBJECTS).map(|rank| spec.object(rank)).collect();
        assert_eq!(objects.last(), Some(&(100 * OBJECTS - 1)));
        let masses = spec.masses(3);
        assert!((masses.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!(masses.iter().filter(|&&mass| mass > 0.0).count(), 100);
    }
}
