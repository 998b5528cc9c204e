//! The state's word against the ledger's, at start.
//!
//! The ledger finds by its own checkpoints that it was cut short. Where they are gone with what they signed,
//! nothing in it says so; but the state remembers that there were operators, and which leaf each of the last
//! commands is proven by. A ledger that lacks these was rolled back or replaced, and no plane begins on it.

use std::collections::HashMap;

use cogward_engine::Receipt;
use cogward_evidence::{Evidence, RecordError};
use cogward_model::TenantName;
use cogward_store::{PageRequest, Store};

use crate::boot::ServeError;

/// Commands that are asked: the last one with a receipt is the latest witness; a few more are for other tenants.
const COMMANDS: u32 = 200;

/// Refuses a ledger that is older than the state.
pub(crate) async fn check(store: &Store, evidence: &Evidence) -> Result<(), ServeError> {
    let first_start = store.operators(&PageRequest { after: None, limit: 1 }).await?.items.is_empty();
    if first_start {
        return Ok(());
    }
    let mut leaves: HashMap<TenantName, u64> = HashMap::new();
    let mut needed = vec![(TenantName::default_tenant(), 0)];
    for row in store.operations_latest(COMMANDS).await? {
        let receipt = row.receipt_json.as_deref().and_then(|text| serde_json::from_str::<Receipt>(text).ok());
        needed.extend(receipt.and_then(|receipt| receipt.evidence).map(|place| (place.tenant, place.seq)));
    }
    for (tenant, seq) in needed {
        let size = match leaves.get(&tenant) {
            Some(size) => *size,
            // A ledger that cannot sign says by itself what is wrong with it.
            None => match evidence.checkpoint(&tenant).await {
                Ok(signed) => signed.size,
                Err(error @ RecordError::Unsigned(_)) => return Err(ServeError::Record(error.to_string())),
                Err(_) => return Ok(()),
            },
        };
        if size <= seq {
            return Err(ServeError::Rollback { tenant, leaves: size, leaf: seq });
        }
        leaves.insert(tenant, size);
    }
    Ok(())
}
