//! What a version changes, before it decides anything.

use std::sync::Arc;

use axum::{Json as Answer, extract::State};
use cogward_api::{
    DiffLine, IdleRule, LineChange, PolicyDiff, PolicyDiffQuery, PolicyExample, PolicyVerdict, ProblemCode,
};
use cogward_gateway::pins::diff::{self, Change as LineOf};
use cogward_model::{Digest, PolicyScope, visible::visible};
use cogward_policy::{
    Decided, Schema, Version,
    analysis::{self, Bounds, Example, Extent, Idle, Lint, QUESTIONS_MAX},
};

use super::policies::{found, invalid, known_level};
use crate::{
    catalogue,
    extract::{Asked, Params},
    failure::Failure,
    plane::{App, Plane},
    policies,
    policy_analysis::{Change, Known},
};

/// Time to look for rules that do nothing.
const LINTS: std::time::Duration = std::time::Duration::from_secs(10);

pub(crate) async fn difference(
    State(app): State<App>,
    Params((level, digest)): Params<(PolicyScope, Digest)>,
    Asked(query): Asked<PolicyDiffQuery>,
) -> Result<Answer<PolicyDiff>, Failure> {
    known_level(&app, &level).await?;
    let after = read(&app, &level, digest).await?;
    let before = match query.against {
        Some(against) => Some(read(&app, &level, against).await?),
        None => now(&app, &level)?,
    };
    let (schema, _) = catalogue::schema(&app, &level).await?;
    let change = Change { level, before, after: Some(Arc::clone(&after)), schema };
    let (change, known, lint) = analysed(&app, change, Some(after), false).await?;
    let Known { analysis, comparison, proof } = known;
    let idle = lint.as_ref().map(|lint| lint.idle.iter().map(idle).collect()).unwrap_or_default();
    Ok(Answer(PolicyDiff {
        version: digest,
        against: change.before.as_ref().map(|version| version.digest()),
        lines: lines(change.before.as_deref(), change.after.as_deref()),
        analysis,
        grants: comparison.grants.iter().map(example).collect(),
        takes: comparison.takes.iter().map(example).collect(),
        idle,
        idle_exact: lint.is_some_and(|lint| lint.extent == Extent::Exact),
        proof,
        level: change.level,
    }))
}

/// Analyses a change on a thread of its own, one at a time: each may take a core for a while.
pub(crate) async fn analysed(
    app: &App,
    change: Change,
    lint: Option<Arc<Version>>,
    short: bool,
) -> Result<(Change, Known, Option<Lint>), Failure> {
    // What may be urgent does not wait for others; activations are one at a time anyway.
    let turn = match short {
        true => None,
        false => {
            let turn = Arc::clone(&app.analyses).acquire_owned().await;
            Some(turn.map_err(|error| Failure::internal("the plane is closing", &error))?)
        }
    };
    let solver = app.solver.clone();
    let task = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let known = change.analyse(solver.as_deref(), short);
        let lint = lint.map(|version| linted(&version, &change.schema));
        (change, known, lint)
    });
    task.await.map_err(|error| Failure::internal("the versions could not be compared", &error))
}

fn linted(version: &Arc<Version>, schema: &Schema) -> Lint {
    analysis::lint(version, schema, Bounds { questions: QUESTIONS_MAX, until: Some(std::time::Instant::now() + LINTS) })
}

/// What decides at a level now: its active version, or what cogward comes with for the plane's own; otherwise nothing.
fn now(plane: &Plane, level: &PolicyScope) -> Result<Option<Arc<Version>>, Failure> {
    plane.policies.active().at(level).map_err(|why| {
        let why = format!("the active version of {level} cannot be used, so nothing is compared with it: {why}");
        Failure::new(ProblemCode::PolicyInvalid, why)
            .rule("policy.active")
            .next_step("name another version to compare with: `cogward policy diff VERSION --against OTHER`")
    })
}

/// What decides at a level where no version is active.
pub(super) fn without(level: &PolicyScope) -> Result<Option<Arc<Version>>, Failure> {
    if *level != PolicyScope::Plane {
        return Ok(None);
    }
    let built_in = Version::built_in();
    Ok(Some(Arc::new(built_in.map_err(|error| Failure::internal("the built-in policy cannot be read", &error))?)))
}

async fn read(plane: &Plane, level: &PolicyScope, digest: Digest) -> Result<Arc<Version>, Failure> {
    let built_in = Version::built_in().ok().filter(|version| version.digest() == digest && version.level() == level);
    if let Some(version) = built_in {
        return Ok(Arc::new(version));
    }
    let row = found(plane, level, digest).await?;
    let loaded = policies::load(level.clone(), row.text).await;
    let loaded = loaded.map_err(|error| Failure::internal("the version could not be read", &error))?;
    let version = loaded.map_err(|findings| invalid("policy.cedar", findings))?;
    if version.digest() != digest {
        return Err(Failure::new(ProblemCode::PolicyInvalid, "its text is not the one that was written")
            .rule("policy.digest")
            .next_step("restore the state of the plane from a backup, or write the version again"));
    }
    Ok(Arc::new(version))
}

fn verdict(decided: Option<&Decided>) -> PolicyVerdict {
    let Some(decided) = decided else {
        return PolicyVerdict { verdict: "none".to_owned(), level: None, rules: Vec::new() };
    };
    PolicyVerdict {
        verdict: decided.verdict.as_str().to_owned(),
        level: Some(decided.decided_by.as_str().to_owned()),
        rules: decided.decider().map(|one| one.rules.clone()).unwrap_or_default(),
    }
}

fn example(example: &Example) -> PolicyExample {
    PolicyExample {
        from: verdict(example.before.as_ref()),
        to: verdict(example.after.as_ref()),
        question: serde_json::to_value(&example.ask).unwrap_or_default(),
    }
}

fn idle(rule: &analysis::IdleRule) -> IdleRule {
    let (dead, shadowed_by) = match &rule.why {
        Idle::Dead => (true, Vec::new()),
        Idle::Shadowed { by } => (false, by.clone()),
    };
    IdleRule { rule: rule.rule.clone(), line: rule.line, dead, shadowed_by }
}

fn lines(before: Option<&Version>, after: Option<&Version>) -> Vec<DiffLine> {
    let of = |version: Option<&Version>| -> Vec<String> {
        version.map(|version| version.text().lines().map(visible).collect()).unwrap_or_default()
    };
    let line = |(change, text): (LineOf, String)| {
        let change = match change {
            LineOf::Same => LineChange::Same,
            LineOf::Removed => LineChange::Removed,
            LineOf::Added => LineChange::Added,
        };
        DiffLine { change, text }
    };
    diff::difference(&of(before), &of(after)).into_iter().map(line).collect()
}
