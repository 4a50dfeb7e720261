//! The hand that walks page tables, whichever walker this host has.

use super::dispatch::Hand;
use crate::observe::standin::StandIn;
use crate::observe::walker::{ScanStats, WalkError, Walker};
use crate::sys::clock::{boottime, thread_cpu};
use crate::sys::files::{ReadError, Root};
use crate::vocab::{Amount, End, Event, Fault, Guard, Outcome, Pages, ProcKey, Sample, Source};

/// The best walker that this host has, and the first thing told of it. `mark`: a stand-in may mark pages idle.
pub fn best(walker: Result<Walker, String>, mark: bool) -> (Hand, Event) {
    let sight = Event::Sight { source: Source::Walker };
    let why = match walker {
        Ok(walker) => return (by_page_tables(walker), sight),
        Err(why) => why,
    };
    match StandIn::new(Root::host(), mark) {
        Ok(stand_in) => {
            tracing::warn!(why, instead = stand_in.note(), "no page walker");
            (by_stand_in(stand_in), sight)
        }
        Err(error) => {
            let why = format!("{why}; and without it {error}");
            (blind(why.clone()), Event::Blind { source: Source::Walker, why })
        }
    }
}

/// Makes a hand of a walk: it says how many pages it saw and how many tables it could not read, or why it broke off.
fn hand(mut walk: impl FnMut(ProcKey, &mut dyn FnMut(Event)) -> Result<(Pages, u64), End> + Send + 'static) -> Hand {
    Box::new(move |step, emit| {
        let (began, cpu) = (boottime(), thread_cpu());
        let walked = walk(step.action.proc(), emit);
        let (pages, end) = match walked {
            Ok((pages, 0)) => (pages, End::Done),
            Ok((pages, tables)) => (pages, End::Partial(format!("{tables} page tables changed while they were read"))),
            Err(end) => (Pages::ZERO, end),
        };
        let done = Amount { pages, asked: pages, syscalls: 0, cpu_ns: thread_cpu().saturating_sub(cpu) };
        Outcome { step: step.id, began, ended: boottime(), done, end, missed: Vec::new() }
    })
}

/// Walks the page tables themselves: mappings first, then the pages.
fn by_page_tables(mut walker: Walker) -> Hand {
    hand(move |proc, emit| {
        let walked = walker.maps(proc).and_then(|maps| {
            emit(Event::Sample(Sample::Maps(maps)));
            walker.scan(proc, &mut |chunk| emit(Event::Sample(Sample::Pages(chunk))))
        });
        match walked {
            Ok(ScanStats { pages, unreadable, .. }) => Ok((pages, unreadable)),
            Err(WalkError::Gone(_)) => Err(End::Skipped(Guard::Alive(proc))),
            Err(error) => {
                let errno = match &error {
                    WalkError::Call { source, .. } => source.raw_os_error().unwrap_or_default(),
                    WalkError::Gone(_) | WalkError::NoMemory(_) | WalkError::Replaced(_) | WalkError::Malformed(..) => 0,
                };
                Err(failed("walk", proc.to_string(), errno, error.to_string()))
            }
        }
    })
}

/// Walks through pagemap and what else the kernel's files tell.
fn by_stand_in(mut stand_in: StandIn) -> Hand {
    hand(move |proc, emit| match stand_in.scan(proc, emit) {
        Ok(stats) => Ok((stats.present, 0)),
        Err(error) if error.is_gone() => Err(End::Skipped(Guard::Alive(proc))),
        Err(ReadError::Io { path, source }) => {
            Err(failed("read", path.display().to_string(), source.raw_os_error().unwrap_or_default(), source.to_string()))
        }
        Err(error @ ReadError::Text { .. }) => Err(failed("read", proc.to_string(), 0, error.to_string())),
    })
}

/// No walker at all: every walk says why.
fn blind(why: String) -> Hand {
    hand(move |proc, _| Err(failed("walk", proc.to_string(), 0, why.clone())))
}

fn failed(call: &str, on: String, errno: i32, message: String) -> End {
    End::Failed(Fault { call: call.to_owned(), on, errno, message })
}
