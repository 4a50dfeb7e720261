//! Records with known content: what the golden recording holds.

use memtier::plan::{Decision, Report};
use memtier::trace::Record;
use memtier::vocab::*;
use std::collections::BTreeMap;

pub const SECOND: u64 = 1_000_000_000;
pub fn event(seq: u64, event: Event) -> Record {
    Record::Event(Stamped { seq, at: Time(seq * SECOND), event })
}

const PROC: ProcKey = ProcKey { pid: 4711, start: 99 };

/// One record of each kind, every field with a value of its own.
pub fn one_of_each() -> Vec<Record> {
    let facts = HostFacts {
        kernel: "6.18.5".into(),
        arch: "x86_64".into(),
        page_bytes: 4096,
        memory: Bytes(1 << 34),
        cpus: 2,
        smt_width: 0,
        nodes: vec![NodeFacts {
            id: NodeId(0),
            total: Bytes(1 << 34),
            cpus: vec![CpuId(0), CpuId(1)],
            distances: vec![(NodeId(0), 10)],
            ..NodeFacts::default()
        }],
        facts: BTreeMap::from([(
            Need::Btf,
            Fact { answer: Answer::Yes, how: "/sys/kernel/btf/vmlinux".into(), remedy: String::new() },
        )]),
        swap_written_today: Bytes(5),
        own_pid: 77,
    };
    let bits = |word: u64| Bits([word, 0, 0, 0, 0, 0, 0, word]);
    let blocks = vec![
        BlockSample { block: BlockId(9), leaf: Leaf::Pmd, accessed: Bits::ALL, present: Bits::ALL, ..BlockSample::default() },
        BlockSample {
            block: BlockId(12),
            leaf: Leaf::Base,
            accessed: bits(1),
            present: bits(7),
            dirty: bits(2),
            swapped: bits(8),
            node: NodeId(0),
            mixed: Some(Box::new([NodeRun { pages: 4, node: NodeId(0) }, NodeRun { pages: 2, node: NodeId(1) }])),
        },
    ];
    let chunk = PageChunk { proc: PROC, scan: 3, range: AddrRange { start: 0x100_0000, end: 0x1100_0000 }, blocks, last: true };
    let outcome = |index, end| {
        let done = Amount { pages: Pages(5), asked: Pages(6), syscalls: 2, cpu_ns: 900 };
        Event::Outcome(Outcome {
            step: StepId { decision: 1, index },
            began: Time(1),
            ended: Time(2),
            done,
            end,
            missed: Vec::new(),
        })
    };
    let fault = Fault { call: "process_madvise".into(), on: "pid 4711".into(), errno: 3, message: "No such process".into() };
    let sample = |s| Event::Sample(s);
    let events = vec![
        Event::Facts(Box::new(facts)),
        Event::Config("[daemon]\nact = true\n".into()),
        Event::Kernel(KernelEvent::Fork { parent: ProcKey { pid: 1, start: 2 }, child: PROC }),
        Event::Kernel(KernelEvent::Exec { proc: PROC }),
        Event::Kernel(KernelEvent::Fault { proc: PROC, tid: 0, addr: 0x7fff_0000, kind: FaultKind::Major, period: 64 }),
        Event::Kernel(KernelEvent::TaskMoved { proc: PROC, tid: 4712, from: CpuId(0), to: CpuId(1), count: 3 }),
        Event::Kernel(KernelEvent::PagesMoved { succeeded: Pages(8), failed: Pages(1) }),
        sample(Sample::Proc(Box::new(ProcSample {
            proc: PROC,
            comm: "a,\"b\"".into(),
            rss: Bytes(4096),
            oom_score_adj: -500,
            ..ProcSample::default()
        }))),
        sample(Sample::Maps(MapsSample {
            proc: PROC,
            vmas: vec![Vma { start: 4096, end: 8192, kind: VmaKind::File, flags: VmaFlags::EXEC }],
        })),
        sample(Sample::Pages(chunk)),
        sample(Sample::Host(Box::new(HostSample {
            total: Bytes(1 << 34),
            swaps: vec![SwapSample {
                path: "/dev/zram0".into(),
                backing: SwapBacking::Zram,
                priority: -2,
                ..SwapSample::default()
            }],
            node_free: vec![(NodeId(0), Bytes(9))],
            ..HostSample::default()
        }))),
        sample(Sample::Pressure(Pressure {
            kind: PressureKind::Memory,
            cgroup: "/user.slice".into(),
            some_avg10: 123,
            some_avg60: 45,
            full_avg10: 6,
            some_total_us: 7,
            full_total_us: 8,
            triggered: true,
        })),
        sample(Sample::Sched(SchedSample {
            period_ns: SECOND,
            times: vec![CpuTime { proc: PROC, tid: 4711, cpu: CpuId(1), runtime_ns: 5, switches: 6 }],
        })),
        sample(Sample::Reclaim(ReclaimCounts {
            period_ns: SECOND,
            swap_writes: vec![(PROC, Pages(1))],
            reclaimed: vec![(CgroupId(2), Pages(3))],
            major_faults: vec![(PROC, 4)],
            direct_reclaim: vec![(PROC, 5)],
        })),
        sample(Sample::Cgroup(CgroupSample {
            id: CgroupId(2),
            path: "/user.slice".into(),
            limit: Bytes::MAX,
            ..CgroupSample::default()
        })),
        Event::Lost { source: Source::Sched, count: 12 },
        Event::Blind { source: Source::Walker, why: "no BTF".into() },
        Event::Sight { source: Source::Walker },
        Event::Request(Request::Pause { by: "uid 0".into() }),
        Event::Request(Request::Resume { by: "uid 0".into() }),
        Event::Request(Request::Look { proc: PROC, by: "uid 1000".into() }),
        Event::Kernel(KernelEvent::Exit { proc: PROC }),
        outcome(0, End::Done),
        outcome(1, End::Partial("5 of 6 pages".into())),
        outcome(2, End::Skipped(Guard::SwapFree { least: Permil(200) })),
        outcome(3, End::Expired),
        outcome(4, End::Failed(fault)),
    ];
    let mut records: Vec<Record> = events.into_iter().zip(1..).map(|(e, seq)| event(seq, e)).collect();
    records.insert(21, Record::Decision(decision(1, 21)));
    records
}

fn decision(number: u64, after: u64) -> Decision {
    let reason = Reason::new(Rule::AutocoldIdle)
        .saw(
            Measure::IdleAge,
            Quantity { value: 300 * SECOND, unit: Unit::Nanos },
            Quantity { value: 120 * SECOND, unit: Unit::Nanos },
            "autocold.min_idle_s",
        )
        .flips_at(301);
    let range = AddrRange { start: 0x120_0000, end: 0x120_6000 };
    let actions = [
        Action::PageOut { proc: PROC, ranges: vec![range] },
        Action::Arm { proc: PROC, ranges: vec![range] },
        Action::Scan { proc: PROC },
        Action::Deactivate { proc: PROC, ranges: vec![range] },
        Action::Scan { proc: ProcKey { pid: 5, start: 6 } },
    ];
    let step = |(index, action)| Step {
        id: StepId { decision: number, index },
        action,
        guards: vec![Guard::Alive(PROC), Guard::Calm { most_avg10: 500 }],
        expires: Time(90 * SECOND),
        charge: Charge { moved: Bytes(24576), swap_written: Bytes(0), armed: Bytes(1), syscalls: 2 },
        by: PolicyId::Autocold,
        reason: reason.clone(),
    };
    Decision {
        number,
        at: Time(after * SECOND + 5),
        after,
        plan: (0..).zip(actions).map(step).collect(),
        report: Report {
            holds: [Subject::Host, Subject::Proc(PROC), Subject::Cgroup(CgroupId(2))]
                .map(|subject| Hold { subject, by: PolicyId::Slide, reason: Reason::new(Rule::WarmUp).note("said, \"so\"") })
                .into(),
            idles: vec![Idle { policy: PolicyId::Arm, reason: Reason::new(Rule::TurnedOff) }],
        },
    }
}
