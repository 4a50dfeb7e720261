//! Pressure: read once a period, and at once when a trigger on memory fires.

use super::{Observer, Sight, Watched, cgroup::Hierarchy, every};
use crate::sys::files::{ReadError, Root};
use crate::sys::psi::{self, Stall};
use crate::vocab::{Event, Pressure, PressureKind, Sample, Source};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Interval;

/// Window of the trigger: without CAP_SYS_RESOURCE the kernel takes only multiples of 2 s.
pub(super) const WINDOW_US: u64 = 2_000_000;
pub(super) const MEMORY: &str = "/proc/pressure/memory";
const HOST: [(PressureKind, &str); 3] =
    [(PressureKind::Memory, MEMORY), (PressureKind::Io, "/proc/pressure/io"), (PressureKind::Cpu, "/proc/pressure/cpu")];

#[derive(Debug)]
pub struct PsiObserver {
    root: Root,
    /// Version 2 cgroups have a memory.pressure each.
    hierarchy: Option<Hierarchy>,
    watched: Watched,
    interval: Interval,
    trigger: Option<AsyncFd<File>>,
    sight: Sight,
    queue: VecDeque<Event>,
}

impl PsiObserver {
    /// `stall_centipercent`: share of stalled time at which the trigger fires; 0 sets none. A trigger that the
    /// kernel refuses is no error: the periodic reading goes on, and doctor tells.
    #[must_use]
    pub fn new(root: Root, hierarchy: Option<Hierarchy>, watched: Watched, period: Duration, stall_centipercent: u64) -> Self {
        let stall_us = stall_centipercent * WINDOW_US / 10_000;
        let trigger = (stall_us > 0)
            .then(|| psi::trigger(&root, MEMORY, stall_us.min(WINDOW_US), WINDOW_US))
            .and_then(|armed| armed.and_then(psi::watch).ok());
        Self { root, hierarchy, watched, interval: every(period), trigger, sight: Sight::new(Source::Psi), queue: VecDeque::new() }
    }

    /// Whether stalls are told at once.
    #[must_use]
    pub const fn has_trigger(&self) -> bool {
        self.trigger.is_some()
    }

    fn look(&self, kinds: &[(PressureKind, &str)], triggered: bool) -> Result<Vec<Event>, ReadError> {
        kinds.iter().map(|(kind, path)| read(&self.root, path, *kind, "", triggered)).collect()
    }

    fn look_all(&self) -> Result<Vec<Event>, ReadError> {
        let mut events = self.look(&HOST, false)?;
        for (path, file) in self.cgroup_files() {
            match read(&self.root, file, PressureKind::Memory, &path, false) {
                Ok(event) => events.push(event),
                // Gone, or the root or a version 1 cgroup, which have none.
                Err(e) if e.is_gone() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(events)
    }

    fn cgroup_files(&self) -> Vec<(String, PathBuf)> {
        let Some(hierarchy) = &self.hierarchy else { return Vec::new() };
        let file = |path: String| {
            let file = hierarchy.dir(&path)?.join("memory.pressure");
            Some((path, file))
        };
        self.watched.get().into_iter().filter_map(file).collect()
    }
}

fn read(root: &Root, path: impl AsRef<Path>, kind: PressureKind, cgroup: &str, triggered: bool) -> Result<Event, ReadError> {
    let path = path.as_ref();
    let Some(stall) = Stall::parse(&root.text(path)?) else { return Err(root.nonsense(path, "no \"some\" line")) };
    let Stall { some_avg10, some_avg60, full_avg10, some_total_us, full_total_us } = stall;
    let cgroup = cgroup.to_owned();
    let pressure = Pressure { kind, cgroup, some_avg10, some_avg60, full_avg10, some_total_us, full_total_us, triggered };
    Ok(Event::Sample(Sample::Pressure(pressure)))
}

/// Waits until the trigger fires; for ever where there is none.
async fn fired(trigger: Option<&AsyncFd<File>>) -> io::Result<()> {
    match trigger {
        Some(fd) => {
            let mut ready = fd.ready(Interest::PRIORITY).await?;
            if ready.ready().is_error() {
                return Err(io::Error::other("the trigger is gone"));
            }
            ready.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

impl Observer for PsiObserver {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return event;
            }
            let looked = tokio::select! {
                fired = fired(self.trigger.as_ref()) => match fired {
                    Ok(()) => self.look(&HOST[..1], true),
                    Err(_) => {
                        self.trigger = None;
                        continue;
                    }
                },
                _ = self.interval.tick() => self.look_all(),
            };
            self.queue = self.sight.judge(looked);
        }
    }
}
