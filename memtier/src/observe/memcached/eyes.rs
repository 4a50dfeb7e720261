//! One server, watched for as long as somebody listens: a look each period, its evictions as they happen, its fetches for a
//! while now and then. A connection for each; each is tried anew with back-off, and what broke is said once.
//!
//! A server writes hundreds of thousands of records a second. They are counted here by class, and of the keys a sample by hash
//! goes on: the same keys each time.
//!
//! Deliberately absent: commands that change anything.

use super::connection::{Connection, Server, TalkError};
use super::look;
use super::record::What;
use super::sample::{Batch, Fetched, Sampling};
use super::watch::{Kind, Seen, Watch, Watching};
use super::wire::Table;
use super::{Address, Backoff};
use crate::observe::Observer;
use crate::vocab::{CacheSample, CacheStream, CacheTold, Event, Sample, ServerId, ServerLife};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};

/// Events that wait for the loop.
const ROOM: usize = 32;
/// First wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// A batch of records covers this much time.
const BATCH: Duration = Duration::from_millis(200);
/// Every so-manieth look asks for the settings, too: somebody may have switched the server's mover on.
const SETTINGS_EVERY: u64 = 16;

/// How a server is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    pub period: Duration,
    pub retry_most: Duration,
    pub evictions: bool,
    /// Nought: never.
    pub fetchers_on: Duration,
    pub fetchers_every: Duration,
    pub keys_per_s: u64,
    pub keep_keys: bool,
}

/// Asks for something at once, and is told when the loop has it.
#[derive(Clone, Debug)]
pub struct Poke(mpsc::Sender<Asked>);

#[derive(Debug)]
enum Asked {
    Look {
        done: oneshot::Sender<()>,
    },
    /// Streams open, or closed, if it is this life of the server.
    Watch {
        on: bool,
        life: Option<ServerLife>,
        done: oneshot::Sender<bool>,
    },
}

impl Poke {
    /// Returns when the look was handed on, or when there will be none.
    pub async fn look(&self) {
        let (done, told) = oneshot::channel();
        if self.0.send(Asked::Look { done }).await.is_ok() {
            // Dropped where the server cannot be talked to.
            let _ = told.await;
        }
    }

    /// Opens the streams or closes them; false: it is another life of the server. None: it cannot be talked to.
    pub async fn watch(&self, on: bool, life: Option<ServerLife>) -> Option<bool> {
        let (done, told) = oneshot::channel();
        self.0.send(Asked::Watch { on, life, done }).await.ok()?;
        told.await.ok()
    }
}

/// The observer of one server; what it started ends with it.
#[derive(Debug)]
pub struct CacheEyes {
    events: mpsc::Receiver<Event>,
    _tasks: JoinSet<Infallible>,
}

impl CacheEyes {
    /// To be called within a runtime.
    #[must_use]
    pub fn new(id: ServerId, server: Server, manner: Manner) -> (Self, Poke) {
        let (to, events) = mpsc::channel(ROOM);
        let (poke, pokes) = mpsc::channel(4);
        let mut tasks = JoinSet::new();
        let teller = Teller { id, to };
        tasks.spawn(follow(teller, server, manner, pokes));
        (Self { events, _tasks: tasks }, Poke(poke))
    }
}

impl Observer for CacheEyes {
    async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // Its task ends with it only.
            None => std::future::pending().await,
        }
    }
}

#[derive(Clone, Debug)]
struct Teller {
    id: ServerId,
    to: mpsc::Sender<Event>,
}

impl Teller {
    async fn tell(&self, told: CacheTold) {
        // Whoever listened is gone, and this task with it.
        let _ = self.to.send(Event::Sample(Sample::Cache(CacheSample { server: self.id, told }))).await;
    }
}

/// One connection after the other.
async fn follow(teller: Teller, server: Server, manner: Manner, mut pokes: mpsc::Receiver<Asked>) -> Infallible {
    let mut backoff = Backoff::new(RETRY_FIRST, manner.retry_most);
    let mut told = None;
    loop {
        let looked = Looks { teller: &teller, server: &server, manner, pokes: &mut pokes, backoff: &mut backoff, told: &mut told };
        let error = match looked.run().await {
            Ok(never) => match never {},
            Err(error) => error.to_string(),
        };
        if told.as_ref() != Some(&error) {
            teller.tell(CacheTold::Blind { why: error.clone() }).await;
            told = Some(error);
        }
        let until = Instant::now() + backoff.failed();
        // Nobody who asks for a look waits for a server that is not there.
        while let Ok(Some(asked)) = timeout_at(until, pokes.recv()).await {
            drop(asked);
        }
        sleep_until(until).await;
    }
}

struct Looks<'a> {
    teller: &'a Teller,
    server: &'a Server,
    manner: Manner,
    pokes: &'a mut mpsc::Receiver<Asked>,
    backoff: &'a mut Backoff,
    /// The last trouble that was told.
    told: &'a mut Option<String>,
}

impl Looks<'_> {
    async fn run(self) -> Result<Infallible, TalkError> {
        let Self { teller, server, manner, pokes, backoff, told } = self;
        let mut connection = Connection::open(server).await?;
        let [general, settings] = connection.tables([Table::General, Table::Settings]).await?;
        let met = look::server(&server.address, &general, &settings);
        let met_life = met.life;
        // Each stream has a rate of its own: a burst of fetches must not thin out what is known of evictions.
        let sampling = || Arc::new(Sampling::new(met.life, manner.keep_keys, manner.keys_per_s));
        let samplings = [sampling(), sampling()];
        teller.tell(CacheTold::Met(Box::new(met))).await;
        *told = None;
        let mut streams = Streams::default();
        let mut automove = look::automove(&settings);
        let mut ticks = interval(manner.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0u64;
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => None,
                Some(asked) = pokes.recv() => Some(asked),
            };
            let asked = match asked {
                Some(Asked::Look { done }) => Some(done),
                Some(Asked::Watch { on, life, done }) => {
                    let same = life == met_life;
                    if same && on != streams.open {
                        streams.set(on, teller, server, manner, &samplings).await;
                    }
                    // Dropped by whoever does not wait any more.
                    let _ = done.send(same);
                    continue;
                }
                None => None,
            };
            if asked.is_some() || looks.is_multiple_of(SETTINGS_EVERY) {
                let [settings] = connection.tables([Table::Settings]).await?;
                automove = look::automove(&settings);
            }
            let [items, slabs, general] = connection.tables([Table::Items, Table::Slabs, Table::General]).await?;
            let seen = look::look(&items, &slabs, &general, automove);
            let items = seen.classes.iter().map(|class| class.items).sum();
            samplings.iter().for_each(|sampling| sampling.holds(items));
            teller.tell(CacheTold::Look(Box::new(seen))).await;
            // Only what came of a connection shows that it works.
            backoff.worked();
            asked.map(|asked| asked.send(()));
            if looks == 0 && !streams.open {
                streams.start(teller, server, manner, &samplings);
            }
            looks += 1;
        }
    }
}

/// The streams, each of which goes on until the server lacks it, somebody closes it or this connection is over.
#[derive(Debug, Default)]
struct Streams {
    tasks: JoinSet<()>,
    open: bool,
}

impl Streams {
    fn start(&mut self, teller: &Teller, server: &Server, manner: Manner, samplings: &[Arc<Sampling>; 2]) {
        let [of_evictions, of_fetches] = samplings;
        if manner.evictions {
            self.tasks.spawn(evictions(teller.clone(), server.clone(), manner, Arc::clone(of_evictions)));
        }
        if manner.fetchers_on > Duration::ZERO {
            self.tasks.spawn(fetchers(teller.clone(), server.clone(), manner, Arc::clone(of_fetches)));
        }
        self.open = true;
    }

    /// Told in its place: nothing of a stream comes after it was closed, or before it is open again.
    async fn set(&mut self, on: bool, teller: &Teller, server: &Server, manner: Manner, samplings: &[Arc<Sampling>; 2]) {
        self.tasks.shutdown().await;
        self.open = false;
        teller.tell(CacheTold::Watch { on }).await;
        if on {
            self.start(teller, server, manner, samplings);
        }
    }
}

/// One stream of evictions after the other; a server that cuts off a slow watcher is asked again.
async fn evictions(teller: Teller, server: Server, manner: Manner, sampling: Arc<Sampling>) {
    let mut backoff = Backoff::new(RETRY_FIRST, manner.retry_most);
    loop {
        let why = match Watch::open(&server, &[Kind::Evictions]).await {
            Ok(Watching::Lacking(said)) => {
                return teller
                    .tell(CacheTold::Lacks { stream: CacheStream::Evictions, why: lacking(&server.address, &said.line) })
                    .await;
            }
            Ok(Watching::Stream(mut watch)) => {
                let mut batch = Batch::default();
                // From here on it tells.
                teller.tell(CacheTold::Evictions(batch.take(&sampling, Duration::ZERO))).await;
                loop {
                    if let Err(error) = fill(&mut watch, &mut batch, &sampling, &teller).await {
                        break error.to_string();
                    }
                    backoff.worked();
                }
            }
            Err(error) => error.to_string(),
        };
        teller.tell(CacheTold::Lacks { stream: CacheStream::Evictions, why }).await;
        sleep(backoff.failed()).await;
    }
}

/// Waits for a record, and then takes in what comes in the time of a batch.
async fn fill(watch: &mut Watch, batch: &mut Batch, sampling: &Sampling, teller: &Teller) -> Result<(), TalkError> {
    batch.see(watch.next().await?, sampling);
    let began = Instant::now();
    let over = began + BATCH;
    let broken = loop {
        match timeout_at(over, watch.next()).await {
            Ok(Ok(seen)) => batch.see(seen, sampling),
            Ok(Err(error)) => break Err(error),
            Err(_) => break Ok(()),
        }
        // A stream that never pauses leaves the timer no chance.
        if batch.is_due() && Instant::now() >= over {
            break Ok(());
        }
    };
    teller.tell(CacheTold::Evictions(batch.take(sampling, began.elapsed()))).await;
    broken
}

/// A stream of fetches that is open for a while, time and again.
async fn fetchers(teller: Teller, server: Server, manner: Manner, sampling: Arc<Sampling>) {
    let pause = manner.fetchers_every.saturating_sub(manner.fetchers_on).max(RETRY_FIRST);
    loop {
        sleep(pause).await;
        let lacks = |why| CacheTold::Lacks { stream: CacheStream::Fetchers, why };
        match Watch::open(&server, &[Kind::Fetchers]).await {
            Ok(Watching::Lacking(said)) => return teller.tell(lacks(lacking(&server.address, &said.line))).await,
            Ok(Watching::Stream(watch)) => {
                if let Err(error) = open(watch, manner.fetchers_on, &sampling, &teller).await {
                    teller.tell(lacks(error.to_string())).await;
                }
            }
            Err(error) => teller.tell(lacks(error.to_string())).await,
        }
    }
}

async fn open(mut watch: Watch, on: Duration, sampling: &Sampling, teller: &Teller) -> Result<(), TalkError> {
    let over = Instant::now() + on;
    let mut fetched = Fetched::default();
    loop {
        let began = Instant::now();
        let due = (began + BATCH).min(over);
        let broken = loop {
            match timeout_at(due, watch.next()).await {
                Ok(Ok(Seen::Record(record))) => {
                    if let What::Fetch { key, found, class, size: _ } = record.what {
                        fetched.see(&key, class.filter(|_| found), sampling);
                    }
                }
                Ok(Ok(Seen::Lost(count))) => fetched.lost(count),
                Ok(Err(error)) => break Some(error),
                Err(_) => break None,
            }
            if fetched.is_due() && Instant::now() >= due {
                break None;
            }
        };
        let last = broken.is_some() || Instant::now() >= over;
        teller.tell(CacheTold::Fetches(fetched.take(sampling, began.elapsed(), last))).await;
        match broken {
            Some(error) => return Err(error),
            None if last => return Ok(()),
            None => {}
        }
    }
}

fn lacking(address: &Address, line: &str) -> String {
    format!("{address} answers {line:?}")
}
