//! Agents stop when evidence cannot be written, and go on when it can again.
//!
//! The hold is in memory first, so that it needs no disk; the suspension is recorded as far as the
//! disk allows. `desired` stays `running`: only what the plane itself held goes on by itself.

use std::sync::Arc;

use cogward_journal::{JournalEvent, Severity};
use cogward_model::{
    event::EventType,
    run::{RunState, Verb},
};
use cogward_store::{OperationState, StoreError};
use serde_json::json;

use crate::{
    command::Order,
    engine::{Engine, Recorded},
    events,
    live::Live,
    plan::fence_of,
    ports::LedgerHealth,
    receipt::Stopwatch,
};

/// The rule of the hold.
pub(crate) const LOW_SPACE: &str = "evidence.durable";

impl Engine {
    /// Follows the ledger's health until the ledger is gone.
    pub(crate) async fn follow_health(self) {
        let mut health = self.with.ledger.health();
        let mut last = LedgerHealth::Ok;
        loop {
            let now = health.borrow_and_update().clone();
            match (&last, &now) {
                (LedgerHealth::Ok, LedgerHealth::Ok) => {}
                (_, LedgerHealth::Ok) => self.release_all().await,
                (_, why) => self.hold_all(why).await,
            }
            last = now;
            if health.changed().await.is_err() {
                return self.hold_all(&LedgerHealth::Failed("the ledger has stopped".to_owned())).await;
            }
        }
    }

    async fn hold_all(&self, why: &LedgerHealth) {
        self.set_holding(true);
        let all = self.live_all();
        // Every fence first: freezing and recording take time.
        for live in &all {
            live.set_held(true);
            live.fence(&*self.with.gateways, fence_of(live.target()));
        }
        let detail = match why {
            LedgerHealth::Failed(why) | LedgerHealth::Unsigned(why) => why.clone(),
            LedgerHealth::Ok | LedgerHealth::LowSpace => "the disk is nearly full".to_owned(),
        };
        self.with.journal.publish(
            JournalEvent::plane("plane.agents_held")
                .severity(Severity::Error)
                .detail(json!({ "why": detail, "runs": all.len() })),
        );
        self.each(all, |engine, live| async move {
            let mut watch = Stopwatch::begin();
            if let Err((step, error)) = engine.converge(&live, &mut watch).await {
                tracing::error!(run = %live.run, step, %error, "a run is held but not frozen");
            }
            engine.step_by_plane(&live, RunState::Running, Verb::Suspend, EventType::RunSuspended).await;
        })
        .await;
    }

    /// Records the holds that could not be recorded when they began.
    pub(crate) async fn record_holds(&self) {
        if self.is_holding() {
            for live in self.live_all() {
                self.step_by_plane(&live, RunState::Running, Verb::Suspend, EventType::RunSuspended).await;
            }
        }
    }

    async fn release_all(&self) {
        self.set_holding(false);
        let all = self.live_all();
        self.with.journal.publish(JournalEvent::plane("plane.agents_released").detail(json!({ "runs": all.len() })));
        self.each(all, |engine, live| async move {
            engine.step_by_plane(&live, RunState::Suspended, Verb::Resume, EventType::RunResumed).await;
            live.set_held(false);
            let mut watch = Stopwatch::begin();
            if let Err((step, error)) = engine.converge(&live, &mut watch).await {
                tracing::error!(run = %live.run, step, %error, "a run is released but does not go on");
            }
        })
        .await;
    }

    async fn each<F, W>(&self, all: Vec<Arc<Live>>, work: F)
    where
        F: Fn(Engine, Arc<Live>) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = tokio::task::JoinSet::new();
        for live in all {
            tasks.spawn(work(self.clone(), live));
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Records a suspension or resumption by the plane of a run that is meant to run.
    async fn step_by_plane(&self, live: &Live, from: RunState, verb: Verb, kind: EventType) {
        let order = Order::plane(LOW_SPACE);
        let commit = async {
            let _turn = live.commit.lock().await;
            let mut tx = self.with.store.begin().await?;
            let Some(mut row) = tx.run(live.run).await? else { return Ok(()) };
            let Ok(to) = row.state.next(verb) else { return Ok(()) };
            if row.state != from || row.desired != RunState::Running {
                return Ok(());
            }
            let mut operation = self.operation(live.run, verb.as_str(), &order.actor, order.reason.as_deref());
            // The hold is in effect before it is recorded: nothing is pending.
            operation.state = OperationState::Done;
            operation.finished = Some(operation.created);
            let event = events::commanded(&row, kind, to, operation.id, &order.actor, order.reason.as_deref());
            row.state = to;
            row.fence_epoch = row.fence_epoch.saturating_add(1);
            tx.run_put(&mut row).await?;
            tx.operation_insert(&operation).await?;
            let committed = tx.commit(vec![event]).await?;
            match self.publish(committed).await {
                Recorded::No(_) if to == RunState::Running => {}
                _ => {
                    live.goal.send_replace(to);
                }
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = commit.await {
            tracing::error!(run = %live.run, %error, verb = verb.as_str(), "a step of the plane is not recorded");
        }
    }
}
