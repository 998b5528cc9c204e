//! Operators: who may command the plane, and the replacement of their credentials.

use std::{sync::Arc, time::Duration};

use axum::{Json as Answer, extract::State};
use cogward_api::{
    Credential, NewOperator, Operator, OperatorAdd, OperatorRoles, OperatorRotate, Page, PageQuery, ProblemCode,
    RotatedOperator,
    types::operators::{OVERLAP_SECONDS_MAX, ROLES_MAX},
};
use cogward_evidence::{Health, RecordError};
use cogward_identity::{CreateError, RevokeError, Role};
use cogward_journal::JournalEvent;
use cogward_model::{
    RoleName, TenantName,
    event::{Attribution, EventType},
    id::OperatorId,
};
use cogward_store::OperatorRow;
use http::StatusCode;

use super::{on_the_wire, page_of, runs::given_reason};
use crate::{
    events::by_operator,
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane, unrecorded},
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

/// Refuses what hands out a credential while its record cannot be written: asked before and not after.
fn recordable(plane: &Plane) -> Result<(), Failure> {
    match &*plane.evidence.health().borrow() {
        Health::Ok => return Ok(()),
        Health::Unsigned { why } => return Err(unrecorded(&RecordError::Unsigned(Arc::clone(why)))),
        Health::LowSpace { .. } | Health::Failed { .. } => {}
    }
    Err(Failure::new(ProblemCode::EvidenceUnavailable, "evidence cannot be written")
        .rule("evidence.durable")
        .next_step("free space on the plane's disk, then look at `cogward plane show`"))
}

/// Roles in order, each once.
fn distinct(mut roles: Vec<RoleName>) -> Result<Vec<RoleName>, Failure> {
    if roles.len() > ROLES_MAX {
        return Err(Failure::invalid(format!("an operator has at most {ROLES_MAX} roles")));
    }
    // It would read as if it took something away.
    if roles.iter().any(|role| role.as_str() == "auditor") {
        let next = "an operator who may only read is made with `operator add NAME --auditor`";
        return Err(Failure::invalid(format!("`auditor` is no role that approvals can ask for: {next}")));
    }
    roles.sort();
    roles.dedup();
    Ok(roles)
}

pub(crate) async fn add(
    State(app): State<App>,
    caller: Caller,
    body: Json<OperatorAdd>,
) -> Result<(StatusCode, Answer<NewOperator>), Failure> {
    let OperatorAdd { name, auditor, roles, reason } = body.value;
    let (reason, roles) = (given_reason(reason)?, distinct(roles)?);
    recordable(&app)?;
    let role = if auditor { Role::Auditor } else { Role::Operator };
    let mut tx = app.store.begin().await?;
    let by = Attribution::operator(caller.0.name.as_str());
    let made = app.operators.create_with(&mut tx, &name, role, roles, by).await;
    let made = made.map_err(|error| match error {
        CreateError::Store(error) => error.into(),
        error => Failure::invalid(error.to_string()),
    })?;
    let event =
        made.event.public("basis", vec!["operator"]).public("by", caller.0.id.to_string()).personal("reason", reason);
    let committed = tx.commit(vec![event]).await?;
    if app.publish(committed).await.is_err() {
        // It is committed, and with it its evidence, which the next start puts into the ledger.
        tracing::error!(operator = %made.operator.id, "an operator was added, and the record is not in the ledger yet");
    }
    let id = made.operator.id;
    app.journal.publish(JournalEvent::plane("operator.created").detail(serde_json::json!({ "operator": id })));
    let row = app.store.operator(id).await?.ok_or_else(|| Failure::missing("operator", id))?;
    let credential = Credential::new(made.credential.expose().to_owned());
    Ok((StatusCode::CREATED, Answer(NewOperator { operator: view(row), credential })))
}

pub(crate) async fn set_roles(
    State(app): State<App>,
    caller: Caller,
    Params(id): Params<OperatorId>,
    body: Json<OperatorRoles>,
) -> Result<Answer<Operator>, Failure> {
    let OperatorRoles { roles, reason } = body.value;
    let (reason, roles) = (given_reason(reason)?, distinct(roles)?);
    let mut tx = app.store.begin().await?;
    let before = tx.operator(id).await?.map(|row| row.roles).unwrap_or_default();
    if !tx.operator_roles_put(id, &roles).await? {
        return Err(Failure::missing("valid operator", id));
    }
    let words = |roles: &[RoleName]| roles.iter().map(ToString::to_string).collect::<Vec<_>>();
    let event = by_operator(EventType::OperatorRolesSet, TenantName::default_tenant(), &caller.0, Some(&reason))
        .public("of_operator", id.to_string())
        .public("roles", words(&roles))
        .public("before", words(&before));
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    app.journal.publish(JournalEvent::plane("operator.roles_set").detail(serde_json::json!({ "operator": id })));
    let row = app.store.operator(id).await?.ok_or_else(|| Failure::missing("operator", id))?;
    Ok(Answer(view(row)))
}

pub(crate) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Params(id): Params<OperatorId>,
    uri: http::Uri,
) -> Result<StatusCode, Failure> {
    let reason = super::tool_servers::reason_of(&uri)?;
    let mut tx = app.store.begin().await?;
    let writes = tx.operator(id).await?.is_some_and(|row| row.role == Role::Operator && row.revoked.is_none());
    if writes && tx.operators_writing().await? <= 1 {
        return Err(Failure::new(ProblemCode::InUse, "it is the only operator; nobody could command this plane")
            .rule("operator.last")
            .next_step("add another one first: `cogward operator add`"));
    }
    let event = app.operators.revoke(&mut tx, id, Attribution::operator(caller.0.name.as_str())).await;
    let event = event.map_err(|error| match error {
        RevokeError::Store(error) => error.into(),
        _ => Failure::missing("valid operator", id),
    })?;
    let event =
        event.public("basis", vec!["operator"]).public("by", caller.0.id.to_string()).personal("reason", reason);
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    app.journal.publish(JournalEvent::plane("operator.revoked").detail(serde_json::json!({ "operator": id })));
    Ok(StatusCode::NO_CONTENT)
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
    // A credential that was replaced and not told would lock its owner out.
    recordable(&app)?;
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
