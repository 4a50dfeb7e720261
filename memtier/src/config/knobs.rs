//! Every knob, once: unit in the name, default, range, meaning, how to turn it off. `--help`, the sample file and
//! docs/knobs.md are generated from this table; the structs are what the rest of memtier reads.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Value of a knob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Number(u64),
    Switch(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Switch(on) => on.fmt(f),
        }
    }
}

/// Description of one knob, and the way to its place in `Config`.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    pub table: &'static str,
    pub key: &'static str,
    pub default: Value,
    /// Inclusive; 0..=1 for switches.
    pub range: (u64, u64),
    /// One or more lines, each as ` text\n`.
    pub meaning: &'static str,
    /// The value that disables what it does; empty where nothing does.
    pub off: &'static str,
    pub get: fn(&Config) -> Value,
    /// False, and nothing set, when the value is of the other type.
    pub set: fn(&mut Config, Value) -> bool,
}

macro_rules! tables {
    ($($(#[doc = $tdoc:literal])+ $table:ident: $Table:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $ty:ident = $default:literal, $low:literal..=$high:literal, $off:literal;)+
    })+) => {
        $(
            $(#[doc = $tdoc])+
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $Table { $($(#[doc = $doc])+ pub $key: $ty,)+ }

            impl Default for $Table {
                fn default() -> Self {
                    Self { $($key: $default,)+ }
                }
            }
        )+

        /// All knobs in the order of the sample file.
        pub static KNOBS: &[Knob] = &[$($(Knob {
            table: stringify!($table),
            key: stringify!($key),
            default: tables!(@value $ty $default),
            range: ($low, $high),
            meaning: concat!($($doc, "\n"),+),
            off: $off,
            get: |config| tables!(@value $ty config.$table.$key),
            set: |config, value| tables!(@set $ty config.$table.$key, value),
        },)+)+];

        /// (table, what it is for) in the order of the sample file.
        pub static TABLES: &[(&str, &str)] = &[$((stringify!($table), concat!($($tdoc, "\n"),+)),)+];

        /// Tables of the configuration file with one struct each.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $(pub $table: $Table,)+
            /// Target rules, in order; the first match wins.
            pub target: Vec<super::Target>,
            /// memcached servers.
            pub cache: Vec<super::CacheRule>,
        }
    };
    (@value u64 $v:expr) => { Value::Number($v) };
    (@value bool $v:expr) => { Value::Switch($v) };
    (@set u64 $place:expr, $v:expr) => { if let Value::Number(v) = $v { $place = v; true } else { false } };
    (@set bool $place:expr, $v:expr) => { if let Value::Switch(v) = $v { $place = v; true } else { false } };
}

tables! {
    /// What the daemon may do at all. The command line sets these for one run.
    daemon: Daemon {
        /// Carry out page-outs and other steps; otherwise every step is advice only.
        act: bool = false, 0..=1, "false";
        /// Clear accessed bits of selected processes, so that heat is known. Implied by act.
        arm: bool = false, 0..=1, "false";
        /// Select every process that no rule excludes and the code does not protect.
        all: bool = false, 0..=1, "false";
        /// Let members of the control socket's group pause, resume, reload and record, not only root.
        group_acts: bool = false, 0..=1, "false";
        /// While acting, a touch of swapped memory reads 2^this pages (vm.page-cluster; 0 is right for zram). 10 keeps the host's.
        page_cluster: u64 = 10, 0..=10, "10";
    }
    /// Walks of the page tables.
    scan: Scan {
        /// Time between two walks of one process.
        period_ms: u64 = 10000, 100..=3600000, "";
        /// CPU time that walks may take of a core. Where all would take more, those that take most are walked less often.
        walk_permil_of_core: u64 = 5, 1..=1000, "1000";
        /// Processes with less resident memory than this are not walked.
        min_resident_mib: u64 = 64, 0..=1048576, "";
        /// Processes walked at most; the largest come first.
        max_procs: u64 = 64, 1..=4096, "";
    }
    /// The heat model.
    heat: Heat {
        /// Resolution of idle ages; the oldest age that can be told is 255 of these.
        age_tick_ms: u64 = 15000, 100..=60000, "";
        /// Memory of all models beside 0.1 % of the tracked memory.
        fixed_mib: u64 = 64, 40..=1024, "";
    }
    /// Clearing accessed bits (arming).
    arm: Arm {
        /// Bits cleared per second at most, in MiB of mapped memory.
        quota_mib_per_s: u64 = 512, 0..=1048576, "0";
        /// A block that answers as expected is asked half as often each time, down to once in so many walks (rounded down to 2^n).
        longest_walks: u64 = 16, 1..=64, "1";
        /// Part of the accessed pages that is asked per walk; eight times as much while the hot set moves.
        share_permil: u64 = 125, 1..=1000, "1000";
        /// CPU time that touching the asked pages again may cost a process, over ten minutes.
        tax_permil_of_core: u64 = 1, 1..=1000, "1000";
        /// CPU time that the hands may take of a core to clear the bits of all processes, over ten minutes. Once that is spent a walk is followed by 4096 pages at most.
        cpu_permil_of_core: u64 = 3, 1..=1000, "1000";
        /// One call clears at most this much, then pauses, so that mmap() in the target need not wait long.
        slice_mib: u64 = 8, 1..=32, "";
        /// Pause between two calls of the hands.
        pause_us: u64 = 200, 0..=100000, "";
    }
    /// What all policies together may use up.
    budget: Budget {
        /// Memory moved or paged out per second.
        moved_mib_per_s: u64 = 256, 0..=1048576, "0";
        /// System calls of the hands per second.
        syscalls_per_s: u64 = 2000, 0..=1000000, "0";
        /// Bytes written to swap on flash or disk per day; zram is not counted. 0 forbids such writes.
        swap_writes_gib_per_day: u64 = 50, 0..=1048576, "";
        /// Swap kept free, in thousandths of all swap.
        swap_free_permil: u64 = 200, 0..=1000, "0";
        /// Stop where a byte paged out to zram costs more than this many thousandths of a byte of memory.
        swap_cost_permil: u64 = 800, 1..=1000, "1000";
    }
    /// Brakes common to all policies that act.
    brake: Brake {
        /// Hold while the host's memory pressure "some" avg10 is over this, in hundredths of a percent.
        memory_some_centipercent: u64 = 500, 0..=10000, "10000";
        /// Hold while the host's I/O pressure "some" avg10 is over this, in hundredths of a percent.
        io_some_centipercent: u64 = 4000, 0..=10000, "10000";
        /// How long a brake holds after its cause is gone.
        hold_s: u64 = 60, 0..=86400, "0";
    }
    /// Default policy: page out the oldest idle ages while the predicted promotion rate stays under the SLO.
    autocold: Autocold {
        /// Off means that targets with this policy are only watched.
        enabled: bool = true, 0..=1, "false";
        /// Promotions (touches of paged-out memory) per minute, in thousandths of the working set.
        slo_permil_per_min: u64 = 2, 0..=1000, "0";
        /// Never page out what was idle for less than this.
        min_idle_s: u64 = 120, 1..=86400, "";
        /// Watch a process at least this long before the first page-out.
        warmup_s: u64 = 300, 0..=86400, "0";
        /// Page out at most this share of the resident memory per turn, in thousandths.
        step_permil: u64 = 20, 1..=1000, "";
        /// Time between two turns that look at all processes; the end of each walk is answered besides.
        period_ms: u64 = 5000, 100..=3600000, "";
        /// Only deactivate (MADV_COLD) instead of paging out: reclaim then takes these pages first when it must.
        mild: bool = false, 0..=1, "false";
    }
    /// etmem's slide: counts per page over a round of scans, fixed threshold.
    slide: Slide {
        /// Off means that targets with this policy are only watched.
        enabled: bool = true, 0..=1, "false";
        /// Pages counted fewer than this go out; a read counts 1 and a write 3 per scan.
        threshold: u64 = 1, 0..=255, "0";
        /// Scans per round.
        scans: u64 = 3, 1..=85, "";
        /// Act only while free memory is under this share of all memory, in percent; 100 always acts.
        free_below_percent: u64 = 100, 0..=100, "0";
        /// Act only on processes with more resident memory than this; 0 uses etmem's swapped-share rule instead.
        resident_over_mib: u64 = 0, 0..=1073741824, "0";
        /// Stop when resident memory is down to this share of resident plus swapped, in percent; 0 takes all cold pages.
        dram_percent: u64 = 0, 0..=100, "0";
    }
    /// Brings threads and memory of a process together on the nodes that suit it. Only where there is more than one node.
    numa: Numa {
        /// Off means that nobody's threads or pages are placed.
        enabled: bool = true, 0..=1, "false";
        /// Time between two turns; the end of a walk and of one of its own steps has one at once.
        period_ms: u64 = 5000, 100..=3600000, "";
        /// Memory moved between nodes per second at most; budget.moved_mib_per_s holds besides.
        quota_mib_per_s: u64 = 256, 0..=1048576, "0";
        /// One step moves at most this much of a process.
        slice_mib: u64 = 256, 2..=1048576, "";
        /// Kept free on every node, in thousandths of its memory.
        node_free_permil: u64 = 20, 0..=1000, "0";
        /// A move must have paid for itself after this time.
        amortise_s: u64 = 60, 1..=86400, "";
        /// A process keeps the nodes it was given at least this long, and no page is moved twice within it.
        settle_s: u64 = 60, 0..=86400, "0";
    }
    /// Keeps what is in use on fast nodes, and what is not on slow ones. Only where there are slow nodes.
    tier: Tier {
        /// Off means that nothing is moved between fast and slow nodes, but for what numa brings home.
        enabled: bool = true, 0..=1, "false";
        /// Time between two turns; the end of a walk has one a second later.
        period_ms: u64 = 5000, 100..=3600000, "";
        /// Memory moved per second at most over the link of each slow node, both ways together; budget.moved_mib_per_s holds besides.
        quota_mib_per_s: u64 = 256, 0..=1048576, "0";
        /// Kept free on fast nodes for memory to come, in thousandths, above numa.node_free_permil. Cold memory makes room for it.
        reserve_permil: u64 = 20, 0..=1000, "0";
        /// Hot is a page that is accessed between two walks with at least this chance, in thousandths, ...
        hot_permil: u64 = 500, 1..=1000, "";
        /// ... and cold is one that has been idle for at least this long.
        cold_s: u64 = 60, 1..=86400, "";
        /// No page is moved between nodes again within this time.
        settle_s: u64 = 60, 0..=86400, "0";
    }
    /// memcached servers of the [[cache]] rules: how they are watched, and how slab-marginal moves their pages.
    caches: Caches {
        /// Off means that servers are watched, and no page of theirs is moved.
        enabled: bool = true, 0..=1, "false";
        /// Time between two looks at the counters of a server.
        period_ms: u64 = 500, 50..=3600000, "";
        /// A server that takes longer to accept or to answer is let go, and asked again with back-off.
        timeout_ms: u64 = 1000, 10..=600000, "";
        /// Longest wait between two attempts at a server that cannot be talked to.
        retry_most_ms: u64 = 30000, 500..=3600000, "";
        /// Read each server's record of evictions, which tells what comes back; otherwise its counters must do, and no class is known to gain.
        watch_evictions: bool = true, 0..=1, "false";
        /// Read a server's record of fetches for so long at a time, ...
        fetchers_on_ms: u64 = 1000, 0..=60000, "0";
        /// ... once in this time.
        fetchers_every_s: u64 = 60, 1..=86400, "";
        /// Records are not read any more when nothing was worth a move for so long: a stream of 4000 evictions a second takes a server 7 % of its CPU time.
        rest_after_s: u64 = 120, 0..=86400, "0";
        /// After that time no page moves that, together with all others worth it and those that moved in that time, would spare less than this part of the misses, in thousandths.
        rest_gain_permil: u64 = 10, 0..=1000, "0";
        /// They are read again after this time, ...
        rest_s: u64 = 1800, 1..=86400, "";
        /// ... or once this part of requests or evictions, in thousandths, went over to other classes.
        rest_shift_permil: u64 = 100, 1..=1000, "1000";
        /// Keys of evictions and fetches that are remembered per second and server at most, a sample by their hash.
        sampled_keys_per_s: u64 = 4000, 100..=100000, "";
        /// Keep the sampled keys in recordings as they are, not only their hash.
        keep_keys: bool = false, 0..=1, "false";
        /// Pages moved per second and server at most; a server moves one at a time.
        pages_per_s: u64 = 50, 0..=1000, "0";
        /// What a page earns and costs is reckoned from this much of the past.
        window_s: u64 = 16, 2..=3600, "";
        /// A page moves only if it earns more by this part, in thousandths, ...
        hysteresis_permil: u64 = 250, 0..=10000, "0";
        /// ... and makes up within this time for the items that are lost with it.
        payback_s: u64 = 120, 1..=86400, "";
        /// A page must earn so many thousandths of a hit per second in its new class.
        least_gain_milli: u64 = 50, 1..=1000000000, "";
        /// Pages that the pool shall hold for bursts, in thousandths of all pages, one at least; it takes only such as earn nothing.
        /// 0 also leaves the pool of a server with extstore low.
        pool_permil: u64 = 10, 0..=1000, "0";
        /// What a get that is answered from flash (extstore) costs, in thousandths of a miss; 0: nothing.
        flash_read_permil: u64 = 100, 0..=1000, "";
        /// A class that writes to flash keeps this much free, in thousandths of its chunks, a page and a half at least.
        flash_free_permil: u64 = 5, 0..=500, "";
        /// Watch a server so long before its first page moves.
        warmup_s: u64 = 5, 0..=86400, "0";
        /// No memory of a server's process is paged out for so long after a page of it moved.
        settle_s: u64 = 10, 0..=86400, "0";
    }
    /// Recording.
    trace: Trace {
        /// Start a new file when this much was written.
        segment_mib: u64 = 64, 1..=65536, "";
        /// Keep at most this much; the oldest files go first.
        keep_mib: u64 = 1024, 1..=16777216, "";
        /// Delete files older than this.
        keep_hours: u64 = 168, 1..=87600, "";
    }
}
