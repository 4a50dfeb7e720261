//! Any record at all.

use memtier::plan::{Decision, Report};
use memtier::trace::Record;
use memtier::vocab::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::borrow::Cow;

fn proc() -> impl Strategy<Value = ProcKey> {
    (any::<u32>(), any::<u64>()).prop_map(|(pid, start)| ProcKey { pid, start })
}

fn block() -> impl Strategy<Value = BlockSample> {
    let bits = || prop_oneof![Just(Bits::NONE), Just(Bits::ALL), any::<[u64; 8]>().prop_map(Bits)];
    let leaf = prop_oneof![Just(Leaf::Base), Just(Leaf::Pmd), Just(Leaf::Pud)];
    let runs = vec((any::<u16>(), any::<u16>()), 0..6)
        .prop_map(|runs| runs.into_iter().map(|(pages, node)| NodeRun { pages, node: NodeId(node) }).collect::<Box<[_]>>());
    let node = prop_oneof![any::<u16>().prop_map(|n| (NodeId(n), None)), runs.prop_map(|r| (NodeId(0), Some(r)))];
    (any::<u64>(), leaf, bits(), bits(), bits(), bits(), node).prop_map(
        |(block, leaf, accessed, present, dirty, swapped, (node, mixed))| BlockSample {
            block: BlockId(block),
            leaf,
            accessed,
            present,
            dirty,
            swapped,
            node,
            mixed,
        },
    )
}

fn range() -> impl Strategy<Value = AddrRange> {
    (any::<u64>(), any::<u64>()).prop_map(|(start, end)| AddrRange { start, end })
}

fn reason() -> impl Strategy<Value = Reason> {
    let quantity = || {
        (any::<u64>(), prop_oneof![Just(Unit::Bytes), Just(Unit::Centipercent), Just(Unit::Count)])
            .prop_map(|(value, unit)| Quantity { value, unit })
    };
    let evidence =
        (quantity(), quantity(), proptest::option::of(".{0,9}"), any::<Option<u64>>()).prop_map(|(seen, bound, knob, flips_at)| {
            Evidence { measure: Measure::IdleAge, seen, bound, knob: knob.map(Cow::Owned), flips_at }
        });
    let rule = proptest::sample::select(Rule::ALL.to_vec());
    (rule, vec(evidence, 0..4), ".{0,9}").prop_map(|(rule, evidence, note)| Reason { rule, evidence, note })
}

fn any_event() -> impl Strategy<Value = Event> {
    let text = || ".{0,12}";
    let source = proptest::sample::select(Source::ALL.to_vec());
    let pages = || any::<u64>().prop_map(Pages);
    let chunk = (proc(), any::<u64>(), range(), vec(block(), 0..4), any::<bool>())
        .prop_map(|(proc, scan, range, blocks, last)| PageChunk { proc, scan, range, blocks, last });
    let sample =
        (proc(), text(), text(), any::<[u64; 6]>(), any::<i32>(), any::<bool>()).prop_map(|(proc, comm, cgroup, n, adj, flag)| {
            Sample::Proc(Box::new(ProcSample {
                proc,
                comm,
                cgroup,
                rss: Bytes(n[0]),
                swapped: Bytes(n[1]),
                minor_faults: n[2],
                cpu_ticks: n[3],
                waited: Span(n[3]),
                cgroup_id: CgroupId(n[4]),
                locked: Bytes(n[5]),
                oom_score_adj: adj,
                kernel_thread: flag,
                ..ProcSample::default()
            }))
        });
    let reclaim = (any::<u64>(), vec((proc(), pages()), 0..4), vec((any::<u64>().prop_map(CgroupId), pages()), 0..4)).prop_map(
        |(period_ns, swap_writes, reclaimed)| {
            Sample::Reclaim(ReclaimCounts { period_ns, swap_writes, reclaimed, major_faults: vec![], direct_reclaim: vec![] })
        },
    );
    let end = prop_oneof![
        Just(End::Done),
        text().prop_map(End::Partial),
        (text(), any::<i32>()).prop_map(|(call, errno)| End::Failed(Fault {
            call,
            on: String::new(),
            errno,
            message: String::new()
        })),
        any::<u64>().prop_map(|n| End::Skipped(Guard::SwapFree { least: Permil(n) })),
        Just(End::Expired),
    ];
    let outcome = (any::<[u64; 4]>(), any::<u32>(), end).prop_map(|(n, index, end)| Outcome {
        step: StepId { decision: n[0], index },
        began: Time(n[1]),
        ended: Time(n[2]),
        done: Amount { pages: Pages(n[3]), ..Amount::default() },
        end,
        missed: vec![AddrRange { start: n[3], end: n[2] }; index as usize % 3],
    });
    let look = (any::<u16>(), any::<[u64; 4]>()).prop_map(|(server, n)| {
        let class = ClassLook { class: ClassId(n[0] as u8), pages: n[1], hits: n[2], ..ClassLook::default() };
        let look = CacheLook { pool: n[3], automove: Some(n[0] as u8), classes: vec![class], ..CacheLook::default() };
        CacheSample { server: ServerId(server), told: CacheTold::Look(Box::new(look)) }
    });
    let watch =
        any::<(u16, bool)>().prop_map(|(server, on)| CacheSample { server: ServerId(server), told: CacheTold::Watch { on } });
    let evictions =
        (any::<u8>(), vec((any::<u8>(), any::<[u64; 2]>(), proptest::option::of(text())), 0..4)).prop_map(|(shift, keys)| {
            let key =
                |(class, n, key): (u8, [u64; 2], Option<String>)| EvictedKey { class: ClassId(class), hash: n[0], nth: n[1], key };
            let batch = CacheEvictions { shift, keys: keys.into_iter().map(key).collect(), ..CacheEvictions::default() };
            CacheSample { server: ServerId(1), told: CacheTold::Evictions(batch) }
        });
    prop_oneof![
        prop_oneof![look, evictions, watch].prop_map(|told| Event::Sample(Sample::Cache(told))),
        text().prop_map(Event::Config),
        proc().prop_map(|proc| Event::Kernel(KernelEvent::Exit { proc })),
        (proc(), proc()).prop_map(|(parent, child)| Event::Kernel(KernelEvent::Fork { parent, child })),
        (proc(), range(), any::<[u32; 2]>()).prop_map(|(proc, range, [accesses, samples])| Event::Kernel(KernelEvent::Region {
            proc,
            range,
            accesses,
            samples
        })),
        chunk.prop_map(|c| Event::Sample(Sample::Pages(c))),
        sample.prop_map(Event::Sample),
        reclaim.prop_map(Event::Sample),
        (source.clone(), any::<u64>()).prop_map(|(source, count)| Event::Lost { source, count }),
        (source, text()).prop_map(|(source, why)| Event::Blind { source, why }),
        (proc(), text()).prop_map(|(proc, by)| Event::Request(Request::Look { proc, by })),
        outcome.prop_map(Event::Outcome),
    ]
}

fn any_decision() -> impl Strategy<Value = Decision> {
    let whom =
        prop_oneof![
            vec(any::<u32>(), 0..3).prop_map(|tids| Whom::of(&tids)),
            (any::<u64>(), ".{0,8}".prop_map(String::from), vec(proc(), 0..3))
                .prop_map(|(id, path, members)| Whom::Cgroup(Group { id: CgroupId(id), path, members })),
        ];
    let action = prop_oneof![
        proc().prop_map(|proc| Action::Scan { proc }),
        (proc(), vec(range(), 0..5)).prop_map(|(proc, ranges)| Action::PageOut { proc, ranges }),
        (proc(), vec(range(), 0..5)).prop_map(|(proc, ranges)| Action::Arm { proc, ranges }),
        (proc(), vec(any::<u32>(), 1..5), whom).prop_map(|(proc, cpus, whom)| Action::Bind {
            proc,
            cpus: cpus.into_iter().map(CpuId).collect(),
            whom,
        }),
        (proc(), any::<[u8; 3]>()).prop_map(|(proc, [server, from, to])| Action::MoveSlabPage {
            server: ServerId(u16::from(server)),
            proc,
            from: Place::Class(ClassId(from)),
            to: if to == 0 { Place::Pool } else { Place::Class(ClassId(to)) },
        }),
        (proc(), any::<(u16, bool)>()).prop_map(|(proc, (server, on))| Action::SetWatch { server: ServerId(server), proc, on }),
        (proc(), any::<u16>(), vec(any::<(u8, u64)>(), 0..4)).prop_map(|(proc, server, chunks)| Action::SetFree {
            server: ServerId(server),
            proc,
            chunks: chunks.into_iter().map(|(class, chunks)| (ClassId(class), chunks)).collect(),
        }),
    ];
    let policy = || proptest::sample::select(PolicyId::ALL.to_vec());
    let step = (action, policy(), reason(), any::<[u64; 3]>()).prop_map(|(action, by, reason, n)| Step {
        id: StepId { decision: n[0], index: n[1] as u32 },
        action,
        guards: vec![Guard::DryRun],
        expires: Time(n[2]),
        charge: Charge { moved: Bytes(n[0]), ..Charge::default() },
        by,
        reason,
    });
    let subject = prop_oneof![Just(Subject::Host), proc().prop_map(Subject::Proc)];
    let hold = (subject, policy(), reason()).prop_map(|(subject, by, reason)| Hold { subject, by, reason });
    let idle = (policy(), reason()).prop_map(|(policy, reason)| Idle { policy, reason });
    (any::<[u64; 3]>(), vec(step, 0..4), vec(hold, 0..3), vec(idle, 0..2)).prop_map(|(n, plan, holds, idles)| Decision {
        number: n[0] >> 1,
        at: Time(n[1]),
        after: n[2],
        plan,
        report: Report { holds, idles },
    })
}

pub fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        4 => (any::<u64>(), any::<u64>(), any_event()).prop_map(|(seq, at, event)| Record::Event(Stamped { seq: seq >> 1, at: Time(at), event })),
        1 => any_decision().prop_map(Record::Decision),
    ]
}
