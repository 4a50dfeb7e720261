//! The workload of the demo and of `bench saved`: a cache whose items mostly go cold, and a daemon set for minutes.

use crate::load::Shape;

/// About 1.5 GiB in the slab class of 1184 bytes. A read asks for a timeline: 16 items of the newest 40,000, which are 47 MiB
/// and are all asked for every few seconds. The rest is cold: one item in 100,000 asked for is any at all, and an insert, which
/// looks the new key up first, meets what its hash chain holds.
pub const SHAPE: Shape = Shape {
    items: 1_300_000,
    value_bytes: 1100,
    window: 40_000,
    keys_per_read: 16,
    stray_one_in: 100_000,
    writes_permil: 50,
    insert_one_in: 50,
    rate: 1_500,
    threads: 2,
    compressible: true,
};
/// A hash table that does not grow and no crawler: each would touch every item, as it does in any memcached until it is done.
pub const MEMCACHED: [&str; 2] = ["-o", "hashpower=22,no_hashexpand,no_lru_crawler"];
pub const MEMCACHED_MIB: u64 = 1700;

/// Made for minutes instead of days: one minute of the demo stands for six, so that ages are a sixth of the defaults and
/// promotions per minute six times as many. Everything that is not named keeps its default.
pub const CONFIG: &str = r#"[scan]
period_ms = 2500
[heat]
age_tick_ms = 1000
[brake]
hold_s = 10
[autocold]
slo_permil_per_min = 12
min_idle_s = 20
warmup_s = 30
step_permil = 60
period_ms = 2500
"#;
