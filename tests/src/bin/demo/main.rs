//! The demo behind `cargo xtask demo`: a real memcached whose items mostly go cold, a load on it, and memtier acting on it.
//!
//! Everything it sets up goes away with it, also on an error or Ctrl-C. Its plan is in `PLAN`; the whole fits in five minutes.

mod screen;

use clap::Parser;
use memtier_tests::interrupt::Interrupt;
use memtier_tests::load::{self, Window};
use memtier_tests::stage::Stage;
use memtier_tests::vital;
use memtier_tests::workload::{CONFIG, MEMCACHED, MEMCACHED_MIB, SHAPE};
use screen::{Figures, Screen};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Args {
    /// The release binary with the BPF object embedded
    #[arg(long)]
    memtier: PathBuf,
    /// Print the figures as JSON lines too
    #[arg(long)]
    json: bool,
    /// Keep the recorded trace here
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Seconds of each part.
const BEFORE_S: u64 = 20;
/// The daemon's first minutes, and the moments at which it is asked to explain itself.
const ACT: [(u64, &str); 3] = [(25, "warm-up"), (45, "paging out"), (35, "settled")];
const ROUND_S: u64 = 10;
const ROUNDS: u64 = 3;
/// Share of a round at its start that is not measured: the change itself.
const SETTLE_S: u64 = 2;
const PLAN: &str =
    "fill memcached, 20 s without memtier, 105 s with it (30 s of warm-up in them), 3 x (10 s paused, 10 s acting), report";

/// Figures of one state, one window per round.
#[derive(Default)]
struct Side(Vec<Window>);

struct Demo {
    stage: Stage,
    screen: Screen,
    interrupt: Interrupt,
}

impl Demo {
    /// Lets `seconds` pass, showing what happens; the load of the last `seconds - skip` of them.
    fn watch(&mut self, seconds: u64, skip: u64, what: &str) -> Result<Window, String> {
        let mut since = Instant::now();
        let mut all: Option<Window> = None;
        for second in 0..seconds {
            std::thread::sleep((since + Duration::from_secs(1)).saturating_duration_since(Instant::now()));
            let window = self.stage.load()?.take(since)?;
            since = Instant::now();
            self.interrupt.check()?;
            self.screen.second(what, &window, &self.stage.sizes()?);
            match &mut all {
                _ if second < skip => {}
                Some(all) => {
                    all.seconds += window.seconds;
                    all.wrong += window.wrong;
                    all.latency.add(&window.latency).map_err(|e| e.to_string())?;
                }
                None => all = Some(window),
            }
        }
        all.ok_or_else(|| "nothing was measured".into())
    }

    fn play(&mut self, keep: Option<&PathBuf>) -> Result<Figures, String> {
        self.screen.say(&format!("plan: {PLAN}"));
        self.stage.swap()?;
        let socket = self.stage.memcached(MEMCACHED_MIB, &MEMCACHED)?;
        let (screen, interrupt) = (&self.screen, &self.interrupt);
        load::fill(&socket, &SHAPE, |done| {
            screen.fill(done, SHAPE.items);
            interrupt.check().map_err(std::io::Error::other)
        })
        .map_err(|e| format!("filling memcached: {e}"))?;
        self.screen.say(&format!(
            "load: {} requests/s offered, {}% writes; {} items a read, zipfian over the newest {} of {}, 1 in {} anywhere",
            SHAPE.rate,
            SHAPE.writes_permil / 10,
            SHAPE.keys_per_read,
            SHAPE.window,
            SHAPE.items,
            SHAPE.stray_one_in
        ));
        self.screen.section("configuration, for minutes instead of days", CONFIG);
        self.stage.start_load(&SHAPE)?;
        let mut before = Side::default();
        for _ in 0..2 {
            before.0.push(self.watch(BEFORE_S / 2, SETTLE_S, "without memtier")?);
        }
        let start = self.stage.sizes()?;
        self.stage.start_daemon(CONFIG, &["--act", "--bpf-stats"], true, None)?;
        let (cpu_start, began) = (self.stage.daemon_cpu()?, Instant::now());
        let mut moments = Vec::new();
        for (seconds, title) in ACT {
            self.watch(seconds, 0, title)?;
            moments.push((Instant::now(), title));
        }
        let (mut acting, mut paused) = (Side::default(), Side::default());
        let (mut refaults, mut acted) = (0, Duration::ZERO);
        for _ in 0..ROUNDS {
            self.stage.memtier(&["pause"])?;
            paused.0.push(self.watch(ROUND_S, SETTLE_S, "paused")?);
            self.stage.memtier(&["resume"])?;
            let (faults, round) = (vital::swapped_in(), Instant::now());
            acting.0.push(self.watch(ROUND_S, SETTLE_S, "memtier acts")?);
            refaults += vital::swapped_in() - faults;
            acted += round.elapsed();
        }
        let end = self.stage.sizes()?;
        let cpu = self.stage.daemon_cpu()?.since(&cpu_start, began.elapsed());
        self.screen.close();
        let pid = self.stage.memcached_pid()?.to_string();
        self.screen.section("heat of memcached", &self.stage.memtier(&["heat", &pid])?);
        self.screen.section("status", &self.stage.memtier(&["status"])?);
        for (when, title) in moments {
            let back = format!("-{}s", when.elapsed().as_secs());
            self.screen.section(&format!("explained: {title}"), &self.stage.memtier(&["explain", &pid, "--at", &back])?);
        }
        self.stage.end_load();
        let trace = self.stage.end_daemon()?;
        self.screen.section("replay --verify of the recorded trace", &self.stage.memtier_at(&["replay", "--verify"], &trace)?);
        if let Some(keep) = keep {
            self.stage.keep_trace(keep)?;
            self.screen.say(&format!("trace kept in {}", keep.display()));
        }
        Ok(Figures { before: before.0, acting: acting.0, paused: paused.0, start, end, cpu, refaults, acted })
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let interrupt = match Interrupt::catch() {
        Ok(interrupt) => interrupt,
        Err(why) => {
            eprintln!("demo: {why}");
            return ExitCode::FAILURE;
        }
    };
    let began = Instant::now();
    let mut demo = match Stage::new(args.memtier) {
        Ok(stage) => Demo { stage, screen: Screen::new(began), interrupt },
        Err(why) => {
            eprintln!("demo: {why}");
            return ExitCode::FAILURE;
        }
    };
    let played = demo.play(args.keep.as_ref());
    demo.screen.close();
    demo.screen.say("undoing: load, daemon, memcached, swap");
    let Demo { stage, screen, .. } = demo;
    let undone = stage.undo();
    match (played, undone) {
        (Ok(figures), Ok(())) => {
            screen.say("all undone");
            figures.print(args.json);
            println!("demo took {:.0} s", began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        (played, undone) => {
            for why in [played.err(), undone.err()].into_iter().flatten() {
                eprintln!("demo: {why}");
            }
            ExitCode::FAILURE
        }
    }
}
