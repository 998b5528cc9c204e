//! `cogward credential`.

use cogward_api::{Credential, EgressCredential, EgressCredentialPut, PageQuery, ReasonQuery, paths};

use super::Session;
use crate::{
    args::{self, CredentialAdd},
    exit::{Exit, Failure},
    settings,
};

pub fn run(command: args::Credential, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::Credential::Add(add) => {
            let CredentialAdd { name, host, port, header, credential_file, tenant, reason } = add;
            let path = paths::credential(&tenant.tenant, &name);
            let credential = Credential::new(settings::read_credential(&credential_file)?);
            let put = EgressCredentialPut { host, port, header, credential, reason: reason.reason };
            let stored: EgressCredential = session.client()?.put(&path, &put)?;
            session.output.one(&stored)?;
        }
        args::Credential::List { tenant, limit } => {
            let path = paths::credentials(&tenant.tenant);
            let all: Vec<EgressCredential> = session.client()?.list(&path, &PageQuery::default(), limit.count())?;
            session.output.list(&all)?;
        }
        args::Credential::Show { name, tenant } => {
            let stored: EgressCredential = session.client()?.get(&paths::credential(&tenant.tenant, &name))?;
            session.output.one(&stored)?;
        }
        args::Credential::Remove { name, tenant, reason } => {
            let query = ReasonQuery { reason: reason.reason };
            let path = paths::with_query(&paths::credential(&tenant.tenant, &name), &query)
                .map_err(|error| Failure::local("cannot make the request", error))?;
            session.client()?.delete(&path)?;
            session.output.say(&format!("Credential {name} is forgotten; the next request does not have it."));
        }
    }
    Ok(Exit::Done)
}
