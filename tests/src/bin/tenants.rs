//! A process of several tenants that share nothing: `tenants MIB CPU,... THREADS...` has one with MIB of memory for each number of
//! THREADS, that fill it page by page in turn, each block of 2 MiB on the next of these CPUs, and then never rest, on any CPU. When
//! all is filled it says a line for each tenant: the address of its memory, and its threads. Ends when standard input does.

use memmap2::MmapMut;
use memtier_tests::cpu::pin;
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use std::hint::black_box;
use std::io::{self, Read as _};
use std::sync::mpsc;
use std::thread;

const PAGE: usize = 4096;
const BLOCK: usize = 2 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mib, cpus, tenants @ ..] = args.as_slice() else { return Err("usage: tenants MIB CPU,... THREADS...".into()) };
    let bytes = mib.parse::<usize>()? << 20;
    let cpus: Vec<usize> = cpus.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let (this, everywhere) = (Pid::from_raw(0), sched_getaffinity(Pid::from_raw(0))?);
    nix::sys::prctl::set_thp_disable(true)?;
    let (mut said, mut waits) = (Vec::new(), Vec::new());
    for threads in tenants {
        let threads = threads.parse::<usize>()?;
        // As long as the process lives.
        let memory = &mut Box::leak(Box::new(MmapMut::map_anon(bytes)?))[..];
        said.push(memory.as_ptr().addr().to_string());
        let mut shares: Vec<Vec<&mut [u8]>> = (0..threads).map(|_| Vec::new()).collect();
        memory.chunks_exact_mut(PAGE).enumerate().for_each(|(n, page)| shares[n % threads].push(page));
        let (filled, tids) = mpsc::channel();
        for mut share in shares {
            let (filled, cpus) = (filled.clone(), cpus.clone());
            thread::spawn(move || {
                let mut on = None;
                for page in &mut share {
                    let block = page.as_ptr().addr() / BLOCK;
                    if on.replace(block) != Some(block) {
                        pin(0, cpus[block % cpus.len()]).expect("a CPU that is online");
                    }
                    page[0] = 1;
                }
                sched_setaffinity(this, &everywhere).expect("where it was before");
                // Who waits for it may have ended.
                let _ = filled.send(gettid());
                loop {
                    black_box(share.iter().map(|page| u64::from(page[0])).sum::<u64>());
                }
            });
        }
        waits.push((threads, tids));
    }
    for (start, (threads, tids)) in said.iter().zip(waits) {
        let tids: Vec<String> = tids.iter().take(threads).map(|tid| tid.to_string()).collect();
        println!("{start} {}", tids.join(" "));
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
