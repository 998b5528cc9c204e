//! The tool servers and providers that operators connected, by tenant and name.
//!
//! Credentials come in here and go out only in requests to their own upstream; nothing here prints them.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use cogward_model::{TenantName, UpstreamName, upstream};
use zeroize::Zeroizing;

use crate::{
    egress::inspect::echo::Forms,
    inside::InsideServers,
    mcp::upstream::{Timeouts, ToolServerClient},
    model::provider::{ProviderClient, ProviderTimeouts},
    tool_process::{self, ServerProcesses},
};

/// A secret for one upstream.
#[derive(Clone)]
pub struct Credential(Zeroizing<String>);

impl Credential {
    /// Takes a secret. One that cannot stand in a header is refused when it is used.
    #[must_use]
    pub fn new(secret: Zeroizing<String>) -> Self {
        Self(secret)
    }

    /// The secret, for the request to its upstream and nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// A credential for one inspected host, with what its answers are watched for.
#[derive(Debug)]
pub struct StoredCredential {
    /// Where it belongs.
    pub config: upstream::EgressCredential,
    /// The secret.
    pub(crate) secret: Credential,
    /// The forms in which it could come back.
    pub(crate) forms: Arc<Forms>,
}

type Named<T> = RwLock<HashMap<(TenantName, UpstreamName), Arc<T>>>;

/// The labels of providers, for policies.
#[derive(Debug, Default)]
pub struct ProviderLabels(Named<BTreeSet<String>>);

impl ProviderLabels {
    /// The labels of a provider. Asked for every call of a model: nothing is waited for.
    #[must_use]
    pub fn of(&self, tenant: &TenantName, provider: &UpstreamName) -> Arc<BTreeSet<String>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&(tenant.clone(), provider.clone())).cloned().unwrap_or_default()
    }

    /// Says the labels of a provider: all of them.
    pub fn put(&self, tenant: &TenantName, provider: &UpstreamName, labels: BTreeSet<String>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert((tenant.clone(), provider.clone()), Arc::new(labels));
    }
}

/// All upstreams of a plane.
pub struct Upstreams {
    tool_servers: Named<ToolServerClient>,
    processes: RwLock<Arc<dyn ServerProcesses>>,
    inside: RwLock<Option<Arc<dyn InsideServers>>>,
    providers: Named<ProviderClient>,
    labels: Arc<ProviderLabels>,
    credentials: Named<StoredCredential>,
}

impl Default for Upstreams {
    fn default() -> Self {
        Self {
            tool_servers: Named::default(),
            processes: RwLock::new(tool_process::by_default()),
            inside: RwLock::default(),
            providers: Named::default(),
            labels: Arc::default(),
            credentials: Named::default(),
        }
    }
}

impl Upstreams {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The labels of the providers.
    #[must_use]
    pub fn provider_labels(&self) -> &Arc<ProviderLabels> {
        &self.labels
    }

    /// Has the processes of tool servers that are added from now on started by `processes`. Until then nothing is started
    /// that is to be confined.
    pub fn start_processes_by(&self, processes: Arc<dyn ServerProcesses>) {
        *self.processes.write().unwrap_or_else(PoisonError::into_inner) = processes;
    }

    /// Has tool servers that are part of the plane, and are added from now on, made by `inside`. Until then there are none.
    pub fn serve_inside_by(&self, inside: Arc<dyn InsideServers>) {
        *self.inside.write().unwrap_or_else(PoisonError::into_inner) = Some(inside);
    }

    /// A tool server as it would be put, which is not put.
    #[must_use]
    pub fn client(&self, server: upstream::ToolServer, credential: Option<Credential>) -> ToolServerClient {
        let inside = self.inside.read().unwrap_or_else(PoisonError::into_inner).clone();
        let inside = inside.and_then(|inside| inside.make(&server, credential.as_ref()));
        let client = ToolServerClient::new(server, credential).with_processes(self.processes());
        match inside {
            Some(Ok(inside)) => client.with_inside(inside),
            Some(Err(cause)) => client.beyond_use(cause),
            None => client,
        }
    }

    /// What starts the processes of tool servers.
    #[must_use]
    pub fn processes(&self) -> Arc<dyn ServerProcesses> {
        Arc::clone(&self.processes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds or replaces a tool server. Calls in flight end on the old one.
    pub fn put_tool_server(&self, server: upstream::ToolServer, credential: Option<Credential>) {
        self.put_tool_server_with(server, credential, Timeouts::default());
    }

    /// Like [`Self::put_tool_server`], with other limits of time.
    pub fn put_tool_server_with(
        &self,
        server: upstream::ToolServer,
        credential: Option<Credential>,
        timeouts: Timeouts,
    ) {
        let key = (server.tenant.clone(), server.name.clone());
        let client = Arc::new(self.client(server, credential).with_timeouts(timeouts));
        self.tool_servers.write().unwrap_or_else(PoisonError::into_inner).insert(key, client);
    }

    /// Removes a tool server. False when there is none.
    pub fn remove_tool_server(&self, tenant: &TenantName, name: &UpstreamName) -> bool {
        let key = (tenant.clone(), name.clone());
        self.tool_servers.write().unwrap_or_else(PoisonError::into_inner).remove(&key).is_some()
    }

    /// A tool server.
    #[must_use]
    pub fn tool_server(&self, tenant: &TenantName, name: &UpstreamName) -> Option<Arc<ToolServerClient>> {
        let key = (tenant.clone(), name.clone());
        self.tool_servers.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Adds or replaces a provider.
    ///
    /// # Errors
    /// What is wrong with its script or base URL.
    pub fn put_provider(
        &self,
        provider: upstream::Provider,
        credential: Option<Credential>,
    ) -> Result<(), crate::model::provider::ProviderError> {
        self.put_provider_with(provider, credential, ProviderTimeouts::default())
    }

    /// Adds or replaces a provider that is waited for otherwise than by default.
    ///
    /// # Errors
    /// As [`Self::put_provider`].
    pub fn put_provider_with(
        &self,
        provider: upstream::Provider,
        credential: Option<Credential>,
        timeouts: ProviderTimeouts,
    ) -> Result<(), crate::model::provider::ProviderError> {
        let key = (provider.tenant.clone(), provider.name.clone());
        let labels = provider.labels.iter().map(ToString::to_string).collect();
        let client = Arc::new(ProviderClient::new(provider, credential, timeouts)?);
        self.labels.put(&key.0, &key.1, labels);
        self.providers.write().unwrap_or_else(PoisonError::into_inner).insert(key, client);
        Ok(())
    }

    /// Adds or replaces a credential for an inspected host.
    pub fn put_egress_credential(&self, config: upstream::EgressCredential, secret: Credential) {
        let key = (config.tenant.clone(), config.name.clone());
        let forms = Arc::new(Forms::of(secret.expose()));
        let stored = Arc::new(StoredCredential { config, secret, forms });
        self.credentials.write().unwrap_or_else(PoisonError::into_inner).insert(key, stored);
    }

    /// Removes a credential; the next request does not find it. False when there is none.
    pub fn remove_egress_credential(&self, tenant: &TenantName, name: &UpstreamName) -> bool {
        let key = (tenant.clone(), name.clone());
        self.credentials.write().unwrap_or_else(PoisonError::into_inner).remove(&key).is_some()
    }

    /// A credential for an inspected host.
    #[must_use]
    pub fn egress_credential(&self, tenant: &TenantName, name: &UpstreamName) -> Option<Arc<StoredCredential>> {
        let key = (tenant.clone(), name.clone());
        self.credentials.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// A provider.
    #[must_use]
    pub fn provider(&self, tenant: &TenantName, name: &UpstreamName) -> Option<Arc<ProviderClient>> {
        let key = (tenant.clone(), name.clone());
        self.providers.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }
}
