//! Holds a region of memory and touches what it is told to: `hog MIB half|noise|sparse|untouched small|huge [CPU...]`, filled by
//! a thread on each of these CPUs, page by page in turn; then orders on standard input: `read FIRST END`, `write FIRST END`,
//! `burn MS`, `check`, `orphan` (a process that ends with this one, but is nobody's child). Every order is answered by one number. Ends when standard input does.

use memmap2::{Advice, MmapMut};
use nix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::io::{self, BufRead as _, Write as _};
use std::time::Duration;

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;

/// Word `i` of every page: noise, or a short repeat in the second half. What tells pages apart is their second word, so
/// that filling is copying: in an emulated guest, memory is filled in no other way in less than minutes.
fn word(i: usize, half: bool) -> u64 {
    let i = if half && i >= WORDS / 2 { WORDS / 2 + i % 4 } else { i };
    let mut x = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mib, fill, size, cpus @ ..] = args.as_slice() else {
        return Err("usage: hog MIB half|noise|untouched small|huge [CPU...]".into());
    };
    let (half, copy, touch) = match fill.as_str() {
        "half" => (true, true, true),
        "noise" => (false, true, true),
        // One word of a page: filling takes no longer than the faults.
        "sparse" => (false, false, true),
        "untouched" => (false, false, false),
        other => return Err(format!("unknown fill {other}").into()),
    };
    let huge = size == "huge";
    nix::sys::prctl::set_thp_disable(!huge)?;
    let bytes = mib.parse::<usize>()? << 20;
    // Two more MiB make room to align.
    let mut room = MmapMut::map_anon(bytes + (2 << 20))?;
    if huge {
        room.advise(Advice::HugePage)?;
    }
    let skip = room.as_ptr().align_offset(2 << 20);
    let region = &mut room[skip..skip + bytes];
    let model: Vec<u8> = (0..WORDS).flat_map(|i| if copy { word(i, half) } else { 0 }.to_ne_bytes()).collect();
    let put = |n: usize, page: &mut [u8]| {
        if copy {
            page.copy_from_slice(&model);
        }
        page[8..16].copy_from_slice(&n.to_ne_bytes());
    };
    if touch && cpus.is_empty() {
        region.chunks_exact_mut(PAGE).enumerate().for_each(|(n, page)| put(n, page));
    } else if touch {
        let cpus = cpus.iter().map(|cpu| cpu.parse()).collect::<Result<Vec<usize>, _>>()?;
        let mut shares: Vec<Vec<(usize, &mut [u8])>> = cpus.iter().map(|_| Vec::new()).collect();
        region.chunks_exact_mut(PAGE).enumerate().for_each(|(n, page)| shares[n % cpus.len()].push((n, page)));
        std::thread::scope(|scope| {
            for (cpu, share) in cpus.into_iter().zip(shares) {
                scope.spawn(move || {
                    memtier_tests::cpu::pin(0, cpu).expect("a CPU that is online");
                    share.into_iter().for_each(|(n, page)| put(n, page));
                });
            }
        });
    }
    let (mut out, mut pipes) = (io::stdout().lock(), Vec::new());
    writeln!(out, "{}", region.as_ptr().addr())?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let order: Vec<&str> = line.split(' ').collect();
        let answer = match order.as_slice() {
            // The first word of a page is what `write` changes.
            ["check"] => region
                .chunks_exact(PAGE)
                .enumerate()
                .filter(|(n, page)| touch && (page[8..16] != n.to_ne_bytes() || page[16..] != model[16..]))
                .count(),
            [verb @ ("read" | "write"), first, end] => {
                let range = first.parse::<usize>()? * PAGE..end.parse::<usize>()? * PAGE;
                for page in region[range].chunks_exact_mut(PAGE) {
                    if *verb == "write" {
                        page[0] = page[0].wrapping_add(1);
                    }
                    black_box(page[0]);
                }
                0
            }
            // Reads its first pages for so long of its own CPU time: what the scheduler's tick does to who runs, it does.
            ["burn", ms] => {
                let used = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
                let until = used()? + Duration::from_millis(ms.parse()?);
                while used()? < until {
                    black_box(region.iter().step_by(PAGE).take(64).map(|b| u32::from(*b)).sum::<u32>());
                }
                0
            }
            ["orphan"] => {
                let (pid, pipe) = memtier_tests::brood::orphan()?;
                pipes.push(pipe);
                pid as usize
            }
            _ => return Err(format!("unknown order {line}").into()),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
