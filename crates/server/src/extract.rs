//! Reading requests: every bound and every refusal in one form.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use cogward_api::{IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_BYTES_MAX, ProblemCode};
use cogward_identity::Operator;
use http::{HeaderMap, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// Largest JSON body: an input of 1 MiB in which every byte is escaped.
pub(crate) const JSON_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The operator who sent the request.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Operator);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        // Put there by the layer of every route that needs a credential.
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Failure::new(ProblemCode::Unauthenticated, "no credential"))
    }
}

/// The names in the path.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(params) =
            Path::<T>::from_request_parts(parts, state).await.map_err(|e| Failure::invalid(e.body_text()))?;
        Ok(Self(params))
    }
}

/// The query.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Query(query) =
            Query::<T>::from_request_parts(parts, state).await.map_err(|e| Failure::invalid(e.body_text()))?;
        Ok(Self(query))
    }
}

/// A JSON body, with its bytes for the digest of an idempotent request.
pub(crate) struct Json<T> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let given = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let kind = given.split(';').next().unwrap_or("").trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(Failure::new(ProblemCode::UnsupportedMediaType, "the body must be application/json"));
        }
        let bytes = read(request.into_body(), JSON_BYTES_MAX).await?;
        Ok(Self { value: object(&bytes)?, bytes })
    }
}

/// A JSON object. serde would also take a list whose items are the fields in their order.
pub(crate) fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Failure::invalid("the body is not a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|e| Failure::invalid(format!("the body: {e}")))
}

/// A whole body of at most `max` bytes.
pub(crate) async fn read(body: Body, max: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Failure::new(ProblemCode::PayloadTooLarge, format!("the body is larger than {max} bytes")))
        }
        Err(_) => Err(Failure::invalid("the body broke off")),
    }
}

/// The idempotency key of a command.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let refuse = || {
        Failure::invalid(format!("`{IDEMPOTENCY_KEY}` has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"))
    };
    let key = value.to_str().map_err(|_| refuse())?;
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refuse());
    }
    Ok(Some(key.to_owned()))
}
