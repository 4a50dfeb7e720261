//! `memtier slab-automove`, the real binary: against a server that says what a test wants, and against a real one.
#![cfg(feature = "host")]

use memtier::daemon::lock::Lock;
use memtier_tests::fake_memcached::{Act, FakeMemcached, healthy};
use memtier_tests::memcached::Memcached;
use memtier_tests::{binary, need};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far beyond what anything here takes; hit only when it never happens.
const DEADLINE: Duration = Duration::from_secs(60);
const QUICK: [&str; 4] = ["-s", "0", "-w", "3"];

#[track_caller]
fn until(what: &str, look: impl Fn() -> bool) {
    let begun = Instant::now();
    while !look() {
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A mover with a run directory of its own; ends with its owner.
struct Mover {
    child: Child,
    memtier: PathBuf,
    dir: TempDir,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Mover {
    fn start(memtier: &Path, host: &str, options: &[&str]) -> Self {
        Self::at(memtier_tests::scratch(), memtier, host, options)
    }

    fn at(dir: TempDir, memtier: &Path, host: &str, options: &[&str]) -> Self {
        let mut child = command(memtier, dir.path(), host, options).stdout(Stdio::piped()).spawn().expect("it runs");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (out, log) = (child.stdout.take().expect("a pipe"), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                log.lock().expect("no reader panics").push(line);
            }
        });
        Self { child, memtier: memtier.to_owned(), dir, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no reader panics").clone()
    }
    fn says(&self, line: &str) -> bool {
        self.lines().iter().any(|said| said == line)
    }
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("it lives");
    }
    /// Its exit code, once it has ended.
    fn end(&mut self, by: Signal) -> Option<i32> {
        self.signal(by);
        self.child.wait().expect("ours").code()
    }
    fn undo(&self) -> (Option<i32>, String) {
        let out = Command::new(&self.memtier).arg("--run-dir").arg(self.dir.path()).arg("undo").output().expect("it runs");
        (out.status.code(), String::from_utf8(out.stdout).expect("UTF-8"))
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(memtier: &Path, run_dir: &Path, host: &str, options: &[&str]) -> Command {
    let mut command = Command::new(memtier);
    command.arg("--run-dir").arg(run_dir).args(["slab-automove", "--host", host]).args(options);
    command.stdin(Stdio::null()).env_remove("MEMTIER_LOG");
    command
}

/// One word to a real server, and what it says up to the end of the line or table.
fn ask(memcached: &Memcached, words: &str) -> String {
    let mut stream = memcached.connect().expect("it listens");
    stream.write_all(format!("{words}\r\nmn\r\n").as_bytes()).expect("it takes it");
    let (mut said, mut reader) = (String::new(), BufReader::new(stream));
    while !said.ends_with("MN\r\n") {
        assert!(reader.read_line(&mut said).expect("it answers") > 0, "it closed: {said}");
    }
    said
}
fn counter(memcached: &Memcached, table: &str, name: &str) -> u64 {
    let text = ask(memcached, table);
    let value = text.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} "))?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name}: {text}"))
}
fn automove(memcached: &Memcached) -> u64 {
    counter(memcached, "stats settings", "slab_automove")
}
fn host(memcached: &Memcached) -> String {
    memcached.socket.display().to_string()
}

/// A pool that is low, and an old class to take from.
fn low(line: &str) -> Act {
    healthy(line, 1, 1, 1, &[(1, 96, 50, 0, 4000), (20, 1024, 100, 0, 10), (25, 4096, 500, 0, 10)])
}
fn reassigns(fake: &FakeMemcached) -> usize {
    fake.heard().iter().filter(|line| line.starts_with("slabs reassign")).count()
}

#[test]
fn a_dry_run_sends_nothing() {
    let memtier = need!(binary("memtier"));
    for mode in [&[][..], &["--compat"], &["--no-extstore"]] {
        let fake = FakeMemcached::start(|line, _| low(line)).expect("a port");
        let mover = Mover::start(&memtier, &fake.address(), &[&QUICK[..], mode].concat());
        until("some looks", || fake.heard().len() > 40);
        let strange: Vec<String> = fake.heard().into_iter().filter(|line| !line.starts_with("stats") && line != "mn").collect();
        assert_eq!(strange, [""; 0], "{mode:?}");
        if mode != ["--no-extstore"] {
            until("a decision", || mover.says("moving page from, to: ('25', 0)"));
        }
        assert_eq!(std::fs::read_dir(mover.dir.path()).expect("scratch").count(), 0);
    }
}

#[test]
fn the_lines_of_the_script() {
    let memtier = need!(binary("memtier"));
    let fake = FakeMemcached::start(|line, _| low(line)).expect("a port");
    let mover = Mover::start(&memtier, &fake.address(), &["-s0", "-w3", "-a", "-v"]);
    until("two moves", || reassigns(&fake) >= 2);
    until("their lines", || mover.lines().len() >= 8);
    let expected = [
        "OK",
        "global pool: [1]",
        "global pool: [1]",
        "oldest:  [class: 25] [age: 500.00]",
        "moving page from, to: ('25', 0)",
        "move result: OK",
        "global pool: [1]",
        "oldest:  [class: 25] [age: 500.00]",
    ];
    assert_eq!(mover.lines()[..8], expected);
    let heard = fake.heard();
    for line in ["slabs automove 0", "slabs reassign 25 0", "extstore free_memchunks 20 150", "extstore free_memchunks 25 150"] {
        assert!(heard.iter().any(|said| said == line), "{line}: {heard:?}");
    }
    // The targets once, though there were more looks.
    assert_eq!(heard.iter().filter(|line| line.starts_with("extstore free_memchunks 20 ")).count(), 1);
}

#[test]
fn from_the_pool_to_the_young() {
    let memtier = need!(binary("memtier"));
    let start = |mode: &[&str]| {
        let pool_15 =
            |line: &str, _| healthy(line, 1, 15, 1, &[(1, 96, 50, 0, 4000), (20, 1024, 100, 0, 10), (25, 4096, 500, 0, 10)]);
        let fake = FakeMemcached::start(pool_15).expect("a port");
        let mover = Mover::start(&memtier, &fake.address(), &[&["-s0", "-w3", "-a"], mode].concat());
        until("some looks", || fake.heard().len() > 40);
        (mover.lines(), fake.heard().contains(&"slabs reassign 0 20".to_owned()))
    };
    let (lines, moved) = start(&[]);
    assert!(moved && lines.contains(&"moving page from, to: (0, '20')".to_owned()), "{lines:?}");
    // The original decides so, and then asks for a source above nought.
    assert_eq!(start(&["--compat"]), (vec!["OK".to_owned()], false));
}

#[test]
fn a_busy_server_is_left_alone() {
    let memtier = need!(binary("memtier"));
    let asked = |mode: &[&str]| {
        let busy = |line: &str, _| if line.starts_with("slabs r") { Act::Say("BUSY currently".into()) } else { low(line) };
        let fake = FakeMemcached::start(busy).expect("a port");
        let mover = Mover::start(&memtier, &fake.address(), &[&["-s0", "-w3", "-a", "-v"], mode].concat());
        let looks = || fake.heard().iter().filter(|line| *line == "stats slabs").count();
        until("fifty looks", || looks() > 50);
        assert!(mover.says("move result: BUSY currently"), "{:?}", mover.lines());
        reassigns(&fake)
    };
    // At the third look, and after 2, 4, 8, 16, 32 more.
    assert!(asked(&[]) <= 5);
    assert!(asked(&["--compat"]) > 40);
}

#[test]
fn what_the_server_refuses_is_not_asked_again_at_once() {
    let memtier = need!(binary("memtier"));
    for (reply, most) in [("NOSPARE source class has no spare pages", 30), ("CLIENT_ERROR slab reassignment disabled", 1)] {
        let refusing = move |line: &str, _| if line.starts_with("slabs r") { Act::Say(reply.into()) } else { low(line) };
        let fake = FakeMemcached::start(refusing).expect("a port");
        let _mover = Mover::start(&memtier, &fake.address(), &["-s0", "-w3", "-a"]);
        until("looks", || fake.heard().iter().filter(|line| *line == "stats slabs").count() > 70);
        assert!((1..=most).contains(&reassigns(&fake)), "{reply}: {}", reassigns(&fake));
    }
}

/// The original reads nothing from a connection that was closed, for ever.
#[test]
fn a_server_that_closes_is_connected_to_again() {
    let memtier = need!(binary("memtier"));
    let fake = FakeMemcached::start(|line, connection| if connection < 3 && line == "stats" { Act::Close } else { low(line) });
    let fake = fake.expect("a port");
    let begun = Instant::now();
    let mover = Mover::start(&memtier, &fake.address(), &QUICK);
    until("a decision", || mover.says("moving page from, to: ('25', 0)"));
    // 0.5, 1 and 2 s apart.
    assert!(begun.elapsed() > Duration::from_millis(3400) && fake.connections() == 4, "{:?}", begun.elapsed());
    let lost: Vec<String> = mover.lines().into_iter().filter(|line| line.starts_with("disconnected: ")).collect();
    assert_eq!(lost.len(), 3);
    assert!(lost[0].ends_with(" closed the connection, asked to stats items"), "{lost:?}");
}

#[test]
fn whatever_goes_wrong_is_said_and_tried_again() {
    let memtier = need!(binary("memtier"));
    type Misdeed = fn(&str, usize) -> Act;
    let bad: [(Misdeed, &[&str], &str); 4] = [
        (|_, _| Act::Hang, &["--timeout", "1"], "takes longer than 1.0 s to stats items"),
        (|_, _| Act::Say("blah".into()), &[], "answers \"blah\""),
        (|_, _| Act::Bytes(vec![b'x'; 100_000]), &[], "answers a line of more than 16384 bytes"),
        (|_, _| Act::Say("ERROR".into()), &[], "asked to stats items, refuses: ERROR"),
    ];
    for (act, options, why) in bad {
        let fake = FakeMemcached::start(act).expect("a port");
        let mover = Mover::start(&memtier, &fake.address(), &[&QUICK[..], options].concat());
        until(why, || mover.lines().iter().filter(|line| line.starts_with("disconnected: ") && line.ends_with(why)).count() >= 2);
        assert!(fake.connections() <= 4, "{why}: {}", fake.connections());
    }
    let nobody = memtier_tests::scratch().path().join("none").display().to_string();
    let mut mover = Mover::start(&memtier, &nobody, &QUICK);
    until("nobody", || mover.lines().iter().any(|line| line.starts_with("disconnected: cannot connect to ")));
    assert_eq!(mover.end(Signal::SIGINT), Some(0));
}

/// The original's way to begin: an exception a second until something is evicted.
#[test]
fn before_the_first_eviction() {
    let memtier = need!(binary("memtier"));
    let start = |mode: &[&str]| {
        let fresh = |line: &str, _| healthy(line, 1, 1, 0, &[(20, 1024, 100, 0, 10)]);
        let fake = FakeMemcached::start(fresh).expect("a port");
        let mover = Mover::start(&memtier, &fake.address(), &[&QUICK[..], mode].concat());
        until("some looks", || fake.heard().len() > 40);
        (fake.connections(), mover.lines())
    };
    assert_eq!(start(&[]), (1, vec![]));
    let (connections, lines) = start(&["--compat"]);
    assert!(connections > 5 && lines[0] == "disconnected: <class 'NameError'> name 'decision' is not defined", "{lines:?}");
}

#[test]
fn json_says_why() {
    let memtier = need!(binary("memtier"));
    let fake = FakeMemcached::start(|line, _| low(line)).expect("a port");
    let mover = Mover::start(&memtier, &fake.address(), &["-s0", "-w3", "-a", "--json"]);
    until("looks", || mover.lines().len() > 4);
    let lines: Vec<Value> = mover.lines().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let moved = lines.iter().find(|line| !line["pass"]["decision"].is_null()).expect("a move");
    assert_eq!((&moved["answer"], &moved["pass"]["rule"]), (&"OK".into(), &"pool-low".into()), "{moved}");
    assert_eq!((&moved["pass"]["oldest"]["class"], &moved["pass"]["pool_target"]), (&25.into(), &20.into()), "{moved}");
    assert_eq!(moved["pass"]["decision"], serde_json::json!({"from": {"class": 25}, "to": "pool"}));
}

#[test]
fn one_mover_a_server() {
    let memtier = need!(binary("memtier"));
    let (fake, other) = (FakeMemcached::start(|line, _| low(line)), FakeMemcached::start(|line, _| low(line)));
    let (fake, other) = (fake.expect("a port"), other.expect("a port"));
    let mover = Mover::start(&memtier, &fake.address(), &["-s0", "-a"]);
    until("it moves", || mover.says("OK"));
    let second = command(&memtier, mover.dir.path(), &fake.address(), &["-a"]).output().expect("it runs");
    let err = String::from_utf8_lossy(&second.stderr);
    assert!(second.status.code() == Some(4) && err.contains("(memtier slab-automove) holds "), "{err}");
    // Beside one of another server, and beside a daemon of ours.
    let _lock = Lock::take(mover.dir.path(), "run").expect("free");
    let mut second =
        command(&memtier, mover.dir.path(), &other.address(), &["-a"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut said = [0; 3];
    second.stdout.take().expect("a pipe").read_exact(&mut said).expect("it says something");
    kill(Pid::from_raw(i32::try_from(second.id()).expect("a pid")), Signal::SIGTERM).expect("it lives");
    assert_eq!((&said, second.wait().expect("ours").code()), (b"OK\n", Some(0)));
}

#[test]
fn the_scripts_by_their_names() {
    let memtier = need!(binary("memtier"));
    let dir = memtier_tests::scratch();
    for (name, line) in [
        ("memcached-automove-extstore", "global pool: [1]"),
        ("memcached-automove", "  20:        0 (0.00%)          1 (0.3333%)     10 (0.00%)    100"),
    ] {
        let fake = FakeMemcached::start(|line, _| low(line)).expect("a port");
        let link = dir.path().join(name);
        std::os::unix::fs::symlink(&memtier, &link).expect("scratch");
        let mut child =
            Command::new(&link).args(["--host", &fake.address(), "-v", "-s0"]).stdout(Stdio::piped()).spawn().expect("it runs");
        let found =
            BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok).take(20).any(|said| said == line);
        child.kill().expect("it lives");
        child.wait().expect("ours");
        assert!(found, "{name}");
    }
}

/// Fills a real server until it evicts, and leaves a few items: pages that nobody needs. Their class.
fn emptied(memcached: &Memcached) -> u64 {
    let mut stream = memcached.connect().expect("it listens");
    let value = "x".repeat(9000);
    for n in 0..2000 {
        write!(stream, "set key{n} 0 0 {} noreply\r\n{value}\r\n", value.len()).expect("it takes it");
    }
    // The oldest are gone already.
    for n in 0..1990 {
        write!(stream, "delete key{n} noreply\r\n").expect("it takes it");
    }
    write!(stream, "mn\r\n").expect("it takes it");
    let mut fence = [0; 4];
    stream.read_exact(&mut fence).expect("it answers");
    let text = ask(memcached, "stats items");
    let class = text.lines().find_map(|line| line.strip_prefix("STAT items:")?.split(':').next()?.parse().ok());
    class.expect("a class with items")
}

#[test]
fn a_real_servers_free_pages_go_to_the_pool() {
    let memtier = need!(binary("memtier"));
    for script in [&["-z", "20000"][..], &["--no-extstore"], &["--compat", "-z", "20000"]] {
        let memcached = need!(Memcached::start(16, &["-o", "slab_automove=0"]));
        let class = emptied(&memcached);
        let pages = || counter(&memcached, "stats slabs", &format!("{class}:total_pages"));
        let (before, pool) = (pages(), counter(&memcached, "stats", "slab_global_page_pool"));
        assert!(before > 8, "{before} pages");
        let mover = Mover::start(&memtier, &host(&memcached), &[&["-s0", "-w3", "-a", "-v"], script].concat());
        // All but what 2.5 pages of free chunks are worth.
        until("its pages are free", || pages() <= 4);
        until("and lie in the pool", || counter(&memcached, "stats", "slab_global_page_pool") >= pool + before - 4);
        assert!(
            mover.says(&format!("moving page from, to: ('{class}', 0)")) && mover.says("move result: OK"),
            "{:?}",
            mover.lines()
        );
    }
}

#[test]
fn a_real_servers_own_mover_comes_back() {
    let memtier = need!(binary("memtier"));
    let memcached = need!(Memcached::start(16, &[]));
    assert_eq!(automove(&memcached), 1);
    let start = |dir, options: &[&str]| {
        let mover = Mover::at(dir, &memtier, &host(&memcached), &[&["-s0", "-a"], options].concat());
        until("it is switched off", || mover.says("OK") && automove(&memcached) == 0);
        mover
    };
    for end in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut mover = start(memtier_tests::scratch(), &[]);
        assert_eq!((mover.end(end), automove(&memcached)), (Some(0), 1));
    }
    // Beneath one that runs nobody undoes.
    let mut mover = start(memtier_tests::scratch(), &[]);
    assert_eq!((mover.undo(), automove(&memcached)), ((Some(0), "nothing to undo\n".into()), 0));
    mover.end(Signal::SIGKILL);
    assert_eq!(automove(&memcached), 0);
    let (code, said) = mover.undo();
    let expected = format!("slabs automove of memcached at {} (pid {}): restored to \"1\"\n", host(&memcached), memcached.pid());
    assert_eq!((code, said, automove(&memcached)), (Some(0), expected, 1));
    assert_eq!(mover.undo().1, "nothing to undo\n");
    // Somebody knows better.
    let mut mover = start(memtier_tests::scratch(), &[]);
    assert!(ask(&memcached, "slabs automove 2").starts_with("OK"));
    assert_eq!((mover.end(Signal::SIGTERM), automove(&memcached)), (Some(0), 2));
    ask(&memcached, "slabs automove 1");
    // The scripts put nothing back; but it can be.
    let mut mover = start(memtier_tests::scratch(), &["--compat"]);
    assert_eq!((mover.end(Signal::SIGTERM), automove(&memcached)), (Some(0), 0));
    assert_eq!((mover.undo().0, automove(&memcached)), (Some(0), 1));
    // Killed, and started again: what it puts back is what was there before the first.
    let mut mover = start(memtier_tests::scratch(), &[]);
    mover.end(Signal::SIGKILL);
    let dir = std::mem::replace(&mut mover.dir, memtier_tests::scratch());
    let mut mover = start(dir, &[]);
    assert_eq!((mover.end(Signal::SIGTERM), automove(&memcached)), (Some(0), 1));
}

#[test]
fn a_server_that_was_started_anew_is_left_alone() {
    let memtier = need!(binary("memtier"));
    let fake = FakeMemcached::start(|line, connection| {
        // The mover's connection is of the first life, whoever undoes meets the second.
        healthy(line, if connection == 0 { 1 } else { 2 }, 1, 1, &[(20, 1024, 100, 0, 10), (25, 4096, 500, 0, 10)])
    });
    let fake = fake.expect("a port");
    let mut mover = Mover::start(&memtier, &fake.address(), &["-s0", "-w3", "-a"]);
    until("it moves", || reassigns(&fake) > 0);
    let before = fake.heard().iter().filter(|line| line.starts_with("slabs automove")).count();
    assert_eq!((mover.end(Signal::SIGTERM), before), (Some(0), 1));
    // Asked who it is, and nothing else.
    assert!(fake.connections() > 1 && !fake.heard().iter().any(|line| line == "slabs automove 1"), "{:?}", fake.heard());
    assert!(fake.heard().iter().all(|line| line != "extstore free_memchunks 20 0"), "{:?}", fake.heard());
}

#[test]
fn what_extstore_keeps_free_goes_back() {
    let memtier = need!(binary("memtier"));
    let fake = FakeMemcached::start(|line, _| low(line)).expect("a port");
    let mut mover = Mover::start(&memtier, &fake.address(), &["-s0", "-w3", "-a"]);
    until("targets", || fake.heard().iter().any(|line| line == "extstore free_memchunks 25 150"));
    mover.end(Signal::SIGKILL);
    let (code, said) = mover.undo();
    assert_eq!(code, Some(0), "{said}");
    for class in [1, 20, 25] {
        assert!(
            said.contains(&format!(
                "extstore free_memchunks {class} of memcached at {} (pid 1): restored to \"0\"\n",
                fake.address()
            )),
            "{said}"
        );
        assert!(fake.heard().iter().any(|line| *line == format!("extstore free_memchunks {class} 0")));
    }
}
