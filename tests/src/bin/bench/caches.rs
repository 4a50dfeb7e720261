//! `bench caches`: servers that are asked for the same at the same time, and differ in who moves their pages between classes of
//! items. What a server pays for being watched, and how many evictions per second reach us without a loss.

mod arms;
mod cost;
mod events;
mod figures;
mod lanes;
mod workload;

use arms::{Arm, Ground, counter, stats};
use figures::{Window, end, steady, sum};
use lanes::{BATCH, Lane, Tally, serve};
use memtier_tests::interrupt::Interrupt;
use memtier_tests::rows::{Goal, Row};
use memtier_tests::vital;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use workload::{Phase, Request, Stream, WORKLOADS, Workload};

const STEADY: (&str, &str, Goal) = ("steady_requests_ratio", "times", Goal::Most(0.5));
/// As `STEADY`; the goal is to be less than 1.
const MISSES: (&str, &str, Goal) = ("misses_ratio_worst", "times", Goal::Most(0.999));
const REGRESSION: (&str, &str, Goal) = ("regression_max_percent", "%", Goal::Most(0.5));
const FLASH: (&str, &str, Goal) = ("flash_reads_ratio", "times", Goal::Most(1.0));
const COST: (&str, &str, Goal) = ("server_cpu_cost_percent", "%", Goal::Most(1.0));
const EVENTS: (&str, &str, Goal) = ("eviction_events_per_s", "1/s", Goal::Least(200_000.0));

/// A directory for what the daemons say of each workload.
const LOGS: &str = "MEMTIER_BENCH_LOGS";
/// Parts of the bench to run, in words: names of workloads, `cost`, `events`. All of them without it.
const ONLY: &str = "MEMTIER_BENCH_CACHES";

pub fn measure() -> Vec<Row> {
    let absent = |(metric, unit, goal): (&'static str, &'static str, Goal), why: &str| Row::absent(metric, unit, goal, why);
    let bench = match Bench::new() {
        Ok(bench) => bench,
        Err(why) => return [STEADY, MISSES, REGRESSION, FLASH, COST, EVENTS].map(|of| absent(of, &why)).into(),
    };
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for workload in WORKLOADS.iter().filter(|w| wanted(w.name)) {
        match bench.run(workload) {
            Ok(ran) => {
                rows.extend(ran.rows());
                all.push(ran);
            }
            Err(why) => rows.push(Row::absent("miss_percent", "%", Goal::None, why).of(&format!("_{}", workload.name), "")),
        }
    }
    rows.extend(compared(&all));
    if wanted("cost") {
        match cost::measure(&bench.memtier, &bench.interrupt) {
            Ok(measured) => rows.extend(measured),
            Err(why) => rows.push(absent(COST, &why)),
        }
    }
    if wanted("events") {
        match events::measure(&bench.interrupt) {
            Ok(measured) => rows.extend(measured),
            Err(why) => rows.push(absent(EVENTS, &why)),
        }
    }
    rows
}

fn wanted(part: &str) -> bool {
    std::env::var(ONLY).map_or(true, |only| only.split_whitespace().any(|name| name == part))
}

struct Bench {
    memtier: PathBuf,
    interrupt: Interrupt,
}

/// What one arm did with a workload.
struct Kept {
    arm: Arm,
    before: Vec<Window>,
    after: Vec<Window>,
    /// Pages that the server says were moved, and CPU seconds of it and of its mover, from the first request on.
    moved: u64,
    server_s: f64,
    mover_s: f64,
    wrong: u64,
}

struct Ran {
    workload: &'static Workload,
    kept: Vec<Kept>,
    /// Requests per second to each server, as it came out.
    rate: f64,
}

impl Bench {
    fn new() -> Result<Self, String> {
        memtier_tests::footing::root()?;
        memtier_tests::footing::program("memcached", "memcached")?;
        memtier_tests::footing::memory(2048)?;
        Ok(Self { memtier: memtier_tests::binary("memtier")?, interrupt: Interrupt::catch()? })
    }

    fn run(&self, workload: &'static Workload) -> Result<Ran, String> {
        let grounds = Arm::ALL.iter().map(|arm| Ground::start(&self.memtier, *arm, workload.flash));
        let grounds = grounds.collect::<Result<Vec<_>, _>>()?;
        let mut load = Load::new(workload, &grounds)?;
        load.fill(&self.interrupt)?;
        let began = Instant::now();
        let (mut before, mut after) = (vec![Vec::new(); grounds.len()], vec![Vec::new(); grounds.len()]);
        for (number, phase) in workload.phases.iter().enumerate() {
            let windows = if number == 0 { &mut before } else { &mut after };
            for _ in 0..phase.seconds {
                self.interrupt.check()?;
                let flash = |of: &Ground| if workload.flash { flash_reads(of) } else { Ok(0) };
                let read = grounds.iter().map(flash).collect::<Result<Vec<_>, _>>()?;
                load.second(phase)?;
                for (((lane, ground), read), windows) in load.lanes.iter_mut().zip(&grounds).zip(read).zip(windows.iter_mut()) {
                    let Tally { requests, misses } = lane.take();
                    windows.push(Window { requests, misses, flash: flash(ground)?.saturating_sub(read) });
                }
            }
        }
        let seconds: u64 = workload.phases.iter().map(|phase| phase.seconds).sum();
        let rate = (seconds * workload.rate) as f64 / began.elapsed().as_secs_f64();
        let arms = grounds.iter().zip(&load.lanes).zip(before.into_iter().zip(after));
        let kept = arms.map(|((ground, lane), (before, after))| {
            let (vital, stats) = (vital::of(ground.server.pid())?, stats(&ground.server)?);
            Ok(Kept {
                arm: ground.arm,
                before,
                after,
                moved: counter(&stats, "slabs_moved"),
                server_s: vital.user_s + vital.system_s,
                mover_s: ground.mover_s()?,
                wrong: lane.wrong,
            })
        });
        if let Some(logs) = std::env::var_os(LOGS) {
            grounds.iter().try_for_each(|ground| ground.keep_log(Path::new(&logs), workload.name))?;
        }
        let ran = Ran { workload, kept: kept.collect::<Result<_, String>>()?, rate };
        eprintln!(
            "{}: {}",
            workload.name,
            ran.kept.iter().map(|k| format!("{} {}; ", k.arm.name(), ran.told(k))).collect::<String>()
        );
        Ok(ran)
    }
}

fn flash_reads(ground: &Ground) -> Result<u64, String> {
    Ok(counter(&stats(&ground.server)?, "get_extstore"))
}

/// The client of all servers.
struct Load {
    stream: Stream,
    workload: &'static Workload,
    lanes: Vec<Lane>,
    batch: Vec<Request>,
    due: Instant,
}

impl Load {
    fn new(workload: &'static Workload, grounds: &[Ground]) -> Result<Self, String> {
        let lanes = grounds.iter().map(|ground| Lane::connect(&ground.server.socket)).collect::<Result<_, _>>();
        let lanes = lanes.map_err(|e| format!("memcached: {e}"))?;
        Ok(Self { stream: Stream::new(workload), workload, lanes, batch: Vec::new(), due: Instant::now() })
    }

    fn once(&mut self, phase: &Phase) -> Result<(), String> {
        self.batch.clear();
        let stream = &mut self.stream;
        self.batch.extend((0..BATCH).map(|_| stream.next(phase)));
        serve(&mut self.lanes, &self.batch).map_err(|e| format!("load: {e}"))
    }

    /// As fast as answers come.
    fn fill(&mut self, interrupt: &Interrupt) -> Result<(), String> {
        let Some(first) = self.workload.phases.first() else { return Ok(()) };
        for batch in 0..self.workload.fill / BATCH {
            if batch.is_multiple_of(200) {
                interrupt.check()?;
            }
            self.once(first)?;
        }
        for lane in &mut self.lanes {
            lane.take();
        }
        self.due = Instant::now();
        Ok(())
    }

    /// What is late is made up for.
    fn second(&mut self, phase: &Phase) -> Result<(), String> {
        let rate = self.workload.rate;
        for _ in 0..rate / BATCH {
            if let Some(wait) = self.due.checked_duration_since(Instant::now()) {
                std::thread::sleep(wait);
            }
            self.due += Duration::from_secs(BATCH) / rate as u32;
            self.once(phase)?;
        }
        Ok(())
    }
}

impl Ran {
    fn kept(&self, arm: Arm) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.arm == arm)
    }

    /// The miss ratio in which the best arm ends.
    fn best_end(&self) -> f64 {
        self.kept.iter().map(|kept| end(&kept.after).miss_ratio()).fold(f64::INFINITY, f64::min)
    }

    /// memtier's over the least of the others'.
    fn ratio(&self, of: impl Fn(&Kept) -> f64) -> Option<f64> {
        let others = self.kept.iter().filter(|kept| kept.arm != Arm::Memtier).map(&of);
        Some(of(self.kept(Arm::Memtier)?) / others.fold(f64::INFINITY, f64::min))
    }

    /// memtier's flash reads over those of the other arm that misses least: what is lost is not read from flash either.
    fn flash_ratio(&self) -> Option<f64> {
        let others = self.kept.iter().filter(|kept| kept.arm != Arm::Memtier);
        let best = others.min_by_key(|kept| sum(&kept.after).misses)?;
        Some(sum(&self.kept(Arm::Memtier)?.after).flash as f64 / sum(&best.after).flash as f64)
    }

    fn told(&self, kept: &Kept) -> String {
        let Kept { arm: _, before, after, moved, server_s, mover_s, wrong } = kept;
        let (windows, for_good) = steady(after, self.best_end());
        let steady = if for_good { format!("after {}", windows as u64 * self.workload.rate) } else { "never".into() };
        let flash = if self.workload.flash {
            format!(", of flash reads {:.2} and {:.2} %", 100.0 * sum(before).flash_ratio(), 100.0 * sum(after).flash_ratio())
        } else {
            String::new()
        };
        let wrong = if *wrong > 0 { format!(", {wrong} WRONG VALUES") } else { String::new() };
        format!(
            "{:.2} % before, {:.2} % after, {:.2} % in the end{flash}; steady {steady} requests; {moved} pages moved; CPU of the \
             server {server_s:.1} s, of the mover {mover_s:.1} s{wrong}",
            100.0 * sum(before).miss_ratio(),
            100.0 * sum(after).miss_ratio(),
            100.0 * end(after).miss_ratio()
        )
    }

    fn rows(&self) -> Vec<Row> {
        let series = |metric, of: fn(&Window) -> f64| {
            let percents = |kept: &Kept| kept.before.iter().chain(&kept.after).map(|w| 100.0 * of(w)).collect::<Vec<f64>>();
            let most = self.kept.iter().flat_map(percents).fold(0.0, f64::max);
            let row = move |kept: &Kept| {
                let runs = [100.0 * of(&sum(&kept.after))];
                let row = Row::new(metric, "%", Goal::None, self.told(kept), &runs).over_time(&percents(kept), most);
                row.of(&format!("_{}_{}", self.workload.name, kept.arm.name()), "")
            };
            self.kept.iter().map(row).collect::<Vec<_>>()
        };
        let mut rows = vec![
            Row::new("rate", "requests/s", Goal::None, self.workload.what, &[self.rate])
                .of(&format!("_{}", self.workload.name), ""),
        ];
        rows.extend(series("miss_percent", Window::miss_ratio));
        if self.workload.flash {
            rows.extend(series("flash_percent", Window::flash_ratio));
        }
        rows
    }
}

/// memtier beside the best of the others. No goal is met by some of the workloads.
fn compared(all: &[Ran]) -> Vec<Row> {
    let missing = |w: &&Workload| all.iter().all(|ran| ran.workload.name != w.name);
    let missing: Vec<&str> = WORKLOADS.iter().filter(missing).map(|w| w.name).collect();
    let goal = |goal| if missing.is_empty() { goal } else { Goal::None };
    let without = if missing.is_empty() { String::new() } else { format!("; without {}", missing.join(", ")) };
    let over = |which: &dyn Fn(&Workload) -> bool, of: &dyn Fn(&Ran) -> Option<f64>| -> Vec<(&'static str, f64)> {
        all.iter().filter(|ran| which(ran.workload)).filter_map(|ran| Some((ran.workload.name, of(ran)?))).collect()
    };
    let told = |each: &[(&str, f64)]| each.iter().map(|(name, value)| format!("{name} {value:.3}")).collect::<Vec<_>>().join(", ");
    let worst = |(metric, unit, bound): (&'static str, &'static str, Goal), what: &str, each: &[(&'static str, f64)]| {
        let worst: Vec<f64> = each.iter().map(|(_, value)| *value).reduce(f64::max).into_iter().collect();
        Row::new(metric, unit, goal(bound), format!("{what}: {}{without}", told(each)), &worst)
    };
    let misses = |kept: &Kept| sum(&kept.after).misses as f64;
    let steady = over(&|w| w.shifting, &|ran| ran.ratio(|kept| steady(&kept.after, ran.best_end()).0 as f64));
    let more = |ran: &Ran, than: f64| Some(100.0 * (ran.kept(Arm::Memtier).map(misses)? / than - 1.0));
    let shifting = over(&|w| w.shifting, &|ran| ran.ratio(misses));
    let flash = over(&|w| w.flash, &Ran::flash_ratio);
    let nobody = over(&|_| true, &|ran| more(ran, ran.kept(Arm::Nobody).map(misses)?));
    let best = over(&|_| true, &|ran| Some(100.0 * (ran.ratio(misses)? - 1.0)));
    let values: Vec<f64> = steady.iter().map(|(_, value)| *value).collect();
    let what = "requests from the shift until the miss ratio is where the best arm ends, memtier's over the best other's";
    vec![
        Row::new(STEADY.0, STEADY.1, goal(STEADY.2), format!("{what}: {}{without}", told(&steady)), &values),
        worst(MISSES, "misses after the shift, memtier's over the best other's", &shifting),
        worst(REGRESSION, "misses of memtier above those with nobody, in percent of these", &nobody),
        worst(("regression_best_percent", "%", Goal::None), "the same, above the best other's", &best),
        worst(FLASH, "gets answered from flash, memtier's over those of the other arm that misses least", &flash),
    ]
}
