//! How far the ledger was on the disk, told to the state: the next start holds the ledger to it.
//!
//! Behind the ledger by some seconds after a crash, and never ahead of it: only what is signed is told, and that is flushed.

use std::{collections::HashMap, time::Duration};

use cogward_evidence::{Evidence, LogName, Seen, SeenLogs};
use cogward_store::{Store, StoreError};

use crate::plane::{App, Plane};

/// How often the state is told, while there is news.
const TELL_EVERY: Duration = Duration::from_secs(3);

fn name_of(log: &LogName) -> &str {
    match log {
        LogName::Plane => "",
        LogName::Tenant(tenant) => tenant.as_str(),
    }
}

/// What the state has seen.
pub(crate) async fn read(store: &Store) -> Result<SeenLogs, StoreError> {
    let mut seen = SeenLogs::default();
    for row in store.ledger_seen().await? {
        let log = match row.log.as_str() {
            "" => LogName::Plane,
            name => LogName::Tenant(
                name.parse()
                    .map_err(|_| StoreError::Corrupt { column: "log", why: format!("`{name}` names no tenant") })?,
            ),
        };
        seen.insert(log, Seen { size: row.size, signed: row.signed });
    }
    Ok(seen)
}

/// Tells the state of every log that has another signed state than `told`.
async fn tell(store: &Store, evidence: &Evidence, told: &mut HashMap<LogName, u64>) -> Result<(), StoreError> {
    let mut news = evidence.signed_states();
    news.retain(|(log, seen)| told.get(log) != Some(&seen.size));
    if news.is_empty() {
        return Ok(());
    }
    let mut tx = store.begin().await?;
    for (log, seen) in &news {
        let signed = seen.signed.as_ref().map(|(size, root)| (*size, root.as_str()));
        tx.ledger_seen_put(name_of(log), seen.size, signed).await?;
    }
    // Nobody did anything: this is about the evidence, and no evidence itself.
    let _no_evidence = tx.commit(Vec::new()).await?;
    told.extend(news.into_iter().map(|(log, seen)| (log, seen.size)));
    Ok(())
}

/// Tells it from time to time.
pub(crate) async fn watch(app: App) {
    let mut told = HashMap::new();
    loop {
        if let Err(error) = tell(&app.store, &app.evidence, &mut told).await {
            tracing::warn!(%error, "the state does not know yet how far the ledger is");
        }
        tokio::select! {
            () = app.closing.cancelled() => return,
            () = tokio::time::sleep(TELL_EVERY) => {}
        }
    }
}

/// Tells it of everything, at a clean stop.
pub(crate) async fn at_stop(app: &Plane) {
    if let Err(error) = app.evidence.sign_all().await {
        tracing::warn!(%error, "not every log is signed at the stop");
    }
    if let Err(error) = tell(&app.store, &app.evidence, &mut HashMap::new()).await {
        tracing::warn!(%error, "the state does not know how far the ledger is");
    }
}
