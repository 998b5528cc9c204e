//! Taking over what an earlier plane left, and finding what went astray.
//!
//! The store says what is meant, the directories of runs say what is there. A run whose supervisor
//! lives is adopted; one whose supervisor left its exit, or nothing, is closed; a run that was never
//! launched is launched, because its agent executed nothing; a supervisor that no row knows is killed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use cogward_journal::{JournalEvent, Severity};
use cogward_model::{RunId, id::OperationId, run::RunState};
use cogward_store::{OperationRow, OperationState, RunRow};
use serde_json::json;

use crate::{
    engine::{Engine, Recorded},
    errors::RecoverError,
    events,
    live::Live,
    ports::{Found, PortError, Sandbox},
    receipt::{Receipt, Stopwatch},
    run_task::Begin,
};

/// How often the store and the host are held against each other.
const RECONCILE_EVERY: Duration = Duration::from_secs(30);
/// A directory without a row that is younger than this may be of a start that is being recorded.
const ORPHAN_AGE: Duration = Duration::from_secs(60);

/// What was found at start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Runs whose supervisors were alive and are followed again.
    pub adopted: usize,
    /// Runs that were accepted and not launched; they are launched now.
    pub relaunched: usize,
    /// Runs that had ended, or were lost, while no plane was there.
    pub closed: usize,
    /// Supervisors that no run knew.
    pub orphans: usize,
    /// Runs that could not be looked at; the reconciler tries again.
    pub unreachable: usize,
}

impl Engine {
    /// Takes over the runs of an earlier plane, then watches over them. Before any gateway opens, and
    /// after the outbox was drained into the ledger.
    ///
    /// # Errors
    /// [`RecoverError`] when the state cannot be read: a plane that does not know its runs must not serve.
    pub async fn recover(&self) -> Result<RecoveryReport, RecoverError> {
        let report = self.reconcile(true).await?;
        let engine = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = engine.stopped() => {}
                () = engine.clone().follow_health() => {}
            }
        });
        tokio::spawn(self.clone().keep_warm());
        let engine = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = engine.stopped() => return,
                    () = tokio::time::sleep(RECONCILE_EVERY) => {}
                }
                engine.record_holds().await;
                if let Err(error) = engine.reconcile(false).await {
                    tracing::error!(%error, "the runs cannot be reconciled");
                }
            }
        });
        Ok(report)
    }

    /// Holds the store against the host once.
    ///
    /// # Errors
    /// [`RecoverError`] when either cannot be read.
    pub(crate) async fn reconcile(&self, at_start: bool) -> Result<RecoveryReport, RecoverError> {
        let mut report = RecoveryReport::default();
        // The host first: a run that is started meanwhile is in the store by the time it is looked up.
        let directories = self.with.files.list().map_err(RecoverError::Directory)?;
        let unclosed = self.with.store.runs_unclosed().await?;
        let mut pending: HashMap<RunId, Vec<OperationRow>> = HashMap::new();
        for operation in self.with.store.operations_pending().await? {
            pending.entry(operation.run).or_default().push(operation);
        }
        for row in unclosed {
            let operations = pending.remove(&row.id).unwrap_or_default();
            self.take_over(row, operations, &mut report).await;
        }
        if at_start {
            // What is left belongs to runs that are closed: their effects are there.
            for operation in pending.into_values().flatten() {
                self.finish_operation(operation.id, OperationState::Done, None).await;
            }
        }
        for run in directories {
            let old = at_start || self.with.files.age(run).is_some_and(|age| age > ORPHAN_AGE);
            if old && self.live(run).is_none() && !self.spares.holds(run) {
                self.end_orphan(run, at_start, &mut report).await?;
            }
        }
        Ok(report)
    }

    async fn take_over(&self, row: RunRow, operations: Vec<OperationRow>, report: &mut RecoveryReport) {
        let Some(live) = self.insert_live(&row) else { return };
        let found = match &row.outside {
            // There is no process that could have ended: the door is opened anew, in the state that was committed.
            Some(client) => self.attach(&row, client).await.map(Found::Alive),
            None => self.with.sandboxes.adopt(&self.with.files.dir(row.id)).await,
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                // It may be alive: it is not given up, and nothing of it can pass a gateway.
                tracing::error!(run = %row.id, %error, "a run cannot be looked at; it is tried again");
                report.unreachable += 1;
                self.remove_live(row.id);
                return;
            }
        };
        let version = match self.version_of(&row).await {
            Ok(version) => version,
            Err(error) => {
                tracing::error!(run = %row.id, %error, "a run cannot go on");
                report.unreachable += 1;
                if let Found::Alive(sandbox) = found {
                    let _ = sandbox.kill().await;
                }
                self.remove_live(row.id);
                return;
            }
        };
        for operation in &operations {
            match operation.verb.as_str() {
                "start" => live.set_start_operation(operation.id),
                "cancel" => live.set_stop_begun(operation.created),
                _ => {}
            }
        }
        if row.state == RunState::Stopping {
            // The grace period keeps its beginning across planes, where it is known.
            live.set_stop_begun(self.stop_begun(row.id).await.unwrap_or_else(|| self.with.clock.now()));
        }
        let begin = match found {
            Found::Ended(exit) => {
                report.closed += 1;
                if exit.code.is_none() && exit.signal.is_none() && exit.cause.is_none() {
                    live.set_cause("lost: its supervisor left no exit");
                }
                Begin::Ended(exit)
            }
            Found::Lost if row.state == RunState::Starting => self.launch_again(&live, report),
            Found::Lost => {
                report.closed += 1;
                if !row.state.is_final() {
                    live.set_cause("lost: its supervisor is gone and left no exit");
                }
                Begin::Abandon
            }
            Found::Alive(sandbox) if row.state == RunState::Starting => {
                // Its agent was never let go. A sandbox that no plane has seen complete is made anew.
                if let Err(error) = sandbox.kill().await {
                    tracing::error!(run = %row.id, %error, "a sandbox that never began cannot be killed; it is tried again");
                    report.unreachable += 1;
                    self.remove_live(row.id);
                    return;
                }
                sandbox.wait().await;
                self.launch_again(&live, report)
            }
            Found::Alive(sandbox) => {
                report.adopted += 1;
                self.adopt(&live, &row, &version, &sandbox).await;
                Begin::Adopted(sandbox)
            }
        };
        let follow = matches!(begin, Begin::Adopted(_));
        self.spawn_run(Arc::clone(&live), row, version, begin);
        self.finish_pending(&live, operations, follow).await;
    }

    fn launch_again(&self, live: &Live, report: &mut RecoveryReport) -> Begin {
        match self.with.files.reset(live.run) {
            Ok(()) => {
                report.relaunched += 1;
                Begin::Launch(None)
            }
            Err(error) => {
                live.set_cause(&format!("lost: its input cannot be read: {error}"));
                report.closed += 1;
                Begin::Abandon
            }
        }
    }

    /// Follows a living run again, in the state that was committed last.
    async fn adopt(
        &self,
        live: &Arc<Live>,
        row: &RunRow,
        version: &crate::engine::Version,
        sandbox: &Arc<dyn Sandbox>,
    ) {
        let _ = live.attach(sandbox);
        if row.state.is_final() {
            let mut receipt = blank_receipt(row, self.operation_id());
            if let Err((_, error)) = self.kill(live, &mut Stopwatch::begin(), &mut receipt).await {
                tracing::error!(run = %row.id, %error, "a sandbox cannot be killed; it is tried again");
            }
            return;
        }
        let reopened = async {
            let listeners = sandbox.listeners().await?;
            self.open_gateways(row, version, listeners)?;
            let tx = self.with.store.begin().await.map_err(|e| PortError::from_error(&e))?;
            let event = events::adopted(live, row.state);
            let committed = tx.commit(vec![event]).await.map_err(|e| PortError::from_error(&e))?;
            match self.publish(committed).await {
                Recorded::Yes(_) => Ok(()),
                Recorded::No(error) => Err(error),
            }
        };
        if let Err(error) = reopened.await {
            // It cannot be governed: it does not go on.
            tracing::error!(run = %row.id, %error, "an adopted run cannot be governed");
            self.end_by_rule(live, RunState::Failed, "run.adopt", &format!("adopt: {error}")).await;
            return;
        }
        if let Err((step, error)) = self.converge(live, &mut Stopwatch::begin()).await {
            tracing::error!(run = %row.id, step, %error, "an adopted run is not in the state it is meant to be in");
        }
        self.with.journal.publish(events::journal("run.adopted", live).detail(json!({ "state": row.state })));
    }

    async fn finish_pending(&self, live: &Live, operations: Vec<OperationRow>, follow: bool) {
        for operation in operations {
            // The start of a run that is being launched is finished by its task.
            if operation.verb == "start" && !follow {
                continue;
            }
            let state = *live.goal.borrow();
            let receipt = Receipt {
                operation: operation.id,
                run: live.run,
                verb: operation.verb,
                from: state,
                state,
                requested: operation.created,
                steps: Vec::new(),
                calls_cut: None,
                processes: None,
                tree_empty: None,
                converged: true,
                recorded: true,
                evidence: None,
            };
            let text = serde_json::to_string(&receipt).ok();
            self.finish_operation(operation.id, OperationState::Done, text.as_deref()).await;
            live.take_start_operation();
        }
    }

    async fn stop_begun(&self, run: RunId) -> Option<cogward_model::Timestamp> {
        let page = cogward_store::PageRequest { after: None, limit: 500 };
        let operations = self.with.store.operations(run, &page).await.ok()?;
        operations.items.iter().rev().find(|o| o.verb == "cancel").map(|o| o.created)
    }

    /// Ends a supervisor that belongs to no run of ours.
    async fn end_orphan(&self, run: RunId, at_start: bool, report: &mut RecoveryReport) -> Result<(), RecoverError> {
        let row = self.with.store.run(run).await?;
        if row.as_ref().is_some_and(|row| row.uid_slot.is_some() || !row.state.is_final()) {
            return Ok(());
        }
        let found = self.with.sandboxes.adopt(&self.with.files.dir(run)).await;
        let alive = matches!(found, Ok(Found::Alive(_)));
        if let Ok(Found::Alive(sandbox)) = found {
            report.orphans += 1;
            let killed = sandbox.kill().await;
            tracing::warn!(%run, ok = killed.is_ok(), "a supervisor without a run was killed");
            if killed.is_ok() {
                // It writes down its end before it goes.
                sandbox.wait().await;
            }
            self.with.journal.publish(
                JournalEvent::plane("run.orphan_killed").severity(Severity::Warning).detail(json!({ "run": run })),
            );
        }
        if row.is_none() && (at_start || alive) {
            // A start that was never recorded, or a sandbox that waited for one: nothing ran, nobody was told that it
            // would.
            if let Err(error) = self.with.files.remove(run) {
                tracing::warn!(%run, %error, "the directory of a start that was never recorded stays");
            }
        }
        Ok(())
    }
}

fn blank_receipt(row: &RunRow, operation: OperationId) -> Receipt {
    Receipt {
        operation,
        run: row.id,
        verb: "kill".to_owned(),
        from: row.state,
        state: row.state,
        requested: row.created,
        steps: Vec::new(),
        calls_cut: None,
        processes: None,
        tree_empty: None,
        converged: true,
        recorded: true,
        evidence: None,
    }
}
