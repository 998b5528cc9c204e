//! What a plane does from time to time by itself: approvals that are too old end, and kept answers are forgotten.

use std::time::Duration;

use cogward_model::Timestamp;

use crate::{budgets, plane::App};

/// How often approvals whose time is over are ended.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether decisions are carried far enough.
const CARRY_EVERY: Duration = Duration::from_secs(60);
/// How often older ones are removed.
const PURGE_EVERY: Duration = Duration::from_secs(3_600);
/// How long an answer to an idempotent command is kept.
const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Ends approvals that nobody asks about any more.
pub(crate) async fn sweep_approvals(app: App) {
    loop {
        app.approvals.sweep(app.clock.now()).await;
        tokio::select! {
            () = app.closing.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

/// Destroys past keys of logs whose time is over.
pub(crate) async fn retire_keys(app: App) {
    loop {
        if let Err(error) = app.evidence.retire_keys().await {
            tracing::warn!(%error, "a past key of a log is not destroyed yet");
        }
        tokio::select! {
            () = app.closing.cancelled() => return,
            () = tokio::time::sleep(PURGE_EVERY) => {}
        }
    }
}

/// Carries what decisions come to each time that a segment of the log is full, so that no start has to read much.
pub(crate) async fn carry_decisions(app: App) {
    let mut carried = None;
    loop {
        tokio::select! {
            () = app.closing.cancelled() => return,
            () = tokio::time::sleep(CARRY_EVERY) => {}
        }
        // The place first: a run that is not among those that live then has ended before a start can ask.
        let upto = app.evidence.committed();
        if carried == Some(upto.segment()) {
            continue;
        }
        let live = match app.store.runs_unclosed().await {
            Ok(runs) => runs.into_iter().map(|run| run.id).collect(),
            Err(error) => {
                tracing::warn!(%error, "what decisions come to is not carried yet");
                continue;
            }
        };
        let (evidence, now) = (app.evidence.clone(), app.clock.now());
        let kept = tokio::task::spawn_blocking(move || budgets::carry(&evidence, upto, &live, now)).await;
        match kept {
            Ok(Ok(())) => carried = Some(upto.segment()),
            Ok(Err(error)) => tracing::warn!(%error, "what decisions come to is not carried yet"),
            Err(error) => tracing::warn!(%error, "what decisions come to is not carried yet"),
        }
    }
}

/// Forgets answers that nobody will ask for again.
pub(crate) async fn purge_answers(app: App) {
    loop {
        let kept = u64::try_from(IDEMPOTENCY_KEPT.as_micros()).unwrap_or(u64::MAX);
        let oldest = Timestamp::from_unix_micros(app.clock.now().unix_micros().saturating_sub(kept));
        let purge = async {
            let mut tx = app.store.begin().await?;
            tx.idempotency_purge(oldest).await?;
            // What was answered is evidence of nothing: the commands themselves are recorded.
            tx.commit(Vec::new()).await.map(drop)
        };
        if let Err(error) = purge.await {
            tracing::warn!(%error, "old answers are not forgotten yet");
        }
        tokio::select! {
            () = app.closing.cancelled() => return,
            () = tokio::time::sleep(PURGE_EVERY) => {}
        }
    }
}
