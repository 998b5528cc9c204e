//! What the door answers by itself: metadata, challenges, refusals. Everything in them is the operator's or a fixed word.

use axum::{body::Body, response::Response};
use cogward_identity::access::ALGORITHMS;
use cogward_model::outside::SCOPE;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::place::Place;

/// How long metadata may be kept.
const METADATA_KEPT: &str = "max-age=300";

/// What a tenant's issuers are, as far as a stranger is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// What their tokens say in `iss`.
    pub(super) issuers: Vec<String>,
    /// Whether one of them may give tokens that are bound to nothing.
    pub(super) bearer: bool,
}

/// The metadata of a resource (RFC 9728). The same for every name, registered or not.
pub(super) fn metadata(place: &Place, told: &Told) -> Response {
    let body = json!({
        "resource": place.resource,
        "authorization_servers": told.issuers,
        "scopes_supported": [SCOPE],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ALGORITHMS,
        "dpop_bound_access_tokens_required": !told.bearer,
    });
    let mut response = json_answer(StatusCode::OK, &body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(METADATA_KEPT));
    response
}

/// 401, with where to get a token. `error` is an OAuth error code; none where nothing was sent.
pub(super) fn unauthorized(place: &Place, told: &Told, error: Option<&'static str>) -> Response {
    let body = json!({
        "error": error.unwrap_or("unauthorized"),
        "error_description": "send an access token for this resource, with a proof of its key",
    });
    let mut response = json_answer(StatusCode::UNAUTHORIZED, &body);
    challenge(&mut response, place, told, error, None);
    response
}

/// 403: the token does not have the scope.
pub(super) fn insufficient_scope(place: &Place, told: &Told) -> Response {
    let body = json!({
        "error": "insufficient_scope",
        "error_description": format!("the token needs the scope `{SCOPE}`"),
        "scope": SCOPE,
    });
    let mut response = json_answer(StatusCode::FORBIDDEN, &body);
    challenge(&mut response, place, told, Some("insufficient_scope"), Some(SCOPE));
    response
}

/// 403: this client is not let in here, or there is no such agent; which of the two is not said.
pub(super) fn access_denied() -> Response {
    refusal(StatusCode::FORBIDDEN, "access_denied", "this client may not act as this agent")
}

/// A refusal in two words.
pub(super) fn refusal(status: StatusCode, error: &'static str, why: &str) -> Response {
    let mut response = json_answer(status, &json!({ "error": error, "error_description": why }));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
    }
    response
}

fn challenge(
    response: &mut Response,
    place: &Place,
    told: &Told,
    error: Option<&'static str>,
    scope: Option<&'static str>,
) {
    let metadata = &place.metadata;
    let error = error.map(|error| format!(r#"error="{error}", "#)).unwrap_or_default();
    let scope = scope.map(|scope| format!(r#"scope="{scope}", "#)).unwrap_or_default();
    let algs = ALGORITHMS.join(" ");
    let mut schemes = vec![format!(r#"DPoP {error}{scope}algs="{algs}", resource_metadata="{metadata}""#)];
    if told.bearer {
        schemes.push(format!(r#"Bearer {error}{scope}resource_metadata="{metadata}""#));
    }
    for scheme in schemes {
        // Names and the operator's own address: nothing in it cannot stand in a header.
        if let Ok(value) = HeaderValue::from_str(&scheme) {
            response.headers_mut().append(header::WWW_AUTHENTICATE, value);
        }
    }
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
