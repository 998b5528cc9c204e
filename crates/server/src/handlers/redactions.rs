//! Redactions: values of the evidence that are erased, by two people, on a legal ground.

use axum::{Json as Answer, extract::State};
use cogward_api::{
    ErasureReceipt, Page, PageQuery, ProblemCode, ReceiptLeaf, Redaction, RedactionQuery, RedactionRequest, Retention,
    RetentionRequest,
};
use cogward_evidence::{Receipt, ReceiptError};
use cogward_identity::Operator;
use cogward_journal::{JournalEvent, Severity};
use cogward_model::{
    Id, TenantName, Timestamp,
    event::{Event, EventType},
    id::RedactionId,
    redaction::{ErasureScope, PERSON_BYTES_MAX, RedactionState},
};
use cogward_store::{Answerable, RedactionRow};
use http::StatusCode;

use super::{approvals::answered, known_tenant, on_the_wire, page_of, runs::MaybeReason, runs::given_reason};
use crate::{
    erasure::{self, by, carry_out, go_on, held, refused_by_hold, refused_to_one, retention},
    events::by_operator,
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
};

/// So many requests in a tenant within [`ALARM_MICROS`] are a finding, and as many again another one.
const ALARM_EVERY: u64 = 10;
const ALARM_MICROS: u64 = 3_600_000_000;

fn view(row: RedactionRow) -> Redaction {
    let RedactionRow { requested_by: name, requested_by_id: id, requested: at, reason, .. } = row;
    Redaction {
        id: row.id,
        tenant: row.tenant,
        state: row.state,
        kind: row.kind,
        scope: row.scope,
        ground: row.ground,
        values: row.found,
        requested: answered(Answerable { name, id, at, reason }),
        answered: row.answered.map(answered),
        executed: row.executed.map(answered),
    }
}

async fn found(plane: &Plane, tenant: &TenantName, id: RedactionId) -> Result<RedactionRow, Failure> {
    plane.store.redaction(tenant, id).await?.ok_or_else(|| Failure::missing("redaction", id))
}

fn closed(row: &RedactionRow, step: &str) -> Failure {
    let why = format!("`{}` cannot be {step}: it is {}", row.id, row.state);
    Failure::new(ProblemCode::RedactionClosed, why)
        .rule("redaction.state")
        .next_step("`cogward evidence redact show` tells who did what")
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<RedactionQuery>,
) -> Result<Answer<Page<Redaction>>, Failure> {
    known_tenant(&app, &tenant).await?;
    let RedactionQuery { state, limit, cursor } = query;
    let page = app.store.redactions(&tenant, state, &page_of(&PageQuery { limit, cursor })).await?;
    Ok(Answer(on_the_wire(page, view)))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params((tenant, id)): Params<(TenantName, RedactionId)>,
) -> Result<Answer<Redaction>, Failure> {
    Ok(Answer(view(found(&app, &tenant, id).await?)))
}

pub(super) fn bounded_person(person: &str) -> Result<(), Failure> {
    if (1..=PERSON_BYTES_MAX).contains(&person.len()) {
        return Ok(());
    }
    Err(Failure::invalid(format!("the name of a person has 1 to {PERSON_BYTES_MAX} bytes")).rule("redaction.scope"))
}

pub(crate) async fn request(
    State(app): State<App>,
    Caller(operator): Caller,
    Params(tenant): Params<TenantName>,
    body: Json<RedactionRequest>,
) -> Result<(StatusCode, Answer<Redaction>), Failure> {
    let RedactionRequest { scope, ground, reason } = body.value;
    let reason = given_reason(reason)?;
    known_tenant(&app, &tenant).await?;
    if let ErasureScope::Subject(person) = &scope {
        bounded_person(person)?;
    }
    let row = RedactionRow {
        id: Id::new(&*app.clock, &*app.entropy),
        tenant: tenant.clone(),
        kind: scope.kind().to_owned(),
        ground,
        reason: reason.clone(),
        state: RedactionState::Requested,
        found: 0,
        requested: app.clock.now(),
        requested_by: operator.name.clone(),
        requested_by_id: operator.id,
        answered: None,
        executed: None,
        plan: None,
        scope: Some(scope.clone()),
    };
    let erasure = match app.evidence.examine(&tenant, &scope).await {
        Ok(erasure) => erasure,
        Err(error) => {
            // An attempt on what cannot be erased says something about who made it.
            let refused = erasure::event(EventType::RedactionRefused, &row, by(&operator)).public("rule", "scope");
            app.record(without_field(refused)).await?;
            return Err(error.into());
        }
    };
    let row = RedactionRow { found: erasure.values.len() as u64, ..row };
    if let Some(hold) = held(&app, &tenant, &erasure.values).await? {
        return Err(refused_by_hold(&app, &row, &operator, &hold).await?);
    }
    let mut tx = app.store.begin().await?;
    tx.redaction_insert(&row).await?;
    let mut event = erasure::event(EventType::RedactionRequested, &row, by(&operator))
        .public("values", row.found)
        .confidential("reason", reason);
    if let ErasureScope::Subject(person) = &scope {
        // Sealed under the person's own key: it goes with the rest.
        event = event.about(person.as_str()).personal("person", person.as_str());
    }
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    tell(&app, "redaction.requested", &row, Severity::Info);
    alarm(&app, &tenant).await?;
    Ok((StatusCode::CREATED, Answer(view(row))))
}

/// The name of a field that is not there is a text of the caller's: it is not put into the log in clear.
fn without_field(mut event: Event) -> Event {
    event.fields.retain(|field| field.name != "field");
    event
}

fn tell(plane: &Plane, word: &'static str, row: &RedactionRow, severity: Severity) {
    let detail =
        serde_json::json!({ "redaction": row.id, "scope": row.kind, "ground": row.ground, "values": row.found });
    plane.journal.publish(JournalEvent::tenant(word, row.tenant.clone()).severity(severity).detail(detail));
}

/// Many requests in a short time look like hiding: a finding, for somebody to look into.
async fn alarm(plane: &Plane, tenant: &TenantName) -> Result<(), Failure> {
    let since = plane.clock.now().unix_micros().saturating_sub(ALARM_MICROS);
    let asked = plane.store.redactions_since(tenant, Timestamp::from_unix_micros(since)).await?;
    if asked == 0 || !asked.is_multiple_of(ALARM_EVERY) {
        return Ok(());
    }
    let event = Event::new(EventType::SecurityFinding, tenant.clone(), cogward_model::event::Attribution::plane())
        .public("basis", vec!["plane"])
        .public("severity", "high")
        .public("finding", "redaction.rate")
        .public("requests", asked)
        .public("within_seconds", ALARM_MICROS / 1_000_000);
    plane.record(event).await?;
    let notice = JournalEvent::tenant("security.finding", tenant.clone()).severity(Severity::Error);
    plane.journal.publish(notice.detail(serde_json::json!({ "finding": "redaction.rate", "requests": asked })));
    Ok(())
}

pub(crate) async fn approve(
    state: State<App>,
    caller: Caller,
    of: Params<(TenantName, RedactionId)>,
    body: Json<MaybeReason>,
) -> Result<Answer<Redaction>, Failure> {
    answer(state, caller, of, body, true).await
}

pub(crate) async fn deny(
    state: State<App>,
    caller: Caller,
    of: Params<(TenantName, RedactionId)>,
    body: Json<MaybeReason>,
) -> Result<Answer<Redaction>, Failure> {
    answer(state, caller, of, body, false).await
}

async fn answer(
    State(app): State<App>,
    Caller(operator): Caller,
    Params((tenant, id)): Params<(TenantName, RedactionId)>,
    body: Json<MaybeReason>,
    approved: bool,
) -> Result<Answer<Redaction>, Failure> {
    let reason = given_reason(body.value.reason)?;
    let row = found(&app, &tenant, id).await?;
    let step = if approved { "approved" } else { "denied" };
    if row.state != RedactionState::Requested {
        return Err(closed(&row, step));
    }
    if approved && row.requested_by_id == operator.id {
        let event = erasure::event(EventType::RedactionRefused, &row, by(&operator));
        return Err(refused_to_one(&app, event, &operator).await?);
    }
    if approved && let Some(scope) = &row.scope {
        let erasure = app.evidence.examine(&tenant, scope).await?;
        if let Some(hold) = held(&app, &tenant, &erasure.values).await? {
            return Err(refused_by_hold(&app, &row, &operator, &hold).await?);
        }
    }
    let mut tx = app.store.begin().await?;
    let answerable = Answerable { name: operator.name.clone(), id: operator.id, at: tx.now(), reason: reason.clone() };
    if !tx.redaction_answer(id, approved, &answerable).await? {
        return Err(closed(&row, step));
    }
    let (kind, word) = if approved {
        (EventType::RedactionApproved, "redaction.approved")
    } else {
        (EventType::RedactionDenied, "redaction.denied")
    };
    let event = erasure::event(kind, &row, by(&operator))
        .public("requested_by", row.requested_by_id.to_string())
        .confidential("reason", reason);
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    tell(&app, word, &row, Severity::Info);
    Ok(Answer(view(found(&app, &tenant, id).await?)))
}

pub(crate) async fn execute(
    State(app): State<App>,
    Caller(operator): Caller,
    Params((tenant, id)): Params<(TenantName, RedactionId)>,
    body: Json<MaybeReason>,
) -> Result<Answer<Redaction>, Failure> {
    let reason = given_reason(body.value.reason)?;
    // In a task of its own: a client that goes away does not leave it half done.
    let task = tokio::spawn(executed(app, operator, tenant, id, reason));
    task.await.map_err(|error| Failure::internal("the erasure broke off; it is finished at the next start", &error))?
}

async fn executed(
    app: App,
    operator: Operator,
    tenant: TenantName,
    id: RedactionId,
    reason: String,
) -> Result<Answer<Redaction>, Failure> {
    let _one = app.erasures.lock().await;
    let row = found(&app, &tenant, id).await?;
    if row.state == RedactionState::Executing {
        // A disk that was full, for one: it is said again when there is space.
        go_on(&app.store, &app.evidence, &row).await?;
        return Ok(Answer(view(found(&app, &tenant, id).await?)));
    }
    let (RedactionState::Approved, Some(scope)) = (row.state, row.scope.clone()) else {
        return Err(closed(&row, "executed"));
    };
    let erasure = app.evidence.prepare_erasure(&tenant, &scope).await?;
    if let Some(hold) = held(&app, &tenant, &erasure.values).await? {
        return Err(refused_by_hold(&app, &row, &operator, &hold).await?);
    }
    let plan = serde_json::to_string(&erasure.plan);
    let plan = plan.map_err(|e| Failure::internal("the plan cannot be written", &e))?;
    let mut tx = app.store.begin().await?;
    let answerable = Answerable { name: operator.name.clone(), id: operator.id, at: tx.now(), reason };
    if !tx.redaction_begin(id, &plan, &answerable).await? {
        return Err(closed(&row, "executed"));
    }
    // What happened is recorded when it has; until then this row is what a plane that was killed goes on with.
    drop(tx.commit(Vec::new()).await?);
    let row = RedactionRow { executed: Some(answerable), ..row };
    carry_out(&app.store, &app.evidence, &row, &erasure).await?;
    let row = found(&app, &tenant, id).await?;
    tell(&app, "redaction.executed", &row, Severity::Warning);
    Ok(Answer(view(row)))
}

pub(crate) async fn receipt(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, id)): Params<(TenantName, RedactionId)>,
) -> Result<Answer<ErasureReceipt>, Failure> {
    let row = found(&app, &tenant, id).await?;
    if row.state != RedactionState::Executed {
        return Err(closed(&row, "shown as erased"));
    }
    let event =
        by_operator(EventType::EvidenceRead, tenant.clone(), &caller.0, None).public("read_receipt", id.to_string());
    app.record(event).await?;
    let receipt = app.evidence.erasure_receipt(&tenant, id).await.map_err(|error| match error {
        ReceiptError::Record(error) => crate::plane::unrecorded(&error),
        other => Failure::internal("the receipt cannot be made", &other),
    })?;
    let Receipt { form, redaction, text, leaves, checkpoint, key } = receipt;
    let leaves = leaves.into_iter().map(|leaf| ReceiptLeaf { index: leaf.index, leaf: leaf.leaf, proof: leaf.proof });
    Ok(Answer(ErasureReceipt { form: form.to_owned(), redaction, text, leaves: leaves.collect(), checkpoint, key }))
}

pub(crate) async fn retain(
    State(app): State<App>,
    Caller(operator): Caller,
    Params(tenant): Params<TenantName>,
    body: Json<RetentionRequest>,
) -> Result<Answer<Retention>, Failure> {
    let RetentionRequest { dry_run, reason } = body.value;
    let reason = given_reason(reason)?;
    known_tenant(&app, &tenant).await?;
    let by = Answerable { name: operator.name.clone(), id: operator.id, at: app.clock.now(), reason };
    let task = tokio::spawn(async move { retention::apply(&app, &tenant, Some(by), dry_run).await });
    let done = task.await;
    done.map_err(|error| Failure::internal("retention broke off; it is finished at the next start", &error))?
        .map(Answer)
}
