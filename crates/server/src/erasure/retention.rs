//! Retention: what is older than the manifest of its agent keeps it is erased, by the same way as everything else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use cogward_api::{Retained, Retention};
use cogward_evidence::{EraseError, Erasure};
use cogward_journal::JournalEvent;
use cogward_model::{AgentName, Id, RunId, TenantName, VersionLabel, manifest::Manifest, redaction::RedactionState};
use cogward_store::{Answerable, PageRequest, RedactionRow};

use super::{CarryOutError, Holds, RETENTION, carry_out, finish, the_plane};
use crate::{
    failure::Failure,
    plane::{App, Plane},
};

/// How often the plane looks for what is too old.
const EVERY: Duration = Duration::from_secs(3_600);
/// Runs that an answer lists.
const RUNS_MAX: usize = 1_000;

/// How long the values of a version's runs are kept.
type Kept = BTreeMap<(AgentName, VersionLabel), u32>;

/// Looks for what is too old as long as the plane is up.
pub(crate) async fn watch(app: App) {
    loop {
        match every_tenant(&app).await {
            Ok(0) => {}
            Ok(values) => tracing::info!(values, "values whose time is over were erased"),
            Err(failure) => tracing::warn!(why = failure.detail(), "values whose time is over are not erased yet"),
        }
        tokio::select! {
            () = app.closing.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn every_tenant(app: &App) -> Result<u64, Failure> {
    {
        // What could not be finished at once, on a full disk for one.
        let _one = app.erasures.lock().await;
        finish(&app.store, &app.evidence, &BTreeSet::new()).await?;
    }
    let (mut values, mut page) = (0, PageRequest { after: None, limit: 500 });
    loop {
        let found = app.store.tenants(&page).await?;
        for tenant in found.items {
            values += apply(app, &tenant.name, None, false).await?.values;
        }
        match found.next {
            Some(next) => page.after = Some(next),
            None => return Ok(values),
        }
    }
}

/// Erases what is too old, step by step, or says what would go.
pub(crate) async fn apply(
    app: &App,
    tenant: &TenantName,
    by: Option<Answerable>,
    dry_run: bool,
) -> Result<Retention, Failure> {
    let _one = app.erasures.lock().await;
    let (days, agents) = kept_days(app, tenant).await?;
    let at = app.clock.now();
    let mut answer =
        Retention { tenant: tenant.clone(), dry_run, redactions: Vec::new(), at, values: 0, runs: Vec::new(), held: 0 };
    let (mut counts, mut skip): (BTreeMap<RunId, u64>, usize) = (BTreeMap::new(), 0);
    let holds = Holds::of(app, tenant).await?;
    loop {
        let (mut erasure, more) = match app.evidence.prepare_expired(tenant, days.clone(), skip).await {
            Err(EraseError::Nothing) => break,
            other => other.map_err(CarryOutError::from)?,
        };
        let (keys, values) = (erasure.plan.keys(), erasure.values.len());
        let mut keep: BTreeSet<(u64, String)> = BTreeSet::new();
        for value in &erasure.values {
            if holds.keeping(app, tenant, value).await?.is_some() {
                keep.insert((value.seq, value.field.clone()));
            }
        }
        erasure.without(|value| keep.contains(&(value.seq, value.field.clone())));
        answer.held += (values - erasure.values.len()) as u64;
        answer.values += erasure.values.len() as u64;
        for run in erasure.values.iter().filter_map(|value| value.run) {
            *counts.entry(run).or_default() += 1;
        }
        // What stays would be the first of the next step again.
        skip += if dry_run { keys } else { keys - erasure.plan.keys() };
        if !dry_run && erasure.plan.keys() > 0 {
            let row = begin(app, tenant, by.clone(), &erasure).await?;
            carry_out(&app.store, &app.evidence, &row, &erasure).await?;
            let detail = serde_json::json!({ "redaction": row.id, "values": erasure.values.len() });
            app.journal.publish(JournalEvent::tenant("retention.executed", tenant.clone()).detail(detail));
            answer.redactions.push(row.id);
        }
        if !more {
            break;
        }
    }
    let runs = counts.iter().take(RUNS_MAX).filter_map(|(run, values)| {
        let (agent, retention_days) = (agents.get(run)?.clone(), *days.get(run)?);
        Some(Retained { agent, retention_days, run: *run, values: *values })
    });
    answer.runs = runs.collect();
    Ok(answer)
}

/// Writes down which keys go, before they do.
async fn begin(
    plane: &Plane,
    tenant: &TenantName,
    by: Option<Answerable>,
    erasure: &Erasure,
) -> Result<RedactionRow, Failure> {
    let mut tx = plane.store.begin().await?;
    let by = by.unwrap_or_else(|| the_plane(&tx));
    let ground = RETENTION.parse().map_err(|e| Failure::internal("the ground cannot be named", &e))?;
    let plan = serde_json::to_string(&erasure.plan);
    let plan = plan.map_err(|e| Failure::internal("the plan cannot be written", &e))?;
    let row = RedactionRow {
        id: Id::new(&*plane.clock, &*plane.entropy),
        tenant: tenant.clone(),
        kind: RETENTION.to_owned(),
        scope: None,
        ground,
        reason: by.reason.clone(),
        state: RedactionState::Approved,
        found: erasure.values.len() as u64,
        requested: by.at,
        requested_by: by.name.clone(),
        requested_by_id: by.id,
        answered: None,
        executed: Some(by),
        plan: Some(plan),
    };
    tx.redaction_insert(&row).await?;
    if let (Some(plan), Some(by)) = (&row.plan, &row.executed) {
        tx.redaction_begin(row.id, plan, by).await?;
    }
    // What goes is recorded when it is gone; until then this row is what a plane that was killed goes on with.
    drop(tx.commit(Vec::new()).await?);
    Ok(row)
}

/// How many days the values of each run are kept that may have some which are too old, and whose run it is.
async fn kept_days(
    app: &App,
    tenant: &TenantName,
) -> Result<(BTreeMap<RunId, u32>, HashMap<RunId, AgentName>), Failure> {
    let kept = kept(app, tenant).await?;
    let (mut days, mut agents) = (BTreeMap::new(), HashMap::new());
    let Some(shortest) = kept.values().min().copied() else { return Ok((days, agents)) };
    for run in app.evidence.runs_with_values(tenant, shortest).await? {
        // A run that the state does not know has no manifest that says how long: it is kept.
        let Some(row) = app.store.run(run).await? else { continue };
        if let Some(kept) = kept.get(&(row.agent.clone(), row.version.clone())).filter(|_| row.tenant == *tenant) {
            days.insert(run, *kept);
            agents.insert(run, row.agent);
        }
    }
    Ok((days, agents))
}

async fn kept(plane: &Plane, tenant: &TenantName) -> Result<Kept, Failure> {
    let (mut kept, mut page) = (Kept::new(), PageRequest { after: None, limit: 500 });
    loop {
        let found = plane.store.versions_of_all(Some(tenant), &page).await?;
        for row in found.items {
            let manifest: Manifest = serde_json::from_str(&row.manifest_json)
                .map_err(|e| Failure::internal("a stored manifest cannot be read", &e))?;
            kept.insert((row.agent, row.label), manifest.spec.evidence.retention_days);
        }
        match found.next {
            Some(next) => page.after = Some(next),
            None => return Ok(kept),
        }
    }
}
