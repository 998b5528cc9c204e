//! Memories as tool servers of the plane's own.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use cogward_gateway::{
    Credential,
    inside::{InsideError, InsideOffers, InsideRequest, InsideServer, InsideServers},
    policy::Who,
    tool_process::Pending,
};
use cogward_memory::{
    Memory, MemoryOptions, MemoryStore, StoreError, Subject,
    pgvector::{PgOptions, PgvectorMemory},
    qdrant::{QdrantMemory, QdrantOptions},
    sqlite::SqliteMemory,
    tools::{self, CallError},
};
use cogward_model::{
    Clock, Entropy,
    memory::MemoryBackend,
    upstream::{ToolServer, ToolTransport},
};
use zeroize::Zeroizing;

/// JSON-RPC: the parameters are wrong.
const INVALID_PARAMS: i64 = -32_602;
/// JSON-RPC: there is no such method.
const NO_METHOD: i64 = -32_601;

/// All memories of a plane.
pub(crate) struct PlaneMemories {
    /// Where those that are built in have their files.
    directory: PathBuf,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Files that are open: one that is added anew has the same writer.
    files: Mutex<HashMap<PathBuf, Weak<SqliteMemory>>>,
}

impl PlaneMemories {
    pub(crate) fn new(directory: PathBuf, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { directory, clock, entropy, files: Mutex::default() }
    }

    /// The memory of a configuration; none where it is not one.
    pub(crate) fn open(&self, server: &ToolServer, credential: Option<&Credential>) -> Option<Result<Memory, String>> {
        let ToolTransport::Memory { store, scope, dimensions, quota } = &server.transport else { return None };
        let options = MemoryOptions {
            tenant: server.tenant.clone(),
            name: server.name.clone(),
            scope: *scope,
            dimensions: *dimensions,
            quota: quota.clone(),
        };
        let memory = self.store(server, store, *dimensions, credential).and_then(|store| {
            let made = Memory::new(options, store, Arc::clone(&self.clock), Arc::clone(&self.entropy));
            made.map_err(|error| error.to_string())
        });
        Some(memory)
    }

    fn store(
        &self,
        server: &ToolServer,
        backend: &MemoryBackend,
        dimensions: Option<u32>,
        credential: Option<&Credential>,
    ) -> Result<Arc<dyn MemoryStore>, String> {
        let secret = credential.map(|secret| Zeroizing::new(secret.expose().to_owned()));
        match backend {
            MemoryBackend::Builtin {} if secret.is_some() => {
                Err("a memory that is built in has no credential".to_owned())
            }
            MemoryBackend::Builtin {} => Ok(self.file(server)),
            MemoryBackend::Pgvector { url, table, existing } => {
                let options = PgOptions { url, table: table.as_deref(), existing: existing.as_ref(), dimensions };
                Ok(Arc::new(PgvectorMemory::new(&options, secret)?))
            }
            MemoryBackend::Qdrant { url, collection } => {
                let options = QdrantOptions { url, collection: collection.as_deref(), dimensions };
                Ok(Arc::new(QdrantMemory::new(&options, secret)?))
            }
        }
    }

    fn file(&self, server: &ToolServer) -> Arc<SqliteMemory> {
        // Both names are of letters, digits and hyphens.
        let path = self.directory.join(server.tenant.as_str()).join(format!("{}.db", server.name));
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = files.get(&path).and_then(Weak::upgrade) {
            return open;
        }
        files.retain(|_, file| file.strong_count() > 0);
        let file = Arc::new(SqliteMemory::new(path.clone()));
        files.insert(path, Arc::downgrade(&file));
        file
    }
}

impl InsideServers for PlaneMemories {
    fn make(
        &self,
        server: &ToolServer,
        credential: Option<&Credential>,
    ) -> Option<Result<Arc<dyn InsideServer>, String>> {
        let memory = self.open(server, credential)?;
        Some(memory.map(|memory| Arc::new(MemoryServer(Arc::new(memory))) as Arc<dyn InsideServer>))
    }
}

/// A memory that is asked in the words of MCP.
#[derive(Debug)]
struct MemoryServer(Arc<Memory>);

impl InsideServer for MemoryServer {
    fn offers(&self) -> InsideOffers {
        InsideOffers { tools: true, resources: false }
    }

    fn answer(&self, request: InsideRequest) -> Pending<'static, Result<Bytes, InsideError>> {
        let memory = Arc::clone(&self.0);
        Box::pin(async move { answer(&memory, request).await })
    }
}

async fn answer(memory: &Memory, request: InsideRequest) -> Result<Bytes, InsideError> {
    let InsideRequest { who, method, params, room } = request;
    match method {
        "tools/list" => {
            // A memory whose store cannot be used is not offered.
            memory.ready().await.map_err(unready)?;
            Ok(tools::list(memory))
        }
        "tools/call" => {
            let Some(who) = who else {
                let message = "a memory is of somebody, and this call is of nobody".to_owned();
                return Err(InsideError::Rejected { code: INVALID_PARAMS, message });
            };
            if tools::answers_at_length(&params) {
                room.large().await?;
            }
            tools::call(memory, subject(&who), &params).await.map_err(|error| match error {
                CallError::Unknown(message) => InsideError::Rejected { code: INVALID_PARAMS, message },
                CallError::Unavailable { cause, sent } => InsideError::Unavailable { cause, sent },
            })
        }
        _ => Err(InsideError::Rejected { code: NO_METHOD, message: format!("a memory has no `{method}`") }),
    }
}

fn subject(who: &Who) -> Subject {
    Subject { tenant: who.tenant.clone(), run: who.run, user: who.user.clone(), agent: who.agent.clone() }
}

fn unready(error: StoreError) -> InsideError {
    let sent = matches!(error, StoreError::Unavailable { sent: true, .. });
    InsideError::Unavailable { cause: error.to_string(), sent }
}
