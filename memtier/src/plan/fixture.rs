//! A small host told by hand: two processes, a zram swap, everything calm.

use super::Governor;
use crate::config::{Config, canonical};
use crate::vocab::{
    AddrRange, Answer, BLOCK_BYTES, Bits, BlockId, BlockSample, Bytes, CpuId, Event, Fact, HostFacts, HostSample, Leaf, MapsSample,
    Need, NodeFacts, NodeId, NodeSample, NodesSample, PageChunk, Pressure, PressureKind, ProcKey, ProcSample, Sample, Source, Span,
    Stamped, SwapBacking, SwapSample, Time, Vma, VmaFlags, VmaKind,
};

/// Blocks 1..=4 of base pages, block 5 huge, block 6 locked.
pub const ANNA: ProcKey = ProcKey { pid: 10, start: 5 };
pub const BERT: ProcKey = ProcKey { pid: 11, start: 6 };
pub const SWAP: Bytes = Bytes::from_mib(100);

pub struct Host {
    pub governor: Governor,
    pub now: Time,
    seq: u64,
    scans: u64,
}

pub fn secs(s: u64) -> Time {
    Time(s * 1_000_000_000)
}

/// Bytes `from..to` of block `block`, in pages.
pub fn part(block: u64, from: u64, to: u64) -> AddrRange {
    AddrRange { start: block * BLOCK_BYTES + from * 4096, end: block * BLOCK_BYTES + to * 4096 }
}

fn facts(has: &[Need]) -> HostFacts {
    let yes = Fact { answer: Answer::Yes, how: String::new(), remedy: String::new() };
    let facts = has.iter().map(|need| (*need, yes.clone())).collect();
    HostFacts { facts, own_pid: 99, ..HostFacts::default() }
}

pub fn config(text: &str) -> Config {
    let mut config: Config = toml::from_str(text).expect("test configuration parses");
    config.daemon.act = true;
    config.scan.min_resident_mib = 1;
    config
}

impl Host {
    /// Told everything and walked once, every page young, at 1000 s.
    pub fn new(config: &Config) -> Self {
        let mut host = Self { governor: Governor::new(), now: secs(1000), seq: 0, scans: 0 };
        host.tell(Event::Facts(Box::new(facts(&[Need::ProcessMadvise, Need::Psi]))));
        host.tell(Event::Config(canonical(config)));
        for source in Source::ALL {
            host.tell(Event::Sight { source });
        }
        host.sample(SWAP, 0);
        for (proc, comm) in [(ANNA, "anna"), (BERT, "bert")] {
            let (rss, cgroup) = (Bytes::from_mib(12), "/g".to_owned());
            let sample = ProcSample { proc, comm: comm.into(), exe: format!("/bin/{comm}"), rss, cgroup, ..ProcSample::default() };
            host.tell(Event::Sample(Sample::Proc(Box::new(sample))));
            host.walk(proc, Bits::ALL);
        }
        host
    }

    /// It has two nodes of 1000 MiB and two CPUs each, of which both idle. All that was walked lies on node 0.
    pub fn two_nodes(&mut self, free: [u64; 2]) {
        let node = |id, first: u32| NodeFacts {
            id: NodeId(id),
            total: Bytes::from_mib(1000),
            cpus: vec![CpuId(first), CpuId(first + 1)],
            ..NodeFacts::default()
        };
        let facts = facts(&[Need::ProcessMadvise, Need::Psi, Need::ManyNodes]);
        self.tell(Event::Facts(Box::new(HostFacts { nodes: vec![node(0, 0), node(1, 2)], ..facts })));
        for second in 0..3 {
            self.now = self.now.after(Span::from_secs(1));
            let node = |(id, free)| NodeSample {
                node: NodeId(id),
                total: Bytes::from_mib(1000),
                free: Bytes::from_mib(free),
                inactive_file: Bytes::ZERO,
                idle: Span::from_secs(10 + 2 * second),
                cpus: 2,
            };
            let nodes = (0..).zip(free).map(node).collect();
            self.tell(Event::Sample(Sample::Nodes(NodesSample { nodes })));
        }
        self.walk(ANNA, Bits::ALL);
        self.walk(BERT, Bits::ALL);
    }

    pub fn tell(&mut self, event: Event) {
        self.seq += 1;
        self.governor.absorb(&Stamped { seq: self.seq, at: self.now, event });
    }

    pub fn sample(&mut self, swap_free: Bytes, memory_some: u32) {
        let used = SWAP.saturating_sub(swap_free);
        let area = SwapSample { path: "/dev/zram0".into(), backing: SwapBacking::Zram, size: SWAP, used, ..SwapSample::default() };
        let total = Bytes::from_mib(1000);
        let host = HostSample { total, free: total, swap_total: SWAP, swap_free, swaps: vec![area], ..HostSample::default() };
        self.tell(Event::Sample(Sample::Host(Box::new(host))));
        let pressure = Pressure {
            kind: PressureKind::Memory,
            cgroup: String::new(),
            some_avg10: memory_some,
            some_avg60: 0,
            full_avg10: 0,
            some_total_us: 0,
            full_total_us: 0,
            triggered: false,
        };
        self.tell(Event::Sample(Sample::Pressure(pressure)));
    }

    pub fn walk(&mut self, proc: ProcKey, accessed: Bits) {
        self.walk_of(proc, accessed, 6);
    }
    /// It has so many blocks now.
    pub fn grown(&mut self, proc: ProcKey, blocks: u64) {
        self.walk_of(proc, Bits::ALL, blocks);
    }
    fn walk_of(&mut self, proc: ProcKey, accessed: Bits, blocks: u64) {
        let vma = |from: u64, to: u64, flags| Vma { start: from * BLOCK_BYTES, end: to * BLOCK_BYTES, kind: VmaKind::Anon, flags };
        let vmas = vec![vma(1, 6, VmaFlags::WRITE), vma(6, 7, VmaFlags::WRITE.with(VmaFlags::LOCKED))];
        self.tell(Event::Sample(Sample::Maps(MapsSample { proc, vmas })));
        let block = |id| BlockSample {
            block: BlockId(id),
            leaf: if id == 5 { Leaf::Pmd } else { Leaf::Base },
            accessed: if id == 5 && !accessed.is_empty() { Bits::ALL } else { accessed },
            present: Bits::ALL,
            dirty: Bits::NONE,
            swapped: Bits::NONE,
            node: NodeId(0),
            mixed: None,
        };
        self.scans += 1;
        let (scan, blocks) = (self.scans, (1..=blocks).map(block).collect());
        let chunk = PageChunk { proc, scan, range: AddrRange::EVERYTHING, blocks, last: true };
        self.tell(Event::Sample(Sample::Pages(chunk)));
    }
}
