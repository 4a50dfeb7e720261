//! `bench accuracy`: the picture of heat beside what the processes themselves say they touched.

use crate::rig::{self, Rig, Seen};
use memtier::config::Config;
use memtier::model::ProcHeat;
use memtier::sys::clock::boottime;
use memtier::vocab::{Bits, BlockId, PAGE_BYTES, Pages, PressureKind, ProcKey, Span, Time};
use memtier_tests::cpu;
use memtier_tests::rows::{Goal, Row};
use memtier_tests::toucher::{Law, Spec, Toucher};
use std::collections::BTreeMap;

/// Each set is touched by all of them, each time by a process of its own.
const LAWS: [Law; 2] = [Law::Uniform, Law::Zipf];
/// Region of a set that takes more than a quarter of the ground's, and of the one that is ranked, in pages.
const LARGE: u64 = 1 << 19;
/// Touches of the coldest page of a set in one period, expected.
const TOUCHES: f64 = 5.0;
/// Touches per second of the region whose pages are ranked, at ten seconds a period: one for every two pages and walk, as in
/// the study of arming. With many more each page in question is touched in every period, and bits tell nothing.
const RANKED_RATE: u64 = 25_000;
/// Walks after which the set of the first process moves, and after which all ends. The others follow a walk apart each, in
/// four groups: a host on which everything moves at once runs into `arm.quota_mib_per_s`.
const MOVES: [u32; 2] = [24, 34];
const GROUPS: u32 = 4;
const WALKS: u32 = 48;
/// Walk after which the pages are ranked.
const RANKED_AT: u32 = 32;
/// Walks within which the picture should have followed: what comes later counts for precision and recall.
const SETTLED: u32 = 4;
const GOAL: f64 = 0.95;

/// What is touched, and where it runs.
pub struct Ground {
    /// Pages of the sets.
    pub sets: &'static [u64],
    /// Region in which a set lies scattered, in pages.
    pub region: u64,
    /// One more process touches a large region, whose pages are ranked.
    pub ranks: bool,
    /// Instead of the default, unless the environment says another.
    pub period: Option<Span>,
    /// Instead of the defaults of `scan.walk_permil_of_core` and `arm.cpu_permil_of_core`.
    pub cpu_permil: Option<u64>,
    /// Memory that all processes together need, with room for everything else.
    pub needed_mib: u64,
    /// Every process has a CPU of its own, from the second on, and the daemon's parts have the first.
    pub apart: bool,
}

impl Ground {
    pub const fn processes(&self) -> usize {
        self.sets.len() * LAWS.len() + self.ranks as usize
    }
}

const HOST: Ground = Ground {
    sets: &[16, 64, 512, 2048, 8192, 100_000],
    region: 1 << 16,
    ranks: true,
    period: None,
    cpu_permil: None,
    needed_mib: 9 << 10,
    apart: false,
};

struct Target {
    toucher: Toucher,
    /// Walks by which its moves are late.
    late: u32,
    walks: u32,
    /// Walks that were no rounds.
    uncounted: u32,
    /// Walks not answered because the host was short of memory.
    held: u32,
    /// Walk after which the set changed last.
    moved: u32,
    /// When it is to change next.
    moves_at: Option<Time>,
    /// Precision and recall of settled walks.
    precision: Vec<f64>,
    recall: Vec<f64>,
    /// Walks since the last change until recall and precision met the goal.
    hot: Lag,
    cold: Lag,
}

/// How long it took each time, and whether it is still under way.
#[derive(Default)]
struct Lag {
    took: Vec<f64>,
    open: bool,
}

impl Lag {
    fn see(&mut self, good: bool, walks: u32) {
        if self.open && good {
            self.open = false;
            self.took.push(f64::from(walks));
        }
    }
    /// What has not ended counts as if it had ended now.
    fn again(&mut self, walks: u32) {
        self.see(true, walks);
        self.open = true;
    }
}

pub fn measure() -> Vec<Row> {
    run(&HOST).unwrap_or_else(|why| absent(&HOST, &why))
}

/// The figures that have a goal, where they cannot be had.
pub fn absent(ground: &Ground, why: &str) -> Vec<Row> {
    let sets = [
        ("precision_min", "", Goal::Least(GOAL)),
        ("recall_min", "", Goal::Least(GOAL)),
        ("scans_to_hot_p50", "walks", Goal::Most(2.0)),
        ("scans_to_cold_p50", "walks", Goal::Most(4.0)),
    ];
    let ranked = ground.ranks.then_some(("zipf_mass_permil", "permil", Goal::Least(970.0)));
    sets.into_iter().chain(ranked).map(|(metric, unit, goal)| Row::absent(metric, unit, goal, why)).collect()
}

pub fn run(ground: &Ground) -> Result<Vec<Row>, String> {
    let mut config = rig::config(ground.period)?;
    if let Some(permil) = ground.cpu_permil {
        (config.scan.walk_permil_of_core, config.arm.cpu_permil_of_core) = (permil, permil);
    }
    memtier_tests::footing::memory(ground.needed_mib)?;
    let touchers = (1..).zip(specs(ground, &config)).map(|(cpu, spec)| start(spec, ground.apart.then_some(cpu)));
    let touchers = touchers.collect::<Result<Vec<_>, _>>()?;
    if ground.apart {
        cpu::pin(0, 0)?;
    }
    let (mut rig, keys) = Rig::new(&config, touchers.iter().map(Toucher::pid))?;
    let mut targets: BTreeMap<ProcKey, Target> =
        keys.into_iter().zip((0..).zip(touchers).map(|(n, toucher)| Target::new(toucher, n % GROUPS))).collect();
    let mut ranked = None;
    rig.run(|rig, seen| {
        match seen {
            Seen::Walked(proc) => {
                let Some((target, heat)) = targets.get_mut(&proc).zip(rig.governor.models().heat.get(proc)) else {
                    return Ok(true);
                };
                let (models, brake) = (rig.governor.models(), rig.governor.config().brake.memory_some_centipercent);
                let pressed = models.pressure.some_avg10(PressureKind::Memory).is_some_and(|avg10| u64::from(avg10) > brake);
                let held = pressed || models.under_reclaim(proc, boottime()).is_some();
                target.walked(heat, held, rig::period(&config))?;
                if target.ranks() && target.walks == RANKED_AT {
                    ranked = Some(Ranked::by(heat, &target.toucher));
                }
            }
            Seen::Else => {}
        }
        targets.values_mut().try_for_each(Target::move_on)?;
        Ok(targets.values().any(|target| target.walks < WALKS))
    })?;
    let mut targets: Vec<Target> = targets.into_values().collect();
    for target in &mut targets {
        let since = target.walks - target.moved;
        target.hot.see(true, since);
        target.cold.see(true, since);
    }
    Ok(rows(&config, targets, ranked))
}

fn start(spec: Spec, cpu: Option<usize>) -> Result<Toucher, String> {
    let toucher = Toucher::start(spec)?;
    cpu.map_or(Ok(()), |cpu| cpu::pin(toucher.pid(), cpu))?;
    Ok(toucher)
}

fn specs(ground: &Ground, config: &Config) -> Vec<Spec> {
    let seconds = rig::period(config).0 as f64 / 1e9;
    let sets = ground.sets.iter().flat_map(|&set| {
        let pages = if set > ground.region / 4 { LARGE } else { ground.region };
        LAWS.map(|law| {
            let spec = Spec { pages, set, law, contiguous: false, rate: 0 };
            let coldest = spec.masses(0).into_iter().filter(|&mass| mass > 0.0).fold(1.0, f64::min);
            Spec { rate: (TOUCHES / coldest / seconds) as u64, ..spec }
        })
    });
    let rate = (RANKED_RATE as f64 * 10.0 / seconds) as u64;
    let ranked = ground.ranks.then_some(Spec { pages: LARGE, set: LARGE, law: Law::Zipf, contiguous: false, rate });
    sets.chain(ranked).collect()
}

impl Target {
    fn new(toucher: Toucher, late: u32) -> Self {
        Self {
            toucher,
            late,
            walks: 0,
            uncounted: 0,
            held: 0,
            moved: 0,
            moves_at: None,
            precision: Vec::new(),
            recall: Vec::new(),
            hot: Lag::default(),
            cold: Lag { took: Vec::new(), open: true },
        }
    }

    /// The whole region is ranked, there is no set to find.
    const fn ranks(&self) -> bool {
        self.toucher.spec.set == self.toucher.spec.pages
    }

    fn walked(&mut self, heat: &ProcHeat, held: bool, period: Span) -> Result<(), String> {
        let touched = self.toucher.round()?;
        // Making room for the processes is reclaim, too, and whatever ran before may have left pressure: it begins when that is over.
        if held && self.walks == 0 {
            return Ok(());
        }
        self.walks += 1;
        self.held += u32::from(held);
        let idle = !touched.contains(&true);
        let starved = heat.starved().is_some();
        self.uncounted += u32::from(starved);
        if self.ranks() {
            return Ok(());
        }
        let (precision, recall) = compare(&self.toucher, heat.hot(), &touched);
        let since = self.walks - self.moved;
        self.hot.see(recall >= GOAL, since);
        self.cold.see(precision >= GOAL, since);
        // Two walks close to each other, the first late for want of CPU: there was nothing to find.
        if since > SETTLED && !idle {
            self.precision.push(precision);
            self.recall.push(recall);
        }
        if MOVES.iter().any(|walk| walk + self.late == self.walks) {
            // In the middle of the time between two walks.
            self.moves_at = Some(boottime().after(Span(period.0 / 2)));
        }
        Ok(())
    }

    fn move_on(&mut self) -> Result<(), String> {
        if self.moves_at.is_some_and(|at| boottime() >= at) && !self.ranks() {
            self.moves_at = None;
            self.toucher.shift()?;
            let since = self.walks - self.moved;
            self.moved = self.walks;
            self.hot.again(since);
            self.cold.again(since);
        }
        Ok(())
    }
}

/// Precision and recall of the hot pages of the region against those touched in the round.
pub fn compare(toucher: &Toucher, hot: impl Iterator<Item = (BlockId, Bits)>, touched: &[bool]) -> (f64, f64) {
    let pages = hot.flat_map(|(block, bits)| bits.iter().map(|page| block.start() + page as u64 * PAGE_BYTES).collect::<Vec<_>>());
    let (mut found, mut wrong) = (0_u64, 0_u64);
    for page in pages.filter_map(|addr| toucher.page_at(addr)) {
        *if touched[page] { &mut found } else { &mut wrong } += 1;
    }
    let all = touched.iter().filter(|&&touched| touched).count();
    (found as f64 / (found + wrong).max(1) as f64, found as f64 / all.max(1) as f64)
}

/// How well the model ranks pages, in thousandths of the access mass of the fifth of the pages that get most.
struct Ranked {
    /// What the fifth gets that the model would choose: so the arming study counts, where the goal comes from.
    chosen: f64,
    /// The part of it that pages of the best fifth get.
    of_best: f64,
}

impl Ranked {
    fn by(heat: &ProcHeat, toucher: &Toucher) -> Self {
        let masses = toucher.spec.masses(toucher.phase);
        let fifth = masses.len() / 5;
        let mut order: Vec<usize> = (0..masses.len()).collect();
        order.sort_by(|a, b| masses[*b].total_cmp(&masses[*a]));
        let mut top = vec![false; masses.len()];
        order[..fifth].iter().for_each(|page| top[*page] = true);
        let pages = heat.hottest(Pages(fifth as u64)).into_iter().flat_map(|r| (r.start..r.end).step_by(PAGE_BYTES as usize));
        let chosen: Vec<usize> = pages.filter_map(|addr| toucher.page_at(addr)).collect();
        let best = order[..fifth].iter().map(|page| masses[*page]).sum::<f64>();
        let permil = |mass: f64| mass / best * 1000.0;
        let of_best = permil(chosen.iter().filter(|page| top[**page]).map(|page| masses[*page]).sum());
        Self { chosen: permil(chosen.iter().map(|page| masses[*page]).sum()), of_best }
    }
}

fn rows(config: &Config, targets: Vec<Target>, ranked: Option<Ranked>) -> Vec<Row> {
    let period = rig::period(config);
    let (sets, ranking): (Vec<Target>, Vec<Target>) = targets.into_iter().partition(|t| !t.ranks());
    let name = |t: &Target| {
        let law = match t.toucher.spec.law {
            Law::Uniform => "evenly",
            Law::Zipf => "Zipf 0.99",
        };
        format!("{} pages, {law}", t.toucher.spec.set)
    };
    // The worst process, by the mean of its walks.
    let worst = |of: fn(&Target) -> &[f64]| {
        let mean = |t: &&Target| of(t).iter().sum::<f64>() / of(t).len().max(1) as f64;
        let worst = sets.iter().min_by(|a, b| mean(a).total_cmp(&mean(b)));
        worst.map_or_else(|| (String::new(), Vec::new()), |t| (name(t), vec![mean(&t)]))
    };
    let (precise, precision) = worst(|t| &t.precision);
    let (recalled, recall) = worst(|t| &t.recall);
    let lags = |of: fn(&Target) -> &[f64]| sets.iter().flat_map(|t| of(t).to_vec()).collect::<Vec<_>>();
    // The first of each is the time from the start, when every page reads accessed.
    let start: Vec<f64> = sets.iter().filter_map(|t| t.cold.took.first().copied()).collect();
    let sum = |of: fn(&Target) -> u32| sets.iter().chain(&ranking).map(of).sum::<u32>();
    let (uncounted, held, walks) = (sum(|t| t.uncounted), sum(|t| t.held), sum(|t| t.walks));
    let settings = format!(
        "a walk each {period}, tax {}, walks {}, clearing {} permil of a core; {walks} walks: {uncounted} no rounds (CPU taken by others), \
         {held} not answered (host short of memory)",
        config.arm.tax_permil_of_core, config.scan.walk_permil_of_core, config.arm.cpu_permil_of_core
    );
    let mut rows = vec![
        Row::new("precision_min", "", Goal::Least(GOAL), format!("worst set: {precise}; {settings}"), &precision),
        Row::new("recall_min", "", Goal::Least(GOAL), format!("worst set: {recalled}"), &recall),
        Row::new("scans_to_hot_p50", "walks", Goal::Most(2.0), "from a move until recall is 0.95", &lags(|t| &t.hot.took)),
        Row::new(
            "scans_to_cold_p50",
            "walks",
            Goal::Most(4.0),
            "from a move until precision is 0.95",
            &lags(|t| t.cold.took.get(1..).unwrap_or_default()),
        ),
    ];
    if !ranking.is_empty() {
        let of = format!("2 GiB of 1 KiB objects, Zipf 0.99, after {RANKED_AT} walks; the arming study has 978");
        let ranked = |of: fn(&Ranked) -> f64| ranked.iter().map(of).collect::<Vec<_>>();
        rows.push(Row::new("zipf_mass_permil", "permil", Goal::Least(970.0), of, &ranked(|r| r.chosen)));
        let strict = "the same, of chosen pages only those of the best fifth; asking every page in every walk gives 973";
        rows.push(Row::new("zipf_mass_of_best_permil", "permil", Goal::None, strict, &ranked(|r| r.of_best)));
    }
    rows.push(Row::new("scans_to_cold_at_start", "walks", Goal::None, "from a start with everything accessed", &start));
    for target in &sets {
        rows.push(Row::new("precision", "", Goal::None, name(target), &target.precision));
        rows.push(Row::new("recall", "", Goal::None, name(target), &target.recall));
    }
    rows
}
