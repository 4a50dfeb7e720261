//! Each policy as a table: a small host, knobs, and every rule that the policy may name on it.
//!
//! Time runs faster than with the defaults (`FAST`), so that a minute shows what takes hours.

use memtier::config::{Config, canonical};
use memtier::plan::{Decision, Governor};
use memtier::sim::{Change, INCOMPRESSIBLE, NodeSpec, Pattern, ProcSpec, RegionSpec, Scenario, SimReport, SwapSpec, run};
use memtier::vocab::{
    Action, Bytes, Event, Need, Pages, Permil, PolicyId, Request, Source, Span, Stamped, Step, Subject, SwapBacking, VmaFlags,
};
use std::collections::{BTreeMap, BTreeSet};

const FAST: &str = "
    daemon = { act = true }
    scan = { period_ms = 2000, min_resident_mib = 1 }
    heat = { age_tick_ms = 1000 }
    brake = { hold_s = 10 }
    tier = { enabled = false }
    autocold = { min_idle_s = 10, warmup_s = 20, step_permil = 200, period_ms = 1000 }
    target = [{ comm = 'cache' }]
";
const MIB: u64 = 256; // pages

fn knobs(changes: &str) -> Config {
    let mut table: toml::Table = FAST.parse().expect("FAST parses");
    for (key, value) in changes.parse::<toml::Table>().expect("the knobs of the case parse") {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => old.extend(new),
            (_, value) => drop(table.insert(key, value)),
        }
    }
    table.try_into().expect("the knobs exist")
}

fn host(secs: u64) -> Scenario {
    Scenario::new("table", Span::from_secs(secs))
}

/// 12 MiB idle, 4 MiB hot.
fn cache() -> ProcSpec {
    let regions = vec![RegionSpec::new(12 * MIB, Pattern::Idle), RegionSpec::new(4 * MIB, Pattern::Hot { pages: 4 * MIB })];
    ProcSpec::new("cache", regions)
}

/// Runs it, and expects exactly these rules of this policy.
fn check(scenario: Scenario, changes: &str, policy: PolicyId, expect: &str) -> SimReport {
    let report = run(1, &scenario, &knobs(changes));
    let mut said = BTreeSet::new();
    for decision in &report.decisions {
        said.extend(decision.plan.iter().filter(|s| s.by == policy).map(|s| s.reason.rule.name()));
        said.extend(decision.report.holds.iter().filter(|h| h.by == policy).map(|h| h.reason.rule.name()));
        said.extend(decision.report.idles.iter().filter(|i| i.policy == policy).map(|i| i.reason.rule.name()));
    }
    let said = said.into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(said, expect, "{policy} with {changes}");
    report
}

fn taken(report: &SimReport) -> u64 {
    report.truth.of("cache").taken.0
}

#[test]
fn autocold() {
    let by = PolicyId::Autocold;
    let steady = || host(120).with(cache());
    let report = check(steady(), "", by, "autocold-idle nothing-cold settling warm-up");
    assert_eq!(taken(&report), 12 * MIB);
    // Each refusal, and the knob that makes it.
    check(steady(), "autocold = { enabled = false }", by, "turned-off");
    check(steady(), "autocold = { warmup_s = 300 }", by, "warm-up");
    check(steady(), "autocold = { min_idle_s = 300 }", by, "nothing-cold warm-up");
    let report = check(steady(), "target = [{ comm = 'cache', floor_mib = 10 }]", by, "autocold-idle floor settling warm-up");
    assert_eq!(taken(&report), 6 * MIB);
    check(steady(), "target = [{ comm = 'cache', policy = 'slide' }]", by, "");
    let report = check(steady(), "budget = { moved_mib_per_s = 0 }", by, "budget-spent warm-up");
    assert_eq!(taken(&report), 0);
    let report = check(steady(), "arm = { quota_mib_per_s = 0 }", by, "warm-up");
    assert_eq!(taken(&report), 0);
    // The same advice is not repeated while nobody follows it.
    let report = check(steady(), "daemon = { act = false, arm = true }", by, "autocold-idle settling warm-up");
    assert_eq!(taken(&report), 0);
    let advice = report.decisions.iter().flat_map(|d| &d.plan).filter(|s| matches!(s.action, Action::PageOut { .. }));
    assert!((1..=3).contains(&advice.count()));
    let report = check(steady(), "autocold = { mild = true }", by, "autocold-idle settling warm-up");
    assert_eq!(taken(&report), 0);
}

#[test]
fn autocold_and_the_host() {
    let by = PolicyId::Autocold;
    let mut bare = host(60).with(cache());
    bare.swap = None;
    check(bare, "", by, "no-swap");
    let mut handless = host(60).with(cache());
    handless.lacks = vec![Need::ProcessMadvise];
    check(handless, "", by, "host-lacks");
    let mut small = host(120).with(cache());
    small.swap = Some(SwapSpec { size: Bytes::from_mib(10), backing: SwapBacking::Zram, limit: Bytes::ZERO });
    let report = check(small, "", by, "autocold-idle settling swap-reserve warm-up");
    assert!((8 * MIB - 1..=8 * MIB).contains(&taken(&report)), "{}", taken(&report));
    let mut dense = cache();
    dense.regions[0].cost = INCOMPRESSIBLE;
    check(host(120).with(dense), "", by, "autocold-idle settling swap-saves-nothing warm-up");
    let limited = host(120).with(cache()).at(1, Change::SwapLimit { cgroup: cache().cgroup, limit: Bytes::from_mib(5) });
    let report = check(limited, "", by, "autocold-idle cgroup-swap-limit settling warm-up");
    assert!(taken(&report) <= 5 * MIB);
    let blind = host(60).with(cache()).at(1, Change::Blind(Source::Host));
    check(blind, "", by, "source-blind");
    let paused = host(60).with(cache()).at(1, Change::Request(|_| Request::Pause { by: "table".into() }, ""));
    check(paused, "", by, "paused");
}

#[test]
fn autocold_brakes() {
    let by = PolicyId::Autocold;
    // What was cold is wanted again: what comes back is over the SLO.
    let wake = Change::Pattern { comm: "cache", region: 0, pattern: Pattern::Hot { pages: 12 * MIB } };
    let woken = host(150).with(cache()).at(90, wake);
    let report = check(woken, "", by, "autocold-idle nothing-cold refault-brake settling warm-up");
    assert_eq!(taken(&report), 12 * MIB);
}

/// Two busy threads and 16 MiB, on both of two nodes alike.
fn hog(comm: &'static str) -> ProcSpec {
    let hot = RegionSpec::new(16 * MIB, Pattern::Hot { pages: 16 * MIB });
    ProcSpec { threads: 2, busy: Permil(900), ..ProcSpec::new(comm, vec![hot]) }
}

fn even(secs: u64) -> Scenario {
    Scenario { nodes: NodeSpec::EVEN.to_vec(), ..host(secs) }
}

/// Pages on each of the nodes, and the CPUs it was bound to.
fn lies(report: &SimReport, comm: &str) -> (Vec<u64>, Vec<u32>) {
    let truth = report.truth.of(comm);
    ((0..3).map(|node| truth.on.get(&node).map_or(0, |pages| pages.0)).collect(), truth.cpus)
}

#[test]
fn numa() {
    let by = PolicyId::Numa;
    let spread = || even(60).with(hog("cache"));
    let report = check(spread(), "", by, "at-home numa-bind numa-move subject-taken warm-up");
    assert_eq!(lies(&report, "cache"), (vec![16 * MIB, 0, 0], vec![0, 1]));
    // No page moved that need not, and none twice.
    assert!(report.truth.moved <= Pages(8 * MIB) && report.truth.shortest_crossing.is_none(), "{:?}", report.truth.moved);
    check(spread(), "numa = { enabled = false }", by, "turned-off");
    check(spread(), "numa = { quota_mib_per_s = 0 }", by, "turned-off");
    check(spread(), "target = [{ comm = 'cache', numa = false }]", by, "warm-up");
    check(spread(), "target = [{ comm = 'cache', policy = 'watch' }]", by, "warm-up");
    let report =
        check(spread(), "numa = { slice_mib = 2, quota_mib_per_s = 1 }", by, "at-home numa-bind numa-move subject-taken warm-up");
    assert_eq!(lies(&report, "cache").0, [16 * MIB, 0, 0]);
    let report = check(spread(), "daemon = { act = false, arm = true }", by, "numa-bind settling subject-taken warm-up");
    assert!(lies(&report, "cache").1.is_empty());
    // Larger than a node: the two that it gets are believed when it has come up.
    let third = NodeSpec { share: Permil(333), cpus: 2 };
    let large = Scenario { nodes: vec![third; 3], ..even(60).with(ProcSpec { threads: 4, ..hog("cache") }) };
    let report = check(large, "", by, "at-home numa-bind numa-move subject-taken warm-up");
    let (on, cpus) = lies(&report, "cache");
    assert_eq!((cpus.len(), on.iter().filter(|pages| **pages > 0).count(), on.iter().sum::<u64>()), (4, 2, 16 * MIB), "{on:?}");
    let sleeper = ProcSpec { busy: Permil(0), ..hog("cache") };
    check(even(60).with(sleeper), "", by, "not-worth warm-up");
}

#[test]
fn numa_and_the_host() {
    let by = PolicyId::Numa;
    check(host(60).with(hog("cache")), "", by, "host-lacks");
    let one = Scenario { nodes: vec![NodeSpec { share: Permil(1000), cpus: 2 }], ..even(60).with(hog("cache")) };
    check(one, "", by, "host-lacks");
    let paused = even(60).with(hog("cache")).at(1, Change::Request(|_| Request::Pause { by: "table".into() }, ""));
    check(paused, "", by, "paused warm-up");
    check(even(60).with(hog("cache")).at(1, Change::Blind(Source::Psi)), "", by, "source-blind warm-up");
    // A node of memory only is a place for memory, and none for threads.
    let third = |share, cpus| NodeSpec { share: Permil(share), cpus };
    let lent = Scenario { nodes: vec![third(10, 2), third(50, 2), third(940, 0)], ..even(60).with(hog("cache")) };
    let report = check(lent, "", by, "at-home numa-bind numa-move subject-taken warm-up");
    assert_eq!(lies(&report, "cache"), (vec![0, 16 * MIB, 0], vec![2, 3]));
}

#[test]
fn numa_and_others() {
    let by = PolicyId::Numa;
    // Bound by somebody else: pages follow, threads stay.
    let bound = || ProcSpec { cpus: vec![3], ..hog("cache") };
    let mut start = bound();
    start.cpus = vec![0, 1, 2, 3];
    let moved_there = even(120).with(start).at(10, Change::Affinity { comm: "cache", cpus: vec![3] });
    let report = check(moved_there, "", by, "at-home bound-by-others numa-bind numa-move settling subject-taken warm-up");
    assert_eq!(lies(&report, "cache"), (vec![0, 16 * MIB, 0], vec![3]));
    let report = check(even(60).with(bound()), "", by, "bound-by-others warm-up");
    assert_eq!(lies(&report, "cache"), (vec![0, 16 * MIB, 0], vec![3]));
    // Two that want a node each get one each.
    let two = "target = [{ comm = 'cache' }, { comm = 'other' }]";
    let report = check(
        even(60).with(hog("cache")).with(hog("other")),
        two,
        by,
        "at-home in-flight numa-bind numa-move subject-taken warm-up",
    );
    assert_ne!(lies(&report, "cache").1, lies(&report, "other").1);
    assert_eq!(lies(&report, "cache").0.iter().zip(lies(&report, "other").0).filter(|(a, b)| **a > 0 && *b > 0).count(), 0);
    // What will not move is asked once.
    let mut pinned = hog("cache");
    pinned.regions.push(RegionSpec { pinned: true, ..RegionSpec::new(8 * MIB, Pattern::Hot { pages: 8 * MIB }) });
    let report = check(even(60).with(pinned), "", by, "at-home numa-bind numa-move subject-taken unmovable warm-up");
    let moves = report.decisions.iter().flat_map(|d| &d.plan).filter(|s| matches!(s.action, Action::MovePages { .. })).count();
    assert!(moves <= 4, "{moves}");
    // Half of it its owner bound to nodes: that lies where it lay, and the rest is together.
    let half = || {
        let theirs = of_its_owner(RegionSpec::new(16 * MIB, Pattern::Hot { pages: 16 * MIB }));
        ProcSpec { regions: vec![theirs, hog("cache").regions[0]], ..hog("cache") }
    };
    let alone = ProcSpec { regions: vec![half().regions[0]], ..half() };
    let (still, _) = lies(&check(even(60).with(alone), "numa = { enabled = false }", by, "turned-off"), "cache");
    let report = check(even(60).with(half()), "", by, "at-home numa-bind numa-move subject-taken warm-up");
    let (on, cpus) = lies(&report, "cache");
    let home = usize::from(cpus == [2, 3]);
    // Which page comes to which node depends on all that came before.
    assert_eq!((on.iter().sum::<u64>(), on[2]), (32 * MIB, 0));
    assert!(on[1 - home].abs_diff(still[1 - home]) <= 1, "{on:?} {still:?}");
    assert!(says(&report, by, "locked ones: these stay; what its owner bound (mbind) stays"));
}

/// Its owner said on which nodes it lies.
fn of_its_owner(region: RegionSpec) -> RegionSpec {
    RegionSpec { flags: VmaFlags::WRITE.with(VmaFlags::POLICY), ..region }
}

/// Whether a refusal of the policy says so.
fn says(report: &SimReport, policy: PolicyId, what: &str) -> bool {
    let mut holds = report.decisions.iter().flat_map(|d| &d.report.holds).filter(|h| h.by == policy);
    holds.any(|hold| hold.reason.note.contains(what))
}

/// Bound while it loaded its data, it works on them with more threads than a node has CPUs for.
#[test]
fn numa_of_who_outgrows_its_node() {
    let by = PolicyId::Numa;
    let third = NodeSpec { share: Permil(333), cpus: 2 };
    let loads = ProcSpec { threads: 4, busy: Permil(200), ..hog("cache") };
    let busy = |permil| Change::Busy { comm: "cache", busy: Permil(permil) };
    let serves = Scenario { nodes: vec![third; 3], ..even(55).with(loads) }.at(20, busy(900));
    let bound = |report: &SimReport| {
        let binds = report.decisions.iter().flat_map(|d| &d.plan).filter_map(|step| match &step.action {
            Action::Bind { cpus, .. } => Some((cpus.len(), step.reason.to_string())),
            _ => None,
        });
        binds.unzip::<usize, String, Vec<_>, Vec<_>>()
    };
    let report = check(serves.clone(), "", by, "at-home numa-bind numa-move subject-taken warm-up");
    let (cpus, why) = bound(&report);
    assert_eq!(cpus, [2, 4], "long before the settle time is over");
    assert!(why[1].contains("waited for a cpu"), "{}", why[1]);
    assert!(report.truth.shortest_crossing.is_none(), "and no page crossed again");
    // Who rests and works in turns keeps what it got.
    let turns = (30..55).step_by(5).fold(serves, |serves, at| serves.at(at, busy(if at % 10 == 0 { 200 } else { 900 })));
    assert_eq!(bound(&run(1, &turns, &knobs(""))).0, [2, 4]);
}

/// Its memory waits where it was given several nodes, and so it is looked at until it has grown.
#[test]
fn numa_of_who_comes_up() {
    let third = NodeSpec { share: Permil(333), cpus: 2 };
    let grows = RegionSpec::new(24 * MIB, Pattern::Growing { pages: 4 * MIB });
    let loads = |comm| ProcSpec { threads: 4, busy: Permil(900), ..ProcSpec::new(comm, vec![grows, hog("").regions[0]]) };
    let run_of = |comms: &[&'static str]| {
        let start = |scenario: Scenario, comm: &&'static str| scenario.at(10, Change::Start(loads(comm)));
        let scenario = comms.iter().fold(Scenario { nodes: vec![third; 3], ..even(60) }, start);
        run(1, &scenario, &knobs("target = [{ comm = 'cache' }, { comm = 'other' }]\nnuma = { period_ms = 60000 }"))
    };
    let at = |report: &SimReport, which: fn(&Action) -> bool| -> Vec<u64> {
        let steps = report.decisions.iter().flat_map(|d| d.plan.iter().map(move |step| (d.at, &step.action)));
        let from = report.decisions.first().expect("some").at.0 / 1_000_000_000 * 1_000_000_000;
        steps.filter(|(_, action)| which(action)).map(|(at, _)| (at.0 - from) / 1_000_000).collect()
    };
    let scans = |report: &SimReport| at(report, |action| matches!(action, Action::Scan { .. }));
    let report = run_of(&["cache"]);
    let moves = at(&report, |action| matches!(action, Action::MovePages { .. }));
    println!("scans {:?}, moves {moves:?}", scans(&report));
    // Nobody waits for the next turn, which is a minute away.
    assert!(moves.first().is_some_and(|first| (20_000..20_200).contains(first)), "{moves:?}");
    let hurried = |report: &SimReport| scans(report).iter().filter(|ms| (10_000..20_000).contains(*ms)).count();
    let (one, two) = (hurried(&report), hurried(&run_of(&["cache", "other"])));
    assert!((10..50).contains(&one) && two <= one + one / 4, "{one} walks in ten seconds of one that comes up, {two} of two");
}

/// Two pairs of busy threads beside the main one; each pair has memory of its own, or all use all of it.
fn pairs(own: bool) -> ProcSpec {
    let hot = |threads| RegionSpec { threads: Some(threads), ..RegionSpec::new(24 * MIB, Pattern::Hot { pages: 24 * MIB }) };
    let regions = if own { [hot((1, 3)), hot((3, 5))] } else { [hot((1, 5)); 2] };
    ProcSpec { threads: 5, busy: Permil(900), ..ProcSpec::new("cache", regions.to_vec()) }
}

/// Two nodes of three CPUs, where five threads are too many for one.
fn threes(secs: u64) -> Scenario {
    Scenario { nodes: vec![NodeSpec { share: Permil(500), cpus: 3 }; 2], ..host(secs) }
}

#[test]
fn numa_and_threads() {
    let by = PolicyId::Numa;
    let report = check(threes(60).with(pairs(true)), "", by, "at-home no-node numa-move numa-part warm-up");
    let truth = report.truth.of("cache");
    assert!(truth.cpus.is_empty(), "the main thread keeps what it had: {:?}", truth.cpus);
    let (one, other) = (truth.apart[&1].clone(), truth.apart[&3].clone());
    assert_eq!(truth.apart.values().collect::<Vec<_>>(), [&one, &one, &other, &other]);
    assert_eq!([one[0], other[0]].iter().collect::<BTreeSet<_>>(), [&0, &3].into(), "a node each");
    for (region, cpus) in truth.regions.iter().zip([one, other]) {
        // The block on the border is of both.
        let there = region.get(&(cpus[0] as u16 / 3)).map_or(0, |pages| pages.0);
        assert!(there >= 22 * MIB, "{there} of {region:?}");
    }
    assert!(report.truth.shortest_crossing.is_none() && report.truth.moved <= Pages(26 * MIB), "{:?}", report.truth.moved);
    let binds = || report.decisions.iter().flat_map(|d| &d.plan).filter(|s| matches!(s.action, Action::Bind { .. }));
    assert_eq!(binds().count(), 2, "once for each pair");
    println!("{}", binds().map(|step| step.reason.to_string()).collect::<Vec<_>>().join("\n"));

    // Who shares memory is not taken apart, nor is who fits on a node, or gains nothing.
    let report = check(threes(60).with(pairs(false)), "", by, "no-node warm-up");
    let why = |report: &SimReport| {
        let holds = report.decisions.iter().rev().flat_map(|d| &d.report.holds);
        holds.filter(|hold| hold.by == by).map(|hold| hold.reason.to_string()).next().unwrap_or_default()
    };
    assert!(why(&report).contains("the 4 of its threads that are known share memory"), "{}", why(&report));
    let quiet = ProcSpec { busy: Permil(300), ..pairs(true) };
    let report = check(threes(60).with(quiet), "", by, "at-home numa-bind numa-move subject-taken warm-up");
    assert!(report.truth.of("cache").apart.is_empty());
    // Without samples of faults nothing is known.
    let blind = threes(60).at(0, Change::Blind(Source::Faults)).at(1, Change::Start(pairs(true)));
    let report = check(blind, "", by, "no-node warm-up");
    assert!(!why(&report).contains("threads that"), "{}", why(&report));
    // Advice is given once.
    let report = check(threes(60).with(pairs(true)), "daemon = { act = false, arm = true }", by, "no-node numa-part warm-up");
    assert!(report.truth.of("cache").apart.is_empty());
}

/// They keep their nodes until they have settled, and their memory follows them there.
#[test]
fn threads_that_come_to_lack_cpu_time_stay_for_the_settle_time() {
    let ones = |secs| Scenario { nodes: vec![NodeSpec { share: Permil(500), cpus: 1 }; 2], ..host(secs) };
    let calm = ProcSpec { busy: Permil(400), ..pairs(true) };
    let busier = |secs| ones(secs).with(calm.clone()).at(14, Change::Busy { comm: "cache", busy: Permil(900) });
    let slowly = knobs("numa = { quota_mib_per_s = 1, slice_mib = 2, settle_s = 60 }");
    let truth = run(1, &busier(65), &slowly).truth;
    let cache = truth.of("cache");
    for (region, thread) in cache.regions.iter().zip([1, 3]) {
        let there = region.get(&(cache.apart[&thread][0] as u16)).map_or(0, |pages| pages.0);
        assert!(there >= 22 * MIB, "{there} of {region:?}, {:?}", cache.apart);
    }
    assert!(truth.moved <= Pages(26 * MIB), "{:?}", truth.moved);
    // Then they run together again.
    assert!(run(1, &busier(120), &slowly).truth.of("cache").apart.is_empty());
}

#[test]
fn threads_that_come_to_share_memory_run_together_again() {
    let by = PolicyId::Numa;
    let grows = RegionSpec { threads: Some((1, 5)), ..RegionSpec::new(60 * MIB, Pattern::Growing { pages: MIB / 2 }) };
    let mut spec = pairs(true);
    for region in &mut spec.regions {
        (region.pages, region.pattern) = (48 * MIB, Pattern::Hot { pages: 48 * MIB });
    }
    spec.regions.push(grows);
    let settle = "numa = { settle_s = 20 }";
    let report = check(threes(40).with(spec.clone()), settle, by, "at-home no-node numa-move numa-part subject-taken warm-up");
    assert_eq!(report.truth.of("cache").apart.len(), 4);
    let report = run(1, &threes(240).with(spec), &knobs(settle));
    assert!(report.truth.of("cache").apart.is_empty());
    let binds = report.decisions.iter().flat_map(|d| &d.plan).filter(|s| matches!(s.action, Action::Bind { .. }));
    let binds: Vec<_> = binds.map(|step| step.reason.to_string()).collect();
    assert!(binds.len() == 3 && binds[2].contains("share memory by now"), "{}", binds.join("\n"));
    assert!(report.truth.shortest_crossing.is_none_or(|span| span >= Span::from_secs(20)));
}

/// Two fast nodes and a slow one: each of the two policies has its own to do, and neither undoes what the other did.
#[test]
fn numa_and_tier() {
    let node = |(share, cpus)| NodeSpec { share: Permil(share), cpus };
    let three = [(400, 2), (300, 2), (300, 0)].map(node).to_vec();
    let both = "tier = { enabled = true, cold_s = 20, settle_s = 20 }\nnuma = { settle_s = 20 }";
    let s = || Scenario { nodes: three.clone(), ..host(120).with(hog("cache")) };
    let report = check(s(), both, PolicyId::Tier, "at-home tier-promote");
    check(s(), both, PolicyId::Numa, "at-home numa-bind numa-move subject-taken warm-up");
    let (on, cpus) = lies(&report, "cache");
    assert_eq!((on.iter().sum::<u64>(), on[2], cpus.len()), (16 * MIB, 0, 2), "{on:?}");
    assert!(report.truth.moved <= Pages(11 * MIB) && report.truth.shortest_crossing.is_none(), "{:?}", report.truth);
}

/// A fast node of 48 MiB and a slow one; most of the fast one is cold, and of what is hot half lies on the slow one.
fn tiers(secs: u64) -> Scenario {
    let regions = vec![RegionSpec::new(70 * MIB, Pattern::Idle), RegionSpec::new(12 * MIB, Pattern::Hot { pages: 12 * MIB })];
    Scenario { memory: Bytes::from_mib(96), swap: None, ..host(secs) }.with(ProcSpec::new("cache", regions))
}

#[test]
fn tier() {
    let by = PolicyId::Tier;
    let on = |more: &str| format!("tier = {{ enabled = true, cold_s = 20, period_ms = 1000{more} }}");
    let report = check(tiers(120), &on(""), by, "at-home node-reserve settling tier-demote tier-promote");
    let truth = &report.truth;
    assert!(truth.shortest_crossing.is_none(), "{:?}", truth.shortest_crossing);
    println!("{:?} {:?}", truth.moved, lies(&report, "cache"));
    check(tiers(60), "", by, "turned-off");
    check(tiers(60), &on(", quota_mib_per_s = 0"), by, "turned-off");
    check(tiers(60), &format!("{}\ntarget = [{{ comm = 'cache', tier = false }}]", on("")), by, "");
    check(even(60).with(hog("cache")), &on(""), by, "host-lacks");
    check(tiers(60).at(1, Change::Blind(Source::Psi)), &on(""), by, "source-blind");
    let report =
        check(tiers(120), &format!("{}\ndaemon = {{ act = false, arm = true }}", on("")), by, "at-home settling tier-promote");
    assert_eq!(report.truth.moved, Pages::ZERO);
    // What its owner bound to nodes is neither promoted nor demoted.
    let mut theirs = tiers(120);
    for region in &mut theirs.procs[0].regions {
        *region = of_its_owner(*region);
    }
    let report = check(theirs, &on(""), by, "at-home bound-by-others");
    assert_eq!(report.truth.moved, Pages::ZERO);
}

#[test]
fn slide() {
    let by = PolicyId::Slide;
    let steady = || host(120).with(cache());
    let slide = "target = [{ comm = 'cache', policy = 'slide' }]\n";
    let with = |more: &str| format!("{slide}{more}");
    let report = check(steady(), slide, by, "nothing-cold settling slide-cold subject-taken warm-up");
    assert_eq!(taken(&report), 12 * MIB);
    check(steady(), &with("slide = { threshold = 0 }"), by, "turned-off");
    check(steady(), &with("slide = { enabled = false }"), by, "turned-off");
    check(steady(), &with("slide = { free_below_percent = 0 }"), by, "gate-closed");
    // Of the host's memory nearly all is free.
    check(steady(), &with("slide = { free_below_percent = 50 }"), by, "gate-closed");
    let rule = "slide = { free_below_percent = 99 }";
    let report = check(steady(), &with(rule), by, "nothing-cold settling slide-cold subject-taken warm-up");
    assert_eq!(taken(&report), 12 * MIB);
    check(steady(), &with("slide = { free_below_percent = 99, resident_over_mib = 16 }"), by, "gate-closed");
    let half = with("slide = { dram_percent = 50 }");
    let report = check(steady(), &half, by, "gate-closed nothing-cold settling slide-cold subject-taken warm-up");
    assert!((8 * MIB - 2..=8 * MIB + 64).contains(&taken(&report)), "{}", taken(&report));
}

#[test]
fn arm() {
    let by = PolicyId::Arm;
    let steady = || host(60).with(cache());
    let armed = |report: &SimReport| {
        let steps = report.decisions.iter().flat_map(|d| &d.plan).filter(|s| s.by == by);
        steps.map(|s| s.action.pages().0).fold((0, 0), |(steps, pages), more| (steps + 1, pages + more))
    };
    let always = check(steady(), "arm = { longest_walks = 1, share_permil = 1000 }", by, "arm-young");
    assert!(armed(&always).0 >= 25, "one arming per walk");
    let adaptive = check(steady(), "", by, "arm-young");
    assert!(armed(&adaptive).1 <= armed(&always).1 / 2, "{:?} against {:?}", armed(&adaptive), armed(&always));
    check(steady(), "daemon = { act = false }", by, "turned-off");
    check(steady(), "daemon = { act = false, arm = true }", by, "arm-young");
    check(steady(), "arm = { quota_mib_per_s = 0 }", by, "turned-off");
    check(steady(), "target = [{ comm = 'cache', policy = 'watch' }]", by, "");
    check(steady(), "arm = { quota_mib_per_s = 1 }", by, "arm-young budget-spent");
    // A permil of ten minutes is 0.6 s: 24 questions to a hot GiB, and then only the least, until they are ten minutes ago.
    let hot = |secs| {
        let region = RegionSpec::new(1024 * MIB, Pattern::Hot { pages: 1024 * MIB });
        Scenario { memory: Bytes::from_mib(4096), ..host(secs) }.with(ProcSpec::new("cache", vec![region]))
    };
    let large = |report: &SimReport, from: u64| {
        let late = report.decisions.iter().filter(|d| d.at >= report.decisions[0].at.after(Span::from_secs(from)));
        late.flat_map(|d| &d.plan).filter(|s| s.by == by && s.action.pages().0 > 8192).count()
    };
    let all = "longest_walks = 1, share_permil = 1000, tax_permil_of_core = 1000";
    assert!(large(&check(hot(60), &format!("arm = {{ {all}, cpu_permil_of_core = 2 }}"), by, "arm-young"), 0) >= 28);
    let spent = check(hot(60), &format!("arm = {{ {all}, cpu_permil_of_core = 1 }}"), by, "arm-young");
    assert_eq!((large(&spent, 0), large(&spent, 52)), (23, 0));
    assert!(armed(&spent).0 >= 28, "the least goes on");
    let growing = ProcSpec::new("other", vec![RegionSpec::new(64 * MIB, Pattern::Growing { pages: MIB })]);
    let mut tight = steady().with(growing);
    (tight.memory, tight.swap) =
        (Bytes::from_mib(32), Some(SwapSpec { size: Bytes::from_mib(100), backing: SwapBacking::Disk, limit: Bytes::ZERO }));
    check(tight.clone(), "brake = { memory_some_centipercent = 0 }", by, "arm-young pressure-brake");
    check(tight, "brake = { memory_some_centipercent = 10000 }", by, "arm-young under-reclaim");
    check(steady().at(20, Change::Starve("cache")), "", by, "arm-young starved");
}

#[test]
fn watch() {
    let by = PolicyId::Watch;
    let two = || host(61).with(cache()).with(ProcSpec::new("other", vec![RegionSpec::new(8 * MIB, Pattern::Idle)]));
    let walks = |report: &SimReport| report.decisions.iter().flat_map(|d| &d.plan).filter(|s| s.by == by).count();
    let report = check(two(), "", by, "not-selected scan-due");
    assert!((29..=31).contains(&walks(&report)), "one walk a period");
    check(two(), "target = [{ comm = 'other', exclude = true }, { comm = '*' }]", by, "excluded scan-due");
    let report = check(two(), "daemon = { act = false }\ntarget = []", by, "scan-due");
    assert!((58..=62).contains(&walks(&report)), "read only, the largest are walked");
    check(two(), "target = []", by, "not-selected");
    let third = ProcSpec::new("sshd", vec![RegionSpec::new(12 * MIB, Pattern::Idle)]);
    check(
        two().with(third),
        "scan = { min_resident_mib = 10 }\ndaemon = { all = true }\ntarget = []",
        by,
        "protected scan-due too-small",
    );
    check(two(), "scan = { max_procs = 1 }\ntarget = [{ comm = '*' }]", by, "scan-due too-small");
    let look = Change::Request(|proc| Request::Look { proc, by: "table".into() }, "other");
    check(two().at(30, look), "", by, "not-selected scan-asked scan-due");
    check(two().at(0, Change::Blind(Source::Walker)), "", by, "source-blind");
}

/// Where walks take more of a core than they may, the dear ones come less often and the cheap ones do not.
#[test]
fn dear_walks_are_spaced() {
    let giant = ProcSpec::new("giant", vec![RegionSpec::new(256 * MIB, Pattern::Idle)]);
    let walks = |permil: u64| {
        let scan =
            format!("scan = {{ period_ms = 100, walk_permil_of_core = {permil} }}\ntarget = [{{ comm = '*', policy = 'watch' }}]");
        let report = check(host(20).with(cache()).with(giant.clone()), &scan, PolicyId::Watch, "scan-due");
        let scans = report.decisions.iter().flat_map(|d| &d.plan).filter(|s| s.by == PolicyId::Watch);
        // The sim starts them in this order, with ascending pids.
        let mut walks = scans.fold(BTreeMap::new(), |mut walks, s| {
            *walks.entry(s.action.proc()).or_insert(0) += 1;
            walks
        });
        let giant = walks.pop_last().map_or(0, |(_, walks)| walks);
        (walks.values().sum::<u32>(), giant)
    };
    let (cache, giant) = walks(1000);
    assert!((195..=201).contains(&cache) && (195..=201).contains(&giant), "{cache} {giant}");
    // 0.1 ms in 100: the giant's walk takes 0.2, more than its part.
    let (cache, giant) = walks(1);
    assert!((195..=201).contains(&cache) && (48..=53).contains(&giant), "{cache} {giant}");
}

/// The same stream with one knob set otherwise just before decision `k` (an index): that decision.
fn with_knob(report: &SimReport, k: usize, config: &Config) -> Decision {
    let (mut governor, mut events) = (Governor::new(), report.events.iter().peekable());
    for (i, decision) in report.decisions[..=k].iter().enumerate() {
        if i == k {
            let (seq, at) = (report.decisions[k - 1].after, report.decisions[k - 1].at);
            governor.absorb(&Stamped { seq, at, event: Event::Config(canonical(config)) });
        }
        while let Some(event) = events.next_if(|e| e.seq <= decision.after) {
            governor.absorb(event);
        }
        let again = governor.decide(decision.at);
        if i == k {
            return again;
        }
        assert_eq!(again, *decision);
    }
    unreachable!("k is one of the decisions")
}

/// What a policy said about a subject, without numbers that change by themselves.
fn word(decision: &Decision, by: PolicyId, subject: Subject) -> Vec<String> {
    let step = |s: &&Step| s.by == by && Subject::Proc(s.action.proc()) == subject;
    let steps = decision.plan.iter().filter(step).map(|s| format!("{} {:?}", s.action.verb(), s.action.ranges()));
    let holds = decision.report.holds.iter().filter(|h| h.by == by && h.subject == subject);
    let idles = decision.report.idles.iter().filter(|i| i.policy == by).map(|i| i.reason.rule.to_string());
    steps.chain(holds.map(|h| h.reason.rule.to_string())).chain(idles).collect()
}

/// Each reason names knobs and the value of each that would have decided otherwise: it would have.
fn flips(scenario: &Scenario, changes: &str) -> BTreeSet<String> {
    let report = run(1, scenario, &knobs(changes));
    let mut tried = BTreeSet::new();
    for (k, decision) in report.decisions.iter().enumerate().skip(1) {
        let steps = decision.plan.iter().map(|s| (s.by, Subject::Proc(s.action.proc()), &s.reason));
        let holds = decision.report.holds.iter().map(|h| (h.by, h.subject, &h.reason));
        let idles = decision.report.idles.iter().map(|i| (i.policy, Subject::Host, &i.reason));
        for (by, subject, reason) in steps.chain(holds).chain(idles) {
            for evidence in &reason.evidence {
                let (Some(knob), Some(value)) = (evidence.knob.as_deref(), evidence.flips_at) else { continue };
                let (table, key) = knob.split_once('.').expect("a knob is table.key");
                if table == "target" || !tried.insert((format!("{} {knob}", reason.rule), by)) {
                    continue;
                }
                let mut otherwise = toml::Table::try_from(knobs(changes)).expect("a configuration is a table");
                otherwise[table][key] = i64::try_from(value).expect("knobs are small").into();
                let otherwise = otherwise.try_into().expect("the knob is a number");
                let (was, would) = (word(decision, by, subject), word(&with_knob(&report, k, &otherwise), by, subject));
                assert_ne!(
                    was, would,
                    "decision {} at {}: {reason}: {knob} = {value} changes nothing",
                    decision.number, decision.at
                );
            }
        }
    }
    tried.into_iter().map(|(what, _)| what).collect()
}

#[test]
fn the_knob_that_is_named_would_have_decided_otherwise() {
    let zipf = || ProcSpec::new("cache", vec![RegionSpec::new(12 * MIB, Pattern::Zipf { touches: 60 })]);
    let wake = || Change::Pattern { comm: "cache", region: 0, pattern: Pattern::Hot { pages: 12 * MIB } };
    let mut small = host(90).with(cache());
    small.swap = Some(SwapSpec { size: Bytes::from_mib(10), backing: SwapBacking::Zram, limit: Bytes::ZERO });
    let mut dense = cache();
    dense.regions[0].cost = INCOMPRESSIBLE;
    let cases: [(Scenario, &str); 13] = [
        (host(90).with(cache()), ""),
        (host(90).with(cache()), "budget = { moved_mib_per_s = 0 }"),
        (host(90).with(cache()), "autocold = { slo_permil_per_min = 1 }"),
        (host(60).with(cache()), "autocold = { min_idle_s = 300 }"),
        (host(60).with(cache()), "arm = { quota_mib_per_s = 1 }"),
        (host(90).with(cache()), "target = [{ comm = 'cache', policy = 'slide' }]"),
        (host(60).with(cache()), "target = [{ comm = 'cache', policy = 'slide' }]\nslide = { free_below_percent = 50 }"),
        (host(20).with(cache()), "scan = { min_resident_mib = 40 }"),
        (host(90).with(zipf()), "autocold = { slo_permil_per_min = 50 }\narm = { longest_walks = 1, share_permil = 1000 }"),
        (host(90).with(zipf()), "autocold = { slo_permil_per_min = 900 }\narm = { longest_walks = 1, share_permil = 1000 }"),
        (host(90).with(cache()).at(60, wake()), ""),
        (small, ""),
        (host(90).with(dense), ""),
    ];
    let mut all = BTreeSet::new();
    for (scenario, changes) in cases {
        all.extend(flips(&scenario, changes));
    }
    let all: Vec<String> = all.into_iter().collect();
    let expect = [
        "arm-young arm.quota_mib_per_s",
        "autocold-idle autocold.min_idle_s",
        "autocold-idle autocold.slo_permil_per_min",
        "autocold-idle budget.swap_free_permil",
        "budget-spent arm.quota_mib_per_s",
        "budget-spent budget.moved_mib_per_s",
        "gate-closed slide.free_below_percent",
        "nothing-cold autocold.min_idle_s",
        "nothing-cold autocold.slo_permil_per_min",
        "refault-brake autocold.slo_permil_per_min",
        "refault-brake brake.hold_s",
        "slide-cold slide.threshold",
        "swap-reserve budget.swap_free_permil",
        "swap-saves-nothing budget.swap_cost_permil",
        "too-small scan.min_resident_mib",
        "warm-up autocold.warmup_s",
    ];
    assert_eq!(all, expect);
}
