//! Questions to the evidence: search, proofs, packs of a part, samples. Each is itself recorded, before anything is shown.

use axum::{
    Json as Answer,
    extract::State,
    response::{IntoResponse, Response},
};
use cogward_api::{
    ConsistencyQuery, EvidenceFound, EvidenceIndex, EvidenceQuery, ExportQuery, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX,
    ProblemCode, Reason, SampleCommitted, SampleQuery,
};
use cogward_evidence::{IndexError, Part, PolicyText, Query, SearchError, User};
use cogward_ledger::{extract::Scope, map::Kind};
use cogward_model::{
    Digest, PolicyScope, RunId, TenantName,
    event::{EventType, Value},
};
use cogward_policy::Version;
use http::header;

use super::{bounded_reason, evidence, evidence_asked, known_tenant, runs};
use crate::{
    commands,
    events::{by_operator, sha256},
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
};

impl From<SearchError> for Failure {
    fn from(error: SearchError) -> Self {
        match &error {
            SearchError::Index(IndexError::Damaged(_) | IndexError::Behind { .. }) => {
                Self::new(ProblemCode::IndexUnavailable, error.to_string())
                    .next_step("ask again in a while; `cogward evidence search` says how far the index is")
            }
            SearchError::Index(IndexError::Closed) => Self::new(ProblemCode::NotReady, "the plane is stopping"),
            SearchError::Index(_) => {
                tracing::error!(%error, "the evidence index failed");
                Self::new(ProblemCode::IndexUnavailable, "the index of the evidence cannot be read")
                    .next_step("look at the plane's log; `cogward evidence reindex` makes it anew")
            }
            SearchError::Record(record) => Self::new(ProblemCode::EvidenceUnavailable, record.to_string()),
            SearchError::Cursor
            | SearchError::Value
            | SearchError::Pseudonym
            | SearchError::Erased(..)
            | SearchError::TooMany(..) => Self::invalid(error.to_string()),
            SearchError::Missing(_) => Self::new(ProblemCode::NotFound, error.to_string()),
            SearchError::Read(_) | SearchError::Io(_) => Self::internal("the evidence cannot be read", &error),
        }
    }
}

fn user(name: Option<String>, pseudonym: Option<String>) -> Result<Option<User>, Failure> {
    match (name, pseudonym) {
        (Some(_), Some(_)) => Err(Failure::invalid("a user is named or has a pseudonym, not both")),
        (Some(name), None) => Ok(Some(User::Name(name))),
        (None, pseudonym) => Ok(pseudonym.map(User::Pseudonym)),
    }
}

pub(crate) async fn search(
    State(app): State<App>,
    caller: Caller,
    Params(tenant): Params<TenantName>,
    Asked(asked): Asked<EvidenceQuery>,
) -> Result<Answer<EvidenceFound>, Failure> {
    known_tenant(&app, &tenant).await?;
    evidence_asked::search(&asked)?;
    let operator = evidence_asked::operator(&app, asked.operator).await?;
    let limit = asked.limit.unwrap_or(PAGE_ITEMS_DEFAULT).clamp(1, PAGE_ITEMS_MAX);
    let query = Query {
        agent: asked.agent,
        version: asked.version,
        user: user(asked.user, asked.pseudonym)?,
        operator,
        run: asked.run,
        tool: asked.tool,
        tool_server: asked.tool_server,
        kind: asked.kind,
        decision: asked.decision,
        policy: asked.policy,
        approval: asked.approval,
        since: asked.since,
        until: asked.until,
    };
    let page = app.evidence.search(&tenant, &query, asked.cursor.as_deref(), limit as usize).await?;
    let disclosed = commands::may_disclose(&app, &caller, &tenant);
    let event = by_operator(EventType::QueryExecuted, tenant, &caller.0, None)
        .public("query", page.public)
        .public("continued", asked.cursor.is_some())
        .public("results", page.leaves.len() as u64)
        .public("size", page.current);
    app.record(event).await?;
    let items = page.leaves.into_iter().map(|leaf| evidence::view(leaf, disclosed)).collect();
    let asked = app.clock.now();
    Ok(Answer(EvidenceFound { items, next_cursor: page.cursor, current: page.current, asked }))
}

fn proof(text: String, name: &str) -> Response {
    let name = format!("attachment; filename=\"{name}\"");
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, name)], text)
        .into_response()
}

async fn proven(
    app: &Plane,
    caller: &Caller,
    tenant: TenantName,
    of: &'static str,
    what: Value,
) -> Result<(), Failure> {
    app.record(by_operator(EventType::EvidenceProven, tenant, &caller.0, None).public("proof", of).public("of", what))
        .await
}

pub(crate) async fn prove_leaf(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, leaf)): Params<(TenantName, u64)>,
) -> Result<Response, Failure> {
    known_tenant(&app, &tenant).await?;
    proven(&app, &caller, tenant.clone(), "inclusion", leaf.into()).await?;
    let text = app.evidence.prove_leaf(&tenant, leaf).await?;
    Ok(proof(text, &format!("{tenant}-{leaf}.tlog-proof")))
}

pub(crate) async fn prove_consistency(
    State(app): State<App>,
    caller: Caller,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<ConsistencyQuery>,
) -> Result<Response, Failure> {
    known_tenant(&app, &tenant).await?;
    let states: Vec<u64> = std::iter::once(query.old).chain(query.new).collect();
    proven(&app, &caller, tenant.clone(), "consistency", states.into()).await?;
    let text = app.evidence.prove_consistency(&tenant, query.old, query.new).await?;
    Ok(proof(text, &format!("{tenant}-{}.consistency.json", query.old)))
}

pub(crate) async fn prove_run(
    State(app): State<App>,
    caller: Caller,
    Params(run): Params<RunId>,
) -> Result<Response, Failure> {
    let row = runs::found(&app, run).await?;
    proven(&app, &caller, row.tenant.clone(), "run", run.to_string().into()).await?;
    let text = app.evidence.prove_run(&row.tenant, run).await?;
    Ok(proof(text, &format!("{run}.proof.json")))
}

pub(crate) async fn commit_sample(
    State(app): State<App>,
    caller: Caller,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<SampleQuery>,
) -> Result<Answer<SampleCommitted>, Failure> {
    known_tenant(&app, &tenant).await?;
    let commitment = query.commitment.to_ascii_lowercase();
    if commitment.len() != 64 || !commitment.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::invalid("a commitment is a SHA-256 in hexadecimal digits"));
    }
    let event = by_operator(EventType::SampleCommitted, tenant.clone(), &caller.0, None)
        .public("commitment", commitment.clone());
    let leaf = app.evidence.record(event).await.map_err(|error| Failure::from(SearchError::Record(error)))?;
    // The root that is signed now is the one that is drawn from: the number is not known to anybody here yet.
    let signed = app.evidence.checkpoint(&tenant).await.map_err(|error| Failure::from(SearchError::Record(error)))?;
    Ok(Answer(SampleCommitted { leaf: leaf.seq, commitment, size: signed.size, checkpoint: signed.note }))
}

pub(crate) async fn reindex(
    State(app): State<App>,
    caller: Caller,
    body: Json<Reason>,
) -> Result<Answer<EvidenceIndex>, Failure> {
    bounded_reason(Some(&body.value.reason))?;
    if body.value.reason.trim().is_empty() {
        return Err(Failure::new(ProblemCode::ReasonRequired, "say why"));
    }
    let reason = Some(body.value.reason.as_str());
    app.record(by_operator(EventType::EvidenceReindexed, TenantName::default_tenant(), &caller.0, reason)).await?;
    app.evidence.reindex().await.map_err(SearchError::Index)?;
    Ok(Answer(EvidenceIndex { rebuilding: true }))
}

/// The part that a query names, and how the record names it; `None` for the whole log.
fn part(query: &ExportQuery) -> Result<Option<Part>, Failure> {
    evidence_asked::event_type(query.kind.as_deref())?;
    evidence_asked::tool(query.tool.as_deref())?;
    evidence_asked::tool_server(query.tool_server.as_deref())?;
    evidence_asked::window(query.since, query.until)?;
    let mut parts = Vec::new();
    let window = (query.since, query.until);
    let keys = [
        (Kind::Agent, query.agent.as_ref().map(ToString::to_string)),
        (Kind::Tool, query.tool.clone()),
        (Kind::ToolServer, query.tool_server.clone()),
        (Kind::Approval, query.approval.map(|approval| approval.to_string())),
        (Kind::Type, query.kind.clone()),
    ];
    for (kind, value) in keys {
        if value.as_ref().is_some_and(|value| value.len() > 512) {
            return Err(SearchError::Value.into());
        }
        parts.extend(value.map(|value| Part::Key(kind, value, window)));
    }
    parts.extend(user(query.user.clone(), query.pseudonym.clone())?.map(|user| Part::Subject(user, window)));
    let timed = !parts.is_empty();
    parts.extend(query.run.map(Part::Run));
    match (&query.nonce, query.count, query.size) {
        (None, None, None) => {}
        (Some(nonce), Some(count), Some(size)) => {
            let is_plain = (16..=128).contains(&nonce.len()) && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !is_plain || !(1..=cogward_ledger::sample::SAMPLE_MAX).contains(&count) {
                return Err(Failure::invalid(
                    "a sample has a number of 16 to 128 letters and digits and a count of 1 to 10000",
                ));
            }
            parts.push(Part::Sample { nonce: nonce.clone(), count, size });
        }
        _ => {
            return Err(Failure::invalid(
                "a sample has a number, a count and the size of the checkpoint that answered the commitment",
            ));
        }
    }
    // A window by itself is a part; with an agent and so on it bounds that.
    if !timed && (query.since.is_some() || query.until.is_some()) {
        parts.push(Part::Window(window));
    }
    if parts.len() > 1 {
        return Err(Failure::invalid(
            "one part at a time: a run, an agent and so on, or a sample; a time alone or with an agent and so on",
        ));
    }
    Ok(parts.pop())
}

/// A part in the record of its export: a person is in it as the pseudonym.
fn named(scope: &Scope) -> (&'static str, Value) {
    match scope {
        Scope::Run { run } => ("run", run.clone().into()),
        Scope::Window { since, until } => ("window", vec![since.clone(), until.clone()].into()),
        Scope::Key { of, value, since, until, .. } => {
            (of.as_str(), vec![Some(value.clone()), since.clone(), until.clone()].into())
        }
        Scope::Sample { nonce, count, of } => {
            ("sample", vec![Value::from(nonce.clone()), (*count).into(), (*of).into()].into())
        }
    }
}

pub(crate) async fn export(
    State(app): State<App>,
    caller: Caller,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<ExportQuery>,
) -> Result<Response, Failure> {
    known_tenant(&app, &tenant).await?;
    bounded_reason(query.reason.as_deref())?;
    let disclose = query.disclose == Some(true);
    let Some(part) = part(&query)? else {
        if disclose {
            return Err(Failure::invalid("the whole ledger is exported without hidden values: name a run or a time"));
        }
        return evidence::whole(&app, &caller, tenant).await;
    };
    if disclose {
        if query.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
            return Err(Failure::new(ProblemCode::ReasonRequired, "say why the hidden values are needed"));
        }
        commands::disclose(&app, &caller, &tenant).await?;
    }
    if let Part::Run(run) = part {
        // Another tenant's run is as unknown here as one that never was.
        let row = runs::found(&app, run).await?;
        if row.tenant != tenant {
            return Err(Failure::missing("run", run));
        }
    }
    if let Part::Sample { nonce, size, .. } = &part {
        committed(&app, &tenant, nonce, *size).await?;
    }
    let staging = evidence::staged(&app);
    let by = caller.0.id.to_string();
    let draft = app.evidence.draft(&tenant, part, disclose, &by, staging.path()).await?;
    let (of, what) = named(draft.scope());
    let policies = policies(&app, &draft.policies).await?;
    let summary = tokio::task::spawn_blocking(move || draft.finish(&policies)).await;
    let summary = summary.map_err(|error| Failure::internal("the evidence cannot be exported", &error))??;
    if summary.lost > 0 {
        let text = format!(
            "{} hidden values of an export do not open and were not redacted: their keys are gone from `evidence/vault`",
            summary.lost
        );
        tracing::warn!(%tenant, lost = summary.lost, "hidden values do not open and were not redacted");
        app.evidence.raise_alarm("lost_values", text);
    }
    let event = by_operator(EventType::PackExported, tenant.clone(), &caller.0, query.reason.as_deref())
        .public("part", of)
        .public("of", what)
        .public("results", summary.leaves)
        .public("disclosures", summary.disclosures)
        .public("lost", summary.lost)
        .public("size", summary.size)
        .public("pack", format!("sha256:{}", summary.manifest));
    app.record(event).await?;
    Ok(evidence::sent(staging, &tenant))
}

/// A sample is drawn with a number to which somebody committed before: otherwise it could be chosen to fit.
async fn committed(app: &Plane, tenant: &TenantName, nonce: &str, size: u64) -> Result<(), Failure> {
    let commitment = sha256(nonce.as_bytes()).to_string();
    let commitment = commitment.strip_prefix("sha256:").unwrap_or(&commitment).to_owned();
    let query = Query { kind: Some(EventType::SampleCommitted.as_str().to_owned()), ..Query::default() };
    let mut cursor = None;
    loop {
        let page = app.evidence.search(tenant, &query, cursor.as_deref(), PAGE_ITEMS_MAX as usize).await?;
        let is = |leaf: &cogward_evidence::LeafView| {
            leaf.seq < size && leaf.body.get("commitment").and_then(|text| text.as_str()) == Some(commitment.as_str())
        };
        if page.leaves.iter().any(is) {
            return Ok(());
        }
        match page.cursor {
            Some(next) => cursor = Some(next),
            None => {
                return Err(Failure::invalid("nobody had committed to this number when that checkpoint was signed")
                    .next_step("commit to it first: `cogward evidence sample commit HASH`"));
            }
        }
    }
}

/// The texts of the versions that leaves name. One that is not there any more is left out: its digest is in the leaves.
async fn policies(app: &Plane, named: &std::collections::BTreeSet<String>) -> Result<Vec<PolicyText>, Failure> {
    let mut found = Vec::new();
    for name in named {
        let Some((level, digest)) = name.split_once(' ') else { continue };
        let (Ok(scope), Ok(wanted)) = (level.parse::<PolicyScope>(), digest.parse::<Digest>()) else { continue };
        let built_in = Version::built_in().ok().filter(|version| version.digest() == wanted);
        let text = match built_in {
            Some(_) => Some(cogward_policy::version::BUILT_IN.to_owned()),
            None => app.store.policy_version(&scope, wanted).await?.map(|row| row.text.to_string()),
        };
        // One whose text is another one is as good as not there.
        let text = text.filter(|text| Version::digest_of(&scope, text) == wanted);
        found.extend(text.map(|text| PolicyText { level: level.to_owned(), digest: digest.to_owned(), text }));
    }
    Ok(found)
}
