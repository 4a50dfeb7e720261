//! Made-up looks at a memcached server: whole sequences for the decisions of the original scripts, and single ones to begin with.

use memtier::compat::slab::{ClassStats, Sample};
use memtier::vocab::{ClassId, ServerLife};
use std::time::Duration;

/// A server over some time, with the options that the script gets.
#[derive(Debug)]
pub struct Sequence {
    pub window: usize,
    pub ratio: f64,
    pub free: f64,
    pub looks: Vec<(Duration, Sample)>,
}

struct Class {
    id: u64,
    size: u64,
    per_page: u64,
    pages: u64,
    free: u64,
    age: u64,
    evicted: u64,
    quiet: bool,
    listed: bool,
}

/// xorshift64*.
struct Random(u64);

impl Random {
    const fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
    const fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The originals were fed with the same, number for number: tests/fixtures/slab/decisions-2017.txt.
#[must_use]
pub fn sequence(number: u64) -> Sequence {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (number * 2 + 1));
    let window = 2 + random.below(6) as usize;
    let ratio = random.pick(&[0.5, 0.8, 0.95, 1.0, 1.2]);
    let free = random.pick(&[0.005, 0.02, 0.0005, 0.1]);
    let mut id = 0;
    let mut classes: Vec<Class> = (0..1 + random.below(6))
        .map(|_| {
            id += 1 + random.below(9);
            let size = random.pick(&[96, 240, 600, 1200, 4800, 20000]);
            let (pages, age, quiet) = (random.below(14), random.below(2000), random.one_in(3));
            Class { id, size, per_page: (1 << 20) / size, pages, free: 0, age, evicted: 0, quiet, listed: true }
        })
        .collect();
    let (mut evictions, mut pool, mut at) = (10 * random.below(2), random.below(8), 1000);
    let looks = (0..40).map(|_| {
        at += if random.one_in(8) { 25 } else { 1 };
        if random.one_in(60) {
            evictions = 0;
            classes.iter_mut().for_each(|class| class.evicted = 0);
        }
        evictions += random.below(2);
        if random.one_in(4) {
            pool = random.below(20);
        }
        let (mut items, mut slabs) = (Vec::new(), Vec::new());
        for class in &mut classes {
            class.listed ^= random.one_in(40);
            let empty = random.one_in(30);
            if !class.quiet && random.one_in(3) {
                class.evicted += random.below(50);
            }
            match random.below(24) {
                0 => class.pages += 1,
                1 => class.pages = class.pages.saturating_sub(1),
                _ => {}
            }
            match random.below(8) {
                0 => class.free = 0,
                1 => class.free = random.below(class.per_page * 6 + 1),
                _ => {}
            }
            class.age = if random.one_in(10) { random.below(2000) } else { class.age + 1 };
            let number = random.below(10_000);
            if class.listed {
                let Class { id, size, per_page, pages, free, age, evicted, .. } = class;
                if !empty {
                    items.extend(
                        [("number", number), ("age", *age), ("evicted", *evicted)].map(|(n, v)| (format!("items:{id}:{n}"), v)),
                    );
                }
                let used = *pages * *per_page;
                let told = [("chunk_size", *size), ("chunks_per_page", *per_page), ("total_pages", *pages), ("used_chunks", used)];
                slabs.extend(told.into_iter().chain([("free_chunks", *free)]).map(|(n, v)| (format!("{id}:{n}"), v)));
            }
        }
        let text = |table: Vec<(String, u64)>| table.into_iter().map(|(name, value)| (name, value.to_string())).collect::<Vec<_>>();
        let per_class = text(items.into_iter().chain(slabs).collect());
        let general = text(vec![("evictions".into(), evictions), ("slab_global_page_pool".into(), pool)]);
        let sample = Sample::read(pairs(&per_class), pairs(&general));
        (Duration::from_secs(at), sample)
    });
    Sequence { window, ratio, free, looks: looks.collect() }
}

fn pairs(table: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    table.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

/// A class of 100 chunks a page that evicts nothing: id, chunk size, age, free chunks, pages.
#[must_use]
pub fn class((id, chunk_size, age, free, pages): (u8, u64, u64, u64, u64)) -> (ClassId, ClassStats) {
    let stats = ClassStats {
        chunk_size: Some(chunk_size),
        chunks_per_page: Some(100),
        total_pages: Some(pages),
        used_chunks: Some((pages * 100).saturating_sub(free)),
        free_chunks: Some(free),
        number: Some(1),
        age: Some(age),
        evicted: Some(7),
    };
    (ClassId(id), stats)
}

/// A server whose memory was full once, with so many pages in the pool.
#[must_use]
pub fn server(pool: u64, classes: &[(u8, u64, u64, u64, u64)]) -> Sample {
    let life = Some(ServerLife { pid: 1, since: 1000 });
    Sample { life, pool: Some(pool), evictions: Some(1), classes: classes.iter().copied().map(class).collect() }
}
