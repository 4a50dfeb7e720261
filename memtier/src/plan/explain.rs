//! Answers "why" and "why not" about one process, cgroup or the host, from the journal.

use super::journal::{Journal, Noted, Standing};
use super::{Account, Governor, Placed, Selection};
use crate::model::IdleHistogram;
use crate::vocab::{Bytes, CgroupId, Hold, Idle, PolicyId, ProcKey, Subject, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Steps shown per process that moved something, the latest. Arming comes every few seconds: only its last step is shown.
const STEPS: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub who: Subject,
    /// The moment that is explained: now, or the one asked for.
    pub at: Time,
    /// When it was asked: `paused` and what `Explained` says of selection and memory are as of this moment.
    pub now: Time,
    /// Unix time in nanoseconds at zero of the event clock, where whoever answers has a wall clock.
    #[serde(default)]
    pub unix_at_zero: Option<i64>,
    /// Since when the journal has every step and refusal; none where it has dropped nothing.
    pub reach: Option<Time>,
    pub paused: bool,
    /// The processes it is about; none for the host.
    pub procs: Vec<Explained>,
    /// Refusals about the host as a whole, and policies that cannot work at all.
    pub holds: Vec<Standing<Hold>>,
    pub idles: Vec<Standing<Idle>>,
}

/// What memtier thinks of one process and did to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    pub proc: ProcKey,
    pub comm: String,
    /// As of now, whatever moment is explained, like `account` and `idle`.
    pub selection: Selection,
    pub account: Account,
    /// What placing did to it; none where nothing was tried.
    #[serde(default)]
    pub placed: Option<Placed>,
    /// None where it was never walked.
    pub idle: Option<IdleHistogram>,
    /// The last walk, unless it began after the moment that is explained.
    pub walk: Option<Noted>,
    /// The last step that armed, and the last ones that did more; latest last.
    pub steps: Vec<Noted>,
    pub holds: Vec<Standing<Hold>>,
}

/// `at`: as it stood then, as far as the journal reaches back.
#[must_use]
pub fn explain(governor: &Governor, who: Subject, at: Option<Time>) -> Explanation {
    let (models, journal) = (governor.models(), governor.journal());
    let now = governor.now();
    let then = at.unwrap_or(now);
    let (holds, idles) = match at {
        None => (journal.holds().cloned().collect(), journal.idles().cloned().collect()),
        Some(at) => as_of(governor, at),
    };
    let procs: Vec<ProcKey> = match who {
        Subject::Host | Subject::Cache(_) => Vec::new(),
        Subject::Proc(proc) => vec![proc],
        Subject::Cgroup(id) => models.procs.samples().filter(|s| s.cgroup_id == id).map(|s| s.proc).collect(),
    };
    let explained = procs.into_iter().map(|proc| Explained {
        proc,
        comm: models.procs.sample(proc).map(|s| s.comm.clone()).unwrap_or_default(),
        selection: governor.selection(proc),
        account: governor.ledger().account(proc),
        placed: governor.ledger().placed(proc).cloned(),
        idle: models.heat.get(proc).map(|heat| heat.idle_histogram(now)),
        walk: journal.last_walk(proc).filter(|walk| walk.at <= then).cloned(),
        steps: steps(journal, proc, then),
        holds: about(&holds, Subject::Proc(proc)),
    });
    Explanation {
        who,
        at: then,
        now,
        unix_at_zero: None,
        reach: journal.reach(),
        paused: governor.paused(),
        procs: explained.collect(),
        holds: about(&holds, who).into_iter().chain(of_caches(&holds, who)).collect(),
        idles,
    }
}

fn steps(journal: &Journal, proc: ProcKey, then: Time) -> Vec<Noted> {
    let past = journal.turns().rev().skip_while(|turn| turn.at > then).flat_map(|turn| turn.steps.iter().rev());
    let (mut armed, mut moved) = (0, 0);
    let mut steps: Vec<Noted> = past
        .filter(|step| step.proc == proc)
        .filter(|step| {
            let (count, most) = if step.verb == "arm" { (&mut armed, 1) } else { (&mut moved, STEPS) };
            *count += 1;
            *count <= most
        })
        .cloned()
        .collect();
    steps.reverse();
    steps
}

fn about(holds: &[Standing<Hold>], subject: Subject) -> Vec<Standing<Hold>> {
    holds.iter().filter(|hold| hold.what.subject == subject).cloned().collect()
}

/// Servers have no processes of their own to be explained with: the host tells of them.
fn of_caches(holds: &[Standing<Hold>], who: Subject) -> Vec<Standing<Hold>> {
    let cache = |hold: &&Standing<Hold>| matches!(hold.what.subject, Subject::Cache(_));
    if who == Subject::Host { holds.iter().filter(cache).cloned().collect() } else { Vec::new() }
}

/// What had begun by then and had not given way to a step or another refusal. The journal keeps beginnings only, so
/// what had ceased without either is still listed.
fn as_of(governor: &Governor, at: Time) -> (Vec<Standing<Hold>>, Vec<Standing<Idle>>) {
    let mut holds: BTreeMap<(Subject, PolicyId), Standing<Hold>> = BTreeMap::new();
    let mut idles: BTreeMap<PolicyId, Standing<Idle>> = BTreeMap::new();
    for turn in governor.journal().turns().take_while(|turn| turn.at <= at) {
        let standing = |what| Standing { since: turn.at, last: turn.at, what };
        for step in &turn.steps {
            holds.retain(|(subject, by), _| *by != step.by || !step.is_about(*subject));
            idles.remove(&step.by);
        }
        for hold in &turn.holds {
            idles.remove(&hold.by);
            holds.insert((hold.subject, hold.by), Standing { since: turn.at, last: turn.at, what: hold.clone() });
        }
        for idle in &turn.idles {
            idles.insert(idle.policy, standing(idle.clone()));
        }
    }
    (holds.into_values().collect(), idles.into_values().collect())
}

/// The cgroup with this path, as far as any process in it is known.
#[must_use]
pub fn cgroup_of(governor: &Governor, path: &str) -> Option<CgroupId> {
    governor.models().procs.samples().find(|s| s.cgroup == path).map(|s| s.cgroup_id)
}

/// How a moment is shown: as the decision log does, or beside it by the wall clock.
pub type When<'a> = &'a dyn Fn(Time) -> String;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(f, &|at| at.to_string())
    }
}

impl Explanation {
    /// The text for people.
    pub fn tell(&self, f: &mut impl fmt::Write, when: When<'_>) -> fmt::Result {
        let Self { who, at, now, unix_at_zero: _, reach, paused, procs, holds, idles } = self;
        // What is only known of the present is not passed off as the past.
        let label = if at < now { "now: " } else { "" };
        writeln!(f, "{who} at {}{}", when(*at), if *paused { format!(" ({label}paused)") } else { String::new() })?;
        for proc in procs {
            proc.tell(f, label, when)?;
            if proc.steps.is_empty() && proc.holds.is_empty() && proc.walk.is_none() {
                let since = reach.map_or_else(String::new, |reach| format!(" since {}, where the journal begins", when(reach)));
                writeln!(f, "  nothing was decided about it{since}")?;
            }
        }
        for hold in holds {
            writeln!(f, "  since {}: {}", when(hold.since), hold.what)?;
        }
        idles.iter().try_for_each(|idle| writeln!(f, "  since {}: {}", when(idle.since), idle.what))
    }
}

impl Explained {
    /// `label` goes before what is as of now.
    fn tell(&self, f: &mut impl fmt::Write, label: &str, when: When<'_>) -> fmt::Result {
        let Self { proc, comm, selection, account, placed, idle, walk, steps, holds } = self;
        writeln!(f, "{proc} {comm}: {label}{selection}")?;
        if *selection == Selection::NotSelected {
            writeln!(f, "  to select it: `memtier run --pid {}` and the like, a [[target]] rule, or daemon.all", proc.pid)?;
        }
        write!(f, "  {label}")?;
        match idle {
            None => write!(f, "not walked")?,
            Some(histogram) => {
                let IdleHistogram { idle: [_, _, two_minutes, ..], young, unknown, resident, swapped } = histogram;
                let recent = recent(histogram, *two_minutes);
                write!(f, "resident {resident}: in use {young}, idle for less than 2 min {recent}, for longer {two_minutes}, ")?;
                write!(f, "not known {unknown}; swapped {swapped}")?;
            }
        }
        writeln!(f, "; paged out so far {}", account.total.bytes())?;
        if let Some(Placed { cpus, bound_at: Some(at), moved, .. }) = placed {
            writeln!(f, "  {label}bound to CPUs {cpus} at {}; moved between nodes so far {}", when(*at), moved.bytes())?;
        }
        if let Some(walk) = walk {
            noted(f, walk, when)?;
        }
        steps.iter().try_for_each(|step| noted(f, step, when))?;
        holds.iter().try_for_each(|hold| writeln!(f, "  since {}: {}", when(hold.since), hold.what))
    }
}

/// What is known to be idle, but not for as long as what `longer` counts.
fn recent(IdleHistogram { young, unknown, resident, .. }: &IdleHistogram, longer: Bytes) -> Bytes {
    [*young, *unknown, longer].into_iter().fold(*resident, Bytes::saturating_sub)
}

fn noted(f: &mut impl fmt::Write, step: &Noted, when: When<'_>) -> fmt::Result {
    writeln!(f, "  {}: {step}", when(step.at))?;
    match &step.outcome {
        Some(outcome) => writeln!(f, "    {outcome}"),
        None => writeln!(f, "    no outcome yet"),
    }
}
