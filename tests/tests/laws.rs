//! The laws of the house as properties, over random hosts, configurations and troubles in a closed loop, and over random
//! streams. tests/mutants.toml has a deliberate mistake for each; `cargo xtask test --mutants` expects it to be noticed.
//!
//! What is checked against is kept by `shadow` and `oracle`, which read nothing but the events and share no code with
//! the models, the arbiter and the audit.

#[path = "laws/case.rs"]
mod case;
#[path = "laws/oracle.rs"]
mod oracle;
#[path = "laws/shadow.rs"]
mod shadow;

use case::{calm_cases, cases};
use memtier::config::Config;
use memtier::plan::{Decision, Governor};
use memtier::sim::{SimReport, Turn, World, drive};
use memtier::vocab::{
    Action, AddrRange, Bits, BlockId, BlockSample, Bytes, Event, Guard, HostFacts, NodeFacts, NodeId, PageChunk, Pages, Permil,
    PolicyId, ProcKey, ProcSample, Rule, Sample, Source, Span, Stamped, StepId, Time,
};
use oracle::Oracle;
use proptest::prelude::*;
use shadow::{Shadow, Sight, follow, places, takes};
use std::collections::{BTreeMap, BTreeSet};

/// The environment may ask for more (PROPTEST_CASES), or for no shrinking (PROPTEST_MAX_SHRINK_ITERS).
fn few(cases: u32) -> ProptestConfig {
    let unless = |name, value, asked| if std::env::var_os(name).is_some() { asked } else { value };
    let asked = ProptestConfig::default();
    let cases = unless("PROPTEST_CASES", cases, asked.cases);
    let max_shrink_iters = unless("PROPTEST_MAX_SHRINK_ITERS", 300, asked.max_shrink_iters);
    ProptestConfig { cases, max_shrink_iters, ..asked }
}

proptest! {
    #![proptest_config(few(24))]

    /// Law 1. Nothing is promised yet, so what must fit is the reserve: no plan takes swap that has to stay free, by what
    /// the stream tells; nor in truth, where nobody but us swaps. No move takes a node's memory that has to stay free.
    #[test]
    fn law_01_reserves_fit_into_the_capacity(case in cases()) {
        let report = case.run();
        let mut bad = None;
        follow(&report.events, &report.decisions, |shadow, decision| {
            let pages_out = decision.plan.iter().any(|s| matches!(s.action, Action::PageOut { .. }) && !s.guards.contains(&Guard::DryRun));
            let room = oracle::swap_room(shadow, decision.at, decision);
            if pages_out && room < 0 {
                bad.get_or_insert(format!("decision {} at {}: {} bytes under the reserve", decision.number, decision.at, -room));
            }
        });
        prop_assert!(bad.is_none(), "{}", bad.unwrap_or_default());
        if let Some(free) = report.truth.least_swap_free.filter(|_| report.truth.reclaimed == Pages::ZERO) {
            prop_assert!(free >= Permil(case.knobs.reserve), "in truth only {} of swap was left, not {}", free, case.knobs.reserve);
        }
        if let Some(free) = report.truth.least_node_free {
            prop_assert!(free.0 + 1 >= case.knobs.node_reserve, "in truth a node had {} left, not {}", free, case.knobs.node_reserve);
        }
    }

    /// Law 2. In every window of ten seconds the charges stay under the budgets, and each charge covers its step.
    #[test]
    fn law_02_charges_stay_under_the_budget(case in cases()) {
        let report = case.run();
        let mut bad = None;
        follow(&report.events, &report.decisions, |shadow, decision| {
            if let Err(why) = within_budget(shadow, decision) {
                bad.get_or_insert(format!("decision {} at {}: {why}", decision.number, decision.at));
            }
        });
        prop_assert!(bad.is_none(), "{}", bad.unwrap_or_default());
    }

    /// Law 3. No plan takes a process under its floor by what the last walk saw, nor in truth where only we take.
    #[test]
    fn law_03_floors_hold(case in cases()) {
        let floor = Bytes::from_mib(case.knobs.floor_mib.unwrap_or(0));
        let report = case.run();
        let (mut oracle, mut bad) = (Oracle::default(), None);
        judge(&report, &mut oracle, |oracle, _, decision| {
            for step in decision.plan.iter().filter(|s| takes(s)) {
                let left = oracle.resident(step.action.proc()).saturating_sub(step.action.pages().bytes());
                if left < floor {
                    bad.get_or_insert(format!("step {} leaves {left}, not {floor}", step.id));
                }
            }
        });
        prop_assert!(bad.is_none(), "{}", bad.unwrap_or_default());
        if report.truth.reclaimed == Pages::ZERO {
            for (comm, truth) in &report.truth.procs {
                let least = truth.least_resident.unwrap_or(Pages::MAX).bytes();
                prop_assert!(least >= floor, "{} was down to {}, not {}", comm, least, floor);
            }
        }
    }

    /// Law 4. One step per process and turn, and never two walks of one process at once.
    #[test]
    fn law_04_one_step_per_subject_and_turn(case in cases()) {
        let report = case.run();
        let mut bad = None;
        follow(&report.events, &report.decisions, |shadow, decision| {
            let mut subjects = BTreeSet::new();
            for step in &decision.plan {
                let proc = step.action.proc();
                let walking = |d: &&shadow::Done| d.step.action == step.action && decision.at <= d.step.expires.after(Span::from_secs(60));
                let twice = matches!(step.action, Action::Scan { .. }) && shadow.in_flight().any(|d| walking(&d));
                if !subjects.insert(proc) || twice {
                    bad.get_or_insert(format!("step {} is the second for {proc}", step.id));
                }
            }
        });
        prop_assert!(bad.is_none(), "{}", bad.unwrap_or_default());
    }

    /// Law 5. Every refusal is true by a second reading, and no selected process with cold memory is passed over in silence.
    #[test]
    fn law_05_every_refusal_is_justified(case in cases()) {
        let report = case.run();
        let (mut oracle, mut bad) = (Oracle::default(), None);
        judge(&report, &mut oracle, |oracle, shadow, decision| {
            if let Err(why) = oracle.judge(shadow, decision) {
                bad.get_or_insert(format!("decision {} at {}: {why}", decision.number, decision.at));
            }
        });
        prop_assert!(bad.is_none(), "{}", bad.unwrap_or_default());
    }

    /// Law 6. Steady input and applied outcomes reach a plan that takes nothing more, and arms nothing that is not used.
    #[test]
    fn law_06_steady_input_reaches_an_empty_plan(case in calm_cases()) {
        let report = case.run();
        let late = report.decisions[0].at.after(Span::from_secs(case.secs * 2 / 3));
        let used: BTreeSet<&str> = case.procs.iter().zip(case::NAMES).filter(|(p, _)| p.does == 1).map(|(_, name)| name).collect();
        let mut bad = None;
        follow(&report.events, &report.decisions, |shadow, decision| {
            for step in decision.plan.iter().filter(|_| decision.at >= late) {
                let comm = shadow.procs.get(&step.action.proc()).map_or("", |(_, s)| s.comm.as_str());
                let idle = matches!(step.action, Action::Arm { .. }) && !used.contains(comm);
                if takes(step) || places(step) || idle {
                    bad.get_or_insert(format!("{} {} of {comm} at {}: {}", step.id, step.action.verb(), decision.at, step.reason));
                }
            }
        });
        prop_assert!(bad.is_none(), "{}", bad.unwrap_or_default());
    }

    /// Law 7. A page that came back is left alone for the settle time, and advice that was not taken is not repeated in it.
    #[test]
    fn law_07_no_page_crosses_twice_within_the_settle_time(case in cases()) {
        let report = case.run();
        let config = case.config();
        let round = Span::from_millis((config.slide.scans - 1) * config.scan.period_ms);
        let settle = if case.knobs.slide { round } else { Span::from_secs(config.autocold.min_idle_s) };
        if let Some(span) = report.truth.shortest_return {
            prop_assert!(span >= settle, "a page went out again {span} after it came back, not {settle}");
        }
        if let Some(span) = report.truth.shortest_crossing {
            let settle = Span::from_secs(config.numa.settle_s.min(config.tier.settle_s));
            prop_assert!(span >= settle, "a block went to another node {span} after it came, not {settle}");
        }
        let mut advised: BTreeMap<(ProcKey, PolicyId), (Time, Vec<AddrRange>)> = BTreeMap::new();
        for decision in &report.decisions {
            for step in decision.plan.iter().filter(|s| (takes(s) || places(s)) && s.guards.contains(&Guard::DryRun)) {
                let ranges = step.action.ranges().to_vec();
                let last = advised.insert((step.action.proc(), step.by), (decision.at, ranges.clone()));
                let again = last.filter(|(_, last)| *last == ranges).map(|(before, _)| decision.at.since(before));
                prop_assert!(again.is_none_or(|span| span >= Span::from_secs(60)), "the advice {} was given {:?} ago", step.id, again);
            }
        }
    }

    /// Law 9. While a source that a policy stands on is blind or silent, the policy idles and says so; what it does not
    /// stand on does not stop it.
    #[test]
    fn law_09_a_blind_source_idles_its_dependants(case in cases()) {
        let report = case.run();
        let mut bad = None;
        follow(&report.events, &report.decisions, |shadow, decision| {
            if let Err(why) = idles_where_blind(shadow, decision) {
                bad.get_or_insert(format!("decision {} at {}: {why}", decision.number, decision.at));
            }
        });
        prop_assert!(bad.is_none(), "{}", bad.unwrap_or_default());
    }

    /// Law 10. Exactly one outcome answers each step; what the Governor holds to be under way is what was not answered.
    #[test]
    fn law_10_each_step_gets_exactly_one_outcome(case in cases()) {
        let (mut open, mut twice, mut bad) = (BTreeMap::<StepId, Time>::new(), Vec::new(), None);
        let mut world = World::new(case.seed, &case.scenario(), &case.config());
        let until = world.now().after(Span::from_secs(case.secs));
        drive(&mut world, &mut Governor::new(), until, |turn, governor| {
            match &turn {
                Turn::Event(Stamped { event: Event::Outcome(outcome), .. }) => {
                    if open.remove(&outcome.step).is_none() {
                        twice.push(outcome.step);
                    }
                }
                Turn::Event(_) => {}
                Turn::Decision(decision) => open.extend(decision.plan.iter().map(|s| (s.id, s.expires))),
            }
            let held: BTreeSet<StepId> = governor.in_flight().map(|s| s.id).collect();
            let stray = held.iter().find(|id| !open.contains_key(id));
            let missed = open.iter().find(|(id, expires)| governor.now() <= expires.after(Span::from_secs(60)) && !held.contains(id));
            if stray.is_some() || missed.is_some() {
                bad.get_or_insert(format!("at {}: held without cause {stray:?}, not held {missed:?}", governor.now()));
            }
        });
        prop_assert!(twice.is_empty(), "answered twice, or never asked: {:?}", twice);
        prop_assert!(bad.is_none(), "{}", bad.unwrap_or_default());
        let truth = world.truth();
        prop_assert!(truth.outcomes() <= truth.steps);
    }

    /// Law 12. The audit never has to veto what the arbiter let through.
    #[test]
    fn law_12_audit_and_arbiter_agree(case in cases()) {
        for decision in case.run().decisions {
            for hold in &decision.report.holds {
                prop_assert!(hold.reason.rule != Rule::AuditVeto, "decision {} at {}: {}", decision.number, decision.at, hold.reason);
            }
        }
    }
}

proptest! {
    #![proptest_config(few(8))]

    /// Law 8. The same stream gives the same bytes, however it is batched, and from a checkpoint anywhere in it.
    #[test]
    fn law_08_the_same_stream_gives_the_same_bytes(case in cases(), cut in 0.0..1.0f64, ask in 1usize..50) {
        let report = case.run();
        let bytes = |d: &Decision| minicbor_serde::to_vec(d).expect("a decision serialises");
        let at = (report.events.len() as f64 * cut) as usize;
        let mut governor = Governor::new();
        let mut rest = report.decisions.iter().peekable();
        for (i, event) in report.events.iter().enumerate() {
            if i == at {
                let checkpoint = minicbor_serde::to_vec(&governor).expect("a governor serialises");
                governor = minicbor_serde::from_slice(&checkpoint).expect("and comes back");
                let again = minicbor_serde::to_vec(&governor).expect("a governor serialises");
                prop_assert!(checkpoint == again, "the checkpoint before event {} changes when restored", event.seq);
            }
            while let Some(decision) = rest.next_if(|d| d.after < event.seq) {
                let replayed = governor.decide(decision.at);
                prop_assert!(bytes(&replayed) == bytes(decision), "decision {}: {:?}\nis {:?}", decision.number, decision, replayed);
            }
            governor.absorb(event);
            // Looking does not change what is seen.
            if i % ask == 0 {
                let _ = (governor.due(), governor.models().bytes(), governor.in_flight().count());
            }
        }
        for decision in rest {
            prop_assert!(bytes(&governor.decide(decision.at)) == bytes(decision), "decision {}", decision.number);
        }
    }

    /// Law 11. Whatever comes in, the models stay under their cap, and what had to go is said.
    #[test]
    fn law_11_models_stay_under_their_caps(
        procs in 1u32..400, blocks in 1u64..400, pages in 1usize..40, samples in 0u32..6000, seed in any::<u64>()
    ) {
        let mut config = Config::default();
        config.heat.fixed_mib = 40;
        let mut governor = Governor::new();
        let mut said = false;
        for event in flood(&config, procs, blocks, pages, samples, seed) {
            governor.absorb(&event);
            let models = governor.models();
            if event.seq % 64 == 0 {
                let cap = models.heat.tracked().0 / 1024 + (config.heat.fixed_mib << 20);
                prop_assert!(models.bytes().0 <= cap, "models take {} of {} with {} tracked", models.bytes(), Bytes(cap), models.heat.tracked());
            }
        }
        let dropped: u64 = governor.models().fill().iter().map(|f| f.evicted).sum();
        for _ in 0..20 {
            let due = governor.due();
            prop_assert!(due < Time::MAX);
            said |= governor.decide(due).report.holds.iter().any(|h| h.reason.rule == Rule::ModelCap);
        }
        prop_assert!(said == (dropped > 0), "{} entries were dropped, said: {}", dropped, said);
    }

    /// Law 13, the part above the shell: the daemon killed at any event and started anew knows nothing of its steps under
    /// way, keeps every bound, and takes nothing before it has watched for itself.
    #[test]
    fn law_13_a_restart_anywhere_is_safe(case in cases(), killed in 0.0..1.0f64) {
        let config = case.config();
        let mut world = World::new(case.seed, &case.scenario(), &config);
        let until = world.now().after(Span::from_secs(case.secs));
        let killed = world.now().after(Span((case.secs as f64 * killed * 1e9) as u64));
        drive(&mut world, &mut Governor::new(), killed, |_, _| {});
        world.restart(&config);
        let (mut events, mut decisions) = (Vec::new(), Vec::new());
        drive(&mut world, &mut Governor::new(), until, |turn, _| match turn {
            Turn::Event(event) => events.push(event),
            Turn::Decision(decision) => decisions.push(decision),
        });
        let warm = killed.after(Span::from_secs(config.autocold.warmup_s));
        let mut bad = None;
        follow(&events, &decisions, |_, decision| {
            let early = decision.plan.iter().find(|s| takes(s) && s.by == PolicyId::Autocold && decision.at < warm);
            let vetoed = decision.report.holds.iter().find(|h| h.reason.rule == Rule::AuditVeto);
            if let Some(step) = early {
                bad.get_or_insert(format!("step {} takes memory {} after the start", step.id, decision.at.since(killed)));
            }
            if let Some(hold) = vetoed {
                bad.get_or_insert(hold.reason.to_string());
            }
        });
        prop_assert!(bad.is_none(), "{}", bad.unwrap_or_default());
        let truth = world.truth();
        prop_assert!(truth.splits == 0);
        if let Some(free) = truth.least_swap_free.filter(|_| truth.reclaimed == Pages::ZERO) {
            prop_assert!(free >= Permil(case.knobs.reserve), "in truth only {} of swap was left", free);
        }
    }
}

/// Follows a run with the oracle beside the shadow.
fn judge(report: &SimReport, oracle: &mut Oracle, mut look: impl FnMut(&mut Oracle, &Shadow, &Decision)) {
    let mut shadow = Shadow::default();
    let mut rest = report.decisions.iter().peekable();
    for event in &report.events {
        while let Some(decision) = rest.next_if(|d| d.after < event.seq) {
            look(oracle, &shadow, decision);
            shadow.decided(decision);
        }
        oracle.absorb(&shadow, event);
        shadow.absorb(event);
    }
}

fn within_budget(shadow: &Shadow, decision: &Decision) -> Result<(), String> {
    let c = &shadow.config;
    let (mut moved, mut armed, mut calls) = oracle::spent(shadow, decision.at, |_| true);
    let mut own: BTreeMap<usize, u64> = BTreeMap::new();
    let rule = |proc: &ProcKey| {
        let comm = shadow.procs.get(proc).map(|(_, s)| s.comm.clone());
        c.target.iter().position(|t| t.comm == comm && comm.is_some())
    };
    for step in &decision.plan {
        let charge = step.charge;
        let bytes = step.action.pages().bytes();
        let honest = match step.action {
            Action::Scan { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => true,
            Action::Arm { .. } => charge.armed >= bytes && charge.syscalls > 0,
            Action::Bind { .. } => charge.moved == Bytes::ZERO && charge.syscalls > 0,
            Action::Deactivate { .. } | Action::MovePages { .. } | Action::Migrate { .. } => {
                charge.moved >= bytes && charge.syscalls > 0
            }
            Action::PageOut { .. } => {
                let disk = shadow
                    .host
                    .as_ref()
                    .is_some_and(|(_, h)| h.swaps.iter().any(|s| s.backing != memtier::vocab::SwapBacking::Zram));
                charge.moved >= bytes && charge.syscalls > 0 && (!disk || charge.swap_written >= bytes)
            }
        };
        if !honest {
            return Err(format!("step {} {} of {bytes} is charged {charge:?}", step.id, step.action.verb()));
        }
        moved += charge.moved.0;
        armed += charge.armed.0;
        calls += charge.syscalls;
        if (takes(step) || places(step))
            && let Some(rule) = rule(&step.action.proc())
        {
            *own.entry(rule).or_default() += charge.moved.0;
        }
    }
    let by_numa = oracle::spent_by_numa(shadow, decision);
    let by_tier = oracle::spent_by_tier(shadow, decision);
    let links = shadow.facts.nodes.iter().filter(|node| node.cpus.is_empty()).count() as u64;
    let limits = [
        ("moved", moved, (c.budget.moved_mib_per_s * 10) << 20, decision.plan.iter().any(|s| s.charge.moved > Bytes::ZERO)),
        (
            "moved by numa",
            by_numa,
            (c.numa.quota_mib_per_s * 10) << 20,
            decision.plan.iter().any(|s| matches!(s.action, Action::MovePages { .. })),
        ),
        (
            "moved by tier",
            by_tier,
            (c.tier.quota_mib_per_s * 10 * links) << 20,
            decision.plan.iter().any(|s| s.by == PolicyId::Tier),
        ),
        ("armed", armed, (c.arm.quota_mib_per_s * 10) << 20, decision.plan.iter().any(|s| s.charge.armed > Bytes::ZERO)),
        ("system calls", calls, c.budget.syscalls_per_s * 10, decision.plan.iter().any(|s| s.charge.syscalls > 0)),
    ];
    if let Some((what, used, limit, _)) = limits.iter().find(|(_, used, limit, now)| *now && used > limit) {
        return Err(format!("{what}: {used} of {limit}"));
    }
    for (place, planned) in own {
        let Some(per_s) = c.target[place].moved_mib_per_s else { continue };
        let before = oracle::spent(shadow, decision.at, |proc| rule(&proc) == Some(place)).0;
        if before + planned > (per_s * 10) << 20 {
            return Err(format!("target rule {place}: {} of {}", before + planned, (per_s * 10) << 20));
        }
    }
    Ok(())
}

fn idles_where_blind(shadow: &Shadow, decision: &Decision) -> Result<(), String> {
    let now = decision.at;
    let silent = |s: Source| shadow.heard.get(&s).is_none_or(|&at| now.since(at) > Span::from_secs(60));
    let unseen = |s: Source| match s {
        Source::Host | Source::Psi => shadow.sight(s) != Sight::Seeing || silent(s),
        _ => shadow.sight(s) != Sight::Seeing,
    };
    let acts = |by| match by {
        PolicyId::SlabMarginal | PolicyId::SlabExtstore | PolicyId::SlabAutomove => [].as_slice(),
        PolicyId::Watch => &[Source::Walker],
        PolicyId::Arm => &[Source::Procs, Source::Walker, Source::Host, Source::Psi, Source::Reclaim],
        PolicyId::Slide | PolicyId::Autocold | PolicyId::Numa | PolicyId::Tier => {
            &[Source::Procs, Source::Walker, Source::Host, Source::Psi]
        }
    };
    for step in &decision.plan {
        if let Some(source) = acts(step.by).iter().find(|&&s| unseen(s)) {
            return Err(format!("step {} {} by {} although {source} does not tell", step.id, step.action.verb(), step.by));
        }
    }
    for idle in decision.report.idles.iter().filter(|i| i.reason.rule == Rule::SourceBlind) {
        if !acts(idle.policy).iter().any(|&s| unseen(s)) {
            return Err(format!("{} idles although all that it needs tell: {}", idle.policy, idle.reason));
        }
    }
    Ok(())
}

/// A stream that is larger than the models: many processes, each with blocks that hold few pages, and many that are only heard of.
fn flood(config: &Config, procs: u32, blocks: u64, pages: usize, samples: u32, seed: u64) -> impl Iterator<Item = Stamped> + use<> {
    let mut bits = Bits::NONE;
    (0..pages).for_each(|i| bits.set((i * 13 + seed as usize % 512) % 512));
    let key = |pid| ProcKey { pid: pid + 10, start: 1 };
    let sample = move |pid: u32| {
        let comm = format!("p{pid}");
        Event::Sample(Sample::Proc(Box::new(ProcSample {
            proc: key(pid),
            comm,
            rss: Bytes::from_mib(100),
            ..ProcSample::default()
        })))
    };
    let walk = move |pid: u32| {
        let block = |b: u64| BlockSample {
            block: BlockId(b * 3 + 1),
            accessed: bits,
            present: bits,
            node: NodeId((b % 2) as u16),
            ..BlockSample::default()
        };
        let blocks = (0..blocks).map(block);
        let range = AddrRange::EVERYTHING;
        Event::Sample(Sample::Pages(PageChunk {
            proc: key(pid),
            scan: u64::from(pid) + 1,
            range,
            blocks: blocks.collect(),
            last: true,
        }))
    };
    let node = |id| NodeFacts { id: NodeId(id), total: Bytes(1 << 40), ..NodeFacts::default() };
    let facts = HostFacts { nodes: vec![node(0), node(1)], ..HostFacts::default() };
    let head =
        [Event::Facts(Box::new(facts)), Event::Config(memtier::config::canonical(config)), Event::Sight { source: Source::Walker }];
    let events = head.into_iter().chain((0..samples).map(sample)).chain((0..procs).map(walk)).chain((0..procs).map(sample));
    events.enumerate().map(|(i, event)| Stamped { seq: i as u64 + 1, at: Time(1_000_000_000_000 + i as u64 * 1_000_000), event })
}
