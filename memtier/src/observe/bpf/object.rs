//! The BPF object: where it comes from, what is patched into it, what the kernel says about what was loaded.

use super::btf::{BtfError, Types};
use super::deepest;
use crate::sys::bpf::MappedMap;
use crate::sys::files::number_list;
use crate::vocab::Source;
use aya::maps::{Map, MapData};
use aya::programs::{Iter, Program};
use aya::{Btf, Ebpf, EbpfLoader};
use memtier_common::SCHED_SLOTS;
use std::collections::BTreeMap;
use std::env;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// Why nothing could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("no BPF object: looked for {0}; build it with `cargo xtask build-ebpf` or take a binary that embeds it")]
    Missing(String),
    #[error("cannot read the BPF object {path}: {source}")]
    Unreadable { path: String, source: std::io::Error },
    #[error("{0}; the kernel needs CONFIG_DEBUG_INFO_BTF")]
    Types(#[from] BtfError),
    #[error("the kernel's BTF does not parse: {0}")]
    Btf(#[from] aya::BtfError),
    #[error("the kernel refuses the BPF object: {0} (needs CAP_BPF and CAP_PERFMON, or root; lockdown=confidentiality forbids it)")]
    Refused(Box<aya::EbpfError>),
}

impl ObjectError {
    /// The next command, in words.
    pub fn remedy(&self) -> String {
        match self {
            Self::Missing(_) => built_by(&env::current_exe().unwrap_or_default()),
            Self::Unreadable { path, .. } => {
                format!(
                    "`ls -l {path}`: it was named by --bpf-object or MEMTIER_BPF_OBJECT; `cargo xtask build-ebpf` makes target/memtier.bpf.o"
                )
            }
            Self::Types(_) | Self::Btf(_) => "`ls -l /sys/kernel/btf/vmlinux`; boot a kernel with CONFIG_DEBUG_INFO_BTF=y".into(),
            Self::Refused(_) => "`sudo memtier doctor`; `cat /sys/kernel/security/lockdown` must not say [confidentiality]".into(),
        }
    }
}

/// How a binary at this place gets its object: one in a source tree finds what is built there.
fn built_by(exe: &Path) -> String {
    match exe.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "target")).and_then(Path::parent) {
        Some(tree) => format!("`cd {} && cargo xtask build-ebpf`: this binary finds it there", tree.display()),
        None => format!(
            "in memtier's source tree: `cargo xtask build && sudo install target/release/memtier {}`; that binary has it inside",
            exe.display()
        ),
    }
}

/// Choices of whoever opens the eyes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The object file; else MEMTIER_BPF_OBJECT, the embedded one, memtier.bpf.o beside the binary, or one directory up, where xtask leaves it.
    pub object: Option<PathBuf>,
    /// Let probes log what they see.
    pub probe_log: bool,
    /// Have the kernel count the run time of BPF programs: some tens of nanoseconds a run, for all programs of the host.
    pub run_times: bool,
    /// Bytes of each ring of records, a power of two; else by `events_bytes` and `samples_bytes`.
    pub events_bytes: Option<u32>,
}

/// Room for events: 64 KiB per CPU, which holds 1,600 forks, exits and faults. The daemon wakes at the first of them, so
/// that is 1,600 within the time it takes to come. At least 256 KiB, at most 8 MiB.
fn events_bytes(cpus: u32) -> u32 {
    cpus.saturating_mul(64 << 10).clamp(256 << 10, 8 << 20).next_power_of_two()
}

/// Room for samples: 16 KiB per CPU, which holds those of six periods.
fn samples_bytes(cpus: u32) -> u32 {
    cpus.saturating_mul(16 << 10).clamp(64 << 10, 2 << 20).next_power_of_two()
}

/// Room for tallies: tasks that move between CPUs or write to swap within one period. 96 bytes each, twice.
fn tallies(cpus: u32) -> u32 {
    cpus.saturating_mul(1024).clamp(8 << 10, 64 << 10)
}

/// A field whose place is patched in: (global, struct, path; alternatives from newest to oldest after `|`).
type Field = (&'static str, &'static str, &'static str);

/// The process that a task belongs to.
const PROCESS: &[Field] = &[
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_LEADER", "task_struct", "group_leader"),
    ("TASK_START_BOOTTIME", "task_struct", "start_boottime"),
];
const WALKER: &[Field] = &[
    ("TASK_MM", "task_struct", "mm"),
    ("MM_PGD", "mm_struct", "pgd"),
    ("VMA_START", "vm_area_struct", "vm_start"),
    ("VMA_END", "vm_area_struct", "vm_end"),
    ("VMA_FLAGS", "vm_area_struct", "vm_flags"),
    ("VMA_FILE", "vm_area_struct", "vm_file"),
    ("VMA_OPS", "vm_area_struct", "vm_ops"),
    ("FILE_INODE", "file", "f_inode"),
    ("INODE_SB", "inode", "i_sb"),
    ("SB_MAGIC", "super_block", "s_magic"),
];
const PROCS: &[Field] =
    &[("TASK_PID", "task_struct", "pid"), ("TASK_SIGNAL", "task_struct", "signal"), ("SIGNAL_LIVE", "signal_struct", "live")];
const SCHED: &[Field] = &[("TASK_PID", "task_struct", "pid"), ("TASK_CPU", "task_struct", "thread_info.cpu|cpu")];
const RECLAIM: &[Field] = &[
    ("FOLIO_FLAGS", "folio", "flags"),
    ("FOLIO_PAGES", "folio", "_nr_pages|_folio_nr_pages"),
    ("FOLIO_MEMCG", "folio", "memcg_data"),
    ("MEMCG_CGROUP", "mem_cgroup", "css.cgroup"),
    ("CGROUP_KN", "cgroup", "kn"),
    ("KN_ID", "kernfs_node", "id"),
];
/// What a kdamond watches: the context is the data of its thread, and holds the process by its struct pid.
const DAMON: &[Field] = &[
    ("DAMON_OPS", "damon_ctx", "ops.id"),
    ("DAMON_SAMPLE_US", "damon_ctx", "attrs.sample_interval"),
    ("DAMON_AGGR_US", "damon_ctx", "attrs.aggr_interval"),
    ("DAMON_PASSED", "damon_ctx", "passed_sample_intervals"),
    ("DAMON_TARGETS", "damon_ctx", "adaptive_targets"),
    ("TARGET_LIST", "damon_target", "list"),
    ("TARGET_PID", "damon_target", "pid"),
    ("REGION_START", "damon_region", "ar.start"),
    ("REGION_END", "damon_region", "ar.end"),
    ("REGION_ACCESSES", "damon_region", "nr_accesses"),
    ("TASK_KTHREAD", "task_struct", "worker_private"),
    ("KTHREAD_DATA", "kthread", "data"),
    ("TASK_PID_LINKS", "task_struct", "pid_links"),
    ("PID_TASKS", "pid", "tasks"),
];
const FAMILIES: [(Source, &[Field]); 7] = [
    (Source::Walker, WALKER),
    (Source::Procs, PROCS),
    (Source::Sched, SCHED),
    (Source::Reclaim, RECLAIM),
    (Source::Faults, &[]),
    (Source::Migrate, &[]),
    (Source::Damon, DAMON),
];
/// Enumerators whose values are patched in: (family, global, enumerator).
const ENUMERATORS: [(Source, &str, &str); 3] = [
    (Source::Reclaim, "PG_HEAD", "PG_head"),
    (Source::Damon, "DAMON_VADDR", "DAMON_OPS_VADDR"),
    (Source::Damon, "DAMON_FVADDR", "DAMON_OPS_FVADDR"),
];
/// Absent where the kernel was built without the feature; zero then.
const OPTIONAL: &[Field] = &[
    ("VMA_UFFD", "vm_area_struct", "vm_userfaultfd_ctx.ctx"),
    ("VMA_POLICY", "vm_area_struct", "vm_policy"),
    ("POLICY_MODE", "mempolicy", "mode"),
];

fn offset(types: &Types, of: &str, path: &str) -> Result<u64, BtfError> {
    let tried: Vec<_> = path.split('|').map(|p| types.offset(of, p)).collect();
    let found = tried.iter().position(Result::is_ok).unwrap_or(0);
    tried.into_iter().nth(found).unwrap_or_else(|| Err(BtfError::Absent(path.to_owned())))
}

/// Values for the object's globals, and the families that lack something.
fn values(types: &Types) -> (BTreeMap<&'static str, u64>, BTreeMap<Source, String>) {
    let (mut values, mut lacking) = (BTreeMap::new(), BTreeMap::new());
    for (source, fields) in FAMILIES {
        for &(global, of, path) in PROCESS.iter().chain(fields) {
            match offset(types, of, path) {
                Ok(offset) => drop(values.insert(global, offset)),
                Err(why) => drop(lacking.insert(source, why.to_string())),
            }
        }
    }
    values.extend(OPTIONAL.iter().filter_map(|&(global, of, path)| Some((global, offset(types, of, path).ok()?))));
    for (source, global, name) in ENUMERATORS {
        match types.enumerator(name) {
            Ok(value) => drop(values.insert(global, value)),
            Err(why) => drop(lacking.insert(source, why.to_string())),
        }
    }
    values.insert("EXIT_TELLS_LAST", types.tracepoint("sched_process_exit").is_ok_and(|args| args.len() > 1).into());
    values.insert("OWN_PID", std::process::id().into());
    (values, lacking)
}

/// A loaded object. Maps exist; programs are loaded one by one by the sources that use them. `ebpf` alone keeps them in
/// place; the type information, some tens of MiB, is for loading.
#[derive(Debug)]
pub struct Object {
    pub ebpf: Ebpf,
    pub btf: Btf,
    pub types: Types,
    /// Sources whose structures this kernel lacks, and what is lacking.
    pub lacking: BTreeMap<Source, String>,
    /// One more than the highest CPU number.
    pub cpus: u32,
}

impl Object {
    pub fn load(options: &Options) -> Result<Self, ObjectError> {
        let bytes = bytes(options)?;
        let types = Types::of_kernel()?;
        let (values, lacking) = values(&types);
        let cpus = possible_cpus();
        let level = if options.probe_log { u8::MAX } else { 0 };
        let mut loader = EbpfLoader::new();
        for (global, value) in &values {
            loader.override_global(global, value, true);
        }
        loader.map_max_entries("SAMPLES", options.events_bytes.unwrap_or_else(|| samples_bytes(cpus)));
        loader.map_max_entries("EVENTS", options.events_bytes.unwrap_or_else(|| events_bytes(cpus)));
        for name in ["TALLY_0", "TALLY_1", "MOVES_0", "MOVES_1"] {
            loader.map_max_entries(name, tallies(cpus));
        }
        loader.map_max_entries("SCHED_CPUS", cpus).map_max_entries("SCHED", cpus * 2 * SCHED_SLOTS as u32);
        loader.override_global("AYA_LOG_LEVEL", &level, false);
        let ebpf = loader.load(&bytes).map_err(|e| ObjectError::Refused(Box::new(e)))?;
        Ok(Self { ebpf, btf: Btf::from_sys_fs()?, types, lacking, cpus })
    }

    /// A map of the object. It stays in the object: programs that are not loaded yet refer to it by number.
    pub fn map(&self, name: &'static str) -> Result<&MapData, String> {
        let found = self.ebpf.map(name).and_then(data);
        found.ok_or_else(|| format!("the BPF object has no fitting map {name}: it is of another version"))
    }

    /// Maps the first `len` bytes of an array.
    pub fn mapped(&self, name: &'static str, len: usize) -> Result<MappedMap, String> {
        MappedMap::new(self.map(name)?.fd().as_fd(), len).map_err(|e| format!("mapping {name}: {e}"))
    }

    /// Handles to the programs that were loaded.
    pub fn loaded(&self) -> Vec<(String, OwnedFd)> {
        let owned = |program: &Program| program.fd().ok()?.as_fd().try_clone_to_owned().ok();
        self.ebpf.programs().filter_map(|(name, program)| Some((name.to_owned(), owned(program)?))).collect()
    }

    /// Loads an iterator program over "task" or "task_vma".
    pub fn iterator(&mut self, name: &'static str, over: &str) -> Result<OwnedFd, String> {
        let program: &mut Iter = program(&mut self.ebpf, name)?;
        program.load(over, &self.btf).map_err(|e| format!("loading {name}: {}", deepest(&e)))?;
        let fd = program.fd().map_err(|e| e.to_string())?;
        fd.as_fd().try_clone_to_owned().map_err(|e| e.to_string())
    }
}

/// What all kinds of maps have in common.
pub fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data) | Map::PerCpuArray(data) | Map::HashMap(data) | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}

/// A program of the object by name and type.
pub fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, String>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let found = ebpf.program_mut(name).and_then(|p| p.try_into().ok());
    found.ok_or_else(|| format!("the BPF object has no fitting program {name}: it is of another version"))
}

/// One more than the highest number a CPU may have.
fn possible_cpus() -> u32 {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").ok().and_then(|t| number_list(&t));
    possible.and_then(|cpus| cpus.into_iter().max()).map_or(1, |most| most + 1)
}

#[cfg(feature = "embed-ebpf")]
fn embedded() -> Option<Vec<u8>> {
    Some(aya::include_bytes_aligned!(env!("MEMTIER_BPF_OBJECT")).to_vec())
}
#[cfg(not(feature = "embed-ebpf"))]
fn embedded() -> Option<Vec<u8>> {
    None
}

fn bytes(options: &Options) -> Result<Vec<u8>, ObjectError> {
    let read =
        |path: PathBuf| std::fs::read(&path).map_err(|source| ObjectError::Unreadable { path: path.display().to_string(), source });
    if let Some(path) = options.object.clone().or_else(|| env::var_os("MEMTIER_BPF_OBJECT").map(PathBuf::from)) {
        return read(path);
    }
    if let Some(bytes) = embedded() {
        return Ok(bytes);
    }
    // Never from the working directory: this is a root's program.
    let exe = env::current_exe().unwrap_or_default();
    let places: Vec<PathBuf> = exe.ancestors().skip(1).take(2).map(|dir| dir.join("memtier.bpf.o")).collect();
    match places.iter().find(|p| p.exists()) {
        Some(path) => read(path.clone()),
        None => Err(ObjectError::Missing(places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_names_the_next_command() {
        let tree = built_by(Path::new("/src/memtier/target/debug/memtier"));
        assert_eq!(tree, "`cd /src/memtier && cargo xtask build-ebpf`: this binary finds it there");
        let installed = built_by(Path::new("/usr/bin/memtier"));
        assert!(installed.contains("`cargo xtask build && sudo install target/release/memtier /usr/bin/memtier`"), "{installed}");
    }
}
