//! The kernel's calls and files that no crate gives us, wrapped thinly: one safe function each, with its errno table.
//!
//! Deliberately absent: decisions and retries. A caller gets the kernel's own answer and knows what it means.

pub mod affinity;
pub mod bpf;
pub mod cgroup;
pub mod clock;
pub mod detach;
pub mod files;
pub mod memory;
pub mod numa;
pub mod page_idle;
pub mod pagemap;
pub mod pagescan;
pub mod psi;
pub mod region;
pub mod slice;
pub mod tasks;
pub mod terminal;
