//! Target rules: which processes, under which policy, how far.

use crate::vocab::PolicyId;
use serde::{Deserialize, Serialize};

/// One target rule. All conditions given must hold; the first rule that matches a process decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exclude: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_mib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_mib_per_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset: Option<bool>,
}

/// What a key of a rule takes, and where it goes. A number arrives inside its range.
pub(super) enum Kind {
    Number(u64, u64, fn(&mut Target, u64)),
    Text(fn(&mut Target, String)),
    Flag(fn(&mut Target, bool)),
    Policy(fn(&mut Target, PolicyId)),
}

pub(super) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub meaning: &'static str,
    /// A value for the sample file.
    pub example: &'static str,
}

/// Policies that a rule may name; arming follows from the others.
pub(super) const POLICIES: [PolicyId; 3] = [PolicyId::Autocold, PolicyId::Slide, PolicyId::Watch];

/// All keys of `[[target]]`, in the order of the sample file; messages, docs/knobs.md and the sample come from here.
pub(super) static KEYS: &[Key] = &[
    Key {
        name: "pid",
        kind: Kind::Number(1, 1 << 22, |t, v| t.pid = u32::try_from(v).ok()),
        meaning: "This process and those it forks.",
        example: "1234",
    },
    Key {
        name: "comm",
        kind: Kind::Text(|t, v| t.comm = Some(v)),
        meaning: "Process name; `*` and `?` as in a shell.",
        example: "\"memcached\"",
    },
    Key {
        name: "exe",
        kind: Kind::Text(|t, v| t.exe = Some(v)),
        meaning: "Path of the executable; `*` and `?` as in a shell.",
        example: "\"/usr/lib/jvm/*/bin/java\"",
    },
    Key {
        name: "cgroup",
        kind: Kind::Text(|t, v| t.cgroup = Some(v)),
        meaning: "Memory cgroup path and everything below it; `*` and `?` as in a shell.",
        example: "\"/user.slice\"",
    },
    Key {
        name: "unit",
        kind: Kind::Text(|t, v| t.unit = Some(v)),
        meaning: "systemd unit, with its suffix.",
        example: "\"memcached.service\"",
    },
    Key {
        name: "uid",
        kind: Kind::Number(0, u32::MAX as u64, |t, v| t.uid = u32::try_from(v).ok()),
        meaning: "Effective user id.",
        example: "1000",
    },
    Key { name: "exclude", kind: Kind::Flag(|t, v| t.exclude = v), meaning: "Leave matching processes alone.", example: "true" },
    Key {
        name: "policy",
        kind: Kind::Policy(|t, v| t.policy = Some(v)),
        meaning: "Policy for matching processes: autocold (if absent), slide, or watch to look only.",
        example: "\"autocold\"",
    },
    Key {
        name: "floor_mib",
        kind: Kind::Number(0, 1 << 30, |t, v| t.floor_mib = Some(v)),
        meaning: "Resident memory of a matching process that is never taken.",
        example: "512",
    },
    Key {
        name: "moved_mib_per_s",
        kind: Kind::Number(0, 1 << 20, |t, v| t.moved_mib_per_s = Some(v)),
        meaning: "This rule's share of budget.moved_mib_per_s; 0 moves nothing.",
        example: "64",
    },
    Key {
        name: "numa",
        kind: Kind::Flag(|t, v| t.numa = Some(v)),
        meaning: "Place threads and memory of a matching process among nodes (true if absent, unless policy is watch).",
        example: "false",
    },
    Key {
        name: "tier",
        kind: Kind::Flag(|t, v| t.tier = Some(v)),
        meaning: "Move memory of a matching process between fast and slow nodes (true if absent, unless policy is watch).",
        example: "false",
    },
    Key {
        name: "cpuset",
        kind: Kind::Flag(|t, v| t.cpuset = Some(v)),
        meaning: "Where numa binds a matching process, bind its cgroup (version 2) as one by cpuset.cpus, not each thread by its affinity (false if absent).",
        example: "true",
    },
];

impl Target {
    /// What makes the rule meaningless, in words; each names what to write instead.
    pub(super) fn faults(&self) -> Vec<String> {
        let Self { pid, comm, exe, cgroup, unit, uid, exclude, policy, floor_mib, moved_mib_per_s, numa, tier, cpuset } = self;
        let mut faults = Vec::new();
        let texts = [("comm", comm), ("exe", exe), ("cgroup", cgroup), ("unit", unit)];
        if pid.is_none() && uid.is_none() && texts.iter().all(|(_, text)| text.is_none()) {
            faults
                .push("a target rule needs a condition: pid, comm, exe, cgroup, unit or uid (comm = \"*\" matches all)".to_owned());
        }
        for (key, text) in texts {
            if text.as_deref() == Some("") {
                faults.push(format!("target.{key} is empty and matches nothing; leave the key out to match any"));
            }
        }
        for (key, path) in [("exe", exe), ("cgroup", cgroup)] {
            if path.as_deref().is_some_and(|p| !p.is_empty() && !p.starts_with(['/', '*', '?'])) {
                faults.push(format!("target.{key} is matched from the root: begin it with \"/\" or \"*\""));
            }
        }
        if let Some(unit) = unit.as_deref().filter(|u| !u.is_empty() && !u.contains('.')) {
            faults.push(format!("target.unit needs the suffix of the unit: \"{unit}.service\"?"));
        }
        let places = numa.is_some() || tier.is_some() || cpuset.is_some();
        if *exclude && (policy.is_some() || floor_mib.is_some() || moved_mib_per_s.is_some() || places) {
            faults.push(
                "target.exclude contradicts policy, floor_mib, moved_mib_per_s, numa, tier and cpuset: keep one side".to_owned(),
            );
        }
        if !*exclude && *cpuset == Some(true) && (*numa == Some(false) || *policy == Some(PolicyId::Watch)) {
            faults.push(
                "target.cpuset says how numa binds, and numa = false or policy = \"watch\" lets it bind nobody: keep one"
                    .to_owned(),
            );
        }
        faults
    }
}
