//! Which processes the rules of the configuration mean. Rules are tried in order; the first match decides.
//!
//! Rules are judged when facts about a process arrive (that is: after fork and exec, too) and when the configuration
//! changes, so that a turn only looks the answer up. A rule that names a pid means the process that had this pid when
//! the rule came in, and its descendants: a later process that reuses the number is another one.

use super::protect::{Protection, protection};
use crate::config::{Config, Target};
use crate::vocab::{Bytes, HostFacts, PolicyId, ProcKey, ProcSample};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the rules say about one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    Selected {
        /// Index of the rule; none under `daemon.all`.
        rule: Option<usize>,
        policy: PolicyId,
        /// Resident memory that is never taken.
        floor: Bytes,
        /// Share of the common budget.
        moved_per_s: Option<Bytes>,
        /// Its threads and pages may be placed among nodes.
        #[serde(default)]
        placed: bool,
        /// Its memory may be moved between fast and slow nodes.
        #[serde(default)]
        tiered: bool,
        /// Its cgroup is bound as one, not its threads.
        #[serde(default)]
        cpuset: bool,
    },
    Excluded(usize),
    /// No rule matches, or nothing is known about the process yet.
    #[default]
    NotSelected,
    Protected(Protection),
}

impl Selection {
    /// The policy that decides for a selected process.
    #[must_use]
    pub const fn policy(self) -> Option<PolicyId> {
        match self {
            Self::Selected { policy, .. } => Some(policy),
            Self::Excluded(_) | Self::NotSelected | Self::Protected(_) => None,
        }
    }

    /// Whether its threads and pages may be placed among nodes.
    #[must_use]
    pub const fn placed(self) -> bool {
        match self {
            Self::Selected { placed, .. } => placed,
            Self::Excluded(_) | Self::NotSelected | Self::Protected(_) => false,
        }
    }

    /// Whether it is bound together with all of its cgroup.
    #[must_use]
    pub const fn cpuset(self) -> bool {
        match self {
            Self::Selected { cpuset, .. } => cpuset,
            Self::Excluded(_) | Self::NotSelected | Self::Protected(_) => false,
        }
    }

    /// Whether its memory may be moved between fast and slow nodes.
    #[must_use]
    pub const fn tiered(self) -> bool {
        match self {
            Self::Selected { tiered, .. } => tiered,
            Self::Excluded(_) | Self::NotSelected | Self::Protected(_) => false,
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Selected { rule, policy, floor, moved_per_s, placed, tiered, cpuset } => {
                match rule {
                    Some(rule) => write!(f, "selected by target rule {}", rule + 1)?,
                    None => f.write_str("selected by daemon.all")?,
                }
                write!(f, " for {policy}")?;
                if !placed && *policy != PolicyId::Watch {
                    f.write_str(", not placed")?;
                }
                if !tiered && *policy != PolicyId::Watch {
                    f.write_str(", not tiered")?;
                }
                if *cpuset {
                    f.write_str(", bound by its cgroup")?;
                }
                if *floor > Bytes::ZERO {
                    write!(f, ", floor {floor}")?;
                }
                moved_per_s.map_or(Ok(()), |bytes| write!(f, ", at most {bytes}/s"))
            }
            Self::Excluded(rule) => write!(f, "excluded by target rule {}", rule + 1),
            Self::NotSelected => f.write_str("no target rule selects it"),
            Self::Protected(why) => write!(f, "protected: {why}"),
        }
    }
}

/// The answers, and what must be remembered to give them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Targets {
    chosen: BTreeMap<ProcKey, Selection>,
    /// The process that a pid in a rule means.
    named: BTreeMap<u32, ProcKey>,
    /// Pids in rules that stand for a process: its own or an ancestor's. Only processes that have any.
    lineage: BTreeMap<ProcKey, BTreeSet<u32>>,
}

impl Targets {
    #[must_use]
    pub fn selection(&self, proc: ProcKey) -> Selection {
        self.chosen.get(&proc).copied().unwrap_or_default()
    }

    /// Every process that was judged, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (ProcKey, Selection)> {
        self.chosen.iter().map(|(&proc, &selection)| (proc, selection))
    }

    /// It runs another program now, of which nothing is known yet.
    pub fn executed(&mut self, proc: ProcKey) {
        self.chosen.remove(&proc);
    }

    /// A child belongs to the same pid rules as its parent, whatever it executes later.
    pub fn forked(&mut self, parent: ProcKey, child: ProcKey) {
        if let Some(pids) = self.lineage.get(&parent) {
            self.lineage.insert(child, pids.clone());
        }
    }

    pub fn exited(&mut self, proc: ProcKey) {
        self.chosen.remove(&proc);
        self.lineage.remove(&proc);
    }

    /// Drops what a lost exit event left behind.
    pub fn retain(&mut self, alive: impl Fn(ProcKey) -> bool) {
        self.chosen.retain(|&proc, _| alive(proc));
        self.lineage.retain(|&proc, _| alive(proc));
    }

    /// The rules changed: pids whose process is gone may now mean another one.
    pub fn reconfigured(&mut self, samples: &[&ProcSample], config: &Config, facts: &HostFacts) {
        let alive: BTreeSet<ProcKey> = samples.iter().map(|s| s.proc).collect();
        let pids: BTreeSet<u32> = config.target.iter().filter_map(|rule| rule.pid).collect();
        self.named.retain(|pid, proc| pids.contains(pid) && alive.contains(proc));
        self.lineage.values_mut().for_each(|l| l.retain(|pid| pids.contains(pid)));
        self.lineage.retain(|_, pids| !pids.is_empty());
        for sample in samples {
            self.judge(sample, config, facts);
        }
    }

    /// Facts about a process arrived.
    pub fn judge(&mut self, sample: &ProcSample, config: &Config, facts: &HostFacts) {
        self.note_lineage(sample, config);
        let selection = self.look(sample, config, facts);
        self.chosen.insert(sample.proc, selection);
    }

    fn note_lineage(&mut self, sample: &ProcSample, config: &Config) {
        let ProcKey { pid, .. } = sample.proc;
        if config.target.iter().all(|rule| rule.pid.is_none()) {
            return;
        }
        let mut pids = self.lineage.remove(&sample.proc).unwrap_or_default();
        if config.target.iter().any(|rule| rule.pid == Some(pid)) && *self.named.entry(pid).or_insert(sample.proc) == sample.proc {
            pids.insert(pid);
        }
        // Children that were there before us announced no fork.
        let parents = ProcKey { pid: sample.parent, start: 0 }..=ProcKey { pid: sample.parent, start: sample.proc.start };
        if let Some((_, theirs)) = self.lineage.range(parents).next_back() {
            pids.extend(theirs);
        }
        if !pids.is_empty() {
            self.lineage.insert(sample.proc, pids);
        }
    }

    /// The answer from scratch; the audit asks it instead of the remembered one.
    #[must_use]
    pub fn look(&self, sample: &ProcSample, config: &Config, facts: &HostFacts) -> Selection {
        if let Some(why) = protection(sample, facts) {
            return Selection::Protected(why);
        }
        let lineage = self.lineage.get(&sample.proc);
        let found = config.target.iter().position(|rule| matches(rule, sample, lineage));
        let rule = match found.map(|i| (i, &config.target[i])) {
            Some((i, rule)) if rule.exclude => return Selection::Excluded(i),
            Some((_, rule)) => Some(rule),
            None if config.daemon.all => None,
            None => return Selection::NotSelected,
        };
        let policy = rule.and_then(|r| r.policy).unwrap_or(PolicyId::Autocold);
        let placed = policy != PolicyId::Watch && rule.and_then(|r| r.numa).unwrap_or(true);
        Selection::Selected {
            rule: found,
            policy,
            placed,
            cpuset: placed && rule.and_then(|r| r.cpuset).unwrap_or(false),
            tiered: policy != PolicyId::Watch && rule.and_then(|r| r.tier).unwrap_or(true),
            floor: Bytes::from_mib(rule.and_then(|r| r.floor_mib).unwrap_or(0)),
            moved_per_s: rule.and_then(|r| r.moved_mib_per_s).map(Bytes::from_mib),
        }
    }

    /// Those of the first `rules` rules that decide for no process, each with what was compared: mostly a slip of the pen, but no error, for
    /// processes may start later.
    #[must_use]
    pub fn vain(&self, samples: &[&ProcSample], config: &Config, rules: usize) -> Vec<String> {
        let samples: Vec<_> = samples.iter().filter(|s| !s.kernel_thread).map(|s| (*s, self.lineage.get(&s.proc))).collect();
        if samples.is_empty() {
            return Vec::new();
        }
        config.target.iter().enumerate().take(rules).filter_map(|(i, rule)| vain(i, rule, self, &samples)).collect()
    }
}

fn vain(i: usize, rule: &Target, targets: &Targets, samples: &[(&ProcSample, Option<&BTreeSet<u32>>)]) -> Option<String> {
    let decides = |selection: Selection| match selection {
        Selection::Selected { rule, .. } => rule == Some(i),
        Selection::Excluded(rule) => rule == i,
        Selection::NotSelected | Selection::Protected(_) => false,
    };
    if targets.iter().any(|(_, selection)| decides(selection)) {
        return None;
    }
    let named = format!("target rule {} ({})", i + 1, written(rule));
    let matched: Vec<Selection> =
        samples.iter().filter(|(s, lineage)| matches(rule, s, *lineage)).map(|(s, _)| targets.selection(s.proc)).collect();
    if matched.is_empty() {
        let counted = CONDITIONS.iter().enumerate().filter_map(|(c, (key, with))| {
            let asked: Vec<bool> = samples.iter().filter_map(|(s, lineage)| fits(rule, s, *lineage)[c]).collect();
            (!asked.is_empty()).then(|| format!("{key} fits {} (compared with {with})", asked.iter().filter(|fits| **fits).count()))
        });
        let counted: Vec<String> = counted.collect();
        return Some(format!("{named} matches no process: of {}, {}", samples.len(), counted.join(", ")));
    }
    // What is protected anyway need not be excluded, but may well be.
    if rule.exclude {
        return None;
    }
    let protected = matched.iter().filter(|selection| matches!(selection, Selection::Protected(_))).count();
    let earlier = matched.len() - protected;
    Some(format!(
        "{named} decides for no process: of {} that match, {earlier} fall to an earlier rule, {protected} are protected",
        matched.len()
    ))
}

/// As [`Targets::vain`], for rules that nothing has been judged by yet.
#[must_use]
pub fn vain_rules(samples: &[&ProcSample], config: &Config, facts: &HostFacts) -> Vec<String> {
    let mut targets = Targets::default();
    targets.reconfigured(samples, config, facts);
    targets.vain(samples, config, config.target.len())
}

/// Whether anything is selected at all. Acting needs it; without it the largest processes are watched, read only.
#[must_use]
pub fn anything_selected(config: &Config) -> bool {
    config.daemon.all || config.target.iter().any(|rule| !rule.exclude)
}

/// The conditions of a rule, and what each is compared with.
const CONDITIONS: [(&str, &str); 6] = [
    ("pid", "its pid, or an ancestor's, when the rule came in"),
    ("comm", "the name in /proc/PID/comm"),
    ("exe", "the link /proc/PID/exe"),
    ("cgroup", "the memory cgroup in /proc/PID/cgroup"),
    ("unit", "the units on the path in /proc/PID/cgroup"),
    ("uid", "the effective user in /proc/PID/status"),
];

/// How each condition fits; none where the rule does not make it.
fn fits(rule: &Target, sample: &ProcSample, lineage: Option<&BTreeSet<u32>>) -> [Option<bool>; CONDITIONS.len()] {
    let Target {
        pid,
        comm,
        exe,
        cgroup,
        unit,
        uid,
        exclude: _,
        policy: _,
        floor_mib: _,
        moved_mib_per_s: _,
        numa: _,
        tier: _,
        cpuset: _,
    } = rule;
    [
        pid.map(|pid| lineage.is_some_and(|pids| pids.contains(&pid))),
        comm.as_deref().map(|pattern| glob(as_the_kernel_cuts(pattern), &sample.comm)),
        exe.as_deref().map(|pattern| glob(pattern, sample.exe.trim_end_matches(" (deleted)"))),
        cgroup.as_deref().map(|pattern| in_cgroup(pattern, &sample.cgroup)),
        unit.as_deref().map(|pattern| in_unit(pattern, &sample.cgroup)),
        uid.map(|uid| uid == sample.uid),
    ]
}

fn matches(rule: &Target, sample: &ProcSample, lineage: Option<&BTreeSet<u32>>) -> bool {
    fits(rule, sample, lineage).into_iter().all(|fits| fits != Some(false))
}

/// The conditions as they stand in the configuration.
fn written(rule: &Target) -> String {
    let conditions =
        Target { policy: None, floor_mib: None, moved_mib_per_s: None, numa: None, tier: None, cpuset: None, ..rule.clone() };
    toml::to_string(&conditions).expect("a rule is a flat table of scalars").trim_end().replace('\n', ", ")
}

/// The kernel keeps 15 bytes of a name; a longer plain name in a rule still means that process.
fn as_the_kernel_cuts(pattern: &str) -> &str {
    if pattern.contains(['*', '?']) { pattern } else { pattern.get(..15).unwrap_or(pattern) }
}

/// The pattern names the cgroup or one above it.
fn in_cgroup(pattern: &str, path: &str) -> bool {
    let pattern = pattern.trim_end_matches('/');
    let prefixes = path.match_indices('/').map(|(end, _)| &path[..end]);
    prefixes.chain([path.trim_end_matches('/')]).any(|prefix| glob(pattern, prefix))
}

/// The pattern names a unit on the cgroup path.
fn in_unit(pattern: &str, path: &str) -> bool {
    const SUFFIXES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];
    let is_unit = |part: &&str| SUFFIXES.iter().any(|suffix| part.ends_with(suffix));
    path.split('/').filter(is_unit).any(|unit| glob(pattern, unit))
}

/// Shell pattern over the whole text: `*` any run of characters (slashes too), `?` one character.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let (mut p, mut t) = (pattern.chars(), text.chars());
    // Where to resume when the last `*` must take one character more.
    let mut star = None;
    loop {
        let at = t.clone();
        match (p.next(), t.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                t = at.clone();
                star = Some((p.clone(), at));
            }
            (Some('?'), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => {
                let Some((after, mut from)) = star.take() else { return false };
                if from.next().is_none() {
                    return false;
                }
                (p, t) = (after.clone(), from.clone());
                star = Some((after, from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pid: u32) -> ProcSample {
        ProcSample {
            proc: ProcKey { pid, start: u64::from(pid) },
            parent: 1,
            comm: "memcached".into(),
            exe: "/usr/bin/memcached".into(),
            uid: 107,
            cgroup: "/system.slice/memcached.service".into(),
            rss: Bytes::from_mib(200),
            ..ProcSample::default()
        }
    }

    fn rules(text: &str) -> Config {
        toml::from_str(text).expect("test rules parse")
    }

    /// Index of the rule that selects, or the other answers.
    fn check(text: &str, change: impl FnOnce(&mut ProcSample), expect: Selection) {
        let config = rules(text);
        let mut s = sample(500);
        change(&mut s);
        let mut targets = Targets::default();
        targets.judge(&s, &config, &HostFacts::default());
        let got = targets.selection(s.proc);
        assert_eq!(got, expect, "{text}: {got}");
    }

    const fn by(rule: usize) -> Selection {
        Selection::Selected {
            rule: Some(rule),
            policy: PolicyId::Autocold,
            floor: Bytes::ZERO,
            moved_per_s: None,
            placed: true,
            tiered: true,
            cpuset: false,
        }
    }

    #[test]
    fn globs() {
        let table = [
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("?", "ä", true),
            ("a*b*c", "a12b34c", true),
            ("a*b*c", "a12b34", false),
            ("*.service", "x.service", true),
            ("*.service", "x.service2", false),
            ("/usr/*", "/usr/lib/x", true),
            ("mem*d", "memcached", true),
            ("*aab", "aaaab", true),
            ("a**", "a", true),
            ("[a]", "a", false),
        ];
        for (pattern, text, expect) in table {
            assert_eq!(glob(pattern, text), expect, "{pattern} on {text}");
        }
    }

    #[test]
    fn each_condition() {
        check("[[target]]\npid = 500", |_| {}, by(0));
        check("[[target]]\npid = 501", |_| {}, Selection::NotSelected);
        check("[[target]]\ncomm = 'mem*'", |_| {}, by(0));
        check("[[target]]\ncomm = 'memcached-with-long-name'", |s| s.comm = "memcached-with-".into(), by(0));
        check("[[target]]\nexe = '/usr/*/memcached'", |_| {}, by(0));
        check("[[target]]\nexe = '/usr/bin/memcached'", |s| s.exe.push_str(" (deleted)"), by(0));
        check("[[target]]\nuid = 107", |_| {}, by(0));
        check("[[target]]\nuid = 0", |_| {}, Selection::NotSelected);
        check("[[target]]\ncomm = 'memcached'\nuid = 0", |_| {}, Selection::NotSelected);
        check(
            "[daemon]\nall = true",
            |_| {},
            Selection::Selected {
                rule: None,
                policy: PolicyId::Autocold,
                floor: Bytes::ZERO,
                moved_per_s: None,
                placed: true,
                tiered: true,
                cpuset: false,
            },
        );
    }

    #[test]
    fn cgroups_and_units() {
        for cgroup in ["/system.slice", "/system.slice/", "/system.slice/memcached.service", "/system*", "/*/memcached.service"] {
            check(&format!("[[target]]\ncgroup = '{cgroup}'"), |_| {}, by(0));
        }
        check("[[target]]\ncgroup = '/system'", |_| {}, Selection::NotSelected);
        check("[[target]]\ncgroup = '/'", |_| {}, by(0));
        for unit in ["memcached.service", "mem*", "system.slice"] {
            check(&format!("[[target]]\nunit = '{unit}'"), |_| {}, by(0));
        }
        check("[[target]]\nunit = 'memcached*'", |s| s.cgroup = "/memcached".into(), Selection::NotSelected);
        check("[[target]]\nunit = 'memcached.scope'", |_| {}, Selection::NotSelected);
        check("[[target]]\nunit = 'app.service'", |s| s.cgroup = "/user.slice/user@1.service/app.service/sub".into(), by(0));
    }

    #[test]
    fn the_first_match_wins() {
        check("[[target]]\nuid = 0\n[[target]]\ncomm = 'mem*'\n[[target]]\npid = 500", |_| {}, by(1));
        check("[[target]]\ncomm = 'mem*'\nexclude = true\n[[target]]\npid = 500", |_| {}, Selection::Excluded(0));
        check("[daemon]\nall = true\n[[target]]\ncomm = 'mem*'\nexclude = true", |_| {}, Selection::Excluded(0));
        check(
            "[[target]]\npid = 500\npolicy = 'slide'\nfloor_mib = 3\nmoved_mib_per_s = 2",
            |_| {},
            Selection::Selected {
                rule: Some(0),
                policy: PolicyId::Slide,
                floor: Bytes::from_mib(3),
                moved_per_s: Some(Bytes::from_mib(2)),
                tiered: true,
                placed: true,
                cpuset: false,
            },
        );
    }

    #[test]
    fn rules_that_decide_for_nobody_are_named_with_what_was_compared() {
        let said = |text: &str| {
            let (mine, sshd) = (sample(500), ProcSample { comm: "sshd".into(), exe: "/usr/sbin/sshd".into(), ..sample(501) });
            vain_rules(&[&mine, &sshd], &rules(text), &HostFacts::default())
        };
        assert_eq!(said("[[target]]\ncomm = 'memcached'"), [""; 0]);
        assert_eq!(
            said("[[target]]\ncomm = '*'\n[[target]]\nexe = '/usr/bin/memcachd'\nuid = 107\nfloor_mib = 5"),
            [
                "target rule 2 (exe = \"/usr/bin/memcachd\", uid = 107) matches no process: of 2, exe fits 0 (compared with the link \
              /proc/PID/exe), uid fits 2 (compared with the effective user in /proc/PID/status)"
            ]
        );
        assert_eq!(
            said("[[target]]\nexclude = true\nunit = 'ssh.service'"),
            [
                "target rule 1 (unit = \"ssh.service\", exclude = true) matches no process: of 2, unit fits 0 (compared with the units \
              on the path in /proc/PID/cgroup)"
            ]
        );
        assert_eq!(
            said("[[target]]\ncomm = 'mem*'\n[[target]]\nuid = 107"),
            ["target rule 2 (uid = 107) decides for no process: of 2 that match, 1 fall to an earlier rule, 1 are protected"]
        );
        // To exclude what is protected is no mistake.
        assert_eq!(said("[[target]]\nexclude = true\ncomm = 'sshd'"), [""; 0]);
        assert_eq!(said("[[target]]\npid = 7").len(), 1);
    }

    #[test]
    fn protection_is_stronger_than_any_rule() {
        check("[daemon]\nall = true", |s| s.comm = "sshd".into(), Selection::Protected(Protection::RemoteLogin));
    }

    #[test]
    fn children_of_a_named_pid_follow_through_fork_exec_and_reparenting() {
        let config = rules("[[target]]\npid = 500");
        let mut targets = Targets::default();
        let facts = HostFacts::default();
        let parent = sample(500);
        targets.judge(&parent, &config, &facts);
        let mut child = ProcSample { parent: 500, ..sample(600) };
        targets.forked(parent.proc, child.proc);
        targets.exited(parent.proc);
        (child.parent, child.comm, child.exe) = (1, "java".into(), "/usr/bin/java".into());
        targets.judge(&child, &config, &facts);
        assert_eq!(targets.selection(child.proc), by(0));
        // A grandchild that was there before us.
        let grandchild = ProcSample { parent: 600, ..sample(700) };
        targets.judge(&grandchild, &config, &facts);
        assert_eq!(targets.selection(grandchild.proc), by(0));
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let config = rules("[[target]]\npid = 500");
        let mut targets = Targets::default();
        let facts = HostFacts::default();
        let first = sample(500);
        targets.judge(&first, &config, &facts);
        targets.exited(first.proc);
        let second = ProcSample { proc: ProcKey { pid: 500, start: 9999 }, ..sample(500) };
        targets.judge(&second, &config, &facts);
        assert_eq!(targets.selection(second.proc), Selection::NotSelected);
        // Asked for again, the number means who has it now.
        targets.reconfigured(&[&second], &config, &facts);
        assert_eq!(targets.selection(second.proc), by(0));
    }

    #[test]
    fn exec_is_judged_anew_and_exit_forgets() {
        let config = rules("[[target]]\ncomm = 'memcached'");
        let mut targets = Targets::default();
        let facts = HostFacts::default();
        let mut s = sample(500);
        targets.judge(&s, &config, &facts);
        assert_eq!(targets.selection(s.proc), by(0));
        s.comm = "bash".into();
        targets.judge(&s, &config, &facts);
        assert_eq!(targets.selection(s.proc), Selection::NotSelected);
        targets.exited(s.proc);
        assert!(targets.chosen.is_empty());
    }
}
