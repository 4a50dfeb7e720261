//! Binds processes the way the daemon does, and waits to be killed: `binder RUN_DIR CPUS PID...` says `done`, or why not.

use memtier::act::{Actuator as _, Placer, Reins};
use memtier::config;
use memtier::daemon::boot_id;
use memtier::daemon::footprint::{Footprint, Shared};
use memtier::sys::affinity::CpuMask;
use memtier::sys::clock::boottime;
use memtier::sys::files::start_ticks;
use memtier::vocab::{Action, Charge, Guard, PolicyId, ProcKey, Reason, Rule, Span, Step, StepId, Whom};
use std::error::Error;
use std::io::Write as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [run_dir, cpus, pids @ ..] = args.as_slice() else { return Err("usage: binder RUN_DIR CPUS PID...".into()) };
    let cpus: Vec<_> = CpuMask::parse(cpus).ok_or("no list of CPUs")?.cpus().collect();
    let footprint = Shared::new(Footprint::open(Path::new(run_dir), &boot_id()?)?);
    let mut placer = Placer::new(footprint, Reins::new(&config::Arm::default()));
    for pid in pids {
        let pid = pid.parse()?;
        let start = start_ticks(&std::fs::read(format!("/proc/{pid}/stat"))?).ok_or("no start time")?;
        let proc = ProcKey { pid, start };
        let step = Step {
            id: StepId { decision: 1, index: 0 },
            action: Action::Bind { proc, cpus: cpus.clone(), whom: Whom::All },
            guards: vec![Guard::Alive(proc)],
            expires: boottime().after(Span::from_secs(60)),
            charge: Charge::default(),
            by: PolicyId::Numa,
            reason: Reason::new(Rule::NumaBind),
        };
        let outcome = placer.apply(&step);
        writeln!(std::io::stdout(), "{}", outcome.end)?;
    }
    loop {
        std::thread::park();
    }
}
