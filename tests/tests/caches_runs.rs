//! `memtier run --cache`, the real binary: with real servers under traffic that shifts, and with ones that misbehave.
#![cfg(feature = "host")]

use memtier_tests::daemon::{Daemon, Run, output, trace_dir};
use memtier_tests::fake_memcached::{Act, FakeMemcached};
use memtier_tests::memcached::Memcached;
use memtier_tests::zipf::Zipf;
use memtier_tests::{Owned, binary, need, scratch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far beyond what anything here takes; hit only when it never happens.
const DEADLINE: Duration = Duration::from_secs(90);
/// Looks often; waits long, for cores may be busy.
const QUICK: [&str; 8] = [
    "--set",
    "caches.period_ms=100",
    "--set",
    "caches.warmup_s=1",
    "--set",
    "caches.window_s=8",
    "--set",
    "caches.timeout_ms=10000",
];
/// What a server that is made up told once counts for long, and nothing waits long for one that hangs.
const LONG: [&str; 2] = ["--set", "caches.window_s=60"];
const IMPATIENT: [&str; 2] = ["--set", "caches.timeout_ms=500"];

#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(memtier: &Path, dir: &TempDir, options: &[&str], record: bool) -> Daemon {
    let options = [&QUICK[..], options].concat();
    Daemon::start(memtier, dir.path(), &Run { pid: None, config: "", options: &options, record, cpu: None }).expect("it runs")
}

/// The first server that a daemon looks after.
fn view(daemon: &Daemon) -> Value {
    let text = daemon.ask(&["caches", "--json"]).expect("it answers");
    serde_json::from_str::<Value>(&text).expect("JSON")["servers"][0].clone()
}

fn text<'a>(view: &'a Value, key: &str) -> &'a str {
    view[key].as_str().unwrap_or_default()
}

/// One word to a real server, and what it says up to the end of the line or table.
fn ask(server: &Memcached, words: &str) -> String {
    let mut stream = server.connect().expect("it listens");
    stream.write_all(format!("{words}\r\nmn\r\n").as_bytes()).expect("it takes it");
    let (mut said, mut reader) = (String::new(), BufReader::new(stream));
    while !said.ends_with("MN\r\n") {
        assert!(reader.read_line(&mut said).expect("it answers") > 0, "it closed: {said}");
    }
    said
}

fn counter(server: &Memcached, table: &str, name: &str) -> u64 {
    let text = ask(server, table);
    text.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} "))?.parse().ok()).unwrap_or(0)
}

fn automove(server: &Memcached) -> u64 {
    counter(server, "stats settings", "slab_automove")
}

fn host(server: &Memcached) -> String {
    server.socket.display().to_string()
}

/// Asks for items, and stores what it asked for in vain.
struct Client {
    stream: UnixStream,
    seed: u64,
}

impl Client {
    fn new(server: &Memcached, seed: u64) -> Self {
        Self { stream: server.connect().expect("it listens"), seed }
    }

    fn unit(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A hundred requests, and how many of them were misses.
    fn hundred(&mut self, name: &str, zipf: &Zipf, size: usize) -> usize {
        let keys: Vec<String> = (0..100).map(|_| format!("{name}{}", zipf.draw(|| self.unit()))).collect();
        let gets: String = keys.iter().map(|key| format!("mg {key} k\r\n")).collect();
        self.stream.write_all(format!("{gets}mn\r\n").as_bytes()).expect("it takes requests");
        let said = self.read();
        let missed: Vec<&String> = keys.iter().filter(|key| !said.contains(&format!("HD k{key}\r\n"))).collect();
        let value = "v".repeat(size);
        let sets: String = missed.iter().map(|key| format!("set {key} 0 0 {size} noreply\r\n{value}\r\n")).collect();
        self.stream.write_all(format!("{sets}mn\r\n").as_bytes()).expect("it takes items");
        self.read();
        missed.len()
    }

    fn read(&mut self) -> String {
        let (mut said, mut buffer) = (Vec::new(), [0; 8192]);
        while !said.ends_with(b"MN\r\n") {
            let read = self.stream.read(&mut buffer).expect("it answers");
            assert!(read > 0, "it closed");
            said.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8(said).expect("text")
    }
}

/// Traffic of small items until memory is full, then of large ones until the end of the scope.
fn shift(server: &Memcached, over: &AtomicBool) {
    let mut client = Client::new(server, 7);
    let (small, large) = (Zipf::new(60_000), Zipf::new(4000));
    while counter(server, "stats", "evictions") == 0 && !over.load(SeqCst) {
        for _ in 0..20 {
            client.hundred("small", &small, 500);
        }
    }
    while !over.load(SeqCst) {
        client.hundred("large", &large, 5000);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Pages of the class of large items.
fn large_pages(view: &Value) -> u64 {
    let classes = view["classes"].as_array().cloned().unwrap_or_default();
    classes.iter().filter(|c| c["chunk_size"].as_u64() > Some(4000)).filter_map(|c| c["pages"].as_u64()).sum()
}

#[test]
fn pages_follow_the_traffic_and_the_servers_own_mover_comes_back() {
    let memtier = need!(binary("memtier"));
    let (server, dir, over) = (need!(Memcached::start(24, &[])), scratch(), AtomicBool::new(false));
    assert_eq!(automove(&server), 1);
    std::thread::scope(|scope| {
        let end = until_dropped(&over);
        scope.spawn(|| shift(&server, &over));
        let daemon = start(&memtier, &dir, &["--act", "--cache", &host(&server)], true);
        let last = until("pages for the large items", || Some(view(&daemon)).filter(|view| large_pages(view) >= 12));
        assert_eq!(automove(&server), 0, "{last}");
        // The server may drop some of its records, and says so.
        assert!(last["moves"].as_u64() > Some(0) && last["events"].as_u64() > Some(0) && last["lost"].is_u64(), "{last}");
        assert_eq!(last["pid"].as_u64(), Some(u64::from(server.pid())), "{last}");
        let log = last["log"].to_string();
        assert!(log.contains("slab-gain") && log.contains("; done"), "{log}");
        // Right after a move nothing is refused.
        until("why no page moves", || daemon.ask(&["explain"]).ok().filter(|text| text.contains("slab-marginal")));
        assert!(daemon.ask(&["status", "--footprint"]).is_ok_and(|text| text.contains("slabs automove of memcached")));
        drop(end);
        daemon.end().expect("it ends");
    });
    assert_eq!(automove(&server), 1);
    let mut verify = Command::new(&memtier);
    verify.arg("replay").arg(trace_dir(dir.path())).arg("--verify");
    output(verify).expect("the recording gives the same decisions");
}

/// Ends the traffic, also when an assertion fails.
fn until_dropped(over: &AtomicBool) -> impl Drop {
    struct Guard<'a>(&'a AtomicBool);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    Guard(over)
}

#[test]
fn a_daemon_that_is_killed_leaves_what_the_next_one_puts_back() {
    let memtier = need!(binary("memtier"));
    let (server, dir) = (need!(Memcached::start(8, &[])), scratch());
    let run = |options: &[&str]| -> Owned {
        let mut command = Command::new(&memtier);
        command.arg("--run-dir").arg(dir.path()).arg("run").args(QUICK).args(options).args(["--cache", &host(&server)]);
        Owned(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs"))
    };
    let mut child = run(&["--act"]);
    until("the server's own mover is still", || (automove(&server) == 0).then_some(()));
    child.kill();
    assert_eq!(automove(&server), 0);
    let mut next = run(&[]);
    until("it comes back", || (automove(&server) == 1).then_some(()));
    kill(Pid::from_raw(i32::try_from(next.0.id()).expect("a pid")), Signal::SIGTERM).expect("it lives");
    assert!(next.0.wait().expect("ours").success());
}

#[test]
fn several_servers_and_one_that_is_started_anew() {
    let memtier = need!(binary("memtier"));
    let (one, dir) = (need!(Memcached::start(8, &[])), scratch());
    let socket = dir.path().join("two.sock");
    let server = |socket: &PathBuf| -> Owned {
        let mut command = Command::new("memcached");
        Owned(command.args(["-u", "root", "-m", "8", "-s"]).arg(socket).stdin(Stdio::null()).spawn().expect("memcached"))
    };
    let mut two = server(&socket);
    let place = socket.display().to_string();
    let daemon = start(&memtier, &dir, &["--act", "--cache", &host(&one), "--cache", &place], false);
    let servers = || -> Vec<Value> {
        let text = daemon.ask(&["caches", "--json"]).expect("it answers");
        serde_json::from_str::<Value>(&text).expect("JSON")["servers"].as_array().cloned().unwrap_or_default()
    };
    let seen = |at: usize| servers().get(at).filter(|view| view["blind"].is_null()).and_then(|view| view["pid"].as_u64());
    until("both are seen", || seen(0).zip(seen(1)));
    let first = seen(1);
    two.kill();
    until("one is gone", || servers()[1]["blind"].as_str().filter(|why| why.contains("two.sock")).map(str::to_owned));
    assert_eq!(seen(0), Some(u64::from(one.pid())), "the other is not touched by that");
    let _ = std::fs::remove_file(&socket);
    let _two = server(&socket);
    until("it is seen again, another one", || seen(1).filter(|pid| Some(*pid) != first));
    until("its mover rests, too", || {
        let mut stream = UnixStream::connect(&socket).ok()?;
        stream.write_all(b"stats settings\r\n").ok()?;
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| line != "END");
        lines.any(|line| line == "STAT slab_automove 0").then_some(())
    });
    daemon.end().expect("it ends");
}

/// A server of two classes, one of which evicts fifty items a look that come back; `watch` is what it answers to `watch evictions`.
fn healthy(looks: &AtomicU64, line: &str, watch: &str) -> Act {
    Act::Say(match line {
        "stats" => "STAT pid 1\nSTAT uptime 10\nSTAT time 1000\nSTAT version 1.6.18\nSTAT slab_global_page_pool 0\n\
                    STAT slab_reassign_running 0\nSTAT slabs_moved 0\nEND"
            .to_owned(),
        "stats settings" => "STAT slab_reassign yes\nSTAT slab_automove 0\nSTAT lru_segmented yes\nEND".to_owned(),
        "stats items" => {
            let evicted = 900 + 50 * looks.fetch_add(1, SeqCst);
            format!(
                "STAT items:5:number 1000\nSTAT items:5:age 9\nSTAT items:5:evicted 7\nSTAT items:9:number 10\nSTAT items:9:age 1\n\
                 STAT items:9:evicted {evicted}\nEND"
            )
        }
        "stats slabs" => "STAT 5:chunk_size 240\nSTAT 5:chunks_per_page 100\nSTAT 5:total_pages 10\nSTAT 5:used_chunks 1000\n\
                          STAT 5:free_chunks 0\nSTAT 9:chunk_size 2400\nSTAT 9:chunks_per_page 10\nSTAT 9:total_pages 1\n\
                          STAT 9:used_chunks 10\nSTAT 9:free_chunks 0\nEND"
            .to_owned(),
        "mn" => "MN".to_owned(),
        "watch evictions" => watch.to_owned(),
        _ => "OK".to_owned(),
    })
}

/// Twenty keys that are evicted time and again.
fn churn() -> String {
    let record = |n: usize| format!("ts=1.{n} gid={n} type=eviction key=secret{} fetch=no ttl=-1 la=0 clsid=9 size=2000\n", n % 20);
    "OK\n".to_owned() + &(0..400).map(record).collect::<String>()
}

fn reassigns(fake: &FakeMemcached) -> usize {
    fake.heard().iter().filter(|line| line.starts_with("slabs reassign")).count()
}

#[test]
fn a_dry_run_sends_nothing() {
    let memtier = need!(binary("memtier"));
    let looks = AtomicU64::new(0);
    let fake = FakeMemcached::start(move |line, _| healthy(&looks, line, &churn())).expect("a port");
    let dir = scratch();
    let daemon = start(&memtier, &dir, &[&LONG[..], &["--cache", &fake.address()]].concat(), false);
    let seen = until("advice", || Some(view(&daemon)).filter(|view| view["log"].to_string().contains("advice")));
    assert_eq!(seen["acts"], false);
    let strange: Vec<String> =
        fake.heard().into_iter().filter(|line| !line.starts_with("stats") && line != "mn" && !line.starts_with("watch")).collect();
    assert_eq!(strange, [""; 0]);
}

#[test]
fn a_server_that_goes_in_the_middle_of_a_move() {
    let memtier = need!(binary("memtier"));
    for how in ["close", "hang", "busy"] {
        let looks = AtomicU64::new(0);
        let fake = FakeMemcached::start(move |line, _| match (line.starts_with("slabs reassign"), how) {
            (true, "close") => Act::Close,
            (true, "hang") => Act::Hang,
            (true, _) => Act::Say("BUSY currently processing reassign request".into()),
            (false, _) => healthy(&looks, line, &churn()),
        })
        .expect("a port");
        let dir = scratch();
        let patience = if how == "hang" { &IMPATIENT[..] } else { &[] };
        let daemon = start(&memtier, &dir, &[&LONG[..], patience, &["--act", "--cache", &fake.address()]].concat(), false);
        let refused = |view: &Value| text(view, "held").contains("server-refuses");
        let seen = until("a step that failed", || Some(view(&daemon)).filter(refused));
        assert!(seen["log"].to_string().contains("failed: move-slab-page on cache 0"), "{seen}");
        assert_eq!((&seen["moves"], &seen["blind"]), (&Value::from(0), &Value::Null), "{seen}");
        // It is tried again, and less and less.
        until("another try", || (reassigns(&fake) >= 2).then_some(()));
        assert!(reassigns(&fake) < 12);
        daemon.end().expect("it ends");
    }
}

#[test]
fn ok_is_not_moved() {
    let memtier = need!(binary("memtier"));
    let looks = AtomicU64::new(0);
    let fake = FakeMemcached::start(move |line, _| healthy(&looks, line, &churn())).expect("a port");
    let dir = scratch();
    let daemon = start(&memtier, &dir, &[&LONG[..], &["--act", "--cache", &fake.address()]].concat(), false);
    let seen = until("an outcome", || Some(view(&daemon)).filter(|view| view["log"].to_string().contains("no page came")));
    assert_eq!(seen["moves"], 0, "{seen}");
}

#[test]
fn servers_that_misbehave_are_blind_with_a_reason_and_left_alone_for_longer_and_longer() {
    let memtier = need!(binary("memtier"));
    let garbage = || Act::Bytes(b"\x00\xff\r\nwhat\r\n".to_vec());
    for (how, said) in [("garbage", "answers"), ("hang", "takes longer than"), ("close", "closed the connection")] {
        let looks = AtomicU64::new(0);
        let fake = FakeMemcached::start(move |line, _| match how {
            "garbage" => garbage(),
            "hang" => Act::Hang,
            _ if line == "stats slabs" => Act::Close,
            _ => healthy(&looks, line, "ERROR"),
        })
        .expect("a port");
        let dir = scratch();
        let daemon = start(&memtier, &dir, &[&IMPATIENT[..], &["--act", "--cache", &fake.address()]].concat(), false);
        let seen = until("it is blind", || Some(view(&daemon)).filter(|view| text(view, "blind").contains(said)));
        assert!(text(&seen, "blind").contains(&fake.address()), "{seen}");
        until("that is why nothing moves", || Some(view(&daemon)).filter(|view| text(view, "held").contains("source-blind")));
        std::thread::sleep(Duration::from_secs(2));
        // 0.5 s, 1 s, 2 s apart; each with its own timeout.
        assert!(fake.connections() <= 8, "{} connections", fake.connections());
        daemon.end().expect("it ends");
    }
}

#[test]
fn numbers_beyond_all_bounds_end_nobody() {
    let memtier = need!(binary("memtier"));
    let looks = AtomicU64::new(0);
    let fake = FakeMemcached::start(move |line, _| match healthy(&looks, line, &churn()) {
        // Every other time.
        Act::Say(table) if matches!(line, "stats items" | "stats slabs") && looks.load(SeqCst).is_multiple_of(2) => {
            let huge = |line: &str| line.rsplit_once(' ').map_or(line.to_owned(), |(name, _)| format!("{name} {}", u64::MAX));
            Act::Say(table.lines().map(huge).collect::<Vec<_>>().join("\n"))
        }
        act => act,
    })
    .expect("a port");
    let dir = scratch();
    let daemon = start(&memtier, &dir, &[&LONG[..], &["--act", "--cache", &fake.address()]].concat(), false);
    let looked = || fake.heard().iter().filter(|line| *line == "stats slabs").count();
    until("twenty looks", || (looked() >= 20).then_some(()));
    assert_eq!(view(&daemon)["classes"].as_array().map(Vec::len), Some(2));
    daemon.end().expect("it ends");
}

#[test]
fn a_server_without_a_record_of_evictions_is_watched_by_its_counters() {
    let memtier = need!(binary("memtier"));
    let looks = AtomicU64::new(0);
    let fake = FakeMemcached::start(move |line, _| healthy(&looks, line, "ERROR")).expect("a port");
    let dir = scratch();
    let daemon = start(&memtier, &dir, &["--act", "--cache", &fake.address()], false);
    let seen = until("it says so", || Some(view(&daemon)).filter(|view| view["lacks"].to_string().contains("evictions")));
    assert!(seen["blind"].is_null() && seen["classes"].as_array().is_some_and(|classes| classes.len() == 2), "{seen}");
}

#[test]
fn records_rest_until_another_class_evicts() {
    let memtier = need!(binary("memtier"));
    let (looks, turned) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let turns = Arc::clone(&turned);
    let fake = FakeMemcached::start(move |line, _| match healthy(&looks, line, "OK") {
        Act::Say(table) if line == "stats items" && turns.load(SeqCst) => {
            let evicted = format!("items:5:evicted {}", 7 + 1000 * looks.load(SeqCst));
            Act::Say(table.replace("items:5:evicted 7", &evicted))
        }
        act => act,
    })
    .expect("a port");
    let dir = scratch();
    let daemon = start(&memtier, &dir, &["--set", "caches.rest_after_s=2", "--cache", &fake.address()], true);
    let seen = until("they rest", || Some(view(&daemon)).filter(|view| view["rested_s"].is_u64()));
    assert!(seen["log"].to_string().contains("slab-rest"), "{seen}");
    until("that is why no page moves", || Some(view(&daemon)).filter(|view| text(view, "held").contains("slab-rest")));
    let watched = || fake.heard().iter().filter(|line| *line == "watch evictions").count();
    assert_eq!(watched(), 1);
    turned.store(true, SeqCst);
    let seen = until("they are read", || Some(view(&daemon)).filter(|view| view["rested_s"].is_null()));
    assert!(seen["log"].to_string().contains("slab-wake"), "{seen}");
    until("it is asked for them", || (watched() == 2).then_some(()));
    daemon.end().expect("it ends");
    let mut verify = Command::new(&memtier);
    verify.arg("replay").arg(trace_dir(dir.path())).arg("--verify");
    output(verify).expect("the recording gives the same decisions");
}

#[test]
fn a_rule_may_name_a_script() {
    let memtier = need!(binary("memtier"));
    let looks = AtomicU64::new(0);
    let fake = FakeMemcached::start(move |line, _| healthy(&looks, line, "OK")).expect("a port");
    let dir = scratch();
    let rule = format!("cache = [{{ server = '{}', policy = 'slab-automove', compat = '2017' }}]", fake.address());
    let run = Run { pid: None, config: &rule, options: &QUICK, record: false, cpu: None };
    let daemon = Daemon::start(&memtier, dir.path(), &run).expect("it runs");
    let seen = until("it has looked", || Some(view(&daemon)).filter(|view| text(view, "held").contains("by slab-automove")));
    assert_eq!(text(&seen, "policy"), "slab-automove");
    assert!(fake.heard().iter().all(|line| !line.starts_with("watch")), "{:?}", fake.heard());
    daemon.end().expect("it ends");
}

#[test]
fn records_that_a_slow_watcher_missed_are_counted() {
    let memtier = need!(binary("memtier"));
    let lossy = "OK\nskipped=12\nnonsense\nts=1.2 gid=7 type=eviction key=k fetch=no ttl=-1 la=0 clsid=9 size=1\nskipped=3";
    let looks = AtomicU64::new(0);
    let fake = FakeMemcached::start(move |line, _| healthy(&looks, line, lossy)).expect("a port");
    let dir = scratch();
    let daemon = start(&memtier, &dir, &["--cache", &fake.address()], false);
    let seen = until("they are counted", || Some(view(&daemon)).filter(|view| view["events"].as_u64() > Some(0)));
    // Once for each time that it was watched.
    assert_eq!(seen["lost"].as_u64(), seen["events"].as_u64().map(|events| 16 * events), "{seen}");
}

#[test]
fn keys_are_recorded_as_hashes_unless_somebody_wants_them() {
    let memtier = need!(binary("memtier"));
    let export = |options: &[&str]| {
        let looks = AtomicU64::new(0);
        let fake = FakeMemcached::start(move |line, _| healthy(&looks, line, &churn())).expect("a port");
        let dir = scratch();
        let daemon = start(&memtier, &dir, &[&["--cache", &fake.address()], options].concat(), true);
        until("records", || Some(view(&daemon)).filter(|view| view["events"].as_u64() >= Some(400)));
        daemon.end().expect("it ends");
        let mut command = Command::new(&memtier);
        command.arg("export").arg(trace_dir(dir.path())).args(["--to", "jsonl"]);
        let text = output(command).expect("it exports");
        (text.contains("sample.cache"), text.contains("secret7"))
    };
    assert_eq!(export(&[]), (true, false));
    assert_eq!(export(&["--keep-keys"]), (true, true));
}
