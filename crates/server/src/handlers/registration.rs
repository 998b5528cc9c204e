//! Registering a version: received as hostile, checked as a whole, kept under its digest, recorded.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use cogward_api::{Finding, ProblemCode, RegisterQuery, Registration};
use cogward_identity::Operator;
use cogward_journal::{JournalEvent, Severity};
use cogward_model::{
    Digest, TenantName, UpstreamName,
    event::{Attribution, EventType, Value},
    manifest::Tier,
    pin::PinState,
    pin_name::{OtherKind, PinName},
};
use cogward_registry::{
    Findings,
    manifest::{self, Parsed, canonical_json, sha256},
    package::{self, Limits, ReceiveError, Staged},
    rules::{self, Known},
};
use cogward_store::{AgentRow, PageRequest, VersionRow};

use super::upload::upload;
use crate::{
    events::by_operator,
    failure::Failure,
    plane::{App, Plane},
};

/// The rule of a profile below its floor.
const TOO_WEAK: &str = "profile_too_weak";
/// The rule of a sandbox that the host cannot enforce.
const UNENFORCEABLE: &str = "profile_unenforceable";
/// The rule of a tool whose definition nobody has approved.
const NOT_APPROVED: &str = "tool_not_approved";

pub(crate) async fn register(
    app: &App,
    operator: &Operator,
    tenant: TenantName,
    query: RegisterQuery,
    body: Body,
) -> Result<Registration, Failure> {
    let staged = receive(app, body).await?;
    let mut warnings = Findings::default();
    let (parsed, findings) = match manifest::parse(staged.manifest_name(), staged.manifest()) {
        Ok(parsed) => {
            let mut findings = package::check(&parsed, staged.contents());
            if parsed.manifest.metadata.tenant == tenant {
                let known = known(app, &parsed).await?;
                findings.append(rules::check(&parsed, &known));
                findings.append(sandbox_findings(app, &parsed).await?);
                let unapproved = unapproved_tools(app, &parsed, &known).await?;
                if parsed.manifest.spec.tier == Tier::Development {
                    warnings = unapproved;
                } else {
                    findings.append(unapproved);
                }
            } else {
                let problem = format!("the manifest is of another tenant than `{tenant}`, to which it was sent");
                let fix = format!("register it with `--tenant {}`, or correct it", parsed.manifest.metadata.tenant);
                findings.push(parsed.places.finding("metadata.tenant", "tenant-mismatch", problem, fix));
            }
            (Some(parsed), findings)
        }
        Err(findings) => (None, findings),
    };
    let Some(parsed) = parsed.filter(|_| findings.is_empty()) else {
        return Err(refuse(app, operator, tenant, &query, findings).await);
    };
    let manifest_json =
        canonical_json(&parsed.manifest).map_err(|e| Failure::internal("the manifest cannot be kept", &e))?;
    let package = staged.summary().digest;
    let digest = package::version_digest(&manifest_json, package);
    let metadata = &parsed.manifest.metadata;
    let answer = Registration {
        tenant: tenant.clone(),
        agent: metadata.name.clone(),
        version: metadata.version.clone(),
        digest,
        created: true,
        warnings: warnings.findings.into_iter().map(on_the_wire).collect(),
    };
    if let Some(earlier) = app.store.version(&tenant, &metadata.name, &metadata.version).await? {
        return same_or_taken(&earlier, answer);
    }
    if query.dry_run {
        return Ok(answer);
    }
    let skills = package::skills(&parsed.manifest, staged.contents());
    let skills = skills.map_err(|e| Failure::internal("the skills cannot be recorded", &e))?;
    // Kept before it is recorded: a version in the store always has its files.
    let kept = tokio::task::spawn_blocking(move || staged.keep()).await;
    kept.map_err(|e| Failure::internal("the package cannot be kept", &e))?
        .map_err(|e| Failure::internal("the package cannot be kept", &e))?;
    let identity = Identity { manifest_json, package, digest, skills };
    match insert(app, operator, &parsed, identity, query.reason.as_deref()).await {
        Ok(()) => {}
        // Somebody else registered the label meanwhile; it may be the very same.
        Err(failure) if failure.code() == ProblemCode::AlreadyExists => {
            let earlier = app.store.version(&tenant, &answer.agent, &answer.version).await?;
            return earlier.map_or(Err(failure), |earlier| same_or_taken(&earlier, answer));
        }
        Err(failure) => return Err(failure),
    }
    app.journal.publish(
        JournalEvent::tenant("agent.registered", tenant)
            .detail(serde_json::json!({ "agent": answer.agent, "version": answer.version, "digest": digest })),
    );
    Ok(answer)
}

fn same_or_taken(earlier: &VersionRow, answer: Registration) -> Result<Registration, Failure> {
    if earlier.version_digest == answer.digest {
        return Ok(Registration { created: false, ..answer });
    }
    Err(Failure::new(
        ProblemCode::AlreadyExists,
        format!("the version `{}` of `{}` is registered with other content", answer.version, answer.agent),
    )
    .rule("metadata.version")
    .next_step("give it a new `metadata.version`: a label is used once"))
}

async fn receive(app: &App, body: Body) -> Result<Staged, Failure> {
    let (stream, packages) = (upload(body), app.data.join("packages"));
    let received = tokio::task::spawn_blocking(move || package::receive(stream, &packages, Limits::default())).await;
    let received = received.map_err(|e| Failure::internal("the package cannot be received", &e))?;
    received.map_err(|error| match error {
        ReceiveError::Store(_) => Failure::internal("the package cannot be received", &error),
        error => Failure::new(ProblemCode::PackageInvalid, error.to_string())
            .rule("package.stream")
            .next_step("pack it with `cogward agent register`"),
    })
}

/// What a version is, by its content.
struct Identity {
    manifest_json: String,
    package: Digest,
    digest: Digest,
    skills: Vec<(String, Digest)>,
}

async fn insert(
    app: &Plane,
    operator: &Operator,
    parsed: &Parsed,
    Identity { manifest_json, package, digest, skills }: Identity,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let manifest = &parsed.manifest;
    let metadata = &manifest.metadata;
    let manifest_digest = sha256(manifest_json.as_bytes());
    let mut tx = app.store.begin().await?;
    let created = tx.now();
    tx.agent_put(&AgentRow {
        tenant: metadata.tenant.clone(),
        name: metadata.name.clone(),
        owner: metadata.owner.clone(),
        sponsor: metadata.sponsor.clone(),
        cost_centre: metadata.cost_centre.clone(),
        created,
        created_by: operator.name.clone(),
    })
    .await?;
    tx.version_insert(&VersionRow {
        tenant: metadata.tenant.clone(),
        agent: metadata.name.clone(),
        label: metadata.version.clone(),
        manifest_json,
        manifest_digest,
        package_digest: package,
        version_digest: digest,
        tier: manifest.spec.tier.as_str().to_owned(),
        created,
        created_by: operator.name.clone(),
    })
    .await?;
    let mut event = by_operator(EventType::AgentRegistered, metadata.tenant.clone(), operator, reason)
        .public("policy", digest.to_string())
        .public("manifest", manifest_digest.to_string())
        .public("package", package.to_string())
        .public("skills", skills.iter().map(skill).collect::<Vec<_>>())
        .public("autonomy", manifest.spec.autonomy.as_str())
        .public("tier", manifest.spec.tier.as_str())
        .personal("sponsor", metadata.sponsor.as_str())
        .personal("owner", metadata.owner.as_str());
    event.by = Attribution {
        agent: Some((metadata.name.clone(), metadata.version.clone())),
        subject: Some(operator.name.clone()),
    };
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await
}

fn skill((name, digest): &(String, Digest)) -> Value {
    let digest = digest.to_string().into();
    Value::Map(BTreeMap::from([("name".to_owned(), name.as_str().into()), ("digest".to_owned(), digest)]))
}

/// What the manifest can name, asked of the plane and of the tool servers that it names.
async fn known(app: &Plane, parsed: &Parsed) -> Result<Known, Failure> {
    let manifest = &parsed.manifest;
    let tenant = &manifest.metadata.tenant;
    let mut known = Known { tenants: BTreeSet::from([tenant.clone()]), ..Known::default() };
    let named: BTreeSet<&UpstreamName> = manifest.spec.permissions.tools.iter().map(|grant| &grant.server).collect();
    let mut page = PageRequest { after: None, limit: 500 };
    loop {
        let found = app.store.tool_servers(tenant, &page).await?;
        for row in found.items {
            let name = row.config.name;
            // Only the ones that are named are asked: a registration does not start everything.
            let tools = if named.contains(&name) { offered(app, tenant, &name).await } else { None };
            known.tool_servers.insert(name, tools);
        }
        match found.next {
            Some(next) => page.after = Some(next),
            None => break,
        }
    }
    let mut page = PageRequest { after: None, limit: 500 };
    let mut providers: BTreeMap<UpstreamName, BTreeSet<String>> = BTreeMap::new();
    loop {
        let found = app.store.providers(tenant, &page).await?;
        providers.extend(found.items.into_iter().map(|row| (row.config.name, row.config.prices.into_keys().collect())));
        match found.next {
            Some(next) => page.after = Some(next),
            None => break,
        }
    }
    known.providers = providers;
    let mut page = PageRequest { after: None, limit: 500 };
    loop {
        let found = app.store.credentials(tenant, &page).await?;
        let stored = found.items.into_iter().map(|row| (row.config.name, (row.config.host, row.config.port)));
        known.credentials.extend(stored);
        match found.next {
            Some(next) => page.after = Some(next),
            None => break,
        }
    }
    Ok(known)
}

/// The sandbox that the manifest asks for, held against the floors and against what the host can enforce: the same
/// checks as at every start, by the same code.
async fn sandbox_findings(app: &Plane, parsed: &Parsed) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    let (manifest, places) = (&parsed.manifest, &parsed.places);
    let (tier, sandbox) = (manifest.spec.tier, &manifest.spec.sandbox);
    let floors = app.store.floors(Some(&manifest.metadata.tenant)).await?;
    let (floor, _) = floors.effective(tier);
    if !floor.admits(sandbox.profile) {
        let (own, least) = (sandbox.profile.as_str(), floor.profile.as_str());
        let problem = format!(
            "the profile `{own}` is weaker than `{least}`, the weakest that is accepted for tier {}: {}",
            tier.as_str(),
            floors.told(tier)
        );
        let fix = format!("write `profile: {least}`, or have an operator lower it with `cogward floor set`");
        findings.push(places.finding("spec.sandbox.profile", TOO_WEAK, problem, fix));
    }
    for missing in app.engine.missing(sandbox) {
        let problem = format!("this host cannot enforce it: {}: {}", missing.what, missing.why);
        findings.push(places.finding("spec.sandbox.profile", UNENFORCEABLE, problem, missing.fix));
    }
    Ok(findings)
}

/// The code of a refused registration: what only the sandbox's demands refuse has a word of its own.
fn code_of(findings: &Findings) -> ProblemCode {
    let all = |rules: &[&str]| findings.findings.iter().all(|f| rules.contains(&&*f.rule));
    match () {
        () if all(&[UNENFORCEABLE]) => ProblemCode::ProfileUnenforceable,
        () if all(&[NOT_APPROVED]) => ProblemCode::ToolNotApproved,
        () if all(&[UNENFORCEABLE, TOO_WEAK]) => ProblemCode::ProfileTooWeak,
        () => ProblemCode::ManifestInvalid,
    }
}

/// What is granted by its name and whose definition nobody has approved.
async fn unapproved_tools(app: &Plane, parsed: &Parsed, known: &Known) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    let tenant = &parsed.manifest.metadata.tenant;
    for (n, grant) in parsed.manifest.spec.permissions.tools.iter().enumerate() {
        let server = &grant.server;
        // What is not offered at all is a fault already.
        let Some(Some(offered)) = known.tool_servers.get(server) else { continue };
        let mut granted = Vec::new();
        for (m, tool) in grant.allow.iter().enumerate().filter(|(_, tool)| offered.contains(tool)) {
            granted.push((format!("allow[{m}]"), PinName::Tool(tool.clone())));
        }
        // A pattern grants whatever of it is approved; a whole name means one thing.
        for (member, patterns, kind) in
            [("resources", &grant.resources, OtherKind::Resource), ("prompts", &grant.prompts, OtherKind::Prompt)]
        {
            let whole = patterns.iter().enumerate().filter(|(_, pattern)| !pattern.as_str().contains('*'));
            let named = whole.filter_map(|(m, pattern)| Some((m, PinName::other(kind, pattern.as_str()).ok()?)));
            granted.extend(named.map(|(m, name)| (format!("{member}[{m}]"), name)));
        }
        for (place, name) in granted {
            let row = app.store.tool_pin(tenant, server, &name).await?;
            // A resource that is not listed may come of a template.
            let unknown = if name.tool().is_some() { PinState::Quarantined } else { PinState::Approved };
            let state = row.map_or(unknown, |row| row.pin.state);
            if state != PinState::Approved {
                let problem = format!(
                    "the definition of `{server}/{name}` is not approved ({}): calls are refused",
                    state.as_str()
                );
                let quoted = if name.tool().is_some() { name.to_string() } else { format!("'{name}'") };
                let fix = format!(
                    "look at it with `cogward tool diff {server} {quoted}`, then `cogward tool approve {server} {quoted}`"
                );
                let path = format!("spec.permissions.tools[{n}].{place}");
                findings.push(parsed.places.finding(&path, NOT_APPROVED, problem, fix));
            }
        }
    }
    Ok(findings)
}

async fn offered(app: &Plane, tenant: &TenantName, name: &UpstreamName) -> Option<BTreeSet<cogward_model::ToolName>> {
    match app.gateway.pinned(tenant, name).await {
        Ok(pins) => {
            let held = pins.all_held().filter(|(_, held)| held.offered).map(|(tool, _)| tool.clone());
            Some(pins.served().iter().map(|tool| tool.name.clone()).chain(held).collect())
        }
        Err(error) => {
            tracing::info!(%tenant, server = %name, %error, "a tool server does not say what it offers");
            None
        }
    }
}

fn on_the_wire(finding: cogward_registry::Finding) -> Finding {
    let position = |number: u32| (number > 0).then_some(number);
    Finding {
        file: finding.file,
        line: position(finding.line),
        column: position(finding.column),
        path: (!finding.path.is_empty()).then_some(finding.path),
        rule: finding.rule.into_owned(),
        message: finding.problem,
        fix: finding.fix,
    }
}

async fn refuse(
    app: &Plane,
    operator: &Operator,
    tenant: TenantName,
    query: &RegisterQuery,
    findings: Findings,
) -> Failure {
    let (count, code) = (findings.len(), code_of(&findings));
    let mut rules: Vec<String> = findings.findings.iter().map(|f| f.rule.to_string()).collect();
    rules.sort();
    rules.dedup();
    if !query.dry_run {
        let event = by_operator(EventType::AgentRefused, tenant.clone(), operator, query.reason.as_deref())
            .public("findings", count as u64)
            .public("rules", rules.clone());
        if let Err(failure) = app.record(event).await {
            return failure;
        }
        app.journal.publish(
            JournalEvent::tenant("agent.registration_refused", tenant)
                .severity(Severity::Warning)
                .detail(serde_json::json!({ "findings": count, "rules": rules })),
        );
    }
    let findings: Vec<Finding> = findings.findings.into_iter().map(on_the_wire).collect();
    let failure = match (code, findings.first()) {
        (ProblemCode::ProfileTooWeak, Some(first)) => Failure::new(code, first.message.clone()).rule(TOO_WEAK),
        (ProblemCode::ProfileUnenforceable, Some(_)) => {
            Failure::new(code, "this host cannot enforce the sandbox that the manifest asks for").rule(UNENFORCEABLE)
        }
        (ProblemCode::ToolNotApproved, Some(first)) => Failure::new(code, first.message.clone()).rule(NOT_APPROVED),
        _ if count == 1 => Failure::new(code, "the manifest has 1 fault").rule("registry"),
        _ => Failure::new(code, format!("the manifest has {count} faults")).rule("registry"),
    };
    failure.next_step("correct each finding and register again").findings(findings)
}
