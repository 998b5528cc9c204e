//! Legal holds: what must not be erased. Each way takes two people, and it holds in between.

use axum::{Json as Answer, extract::State};
use cogward_api::{Hold, HoldRequest, Page, PageQuery, ProblemCode};
use cogward_identity::Operator;
use cogward_journal::{JournalEvent, Severity};
use cogward_model::{
    Id, TenantName,
    event::{Attribution, Event, EventType},
    id::HoldId,
    redaction::{HoldScope, HoldState},
};
use cogward_store::{Answerable, HoldRow};
use http::StatusCode;

use super::{
    approvals::answered, known_tenant, on_the_wire, page_of, redactions::bounded_person, runs::MaybeReason,
    runs::given_reason,
};
use crate::{
    erasure::refused_to_one,
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
};

/// Holds that a tenant may have in force: each is compared with every value that is to be erased.
const HOLDS_MAX: usize = 1_000;

fn view(row: HoldRow) -> Hold {
    Hold {
        id: row.id,
        tenant: row.tenant,
        state: row.state,
        kind: row.kind,
        scope: row.scope,
        requested: answered(Answerable { reason: row.reason, ..row.requested }),
        placed: row.placed.map(answered),
        releasing: row.releasing.map(answered),
        released: row.released.map(answered),
    }
}

fn event(kind: EventType, row: &HoldRow, operator: &Operator) -> Event {
    let event = Event::new(kind, row.tenant.clone(), Attribution::operator(operator.name.as_str()))
        .public("basis", vec!["operator"])
        .public("operator", operator.id.to_string())
        .public("hold", row.id.to_string())
        .public("scope", row.kind.as_str());
    match &row.scope {
        Some(HoldScope::Run(run)) => event.public("scope_run", run.to_string()),
        Some(HoldScope::Agent(agent)) => event.public("scope_agent", agent.as_str()),
        Some(HoldScope::Window { from, until }) => {
            event.public("from", from.to_string()).public("until", until.map(|until| until.to_string()))
        }
        Some(HoldScope::Subject(person)) => event.about(person.as_str()).personal("person", person.as_str()),
        None => event,
    }
}

fn closed(row: &HoldRow, step: &str) -> Failure {
    Failure::new(ProblemCode::RedactionClosed, format!("`{}` cannot be {step}: it is {}", row.id, row.state))
        .rule("hold.state")
        .next_step("`cogward evidence hold show` tells who did what")
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<Hold>>, Failure> {
    known_tenant(&app, &tenant).await?;
    Ok(Answer(on_the_wire(app.store.holds(&tenant, &page_of(&query)).await?, view)))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params((tenant, id)): Params<(TenantName, HoldId)>,
) -> Result<Answer<Hold>, Failure> {
    let row = app.store.hold(&tenant, id).await?.ok_or_else(|| Failure::missing("hold", id))?;
    Ok(Answer(view(row)))
}

pub(crate) async fn request(
    State(app): State<App>,
    Caller(operator): Caller,
    Params(tenant): Params<TenantName>,
    body: Json<HoldRequest>,
) -> Result<(StatusCode, Answer<Hold>), Failure> {
    let HoldRequest { scope, reason } = body.value;
    let reason = given_reason(reason)?;
    known_tenant(&app, &tenant).await?;
    match &scope {
        HoldScope::Subject(person) => bounded_person(person)?,
        HoldScope::Window { from, until: Some(until) } if until <= from => {
            return Err(Failure::invalid("the window ends before it begins").rule("hold.scope"));
        }
        HoldScope::Run(_) | HoldScope::Agent(_) | HoldScope::Window { .. } => {}
    }
    // Not between the look at the holds and the erasure of what nobody held yet.
    let _no_erasure = app.erasures.lock().await;
    if app.store.holds_in_force(&tenant).await?.len() >= HOLDS_MAX {
        return Err(Failure::invalid(format!("a tenant has at most {HOLDS_MAX} holds in force")).rule("limits.holds"));
    }
    let mut tx = app.store.begin().await?;
    let requested = Answerable { name: operator.name.clone(), id: operator.id, at: tx.now(), reason: reason.clone() };
    let row = HoldRow {
        id: Id::new(&*app.clock, &*app.entropy),
        tenant,
        kind: scope.kind().to_owned(),
        scope: Some(scope),
        reason: reason.clone(),
        state: HoldState::Requested,
        requested,
        placed: None,
        releasing: None,
        released: None,
    };
    tx.hold_put(&row).await?;
    let event = event(EventType::HoldRequested, &row, &operator).confidential("reason", reason);
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    tell(&app, "hold.requested", &row);
    Ok((StatusCode::CREATED, Answer(view(row))))
}

fn tell(plane: &Plane, word: &'static str, row: &HoldRow) {
    let detail = serde_json::json!({ "hold": row.id, "scope": row.kind });
    let notice = JournalEvent::tenant(word, row.tenant.clone()).severity(Severity::Info);
    plane.journal.publish(notice.detail(detail));
}

pub(crate) async fn place(
    State(app): State<App>,
    Caller(operator): Caller,
    Params((tenant, id)): Params<(TenantName, HoldId)>,
    body: Json<MaybeReason>,
) -> Result<Answer<Hold>, Failure> {
    let reason = given_reason(body.value.reason)?;
    let mut tx = app.store.begin().await?;
    let mut row = tx.hold(&tenant, id).await?.ok_or_else(|| Failure::missing("hold", id))?;
    if row.state != HoldState::Requested {
        return Err(closed(&row, "placed"));
    }
    if row.requested.id == operator.id {
        drop(tx);
        return Err(refused_to_one(&app, event(EventType::HoldRefused, &row, &operator), &operator).await?);
    }
    row.state = HoldState::Placed;
    row.placed =
        Some(Answerable { name: operator.name.clone(), id: operator.id, at: tx.now(), reason: reason.clone() });
    tx.hold_put(&row).await?;
    let event = event(EventType::HoldPlaced, &row, &operator)
        .public("requested_by", row.requested.id.to_string())
        .confidential("reason", reason);
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    tell(&app, "hold.placed", &row);
    Ok(Answer(view(row)))
}

/// The first to say it asks, the second does it. What was never placed by a second person, another withdraws at once.
pub(crate) async fn release(
    State(app): State<App>,
    Caller(operator): Caller,
    Params((tenant, id)): Params<(TenantName, HoldId)>,
    body: Json<MaybeReason>,
) -> Result<Answer<Hold>, Failure> {
    let reason = given_reason(body.value.reason)?;
    let mut tx = app.store.begin().await?;
    let mut row = tx.hold(&tenant, id).await?.ok_or_else(|| Failure::missing("hold", id))?;
    let by = Answerable { name: operator.name.clone(), id: operator.id, at: tx.now(), reason: reason.clone() };
    let first = match row.state {
        HoldState::Released => return Err(closed(&row, "released")),
        HoldState::Placed => None,
        HoldState::Requested => Some(row.requested.id),
        HoldState::Releasing => row.releasing.as_ref().map(|by| by.id),
    };
    if first == Some(operator.id) {
        drop(tx);
        return Err(refused_to_one(&app, event(EventType::HoldRefused, &row, &operator), &operator).await?);
    }
    let (kind, word) = if let Some(first) = first {
        row.state = HoldState::Released;
        row.released = Some(by);
        (event(EventType::HoldReleased, &row, &operator).public("requested_by", first.to_string()), "hold.released")
    } else {
        row.state = HoldState::Releasing;
        row.releasing = Some(by);
        (event(EventType::HoldReleaseRequested, &row, &operator), "hold.release_requested")
    };
    if row.state == HoldState::Released {
        // Whom it was about is no longer needed.
        row.scope = None;
    }
    tx.hold_put(&row).await?;
    let committed = tx.commit(vec![kind.confidential("reason", reason)]).await?;
    app.publish(committed).await?;
    tell(&app, word, &row);
    Ok(Answer(view(row)))
}
