//! `cogward tenant`.

use cogward_api::{PageQuery, Tenant, TenantCreate, paths};

use super::Session;
use crate::{
    args,
    exit::{Exit, Failure},
};

pub fn run(command: args::Tenant, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    match command {
        args::Tenant::List { limit } => {
            let tenants: Vec<Tenant> = client.list(paths::TENANTS, &PageQuery::default(), limit.count())?;
            session.output.list(&tenants)?;
        }
        args::Tenant::Create { name, reason } => {
            let create = TenantCreate { name, reason: reason.reason };
            let tenant: Tenant = client.post(paths::TENANTS, &create)?;
            session.output.one(&tenant)?;
        }
    }
    Ok(Exit::Done)
}
