//! `cogward issuer`.

use cogward_api::{Issuer, IssuerPut, PageQuery, ReasonQuery, paths};
use cogward_model::outside::IssuerKeys;

use super::{Session, read_text};
use crate::{
    args::{self, IssuerAdd},
    exit::{Exit, Failure},
};

/// Largest document of keys that is read.
const JWKS_BYTES_MAX: usize = 64 * 1024;

pub fn run(command: args::Issuer, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::Issuer::Add(add) => {
            let IssuerAdd { name, issuer, jwks_file, jwks_url, bearer_in_development, tenant, reason } = add;
            let keys = match (jwks_file, jwks_url) {
                (Some(file), _) => IssuerKeys::Given { jwks: read_text(&file, "the keys", JWKS_BYTES_MAX)? },
                (None, Some(url)) => IssuerKeys::Url { url },
                (None, None) => return Err(Failure::usage("name the keys with --jwks-file or --jwks-url")),
            };
            let put = IssuerPut { issuer, keys, bearer_in_development, reason: reason.reason };
            let stored: Issuer = session.client()?.put(&paths::issuer(&tenant.tenant, &name), &put)?;
            session.output.one(&stored)?;
        }
        args::Issuer::List { tenant, limit } => {
            let path = paths::issuers(&tenant.tenant);
            let all: Vec<Issuer> = session.client()?.list(&path, &PageQuery::default(), limit.count())?;
            session.output.list(&all)?;
        }
        args::Issuer::Show { name, tenant } => {
            let stored: Issuer = session.client()?.get(&paths::issuer(&tenant.tenant, &name))?;
            session.output.one(&stored)?;
        }
        args::Issuer::Remove { name, tenant, reason } => {
            let query = ReasonQuery { reason: reason.reason };
            let path = paths::with_query(&paths::issuer(&tenant.tenant, &name), &query)
                .map_err(|error| Failure::local("cannot make the request", error))?;
            session.client()?.delete(&path)?;
            session.output.say(&format!("Issuer {name} is trusted no more; its tokens are refused from now on."));
        }
    }
    Ok(Exit::Done)
}
