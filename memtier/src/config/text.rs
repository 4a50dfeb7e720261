//! `Config` back to text: the canonical form that a recording holds, and everything generated from the knob table.

use super::target::{self, Kind};
use super::{Config, KNOBS, Knob, Loaded, Origin, TABLES, Value, cache};
use serde::Serialize;
use std::fmt::{Display, Write};

/// One rule, as an element of the array of that name.
#[must_use]
pub fn rule_text(array: &str, note: impl Display, rule: &impl Serialize) -> String {
    let rule = toml::to_string(rule).expect("a rule is a flat table of scalars");
    format!("[[{array}]]{note}\n{rule}")
}

const INFALLIBLE: &str = "writing to a String cannot fail";

/// The whole configuration as TOML in one fixed form: every knob, in table order, then the targets.
#[must_use]
pub fn canonical(config: &Config) -> String {
    render(config, |_| String::new(), |_| String::new(), |_| String::new())
}

/// The same with the origin of every value behind it; still TOML.
#[must_use]
pub fn annotated(loaded: &Loaded) -> String {
    let note = |origin: &Origin| format!(" # {origin}");
    let rule = |origins: &[Origin], i| origins.get(i).map_or_else(String::new, note);
    render(&loaded.config, |knob| note(loaded.origin(knob)), |i| rule(&loaded.targets, i), |i| rule(&loaded.caches, i))
}

fn render(
    config: &Config,
    knob_note: impl Fn(&Knob) -> String,
    rule_note: impl Fn(usize) -> String,
    cache_note: impl Fn(usize) -> String,
) -> String {
    let mut out = String::new();
    for (table, _) in TABLES {
        writeln!(out, "[{table}]").expect(INFALLIBLE);
        for knob in knobs(table) {
            writeln!(out, "{} = {}{}", knob.key, (knob.get)(config), knob_note(knob)).expect(INFALLIBLE);
        }
    }
    for (i, rule) in config.target.iter().enumerate() {
        out.push_str(&rule_text("target", rule_note(i), rule));
    }
    for (i, rule) in config.cache.iter().enumerate() {
        out.push_str(&rule_text("cache", cache_note(i), rule));
    }
    out
}

/// The sample file: every knob as a comment at its default, so that a later default still reaches whoever copies it.
#[must_use]
pub fn sample() -> String {
    let mut out = String::from(
        "# memtier.toml: generated from the knob table; every value shown is the default.\n\
         # Further files in memtier.d/*.toml beside this one are laid over it, in the order of their names.\n\
         # `memtier check` prints the merged result with the origin of every value.\n",
    );
    for (table, purpose) in TABLES {
        out.push('\n');
        comment(&mut out, purpose);
        writeln!(out, "[{table}]").expect(INFALLIBLE);
        for knob in knobs(table) {
            comment(&mut out, knob.meaning);
            writeln!(out, "# {}", limits(knob)).expect(INFALLIBLE);
            writeln!(out, "#{} = {}", knob.key, knob.default).expect(INFALLIBLE);
        }
    }
    out.push_str("\n# Target rules, in order; all conditions of a rule must hold and the first rule that matches decides.\n");
    out.push_str("#[[target]]\n");
    for key in target::KEYS {
        writeln!(out, "# {}\n#{} = {}", key.meaning, key.name, key.example).expect(INFALLIBLE);
    }
    out.push_str("\n# memcached servers to look after, each once.\n#[[cache]]\n");
    for key in cache::KEYS {
        writeln!(out, "# {}\n#{} = {}", key.meaning, key.name, key.example).expect(INFALLIBLE);
    }
    out
}

/// docs/knobs.md.
#[must_use]
pub fn knobs_markdown() -> String {
    let mut out = String::from(
        "# Knobs\n\n\
         Generated from `memtier/src/config/knobs.rs` (`cargo xtask bless` rewrites it). Files are TOML; `memtier check` prints the\n\
         merged configuration with the origin of every value, and `--set table.key=value` overrides one for one run.\n",
    );
    for (table, purpose) in TABLES {
        write!(out, "\n## [{table}]\n\n{}\n\n", one_line(purpose)).expect(INFALLIBLE);
        out.push_str("| knob | default | range | off | meaning |\n|---|---|---|---|---|\n");
        for knob in knobs(table) {
            let range = match knob.default {
                Value::Number(_) => format!("{} to {}", knob.range.0, knob.range.1),
                Value::Switch(_) => "true, false".to_owned(),
            };
            let Knob { key, default, off, meaning, .. } = knob;
            writeln!(out, "| `{key}` | {default} | {range} | {off} | {} |", one_line(meaning)).expect(INFALLIBLE);
        }
    }
    out.push_str(
        "\n## [[target]]\n\n\
         Rules in order. All conditions given in a rule must hold, and the first rule that matches a process decides. Without a\n\
         rule (and without `daemon.all`) nothing is selected and nothing is acted on. Files of the drop-in directory append rules.\n\n\
         | key | takes | meaning |\n|---|---|---|\n",
    );
    for key in target::KEYS {
        let takes = match key.kind {
            Kind::Number(low, high, _) => format!("{low} to {high}"),
            Kind::Text(_) => "string".to_owned(),
            Kind::Flag(_) => "true, false".to_owned(),
            Kind::Policy(_) => target::POLICIES.map(|p| format!("\"{p}\"")).join(", "),
        };
        writeln!(out, "| `{}` | {takes} | {} |", key.name, key.meaning).expect(INFALLIBLE);
    }
    out.push_str(
        "\n## [[cache]]\n\n\
         memcached servers to look after, each once (docs/policies/slab-marginal.md); `--cache SERVER` is such a rule. Files of the\n\
         drop-in directory append rules.\n\n\
         | key | takes | meaning |\n|---|---|---|\n",
    );
    for key in cache::KEYS {
        let quoted = key.one_of.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let takes = if key.one_of.is_empty() { "string" } else { quoted.as_str() };
        writeln!(out, "| `{}` | {takes} | {} |", key.name, key.meaning).expect(INFALLIBLE);
    }
    out
}

/// The knob list of `--help`.
#[must_use]
pub fn help() -> String {
    let mut out = String::from("Knobs (configuration file, or --set table.key=value):\n");
    for knob in KNOBS {
        let Knob { table, key, default, meaning, .. } = knob;
        write!(out, "  {table}.{key} = {default}\n      {} {}\n", one_line(meaning), limits(knob)).expect(INFALLIBLE);
    }
    out
}

fn knobs(table: &str) -> impl Iterator<Item = &'static Knob> {
    KNOBS.iter().filter(move |knob| knob.table == table)
}

fn limits(knob: &Knob) -> String {
    let off = if knob.off.is_empty() { String::new() } else { format!(" Off: {}.", knob.off) };
    match knob.default {
        Value::Number(_) => format!("{} to {}.{off}", knob.range.0, knob.range.1),
        Value::Switch(_) => format!("true or false.{off}"),
    }
}

fn one_line(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn comment(out: &mut String, doc: &str) {
    for line in doc.lines() {
        writeln!(out, "# {}", line.trim()).expect(INFALLIBLE);
    }
}
