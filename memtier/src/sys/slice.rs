//! How long a thread may keep its CPU from others of equal right: the slice of sched_setattr(2), Linux 6.12 and later (custom
//! slices of kernel/sched/fair.c). It changes nobody's share. Who has the longer one gives way at once to whoever wakes with a
//! shorter one, where else it would keep the CPU for the rest of its own; and when it wakes itself it waits its turn.

use std::io;

/// The slice of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// The longest that there is: gives way.
    Patient,
    /// What all have who ask for nothing.
    Ordinary,
}

impl Slice {
    /// Nanoseconds; nought stands for the kernel's own.
    const fn ns(self) -> u64 {
        match self {
            Self::Patient => 100_000_000,
            Self::Ordinary => 0,
        }
    }

    /// Sets it for the calling thread, and so for those that it starts. Nothing happens before Linux 6.12, nor to a thread that
    /// an operator gave another policy than the usual ones.
    ///
    /// | errno | meaning |
    /// | --- | --- |
    /// | EPERM | a filter of system calls, or a nice value that we may not have again |
    pub fn set(self) -> io::Result<()> {
        let size = size_of::<libc::sched_attr>() as u32;
        let mut attr = libc::sched_attr {
            size,
            sched_policy: 0,
            sched_flags: 0,
            sched_nice: 0,
            sched_priority: 0,
            sched_runtime: 0,
            sched_deadline: 0,
            sched_period: 0,
        };
        // SAFETY: the kernel writes at most `size` bytes to `attr`, which lives throughout.
        done(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) })?;
        if !matches!(attr.sched_policy.cast_signed(), libc::SCHED_OTHER | libc::SCHED_BATCH) {
            return Ok(());
        }
        attr.sched_runtime = self.ns();
        // SAFETY: the kernel only reads `attr`, whose first field tells its size.
        done(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })
    }
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::Slice;

    #[test]
    fn it_can_be_set_and_taken_back() {
        for slice in [Slice::Patient, Slice::Ordinary] {
            slice.set().expect("our own thread");
        }
    }
}
