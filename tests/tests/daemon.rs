//! The real binary on real memory: started in a run directory of its own, asked and steered over its socket, stopped, killed.
#![cfg(feature = "host")]

use memtier::daemon::client::Client;
use memtier::daemon::views::{HeatView, SightView, Status};
use memtier::vocab::{Bytes, Source};
use memtier_tests::hog::{Fill, Hog};
use memtier_tests::{binary, footing, need, scratch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far beyond what anything here takes; hit only when it never happens.
const DEADLINE: Duration = Duration::from_secs(120);
const FAST: [&str; 4] = ["--set", "scan.period_ms=200", "--set", "scan.min_resident_mib=1"];
const MIB: u64 = 32;
const CLUSTER: &str = "/proc/sys/vm/page-cluster";
/// There is one such setting on a host: tests that change it take turns.
static CLUSTERED: Mutex<()> = Mutex::new(());

fn cluster() -> String {
    fs::read_to_string(CLUSTER).expect("page-cluster").trim().to_owned()
}

fn ground() -> Result<PathBuf, String> {
    footing::root()?;
    footing::memory(512)?;
    binary("memtier")
}

/// Polls until `look` finds something.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Daemon {
    child: Child,
    run: TempDir,
    binary: PathBuf,
}

impl Daemon {
    fn start(binary: &Path, args: &[&str]) -> Self {
        let run = scratch();
        let mut daemon = Self { child: Self::child(binary, run.path(), args), run, binary: binary.to_owned() };
        daemon.wait();
        daemon
    }

    /// Another one in the same run directory, after the first has ended.
    fn again(&mut self, args: &[&str]) {
        self.child = Self::child(&self.binary, self.run.path(), args);
        self.wait();
    }

    fn child(binary: &Path, run: &Path, args: &[&str]) -> Child {
        let err = fs::File::create(run.join("err")).expect("a file for diagnostics");
        command(binary, run).arg("run").args(FAST).args(args).stdout(Stdio::null()).stderr(err).spawn().expect("memtier starts")
    }

    fn wait(&mut self) {
        until("the daemon answers", || {
            if let Some(status) = self.child.try_wait().expect("our child") {
                let err = fs::read_to_string(self.run.path().join("err")).unwrap_or_default();
                panic!("the daemon ended with {status}: {err}");
            }
            self.cli(&["status"]).status.success().then_some(())
        });
    }

    fn cli(&self, args: &[&str]) -> Output {
        command(&self.binary, self.run.path()).args(args).output().expect("memtier runs")
    }

    fn json(&self, args: &[&str]) -> Value {
        let out = self.cli(&[args, &["--json"]].concat());
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).expect("JSON")
    }

    fn status(&self) -> Status {
        serde_json::from_value(self.json(&["status"])).expect("a status")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("our child lives");
    }

    fn exit(&mut self) -> Option<i32> {
        until("the daemon ends", || self.child.try_wait().expect("our child")).code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.cli(&["undo"]);
    }
}

fn command(binary: &Path, run: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env("MEMTIER_RUN_DIR", run).env_remove("MEMTIER_LOG");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn answers_and_steers() {
    let binary = need!(ground());
    let hog = Hog::start(MIB, Fill::Half).expect("a hog");
    let pid = hog.pid().to_string();
    let mut daemon = Daemon::start(&binary, &["--pid", &pid]);

    let target = until("the hog is walked", || {
        let status = daemon.status();
        status.targets.into_iter().find(|t| t.proc.pid == hog.pid() && t.scans > 1)
    });
    assert!(target.resident >= Bytes::from_mib(MIB), "{target:?}");
    assert!(target.selection.contains("target rule 1"), "{target:?}");
    let status = daemon.status();
    assert!(!status.mode.act && !status.mode.arm && !status.paused, "{:?}", status.mode);
    let walker = status.sources.iter().find(|s| s.source == Source::Walker).expect("listed");
    assert!(matches!(walker.sight, SightView::Seeing), "{walker:?}");

    let heat: HeatView = serde_json::from_value(daemon.json(&["heat", &pid])).expect("a picture");
    assert!(heat.resident >= Bytes::from_mib(MIB), "{}", heat.resident);
    let drawn: u64 = heat.areas.iter().flat_map(|a| &a.cells).map(|c| c.resident.0).sum();
    assert_eq!(drawn + heat.elsewhere.0, heat.resident.0, "every resident page is in the picture or counted beside it");
    let area = heat.areas.iter().find(|a| a.range.contains(hog.base)).expect("the hog's region is drawn");
    assert!(area.resident >= Bytes::from_mib(MIB), "{area:?}");

    let explained = until("a walk on schedule is explained", || {
        let explained = text(&daemon.cli(&["explain", &pid]).stdout);
        explained.contains("scan.period_ms").then_some(explained)
    });
    assert!(explained.contains("selected by target rule 1"), "{explained}");

    assert!(daemon.cli(&["pause"]).status.success());
    assert!(daemon.status().paused);
    assert!(daemon.run.path().join("paused").exists());
    assert!(daemon.cli(&["resume"]).status.success());
    assert!(!daemon.run.path().join("paused").exists());
    assert!(!daemon.status().paused);
    assert!(text(&daemon.cli(&["reload"]).stdout).contains("as before"));
    assert!(text(&daemon.cli(&["status", "--footprint"]).stdout).contains("no setting"));

    let client = Client::new(daemon.run.path()).expect("a client");
    let metrics = text(&client.get_text("/metrics").expect("metrics"));
    assert!(metrics.contains(&format!("memtier_target_resident_bytes{{pid=\"{pid}\"")), "{metrics}");
    let mut lines = 0;
    let streamed = client.lines("/v1/events", |line| {
        assert!(serde_json::from_slice::<Value>(line).expect("JSON").is_object());
        lines += 1;
        Ok(if lines == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    streamed.expect("a stream");

    let second = daemon.cli(&["run"]);
    assert_eq!(second.status.code(), Some(4), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains(&format!("pid {}", daemon.child.id())), "{}", text(&second.stderr));
    assert_eq!(daemon.cli(&["undo"]).status.code(), Some(4), "undo beside a running daemon");

    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit(), Some(0));
    assert!(!daemon.run.path().join("control.sock").exists());
    assert_eq!(daemon.cli(&["status"]).status.code(), Some(3));
    assert!(text(&daemon.cli(&["undo"]).stdout).contains("nothing to undo"));
}

#[test]
fn killed_it_leaves_a_log_and_a_trace() {
    let binary = need!(ground());
    let _alone = CLUSTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let hog = Hog::start(MIB, Fill::Half).expect("a hog");
    let (pid, trace) = (hog.pid().to_string(), scratch());
    let before = cluster();
    let ours = if before == "0" { "1" } else { "0" };
    let set = format!("daemon.page_cluster={ours}");
    let record = trace.path().to_str().expect("utf-8");
    let mut daemon = Daemon::start(&binary, &["--act", "--pid", &pid, "--set", &set, "--record", record]);
    assert_eq!(cluster(), ours);
    let footprint = daemon.json(&["status", "--footprint"]);
    assert_eq!((&footprint[0]["setting"]["file"]["path"], &footprint[0]["old"]), (&CLUSTER.into(), &before.clone().into()));
    until("some turns are recorded", || {
        let status = daemon.status();
        (status.own.decisions > 20 && fs::metadata(trace.path().join("000001.mtt")).is_ok_and(|m| m.len() > 4096)).then_some(())
    });

    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.exit(), None);
    assert_eq!(cluster(), ours, "nothing puts it back but undo");
    let undone = daemon.cli(&["undo"]);
    assert_eq!((undone.status.code(), cluster()), (Some(0), before), "{}", text(&undone.stderr));
    assert!(text(&undone.stdout).contains("restored"), "{}", text(&undone.stdout));
    assert!(text(&daemon.cli(&["undo"]).stdout).contains("nothing to undo"));

    let verified = daemon.cli(&["replay", "--verify", record]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", text(&verified.stdout), text(&verified.stderr));
}

#[test]
fn stopped_it_puts_settings_back_and_the_trace_verifies() {
    let binary = need!(ground());
    let _alone = CLUSTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let hog = Hog::start(MIB, Fill::Half).expect("a hog");
    let (pid, trace, config) = (hog.pid().to_string(), scratch(), scratch());
    let before = cluster();
    let ours = if before == "2" { "1" } else { "2" };
    let file = config.path().join("memtier.toml");
    fs::write(&file, format!("[daemon]\npage_cluster = {ours}\n")).expect("a configuration");
    let (record, path) = (trace.path().to_str().expect("utf-8"), file.to_str().expect("utf-8"));
    let mut daemon = Daemon::start(&binary, &["--act", "--pid", &pid, "--config", path, "--record", record]);
    assert_eq!(cluster(), ours);

    fs::write(&file, "[daemon]\npage_cluster = 99\n").expect("a bad configuration");
    let refused = daemon.cli(&["reload"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("page_cluster"), "{}", text(&refused.stderr));
    assert_eq!(cluster(), ours, "a bad configuration changes nothing");

    fs::write(&file, "").expect("an empty configuration");
    assert!(daemon.cli(&["reload"]).status.success());
    assert_eq!(cluster(), before, "no longer wanted, it goes back");
    fs::write(&file, format!("[daemon]\npage_cluster = {ours}\n")).expect("a configuration");
    daemon.signal(Signal::SIGHUP);
    until("SIGHUP reloads", || (cluster() == ours).then_some(()));

    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.exit(), Some(0));
    assert_eq!(cluster(), before);
    let verified = daemon.cli(&["replay", "--verify", record]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", text(&verified.stdout), text(&verified.stderr));
}

#[test]
fn a_pause_outlives_the_daemon_and_rules_in_vain_are_named() {
    let binary = need!(ground());
    let mut daemon = Daemon::start(&binary, &["--exe", "/nonexistent/thing"]);
    let vain = until("the processes are known", || daemon.status().vain_rules.pop());
    let named = "target rule 1 (exe = \"/nonexistent/thing\") matches no process: of ";
    assert!(vain.starts_with(named), "{vain}");
    let shown = text(&daemon.cli(&["status"]).stdout);
    assert!(shown.contains(named) && shown.contains("`memtier reload`"), "{shown}");
    let log = fs::read_to_string(daemon.run.path().join("err")).expect("diagnostics");
    assert!(log.contains("matches no process"), "{log}");
    assert!(daemon.cli(&["pause"]).status.success());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit(), Some(0));
    assert!(text(&daemon.cli(&["undo"]).stdout).contains("nothing to undo"));
    daemon.again(&[]);
    assert!(daemon.status().paused);
    assert!(text(&daemon.cli(&["status"]).stdout).contains("PAUSED (memtier resume)"));
    assert!(daemon.cli(&["resume"]).status.success());
    assert!(!daemon.status().paused);
}

#[test]
fn doctor_says_which_rules_match_nothing() {
    let binary = need!(ground());
    let dir = scratch();
    let file = dir.path().join("memtier.toml");
    fs::write(&file, "[[target]]\nexclude = true\nunit = 'nonexistent.service'\n").expect("a configuration");
    let doctor =
        |config: &Path| command(&binary, dir.path()).args(["doctor", "--config"]).arg(config).output().expect("memtier runs");
    let said = text(&doctor(&file).stdout);
    assert!(said.contains("target rule 1 (unit = \"nonexistent.service\", exclude = true) matches no process"), "{said}");
    assert!(said.contains("next: start that process, or mend the rule"), "{said}");
    assert_eq!(doctor(&dir.path().join("none.toml")).status.code(), Some(2));
}

#[test]
fn refusals_have_codes_and_a_next_step() {
    let binary = need!(ground());
    let (run, config) = (scratch(), scratch());
    let file = config.path().join("bad.toml");
    fs::write(&file, "[scan]\nperiod = 5\n").expect("a bad configuration");
    let bad = file.to_str().expect("utf-8");
    let cases: [(&[&str], i32, &str); 6] = [
        (&["run", "--act"], 9, "--all"),
        (&["run", "--config", bad], 2, "period_ms"),
        (&["status"], 3, "memtier run"),
        (&["heat", "4194304"], 6, "no process"),
        (&["replay", "/nonexistent"], 7, ""),
        (&["no-such-command"], 2, "Usage"),
    ];
    for (args, code, words) in cases {
        let out = command(&binary, run.path()).args(args).output().expect("memtier runs");
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains(words), "{args:?}: {}", text(&out.stderr));
    }
}

#[test]
fn record_hands_on_the_exit_code_and_its_trace_verifies() {
    let binary = need!(ground());
    let daemon = Daemon::start(&binary, &[]);
    let (alone, out) = (scratch(), scratch());
    // Beside a daemon, and without one.
    for (i, run) in [daemon.run.path(), alone.path()].into_iter().enumerate() {
        let dir = out.path().join(i.to_string());
        let dir = dir.to_str().expect("utf-8");
        let recorded = command(&binary, run).args(["record", "--out", dir, "--", "sh", "-c", "sleep 2; exit 7"]).output();
        let recorded = recorded.expect("memtier runs");
        assert_eq!(recorded.status.code(), Some(7), "{}", text(&recorded.stderr));
        let verified = command(&binary, run).args(["replay", "--verify", dir]).output().expect("memtier runs");
        assert_eq!(verified.status.code(), Some(0), "{}{}", text(&verified.stdout), text(&verified.stderr));
        assert!(text(&verified.stdout).contains("the replay is the same"), "{}", text(&verified.stdout));
    }
}

#[test]
fn a_watch_ends_with_its_process() {
    let binary = need!(ground());
    let hog = Hog::start(MIB, Fill::Half).expect("a hog");
    let daemon = Daemon::start(&binary, &[]);
    let client = Client::new(daemon.run.path()).expect("a client");
    let rule = format!("pid = {}\n", hog.pid());
    let named = || client.get::<String>("/v1/config").expect("a configuration").contains(&rule);
    let _: Value = client.post("/v1/watch", &serde_json::json!({ "pid": hog.pid() })).expect("watched");
    assert!(named());
    drop(hog);
    until("nobody with that pid is watched", || (!named()).then_some(()));
}
