//! Configuration: every message word for word, merging, origins, the canonical form, and fresh generated files.

use memtier::config::{self, COMMAND_LINE, Config, KNOBS, Origin, Target, Value};
use memtier::vocab::PolicyId;
use proptest::prelude::*;
use std::path::Path;

/// Loads `text` as "m.toml" and compares the messages.
fn refused(text: &str, messages: &[&str]) {
    let error = config::load(&[("m.toml", text)]).expect_err(text);
    let got: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
    assert_eq!(got, messages, "for\n{text}");
}

#[test]
fn refusals_word_for_word() {
    const SCAN: &str = "period_ms, walk_permil_of_core, min_resident_mib, max_procs";
    const KEYS: &str = "pid, comm, exe, cgroup, unit, uid, exclude, policy, floor_mib, moved_mib_per_s, numa, tier, cpuset";
    const TABLES: &str = "daemon, scan, heat, arm, budget, brake, autocold, slide, numa, tier, caches, trace, target, cache";
    let cases: &[(&str, &[&str])] = &[
        (
            "[scan]\nperod_ms = 1000\n",
            &[&format!("m.toml:2: unknown key perod_ms in [scan]; did you mean period_ms? Allowed: {SCAN}")],
        ),
        (
            "[scan]\nslice_mib = 4\n",
            &[&format!("m.toml:2: unknown key slice_mib in [scan]; did you mean [arm] slice_mib? Allowed: {SCAN}")],
        ),
        ("[scan]\nblue = 4\n", &[&format!("m.toml:2: unknown key blue in [scan]; allowed: {SCAN}")]),
        ("\n[scna]\nperiod_ms = 1000\n", &[&format!("m.toml:2: unknown table [scna]; did you mean [scan]? Allowed: {TABLES}")]),
        ("period_ms = 1000\n", &[&format!("m.toml:1: unknown table [period_ms]; allowed: {TABLES}")]),
        ("scan = 3\n", &["m.toml:1: scan must be a table, not the number 3"]),
        ("[scan]\nperiod_ms = 99\n", &["m.toml:2: scan.period_ms = 99 is out of range 100 to 3600000"]),
        ("[scan]\nperiod_ms = 3600001\n", &["m.toml:2: scan.period_ms = 3600001 is out of range 100 to 3600000"]),
        ("[scan]\nperiod_ms = -1\n", &["m.toml:2: scan.period_ms = -1 is out of range 100 to 3600000"]),
        (
            "[scan]\nperiod_ms = 99999999999999999999\n",
            &["m.toml:2: scan.period_ms = 99999999999999999999 is out of range 100 to 3600000"],
        ),
        ("[scan]\nperiod_ms = \"5s\"\n", &["m.toml:2: scan.period_ms must be a whole number, not the string \"5s\""]),
        ("[scan]\nperiod_ms = 5.5\n", &["m.toml:2: scan.period_ms must be a whole number, not the fraction 5.5"]),
        ("[scan]\nperiod_ms = [1]\n", &["m.toml:2: scan.period_ms must be a whole number, not a list"]),
        ("[daemon]\nact = 1\n", &["m.toml:2: daemon.act must be true or false, not the number 1"]),
        ("[trace]\nkeep_mib = 10\n", &["m.toml:2: trace.keep_mib = 10 is less than one segment (trace.segment_mib = 64)"]),
        ("[target]\npid = 1\n", &["m.toml:1: target is a list of rules: write [[target]] above each"]),
        ("target = [1]\n", &["m.toml:1: target is a list of rules: write [[target]] above each"]),
        (
            "[[target]]\npolicy = \"slide\"\n",
            &["m.toml:1: a target rule needs a condition: pid, comm, exe, cgroup, unit or uid (comm = \"*\" matches all)"],
        ),
        ("[[target]]\ncomn = \"x\"\n", &[&format!("m.toml:2: unknown key comn in [[target]]; did you mean comm? Allowed: {KEYS}")]),
        ("[[target]]\ncomm = \"\"\n", &["m.toml:1: target.comm is empty and matches nothing; leave the key out to match any"]),
        ("[[target]]\ncomm = 5\n", &["m.toml:2: target.comm must be a string, not the number 5"]),
        ("[[target]]\nexe = \"java\"\n", &["m.toml:1: target.exe is matched from the root: begin it with \"/\" or \"*\""]),
        (
            "[[target]]\ncgroup = \"user.slice\"\n",
            &["m.toml:1: target.cgroup is matched from the root: begin it with \"/\" or \"*\""],
        ),
        ("[[target]]\nunit = \"memcached\"\n", &["m.toml:1: target.unit needs the suffix of the unit: \"memcached.service\"?"]),
        ("[[target]]\npid = 0\n", &["m.toml:2: target.pid = 0 is out of range 1 to 4194304"]),
        ("[[target]]\nuid = 4294967296\n", &["m.toml:2: target.uid = 4294967296 is out of range 0 to 4294967295"]),
        (
            "[[target]]\ncomm = \"a\"\npolicy = \"arm\"\n",
            &["m.toml:3: target.policy must be one of autocold, slide, watch, not the string \"arm\""],
        ),
        ("[[target]]\ncomm = \"a\"\nexclude = 1\n", &["m.toml:3: target.exclude must be true or false, not the number 1"]),
        (
            "[[target]]\ncomm = \"a\"\nexclude = true\nfloor_mib = 9\n",
            &["m.toml:1: target.exclude contradicts policy, floor_mib, moved_mib_per_s, numa, tier and cpuset: keep one side"],
        ),
        ("[[target]]\ncomm = \"a\"\ncpuset = \"/a\"\n", &["m.toml:3: target.cpuset must be true or false, not the string \"/a\""]),
        (
            "[[target]]\ncomm = \"a\"\ncpuset = true\nnuma = false\n",
            &["m.toml:1: target.cpuset says how numa binds, and numa = false or policy = \"watch\" lets it bind nobody: keep one"],
        ),
        (
            "[[cache]]\nserver = \"a\"\npolicy = \"autocold\"\n",
            &["m.toml:3: cache.policy must be one of slab-marginal, slab-extstore, slab-automove, not the string \"autocold\""],
        ),
        (
            "[[cache]]\nserver = \"a\"\ncompat = \"2017\"\n",
            &["m.toml:1: cache.compat is of a script: name it, policy = \"slab-extstore\" or \"slab-automove\""],
        ),
        ("[scan]\nperiod_ms = 500\nperiod_ms = 600\n", &["m.toml:3: duplicate key"]),
        // Everything wrong at once, in the order of the lines.
        (
            "[slide]\nthreshold = 256\n[scan]\nblue = 1\nperiod_ms = true\n",
            &[
                "m.toml:2: slide.threshold = 256 is out of range 0 to 255",
                &format!("m.toml:4: unknown key blue in [scan]; allowed: {SCAN}"),
                "m.toml:5: scan.period_ms must be a whole number, not true",
            ],
        ),
    ];
    for (text, messages) in cases {
        refused(text, messages);
    }
}

#[test]
fn syntax_errors_name_the_line() {
    let error = config::load(&[("m.toml", "[scan]\nperiod_ms 5\n")]).unwrap_err();
    assert!(error.to_string().starts_with("m.toml:2: "), "{error}");
}

#[test]
fn problems_of_all_sources_are_reported_together() {
    let error =
        config::load(&[("a.toml", "[x]\n"), ("b.toml", "[scan]\nmax_procs = 0\n"), (COMMAND_LINE, "heat.age = 1")]).unwrap_err();
    let places: Vec<_> = error.problems.iter().map(|p| p.at.to_string()).collect();
    assert_eq!(places, ["a.toml:1", "b.toml:2", "command line"]);
}

#[test]
fn later_sources_win_and_targets_queue_up() {
    let main = "[scan]\nperiod_ms = 1000\nmax_procs = 7\n[[target]]\ncomm = \"a\"\n";
    let drop_in = "[scan]\nperiod_ms = 2000\n\n[[target]]\ncomm = \"b\"\npolicy = \"slide\"\n[[target]]\npid = 0x10\n";
    let loaded = config::load(&[("m.toml", main), ("m.d/1.toml", drop_in), (COMMAND_LINE, "slide.scans=5")]).unwrap();
    assert_eq!((loaded.config.scan.period_ms, loaded.config.scan.max_procs, loaded.config.slide.scans), (2000, 7, 5));
    let origin = |key| loaded.origin(KNOBS.iter().find(|k| k.key == key).unwrap()).to_string();
    assert_eq!(
        ["period_ms", "max_procs", "scans", "warmup_s"].map(origin),
        ["m.d/1.toml:2", "m.toml:3", "command line", "default"]
    );
    assert_eq!(
        loaded.config.target,
        [
            Target { comm: Some("a".into()), ..Target::default() },
            Target { comm: Some("b".into()), policy: Some(PolicyId::Slide), ..Target::default() },
            Target { pid: Some(16), ..Target::default() },
        ]
    );
    let places: Vec<_> = loaded.targets.iter().map(ToString::to_string).collect();
    assert_eq!(places, ["m.toml:4", "m.d/1.toml:4", "m.d/1.toml:7"]);
}

#[test]
fn nothing_is_the_default() {
    let loaded = config::load(&[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(KNOBS.iter().all(|k| *loaded.origin(k) == Origin::Default));
    // Defaults lie in their ranges, and nothing acts until enabled.
    assert_eq!(config::parse(&config::canonical(&Config::default())).unwrap(), Config::default());
    assert!(!loaded.config.daemon.act && !loaded.config.daemon.arm && loaded.config.target.is_empty());
}

#[test]
fn every_bound_of_every_knob_is_taken_and_one_beyond_is_not() {
    for knob in KNOBS {
        let Value::Number(default) = knob.default else { continue };
        assert!((knob.range.0..=knob.range.1).contains(&default), "{}.{}", knob.table, knob.key);
        let set = |value: u64| config::load(&[(COMMAND_LINE, &format!("{}.{} = {value}", knob.table, knob.key))]);
        for bound in [knob.range.0, knob.range.1] {
            match set(bound) {
                Ok(loaded) => assert_eq!((knob.get)(&loaded.config), Value::Number(bound)),
                // The one rule between two knobs.
                Err(e) => assert!(knob.table == "trace" && e.to_string().contains("less than one segment"), "{e}"),
            }
        }
        assert!(set(knob.range.1 + 1).is_err(), "{}.{}", knob.table, knob.key);
        assert!(knob.range.0 == 0 || set(knob.range.0 - 1).is_err(), "{}.{}", knob.table, knob.key);
    }
}

#[test]
fn off_values_are_in_range() {
    for knob in KNOBS.iter().filter(|k| !k.off.is_empty()) {
        let text = format!("{}.{} = {}", knob.table, knob.key, knob.off);
        config::load(&[(COMMAND_LINE, &text)]).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
}

#[test]
fn the_sample_changes_nothing_also_when_uncommented() {
    let sample = config::sample();
    assert_eq!(config::load(&[("sample", &sample)]).unwrap().config, Config::default());
    let (knobs, rule) = sample.split_once("#[[target]]").unwrap();
    let uncomment = |text: &str| {
        text.lines().map(|l| l.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(l)).collect::<Vec<_>>().join("\n")
    };
    let loaded = config::load(&[("sample", &uncomment(knobs))]).unwrap();
    assert_eq!((loaded.config, loaded.origins.len()), (Config::default(), KNOBS.len()));
    let error = config::load(&[("rule", &format!("[[target]]\n{}", uncomment(rule)))]).unwrap_err();
    assert_eq!(error.problems.len(), 1, "each example is fit on its own; exclude contradicts the rest: {error}");
}

/// Compares a generated file with the committed one; MEMTIER_BLESS=1 rewrites it.
fn fresh(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("MEMTIER_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "{} is stale: run `cargo xtask bless`", path.display());
}

#[test]
fn generated_files_are_fresh() {
    fresh("etc/memtier.toml", &config::sample());
    fresh("docs/knobs.md", &config::knobs_markdown());
}

fn any_config() -> impl Strategy<Value = Config> {
    let knobs = KNOBS
        .iter()
        .map(|knob| match knob.default {
            Value::Number(_) => (knob.range.0..=knob.range.1).prop_map(Value::Number).boxed(),
            Value::Switch(_) => any::<bool>().prop_map(Value::Switch).boxed(),
        })
        .collect::<Vec<_>>();
    let rule = (proptest::option::of(1..=1u32 << 22), ".{1,12}", proptest::option::of("/.{0,12}"), any::<bool>(), 0..1u64 << 20)
        .prop_map(|(pid, comm, exe, exclude, floor)| Target {
            pid,
            comm: Some(comm),
            exe,
            exclude,
            floor_mib: (!exclude).then_some(floor),
            policy: (!exclude && floor % 2 == 0).then_some(PolicyId::Slide),
            ..Target::default()
        });
    (knobs, proptest::collection::vec(rule, 0..4)).prop_map(|(values, target)| {
        let mut config = Config { target, ..Config::default() };
        for (knob, value) in KNOBS.iter().zip(values) {
            assert!((knob.set)(&mut config, value));
        }
        config.trace.keep_mib = config.trace.keep_mib.max(config.trace.segment_mib);
        config
    })
}

proptest! {
    #[test]
    fn canonical_text_returns_the_same_configuration(config in any_config()) {
        let text = config::canonical(&config);
        let back = config::parse(&text).unwrap();
        prop_assert_eq!(&back, &config);
        prop_assert_eq!(config::canonical(&back), text);
    }

    #[test]
    fn no_text_panics(text in ".*|(\\[+(scan|target|daemon)\\]+\n?|(pid|period_ms|act|comm) *= *.{0,6}\n){0,6}") {
        let _ = config::load(&[("any", &text)]);
    }
}
