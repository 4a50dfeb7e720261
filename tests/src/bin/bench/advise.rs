//! `bench advise`: how long `numad -w` takes without a daemon, and whether it answers as the original does.

use memtier::compat::numad::Mode;
use memtier_tests::numad::{VECTORS, unequal};
use memtier_tests::rows::{Goal, Row};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const RUNS: usize = 21;
const ASKED: &str = "2:1024";

pub fn measure() -> Vec<Row> {
    let why = "no daemon answers this yet: memtier has no live model of nodes";
    let live = Row::absent("latency_ms_live", "ms", Goal::Most(50.0), why);
    vec![live, no_daemon(), vectors()]
}

fn no_daemon() -> Row {
    let (metric, unit, goal) = ("latency_ms_no_daemon", "ms", Goal::Most(150.0));
    match memtier_tests::binary("memtier").and_then(|memtier| (0..RUNS).map(|_| ask(&memtier)).collect::<Result<Vec<f64>, _>>()) {
        Ok(runs) => {
            let against =
                format!("`memtier numad -w {ASKED}`, from fork to exit, samples of the CPUs 100 ms apart; the original waits 2 s");
            Row::new(metric, unit, goal, against, &runs)
        }
        Err(why) => Row::absent(metric, unit, goal, why),
    }
}

fn ask(memtier: &Path) -> Result<f64, String> {
    let mut command = Command::new(memtier);
    command.args(["numad", "-w", ASKED]).stdin(Stdio::null());
    let began = Instant::now();
    let output = command.output().map_err(|e| format!("{}: {e}", memtier.display()))?;
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
