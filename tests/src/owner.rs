//! A child process that said itself where a part of its memory lies (mbind), and touches all of it a fifth of the time.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// Two regions in small pages, each in blocks of its own; the second is bound to a node.
const SCRIPT: &str = "
import ctypes, mmap, select, sys, time
libc = ctypes.CDLL(None, use_errno=True)
size, node = int(sys.argv[1]) << 20, int(sys.argv[2])
word = ctypes.c_ulong
def region():
    m = mmap.mmap(-1, size + (4 << 20), flags=mmap.MAP_PRIVATE)
    m.madvise(mmap.MADV_NOHUGEPAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(m))
    return m, -base % (2 << 20), base + -base % (2 << 20)
(free, skip, at), (own, own_skip, own_at) = region(), region()
if libc.syscall(word(int(sys.argv[3])), word(own_at), word(size), word(2), ctypes.byref(word(1 << node)), word(65), word(0)) != 0:
    sys.exit('mbind: errno %d' % ctypes.get_errno())
def touch():
    for m, first in (free, skip), (own, own_skip):
        for page in range(first, first + size, 4096):
            m[page] = 1
touch()
print(at, own_at, flush=True)
while not select.select([sys.stdin], [], [], 0.08)[0]:
    until = time.process_time() + 0.02
    while time.process_time() < until:
        touch()
";

/// Ends with its owner.
#[derive(Debug)]
pub struct Owner {
    child: Child,
    /// First address of the region that anybody may move.
    pub free: u64,
    /// And of the one that it bound.
    pub bound: u64,
}

impl Owner {
    /// Two regions of `mib` MiB, one of them bound to `node`.
    pub fn start(mib: u64, node: u16) -> Result<Self, String> {
        let python = crate::footing::program("python3", "python3")?;
        let mut child = Command::new(python)
            .args(["-c", SCRIPT, &mib.to_string(), &node.to_string(), &libc::SYS_mbind.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("python3: {e}"))?;
        let mut said = String::new();
        let out = child.stdout.take().expect("stdout was asked for");
        BufReader::new(out).read_line(&mut said).map_err(|e| format!("python3: {e}"))?;
        let addresses: Vec<u64> = said.split_whitespace().filter_map(|at| at.parse().ok()).collect();
        let mut owner = Self { child, free: 0, bound: 0 };
        let [free, bound] = addresses[..] else { return Err(format!("the owner of memory said {said:?}")) };
        (owner.free, owner.bound) = (free, bound);
        Ok(owner)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
