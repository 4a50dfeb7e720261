//! The load of the demo: YCSB-D's shape on a real memcached. Readers want the newest items (zipfian over a window of the
//! latest), writers renew them and add new ones; what fell out of the window is asked for now and then, and is cold otherwise.
//!
//! An open loop at a fixed rate: a request that starts late because the one before it was slow counts from when it was due,
//! so that a stall shows in the percentiles as long as it was.

use hdrhistogram::Histogram;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The data and the distribution.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Items before the first insert.
    pub items: u64,
    pub value_bytes: usize,
    /// Newest items that the zipfian ranks; YCSB's exponent 0.99.
    pub window: u64,
    /// Items that one read asks for.
    pub keys_per_read: u64,
    /// One item asked for in so many is any item at all, evenly.
    pub stray_one_in: u64,
    /// Writes among all requests, in thousandths.
    pub writes_permil: u64,
    /// One write in so many adds a new item.
    pub insert_one_in: u64,
    /// Requests per second of all threads.
    pub rate: u64,
    pub threads: u64,
    /// Values that compress about 2:1, or not at all.
    pub compressible: bool,
}

/// What a stretch of time showed.
#[derive(Clone, Debug)]
pub struct Window {
    pub seconds: f64,
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
    /// Reads that found nothing, or not what was stored.
    pub wrong: u64,
}

impl Window {
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.latency.len() as f64 / self.seconds
    }
    #[must_use]
    pub fn micros(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// Nanoseconds from one request of a thread to its next; 0: as soon as the answer is there.
    every: AtomicU64,
    /// Items that exist: 0..newest.
    newest: AtomicU64,
    wrong: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

/// Client threads; they stop with their owner.
#[derive(Debug)]
pub struct Load {
    shape: Shape,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

/// Fills the server, one pipelined connection; `each` hears how many items are in after every thousand.
pub fn fill(socket: &Path, shape: &Shape, mut each: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 20, UnixStream::connect(socket)?);
    let mut value = vec![0; shape.value_bytes];
    for id in 0..shape.items {
        shape.value_of(id, &mut value);
        write!(out, "set {} 0 0 {} noreply\r\n", key(id), value.len())?;
        out.write_all(&value)?;
        out.write_all(b"\r\n")?;
        if id % 1000 == 999 {
            each(id + 1)?;
        }
    }
    let stream = out.into_inner()?;
    let mut client = Client::over(stream)?;
    let last = shape.items.saturating_sub(1);
    if client.get(&[last], shape)? == 1 { Ok(()) } else { Err(io::Error::other("memcached does not hold the last item")) }
}

impl Load {
    pub fn start(socket: &Path, shape: &Shape) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            every: AtomicU64::new(shape.every(Some(shape.rate))),
            newest: AtomicU64::new(shape.items),
            wrong: AtomicU64::new(0),
            latency: Mutex::new(empty()),
        });
        let threads = (0..shape.threads)
            .map(|n| {
                let (shared, shape, client) = (Arc::clone(&shared), *shape, Client::over(UnixStream::connect(socket)?)?);
                Ok(thread::spawn(move || Requests::new(&shape, n).go(&shared, client)))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { shape: *shape, shared, threads })
    }

    /// Requests per second of all threads from now on; `None`: a closed loop, each as fast as it is answered.
    pub fn pace(&self, rate: Option<u64>) {
        self.shared.every.store(self.shape.every(rate), Relaxed);
    }

    /// What happened since the last call.
    pub fn take(&self, since: Instant) -> Result<Window, String> {
        if self.threads.iter().any(JoinHandle::is_finished) {
            return Err("a client thread ended: memcached closed the connection or answered nonsense".into());
        }
        let latency = std::mem::replace(&mut *self.shared.latency.lock().expect("no client thread panics"), empty());
        Ok(Window { seconds: since.elapsed().as_secs_f64(), latency, wrong: self.shared.wrong.swap(0, Relaxed) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn key(id: u64) -> String {
    format!("item:{id:010}")
}

impl Shape {
    fn every(&self, rate: Option<u64>) -> u64 {
        rate.map_or(0, |rate| 1_000_000_000 * self.threads / rate.max(1))
    }

    /// Noise and words that every record has, in turns: compresses about 2:1, no page is filled with one value. Or noise
    /// alone, which does not compress.
    fn value_of(&self, id: u64, value: &mut [u8]) {
        const RECORD: &[u8; 72] = br#"{"kind":"status","lang":"en","visible":true,"replies":[],"likes":[],"t":"#;
        const CHUNK: usize = 128;
        let noise = if self.compressible { CHUNK - RECORD.len() } else { CHUNK };
        let mut random = Random(id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for chunk in value.chunks_mut(CHUNK) {
            let (noise, words) = chunk.split_at_mut(noise.min(chunk.len()));
            for eight in noise.chunks_mut(8) {
                eight.copy_from_slice(&random.next().to_le_bytes()[..eight.len()]);
            }
            words.copy_from_slice(&RECORD[..words.len()]);
        }
    }
}

/// xorshift64*.
#[derive(Debug)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    const fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Zipfian ranks 0..n by the method of Gray et al. (SIGMOD 1994), as YCSB draws them.
#[derive(Debug)]
struct Zipf {
    n: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    fn new(n: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-Self::THETA)).sum::<f64>();
        let (all, two, n) = (zeta(n), zeta(2), n as f64);
        Self { n, zeta: all, alpha: 1.0 / (1.0 - Self::THETA), eta: (1.0 - (2.0 / n).powf(1.0 - Self::THETA)) / (1.0 - two / all) }
    }
    fn draw(&self, random: &mut Random) -> u64 {
        let u = random.unit();
        let uz = u * self.zeta;
        if uz < 1.0 {
            0
        } else if uz < 1.0 + 0.5f64.powf(Self::THETA) {
            1
        } else {
            (self.n * (self.eta * u - self.eta + 1.0).powf(self.alpha)) as u64
        }
    }
}

/// One thread's requests.
struct Requests {
    shape: Shape,
    random: Random,
    zipf: Zipf,
}

impl Requests {
    fn new(shape: &Shape, thread: u64) -> Self {
        Self { shape: *shape, random: Random(0x6d65_6d74 + thread), zipf: Zipf::new(shape.window) }
    }

    fn recent(&mut self, newest: u64) -> u64 {
        newest.saturating_sub(1 + self.zipf.draw(&mut self.random))
    }
    fn wanted(&mut self, newest: u64) -> u64 {
        if self.random.below(self.shape.stray_one_in) == 0 { self.random.below(newest) } else { self.recent(newest) }
    }

    fn go(mut self, shared: &Shared, mut client: Client) -> io::Result<()> {
        // The default slack of 50 us would be most of the latency of a request that was not late.
        nix::sys::prctl::set_timerslack(1_000)?;
        let (mut value, mut asked) = (vec![0; self.shape.value_bytes], Vec::new());
        let mut due = Instant::now();
        while !shared.stop.load(Relaxed) {
            let every = shared.every.load(Relaxed);
            due = if every == 0 { Instant::now() } else { due + Duration::from_nanos(every) };
            let mut began = due;
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                thread::sleep(wait);
                began = Instant::now();
            }
            let newest = shared.newest.load(Relaxed);
            if self.random.below(1000) < self.shape.writes_permil {
                let insert = self.random.below(self.shape.insert_one_in) == 0;
                let id = if insert { shared.newest.fetch_add(1, Relaxed) } else { self.recent(newest) };
                self.shape.value_of(id, &mut value);
                client.set(id, &value)?;
            } else {
                asked.clear();
                asked.extend((0..self.shape.keys_per_read).map(|_| self.wanted(newest)));
                // An item whose insert another thread has announced but not finished is not there yet.
                let settled = newest.saturating_sub(self.shape.threads);
                let (found, young) = (client.get(&asked, &self.shape)?, asked.iter().filter(|&&id| id >= settled).count());
                let missing = asked.len().saturating_sub(found + young);
                shared.wrong.fetch_add(missing as u64, Relaxed);
            }
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            shared.latency.lock().expect("no client thread panics").saturating_record(took);
        }
        Ok(())
    }
}

/// memcached's text protocol over one connection.
struct Client {
    to: UnixStream,
    from: BufReader<UnixStream>,
    line: String,
    body: Vec<u8>,
    expected: Vec<u8>,
}

impl Client {
    fn over(stream: UnixStream) -> io::Result<Self> {
        let from = BufReader::with_capacity(64 << 10, stream.try_clone()?);
        Ok(Self { to: stream, from, line: String::new(), body: Vec::new(), expected: Vec::new() })
    }

    fn set(&mut self, id: u64, value: &[u8]) -> io::Result<()> {
        let mut request = format!("set {} 0 0 {}\r\n", key(id), value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        self.to.write_all(&request)?;
        match self.answer()? {
            "STORED" => Ok(()),
            other => Err(io::Error::other(format!("memcached answered a set with {other:?}"))),
        }
    }

    /// How many of the items are there, whole and as they were stored.
    fn get(&mut self, ids: &[u64], shape: &Shape) -> io::Result<usize> {
        let mut request = "get".to_owned();
        ids.iter().for_each(|id| request.extend([" ", &key(*id)]));
        request.push_str("\r\n");
        self.to.write_all(request.as_bytes())?;
        self.body.resize(shape.value_bytes + 2, 0);
        self.expected.resize(shape.value_bytes, 0);
        let mut whole = 0;
        loop {
            let answer = self.answer()?;
            if answer == "END" {
                return Ok(whole);
            }
            let id = answer.strip_prefix("VALUE item:").and_then(|rest| rest.split(' ').next()?.parse().ok());
            let Some(id) = id else { return Err(io::Error::other(format!("memcached answered a get with {answer:?}"))) };
            self.from.read_exact(&mut self.body)?;
            shape.value_of(id, &mut self.expected);
            whole += usize::from(self.body.strip_suffix(b"\r\n") == Some(self.expected.as_slice()));
        }
    }

    fn answer(&mut self) -> io::Result<&str> {
        self.line.clear();
        self.from.read_line(&mut self.line)?;
        if self.line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::{Random, Zipf};
    use crate::workload::SHAPE;

    #[test]
    fn ranks_are_zipfian() {
        let (zipf, mut random) = (Zipf::new(1000), Random(7));
        let mut seen = [0u32; 1000];
        (0..200_000).for_each(|_| seen[zipf.draw(&mut random) as usize] += 1);
        // P(0) = 1 / zeta(1000) = 0.129; P(0) / P(9) = 10^0.99.
        assert!((24_000..28_000).contains(&seen[0]), "{}", seen[0]);
        let ratio = f64::from(seen[0]) / f64::from(seen[9]);
        assert!((7.0..13.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn values_compress_about_two_to_one_and_differ() {
        let (mut a, mut b) = (vec![0; 4096], vec![0; 4096]);
        SHAPE.value_of(1, &mut a);
        SHAPE.value_of(2, &mut b);
        assert_ne!(a, b);
        assert_eq!(a[56..128], b[56..128]);
        assert_ne!(a[..56], a[128..184]);
    }
}
