//! `cogward tool-server`.

use std::collections::BTreeMap;

use cogward_api::{Credential, PageQuery, ReasonQuery, Tool, ToolServer, ToolServerPut, paths};
use cogward_model::upstream::{
    ApiCredential, BreakerLimits, ClientAuthentication, OAuthClient, OpenApiDocument, ToolMount, ToolNetwork,
    ToolSandbox, ToolServerLimits, ToolTransport,
};

use super::Session;
use crate::{
    args::{self, CredentialFlag, OAuthBy, OAuthFlags, OpenApiFlags, ToolServerAdd, ToolServerLimitFlags},
    exit::{Exit, Failure},
    output::Format,
    settings,
};

pub fn run(command: args::ToolServer, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::ToolServer::Add(add) => {
            let path = paths::tool_server(&add.tenant.tenant, &add.name);
            let tools = paths::tools(&add.tenant.tenant, &add.name);
            let put = put(*add)?;
            let approve = put.approve_tools;
            let client = session.client()?;
            let server: ToolServer = client.put(&path, &put)?;
            session.output.one(&server)?;
            if session.output.format == Format::Table {
                made_from(&server, session);
                let tools: Vec<Tool> = client.list(&tools, &PageQuery::default(), None)?;
                super::tools::after_adding(&tools, approve, session);
            }
        }
        args::ToolServer::List { tenant, limit } => {
            let path = paths::tool_servers(&tenant.tenant);
            let servers: Vec<ToolServer> = session.client()?.list(&path, &PageQuery::default(), limit.count())?;
            session.output.list(&servers)?;
        }
        args::ToolServer::Show { name, tenant } => {
            let server: ToolServer = session.client()?.get(&paths::tool_server(&tenant.tenant, &name))?;
            session.output.one(&server)?;
            if session.output.format == Format::Table {
                made_from(&server, session);
            }
        }
        args::ToolServer::Remove { name, tenant, reason } => {
            let query = ReasonQuery { reason: reason.reason };
            let path = paths::with_query(&paths::tool_server(&tenant.tenant, &name), &query)
                .map_err(|error| Failure::local("cannot make the request", error))?;
            session.client()?.delete(&path)?;
            session.output.say(&format!("Tool server {name} is removed and its credential forgotten."));
        }
    }
    Ok(Exit::Done)
}

fn put(add: ToolServerAdd) -> Result<ToolServerPut, Failure> {
    let mut command = add.command.into_iter();
    let transport = match (add.memory, add.server_url, command.next()) {
        (Some(_), ..) if add.openapi.openapi.is_some() => {
            return Err(Failure::usage("give one of --openapi FILE and --memory STORE"));
        }
        (Some(store), url, None) => super::memory::transport(store, url, add.memory_flags)?,
        (None, url, None) if add.openapi.openapi.is_some() => {
            openapi(url.unwrap_or_default(), add.openapi, add.credential_header, unique(add.header)?, oauth(add.oauth))?
        }
        (None, Some(url), None) => ToolTransport::Http {
            url,
            credential_header: add.credential_header,
            headers: unique(add.header)?,
            oauth: oauth(add.oauth),
        },
        (None, None, Some(program)) => ToolTransport::Stdio {
            command: program,
            args: command.collect(),
            env: unique(add.env)?,
            credential_env: add.credential_env,
            sandbox: match add.sandbox {
                args::ToolSandboxFlag::Standard => ToolSandbox::Standard,
                args::ToolSandboxFlag::None => ToolSandbox::None,
            },
            network: match add.network {
                args::ToolNetworkFlag::None => ToolNetwork::None,
                args::ToolNetworkFlag::Host => ToolNetwork::Host,
            },
            mounts: mounts(add.mount, add.mount_writable),
            memory_mib: add.memory_mib,
        },
        _ => {
            return Err(Failure::usage(
                "give one of --url URL, --openapi FILE, --memory STORE and --stdio -- PROGRAM [ARGUMENT]...",
            ));
        }
    };
    Ok(ToolServerPut {
        transport,
        limits: limits(add.limits),
        credential: credential(&add.credential)?,
        approve_tools: add.approve_tools,
        reason: add.reason.reason,
    })
}

fn openapi(
    url: String,
    flags: OpenApiFlags,
    credential_header: Option<String>,
    headers: BTreeMap<String, String>,
    oauth: Option<OAuthClient>,
) -> Result<ToolTransport, Failure> {
    let file = flags.openapi.unwrap_or_default();
    let text = std::fs::read_to_string(&file)
        .map_err(|error| Failure::local(format!("cannot read the OpenAPI document {}", file.display()), error))?;
    let credential = match (credential_header, flags.credential_query, flags.credential_basic) {
        (Some(name), ..) => ApiCredential::Header { name },
        (_, Some(name), _) => ApiCredential::Query { name },
        (_, _, true) => ApiCredential::Basic,
        _ => ApiCredential::Bearer,
    };
    let (include, exclude, deprecated) = (flags.include, flags.exclude, flags.deprecated);
    let document = OpenApiDocument { text, digest: None, include, exclude, deprecated };
    Ok(ToolTransport::OpenApi { url, document, credential, headers, oauth })
}

/// What a document gave and what it did not: nothing of it goes unsaid.
fn made_from(server: &ToolServer, session: &mut Session<'_>) {
    let Some(from) = &server.made_from else { return };
    let digest = match &server.transport {
        ToolTransport::OpenApi { document, .. } => document.digest.map(|digest| format!(" ({digest})")),
        _ => None,
    };
    let digest = digest.unwrap_or_default();
    let tools = from.operations;
    session
        .output
        .say(&format!("Made from the OpenAPI document `{}` {}{digest}: {tools} tools.", from.title, from.version));
    for credential in &from.credentials {
        session.output.say(&format!("It asks for a credential, {credential}."));
    }
    for left in &from.left_out {
        session.output.say(&format!("Left out: {}: {}.", left.what, left.why));
    }
}

fn mounts(read: Vec<String>, write: Vec<String>) -> Vec<ToolMount> {
    let mount = |writable| move |path| ToolMount { path, writable };
    read.into_iter().map(mount(false)).chain(write.into_iter().map(mount(true))).collect()
}

fn oauth(flags: OAuthFlags) -> Option<OAuthClient> {
    let authentication = match flags.oauth_by {
        OAuthBy::Basic => ClientAuthentication::SecretBasic,
        OAuthBy::Post => ClientAuthentication::SecretPost,
        OAuthBy::PrivateKey => ClientAuthentication::PrivateKeyJwt { key_id: flags.oauth_key_id },
    };
    Some(OAuthClient {
        client_id: flags.oauth_client_id?,
        token_endpoint: flags.oauth_token_endpoint,
        authentication,
        scopes: flags.oauth_scope,
        resource: flags.oauth_resource,
    })
}

fn limits(flags: ToolServerLimitFlags) -> ToolServerLimits {
    ToolServerLimits {
        concurrency: flags.concurrency,
        timeout_seconds: flags.timeout_seconds,
        retries: flags.retries,
        idempotent: flags.idempotent.into_iter().collect(),
        breaker: flags.breaker.map(|(failures, open_seconds)| BreakerLimits { failures, open_seconds }),
    }
}

/// Pairs as a map; a name that is given twice is a mistake, not a choice.
pub fn unique<T>(pairs: Vec<(String, T)>) -> Result<BTreeMap<String, T>, Failure> {
    let mut map = BTreeMap::new();
    for (name, value) in pairs {
        if map.contains_key(&name) {
            return Err(Failure::usage(format!("`{name}` is given twice")));
        }
        map.insert(name, value);
    }
    Ok(map)
}

/// The credential, where one was given.
pub fn credential(flag: &CredentialFlag) -> Result<Option<Credential>, Failure> {
    flag.credential_file.as_deref().map(|file| settings::read_credential(file).map(Credential::new)).transpose()
}
