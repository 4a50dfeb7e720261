//! Goldens: a scenario gives exactly this decision log. A changed golden is a changed behaviour.
//!
//! `MEMTIER_BLESS=1` rewrites the files under tests/fixtures/goldens; then the diff is the review.

use memtier::config::{CacheRule, Config, Target};
use memtier::sim::{CacheSpec, Change, INCOMPRESSIBLE, Load, NodeSpec, Pattern, ProcSpec, RegionSpec, Scenario, Traffic, run};
use memtier::vocab::{Bytes, ClassId, Permil, PolicyId, Request, Source, Span};
use std::fmt::Write as _;

const MIB: u64 = 256; // pages

fn config(act: bool, policy: PolicyId) -> Config {
    let mut config = Config::default();
    (config.daemon.act, config.daemon.arm) = (act, true);
    config.scan.min_resident_mib = 1;
    config.autocold.warmup_s = 60;
    config.autocold.step_permil = 200;
    config.tier.enabled = false;
    config.target = vec![Target { comm: Some("cache".into()), policy: Some(policy), floor_mib: Some(5), ..Target::default() }];
    config
}

fn cache(cost: memtier::vocab::Permil) -> ProcSpec {
    let cold = RegionSpec { cost, ..RegionSpec::new(12 * MIB, Pattern::Idle) };
    ProcSpec::new("cache", vec![cold, RegionSpec::new(4 * MIB, Pattern::Hot { pages: 4 * MIB })])
}

fn scenario(name: &'static str, secs: u64) -> Scenario {
    Scenario::new(name, Span::from_secs(secs)).with(cache(memtier::vocab::Permil(400)))
}

/// The decision log of a run: what was done and what came of it, and each refusal when it began.
fn log(scenario: &Scenario, config: &Config) -> String {
    let report = run(1, scenario, config);
    let mut out = String::new();
    for turn in report.governor.journal().turns() {
        write!(out, "{turn}").expect("a String takes all");
        for outcome in turn.steps.iter().filter_map(|step| step.outcome.as_ref()) {
            writeln!(out, "{} {outcome}", outcome.ended).expect("a String takes all");
        }
    }
    out
}

fn check(scenario: &Scenario, config: &Config) {
    let path = memtier_tests::root().join(format!("tests/fixtures/goldens/{}.txt", scenario.name));
    let now = log(scenario, config);
    if std::env::var_os("MEMTIER_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(&path, now).expect("the fixture can be written");
        return;
    }
    let was = std::fs::read_to_string(&path).unwrap_or_default();
    let differs =
        was.lines().zip(now.lines()).position(|(a, b)| a != b).unwrap_or_else(|| was.lines().count().min(now.lines().count()));
    assert!(
        was == now,
        "{}: line {} was\n  {}\nis\n  {}\nMEMTIER_BLESS=1 rewrites it, if that is what should be",
        path.display(),
        differs + 1,
        was.lines().nth(differs).unwrap_or("(nothing)"),
        now.lines().nth(differs).unwrap_or("(nothing)")
    );
}

#[test]
fn autocold_acts() {
    check(&scenario("autocold-acts", 420), &config(true, PolicyId::Autocold));
}

#[test]
fn autocold_advises() {
    check(&scenario("autocold-advises", 420), &config(false, PolicyId::Autocold));
}

#[test]
fn slide_acts() {
    check(&scenario("slide-acts", 180), &config(true, PolicyId::Slide));
}

#[test]
fn incompressible() {
    let s = Scenario::new("incompressible", Span::from_secs(420)).with(cache(INCOMPRESSIBLE));
    check(&s, &config(true, PolicyId::Autocold));
}

#[test]
fn no_swap() {
    let s = Scenario { swap: None, ..scenario("no-swap", 240) };
    check(&s, &config(true, PolicyId::Autocold));
}

/// Two nodes alike; a process of two busy threads lies on both.
#[test]
fn numa_acts() {
    let hog = ProcSpec { threads: 2, busy: Permil(900), ..cache(Permil(400)) };
    let mut s =
        Scenario::new("numa-acts", Span::from_secs(120)).with(hog).at(40, Change::Affinity { comm: "cache", cpus: vec![0] });
    s.nodes = NodeSpec::EVEN.to_vec();
    let mut config = config(true, PolicyId::Autocold);
    (config.numa.slice_mib, config.numa.settle_s) = (2, 20);
    check(&s, &config);
}

/// Two nodes alike, and a process of two pairs of threads that is too large for either of them.
#[test]
fn numa_parts() {
    let hot = |threads| RegionSpec { threads: Some(threads), ..RegionSpec::new(24 * MIB, Pattern::Hot { pages: 24 * MIB }) };
    let pairs = ProcSpec { threads: 5, busy: Permil(900), ..ProcSpec::new("cache", vec![hot((1, 3)), hot((3, 5))]) };
    let mut s = Scenario::new("numa-parts", Span::from_secs(60)).with(pairs);
    s.nodes = vec![NodeSpec { share: Permil(500), cpus: 3 }; 2];
    check(&s, &config(true, PolicyId::Autocold));
}

/// A fast node and a slow one; a process lies on both, and the fast one is to have room.
#[test]
fn tier_acts() {
    let cold = RegionSpec::new(60 * MIB, Pattern::Idle);
    let hot = RegionSpec::new(12 * MIB, Pattern::Hot { pages: 12 * MIB });
    let mut s = Scenario::new("tier-acts", Span::from_secs(240)).with(ProcSpec::new("cache", vec![cold, hot]));
    (s.memory, s.swap) = (Bytes::from_mib(96), None);
    let wake = Change::Pattern { comm: "cache", region: 0, pattern: Pattern::Hot { pages: 4 * MIB } };
    s = s.at(150, wake);
    let mut config = config(true, PolicyId::Autocold);
    config.tier.enabled = true;
    (config.tier.reserve_permil, config.tier.cold_s, config.tier.settle_s) = (150, 30, 30);
    check(&s, &config);
}

/// Traffic that turns from small items to large ones, on a server of twelve pages.
#[test]
fn slab_marginal_acts() {
    let load = |class, (from, until)| Load {
        class: ClassId(class),
        traffic: Traffic::Skewed,
        keys: 1024,
        per_s: 400,
        ttl: None,
        from,
        until,
    };
    let loads = vec![load(1, (0, 20)), load(2, (20, 60))];
    let mut s = Scenario::new("slab-marginal-acts", Span::from_secs(60)).at(50, Change::RestartCache(0));
    s.caches = vec![CacheSpec { pages: 12, chunks: vec![64, 16], loads, mute: false, headers: None }];
    let mut config = Config::default();
    config.daemon.act = true;
    config.cache = vec![CacheRule { server: "simulated:0".into(), ..CacheRule::default() }];
    check(&s, &config);
}

#[test]
fn operator_and_trouble() {
    let s = scenario("operator-and-trouble", 420)
        .at(100, Change::Request(|_| Request::Pause { by: "operator".into() }, "cache"))
        .at(150, Change::Request(|_| Request::Resume { by: "operator".into() }, "cache"))
        .at(200, Change::Blind(Source::Psi))
        .at(230, Change::Sight(Source::Psi))
        .at(250, Change::SwapLimit { cgroup: "/", limit: Bytes::from_mib(1) })
        .at(300, Change::Take(Bytes::from_mib(930)))
        .at(360, Change::ReusePid("cache"));
    check(&s, &config(true, PolicyId::Autocold));
}
