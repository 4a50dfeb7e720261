//! `memcached-suite`: memcached's own tests, in Perl, of Debian's source package, while memtier is at each server that they start.
//! First it watches and decides, and does not act; then it acts under the tests of the LRU and of watchers.
//!
//! The package comes by a private apt state. It is built with what the tests need (memcached-debug), in target/memcached-suite;
//! remove that to fetch and build anew. A file that fails runs again without memtier: then it shows whose fault it is.

use crate::sh::{self, Ended};
use crate::vm::apt::{self, Apt};
use crate::{build, setup};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PACKAGE: &str = "memcached";
/// What is needed to build it beside a compiler.
const NEEDS: [&str; 3] = ["libevent-dev", "libsasl2-dev", "libssl-dev"];
/// As in the package's own rules.
const CONFIGURE: [&str; 2] = ["--enable-sasl", "--enable-tls"];
/// What a test runs.
const PROGRAMS: [&str; 2] = ["memcached-debug", "timedrun"];
const WRAPPER: &str = include_str!("memcached_suite.sh");
/// Checks the blanks of a checkout; the package's own rules leave it out.
const LEFT_OUT: [&str; 1] = ["whitespace.t"];
/// The longest takes two minutes.
const CAP: Duration = Duration::from_secs(600);

/// What memtier does meanwhile.
struct Round {
    name: &'static str,
    what: &'static str,
    /// Subcommand and options.
    verb: &'static str,
    /// Beginnings of names of the files that run; all without any.
    files: &'static [&'static str],
}

const ROUNDS: [Round; 3] = [
    Round {
        name: "watching",
        what: "`memtier run` watches each server and decides, and does not act",
        verb: "run --set caches.period_ms=200 --set caches.warmup_s=0",
        files: &[],
    },
    Round {
        name: "acting",
        what: "`memtier run --act`, in a hurry: it moves what little it sees a gain in",
        verb: "run --act --set caches.period_ms=50 --set caches.warmup_s=0 --set caches.window_s=2 --set caches.hysteresis_permil=0 \
               --set caches.least_gain_milli=1 --set caches.payback_s=3600",
        files: &["lru", "watcher"],
    },
    Round {
        name: "moving",
        what: "`memtier slab-automove -a` as for a server with extstore, which keeps a pool: it moves pages all the time",
        verb: "slab-automove -a -v -s 0 -w 2",
        files: &["lru", "watcher"],
    },
];

/// Asserts that one item outlives others; who takes the page that it lies on takes it too.
const ON_ONE_PAGE: (&str, &str) = ("moving", "lru-maintainer.t");
/// One test of this file fails if anybody has looked at the server's counters: "initial bytes_written is zero". If it is the only one
/// prove sums up so.
const NOBODY_LOOKED: (&str, &str) = ("stats.t", "Failed test:  11");
/// What a file says of itself has lines of whole items.
const SHOWN: usize = 160;

/// Counts a server's watchers: one more fails it. There memtier goes by counters alone.
const COUNTS_WATCHERS: &str = "watcher.t";
const NO_WATCHER: &str = " --set caches.watch_evictions=false --set caches.fetchers_on_ms=0";

/// Words of files that look at pages, or move them on their own: what they find when somebody else moves some tells nothing.
const PAGES: [&str; 4] = ["total_pages", "slabs_moved", "slab_global_page_pool", "slabs reassign"];

/// How a file went.
#[derive(Debug, PartialEq, Eq)]
enum Went {
    Passed,
    Skipped(String),
    Failed,
}

pub fn run(root: &Path, memtier: Option<&Path>, only: &[String]) -> Result<()> {
    setup::ensure(root)?;
    for (program, package) in [("make", "make"), ("prove", "perl"), ("dpkg-source", "dpkg-dev"), ("patch", "patch")] {
        sh::output(&mut sh::command(program, &["--version"], root))
            .with_context(|| format!("no {program}: apt-get install {package}"))?;
    }
    let memtier = memtier.map_or_else(|| build::run(root), |given| Ok(std::path::absolute(given)?))?;
    let home = root.join("target/memcached-suite");
    let source = source(&home)?;
    let files = files(&source, only)?;
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
    for round in &ROUNDS {
        let chosen: Vec<&String> = files.iter().filter(|file| round.takes(file)).collect();
        let (place, began) = (Place::make(&home, &source, round, &memtier)?, Instant::now());
        println!("\n==== {}: {}", round.name, round.what);
        for file in chosen {
            if (round.name, file.as_str()) == ON_ONE_PAGE {
                skipped.push(format!("{}: {file}: asserts that an item stays whose page moves", round.name));
                continue;
            }
            match place.test(file)? {
                Went::Passed => passed += 1,
                Went::Skipped(why) => skipped.push(format!("{}: {file}: {why}", round.name)),
                Went::Failed => failed.push(format!("{}: {file}{}", round.name, place.without(file)?)),
            }
        }
        println!("==== {}: {} in {:.0} s", round.name, place.seen()?, began.elapsed().as_secs_f64());
    }
    let on_pages: Vec<&String> = files.iter().filter(|file| on_pages(&source, file)).collect();
    println!("\nassert where pages are, and only run while nobody moves any: {on_pages:?}");
    skipped.iter().for_each(|skip| println!("SKIPPED {skip}"));
    failed.iter().for_each(|failure| println!("FAILED {failure}"));
    println!("{passed} passed, {} failed, {} skipped", failed.len(), skipped.len());
    if failed.is_empty() { Ok(()) } else { bail!("memcached's tests failed beside memtier") }
}

impl Round {
    fn takes(&self, file: &str) -> bool {
        self.files.is_empty() || self.files.iter().any(|beginning| file.starts_with(beginning))
    }
}

/// Names of the test files.
fn files(source: &Path, only: &[String]) -> Result<Vec<String>> {
    let dir = source.join("t");
    let entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut files: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    files.retain(|file| file.ends_with(".t") && !LEFT_OUT.contains(&file.as_str()));
    files.retain(|file| only.is_empty() || only.contains(file));
    files.sort();
    if files.is_empty() { bail!("no such test in {}", dir.display()) } else { Ok(files) }
}

fn on_pages(source: &Path, file: &str) -> bool {
    let text = fs::read(source.join("t").join(file)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    PAGES.iter().any(|word| text.contains(word))
}

/// The built source tree.
fn source(home: &Path) -> Result<PathBuf> {
    let tree = home.join("source");
    if tree.exists() {
        return Ok(tree);
    }
    fs::create_dir_all(home)?;
    println!("memcached-suite: fetching and building {PACKAGE}");
    let apt = Apt::with_sources(home.join("apt"));
    let (mut include, mut link) = ("CPPFLAGS=".to_owned(), "LDFLAGS=".to_owned());
    for name in NEEDS {
        let dir = home.join(name);
        if !dir.exists() {
            // None where the machine has it.
            apt::unpack(&apt.with_needs(name, None)?, &dir, &[], relink)?;
        }
        include += &format!(" -I{}", dir.join("usr/include").display());
        for libraries in directories(&dir.join("usr/lib"))? {
            link += &format!(" -L{}", libraries.display());
        }
    }
    let part = home.join("source.part");
    let _ = fs::remove_dir_all(&part);
    // apt has compared the sums; who signed them is known to those who have Debian's developers' keys.
    let described = apt.source(PACKAGE)?;
    sh::run(sh::command("dpkg-source", &["--no-check", "-x"], home).arg(described).arg(&part))?;
    sh::run(sh::command("./configure", &["--quiet"], &part).args(CONFIGURE).arg(include).arg(link))?;
    sh::run(sh::command("make", &["--quiet", "-j2"], &part).args(PROGRAMS))?;
    fs::rename(&part, &tree)?;
    Ok(tree)
}

fn directories(of: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(of).with_context(|| of.display().to_string())?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

/// What a library is linked by points to a file beside it, which the machine has where such files are, and not here.
fn relink(unpacked: &Path) -> Result<()> {
    for dir in directories(&unpacked.join("usr/lib"))? {
        for link in fs::read_dir(&dir)?.flatten().map(|entry| entry.path()).filter(|path| path.is_symlink() && !path.exists()) {
            let there = Path::new("/usr/lib").join(dir.file_name().unwrap_or_default()).join(fs::read_link(&link)?);
            if there.exists() {
                fs::remove_file(&link)?;
                symlink(there, &link)?;
            }
        }
    }
    Ok(())
}

/// Where the tests of a round run: the tests themselves, and ours in the place of their server.
struct Place {
    dir: PathBuf,
    logs: PathBuf,
    server: PathBuf,
    memtier: PathBuf,
    verb: &'static str,
}

impl Place {
    fn make(home: &Path, source: &Path, round: &Round, memtier: &Path) -> Result<Self> {
        let dir = home.join(round.name);
        let _ = fs::remove_dir_all(&dir);
        let logs = dir.join("logs");
        fs::create_dir_all(&logs)?;
        for name in ["t", "timedrun"] {
            symlink(source.join(name), dir.join(name))?;
        }
        let [server, _] = PROGRAMS;
        let wrapper = dir.join(server);
        fs::write(&wrapper, WRAPPER)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        Ok(Self { server: source.join(server), dir, logs, memtier: memtier.to_owned(), verb: round.verb })
    }

    /// One file; what it says about its tests only if one fails.
    fn run(&self, file: &str, memtier: bool) -> Result<Went> {
        let began = Instant::now();
        let mut command = sh::command("prove", &[&format!("t/{file}")], &self.dir);
        command.env("SUITE_SERVER", &self.server).env("SUITE_LOGS", &self.logs).env("SUITE_VERB", self.verb_for(file));
        command.env("SUITE_MEMTIER", if memtier { self.memtier.as_os_str() } else { "".as_ref() });
        let mut said = Vec::new();
        let ended = sh::follow(&mut command, CAP, Some(&mut |line| said.push(line.to_owned())))?;
        let skipped = said.iter().find_map(|line| line.split_once(".. skipped: ")).map(|(_, why)| why.to_owned());
        let looked = memtier && file == NOBODY_LOOKED.0 && said.iter().any(|line| line.trim() == NOBODY_LOOKED.1);
        let went = match (ended, skipped) {
            (Ended::Well, Some(why)) => Went::Skipped(why),
            (Ended::Well, None) => Went::Passed,
            (Ended::Badly(_), None) if looked => Went::Passed,
            (Ended::Badly(_) | Ended::Late, _) => Went::Failed,
        };
        if went == Went::Failed {
            said.iter().for_each(|line| println!("  {}", line.chars().take(SHOWN).collect::<String>()));
        }
        println!("{} {file} ({:.1} s)", went.word(), began.elapsed().as_secs_f64());
        Ok(went)
    }

    fn verb_for(&self, file: &str) -> String {
        let counters = self.verb.starts_with("run ") && file == COUNTS_WATCHERS;
        format!("{}{}", self.verb, if counters { NO_WATCHER } else { "" })
    }

    fn test(&self, file: &str) -> Result<Went> {
        self.run(file, true)
    }

    /// Whether a file that failed does so without memtier too, in words.
    fn without(&self, file: &str) -> Result<&'static str> {
        println!("once more, without memtier:");
        Ok(match self.run(file, false)? {
            Went::Failed => " (and without memtier)",
            Went::Passed | Went::Skipped(_) => "",
        })
    }

    /// At how many servers memtier was, and what it did there, in words.
    fn seen(&self) -> Result<String> {
        let servers = directories(&self.logs)?;
        let logs: Vec<String> = servers.iter().map(|dir| fs::read_to_string(dir.join("log")).unwrap_or_default()).collect();
        let lines = |of: &[&str]| {
            let ours = |line: &&str| of.iter().all(|word| line.contains(word));
            logs.iter().map(|log| log.lines().filter(ours).count()).sum::<usize>()
        };
        let (advised, ordered) = (lines(&[" advice ", " move-slab-page "]), lines(&[" step ", " move-slab-page "]));
        let ordered = ordered + lines(&["move result: OK"]);
        Ok(format!("memtier was at {} servers, advised {advised} moves of pages and ordered {ordered}", servers.len()))
    }
}

impl Went {
    const fn word(&self) -> &'static str {
        match self {
            Self::Passed => "ok     ",
            Self::Skipped(_) => "skipped",
            Self::Failed => "FAILED ",
        }
    }
}
