//! Policies: written, approved, activated. An invalid text never becomes a version, and nothing that decides is
//! changed by one that could not be undone.

use std::sync::Arc;

use axum::{Json as Answer, extract::State, response::IntoResponse};
use cogward_api::{
    AppliedPolicy, Finding, GatewayPolicies, Page, PageQuery, PolicyActivate, PolicyCheck, PolicyChecked, PolicyLevel,
    PolicyState, PolicyStatus, PolicyVersion, PolicyWrite, ProblemCode, types::policies::POLICY_BYTES_MAX,
};
use cogward_identity::Operator;
use cogward_journal::{JournalEvent, Severity};
use cogward_model::{Digest, PolicyScope, TenantName, event::EventType};
use cogward_policy::{Findings, Severity as Weight, Version};
use cogward_store::{Answerable, NewPolicyVersion, PolicyPointerRow, PolicyVersionRow, Tx};
use http::{HeaderMap, StatusCode};

use super::{
    approvals::answered,
    etag, on_the_wire, page_of, policy_change, precondition,
    runs::{MaybeReason, given_reason},
};
use crate::{
    catalogue,
    events::by_operator,
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
    policies::{self, Command},
};

/// Longest name of a file in findings.
const FILE_BYTES_MAX: usize = 256;

pub(crate) fn version_view(row: PolicyVersionRow, active: Option<Digest>, with_text: bool) -> PolicyVersion {
    let state = match (active == Some(row.digest), row.first_active.is_some(), row.approved.is_some()) {
        (true, ..) => PolicyState::Active,
        (_, true, _) => PolicyState::Superseded,
        (.., true) => PolicyState::Approved,
        _ => PolicyState::Draft,
    };
    PolicyVersion {
        level: row.scope,
        digest: row.digest,
        number: row.number,
        state,
        written: answered(row.written),
        approved: row.approved.map(answered),
        first_active: row.first_active,
        text: with_text.then_some(row.text),
        warnings: Vec::new(),
    }
}

fn level_view(level: PolicyScope, pointer: Option<PolicyPointerRow>, versions: u64) -> PolicyLevel {
    let revision = pointer.as_ref().map_or(0, |pointer| pointer.revision);
    let active = pointer.as_ref().and_then(|pointer| pointer.digest);
    let (updated, by, reason) = match pointer {
        Some(pointer) => (Some(pointer.updated), Some(pointer.updated_by), Some(pointer.reason)),
        None => (None, None, None),
    };
    PolicyLevel { level, active, revision, versions, updated, updated_by: by, reason }
}

/// Refuses a level of a tenant that is not there. An agent may have a policy before it is registered.
pub(super) async fn known_level(plane: &Plane, level: &PolicyScope) -> Result<(), Failure> {
    match level.tenant() {
        Some(tenant) => super::known_tenant(plane, tenant).await,
        None => Ok(()),
    }
}

pub(super) async fn found(plane: &Plane, level: &PolicyScope, version: Digest) -> Result<PolicyVersionRow, Failure> {
    plane.store.policy_version(level, version).await?.ok_or_else(|| Failure::missing("version of this level", version))
}

pub(crate) async fn list(
    State(app): State<App>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<PolicyLevel>>, Failure> {
    let page = app.store.policy_levels(&page_of(&query)).await?;
    Ok(Answer(on_the_wire(page, |(level, pointer, versions)| level_view(level, pointer, versions))))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params(level): Params<PolicyScope>,
) -> Result<impl IntoResponse, Failure> {
    known_level(&app, &level).await?;
    let view = read_level(&app, level).await?;
    Ok(([etag(view.revision)], Answer(view)))
}

async fn read_level(plane: &Plane, level: PolicyScope) -> Result<PolicyLevel, Failure> {
    let pointer = plane.store.policy_pointer(&level).await?;
    let newest = plane.store.policy_versions(&level, &cogward_store::PageRequest { after: None, limit: 1 }).await?;
    let versions = newest.items.first().map_or(0, |row| row.number);
    Ok(level_view(level, pointer, versions))
}

pub(crate) async fn versions(
    State(app): State<App>,
    Params(level): Params<PolicyScope>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<PolicyVersion>>, Failure> {
    known_level(&app, &level).await?;
    let active = app.store.policy_pointer(&level).await?.and_then(|pointer| pointer.digest);
    let page = app.store.policy_versions(&level, &page_of(&query)).await?;
    Ok(Answer(on_the_wire(page, |row| version_view(row, active, false))))
}

pub(crate) async fn version(
    State(app): State<App>,
    Params((level, version)): Params<(PolicyScope, Digest)>,
) -> Result<Answer<PolicyVersion>, Failure> {
    Ok(Answer(read_version(&app, &level, version).await?))
}

async fn read_version(plane: &Plane, level: &PolicyScope, version: Digest) -> Result<PolicyVersion, Failure> {
    let row = found(plane, level, version).await?;
    let active = plane.store.policy_pointer(level).await?.and_then(|pointer| pointer.digest);
    Ok(version_view(row, active, true))
}

/// Findings of the policy crate on the wire.
fn on_wire(file: &str, findings: impl IntoIterator<Item = cogward_policy::Finding>) -> Vec<Finding> {
    let place = |number: u32| (number > 0).then_some(number);
    let each = |finding: cogward_policy::Finding| Finding {
        file: file.to_owned(),
        line: place(finding.line),
        column: place(finding.column),
        path: finding.rule,
        rule: if finding.severity == Weight::Error { "policy.text" } else { "policy.warning" }.to_owned(),
        message: finding.what,
        fix: finding.next_step,
    };
    findings.into_iter().map(each).collect()
}

pub(super) fn invalid(file: &str, Findings(findings): Findings) -> Failure {
    let findings = on_wire(file, findings);
    let many = if findings.len() == 1 { "1 fault".to_owned() } else { format!("{} faults", findings.len()) };
    Failure::new(ProblemCode::PolicyInvalid, format!("the text has {many}; nothing was stored"))
        .rule("policy.text")
        .findings(findings)
        .next_step("correct the text; docs/policy.md has the language")
}

/// Checks a text against what policies of a level can name now.
async fn checked(
    plane: &Plane,
    level: &PolicyScope,
    text: String,
    file: &str,
) -> Result<(Version, Vec<Finding>), Failure> {
    if text.len() > POLICY_BYTES_MAX {
        let told = format!("the text has more than {POLICY_BYTES_MAX} bytes");
        return Err(Failure::new(ProblemCode::PayloadTooLarge, told));
    }
    let (schema, silent) = catalogue::schema(plane, level).await?;
    let of = level.clone();
    let task = tokio::task::spawn_blocking(move || Version::check(of, &text, &schema));
    let version = task.await.map_err(|error| Failure::internal("the text could not be read", &error))?;
    let silent = on_wire(file, silent);
    let version = version.map_err(|Findings(mut findings)| {
        findings.truncate(cogward_policy::finding::FINDINGS_MAX);
        let mut failure = invalid(file, Findings(findings));
        failure.more_findings(silent.clone());
        failure
    })?;
    let mut warnings = on_wire(file, version.warnings().iter().cloned());
    warnings.extend(silent);
    Ok((version, warnings))
}

fn file_name(file: Option<String>) -> Result<String, Failure> {
    let file = file.unwrap_or_else(|| "policy.cedar".to_owned());
    if file.is_empty() || file.len() > FILE_BYTES_MAX || file.chars().any(char::is_control) {
        return Err(Failure::invalid(format!("`file` has 1 to {FILE_BYTES_MAX} bytes and no control characters")));
    }
    Ok(file)
}

pub(crate) async fn check(
    State(app): State<App>,
    Params(level): Params<PolicyScope>,
    body: Json<PolicyCheck>,
) -> Result<Answer<PolicyChecked>, Failure> {
    known_level(&app, &level).await?;
    let file = file_name(body.value.file)?;
    let (version, warnings) = checked(&app, &level, body.value.text, &file).await?;
    Ok(Answer(PolicyChecked { level, digest: version.digest(), rules: version.rules().len() as u64, warnings }))
}

/// Whose log a change is in. What concerns the whole plane is in the log of the tenant that every plane has.
fn log_of(level: &PolicyScope) -> TenantName {
    level.tenant().cloned().unwrap_or_else(TenantName::default_tenant)
}

fn journal_event(kind: &'static str, level: &PolicyScope, detail: serde_json::Value) -> JournalEvent {
    let event = match level.tenant() {
        Some(tenant) => JournalEvent::tenant(kind, tenant.clone()),
        None => JournalEvent::plane(kind),
    };
    event.detail(detail)
}

fn answerable(tx: &Tx, operator: &Operator, reason: &str) -> Answerable {
    Answerable { name: operator.name.clone(), id: operator.id, at: tx.now(), reason: reason.to_owned() }
}

pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Params(level): Params<PolicyScope>,
    body: Json<PolicyWrite>,
) -> Result<impl IntoResponse, Failure> {
    let PolicyWrite { text, file, reason } = body.value;
    let reason = given_reason(reason)?;
    known_level(&app, &level).await?;
    let (version, warnings) = checked(&app, &level, text.clone(), &file_name(file)?).await?;
    let digest = version.digest();
    let mut tx = app.store.begin().await?;
    if tx.policy_version(&level, digest).await?.is_some() {
        // The same text is the same version, whoever sends it again.
        drop(tx);
        let view = PolicyVersion { text: None, warnings, ..read_version(&app, &level, digest).await? };
        return Ok((StatusCode::OK, Answer(view)));
    }
    let written = answerable(&tx, &caller.0, &reason);
    let number = tx.policy_version_insert(&NewPolicyVersion { scope: level.clone(), digest, text, written }).await?;
    let event = by_operator(EventType::PolicyVersionAdded, log_of(&level), &caller.0, Some(&reason))
        .public("level", level.to_string())
        .public("policy_digest", digest.to_string())
        .public("number", number)
        .public("rules", version.rules().len() as u64);
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    let detail = serde_json::json!({ "level": level, "digest": digest, "number": number });
    app.journal.publish(journal_event("policy.version_added", &level, detail));
    let view = PolicyVersion { text: None, warnings, ..read_version(&app, &level, digest).await? };
    Ok((StatusCode::CREATED, Answer(view)))
}

pub(crate) async fn approve(
    State(app): State<App>,
    caller: Caller,
    Params((level, digest)): Params<(PolicyScope, Digest)>,
    body: Json<MaybeReason>,
) -> Result<Answer<PolicyVersion>, Failure> {
    let reason = given_reason(body.value.reason)?;
    let mut tx = app.store.begin().await?;
    let row = tx.policy_version(&level, digest).await?;
    let row = row.ok_or_else(|| Failure::missing("version of this level", digest))?;
    if app.four_eyes && row.written.id == caller.0.id {
        let others = tx.operators_writing().await?.saturating_sub(1);
        let next = match others {
            0 => "there is no other operator: add one with `cogward operator add`".to_owned(),
            _ => format!("have one of the {others} other operators approve it"),
        };
        let why = format!("`{}` wrote it, and this plane wants another operator to approve it", caller.0.name);
        return Err(Failure::new(ProblemCode::PolicyFourEyes, why).rule("policy.four_eyes").next_step(next));
    }
    let by = answerable(&tx, &caller.0, &reason);
    if !tx.policy_version_approve(&level, digest, &by).await? {
        // Somebody was faster; a version is approved once.
        drop(tx);
        return Ok(Answer(read_version(&app, &level, digest).await?));
    }
    let event = by_operator(EventType::PolicyApproved, log_of(&level), &caller.0, Some(&reason))
        .public("level", level.to_string())
        .public("policy_digest", digest.to_string())
        .public("own", row.written.id == caller.0.id);
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    let detail = serde_json::json!({ "level": level, "digest": digest });
    app.journal.publish(journal_event("policy.approved", &level, detail));
    Ok(Answer(read_version(&app, &level, digest).await?))
}

pub(crate) async fn activate(
    State(app): State<App>,
    caller: Caller,
    Params(level): Params<PolicyScope>,
    headers: HeaderMap,
    body: Json<PolicyActivate>,
) -> Result<impl IntoResponse, Failure> {
    let reason = given_reason(body.value.reason)?;
    known_level(&app, &level).await?;
    // A task of its own: whoever goes away in the middle must not leave the gateway with other rules than the store.
    let PolicyActivate { version, if_grants_nothing: narrow, .. } = body.value;
    let change = Change { level, version, narrow, reason, operator: caller.0, headers };
    let task = tokio::spawn(change.make(app));
    let level = task.await.map_err(|error| Failure::internal("the activation was broken off", &error))??;
    Ok(([etag(level.revision)], Answer(level)))
}

struct Change {
    level: PolicyScope,
    version: Option<Digest>,
    /// Only if it grants nothing.
    narrow: bool,
    reason: String,
    operator: Operator,
    headers: HeaderMap,
}

impl Change {
    async fn make(self, app: App) -> Result<PolicyLevel, Failure> {
        let compiled = match self.version {
            Some(digest) => Some(Arc::new(usable(&app, &self.level, digest).await?)),
            None => None,
        };
        let (_one, analysis) = policy_change::compared(&app, &self.level, compiled.as_ref(), self.narrow).await?;
        let Self { level, version, narrow: _, reason, operator, headers } = self;
        let next = app.policies.active().with(&level, compiled);
        let next = next.map_err(|findings| Failure::internal("the policies cannot be read", &findings))?;
        let way_back = Command { name: "policy.activate", tenant: level.tenant().cloned(), agent: None };
        if let Err(blocked) = next.decide(&operator, &way_back, app.clock.now()) {
            let why = format!("with it, `{}` could not activate another version: {}", operator.name, blocked.detail);
            return Err(Failure::new(ProblemCode::PolicyLocksOut, why).rule(blocked.rule).next_step(
                "add a rule that permits `operator_command` to whoever may activate policies, and write it again",
            ));
        }
        let closed = next.closed(&operator, &way_back, app.clock.now());
        if closed.for_ever {
            let why = format!(
                "with it, there would come a time from which `{}` could activate no other version",
                operator.name
            );
            return Err(Failure::new(ProblemCode::PolicyLocksOut, why)
                .rule("policy.time")
                .next_step("permit `operator_command` to whoever may activate policies at some hour of every week"));
        }
        if closed.hours > 0 {
            tracing::warn!(%level, hours = closed.hours, "no other version can be activated at some hours of the week");
        }
        let mut tx = app.store.begin().await?;
        let before = tx.policy_pointer(&level).await?;
        if app.four_eyes && version.is_none() && before.as_ref().is_some_and(|pointer| pointer.digest.is_some()) {
            let why = "this plane wants two operators for what decides, and without a version nobody else was asked";
            return Err(Failure::new(ProblemCode::PolicyFourEyes, why).rule("policy.four_eyes").next_step(
                "write a version that permits what is wanted, have another operator approve it, and activate that",
            ));
        }
        // A level that nothing was activated at is its revision 0.
        precondition(&headers, Some(before.as_ref().map_or(0, |pointer| pointer.revision)))?;
        let by = answerable(&tx, &operator, &reason);
        let pointer = tx.policy_point(&level, version, &by).await?;
        let kind = if version.is_some() { EventType::PolicyActivated } else { EventType::PolicyDeactivated };
        let was = before.and_then(|pointer| pointer.digest);
        let event = by_operator(kind, log_of(&level), &operator, Some(&reason))
            .public("level", level.to_string())
            .public("policy_digest", version.map(|digest| digest.to_string()))
            .public("before", was.map(|digest| digest.to_string()))
            .public("grants", analysis.grants.as_str())
            .public("analysis", analysis.method.as_str())
            .public("revision", pointer.revision);
        let committed = tx.commit(vec![event]).await?;
        // What was committed is applied, whether or not its record could be flushed: without evidence agents are
        // stopped, and what decides after that must be what the store says.
        let published = app.publish(committed).await;
        if let Err(error) = app.policies.swap(next, &app.gateway, app.clock.now()) {
            tracing::error!(%level, %error, "what was activated cannot be applied; nothing is permitted");
            app.gateway.policies().active().clear();
            return Err(Failure::internal("what was activated cannot be applied", &error));
        }
        published?;
        let word = if version.is_some() { "policy.activated" } else { "policy.deactivated" };
        let mut detail = serde_json::json!({ "level": level, "digest": version, "before": was });
        if closed.hours > 0 {
            detail["closed_hours"] = closed.hours.into();
        }
        app.journal.publish(journal_event(word, &level, detail).severity(Severity::Warning));
        let looked = app.clone();
        tokio::spawn(async move {
            let held = looked.engine.attest_all().await;
            tracing::info!(held, "sandboxes were examined after a change of policy");
        });
        read_level(&app, level).await
    }
}

/// A version that may be activated, as it is applied.
async fn usable(plane: &Plane, level: &PolicyScope, digest: Digest) -> Result<Version, Failure> {
    let row = found(plane, level, digest).await?;
    if row.approved.is_none() {
        let why = format!("version {} of {level} is not approved", row.number);
        return Err(Failure::new(ProblemCode::PolicyNotApproved, why)
            .rule("policy.approved")
            .next_step(format!("`cogward policy approve --level {level} {digest} --reason ...`")));
    }
    let loaded = policies::load(level.clone(), row.text).await;
    let loaded = loaded.map_err(|error| Failure::internal("the version could not be read", &error))?;
    let version = loaded.map_err(|findings| invalid("policy.cedar", findings))?;
    if version.digest() != digest {
        return Err(Failure::new(ProblemCode::PolicyInvalid, "its text is not the one that was written")
            .rule("policy.digest")
            .next_step("restore the state of the plane from a backup, or write the version again"));
    }
    Ok(version)
}

pub(crate) async fn status(State(app): State<App>) -> Result<Answer<PolicyStatus>, Failure> {
    let stored = app.store.policies_active().await?;
    let (applied, active) = (app.gateway.policies().active().status(), app.policies.active());
    let built_in = |level: &PolicyScope, digest: &Digest| {
        *level == PolicyScope::Plane && !stored.iter().any(|row| row.scope == *level && row.digest == *digest)
    };
    let mut levels = Vec::new();
    let (mut generation, mut since) = (0, None);
    if let Some(applied) = applied {
        (generation, since) = (applied.generation, applied.since);
        for (level, digest) in applied.versions {
            if applied.unusable.contains_key(&level) {
                continue;
            }
            let built_in = built_in(&level, &digest);
            levels.push(AppliedPolicy { level, digest, built_in, unusable: None });
        }
    }
    for (level, (digest, why)) in &active.unusable {
        let (level, unusable) = (level.clone(), Some(why.clone()));
        levels.push(AppliedPolicy { level, digest: *digest, built_in: false, unusable });
    }
    levels.sort_by(|one, other| one.level.cmp(&other.level));
    let own = levels.iter().filter(|applied| !applied.built_in).count();
    let same = |row: &PolicyVersionRow| levels.iter().any(|a| a.level == row.scope && a.digest == row.digest);
    let current = own == stored.len() && stored.iter().all(same);
    let mut tx = app.store.begin().await?;
    let operators = tx.operators_writing().await?;
    drop(tx);
    let gateway = GatewayPolicies { gateway: "local".to_owned(), generation, since, current, levels };
    let solver = app.solver.as_ref().map(|solver| solver.version().to_owned());
    Ok(Answer(PolicyStatus { four_eyes: app.four_eyes, operators, solver, gateways: vec![gateway] }))
}
