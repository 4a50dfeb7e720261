//! Packages without installing any: a private apt state made from the machine's own sources, and archives unpacked into
//! directories of ours. The machine's apt, its sources and its packages stay as they are.

use crate::sh::{self, Ended};
use anyhow::{Context as _, Result, bail};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Suites that bring QEMU and the kernels. What a machine's own sources say of them: where they are, and who signs.
const SUITES: &str = "bookworm bookworm-updates bookworm-backports trixie-backports";
/// The release alone.
const RELEASE: &str = "bookworm bookworm-updates";
const SECURITY: &str = "bookworm-security";
/// Times that a download is begun before it counts as failed; apt itself repeats each file.
const TRIES: u64 = 3;

pub struct Apt {
    home: PathBuf,
    wanted: Wanted,
    updated: Cell<bool>,
}

/// What of the archives is looked at.
#[derive(Clone, Copy)]
struct Wanted {
    types: &'static str,
    suites: &'static str,
}

impl Apt {
    pub const fn new(home: PathBuf) -> Self {
        Self { home, wanted: Wanted { types: "deb", suites: SUITES }, updated: Cell::new(false) }
    }

    /// Of the release, source packages too.
    pub const fn with_sources(home: PathBuf) -> Self {
        Self { home, wanted: Wanted { types: "deb deb-src", suites: RELEASE }, updated: Cell::new(false) }
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = sh::command(program, &[], &self.home);
        let at = |place: &str| self.home.join(place).display().to_string();
        let options = [
            "Dir::Etc::SourceList=/dev/null".to_owned(),
            format!("Dir::Etc::SourceParts={}", at("sources")),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            // A machine may have the caches of the package lists off; then each question would parse them all.
            "Dir::Cache::pkgcache=pkgcache.bin".to_owned(),
            "Dir::Cache::srcpkgcache=srcpkgcache.bin".to_owned(),
            // Nothing is installed: the state of dpkg is only read, and another apt may hold its lock.
            "Debug::NoLocking=1".to_owned(),
            "DPkg::Lock::Timeout=300".to_owned(),
            "Acquire::Retries=5".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ];
        command.args(options.iter().flat_map(|o| ["-o", o])).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// What it prints goes to standard error: standard output belongs to the guest.
    fn run(&self, args: &[&str], dir: &Path) -> Result<()> {
        for again in 1.. {
            let mut command = self.command("apt-get", args);
            let ended = sh::follow(command.current_dir(dir), Duration::from_secs(900), Some(&mut |line| eprintln!("{line}")))?;
            match ended {
                Ended::Well => break,
                Ended::Badly(_) | Ended::Late if again == TRIES => bail!(
                    "`apt-get {}` failed {TRIES} times; see above. Is the package archive of /etc/apt reachable from here?",
                    args.join(" ")
                ),
                Ended::Badly(_) | Ended::Late => thread::sleep(Duration::from_secs(5 * again)),
            }
        }
        Ok(())
    }

    /// Reads the package lists once, before the first question.
    fn update(&self) -> Result<()> {
        if self.updated.get() {
            return Ok(());
        }
        for dir in ["sources", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.home.join(dir))?;
        }
        fs::write(self.home.join("sources/lab.sources"), sources(&machine_sources()?, self.wanted)?)?;
        self.run(&["-qq", "update"], &self.home)?;
        self.updated.set(true);
        Ok(())
    }

    /// Names of packages that begin so, as `apt-cache search` knows them.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.update()?;
        let pattern = format!("^{}", prefix.replace('.', "\\."));
        let found = sh::output(&mut self.command("apt-cache", &["search", "-n", &pattern])).context("apt-cache search failed")?;
        Ok(found.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// The archive of one package.
    pub fn archive(&self, name: &str) -> Result<Vec<PathBuf>> {
        self.update()?;
        let dir = self.empty("one")?;
        self.run(&["-qq", "download", name], &dir)?;
        archives(&dir)
    }

    /// Archives of a package and of all it needs and the machine has not.
    pub fn with_needs(&self, name: &str, suite: Option<&str>) -> Result<Vec<PathBuf>> {
        self.update()?;
        let dir = self.empty("all")?;
        fs::create_dir_all(dir.join("partial"))?;
        let into = format!("Dir::Cache::archives={}", dir.display());
        let mut args = vec!["-o", &into, "-qq", "-y", "--no-install-recommends", "--download-only"];
        args.extend(suite.into_iter().flat_map(|suite| ["-t", suite]));
        args.extend(["install", name]);
        self.run(&args, &dir)?;
        archives(&dir)
    }

    /// A source package: where its description lies, and beside it what it describes.
    pub fn source(&self, name: &str) -> Result<PathBuf> {
        self.update()?;
        let dir = self.empty("source")?;
        self.run(&["-qq", "--download-only", "source", name], &dir)?;
        let described = fs::read_dir(&dir)?.flatten().map(|e| e.path()).find(|path| path.extension().is_some_and(|e| e == "dsc"));
        described.with_context(|| format!("apt-get source {name} brought no .dsc"))
    }

    fn empty(&self, name: &str) -> Result<PathBuf> {
        let dir = self.home.join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

fn archives(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|e| e.path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == "deb"));
    found.sort();
    Ok(found)
}

/// Unpacks archives into a new directory, with /bin, /lib and /sbin as links into /usr like on the machine that it will be
/// laid over. `only` are patterns of tar; none take all. The directory is there afterwards only if it is whole.
pub fn unpack(archives: &[PathBuf], into: &Path, only: &[&str], finish: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let part = into.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    for name in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(part.join("usr").join(name))?;
        std::os::unix::fs::symlink(Path::new("usr").join(name), part.join(name))?;
    }
    let script = "a=$1 d=$2; shift 2; dpkg-deb --fsys-tarfile \"$a\" | tar -x --keep-directory-symlink -C \"$d\" \"$@\"";
    for archive in archives {
        let mut command = sh::command("sh", &["-c", script, "sh"], &part);
        command.arg(archive).arg(&part).args((!only.is_empty()).then_some("--wildcards")).args(only);
        // A pattern that meets nothing is an error of tar and none of ours.
        let ended = sh::follow(command.stderr(std::process::Stdio::null()), Duration::MAX, None)?;
        if only.is_empty() && ended != Ended::Well {
            bail!("cannot unpack {}", archive.display());
        }
    }
    finish(&part)?;
    fs::rename(&part, into).with_context(|| into.display().to_string())
}

/// All source files of the machine, in either form.
fn machine_sources() -> Result<Vec<String>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").map(|dir| dir.flatten().map(|e| e.path()).collect::<Vec<_>>());
    files.extend(parts.unwrap_or_default());
    files.retain(|f| f.extension().is_some_and(|e| e == "list" || e == "sources"));
    files.sort();
    let texts: Vec<String> = files.iter().filter_map(|f| fs::read_to_string(f).ok()).collect();
    if texts.is_empty() {
        bail!("the lab takes QEMU and kernels from Debian's archive, and this machine has no /etc/apt/sources.list(.d)");
    }
    Ok(texts)
}

/// One source: where, and the line that names who signs it.
#[derive(Debug, PartialEq, Eq)]
struct Archive {
    uris: String,
    suites: String,
    signed: Option<String>,
}

/// Sources of ours: the same archives and keys, other suites.
fn sources(texts: &[String], Wanted { types, suites }: Wanted) -> Result<String> {
    let all: Vec<Archive> = texts.iter().flat_map(|text| stanzas(text).into_iter().chain(one_liners(text))).collect();
    let has = |a: &Archive, suite: &dyn Fn(&str) -> bool| a.suites.split_whitespace().any(suite);
    let releases = ["bookworm", "trixie", "stable", "oldstable"];
    let main = all.iter().find(|a| has(a, &|s| releases.contains(&s)));
    let main = main.context("no source of this machine is Debian's: the lab's QEMU and kernels are Debian 12's")?;
    let security = all.iter().find(|a| has(a, &|s| s.ends_with("-security")));
    let stanza = |archive: &Archive, suites: &str| {
        let signed = archive.signed.as_ref().map_or_else(String::new, |key| format!("Signed-By: {key}\n"));
        format!("Types: {types}\nURIs: {}\nSuites: {suites}\nComponents: main\n{signed}\n", archive.uris)
    };
    Ok([(Some(main), suites), (security, SECURITY)].iter().filter_map(|(a, suites)| Some(stanza(a.as_ref()?, suites))).collect())
}

/// "URIs: ...", "Suites: ...", "Signed-By: ..." in paragraphs.
fn stanzas(text: &str) -> Vec<Archive> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|l| Some(l.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name))?.1.trim().to_owned()))
    };
    text.split("\n\n")
        .filter(|stanza| field(stanza, "Types").is_some_and(|t| t.split_whitespace().any(|t| t == "deb")))
        .filter(|stanza| field(stanza, "Enabled").is_none_or(|on| on != "no"))
        .filter_map(|s| Some(Archive { uris: field(s, "URIs")?, suites: field(s, "Suites")?, signed: field(s, "Signed-By") }))
        .collect()
}

/// "deb [signed-by=KEY] URI SUITE main".
fn one_liners(text: &str) -> Vec<Archive> {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("deb ")?.trim_start();
            let (options, rest) = rest.strip_prefix('[').and_then(|r| r.split_once(']')).unwrap_or(("", rest));
            let signed = options.split_whitespace().find_map(|o| o.strip_prefix("signed-by="));
            let mut words = rest.split_whitespace();
            Some(Archive { uris: words.next()?.into(), suites: words.next()?.into(), signed: signed.map(str::to_owned) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_give_ours() {
        let stanza = "Types: deb\n# a comment\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
                      Signed-By: /key\n\nTypes: deb\nURIs: http://mirror/security\nSuites: bookworm-security\nSigned-By: /key\n";
        let lines = "# deb http://old/ x main\ndeb [arch=amd64 signed-by=/key] http://mirror/debian bookworm main\n\
                     deb [signed-by=/key] http://mirror/security bookworm-security main\n";
        let wanted = Wanted { types: "deb", suites: SUITES };
        let ours = sources(&[stanza.to_owned()], wanted).expect("Debian's");
        assert_eq!(sources(&[lines.to_owned()], wanted).expect("Debian's"), ours);
        assert!(ours.starts_with(&format!(
            "Types: deb\nURIs: http://mirror/debian\nSuites: {SUITES}\nComponents: main\nSigned-By: /key\n"
        )));
        assert!(ours.contains("http://mirror/security"));
        assert!(sources(&["deb http://other/ jammy main\n".to_owned()], wanted).is_err());
        let theirs = sources(&[lines.to_owned()], Wanted { types: "deb deb-src", suites: RELEASE }).expect("Debian's");
        assert!(theirs.contains(&format!("Types: deb deb-src\nURIs: http://mirror/debian\nSuites: {RELEASE}\n")), "{theirs}");
    }
}
