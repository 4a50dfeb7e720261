//! What the loop answers on the control socket. Reading answers come from the planner's own state, so they show what it
//! decides by.

use super::control::{Answer, Ask, Query, Refusal};
use super::live::{Live, Waiting};
use super::views::{
    AreaView, BudgetView, CellView, Done, HeatView, Mode, NodeView, NodesView, OwnView, Recorded, SightView, SourceView, Status,
    TargetView,
};
use super::{caches_view as caches, metrics, usage};
use crate::config::{self, Config};
use crate::model::{HeatCell, IDLE_EDGES, NodeNow, ProcHeat, Sight};
use crate::plan::{Explanation, Governor, Turn, WINDOW, explain, limits};
use crate::sys::clock::{boottime, unix_at_zero};
use crate::sys::files::{Root, start_ticks};
use crate::vocab::{
    AddrRange, BLOCK_BYTES, Bytes, End, Event, NodeFacts, Outcome, ProcKey, Request, Rule, Sample, Source, Span, Subject, Time,
    VmaKind,
};
use bytes::Bytes as Body;
use hyper::StatusCode;
use serde::Serialize;
use std::io;

/// Of a node to itself (include/linux/topology.h).
const LOCAL_DISTANCE: u16 = 10;
/// Targets shown, the largest.
const MOST_TARGETS: usize = 32;
/// Lines of the decision log shown, the latest.
const MOST_LINES: usize = 12;
/// Mappings nearer to each other than this share a strip.
const NEAR: Bytes = Bytes::from_mib(64);
/// Rows of cells that a picture has at most, about.
const ROWS: u64 = 24;

impl Live {
    pub(super) fn answer(&mut self, ask: Ask) {
        let answer = match &ask.query {
            Query::Status => json(&self.status()),
            Query::Explain { pid, at } => self.explain(*pid, *at),
            Query::Heat { pid, look: false, columns } => self.key(*pid).and_then(|proc| self.heat(proc, *columns)),
            Query::Heat { pid, look: true, columns } => match self.look(*pid, &ask.by) {
                Ok(proc) => {
                    let columns = *columns;
                    return self.waiting.push(Waiting { proc, since: boottime(), columns, ask });
                }
                Err(refusal) => Err(refusal),
            },
            Query::Footprint => json(&self.footprint.lock().held()),
            Query::Facts => json(self.governor.facts()),
            Query::Caches => json(&caches::view(&self.governor, boottime())),
            Query::Nodes => self.nodes(),
            Query::Config => json(&config::canonical(self.governor.config())),
            Query::Metrics => {
                Ok(metrics::render(&self.governor, &self.tally, &self.own(), &self.recorder.recording(), boottime()).into())
            }
            Query::Pause => self.pause(&ask.by),
            Query::Resume => self.resume(&ask.by),
            Query::Reload => self.reload_and_say(),
            Query::Look { pid } => self.look(*pid, &ask.by).and_then(|proc| done(format!("{proc} will be walked soon"))),
            Query::Watch { pid } => self.watch(*pid),
            Query::Unwatch { pid } => self.unwatch(*pid),
            Query::RecordStart { dir } => self.record(dir),
            Query::RecordStop => self.stop_recording(),
        };
        // Whoever asked may have gone.
        let _ = ask.reply.send(answer);
    }

    fn pause(&mut self, by: &str) -> Answer {
        self.hold(by);
        let paused = "paused: nothing is paged out or armed until `memtier resume`; walks go on";
        let kept = self.footprint.lock().pause(by);
        match kept {
            Ok(()) => done(format!("{paused}. A restart changes nothing about that")),
            Err(error) => done(format!("{paused}. A restart would END it: {error}")),
        }
    }

    fn hold(&mut self, by: &str) {
        self.take(Event::Request(Request::Pause { by: by.to_owned() }));
        self.wiring.hands.stop(true);
    }

    /// A daemon that was paused and is started anew does not act behind the operator's back.
    pub(super) fn stay_paused(&mut self) {
        let paused = self.footprint.lock().paused();
        if let Some(by) = paused {
            tracing::warn!(by, "paused before this start: nothing is paged out or armed until `memtier resume`");
            self.hold(&by);
        }
    }

    fn resume(&mut self, by: &str) -> Answer {
        self.take(Event::Request(Request::Resume { by: by.to_owned() }));
        self.wiring.hands.stop(false);
        let ended = self.footprint.lock().resume();
        match ended {
            Ok(()) => done("resumed"),
            Err(error) => done(format!("resumed, but the next start will be paused again: {error}")),
        }
    }

    fn reload_and_say(&mut self) -> Answer {
        match self.reload() {
            Ok(true) => {
                let vain = self.governor.vain_rules(self.base.target.len());
                vain.iter().for_each(|rule| tracing::warn!("{rule}"));
                done([vec![format!("new configuration from {}", self.origins.join(", "))], vain].concat().join("\n"))
            }
            Ok(false) => done("the configuration is as before"),
            Err(error) => {
                let status = if matches!(error, super::setup::SetupError::NothingSelected) {
                    StatusCode::FORBIDDEN
                } else {
                    StatusCode::BAD_REQUEST
                };
                Err(Refusal::new(status, format!("{error}\nthe old configuration stays")).next(error.next()))
            }
        }
    }

    fn watch(&mut self, pid: u32) -> Answer {
        let proc = self.meet(pid)?;
        if self.watched.insert(proc) {
            self.configure();
        }
        done(format!("watching pid {pid}"))
    }

    fn unwatch(&mut self, pid: u32) -> Answer {
        let before = self.watched.len();
        self.watched.retain(|proc| proc.pid != pid);
        if self.watched.len() < before {
            self.configure();
        }
        done(format!("no longer watching pid {pid}"))
    }

    fn record(&mut self, dir: &std::path::Path) -> Answer {
        if let Some(running) = self.recorder.dir() {
            let running = running.display();
            return Err(Refusal::new(StatusCode::CONFLICT, format!("a recording to {running} runs already"))
                .next("that one holds the same events; `memtier replay` reads it while it grows"));
        }
        let (event, decision) = (self.intake.seq(), self.tally.decisions);
        match self.recorder.join(dir, &self.governor, event, decision) {
            Ok(()) => done(format!("recording to {}", dir.display())),
            Err(error) => {
                Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).next("name a directory with room"))
            }
        }
    }

    fn stop_recording(&mut self) -> Answer {
        match self.recorder.stop() {
            Some(Ok(recorded)) => json::<Recorded>(&recorded),
            Some(Err(error)) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
            None => Err(Refusal::new(StatusCode::CONFLICT, "no recording runs")),
        }
    }

    /// The process that has this pid now.
    fn key(&self, pid: u32) -> Result<ProcKey, Refusal> {
        let start = Root::host().bytes(format!("/proc/{pid}/stat")).ok().and_then(|stat| start_ticks(&stat));
        start.map(|start| ProcKey { pid, start }).ok_or_else(|| gone(pid))
    }

    /// As `key`; and the planner knows at once what /proc says of it.
    fn meet(&mut self, pid: u32) -> Result<ProcKey, Refusal> {
        let Some(sample) = (self.wiring.look)(pid) else { return self.key(pid) };
        let proc = sample.proc;
        self.take(Event::Sample(Sample::Proc(Box::new(sample))));
        Ok(proc)
    }

    fn look(&mut self, pid: u32, by: &str) -> Result<ProcKey, Refusal> {
        let proc = self.meet(pid)?;
        if let Sight::Blind { why, .. } = self.governor.models().freshness.sight(Source::Walker) {
            return Err(incapable(format!("the walker is blind: {why}")));
        }
        self.take(Event::Request(Request::Look { proc, by: by.to_owned() }));
        Ok(proc)
    }

    /// A walk ended: whoever waited for one that began after the question gets the picture.
    pub(super) fn walked(&mut self, proc: ProcKey, outcome: &Outcome) {
        for Waiting { columns, ask, .. } in
            self.waiting.extract_if(.., |w| w.proc == proc && w.since <= outcome.began).collect::<Vec<_>>()
        {
            let answer = match &outcome.end {
                End::Done | End::Partial(_) => self.heat(proc, columns),
                End::Failed(fault) if io::Error::from_raw_os_error(fault.errno).kind() == io::ErrorKind::PermissionDenied => {
                    Err(incapable(format!("no right to walk {proc}: {fault}")))
                }
                end => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("the walk of {proc}: {end}")).next("ask again")),
            };
            let _ = ask.reply.send(answer);
        }
    }

    pub(super) fn gone(&mut self, proc: ProcKey) {
        for Waiting { ask, .. } in self.waiting.extract_if(.., |w| w.proc == proc) {
            let _ = ask.reply.send(Err(gone(proc.pid)));
        }
    }

    fn explain(&self, pid: Option<u32>, at: Option<Time>) -> Answer {
        // A process that is gone may still be explained from what is known of it.
        let known = |pid| self.governor.models().procs.by_pid(pid);
        let who = match pid {
            None => Subject::Host,
            Some(pid) => Subject::Proc(known(pid).map_or_else(|| self.key(pid), Ok)?),
        };
        let reach = self.governor.journal().reach().unwrap_or(self.started);
        if let Some(at) = at.filter(|at| *at < reach) {
            return Err(Refusal::new(StatusCode::GONE, format!("the journal reaches back to {reach}, not to {at}"))
                .next("a recording tells: `memtier replay DIR`, or `memtier export DIR --to csv`"));
        }
        json(&Explanation { unix_at_zero: Some(unix_at_zero()), ..explain(&self.governor, who, at) })
    }

    fn status(&self) -> Status {
        let governor = &self.governor;
        let recording = self.recorder.recording();
        let (now, config, journal) = (boottime(), governor.config(), governor.journal());
        let (targets, more_targets) = self.targets(now);
        let lines = |turn: &Turn| turn.to_string().lines().rev().map(str::to_owned).collect::<Vec<_>>();
        let mut log: Vec<String> = journal.turns().rev().flat_map(lines).take(MOST_LINES).collect();
        log.reverse();
        let brakes = journal.holds().filter(|hold| brakes(hold.what.reason.rule));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started,
            now,
            mode: mode(config),
            paused: governor.paused(),
            config: self.origins.clone(),
            recording: recording.dir.map(|dir| dir.display().to_string()),
            recording_stalled: recording.stalled,
            recording_missing: recording.missing,
            sources: sources(governor, now),
            targets,
            more_targets,
            // Watches are rules, too, that nobody has written.
            vain_rules: governor.vain_rules(self.base.target.len()),
            budgets: budgets(governor),
            brakes: brakes.map(|hold| format!("since {}: {}", hold.since, hold.what)).collect(),
            idles: journal.idles().map(|idle| idle.what.clone()).collect(),
            log,
            footprint: self.footprint.lock().held(),
            own: self.own(),
        }
    }

    fn own(&self) -> OwnView {
        let models = self.governor.models();
        OwnView {
            bpf_run: (self.wiring.bpf_run)(),
            models: models.bytes(),
            tracked: models.heat.tracked(),
            events: self.intake.seq(),
            decisions: self.tally.decisions,
            steps_open: self.dispatch.open() as u64,
            ..usage::own()
        }
    }

    fn targets(&self, now: Time) -> (Vec<TargetView>, u64) {
        let models = self.governor.models();
        let walked = models.heat.procs().map(|(proc, _)| proc);
        let selected = models.procs.samples().map(|s| s.proc).filter(|proc| self.governor.selection(*proc).policy().is_some());
        let procs: std::collections::BTreeSet<ProcKey> = walked.chain(selected).collect();
        let mut views: Vec<TargetView> = procs.into_iter().map(|proc| self.target(proc, now)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.resident));
        let more = views.len().saturating_sub(MOST_TARGETS);
        views.truncate(MOST_TARGETS);
        (views, more as u64)
    }

    fn target(&self, proc: ProcKey, now: Time) -> TargetView {
        let models = self.governor.models();
        let (sample, heat) = (models.procs.sample(proc), models.heat.get(proc));
        let idle = heat.map(|heat| heat.idle_histogram(now)).unwrap_or_default();
        let [_, _, idle_2min, ..] = idle.idle;
        TargetView {
            proc,
            comm: sample.map(|s| s.comm.clone()).unwrap_or_default(),
            selection: self.governor.selection(proc).to_string(),
            resident: heat.map_or_else(|| sample.map(|s| s.rss).unwrap_or_default(), |heat| heat.resident().bytes()),
            swapped: idle.swapped,
            idle_2min,
            unknown: idle.unknown,
            scans: heat.map_or(0, ProcHeat::scans),
            confidence: heat.map(ProcHeat::confidence).unwrap_or_default(),
            refaults_per_min: heat.map_or(0, |heat| heat.refaults_per_min(now)),
        }
    }

    fn nodes(&self) -> Answer {
        let (facts, known) = (self.governor.facts(), &self.governor.models().nodes);
        let all: Vec<_> = facts.nodes.iter().filter_map(|node| Some((node, known.get(node.id)?))).collect();
        let apart = all.iter().map(|(_, now)| now.apart).min().unwrap_or_default();
        if apart == Span::ZERO {
            return Err(incapable("nodes are sampled where there is more than one, and twice before anything is told".to_owned()));
        }
        let distances = |node: &NodeFacts| {
            let far = |other| node.distances.iter().find(|(id, _)| *id == other).map(|(_, distance)| *distance);
            let to = |other| if other == node.id { Some(LOCAL_DISTANCE) } else { far(other) };
            all.iter().map(|(other, _)| to(other.id)).collect::<Option<_>>().unwrap_or_default()
        };
        let view = |(node, now): &(&NodeFacts, &NodeNow)| NodeView {
            node: node.id,
            total: now.total,
            free: now.free(),
            inactive_file: now.inactive_file,
            cpus: node.cpus.clone(),
            idle: now.idle.unwrap_or_default(),
            distances: distances(node),
        };
        json(&NodesView { apart, smt_width: u64::from(facts.smt_width), nodes: all.iter().map(view).collect() })
    }

    fn heat(&self, proc: ProcKey, columns: usize) -> Answer {
        let (models, config, now) = (self.governor.models(), self.governor.config(), boottime());
        let Some(heat) = models.heat.get(proc) else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, format!("{proc} was not walked yet")).next("ask with look=1"));
        };
        let selection = self.governor.selection(proc);
        let histogram = heat.idle_histogram(now);
        let (cell, areas, elsewhere) = self.picture(proc, heat, columns);
        json(&HeatView {
            proc,
            comm: models.procs.sample(proc).map(|s| s.comm.clone()).unwrap_or_default(),
            selection: selection.to_string(),
            now,
            scan_at: heat.scan_at(),
            scans: heat.scans(),
            resident: histogram.resident,
            swapped: histogram.swapped,
            idle: IDLE_EDGES.into_iter().zip(histogram.idle).collect(),
            young: histogram.young,
            unknown: histogram.unknown,
            working_set: heat.working_set(now).bytes(),
            refaults_per_min: heat.refaults_per_min(now),
            confidence: heat.confidence(),
            huge: heat.huge().bytes(),
            armed: (config.daemon.arm || config.daemon.act) && selection.policy().is_some(),
            blind: models.freshness.seeing(Source::Walker).err(),
            cell,
            areas,
            elsewhere,
        })
    }

    /// Strips of cells for the parts of the address space that hold most of what is resident.
    fn picture(&self, proc: ProcKey, heat: &ProcHeat, columns: usize) -> (Bytes, Vec<AreaView>, Bytes) {
        let vmas = self.governor.models().procs.get(proc).map_or(&[][..], |info| &info.vmas);
        let resident = |range: &AddrRange| heat.heat_row(*range, 1)[0].resident.bytes();
        let mut spans: Vec<(AddrRange, Bytes)> = heat.spans(NEAR).into_iter().map(|range| (range, resident(&range))).collect();
        let all: Bytes = spans.iter().map(|(_, bytes)| *bytes).sum();
        spans.retain(|(_, bytes)| bytes.0 >= all.0 / 100);
        let length: u64 = spans.iter().map(|(range, _)| range.end - range.start).sum();
        let cell = (length / (ROWS * columns as u64)).next_power_of_two().max(BLOCK_BYTES);
        let shown: Bytes = spans.iter().map(|(_, bytes)| *bytes).sum();
        let areas = spans.into_iter().map(|(AddrRange { start, end }, resident)| {
            let cells = (end - start).div_ceil(cell);
            let range = AddrRange { start, end: start + cells * cell };
            let mut kinds: Vec<VmaKind> =
                vmas.iter().filter(|vma| vma.start < end && start < vma.end).map(|vma| vma.kind).collect();
            kinds.sort_unstable_by_key(|kind| *kind as u8);
            kinds.dedup();
            let cells = heat.heat_row(range, cells as usize).into_iter();
            let cells = cells
                .map(|HeatCell { resident, young, unknown, idle }| CellView {
                    resident: resident.bytes(),
                    young: young.bytes(),
                    unknown: unknown.bytes(),
                    idle,
                })
                .collect();
            AreaView { range: AddrRange { start, end }, kinds, resident, cells }
        });
        (Bytes(cell), areas.collect(), all.saturating_sub(shown))
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Answer {
    Ok(Body::from(serde_json::to_vec(value).expect("our words become JSON")))
}

fn done(what: impl Into<String>) -> Answer {
    json(&Done { done: what.into() })
}

/// The host, or what the daemon may do on it, is not enough.
fn incapable(why: String) -> Refusal {
    Refusal::new(StatusCode::NOT_IMPLEMENTED, why).next("`memtier doctor` says what it takes and how to enable it")
}

fn gone(pid: u32) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("no process has pid {pid}")).next("`ps` or `memtier status` lists those that live")
}

const fn mode(config: &Config) -> Mode {
    let config::Daemon { act, arm, all, .. } = config.daemon;
    Mode { act, arm, all }
}

/// Rules that stop what would otherwise be done, until the host is better off.
const fn brakes(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::RefaultBrake
            | Rule::PressureBrake
            | Rule::UnderReclaim
            | Rule::BudgetSpent
            | Rule::SwapReserve
            | Rule::CgroupSwapLimit
            | Rule::SwapSavesNothing
    )
}

fn sources(governor: &Governor, now: Time) -> Vec<SourceView> {
    let freshness = &governor.models().freshness;
    let view = |source| SourceView {
        source,
        sight: match freshness.sight(source) {
            Sight::Seeing { .. } => SightView::Seeing,
            Sight::Never => SightView::Waiting,
            Sight::Blind { why, .. } => SightView::Blind { why: why.clone() },
        },
        silent: freshness.last(source).map(|at| now.since(at)),
        records: freshness.records(source),
        lost: freshness.lost(source),
    };
    Source::ALL.into_iter().map(view).collect()
}

fn budgets(governor: &Governor) -> Vec<BudgetView> {
    let (used, limit) = (governor.ledger().used(), limits(governor.config()));
    let budget =
        |name: &str, used, limit, unit: &str, window| BudgetView { name: name.into(), used, limit, unit: unit.into(), window };
    vec![
        budget("moved", used.moved.0, limit.moved.0, "bytes", WINDOW),
        budget("armed", used.armed.0, limit.armed.0, "bytes", WINDOW),
        budget("system calls", used.syscalls, limit.syscalls, "calls", WINDOW),
        budget("written to swap on flash or disk", used.swap_written.0, limit.swap_written.0, "bytes", Span::from_secs(86_400)),
    ]
}
