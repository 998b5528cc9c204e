//! Operators: who may command the plane, and the replacement of their credentials.

use std::time::Duration;

use axum::{Json as Answer, extract::State};
use cogward_api::{
    Credential, Operator, OperatorRotate, Page, PageQuery, ProblemCode, RotatedOperator,
    types::operators::OVERLAP_SECONDS_MAX,
};
use cogward_evidence::Health;
use cogward_identity::RevokeError;
use cogward_journal::JournalEvent;
use cogward_model::{event::Attribution, id::OperatorId};
use cogward_store::OperatorRow;

use super::{on_the_wire, page_of, runs::given_reason};
use crate::{
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::App,
};

fn view(row: OperatorRow) -> Operator {
    Operator {
        id: row.id,
        name: row.name,
        role: row.role.as_str().to_owned(),
        roles: row.roles,
        created: row.created,
        rotated: row.rotated,
        previous_until: row.previous.map(|(_, until)| until),
        revoked: row.revoked,
    }
}

pub(crate) async fn list(
    State(app): State<App>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<Operator>>, Failure> {
    let now = app.clock.now();
    Ok(Answer(on_the_wire(app.store.operators(&page_of(&query)).await?, |row| {
        let mut operator = view(row);
        // One whose time is over says nothing any more.
        operator.previous_until = operator.previous_until.filter(|until| now < *until);
        operator
    })))
}

pub(crate) async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Params(id): Params<OperatorId>,
    body: Json<OperatorRotate>,
) -> Result<Answer<RotatedOperator>, Failure> {
    let reason = given_reason(body.value.reason)?;
    let overlap = body.value.overlap_seconds.unwrap_or(0);
    if overlap > OVERLAP_SECONDS_MAX {
        return Err(Failure::invalid(format!("`overlap_seconds` is at most {OVERLAP_SECONDS_MAX}")));
    }
    // Asked before and not after: a credential that was replaced and not told would lock its owner out.
    if *app.evidence.health().borrow() != Health::Ok {
        return Err(Failure::new(ProblemCode::EvidenceUnavailable, "evidence cannot be written")
            .rule("evidence.durable")
            .next_step("free space on the plane's disk, then look at `cogward plane show`"));
    }
    let mut tx = app.store.begin().await?;
    let by = Attribution::operator(caller.0.name.as_str());
    let rotated = app.operators.rotate(&mut tx, id, Duration::from_secs(overlap.into()), by).await;
    let rotated = rotated.map_err(|error| match error {
        RevokeError::Store(error) => error.into(),
        _ => Failure::missing("valid operator", id),
    })?;
    let event = rotated
        .event
        .public("basis", vec!["operator"])
        .public("by", caller.0.id.to_string())
        .personal("reason", reason);
    let committed = tx.commit(vec![event]).await?;
    if app.publish(committed).await.is_err() {
        // It is committed, and with it its evidence, which the next start puts into the ledger.
        tracing::error!(operator = %id, "a credential was replaced, and the record of it is not in the ledger yet");
    }
    app.journal.publish(JournalEvent::plane("operator.rotated").detail(serde_json::json!({ "operator": id })));
    let row = app.store.operator(id).await?.ok_or_else(|| Failure::missing("operator", id))?;
    let credential = Credential::new(rotated.credential.expose().to_owned());
    Ok(Answer(RotatedOperator { operator: view(row), credential }))
}
