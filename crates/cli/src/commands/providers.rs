//! `cogward provider`.

use cogward_api::{PageQuery, Provider, ProviderPut, paths};
use cogward_model::upstream::ProviderShape;

use super::{
    Session, read_text,
    tool_servers::{credential, unique},
};
use crate::{
    args::{self, ProviderAdd, ProviderKind},
    exit::{Exit, Failure},
};

/// Largest script of a scripted provider, in bytes.
const SCRIPT_BYTES_MAX: usize = 1024 * 1024;

pub fn run(command: args::Provider, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::Provider::Add(add) => {
            let path = paths::provider(&add.tenant.tenant, &add.name);
            let put = put(add)?;
            if put.prices.is_empty() {
                session.output.say("No --price is given: every model of this provider will be refused.");
            }
            let provider: Provider = session.client()?.put(&path, &put)?;
            session.output.one(&provider)?;
        }
        args::Provider::List { tenant, limit } => {
            let path = paths::providers(&tenant.tenant);
            let providers: Vec<Provider> = session.client()?.list(&path, &PageQuery::default(), limit.count())?;
            session.output.list(&providers)?;
        }
        args::Provider::Show { name, tenant } => {
            let provider: Provider = session.client()?.get(&paths::provider(&tenant.tenant, &name))?;
            session.output.one(&provider)?;
        }
    }
    Ok(Exit::Done)
}

fn put(add: ProviderAdd) -> Result<ProviderPut, Failure> {
    let shape = match (add.kind, add.base_url, add.script) {
        (Some(ProviderKind::Openai), Some(base_url), None) => ProviderShape::OpenAi { base_url },
        (Some(ProviderKind::Anthropic), Some(base_url), None) => ProviderShape::Anthropic { base_url },
        (None, None, Some(script)) => {
            ProviderShape::Scripted { script: read_text(&script, "the script", SCRIPT_BYTES_MAX)? }
        }
        _ => return Err(Failure::usage("give either --kind KIND --base-url BASE-URL or --script FILE")),
    };
    let credential = credential(&add.credential)?;
    let labels = add.label.into_iter().collect();
    Ok(ProviderPut { shape, prices: unique(add.price)?, labels, credential, reason: add.reason.reason })
}
