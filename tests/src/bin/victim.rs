//! Works on its memory and measures itself: `victim steady MIB HOT_MIB` or `victim sweeps HOT_MIB HOT_MS COLD_MIB COLD_MS`
//! (memtier_tests::victim says what they do), then orders on standard input: `fill`, `recall`, `measure MS`. Every order is
//! answered by one line. Ends when standard input does.

use hdrhistogram::Histogram;
use memmap2::MmapMut;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::hint::black_box;
use std::io::{self, BufRead as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

type Said = Box<dyn std::error::Error + Send + Sync>;

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;
/// What the stall thread maps at a time.
const MAPPED: usize = 64 << 10;
/// Between two mappings: a program that does nothing but map is none.
const BREATH: Duration = Duration::from_micros(100);
/// Touches between two looks at the clock.
const BATCH: u64 = 1 << 16;

/// Pages touched by a thread, and what it cost: CPU nanoseconds, or major faults.
#[derive(Debug, Default)]
struct Count {
    touches: AtomicU64,
    cost: AtomicU64,
}

impl Count {
    fn get(&self) -> [u64; 2] {
        [self.touches.load(Relaxed), self.cost.load(Relaxed)]
    }
    fn since(&self, before: [u64; 2]) -> [u64; 2] {
        let now = self.get();
        [now[0] - before[0], now[1] - before[1]]
    }
}

/// What one thread works on.
struct Part {
    /// Atomic, so that working and recalling may overlap.
    words: Arc<Vec<AtomicU64>>,
    count: Arc<Count>,
}

impl Part {
    /// Half of each page noise, half zeros.
    fn fill(mib: u64) -> Self {
        let mut noise = 0x9e37_79b9_7f4a_7c15u64;
        let word = |i: usize| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            AtomicU64::new(if i % WORDS < WORDS / 2 { noise } else { 0 })
        };
        Self { words: Arc::new((0..(mib << 20) as usize / 8).map(word).collect()), count: Arc::default() }
    }

    /// Touches all pages in `sweep`, or random ones without a pause, until the process ends.
    fn work(&self, cpu: usize, sweep: Option<Duration>) {
        let (words, count) = (Arc::clone(&self.words), Arc::clone(&self.count));
        // A thread that cannot go on ends the process, and whoever measures hears of it.
        thread::spawn(move || {
            let worked = pin(cpu).and_then(|()| match sweep {
                Some(sweep) => sweeps(&words, &count, sweep),
                None => touches(&words, &count),
            });
            if let Err(error) = worked {
                eprintln!("victim: {error}");
                std::process::exit(1);
            }
        });
    }

    fn recall(&self) {
        self.words.iter().step_by(WORDS).for_each(|word| {
            black_box(word.load(Relaxed));
        });
    }
}

enum Work {
    Steady { mib: u64, hot_mib: u64 },
    Sweeps { hot_mib: u64, hot: Duration, cold_mib: u64, cold: Duration },
}

impl Work {
    fn begin(&self) -> Vec<Part> {
        match *self {
            Self::Steady { mib, hot_mib } => {
                let parts = vec![Part::fill(hot_mib), Part::fill(mib.saturating_sub(hot_mib))];
                parts[0].work(0, None);
                parts
            }
            Self::Sweeps { hot_mib, hot, cold_mib, cold } => {
                let parts = vec![Part::fill(hot_mib), Part::fill(cold_mib)];
                parts[0].work(0, Some(hot));
                parts[1].work(1, Some(cold));
                parts
            }
        }
    }

    fn measure(&self, parts: &[Part], time: Duration) -> Result<Vec<u64>, Said> {
        let before: Vec<_> = parts.iter().map(|part| part.count.get()).collect();
        let stalls = match self {
            Self::Steady { .. } => thread::spawn(move || stalls(time)).join().map_err(|_| "the stall thread panicked")??,
            Self::Sweeps { .. } => {
                thread::sleep(time);
                Vec::new()
            }
        };
        let working = if stalls.is_empty() { parts } else { &parts[..1] };
        Ok(working.iter().zip(before).flat_map(|(part, before)| part.count.since(before)).chain(stalls).collect())
    }
}

fn main() -> Result<(), Said> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers = args.iter().skip(1).map(|a| a.parse::<u64>()).collect::<Result<Vec<_>, _>>()?;
    let work = match (args.first().map(String::as_str), numbers.as_slice()) {
        (Some("steady"), &[mib, hot_mib]) => Work::Steady { mib, hot_mib },
        (Some("sweeps"), &[hot_mib, hot, cold_mib, cold]) => {
            Work::Sweeps { hot_mib, hot: Duration::from_millis(hot), cold_mib, cold: Duration::from_millis(cold) }
        }
        _ => return Err("usage: victim steady MIB HOT_MIB | sweeps HOT_MIB HOT_MS COLD_MIB COLD_MS".into()),
    };
    nix::sys::prctl::set_thp_disable(true)?;
    nix::sys::prctl::set_timerslack(1_000)?;
    let mut parts = Vec::new();
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut answer = Vec::new();
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["fill"] => parts = work.begin(),
            ["recall"] => parts.iter().for_each(Part::recall),
            ["measure", ms] => answer = work.measure(&parts, Duration::from_millis(ms.parse()?))?,
            _ => return Err(format!("unknown order {line}").into()),
        }
        let words: Vec<_> = answer.iter().map(u64::to_string).collect();
        writeln!(out, "{}", words.join(" "))?;
    }
    Ok(())
}

fn pin(cpu: usize) -> Result<(), Said> {
    let mut set = CpuSet::new();
    set.set(cpu % thread::available_parallelism()?.get())?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The word of a page that is touched: in another cache line from page to page, lest all fall into one set.
const fn place(page: usize) -> usize {
    page * WORDS + page % 64 * 8
}

fn touches(words: &[AtomicU64], count: &Count) -> Result<(), Said> {
    let pages = (words.len() / WORDS) as u64;
    let mut random = 1u64;
    loop {
        for _ in 0..BATCH {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let page = ((u128::from(random) * u128::from(pages)) >> 64) as usize;
            black_box(words[place(page)].load(Relaxed));
        }
        count.touches.fetch_add(BATCH, Relaxed);
        let cpu = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        count.cost.store(u64::try_from(cpu.as_nanos())?, Relaxed);
    }
}

/// Page after page, paced so that one sweep takes its time, or longer where the faults take longer.
fn sweeps(words: &[AtomicU64], count: &Count, sweep: Duration) -> Result<(), Said> {
    /// Pages between two looks at the clock.
    const PIECE: usize = 256;
    let pages = words.len() / WORDS;
    loop {
        let began = Instant::now();
        for first in (0..pages).step_by(PIECE) {
            let end = pages.min(first + PIECE);
            for page in first..end {
                words[place(page)].fetch_add(1, Relaxed);
            }
            count.touches.fetch_add((end - first) as u64, Relaxed);
            count.cost.store(u64::try_from(getrusage(UsageWho::RUSAGE_THREAD)?.major_page_faults())?, Relaxed);
            let due = sweep.mul_f64(end as f64 / pages as f64);
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
}

/// Latencies of one kind of operation.
struct Timed {
    all: Histogram<u64>,
    max_kept_cpu: u64,
    /// Those that took long: when they began, and how long they took.
    long: Vec<(Instant, u64)>,
    /// The longest of the others.
    max_short: u64,
}

impl Timed {
    fn new() -> Result<Self, Said> {
        Ok(Self { all: Histogram::new_with_bounds(1, 60_000_000_000, 3)?, max_kept_cpu: 0, long: Vec::new(), max_short: 0 })
    }
    /// Runs it once. `lost` is how often the CPU was taken from this thread so far.
    fn time<T>(&mut self, lost: &mut u64, what: impl FnOnce() -> T) -> Result<T, Said> {
        /// What takes less is no stall, and who asks whether the CPU was taken meanwhile spends more.
        const LONG: u64 = 20_000;
        let began = Instant::now();
        let done = what();
        let took = u64::try_from(began.elapsed().as_nanos())?;
        self.all.saturating_record(took);
        if took > LONG {
            self.long.push((began, took));
            let now = involuntary()?;
            if now == *lost {
                self.max_kept_cpu = self.max_kept_cpu.max(took);
            }
            *lost = now;
        } else {
            self.max_short = self.max_short.max(took);
            self.max_kept_cpu = self.max_kept_cpu.max(took);
        }
        Ok(done)
    }
    /// The longest while the hypervisor took no CPU from this machine.
    fn max_unstolen(&self, thefts: &[Instant]) -> u64 {
        let stolen = |began: Instant, took| {
            let end = began + Duration::from_nanos(took) + Thefts::TOLD_WITHIN;
            let first = thefts.partition_point(|&theft| theft < began);
            thefts.get(first).is_some_and(|&theft| theft <= end)
        };
        let long = self.long.iter().filter(|&&(began, took)| !stolen(began, took)).map(|&(_, took)| took);
        long.max().unwrap_or_default().max(self.max_short)
    }
    fn numbers(&self, thefts: &[Instant]) -> [u64; 6] {
        let (all, quantile) = (&self.all, |q| self.all.value_at_quantile(q));
        [all.len(), quantile(0.5), quantile(0.999), all.max(), self.max_unstolen(thefts), self.max_kept_cpu]
    }
}

/// Watches for time that the hypervisor takes from any CPU: /proc/stat counts it in hundredths of a second.
struct Thefts {
    stop: Arc<AtomicBool>,
    watch: JoinHandle<io::Result<Vec<Instant>>>,
}

impl Thefts {
    const LOOK_EVERY: Duration = Duration::from_millis(2);
    /// The kernel books it at its next tick, and the watch may have to wait for a CPU itself.
    const TOLD_WITHIN: Duration = Duration::from_millis(20);

    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&stop);
        let watch = thread::spawn(move || {
            let (mut seen, mut before) = (Vec::new(), stolen()?);
            while !over.load(Relaxed) {
                thread::sleep(Self::LOOK_EVERY);
                let now = stolen()?;
                if now != before {
                    seen.push(Instant::now());
                    before = now;
                }
            }
            Ok(seen)
        });
        Self { stop, watch }
    }
    fn end(self) -> Result<Vec<Instant>, Said> {
        thread::sleep(Self::TOLD_WITHIN);
        self.stop.store(true, Relaxed);
        Ok(self.watch.join().map_err(|_| "the watch for thefts panicked")??)
    }
}

/// cpu user nice system idle iowait irq softirq steal
fn stolen() -> io::Result<u64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let steal = stat.lines().next().and_then(|line| line.split_ascii_whitespace().nth(8)?.parse().ok());
    steal.ok_or_else(|| io::Error::other("/proc/stat has no steal"))
}

fn involuntary() -> Result<u64, Said> {
    Ok(u64::try_from(getrusage(UsageWho::RUSAGE_THREAD)?.involuntary_context_switches())?)
}

/// Page faults, mmap() and munmap(), timed one by one.
fn stalls(time: Duration) -> Result<Vec<u64>, Said> {
    pin(1)?;
    let (mut fault, mut map, mut unmap) = (Timed::new()?, Timed::new()?, Timed::new()?);
    let thefts = Thefts::watch();
    let end = Instant::now() + time;
    while Instant::now() < end {
        let mut lost = involuntary()?;
        let mut mapped = map.time(&mut lost, || MmapMut::map_anon(MAPPED))??;
        for page in mapped.chunks_exact_mut(PAGE) {
            fault.time(&mut lost, || page[0] = 1)?;
        }
        unmap.time(&mut lost, || drop(mapped))?;
        thread::sleep(BREATH);
    }
    let thefts = thefts.end()?;
    Ok([fault, map, unmap].iter().flat_map(|timed| timed.numbers(&thefts)).collect())
}
