//! `cogward agent`.

use cogward_api::{Agent, AgentQuery, AgentVersion, Warm, WarmPut, paths};

use super::{Session, packages};
use crate::{
    args,
    exit::{Exit, Failure},
};

pub fn run(command: args::Agent, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::Agent::Init { name, directory } => packages::init(&name, &directory, session),
        args::Agent::Register { file, dry_run, reason } => packages::register(&file, dry_run, reason.reason, session),
        args::Agent::List { tenant, limit } => {
            let path = paths::agents(&tenant.tenant);
            let agents: Vec<Agent> = session.client()?.list(&path, &AgentQuery::default(), limit.count())?;
            session.output.list(&agents).map(|()| Exit::Done)
        }
        args::Agent::Show { name, version: None, tenant } => {
            let agent: Agent = session.client()?.get(&paths::agent(&tenant.tenant, &name))?;
            session.output.one(&agent).map(|()| Exit::Done)
        }
        args::Agent::Show { name, version: Some(label), tenant } => {
            let path = paths::version(&tenant.tenant, &name, &label);
            let version: AgentVersion = session.client()?.get(&path)?;
            session.output.one(&version).map(|()| Exit::Done)
        }
        args::Agent::Warm { name, version, count, tenant, reason } => {
            let client = session.client()?;
            let version = match version {
                Some(version) => version,
                None => client.get::<Agent>(&paths::agent(&tenant.tenant, &name))?.latest,
            };
            let path = paths::warm(&tenant.tenant, &name, &version);
            let warm: Warm = match count {
                Some(count) => client.put(&path, &WarmPut { count, reason: reason.reason })?,
                None => client.get(&path)?,
            };
            session.output.one(&warm).map(|()| Exit::Done)
        }
    }
}
