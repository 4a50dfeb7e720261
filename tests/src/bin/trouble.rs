//! Memory that gives trouble: `trouble vmas N | reserve TIB | locked MIB | merge MIB | churn MIB | forks N`. Says the
//! address of its first page when all is in place, goes on until standard input ends.

use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
use std::io::{self, Read as _};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const PAGE: usize = 4096;

/// Every second page may not be written, so that no two neighbours are one mapping.
fn mappings(count: usize) -> io::Result<Vec<(MmapMut, Mmap)>> {
    let page = || {
        MmapMut::map_anon(PAGE).map(|mut page| {
            page[0] = 1;
            page
        })
    };
    (0..count / 2).map(|_| Ok((page()?, page()?.make_read_only()?))).collect()
}

fn filled(bytes: usize) -> io::Result<MmapMut> {
    let mut map = MmapMut::map_anon(bytes)?;
    map.chunks_exact_mut(PAGE).for_each(|page| page[0] = 1);
    Ok(map)
}

/// Does it again and again until standard input ends.
fn over_and_over(address: *const u8, deed: impl Fn() -> io::Result<()> + Sync) -> io::Result<()> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                deed()?;
            }
            Ok(())
        });
        let waited = ready(address);
        over.store(true, Ordering::Relaxed);
        worker.join().expect("the deed does not panic").and(waited)
    })
}

fn ready(address: *const u8) -> io::Result<()> {
    println!("{}", address.addr());
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [verb, much] = args.as_slice() else { return Err("usage: trouble VERB N".into()) };
    let much: usize = much.parse()?;
    match verb.as_str() {
        "vmas" => {
            let all = mappings(much)?;
            ready(all[0].0.as_ptr())?;
        }
        "reserve" => {
            let mut map = MmapOptions::new().len(much << 40).no_reserve_swap().map_anon()?;
            // Far from each other: first, middle, last.
            for at in [0, (much << 40) / 2, (much << 40) - PAGE] {
                map[at] = 1;
            }
            ready(map.as_ptr())?;
        }
        "locked" => {
            let map = filled(much << 20)?;
            map.lock()?;
            ready(map.as_ptr())?;
        }
        "merge" => {
            let map = filled(much << 20)?;
            map.advise(Advice::Mergeable)?;
            ready(map.as_ptr())?;
        }
        "churn" => {
            let stays = filled(much << 20)?;
            over_and_over(stays.as_ptr(), || filled(1 << 20).map(drop))?;
        }
        "forks" => {
            let stays = filled(PAGE)?;
            let many = || -> io::Result<()> {
                let children: Vec<_> = (0..much).map(|_| Command::new("/bin/true").spawn()).collect::<Result<_, _>>()?;
                children.into_iter().try_for_each(|mut child| child.wait().map(drop))
            };
            over_and_over(stays.as_ptr(), many)?;
        }
        other => return Err(format!("unknown verb {other}").into()),
    }
    Ok(())
}
