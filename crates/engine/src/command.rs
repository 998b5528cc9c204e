//! Suspend, resume, cancel, kill.

use std::{sync::Arc, time::Duration};

use cogward_model::{
    RunId,
    id::OperatorId,
    limits::REASON_BYTES_MAX,
    run::{RunState, Verb},
};
use cogward_store::{OperationRow, OperationState, RunRow};
use serde_json::json;

use crate::{
    engine::{Engine, Recorded},
    errors::CommandError,
    events,
    live::Live,
    plan::{fence_of, plan},
    ports::PortError,
    receipt::{Receipt, Stopwatch},
    start::Claim,
};

/// How long a command waits for an effect of a sandbox. What is late then is made by the run's task.
const EFFECT_WAIT: Duration = Duration::from_secs(10);

/// What an operator may command on a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Freeze it and hold its calls.
    Suspend,
    /// Let it go on.
    Resume,
    /// Ask it to end, kill it after its grace period.
    Cancel,
    /// End it now.
    Kill,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 4] = [Self::Suspend, Self::Resume, Self::Cancel, Self::Kill];

    /// The verb of the lifecycle.
    #[must_use]
    pub fn verb(self) -> Verb {
        match self {
            Self::Suspend => Verb::Suspend,
            Self::Resume => Verb::Resume,
            Self::Cancel => Verb::Cancel,
            Self::Kill => Verb::Kill,
        }
    }

    fn journal_kind(self) -> &'static str {
        match self {
            Self::Suspend => "run.suspended",
            Self::Resume => "run.resumed",
            Self::Cancel => "run.cancel_requested",
            Self::Kill => "run.killed",
        }
    }
}

/// Who commands, and why.
#[derive(Debug, Clone)]
pub struct Order {
    /// The operator's name.
    pub actor: String,
    /// The operator's public id, which stays when the name is erased; none for the plane.
    pub operator: Option<OperatorId>,
    /// Why.
    pub reason: Option<String>,
    /// The key under which the answer is kept.
    pub claim: Option<Claim>,
}

impl Order {
    /// An order of the plane itself, by a rule.
    pub(crate) fn plane(rule: &str) -> Self {
        Self { actor: events::PLANE.to_owned(), operator: None, reason: Some(rule.to_owned()), claim: None }
    }
}

/// A command that is committed.
struct Intent {
    operation: OperationRow,
    from: RunState,
    to: RunState,
    recorded: bool,
    evidence: Option<crate::ports::Place>,
}

impl Engine {
    /// Commands a run. The answer comes when the effect is there and measured.
    ///
    /// # Errors
    /// [`CommandError`]. After [`CommandError::Effect`] the command holds all the same: it is recorded,
    /// the fence is set, and the effect is tried again.
    pub async fn command(&self, run: RunId, command: Command, order: Order) -> Result<Receipt, CommandError> {
        if order.reason.as_ref().is_some_and(|r| r.len() > REASON_BYTES_MAX) {
            return Err(CommandError::ReasonTooLong(REASON_BYTES_MAX));
        }
        let engine = self.clone();
        // Of its own task: a caller that goes away does not leave half a command.
        let task = tokio::spawn(async move { engine.carry_out(run, command, &order).await });
        task.await
            .unwrap_or_else(|error| Err(CommandError::Effect { step: "command", cause: PortError::from_error(&error) }))
    }

    async fn carry_out(&self, run: RunId, command: Command, order: &Order) -> Result<Receipt, CommandError> {
        let mut watch = Stopwatch::begin();
        if command == Command::Resume && self.is_holding() {
            return Err(CommandError::Evidence(PortError("agents are held until it can".to_owned())));
        }
        let live = self.live(run);
        let intent = self.commit_command(run, live.as_deref(), command, order, &mut watch).await?;
        let mut receipt = Receipt {
            operation: intent.operation.id,
            run,
            verb: intent.operation.verb.clone(),
            from: intent.from,
            state: intent.to,
            requested: intent.operation.created,
            steps: Vec::new(),
            calls_cut: None,
            processes: None,
            tree_empty: None,
            converged: false,
            recorded: intent.recorded,
            evidence: intent.evidence,
        };
        let outcome = match &live {
            // No sandbox is known for it yet; the reconciler makes the effect when it finds one.
            None => Ok(()),
            Some(live) if command == Command::Kill => self.kill(live, &mut watch, &mut receipt).await,
            Some(live) => match tokio::time::timeout(EFFECT_WAIT, self.converge(live, &mut watch)).await {
                Ok(done) => done,
                Err(_) => Err(("effect", PortError("the sandbox does not answer".to_owned()))),
            },
        };
        receipt.steps = watch.steps();
        if let Some(live) = &live {
            self.with.journal.publish(events::journal(command.journal_kind(), live).detail(json!({
                "operation": receipt.operation, "steps": receipt.steps, "processes": receipt.processes,
            })));
        }
        let state = if outcome.is_ok() { OperationState::Done } else { OperationState::Failed };
        let text = serde_json::to_string(&receipt).ok();
        self.finish_operation(receipt.operation, state, text.as_deref()).await;
        match outcome {
            Ok(()) => Ok(receipt),
            Err((step, cause)) => Err(CommandError::Effect { step, cause }),
        }
    }

    async fn commit_command(
        &self,
        run: RunId,
        live: Option<&Live>,
        command: Command,
        order: &Order,
        watch: &mut Stopwatch,
    ) -> Result<Intent, CommandError> {
        let _turn = match live {
            Some(live) => Some(live.commit.lock().await),
            None => None,
        };
        let mut tx = self.with.store.begin().await?;
        let mut row = tx.run(run).await?.ok_or(CommandError::UnknownRun(run))?;
        let plan = plan(row.state, row.desired, command)?;
        let operation = self.operation(run, command.verb().as_str(), &order.actor, order.reason.as_deref());
        let event = events::commanded(&row, plan.leaf, plan.to, operation.id, order);
        let from = row.state;
        row.state = plan.to;
        row.desired = plan.desired;
        row.fence_epoch = row.fence_epoch.saturating_add(1);
        tx.run_put(&mut row).await?;
        tx.operation_insert(&operation).await?;
        if let Some(claim) = &order.claim {
            tx.idempotency_insert(&claim.row(run, operation.id, tx.now())).await?;
        }
        let committed = tx.commit(vec![event]).await?;
        if let Some(live) = live {
            self.narrow(live, &row);
        }
        // A fence that narrows does not wait for the disk; everything else does.
        if plan.to != RunState::Running {
            watch.step("fenced");
        }
        let (recorded, evidence) = match self.publish(committed).await {
            Recorded::Yes(places) => (true, places.into_iter().next()),
            Recorded::No(error) if plan.to == RunState::Running => {
                if let Some(live) = live {
                    live.set_held(true);
                }
                return Err(CommandError::Evidence(error));
            }
            // Agents stop even when evidence cannot be written; it waits in the outbox.
            Recorded::No(_) => (false, None),
        };
        watch.step("recorded");
        if let Some(live) = live {
            live.goal.send_replace(plan.to);
        }
        Ok(Intent { operation, from, to: plan.to, recorded, evidence })
    }

    /// What a committed state takes away takes effect at once.
    pub(crate) fn narrow(&self, live: &Live, row: &RunRow) {
        let gateways = &*self.with.gateways;
        match row.state {
            RunState::Running => {}
            RunState::Starting | RunState::Suspended => live.fence(gateways, fence_of(row.state)),
            RunState::Stopping => {
                live.fence(gateways, fence_of(row.state));
                live.set_stop_begun(self.with.clock.now());
            }
            RunState::Succeeded | RunState::Failed | RunState::Cancelled | RunState::Killed => live.end(gateways),
        }
    }

    /// Cuts and kills. Does not wait for effects that are under way.
    pub(crate) async fn kill(
        &self,
        live: &Arc<Live>,
        watch: &mut Stopwatch,
        receipt: &mut Receipt,
    ) -> Result<(), (&'static str, PortError)> {
        let gateways = &*self.with.gateways;
        live.end(gateways);
        receipt.calls_cut = u64::try_from(gateways.cut(live.run)).ok();
        watch.step("streams_cut");
        let Some(sandbox) = live.sandbox() else {
            // Its sandbox is being made: the run's task kills it before its agent's first instruction.
            let mut closed = live.closed.subscribe();
            let waited = tokio::time::timeout(EFFECT_WAIT, closed.wait_for(|closed| *closed)).await;
            receipt.tree_empty = Some(waited.is_ok());
            watch.step("killed");
            return Ok(());
        };
        match tokio::time::timeout(EFFECT_WAIT, sandbox.kill()).await {
            Ok(Ok(report)) => {
                receipt.processes = Some(report.processes);
                receipt.tree_empty = Some(report.empty);
                watch.step("killed");
                Ok(())
            }
            Ok(Err(error)) => Err(("kill", error)),
            Err(_) => Err(("kill", PortError("the sandbox does not answer".to_owned()))),
        }
    }

    /// Ends a run by a rule of the plane: its time is up, its grace period is over.
    pub(crate) async fn end_by_rule(&self, live: &Arc<Live>, to: RunState, rule: &str, cause: &str) {
        live.set_cause(cause);
        let order = Order::plane(rule);
        let commit = async {
            let _turn = live.commit.lock().await;
            let mut tx = self.with.store.begin().await?;
            let mut row = tx.run(live.run).await?.ok_or(CommandError::UnknownRun(live.run))?;
            if row.state.is_final() {
                return Ok(None);
            }
            let kind = cogward_model::event::EventType::RunKilled;
            let operation = self.operation(live.run, Verb::Kill.as_str(), &order.actor, order.reason.as_deref());
            let event = events::commanded(&row, kind, to, operation.id, &order);
            row.state = to;
            row.desired = to;
            row.fail_cause = Some(cause.to_owned());
            row.fence_epoch = row.fence_epoch.saturating_add(1);
            tx.run_put(&mut row).await?;
            tx.operation_insert(&operation).await?;
            let committed = tx.commit(vec![event]).await?;
            live.end(&*self.with.gateways);
            let _recorded = self.publish(committed).await;
            live.goal.send_replace(to);
            Ok::<_, CommandError>(Some(operation))
        };
        let operation = match commit.await {
            Ok(operation) => operation,
            Err(error) => {
                // The limit holds although it could not be recorded now: the end of the run will say so.
                tracing::error!(run = %live.run, %error, rule, "the end of a run by a rule is not recorded yet");
                None
            }
        };
        let mut watch = Stopwatch::begin();
        let mut receipt = Receipt {
            operation: operation.as_ref().map_or_else(|| self.operation_id(), |o| o.id),
            run: live.run,
            verb: Verb::Kill.as_str().to_owned(),
            from: *live.goal.borrow(),
            state: to,
            requested: self.with.clock.now(),
            steps: Vec::new(),
            calls_cut: None,
            processes: None,
            tree_empty: None,
            converged: false,
            recorded: operation.is_some(),
            evidence: None,
        };
        let outcome = self.kill(live, &mut watch, &mut receipt).await;
        receipt.steps = watch.steps();
        let state = if outcome.is_ok() { OperationState::Done } else { OperationState::Failed };
        if let Some(operation) = operation {
            self.finish_operation(operation.id, state, serde_json::to_string(&receipt).ok().as_deref()).await;
        }
        self.with.journal.publish(
            events::journal("run.ended_by_rule", live)
                .severity(cogward_journal::Severity::Warning)
                .detail(json!({ "rule": rule, "steps": receipt.steps })),
        );
    }
}
