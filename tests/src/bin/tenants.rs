//! A process of several tenants that share nothing: `tenants MIB THREADS...` has one with MIB of memory for each number of THREADS,
//! that fill it page by page in turn, as fast as data would come by a network. When all is filled it says a line for each tenant: the
//! address of its memory, and its threads. From the first line of standard input on they never rest. Ends when standard input does.

use memmap2::MmapMut;
use nix::unistd::gettid;
use std::hint::black_box;
use std::io::{self, Read as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const PAGE: usize = 4096;
/// A thread loads so many pages, and rests for that long: 12 MiB/s at most.
const LOADS: usize = 32;
const RESTS: Duration = Duration::from_millis(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mib, tenants @ ..] = args.as_slice() else { return Err("usage: tenants MIB THREADS...".into()) };
    let bytes = mib.parse::<usize>()? << 20;
    nix::sys::prctl::set_thp_disable(true)?;
    let (mut said, mut waits, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for threads in tenants {
        let threads = threads.parse::<usize>()?;
        // As long as the process lives.
        let memory = &mut Box::leak(Box::new(MmapMut::map_anon(bytes)?))[..];
        said.push(memory.as_ptr().addr().to_string());
        let mut shares: Vec<Vec<&mut [u8]>> = (0..threads).map(|_| Vec::new()).collect();
        memory.chunks_exact_mut(PAGE).enumerate().for_each(|(n, page)| shares[n % threads].push(page));
        let (filled, tids) = mpsc::channel();
        for mut share in shares {
            let filled = filled.clone();
            let (start, started) = mpsc::channel::<()>();
            starts.push(start);
            thread::spawn(move || {
                for pages in share.chunks_mut(LOADS) {
                    pages.iter_mut().for_each(|page| page[0] = 1);
                    thread::sleep(RESTS);
                }
                // Who waits for it may have ended.
                let _ = filled.send(gettid());
                if started.recv().is_err() {
                    return;
                }
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
    io::stdin().read_line(&mut String::new())?;
    for start in &starts {
        start.send(())?;
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
