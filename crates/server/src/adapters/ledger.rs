//! The ledger as the engine and the gate see it.

use std::sync::{Arc, OnceLock};

use cogward_engine::{
    SecurityWatch,
    ports::{Ledger, LedgerHealth, Pending, Place, PortError},
};
use cogward_evidence::{Evidence, Health};
use cogward_gateway::{Records, gate::Unrecorded};
use cogward_model::{event::Event, id::EventId};
use cogward_store::{Committed, Store};
use tokio::sync::watch;

use super::refusals::RefusedConnection;

/// The evidence of the plane behind both ports.
#[derive(Clone)]
pub(crate) struct PlaneLedger {
    evidence: Evidence,
    health: watch::Receiver<LedgerHealth>,
    security: Arc<OnceLock<SecurityWatch>>,
}

impl PlaneLedger {
    /// Follows the health of the ledger on the current runtime.
    pub(crate) fn new(evidence: Evidence) -> Self {
        let mut source = evidence.health();
        let (sender, health) = watch::channel(translated(&source.borrow_and_update()));
        tokio::spawn(async move {
            while source.changed().await.is_ok() {
                sender.send_replace(translated(&source.borrow_and_update()));
            }
        });
        Self { evidence, health, security: Arc::default() }
    }

    /// From now on refused connections are told to the engine, which has to be made before.
    pub(crate) fn watched_by(&self, security: SecurityWatch) {
        // The first one stays; there is one engine in a plane.
        let _ = self.security.set(security);
    }
}

fn translated(health: &Health) -> LedgerHealth {
    match health {
        Health::Ok => LedgerHealth::Ok,
        Health::LowSpace { .. } => LedgerHealth::LowSpace,
        Health::Unsigned { why } => LedgerHealth::Unsigned(why.to_string()),
        Health::Failed { why } => LedgerHealth::Failed(why.to_string()),
    }
}

impl Ledger for PlaneLedger {
    fn publish<'a>(&'a self, store: &'a Store, committed: Committed) -> Pending<'a, Result<Vec<Place>, PortError>> {
        Box::pin(async move {
            let leaves = self.evidence.publish(store, committed).await.map_err(|e| PortError::from_error(&e))?;
            Ok(leaves.into_iter().map(|l| Place { tenant: l.tenant, seq: l.seq, id: l.id }).collect())
        })
    }

    fn record(&self, event: Event) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move { self.evidence.record(event).await.map(drop).map_err(|e| PortError::from_error(&e)) })
    }

    fn note(&self, event: Event) -> Result<(), PortError> {
        self.evidence.note(event).map(drop).map_err(|e| PortError::from_error(&e))
    }

    fn health(&self) -> watch::Receiver<LedgerHealth> {
        self.health.clone()
    }
}

impl Records for PlaneLedger {
    fn record(&self, event: Event) -> Pending<'_, Result<EventId, Unrecorded>> {
        let refused = RefusedConnection::of(&event);
        Box::pin(async move {
            let leaf = self.evidence.record(event).await.map_err(|e| Unrecorded(e.to_string()))?;
            if let (Some(refused), Some(security)) = (refused, self.security.get()) {
                security.connection_refused(refused.run, refused.action, &refused.object);
            }
            Ok(leaf.id)
        })
    }

    fn note(&self, event: Event) -> Result<EventId, Unrecorded> {
        self.evidence.note(event).map_err(|e| Unrecorded(e.to_string()))
    }

    fn stopped(&self) -> Option<String> {
        // Asked of the source: the copy for the engine is a moment behind.
        match &*self.evidence.health().borrow() {
            Health::Ok => None,
            Health::LowSpace { free } => Some(format!("only {free} bytes of the ledger's disk are free")),
            Health::Unsigned { why } => Some(format!("nothing was signed for a while: {why}")),
            Health::Failed { why } => Some(format!("the ledger cannot be written: {why}")),
        }
    }
}
