//! memtier's probes, one file per family. The kernel side does as little as it must: filter early, count in maps that the
//! daemon drains once a period, send records through ring buffers. Every record that finds no room is counted exactly.
//!
//! No offset of a kernel structure stands in these files: the loader takes them from the running kernel's BTF and patches
//! them into read-only data (kernel.rs). No fentry and no kprobes: tp_btf, iterators and perf events cover what is needed
//! and work where those are forbidden.

#![no_std]
#![no_main]
// Inline assembly for BPF; the same feature that aya-ebpf itself needs.
#![feature(asm_experimental_arch)]

mod damon;
mod faults;
mod kernel;
mod migrate;
mod out;
mod pages;
mod procs;
mod reclaim;
mod sched;
mod vmas;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
