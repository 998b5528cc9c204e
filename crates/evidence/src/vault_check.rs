//! A start's look at the vault: what the log was sealed with must be there.
//!
//! A file of data keys that was removed opens nothing any more, and no two people were asked. A file holds the keys of
//! thirty days, one record behind the other and none ever taken out, so the first and the newest key that the log names
//! for each span tell a file that is gone, was cut or began anew; nothing is scanned for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use cogward_model::TenantName;

use crate::{
    data_keys::{Found, KeyId, block_of},
    frames,
    keys::KeyringError,
    record::Shared,
    seen,
};

/// Tenants and spans that one finding names.
const NAMED_MAX: usize = 16;

/// The first and the newest key of each tenant and span of days in what was read of the log.
#[derive(Debug, Default)]
pub(crate) struct SealedWith(HashMap<String, BTreeMap<u32, (KeyId, KeyId)>>);

impl SealedWith {
    /// A sealed value.
    pub(crate) fn sealed(&mut self, payload: &[u8]) {
        let Some((tenant, rest)) = frames::split_text(payload) else { return };
        let Some(id) = rest.first_chunk().copied() else { return };
        let spans = match self.0.get_mut(tenant) {
            Some(spans) => spans,
            None => self.0.entry(tenant.to_owned()).or_default(),
        };
        spans.entry(block_of(&id)).or_insert((id, id)).1 = id;
    }

    /// Looks whether the keys are there, and says which are not.
    pub(crate) fn check(&self, shared: &Arc<Shared>) {
        let mut gone = Vec::new();
        for (name, spans) in &self.0 {
            let Ok(tenant) = name.parse::<TenantName>() else { continue };
            for (block, (first, newest)) in spans {
                match is_gone(shared, &tenant, [first, newest]) {
                    Ok(false) => {}
                    Ok(true) => {
                        let file = shared.dir.join("vault").join(name).join(format!("{block}.deks"));
                        tracing::warn!(
                            file = %file.display(),
                            "keys of values of tenant {tenant} are gone and no redaction destroyed them: what they sealed \
                             opens for nobody; bring `evidence/vault` back from a backup"
                        );
                        gone.push(format!("{name}/{block}.deks"));
                    }
                    Err(error) => tracing::error!(%error, %tenant, "the keys of values cannot be read"),
                }
            }
        }
        if !gone.is_empty() {
            gone.sort();
            let more = if gone.len() > NAMED_MAX { ", and more" } else { "" };
            let named = gone.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            let detail = format!("keys of values are gone and no redaction destroyed them: vault {named}{more}");
            seen::finding(shared, "vault_keys_missing", detail);
        }
    }
}

fn is_gone(shared: &Shared, tenant: &TenantName, ids: [&KeyId; 2]) -> Result<bool, KeyringError> {
    let keys = shared.keyring.tenant(tenant)?;
    for id in ids {
        if matches!(keys.data.find(id)?, Found::Gone) {
            return Ok(true);
        }
    }
    Ok(false)
}
