//! Memory cgroups, version 1 and 2: what they use and may use.

use super::{Sensor, Watched};
pub use crate::sys::cgroup::{Hierarchy, Version};
use crate::sys::files::{ReadError, Root, field};
use crate::vocab::{Bytes, CgroupSample, Event, Pages, Sample, Source};
use std::path::Path;

impl Hierarchy {
    pub fn sample(&self, root: &Root, path: &str) -> Result<CgroupSample, ReadError> {
        let Some(dir) = self.dir(path) else {
            return Err(root.nonsense(path, "is outside of the mounted cgroup hierarchy"));
        };
        let stat = root.text(dir.join("memory.stat"))?;
        let count = |key| field(&stat, key).unwrap_or_default();
        let mut sample = CgroupSample { id: self.id(root, path), path: path.into(), ..CgroupSample::default() };
        match self.version {
            Version::V1 => {
                sample.usage = Bytes(root.number(dir.join("memory.usage_in_bytes"))?);
                sample.limit = limit(count("hierarchical_memory_limit"));
                // Version 1 has no limit on swap alone: memory and swap together have one.
                sample.swap_limit = limit(field(&stat, "hierarchical_memsw_limit").unwrap_or(u64::MAX));
                sample.swap_usage = Bytes(count("total_swap"));
                sample.anon = Bytes(count("total_rss"));
                sample.file = Bytes(count("total_cache"));
                sample.refault_anon = Pages(count("total_workingset_refault_anon"));
                sample.refault_file = Pages(count("total_workingset_refault_file"));
            }
            Version::V2 => {
                sample.usage = number_or_zero(root, &dir.join("memory.current"))?;
                sample.swap_usage = number_or_zero(root, &dir.join("memory.swap.current"))?;
                (sample.limit, sample.swap_limit) = self.limits(root, &dir, sample.swap_usage)?;
                sample.anon = Bytes(count("anon"));
                sample.file = Bytes(count("file"));
                sample.scanned = Pages(count("pgscan"));
                sample.refault_anon = Pages(count("workingset_refault_anon"));
                sample.refault_file = Pages(count("workingset_refault_file"));
            }
        }
        Ok(sample)
    }

    /// Limits of a version 2 cgroup as its ancestors tighten them: the least memory.max, and of swap what it uses now plus
    /// the least room left in it or above.
    fn limits(&self, root: &Root, dir: &Path, swap_usage: Bytes) -> Result<(Bytes, Bytes), ReadError> {
        let (mut limit, mut room) = (Bytes::MAX, Bytes::MAX);
        for level in dir.ancestors().take_while(|d| d.starts_with(&self.mount)) {
            limit = limit.min(number_or_max(root, &level.join("memory.max"))?);
            let swap_max = number_or_max(root, &level.join("memory.swap.max"))?;
            if swap_max != Bytes::MAX {
                room = room.min(swap_max.saturating_sub(number_or_zero(root, &level.join("memory.swap.current"))?));
            }
        }
        Ok((limit, swap_usage.saturating_add(room)))
    }
}

/// The root cgroup of version 2 has neither usage nor limits, and without swap accounting no cgroup has swap files.
fn number_or_zero(root: &Root, path: &Path) -> Result<Bytes, ReadError> {
    match root.number(path) {
        Err(e) if e.is_gone() => Ok(Bytes::ZERO),
        number => number.map(Bytes),
    }
}

fn number_or_max(root: &Root, path: &Path) -> Result<Bytes, ReadError> {
    match root.text(path) {
        Err(e) if e.is_gone() => Ok(Bytes::MAX),
        Ok(text) if text.trim() == "max" => Ok(Bytes::MAX),
        Ok(_) => root.number(path).map(Bytes),
        Err(e) => Err(e),
    }
}

/// Version 1 writes "no limit" as the largest multiple of a page.
fn limit(bytes: u64) -> Bytes {
    if bytes >= i64::MAX as u64 & !0xffff { Bytes::MAX } else { Bytes(bytes) }
}

/// Samples the watched cgroups.
#[derive(Debug)]
pub struct CgroupSensor {
    pub root: Root,
    pub hierarchy: Hierarchy,
    pub watched: Watched,
}

impl Sensor for CgroupSensor {
    fn source(&self) -> Source {
        Source::Cgroup
    }
    fn read(&mut self) -> Result<Vec<Event>, ReadError> {
        let mut events = Vec::new();
        for path in self.watched.get() {
            match self.hierarchy.sample(&self.root, &path) {
                Ok(sample) => events.push(Event::Sample(Sample::Cgroup(sample))),
                // Removed, or in a namespace of its own: nothing to say about it, and no reason to go blind.
                Err(e) if e.is_gone() => {}
                Err(ReadError::Text { .. }) if self.hierarchy.dir(&path).is_none() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(events)
    }
}
