//! `cogward memory`, and the flags of `cogward tool-server add --memory`.

use cogward_api::{MemoryForget, MemoryForgotten, MemoryUsage, paths};
use cogward_model::{
    memory::{MemoryBackend, MemoryQuota, MemoryScope},
    upstream::ToolTransport,
};

use super::{Session, tool_servers::unique};
use crate::{
    args::{self, MemoryFlags, MemoryScopeFlag, MemoryStoreFlag},
    exit::{Exit, Failure},
    output::{Cell, Show},
};

pub fn run(command: args::Memory, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    match command {
        args::Memory::Show { server, tenant } => {
            let usage: MemoryUsage = client.get(&paths::memory(&tenant.tenant, &server))?;
            session.output.one(&usage)?;
        }
        args::Memory::Forget { server, user, everybody, tenant, reason } => {
            let forget = MemoryForget { user, everybody, reason: Some(reason.reason) };
            let done: MemoryForgotten = client.post(&paths::memory_forget(&tenant.tenant, &server), &forget)?;
            session.output.one(&done)?;
        }
    }
    Ok(Exit::Done)
}

/// The transport of a memory.
pub fn transport(store: MemoryStoreFlag, url: Option<String>, flags: MemoryFlags) -> Result<ToolTransport, Failure> {
    let store = match (store, url) {
        (MemoryStoreFlag::Builtin, Some(_)) => {
            return Err(Failure::usage("a memory that is built in has no --url"));
        }
        (MemoryStoreFlag::Pgvector | MemoryStoreFlag::Qdrant, None) => {
            return Err(Failure::usage("say with --url where the store of the memory is"));
        }
        (MemoryStoreFlag::Builtin, None) => MemoryBackend::Builtin {},
        (MemoryStoreFlag::Pgvector, Some(url)) => MemoryBackend::Pgvector {
            url,
            table: flags.table.clone(),
            existing: flags.existing_table.then(|| unique(flags.column)).transpose()?,
        },
        (MemoryStoreFlag::Qdrant, Some(url)) => MemoryBackend::Qdrant { url, collection: flags.collection.clone() },
    };
    if flags.table.is_some() && !matches!(store, MemoryBackend::Pgvector { .. }) {
        return Err(Failure::usage("--table goes with --memory pgvector"));
    }
    if flags.collection.is_some() && !matches!(store, MemoryBackend::Qdrant { .. }) {
        return Err(Failure::usage("--collection goes with --memory qdrant"));
    }
    let scope = match flags.scope {
        None | Some(MemoryScopeFlag::AgentAndUser) => MemoryScope::AgentAndUser,
        Some(MemoryScopeFlag::User) => MemoryScope::User,
        Some(MemoryScopeFlag::Agent) => MemoryScope::Agent,
        Some(MemoryScopeFlag::Tenant) => MemoryScope::Tenant,
        Some(MemoryScopeFlag::Run) => MemoryScope::Run,
    };
    let quota = MemoryQuota { items: flags.quota_items, mib: flags.quota_mib, ttl_seconds: flags.ttl_seconds };
    Ok(ToolTransport::Memory { store, scope, dimensions: flags.dimensions, quota })
}

impl Show for MemoryUsage {
    const PLURAL: &'static str = "memories";
    const HEAD: &'static [&'static str] = &["SERVER", "TENANT", "STORE", "SCOPE", "MEMORIES", "BYTES"];
    fn row(&self) -> Vec<Cell> {
        vec![
            Cell::from(&self.server),
            Cell::from(&self.tenant),
            self.store.as_str().into(),
            self.scope.as_str().into(),
            self.items.to_string().into(),
            self.bytes.map(|bytes| bytes.to_string()).unwrap_or_default().into(),
        ]
    }
    fn name(&self) -> String {
        self.server.to_string()
    }
}

impl Show for MemoryForgotten {
    const PLURAL: &'static str = "memories";
    const HEAD: &'static [&'static str] = &["SERVER", "TENANT", "FORGOTTEN"];
    fn row(&self) -> Vec<Cell> {
        vec![Cell::from(&self.server), Cell::from(&self.tenant), self.forgotten.to_string().into()]
    }
    fn name(&self) -> String {
        self.server.to_string()
    }
}
