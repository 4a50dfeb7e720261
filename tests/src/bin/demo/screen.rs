//! What the demo shows: a line that is renewed every second, sections, and the figures at the end.

use memtier_tests::daemon::Cpu;
use memtier_tests::load::Window;
use memtier_tests::rows::{self, Goal, Row};
use memtier_tests::stage::Sizes;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

const MIB: f64 = (1 << 20) as f64;
/// Where standard output is no terminal a progress line every so many seconds is enough.
const PLAIN_EVERY_S: u64 = 5;

pub struct Screen {
    began: Instant,
    terminal: bool,
}

impl Screen {
    pub fn new(began: Instant) -> Self {
        Self { began, terminal: std::io::stdout().is_terminal() }
    }
    pub fn say(&self, text: &str) {
        println!("[{:3} s] {text}", self.began.elapsed().as_secs());
    }
    fn progress(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs();
        if self.terminal {
            print!("\r\x1b[K[{seconds:3} s] {text}");
            let _ = std::io::stdout().flush();
        } else if seconds.is_multiple_of(PLAIN_EVERY_S) {
            println!("[{seconds:3} s] {text}");
        }
    }
    pub fn fill(&self, done: u64, of: u64) {
        if done == of {
            self.say(&format!("memcached holds {of} items"));
        } else if self.terminal && done.is_multiple_of(5_000) {
            self.progress(&format!("filling memcached: {}%", done * 100 / of));
        }
    }
    pub fn second(&self, what: &str, window: &Window, sizes: &Sizes) {
        let Sizes { memcached, zram } = sizes;
        self.progress(&format!(
            "{what:15} | memcached {:4.0} MiB in memory, {:4.0} MiB out | zram costs {:3.0} MiB | {:4.0} req/s, p50 {:3.0} us, p99 {:4.0} us",
            memcached.rss as f64 / MIB,
            memcached.swapped as f64 / MIB,
            zram.cost as f64 / MIB,
            window.per_second(),
            window.micros(0.5),
            window.micros(0.99)
        ));
    }
    /// Ends a line that is being renewed.
    pub fn close(&self) {
        if self.terminal {
            println!();
        }
    }
    pub fn section(&self, title: &str, text: &str) {
        println!("\n==== {title}\n{}", text.trim_end());
    }
}

/// What the demo measured.
pub struct Figures {
    pub before: Vec<Window>,
    pub acting: Vec<Window>,
    pub paused: Vec<Window>,
    pub start: Sizes,
    pub end: Sizes,
    pub cpu: Cpu,
    /// Pages swapped in while acting in the measured rounds, and how long those were.
    pub refaults: u64,
    pub acted: Duration,
}

impl Figures {
    pub fn print(&self, json: bool) {
        let rows = self.rows();
        println!("\n==== figures: medians of interleaved rounds; \"before\" is without memtier");
        rows::print(&rows, false);
        if json {
            rows::print(&rows, true);
        }
    }

    fn rows(&self) -> Vec<Row> {
        let Self { before, acting, paused, start, end, cpu, refaults, acted } = self;
        let row = |metric, unit, against: &str, runs: &[f64]| Row::new(metric, unit, Goal::None, against, runs);
        let one = |metric, unit, against: &str, value: f64| row(metric, unit, against, &[value]);
        let dropped = start.memcached.rss as f64 - end.memcached.rss as f64;
        let grown = end.zram.cost as f64 - start.zram.cost as f64;
        let held = end.zram.stored as f64 - start.zram.stored as f64;
        let mut rows = vec![
            one("rss_before", "MiB", "memcached", start.memcached.rss as f64 / MIB),
            one("rss_after", "MiB", "memcached", end.memcached.rss as f64 / MIB),
            one("zram_growth", "MiB", "mem_used_total of zram", grown / MIB),
            one("net_dram_saved", "MiB", "drop in RSS minus growth of zram", (dropped - grown) / MIB),
            one("net_dram_saved_share", "%", "of RSS before", 100.0 * (dropped - grown) / start.memcached.rss.max(1) as f64),
            one("compression", "to 1", "uncompressed bytes in zram per byte of memory", held / grown.max(1.0)),
        ];
        for (name, side) in [("before", before), ("acting", acting), ("paused", paused)] {
            let each = |f: &dyn Fn(&Window) -> f64| side.iter().map(f).collect::<Vec<_>>();
            rows.push(row("throughput", "requests/s", name, &each(&Window::per_second)));
            rows.push(row("p50", "us", name, &each(&|w| w.micros(0.5))));
            rows.push(row("p99", "us", name, &each(&|w| w.micros(0.99))));
            rows.push(row("p99.9", "us", name, &each(&|w| w.micros(0.999))));
        }
        let wrong = before.iter().chain(acting).chain(paused).map(|w| w.wrong).sum::<u64>();
        let share = |s: f64| 100.0 * s / cpu.over.as_secs_f64();
        rows.extend([
            one("refaults_per_min", "pages/min", "swapped in while acting", *refaults as f64 * 60.0 / acted.as_secs_f64()),
            Row::new(
                "wrong_values",
                "reads",
                Goal::Most(0.0),
                "every value read is compared with what was stored",
                &[wrong as f64],
            ),
            one("daemon_user", "% of a core", "user time of the daemon", share(cpu.user_s)),
            one("daemon_system", "% of a core", "system time, walks and page-outs included", share(cpu.system_s)),
            one("daemon_bpf", "% of a core", "run time of its BPF programs", share(cpu.bpf_s)),
            one("daemon_rss", "MiB", "resident memory of the daemon", cpu.rss as f64 / MIB),
        ]);
        rows
    }
}
