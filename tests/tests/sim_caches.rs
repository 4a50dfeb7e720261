//! slab-marginal in a closed loop with simulated servers: laws, and what it makes of traffic that shifts, beside memcached's own
//! mover on the same requests.

use memtier::compat::slab::{ClassStats, Mode, Mover, Sample as Counters, Script, Settings};
use memtier::config::{CacheRule, Config};
use memtier::plan::{Decision, Governor};
use memtier::sim::{CacheSim, CacheSpec, Change, Faults, Load, Scenario, Traffic, Turn, World, drive};
use memtier::vocab::{
    Action, CacheLook, CacheTold, ClassId, Event, Guard, Place, PolicyId, Rule, Sample, ServerId, Span, Stamped, Time,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const CHUNKS: [u64; 3] = [128, 64, 32];

fn load(class: u8, traffic: Traffic, keys: u64, per_s: u64, (from, until): (u64, u64)) -> Load {
    Load { class: ClassId(class), traffic, keys, per_s, ttl: None, from, until }
}

fn spec(pages: u64, loads: Vec<Load>) -> CacheSpec {
    CacheSpec { pages, chunks: CHUNKS.to_vec(), loads, mute: false, headers: None }
}

fn config(act: bool, servers: usize) -> Config {
    let mut config = Config::default();
    config.daemon.act = act;
    config.cache = (0..servers).map(|n| CacheRule { server: format!("simulated:{n}"), ..CacheRule::default() }).collect();
    config
}

fn scenario(caches: Vec<CacheSpec>, secs: u64) -> Scenario {
    let mut scenario = Scenario::new("caches", Span::from_secs(secs));
    scenario.caches = caches;
    scenario
}

/// Misses and reads of flash of each ten seconds.
struct Run {
    misses: Vec<u64>,
    reads: Vec<u64>,
    moved: u64,
    pages: Vec<u64>,
}

const STEP: u64 = 10;

fn marginal(spec: &CacheSpec, secs: u64) -> Run {
    let mut world = World::new(1, &scenario(vec![spec.clone()], secs), &config(true, 1));
    let mut governor = Governor::new();
    let (began, mut misses, mut reads) = (world.now(), Vec::new(), Vec::new());
    for step in 1..=secs / STEP {
        drive(&mut world, &mut governor, began.after(Span::from_secs(step * STEP)), |_, _| {});
        let cache = world.cache(0).expect("a server");
        misses.push(cache.misses);
        reads.push(cache.flash_reads);
    }
    let cache = world.cache(0).expect("a server");
    Run { misses: each(&misses), reads: each(&reads), moved: cache.moved, pages: cache.pages().0 }
}

/// Of totals.
fn each(totals: &[u64]) -> Vec<u64> {
    totals.iter().scan(0, |before, total| Some(total - std::mem::replace(before, *total))).collect()
}

fn counters(look: &CacheLook) -> Counters {
    let class = |c: &memtier::vocab::ClassLook| {
        let stats = ClassStats {
            chunk_size: Some(c.chunk_size),
            chunks_per_page: Some(c.chunks_per_page),
            total_pages: Some(c.pages),
            used_chunks: Some(c.used),
            free_chunks: Some(c.free),
            number: Some(c.items),
            age: Some(c.age),
            evicted: Some(c.evicted),
        };
        (c.class, stats)
    };
    let evictions = look.classes.iter().map(|c| c.evicted).sum();
    Counters { life: None, pool: Some(look.pool), evictions: Some(evictions), classes: look.classes.iter().map(class).collect() }
}

/// No mover, or one that decides as the server's own does.
fn other(spec: &CacheSpec, secs: u64, moves: bool) -> Run {
    let began = Time(1_000_000_000_000);
    let mut cache = CacheSim::new(spec, 1, began);
    let size = cache.server("").flash_from;
    let script = if spec.headers.is_some() { Script::Extstore { free: 0.005, size } } else { Script::Plain };
    let mut mover = Mover::new(Settings { mode: Mode::Repaired, script, window: 30, ratio: 0.8 });
    let (mut misses, mut reads) = (Vec::new(), Vec::new());
    for quarter in 0..secs * 4 {
        let now = began.after(Span::from_millis(quarter * 250));
        cache.serve(now, Span::from_millis(250));
        cache.batch(Span::from_millis(250));
        if moves && quarter % 4 == 3 {
            let pass = mover.look(counters(&cache.look(now)), Duration::from_secs(quarter / 4)).expect("sound counters");
            if let Some(due) = pass.decision {
                let _ = cache.reassign(due.from, due.to);
            }
        }
        if (quarter + 1) % (4 * STEP) == 0 {
            misses.push(cache.misses);
            reads.push(cache.flash_reads);
        }
    }
    Run { misses: each(&misses), reads: each(&reads), moved: cache.moved, pages: cache.pages().0 }
}

/// Misses, and a tenth of reads of flash, from one second to another: ours, of the server's own mover, of none.
fn compare(name: &str, spec: &CacheSpec, secs: u64, from: u64) -> (Run, [u64; 3]) {
    let [ours, own, none] = [marginal(spec, secs), other(spec, secs, true), other(spec, secs, false)];
    let of = |series: &[u64]| series[(from / STEP) as usize..].iter().sum::<u64>();
    let sum = |run: &Run| of(&run.misses) + of(&run.reads) / 10;
    let sums = [sum(&ours), sum(&own), sum(&none)];
    println!(
        "{name}: misses {sums:?}, moved {} {} , pages {:?} {:?} {:?}",
        ours.moved, own.moved, ours.pages, own.pages, none.pages
    );
    for (name, run) in [("ours", &ours), ("own", &own), ("none", &none)] {
        println!("  {name} {:?}", run.misses);
        if spec.headers.is_some() {
            println!("    reads of flash {:?}", run.reads);
        }
    }
    (ours, sums)
}

#[test]
fn traffic_that_turns_to_larger_items() {
    let loads = vec![load(1, Traffic::Skewed, 4096, 2000, (0, 60)), load(2, Traffic::Skewed, 2048, 2000, (60, 240))];
    let (_, [ours, own, none]) = compare("shift", &spec(40, loads), 240, 60);
    assert!(ours < own.min(none), "{ours} misses, {own} with the server's own mover, {none} with none");
}

#[test]
fn a_part_of_the_traffic_turns() {
    let loads = vec![
        load(1, Traffic::Skewed, 8192, 2000, (0, 60)),
        load(1, Traffic::Skewed, 8192, 500, (60, 240)),
        load(2, Traffic::Skewed, 4096, 1500, (60, 240)),
    ];
    let (_, [ours, own, none]) = compare("part", &spec(40, loads), 240, 60);
    assert!(ours < own.min(none), "{ours} misses, {own} with the server's own mover, {none} with none");
}

#[test]
fn a_scan_wins_nothing() {
    let loads = vec![
        load(1, Traffic::Skewed, 4096, 1000, (0, 240)),
        load(2, Traffic::Skewed, 512, 200, (0, 240)),
        load(2, Traffic::Scan, 1, 1500, (80, 140)),
    ];
    let (_, [ours, own, none]) = compare("scan", &spec(40, loads), 240, 80);
    assert!(ours <= own, "{ours} misses, {own} with the server's own mover");
    assert!(ours * 100 <= none * 101, "{ours} misses, {none} with no mover");
}

#[test]
fn items_that_expire_make_room() {
    let short = Load { ttl: Some(Span::from_secs(4)), ..load(1, Traffic::Scan, 1, 150, (0, 240)) };
    let loads = vec![short, load(2, Traffic::Skewed, 2048, 1500, (40, 240))];
    let (_, [ours, own, none]) = compare("ttl", &spec(40, loads), 240, 60);
    assert!(ours < own.min(none), "{ours} misses, {own} with the server's own mover, {none} with none");
}

#[test]
fn what_is_even_stays_as_it_is() {
    let loads = vec![load(1, Traffic::Skewed, 8192, 1500, (0, 300)), load(2, Traffic::Skewed, 4096, 1500, (0, 300))];
    let (ours, [misses, own, none]) = compare("even", &spec(40, loads), 300, 60);
    assert!(ours.moved < 40, "{} pages moved", ours.moved);
    assert!(misses * 1000 <= own.min(none) * 1005, "{misses} misses, {own} with the server's own mover, {none} with none");
}

/// A server whose large items go to flash: 512 headers a page.
fn on_flash(pages: u64, loads: Vec<Load>) -> CacheSpec {
    CacheSpec { pages, chunks: vec![512, 32, 16], loads, mute: false, headers: Some(ClassId(1)) }
}

#[test]
fn with_flash_a_read_is_weighed_against_a_miss() {
    // Small items that are not on flash beside large ones that are, and then less of those.
    let loads = vec![
        load(1, Traffic::Skewed, 16_384, 1500, (0, 80)),
        load(1, Traffic::Skewed, 16_384, 300, (80, 300)),
        load(2, Traffic::Skewed, 4096, 500, (0, 300)),
        load(3, Traffic::Skewed, 2048, 100, (0, 80)),
        load(3, Traffic::Skewed, 2048, 900, (80, 300)),
    ];
    let (ours, [cost, own, none]) = compare("flash", &on_flash(60, loads), 300, 80);
    let lost: u64 = ours.misses.iter().skip(8).sum();
    // The script reads flash less: it gives class 3 pages while its items come in, by their age (docs/policies/slab-marginal.md).
    assert!(cost * 2 < none && cost * 3 < own * 4, "{cost} misses, {own} with the extstore script, {none} with none");
    assert!(lost < 3500, "{lost} of them misses");
    assert!(ours.pages[1..].iter().all(|pages| *pages >= 5), "{:?}", ours.pages);
}

#[test]
fn the_pool_of_a_server_with_flash_is_kept() {
    let loads = vec![load(1, Traffic::Skewed, 8192, 800, (0, 150)), load(2, Traffic::Skewed, 4096, 800, (0, 150))];
    // Seconds in which classes did not write early, of those in which memory was full; and what it costs.
    let run = |permil: u64| {
        let mut config = config(true, 1);
        config.caches.pool_permil = permil;
        let mut world = World::new(1, &scenario(vec![on_flash(40, loads.clone())], 150), &config);
        let (mut governor, began, mut held) = (Governor::new(), world.now(), 0);
        for second in 1..=150 {
            drive(&mut world, &mut governor, began.after(Span::from_secs(second)), |_, _| {});
            held += u32::from(second > 50 && world.cache(0).expect("a server").pages().1 > 2);
        }
        let cache = world.cache(0).expect("a server");
        (held, cache.misses + cache.flash_reads / 10)
    };
    let ((held, cost), (never, dear)) = (run(10), run(0));
    println!("held {held} and {never} s of 100, {cost} and {dear} misses");
    assert!(held > 50 && never == 0, "{held} and {never} seconds of 100");
    assert!(cost * 10 < dear * 9, "{cost} misses, {dear} while all classes keep pages free");
}

#[test]
fn with_flash_headers_get_what_they_need() {
    let loads = vec![load(2, Traffic::Even, 6000, 1000, (0, 300)), load(3, Traffic::Even, 6000, 500, (60, 300))];
    let (_, [ours, own, none]) = compare("headers", &on_flash(40, loads), 300, 120);
    assert!(ours <= own.min(none), "{ours} misses, {own} with the extstore script, {none} with none");
}

/// Milliseconds at which the streams were closed and opened, and pages asked for after the second `from`.
fn watched(decisions: &[Decision], from: u64) -> (Vec<(u64, bool)>, usize) {
    let began = Time(1_000_000_000_000);
    let steps = || decisions.iter().flat_map(|d| d.plan.iter().map(move |step| (d.at.since(began).as_millis(), &step.action)));
    let sets = steps().filter_map(|(at, action)| if let Action::SetWatch { on, .. } = action { Some((at, *on)) } else { None });
    (sets.collect(), steps().filter(|(at, action)| *at >= from * 1000 && matches!(action, Action::MoveSlabPage { .. })).count())
}

#[test]
fn the_records_of_a_steady_server_rest_until_its_traffic_turns() {
    let loads = vec![
        load(1, Traffic::Skewed, 8192, 1500, (0, 300)),
        load(2, Traffic::Skewed, 4096, 1500, (0, 200)),
        load(3, Traffic::Skewed, 2048, 1500, (200, 300)),
    ];
    let mut config = config(true, 1);
    (config.caches.rest_after_s, config.caches.rest_s) = (30, 3600);
    let spec = spec(40, loads);
    let (events, decisions, world) = run(1, &scenario(vec![spec.clone()], 300), &config);
    let (sets, moved) = watched(&decisions, 200);
    println!("{sets:?}, {moved} moved after the turn, {} misses", world.cache(0).expect("a server").misses);
    let first = sets.first().copied().expect("its records rest");
    assert!((30_000..200_000).contains(&first.0) && !first.1, "{sets:?}");
    assert!(sets.iter().any(|&(at, on)| on && (200_000..210_000).contains(&at)), "{sets:?}");
    assert!(moved > 0);
    let records =
        events.iter().filter(|e| matches!(&e.event, Event::Sample(Sample::Cache(s)) if matches!(s.told, CacheTold::Evictions(_))));
    let unread = records
        .filter(|e| sets.iter().rfind(|(at, _)| *at < e.at.since(Time(1_000_000_000_000)).as_millis()).is_some_and(|s| !s.1));
    assert_eq!(unread.count(), 0);
    // What the rest cost, beside a server that is always watched.
    config.caches.rest_after_s = 0;
    let (_, decisions, always) = run(1, &scenario(vec![spec.clone()], 300), &config);
    assert_eq!(watched(&decisions, 0).0, []);
    let misses = |world: &World| world.cache(0).expect("a server").misses;
    assert!(misses(&world) * 100 <= misses(&always) * 103, "{} and {} misses", misses(&world), misses(&always));
    assert!(misses(&world) < other(&spec, 300, false).misses.iter().sum::<u64>());
}

#[test]
fn records_are_read_once_in_a_while() {
    let loads = vec![load(1, Traffic::Skewed, 8192, 1500, (0, 300)), load(2, Traffic::Skewed, 4096, 1500, (0, 300))];
    let mut config = config(false, 1);
    (config.caches.rest_after_s, config.caches.rest_s, config.caches.hysteresis_permil) = (20, 60, 10_000);
    let (_, decisions, _) = run(1, &scenario(vec![spec(40, loads)], 300), &config);
    let (sets, _) = watched(&decisions, 0);
    let wakes: Vec<u64> = sets.windows(2).filter(|pair| !pair[0].1 && pair[1].1).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(wakes.len() >= 2 && wakes.iter().all(|after| (60_000..61_000).contains(after)), "{sets:?}");
}

#[test]
fn what_comes_to_little_keeps_no_server_awake() {
    let skewed = |class, keys, per_s| load(class, Traffic::Skewed, keys, per_s, (0, 200));
    let loads = vec![skewed(1, 8192, 1500), skewed(2, 4096, 1500), skewed(3, 2048, 1000)];
    let mut config = config(true, 1);
    // Estimates of four seconds, and each move worth it that they favour: chance moves pages for ever.
    (config.caches.rest_after_s, config.caches.rest_s, config.caches.window_s) = (30, 3600, 4);
    (config.caches.hysteresis_permil, config.caches.payback_s) = (0, 86_400);
    let mut run_with = |permil| {
        config.caches.rest_gain_permil = permil;
        let (_, decisions, world) = run(1, &scenario(vec![spec(40, loads.clone())], 200), &config);
        (watched(&decisions, 0).0, world.cache(0).expect("a server").moved)
    };
    let ((none, all), (some, few)) = (run_with(0), run_with(10));
    println!("{none:?}, {all} moved; {some:?}, {few} moved");
    assert!(some.first().is_some_and(|(at, on)| *at < 120_000 && !on), "{some:?}");
    assert!(none.first().is_none_or(|(later, _)| *later > some[0].0) && few * 3 <= all * 2, "{few} and {all} pages moved");
}

#[test]
fn scripts_decide_in_the_pipeline() {
    let shift = vec![load(1, Traffic::Skewed, 4096, 2000, (0, 60)), load(2, Traffic::Skewed, 2048, 2000, (60, 240))];
    let flash = vec![load(2, Traffic::Skewed, 4096, 1000, (0, 240)), load(3, Traffic::Skewed, 2048, 1000, (60, 240))];
    for (policy, spec) in [(PolicyId::SlabAutomove, spec(40, shift)), (PolicyId::SlabExtstore, on_flash(60, flash))] {
        let mut config = config(true, 1);
        config.cache[0].policy = Some(policy);
        let (_, decisions, world) = run(1, &scenario(vec![spec.clone()], 240), &config);
        let steps: Vec<_> = decisions.iter().flat_map(|d| &d.plan).filter(|step| step.action.server().is_some()).collect();
        assert!(steps.iter().all(|step| step.by == policy && !matches!(step.action, Action::SetWatch { .. })), "{policy}");
        let free = steps.iter().filter(|step| matches!(step.action, Action::SetFree { .. })).count();
        assert_eq!(free > 0, policy == PolicyId::SlabExtstore, "the script tells what to keep free, heeded or not");
        // What the script alone makes of it, whose looks come at other moments.
        let (cache, alone) = (world.cache(0).expect("a server"), other(&spec, 240, true));
        let cost = |misses: u64, reads: u64| misses * 10 + reads;
        let costs = [cost(cache.misses, cache.flash_reads), cost(alone.misses.iter().sum(), alone.reads.iter().sum())];
        println!("{policy}: {costs:?}, moved {} {}", cache.moved, alone.moved);
        // When the pool is low, all classes write to flash: there a look a moment later comes to another end.
        let near = if policy == PolicyId::SlabExtstore { 2 } else { 20 };
        assert!(cache.moved > 0 && costs[0].abs_diff(costs[1]) * near <= costs[1], "{policy}: {costs:?}");
    }
}

fn loads() -> impl Strategy<Value = Vec<Load>> {
    let traffic = prop_oneof![Just(Traffic::Skewed), Just(Traffic::Even), Just(Traffic::Scan)];
    let one = (1u8..=3, traffic, 16u64..4096, 50u64..1500, (0u64..80, 5u64..80), proptest::option::of(1u64..20));
    let one = one.prop_map(|(class, traffic, keys, per_s, (from, long), ttl)| Load {
        ttl: ttl.map(Span::from_secs),
        ..load(class, traffic, keys, per_s, (from, from + long))
    });
    prop::collection::vec(one, 1..6)
}

/// Who decides, whether as in 2017, and after how many seconds records rest.
fn rules() -> impl Strategy<Value = (Option<PolicyId>, Option<String>, u64)> {
    let scripts = (prop_oneof![Just(PolicyId::SlabExtstore), Just(PolicyId::SlabAutomove)], any::<bool>());
    prop_oneof![
        prop_oneof![Just(0), 1u64..60].prop_map(|rest| (None, None, rest)),
        scripts.prop_map(|(policy, compat)| (Some(policy), compat.then(|| "2017".to_owned()), 0)),
    ]
}

fn run(seed: u64, scenario: &Scenario, config: &Config) -> (Vec<Stamped>, Vec<Decision>, World) {
    let mut world = World::new(seed, scenario, config);
    let mut governor = Governor::new();
    let (mut events, mut decisions) = (Vec::new(), Vec::new());
    let until = world.now().after(scenario.length);
    drive(&mut world, &mut governor, until, |turn, _| match turn {
        Turn::Event(event) => events.push(event),
        Turn::Decision(decision) => decisions.push(decision),
    });
    (events, decisions, world)
}

/// What the stream tells of each server at a decision.
#[derive(Default)]
struct Known {
    looks: BTreeMap<ServerId, CacheLook>,
    open: BTreeMap<ServerId, u32>,
    steps: BTreeMap<memtier::vocab::StepId, ServerId>,
}

impl Known {
    fn absorb(&mut self, event: &Event) {
        match event {
            Event::Sample(Sample::Cache(sample)) => {
                if let CacheTold::Look(look) = &sample.told {
                    self.looks.insert(sample.server, (**look).clone());
                }
            }
            Event::Outcome(outcome) => {
                if let Some(server) = self.steps.remove(&outcome.step) {
                    *self.open.entry(server).or_default() -= 1;
                }
            }
            _ => {}
        }
    }

    fn decided(&mut self, decision: &Decision) -> Result<(), String> {
        for step in &decision.plan {
            let Some(server) = step.action.server() else { continue };
            let open = self.open.entry(server).or_default();
            *open += 1;
            self.steps.insert(step.id, server);
            if *open > 1 {
                return Err(format!("{}: a second step for {server}", step.id));
            }
            let Action::MoveSlabPage { from, to, .. } = step.action else { continue };
            let look = self.looks.get(&server).ok_or("a move before any look")?;
            let pages = |place| match place {
                Place::Pool => look.pool + 1,
                Place::Class(id) => look.classes.iter().find(|c| c.class == id).map_or(0, |c| c.pages),
            };
            if pages(from) <= 2 || from == to {
                return Err(format!("{}: from {from}, which has {}, to {to}", step.id, pages(from)));
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// One page of a server at a time, no class below two pages, none lost, none made; and steady once the traffic is over.
    #[test]
    fn laws(seed in any::<u64>(), one in loads(), two in loads(), pages in 4u64..40, mute in any::<bool>(), busy in 0u64..200, restart in any::<bool>(), how in (rules(), any::<bool>())) {
        let ((policy, compat, rest), flash) = how;
        let headers = flash.then_some(ClassId(1));
        let specs = vec![CacheSpec { headers, ..spec(pages, one) }, CacheSpec { mute, ..spec(pages, two) }];
        let mut config = config(true, 2);
        config.caches.rest_after_s = rest;
        (config.cache[0].policy, config.cache[0].compat) = (policy, compat);
        let mut scenario = scenario(specs, 120).faults(Faults { busy, ..Faults::default() });
        if restart {
            scenario = scenario.at(50, Change::RestartCache(0));
        }
        let (events, decisions, world) = run(seed, &scenario, &config);
        let mut known = Known::default();
        let mut rest = decisions.iter().peekable();
        for event in &events {
            while let Some(decision) = rest.next_if(|d| d.after < event.seq) {
                prop_assert_eq!(known.decided(decision), Ok(()));
            }
            known.absorb(&event.event);
        }
        for id in 0..2 {
            let (classes, unused) = world.cache(id).expect("a server").pages();
            let held: u64 = classes.iter().sum();
            // A class has its first page beyond the limit.
            prop_assert!(held + unused >= pages && held + unused <= pages + CHUNKS.len() as u64, "{classes:?} and {unused} of {pages}");
        }
        let vetoes = decisions.iter().flat_map(|d| &d.report.holds).filter(|h| h.reason.rule == Rule::AuditVeto);
        prop_assert_eq!(vetoes.map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
    }

    /// A dry run moves nothing, and each step is advice.
    #[test]
    fn dry_runs_move_nothing(seed in any::<u64>(), one in loads(), pages in 4u64..40) {
        let (_, decisions, world) = run(seed, &scenario(vec![spec(pages, one)], 100), &config(false, 1));
        prop_assert_eq!(world.cache(0).expect("a server").moved, 0);
        // Streams are closed and opened all the same: that changes nothing on a server.
        let watch = |s: &&memtier::vocab::Step| matches!(s.action, Action::SetWatch { .. });
        let mut steps = decisions.iter().flat_map(|d| &d.plan).filter(|s| s.action.server().is_some() && !watch(s));
        let advice = steps.all(|s| s.guards.contains(&Guard::DryRun) && !matches!(s.action, Action::SetMover { .. }));
        prop_assert!(advice, "a step that would be done");
    }

    /// The same stream gives the same decisions, from a checkpoint too.
    #[test]
    fn the_same_stream_gives_the_same_decisions(seed in any::<u64>(), one in loads(), pages in 4u64..40, cut in any::<prop::sample::Index>(), rule in rules()) {
        let mut config = config(true, 1);
        (config.cache[0].policy, config.cache[0].compat, config.caches.rest_after_s) = rule;
        let one = CacheSpec { headers: Some(ClassId(1)), ..spec(pages, one) };
        let (events, decisions, _) = run(seed, &scenario(vec![one], 80), &config);
        let mut governor = Governor::new();
        let mut again = decisions.iter().peekable();
        let cut = cut.index(events.len());
        for (place, event) in events.iter().enumerate() {
            while let Some(decision) = again.next_if(|d| d.after < event.seq) {
                prop_assert_eq!(&governor.decide(decision.at), decision);
            }
            if place == cut {
                let bytes = minicbor_serde::to_vec(&governor).expect("a governor can be written");
                governor = minicbor_serde::from_slice(&bytes).expect("and read");
            }
            governor.absorb(event);
        }
    }
}
