//! `bench cycle`: what one round of looking and clearing costs, the target's part included, beside clearing everything.

use crate::accuracy::compare;
use crate::rig::{self, Rig, Seen, Spent};
use memtier::observe::bpf::{Object, Options, deepest};
use memtier::observe::walker::Walker;
use memtier::sys::clock::{boottime, thread_cpu};
use memtier::vocab::{Bits, BlockId, ProcKey, Span, Time};
use memtier_tests::hog::{Fill, Hog};
use memtier_tests::rows::{Goal, Row, Spread};
use memtier_tests::toucher::{Law, Spec, Toucher};

/// For sets that stay the same a round costs the same however long it is (docs/benchmarks.md).
const PERIOD: Span = Span::from_secs(3);
const WALKS: usize = 64;
/// Walks until the periods of all blocks have grown to their longest.
const SETTLED: usize = 32;
/// Pages wanted per process, and memory left for everything else: while the host reclaims nothing is armed.
const WANTED: u64 = 1 << 21;
const SPARE_MIB: u64 = 10 << 10;
const PROBE_MIB: u64 = 512;
const PROBES: usize = 7;

/// CPU time in ns and F1 of each round, and the pages that were touched after their bit was cleared: per round, from the
/// second on, and from the settled ones on.
#[derive(Default)]
struct Rounds {
    cpu: Vec<f64>,
    /// The part of it that clears.
    clear: Vec<f64>,
    touched: [f64; 2],
    f1: Vec<f64>,
}

pub fn measure() -> Vec<Row> {
    run().unwrap_or_else(|why| {
        let row = |(metric, unit, goal)| Row::absent(metric, unit, goal, why.clone());
        [("cost_ratio", "times", Goal::Least(10.0)), ("f1_delta", "", Goal::Least(-0.01))].map(row).into()
    })
}

fn run() -> Result<Vec<Row>, String> {
    memtier_tests::footing::host()?;
    let tax = tax()?;
    let [one, other] = [true, false].map(|contiguous| pattern(contiguous, &tax));
    let (one, other) = (one?, other?);
    let worse = |a: f64, b: f64| a.min(b);
    let mut rows = vec![
        Row::new(
            "cost_ratio",
            "times",
            Goal::Least(10.0),
            format!("worse of both; {}", other.what),
            &[worse(one.ratio, other.ratio)],
        ),
        Row::new(
            "f1_delta",
            "",
            Goal::Least(-0.01),
            "worse of both, mean of settled walks",
            &[worse(one.f1_delta, other.f1_delta)],
        ),
        Row::new("tax_ns_per_page", "ns", Goal::None, "first touch of a cleared page in address order, CPU of the toucher", &tax),
    ];
    rows.extend(one.rows.into_iter().chain(other.rows));
    Ok(rows)
}

/// CPU time that the first touch of a page costs its process once the bit was cleared, in ns.
fn tax() -> Result<Vec<f64>, String> {
    let mut hog = Hog::start(PROBE_MIB, Fill::Half)?;
    let pages = hog.pages;
    let mut timed = |clear: bool| -> Result<f64, String> {
        if clear {
            clear_refs(hog.pid())?;
        }
        let before = ran(hog.pid())?;
        hog.read(0..pages)?;
        Ok((ran(hog.pid())? - before) as f64 / pages as f64)
    };
    timed(false)?;
    (0..PROBES).map(|_| Ok(-timed(false)? + timed(true)?)).collect()
}

/// CPU time of a process in ns.
fn ran(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/schedstat");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    text.split(' ').next().and_then(|ns| ns.parse().ok()).ok_or_else(|| format!("{path} says {text:?}"))
}

/// All accessed bits, and the TLB entries that would hide the next access: soft-dirty's clearing flushes.
fn clear_refs(pid: u32) -> Result<(), String> {
    let path = format!("/proc/{pid}/clear_refs");
    ["1", "4"].into_iter().try_for_each(|word| std::fs::write(&path, word)).map_err(|e| format!("{path}: {e}"))
}

/// The peer: walks everything, clears everything.
struct Peer {
    toucher: Toucher,
    proc: ProcKey,
    walker: Walker,
    _object: Object,
    rounds: Rounds,
}

impl Peer {
    fn start(spec: Spec) -> Result<Self, String> {
        let toucher = Toucher::start(spec)?;
        let mut object = Object::load(&Options::default()).map_err(|e| deepest(&e))?;
        let walker = Walker::open(&mut object)?;
        let stat = procfs::process::Process::new(toucher.pid().cast_signed()).and_then(|p| p.stat()).map_err(|e| e.to_string())?;
        let proc = ProcKey { pid: toucher.pid(), start: stat.starttime };
        Ok(Self { toucher, proc, walker, _object: object, rounds: Rounds::default() })
    }

    fn round(&mut self) -> Result<(), String> {
        let mut hot: Vec<(BlockId, Bits)> = Vec::new();
        let before = thread_cpu();
        let scan = self.walker.scan(self.proc, &mut |chunk| hot.extend(chunk.blocks.iter().map(|b| (b.block, b.accessed))));
        let walk = thread_cpu() - before;
        scan.map_err(|e| e.to_string())?;
        let touched = self.toucher.round()?;
        let before = thread_cpu();
        clear_refs(self.toucher.pid())?;
        let clear = thread_cpu() - before;
        self.rounds.cpu.push((walk + clear) as f64);
        self.rounds.clear.push(clear as f64);
        // Every bit is cleared, so every page of a round is touched anew; all rounds of a set are alike.
        self.rounds.touched = [touched.iter().filter(|&&touched| touched).count() as f64; 2];
        self.rounds.f1.push(f1(compare(&self.toucher, hot.into_iter(), &touched)));
        Ok(())
    }
}

fn f1((precision, recall): (f64, f64)) -> f64 {
    2.0 * precision * recall / (precision + recall).max(f64::MIN_POSITIVE)
}

struct Compared {
    what: String,
    ratio: f64,
    f1_delta: f64,
    rows: Vec<Row>,
}

/// Two processes of the same kind, one looked at by memtier, the other by the peer, in the middle of each period.
fn pattern(contiguous: bool, tax: &[f64]) -> Result<Compared, String> {
    let free = memtier_tests::footing::available_mib()?.saturating_sub(SPARE_MIB);
    let pages = WANTED.min(1 << (free * 256 / 2).max(1).ilog2());
    let set = pages / 5;
    // Every page at least once a round: each fourth touch takes the next one.
    let rate = set * 6 / PERIOD.as_secs();
    let spec = Spec { pages, set, law: Law::Uniform, contiguous, rate };
    let (mut toucher, mut peer) = (Toucher::start(spec)?, Peer::start(spec)?);
    let (mut rig, keys) = Rig::new(&rig::paced(PERIOD), [toucher.pid()].into_iter())?;
    let (mut ours, mut spent, mut peer_at) = (Rounds::default(), Spent::default(), Time::MAX);
    let (mut uncounted, mut held, mut ends) = (0, 0, Vec::new());
    rig.run(|rig, seen| {
        if let (Seen::Walked(_), Some(heat)) = (&seen, rig.governor.models().heat.get(keys[0])) {
            let touched = toucher.round()?;
            // A round is an answer to the walk before, and the walk that tells what came of it.
            ours.cpu.push((rig.spent.total() - spent.total()) as f64);
            ours.clear.push((rig.spent.arm - spent.arm) as f64);
            spent = rig.spent;
            let now = boottime();
            ends.push(now);
            let touched_since = |walk: usize| {
                ends.get(walk).map_or(0.0, |&end| heat.touched_since(end).0 as f64 / (ends.len() - walk - 1).max(1) as f64)
            };
            ours.touched = [touched_since(0), touched_since(SETTLED - 1)];
            ours.f1.push(f1(compare(&toucher, heat.hot(), &touched)));
            uncounted += u32::from(heat.starved().is_some());
            held += u32::from(rig.governor.models().under_reclaim(keys[0], now).is_some());
            peer_at = now.after(Span(PERIOD.0 / 2));
        }
        if boottime() >= peer_at {
            peer_at = Time::MAX;
            peer.round()?;
        }
        Ok(peer.rounds.cpu.len() < WALKS)
    })?;
    let tax = Spread::of(tax).map_or(0.0, |tax| tax.median);
    let how = if contiguous { "contiguous" } else { "scattered" };
    let what = format!(
        "2 x {} MiB, a fifth hot, {how}; {} walks, one each {PERIOD}: {uncounted} no rounds, {held} not answered (host reclaims)",
        pages / 256,
        ends.len()
    );
    Ok(compared(what, how, &ours, &peer.rounds, tax))
}

fn compared(what: String, how: &str, ours: &Rounds, peer: &Rounds, tax: f64) -> Compared {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let from_start = |rounds: &Rounds| mean(&rounds.cpu[1..]) + rounds.touched[0] * tax;
    let settled = |rounds: &Rounds| mean(&rounds.cpu[SETTLED..]) + rounds.touched[1] * tax;
    let ms = |values: &[f64]| values.iter().map(|ns| ns / 1e6).collect::<Vec<_>>();
    let f1_delta = mean(&ours.f1[SETTLED..]) - mean(&peer.f1[SETTLED..]);
    let plain =
        |metric, unit, against: &str, values: &[f64]| Row::new(metric, unit, Goal::None, format!("{how}, {against}"), values);
    let ratio = settled(peer) / settled(ours);
    let all = from_start(peer) / from_start(ours);
    let rows = vec![
        plain("ratio", "times", "settled", &[ratio]),
        plain("ratio_from_start", "times", "from the second walk on", &[all]),
        plain("round_ms", "ms", "memtier: walk, fold, decide, clear; settled", &ms(&ours.cpu[SETTLED..])),
        plain("clear_ms", "ms", "memtier, of these", &ms(&ours.clear[SETTLED..])),
        plain("round_ms", "ms", "peer: walk, clear_refs 1 and 4", &ms(&peer.cpu[SETTLED..])),
        plain("clear_ms", "ms", "peer, of these", &ms(&peer.clear[SETTLED..])),
        plain("retouched_pages", "pages", "memtier; each costs the target the tax", &ours.touched[1..]),
        plain("retouched_pages", "pages", "peer", &peer.touched[1..]),
        plain("f1", "", "memtier", &ours.f1[SETTLED..]),
        plain("f1", "", "peer", &peer.f1[SETTLED..]),
    ];
    Compared { what, ratio, f1_delta, rows }
}
