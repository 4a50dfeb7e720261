//! Cache rules: which memcached servers are looked after.

use crate::vocab::PolicyId;
use serde::{Deserialize, Serialize};

/// One memcached server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheRule {
    /// Where it listens. What stands here is read by whoever connects.
    pub server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat: Option<String>,
}

/// Policies that a rule may name.
const POLICIES: [PolicyId; 3] = [PolicyId::SlabMarginal, PolicyId::SlabExtstore, PolicyId::SlabAutomove];

/// Rules that are followed.
pub(super) const MOST: usize = crate::vocab::MOST_SERVERS;

pub(super) struct Key {
    pub name: &'static str,
    pub set: fn(&mut CacheRule, String),
    /// What it may be; empty: anything.
    pub one_of: &'static [&'static str],
    pub meaning: &'static str,
    /// A value for the sample file.
    pub example: &'static str,
}

/// All keys of `[[cache]]`, in the order of the sample file; messages, docs/knobs.md and the sample come from here.
pub(super) static KEYS: &[Key] = &[
    Key {
        name: "server",
        set: |rule, text| rule.server = text,
        one_of: &[],
        meaning: "HOST, HOST:PORT, [IPV6]:PORT, or the path of a unix socket.",
        example: "\"localhost:11211\"",
    },
    Key {
        name: "auth_file",
        set: |rule, text| rule.auth_file = Some(text),
        one_of: &[],
        meaning: "File whose first line is user:password, for a server that wants one (memcached -Y).",
        example: "\"/etc/memtier/memcached.auth\"",
    },
    Key {
        name: "policy",
        set: |rule, text| rule.policy = POLICIES.into_iter().find(|policy| policy.name() == text),
        one_of: &[POLICIES[0].name(), POLICIES[1].name(), POLICIES[2].name()],
        meaning: "Who decides: slab-marginal (if absent), or one of memcached's two automover scripts.",
        example: "\"slab-extstore\"",
    },
    Key {
        name: "compat",
        set: |rule, text| rule.compat = Some(text),
        one_of: &["2017"],
        meaning: "A script decides as it did in 2017, defects included.",
        example: "\"2017\"",
    },
];

impl CacheRule {
    #[must_use]
    pub fn policy(&self) -> PolicyId {
        self.policy.unwrap_or(PolicyId::SlabMarginal)
    }

    /// What makes the rule meaningless, in words; each names what to write instead. `before`: the rules before it.
    pub(super) fn faults(&self, before: &[Self]) -> Vec<String> {
        let Self { server, auth_file, policy: _, compat } = self;
        let mut faults = Vec::new();
        if server.is_empty() {
            faults.push("a cache rule needs a server: server = \"localhost:11211\"".to_owned());
        }
        if before.iter().any(|rule| rule.server == *server) {
            faults.push(format!("{server} is looked after already: name it once"));
        }
        if before.len() >= MOST {
            faults
                .push(format!("no more than {MOST} servers: let another memtier look after {server}, with a --run-dir of its own"));
        }
        if auth_file.as_deref().is_some_and(|file| !file.starts_with('/')) {
            faults.push("cache.auth_file is read by the daemon: give the whole path".to_owned());
        }
        if compat.is_some() && self.policy() == PolicyId::SlabMarginal {
            faults.push("cache.compat is of a script: name it, policy = \"slab-extstore\" or \"slab-automove\"".to_owned());
        }
        faults
    }
}
