//! Approvals: calls that wait for a person, and the answers.

use axum::{Json as Answer, extract::State};
use cogward_api::{Answered, Approval, ApprovalQuery, ApprovalState, Page, PageQuery, ProblemCode};
use cogward_journal::Severity;
use cogward_model::{
    TenantName,
    event::{Attribution, EventType},
    id::ApprovalId,
};
use cogward_store::{Answerable, ApprovalFilter, ApprovalRow, ApprovalState as Stored};

use super::{known_tenant, on_the_wire, page_of, runs::MaybeReason, runs::given_reason};
use crate::{
    adapters::approvals,
    events::by_operator,
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
};

pub(crate) fn answered(by: Answerable) -> Answered {
    Answered { by: by.name, operator: by.id, at: by.at, reason: by.reason }
}

fn state(state: Stored) -> ApprovalState {
    match state {
        Stored::Pending => ApprovalState::Pending,
        Stored::Approved => ApprovalState::Approved,
        Stored::Denied => ApprovalState::Denied,
        Stored::Expired => ApprovalState::Expired,
        Stored::Consumed => ApprovalState::Consumed,
    }
}

fn stored(state: ApprovalState) -> Stored {
    match state {
        ApprovalState::Pending => Stored::Pending,
        ApprovalState::Approved => Stored::Approved,
        ApprovalState::Denied => Stored::Denied,
        ApprovalState::Expired => Stored::Expired,
        ApprovalState::Consumed => Stored::Consumed,
    }
}

fn view(plane: &Plane, row: ApprovalRow) -> Approval {
    let over = matches!(row.state, Stored::Pending | Stored::Approved) && row.expires <= plane.clock.now();
    Approval {
        id: row.id,
        tenant: row.tenant,
        // What the next look of anybody makes of it.
        state: if over { ApprovalState::Expired } else { state(row.state) },
        run: row.run,
        agent: row.agent,
        version: row.version,
        subject: row.subject,
        action: row.action,
        object: row.object,
        request: row.request,
        arguments: None,
        arguments_bytes: row.arguments_bytes,
        level: row.level,
        rules: row.rules,
        role: row.role,
        four_eyes: row.four_eyes,
        reason: row.reason,
        requested: row.requested,
        expires: row.expires,
        answered: row.decided.map(answered),
        consumed: row.consumed,
    }
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<ApprovalQuery>,
) -> Result<Answer<Page<Approval>>, Failure> {
    known_tenant(&app, &tenant).await?;
    app.approvals.sweep(app.clock.now()).await;
    let ApprovalQuery { run, state, limit, cursor } = query;
    let filter = ApprovalFilter { tenant: Some(tenant), run, state: state.map(stored) };
    let page = app.store.approvals(&filter, &page_of(&PageQuery { limit, cursor })).await?;
    Ok(Answer(on_the_wire(page, |row| view(&app, row))))
}

async fn found(plane: &Plane, tenant: &TenantName, id: ApprovalId) -> Result<ApprovalRow, Failure> {
    plane.store.approval(tenant, id).await?.ok_or_else(|| Failure::missing("approval", id))
}

/// With the arguments, as far as they are kept: they are forgotten when the approval is over or used.
async fn whole(plane: &Plane, row: ApprovalRow) -> Result<Approval, Failure> {
    let sealed = plane.secrets.get(&approvals::secret_name(row.id)).await;
    let arguments = sealed.map_err(|error| Failure::internal("the arguments cannot be opened", &error))?;
    let mut approval = view(plane, row);
    approval.arguments = arguments.map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok(approval)
}

pub(crate) async fn show(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, id)): Params<(TenantName, ApprovalId)>,
) -> Result<Answer<Approval>, Failure> {
    let row = found(&app, &tenant, id).await?;
    // What an agent sends is the customer's business: whoever reads it is in the record, as for evidence.
    let event = by_operator(EventType::EvidenceRead, tenant, &caller.0, None).public("read_approval", id.to_string());
    app.record(event).await?;
    Ok(Answer(whole(&app, row).await?))
}

pub(crate) async fn approve(
    state: State<App>,
    caller: Caller,
    of: Params<(TenantName, ApprovalId)>,
    body: Json<MaybeReason>,
) -> Result<Answer<Approval>, Failure> {
    answer(state, caller, of, body, true).await
}

pub(crate) async fn deny(
    state: State<App>,
    caller: Caller,
    of: Params<(TenantName, ApprovalId)>,
    body: Json<MaybeReason>,
) -> Result<Answer<Approval>, Failure> {
    answer(state, caller, of, body, false).await
}

async fn answer(
    State(app): State<App>,
    Caller(operator): Caller,
    Params((tenant, id)): Params<(TenantName, ApprovalId)>,
    body: Json<MaybeReason>,
    approved: bool,
) -> Result<Answer<Approval>, Failure> {
    let reason = given_reason(body.value.reason)?;
    let mut tx = app.store.begin().await?;
    let row = tx.approval(&tenant, id).await?.ok_or_else(|| Failure::missing("approval", id))?;
    // Before the state is told: whoever may not answer learns nothing by trying.
    if !row.role.is_empty() && !operator.roles.iter().any(|role| role.as_str() == row.role) {
        let why = format!("the rule asks for the role `{}`, and `{}` does not have it", row.role, operator.name);
        return Err(Failure::new(ProblemCode::Forbidden, why)
            .rule("approval.role")
            .next_step("have somebody with the role answer; `cogward operator list` shows who has it"));
    }
    // A no from whoever asked narrows; only a yes needs somebody else.
    if approved && row.four_eyes {
        let run = app.store.run(row.run).await?.ok_or_else(|| Failure::missing("run", row.run))?;
        let why = if run.created_by == operator.name {
            Some("started the run")
        } else if run.subject.as_deref() == Some(operator.name.as_str()) {
            Some("is the user for whom the run acts")
        } else {
            None
        };
        if let Some(why) = why {
            let why = format!("the rule asks for four eyes, and `{}` {why}", operator.name);
            return Err(Failure::new(ProblemCode::Forbidden, why)
                .rule("approval.four_eyes")
                .next_step("have another operator with the role approve; a no can be said by anybody with the role"));
        }
    }
    let now = tx.now();
    if row.state == Stored::Pending && row.expires <= now {
        drop(tx);
        app.approvals.expire_late(&row).await;
        return Err(closed(&row, "its time is over"));
    }
    let by = Answerable { name: operator.name.clone(), id: operator.id, at: now, reason: reason.clone() };
    if !tx.approval_decide(id, approved, &by).await? {
        return Err(closed(&row, &format!("it is {}", row.state)));
    }
    if !approved {
        app.approvals
            .secrets
            .delete(&mut tx, &approvals::secret_name(id))
            .await
            .map_err(|error| Failure::internal("the arguments cannot be forgotten", &error))?;
    }
    let (kind, word) = if approved {
        (EventType::ApprovalApproved, "approval.approved")
    } else {
        (EventType::ApprovalDenied, "approval.denied")
    };
    let event = approvals::event(kind, &row, Attribution::operator(operator.name.as_str()))
        .public("basis", vec!["operator"])
        .public("operator", operator.id.to_string())
        .personal("reason", reason);
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    app.journal.publish(approvals::told(word, &row).severity(Severity::Info));
    let row = found(&app, &tenant, id).await?;
    Ok(Answer(view(&app, row)))
}

fn closed(row: &ApprovalRow, why: &str) -> Failure {
    Failure::new(ProblemCode::ApprovalClosed, format!("`{}` cannot be answered: {why}", row.id))
        .rule("approval.state")
        .next_step("`cogward approval show` tells what became of it; the agent asks anew by the same call")
}
