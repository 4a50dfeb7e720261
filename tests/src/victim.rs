//! A child process that works on its memory and notices what others do to it (tests/src/bin/victim.rs).

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// What it does, beside holding its memory.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// One thread touches pages of the hot part at random without a pause; while it is measured another one maps, touches
    /// and unmaps 64 KiB over and over.
    Steady { mib: u64, hot_mib: u64 },
    /// One thread touches each page of the hot part once in `hot_ms`, another one each page of the cold part in `cold_ms`.
    Sweeps { hot_mib: u64, hot_ms: u64, cold_mib: u64, cold_ms: u64 },
}

/// Latencies of one kind of operation, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub count: u64,
    pub p50: u64,
    pub p999: u64,
    pub max: u64,
    /// The longest while the hypervisor took no CPU from this machine.
    pub max_unstolen: u64,
    /// The longest in which nobody took the CPU from the thread: what is left is the kernel's own work, and waiting.
    pub max_kept_cpu: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Steady {
    pub touches: u64,
    /// CPU time of the thread that touches.
    pub cpu_ns: u64,
    pub fault: Latency,
    pub map: Latency,
    pub unmap: Latency,
}

#[derive(Clone, Copy, Debug)]
pub struct Sweeps {
    /// Pages touched, and major faults that it took.
    pub hot: (u64, u64),
    pub cold: (u64, u64),
}

/// Ends with its owner, and by itself when the owner dies: it reads its orders from a pipe.
#[derive(Debug)]
pub struct Victim {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Victim {
    /// It holds nothing before it is told to fill.
    pub fn start(work: Work) -> Result<Self, String> {
        let args = match work {
            Work::Steady { mib, hot_mib } => vec!["steady".to_owned(), mib.to_string(), hot_mib.to_string()],
            Work::Sweeps { hot_mib, hot_ms, cold_mib, cold_ms } => {
                let numbers = [hot_mib, hot_ms, cold_mib, cold_ms].map(|n| n.to_string());
                ["sweeps".to_owned()].into_iter().chain(numbers).collect()
            }
        };
        let mut child = Command::new(crate::binary("victim")?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("victim: {e}"))?;
        let orders = child.stdin.take().expect("stdin was asked for");
        let answers = BufReader::new(child.stdout.take().expect("stdout was asked for"));
        Ok(Self { child, orders, answers })
    }
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// Fills its memory (compresses about 2:1) and goes to work.
    pub fn fill(&mut self) -> Result<(), String> {
        self.order("fill").map(drop)
    }
    /// Reads every page once: what was swapped out is back.
    pub fn recall(&mut self) -> Result<(), String> {
        self.order("recall").map(drop)
    }
    pub fn steady(&mut self, time: Duration) -> Result<Steady, String> {
        let numbers: [u64; 20] = self.measure(time)?;
        let latency = |at: usize| {
            let [count, p50, p999, max, max_unstolen, max_kept_cpu] = std::array::from_fn(|i| numbers[at + i]);
            Latency { count, p50, p999, max, max_unstolen, max_kept_cpu }
        };
        Ok(Steady { touches: numbers[0], cpu_ns: numbers[1], fault: latency(2), map: latency(8), unmap: latency(14) })
    }
    pub fn sweeps(&mut self, time: Duration) -> Result<Sweeps, String> {
        let [hot, hot_faults, cold, cold_faults] = self.measure(time)?;
        Ok(Sweeps { hot: (hot, hot_faults), cold: (cold, cold_faults) })
    }

    fn measure<const N: usize>(&mut self, time: Duration) -> Result<[u64; N], String> {
        let answer = self.order(&format!("measure {}", time.as_millis()))?;
        let numbers: Result<Vec<u64>, _> = answer.split_whitespace().map(str::parse).collect();
        numbers.ok().and_then(|n| n.try_into().ok()).ok_or_else(|| format!("victim answered {answer:?}"))
    }
    fn order(&mut self, order: &str) -> Result<String, String> {
        writeln!(self.orders, "{order}").map_err(|e| format!("victim: {e}"))?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|e| format!("victim: {e}"))?;
        if line.is_empty() { Err("victim ended".into()) } else { Ok(line) }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
