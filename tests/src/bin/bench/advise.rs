//! `bench advise`: how long `numad -w` takes with a numad of ours running and without, and whether it answers as the original
//! does.

use memtier::compat::numad::Mode;
use memtier_tests::numad::{VECTORS, unequal};
use memtier_tests::numad_daemon::NumadDaemon;
use memtier_tests::rows::{Goal, Row};
use std::process::{Command, Stdio};
use std::time::Instant;

const RUNS: usize = 21;
const ASKED: &str = "2:1024";

pub fn measure() -> Vec<Row> {
    vec![live(), no_daemon(), vectors()]
}

/// A numad that runs has its last samples, and nobody waits for two.
fn live() -> Row {
    let asked = || {
        let numad = NumadDaemon::start(&memtier_tests::binary("memtier")?, &["-H", "0"])?;
        runs(|| numad.command(&["-w", ASKED]))
    };
    let against =
        format!("`memtier numad -w {ASKED}`, from fork to exit, answered by a numad of ours that runs; the original waits 2 s");
    row("latency_ms_live", Goal::Most(50.0), against, asked())
}

fn no_daemon() -> Row {
    let asked = || {
        let memtier = memtier_tests::binary("memtier")?;
        let nobody = NumadDaemon::at(&memtier);
        runs(|| nobody.command(&["-w", ASKED]))
    };
    let against =
        format!("`memtier numad -w {ASKED}`, from fork to exit, samples of the CPUs 100 ms apart; the original waits 2 s");
    row("latency_ms_no_daemon", Goal::Most(150.0), against, asked())
}

fn row(metric: &'static str, goal: Goal, against: String, runs: Result<Vec<f64>, String>) -> Row {
    match runs {
        Ok(runs) => Row::new(metric, "ms", goal, against, &runs),
        Err(why) => Row::absent(metric, "ms", goal, why),
    }
}

fn runs(command: impl Fn() -> Command) -> Result<Vec<f64>, String> {
    (0..RUNS).map(|_| ask(command())).collect()
}

fn ask(mut command: Command) -> Result<f64, String> {
    command.stdin(Stdio::null());
    let began = Instant::now();
    let output = command.output().map_err(|e| format!("memtier numad: {e}"))?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(took) } else { Err(format!("memtier numad -w {ASKED}: {}: {error}", output.status)) }
}

fn vectors() -> Row {
    let wrong = [unequal(Mode::Compat), unequal(Mode::Repaired)];
    let equal = f64::from(u8::from(wrong.iter().all(Vec::is_empty)));
    let all = VECTORS.len();
    let [compat, repaired] = wrong.map(|w| all - w.len());
    let against = format!("of {all} answers of the original {compat} are given under --compat, {repaired} by default");
    Row::new("vectors_equal", "", Goal::Least(1.0), against, &[equal])
}
