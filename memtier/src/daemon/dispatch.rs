//! From steps to outcomes, exactly one each, whatever happens to the hand.
//!
//! Three hands, a thread each: one walks page tables, one clears bits and pages out, one places. A bind or a move of pages
//! may take seconds, and arming must not wait for it. A step travels with a ticket that keeps a place in the event stream;
//! when a hand dies, its tickets die with it and say so there.
//!
//! Deliberately absent: retries, and any choice of what to do. A step leaves none.

use super::ingest::{Inlet, Intake, Place};
use crate::sys::clock::boottime;
use crate::sys::slice::Slice;
use crate::vocab::{Action, Amount, End, Event, Fault, Guard, Outcome, ProcKey, Span, Step, StepId, Time};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use tokio::runtime::Handle;

/// Carries out one step; what it sees meanwhile goes to the second argument, before the outcome.
pub type Hand = Box<dyn FnMut(&Step, &mut dyn FnMut(Event)) -> Outcome + Send>;

/// As a hand, for servers: it waits for answers.
pub type ServerHand = Arc<dyn Fn(Step) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// The right and the duty to say what became of a step.
#[derive(Debug)]
struct Ticket {
    step: StepId,
    taken: Time,
    place: Option<Place>,
}

impl Ticket {
    fn settle(mut self, outcome: Outcome) {
        if let Some(place) = self.place.take() {
            place.fill(Event::Outcome(outcome));
        }
    }

    fn end(self, end: End) {
        let outcome = ended(self.step, self.taken, end);
        self.settle(outcome);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.fill(Event::Outcome(ended(self.step, self.taken, died("the hand is gone"))));
        }
    }
}

fn ended(step: StepId, began: Time, end: End) -> Outcome {
    Outcome { step, began, ended: boottime(), done: Amount::default(), end, missed: Vec::new() }
}

fn died(message: &str) -> End {
    End::Failed(Fault { call: "hand".into(), on: "memtier".into(), errno: 0, message: message.to_owned() })
}

struct Job {
    step: Step,
    ticket: Ticket,
}

/// Steps that wait for one hand at most. A hand that hangs in the kernel would else collect a step per process and turn,
/// and with them the places of the event stream.
const QUEUE: usize = 1024;

/// Processes that became another program, and when. Steps that were decided before are about memory that is gone.
type Revoked = Arc<Mutex<BTreeMap<ProcKey, Time>>>;
/// No step is older than this when its turn comes.
const REVOKED_FOR: Span = Span::from_secs(120);

/// One of each kind.
pub struct Crew {
    pub walker: Hand,
    pub hands: Hand,
    pub placer: Hand,
    /// Arming marks frames idle, which takes no lock of the target; else it is advice, which does.
    pub marks: bool,
    /// Carries out one step about a server, each in a task of its own.
    pub servers: ServerHand,
}

/// The hands, and what they still owe.
#[derive(Debug)]
pub struct Dispatch {
    walker: mpsc::SyncSender<Job>,
    hands: mpsc::SyncSender<Job>,
    placer: mpsc::SyncSender<Job>,
    servers: Servers,
    open: BTreeSet<StepId>,
    revoked: Revoked,
    stopping: Arc<AtomicBool>,
}

struct Servers {
    hand: ServerHand,
    runtime: Handle,
}

impl Dispatch {
    pub fn new(crew: Crew, inlet: &Inlet, runtime: &Handle) -> io::Result<Self> {
        let Crew { walker, hands, placer, marks, servers } = crew;
        let (stopping, revoked) = (Arc::new(AtomicBool::new(false)), Revoked::default());
        let start = |name: &str, hand| {
            let (to, from) = mpsc::sync_channel(QUEUE);
            let (inlet, runtime, stopping) = (inlet.clone(), runtime.clone(), Arc::clone(&stopping));
            let revoked = Arc::clone(&revoked);
            // It has the slice of the thread that starts it.
            let work = move || work(hand, marks, &from, &inlet, &runtime, &revoked, &stopping);
            thread::Builder::new().name(name.into()).spawn(work)?;
            io::Result::Ok(to)
        };
        Ok(Self {
            walker: start("memtier-walker", walker)?,
            hands: start("memtier-hands", hands)?,
            placer: start("memtier-placer", placer)?,
            servers: Servers { hand: servers, runtime: runtime.clone() },
            open: BTreeSet::new(),
            revoked,
            stopping,
        })
    }

    /// Hands a step on; its outcome comes in as an event.
    pub fn submit(&mut self, step: Step, intake: &mut Intake) {
        self.open.insert(step.id);
        let ticket = Ticket { step: step.id, taken: boottime(), place: Some(intake.reserve()) };
        if step.guards.contains(&Guard::DryRun) {
            return ticket.end(End::Skipped(Guard::DryRun));
        }
        let to = match step.action {
            Action::Scan { .. } => &self.walker,
            Action::Arm { .. } | Action::PageOut { .. } | Action::Deactivate { .. } => &self.hands,
            Action::Bind { .. } | Action::MovePages { .. } | Action::Migrate { .. } => &self.placer,
            Action::MoveSlabPage { .. } | Action::SetMover { .. } | Action::SetWatch { .. } | Action::SetFree { .. } => {
                let (hand, stopping) = (Arc::clone(&self.servers.hand), Arc::clone(&self.stopping));
                return drop(self.servers.runtime.spawn(at_server(hand, Job { step, ticket }, stopping)));
            }
        };
        match to.try_send(Job { step, ticket }) {
            Ok(()) => {}
            Err(mpsc::TrySendError::Full(job)) => job.ticket.end(died("the hand hangs: its queue is full")),
            // A hand that is gone sends the job back, and dropping it says so in the stream.
            Err(mpsc::TrySendError::Disconnected(job)) => drop(job),
        }
    }

    /// The process became another program: steps decided before are not begun any more.
    pub fn revoke(&self, proc: ProcKey) {
        let now = boottime();
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        revoked.retain(|_, at| now.since(*at) < REVOKED_FOR);
        revoked.insert(proc, now);
    }

    /// To be told of every outcome before it goes into the stream. False: nobody waits for it (any more); drop it.
    pub fn settle(&mut self, outcome: &Outcome) -> bool {
        self.open.remove(&outcome.step)
    }

    /// Steps whose outcome has not come.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// From now on steps that have not begun expire.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Gives up on what is still open: an outcome for each, to be recorded in place of the one that never came.
    pub fn abandon(&mut self) -> Vec<Outcome> {
        let now = boottime();
        std::mem::take(&mut self.open).into_iter().map(|step| ended(step, now, died("not back when the daemon stopped"))).collect()
    }
}

async fn at_server(hand: ServerHand, Job { step, ticket }: Job, stopping: Arc<AtomicBool>) {
    if stopping.load(Ordering::Relaxed) || boottime() > step.expires {
        return ticket.end(End::Expired);
    }
    // When the hand panics, the ticket says so as it goes.
    let outcome = hand(step).await;
    ticket.settle(outcome);
}

fn work(
    mut hand: Hand,
    marks: bool,
    jobs: &mpsc::Receiver<Job>,
    inlet: &Inlet,
    runtime: &Handle,
    revoked: &Mutex<BTreeMap<ProcKey, Time>>,
    stopping: &AtomicBool,
) {
    let mut slice = Slice::Patient;
    for Job { step, ticket } in jobs {
        let proc = step.action.proc();
        let since = revoked.lock().unwrap_or_else(PoisonError::into_inner).get(&proc).copied();
        if since.is_some_and(|at| at >= ticket.taken) {
            ticket.end(End::Skipped(Guard::Alive(proc)));
            continue;
        }
        if stopping.load(Ordering::Relaxed) || boottime() > step.expires {
            ticket.end(End::Expired);
            continue;
        }
        let suits = slice_for(&step.action, marks);
        if suits != slice {
            suits.set().unwrap_or_else(|error| tracing::debug!(%error, "sched_setattr"));
            slice = suits;
        }
        let mut emit = |event| {
            // False only when the loop is gone, and then nobody waits for the outcome either.
            runtime.block_on(inlet.put(event));
        };
        match catch_unwind(AssertUnwindSafe(|| hand(&step, &mut emit))) {
            Ok(outcome) => ticket.settle(outcome),
            Err(panic) => {
                let message = told(&*panic);
                tracing::error!(step = %step.id, message, "a hand panicked; memtier goes on, please report this with a trace");
                ticket.end(died(message));
            }
        }
    }
}

/// Looking and clearing bits can wait for whoever has work to do. What holds locks of the target is not to be put off meanwhile.
const fn slice_for(action: &Action, marks: bool) -> Slice {
    match action {
        Action::Scan { .. } => Slice::Patient,
        Action::Arm { .. } if marks => Slice::Patient,
        Action::Arm { .. } => Slice::Ordinary,
        Action::PageOut { .. } | Action::Deactivate { .. } => Slice::Ordinary,
        Action::Bind { .. } | Action::MovePages { .. } | Action::Migrate { .. } => Slice::Ordinary,
        Action::MoveSlabPage { .. } | Action::SetMover { .. } | Action::SetWatch { .. } | Action::SetFree { .. } => Slice::Ordinary,
    }
}

fn told(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic")
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("step", &self.step.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{Charge, PolicyId, Reason, Rule, Source};

    fn step(index: u32, guards: Vec<Guard>, expires: Time) -> Step {
        Step {
            id: StepId { decision: 1, index },
            action: Action::Scan { proc: ProcKey { pid: 1, start: 1 } },
            guards,
            expires,
            charge: Charge::default(),
            by: PolicyId::Watch,
            reason: Reason::new(Rule::ScanDue),
        }
    }

    fn obeys() -> Hand {
        Box::new(|step, _| ended(step.id, Time::ZERO, End::Done))
    }

    fn with(walker: Hand) -> Crew {
        let servers: ServerHand = Arc::new(|step| Box::pin(async move { ended(step.id, Time::ZERO, End::Done) }));
        Crew { walker, hands: obeys(), placer: obeys(), marks: true, servers }
    }

    async fn outcomes(intake: &mut Intake, dispatch: &mut Dispatch, count: usize) -> Vec<Event> {
        let mut seen = Vec::new();
        while seen.iter().filter(|event| matches!(event, Event::Outcome(_))).count() < count {
            let event = intake.next().await;
            if let Event::Outcome(outcome) = &event {
                assert!(dispatch.settle(outcome), "{outcome:?} twice");
            }
            seen.push(event);
        }
        seen
    }

    #[tokio::test]
    async fn one_outcome_per_step_whatever_happens() {
        let mut intake = Intake::new();
        let walker: Hand = Box::new(|step, emit| match step.id.index {
            1 => panic!("on purpose"),
            _ => {
                emit(Event::Sight { source: Source::Walker });
                ended(step.id, Time::ZERO, End::Done)
            }
        });
        let mut dispatch = Dispatch::new(with(walker), &intake.inlet(), &Handle::current()).expect("threads");
        for (index, guards, expires) in
            [(0, vec![], Time::MAX), (1, vec![], Time::MAX), (2, vec![], Time::ZERO), (3, vec![Guard::DryRun], Time::MAX)]
        {
            dispatch.submit(step(index, guards, expires), &mut intake);
        }
        let mut ends = std::collections::BTreeMap::new();
        let mut sights = Vec::new();
        for event in outcomes(&mut intake, &mut dispatch, 4).await {
            match event {
                Event::Outcome(outcome) => drop(ends.insert(outcome.step.index, outcome.end)),
                Event::Sight { .. } => sights.push(ends.contains_key(&0)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sights, [false], "what a walk sees comes before its outcome");
        assert_eq!(ends[&0], End::Done);
        assert_eq!(ends[&1], died("on purpose"));
        assert_eq!(ends[&2], End::Expired);
        assert_eq!(ends[&3], End::Skipped(Guard::DryRun));
        dispatch.stop();
        dispatch.submit(step(4, vec![], Time::MAX), &mut intake);
        let last = outcomes(&mut intake, &mut dispatch, 1).await;
        assert!(matches!(&last[..], [Event::Outcome(Outcome { end: End::Expired, .. })]), "{last:?}");
        assert_eq!(dispatch.open(), 0);
    }

    /// A walker that hangs until the test lets go of what comes last.
    fn hung() -> (Intake, Dispatch, mpsc::Sender<()>) {
        let intake = Intake::new();
        let (release, held) = mpsc::channel::<()>();
        let walker: Hand = Box::new(move |step, _| {
            let _ = held.recv();
            ended(step.id, Time::ZERO, End::Done)
        });
        let dispatch = Dispatch::new(with(walker), &intake.inlet(), &Handle::current()).expect("threads");
        (intake, dispatch, release)
    }

    #[tokio::test]
    async fn placing_waits_for_no_other_hand() {
        let (mut intake, mut dispatch, release) = hung();
        dispatch.submit(step(0, vec![], Time::MAX), &mut intake);
        let proc = ProcKey { pid: 1, start: 1 };
        let bind = Action::Bind { proc, cpus: vec![crate::vocab::CpuId(0)], whom: crate::vocab::Whom::All };
        dispatch.submit(Step { action: bind, ..step(1, vec![], Time::MAX) }, &mut intake);
        let first = outcomes(&mut intake, &mut dispatch, 1).await;
        assert!(matches!(&first[..], [Event::Outcome(outcome)] if outcome.step.index == 1), "{first:?}");
        drop(release);
        assert_eq!(outcomes(&mut intake, &mut dispatch, 1).await.len(), 1);
    }

    #[tokio::test]
    async fn a_hand_that_hangs_is_given_up_and_its_late_word_is_dropped() {
        let (mut intake, mut dispatch, release) = hung();
        dispatch.submit(step(0, vec![], Time::MAX), &mut intake);
        dispatch.stop();
        let given_up = dispatch.abandon();
        assert!(
            matches!(&given_up[..], [Outcome { step, end, .. }] if step.index == 0
            && *end == died("not back when the daemon stopped")),
            "{given_up:?}"
        );
        assert_eq!((dispatch.open(), dispatch.abandon()), (0, vec![]));
        drop(release);
        match intake.next().await {
            Event::Outcome(late) => assert!(!dispatch.settle(&late), "{late:?} is a second outcome"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_hand_that_hangs_keeps_few_places_and_a_new_program_revokes_its_steps() {
        let (mut intake, mut dispatch, release) = hung();
        // One may be in the hand already, the queue holds QUEUE, and the last comes back at once.
        for index in 0..QUEUE as u32 + 2 {
            dispatch.submit(step(index, vec![], Time::MAX), &mut intake);
        }
        let Event::Outcome(refused) = intake.next().await else { panic!("no outcome") };
        assert_eq!(refused.end, died("the hand hangs: its queue is full"));
        dispatch.revoke(ProcKey { pid: 1, start: 1 });
        drop(release);
        let alive = End::Skipped(Guard::Alive(ProcKey { pid: 1, start: 1 }));
        let ends = outcomes(&mut intake, &mut dispatch, QUEUE).await;
        let skipped = ends.iter().filter(|e| matches!(e, Event::Outcome(o) if o.end == alive)).count();
        assert!(skipped >= QUEUE - 1, "{skipped}");
    }

    #[tokio::test]
    async fn a_plan_larger_than_the_channel_loses_nothing() {
        let mut intake = Intake::new();
        let inlet = intake.inlet();
        for _ in 0..5000 {
            inlet.offer(Source::Procs, Event::Sight { source: Source::Procs });
        }
        let mut dispatch = Dispatch::new(with(obeys()), &inlet, &Handle::current()).expect("threads");
        for index in 0..6000 {
            dispatch.submit(step(index, vec![], Time::MAX.saturating_sub(Time(Span::from_secs(1).0))), &mut intake);
        }
        let (mut sights, mut lost) = (0, 0);
        for event in outcomes(&mut intake, &mut dispatch, 6000).await {
            match event {
                Event::Sight { .. } => sights += 1,
                Event::Lost { count, .. } => lost += count,
                _ => {}
            }
        }
        assert_eq!(sights + lost, 5000);
        assert!(lost > 0);
    }
}
