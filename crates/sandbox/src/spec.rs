//! What the plane asks for and what it gets back: the launch, the enforcement, the end, the violations.
//!
//! These types cross a process boundary (`spec.json`, the supervisor's socket, `exit.json`) and end in
//! evidence, so they are plain data. [`LaunchSpec::validate`] is the only door into the launcher: what
//! passes it is bounded in size and cannot name a path that the sandbox itself owns.

use std::{path::PathBuf, time::Duration};

use cogward_model::{
    RunId,
    content::{Artifact, NotKept},
    limits,
    manifest::{Medium, Profile, Resources},
};
use serde::{Deserialize, Serialize};

use crate::{image::PackageImage, service::Service, storage::Storage};

pub use crate::driver::firecracker::FirecrackerSettings;
pub use cogward_model::violation::Violation;

/// Most arguments or variables of one agent.
pub const ARGUMENTS_MAX: usize = 512;
/// Most bytes of all arguments and variables together; the kernel's own limit is above it.
pub const ARGUMENT_BYTES_MAX: usize = 256 * 1024;
/// Most read-only mounts beside the root.
pub const MOUNTS_MAX: usize = 96;
/// Most bytes of all files under `/run/cogward`.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest output file that is taken from a run.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// The file under `/run/cogward` that the input is in.
pub const INPUT_FILE: &str = "input.json";
/// Largest text of an input that comes late, in `input.json`: each byte of text that is not JSON may take six.
pub const LATE_FILE_BYTES_MAX: usize = 6 * limits::RUN_INPUT_BYTES_MAX + 2;
/// The uid slots that exist: each has 65,536 uids of the host to itself.
pub const UID_SLOTS: u32 = 32_000;
/// Port of the model listener inside the sandbox.
pub const MODEL_PORT: u16 = 28471;
/// Port of the MCP listener inside the sandbox.
pub const MCP_PORT: u16 = 28472;
/// Port of the HTTP proxy listener inside the sandbox.
pub const PROXY_PORT: u16 = 3128;

/// One run to launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// The run.
    pub run: RunId,
    /// Its directory, which must exist with mode 0700.
    pub run_dir: PathBuf,
    /// The isolation that must hold, whole, or the launch is refused.
    pub profile: Profile,
    /// What carries the sandbox, as configured on this host. A launch of an earlier version names none: it was native.
    #[serde(default)]
    pub driver: DriverSettings,
    /// What its processes may use.
    pub resources: Resources,
    /// Where its programs come from.
    pub root: Root,
    /// Packages, read-only. Their content must be readable by others (0755/0644).
    pub mounts: Vec<ReadOnlyMount>,
    /// The image of the package, where there is one: what `root`, `mounts` and `storage.from` name of the package comes
    /// out of it. Native only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_image: Option<PackageImage>,
    /// The program and its arguments; a program without a slash is looked up in the run's own `PATH`.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// The working directory inside.
    pub cwd: String,
    /// Read-only files under `/run/cogward`, by name.
    #[serde(with = "bytes::named")]
    pub files: Vec<(String, Vec<u8>)>,
    /// What the agent reads from its standard input.
    #[serde(with = "bytes::single")]
    pub stdin: Vec<u8>,
    /// Whether the input comes later, by [`crate::Supervised::give_input`]: `input.json` of `files` and `stdin` are
    /// empty until then, and the agent is not let go without.
    #[serde(default)]
    pub late_input: bool,
    /// Which uid range of the host the run has to itself (used as root only). No two live runs may share one.
    pub uid_slot: u32,
    /// Time between being asked to end and being killed.
    pub grace: Duration,
    /// Its files beside the package: workspace, inputs, outputs.
    #[serde(default)]
    pub storage: Storage,
    /// How long it may run, suspensions included. The plane ends it then; where there is no plane, the supervisor does.
    pub wall_clock: Duration,
    /// Set for a program of the operator's, which is no run: see [`Service`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// An input that comes after the launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LateInput {
    /// What is in `input.json` from then on.
    #[serde(with = "bytes::single")]
    pub file: Vec<u8>,
    /// What the agent reads from its standard input.
    #[serde(with = "bytes::single")]
    pub stdin: Vec<u8>,
}

impl LateInput {
    /// Checks the sizes.
    ///
    /// # Errors
    /// [`SpecError`] names the part that is too large.
    pub fn validate(&self) -> Result<(), SpecError> {
        let refuse = |field, why: &str| Err(SpecError { field, why: why.to_owned() });
        if self.stdin.len() > limits::RUN_INPUT_BYTES_MAX {
            return refuse("stdin", "is larger than 1 MiB");
        }
        if self.file.len() > LATE_FILE_BYTES_MAX {
            return refuse("files", "have an input that is larger than 6 MiB");
        }
        Ok(())
    }
}

/// What carries a sandbox, with its settings. They come from the plane's own configuration, never from a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DriverSettings {
    /// The supervisor itself, with the kernel's own means.
    #[default]
    Native,
    /// A container runtime that is installed on the host.
    Oci {
        /// Its program.
        runtime: PathBuf,
        /// Which it is.
        kind: RuntimeKind,
        /// How it intercepts system calls, where that is a choice; its own default unless given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform: Option<String>,
    },
    /// A machine of its own, by Firecracker and its jailer.
    Firecracker(FirecrackerSettings),
}

/// A container runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// gVisor: system calls are answered by a kernel in user space.
    Runsc,
    /// The reference runtime: namespaces of the host's kernel.
    Runc,
    /// The same in C.
    Crun,
}

impl RuntimeKind {
    /// Its usual name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runsc => "runsc",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }

    /// Whether the agent's system calls are answered by the host's kernel.
    #[must_use]
    pub fn shares_the_kernel(self) -> bool {
        self != Self::Runsc
    }
}

impl DriverSettings {
    /// The word in errors and evidence.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Oci { .. } => "oci",
            Self::Firecracker(_) => "firecracker",
        }
    }

    /// Whether it enforces a profile: a profile is a promise about one kind of boundary.
    #[must_use]
    pub fn carries(&self, profile: Profile) -> bool {
        match self {
            Self::Native => matches!(profile, Profile::Standard | Profile::Hardened),
            Self::Oci { kind: RuntimeKind::Runsc, .. } => profile == Profile::Gvisor,
            Self::Oci { .. } => profile == Profile::Container,
            Self::Firecracker(_) => profile == Profile::Microvm,
        }
    }
}

/// Where the programs of a run come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Root {
    /// The host's `/usr`, read-only. The page cache of these files is shared with the host.
    HostUsr,
    /// An unpacked image, read-only; nothing of the host's file system is visible.
    Image {
        /// Its directory.
        dir: PathBuf,
    },
}

/// A directory that is visible read-only inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadOnlyMount {
    /// The directory on the host.
    pub source: PathBuf,
    /// Where it appears, such as `/app`.
    pub at: String,
}

/// Why a [`LaunchSpec`] is refused before anything is made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the launch of the run is not valid: {field} {why}")]
pub struct SpecError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl LaunchSpec {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`SpecError`] names the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), SpecError> {
        let refuse = |field, why: &str| Err(SpecError { field, why: why.to_owned() });
        let texts = || self.argv.iter().chain(self.env.iter().flat_map(|(k, v)| [k, v])).chain([&self.cwd]);
        if !self.driver.carries(self.profile) {
            return refuse("driver", &format!("`{}` does not enforce `{}`", self.driver.name(), self.profile.as_str()));
        }
        if self.argv.is_empty() || self.argv.first().is_some_and(String::is_empty) {
            return refuse("argv", "names no program");
        }
        if self.argv.len() > ARGUMENTS_MAX || self.env.len() > ARGUMENTS_MAX {
            return refuse("argv", "or env has more than 512 entries");
        }
        if texts().any(|t| t.contains('\0')) {
            return refuse("argv", "or env contains a NUL byte");
        }
        if texts().map(String::len).sum::<usize>() > ARGUMENT_BYTES_MAX {
            return refuse("argv", "and env are larger than 256 KiB");
        }
        if self.env.iter().any(|(k, _)| k.is_empty() || k.contains('=')) {
            return refuse("env", "has a name that is empty or contains `=`");
        }
        if !is_plain_absolute(&self.cwd) && self.cwd != "/" {
            return refuse("cwd", "is not a plain absolute path");
        }
        if !self.run_dir.is_absolute() {
            return refuse("run_dir", "is not absolute");
        }
        if self.uid_slot >= UID_SLOTS {
            return refuse("uid_slot", "is 32,000 or more");
        }
        if self.stdin.len() > limits::RUN_INPUT_BYTES_MAX {
            return refuse("stdin", "is larger than 1 MiB");
        }
        if self.files.iter().map(|(_, b)| b.len()).sum::<usize>() > FILE_BYTES_MAX || self.files.len() > 64 {
            return refuse("files", "are larger than 4 MiB or more than 64");
        }
        if !self.files.iter().all(|(name, _)| is_file_name(name)) {
            return refuse("files", "has a name that is not of letters, digits, `.`, `_` and `-`");
        }
        if self.late_input && !self.files.iter().any(|(name, _)| name == INPUT_FILE) {
            return refuse("late_input", "needs a file `input.json` that it will be written to");
        }
        if self.mounts.len() > MOUNTS_MAX {
            return refuse("mounts", "are more than 96");
        }
        for mount in &self.mounts {
            let top = mount.at.split('/').nth(1).unwrap_or_default();
            if !is_plain_absolute(&mount.at) || RESERVED.contains(&top) {
                return refuse("mounts", "has a place that is not a plain absolute path or belongs to the sandbox");
            }
            if !mount.source.is_absolute() {
                return refuse("mounts", "has a source that is not absolute");
            }
        }
        if let Some(image) = &self.package_image {
            if self.driver != DriverSettings::Native {
                return refuse("package_image", "is of a driver that mounts none");
            }
            if !image.file.is_absolute() || !is_plain_absolute(&image.of.to_string_lossy()) {
                return refuse("package_image", "has a path that is not a plain absolute one");
            }
        }
        if let Some(service) = &self.service {
            let plain = self.storage == Storage::default() && self.stdin.is_empty() && !self.late_input;
            if self.driver != DriverSettings::Native || self.root != Root::HostUsr || !plain {
                return refuse("service", "is carried by the plane itself, without an input or files of a run");
            }
            if let Some(fault) = service.fault() {
                return refuse("service.mounts", fault);
            }
        }
        if let Some(fault) = self.storage.fault() {
            return refuse("storage", fault);
        }
        match &self.driver {
            // A container's workspace is the host's, as a native one is.
            DriverSettings::Native | DriverSettings::Oci { .. } => {}
            // What a machine has written, the host does not attach.
            DriverSettings::Firecracker(_) if self.storage.outputs.is_empty() => {}
            DriverSettings::Firecracker(_) => {
                return refuse("storage", "has outputs, and a machine leaves its output file and no other");
            }
        }
        let r = &self.resources;
        let within = (50..=64_000).contains(&r.cpu_millis)
            && (16..=65_536).contains(&r.memory_mib)
            && (4..=4_096).contains(&r.pids)
            && (1..=65_536).contains(&r.workspace_mib)
            && (64..=1_048_576).contains(&r.inodes())
            && (16..=65_536).contains(&r.open_files)
            && r.io_read_mib_per_second.is_none_or(|limit| (1..=65_536).contains(&limit))
            && r.io_write_mib_per_second.is_none_or(|limit| (1..=65_536).contains(&limit));
        if !within {
            return refuse("resources", "are out of their documented bounds");
        }
        if self.grace > Duration::from_secs(600) {
            return refuse("grace", "is longer than 600 seconds");
        }
        Ok(())
    }

    /// The name of the output file below `/work`, from `COGWARD_OUTPUT_FILE`; `output` when that is not set.
    #[must_use]
    pub fn output_name(&self) -> &str {
        self.env
            .iter()
            .find(|(name, _)| name == "COGWARD_OUTPUT_FILE")
            .and_then(|(_, path)| path.strip_prefix("/work/"))
            .filter(|rest| !rest.is_empty())
            .unwrap_or("output")
    }
}

/// Top-level places that only the sandbox itself fills.
const RESERVED: [&str; 14] =
    ["", "inputs", "proc", "dev", "sys", "work", "tmp", "run", "etc", "usr", "bin", "sbin", "lib", "lib64"];

fn is_plain_absolute(path: &str) -> bool {
    path.len() <= 512
        && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|p| !p.is_empty() && p != "." && p != ".."))
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// What is in force around one run, as it was put in place and checked; goes into evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// The profile that holds.
    pub profile: Profile,
    /// What carries the sandbox, such as `native`.
    #[serde(default = "native")]
    pub driver: String,
    /// The program beside the kernel that enforces it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// The kernel's release.
    pub kernel: String,
    /// The namespaces that are the run's own.
    pub namespaces: Vec<String>,
    /// `own-range` (65,536 uids of the run's own) or `single` (rootless).
    pub uids: String,
    /// First uid of the host that the run maps to.
    pub uid_base: u32,
    /// Version of Landlock that the rules are written for; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock_abi: Option<u32>,
    /// The TCP ports inside that lead to the plane; nothing else is reachable.
    pub connect_ports: Vec<u16>,
    /// Instructions in the plane's own system-call filter; absent where the driver has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_instructions: Option<usize>,
    /// System calls that a filter of the plane's making lets through; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_allowed: Option<usize>,
    /// `v1`, `v1+v2` (limits by v1, kill and freeze by v2) or `v2`.
    pub cgroup: String,
    /// The limits in force.
    pub resources: Resources,
    /// `host-usr` or `image`.
    pub root: String,
    /// What the package is mounted from: `erofs` (its image, by its file), `erofs-loop` (its image, by a loop device),
    /// `drive` (a drive of a machine), or `directory` (of the host).
    #[serde(default = "directory")]
    pub package: String,
    /// Where the bytes of the workspace are.
    #[serde(default)]
    pub workspace: Medium,
    /// Checks that ran inside the sandbox before the agent's first instruction.
    pub self_checks: Vec<String>,
}

fn native() -> String {
    DriverSettings::Native.name().to_owned()
}

fn directory() -> String {
    PACKAGE_DIRECTORY.to_owned()
}

/// The word for a package that is mounted from its directory on the host.
pub(crate) const PACKAGE_DIRECTORY: &str = "directory";

/// A program that a driver relies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Which, such as `runsc`.
    pub name: String,
    /// What it says of itself.
    pub version: String,
    /// How it intercepts the agent's system calls, where that is a choice, such as `ptrace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, when it exited.
    pub code: Option<i32>,
    /// The signal that ended it, when one did.
    pub signal: Option<i32>,
    /// Why.
    pub cause: ExitCause,
    /// What it used.
    pub usage: Usage,
    /// Its output: the output file, else the last line of its standard output. Kept in the file `output`.
    #[serde(skip)]
    pub output: Option<Vec<u8>>,
    /// Why the output file was not taken, where there was one.
    #[serde(default)]
    pub output_refused: Option<NotKept>,
    /// What became of the outputs that the manifest declares. Kept in the directory `artifacts`.
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    /// How often what was refused in all; from an earlier build, nothing.
    #[serde(default)]
    pub violations: Vec<Violation>,
    /// Whether every cgroup of the run was seen empty at the end.
    pub empty: bool,
    /// More about the cause, for people.
    pub detail: Option<String>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The agent's main process ended by itself.
    Exited,
    /// It ended by a signal that did not come from the plane.
    Signalled,
    /// It ended within its grace period after it was asked to.
    Terminated,
    /// It was asked to end, did not, and was killed after its grace period.
    GraceExpired,
    /// The plane killed it.
    Killed,
    /// Its time was over and no plane had ended it.
    TimeExpired,
    /// The kernel killed one of its processes because the memory limit was reached, and the run ended so.
    OutOfMemory,
    /// The program could not be executed.
    NotExecutable,
    /// The sandbox could not be made; the agent never ran.
    LaunchFailed,
    /// The run's supervisor is gone without a record; whatever it left was killed.
    SupervisorLost,
}

/// What a run used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of all its processes, in microseconds.
    pub cpu_micros: u64,
    /// Largest memory of all its processes and its workspace together, in bytes.
    pub memory_peak_bytes: u64,
    /// Bytes read from disks, where the host counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// Bytes written to disks, where the host counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_write_bytes: Option<u64>,
    /// Time since the agent was started, in microseconds; suspensions included.
    pub wall_micros: u64,
    /// Bytes written to standard output, kept or not.
    pub stdout_bytes: u64,
    /// Bytes written to standard error, kept or not.
    pub stderr_bytes: u64,
    /// Bytes of both that were dropped because the log was full.
    pub log_bytes_dropped: u64,
}

/// A kill, and the proof that it was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillReport {
    /// Processes that were in the run's cgroup when the kill began, its init included.
    pub processes: u32,
    /// From the command to the empty cgroup, in microseconds.
    pub micros: u64,
    /// Whether every cgroup of the run was seen empty.
    pub empty: bool,
}

/// Bytes as base64 text: a megabyte of input as a JSON array of numbers would be four.
mod bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    pub mod single {
        use super::*;
        pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
            STANDARD.encode(bytes).serialize(s)
        }
        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
            STANDARD.decode(String::deserialize(d)?).map_err(D::Error::custom)
        }
    }

    pub mod named {
        use super::*;
        pub fn serialize<S: Serializer>(files: &[(String, Vec<u8>)], s: S) -> Result<S::Ok, S::Error> {
            let texts: Vec<_> = files.iter().map(|(name, bytes)| (name, STANDARD.encode(bytes))).collect();
            texts.serialize(s)
        }
        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(String, Vec<u8>)>, D::Error> {
            Vec::<(String, String)>::deserialize(d)?
                .into_iter()
                .map(|(name, text)| Ok((name, STANDARD.decode(text).map_err(D::Error::custom)?)))
                .collect()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use cogward_model::{Id, SystemClock, SystemEntropy};

    use super::*;

    pub(crate) fn spec() -> LaunchSpec {
        LaunchSpec {
            run: Id::new(&SystemClock, &SystemEntropy),
            run_dir: "/tmp/x".into(),
            profile: Profile::Standard,
            driver: DriverSettings::Native,
            resources: Resources::default(),
            root: Root::HostUsr,
            mounts: vec![ReadOnlyMount { source: "/srv/p".into(), at: "/app".into() }],
            package_image: None,
            argv: vec!["/usr/bin/true".into()],
            env: vec![],
            cwd: "/app".into(),
            files: vec![("input.json".into(), b"\xff\0".to_vec())],
            stdin: vec![0, 255],
            late_input: false,
            uid_slot: 0,
            grace: Duration::from_secs(1),
            wall_clock: Duration::from_secs(60),
            storage: Storage::default(),
            service: None,
        }
    }

    #[test]
    fn a_spec_survives_its_file() {
        let spec = spec();
        spec.validate().unwrap();
        let text = serde_json::to_vec(&spec).unwrap();
        assert_eq!(serde_json::from_slice::<LaunchSpec>(&text).unwrap(), spec);
        // One of a version that knew no drivers.
        let mut old: serde_json::Value = serde_json::from_slice(&text).unwrap();
        old.as_object_mut().unwrap().remove("driver").unwrap();
        assert_eq!(serde_json::from_value::<LaunchSpec>(old).unwrap(), spec);
    }

    /// A launch that was written before there were files beside the package.
    #[test]
    fn a_launch_without_storage_has_none() {
        let spec = spec();
        let mut text = serde_json::to_value(&spec).unwrap();
        text.as_object_mut().unwrap().remove("storage").unwrap();
        assert_eq!(serde_json::from_value::<LaunchSpec>(text).unwrap(), spec);
    }

    #[test]
    fn a_mount_cannot_take_the_place_of_inputs() {
        let mut spec = spec();
        spec.mounts[0].at = "/inputs".into();
        assert_eq!(spec.validate().unwrap_err().field, "mounts");
        let mut spec = self::spec();
        let source = "relative".into();
        spec.storage.inputs.push(crate::storage::InputMount { name: "a".parse().unwrap(), source });
        assert_eq!(spec.validate().unwrap_err().field, "storage");
    }

    #[test]
    fn a_driver_is_given_only_the_profiles_that_it_enforces() {
        for profile in [Profile::Container, Profile::Gvisor, Profile::Microvm] {
            let error = LaunchSpec { profile, ..spec() }.validate().unwrap_err();
            assert_eq!(error.field, "driver", "{error}");
        }
        assert_eq!(LaunchSpec { profile: Profile::Hardened, ..spec() }.validate(), Ok(()));
    }

    #[test]
    fn places_of_the_sandbox_itself_are_refused() {
        for at in ["/", "/proc", "/etc/ssl", "/run/cogward", "app", "/app/../etc", "/app//x", "/usr/share", "/app/"] {
            let mut spec = spec();
            spec.mounts[0].at = at.into();
            assert!(spec.validate().is_err(), "{at}");
        }
    }

    #[test]
    fn hostile_names_and_sizes_are_refused() {
        let broken: [fn(&mut LaunchSpec); 8] = [
            |s| s.argv.clear(),
            |s| s.argv.push("a\0b".into()),
            |s| s.env.push(("A=B".into(), String::new())),
            |s| s.files[0].0 = "../x".into(),
            |s| s.uid_slot = UID_SLOTS,
            |s| s.stdin = vec![0; limits::RUN_INPUT_BYTES_MAX + 1],
            |s| s.resources.pids = 0,
            |s| s.cwd = "work".into(),
        ];
        for (n, change) in broken.iter().enumerate() {
            let mut spec = spec();
            change(&mut spec);
            assert!(spec.validate().is_err(), "case {n}");
        }
    }

    #[test]
    fn the_output_file_can_only_be_below_work() {
        let mut spec = spec();
        assert_eq!(spec.output_name(), "output");
        spec.env = vec![("COGWARD_OUTPUT_FILE".into(), "/etc/shadow".into())];
        assert_eq!(spec.output_name(), "output");
        spec.env = vec![("COGWARD_OUTPUT_FILE".into(), "/work/out/answer.json".into())];
        assert_eq!(spec.output_name(), "out/answer.json");
    }
}
