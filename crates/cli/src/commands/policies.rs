//! `cogward policy`.

use std::path::Path;

use cogward_api::{
    ExplainQuery, Grants, LineChange, PageQuery, PolicyActivate, PolicyCheck, PolicyChecked, PolicyDiff,
    PolicyDiffQuery, PolicyExample, PolicyExplanation, PolicyLevel, PolicySimulation, PolicyStatus, PolicyVersion,
    PolicyWrite, Reason, SimulateQuery, paths, types::policies::POLICY_BYTES_MAX,
};
use cogward_model::{Digest, PolicyScope};

use super::{Session, read_text};
use crate::{
    args,
    client::Client,
    exit::{Exit, Failure},
    output::Format,
};

pub fn run(command: args::Policy, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    match command {
        args::Policy::List { level: None, limit } => {
            let levels: Vec<PolicyLevel> = client.list(paths::POLICIES, &PageQuery::default(), limit.count())?;
            session.output.list(&levels)?;
        }
        args::Policy::List { level: Some(level), limit } => {
            let versions: Vec<PolicyVersion> =
                client.list(&paths::policy_versions(&level), &PageQuery::default(), limit.count())?;
            session.output.list(&versions)?;
        }
        args::Policy::Show { version, level, text } => {
            let found = version_of(&client, &level.level, &version)?;
            let found: PolicyVersion = client.get(&paths::policy_version(&level.level, found))?;
            if text {
                session.output.data(found.text.unwrap_or_default().as_bytes())?;
            } else {
                session.output.one(&found)?;
            }
        }
        args::Policy::Check { file, level } => {
            let (text, file) = read(&file)?;
            let check = PolicyCheck { text, file: Some(file) };
            let checked: PolicyChecked = client.post(&paths::policy_check(&level.level), &check)?;
            warn(&checked.warnings, session);
            session.output.one(&checked)?;
        }
        args::Policy::Put { file, level, reason } => {
            let (text, file) = read(&file)?;
            let write = PolicyWrite { text, file: Some(file), reason: Some(reason.reason) };
            let written: PolicyVersion = client.post(&paths::policy_versions(&level.level), &write)?;
            warn(&written.warnings, session);
            session.output.one(&written)?;
            if session.output.format == Format::Table && written.state == cogward_api::PolicyState::Draft {
                session.output.say(&format!(
                    "It decides nothing yet: `cogward policy approve {} --level {} --reason ...`, then `activate`.",
                    written.number, written.level
                ));
            }
        }
        args::Policy::Approve { version, level, reason } => {
            let digest = version_of(&client, &level.level, &version)?;
            let reason = Reason { reason: reason.reason };
            let approved: PolicyVersion = client.post(&paths::policy_approve(&level.level, digest), &reason)?;
            session.output.one(&PolicyVersion { text: None, ..approved })?;
        }
        args::Policy::Activate { version, level, if_revision, if_grants_nothing, reason } => {
            let version = Some(version_of(&client, &level.level, &version)?);
            let activate = PolicyActivate { version, if_grants_nothing, reason: Some(reason.reason) };
            point(&client, &level.level, &activate, if_revision, session)?;
        }
        args::Policy::Deactivate { level, reason } => {
            let activate = PolicyActivate { version: None, if_grants_nothing: false, reason: Some(reason.reason) };
            point(&client, &level.level, &activate, None, session)?;
        }
        args::Policy::Diff { version, level, against } => {
            let digest = version_of(&client, &level.level, &version)?;
            let against = against.map(|named| version_of(&client, &level.level, &named)).transpose()?;
            let path = query(&paths::policy_difference(&level.level, digest), &PolicyDiffQuery { against })?;
            let diff: PolicyDiff = client.get(&path)?;
            session.output.one(&diff)?;
            if session.output.format == Format::Table {
                tell(&diff, session)?;
            }
            return Ok(match diff.analysis.grants {
                Grants::Nothing => Exit::Done,
                Grants::Something => Exit::Failed,
                Grants::Unknown => Exit::Unverified,
            });
        }
        args::Policy::Status => {
            let status: PolicyStatus = client.get(paths::POLICY_STATUS)?;
            session.output.one(&status)?;
        }
        args::Policy::Explain { decision, run, tenant } => {
            let path = query(&paths::decision_explanation(&tenant.tenant, decision), &ExplainQuery { run })?;
            let explanation: PolicyExplanation = client.get(&path)?;
            session.output.one(&explanation)?;
            if !explanation.agrees {
                let why = explanation.why_not.as_deref().unwrap_or("the answer is not the recorded one");
                session.output.say(&format!("not confirmed: {why}"));
                return Ok(Exit::Unverified);
            }
        }
        args::Policy::Simulate { version, level, tenant, since, until, run, decisions, examples } => {
            let digest = version_of(&client, &level.level, &version)?;
            let asked = SimulateQuery { tenant, since, until, run, limit: decisions, examples };
            let path = query(&paths::policy_simulation(&level.level, digest), &asked)?;
            let simulation: PolicySimulation = client.get(&path)?;
            session.output.one(&simulation)?;
            if session.output.format == Format::Table && !simulation.examples.is_empty() {
                session.output.list(&simulation.examples)?;
            }
        }
    }
    Ok(Exit::Done)
}

fn point(
    client: &Client,
    level: &PolicyScope,
    activate: &PolicyActivate,
    revision: Option<u64>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let level: PolicyLevel = client.put_if(&paths::policy_active(level), activate, revision)?;
    session.output.one(&level)
}

/// What a table has no room for: the lines that differ, and the examples.
fn tell(diff: &PolicyDiff, session: &mut Session<'_>) -> Result<(), Failure> {
    let mut text = String::new();
    for line in &diff.lines {
        match line.change {
            LineChange::Same => {}
            LineChange::Removed => text.push_str(&format!("- {}\n", line.text)),
            LineChange::Added => text.push_str(&format!("+ {}\n", line.text)),
        }
    }
    let mut examples = |word: &str, all: &[PolicyExample]| {
        for example in all {
            text.push_str(&format!(
                "{word} ({} -> {}): {}\n",
                example.from.verdict, example.to.verdict, example.question
            ));
        }
    };
    examples("grants", &diff.grants);
    examples("takes", &diff.takes);
    session.output.data(text.as_bytes())
}

fn query(path: &str, of: &impl serde::Serialize) -> Result<String, Failure> {
    paths::with_query(path, of).map_err(|error| Failure::local("cannot make the request", error))
}

/// The text, and what findings call it.
fn read(file: &Path) -> Result<(String, String), Failure> {
    let text = read_text(file, "the policy", POLICY_BYTES_MAX)?;
    let name = if file == Path::new("-") { None } else { file.file_name() };
    let name: String = name.map_or_else(|| "stdin".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok((text, name.chars().filter(|letter| !letter.is_control()).take(64).collect()))
}

fn warn(warnings: &[cogward_api::Finding], session: &mut Session<'_>) {
    for warning in warnings {
        session.output.say(&format!("warning: {warning}\n  fix: {}", warning.fix));
    }
}

/// A version by its number, its digest, the beginning of that, or `active`.
fn version_of(client: &Client, level: &PolicyScope, named: &str) -> Result<Digest, Failure> {
    if let Ok(digest) = named.parse() {
        return Ok(digest);
    }
    let missing =
        |what: String| Failure::new(Exit::NotFound, what).next(format!("cogward policy list --level {level}"));
    if named == "active" {
        let level: PolicyLevel = client.get(&paths::policy(level))?;
        return level.active.ok_or_else(|| missing(format!("no version is active at {}", level.level)));
    }
    let versions: Vec<PolicyVersion> = client.list(&paths::policy_versions(level), &PageQuery::default(), None)?;
    let beginning = named.strip_prefix("sha256:").unwrap_or(named);
    let mut found = versions.iter().filter(|version| {
        // A number is a number, so that the first version is not mistaken for a digest.
        named.parse::<u64>().map_or_else(
            |_| beginning.len() >= 6 && version.digest.hex().starts_with(beginning),
            |number| version.number == number,
        )
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.digest),
        (Some(_), Some(_)) => Err(Failure::usage(format!("`{named}` begins the digest of more than one version"))),
        (None, _) => Err(missing(format!("{level} has no version `{}`", named.chars().take(80).collect::<String>()))),
    }
}
