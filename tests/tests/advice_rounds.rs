//! numad's loop on made-up hosts: who is a candidate, in what order, after which delay, and where it goes. One case is out of the
//! log of the original.

use memtier::compat::numad::{
    Allowed, Bind, Binder, Bound, Host, Interval, Manager, Mode, Move, Node, Options, Order, Round, Sample, Spread, Tenant,
};
use memtier::vocab::{CpuId, NodeId, Span};
use memtier_tests::numad::B;
use std::collections::BTreeMap;

const MODES: [Mode; 2] = [Mode::Compat, Mode::Repaired];
const SECOND: i64 = 100;

/// What a process does, whenever it is looked at.
#[derive(Clone)]
struct Busy {
    tenant: Tenant,
    /// In hundredths of a CPU.
    uses: u64,
    spread: Spread,
    allowed: Allowed,
    command_line: Vec<u8>,
}

fn spread(mb: &[(u16, u64)]) -> Spread {
    Spread { mb: mb.iter().map(|&(node, mb)| (NodeId(node), mb)).collect(), interleaved: false }
}

fn allowed(nodes: &[u16], cpus: impl IntoIterator<Item = u32>) -> Allowed {
    Allowed { nodes: nodes.iter().map(|n| NodeId(*n)).collect(), cpus: cpus.into_iter().map(CpuId).collect() }
}

/// Half of it on each of two nodes with 16 CPUs.
fn busy(pid: u32, uses: u64, mb: u64) -> Busy {
    let tenant = Tenant { pid, start: 7, comm: "hog".into(), threads: 64, cpu: 0, mb_size: mb, mb_used: mb };
    Busy { tenant, uses, spread: spread(&[(0, mb / 2), (1, mb / 2)]), allowed: allowed(&[0, 1], 0..32), command_line: Vec::new() }
}

/// A host that does what it is told, and writes down what it is asked.
#[derive(Default)]
struct Fake {
    tenants: BTreeMap<u32, Busy>,
    lines: Vec<(i64, String)>,
    binds: Vec<Bind>,
    /// Binds of these fail.
    stubborn: Vec<u32>,
    unmoved: u64,
}

impl Binder for Fake {
    fn bind(&mut self, bind: &Bind) -> Result<Bound, String> {
        self.binds.push(bind.clone());
        if self.stubborn.contains(&bind.pid) {
            return Err("it is gone".into());
        }
        let busy = self.tenants.get_mut(&bind.pid).expect("it lives");
        busy.allowed.cpus = bind.cpus.iter().copied().collect();
        for Move { from, to } in &bind.moves {
            let moved = busy.spread.mb.remove(from).expect("something is there");
            *busy.spread.mb.entry(*to).or_default() += moved;
        }
        Ok(Bound { unmoved_pages: self.unmoved, took: Span::from_millis(3310) })
    }
}

impl Host for Fake {
    fn allowed(&mut self, pid: u32) -> Option<Allowed> {
        Some(self.tenants.get(&pid)?.allowed.clone())
    }
    fn spread(&mut self, pid: u32) -> Option<Spread> {
        Some(self.tenants.get(&pid)?.spread.clone())
    }
    fn command_line(&mut self, pid: u32) -> Option<Vec<u8>> {
        Some(self.tenants.get(&pid)?.command_line.clone())
    }
    fn say(&mut self, level: i64, line: String) {
        self.lines.push((level, line));
    }
}

struct Stage {
    manager: Manager,
    host: Fake,
    nodes: Vec<Node>,
    at: i64,
}

impl Stage {
    /// A day after boot, with a first round behind it that saw them all.
    fn new(mode: Mode, nodes: Vec<Node>, tenants: impl IntoIterator<Item = Busy>) -> Self {
        Self::at(24 * 3600 * SECOND, mode, nodes, tenants)
    }

    fn at(at: i64, mode: Mode, nodes: Vec<Node>, tenants: impl IntoIterator<Item = Busy>) -> Self {
        let mut options = Options::default();
        options.measure.mode = mode;
        let tenants = tenants.into_iter().map(|busy| (busy.tenant.pid, busy)).collect();
        let mut stage = Self { manager: Manager::new(options), host: Fake { tenants, ..Fake::default() }, nodes, at };
        stage.round(0);
        stage
    }

    /// So many seconds later.
    fn round(&mut self, later: i64) -> Round {
        self.at += later * SECOND;
        self.host.lines.clear();
        self.host.binds.clear();
        let told = |busy: &Busy| Tenant { cpu: busy.uses * self.at.unsigned_abs() / 100, ..busy.tenant.clone() };
        let tenants = self.host.tenants.values().map(told).collect();
        self.manager.round(Sample { at: self.at, nodes: &self.nodes, tenants }, &mut self.host)
    }

    fn said(&self, what: &str) -> bool {
        self.host.lines.iter().any(|(_, line)| line.contains(what))
    }

    /// Where the last round sent somebody.
    #[track_caller]
    fn sent(&self) -> (u32, Vec<u16>) {
        let [bind] = &self.host.binds[..] else { panic!("{:?}", self.host.binds) };
        (bind.pid, bind.nodes.iter().map(|n| n.0).collect())
    }

    fn busy(&mut self, pid: u32) -> &mut Busy {
        self.host.tenants.get_mut(&pid).expect("known")
    }
}

fn node(number: u16, cpus: std::ops::Range<u32>, mb: (u64, u64), cpus_free: u64, distances: [u16; 2]) -> Node {
    let (mb_total, mb_free) = mb;
    let cpus: Vec<CpuId> = cpus.map(CpuId).collect();
    Node {
        node: NodeId(number),
        cpus_total: cpus.len() as u64 * 100,
        cpus_free,
        mb_total,
        mb_free,
        distances: distances.to_vec(),
        cpus,
    }
}

/// The figures of one round of the original in a guest, and all that it said.
#[test]
fn a_round_of_the_originals() {
    let hog = Busy {
        tenant: Tenant { pid: 204, start: 7, comm: "hog".into(), threads: 1, cpu: 0, mb_size: 484, mb_used: 481 },
        spread: spread(&[(0, 241), (1, 240)]),
        allowed: allowed(&[0, 1], 0..4),
        ..busy(204, 100, 481)
    };
    for mode in MODES {
        let nodes = vec![node(0, 0..2, (716, 441), 199, [10, 21]), node(1, 2..4, (755, 483), 99, [21, 10])];
        let mut stage = Stage::at(10_001_414, mode, nodes, [hog.clone()]);
        assert_eq!(stage.round(6), Round { moved: Some(204), wait: 5 });
        let told: Vec<(i64, &str)> = stage.host.lines.iter().map(|(level, line)| (*level, line.as_str())).collect();
        assert_eq!(
            told,
            [
                (
                    6,
                    "\nNodes: 2\n\
                     Min CPUs free: 99, Max CPUs: 199, Avg CPUs: 149, StdDev: 50\n\
                     Min MBs free: 441, Max MBs: 483, Avg MBs: 462, StdDev: 21\n\
                     Node 0: MBs_total 716, MBs_free    441, CPUs_total 200, CPUs_free  199,  Distance: 10 21  CPUs: 0-1\n\
                     Node 1: MBs_total 755, MBs_free    483, CPUs_total 200, CPUs_free   99,  Distance: 21 10  CPUs: 2-3"
                ),
                (6, "Processes: 1"),
                (
                    6,
                    "Candidates: 1\n\
                     10002014: PID 204: (hog), Threads  1, MBs_size    484, MBs_used    481, CPUs_used  100, Magnitude  48100, Nodes: 0-1"
                ),
                (7, "PICK NODES FOR:  PID: 204,  CPUs 100,  MBs 565"),
                (5, "Advising pid 204 (hog) move from nodes (0-1) to nodes (0)"),
                (5, "PID 204 moved to node(s) 0 in 3.31 seconds"),
            ],
            "{mode:?}"
        );
        let moves = vec![Move { from: NodeId(1), to: NodeId(0) }];
        let bind = Bind { pid: 204, start: 7, nodes: vec![NodeId(0)], cpus: vec![CpuId(0), CpuId(1)], moves };
        assert_eq!(stage.host.binds, [bind]);
        stage.nodes = vec![node(0, 0..2, (716, 197), 99, [10, 21]), node(1, 2..4, (755, 712), 199, [21, 10])];
        assert_eq!(stage.round(9), Round { moved: None, wait: 15 });
        assert_eq!(
            stage.host.lines.last().map(|(_, l)| l.as_str()),
            Some("Skipping evaluation of PID 204 because done too recently.")
        );
    }
}

#[test]
fn who_is_a_candidate() {
    for mode in MODES {
        let (idle, small) = (busy(1, 50, 4000), busy(2, 400, 300));
        let mut stage = Stage::new(mode, B.nodes(), [idle, small]);
        assert_eq!(stage.round(10), Round { moved: None, wait: 15 });
        assert!(!stage.said("Candidates"), "{:?}", stage.host.lines);
        stage.busy(1).uses = 400;
        stage.busy(2).tenant.mb_used = 301;
        stage.busy(2).tenant.mb_size = 301;
        // The second is new in the table: half the shortest interval, and nobody is looked at.
        assert_eq!(stage.round(10), Round { moved: None, wait: 2 });
        assert_eq!(stage.round(2).moved, Some(1));
        assert!(stage.said("Candidates: 2"), "{:?}", stage.host.lines);
        // One move a round, the largest first.
        assert_eq!(stage.round(5).moved, Some(2));
        assert_eq!(stage.round(5).moved, None);
        // Excluded, and not on the list where only that is scanned.
        stage.manager.options.heed(Order::Exclude(1));
        stage.round(400);
        assert!(stage.said("Candidates: 1"));
        stage.manager.options.heed(Order::ScanAll(false));
        stage.manager.options.heed(Order::Include(1));
        assert_eq!(stage.manager.wanted(), Some([1, 2].into()));
        stage.round(400);
        assert!(stage.said("Candidates: 1") && stage.said("PID 1: (hog)"), "{:?}", stage.host.lines);
    }
}

#[test]
fn one_node_is_never_managed() {
    for mode in MODES {
        let mut stage = Stage::new(mode, B.nodes().split_off(1), [busy(1, 400, 4000)]);
        assert_eq!(stage.round(10), Round { moved: None, wait: 15 });
        assert!(stage.said("Nodes: 1") && stage.said("Processes: 1") && !stage.said("Candidates"));
    }
}

#[test]
fn delays() {
    for mode in MODES {
        let mut stage = Stage::new(mode, B.nodes(), [busy(1, 400, 4000)]);
        stage.manager.options.heed(Order::Interval(Interval { min: 1, max: 3 }));
        assert_eq!(stage.round(10), Round { moved: Some(1), wait: 1 });
        // Stamped when it was there, 3.31 s later.
        stage.busy(1).spread = spread(&[(0, 2000), (1, 2000)]);
        assert_eq!(stage.round(303), Round { moved: None, wait: 3 });
        assert!(stage.said("done too recently"));
        assert_eq!(stage.round(1).moved, Some(1), "{mode:?}");
        // Where it is well it stays, and is left alone again.
        assert_eq!(stage.round(310).moved, None);
        assert!(stage.said("PICK NODES FOR:  PID: 1") && !stage.said("Advising"), "{:?}", stage.host.lines);
        assert_eq!(stage.round(200).moved, None);
        assert!(stage.said("done too recently"));
        // Less than a tenth elsewhere is well enough; with -m 100 it is not.
        stage.busy(1).spread = spread(&[(0, 3700), (1, 300)]);
        assert_eq!(stage.round(310).moved, None);
        stage.manager.options.heed(Order::Locality(100));
        assert_eq!(stage.round(310).moved, Some(1));
    }
}

/// The original takes one that was never bound to have been bound when the clock began.
#[test]
fn a_host_that_came_up_just_now() {
    for (mode, moved) in [(Mode::Compat, None), (Mode::Repaired, Some(1))] {
        let mut stage = Stage::at(20 * SECOND, mode, B.nodes(), [busy(1, 400, 4000)]);
        assert_eq!(stage.round(10).moved, moved, "{mode:?}");
        assert_eq!(stage.said("done too recently"), moved.is_none());
    }
    let mut stage = Stage::at(20 * SECOND, Mode::Compat, B.nodes(), [busy(1, 400, 4000)]);
    assert_eq!(stage.round(280).moved, Some(1));
}

#[test]
fn interleaved_memory_that_is_to_stay_spread() {
    for mode in MODES {
        let mut hog = busy(1, 400, 4000);
        hog.spread.interleaved = true;
        let mut stage = Stage::new(mode, B.nodes(), [hog.clone()]);
        stage.manager.options.heed(Order::KeepInterleaved(true));
        assert_eq!(stage.round(10).moved, None);
        assert!(stage.said("PICK NODES FOR:  PID: 1") && !stage.said("Advising"));
        assert_eq!(stage.round(1790).moved, None);
        assert!(stage.said("Skipping evaluation of PID 1 because of interleaved memory."));
        stage.round(20);
        assert!(stage.said("PICK NODES FOR:  PID: 1"), "looked at again after half an hour");
        // -K 0
        assert_eq!(Stage::new(mode, B.nodes(), [hog]).round(10).moved, Some(1));
    }
}

/// Bound just now to node 0, which then fills up.
#[test]
fn a_delay_is_bypassed_where_that_evens_out() {
    for mode in MODES {
        let mut stage = Stage::new(mode, B.nodes(), [busy(1, 400, 4000)]);
        stage.round(10);
        assert_eq!(stage.sent(), (1, vec![0]));
        let shifted = |cpus: [u64; 2], mbs: [u64; 2]| {
            let one = node(0, 0..16, (32768, mbs[0]), cpus[0], [10, 20]);
            vec![one, node(1, 16..32, (32768, mbs[1]), cpus[1], [20, 10])]
        };
        for (cpus, mbs, bypassed) in [
            // Evens out both.
            ([0, 1600], [2000, 30000], true),
            // CPUs hardly: less than half of one is gained.
            ([0, 400], [2000, 30000], false),
            // Memory not at all.
            ([0, 1600], [20000, 21000], false),
            // It is not on the tight node.
            ([1600, 0], [30000, 2000], false),
        ] {
            stage.nodes = shifted(cpus, mbs);
            let moved = stage.clone_round();
            assert_eq!(
                moved.said("Bypassing delay for 1 because it looks like it can do better."),
                bypassed,
                "{mode:?} {cpus:?} {mbs:?}"
            );
            assert_eq!(moved.said("done too recently"), !bypassed);
        }
        // More than a node has is not to be had on one.
        stage.busy(1).uses = 1500;
        stage.nodes = shifted([0, 1600], [2000, 30000]);
        assert!(stage.clone_round().said("done too recently"));
    }
}

impl Stage {
    /// A round ten seconds later that leaves no trace here.
    fn clone_round(&self) -> Self {
        let host = Fake { tenants: self.host.tenants.clone(), ..Fake::default() };
        let mut copy = Self { manager: self.manager.clone(), host, nodes: self.nodes.clone(), at: self.at };
        copy.round(10);
        copy
    }
}

/// A process that may use some nodes only is taken to be bound there for half an hour.
#[test]
fn bound_by_somebody_else_before() {
    for mode in MODES {
        let mut kept = busy(1, 400, 8000);
        kept.allowed = allowed(&[0], 0..16);
        kept.spread = spread(&[(0, 8000)]);
        let mut stage = Stage::new(mode, B.nodes(), [kept, busy(2, 400, 4000)]);
        // It is larger, but the other one was never bound.
        assert_eq!(stage.round(10).moved, Some(2));
    }
}

#[test]
fn cpusets_and_masks_of_others() {
    // Memory on node 0 only, and its CPUs busy: the original sends it to where it may not go.
    let mut kept = busy(1, 400, 4000);
    kept.allowed = allowed(&[0], 0..16);
    kept.spread = spread(&[(0, 4000)]);
    let nodes = || vec![node(0, 0..16, (32768, 4000), 300, [10, 20]), node(1, 16..32, (32768, 30000), 1600, [20, 10])];
    let mut stage = Stage::new(Mode::Compat, nodes(), [kept.clone()]);
    stage.round(10);
    assert_eq!(stage.sent(), (1, vec![1]));
    let mut stage = Stage::new(Mode::Repaired, nodes(), [kept]);
    assert_eq!(stage.round(10).moved, None);
    assert!(!stage.said("Advising"), "{:?}", stage.host.lines);
    // Four CPUs of node 1 and all of node 0, by a mask of somebody's: it gets those four and no others.
    let mut masked = busy(1, 200, 4000);
    masked.allowed = allowed(&[0, 1], (0..16).chain(28..32));
    let mut stage = Stage::new(Mode::Repaired, nodes(), [masked]);
    stage.round(10);
    let bind = stage.host.binds.pop().expect("one bind");
    assert_eq!((bind.nodes, bind.cpus), (vec![NodeId(1)], (28..32).map(CpuId).collect()));
    // Somebody sets another mask after us: that is the bound from then on.
    stage.busy(1).allowed.cpus = (0..8).map(CpuId).collect();
    stage.busy(1).spread = spread(&[(0, 2000), (1, 2000)]);
    stage.round(310);
    assert_eq!(stage.host.binds.pop().expect("one bind").cpus, (0..8).map(CpuId).collect::<Vec<_>>());
}

#[test]
fn a_bind_that_fails() {
    for (mode, from) in [(Mode::Compat, "(0)"), (Mode::Repaired, "(0-1)")] {
        let mut stage = Stage::new(mode, B.nodes(), [busy(1, 400, 4000), busy(2, 400, 3000)]);
        stage.host.stubborn = vec![1];
        // The next one has its turn.
        assert_eq!(stage.round(10), Round { moved: Some(2), wait: 5 });
        assert!(stage.said("PID 1 could not be moved: it is gone"));
        // The original tries again at once, and knows already where it would have been.
        stage.round(10);
        if mode == Mode::Repaired {
            assert!(stage.said("Skipping evaluation of PID 1 because it could not be moved."));
            stage.round(300);
        }
        assert!(stage.said(&format!("Advising pid 1 (hog) move from nodes {from}")), "{mode:?}: {:?}", stage.host.lines);
    }
    let mut stage = Stage::new(Mode::Repaired, B.nodes(), [busy(1, 400, 4000)]);
    stage.host.unmoved = 3;
    assert_eq!(stage.round(10).moved, Some(1));
    assert!(stage.said("Tried to move PID 1, but 3 pages would not move."));
    let mut stage = Stage::new(Mode::Repaired, B.nodes(), [busy(1, 400, 4000)]);
    stage.host.unmoved = 2;
    stage.round(10);
    assert!(!stage.said("would not move"));
}

#[track_caller]
fn asks(mode: Mode, nodes: Vec<Node>, hog: &Busy, orders: &[Order], cpus: u64, mb: u64) {
    let mut stage = Stage::new(mode, nodes, [hog.clone()]);
    orders.iter().for_each(|order| stage.manager.options.heed(*order));
    stage.round(10);
    let pid = hog.tenant.pid;
    let wanted = format!("PICK NODES FOR:  PID: {pid},  CPUs {cpus},  MBs {mb}");
    assert!(stage.said(&wanted), "{mode:?}: {wanted:?} is not in {:?}", stage.host.lines);
}

#[test]
fn what_is_asked_for() {
    let hog = busy(1, 400, 4000);
    for mode in MODES {
        asks(mode, B.nodes(), &hog, &[], 470, 4705);
        asks(mode, B.nodes(), &hog, &[Order::Utilization(50)], 800, 8000);
        // Over a hundred percent of CPUs, but not of memory.
        asks(mode, B.nodes(), &hog, &[Order::Utilization(130)], 307, 4000);
        let one_thread = Busy { tenant: Tenant { threads: 1, ..hog.tenant.clone() }, ..hog.clone() };
        asks(mode, B.nodes(), &one_thread, &[], 100, 4705);
    }
    // Nearly a node full, and more is mapped: what is mapped. The nodes are not alike.
    let tenant = Tenant { mb_size: 40_000, mb_used: 14_000, ..hog.tenant.clone() };
    let large = Busy { tenant, spread: spread(&[(0, 7000), (1, 7000)]), ..hog.clone() };
    let uneven = || vec![node(0, 0..16, (16384, 9000), 800, [10, 20]), node(1, 16..32, (65536, 60000), 800, [20, 10])];
    asks(Mode::Compat, uneven(), &large, &[], 470, 47058);
    asks(Mode::Repaired, uneven(), &large, &[], 470, 16470);
    // Guests have as many CPUs as they have processors, however many threads QEMU has.
    let guest = |comm: &str| Busy {
        tenant: Tenant { comm: comm.into(), ..hog.tenant.clone() },
        command_line: b"qemu\0-smp\0sockets=1,cores=3\0".to_vec(),
        ..hog.clone()
    };
    asks(Mode::Compat, B.nodes(), &guest("qemu-kvm"), &[], 100, 4705);
    asks(Mode::Repaired, B.nodes(), &guest("qemu-kvm"), &[], 300, 4705);
    asks(Mode::Compat, B.nodes(), &guest("qemu-system-x86"), &[], 470, 4705);
    asks(Mode::Repaired, B.nodes(), &guest("qemu-system-x86"), &[], 300, 4705);
}

/// Where a process of this size that is half on each node goes.
#[track_caller]
fn goes(mode: Mode, nodes: Vec<Node>, hog: &Busy, orders: &[Order], to: &[u16]) {
    let mut stage = Stage::new(mode, nodes, [hog.clone()]);
    orders.iter().for_each(|order| stage.manager.options.heed(*order));
    stage.round(10);
    assert_eq!(stage.sent().1, to, "{mode:?}");
}

#[test]
fn where_it_goes() {
    for mode in MODES {
        // More CPUs than one node has, though a part of them may be lacking: 1505 / 0.85 = 1770, less 120.
        let wide = busy(1, 1505, 4000);
        goes(mode, B.nodes(), &wide, &[], &[0, 1]);
        // 1440 / 0.85 = 1694 are just few enough: a node has 1600.
        goes(mode, B.nodes(), &busy(1, 1440, 4000), &[], &[0]);
        // At 100 percent nothing may be lacking.
        goes(mode, B.nodes(), &busy(1, 1610, 4000), &[Order::Utilization(100)], &[0, 1]);
        // More memory than is free on one, its own counted as free.
        goes(mode, B.nodes(), &busy(1, 400, 32000), &[], &[0, 1]);
        goes(mode, B.nodes(), &busy(1, 400, 24000), &[], &[0]);
    }
    // A node without CPUs has most memory: the original sends it there, and has no CPU to bind it to.
    let cxl = || vec![node(0, 0..16, (32768, 8000), 1600, [10, 20]), node(1, 0..0, (262_144, 262_000), 0, [20, 10])];
    let mut stage = Stage::new(Mode::Repaired, cxl(), [busy(1, 60, 4000)]);
    stage.round(10);
    assert_eq!(stage.sent(), (1, vec![0]));
    let busy_cpus = || vec![node(0, 0..16, (32768, 200), 0, [10, 20]), node(1, 0..0, (262_144, 262_000), 0, [20, 10])];
    let mut far = busy(1, 60, 4000);
    far.spread = spread(&[(1, 4000)]);
    let mut stage = Stage::new(Mode::Compat, busy_cpus(), [far.clone()]);
    stage.round(10);
    assert!(stage.host.binds.iter().all(|bind| bind.cpus.is_empty()) && stage.sent().1 == [1]);
    goes(Mode::Repaired, busy_cpus(), &far, &[], &[0, 1]);
    // A large node is large enough alone.
    let uneven = || vec![node(0, 0..16, (16384, 12000), 1600, [10, 20]), node(1, 16..32, (65536, 60000), 1600, [20, 10])];
    goes(Mode::Compat, uneven(), &busy(1, 200, 15_000), &[], &[0, 1]);
    goes(Mode::Repaired, uneven(), &busy(1, 200, 15_000), &[], &[1]);
}

#[test]
fn processes_that_go_away_or_cannot_be_looked_at() {
    for mode in MODES {
        let mut stage = Stage::new(mode, B.nodes(), [busy(1, 400, 4000), busy(2, 400, 3000)]);
        stage.round(10);
        stage.host.tenants.remove(&1);
        assert_eq!(stage.round(10).moved, Some(2));
        // A new one with the pid of the old.
        stage.host.tenants.insert(1, busy(1, 400, 4000));
        assert_eq!(stage.round(10), Round { moved: None, wait: 2 });
        assert_eq!(stage.round(2).moved, Some(1));
    }
}

#[test]
fn equal_hosts_get_equal_rounds() {
    // What was repaired is not to be seen on an even host with nothing odd on it.
    let crowd = || (1..6).map(|pid| busy(pid, 100 * u64::from(pid), 1000 * u64::from(pid)));
    let play = |mode| {
        let mut stage = Stage::new(mode, B.nodes(), crowd());
        // Until the original knows them all.
        let mut sent = Vec::new();
        for _ in 0..12 {
            let Round { moved, wait: _ } = stage.round(10);
            sent.extend(moved.map(|_| stage.sent()));
        }
        sent
    };
    let repaired = play(Mode::Repaired);
    assert_eq!((repaired.len(), &repaired), (5, &play(Mode::Compat)));
}
