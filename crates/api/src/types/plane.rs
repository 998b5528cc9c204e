//! The plane itself: what it is, whether it is well, what its host can enforce.

use cogward_model::{PolicyScope, Timestamp, id::OperatorId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The plane that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plane {
    /// Its version.
    pub version: String,
    /// When it came up.
    pub started: Timestamp,
    /// The address that it listens on.
    pub listen: String,
    /// The directory that holds everything it keeps.
    pub data_dir: String,
    /// Whether it can write evidence; when not, agents are stopped.
    pub evidence: EvidenceHealth,
    /// Runs that have not ended.
    pub runs_live: u64,
    /// Whether it takes new runs.
    pub accepting: bool,
    /// Levels whose active policy cannot be used: nothing is permitted to the agents under them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies_unusable: Vec<PolicyScope>,
}

/// Whether evidence can be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum EvidenceHealth {
    /// It can.
    Ok,
    /// The disk is nearly full: agents are stopped, the audit is not.
    LowSpace {
        /// Bytes that are left.
        free_bytes: u64,
    },
    /// Nothing of it was signed for a while, since a key does not sign: agents are stopped, the audit is not.
    Unsigned {
        /// Why.
        why: String,
    },
    /// It cannot.
    Failed {
        /// Why.
        why: String,
    },
}

/// Whether the plane takes requests. Needs no credential and so says no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    /// Whether it does.
    pub ready: bool,
}

/// Who the credential belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhoAmI {
    /// The operator.
    pub operator: OperatorId,
    /// The name that is in the records.
    pub name: String,
}

/// What a host can enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Doctor {
    /// The kernel's release.
    pub kernel: String,
    /// Each mechanism.
    pub checks: Vec<Check>,
    /// Each profile.
    pub profiles: Vec<ProfileReport>,
    /// What kind of place it is.
    #[serde(default)]
    pub environment: Environment,
    /// What would hold inside a restricted Kubernetes pod. No profile, and nothing is launched with it.
    #[serde(default)]
    pub pod: Pod,
}

/// What kind of place the plane's host is, as far as it can be seen from inside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Environment {
    /// Whether the plane is root here.
    pub root: bool,
    /// Whether this is the inside of a container.
    pub container: bool,
    /// What says so.
    pub container_signs: Vec<String>,
    /// The virtual machine that this is, as far as it shows; none when it shows none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtualisation: Option<String>,
    /// The security modules of the kernel that are on.
    pub security_modules: Vec<String>,
    /// How control groups are mounted: `v1`, `v1+v2`, `v2`, `none`.
    pub cgroups: String,
    /// What the place withholds, each in a sentence.
    pub restrictions: Vec<String>,
    /// Kernel flaws whose range the kernel's number is in.
    pub known_bad: Vec<KnownBad>,
}

/// A flaw that the kernel may have, judged by its number alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KnownBad {
    /// Its name, such as a CVE number.
    pub id: String,
    /// What it is.
    pub what: String,
    /// What the sandbox does about it.
    pub in_sandbox: String,
    /// What to do.
    pub fix: String,
}

/// What would hold of a sandbox inside a restricted Kubernetes pod, tried in a process without any privilege.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Pod {
    /// Whether agents can be started so. Never, in this release.
    pub launchable: bool,
    /// What that means.
    pub note: String,
    /// Each mechanism.
    pub checks: Vec<Check>,
}

/// One mechanism of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Its name: `landlock`, `cgroup`, `seccomp`.
    pub name: String,
    /// Whether it is there.
    pub status: CheckStatus,
    /// What was found.
    pub detail: String,
    /// What to do where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Whether a mechanism is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// It is there and was tried.
    Ok,
    /// It is not, and nothing that this release offers needs it.
    Optional,
    /// It is not, and a profile needs it.
    Missing,
}

impl CheckStatus {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Optional => "optional",
            Self::Missing => "missing",
        }
    }
}

/// Whether a sandbox profile can be enforced here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileReport {
    /// The profile as manifests name it.
    pub profile: String,
    /// Whether runs that ask for it are accepted.
    pub enforceable: bool,
    /// The checks that are missing for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}
