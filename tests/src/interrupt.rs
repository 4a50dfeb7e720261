//! Ctrl-C and the like set a flag; what runs for minutes looks at it every second, and undoes what it did.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn catch() -> Result<Self, String> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(|e| format!("signals: {e}"))?;
        }
        Ok(Self(flag))
    }
    pub fn check(&self) -> Result<(), String> {
        if self.0.load(Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }
    pub fn sleep(&self, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.check()?;
            std::thread::sleep(left.min(Duration::from_millis(500)));
        }
        self.check()
    }
}
