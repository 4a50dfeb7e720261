//! `bench scan`: one walk as the daemon does it, beside what else tells about the pages of another process.

use memtier::observe::bpf::{Object, Options, deepest};
use memtier::observe::walker::Walker;
use memtier::plan::Governor;
use memtier::sys::{pagemap, pagescan};
use memtier::vocab::{AddrRange, Event, ProcKey, Sample, Stamped, Time};
use memtier_tests::cpu;
use memtier_tests::hog::{Fill, Hog};
use memtier_tests::rows::{Goal, Row};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

const WANTED_MIB: u64 = 8 << 10;
/// Left free for everything else on the machine.
const SPARE_MIB: u64 = 1536;
const ROUNDS: usize = 31;

/// Nanoseconds per page of each round.
#[derive(Default)]
struct Arms {
    walk: Vec<f64>,
    /// The part of a walk that the BPF program takes, and the part of the model.
    kernel: Vec<f64>,
    fold: Vec<f64>,
    pagemap: Vec<f64>,
    pagemap_scan: Vec<f64>,
    smaps: Vec<f64>,
}

pub fn measure() -> Vec<Row> {
    match arms() {
        Ok((arms, what)) => rows(&arms, &what),
        Err(why) => ["walk_ns_per_page", "vs_pagemap", "vs_pagemap_scan", "vs_smaps"]
            .into_iter()
            .zip([("ns", Goal::Most(2.0)), ("times", Goal::Least(10.0)), ("times", Goal::Least(5.0)), ("times", Goal::Least(15.0))])
            .map(|(metric, (unit, goal))| Row::absent(metric, unit, goal, why.clone()))
            .collect(),
    }
}

fn rows(arms: &Arms, what: &str) -> Vec<Row> {
    let Arms { walk, kernel, fold, pagemap, pagemap_scan, smaps } = arms;
    // Round by round: the two that are compared ran within the same second.
    let times = |peer: &[f64]| peer.iter().zip(walk).map(|(p, w)| p / w).collect::<Vec<_>>();
    vec![
        Row::new("walk_ns_per_page", "ns", Goal::Most(2.0), what, walk),
        Row::new("vs_pagemap", "times", Goal::Least(10.0), "reading /proc/PID/pagemap", &times(pagemap)),
        Row::new("vs_pagemap_scan", "times", Goal::Least(5.0), "ioctl PAGEMAP_SCAN, present or swapped", &times(pagemap_scan)),
        Row::new("vs_smaps", "times", Goal::Least(15.0), "reading /proc/PID/smaps, Referenced", &times(smaps)),
        Row::new("walk_kernel_ns_per_page", "ns", Goal::None, "the walk's BPF program: reading and copying tables", kernel),
        Row::new("walk_fold_ns_per_page", "ns", Goal::None, "the walk's fold into the heat model", fold),
        Row::new("pagemap_ns_per_page", "ns", Goal::None, "", pagemap),
        Row::new("pagemap_scan_ns_per_page", "ns", Goal::None, "", pagemap_scan),
        Row::new("smaps_ns_per_page", "ns", Goal::None, "", smaps),
    ]
}

fn arms() -> Result<(Arms, String), String> {
    memtier_tests::footing::host()?;
    let free = memtier_tests::footing::available_mib()?;
    let mib = WANTED_MIB.min(free.saturating_sub(SPARE_MIB)) & !1;
    if mib < 64 {
        return Err(format!("only {free} MiB of memory are available"));
    }
    let hog = Hog::start(mib, Fill::Half)?;
    let range = AddrRange { start: hog.base, end: hog.addr(hog.pages) };
    let short = if mib < WANTED_MIB { " (all that fits)" } else { "" };
    let what = format!("{mib} MiB of 4 KiB pages{short}: walk, transport, decode, fold");
    let mut arms = Arms::default();
    let mut walk = Walk::of(&hog)?;
    for _ in 0..ROUNDS {
        arms.walk.push(per_page(&hog, || walk.once())?);
        arms.kernel.push(walk.kernel.as_nanos() as f64 / hog.pages as f64);
        arms.fold.push(walk.fold.as_nanos() as f64 / hog.pages as f64);
        arms.pagemap.push(per_page(&hog, || by_pagemap(hog.pid(), range))?);
        arms.pagemap_scan.push(per_page(&hog, || by_pagemap_scan(hog.pid(), range))?);
        arms.smaps.push(per_page(&hog, || by_smaps(hog.pid()))?);
    }
    Ok((arms, what))
}

/// A walk as the daemon makes it: every chunk goes through the Governor into the heat model before the next one comes.
struct Walk {
    _object: Object,
    walker: Walker,
    governor: Governor,
    proc: ProcKey,
    began: Instant,
    seq: u64,
    /// Of the last walk.
    kernel: Duration,
    fold: Duration,
}

impl Walk {
    fn of(hog: &Hog) -> Result<Self, String> {
        let mut object = Object::load(&Options::default()).map_err(|e| deepest(&e))?;
        let walker = Walker::open(&mut object)?;
        let pid = i32::try_from(hog.pid()).map_err(|e| e.to_string())?;
        let stat = procfs::process::Process::new(pid).and_then(|p| p.stat()).map_err(|e| format!("process {pid}: {e}"))?;
        let proc = ProcKey { pid: hog.pid(), start: stat.starttime };
        let (began, none) = (Instant::now(), Duration::ZERO);
        Ok(Self { _object: object, walker, governor: Governor::new(), proc, began, seq: 0, kernel: none, fold: none })
    }

    /// Pages that the heat model knows of after one walk.
    fn once(&mut self) -> Result<u64, String> {
        let Self { walker, governor, proc, began, seq, kernel, fold, .. } = self;
        *fold = Duration::ZERO;
        let mut absorb = |chunk| {
            *seq += 1;
            let came = began.elapsed();
            let at = Time(u64::try_from(came.as_nanos()).unwrap_or(u64::MAX));
            governor.absorb(&Stamped { seq: *seq, at, event: Event::Sample(Sample::Pages(chunk)) });
            *fold += began.elapsed() - came;
        };
        *kernel = Duration::from_nanos(walker.scan(*proc, &mut absorb).map_err(|e| e.to_string())?.kernel_ns);
        Ok(governor.models().heat.get(*proc).map_or(0, |heat| heat.resident().0))
    }
}

/// Times one look at all pages, and holds it to having seen them.
fn per_page(hog: &Hog, look: impl FnOnce() -> Result<u64, String>) -> Result<f64, String> {
    let began = cpu::now()?;
    let seen = look()?;
    let took = cpu::now()? - began;
    if seen < hog.pages {
        return Err(format!("{seen} of {} pages were seen", hog.pages));
    }
    Ok(took.as_nanos() as f64 / hog.pages as f64)
}

fn open(pid: u32, file: &str) -> Result<File, String> {
    File::open(format!("/proc/{pid}/{file}")).map_err(|e| format!("/proc/{pid}/{file}: {e}"))
}

/// Present pages by pagemap, read in pieces that stay in the cache.
fn by_pagemap(pid: u32, range: AddrRange) -> Result<u64, String> {
    const PIECE: u64 = 64 << 20;
    let mut map = pagemap::PageMap::new(open(pid, "pagemap")?).map_err(|e| format!("pagemap: {e}"))?;
    let (mut entries, mut present) = (Vec::new(), 0);
    for start in (range.start..range.end).step_by(PIECE as usize) {
        entries.clear();
        map.entries(AddrRange { start, end: range.end.min(start + PIECE) }, &mut entries).map_err(|e| format!("pagemap: {e}"))?;
        present += entries.iter().filter(|e| e.present()).count() as u64;
    }
    Ok(present)
}

fn by_pagemap_scan(pid: u32, range: AddrRange) -> Result<u64, String> {
    let map = open(pid, "pagemap")?;
    let mut regions = vec![pagescan::Region::default(); 1024];
    let (mut at, mut present) = (range, 0);
    while at.start < at.end {
        let (found, end) = pagescan::scan(&map, at, pagescan::PRESENT | pagescan::SWAPPED, &mut regions)
            .map_err(|e| format!("PAGEMAP_SCAN: {e}"))?;
        let pages = |r: &pagescan::Region| AddrRange { start: r.start, end: r.end }.pages().0;
        present += regions[..found].iter().filter(|r| r.categories & pagescan::PRESENT != 0).map(pages).sum::<u64>();
        at.start = end;
    }
    Ok(present)
}

/// Resident pages by smaps, adding up Referenced on the way: the one peer that knows of accesses.
fn by_smaps(pid: u32) -> Result<u64, String> {
    let (mut resident, mut referenced) = (0, 0);
    let kib = |rest: &str| rest.trim().strip_suffix(" kB").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    for line in BufReader::new(open(pid, "smaps")?).lines() {
        let line = line.map_err(|e| format!("smaps: {e}"))?;
        if let Some(rest) = line.strip_prefix("Rss:") {
            resident += kib(rest);
        } else if let Some(rest) = line.strip_prefix("Referenced:") {
            referenced += kib(rest);
        }
    }
    std::hint::black_box(referenced);
    Ok(resident >> 2)
}
