//! Past decisions, made again: one of them under the versions of its time, or those of a while under another version.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use axum::{Json as Answer, extract::State};
use cogward_api::{
    AppliedPolicy, ChangedDecision, ExplainQuery, PolicyChange, PolicyExplanation, PolicySimulation, PolicyVerdict,
    ProblemCode, SimulateQuery, types::policies::SIMULATED_MAX,
};
use cogward_evidence::{Judged, JudgedFilter};
use cogward_model::{Digest, PolicyScope, TenantName, event::EventType, id::EventId};
use cogward_policy::{Ask, Decided, Deed, Hierarchy, Principal, Version, level::above};

use super::known_tenant;
use crate::{
    events::by_operator,
    extract::{Asked, Caller, Params},
    failure::Failure,
    plane::{App, Plane},
    policies,
};

/// Examples of a simulation when the client does not say.
const EXAMPLES: u32 = 50;
/// Decisions that one simulation reads when the client does not say.
const DECISIONS: u32 = 10_000;
/// Time for a simulation; what it has found by then is its answer.
const SIMULATES: std::time::Duration = std::time::Duration::from_secs(40);

fn text<'a>(judged: &'a Judged, field: &str) -> Option<&'a str> {
    judged.body.get(field).and_then(|value| value.as_str())
}

fn texts(judged: &Judged, field: &str) -> Vec<String> {
    let list = judged.body.get(field).and_then(|value| value.as_array()).cloned().unwrap_or_default();
    list.into_iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// `tenant:retail sha256:...`, as decisions name the versions that were active.
fn named(judged: &Judged) -> Vec<(PolicyScope, Digest)> {
    let split = |text: String| {
        let (level, digest) = text.split_once(' ')?;
        Some((level.parse().ok()?, digest.parse().ok()?))
    };
    texts(judged, "policy").into_iter().filter_map(split).collect()
}

fn question(judged: &Judged) -> Option<Result<Ask, cogward_policy::AskError>> {
    judged.disclosed.get("policy_input").and_then(|value| value.as_str()).map(Ask::from_json)
}

/// What stored versions make of an ask: the strictest of the levels, as when it was decided. A command of an operator
/// was refused by one level alone, and each is asked alone.
fn verdict(decided: &Decided) -> PolicyVerdict {
    let decider = decided.decider();
    PolicyVerdict {
        verdict: decided.verdict.as_str().to_owned(),
        level: Some(decided.decided_by.as_str().to_owned()),
        rules: decider.map(|one| one.rules.clone()).unwrap_or_default(),
    }
}

fn again(versions: &[Arc<Version>], ask: &Ask) -> PolicyVerdict {
    if matches!(ask.head.principal, Principal::Operator(_)) {
        // As it was decided: a level below the plane that is silent about commands has no say.
        let silent = |decided: &Decided| {
            decided.decider().is_some_and(|one| {
                one.cause == cogward_policy::verdict::Cause::NothingMatched && one.level != PolicyScope::Plane
            })
        };
        let each = versions.iter().map(|version| Hierarchy::new([Arc::clone(version)]).decide(ask));
        let refused = each
            .filter(|decided| !silent(decided))
            .max_by_key(|decided| (decided.verdict, std::cmp::Reverse(decided.decided_by)));
        if let Some(decided) = refused {
            return verdict(&decided);
        }
    }
    verdict(&Hierarchy::new(versions.iter().cloned()).decide(ask))
}

/// Versions by their digest, read once.
#[derive(Default)]
struct Versions(BTreeMap<Digest, Option<Arc<Version>>>);

impl Versions {
    async fn add(&mut self, plane: &Plane, level: &PolicyScope, digest: Digest) -> Result<(), Failure> {
        if self.0.contains_key(&digest) {
            return Ok(());
        }
        let built_in = Version::built_in().ok().filter(|version| version.digest() == digest);
        let version = match built_in {
            Some(version) => Some(version),
            None => match plane.store.policy_version(level, digest).await? {
                Some(row) => {
                    let loaded = policies::load(row.scope, row.text).await;
                    loaded.map_err(|error| Failure::internal("a version could not be read", &error))?.ok()
                }
                None => None,
            },
        };
        // One whose text is another one is as good as not there.
        let version = version.filter(|version| version.digest() == digest).map(Arc::new);
        self.0.insert(digest, version);
        Ok(())
    }

    fn of(&self, named: &[(PolicyScope, Digest)]) -> Option<Vec<Arc<Version>>> {
        named.iter().map(|(_, digest)| self.0.get(digest).cloned().flatten()).collect()
    }
}

pub(crate) async fn explain(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, decision)): Params<(TenantName, EventId)>,
    Asked(query): Asked<ExplainQuery>,
) -> Result<Answer<PolicyExplanation>, Failure> {
    known_tenant(&app, &tenant).await?;
    let read = by_operator(EventType::EvidenceRead, tenant.clone(), &caller.0, None)
        .public("read_decision", decision.to_string());
    app.record(read).await?;
    let filter = JudgedFilter { id: Some(decision), run: query.run, ..JudgedFilter::default() };
    let judged = visited(&app, &tenant, filter, None, |found, judged| {
        *found = Some(judged);
        false
    });
    let judged = judged.await?.ok_or_else(|| Failure::missing("decision", decision))?;
    let named = named(&judged);
    let mut versions = Versions::default();
    for (level, digest) in &named {
        versions.add(&app, level, *digest).await?;
    }
    let applied = named.iter().map(|(level, digest)| {
        let kept = versions.0.get(digest).cloned().flatten();
        let built_in = kept.as_ref().is_some_and(|version| version.text() == cogward_policy::version::BUILT_IN);
        let unusable = kept.is_none().then(|| "it is not stored, or cannot be read".to_owned());
        AppliedPolicy { level: level.clone(), digest: *digest, built_in, unusable }
    });
    let recorded = PolicyVerdict {
        verdict: text(&judged, "policy_verdict").unwrap_or_default().to_owned(),
        level: text(&judged, "policy_level").map(str::to_owned),
        rules: texts(&judged, "policy_rules"),
    };
    let mut explanation = PolicyExplanation {
        decision,
        kind: judged.kind.clone(),
        time: judged.time,
        run: judged.run,
        settled_by: text(&judged, "rule").unwrap_or_default().to_owned(),
        recorded,
        again: None,
        agrees: false,
        why_not: None,
        versions: applied.collect(),
        input: None,
        texts: Vec::new(),
    };
    match (question(&judged), versions.of(&named)) {
        _ if explanation.recorded.verdict.is_empty() => {
            explanation.why_not = Some(
                "no policy was asked: the rule that settled it stands before policies, or the record is of no decision"
                    .to_owned(),
            );
        }
        (None, _) => explanation.why_not = Some("the recorded question is not there to be opened any more".to_owned()),
        (Some(Err(error)), _) => explanation.why_not = Some(error.to_string()),
        (_, None) => explanation.why_not = Some("a version that decided cannot be read any more".to_owned()),
        (Some(Ok(ask)), Some(versions)) => {
            let answer = again(&versions, &ask);
            explanation.agrees = answer == explanation.recorded;
            explanation.texts = determining(&versions, &answer);
            explanation.input = serde_json::to_value(&ask).ok();
            explanation.again = Some(answer);
        }
    }
    Ok(Answer(explanation))
}

/// Where the rules stand that decided.
fn determining(versions: &[Arc<Version>], answer: &PolicyVerdict) -> Vec<String> {
    let of = |version: &&Arc<Version>| Some(version.level().level()) == answer.level.as_deref();
    let rules = versions.iter().filter(of).flat_map(|version| version.rules().iter().map(move |rule| (version, rule)));
    let decided = rules.filter(|(_, rule)| answer.rules.contains(&rule.id));
    let place = |(version, rule): (&Arc<Version>, &Arc<cogward_policy::Rule>)| {
        let doc = rule.doc.as_deref().map(|doc| format!(": {doc}")).unwrap_or_default();
        format!("{}/{} (line {}){doc}", version.level(), rule.id, rule.line)
    };
    decided.map(place).collect()
}

/// Whether a version at a level bears on who asked.
fn bears(level: &PolicyScope, ask: &Ask) -> bool {
    match (&ask.head.principal, &ask.head.deed) {
        (Principal::Agent(agent), _) => above(&agent.tenant, agent.tier, &agent.agent).contains(level),
        (Principal::Operator(_), Deed::OperatorCommand { tenant, .. }) => match level {
            PolicyScope::Plane => true,
            PolicyScope::Tenant(own) => tenant.as_ref() == Some(own),
            _ => false,
        },
        (Principal::Operator(_), _) => *level == PolicyScope::Plane,
    }
}

pub(crate) async fn simulate(
    State(app): State<App>,
    caller: Caller,
    Params((level, digest)): Params<(PolicyScope, Digest)>,
    Asked(query): Asked<SimulateQuery>,
) -> Result<Answer<PolicySimulation>, Failure> {
    let SimulateQuery { tenant, since, until, run, limit, examples } = query;
    let tenant = level.tenant().cloned().or(tenant.clone()).unwrap_or_else(TenantName::default_tenant);
    known_tenant(&app, &tenant).await?;
    let mut versions = Versions::default();
    versions.add(&app, &level, digest).await?;
    let Some(candidate) = versions.of(&[(level.clone(), digest)]).and_then(|mut one| one.pop()) else {
        return Err(Failure::missing("version of this level that can be read", digest));
    };
    if candidate.level() != &level {
        return Err(Failure::new(ProblemCode::NotFound, format!("`{digest}` is no version of {level}")));
    }
    let read = by_operator(EventType::EvidenceRead, tenant.clone(), &caller.0, None)
        .public("read_decisions", "simulation")
        .public("level", level.to_string())
        .public("policy_digest", digest.to_string());
    app.record(read).await?;
    let limit = u64::from(limit.unwrap_or(DECISIONS).clamp(1, SIMULATED_MAX));
    let filter = JudgedFilter { id: None, run, since, until };
    // Read twice, so that no more than one decision is held at a time: first for the versions of that time.
    let mut read = 0;
    let used = visited(&app, &tenant, filter.clone(), BTreeSet::new(), move |used: &mut BTreeSet<_>, judged| {
        used.extend(named(&judged));
        read += 1;
        read < limit
    })
    .await?;
    for (level, digest) in used {
        versions.add(&app, &level, digest).await?;
    }
    let wanted = examples.unwrap_or(EXAMPLES) as usize;
    let simulation = Simulation::new(candidate, versions, wanted, tenant.clone());
    let until = Instant::now() + SIMULATES;
    let simulation = visited(&app, &tenant, filter, simulation, move |simulation: &mut Simulation, judged| {
        if simulation.answer.decisions >= limit || Instant::now() > until {
            simulation.answer.more = true;
            return false;
        }
        simulation.one(&judged);
        true
    })
    .await?;
    Ok(Answer(simulation.told()))
}

/// What `visit` makes of the records that fit, on a thread of its own.
async fn visited<T: Send + 'static>(
    app: &App,
    tenant: &TenantName,
    filter: JudgedFilter,
    mut made: T,
    mut visit: impl FnMut(&mut T, Judged) -> bool + Send + 'static,
) -> Result<T, Failure> {
    let (evidence, tenant) = (app.evidence.clone(), tenant.clone());
    let read = tokio::task::spawn_blocking(move || {
        evidence.visit_judged(&tenant, &filter, &mut |judged| visit(&mut made, judged))?;
        Ok::<_, cogward_evidence::ReadError>(made)
    });
    match read.await {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(error)) => Err(Failure::internal("the evidence cannot be read", &error)),
        Err(error) => Err(Failure::internal("the evidence cannot be read", &error)),
    }
}

struct Simulation {
    candidate: Arc<Version>,
    versions: Versions,
    wanted: usize,
    changes: BTreeMap<(String, String), u64>,
    answer: PolicySimulation,
}

impl Simulation {
    fn new(candidate: Arc<Version>, versions: Versions, wanted: usize, tenant: TenantName) -> Self {
        let (level, version) = (candidate.level().clone(), candidate.digest());
        let answer = PolicySimulation {
            level,
            version,
            tenant,
            decisions: 0,
            replayed: 0,
            unknown: 0,
            more: false,
            changes: Vec::new(),
            examples: Vec::new(),
        };
        Self { candidate, versions, wanted, changes: BTreeMap::new(), answer }
    }

    fn told(mut self) -> PolicySimulation {
        let change = |((from, to), count): ((String, String), u64)| PolicyChange { from, to, count };
        self.answer.changes = std::mem::take(&mut self.changes).into_iter().map(change).collect();
        self.answer
    }

    fn one(&mut self, judged: &Judged) {
        self.answer.decisions += 1;
        let Some(Ok(ask)) = question(judged) else { return };
        let Some(then) = self.versions.of(&named(judged)) else { return };
        if !bears(self.candidate.level(), &ask) {
            return;
        }
        let mut with: Vec<Arc<Version>> =
            then.iter().filter(|version| version.level() != self.candidate.level()).cloned().collect();
        with.push(Arc::clone(&self.candidate));
        if lacks(&then, &self.candidate, &ask) {
            self.answer.unknown += 1;
            return;
        }
        self.answer.replayed += 1;
        let (from, to) = (again(&then, &ask), again(&with, &ask));
        if from.verdict == to.verdict {
            return;
        }
        *self.changes.entry((from.verdict.clone(), to.verdict.clone())).or_default() += 1;
        if self.answer.examples.len() < self.wanted {
            let (decision, time, run) = (judged.id, judged.time, judged.run);
            self.answer.examples.push(ChangedDecision { decision, time, run, object: object(judged), from, to });
        }
    }
}

/// Whether a version reads something that a record of other versions does not have.
fn lacks(then: &[Arc<Version>], candidate: &Arc<Version>, ask: &Ask) -> bool {
    let known = Hierarchy::new(then.iter().cloned()).slice(&ask.head);
    let read = Hierarchy::new([Arc::clone(candidate)]).slice(&ask.head);
    let (known, read) = (known.needs(), read.needs());
    let mut arguments = known.arguments.clone();
    arguments.merge(&read.arguments);
    let agent = matches!(ask.head.principal, Principal::Agent(_));
    let one = |reads: bool, known: bool| agent && reads && !known;
    arguments != known.arguments
        || one(read.budget, known.budget)
        || one(read.labels, known.labels)
        || one(read.subject, known.subject)
        || one(read.run, known.run)
        || one(read.model, known.model)
        || one(read.request, known.request)
        || read.history.iter().any(|tracker| !ask.facts.history.contains_key(&tracker.key()))
}

/// What a record is about, as far as it says so in clear.
fn object(judged: &Judged) -> String {
    let two = |one: &str, other: &str| Some(format!("{}/{}", text(judged, one)?, text(judged, other)?));
    let host = || {
        let port = judged.body.get("port").and_then(serde_json::Value::as_u64);
        Some(format!("{}:{}", text(judged, "host")?, port.unwrap_or_default()))
    };
    let plain = |field| text(judged, field).map(str::to_owned);
    plain("tool").or_else(|| two("provider", "model")).or_else(host).or_else(|| plain("command")).unwrap_or_default()
}
