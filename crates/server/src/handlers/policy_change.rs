//! What an activation grants, found out before it has its turn: comparing takes time, and nobody waits for it.

use std::sync::Arc;

use cogward_api::{Grants, PolicyAnalysis, ProblemCode};
use cogward_model::PolicyScope;
use cogward_policy::Version;

use super::policy_diff;
use crate::{catalogue, failure::Failure, plane::App, policy_analysis};

/// The longest that an activation waits for what it is compared with; less than the longest that an answer may take.
const COMPARED_MAX: std::time::Duration = std::time::Duration::from_secs(45);

/// How often it is compared when other versions are activated at the same time.
const COMPARED_AGAIN: usize = 3;

/// What it grants over what decides now, and the turn to change that. Comparing takes time, so the turn is taken
/// after it, and it is compared again when something else was activated meanwhile.
pub(super) async fn compared<'a>(
    app: &'a App,
    level: &PolicyScope,
    next: Option<&Arc<Version>>,
    narrow: bool,
) -> Result<(tokio::sync::MutexGuard<'a, ()>, PolicyAnalysis), Failure> {
    let now = || app.policies.active().at(level).map_err(str::to_owned);
    let name = |active: &Result<Option<Arc<Version>>, String>| {
        active.as_ref().map(|version| version.as_ref().map(|version| version.digest())).map_err(Clone::clone)
    };
    let until = tokio::time::Instant::now() + COMPARED_MAX;
    let mut before = now();
    for _ in 0..COMPARED_AGAIN {
        let weighing = weighed(app, level, before.clone(), next.cloned(), narrow);
        let weighed = tokio::time::timeout_at(until, weighing).await;
        let Ok(weighed) = weighed else { break };
        let turn = app.policies.changes.lock().await;
        let active = now();
        if name(&active) == name(&before) {
            return Ok((turn, weighed?));
        }
        before = active;
    }
    let why = "there was no time to compare it, or what decides changed meanwhile";
    let analysis = PolicyAnalysis::uncompared(why.to_owned());
    if narrow {
        return Err(grants(level, &analysis, None));
    }
    Ok((app.policies.changes.lock().await, analysis))
}

/// What a change grants, as far as that can be told in a moment; when it may grant nothing, for certain or not at all.
async fn weighed(
    app: &App,
    level: &PolicyScope,
    before: Result<Option<Arc<Version>>, String>,
    next: Option<Arc<Version>>,
    narrow: bool,
) -> Result<PolicyAnalysis, Failure> {
    let after = match next {
        Some(next) => Some(next),
        None => policy_diff::without(level)?,
    };
    let (analysis, example) = match before {
        Ok(before) => {
            let (schema, _) = catalogue::schema(app, level).await?;
            let change = policy_analysis::Change { level: level.clone(), before, after, schema };
            let (_, known, _) = policy_diff::analysed(app, change, None, !narrow).await?;
            let example = known.comparison.grants.first().map(|example| format!(": {}", example.sentence()));
            (known.analysis, example)
        }
        // A version that cannot be used must be replaceable, and says nothing that another could be compared with.
        Err(why) => (PolicyAnalysis::uncompared(format!("the active version cannot be used: {why}")), None),
    };
    if !narrow || analysis.grants == Grants::Nothing {
        return Ok(analysis);
    }
    Err(grants(level, &analysis, example))
}

/// The refusal of a change that may grant nothing, and does or may.
fn grants(level: &PolicyScope, analysis: &PolicyAnalysis, example: Option<String>) -> Failure {
    let why = match analysis.grants {
        Grants::Something => format!("it grants what {level} does not grant now{}", example.unwrap_or_default()),
        _ => {
            let because = analysis.because.iter().cloned().chain(analysis.unproved.clone()).collect::<Vec<_>>();
            format!("nothing that it grants was found, but that is not certain: {}", because.join("; "))
        }
    };
    Failure::new(ProblemCode::PolicyGrants, why)
        .rule("policy.grants_nothing")
        .next_step("see `cogward policy diff`, or activate it without `--if-grants-nothing`")
}
