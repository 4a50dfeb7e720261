//! The one point where events become a stream: numbered without gaps, stamped on one clock that never steps back.
//!
//! One bounded channel. Page samples and outcomes wait for room, so that a walk is slowed down rather than torn; events
//! that the kernel reports one by one do not wait: what finds no room is counted and comes in as `Event::Lost`.

use crate::sys::clock::boottime;
use crate::vocab::{Event, Sample, Source, Stamped, Time};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Events under way, most of them under 200 bytes.
const ROOM: usize = 4096;
/// Page chunks under way: 38 KiB each, so 2.4 MiB.
const CHUNKS: usize = 64;
/// What droppable events leave free for those that must not be dropped.
const RESERVE: usize = 512;

/// An event under way; a page chunk holds its place until the loop takes it.
#[derive(Debug)]
struct Parcel {
    event: Event,
    _chunk: Option<OwnedSemaphorePermit>,
}

/// A place in the stream for one event that will come for sure.
#[derive(Debug)]
pub struct Place(mpsc::OwnedPermit<Parcel>);

impl Place {
    pub fn fill(self, event: Event) {
        self.0.send(Parcel { event, _chunk: None });
    }
}

/// Where sources and hands put what they have.
#[derive(Clone, Debug)]
pub struct Inlet {
    to: mpsc::Sender<Parcel>,
    chunks: Arc<Semaphore>,
    dropped: Arc<[AtomicU64; Source::ALL.len()]>,
}

impl Inlet {
    /// Waits for room. False: the loop is gone.
    pub async fn put(&self, event: Event) -> bool {
        let chunk = match &event {
            Event::Sample(Sample::Pages(_)) => Some(Arc::clone(&self.chunks).acquire_owned().await.expect("never closed")),
            _ => None,
        };
        self.to.send(Parcel { event, _chunk: chunk }).await.is_ok()
    }

    /// Never waits; without room the event counts as lost by `source`.
    pub fn offer(&self, source: Source, event: Event) {
        let room = self.to.capacity() > RESERVE;
        if !room || matches!(self.to.try_send(Parcel { event, _chunk: None }), Err(TrySendError::Full(_))) {
            self.dropped[source as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The loop's end.
#[derive(Debug)]
pub struct Intake {
    from: mpsc::Receiver<Parcel>,
    /// Taken out early to make room for a reservation.
    ahead: VecDeque<Parcel>,
    inlet: Inlet,
    seq: u64,
    at: Time,
}

impl Intake {
    #[must_use]
    pub fn new() -> Self {
        let (to, from) = mpsc::channel(ROOM);
        let inlet =
            Inlet { to, chunks: Arc::new(Semaphore::new(CHUNKS)), dropped: Arc::new(std::array::from_fn(|_| AtomicU64::new(0))) };
        Self { from, ahead: VecDeque::new(), inlet, seq: 0, at: Time::ZERO }
    }

    #[must_use]
    pub fn inlet(&self) -> Inlet {
        self.inlet.clone()
    }

    /// The next event, as soon as there is one.
    pub async fn next(&mut self) -> Event {
        match self.take() {
            Some(event) => event,
            None => self.from.recv().await.expect("this side holds an inlet too").event,
        }
    }

    /// The next event if there is one: first what was lost, so that no model trusts a gap.
    pub fn take(&mut self) -> Option<Event> {
        for source in Source::ALL {
            let count = self.inlet.dropped[source as usize].swap(0, Ordering::Relaxed);
            if count > 0 {
                return Some(Event::Lost { source, count });
            }
        }
        self.ahead.pop_front().or_else(|| self.from.try_recv().ok()).map(|parcel| parcel.event)
    }

    /// A place for an outcome; makes room if there is none. The order of events stays.
    pub fn reserve(&mut self) -> Place {
        loop {
            if let Ok(permit) = self.inlet.to.clone().try_reserve_owned() {
                return Place(permit);
            }
            match self.from.try_recv() {
                Ok(parcel) => self.ahead.push_back(parcel),
                // Every place is kept for an outcome that has not come: the hands will fill some.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => std::thread::yield_now(),
            }
        }
    }

    /// Number and time of an event that goes in now.
    pub fn stamp(&mut self, event: Event) -> Stamped {
        self.seq += 1;
        self.at = boottime().max(self.at);
        Stamped { seq: self.seq, at: self.at, event }
    }

    /// Number of the last event that went in.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }
}

impl Default for Intake {
    fn default() -> Self {
        Self::new()
    }
}
