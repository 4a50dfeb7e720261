//! The shell's eyes and ears: everything that happens on the host, turned into events.
//!
//! Deliberately absent: time stamps and numbers (the one ingest point gives them), opinions, and errors: a source that
//! cannot tell says `Blind` with the reason and goes on trying.

pub mod bpf;
pub mod cgroup;
pub mod host;
pub mod maps;
pub mod memcached;
pub mod nodes;
pub mod probe;
pub mod proc;
pub mod psi;
pub mod standin;
pub mod tenants;
pub mod topology;
pub mod walker;

use crate::sys::clock::boottime;
use crate::sys::files::ReadError;
use crate::vocab::{Event, Source};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// A source of events.
pub trait Observer {
    /// The next event, whenever it comes. Never an error, never a panic. Dropping the future loses nothing but the look
    /// that was under way.
    fn next(&mut self) -> impl Future<Output = Event> + Send;
}

/// Something that is looked at once a period.
pub trait Sensor: Send + 'static {
    fn source(&self) -> Source;
    fn read(&mut self) -> Result<Vec<Event>, ReadError>;
}

/// Says when a source begins and ceases to tell, and only then.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    source: Source,
    seeing: Option<bool>,
}

impl Sight {
    #[must_use]
    pub const fn new(source: Source) -> Self {
        Self { source, seeing: None }
    }
    pub fn seen(&mut self) -> Option<Event> {
        (self.seeing.replace(true) != Some(true)).then_some(Event::Sight { source: self.source })
    }
    pub fn lost(&mut self, why: impl ToString) -> Option<Event> {
        (self.seeing.replace(false) != Some(false)).then(|| Event::Blind { source: self.source, why: why.to_string() })
    }
    /// Events of one look, led by the change of sight if there is one.
    pub fn judge(&mut self, looked: Result<Vec<Event>, impl ToString>) -> VecDeque<Event> {
        match looked {
            Ok(events) => self.seen().into_iter().chain(events).collect(),
            Err(why) => self.lost(why).into_iter().collect(),
        }
    }
}

/// Makes an observer of a sensor.
#[derive(Debug)]
pub struct Polled<S> {
    sensor: Arc<Mutex<S>>,
    sight: Sight,
    interval: Interval,
    queue: VecDeque<Event>,
}

impl<S: Sensor> Polled<S> {
    #[must_use]
    pub fn new(sensor: S, period: Duration) -> Self {
        let sight = Sight::new(sensor.source());
        Self { sensor: Arc::new(Mutex::new(sensor)), sight, interval: every(period), queue: VecDeque::new() }
    }
}

impl<S: Sensor> Observer for Polled<S> {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return event;
            }
            self.interval.tick().await;
            let sensor = Arc::clone(&self.sensor);
            let looked = off_loop(move || sensor.lock().unwrap_or_else(PoisonError::into_inner).read()).await;
            self.queue = self.sight.judge(looked);
        }
    }
}

/// Runs what reads files beside the event loop; a panic in it is a failed look.
async fn off_loop<T: Send + 'static>(look: impl FnOnce() -> Result<T, ReadError> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(look).await {
        Ok(looked) => looked.map_err(|e| e.to_string()),
        Err(broken) => Err(format!("looking broke off: {broken}")),
    }
}

/// At once, and then at whole multiples of the period on the kernel's clock: what looks as often looks at the same moment, and
/// wakes a CPU once. Ticks that were missed are left out; one that is late may be close to the next.
pub(crate) fn every(period: Duration) -> Interval {
    let past = Duration::from_nanos(boottime().0 % period.as_nanos().max(1) as u64);
    let now = Instant::now();
    let mut interval = tokio::time::interval_at(now.checked_sub(past).unwrap_or(now), period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

/// The cgroups that somebody wants to hear about, shared between the loop and its observers.
#[derive(Clone, Debug, Default)]
pub struct Watched(Arc<Mutex<Vec<String>>>);

impl Watched {
    /// Paths inside the memory hierarchy.
    pub fn set(&self, mut paths: Vec<String>) {
        paths.sort_unstable();
        paths.dedup();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = paths;
    }
    #[must_use]
    pub fn get(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
