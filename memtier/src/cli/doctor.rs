//! What this host is and can do, how each fact was learned, what works because of it, what idles and how to enable it.
//!
//! Tells the truth wherever it runs, without root too: what could not be looked at is "unknown", never "no". Changes
//! nothing that outlasts it.

use super::run::{ConfigArgs, trouble};
use super::{Common, Ended, Exit, print_json};
use crate::daemon::setup::SetupError;
use crate::daemon::start::{StartError, hierarchy};
use crate::observe::{probe, proc};
use crate::plan::vain_rules;
use crate::policy;
use crate::sys::files::Root;
use crate::vocab::{Answer, Fact, HostFacts, Need, PolicyId, Source};
use nix::unistd::geteuid;
use serde::Serialize;
use std::fmt;
use std::io::Write as _;

/// Say what this host offers, what works, what idles and why, and how to enable it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

/// `learned`: what only trying can tell, from observe/bpf.
pub fn run(common: &Common, Args { config }: &Args, learned: Vec<(Need, Fact)>) -> Ended {
    let mut diagnosis = Diagnosis::of(probe::facts(&Root::host(), learned));
    diagnosis.configuration = match Configuration::read(config, &diagnosis.host) {
        Ok(found) => found,
        // The host is worth a diagnosis whatever lies in /etc.
        Err(error) if config.given().next().is_none() => Configuration { error: Some(error.to_string()), ..Default::default() },
        Err(error) => return Err(trouble(StartError::Setup(error))),
    };
    if common.json {
        print_json(&diagnosis)?;
    } else {
        write!(std::io::stdout().lock(), "{diagnosis}")?;
    }
    Ok(Exit::Ok)
}

/// One way to do a thing, and all that it takes.
struct Way {
    by: &'static str,
    needs: &'static [Need],
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Works,
    /// Works, but tells or does less than it could.
    Coarse,
    Idle,
}

const fn best(by: &'static str, needs: &'static [Need]) -> Way {
    Way { by, needs, state: State::Works }
}
const fn coarse(by: &'static str, needs: &'static [Need]) -> Way {
    Way { by, needs, state: State::Coarse }
}

/// The ways to feed a source, best first.
const fn feeds(source: Source) -> &'static [Way] {
    const WALKER: &[Way] = &[
        best("BPF page-table walker", &[Need::Walker]),
        coarse("page_idle bitmap: no dirty bits", &[Need::PageIdle]),
        coarse("smaps: one touched page makes its whole mapping warm", &[Need::Root]),
    ];
    const PROCS: &[Way] = &[best("fork, exec and exit events", &[Need::SchedEvents]), coarse("sweeps of /proc", &[])];
    const SCHED: &[Way] = &[best("tp_btf/sched_switch, counted in the kernel", &[Need::SchedEvents])];
    const RECLAIM: &[Way] = &[best("vmscan and swap-write tracepoints", &[Need::ReclaimEvents])];
    const FAULTS: &[Way] = &[best("perf page-fault samples", &[Need::FaultSamples])];
    const MIGRATE: &[Way] = &[best("migrate tracepoints", &[Need::MigrateEvents])];
    const HOST: &[Way] = &[best("/proc/meminfo, vmstat, swaps", &[])];
    const PSI: &[Way] = &[best("/proc/pressure", &[Need::Psi])];
    const CGROUP: &[Way] = &[
        best("version 2 memory controller", &[Need::CgroupV2Memory]),
        coarse("version 1 memory controller: no limit of swap alone, no pressure", &[Need::CgroupV1Memory]),
    ];
    const DAMON: &[Way] = &[best(
        "DAMON's regions of address spaces, where somebody has it watch any; those of physical memory name no process",
        &[Need::DamonEvents],
    )];
    // Whether a server answers depends on the server, and `memtier caches` says it.
    const CACHES: &[Way] = &[best("memcached servers of the [[cache]] rules, over their own protocol", &[])];
    match source {
        Source::Walker => WALKER,
        Source::Procs => PROCS,
        Source::Sched => SCHED,
        Source::Reclaim => RECLAIM,
        Source::Faults => FAULTS,
        Source::Migrate => MIGRATE,
        Source::Host => HOST,
        Source::Psi => PSI,
        Source::Cgroup => CGROUP,
        Source::Damon => DAMON,
        Source::Caches => CACHES,
    }
}

const PAGE_OUT: (&str, &[Way]) = (
    "page-out",
    &[
        best("/proc/PID/swap_pages", &[Need::Swap, Need::SwapPages]),
        best("process_madvise(MADV_PAGEOUT)", &[Need::Swap, Need::ProcessMadvise]),
    ],
);
const ARM: (&str, &[Way]) = (
    "arm",
    &[
        coarse("page_idle bitmap: flushes no TLB, so what is in it reads idle until it is loaded again", &[Need::PageIdle]),
        coarse("process_madvise(MADV_COLD): misleads reclaim, passes over locked pages", &[Need::ProcessMadvise]),
    ],
);
const PLACE: (&str, &[Way]) = ("place", &[best("sched_setaffinity and move_pages", &[Need::ManyNodes])]);
const TIER: (&str, &[Way]) = ("tier", &[best("move_pages between fast and slow nodes", &[Need::SlowNodes])]);
const DEACTIVATE: (&str, &[Way]) = ("deactivate", &[best("process_madvise(MADV_COLD)", &[Need::ProcessMadvise])]);

/// The hand that carries out what a policy proposes.
const fn hand(policy: PolicyId) -> Option<(&'static str, &'static [Way])> {
    match policy {
        // A server moves its pages itself when it is told to.
        PolicyId::Watch | PolicyId::SlabMarginal | PolicyId::SlabExtstore | PolicyId::SlabAutomove => None,
        PolicyId::Arm => Some(ARM),
        PolicyId::Slide | PolicyId::Autocold => Some(PAGE_OUT),
        PolicyId::Numa => Some(PLACE),
        PolicyId::Tier => Some(TIER),
    }
}

/// Something that works, in this way, or does not, for these reasons.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub state: State,
    pub by: String,
    /// Why not better, or not at all.
    pub why: Vec<String>,
    pub remedies: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Diagnosis {
    pub host: HostFacts,
    pub sources: Vec<Row>,
    pub hands: Vec<Row>,
    pub policies: Vec<Row>,
    pub configuration: Configuration,
}

/// What the configuration means to the processes that live now.
#[derive(Debug, Default, Serialize)]
pub struct Configuration {
    pub files: Vec<String>,
    pub rules: usize,
    /// Rules that decide for no process, and what was compared; none without root, from whom others' programs are hidden.
    pub vain_rules: Option<Vec<String>>,
    /// Why it is not let in.
    pub error: Option<String>,
}

impl Configuration {
    fn read(args: &ConfigArgs, host: &HostFacts) -> Result<Self, SetupError> {
        let (loaded, files) = args.setup(&[], Vec::new()).load()?;
        let root = Root::host();
        let vain_rules = geteuid().is_root().then(|| {
            let samples = proc::samples(&root, hierarchy(&root).ok().as_ref()).unwrap_or_default();
            vain_rules(&samples.iter().collect::<Vec<_>>(), &loaded.config, host)
        });
        Ok(Self { files, rules: loaded.config.target.len(), vain_rules, error: None })
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, rules, vain_rules, error } = self;
        let files = if files.is_empty() { "built-in defaults".to_owned() } else { files.join(", ") };
        writeln!(f, "\nConfiguration")?;
        match error {
            Some(error) => writeln!(f, "  not let in: {error}\n{:29}to enable: `memtier check` says what to write instead", "")?,
            None => writeln!(f, "  {files}: {rules} target rules")?,
        }
        match vain_rules.as_deref() {
            Some([]) => Ok(()),
            Some(vain) => {
                vain.iter().try_for_each(|rule| writeln!(f, "  {rule}"))?;
                writeln!(f, "{:29}next: start that process, or mend the rule and `memtier reload`", "")
            }
            None if *rules == 0 => Ok(()),
            None => writeln!(f, "  which processes they match: unknown without root"),
        }
    }
}

impl Diagnosis {
    #[must_use]
    pub fn of(host: HostFacts) -> Self {
        let sources: Vec<Row> = Source::ALL.iter().map(|s| row(&host, s.name(), feeds(*s))).collect();
        let hands = [PAGE_OUT, ARM, DEACTIVATE].iter().map(|(name, ways)| row(&host, name, ways)).collect();
        let policies = policy::all().iter().map(|p| Self::policy(&host, &sources, *p)).collect();
        Self { host, sources, hands, policies, configuration: Configuration::default() }
    }

    fn policy(host: &HostFacts, sources: &[Row], policy: &dyn policy::Policy) -> Row {
        let mut row =
            Row { name: policy.id().name().into(), state: State::Works, by: String::new(), why: vec![], remedies: vec![] };
        if host.has_one(policy.needs()).is_err() {
            row.lack(host, policy.needs());
        }
        for source in policy.sources() {
            let feed = sources.iter().find(|r| r.name == source.name());
            if feed.is_none_or(|r| r.state == State::Idle) {
                row.state = State::Idle;
                row.why.push(format!("the source {source} idles"));
            }
        }
        if row.state == State::Idle {
            return row;
        }
        if let Some((name, ways)) = hand(policy.id()) {
            let hand = self::row(host, name, ways);
            if hand.state == State::Idle {
                row.state = State::Coarse;
                row.by = format!("advises only: nothing can {name}");
                (row.why, row.remedies) = (hand.why, hand.remedies);
            }
        }
        row
    }
}

impl Row {
    /// Notes what the host does not answer with yes.
    fn lack(&mut self, host: &HostFacts, needs: &[Need]) {
        for need in needs {
            let Err(why) = host.has(*need) else { continue };
            self.state = State::Idle;
            self.why.push(why);
            self.remedies.extend(host.facts.get(need).map(|f| f.remedy.clone()).filter(|r| !r.is_empty()));
        }
    }
}

/// The first way that the host has all for, with what is missing for the better ones; without any, what is missing for
/// the one that lacks least.
fn row(host: &HostFacts, name: &str, ways: &[Way]) -> Row {
    let blank = || Row { name: name.into(), state: State::Idle, by: String::new(), why: vec![], remedies: vec![] };
    let mut better: Vec<Row> = Vec::new();
    for Way { by, needs, state } in ways {
        let mut row = blank();
        row.lack(host, needs);
        if !row.why.is_empty() {
            better.push(row);
            continue;
        }
        (row.state, row.by) = (*state, (*by).into());
        // What another way lacks does not matter where this one is as good.
        if *state == State::Coarse {
            row.why = better.iter().flat_map(|r| r.why.clone()).collect();
            row.remedies = better.iter().flat_map(|r| r.remedies.clone()).collect();
        }
        return row;
    }
    // Of two that lack as much, the later one asks for less.
    better.into_iter().rev().min_by_key(|row| row.why.len()).unwrap_or_else(blank)
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, sources, hands, policies, configuration } = self;
        let HostFacts { kernel, arch, page_bytes, memory, cpus, nodes, facts, .. } = host;
        writeln!(f, "Linux {kernel} on {arch}: {cpus} CPUs, {memory} in pages of {page_bytes} bytes")?;
        for node in nodes {
            let far: Vec<String> = node.distances.iter().map(|(to, d)| format!("{d} to {to}")).collect();
            writeln!(f, "  {}: {}, {} CPUs {}", node.id, node.total, node.cpus.len(), far.join(", "))?;
        }
        writeln!(f, "\nFacts")?;
        for (need, Fact { answer, how, remedy: _ }) in facts {
            let answer = match answer {
                Answer::Yes => "yes",
                Answer::No => "no",
                Answer::Unknown => "unknown",
            };
            writeln!(f, "  {answer:<7}  {:<16}  {how}", need.name())?;
        }
        for (title, rows) in [("Sources", sources), ("Hands", hands), ("Policies", policies)] {
            writeln!(f, "\n{title}")?;
            rows.iter().try_for_each(|row| write!(f, "{row}"))?;
        }
        configuration.fmt(f)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, state, by, why, remedies } = self;
        let state = match state {
            State::Works => "works",
            State::Coarse => "coarse",
            State::Idle => "idle",
        };
        writeln!(f, "{}", format!("  {state:<7}  {name:<16}  {by}").trim_end())?;
        why.iter().try_for_each(|line| writeln!(f, "{:29}because: {line}", ""))?;
        remedies.iter().try_for_each(|line| writeln!(f, "{:29}to enable: {line}", ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(yes: &[Need]) -> (String, Vec<(State, String)>) {
        let fact = |need: &Need| {
            let answer = if yes.contains(need) { Answer::Yes } else { Answer::No };
            (*need, Fact { answer, how: format!("looked for {need}"), remedy: String::new() })
        };
        let needs = [Need::PageIdle, Need::ProcessMadvise, Need::Walker, Need::ReclaimEvents, Need::Psi];
        let host = HostFacts { facts: needs.iter().map(fact).collect(), ..HostFacts::default() };
        let Diagnosis { hands, policies, .. } = Diagnosis::of(host);
        let of = |rows: &[Row], name| rows.iter().find(|r| r.name == name).cloned().expect("a row");
        let rows = [of(&hands, "arm"), of(&hands, "deactivate"), of(&policies, "arm")];
        (rows[0].to_string(), rows.into_iter().map(|row| (row.state, row.by)).collect())
    }

    /// Which clear this host uses, and why not the better one.
    #[test]
    fn the_clear_is_named() {
        const EYES: [Need; 3] = [Need::Walker, Need::ReclaimEvents, Need::Psi];
        let advice = "process_madvise(MADV_COLD)";
        let (text, rows) = told(&[&EYES[..], &[Need::ProcessMadvise]].concat());
        assert!(text.contains(advice) && text.contains("because: no page-idle: looked for page-idle"), "{text}");
        assert_eq!(rows.iter().map(|r| r.0).collect::<Vec<_>>(), [State::Coarse, State::Works, State::Works]);
        let (_, rows) = told(&[&EYES[..], &[Need::ProcessMadvise, Need::PageIdle]].concat());
        assert!(rows[0].0 == State::Coarse && rows[0].1.starts_with("page_idle bitmap"), "{rows:?}");
        assert_eq!(rows[1], (State::Works, advice.into()));
        // Linux before 5.10.
        let (_, rows) = told(&[&EYES[..], &[Need::PageIdle]].concat());
        assert_eq!(rows.iter().map(|r| r.0).collect::<Vec<_>>(), [State::Coarse, State::Idle, State::Works]);
        let (_, rows) = told(&EYES);
        assert_eq!(rows.iter().map(|r| r.0).collect::<Vec<_>>(), [State::Idle; 3]);
    }
}
