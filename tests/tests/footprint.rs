//! Law 13 for settings: killed at any byte of its log, before or after the write that the log announced, the daemon leaves
//! a host that can be put back without it.
#![cfg(feature = "host")]

use memtier::daemon::footprint::{Footprint, HostSettings, Settings, Undone, Verdict};
use memtier::daemon::unbind::{Looked, Threads};
use memtier::sys::affinity::CpuMask;
use memtier::sys::tasks::Task;
use memtier::vocab::ProcKey;
use std::fs;
use std::path::{Path, PathBuf};

const OLD: [&str; 3] = ["60", "madvise", "0-1"];
/// Which setting, to what; the first one twice, and once back to where it was.
const CHANGES: [(usize, &str); 5] = [(0, "10"), (1, "never"), (0, "20"), (2, "0"), (0, "60")];

fn file(dir: &Path, i: usize) -> PathBuf {
    dir.join(format!("setting{i}"))
}

fn host(dir: &Path, values: &[&str; 3]) {
    for (i, value) in values.iter().enumerate() {
        fs::write(file(dir, i), format!("{value}\n")).expect("a scratch file");
    }
}

fn values(dir: &Path) -> Vec<String> {
    (0..OLD.len()).map(|i| fs::read_to_string(file(dir, i)).expect("still there").trim().to_owned()).collect()
}

/// In memory where that can be had, as /run is: each entry waits for the medium.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| memtier_tests::scratch())
}

/// `write` to an existing file leaves its tail: files of sysfs have none, so the stand-ins are cut first.
struct Cut;

impl Settings for Cut {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        HostSettings.read(path)
    }
    fn write(&mut self, path: &Path, value: &str) -> std::io::Result<()> {
        fs::File::options().write(true).truncate(true).open(path)?;
        HostSettings.write(path, value)
    }
}

impl Threads for Cut {
    fn online(&mut self) -> std::io::Result<CpuMask> {
        Ok(CpuMask::every())
    }
    fn pass(&mut self, proc: ProcKey, choose: &mut dyn FnMut(&Task) -> Option<CpuMask>) -> std::io::Result<Option<Vec<Looked>>> {
        HostSettings.pass(proc, choose)
    }
    fn processes(&mut self) -> std::io::Result<Vec<(ProcKey, u32)>> {
        HostSettings.processes()
    }
}

#[test]
fn killed_at_any_byte_all_goes_back() {
    let dir = scratch();
    let log = dir.path().join("footprint.log");
    host(dir.path(), &OLD);
    // What the host held when the log had so many bytes.
    let mut moments = vec![(0, OLD)];
    let mut foot = Footprint::open(dir.path(), "boot").expect("an empty log");
    for (i, new) in CHANGES {
        foot.change(&mut Cut, &file(dir.path(), i), new).expect("changed");
        let mut now = moments.last().expect("has one").1;
        now[i] = new;
        moments.push((fs::metadata(&log).expect("the log").len() as usize, now));
    }
    let whole = fs::read(&log).expect("the log");
    assert_eq!(moments.last().map(|m| m.0), Some(whole.len()));
    for cut in 0..=whole.len() {
        let announced = moments.iter().rposition(|(bytes, _)| *bytes <= cut).expect("the first has none");
        // The last change that is announced whole may have been written or not.
        for (done, (_, now)) in moments.iter().enumerate().take(announced + 1).skip(announced.saturating_sub(1)) {
            host(dir.path(), now);
            fs::write(&log, &whole[..cut]).expect("cut");
            let mut foot = Footprint::open(dir.path(), "boot").expect("opens");
            let told = foot.undo(&mut Cut).expect("undoes");
            assert_eq!(values(dir.path()), OLD, "cut at {cut}, {done} changes done: {told:?}");
            assert!(told.iter().all(|undone| matches!(undone.verdict, Verdict::Restored | Verdict::WasOld)), "{told:?}");
            assert_eq!(foot.undo(&mut Cut).expect("again"), []);
        }
    }
}

#[test]
fn a_damaged_line_hides_only_what_follows() {
    let dir = scratch();
    let log = dir.path().join("footprint.log");
    host(dir.path(), &OLD);
    let mut foot = Footprint::open(dir.path(), "boot").expect("an empty log");
    let mut ends = Vec::new();
    for (i, new) in CHANGES {
        foot.change(&mut Cut, &file(dir.path(), i), new).expect("changed");
        ends.push(fs::metadata(&log).expect("the log").len() as usize);
    }
    let mut bytes = fs::read(&log).expect("the log");
    bytes[ends[2] + 12] ^= 1;
    fs::write(&log, bytes).expect("damaged");
    let told = Footprint::open(dir.path(), "boot").expect("opens").undo(&mut Cut).expect("undoes");
    let settings: Vec<_> = told.iter().map(|Undone { setting, .. }| setting.to_string()).collect();
    let expect = [1, 0].map(|i| file(dir.path(), i).display().to_string());
    assert_eq!(settings, expect);
}
