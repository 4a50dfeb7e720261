//! Random hosts and configurations, small enough that a shrunk failure can be read.

use memtier::config::{Config, Target};
use memtier::sim::{Change, Faults, NodeSpec, Pattern, ProcSpec, RegionSpec, Scenario, SimReport, SwapSpec, run};
use memtier::vocab::{Bytes, Permil, PolicyId, ProcKey, Request, Source, Span, SwapBacking, VmaFlags, VmaKind};
use proptest::prelude::*;

pub const NAMES: [&str; 4] = ["anna", "bert", "carl", "dora"];
/// The last one is never selected.
const EXCLUDED: usize = NAMES.len() - 1;
const MIB: u64 = 256;

pub fn selected(comm: &str) -> bool {
    NAMES[..EXCLUDED].contains(&comm)
}

/// A process: what it does with its memory.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Idle, Hot, Zipf, Sweep, Moving, Growing, Random.
    pub does: u8,
    pub mib: u64,
    pub in_use: u64,
    /// What a page costs in zram, permil.
    pub cost: u64,
    pub huge: bool,
    pub locked_region: bool,
    /// Threads, and what each runs of a second.
    pub threads: u32,
    pub busy: u64,
    /// Two pairs of threads with memory of their own, large enough to be told apart.
    pub apart: bool,
}

/// Something that happens on the way.
#[derive(Clone, Copy, Debug)]
pub enum Twist {
    Exit(usize),
    Exec(usize),
    Reuse(usize),
    Starve(usize),
    Feed(usize),
    Wake(usize),
    Blind(usize),
    Sight(usize),
    Mute(usize),
    Take(u64),
    RemoveNode(u64),
    SwapLimit(u64),
    Affinity(usize, u32),
    Pause,
    Resume,
    Look(usize),
    Reload,
}

/// Knobs that matter, all of them near where they bind.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    pub slide: bool,
    pub floor_mib: Option<u64>,
    pub own_mib_per_s: Option<u64>,
    pub moved_mib_per_s: u64,
    pub armed_mib_per_s: u64,
    pub syscalls_per_s: u64,
    pub reserve: u64,
    pub slo: u64,
    pub dry: bool,
    pub mild: bool,
    /// Of a node's memory, kept free.
    pub node_reserve: u64,
    pub numa_mib_per_s: u64,
    pub tier_mib_per_s: u64,
    /// Of a fast node's memory, kept free for more.
    pub tier_reserve: u64,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub procs: Vec<Shape>,
    pub knobs: Knobs,
    pub swap_mib: u64,
    pub disk: bool,
    /// Share of the memory and CPUs of each node.
    pub nodes: Vec<NodeSpec>,
    /// In the order of the fields of `Faults`.
    pub storm: bool,
    pub twists: Vec<(u64, Twist)>,
    pub secs: u64,
}

pub fn shapes() -> impl Strategy<Value = Shape> {
    (
        0u8..7,
        1u64..=12,
        0u64..=4,
        prop::sample::select(vec![100u64, 400, 1010]),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
        (1u32..=3, prop::sample::select(vec![0u64, 200, 900]), prop::bool::weighted(0.2)),
    )
        .prop_map(|(does, mib, in_use, cost, huge, locked_region, (threads, busy, apart))| Shape {
            does,
            mib,
            in_use,
            cost,
            huge,
            locked_region,
            threads,
            busy,
            apart,
        })
}

pub fn knobs() -> impl Strategy<Value = Knobs> {
    let floor = prop::option::weighted(0.4, 1u64..10);
    let own = prop::option::weighted(0.2, 1u64..3);
    let rates =
        (prop::sample::select(vec![256u64, 1, 0]), prop::sample::select(vec![512u64, 1]), prop::sample::select(vec![2000u64, 5]));
    let rest = (0u64..=500, prop::sample::select(vec![2u64, 100, 1000]), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    let tier = (prop::sample::select(vec![256u64, 1, 0]), prop::sample::select(vec![0u64, 200, 500]));
    let nodes = (prop::sample::select(vec![20u64, 300, 600]), prop::sample::select(vec![256u64, 1]), tier);
    (prop::bool::weighted(0.3), floor, own, rates, rest, nodes).prop_map(|(slide, floor_mib, own_mib_per_s, rates, rest, nodes)| {
        let (node_reserve, numa_mib_per_s, (tier_mib_per_s, tier_reserve)) = nodes;
        let (moved_mib_per_s, armed_mib_per_s, syscalls_per_s) = rates;
        let (reserve, slo, dry, mild) = rest;
        Knobs {
            slide,
            floor_mib,
            own_mib_per_s,
            moved_mib_per_s,
            armed_mib_per_s,
            syscalls_per_s,
            reserve,
            slo,
            dry,
            mild,
            node_reserve,
            numa_mib_per_s,
            tier_mib_per_s,
            tier_reserve,
        }
    })
}

fn twists(secs: u64) -> impl Strategy<Value = Vec<(u64, Twist)>> {
    let n = || 0..NAMES.len();
    let twist = prop_oneof![
        n().prop_map(Twist::Exit),
        n().prop_map(Twist::Exec),
        n().prop_map(Twist::Reuse),
        n().prop_map(Twist::Starve),
        n().prop_map(Twist::Feed),
        n().prop_map(Twist::Wake),
        (0..Source::ALL.len()).prop_map(Twist::Blind),
        (0..Source::ALL.len()).prop_map(Twist::Sight),
        (0..Source::ALL.len()).prop_map(Twist::Mute),
        (1u64..40).prop_map(Twist::Take),
        (1u64..40).prop_map(Twist::RemoveNode),
        (0u64..20).prop_map(Twist::SwapLimit),
        (n(), 0u32..4).prop_map(|(i, cpu)| Twist::Affinity(i, cpu)),
        Just(Twist::Pause),
        Just(Twist::Resume),
        n().prop_map(Twist::Look),
        Just(Twist::Reload),
    ];
    prop::collection::vec((0..secs, twist), 0..6)
}

/// Nodes with and without CPUs, alike and not.
fn nodes() -> impl Strategy<Value = Vec<NodeSpec>> {
    let of = |nodes: &[(u64, u32)]| nodes.iter().map(|&(share, cpus)| NodeSpec { share: Permil(share), cpus }).collect::<Vec<_>>();
    let uneven = of(&[(200, 1), (500, 3), (300, 0)]);
    let many = of(&[(200, 2), (200, 2), (300, 0), (300, 0)]);
    prop::sample::select(vec![NodeSpec::USUAL.to_vec(), NodeSpec::EVEN.to_vec(), uneven, many])
}

/// Everything at once.
pub fn cases() -> impl Strategy<Value = Case> {
    let secs = 150u64;
    let swap = (prop::sample::select(vec![0u64, 4, 16, 64]), prop::bool::weighted(0.2), nodes());
    (any::<u64>(), prop::collection::vec(shapes(), 1..=NAMES.len()), knobs(), swap, prop::bool::weighted(0.3), twists(secs))
        .prop_map(move |(seed, procs, knobs, (swap_mib, disk, nodes), storm, twists)| Case {
            seed,
            procs,
            knobs,
            swap_mib,
            disk,
            nodes,
            storm,
            twists,
            secs,
        })
}

/// A host where nothing goes wrong and nothing changes.
pub fn calm_cases() -> impl Strategy<Value = Case> {
    let all = (any::<u64>(), prop::collection::vec(shapes(), 1..=2), knobs(), 16u64..64, nodes());
    all.prop_map(|(seed, mut procs, mut knobs, swap_mib, nodes)| {
        for p in &mut procs {
            p.does %= 2;
        }
        (knobs.moved_mib_per_s, knobs.syscalls_per_s, knobs.armed_mib_per_s) = (256, 2000, 512);
        (knobs.numa_mib_per_s, knobs.tier_mib_per_s) = (256, 256);
        Case { seed, procs, knobs, swap_mib, disk: false, nodes, storm: false, twists: Vec::new(), secs: 300 }
    })
}

impl Shape {
    fn spec(&self, name: &'static str) -> ProcSpec {
        let pages = self.mib * MIB;
        let in_use = (self.in_use * MIB).clamp(1, pages);
        let pattern = match self.does {
            0 => Pattern::Idle,
            1 => Pattern::Hot { pages: in_use },
            2 => Pattern::Zipf { touches: in_use / 8 + 1 },
            3 => Pattern::Sweep { pages: in_use / 8 + 1 },
            4 => Pattern::Moving { pages: in_use, every: Span::from_secs(20) },
            5 => Pattern::Growing { pages: in_use / 8 + 1 },
            _ => Pattern::Random { touches: in_use / 64 + 1 },
        };
        let huge = self.huge;
        let mut regions =
            vec![RegionSpec { cost: Permil(self.cost), huge, writes: self.does % 2 == 1, ..RegionSpec::new(pages, pattern) }];
        if self.locked_region {
            let flags = VmaFlags::WRITE.with(VmaFlags::LOCKED);
            regions.push(RegionSpec { flags, pinned: true, ..RegionSpec::new(MIB, Pattern::Idle) });
            regions.push(RegionSpec { kind: VmaKind::Shmem, ..RegionSpec::new(MIB, Pattern::Idle) });
            let flags = VmaFlags::WRITE.with(VmaFlags::POLICY);
            regions.push(RegionSpec { flags, ..RegionSpec::new(MIB, pattern) });
        }
        if self.apart {
            let pattern = if self.does == 0 { Pattern::Idle } else { Pattern::Hot { pages: in_use } };
            let own = |threads| RegionSpec { threads: Some(threads), ..RegionSpec::new(18 * MIB, pattern) };
            let regions = vec![own((1, 3)), own((3, 5))];
            return ProcSpec { threads: 5, busy: Permil(self.busy), ..ProcSpec::new(name, regions) };
        }
        let cgroup = if name < "carl" { "/a" } else { "/b" };
        ProcSpec { cgroup, threads: self.threads, busy: Permil(self.busy), ..ProcSpec::new(name, regions) }
    }
}

impl Case {
    /// Time runs faster than with the defaults, so that a run of minutes shows what takes hours.
    pub fn config(&self) -> Config {
        let k = &self.knobs;
        let mut c = Config::default();
        (c.daemon.act, c.daemon.arm) = (!k.dry, true);
        (c.scan.period_ms, c.scan.min_resident_mib) = (2000, 1);
        c.heat.age_tick_ms = 1000;
        (c.budget.moved_mib_per_s, c.budget.syscalls_per_s) = (k.moved_mib_per_s, k.syscalls_per_s);
        (c.budget.swap_free_permil, c.arm.quota_mib_per_s) = (k.reserve, k.armed_mib_per_s);
        c.brake.hold_s = 10;
        (c.autocold.min_idle_s, c.autocold.warmup_s, c.autocold.period_ms) = (10, 20, 1000);
        (c.autocold.step_permil, c.autocold.slo_permil_per_min, c.autocold.mild) = (100, k.slo, k.mild);
        (c.numa.period_ms, c.numa.settle_s, c.numa.amortise_s) = (1000, 20, 600);
        (c.numa.node_free_permil, c.numa.quota_mib_per_s, c.numa.slice_mib) = (k.node_reserve, k.numa_mib_per_s, 4);
        (c.tier.period_ms, c.tier.settle_s, c.tier.cold_s) = (1000, 20, 10);
        (c.tier.quota_mib_per_s, c.tier.reserve_permil) = (k.tier_mib_per_s, k.tier_reserve);
        let target = |i: usize| Target {
            comm: Some(NAMES[i].into()),
            policy: Some(if k.slide && i == 0 { PolicyId::Slide } else { PolicyId::Autocold }),
            floor_mib: k.floor_mib,
            moved_mib_per_s: k.own_mib_per_s,
            ..Target::default()
        };
        c.target = (0..EXCLUDED).map(target).collect();
        c.target.push(Target { comm: Some(NAMES[EXCLUDED].into()), exclude: true, ..Target::default() });
        c
    }

    pub fn scenario(&self) -> Scenario {
        let mut s = Scenario::new("law", Span::from_secs(self.secs));
        s.memory = Bytes::from_mib(96);
        s.nodes.clone_from(&self.nodes);
        let backing = if self.disk { SwapBacking::Disk } else { SwapBacking::Zram };
        s.swap = (self.swap_mib > 0).then_some(SwapSpec { size: Bytes::from_mib(self.swap_mib), backing, limit: Bytes::ZERO });
        s.procs = self.procs.iter().zip(NAMES).map(|(shape, name)| shape.spec(name)).collect();
        s.faults = if self.storm { Faults::STORM } else { Faults::default() };
        for &(at, twist) in &self.twists {
            s = s.at(at, self.change(twist));
        }
        s
    }

    fn change(&self, twist: Twist) -> Change {
        match twist {
            Twist::Exit(i) => Change::Exit(NAMES[i]),
            Twist::Exec(i) => Change::Exec(NAMES[i]),
            Twist::Reuse(i) => Change::ReusePid(NAMES[i]),
            Twist::Starve(i) => Change::Starve(NAMES[i]),
            Twist::Feed(i) => Change::Feed(NAMES[i]),
            Twist::Wake(i) => Change::Pattern { comm: NAMES[i], region: 0, pattern: Pattern::Hot { pages: u64::MAX } },
            Twist::Blind(i) => Change::Blind(Source::ALL[i]),
            Twist::Sight(i) => Change::Sight(Source::ALL[i]),
            Twist::Mute(i) => Change::Mute(Source::ALL[i]),
            Twist::Take(mib) => Change::Take(Bytes::from_mib(mib)),
            Twist::RemoveNode(mib) => Change::RemoveNode(Bytes::from_mib(mib)),
            Twist::SwapLimit(mib) => Change::SwapLimit { cgroup: "/a", limit: Bytes::from_mib(mib) },
            Twist::Affinity(i, cpu) => Change::Affinity { comm: NAMES[i], cpus: vec![cpu] },
            Twist::Pause => Change::Request(|_| Request::Pause { by: "law".into() }, ""),
            Twist::Resume => Change::Request(|_| Request::Resume { by: "law".into() }, ""),
            Twist::Look(i) => Change::Request(|proc: ProcKey| Request::Look { proc, by: "law".into() }, NAMES[i]),
            Twist::Reload => {
                let mut config = self.config();
                config.autocold.min_idle_s = 20;
                Change::Reload(Box::new(config))
            }
        }
    }

    pub fn run(&self) -> SimReport {
        run(self.seed, &self.scenario(), &self.config())
    }
}
