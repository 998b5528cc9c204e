//! Why a run is not started or not moved, by what the caller can do about it.

use cogward_model::{
    AgentName, ContentName, RunId, TenantName, UpstreamName, VersionLabel,
    manifest::{Profile, Tier},
    run::TransitionError,
};
use cogward_store::StoreError;

use crate::ports::{Missing, PortError};

/// Why a run was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No such tenant.
    #[error("there is no tenant `{0}`")]
    UnknownTenant(TenantName),
    /// No such agent.
    #[error("the agent `{agent}` is not registered in tenant `{tenant}`")]
    UnknownAgent {
        /// The tenant.
        tenant: TenantName,
        /// The agent.
        agent: AgentName,
    },
    /// No such version.
    #[error("the version `{version}` of agent `{agent}` is not registered")]
    UnknownVersion {
        /// The agent.
        agent: AgentName,
        /// The version.
        version: VersionLabel,
    },
    /// The agent acts for a user and none was named.
    #[error("`{0}` acts for a user: name the user")]
    UserRequired(AgentName),
    /// A bound of the request.
    #[error("{what} is longer than {max} bytes")]
    TooLong {
        /// What.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// An input is not declared, missing or too large.
    #[error("the input `{name}`: {why}")]
    Input {
        /// The input.
        name: ContentName,
        /// What is wrong with it.
        why: String,
    },
    /// The host cannot enforce the profile.
    #[error("this host cannot enforce the profile `{profile}`: {}", .missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    ProfileUnenforceable {
        /// The profile.
        profile: &'static str,
        /// What is not there.
        missing: Vec<Missing>,
    },
    /// The profile is weaker than the tenant or the plane accepts for the tier.
    #[error("the profile `{}` is weaker than `{}`, the weakest that is accepted for tier {}: {told}", .profile.as_str(), .floor.as_str(), .tier.as_str())]
    ProfileTooWeak {
        /// The version's profile.
        profile: Profile,
        /// The weakest that is accepted.
        floor: Profile,
        /// The version's tier.
        tier: Tier,
        /// Who set it, when and why.
        told: String,
    },
    /// The manifest lets nobody in from outside, or not this client.
    #[error("the agent `{agent}` does not let the client `{client}` of `{issuer}` in")]
    NotAdmitted {
        /// The agent.
        agent: AgentName,
        /// The issuer of its tokens.
        issuer: UpstreamName,
        /// The client.
        client: String,
    },
    /// What runs outside is in no sandbox, and the tier needs one.
    #[error("a run of tier {} needs a sandbox of the plane's own, and a client outside has none", .0.as_str())]
    OutsideTier(Tier),
    /// The floor of the tier was raised, and what runs outside is in no sandbox.
    #[error("a run of tier {} needs a sandbox of profile `{}`, and a client outside has none: {told}", .tier.as_str(), .floor.as_str())]
    OutsideFloor {
        /// The weakest that is accepted.
        floor: Profile,
        /// The version's tier.
        tier: Tier,
        /// Who set it, when and why.
        told: String,
    },
    /// A client outside has no files, and no input.
    #[error("a client outside is given nothing: {0}")]
    OutsideGiven(&'static str),
    /// The client has a run already.
    #[error("the client has the run {0} already")]
    Attached(RunId),
    /// The last run of the client was stopped; it does not come back by itself.
    #[error(
        "the last run of this client, {0}, was ended by an operator or by a rule; an operator has to start the next"
    )]
    Stopped(RunId),
    /// As many clients as there may be.
    #[error("{0} clients outside have runs of this agent or this plane, which is all that is taken")]
    TooManyOutside(u64),
    /// Every host identity is taken by a live run.
    #[error("{0} runs are live, which is all that this plane takes")]
    TooManyRuns(u32),
    /// The plane is on its way down.
    #[error("the plane is stopping")]
    Stopping,
    /// Evidence cannot be written, so nothing may start.
    #[error("evidence cannot be written: {0}")]
    Evidence(PortError),
    /// The run's directory could not be made.
    #[error("the run's directory cannot be made")]
    Directory(#[source] std::io::Error),
    /// The stored manifest cannot be read.
    #[error("the stored manifest of `{0}` cannot be read")]
    Manifest(AgentName, #[source] serde_json::Error),
    /// The state database failed.
    #[error("the start cannot be recorded")]
    Store(#[from] StoreError),
}

impl StartError {
    /// The rule that refused, for the evidence; `None` when nothing was decided.
    pub(crate) fn rule(&self) -> Option<&'static str> {
        match self {
            Self::UnknownTenant(_) | Self::UnknownAgent { .. } | Self::UnknownVersion { .. } => {
                Some("registry.registered")
            }
            Self::UserRequired(_) => Some("spec.autonomy"),
            Self::TooLong { .. } => Some("limits.request"),
            Self::Input { .. } => Some("spec.sandbox.inputs"),
            Self::ProfileUnenforceable { .. } => Some("profile_unenforceable"),
            Self::ProfileTooWeak { .. } => Some("profile_too_weak"),
            Self::TooManyRuns(_) => Some("limits.runs"),
            Self::NotAdmitted { .. } => Some("spec.access.outside"),
            Self::OutsideTier(_) => Some("outside.tier"),
            Self::OutsideFloor { .. } => Some("profile_too_weak"),
            Self::OutsideGiven(_) => Some("outside.input"),
            Self::Stopped(_) => Some("outside.stopped"),
            Self::TooManyOutside(_) => Some("limits.outsideRuns"),
            _ => None,
        }
    }
}

/// Why a command did not take effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No such run.
    #[error("there is no run `{0}`")]
    UnknownRun(RunId),
    /// The run is not in a state for it.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// The reason is too long.
    #[error("the reason is longer than {0} bytes")]
    ReasonTooLong(usize),
    /// Nothing may go on while evidence cannot be written.
    #[error("evidence cannot be written: {0}")]
    Evidence(PortError),
    /// It is recorded and holds, but its effect could not be made.
    #[error("the command holds, but {step} failed: {cause}")]
    Effect {
        /// What could not be done.
        step: &'static str,
        /// Why.
        cause: PortError,
    },
    /// The state database failed.
    #[error("the command cannot be recorded")]
    Store(#[from] StoreError),
}

/// Why spare sandboxes are not kept as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarmError {
    /// More than one version may have.
    #[error("at most {max} sandboxes of a version can be kept ready")]
    TooMany {
        /// The most.
        max: u32,
    },
    /// Its runs are given files, which are mounted when the sandbox is made.
    #[error("the version declares `spec.sandbox.inputs`: its sandboxes cannot be made before their files are there")]
    Inputs,
    /// Its sandboxes are made by something else than the plane itself.
    #[error("sandboxes of profile `{}` cannot be made before their input is known", .0.as_str())]
    Profile(Profile),
    /// The stored manifest cannot be read.
    #[error("the stored manifest of `{0}` cannot be read")]
    Manifest(AgentName, #[source] serde_json::Error),
    /// The state database failed, or there is no such version.
    #[error("it cannot be recorded")]
    Store(#[from] StoreError),
    /// It is set; its evidence follows when the ledger can be written.
    #[error("evidence cannot be written: {0}")]
    Evidence(PortError),
}

/// Why a plane cannot take its runs over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The state database failed.
    #[error("the runs cannot be read")]
    Store(#[from] StoreError),
    /// The directory of runs cannot be read.
    #[error("the directory of runs cannot be read")]
    Directory(#[source] std::io::Error),
}
