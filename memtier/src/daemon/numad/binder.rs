//! Binds as numad orders them: the threads to the CPUs of the nodes, then the memory from each other node to one of them.
//!
//! Repaired, the hand that places does it: threads born meanwhile are bound too, those that somebody else bound are left alone.
//! As the original: one look at the threads, all of them. Either way the footprint knows first what each thread had.

use super::log::Log;
use crate::act::{Actuator as _, Former, Placer, Reins, Whose};
use crate::compat::numad::{Bind, Binder, Bound, Mode, Move};
use crate::daemon::footprint::{HostSettings, Shared};
use crate::sys::affinity::{CpuMask, online};
use crate::sys::clock::boottime;
use crate::sys::numa::migrate_pages;
use crate::sys::tasks::{Task, Tasks, gone};
use crate::vocab::{Action, Charge, End, Guard, Outcome, PolicyId, ProcKey, Reason, Rule, Span, Step, StepId, Whom};
use std::sync::Arc;
use std::time::Instant;

/// A step is carried out at once; this is only to be no bound.
const EXPIRY: Span = Span::from_secs(600);

#[derive(Debug)]
pub struct Hands {
    placer: Placer<Shared>,
    footprint: Shared,
    log: Arc<Log>,
    mode: Mode,
    /// Binds so far.
    count: u64,
}

impl Hands {
    #[must_use]
    pub fn new(footprint: Shared, reins: Reins, log: Arc<Log>, mode: Mode) -> Self {
        Self { placer: Placer::new(footprint.clone(), reins), footprint, log, mode, count: 0 }
    }

    /// Pages that would not move.
    fn repaired(&mut self, proc: ProcKey, bind: &Bind) -> Result<u64, String> {
        self.count += 1;
        let outcome = self.step(0, Action::Bind { proc, cpus: bind.cpus.clone(), whom: Whom::All });
        if outcome.done.pages.0 == 0 {
            return Err(said(&outcome.end));
        }
        let mut unmoved = 0;
        for (index, &Move { from, to }) in (1..).zip(&bind.moves) {
            let outcome = self.step(index, Action::Migrate { proc, from: vec![from], to });
            unmoved += outcome.done.asked.0.saturating_sub(outcome.done.pages.0);
            self.tell(proc, &outcome.end);
        }
        Ok(unmoved)
    }

    fn step(&mut self, index: u32, action: Action) -> Outcome {
        let rule = if matches!(action, Action::Bind { .. }) { Rule::NumaBind } else { Rule::NumaMove };
        let guards = vec![Guard::Alive(action.proc())];
        let id = StepId { decision: self.count, index };
        let reason = Reason { rule, evidence: Vec::new(), note: String::new() };
        let expires = boottime().after(EXPIRY);
        let outcome =
            self.placer.apply(&Step { id, action, guards, expires, charge: Charge::default(), by: PolicyId::Numa, reason });
        tracing::debug!(?outcome, "numad");
        outcome
    }

    fn tell(&self, proc: ProcKey, end: &End) {
        match end {
            End::Done => {}
            End::Partial(_) | End::Skipped(_) | End::Expired | End::Failed(_) => {
                self.log.say(7, &format!("PID {}: {}", proc.pid, said(end)));
            }
        }
    }

    /// Of processes that are gone nothing is left to undo.
    pub fn forget_dead(&self) {
        let mut footprint = self.footprint.lock();
        for proc in footprint.bound().collect::<Vec<_>>() {
            if matches!(Tasks::of(proc), Ok(None))
                && let Err(error) = footprint.unbind(&mut HostSettings, proc)
            {
                self.log.say(5, &error.to_string());
            }
        }
    }

    fn compat(&self, proc: ProcKey, bind: &Bind) -> Result<u64, String> {
        let there = |tasks: Option<Tasks>| tasks.ok_or_else(|| "it is gone".to_owned());
        let mut tasks = there(Tasks::of(proc).map_err(|e| e.to_string())?)?;
        let since = Former::ticks(boottime());
        let all = tasks.all().map_err(|e| e.to_string())?;
        let cpus: CpuMask = bind.cpus.iter().copied().collect();
        let online = online().map_err(|e| e.to_string())?;
        let mut known = self.footprint.lock().former(proc, &tasks.ancestors().map_err(|e| e.to_string())?);
        if known.gave.is_empty() {
            let usual = all.first().map(|task| task.cpus.clone()).unwrap_or_default();
            known = Former { since, online: online.clone(), usual, ..Former::default() };
        }
        let had = |task: &Task| match known.whose(task, &online) {
            Whose::Ours(former) => former,
            Whose::Own | Whose::Theirs => task.cpus.clone(),
        };
        let had = all.iter().map(|task| (task.key, had(task))).collect();
        let more = Former { gave: [cpus.clone()].into(), tasks: had, ..known };
        let mut errors = Vec::new();
        let mut change = || errors.extend(all.iter().filter_map(|task| Some((task.key.tid, tasks.bind(task.key, &cpus).err()?))));
        self.footprint.lock().keep(proc, more, &mut change).map_err(|e| format!("keeping what its threads had: {e}"))?;
        errors.iter().filter(|(_, error)| !gone(error)).for_each(|(tid, error)| {
            self.log.say(5, &format!("Could not set the affinity of task {tid} of PID {}: {error}", proc.pid));
        });
        let mut unmoved = 0;
        for &Move { from, to } in &bind.moves {
            // Each takes its time, and knows only the pid.
            if !tasks.has_memory().map_err(|e| e.to_string())? {
                return Err("it is gone".to_owned());
            }
            match migrate_pages(proc.pid, &[from], to) {
                Ok(left) => unmoved += left,
                Err(error) if gone(&error) => return Err("it is gone".to_owned()),
                Err(error) => self.log.say(5, &format!("Could not move memory of PID {}: {error}", proc.pid)),
            }
        }
        Ok(unmoved)
    }
}

impl Binder for Hands {
    fn bind(&mut self, bind: &Bind) -> Result<Bound, String> {
        let (began, proc) = (Instant::now(), ProcKey { pid: bind.pid, start: bind.start });
        for Move { from, to } in &bind.moves {
            self.log.say(7, &format!("Moving memory from node: {} to node {}", from.0, to.0));
        }
        let unmoved_pages = match self.mode {
            Mode::Repaired => self.repaired(proc, bind)?,
            Mode::Compat => self.compat(proc, bind)?,
        };
        let took = Span(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Ok(Bound { unmoved_pages, took })
    }
}

fn said(end: &End) -> String {
    match end {
        End::Done => "done".to_owned(),
        End::Partial(why) => why.clone(),
        End::Skipped(Guard::Alive(_)) => "it is gone".to_owned(),
        End::Skipped(guard) => guard.to_string(),
        End::Expired => "it took too long".to_owned(),
        End::Failed(fault) => fault.to_string(),
    }
}
