//! One model provider.
use crate::upstreams::Credential;
use cogward_model::upstream::Provider;

/// Why a provider cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the provider cannot be used: {0}")]
pub struct ProviderError(pub String);

/// A model provider.
pub struct ProviderClient {
    provider: Provider,
    credential: Option<Credential>,
}

impl ProviderClient {
    /// Checks the configuration.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub fn new(provider: Provider, credential: Option<Credential>) -> Result<Self, ProviderError> {
        Ok(Self { provider, credential })
    }
}
