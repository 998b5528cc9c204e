//! Erasing values of the evidence: the steps behind the redactions of operators and behind retention.
//!
//! The store knows which keys are to go before the first of them goes, and forgets it when the ledger says that they
//! are gone. A plane that ends in between goes on at its next start, before anything is served. One erasure is carried
//! out at a time, and none while a legal hold is placed: what holds is asked for under the same lock.

pub(crate) mod retention;

use std::collections::BTreeSet;

use cogward_api::ProblemCode;
use cogward_evidence::{EraseError, ErasedValue, Erasure, ErasurePlan, Evidence, RecordError, executed};
use cogward_identity::Operator;
use cogward_journal::{JournalEvent, Severity};
use cogward_model::{
    RunId, TenantName,
    event::{Attribution, Event, EventType},
    id::{OperatorId, RedactionId},
    redaction::{ErasureScope, HoldScope, RedactionState},
};
use cogward_store::{Answerable, HoldRow, RedactionRow, Store, Tx};

use crate::{failure::Failure, plane::Plane};

/// The kind of the erasures that retention makes.
pub(crate) const RETENTION: &str = "retention";

/// Who retention is by, where nobody asked.
pub(crate) fn the_plane(tx: &Tx) -> Answerable {
    let reason = "the time that the manifests say is over".to_owned();
    Answerable { name: "plane".to_owned(), id: OperatorId::from_bytes([0; 16]), at: tx.now(), reason }
}

/// Why an erasure was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CarryOutError {
    /// The evidence or its keys.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// The state.
    #[error(transparent)]
    Store(#[from] cogward_store::StoreError),
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What was written down is not readable.
    #[error("the plan of {0} cannot be read")]
    Plan(RedactionId),
}

impl From<CarryOutError> for Failure {
    fn from(error: CarryOutError) -> Self {
        match error {
            CarryOutError::Store(error) => error.into(),
            CarryOutError::Record(error) => crate::plane::unrecorded(&error),
            CarryOutError::Erase(error) => error.into(),
            error @ CarryOutError::Plan(_) => Self::internal("the erasure cannot be carried out", &error),
        }
    }
}

impl From<EraseError> for Failure {
    fn from(error: EraseError) -> Self {
        let text = error.to_string();
        match error {
            EraseError::Nothing => Self::new(ProblemCode::NotRedactable, text)
                .rule("redaction.scope")
                .next_step("see that the tenant is right, and the person's name exactly as the evidence has it"),
            EraseError::NoSuchLeaf(_) => Self::new(ProblemCode::NotFound, text).rule("redaction.scope"),
            EraseError::NoSuchField { .. } | EraseError::Already(_) | EraseError::Counted(_) => {
                Self::new(ProblemCode::NotRedactable, text).rule("redaction.scope")
            }
            EraseError::Public { .. } => Self::new(ProblemCode::NotRedactable, text)
                .rule("redaction.public")
                .next_step("who acted, what was decided and when stays in the log for ever"),
            EraseError::Record(error) => crate::plane::unrecorded(&error),
            other => Self::internal("the evidence cannot be erased", &other),
        }
    }
}

/// An event about an erasure, in the log that it is about. It names nobody but who did it.
pub(crate) fn event(kind: EventType, row: &RedactionRow, by: Option<(&str, OperatorId)>) -> Event {
    let attribution = by.map_or_else(Attribution::plane, |(name, _)| Attribution::operator(name));
    let event = Event::new(kind, row.tenant.clone(), attribution)
        .public("basis", vec![if by.is_some() { "operator" } else { "plane" }])
        .public("operator", by.map(|(_, id)| id.to_string()))
        .public("redaction", row.id.to_string())
        .public("scope", row.kind.as_str())
        .public("ground", row.ground.as_str());
    match &row.scope {
        Some(ErasureScope::Run(run)) => event.public("scope_run", run.to_string()),
        Some(ErasureScope::Field { leaf, name }) => event.public("leaf", *leaf).public("field", name.as_str()),
        Some(ErasureScope::Subject(_)) | None => event,
    }
}

pub(crate) fn by(operator: &Operator) -> Option<(&str, OperatorId)> {
    Some((operator.name.as_str(), operator.id))
}

/// The first hold that keeps one of these values.
pub(crate) async fn held(
    plane: &Plane,
    tenant: &TenantName,
    values: &[ErasedValue],
) -> Result<Option<HoldRow>, Failure> {
    let holds = Holds::of(plane, tenant).await?;
    for value in values {
        if let Some(hold) = holds.keeping(plane, tenant, value).await? {
            return Ok(Some(hold));
        }
    }
    Ok(None)
}

/// The holds of a tenant that are in force.
pub(crate) struct Holds {
    holds: Vec<HoldRow>,
    /// Whether a run is of an agent that is held, of the last run that was asked about.
    run: tokio::sync::Mutex<Option<(RunId, Option<HoldRow>)>>,
}

impl Holds {
    pub(crate) async fn of(plane: &Plane, tenant: &TenantName) -> Result<Self, Failure> {
        Ok(Self { holds: plane.store.holds_in_force(tenant).await?, run: tokio::sync::Mutex::default() })
    }

    /// The hold that keeps a value, if one does.
    pub(crate) async fn keeping(
        &self,
        plane: &Plane,
        tenant: &TenantName,
        value: &ErasedValue,
    ) -> Result<Option<HoldRow>, Failure> {
        for hold in &self.holds {
            // One whose scope cannot be told keeps everything: what is erased does not come back.
            let Some(scope) = &hold.scope else { return Ok(Some(hold.clone())) };
            let held = plane.evidence.is_held(tenant, value, scope);
            if held.map_err(|e| Failure::internal("the holds cannot be compared", &e))? {
                return Ok(Some(hold.clone()));
            }
        }
        // What an operator did to a run is of its agent too.
        match value.run {
            Some(run) if value.agent.is_none() => self.keeping_run(plane, run).await,
            _ => Ok(None),
        }
    }

    async fn keeping_run(&self, plane: &Plane, run: RunId) -> Result<Option<HoldRow>, Failure> {
        let mut last = self.run.lock().await;
        if let Some((known, hold)) = &*last
            && *known == run
        {
            return Ok(hold.clone());
        }
        let agent = plane.store.run(run).await?.map(|row| row.agent);
        let of_agent =
            |hold: &&HoldRow| matches!(&hold.scope, Some(HoldScope::Agent(held)) if Some(held) == agent.as_ref());
        let found = self.holds.iter().find(of_agent).cloned();
        *last = Some((run, found.clone()));
        Ok(found)
    }
}

/// The refusal because of a hold; it is recorded before it is told.
pub(crate) async fn refused_by_hold(
    plane: &Plane,
    row: &RedactionRow,
    operator: &Operator,
    hold: &HoldRow,
) -> Result<Failure, Failure> {
    let event = event(EventType::RedactionRefused, row, by(operator))
        .public("rule", "hold")
        .public("hold", hold.id.to_string());
    plane.record(event).await?;
    let notice = JournalEvent::tenant("redaction.refused", row.tenant.clone()).severity(Severity::Warning);
    plane.journal.publish(notice.detail(serde_json::json!({ "redaction": row.id, "hold": hold.id })));
    let by = hold.placed.as_ref().unwrap_or(&hold.requested);
    let why = format!("the legal hold `{}` keeps it, which `{}` answers for", hold.id, by.name);
    Ok(Failure::new(ProblemCode::EvidenceHeld, why)
        .rule("hold")
        .next_step(format!("`cogward evidence hold show {}` tells what it keeps and why", hold.id)))
}

/// The refusal because the same person asked; it is recorded before it is told.
pub(crate) async fn refused_to_one(plane: &Plane, event: Event, operator: &Operator) -> Result<Failure, Failure> {
    plane.record(event.public("rule", "four_eyes")).await?;
    let why = format!("`{}` asked for it, and another operator has to answer", operator.name);
    Ok(Failure::new(ProblemCode::FourEyes, why)
        .rule("four_eyes")
        .next_step("`cogward operator list` shows who else there is"))
}

/// Destroys the keys of an erasure that is written down, records it and forgets what it was about.
pub(crate) async fn carry_out(
    store: &Store,
    evidence: &Evidence,
    row: &RedactionRow,
    erasure: &Erasure,
) -> Result<(), CarryOutError> {
    evidence.destroy(&row.tenant, row.id, &erasure.plan).await?;
    let nobody = OperatorId::from_bytes([0; 16]);
    let known = |id: OperatorId| (id != nobody).then(|| id.to_string());
    let executor = row.executed.as_ref().filter(|by| by.id != nobody);
    let kind = if row.kind == RETENTION { EventType::RetentionExecuted } else { EventType::RedactionExecuted };
    let events = executed(erasure, || {
        event(kind, row, executor.map(|by| (by.name.as_str(), by.id)))
            .public("requested_by", known(row.requested_by_id))
            .public("approved_by", row.answered.as_ref().and_then(|by| known(by.id)))
    });
    let mut tx = store.begin().await?;
    tx.redaction_end(row.id, erasure.values.len() as u64).await?;
    if let Some(ErasureScope::Subject(subject)) = &row.scope {
        tx.forget_subject(&row.tenant, subject, &format!("erased ({})", row.id)).await?;
    }
    let committed = tx.commit(events).await?;
    evidence.publish(store, committed).await?;
    scrub(store).await;
    Ok(())
}

/// Puts what was deleted from the state out of its files. What a reader holds up is done by the next one.
async fn scrub(store: &Store) {
    match store.scrub().await {
        Ok(true) => {}
        Ok(false) => tracing::info!("a reader holds up the scrubbing of the state; it is done with the next erasure"),
        Err(error) => tracing::warn!(%error, "the state could not be scrubbed"),
    }
}

/// Finishes what was begun, and takes down what the ledger says was done.
pub(crate) async fn finish(
    store: &Store,
    evidence: &Evidence,
    told: &BTreeSet<RedactionId>,
) -> Result<(), CarryOutError> {
    for row in store.redactions_open().await? {
        if told.contains(&row.id) {
            // The ledger is ahead of the state: that is an older copy.
            let mut tx = store.begin().await?;
            tx.redaction_end(row.id, row.found).await?;
            if let Some(ErasureScope::Subject(subject)) = &row.scope {
                tx.forget_subject(&row.tenant, subject, &format!("erased ({})", row.id)).await?;
            }
            drop(tx.commit(Vec::new()).await?);
        } else if row.state == RedactionState::Executing {
            go_on(store, evidence, &row).await?;
        }
    }
    Ok(())
}

/// Goes on with an erasure that was broken off.
pub(crate) async fn go_on(store: &Store, evidence: &Evidence, row: &RedactionRow) -> Result<(), CarryOutError> {
    let plan = row.plan.as_deref().and_then(|plan| serde_json::from_str::<ErasurePlan>(plan).ok());
    let plan = plan.ok_or(CarryOutError::Plan(row.id))?;
    tracing::warn!(redaction = %row.id, keys = plan.keys(), "an erasure was broken off, and is finished");
    let erasure = evidence.prepare_again(&row.tenant, plan).await?;
    carry_out(store, evidence, row, &erasure).await
}
