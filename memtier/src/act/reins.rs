//! Steers the hands from outside of their threads.

use crate::config;
use crate::vocab::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Cheap to clone; all clones steer the same hands.
#[derive(Clone, Debug)]
pub struct Reins(Arc<Held>);

#[derive(Debug)]
struct Held {
    stop: AtomicBool,
    slice: AtomicU64,
    pause_us: AtomicU64,
}

impl Reins {
    #[must_use]
    pub fn new(arm: &config::Arm) -> Self {
        let reins = Self(Arc::new(Held { stop: false.into(), slice: 0.into(), pause_us: 0.into() }));
        reins.tune(arm);
        reins
    }
    /// Stops the steps under way at their next slice, and every later one, until released: for pause and shutdown.
    pub fn stop(&self, on: bool) {
        self.0.stop.store(on, Ordering::Relaxed);
    }
    /// Takes new knobs from the next slice on.
    pub fn tune(&self, arm: &config::Arm) {
        self.0.slice.store(Bytes::from_mib(arm.slice_mib).0, Ordering::Relaxed);
        self.0.pause_us.store(arm.pause_us, Ordering::Relaxed);
    }
    pub(super) fn stopped(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }
    /// Bytes of one call that clears accessed bits.
    pub(super) fn slice(&self) -> u64 {
        self.0.slice.load(Ordering::Relaxed)
    }
    /// Between two calls.
    pub(super) fn pause(&self) -> Duration {
        Duration::from_micros(self.0.pause_us.load(Ordering::Relaxed))
    }
}
