//! `cogward evidence redact`, `hold` and `retain`.

use std::{fs, os::unix::fs::DirBuilderExt, path::Path};

use cogward_api::{
    ErasureReceipt, Hold, HoldRequest, PageQuery, Reason, Redaction, RedactionQuery, RedactionRequest, Retention,
    RetentionRequest, paths,
};
use cogward_model::redaction::RedactionState;

use super::Session;
use crate::{
    args::{self, RedactionWord},
    exit::{Exit, Failure},
    output::Format,
};

/// What checks a receipt without the plane.
const VERIFIER: &str = include_str!("../../../../scripts/verify-receipt.py");

fn word(word: RedactionWord) -> RedactionState {
    match word {
        RedactionWord::Requested => RedactionState::Requested,
        RedactionWord::Approved => RedactionState::Approved,
        RedactionWord::Denied => RedactionState::Denied,
        RedactionWord::Executing => RedactionState::Executing,
        RedactionWord::Executed => RedactionState::Executed,
    }
}

pub fn redact(command: args::Redact, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (id, tenant, step, reason) = match command {
        args::Redact::Request { what, ground, tenant, reason } => {
            let scope = what.scope().ok_or_else(|| Failure::usage("say what is to be erased"))?;
            let request = RedactionRequest { scope, ground, reason: Some(reason.reason) };
            let asked: Redaction = client.post(&paths::redactions(&tenant.tenant), &request)?;
            session.output.one(&asked)?;
            return Ok(Exit::Done);
        }
        args::Redact::List { state, tenant, limit } => {
            let query = RedactionQuery { state: state.map(word), ..RedactionQuery::default() };
            let all: Vec<Redaction> = client.list(&paths::redactions(&tenant.tenant), &query, limit.count())?;
            session.output.list(&all)?;
            return Ok(Exit::Done);
        }
        args::Redact::Show { redaction, tenant } => {
            let shown: Redaction = client.get(&paths::redaction(&tenant.tenant, redaction))?;
            session.output.one(&shown)?;
            return Ok(Exit::Done);
        }
        args::Redact::Receipt { redaction, directory, tenant } => {
            if directory.symlink_metadata().is_ok() {
                return Err(Failure::new(Exit::Conflict, format!("{} exists already", directory.display()))
                    .next("name a directory that does not exist yet"));
            }
            let receipt: ErasureReceipt = client.get(&paths::redaction_step(&tenant.tenant, redaction, "receipt"))?;
            write(&receipt, &directory).map_err(|error| {
                Failure::local(format!("cannot write the receipt into {}", directory.display()), error)
            })?;
            session.output.say("It names nobody. Whoever has it checks it, offline, with:");
            session.output.say(&format!("  python3 {0}/verify-receipt.py {0} --key KEY", directory.display()));
            session.output.line(&directory.display().to_string())?;
            return Ok(Exit::Done);
        }
        args::Redact::Approve { redaction, tenant, reason } => (redaction, tenant, "approve", reason),
        args::Redact::Deny { redaction, tenant, reason } => (redaction, tenant, "deny", reason),
        args::Redact::Execute { redaction, tenant, reason } => (redaction, tenant, "execute", reason),
    };
    let path = paths::redaction_step(&tenant.tenant, id, step);
    let now: Redaction = client.post(&path, &Reason { reason: reason.reason })?;
    session.output.one(&now)?;
    Ok(Exit::Done)
}

fn write(receipt: &ErasureReceipt, directory: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(directory)?;
    fs::write(directory.join("receipt.txt"), &receipt.text)?;
    fs::write(directory.join("verify-receipt.py"), VERIFIER)?;
    let json = serde_json::to_vec_pretty(receipt).map_err(std::io::Error::other)?;
    fs::write(directory.join("receipt.json"), json)
}

pub fn hold(command: args::Hold, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (id, tenant, step, reason) = match command {
        args::Hold::Place { what, tenant, reason } => {
            let scope = what.scope().ok_or_else(|| Failure::usage("say what is to be held"))?;
            let request = HoldRequest { scope, reason: Some(reason.reason) };
            let asked: Hold = client.post(&paths::holds(&tenant.tenant), &request)?;
            session.output.one(&asked)?;
            return Ok(Exit::Done);
        }
        args::Hold::List { tenant, limit } => {
            let all: Vec<Hold> = client.list(&paths::holds(&tenant.tenant), &PageQuery::default(), limit.count())?;
            session.output.list(&all)?;
            return Ok(Exit::Done);
        }
        args::Hold::Show { hold, tenant } => {
            let shown: Hold = client.get(&paths::hold(&tenant.tenant, hold))?;
            session.output.one(&shown)?;
            return Ok(Exit::Done);
        }
        args::Hold::Confirm { hold, tenant, reason } => (hold, tenant, "place", reason),
        args::Hold::Release { hold, tenant, reason } => (hold, tenant, "release", reason),
    };
    let now: Hold = client.post(&paths::hold_step(&tenant.tenant, id, step), &Reason { reason: reason.reason })?;
    session.output.one(&now)?;
    Ok(Exit::Done)
}

pub fn retain(
    dry_run: bool,
    tenant: &args::TenantFlag,
    reason: String,
    session: &mut Session<'_>,
) -> Result<Exit, Failure> {
    let request = RetentionRequest { dry_run, reason: Some(reason) };
    let done: Retention = session.client()?.post(&paths::retention(&tenant.tenant), &request)?;
    if session.output.format == Format::Table {
        let what = if dry_run { "are due and would be erased" } else { "were due and are erased" };
        session.output.say(&format!("{} values {what}; {} more are due and held.", done.values, done.held));
        session.output.list(&done.runs)?;
    } else {
        session.output.one(&done)?;
    }
    Ok(Exit::Done)
}
