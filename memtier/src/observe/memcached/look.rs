//! What a server says of itself, from its tables.

use super::wire::Stats;
use crate::compat::slab::Sample;
use crate::sys::clock::boottime;
use crate::sys::files::{Root, start_ticks};
use crate::vocab::{CacheLook, CacheServer, ClassId, ClassLook, Permil, ProcKey, Span};
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::address::Address;

/// A process that is this much older or younger than the server says is another one.
const SAME_AGE: Span = Span::from_secs(3);

/// More pages, or chunks on one, than any server has; more of anything else at a time; and more than a counter counts. What a
/// server says beyond it is nonsense, and no reason to reckon with numbers that overflow.
const MOST_PAGES: u64 = 1 << 31;
const MOST_NOW: u64 = 1 << 40;
const MOST_EVER: u64 = 1 << 56;

fn number(stats: &Stats, name: &str) -> u64 {
    stats.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// What it is, of `stats` and `stats settings`.
#[must_use]
pub fn server(address: &Address, general: &Stats, settings: &Stats) -> CacheServer {
    let on = |name: &str| settings.get(name).is_some_and(|value| value == "yes");
    CacheServer {
        address: address.to_string(),
        version: general.get("version").unwrap_or_default().to_owned(),
        life: Sample::read(std::iter::empty(), general.iter()).life,
        proc: near(address).then(|| process(number(general, "pid"), number(general, "uptime"))).flatten(),
        reassign: on("slab_reassign"),
        segmented: on("lru_segmented"),
        extstore: general.iter().any(|(name, _)| name.starts_with("extstore_")),
        flash_from: number(settings, "ext_item_size"),
        early: early(general.get("version"), settings.get("slab_automove_freeratio")),
    }
}

/// What its own mover wants in the pool; from memcached 1.6.17 on those go by it who write to flash (storage.c, `storage_write_thread`).
/// If it never ran, and a smaller pool would do, nobody tells.
fn early(version: Option<&str>, ratio: Option<&str>) -> Option<Permil> {
    let leading = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<u32>().ok());
    let mut parts = version?.split('.').map(|part| leading(part).unwrap_or(0));
    let version = [(); 3].map(|()| parts.next().unwrap_or(0));
    let ratio: f64 = ratio?.parse().ok()?;
    (version >= [1, 6, 17]).then_some(Permil((ratio.clamp(0.0, 1.0) * 1000.0).round() as u64))
}

/// `slab_automove` of `stats settings`; none where the server has no mover.
#[must_use]
pub fn automove(settings: &Stats) -> Option<u8> {
    // Servers print it as a number, a few as a word.
    match settings.get("slab_automove")? {
        "no" => Some(0),
        "yes" => Some(1),
        digits => digits.parse().ok(),
    }
}

/// Its counters, of `stats items`, `stats slabs` and `stats`.
#[must_use]
pub fn look(items: &Stats, slabs: &Stats, general: &Stats, automove: Option<u8>) -> CacheLook {
    let mut classes = BTreeMap::<ClassId, ClassLook>::new();
    for (name, value) in items.iter().chain(slabs.iter()) {
        let name = name.strip_prefix("items:").unwrap_or(name);
        let known = name.split_once(':').and_then(|(id, name)| Some((ClassId(id.parse().ok()?), name, value.parse().ok()?)));
        let Some((id, name, value)) = known else { continue };
        // A server has none of number 0.
        if id.0 == 0 {
            continue;
        }
        let class = classes.entry(id).or_insert_with(|| ClassLook { class: id, ..ClassLook::default() });
        set(class, name, value);
    }
    CacheLook {
        pool: number(general, "slab_global_page_pool").min(MOST_PAGES),
        moving: number(general, "slab_reassign_running") != 0,
        moved: number(general, "slabs_moved"),
        flash_reads: number(general, "get_extstore"),
        automove,
        dropped: number(general, "log_worker_dropped"),
        classes: classes.into_values().filter(|class| class.pages > 0).collect(),
    }
}

fn set(class: &mut ClassLook, name: &str, value: u64) {
    let (now, ever) = (value.min(MOST_NOW), value.min(MOST_EVER));
    match name {
        "chunk_size" => class.chunk_size = now,
        "chunks_per_page" => class.chunks_per_page = value.min(MOST_PAGES),
        "total_pages" => class.pages = value.min(MOST_PAGES),
        "used_chunks" => class.used = now,
        "free_chunks" => class.free = now,
        "number" => class.items = now,
        "number_cold" => class.cold = now,
        "number_warm" => class.warm = now,
        "age" => class.age = now,
        "get_hits" => class.hits = ever,
        "hits_to_cold" => class.cold_hits = ever,
        "hits_to_warm" => class.warm_hits = ever,
        "cmd_set" => class.sets = ever,
        "evicted" => class.evicted = ever,
        "reclaimed" => class.reclaimed = ever,
        "crawler_reclaimed" => class.crawled = ever,
        "outofmemory" => class.out_of_memory = ever,
        _ => {}
    }
}

/// Whether it is on this host by its address.
fn near(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp { host, .. } => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

/// The process of this pid, if it is as old as the server: one in a container has another pid here.
fn process(pid: u64, uptime: u64) -> Option<ProcKey> {
    let pid = u32::try_from(pid).ok()?;
    let start = start_ticks(&Root::host().bytes(format!("/proc/{pid}/stat")).ok()?)?;
    let age = boottime().0 / 1_000_000 / 10;
    let age = Span::from_millis(age.saturating_sub(start) * 10);
    let told = Span::from_secs(uptime);
    (age.0.abs_diff(told.0) <= SAME_AGE.0).then_some(ProcKey { pid, start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_go_by_the_pool_from_1_6_17_on() {
        let cases = [
            (Some("1.6.18"), Some("0.010"), Some(10)),
            (Some("1.6.17"), Some("0.25"), Some(250)),
            (Some("1.10.0"), Some("7"), Some(1000)),
            (Some("1.6.18-5-gabc"), Some("0.017"), Some(17)),
            (Some("1.6.16"), Some("0.010"), None),
            (Some("1.6"), Some("0.010"), None),
            (Some("unknown"), Some("0.010"), None),
            (Some("1.6.18"), Some("much"), None),
            (Some("1.6.18"), None, None),
            (None, Some("0.010"), None),
        ];
        for (version, ratio, expect) in cases {
            assert_eq!(early(version, ratio).map(|permil| permil.0), expect, "{version:?} {ratio:?}");
        }
    }

    #[test]
    fn the_parts_of_a_list_are_told_apart() {
        let mut class = ClassLook::default();
        for (name, value) in
            [("number", 9), ("number_cold", 5), ("number_warm", 3), ("get_hits", 70), ("hits_to_cold", 4), ("hits_to_warm", 6)]
        {
            set(&mut class, name, value);
        }
        assert_eq!((class.items, class.cold, class.warm), (9, 5, 3));
        assert_eq!((class.hits, class.cold_hits, class.warm_hits), (70, 4, 6));
    }
}
