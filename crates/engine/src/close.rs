//! The end of a run: its last evidence, its final state, its identity free again.

use std::{sync::Arc, time::Duration};

use cogward_model::run::RunState;
use cogward_store::{OperationState, StoreError};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    engine::{Engine, Recorded},
    events,
    live::Live,
    plan::ended,
    ports::{Exit, RunUsed},
};

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(30);

impl Engine {
    /// Closes a run of which no process is left. Tries until it is recorded.
    pub(crate) async fn close(&self, live: &Arc<Live>, exit: Exit, forwarding: Option<JoinHandle<()>>) {
        live.end(&*self.with.gateways);
        let used = self.with.gateways.close_run(live.run).await;
        self.settle_violations(live, forwarding, exit.told()).await;
        let mut delay = RETRY_FIRST;
        while let Err(error) = self.record_close(live, &exit, used).await {
            tracing::error!(run = %live.run, %error, "the end of a run is not recorded yet; it is tried again");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_LAST);
        }
        if let Some(operation) = live.take_start_operation() {
            let receipt = json!({ "run": live.run, "verb": "start", "cause": live.cause() }).to_string();
            self.finish_operation(operation, OperationState::Failed, Some(&receipt)).await;
        }
        self.remove_live(live.run);
        live.closed.send_replace(true);
    }

    async fn record_close(&self, live: &Live, exit: &Exit, used: RunUsed) -> Result<(), StoreError> {
        let _turn = live.commit.lock().await;
        let mut tx = self.with.store.begin().await?;
        let Some(mut row) = tx.run(live.run).await? else { return Ok(()) };
        if row.uid_slot.is_none() && row.state.is_final() {
            return Ok(());
        }
        let cause = live.cause().or_else(|| exit.cause.clone()).or_else(|| without_required(exit));
        let well = exit.code == Some(0) && exit.signal.is_none() && cause.is_none();
        row.state = match row.state {
            // The sandbox kept the grace period because no plane was there to, or was faster.
            RunState::Stopping if exit.grace_expired => RunState::Killed,
            state => ended(state, well),
        };
        row.desired = row.state;
        row.uid_slot = None;
        row.ended = Some(tx.now());
        row.exit_code = exit.code;
        row.exit_signal = exit.signal;
        if row.state == RunState::Failed && row.fail_cause.is_none() {
            row.fail_cause = cause.or_else(|| Some(how(exit)));
        }
        let (violations, attested) = live.watched(|watched| (watched.totals(), watched.attested.clone()));
        let usage = json!({
            "violations": violations,
            "attested": attested,
            "sandbox": exit.usage,
            "used": {
                "tokens": used.amounts.tokens, "cost_usd": used.amounts.cost, "tool_calls": used.amounts.tool_calls,
                "model_calls": used.model_calls, "connections": used.connections, "refusals": used.refusals,
                "egress_bytes": used.amounts.egress_bytes,
            },
        });
        row.usage_json = Some(usage.to_string());
        tx.run_put(&mut row).await?;
        let committed = tx.commit(vec![events::closed(&row, exit, used, &violations)]).await?;
        if let Recorded::No(_) = self.publish(committed).await {
            // It is in the outbox and follows when the ledger can be written.
            tracing::warn!(run = %live.run, "the last leaf of a run is not durable yet");
        }
        live.goal.send_replace(row.state);
        self.with.journal.publish(
            events::journal("run.closed", live)
                .severity(events::severity_of(row.state))
                .detail(json!({ "state": row.state, "exit_code": row.exit_code, "exit_signal": row.exit_signal, "cause": row.fail_cause })),
        );
        Ok(())
    }
}

/// A run that ended well and did not leave what it was to leave did not do what it was started for.
fn without_required(exit: &Exit) -> Option<String> {
    let missing = exit.artifacts.iter().find(|artifact| artifact.required && artifact.content.is_none())?;
    let ended_well = exit.code == Some(0) && exit.signal.is_none();
    let why = missing.refused.map_or("missing", |reason| reason.as_str());
    ended_well.then(|| format!("spec.sandbox.outputs: the required output `{}` was not kept: {why}", missing.name))
}

fn how(exit: &Exit) -> String {
    match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("the agent was ended by signal {signal}"),
        (Some(code), None) => format!("the agent ended with exit code {code}"),
        (None, None) => "lost: its supervisor is gone and left no exit".to_owned(),
    }
}
