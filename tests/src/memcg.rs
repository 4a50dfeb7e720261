//! A memory cgroup of our own with a limit, in whichever hierarchy has the memory controller.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Memcg(PathBuf);

impl Memcg {
    pub fn start(name: &str, mib: u64) -> Result<Self, String> {
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (root, limit) = if v1.is_dir() { (v1, "memory.limit_in_bytes") } else { (v2, "memory.max") };
        let said = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
        if root == v2 {
            let children = v2.join("cgroup.subtree_control");
            fs::write(&children, "+memory").map_err(|e| said(&children, e))?;
        }
        let dir = root.join(name);
        fs::create_dir(&dir).map_err(|e| said(&dir, e))?;
        let group = Self(dir);
        let path = group.0.join(limit);
        fs::write(&path, (mib << 20).to_string()).map_err(|e| said(&path, e))?;
        Ok(group)
    }

    /// Puts a process in; memory that it already has stays with its old group.
    pub fn add(&self, pid: u32) -> Result<(), String> {
        let path = self.0.join("cgroup.procs");
        fs::write(&path, pid.to_string()).map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Drop for Memcg {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}
