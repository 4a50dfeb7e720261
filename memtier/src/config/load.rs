//! Sources in order, later ones over earlier ones, to one `Config` that knows where each value came from. Everything
//! wrong is reported at once, with the place and the way out.

use super::target::{self, Kind, POLICIES};
use super::{CacheRule, Config, KNOBS, Knob, TABLES, Target, Value, cache};
use crate::vocab::PolicyId;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Name of a source whose text stood on the command line (`--set scan.period_ms=5000` is TOML as it stands).
pub const COMMAND_LINE: &str = "command line";

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    CommandLine,
    Line { file: String, line: usize },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub config: Config,
    /// `table.key` of every knob that is not at its default by silence.
    pub origins: BTreeMap<String, Origin>,
    /// One for each of `config.target`.
    pub targets: Vec<Origin>,
    /// One for each of `config.cache`.
    pub caches: Vec<Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub at: Origin,
    pub message: String,
}

/// All that is wrong, in the order of the sources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

/// Merges (name, text) pairs: a knob keeps its last value, target rules queue up.
///
/// # Errors
/// Every syntax error, unknown or ill-typed key, value out of range and contradictory rule of all sources.
pub fn load(sources: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded { config: Config::default(), origins: BTreeMap::new(), targets: Vec::new(), caches: Vec::new() };
    let mut problems = Vec::new();
    for &(file, text) in sources {
        let mut source = Source { file, text, problems: Vec::new() };
        source.merge(&mut loaded);
        source.problems.sort();
        problems.append(&mut source.problems);
    }
    loaded.contradictions(&mut problems);
    if problems.is_empty() { Ok(loaded) } else { Err(ConfigError { problems }) }
}

/// The configuration as a recording holds it.
///
/// # Errors
/// As [`load`].
pub fn parse(canonical: &str) -> Result<Config, ConfigError> {
    load(&[("recorded configuration", canonical)]).map(|loaded| loaded.config)
}

impl Loaded {
    #[must_use]
    pub fn origin(&self, knob: &Knob) -> &Origin {
        self.origins.get(&format!("{}.{}", knob.table, knob.key)).unwrap_or(&Origin::Default)
    }

    fn contradictions(&self, problems: &mut Vec<Problem>) {
        let super::Trace { segment_mib, keep_mib, .. } = self.config.trace;
        if keep_mib < segment_mib {
            let at = ["trace.keep_mib", "trace.segment_mib"].iter().find_map(|key| self.origins.get(*key));
            let message = format!("trace.keep_mib = {keep_mib} is less than one segment (trace.segment_mib = {segment_mib})");
            problems.push(Problem { at: at.cloned().unwrap_or(Origin::Default), message });
        }
    }
}

struct Source<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
}

impl Source<'_> {
    fn merge(&mut self, loaded: &mut Loaded) {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.problem(error.span().map_or(0, |span| span.start), error.message().to_owned());
        }
        if !errors.is_empty() {
            return;
        }
        for (name, value) in document.get_ref() {
            let at = name.span().start;
            if name.get_ref() == "target" {
                self.targets(at, value, loaded);
            } else if name.get_ref() == "cache" {
                self.caches(at, value, loaded);
            } else if TABLES.iter().any(|(table, _)| table == name.get_ref()) {
                match value.get_ref() {
                    DeValue::Table(entries) => self.table(name.get_ref(), entries, loaded),
                    other => self.problem(at, format!("{} must be a table, not {}", name.get_ref(), described(other))),
                }
            } else {
                let tables: Vec<_> = TABLES.iter().map(|(table, _)| *table).chain(["target", "cache"]).collect();
                let guess = nearest(name.get_ref(), &tables).map(|t| format!("[{t}]"));
                self.problem(at, format!("unknown table [{}]{}", name.get_ref(), advice(guess, &tables)));
            }
        }
    }

    fn table(&mut self, table: &str, entries: &DeTable<'_>, loaded: &mut Loaded) {
        for (key, value) in entries {
            let at = key.span().start;
            let Some(knob) = KNOBS.iter().find(|k| k.table == table && k.key == key.get_ref()) else {
                let allowed: Vec<_> = KNOBS.iter().filter(|k| k.table == table).map(|k| k.key).collect();
                self.unknown(at, key.get_ref(), &format!("[{table}]"), &allowed);
                continue;
            };
            let name = format!("{table}.{}", knob.key);
            let parsed = match (knob.default, value.get_ref()) {
                (Value::Switch(_), DeValue::Boolean(on)) => Ok(Value::Switch(*on)),
                (Value::Switch(_), other) => Err(format!("{name} must be true or false, not {}", described(other))),
                (Value::Number(_), other) => number(&name, other, knob.range).map(Value::Number),
            };
            match parsed {
                Ok(value) => {
                    let taken = (knob.set)(&mut loaded.config, value);
                    debug_assert!(taken, "parsed by the type of the default");
                    loaded.origins.insert(name, self.origin(at));
                }
                Err(message) => self.problem(at, message),
            }
        }
    }

    fn targets(&mut self, at: usize, value: &Spanned<DeValue<'_>>, loaded: &mut Loaded) {
        for (at, entries) in self.rules(at, "target", value) {
            let before = self.problems.len();
            let rule = self.target(entries);
            // A rule with an unreadable key is not judged further: what is missing may be what could not be read.
            if self.problems.len() == before {
                for fault in rule.faults() {
                    self.problem(at, fault);
                }
            }
            loaded.config.target.push(rule);
            loaded.targets.push(self.origin(at));
        }
    }

    fn caches(&mut self, at: usize, value: &Spanned<DeValue<'_>>, loaded: &mut Loaded) {
        for (at, entries) in self.rules(at, "cache", value) {
            let before = self.problems.len();
            let rule = self.cache(entries);
            if self.problems.len() == before {
                for fault in rule.faults(&loaded.config.cache) {
                    self.problem(at, fault);
                }
            }
            loaded.config.cache.push(rule);
            loaded.caches.push(self.origin(at));
        }
    }

    fn cache(&mut self, entries: &DeTable<'_>) -> CacheRule {
        let mut rule = CacheRule::default();
        for (key, value) in entries {
            let at = key.span().start;
            let Some(known) = cache::KEYS.iter().find(|k| k.name == key.get_ref()) else {
                let allowed: Vec<_> = cache::KEYS.iter().map(|k| k.name).collect();
                self.unknown(at, key.get_ref(), "[[cache]]", &allowed);
                continue;
            };
            match value.get_ref() {
                DeValue::String(text) if known.one_of.is_empty() || known.one_of.contains(&&**text) => {
                    (known.set)(&mut rule, text.to_string());
                }
                other if known.one_of.is_empty() => {
                    self.problem(at, format!("cache.{} must be a string, not {}", known.name, described(other)));
                }
                other => {
                    let allowed = known.one_of.join(", ");
                    self.problem(at, format!("cache.{} must be one of {allowed}, not {}", known.name, described(other)));
                }
            }
        }
        rule
    }

    /// The tables of a list of rules, and where each begins.
    fn rules<'v>(&mut self, at: usize, name: &str, value: &'v Spanned<DeValue<'_>>) -> Vec<(usize, &'v DeTable<'v>)> {
        let rules = value.get_ref().as_array();
        let tables = rules.and_then(|r| r.iter().map(|r| Some((r.span().start, r.get_ref().as_table()?))).collect::<Option<_>>());
        tables.unwrap_or_else(|| {
            self.problem(at, format!("{name} is a list of rules: write [[{name}]] above each"));
            Vec::new()
        })
    }

    fn target(&mut self, entries: &DeTable<'_>) -> Target {
        let mut rule = Target::default();
        for (key, value) in entries {
            let at = key.span().start;
            let Some(known) = target::KEYS.iter().find(|k| k.name == key.get_ref()) else {
                let allowed: Vec<_> = target::KEYS.iter().map(|k| k.name).collect();
                self.unknown(at, key.get_ref(), "[[target]]", &allowed);
                continue;
            };
            let name = format!("target.{}", known.name);
            let fault = match (&known.kind, value.get_ref()) {
                (Kind::Number(low, high, set), other) => number(&name, other, (*low, *high)).map(|v| set(&mut rule, v)).err(),
                (Kind::Text(set), DeValue::String(text)) => {
                    set(&mut rule, text.to_string());
                    None
                }
                (Kind::Text(_), other) => Some(format!("{name} must be a string, not {}", described(other))),
                (Kind::Flag(set), DeValue::Boolean(on)) => {
                    set(&mut rule, *on);
                    None
                }
                (Kind::Flag(_), other) => Some(format!("{name} must be true or false, not {}", described(other))),
                (Kind::Policy(set), other) => match POLICIES.iter().find(|p| other.as_str() == Some(p.name())) {
                    Some(policy) => {
                        set(&mut rule, *policy);
                        None
                    }
                    None => {
                        Some(format!("{name} must be one of {}, not {}", POLICIES.map(PolicyId::name).join(", "), described(other)))
                    }
                },
            };
            if let Some(message) = fault {
                self.problem(at, message);
            }
        }
        rule
    }

    fn unknown(&mut self, at: usize, key: &str, table: &str, allowed: &[&str]) {
        let elsewhere = || KNOBS.iter().find(|k| k.key == key).map(|k| format!("[{}] {}", k.table, k.key));
        let guess = nearest(key, allowed).map(str::to_owned).or_else(elsewhere);
        self.problem(at, format!("unknown key {key} in {table}{}", advice(guess, allowed)));
    }

    fn problem(&mut self, at: usize, message: String) {
        let at = self.origin(at);
        self.problems.push(Problem { at, message });
    }

    fn origin(&self, at: usize) -> Origin {
        if self.file == COMMAND_LINE {
            return Origin::CommandLine;
        }
        let line = self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
        Origin::Line { file: self.file.to_owned(), line }
    }
}

fn number(name: &str, value: &DeValue<'_>, (low, high): (u64, u64)) -> Result<u64, String> {
    let DeValue::Integer(digits) = value else {
        return Err(format!("{name} must be a whole number, not {}", described(value)));
    };
    u64::from_str_radix(digits.as_str(), digits.radix())
        .ok()
        .filter(|v| (low..=high).contains(v))
        .ok_or_else(|| format!("{name} = {digits} is out of range {low} to {high}"))
}

fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("the string \"{s}\""),
        DeValue::Integer(i) => format!("the number {i}"),
        DeValue::Float(f) => format!("the fraction {f}"),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn advice(guess: Option<String>, allowed: &[&str]) -> String {
    let allowed = allowed.join(", ");
    guess.map_or_else(|| format!("; allowed: {allowed}"), |guess| format!("; did you mean {guess}? Allowed: {allowed}"))
}

/// The name that a typing error away was meant, if one is near enough.
fn nearest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    names
        .iter()
        .map(|name| (distance(word, name), *name))
        .min()
        .filter(|(d, name)| *d <= name.len().div_ceil(3))
        .map(|(_, name)| name)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::CommandLine => f.write_str(COMMAND_LINE),
            Self::Line { file, line } => write!(f, "{file}:{line}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}
