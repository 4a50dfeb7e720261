//! The second reading of law 5: is a refusal true, and was nothing left out? Written from the rules, with none of the
//! models: every page has its own entry, every number is summed anew.

use super::shadow::{Shadow, Sight, places, takes};
use memtier::plan::Decision;
use memtier::vocab::{
    Action, AddrRange, Bits, BlockId, Bytes, Event, FaultKind, Hold, HostSample, Idle, KernelEvent, Need, NodeId, PageChunk,
    PolicyId, PressureKind, ProcKey, Reason, Rule, Sample, Source, Span, Stamped, Subject, Time, VmaFlags, VmaKind,
};
use std::collections::{BTreeMap, BTreeSet};

const BLOCK: u64 = 2 << 20;
const WINDOW: Span = Span::from_secs(10);
/// A gap between two walks in which a page may have been idle and touched again.
const GAP: Span = Span::from_secs(5);
const MINUTE: Span = Span::from_secs(60);

/// The pages of one block as anybody can know them from the walks and the armings.
#[derive(Clone, Debug, Default)]
struct Pages {
    present: Bits,
    swapped: Bits,
    /// Pages on each node.
    on: BTreeMap<NodeId, u64>,
    /// Pages that were seen old at every walk since their bit was cleared at that time.
    idle: BTreeMap<Time, Bits>,
    /// Pages whose bit fell while the word of our own hand was out: who cleared it, and when, nobody knows.
    doubt: Bits,
    /// Pages that were found accessed after they had been asked, and those of which that was so twice, since any page of the
    /// block was seen old.
    sure: [Bits; 2],
}

impl Pages {
    fn old(&self) -> Bits {
        self.idle.values().fold(Bits::NONE, |all, b| all.or(b))
    }
}

#[derive(Debug, Default)]
struct Proc {
    blocks: BTreeMap<u64, Pages>,
    walks: Vec<Time>,
    /// Ranges of the last arming, and when it began.
    armed: Vec<(Time, AddrRange)>,
    /// Ranges of armings whose word came too late.
    doubted: Vec<AddrRange>,
    /// Pages that came back, by being touched while idle or from swap.
    returned: u64,
    last_word: Time,
}

#[derive(Debug, Default)]
pub struct Oracle {
    procs: BTreeMap<ProcKey, Proc>,
    host: Vec<(Time, HostSample)>,
    reclaimed: BTreeMap<u64, Time>,
    direct: BTreeMap<ProcKey, Time>,
    ran: BTreeMap<ProcKey, Vec<(Time, u64)>>,
    swap_room: BTreeMap<String, Bytes>,
    looks: BTreeSet<ProcKey>,
}

impl Oracle {
    /// Before the shadow takes the event in.
    pub fn absorb(&mut self, shadow: &Shadow, Stamped { at, event, .. }: &Stamped) {
        match event {
            Event::Sample(Sample::Pages(chunk)) => self.walked(*at, chunk, unheard(shadow, chunk.proc)),
            Event::Sample(Sample::Host(sample)) => self.host.push((*at, (**sample).clone())),
            Event::Sample(Sample::Reclaim(counts)) => {
                self.reclaimed.extend(counts.reclaimed.iter().filter(|r| r.1.0 > 0).map(|r| (r.0.0, *at)));
                self.direct.extend(counts.direct_reclaim.iter().filter(|r| r.1 > 0).map(|r| (r.0, *at)));
            }
            Event::Sample(Sample::Sched(sample)) => {
                for time in &sample.times {
                    self.ran.entry(time.proc).or_default().push((*at, time.runtime_ns));
                }
            }
            Event::Sample(Sample::Cgroup(c)) => {
                let room = if c.swap_limit == Bytes::MAX { Bytes::MAX } else { c.swap_limit.saturating_sub(c.swap_usage) };
                self.swap_room.insert(c.path.clone(), room);
            }
            Event::Kernel(KernelEvent::Exit { proc } | KernelEvent::Exec { proc }) => drop(self.procs.remove(proc)),
            Event::Kernel(KernelEvent::Fault { proc, kind: FaultKind::Major, .. }) => {
                self.procs.entry(*proc).or_default().returned += 1;
            }
            Event::Request(memtier::vocab::Request::Look { proc, .. }) => drop(self.looks.insert(*proc)),
            Event::Outcome(outcome) => {
                let step = shadow.steps.get(&outcome.step).filter(|d| d.outcome.is_none()).map(|d| &d.step);
                if let Some((Action::Arm { proc, ranges }, expires)) = step.map(|s| (&s.action, s.expires))
                    && let Some(p) = self.procs.get_mut(proc)
                {
                    let walk = Action::Scan { proc: *proc };
                    let overtaken = shadow.steps.values().any(|d| d.step.action == walk && d.at > outcome.began);
                    if overtaken || *at > expires {
                        p.doubted.extend(ranges);
                    } else {
                        p.armed.extend(ranges.iter().map(|r| (outcome.began, *r)));
                    }
                }
            }
            _ => {}
        }
    }

    /// Of `unheard` it is not known whether they were armed.
    fn walked(&mut self, at: Time, chunk: &PageChunk, mut unheard: Vec<AddrRange>) {
        let p = self.procs.entry(chunk.proc).or_default();
        unheard.extend(&p.doubted);
        let mut now = BTreeMap::new();
        for b in &chunk.blocks {
            let before = p.blocks.get(&b.block.0).cloned().unwrap_or_default();
            let known = before.old();
            p.returned += u64::from(before.swapped.and(&b.present).count() + known.and(&b.accessed).count());
            let old = b.present.and_not(&b.accessed);
            let mut idle: BTreeMap<Time, Bits> = before.idle.into_iter().map(|(t, bits)| (t, bits.and(&old))).collect();
            // Cleared by us so long ago that what was touched since may have been idle first.
            for (_, range) in p.armed.iter().filter(|(armed, _)| at.since(*armed) >= GAP) {
                p.returned += u64::from(b.accessed.and(&mask(b.block, range)).count());
            }
            // Bits that fell: by us, or by somebody else at a time unknown.
            let mut fell = old.and_not(&known);
            for (armed, range) in p.armed.iter().rev() {
                let ours = fell.and(&mask(b.block, range));
                fell = fell.and_not(&ours);
                let group = idle.entry(*armed).or_default();
                *group = group.or(&ours);
            }
            let out = unheard.iter().fold(Bits::NONE, |all, range| all.or(&mask(b.block, range)));
            let doubt = before.doubt.or(&out).and(&fell);
            let group = idle.entry(at).or_default();
            *group = group.or(&fell.and_not(&doubt));
            idle.retain(|_, bits| !bits.is_empty());
            let mut on = BTreeMap::new();
            match &b.mixed {
                None => drop(on.insert(b.node, u64::from(b.present.count()))),
                Some(runs) => runs.iter().for_each(|run| *on.entry(run.node).or_default() += u64::from(run.pages)),
            }
            let asked = p.armed.iter().fold(Bits::NONE, |all, (_, range)| all.or(&mask(b.block, range)));
            let [once, twice] = before.sure;
            let hit = b.accessed.and(&asked);
            let sure = if old.is_empty() { [once.or(&hit), twice.or(&once.and(&hit))] } else { [Bits::NONE; 2] };
            now.insert(b.block.0, Pages { present: b.present, swapped: b.swapped, on, idle, doubt, sure });
        }
        let (first, end) = (BlockId::of(chunk.range.start).0, BlockId::of(chunk.range.end).0);
        p.blocks.retain(|id, _| !(first..end).contains(id));
        p.blocks.append(&mut now);
        if chunk.last {
            p.walks.push(at);
            p.armed.clear();
            p.doubted.clear();
        }
    }

    fn count(&self, proc: ProcKey, of: impl Fn(BlockId, &Pages) -> Bits) -> u64 {
        let blocks = self.procs.get(&proc).into_iter().flat_map(|p| &p.blocks);
        blocks.map(|(id, pages)| u64::from(of(BlockId(*id), pages).count())).sum()
    }

    /// Bytes that the last walks saw in memory.
    pub fn resident(&self, proc: ProcKey) -> Bytes {
        Bytes(self.count(proc, |_, pages| pages.present) << 12)
    }

    /// Pages that were provably idle for so long, in memory that may be touched.
    fn idle(&self, shadow: &Shadow, proc: ProcKey, now: Time, least: Span) -> u64 {
        let barred = |f: VmaFlags| f.has(VmaFlags::LOCKED) || f.has(VmaFlags::IO) || f.has(VmaFlags::UFFD);
        let vmas: Vec<AddrRange> = shadow.maps.get(&proc).map_or_else(Vec::new, |vmas| {
            let free = vmas.iter().filter(|v| v.kind == VmaKind::Anon && !barred(v.flags));
            free.map(|v| AddrRange { start: v.start, end: v.end }).collect()
        });
        self.count(proc, |id, pages| {
            let free = vmas.iter().fold(Bits::NONE, |all, range| all.or(&mask(id, range)));
            let idle = pages.idle.iter().filter(|(since, _)| now.since(**since) >= least);
            idle.fold(Bits::NONE, |all, (_, bits)| all.or(bits)).and(&free)
        })
    }

    /// Checks every word of a decision, and that no selected process was passed over in silence.
    pub fn judge(&mut self, shadow: &Shadow, decision: &Decision) -> Result<(), String> {
        for hold in &decision.report.holds {
            self.hold(shadow, decision, hold)
                .map_err(|why| format!("hold {} by {}: {}: {why}", hold.subject, hold.by, hold.reason))?;
        }
        for idle in &decision.report.idles {
            idle_is_true(shadow, decision.at, idle).map_err(|why| format!("idle {}: {}: {why}", idle.policy, idle.reason))?;
        }
        for step in &decision.plan {
            if let Action::Scan { proc } = step.action {
                self.looks.remove(&proc);
            }
        }
        self.silence(shadow, decision)
    }

    /// A selected process with a block's worth of provably cold memory gets a step or a reason, soon.
    fn silence(&mut self, shadow: &Shadow, decision: &Decision) -> Result<(), String> {
        let (now, c) = (decision.at, &shadow.config);
        let by = [PolicyId::Autocold, PolicyId::Slide];
        let everybody = decision.report.idles.iter().any(|i| by.contains(&i.policy))
            || decision.report.holds.iter().any(|h| h.subject == Subject::Host && by.contains(&h.by));
        // A process that is not walked for a reason has that said of it by whoever walks.
        let named = |proc| {
            decision.plan.iter().any(|s| takes(s) && s.action.proc() == proc)
                || decision.report.holds.iter().any(|h| h.subject == Subject::Proc(proc))
        };
        let patience = Span(3 * (c.autocold.period_ms + 3 * c.scan.period_ms) * 1_000_000);
        for (&proc, (heard, _)) in &shadow.procs {
            // An exit that was lost shows in that nobody hears of the process any more.
            if now.since(*heard) > Span::from_secs(15) || !selected(shadow, proc) || !self.procs.contains_key(&proc) {
                continue;
            }
            let idle = self.idle(shadow, proc, now, Span::from_secs(c.autocold.min_idle_s + 5));
            let p = self.procs.get_mut(&proc).expect("contains_key was true");
            if everybody || named(proc) || p.last_word == Time::ZERO || idle < 512 {
                p.last_word = now;
            }
            if now.since(p.last_word) > patience {
                return Err(format!("{proc} has {idle} idle pages and nothing was said of it for {}", now.since(p.last_word)));
            }
        }
        Ok(())
    }

    fn hold(&self, shadow: &Shadow, decision: &Decision, Hold { subject, by, reason }: &Hold) -> Result<(), String> {
        let (now, c) = (decision.at, &shadow.config);
        let proc = match subject {
            Subject::Proc(proc) => *proc,
            Subject::Host | Subject::Cgroup(_) | Subject::Cache(_) => ProcKey::default(),
        };
        let sample = shadow.procs.get(&proc).map(|(_, s)| s);
        match reason.rule {
            Rule::PressureBrake => braked(shadow, now, *by),
            Rule::BudgetSpent => budget_is_spent(shadow, decision, reason),
            Rule::SwapReserve => {
                let room = swap_room(shadow, now, decision);
                ensure(room < BLOCK as i64, || format!("{room} bytes of swap are left above the reserve"))
            }
            Rule::Floor => {
                let floor = Bytes::from_mib(c.target.iter().find_map(|t| t.floor_mib).unwrap_or(0));
                let seen = self.resident(proc).min(sample.map_or(Bytes::MAX, |s| s.rss));
                // Huge leaves go whole; anything else goes to the last page.
                let grain = Bytes(if reason.note.contains("huge") { BLOCK } else { 4096 });
                ensure(seen.saturating_sub(floor) < grain, || format!("{seen} is over {floor}"))
            }
            Rule::NotSelected | Rule::Excluded | Rule::Protected => ensure(!selected(shadow, proc), || "it is selected".into()),
            Rule::TooSmall => {
                let rss = sample.map_or(Bytes::ZERO, |s| s.rss);
                ensure(rss < Bytes::from_mib(c.scan.min_resident_mib), || format!("it has {rss}"))
            }
            Rule::WarmUp if *by == PolicyId::Tier && *subject == Subject::Host => {
                ensure(shadow.nodes.0 < 3, || format!("{} samples of nodes", shadow.nodes.0))
            }
            Rule::Settling if *by == PolicyId::Tier => {
                let its = |step: &memtier::vocab::Step| *subject == Subject::Host || step.action.proc() == proc;
                ensure(shadow.steps.values().any(|d| places(&d.step) && its(&d.step)), || "nothing was moved".into())
            }
            Rule::AtHome if *by == PolicyId::Tier => self.is_in_its_tier(shadow, proc),
            Rule::WarmUp if *by == PolicyId::Numa => ensure(shadow.nodes.0 < 3, || format!("{} samples of nodes", shadow.nodes.0)),
            Rule::Settling if *by == PolicyId::Numa => {
                ensure(shadow.steps.values().any(|d| places(&d.step) && d.step.action.proc() == proc), || {
                    "nothing of it was placed".into()
                })
            }
            Rule::AtHome => self.is_at_home(shadow, proc),
            Rule::NotWorth | Rule::NoNode => ensure(cpu_nodes(shadow) > 1, || "threads have no choice".into()),
            Rule::NodeReserve => node_is_full(shadow, decision, reason),
            Rule::BoundByOthers if sample.is_some_and(|s| !s.mempolicy.is_empty()) => Ok(()),
            Rule::BoundByOthers if *by == PolicyId::Tier => {
                ensure(self.locked(shadow, proc), || "nobody said where it lies".into())
            }
            Rule::BoundByOthers => ensure(bound(shadow, proc), || "it may run anywhere".into()),
            Rule::KernelBalances => ensure(shadow.facts.has(Need::NumaBalancing).is_ok(), || "the kernel does not".into()),
            Rule::Unmovable => ensure(shadow.steps.values().any(|d| places(&d.step)) || self.locked(shadow, proc), || {
                "it was never asked to".into()
            }),
            Rule::WarmUp => self.is_warming(shadow, now, proc, *by),
            Rule::NothingCold => self.nothing_is_cold(shadow, now, proc, reason),
            Rule::RefaultBrake => {
                let returned = self.procs.get(&proc).map_or(0, |p| p.returned);
                ensure(returned > 0, || "nothing ever came back".into())
            }
            Rule::UnderReclaim => {
                let cgroup = sample.map_or(0, |s| s.cgroup_id.0);
                let recent = |at: Option<&Time>| at.is_some_and(|&at| now.since(at) <= Span(2 * MINUTE.0));
                let scanned = self.host.iter().filter(|(at, _)| now.since(*at) <= Span(2 * MINUTE.0)).map(|h| h.1.scanned.0);
                let host = scanned.clone().max() > scanned.min();
                ensure(recent(self.direct.get(&proc)) || recent(self.reclaimed.get(&cgroup)) || host, || {
                    "nothing was reclaimed".into()
                })
            }
            Rule::Starved => {
                let lately = Span(Span::from_secs(40).0 + 3 * c.scan.period_ms * 1_000_000);
                let second = |(at, ns): &&(Time, u64)| now.since(*at) <= lately && *ns < 10_000_000;
                ensure(self.ran.get(&proc).is_some_and(|r| r.iter().any(|s| second(&s))), || "it always ran".into())
            }
            Rule::CgroupSwapLimit => {
                let path = sample.map_or("", |s| s.cgroup.as_str());
                let room = self.swap_room.get(path).copied().unwrap_or(Bytes::MAX);
                let unseen: u64 = shadow
                    .steps
                    .values()
                    .filter(|d| takes(&d.step) && now.since(d.at) <= Span::from_secs(70))
                    .map(|d| d.step.charge.moved.0)
                    .sum();
                let others: u64 = decision.plan.iter().filter(|step| takes(step)).map(|step| step.charge.moved.0).sum();
                ensure(room.0 < BLOCK + unseen + others, || format!("the cgroup has room for {room}"))
            }
            Rule::SubjectTaken => {
                ensure(decision.plan.iter().any(|s| s.action.proc() == proc), || "no step for it is in the plan".into())
            }
            Rule::InFlight => {
                ensure(shadow.steps.values().any(|d| d.step.action.proc() == proc), || "no step for it ever was".into())
            }
            Rule::Settling => ensure(shadow.steps.values().any(|d| takes(&d.step) && d.step.action.proc() == proc), || {
                "nothing was taken from it".into()
            }),
            Rule::Stale => {
                let walked = self.procs.get(&proc).and_then(|p| p.walks.last());
                let fresh = walked.is_some_and(|&at| now.since(at) < Span::from_millis(2 * c.scan.period_ms));
                ensure(!fresh || sample.is_none(), || "it was walked just now".into())
            }
            Rule::GateClosed => ensure(*by == PolicyId::Slide && c.slide.free_below_percent < 100, || "no gate is set".into()),
            Rule::ModelCap => ensure(reason.note.contains("dropped"), || "it says nothing of what was dropped".into()),
            Rule::ScanDue
            | Rule::ScanAsked
            | Rule::ArmYoung
            | Rule::SlideCold
            | Rule::AutocoldIdle
            | Rule::NumaBind
            | Rule::NumaPart
            | Rule::NumaMove
            | Rule::TierPromote
            | Rule::TierDemote
            | Rule::SlabGain
            | Rule::SlabFree
            | Rule::SlabTakeover
            | Rule::SlabRest
            | Rule::SlabWake
            | Rule::SlabFlash
            | Rule::SlabPool
            | Rule::SlabAge
            | Rule::ServerRefuses
            | Rule::HasFree
            | Rule::SwapSavesNothing
            | Rule::NoSwap
            | Rule::SourceBlind
            | Rule::HostLacks
            | Rule::Paused
            | Rule::TurnedOff
            | Rule::CgroupBind
            | Rule::BadConfig
            | Rule::AuditVeto => Err("this rule is no reason to hold one step".into()),
        }
    }

    /// No block on a node without CPUs was found in use again after being asked twice, most of it. What is being asked just now
    /// is known when it answers.
    fn is_in_its_tier(&self, shadow: &Shadow, proc: ProcKey) -> Result<(), String> {
        let Some(p) = self.procs.get(&proc) else { return Ok(()) };
        let counted = shadow.procs.get(&proc).is_some_and(|(_, sample)| {
            let slide = |t: &memtier::config::Target| t.policy == Some(PolicyId::Slide) && t.comm.as_ref() == Some(&sample.comm);
            shadow.config.target.iter().any(slide)
        });
        // What was moved since, the last walk does not show.
        let before = p.walks.iter().rev().nth(1).copied().unwrap_or_default();
        let moved = shadow.steps.values().any(|d| places(&d.step) && d.step.action.proc() == proc && d.at >= before);
        if counted || moved {
            return Ok(());
        }
        let slow = |node: &NodeId| shadow.facts.nodes.iter().any(|n| n.id == *node && n.cpus.is_empty());
        let hot = |pages: &Pages| 2 * pages.sure[1].and(&pages.present).count() >= pages.present.count().max(1);
        let there = |pages: &Pages| pages.on.iter().any(|(node, pages)| *pages > 0 && slow(node));
        let mut asked = unheard(shadow, proc);
        asked.extend(p.doubted.iter().chain(p.armed.iter().map(|(_, range)| range)));
        let open = |id: u64| asked.iter().any(|range| !mask(BlockId(id), range).is_empty());
        let waits = p.blocks.iter().find(|(id, pages)| there(pages) && hot(pages) && !open(**id));
        ensure(waits.is_none(), || format!("block {:?} is hot, and on a slow node", waits.map(|(id, _)| id)))
    }

    /// Bound, and none of its memory that may move lies elsewhere; or it runs where it likes, and nothing was to be gained.
    fn is_at_home(&self, shadow: &Shadow, proc: ProcKey) -> Result<(), String> {
        if !bound(shadow, proc) || self.locked(shadow, proc) {
            return Ok(());
        }
        let moved = shadow.steps.values().any(|d| places(&d.step) && d.step.action.proc() == proc);
        let sample = &shadow.procs[&proc].1;
        let home = |node: &NodeId| {
            let node = shadow.facts.nodes.iter().find(|n| n.id == *node);
            node.is_some_and(|n| n.cpus.is_empty() || n.cpus.iter().any(|cpu| sample.cpus_allowed.contains(cpu.0)))
        };
        let blocks = self.procs.get(&proc).into_iter().flat_map(|p| p.blocks.values());
        let away: u64 = blocks.flat_map(|pages| &pages.on).filter(|(node, _)| !home(node)).map(|(_, pages)| *pages).sum();
        // What was moved since, the last walk does not show.
        ensure(moved || away == 0, || format!("{away} pages lie elsewhere"))
    }

    /// Some of its memory may not be touched, or its owner said where it lies.
    fn locked(&self, shadow: &Shadow, proc: ProcKey) -> bool {
        let barred =
            |v: &memtier::vocab::Vma| v.kind != VmaKind::Anon || v.flags.has(VmaFlags::LOCKED) || v.flags.has(VmaFlags::POLICY);
        shadow.maps.get(&proc).is_some_and(|vmas| vmas.iter().any(barred))
    }

    fn is_warming(&self, shadow: &Shadow, now: Time, proc: ProcKey, by: PolicyId) -> Result<(), String> {
        let c = &shadow.config;
        let Some(p) = self.procs.get(&proc) else { return Ok(()) };
        let walks = p.walks.len() as u64;
        if by == PolicyId::Slide {
            // Rounds do not overlap: only the walk that completes one is followed by a page-out.
            return ensure(c.slide.scans > 1 || walks == 0, || "every walk is a round".into());
        }
        let young = p.walks.first().is_none_or(|&first| now.since(first) < Span::from_secs(c.autocold.warmup_s));
        let known = self.count(proc, |_, pages| pages.old());
        let present = self.count(proc, |_, pages| pages.present);
        // What is young may or may not have been asked: half of the memory being old at least proves that it was.
        ensure(young || 2 * known <= present, || {
            format!("{known} of {present} pages are known, watched since {:?}", p.walks.first())
        })
    }

    fn nothing_is_cold(&self, shadow: &Shadow, now: Time, proc: ProcKey, reason: &Reason) -> Result<(), String> {
        let c = &shadow.config;
        // What was touched after being idle may be so often that no age will do.
        if reason.evidence.iter().any(|e| e.knob.as_deref() == Some("autocold.slo_permil_per_min"))
            && self.procs.get(&proc).is_some_and(|p| p.returned > 0)
        {
            return Ok(());
        }
        if reason.evidence.iter().any(|e| e.knob.as_deref() == Some("slide.threshold")) {
            // Rounds are of walks, not of time: a hand that comes back late delays them.
            let walks = self.procs.get(&proc).map_or(&[][..], |p| &p.walks);
            let first = walks.len().checked_sub(c.slide.scans as usize).map(|first| walks[first]);
            let idle = first.map_or(0, |first| self.idle(shadow, proc, now, now.since(first)));
            return ensure(idle < 512, || format!("{idle} pages read idle in each walk of the round"));
        }
        let tick = Span::from_millis(c.heat.age_tick_ms);
        // By what the last walk saw.
        let seen = self.procs.get(&proc).and_then(|p| p.walks.last().copied()).unwrap_or(now);
        let idle = self.idle(shadow, proc, seen, Span(Span::from_secs(c.autocold.min_idle_s).0 + 3 * tick.0));
        ensure(idle < 512, || format!("{idle} pages are idle for longer"))
    }
}

/// Ranges that a hand was sent to arm, of which nothing was heard since.
fn unheard(shadow: &Shadow, proc: ProcKey) -> Vec<AddrRange> {
    let silent = shadow.steps.values().filter(|d| d.outcome.is_none()).map(|d| &d.step.action);
    let ranges = silent.filter_map(|action| match action {
        Action::Arm { proc: whose, ranges } if *whose == proc => Some(ranges),
        _ => None,
    });
    ranges.flatten().copied().collect()
}

/// Pages of a block inside a range.
fn mask(block: BlockId, range: &AddrRange) -> Bits {
    let (start, end) = (block.start(), block.start() + BLOCK);
    if range.start <= start && end <= range.end {
        return Bits::ALL;
    }
    let mut bits = Bits::NONE;
    (range.start.clamp(start, end)..range.end.clamp(start, end))
        .step_by(4096)
        .for_each(|at| bits.set(((at - start) >> 12) as usize));
    bits
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// What the rules of `Case::config` say, without reading them.
pub fn selected(shadow: &Shadow, proc: ProcKey) -> bool {
    shadow.procs.get(&proc).is_some_and(|(_, s)| super::case::selected(&s.comm))
}

/// Nodes with CPUs.
fn cpu_nodes(shadow: &Shadow) -> usize {
    shadow.facts.nodes.iter().filter(|node| !node.cpus.is_empty()).count()
}

/// It may not run everywhere.
fn bound(shadow: &Shadow, proc: ProcKey) -> bool {
    let all = shadow.facts.nodes.iter().flat_map(|node| &node.cpus);
    shadow.procs.get(&proc).is_some_and(|(_, sample)| all.into_iter().any(|cpu| !sample.cpus_allowed.contains(cpu.0)))
}

/// By its last sample, what came since and what is on its way.
fn node_is_full(shadow: &Shadow, decision: &Decision, reason: &Reason) -> Result<(), String> {
    let (_, sampled, nodes) = &shadow.nodes;
    let Some(node) = nodes.iter().find(|node| node.node.to_string() == reason.note) else { return Ok(()) };
    let to = |step: &memtier::vocab::Step| matches!(step.action, Action::MovePages { to, .. } | Action::Migrate { to, .. } if to == node.node);
    let before = shadow.steps.values().filter(|d| to(&d.step)).map(|d| match &d.outcome {
        None => d.step.charge.moved.0,
        Some(outcome) if outcome.ended >= *sampled => outcome.done.pages.bytes().0,
        Some(_) => 0,
    });
    let coming = before.sum::<u64>() + decision.plan.iter().filter(|s| to(s)).map(|s| s.charge.moved.0).sum::<u64>();
    let reserve = node.total.scale(shadow.config.numa.node_free_permil, 1000);
    let room = node.free.saturating_sub(Bytes(coming)).saturating_sub(reserve);
    ensure(room < Bytes(BLOCK), || format!("{room} may still come to {}", node.node))
}

fn braked(shadow: &Shadow, now: Time, by: PolicyId) -> Result<(), String> {
    let hold = Span::from_secs(shadow.config.brake.hold_s);
    let kinds: &[PressureKind] =
        if by == PolicyId::Arm { &[PressureKind::Memory] } else { &[PressureKind::Memory, PressureKind::Io] };
    let over = kinds
        .iter()
        .filter_map(|k| shadow.pressure.get(k))
        .any(|(_, over)| over.is_some_and(|at| now.since(at) < Span(hold.0 + 1)));
    ensure(over, || format!("pressure was not over its bound: {:?}", shadow.pressure))
}

/// Bytes of swap above the reserve that no step has a claim to, as the stream tells it.
pub fn swap_room(shadow: &Shadow, now: Time, decision: &Decision) -> i64 {
    let Some((at, host)) = &shadow.host else { return 0 };
    let reserve = host.swap_total.scale(shadow.config.budget.swap_free_permil, 1000);
    let claimed =
        claimed_since(shadow, now, *at) + decision.plan.iter().filter(|s| is_page_out(s)).map(|s| s.charge.moved.0).sum::<u64>();
    host.swap_free.0 as i64 - reserve.0 as i64 - claimed as i64
}

const fn is_page_out(step: &memtier::vocab::Step) -> bool {
    matches!(step.action, Action::PageOut { .. })
}

/// What page-outs may have put into swap that a sample taken at `then` does not show.
pub fn claimed_since(shadow: &Shadow, now: Time, then: Time) -> u64 {
    let given_up = |d: &super::shadow::Done| now > d.step.expires.after(MINUTE);
    let claim = |d: &super::shadow::Done| match &d.outcome {
        None if given_up(d) => 0,
        None => d.step.charge.moved.0,
        Some(outcome) if outcome.ended >= then => outcome.done.pages.bytes().0,
        Some(_) => 0,
    };
    shadow.steps.values().filter(|d| is_page_out(&d.step)).map(claim).sum()
}

/// Charges of the window that ends at `now`: (moved, armed, system calls), of one rule's processes if `of` says so.
pub fn spent(shadow: &Shadow, now: Time, of: impl Fn(ProcKey) -> bool) -> (u64, u64, u64) {
    let inside = |d: &&super::shadow::Done| now.since(d.at) < WINDOW && of(d.step.action.proc());
    shadow.steps.values().filter(inside).fold((0, 0, 0), |(moved, armed, calls), d| {
        let (charge, done) = (d.step.charge, d.outcome.as_ref().map(|o| o.done));
        let pages = done.map(|d| d.pages.bytes().0);
        match d.step.action {
            Action::Scan { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => (moved, armed, calls),
            Action::Arm { .. } => {
                (moved, armed + pages.unwrap_or(charge.armed.0), calls + done.map_or(charge.syscalls, |d| d.syscalls))
            }
            Action::Bind { .. } => (moved, armed, calls + done.map_or(charge.syscalls, |d| d.syscalls)),
            Action::PageOut { .. } | Action::Deactivate { .. } | Action::MovePages { .. } | Action::Migrate { .. } => {
                (moved + pages.unwrap_or(charge.moved.0), armed, calls + done.map_or(charge.syscalls, |d| d.syscalls))
            }
        }
    })
}

/// Moved by numa in the window that ends with this decision.
pub fn spent_by_numa(shadow: &Shadow, decision: &Decision) -> u64 {
    let moves = |step: &memtier::vocab::Step| step.by == PolicyId::Numa && matches!(step.action, Action::MovePages { .. });
    let lately = |d: &&super::shadow::Done| moves(&d.step) && decision.at.since(d.at) < WINDOW;
    let moved = |d: &super::shadow::Done| d.outcome.as_ref().map_or(d.step.charge.moved.0, |o| o.done.pages.bytes().0);
    let before: u64 = shadow.steps.values().filter(lately).map(moved).sum();
    before + decision.plan.iter().filter(|s| moves(s)).map(|s| s.charge.moved.0).sum::<u64>()
}

/// Moved by tier in the window that ends with this decision, over all links.
pub fn spent_by_tier(shadow: &Shadow, decision: &Decision) -> u64 {
    let lately = |d: &&super::shadow::Done| d.step.by == PolicyId::Tier && decision.at.since(d.at) < WINDOW;
    let moved = |d: &super::shadow::Done| d.outcome.as_ref().map_or(d.step.charge.moved.0, |o| o.done.pages.bytes().0);
    let before: u64 = shadow.steps.values().filter(lately).map(moved).sum();
    before + decision.plan.iter().filter(|s| s.by == PolicyId::Tier).map(|s| s.charge.moved.0).sum::<u64>()
}

/// The most calls that the pages of one block can cost, each other one of them a range of its own.
const BLOCK_CALLS: u64 = 96;

fn budget_is_spent(shadow: &Shadow, decision: &Decision, reason: &Reason) -> Result<(), String> {
    let (now, c, secs) = (decision.at, &shadow.config, WINDOW.as_secs());
    let (mut moved, mut armed, mut calls) = spent(shadow, now, |_| true);
    for step in &decision.plan {
        moved += step.charge.moved.0;
        armed += step.charge.armed.0;
        calls += step.charge.syscalls;
    }
    let knob = reason.evidence.last().and_then(|e| e.knob.as_deref()).unwrap_or_default();
    let (used, limit, grain) = match knob {
        "budget.moved_mib_per_s" => (moved, (c.budget.moved_mib_per_s * secs) << 20, BLOCK),
        "arm.quota_mib_per_s" => (armed, (c.arm.quota_mib_per_s * secs) << 20, BLOCK),
        "budget.syscalls_per_s" => (calls, c.budget.syscalls_per_s * secs, BLOCK_CALLS),
        "target.moved_mib_per_s" => {
            let limit = c.target.iter().find_map(|t| t.moved_mib_per_s).unwrap_or(0);
            (moved, (limit * secs) << 20, BLOCK)
        }
        "numa.quota_mib_per_s" => (spent_by_numa(shadow, decision), (c.numa.quota_mib_per_s * secs) << 20, BLOCK),
        "tier.quota_mib_per_s" => (spent_by_tier(shadow, decision), (c.tier.quota_mib_per_s * secs) << 20, BLOCK),
        "budget.swap_writes_gib_per_day" => return Ok(()),
        other => return Err(format!("no budget is called {other:?}")),
    };
    ensure(used + grain > limit, || format!("{used} of {limit} is used"))
}

fn idle_is_true(shadow: &Shadow, now: Time, Idle { policy, reason }: &Idle) -> Result<(), String> {
    let c = &shadow.config;
    let host = shadow.host.as_ref().map(|(_, h)| h);
    match reason.rule {
        Rule::Paused => ensure(shadow.paused, || "nobody paused it".into()),
        Rule::TurnedOff => match policy {
            PolicyId::Arm => ensure(!c.daemon.arm && !c.daemon.act || c.arm.quota_mib_per_s == 0, || "it is on".into()),
            PolicyId::Autocold => ensure(!c.autocold.enabled, || "it is on".into()),
            PolicyId::Slide => ensure(!c.slide.enabled || c.slide.threshold == 0, || "it is on".into()),
            PolicyId::Numa => ensure(!c.numa.enabled || c.numa.quota_mib_per_s == 0, || "it is on".into()),
            PolicyId::Tier => ensure(!c.tier.enabled || c.tier.quota_mib_per_s == 0, || "it is on".into()),
            PolicyId::SlabMarginal | PolicyId::SlabExtstore | PolicyId::SlabAutomove => {
                ensure(!c.caches.enabled, || "it is on".into())
            }
            PolicyId::Watch => Err("it cannot be turned off".into()),
        },
        Rule::NoSwap => ensure(host.is_none_or(|h| h.swap_total == Bytes::ZERO), || "there is swap".into()),
        Rule::SwapReserve => {
            ensure(host.is_none_or(|h| h.swap_free.0 * 1000 <= h.swap_total.0 * (c.budget.swap_free_permil + 1)), || {
                "swap is free".into()
            })
        }
        Rule::SwapSavesNothing => ensure(
            host.is_some_and(|h| {
                h.swaps.iter().any(|s| s.cost.0 * 1000 >= s.stored.0 * c.budget.swap_cost_permil && s.stored.0 > 0)
            }),
            || format!("it saves: {host:?}"),
        ),
        Rule::HostLacks => {
            if *policy == PolicyId::Tier {
                let alike = shadow.facts.nodes.iter().all(|node| !node.cpus.is_empty());
                return ensure(alike, || "there are slow nodes".into());
            }
            if *policy == PolicyId::Numa {
                let few = shadow.facts.has(Need::ManyNodes).is_err() || cpu_nodes(shadow) < 2;
                return ensure(few, || "there are many nodes".into());
            }
            let other = match policy {
                PolicyId::Arm => Need::PageIdle,
                PolicyId::Slide | PolicyId::Autocold => Need::SwapPages,
                PolicyId::Watch
                | PolicyId::Numa
                | PolicyId::Tier
                | PolicyId::SlabMarginal
                | PolicyId::SlabExtstore
                | PolicyId::SlabAutomove => {
                    return Err("it only looks".into());
                }
            };
            let has = |need| shadow.facts.has(need).is_ok();
            ensure(!has(Need::ProcessMadvise) && !has(other), || "the host has what it takes".into())
        }
        Rule::SourceBlind => {
            let unseen =
                |s: Source| shadow.sight(s) != Sight::Seeing || shadow.heard.get(&s).is_none_or(|&at| now.since(at) > MINUTE);
            let needed = [Source::Procs, Source::Walker, Source::Host, Source::Psi, Source::Reclaim];
            ensure(needed.into_iter().any(unseen), || "every source tells".into())
        }
        other => Err(format!("{other} is no reason to idle")),
    }
}
