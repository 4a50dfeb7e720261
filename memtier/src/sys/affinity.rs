//! Which CPUs a task may run on, for any number of CPUs.

use super::files::number_list;
use crate::compat::numad::list;
use crate::vocab::CpuId;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;

const BITS: u32 = libc::c_ulong::BITS;
/// Words of the first question: 1024 CPUs, more than most kernels are built for.
const FEW: usize = (1024 / BITS) as usize;
/// Words of the last: no kernel is built for more than 65536.
const MOST: usize = (65_536 / BITS) as usize;

/// A set of CPUs. No word at its end is zero, so that equal sets are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuMask(Vec<libc::c_ulong>);

impl CpuMask {
    /// Every CPU that there is or will be: what a task has that nobody bound.
    #[must_use]
    pub fn every() -> Self {
        Self(vec![libc::c_ulong::MAX; MOST])
    }
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(number_list(text)?.into_iter().map(CpuId).collect())
    }
    /// What /proc/PID/status says under Cpus_allowed: words of 32 bits in hex, the highest first.
    #[must_use]
    pub fn of_status(text: &[u8]) -> Option<Self> {
        let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Cpus_allowed:"))?;
        let mut words = Vec::new();
        for (nth, half) in (0..).zip(str::from_utf8(line).ok()?.trim().rsplit(',')) {
            let half = libc::c_ulong::from(u32::from_str_radix(half, 16).ok()?);
            let at = nth * 32 / BITS as usize;
            words.resize(at + 1, 0);
            words[at] |= half << (nth as u32 * 32 % BITS);
        }
        Some(Self::tidy(words))
    }
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.get((cpu.0 / BITS) as usize).is_some_and(|word| word >> (cpu.0 % BITS) & 1 == 1)
    }
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        self.and(other) == *self
    }
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self::tidy(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let (long, short) = if self.0.len() < other.0.len() { (other, self) } else { (self, other) };
        let mut words = long.0.clone();
        words.iter_mut().zip(&short.0).for_each(|(a, b)| *a |= b);
        Self(words)
    }
    /// Ascending.
    pub fn cpus(&self) -> impl Iterator<Item = CpuId> + '_ {
        (0..self.0.len() as u32 * BITS).map(CpuId).filter(|cpu| self.contains(*cpu))
    }

    fn tidy(mut words: Vec<libc::c_ulong>) -> Self {
        words.truncate(words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1));
        Self(words)
    }
}

impl FromIterator<CpuId> for CpuMask {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut words = Vec::new();
        for CpuId(cpu) in cpus {
            let at = (cpu / BITS) as usize;
            words.resize(words.len().max(at + 1), 0);
            words[at] |= 1 << (cpu % BITS);
        }
        Self(words)
    }
}

/// As the kernel prints it: `0-3,8`.
impl fmt::Display for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&list(self.cpus().map(|cpu| cpu.0)))
    }
}

impl Serialize for CpuMask {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuMask {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no list of CPUs")))
    }
}

/// The CPUs that are online.
pub fn online() -> io::Result<CpuMask> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    CpuMask::parse(&text).ok_or_else(|| io::Error::other(format!("{text:?} is no list of CPUs")))
}

/// The CPUs that a task may run on and that are online. `tid` 0 is the calling thread.
///
/// | errno | meaning |
/// | --- | --- |
/// | ESRCH | no such task |
/// | EINVAL | the kernel has more CPUs than were asked for: asked again with more room, up to 65536 |
/// | EPERM | a security module forbids it |
pub fn affinity(tid: u32) -> io::Result<CpuMask> {
    let mut words: Vec<libc::c_ulong> = vec![0; FEW];
    loop {
        // SAFETY: the kernel writes at most the size it is told, which is the vector's.
        let got =
            unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid as libc::pid_t, size_of_val(&*words), words.as_mut_ptr()) };
        if got >= 0 {
            return Ok(CpuMask::tidy(words));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) || words.len() >= MOST {
            return Err(error);
        }
        words = vec![0; words.len() * 2];
    }
}

/// Lets a task run on these CPUs only; those that its cpuset forbids are left out by the kernel in silence, and those it
/// does not know. `tid` 0 is the calling thread.
///
/// | errno | meaning |
/// | --- | --- |
/// | EINVAL | none of them is online and allowed by the cpuset of the task; or a kernel thread that is tied to its CPU |
/// | EPERM | another user's task, and no CAP_SYS_NICE |
/// | ESRCH | no such task |
/// | EBUSY | a deadline task whose bandwidth is not to be had there |
/// | ENOMEM | no kernel memory for a mask |
pub fn set_affinity(tid: u32, cpus: &CpuMask) -> io::Result<()> {
    // A mask without a word is an empty one, and the kernel's own answer to that is EINVAL.
    let words: &[libc::c_ulong] = if cpus.is_empty() { &[0] } else { &cpus.0 };
    // SAFETY: the kernel reads the size it is told, which is the slice's, and reads what lies beyond as zero.
    let done = unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid as libc::pid_t, size_of_val(words), words.as_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(text: &str) -> CpuMask {
        CpuMask::parse(text).expect("a list")
    }

    #[test]
    fn sets_of_any_size() {
        for text in ["", "0", "0-3,8", "63-64", "1023-1025", "5000,65535"] {
            assert_eq!(mask(text).to_string(), text);
        }
        assert_eq!(CpuMask::parse("0-x"), None);
        assert!(mask("1,2000").within(&CpuMask::every()) && mask("").within(&mask("3")) && !mask("1,2000").within(&mask("0-1999")));
        assert_eq!((mask("0,2000").and(&mask("0-7")), mask("1").or(&mask("2000"))), (mask("0"), mask("1,2000")));
        assert_eq!(mask("2000").and(&mask("1")), CpuMask::default());
        for (text, cpus) in [("ff", "0-7"), ("1,00000000,80000003", "0-1,31,64"), ("0", "")] {
            assert_eq!(CpuMask::of_status(format!("Name:\tx\nCpus_allowed:\t{text}\n").as_bytes()), Some(mask(cpus)));
        }
        assert_eq!(CpuMask::of_status(b"Cpus_allowed:\tx\n"), None);
        assert!(mask("2000").contains(CpuId(2000)) && !mask("2000").contains(CpuId(70_000)));
        let json = serde_json::to_string(&mask("0-3,8")).expect("text");
        assert_eq!((json.as_str(), serde_json::from_str::<CpuMask>(&json).expect("reads")), ("\"0-3,8\"", mask("0-3,8")));
    }

    proptest! {
        #[test]
        fn like_sets(a in prop::collection::btree_set(0..300u32, 0..20), b in prop::collection::btree_set(0..300u32, 0..20)) {
            let of = |set: &std::collections::BTreeSet<u32>| set.iter().copied().map(CpuId).collect::<CpuMask>();
            let (both, either) = (&a & &b, &a | &b);
            prop_assert_eq!(of(&a).and(&of(&b)), of(&both));
            prop_assert_eq!(of(&a).or(&of(&b)), of(&either));
            prop_assert_eq!(of(&a).within(&of(&b)), a.is_subset(&b));
            prop_assert_eq!(of(&a).cpus().map(|c| c.0).collect::<Vec<_>>(), a.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_thread_of_our_own_is_bound_and_set_free() {
        // Of its own, so that no other test runs on it.
        let thread = std::thread::spawn(|| {
            let before = affinity(0).expect("ours");
            let first: CpuMask = before.cpus().take(1).collect();
            set_affinity(0, &first).expect("one of ours");
            assert_eq!(affinity(0).expect("ours"), first);
            assert_eq!(set_affinity(0, &CpuMask::default()).expect_err("none").raw_os_error(), Some(libc::EINVAL));
            set_affinity(0, &CpuMask::every()).expect("all");
            assert!(before.within(&affinity(0).expect("ours")));
            set_affinity(0, &before).expect("as before");
            assert_eq!(affinity(0).expect("ours"), before);
        });
        thread.join().expect("no panic");
        assert_eq!(affinity(u32::MAX >> 1).expect_err("nobody").raw_os_error(), Some(libc::ESRCH));
    }
}
