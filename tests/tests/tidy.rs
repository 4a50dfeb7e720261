//! What the compiler cannot hold: which way imports run, where `unsafe` stands, what must be documented.

use memtier::vocab::Rule;
use memtier_tests::root;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up; names in one row may use each other, but for those in `APART`.
const LAYERS: &[&[&str]] = &[
    &["vocab"],
    &["compat"],
    &["config"],
    &["model"],
    &["policy", "plan"],
    &["trace"],
    &["sim"],
    &["sys"],
    &["observe", "act"],
    &["daemon"],
    &["ui"],
    &["cli"],
];
const APART: [&str; 2] = ["observe", "act"];
/// Layers that compile without a kernel.
const PURE: [&str; 8] = ["vocab", "config", "model", "policy", "plan", "trace", "sim", "compat"];
/// What would let the outside into them.
const OUTSIDE: [&str; 8] =
    ["Instant::now", "SystemTime", "std::fs", "std::net", "std::process", "std::thread", "std::env", "std::os"];
const UNSAFE_MAY: [&str; 4] = ["memtier-ebpf/", "memtier-common/", "memtier/src/sys/", "memtier/src/observe/bpf/"];
const LINES_MOST: usize = 700;

/// A source file: path from the root, text, and the text with comments, strings and characters blanked.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The part before the tests in it.
    fn body(&self) -> &str {
        self.code.split("#[cfg(test)]").next().unwrap_or_default()
    }
    /// Its parent module takes it in only with the feature `host`.
    fn needs_host(&self, all: &[Self]) -> bool {
        let Some((dir, name)) = self.path.rsplit_once('/') else { return false };
        let declared = ["mod ", "pub mod "].map(|m| format!("#[cfg(feature = \"host\")]\n{m}{};", name.trim_end_matches(".rs")));
        let parent = all.iter().find(|s| s.path == format!("{dir}/mod.rs"));
        parent.is_some_and(|p| declared.iter().any(|d| p.text.contains(d)))
    }
    /// The folder or file of `memtier/src` it belongs to.
    fn layer(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("memtier/src/")?;
        Some(inside.split('/').next()?.trim_end_matches(".rs"))
    }
}

fn files(of: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a folder of the tree is readable").map(|e| e.expect("an entry")) {
            let (path, name) = (entry.path(), entry.file_name());
            let hidden = name == ".git" || name == "target";
            match entry.file_type().expect("an entry has a type") {
                kind if kind.is_dir() && !hidden => open.push(path),
                kind if kind.is_file() && of(&path) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let relative = |p: &Path| p.strip_prefix(root()).expect("inside the root").display().to_string();
    files(|p| p.extension().is_some_and(|e| e == "rs"))
        .into_iter()
        .map(|p| {
            let text = fs::read_to_string(&p).expect("a source file is text");
            Source { path: relative(&p), code: blank(&text), text }
        })
        .collect()
}

/// Blanks comments, strings and character literals; keeps line breaks.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let len = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            find(rest, b"*/", 2)
        } else if rest[0] == b'r' && !word_before && raw_hashes(rest).is_some() {
            let hashes = raw_hashes(rest).unwrap_or_default();
            let mut close = vec![b'"'];
            close.resize(hashes + 1, b'#');
            find(rest, &close, hashes + 2)
        } else if rest[0] == b'"' {
            quoted(rest, b'"')
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || char_literal(&text[at + 1..])) {
            quoted(rest, b'\'')
        } else {
            at += 1;
            continue;
        };
        out[at..at + len].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at += len;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `'x'` and not the lifetime `'x`.
fn char_literal(after: &str) -> bool {
    after.chars().nth(1) == Some('\'')
}
fn raw_hashes(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    (rest.get(1 + hashes) == Some(&b'"')).then_some(hashes)
}
fn find(rest: &[u8], close: &[u8], from: usize) -> usize {
    rest[from..].windows(close.len()).position(|w| w == close).map_or(rest.len(), |i| from + i + close.len())
}
fn quoted(rest: &[u8], close: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != close {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Byte offsets where `word` stands as a whole identifier.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let ident = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(i, _)| i).filter(move |&i| {
        !code[..i].chars().next_back().is_some_and(ident) && !code[i + word.len()..].chars().next().is_some_and(ident)
    })
}

/// Names of our own modules that follow `crate::`, in groups too.
fn imports(code: &str) -> Vec<String> {
    let ident = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for start in words(code, "crate") {
        let Some(rest) = code[start + "crate".len()..].strip_prefix("::") else { continue };
        let Some(group) = rest.strip_prefix('{') else {
            names.push(ident(rest));
            continue;
        };
        let (mut depth, mut fresh) = (1, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                c if fresh && !c.is_whitespace() => {
                    names.push(ident(&group[i..]));
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

fn none(faults: &str) {
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn the_scanner_sees_code_and_only_code() {
    let text = "use crate::{model::{a, b}, plan}; // crate::cli\nlet c = 'x'; fn f<'a>() { \"unsafe\"; r#\"crate::sys\"#; crate::trace::x() }";
    let code = blank(text);
    assert_eq!(imports(&code), ["model", "plan", "trace"]);
    assert_eq!(words(&code, "unsafe").count(), 0);
    assert_eq!(words("unsafe { } unsafe_op x.unsafe", "unsafe").count(), 2);
    assert_eq!(code.len(), text.len());
}

#[test]
fn imports_run_upward_only() {
    let mut faults = String::new();
    for source in sources() {
        let Some(layer) = source.layer() else { continue };
        let Some(own) = rank(layer) else {
            if !matches!(layer, "lib" | "main") {
                let _ = writeln!(faults, "{}: {layer} has no place among the layers", source.path);
            }
            continue;
        };
        for name in imports(source.body()) {
            let wrong =
                rank(&name).is_some_and(|r| r > own) || (APART.contains(&layer) && APART.contains(&name.as_str()) && name != layer);
            if wrong {
                let _ = writeln!(faults, "{}: {layer} must not know {name}", source.path);
            }
        }
    }
    none(&faults);
}

#[test]
fn the_thinking_half_has_no_clock_and_no_io() {
    let mut faults = String::new();
    let all = sources();
    for source in all.iter().filter(|s| s.layer().is_some_and(|l| PURE.contains(&l)) && !s.needs_host(&all)) {
        // Recordings are files, and not for everybody's eyes.
        let files_may = source.layer() == Some("trace");
        let may = |o: &str| files_may && matches!(o, "std::fs" | "std::os");
        for outside in OUTSIDE.iter().filter(|o| source.body().contains(**o) && !may(o)) {
            let _ = writeln!(faults, "{}: {outside}", source.path);
        }
    }
    none(&faults);
}

#[test]
fn unsafe_stands_only_where_the_kernel_is_met() {
    let mut faults = String::new();
    for source in sources().iter().filter(|s| !UNSAFE_MAY.iter().any(|dir| s.path.starts_with(dir))) {
        for at in words(&source.code, "unsafe") {
            let _ = writeln!(faults, "{}:{}", source.path, source.code[..at].lines().count());
        }
    }
    none(&faults);
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    let mut faults = String::new();
    for source in sources() {
        for at in words(&source.code, "allow")
            .filter(|at| source.code[..*at].ends_with(['[', '(', ' ']) && source.code[at + 5..].starts_with('('))
        {
            let _ = writeln!(faults, "{}:{}", source.path, source.code[..at].lines().count());
        }
    }
    none(&faults);
}

#[test]
fn files_stay_short_enough_to_live_in() {
    let mut faults = String::new();
    for source in sources() {
        let lines = source.body().lines().count();
        if lines > LINES_MOST {
            let _ = writeln!(faults, "{}: {lines} lines before its tests, {LINES_MOST} at most", source.path);
        }
    }
    none(&faults);
}

#[test]
fn every_module_says_what_it_is() {
    let mut faults = String::new();
    for source in sources() {
        let head = source.text.lines().find(|l| !l.is_empty() && !l.starts_with("#![")).unwrap_or_default();
        if !head.starts_with("//!") {
            let _ = writeln!(faults, "{}: no module documentation at its head", source.path);
        }
    }
    none(&faults);
}

#[test]
fn every_dependency_has_a_reason() {
    let mut faults = String::new();
    for manifest in files(|p| p.file_name().is_some_and(|n| n == "Cargo.toml")) {
        let text = fs::read_to_string(&manifest).expect("a manifest is text");
        let mut inside = false;
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line.ends_with("dependencies]");
                continue;
            }
            let inherited = line.contains("workspace = true");
            let ours = line.contains("path = ");
            if inside && line.contains('=') && !inherited && !ours && !line.contains(" # ") {
                let _ = writeln!(faults, "{}: {line}", manifest.display());
            }
        }
    }
    none(&faults);
}

#[test]
fn every_rule_is_documented() {
    let text = fs::read_to_string(root().join("docs/rules.md")).expect("docs/rules.md");
    let mut faults = String::new();
    for rule in Rule::ALL {
        let head = format!("\n### {rule}\n");
        let said = text.split(&head).nth(1).and_then(|t| t.split("\n##").next()).unwrap_or_default();
        if said.split_whitespace().count() < 10 {
            let _ = writeln!(faults, "docs/rules.md: \"### {rule}\" is missing or says nothing");
        }
    }
    for head in text.lines().filter_map(|l| l.strip_prefix("### ")) {
        if !Rule::ALL.iter().any(|r| r.name() == head) {
            let _ = writeln!(faults, "docs/rules.md: no rule is called {head}");
        }
    }
    none(&faults);
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // In two parts, so that this file does not name them.
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/tmp/", "wt/")];
    let mut faults = String::new();
    for path in files(|p| p.extension().is_some_and(|e| ["rs", "md", "toml", "txt", "service", "sh"].iter().any(|x| e == *x))) {
        let text = fs::read_to_string(&path).expect("a text file");
        for (n, line) in text.lines().enumerate() {
            let named = places.iter().any(|place| {
                line.match_indices(place)
                    .any(|(i, _)| !line[..i].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_./".contains(c)))
            });
            if named {
                let _ = writeln!(faults, "{}:{}: {line}", path.display(), n + 1);
            }
        }
    }
    none(&faults);
}
