//! What a run's sandbox and its proxy refused: counted, recorded, and answered.
//!
//! Refusing is done where the attempt is made and does not wait for this. What is added here is the security event
//! in the ledger and the journal, the exact count, and for severity `high` what the manifest says is to follow: a
//! command of the lifecycle like any other, by the plane, with its rule, its receipt and its evidence.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use cogward_journal::Severity as Attention;
use cogward_model::{
    RunId,
    attestation::Attested,
    run::RunState,
    violation::{EGRESS, Reaction, Severity, Tally, Totals, Violation, ViolationTotal},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    command::{Command, Order},
    engine::{Engine, Inner},
    errors::CommandError,
    events,
    live::Live,
    ports::{Exit, Sandbox},
};

/// The rule of what follows a violation.
pub(crate) const ON_VIOLATION: &str = "spec.sandbox.onViolation";
/// How long the reports of a sandbox that has ended may take to be recorded one by one.
const FORWARD_MAX: Duration = Duration::from_secs(1);

/// What is known of a run's violations.
#[derive(Default)]
pub(crate) struct Watched {
    /// What follows one of severity `high`.
    reaction: Option<Reaction>,
    /// The proxy's refusals, which are counted here; a sandbox counts its own.
    proxy: Tally,
    totals: Totals,
    /// What follows is under way.
    reacting: bool,
    /// The last look at the sandbox from outside.
    pub(crate) attested: Option<Attested>,
}

impl Watched {
    pub(crate) fn set_reaction(&mut self, reaction: Reaction) {
        self.reaction = Some(reaction);
    }

    /// Takes totals that are told without news.
    pub(crate) fn absorb(&mut self, totals: &[Violation]) {
        for total in totals {
            self.totals.absorb(total);
        }
    }

    pub(crate) fn totals(&self) -> Vec<ViolationTotal> {
        self.totals.list()
    }
}

/// Tells an engine of refusals outside of its sandboxes, as long as it is there.
#[derive(Clone)]
pub struct SecurityWatch(Weak<Inner>);

impl std::fmt::Debug for SecurityWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecurityWatch")
    }
}

impl SecurityWatch {
    /// The proxy refused a connection of a run; `action` says what was wrong with it. The decision is recorded.
    pub fn connection_refused(&self, run: RunId, action: &str, object: &str) {
        let Some(engine) = self.0.upgrade().map(Engine::of) else { return };
        let Some(live) = engine.live(run) else { return };
        let due = live.watched(|watched| {
            watched.proxy.add(EGRESS, action, object, 1);
            let kinds = watched.proxy.totals();
            // The total is known at once, the event may have to wait for its turn.
            watched.absorb(&kinds);
            watched.proxy.due(false)
        });
        for report in due {
            engine.violated(&live, &report, false);
        }
    }
}

impl Engine {
    /// For those who refuse what a sandbox does not see.
    #[must_use]
    pub fn security_watch(&self) -> SecurityWatch {
        SecurityWatch(self.downgrade())
    }

    /// What was refused in a run that is not closed, the gravest first, and the last look at its sandbox; `None` when
    /// it is not held here.
    #[must_use]
    pub fn security(&self, run: RunId) -> Option<(Vec<ViolationTotal>, Option<Attested>)> {
        self.live(run).map(|live| live.watched(|watched| (watched.totals(), watched.attested.clone())))
    }

    /// Records what the sandbox reports, until it has nothing more to report.
    pub(crate) fn forward_violations(&self, live: &Arc<Live>, sandbox: &dyn Sandbox) -> Option<JoinHandle<()>> {
        let mut violations = sandbox.violations()?;
        let (engine, live) = (self.clone(), Arc::clone(live));
        Some(tokio::spawn(async move {
            while let Some(report) = violations.recv().await {
                if *live.closed.borrow() {
                    return;
                }
                live.watched(|watched| watched.absorb(std::slice::from_ref(&report)));
                engine.violated(&live, &report, false);
            }
        }))
    }

    /// Records what was counted and not reported: from here on the totals are those of the run.
    pub(crate) async fn settle_violations(
        &self,
        live: &Arc<Live>,
        forwarding: Option<JoinHandle<()>>,
        told: &[Violation],
    ) {
        if let Some(mut forwarding) = forwarding
            && tokio::time::timeout(FORWARD_MAX, &mut forwarding).await.is_err()
        {
            // What it still holds is in the totals that the sandbox left.
            forwarding.abort();
        }
        let unreported = live.watched(|watched| {
            let mut unreported = watched.proxy.due(true);
            for total in told {
                let new = watched.totals.absorb(total);
                if new > 0 {
                    unreported.push(Violation { count: new, ..total.clone() });
                }
            }
            unreported
        });
        for report in unreported {
            self.violated(live, &report, true);
        }
    }

    /// One report: into the ledger and the journal, and what follows from it. `over` when the run has ended already.
    fn violated(&self, live: &Arc<Live>, report: &Violation, over: bool) {
        if report.count == 0 {
            return;
        }
        let severity = report.severity();
        let goal = *live.goal.borrow();
        let (reaction, verdict, reacts) = live.watched(|watched| {
            let reaction = match severity {
                Severity::High => watched.reaction.unwrap_or(Reaction::Deny),
                Severity::Info | Severity::Warning => Reaction::Deny,
            };
            let verdict = verdict(reaction, goal, over);
            let reacts = verdict != Reaction::Deny && !over && !watched.reacting && !goal.is_final();
            watched.reacting |= reacts;
            (reaction, verdict, reacts)
        });
        if reaction == Reaction::Kill && !goal.is_final() {
            // Should it end by itself before the kill reaches it, it has not done well.
            live.set_cause(&cause(report));
        }
        self.note(events::violation(live, report, severity, verdict));
        let mut detail = json!({
            "layer": report.layer, "action": report.action, "severity": severity, "verdict": verdict.verdict(),
            "count": report.count, "total": report.total, "agent": live.agent, "version": live.version,
        });
        if let (Some(object), Some(detail)) = (events::object(report), detail.as_object_mut()) {
            detail.insert("object".to_owned(), object.into());
        }
        let attention = match severity {
            Severity::Info => Attention::Info,
            Severity::Warning => Attention::Warning,
            Severity::High => Attention::Error,
        };
        self.with.journal.publish(events::journal("sandbox.violation", live).severity(attention).detail(detail));
        if reacts {
            let (engine, live, report) = (self.clone(), Arc::clone(live), report.clone());
            tokio::spawn(async move {
                engine.react(&live, verdict, &report).await;
                live.watched(|watched| watched.reacting = false);
            });
        }
    }

    async fn react(&self, live: &Arc<Live>, reaction: Reaction, report: &Violation) {
        match reaction {
            Reaction::Deny => {}
            Reaction::Suspend => match self.command(live.run, Command::Suspend, Order::plane(ON_VIOLATION)).await {
                Ok(_) => {}
                // An operator was faster, or it has ended.
                Err(CommandError::Transition(error)) => {
                    tracing::debug!(run = %live.run, %error, "a run that was to be suspended is not running");
                }
                Err(error) => tracing::error!(run = %live.run, %error, "a run is not suspended after a violation"),
            },
            Reaction::Kill => {
                self.end_by_rule(live, RunState::Killed, ON_VIOLATION, &cause(report)).await;
            }
        }
    }
}

fn cause(report: &Violation) -> String {
    let object = events::object(report).unwrap_or_default();
    let cause = format!("{ON_VIOLATION}: it tried what no agent needs: {} {} {object}", report.layer, report.action);
    cause.trim_end().to_owned()
}

/// What becomes of the run, as far as it can still become of it.
fn verdict(reaction: Reaction, goal: RunState, over: bool) -> Reaction {
    match (reaction, goal) {
        (Reaction::Kill, RunState::Killed) => Reaction::Kill,
        (Reaction::Kill, _) if !over && !goal.is_final() => Reaction::Kill,
        (Reaction::Suspend, RunState::Starting | RunState::Running | RunState::Suspended) if !over => Reaction::Suspend,
        _ => Reaction::Deny,
    }
}

impl Exit {
    /// The totals that the sandbox left.
    pub(crate) fn told(&self) -> &[Violation] {
        &self.violations
    }
}
