//! What every hand stands on: a hold on one process, the looks that guards take, and how a step ends.

use crate::sys::pagemap::{Entry, Flags};
use crate::vocab::{AddrRange, Bytes, End, Fault, Guard, NodeId, Permil, ProcKey, Step, Time};
use std::io;
use std::time::Duration;

/// What all hands ask of the kernel; tests put a table of answers here.
pub trait Ground {
    /// Takes hold of a process; all calls below are about it. `false`: it is gone, or its pid is another process's.
    fn attach(&mut self, proc: ProcKey) -> io::Result<bool>;
    fn release(&mut self);
    /// Appends one entry per page.
    fn entries(&mut self, range: AddrRange, out: &mut Vec<Entry>) -> io::Result<()>;
    fn flags(&mut self, frame: u64, count: usize) -> io::Result<Vec<Flags>>;
    /// Free swap, all swap.
    fn swap(&mut self) -> io::Result<(Bytes, Bytes)>;
    /// Memory pressure "some" avg10 of the host, hundredths of a percent.
    fn pressure(&mut self) -> io::Result<u32>;
    /// Free memory of a node.
    fn node_free(&mut self, node: NodeId) -> io::Result<Bytes>;
    fn now(&self) -> Time;
    /// CPU time of this thread.
    fn cpu_ns(&self) -> u64;
    /// System calls made so far.
    fn made(&self) -> u64;
    fn pause(&mut self, time: Duration);
}

/// Why a step ended before its last slice.
#[derive(Debug)]
pub enum Stop {
    Skip(Guard),
    Braked,
    Fault(&'static str, io::Error),
    /// The kernel's refusal, in words that say more than its errno.
    Refused {
        call: &'static str,
        errno: i32,
        why: String,
    },
}

/// What the coming slice takes, counted as if it went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coming {
    pub swap: Bytes,
    pub node: Bytes,
}

/// Looks again at what must hold.
pub fn guards(calls: &mut impl Ground, step: &Step, coming: Coming) -> Result<(), Stop> {
    for guard in &step.guards {
        let holds = match guard {
            // The handles go stale with the process: every later call then says ESRCH.
            Guard::Alive(proc) => *proc == step.action.proc(),
            Guard::SwapFree { least } => {
                let (free, total) = calls.swap().map_err(|e| Stop::Fault("read of /proc/meminfo", e))?;
                total > Bytes::ZERO && Permil::of(free.saturating_sub(coming.swap).0, total.0) >= *least
            }
            Guard::NodeFree { node, least } => {
                let free = calls.node_free(*node).map_err(|e| Stop::Fault("read of the node's meminfo", e))?;
                free.saturating_sub(coming.node) >= *least
            }
            Guard::Calm { most_avg10 } => {
                calls.pressure().map_err(|e| Stop::Fault("read of /proc/pressure/memory", e))? <= *most_avg10
            }
            // Of a server: no hand that stands here is about one.
            Guard::SameLife { .. } | Guard::DryRun => false,
        };
        if !holds {
            return Err(Stop::Skip(guard.clone()));
        }
    }
    Ok(())
}

/// How a step ended: `done` of it was done, and `shortfall` says what was not.
pub fn end(step: &Step, stop: Option<Stop>, done: u64, whole: bool, shortfall: String) -> End {
    let fault = |call: &str, errno, message| Fault { call: call.into(), on: step.action.proc().to_string(), errno, message };
    let why = match stop {
        None if whole => return End::Done,
        None => return End::Partial(shortfall),
        Some(Stop::Skip(guard)) if done == 0 => return End::Skipped(guard),
        Some(Stop::Skip(guard)) => format!("stopped: {guard}"),
        Some(Stop::Braked) => "stopped: paused or shutting down".into(),
        Some(Stop::Fault(call, e)) => {
            let fault = fault(call, e.raw_os_error().unwrap_or(0), message(&e));
            if done == 0 {
                return End::Failed(fault);
            }
            fault.to_string()
        }
        Some(Stop::Refused { call, errno, why }) => {
            let fault = fault(call, errno, why);
            if done == 0 {
                return End::Failed(fault);
            }
            fault.to_string()
        }
    };
    End::Partial(if shortfall.is_empty() { why } else { format!("{why}; before that {shortfall}") })
}

/// The kernel's words without the number that std appends: `Fault` has a field for it.
fn message(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().into(),
        None => e.to_string(),
    }
}
