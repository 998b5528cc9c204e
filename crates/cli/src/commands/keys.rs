//! `cogward evidence keys`.

use cogward_api::{KeyRevocation, KeyRotation, KeyWhy, KeysQuery, LogKeys, paths};

use super::Session;
use crate::{
    args::{Keys, LogFlags, WhyWord},
    exit::{Exit, Failure},
    output::Format,
};

fn keys(log: &LogFlags, session: &mut Session<'_>) -> Result<LogKeys, Failure> {
    let query = KeysQuery { plane: log.plane.then_some(true) };
    let path = paths::with_query(&paths::evidence_keys(&log.tenant()), &query);
    session.client()?.get(&path.map_err(|error| Failure::usage(error.to_string()))?)
}

fn shown(keys: &LogKeys, session: &mut Session<'_>) -> Result<Exit, Failure> {
    if session.output.format != Format::Table {
        session.output.one(keys)?;
        return Ok(Exit::Done);
    }
    session.output.list(&keys.keys)?;
    if let Some(request) = &keys.request {
        session.output.say(&format!(
            "{} asked for `{}` at {}. Another operator confirms it with:",
            request.by, request.change, request.at
        ));
        session.output.say(&format!("  cogward evidence keys confirm {} --reason ...", request.id));
    }
    Ok(Exit::Done)
}

pub fn run(command: Keys, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let now: LogKeys = match command {
        Keys::List { log } => keys(&log, session)?,
        Keys::Rotate { overlap_days, log, reason } => {
            let asked = KeyRotation {
                plane: log.plane,
                overlap_days: Some(overlap_days),
                reason: Some(reason.reason),
                ..KeyRotation::default()
            };
            session.client()?.post(&paths::evidence_keys_change(&log.tenant(), "rotate"), &asked)?
        }
        Keys::Revoke { generation, why, size, log, reason } => {
            let why = match why {
                WhyWord::Compromised => KeyWhy::Compromised,
                WhyWord::Lost => KeyWhy::Lost,
                WhyWord::Superseded => KeyWhy::Superseded,
            };
            let asked = KeyRevocation {
                plane: log.plane,
                generation: Some(generation),
                size,
                why: Some(why),
                reason: Some(reason.reason),
                ..KeyRevocation::default()
            };
            session.client()?.post(&paths::evidence_keys_change(&log.tenant(), "revoke"), &asked)?
        }
        Keys::Confirm { request, log, reason } => {
            let waiting = keys(&log, session)?.request.filter(|waiting| waiting.id == request);
            let (plane, confirms, reason) = (log.plane, Some(request), Some(reason.reason));
            // What does not wait any more is for the plane to refuse.
            if waiting.is_some_and(|waiting| waiting.change == "revoke") {
                let confirmed = KeyRevocation { plane, confirms, reason, ..KeyRevocation::default() };
                session.client()?.post(&paths::evidence_keys_change(&log.tenant(), "revoke"), &confirmed)?
            } else {
                let confirmed = KeyRotation { plane, confirms, reason, ..KeyRotation::default() };
                session.client()?.post(&paths::evidence_keys_change(&log.tenant(), "rotate"), &confirmed)?
            }
        }
    };
    shown(&now, session)
}
