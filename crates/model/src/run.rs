//! The life of a run: its states, the verbs that move it, and the one table of what may follow what.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a run is in its life. The last four are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Accepted and recorded; its sandbox is being made.
    Starting,
    /// The agent executes.
    Running,
    /// The agent is frozen and its calls are held.
    Suspended,
    /// Asked to end; it has its grace period.
    Stopping,
    /// Ended by itself with exit code 0.
    Succeeded,
    /// Ended by itself with another exit code, by a limit, or it could not start.
    Failed,
    /// Ended by an operator within its grace period.
    Cancelled,
    /// Ended by an operator at once, or after its grace period.
    Killed,
}

/// What can happen to a run: the operator's verbs, and what the sandbox reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// The sandbox is up and the agent's first instruction is about to run.
    Launched,
    /// Freeze the agent, hold its calls.
    Suspend,
    /// Go on after a suspend.
    Resume,
    /// Ask the agent to end; kill it after its grace period.
    Cancel,
    /// End the agent now.
    Kill,
    /// The agent ended by itself with exit code 0.
    ExitedWell,
    /// The agent ended otherwise, or the run could not be started or was ended by a limit.
    ExitedBadly,
}

/// Why a verb does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransitionError {
    /// The verb does not apply to the state the run is in.
    #[error("cannot {verb} a run that is {from}")]
    NotFrom {
        /// The verb that was tried.
        verb: Verb,
        /// The state it was tried on.
        from: RunState,
    },
    /// The run has ended; nothing moves it again.
    #[error("the run has ended ({0})")]
    Ended(RunState),
}

impl RunState {
    /// Every state, in the order of a run's life.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Running,
        Self::Suspended,
        Self::Stopping,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Killed,
    ];

    /// Whether nothing moves the run any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Killed)
    }

    /// The word used in the API, the CLI and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Stopping => "stopping",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Killed => "killed",
        }
    }

    /// The state that `verb` leads to.
    ///
    /// # Errors
    /// [`TransitionError`] when the table has no such step.
    pub fn next(self, verb: Verb) -> Result<Self, TransitionError> {
        if self.is_final() {
            return Err(TransitionError::Ended(self));
        }
        match (self, verb) {
            (Self::Starting, Verb::Launched) | (Self::Suspended, Verb::Resume) => Ok(Self::Running),
            (Self::Running, Verb::Suspend) => Ok(Self::Suspended),
            (Self::Running | Self::Suspended | Self::Starting, Verb::Cancel) => Ok(Self::Stopping),
            (_, Verb::Kill) => Ok(Self::Killed),
            (Self::Stopping, Verb::ExitedWell | Verb::ExitedBadly) => Ok(Self::Cancelled),
            (Self::Running | Self::Suspended, Verb::ExitedWell) => Ok(Self::Succeeded),
            (Self::Starting | Self::Running | Self::Suspended, Verb::ExitedBadly) => Ok(Self::Failed),
            (from, verb) => Err(TransitionError::NotFrom { verb, from }),
        }
    }
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 7] =
        [Self::Launched, Self::Suspend, Self::Resume, Self::Cancel, Self::Kill, Self::ExitedWell, Self::ExitedBadly];

    /// The word used in the API, the CLI and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Launched => "launch",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Kill => "kill",
            Self::ExitedWell => "finish",
            Self::ExitedBadly => "fail",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not the name of a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a run state: starting, running, suspended, stopping, succeeded, failed, cancelled or killed")]
pub struct ParseRunStateError(String);

impl std::str::FromStr for RunState {
    type Err = ParseRunStateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| ParseRunStateError(text.chars().take(32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole lifecycle as one readable table: a change to it is reviewed as policy.
    #[test]
    fn the_table() {
        let mut table = String::new();
        for from in RunState::ALL {
            for verb in Verb::ALL {
                if let Ok(to) = from.next(verb) {
                    table.push_str(&format!("{from:<10} {verb:<8} {to}\n"));
                }
            }
        }
        assert_eq!(
            table,
            "starting   launch   running\n\
             starting   cancel   stopping\n\
             starting   kill     killed\n\
             starting   fail     failed\n\
             running    suspend  suspended\n\
             running    cancel   stopping\n\
             running    kill     killed\n\
             running    finish   succeeded\n\
             running    fail     failed\n\
             suspended  resume   running\n\
             suspended  cancel   stopping\n\
             suspended  kill     killed\n\
             suspended  finish   succeeded\n\
             suspended  fail     failed\n\
             stopping   kill     killed\n\
             stopping   finish   cancelled\n\
             stopping   fail     cancelled\n"
        );
    }

    proptest! {
        /// No sequence of verbs brings an ended run back.
        #[test]
        fn final_is_final(verbs in proptest::collection::vec(0_usize..7, 0..32)) {
            let mut state = RunState::Starting;
            for verb in verbs {
                let was_final = state.is_final();
                if let Ok(next) = state.next(Verb::ALL[verb]) {
                    prop_assert!(!was_final);
                    state = next;
                }
            }
        }
    }
}
