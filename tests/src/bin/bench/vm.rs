//! `bench vm`: how long `cargo xtask vm` takes when the guest has nothing to do: cargo, the boot, the exit code.

use memtier_tests::rows::{Goal, Row};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Of the lab; it refuses what it does not have.
const KERNELS: [&str; 3] = ["6.1", "6.12", "6.18"];
const ROUNDS: usize = 3;

pub fn measure() -> Vec<Row> {
    let mut took = KERNELS.map(|_| Ok(Vec::new()));
    // The first round fetches what is missing, and does not count.
    for _ in 0..=ROUNDS {
        for (kernel, took) in KERNELS.into_iter().zip(&mut took) {
            let Ok(seconds) = took else { continue };
            match round_trip(kernel) {
                Ok(one) => seconds.push(one),
                Err(why) => *took = Err(why),
            }
        }
    }
    KERNELS.into_iter().zip(took).map(|(kernel, took)| row(kernel, took)).collect()
}

fn row(kernel: &str, took: Result<Vec<f64>, String>) -> Row {
    let (metric, unit, goal) = ("vm_round_trip_s", "s", Goal::None);
    match took {
        Ok(seconds) => Row::new(metric, unit, goal, format!("Linux {kernel}, one node, `true`"), &seconds[1..]),
        Err(why) => Row::absent(metric, unit, goal, why),
    }
}

fn round_trip(kernel: &str) -> Result<f64, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["xtask", "vm", "--kernel", kernel, "--topo", "1", "--", "true"]);
    command.current_dir(memtier_tests::root()).stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status().map_err(|e| format!("cargo: {e}"))?;
    let took = began.elapsed().as_secs_f64();
    if status.success() { Ok(took) } else { Err(format!("cargo xtask vm --kernel {kernel}: {status}")) }
}
