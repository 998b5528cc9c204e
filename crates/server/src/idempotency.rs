//! A command that is sent twice takes effect once and is answered alike.

use aws_lc_rs::digest;
use cogward_api::ProblemCode;
use cogward_engine::Claim;
use cogward_model::{Digest, RunId, id::OperationId};
use cogward_store::IdempotencyRow;
use http::{HeaderMap, Method, Uri};
use serde::Deserialize;

use crate::{
    extract::{Caller, idempotency_key},
    failure::Failure,
    plane::Plane,
};

/// What the row of a lifecycle command names.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Commanded {
    pub(crate) run: RunId,
    pub(crate) operation: OperationId,
}

/// The claim of a request that has a key.
pub(crate) fn claim(
    caller: &Caller,
    headers: &HeaderMap,
    method: &Method,
    uri: &Uri,
    body: &[u8],
) -> Result<Option<Claim>, Failure> {
    let Some(key) = idempotency_key(headers)? else { return Ok(None) };
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [method.as_str().as_bytes(), uri.path().as_bytes(), body] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0_u8; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Ok(Some(Claim { operator: caller.0.id.to_string(), key, request_digest: Digest::from_bytes(bytes) }))
}

/// The answer that was given under the claim before.
pub(crate) async fn earlier(plane: &Plane, claim: Option<&Claim>) -> Result<Option<IdempotencyRow>, Failure> {
    let Some(claim) = claim else { return Ok(None) };
    let Some(row) = plane.store.idempotency(&claim.operator, &claim.key).await? else { return Ok(None) };
    if row.request_digest != claim.request_digest {
        return Err(Failure::new(ProblemCode::IdempotencyConflict, "the idempotency key was used for another request")
            .next_step("use a new key for a new command"));
    }
    Ok(Some(row))
}

/// The command that was made under the claim before.
pub(crate) async fn earlier_command(plane: &Plane, claim: Option<&Claim>) -> Result<Option<Commanded>, Failure> {
    let Some(row) = earlier(plane, claim).await? else { return Ok(None) };
    let commanded = serde_json::from_str(&row.response);
    commanded.map(Some).map_err(|e| Failure::internal("a kept answer cannot be read", &e))
}
