//! A process as numad sees it: one line of /proc/PID/stat, and for guests of KVM the command line.

use super::Mode;

/// What the kernel is asked for to read those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// Of /proc/PID/stat, a second.
    pub per_second: u64,
    /// Bytes of a page.
    pub page: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    pub pid: u32,
    /// With the pid the process's identity: its start, in ticks since boot.
    pub start: u64,
    /// Without parentheses.
    pub comm: String,
    pub threads: u64,
    /// User and system time so far, in hundredths of a second.
    pub cpu: u64,
    pub mb_size: u64,
    pub mb_used: u64,
}

impl Tenant {
    /// `None` for a line that cannot be read: to the original that is every line whose name has a blank in it.
    #[must_use]
    pub fn of(stat: &str, ticks: Ticks, mode: Mode) -> Option<Self> {
        let (pid, rest) = stat.split_once(" (")?;
        let (comm, fields) = match mode {
            Mode::Repaired => rest.rsplit_once(") ")?,
            Mode::Compat => rest.split_once(' ').and_then(|(name, fields)| Some((name.strip_suffix(')')?, fields)))?,
        };
        // The first of these is number 3 in proc(5).
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |of: usize| fields.get(of - 3)?.parse::<u64>().ok();
        let rate = match mode {
            Mode::Repaired => ticks.per_second.max(1),
            Mode::Compat => 100,
        };
        Some(Self {
            pid: pid.parse().ok()?,
            start: number(22)?,
            comm: comm.to_owned(),
            threads: number(20)?,
            cpu: number(14)?.saturating_add(number(15)?).saturating_mul(100) / rate,
            mb_size: number(23)? >> 20,
            mb_used: number(24)?.saturating_mul(ticks.page) >> 20,
        })
    }

    /// Whether it runs a guest, by its name.
    pub(super) fn is_guest(&self, mode: Mode) -> bool {
        match mode {
            // As libvirt's and Proxmox's packages name it, and QEMU itself.
            Mode::Repaired => self.comm == "kvm" || self.comm.starts_with("qemu"),
            Mode::Compat => self.comm == "qemu-kvm",
        }
    }
}

/// Processors of the guest whose command line this is, between 1 and what the host has.
#[must_use]
pub fn vcpus(command_line: &[u8], most: u64, mode: Mode) -> Option<u64> {
    let text = String::from_utf8_lossy(command_line);
    let count = match mode {
        Mode::Repaired => {
            let mut words = text.split('\0');
            words.find(|word| matches!(*word, "-smp" | "--smp"))?;
            smp(words.next()?)
        }
        Mode::Compat => {
            let (_, after) = text.split_once("smp")?;
            let digits = after.trim_start_matches(|c: char| !c.is_ascii_digit());
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        }
    };
    count.filter(|count| (1..=most).contains(count))
}

/// `8`, `8,maxcpus=16`, `cpus=8,...`, or the product of what is told of the topology.
fn smp(value: &str) -> Option<u64> {
    let mut product: Option<u64> = None;
    for part in value.split(',') {
        match part.split_once('=') {
            None => return part.parse().ok(),
            Some(("cpus", count)) => return count.parse().ok(),
            Some(("maxcpus", _)) => {}
            Some((_, count)) => product = Some(product.unwrap_or(1).saturating_mul(count.parse().ok()?)),
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKS: Ticks = Ticks { per_second: 100, page: 4096 };
    const REST: &str = "R 1 7 7 0 -1 4194560 99 0 0 0 250 50 0 0 20 0 3 0 1234 629145600 102400 18446744073709551615";

    #[test]
    fn a_line_of_stat() {
        let seen = Tenant { pid: 7, start: 1234, comm: "hog".into(), threads: 3, cpu: 300, mb_size: 600, mb_used: 400 };
        for mode in [Mode::Compat, Mode::Repaired] {
            assert_eq!(Tenant::of(&format!("7 (hog) {REST}\n"), TICKS, mode), Some(seen.clone()), "{mode:?}");
            for cut in ["", "7", "7 (hog", "7 (hog) R 1 7", "x (hog) R 1 7 7 0 -1 4194560 99 0 0 0 1 2"] {
                assert_eq!(Tenant::of(cut, TICKS, mode), None, "{cut:?} {mode:?}");
            }
        }
        // Another clock tick.
        let fast = Ticks { per_second: 1000, ..TICKS };
        assert_eq!(Tenant::of(&format!("7 (hog) {REST}"), fast, Mode::Repaired).map(|t| t.cpu), Some(30));
        assert_eq!(Tenant::of(&format!("7 (hog) {REST}"), fast, Mode::Compat).map(|t| t.cpu), Some(300));
    }

    #[test]
    fn names_with_anything_in_them() {
        for name in ["a b", "a) R (b", "((", ") 1 2 3", "x)"] {
            let line = format!("7 ({name}) {REST}");
            assert_eq!(Tenant::of(&line, TICKS, Mode::Repaired).map(|t| t.comm).as_deref(), Some(name));
        }
        assert_eq!(Tenant::of(&format!("7 (a b) {REST}"), TICKS, Mode::Compat), None);
    }

    #[test]
    fn processors_of_a_guest() {
        let line = |words: &[&str]| words.join("\0").into_bytes();
        for (words, repaired, compat) in [
            (&["qemu", "-smp", "8"][..], Some(8), Some(8)),
            (&["qemu", "-smp", "8,maxcpus=16"], Some(8), Some(8)),
            (&["qemu", "-smp", "cpus=8,sockets=2"], Some(8), Some(8)),
            // Two sockets are not two processors.
            (&["qemu", "-smp", "sockets=2,cores=4,threads=2"], Some(16), Some(2)),
            (&["qemu", "-smp", "maxcpus=16,cores=4"], Some(4), Some(16)),
            // The guest's name is not its size.
            (&["qemu", "-name", "smp9", "-smp", "4"], Some(4), Some(9)),
            (&["qemu", "-smp", "0"], None, None),
            (&["qemu", "-smp", "64"], None, None),
            (&["qemu", "-smp"], None, None),
            (&["qemu", "-smp", "many"], None, None),
            (&["qemu", "-m", "4"], None, None),
        ] {
            assert_eq!(vcpus(&line(words), 32, Mode::Repaired), repaired, "{words:?} repaired");
            assert_eq!(vcpus(&line(words), 32, Mode::Compat), compat, "{words:?} by the original");
        }
        let named = |comm: &str, mode| Tenant { comm: comm.into(), ..Tenant::default() }.is_guest(mode);
        for (comm, repaired, compat) in
            [("qemu-kvm", true, true), ("qemu-system-x86", true, false), ("kvm", true, false), ("hog", false, false)]
        {
            assert_eq!((named(comm, Mode::Repaired), named(comm, Mode::Compat)), (repaired, compat), "{comm}");
        }
    }
}
