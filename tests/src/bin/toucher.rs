//! Touches a set of pages all the time: `toucher PAGES SET ZIPF CONTIGUOUS RATE` (tests/src/toucher.rs). Prints the
//! addresses of its pages, of the round in which each was last touched, and of the two words that steer it: round, phase.

use memmap2::MmapMut;
use memtier_tests::toucher::{Law, OBJECTS, Spec};
use memtier_tests::zipf::Zipf;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
/// Time between two bursts of touches.
const REST: Duration = Duration::from_millis(5);
/// A process that got no CPU for longer than this does not make up for it.
const LATE: Duration = Duration::from_millis(200);
/// One touch in so many writes.
const WRITES: u64 = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let spec = Spec::parse(&args).ok_or("usage: toucher PAGES SET ZIPF CONTIGUOUS RATE")?;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    nix::sys::prctl::set_thp_disable(true)?;
    let bytes = spec.pages as usize * PAGE;
    // Two more MiB make room to align.
    let mut room = MmapMut::map_anon(bytes + (2 << 20))?;
    let skip = room.as_ptr().align_offset(2 << 20);
    let region = &mut room[skip..skip + bytes];
    region.chunks_exact_mut(PAGE).zip(1..).for_each(|(page, n)| page[..8].copy_from_slice(&usize::to_ne_bytes(n)));
    let stamps: Vec<AtomicU32> = (0..spec.pages).map(|_| AtomicU32::new(0)).collect();
    let orders = [AtomicU32::new(1), AtomicU32::new(0)];
    let mut out = io::stdout().lock();
    writeln!(out, "{} {} {}", region.as_ptr().addr(), stamps.as_ptr().addr(), orders.as_ptr().addr())?;
    out.flush()?;
    run(&spec, region, &stamps, &orders)
}

fn run(spec: &Spec, region: &mut [u8], stamps: &[AtomicU32], [round, phase]: &[AtomicU32; 2]) -> ! {
    let mut next = choice(spec);
    let (mut done, mut since) = (0, Instant::now());
    loop {
        let due = (since.elapsed().as_secs_f64() * spec.rate as f64) as u64;
        while done < due {
            done += 1;
            let (n, byte) = next();
            let page = spec.page(phase.load(Relaxed), n) as usize;
            let place = &mut region[page * PAGE + byte];
            if done % WRITES == 0 {
                *place = place.wrapping_add(1);
            }
            black_box(*place);
            stamps[page].store(round.load(Relaxed), Relaxed);
        }
        let slept = Instant::now();
        std::thread::sleep(REST);
        if slept.elapsed() > LATE || done > u64::from(u32::MAX) {
            (done, since) = (0, Instant::now());
        }
    }
}

/// What is touched next: number in the set, byte in the page.
fn choice(spec: &Spec) -> Box<dyn FnMut() -> (u64, usize)> {
    let (spec, mut x, mut n) = (*spec, 0x6d65_6d74_u64, 0_u64);
    let mut random = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    match spec.law {
        Law::Uniform => Box::new(move || {
            n += 1;
            // The first 64 bytes of a page hold its number.
            (if n % 4 == 0 { n / 4 } else { random() >> 20 } % spec.set, 64 + (n % 63 * 64) as usize)
        }),
        Law::Zipf => {
            let zipf = Zipf::new(spec.set * OBJECTS);
            Box::new(move || {
                let object = spec.object(zipf.draw(|| (random() >> 11) as f64 / (1_u64 << 53) as f64));
                (object / OBJECTS, (object % OBJECTS) as usize * (PAGE / OBJECTS as usize) + 64)
            })
        }
    }
}
