//! A recording through the same planner again: do the decisions come out the same, byte for byte, and which would come
//! out differently under another configuration.

use super::frame::{self, Frame, Packer, Unpacker};
use super::{Damage, Header, Item, Opening, Reader, Record, Stopped, TraceError};
use crate::config::{self, ConfigError};
use crate::plan::{Decision, Governor, Report};
use crate::vocab::{Amount, End, Event, Guard, Outcome, Reason, Stamped, Step, StepId, Subject, Time};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;

/// What a planner is fed: the records, and where the stream begins or begins again, the state to go on from.
enum Fed {
    /// As many of these as there are planners to feed, all alike.
    State(Vec<Governor>, Header),
    Event(Stamped),
    Decision(Decision),
}

/// The recording as `Fed`.
struct Stream {
    reader: Reader,
    planners: usize,
    /// Read beyond the end of a checkpoint.
    ahead: Option<Result<Item, TraceError>>,
}

impl Stream {
    const fn new(reader: Reader, planners: usize) -> Self {
        Self { reader, planners, ahead: None }
    }

    fn next(&mut self) -> Result<Option<Fed>, TraceError> {
        loop {
            let Some(item) = self.ahead.take().or_else(|| self.reader.next()) else { return Ok(None) };
            match item? {
                Item::Segment { joins: true, .. } | Item::Record(Record::Checkpoint(_)) => {}
                Item::Segment { header, joins: false } => return self.state(header).map(Some),
                Item::Record(Record::Event(event)) => return Ok(Some(Fed::Event(event))),
                Item::Record(Record::Decision(decision)) => return Ok(Some(Fed::Decision(decision))),
            }
        }
    }

    fn state(&mut self, header: Header) -> Result<Fed, TraceError> {
        let planners = match header.opening {
            Opening::Start => std::iter::repeat_with(Governor::new).take(self.planners).collect(),
            Opening::Continues | Opening::Resumes => {
                let checkpoint = self.checkpoint();
                // Where it breaks off, that is what is wrong, and not who wrote it.
                if let Some(Err(error)) = self.ahead.take_if(|ahead| ahead.is_err()) {
                    return Err(error);
                }
                let restored = (0..self.planners).map(|_| minicbor_serde::from_slice(&checkpoint)).collect::<Result<_, _>>();
                restored.map_err(|e| TraceError::Checkpoint {
                    event: header.next_event,
                    why: if checkpoint.is_empty() { "it is missing".to_owned() } else { e.to_string() },
                    by: header.by.clone(),
                })?
            }
        };
        Ok(Fed::State(planners, header))
    }

    fn checkpoint(&mut self) -> Vec<u8> {
        let mut whole = Vec::new();
        loop {
            match self.reader.next() {
                Some(Ok(Item::Record(Record::Checkpoint(piece)))) => whole.extend_from_slice(&piece),
                other => {
                    self.ahead = other;
                    return whole;
                }
            }
        }
    }
}

/// One decision as it was recorded and as it came out now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub recorded: Decision,
    pub ours: Decision,
}

/// What a replay found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    pub events: u64,
    pub decisions: u64,
    pub steps: u64,
    /// Times that the planner started afresh or from a checkpoint.
    pub starts: u64,
    pub damage: Vec<Damage>,
    /// The replay ends here.
    pub first_difference: Option<Box<Difference>>,
}

/// What a replay shows as it goes.
#[derive(Debug)]
pub enum Shown<'a> {
    Outcome(Time, &'a Outcome),
    /// Made again and found the same; the planner is the one that made it.
    Decision(&'a Decision, &'a Governor),
}

/// Feeds the recording to a planner and compares every decision, byte for byte, up to the first that differs. With
/// `rebatch`, the events pass through frames of that many on their way, whatever frames they were recorded in.
///
/// # Errors
/// When the recording cannot be read (to its end), or `show` fails.
pub fn verify(
    reader: Reader,
    rebatch: Option<NonZeroUsize>,
    mut show: impl FnMut(Shown<'_>) -> io::Result<()>,
) -> Result<Verified, Stopped> {
    let mut stream = Stream::new(reader, 1);
    let mut verified = Verified::default();
    let mut planner = Governor::new();
    let mut batch = Batch::new(rebatch);
    while let Some(fed) = stream.next()? {
        match fed {
            Fed::State(planners, _) => {
                batch.deliver(&mut planner);
                planner = planners.into_iter().next().unwrap_or_default();
                verified.starts += 1;
            }
            Fed::Event(event) => {
                verified.events += 1;
                if let Event::Outcome(outcome) = &event.event {
                    show(Shown::Outcome(event.at, outcome))?;
                }
                batch.take(event, &mut planner);
            }
            Fed::Decision(recorded) => {
                batch.deliver(&mut planner);
                let ours = planner.decide(recorded.at);
                if canonical(&ours) != canonical(&recorded) {
                    verified.first_difference = Some(Box::new(Difference { recorded, ours }));
                    break;
                }
                verified.decisions += 1;
                verified.steps += ours.plan.len() as u64;
                show(Shown::Decision(&ours, &planner))?;
            }
        }
    }
    verified.damage = stream.reader.damage().to_vec();
    Ok(verified)
}

fn canonical(decision: &Decision) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(decision, &mut bytes);
    bytes
}

/// Events on their way to the planner, straight or through frames of a given size.
struct Batch {
    frames: Option<(NonZeroUsize, Packer, Unpacker)>,
    raw: Vec<u8>,
    events: usize,
}

impl Batch {
    const OURS: &str = "what was packed in memory unpacks";

    fn new(size: Option<NonZeroUsize>) -> Self {
        let frames = size.map(|size| {
            const MEMORY: &str = "zstd has memory for its contexts";
            (size, Packer::new().expect(MEMORY), Unpacker::new().expect(MEMORY))
        });
        Self { frames, raw: Vec::new(), events: 0 }
    }

    fn take(&mut self, event: Stamped, planner: &mut Governor) {
        let Some((size, ..)) = &self.frames else { return planner.absorb(&event) };
        frame::encode(&Record::Event(event), &mut self.raw);
        self.events += 1;
        if self.events >= size.get() {
            self.deliver(planner);
        }
    }

    fn deliver(&mut self, planner: &mut Governor) {
        let Some((_, packer, unpacker)) = self.frames.as_mut().filter(|_| self.events > 0) else { return };
        let mut bytes = Vec::new();
        packer.pack(&self.raw, &mut bytes).expect(Self::OURS);
        let frame = unpacker.unpack(&mut bytes.as_slice()).expect(Self::OURS);
        assert!(matches!(frame, Frame::Good(_)), "{}: {frame:?}", Self::OURS);
        for record in frame::decode(&unpacker.raw) {
            if let Record::Event(event) = record.expect(Self::OURS) {
                planner.absorb(&event);
            }
        }
        (self.events, self.raw) = (0, Vec::new());
        // As the live loop does after each batch; it must not matter.
        let _ = planner.due();
    }
}

/// A configuration to be laid over the one that a recording was made with: what it does not mention stays as recorded.
#[derive(Clone, Debug)]
pub struct Overlay {
    sources: Vec<(String, String)>,
    replaces_targets: bool,
}

impl Overlay {
    /// # Errors
    /// As [`config::load`].
    pub fn new(sources: Vec<(String, String)>) -> Result<Self, ConfigError> {
        let texts: Vec<_> = sources.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let alone = config::load(&texts)?;
        Ok(Self { replaces_targets: !alone.config.target.is_empty(), sources })
    }

    /// The recorded configuration with ours over it, in canonical form.
    fn over(&self, recorded: &config::Config) -> Result<String, ConfigError> {
        let mut base = recorded.clone();
        if self.replaces_targets {
            base.target.clear();
        }
        let base = config::canonical(&base);
        let texts = self.sources.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let loaded = config::load(&std::iter::once(("the recording", base.as_str())).chain(texts).collect::<Vec<_>>())?;
        Ok(config::canonical(&loaded.config))
    }
}

/// A step that only one side takes, and why the other side does not (where its report says so).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OneSided {
    pub step: Step,
    pub why_not: Option<Reason>,
}

/// A turn in which the steps differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Differing {
    pub at: Time,
    /// Number of the recorded decision; none where the recorded daemon took no turn.
    pub recorded: Option<u64>,
    /// Number of our decision; none where it is not our turn.
    pub ours: Option<u64>,
    pub only_recorded: Vec<OneSided>,
    pub only_ours: Vec<OneSided>,
}

/// Why a what-if cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum WhatIfError {
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The turns of a recording that would have been different under another configuration.
///
/// Both planners see what was recorded, so the memory they look at is the one that the recorded steps left behind:
/// a step that only ours takes counts as advice that was not followed, and no benefit can be read from it.
pub struct WhatIf {
    stream: Stream,
    overlay: Overlay,
    /// Replays the recording as it was; tells when the live loop had a turn.
    theirs: Governor,
    ours: Governor,
    /// Recorded steps that ours took too, under our numbers: their outcomes hold for both.
    shared: BTreeMap<StepId, StepId>,
    last_event: u64,
    /// Turns that were compared.
    pub turns: u64,
}

impl WhatIf {
    #[must_use]
    pub fn new(reader: Reader, overlay: Overlay) -> Self {
        Self {
            stream: Stream::new(reader, 2),
            overlay,
            theirs: Governor::new(),
            ours: Governor::new(),
            shared: BTreeMap::new(),
            last_event: 0,
            turns: 0,
        }
    }

    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        self.stream.reader.damage()
    }

    fn advance(&mut self) -> Result<Option<Differing>, WhatIfError> {
        while let Some(fed) = self.stream.next()? {
            let differing = match fed {
                Fed::State(planners, header) => {
                    self.start(planners, &header)?;
                    None
                }
                Fed::Event(event) => self.event(event)?,
                Fed::Decision(recorded) => {
                    // The twin must take its turn too: its due time and numbers follow from it.
                    let _ = self.theirs.decide(recorded.at);
                    let ours = (self.ours.due() <= recorded.at).then(|| self.ours.decide(recorded.at));
                    self.compare(recorded.at, Some(recorded), ours)
                }
            };
            if differing.is_some() {
                return Ok(differing);
            }
        }
        Ok(None)
    }

    fn start(&mut self, planners: Vec<Governor>, header: &Header) -> Result<(), WhatIfError> {
        let mut planners = planners.into_iter();
        (self.theirs, self.ours) = (planners.next().unwrap_or_default(), planners.next().unwrap_or_default());
        // Steps under way at a checkpoint are both sides' own.
        self.shared = self.ours.in_flight().map(|step| (step.id, step.id)).collect();
        self.last_event = header.next_event.saturating_sub(1);
        if header.opening != Opening::Start {
            let config = self.overlay.over(self.ours.config())?;
            // Told only where it changes something: a reload starts the turns of the policies anew.
            if config != config::canonical(self.ours.config()) {
                self.ours.absorb(&Stamped { seq: self.last_event, at: header.clocks.at, event: Event::Config(config) });
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Stamped) -> Result<Option<Differing>, WhatIfError> {
        // A turn that only ours has: the recorded daemon was not late, it had no reason to decide.
        let extra = self.ours.due() <= event.at && self.theirs.due() > event.at;
        let differing = extra.then(|| self.ours.decide(event.at)).and_then(|ours| self.compare(event.at, None, Some(ours)));
        self.theirs.absorb(&event);
        let Stamped { seq, at, event } = event;
        self.last_event = seq;
        let event = match event {
            Event::Config(text) => Some(Event::Config(self.overlay.over(&config::parse(&text)?)?)),
            Event::Outcome(outcome) => self.shared.remove(&outcome.step).map(|step| Event::Outcome(Outcome { step, ..outcome })),
            other @ (Event::Facts(_)
            | Event::Kernel(_)
            | Event::Sample(_)
            | Event::Lost { .. }
            | Event::Blind { .. }
            | Event::Sight { .. }
            | Event::Request(_)) => Some(other),
        };
        if let Some(event) = event {
            self.ours.absorb(&Stamped { seq, at, event });
        }
        Ok(differing)
    }

    /// Pairs equal steps, settles those that only we take, and reports what is left over.
    fn compare(&mut self, at: Time, recorded: Option<Decision>, ours: Option<Decision>) -> Option<Differing> {
        self.turns += 1;
        let numbers = (recorded.as_ref().map(|d| d.number), ours.as_ref().map(|d| d.number));
        let (mut theirs, their_report) = recorded.map_or_else(Default::default, |d| (d.plan, d.report));
        let (our_plan, our_report) = ours.map_or_else(Default::default, |d| (d.plan, d.report));
        let mut only_ours = Vec::new();
        for step in our_plan {
            if let Some(twin) = theirs.iter().position(|their| same(their, &step)) {
                self.shared.insert(theirs.remove(twin).id, step.id);
                continue;
            }
            let asked = step.action.pages();
            let outcome = Outcome {
                missed: Vec::new(),
                step: step.id,
                began: at,
                ended: at,
                done: Amount { asked, ..Amount::default() },
                end: End::Skipped(Guard::DryRun),
            };
            self.ours.absorb(&Stamped { seq: self.last_event, at, event: Event::Outcome(outcome) });
            only_ours.push(OneSided { why_not: why_not(&their_report, &step), step });
        }
        let only_recorded: Vec<_> =
            theirs.into_iter().map(|step| OneSided { why_not: why_not(&our_report, &step), step }).collect();
        let (recorded, ours) = numbers;
        (!only_recorded.is_empty() || !only_ours.is_empty()).then_some(Differing { at, recorded, ours, only_recorded, only_ours })
    }
}

impl Iterator for WhatIf {
    type Item = Result<Differing, WhatIfError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// The same thing done for the same policy; bounds of guards and numbers in reasons may differ, doing and advising not.
fn same(a: &Step, b: &Step) -> bool {
    let advice = |step: &Step| step.guards.contains(&Guard::DryRun);
    a.action == b.action && a.by == b.by && advice(a) == advice(b)
}

/// The nearest thing that a report says about not taking `step`.
fn why_not(report: &Report, step: &Step) -> Option<Reason> {
    let about = |subject| report.holds.iter().find(|h| h.by == step.by && h.subject == subject).map(|h| &h.reason);
    let idle = || report.idles.iter().find(|i| i.policy == step.by).map(|i| &i.reason);
    about(Subject::Proc(step.action.proc())).or_else(|| about(Subject::Host)).or_else(idle).cloned()
}

impl fmt::Display for Differing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, recorded, ours, only_recorded, only_ours } = self;
        let sides = [("only recorded", only_recorded, ours), ("only here", only_ours, recorded)];
        for (side, steps, other) in sides {
            for OneSided { step, why_not } in steps {
                write!(f, "{at} {side}: {} {}", step.action.verb(), step.action.proc())?;
                if !step.action.ranges().is_empty() {
                    write!(f, " {} in {} ranges", step.action.pages(), step.action.ranges().len())?;
                }
                writeln!(f, " by {}; {}", step.by, step.reason)?;
                match (why_not, other) {
                    (Some(reason), _) => writeln!(f, "    not on the other side: {reason}")?,
                    (None, None) => writeln!(f, "    not on the other side: it had no turn then")?,
                    (None, Some(_)) => {}
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recorded, ours } = self;
        writeln!(f, "decision {} at {} differs", recorded.number, recorded.at)?;
        if (recorded.number, recorded.after) != (ours.number, ours.after) {
            let place = |d: &Decision| format!("decision {} after event {}", d.number, d.after);
            writeln!(f, "  recorded: {}\n  here:     {}", place(recorded), place(ours))?;
        }
        lines(f, "step", &recorded.plan, &ours.plan, |s| {
            format!(
                "{} {} {} by {} charge {:?} guards {:?} until {}; {}",
                s.id,
                s.action.verb(),
                Ranges(s),
                s.by,
                s.charge,
                s.guards,
                s.expires,
                s.reason
            )
        })?;
        lines(f, "hold", &recorded.report.holds, &ours.report.holds, |h| format!("{} by {}; {}", h.subject, h.by, h.reason))?;
        lines(f, "idle", &recorded.report.idles, &ours.report.idles, |i| format!("{}; {}", i.policy, i.reason))
    }
}

struct Ranges<'a>(&'a Step);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.action.proc())?;
        self.0.action.ranges().iter().try_for_each(|range| write!(f, " {range}"))
    }
}

/// Items in which two lists differ, place by place.
fn lines<T: PartialEq>(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    recorded: &[T],
    ours: &[T],
    say: impl Fn(&T) -> String,
) -> fmt::Result {
    for i in 0..recorded.len().max(ours.len()) {
        let (theirs, ours) = (recorded.get(i), ours.get(i));
        if theirs != ours {
            let text = |item: Option<&T>| item.map_or_else(|| "nothing".to_owned(), &say);
            writeln!(f, "  {word} {i} recorded: {}\n  {word} {i} here:     {}", text(theirs), text(ours))?;
        }
    }
    Ok(())
}

impl fmt::Debug for WhatIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhatIf").field("reader", &self.stream.reader).field("turns", &self.turns).finish_non_exhaustive()
    }
}
