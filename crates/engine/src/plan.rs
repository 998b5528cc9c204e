//! What a command means, without doing it: pure, so that the whole table can be read and tested.

use cogward_model::{
    event::EventType,
    run::{RunState, TransitionError, Verb},
};

use crate::{command::Command, ports::Fence};

/// One step of a run's life, as it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The state it leads to.
    pub(crate) to: RunState,
    /// The state that was asked for. Differs from `to` only when the plane itself holds a run.
    pub(crate) desired: RunState,
    /// What the evidence says.
    pub(crate) leaf: EventType,
}

/// What `command` does to a run in `state` that was meant to be `desired`.
pub(crate) fn plan(state: RunState, desired: RunState, command: Command) -> Result<Plan, TransitionError> {
    // Held by the plane for want of space: an operator's suspend makes the hold stay.
    if state == RunState::Suspended && desired == RunState::Running && command == Command::Suspend {
        return Ok(Plan { to: state, desired: state, leaf: EventType::RunSuspended });
    }
    let to = state.next(command.verb())?;
    let leaf = match command {
        Command::Suspend => EventType::RunSuspended,
        Command::Resume => EventType::RunResumed,
        Command::Cancel => EventType::RunCancelRequested,
        Command::Kill => EventType::RunKilled,
    };
    Ok(Plan { to, desired: to, leaf })
}

/// The fence of a run in a state.
pub(crate) fn fence_of(state: RunState) -> Fence {
    match state {
        RunState::Running => Fence::Open,
        RunState::Suspended => Fence::Held,
        // A run that was asked to end has the time to end, not to begin anything.
        RunState::Starting
        | RunState::Stopping
        | RunState::Succeeded
        | RunState::Failed
        | RunState::Cancelled
        | RunState::Killed => Fence::Closed,
    }
}

/// The state of a run that has ended: from where it was, and how it ended.
pub(crate) fn ended(state: RunState, well: bool) -> RunState {
    if state.is_final() {
        return state;
    }
    let verb = if well { Verb::ExitedWell } else { Verb::ExitedBadly };
    // A run that ends "well" before it was launched did not do what it was started for.
    state.next(verb).or_else(|_| state.next(Verb::ExitedBadly)).unwrap_or(RunState::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_on_every_state() {
        let mut table = String::new();
        for state in RunState::ALL {
            for command in Command::ALL {
                let cell = match plan(state, state, command) {
                    Ok(plan) => format!("{} {}", plan.to, plan.leaf.as_str()),
                    Err(TransitionError::Ended(_)) => "ended".to_owned(),
                    Err(_) => "refused".to_owned(),
                };
                table.push_str(&format!("{state} {} -> {cell}\n", command.verb()));
            }
        }
        assert_eq!(
            table,
            "starting suspend -> refused\nstarting resume -> refused\nstarting cancel -> stopping run.cancel_requested\nstarting kill -> killed run.killed\n\
             running suspend -> suspended run.suspended\nrunning resume -> refused\nrunning cancel -> stopping run.cancel_requested\nrunning kill -> killed run.killed\n\
             suspended suspend -> refused\nsuspended resume -> running run.resumed\nsuspended cancel -> stopping run.cancel_requested\nsuspended kill -> killed run.killed\n\
             stopping suspend -> refused\nstopping resume -> refused\nstopping cancel -> refused\nstopping kill -> killed run.killed\n\
             succeeded suspend -> ended\nsucceeded resume -> ended\nsucceeded cancel -> ended\nsucceeded kill -> ended\n\
             failed suspend -> ended\nfailed resume -> ended\nfailed cancel -> ended\nfailed kill -> ended\n\
             cancelled suspend -> ended\ncancelled resume -> ended\ncancelled cancel -> ended\ncancelled kill -> ended\n\
             killed suspend -> ended\nkilled resume -> ended\nkilled cancel -> ended\nkilled kill -> ended\n"
        );
    }

    #[test]
    fn only_a_running_run_has_an_open_fence() {
        for state in RunState::ALL {
            assert_eq!(fence_of(state) == Fence::Open, state == RunState::Running);
        }
    }

    #[test]
    fn an_end_is_final_and_never_rewrites_one() {
        for state in RunState::ALL {
            for well in [true, false] {
                let end = ended(state, well);
                assert!(end.is_final());
                assert!(!state.is_final() || end == state);
            }
        }
        assert_eq!(ended(RunState::Starting, true), RunState::Failed);
        assert_eq!(ended(RunState::Stopping, true), RunState::Cancelled);
    }
}
