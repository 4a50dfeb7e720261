//! How many evictions per second reach us without a loss, by our own client of `watch evictions`: from a real server that is made
//! to evict faster and faster, and from a socket that has the records ready, for what the client could take.

use super::EVENTS;
use super::arms::{MIB, counter, stats};
use memtier::observe::memcached::{Address, Kind, Record, Seen, Server, TalkError, Watch, Watching, What};
use memtier_tests::interrupt::Interrupt;
use memtier_tests::memcached::Memcached;
use memtier_tests::rows::{Goal, Row};
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Evictions per second that are asked for in turn.
const STEPS: [u64; 8] = [50_000, 100_000, 150_000, 200_000, 250_000, 300_000, 400_000, 500_000];
const STEP: Duration = Duration::from_secs(3);
/// A step that came out so much slower than asked for is the most that server and client do here.
const SHORT: f64 = 0.9;
/// Losses and evictions of a step are counted when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(400);
const VALUE: usize = 20;
const BATCH: u64 = 250;
/// Buffers of a server for a watcher and for each of its threads, in KiB: as it comes, and as one is set up to be watched.
const BUFFERS: [(&str, Option<&str>); 2] =
    [("default buffers", None), ("buffers of 4 MiB", Some("watcher_logbuf_size=4096,worker_logbuf_size=4096"))];
/// From the socket.
const READY: u64 = 2_000_000;

pub fn measure(interrupt: &Interrupt) -> Result<Vec<Row>, String> {
    let real = BUFFERS.iter().map(|(name, options)| Ok((*name, climb(*options, interrupt)?)));
    let real = real.collect::<Result<Vec<(&str, Climb)>, String>>()?;
    let best = real.iter().max_by(|(_, a), (_, b)| a.most.total_cmp(&b.most));
    let told = real.iter().map(|(name, climb)| format!("{name}: {}", climb.told)).collect::<Vec<_>>().join("; ");
    let runs: Vec<f64> = best.map(|(_, climb)| climb.most).into_iter().collect();
    let what = "Debian's memcached under sets of 20 bytes to a full server, all of it on the machine's two CPUs";
    Ok(vec![
        Row::new(EVENTS.0, EVENTS.1, EVENTS.2, format!("{what}: {told}"), &runs),
        Row::new(
            "eviction_events_per_s_ready",
            "1/s",
            Goal::None,
            "2 million records that a socket has ready: what the client reads and decodes",
            &ready()?,
        ),
    ])
}

/// What came of all steps.
struct Climb {
    /// The most per second without a loss.
    most: f64,
    told: String,
}

#[derive(Debug, Default)]
struct Counted {
    came: AtomicU64,
    lost: AtomicU64,
    stop: AtomicBool,
}

fn climb(options: Option<&str>, interrupt: &Interrupt) -> Result<Climb, String> {
    let mut all = vec!["-o", "slab_automove=0"];
    all.extend(options.iter().flat_map(|options| ["-o", options]));
    let server = Memcached::start(MIB, &all)?;
    let mut sets = Sets::connect(&server.socket).map_err(|e| format!("load: {e}"))?;
    // Full: from then on each set evicts.
    while counter(&stats(&server)?, "evictions") == 0 {
        interrupt.check()?;
        sets.send(50_000, None).map_err(|e| format!("load: {e}"))?;
    }
    let counted = Arc::new(Counted::default());
    let watcher = {
        let (counted, socket) = (Arc::clone(&counted), server.socket.clone());
        thread::spawn(move || count(&socket, &counted))
    };
    let climbed = steps(&server, &mut sets, &counted, interrupt);
    counted.stop.store(true, Relaxed);
    match watcher.join() {
        Ok(watched) => watched.and(climbed),
        Err(_) => Err("the watcher broke off".into()),
    }
}

fn steps(server: &Memcached, sets: &mut Sets, counted: &Counted, interrupt: &Interrupt) -> Result<Climb, String> {
    let settled = || {
        loop {
            let came = counted.came.load(Relaxed);
            thread::sleep(QUIET);
            if counted.came.load(Relaxed) == came {
                return (came, counted.lost.load(Relaxed));
            }
        }
    };
    let (mut most, mut told) = (0.0_f64, Vec::new());
    // The watcher is there when it sees what is evicted.
    while counted.came.load(Relaxed) == 0 {
        interrupt.check()?;
        sets.send(1_000, None).map_err(|e| format!("load: {e}"))?;
        thread::sleep(Duration::from_millis(20));
    }
    for step in STEPS {
        interrupt.check()?;
        let (came, lost) = settled();
        let evicted = counter(&stats(server)?, "evictions");
        let seconds = sets.send(step * STEP.as_secs(), Some(step)).map_err(|e| format!("load: {e}"))?;
        let (came, lost) = {
            let (c, l) = settled();
            (c - came, l - lost)
        };
        let evicted = counter(&stats(server)?, "evictions") - evicted;
        let rate = evicted as f64 / seconds;
        let whole = lost == 0 && came == evicted;
        told.push(if whole {
            format!("{rate:.0}/s whole")
        } else {
            format!("{rate:.0}/s: {came} of {evicted}, {lost} told as lost")
        });
        if whole {
            most = most.max(rate);
        }
        if rate < SHORT * step as f64 {
            break;
        }
    }
    Ok(Climb { most, told: told.join(", ") })
}

/// Sets of new keys.
struct Sets {
    to: UnixStream,
    next: u64,
}

impl Sets {
    fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self { to: UnixStream::connect(socket)?, next: 0 })
    }

    /// So many, at so many per second; returns when the server has them all, and how long it took.
    fn send(&mut self, sets: u64, rate: Option<u64>) -> io::Result<f64> {
        let (began, mut out) = (Instant::now(), Vec::new());
        for batch in 0..sets / BATCH {
            if let Some(rate) = rate {
                let due = began + Duration::from_secs_f64((batch * BATCH) as f64 / rate as f64);
                if let Some(wait) = due.checked_duration_since(Instant::now()) {
                    thread::sleep(wait);
                }
            }
            out.clear();
            for _ in 0..BATCH {
                self.next += 1;
                write!(out, "set {:012x} 0 0 {VALUE} noreply\r\n", self.next)?;
                out.extend_from_slice(&[b'.'; VALUE]);
                out.extend_from_slice(b"\r\n");
            }
            self.to.write_all(&out)?;
        }
        self.to.write_all(b"mn\r\n")?;
        let mut fence = [0; 4];
        self.to.read_exact(&mut fence)?;
        Ok(began.elapsed().as_secs_f64())
    }
}

/// Watches until it is told to stop.
fn count(socket: &Path, counted: &Counted) -> Result<(), String> {
    watched(socket, async |watch| {
        while !counted.stop.load(Relaxed) {
            // Looks up now and then, when nothing comes.
            match tokio::time::timeout(QUIET, next(watch)).await {
                Ok(Ok((came, lost))) => {
                    counted.came.fetch_add(came, Relaxed);
                    counted.lost.fetch_add(lost, Relaxed);
                }
                Ok(Err(why)) => return Err(why.to_string()),
                Err(_) => {}
            }
        }
        Ok(())
    })
}

async fn next(watch: &mut Watch) -> Result<(u64, u64), TalkError> {
    Ok(match watch.next().await? {
        Seen::Record(Record { what: What::Eviction { .. }, .. }) => (1, 0),
        Seen::Record(_) => (0, 0),
        Seen::Lost(lost) => (0, lost),
    })
}

fn watched<T>(socket: &Path, with: impl AsyncFnOnce(&mut Watch) -> Result<T, String>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let server = Server { address: Address::Unix(socket.to_owned()), auth: None, patience: Duration::from_secs(5) };
    runtime.block_on(async {
        match Watch::open(&server, &[Kind::Evictions]).await.map_err(|e| e.to_string())? {
            Watching::Stream(mut watch) => with(&mut watch).await,
            Watching::Lacking(said) => Err(format!("memcached would not be watched: {said:?}")),
        }
    })
}

/// Records per second from a socket that has them ready, three times.
fn ready() -> Result<Vec<f64>, String> {
    let dir = memtier_tests::scratch();
    (0..3).map(|run| replayed(&dir.path().join(format!("ready{run}.sock")))).collect()
}

fn replayed(socket: &Path) -> Result<f64, String> {
    const BLOCK: u64 = 10_000;
    let listener = UnixListener::bind(socket).map_err(|e| format!("{}: {e}", socket.display()))?;
    let mut block = String::new();
    for n in 0..BLOCK {
        let (fetched, class) = (if n % 3 == 0 { "yes" } else { "no" }, 1 + n % 30);
        let _ = writeln!(
            block,
            "ts=1795978392.{n} gid={n} type=eviction key={n:012x} fetch={fetched} ttl=-1 la={} clsid={class} size={}",
            n % 100,
            20 + n % 1000
        );
    }
    let writer = thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut asked = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut asked)?;
        stream.write_all(b"OK\r\n")?;
        (0..READY / BLOCK).try_for_each(|_| stream.write_all(block.as_bytes()))
    });
    let seconds = watched(socket, async |watch| {
        let (mut all, began) = (0, Instant::now());
        while all < READY {
            match next(watch).await.map_err(|e| e.to_string())? {
                (came, 0) => all += came,
                (_, lost) => return Err(format!("{lost} records make no sense")),
            }
        }
        Ok(began.elapsed().as_secs_f64())
    })?;
    match writer.join() {
        Ok(Ok(())) => Ok(READY as f64 / seconds),
        Ok(Err(why)) => Err(why.to_string()),
        Err(_) => Err("the writer broke off".into()),
    }
}
