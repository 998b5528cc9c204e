//! Floors: the weakest sandbox profile that a tenant and a tier accept, who set it and why.

use std::collections::HashMap;

use axum::{Json as Answer, extract::State};
use cogward_api::{Floor, FloorPut, Page, PageQuery, ProblemCode, Shortfall, ShortfallQuery};
use cogward_identity::Operator;
use cogward_journal::{JournalEvent, Severity};
use cogward_model::{
    RunId, TenantName,
    event::EventType,
    manifest::{Manifest, Tier},
};
use cogward_store::{FloorRow, FloorRows, VersionRow};

use super::{known_tenant, page_of, runs::given_reason};
use crate::{
    events::by_operator,
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
};

fn view(rows: &FloorRows, tier: Tier) -> Floor {
    let (floor, from) = rows.effective(tier);
    Floor {
        tier,
        profile: floor.profile,
        source: floor.source,
        plane: rows.of_plane(tier).profile,
        set_by: from.map(|row| row.set_by.clone()),
        set: from.map(|row| row.updated),
        reason: from.map(|row| row.reason.clone()),
    }
}

pub(crate) async fn of_plane(State(app): State<App>) -> Result<Answer<Page<Floor>>, Failure> {
    let rows = app.store.floors(None).await?;
    Ok(Answer(Page::whole(Tier::ALL.map(|tier| view(&rows, tier)).to_vec())))
}

pub(crate) async fn of_tenant(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
) -> Result<Answer<Page<Floor>>, Failure> {
    known_tenant(&app, &tenant).await?;
    let rows = app.store.floors(Some(&tenant)).await?;
    Ok(Answer(Page::whole(Tier::ALL.map(|tier| view(&rows, tier)).to_vec())))
}

pub(crate) async fn put_on_plane(
    State(app): State<App>,
    caller: Caller,
    Params(tier): Params<Tier>,
    body: Json<FloorPut>,
) -> Result<Answer<Floor>, Failure> {
    put(&app, &caller.0, None, tier, body.value).await.map(Answer)
}

pub(crate) async fn put_in_tenant(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, tier)): Params<(TenantName, Tier)>,
    body: Json<FloorPut>,
) -> Result<Answer<Floor>, Failure> {
    known_tenant(&app, &tenant).await?;
    put(&app, &caller.0, Some(tenant), tier, body.value).await.map(Answer)
}

async fn put(
    app: &Plane,
    operator: &Operator,
    tenant: Option<TenantName>,
    tier: Tier,
    asked: FloorPut,
) -> Result<Floor, Failure> {
    let reason = given_reason(asked.reason)?;
    let mut tx = app.store.begin().await?;
    let before = tx.floors(tenant.as_ref()).await?;
    let demanded = before.of_plane(tier);
    match asked.profile {
        Some(profile) if tenant.is_some() && !demanded.admits(profile) => {
            return Err(Failure::new(
                ProblemCode::ProfileTooWeak,
                format!(
                    "the plane demands `{}` for tier {}, and a tenant can only ask for more than `{}`",
                    demanded.profile.as_str(),
                    tier.as_str(),
                    profile.as_str()
                ),
            )
            .rule("floor.plane")
            .next_step(
                "lower the floor of the plane first, if that is what is wanted: `cogward floor set` without a tenant",
            ));
        }
        Some(profile) => {
            let (updated, set_by) = (tx.now(), operator.name.clone());
            let reason = reason.clone();
            tx.floor_put(&FloorRow { tenant: tenant.clone(), tier, profile, reason, updated, set_by }).await?;
        }
        None => {
            let _there_was_none = tx.floor_delete(tenant.as_ref(), tier).await?;
        }
    }
    let after = tx.floors(tenant.as_ref()).await?;
    let (was, is) = (before.effective(tier).0, after.effective(tier).0);
    // What concerns the whole plane is in the log of the tenant that every plane has, as operators are.
    let log = tenant.clone().unwrap_or_else(TenantName::default_tenant);
    let event = by_operator(EventType::FloorChanged, log, operator, Some(&reason))
        .public("scope", if tenant.is_some() { "tenant" } else { "plane" })
        .public("tier", tier.as_str())
        .public("set", asked.profile.map(|profile| profile.as_str().to_owned()))
        .public("before", was.profile.as_str())
        .public("after", is.profile.as_str());
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    let detail = serde_json::json!({ "tier": tier, "before": was.profile, "after": is.profile });
    let journal = match tenant {
        Some(tenant) => JournalEvent::tenant("floor.changed", tenant),
        None => JournalEvent::plane("floor.changed"),
    };
    let severity = if is.profile < was.profile { Severity::Warning } else { Severity::Info };
    app.journal.publish(journal.severity(severity).detail(detail));
    Ok(view(&after, tier))
}

pub(crate) async fn shortfalls(
    State(app): State<App>,
    Asked(query): Asked<ShortfallQuery>,
) -> Result<Answer<Page<Shortfall>>, Failure> {
    let ShortfallQuery { tenant, limit, cursor } = query;
    if let Some(tenant) = &tenant {
        known_tenant(&app, tenant).await?;
    }
    let page = app.store.versions_of_all(tenant.as_ref(), &page_of(&PageQuery { limit, cursor })).await?;
    let mut floors: HashMap<TenantName, FloorRows> = HashMap::new();
    let mut items = Vec::new();
    for row in page.items {
        if !floors.contains_key(&row.tenant) {
            floors.insert(row.tenant.clone(), app.store.floors(Some(&row.tenant)).await?);
        }
        if let Some(rows) = floors.get(&row.tenant)
            && let Some(found) = shortfall(rows, row)?
        {
            items.push(found);
        }
    }
    if !items.is_empty() {
        for run in app.store.runs_live().await? {
            let of = |s: &&mut Shortfall| s.tenant == run.tenant && s.agent == run.agent && s.version == run.version;
            if let Some(found) = items.iter_mut().find(of) {
                found.live_runs.push(run.id);
            }
        }
    }
    Ok(Answer(Page { items, next_cursor: page.next }))
}

fn shortfall(rows: &FloorRows, row: VersionRow) -> Result<Option<Shortfall>, Failure> {
    let manifest: Manifest = serde_json::from_str(&row.manifest_json)
        .map_err(|e| Failure::internal("a stored manifest cannot be read", &e))?;
    let (tier, profile) = (manifest.spec.tier, manifest.spec.sandbox.profile);
    let (floor, _) = rows.effective(tier);
    if floor.admits(profile) {
        return Ok(None);
    }
    Ok(Some(Shortfall {
        tenant: row.tenant,
        agent: row.agent,
        version: row.label,
        tier,
        profile,
        floor: floor.profile,
        source: floor.source,
        live_runs: Vec::<RunId>::new(),
    }))
}
