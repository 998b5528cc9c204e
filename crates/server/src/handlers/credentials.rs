//! Credentials for inspected hosts: sealed, and sent to the one host that each was stored for.

use axum::{Json as Answer, extract::State, response::IntoResponse};
use cogward_api::{EgressCredential, EgressCredentialPut, Page, PageQuery};
use cogward_gateway::Credential;
use cogward_journal::JournalEvent;
use cogward_model::{
    TenantName, UpstreamName,
    event::EventType,
    manifest::{CredentialGrant, PLACEHOLDER_PREFIX},
    upstream,
};
use cogward_registry::manifest::canonical_host;
use cogward_store::CredentialRow;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use zeroize::Zeroizing;

use super::{
    bounded_reason, etag, known_tenant, page_of, precondition,
    tool_servers::{keep_secret, reason_of},
};
use crate::{
    events::by_operator,
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
};

/// A shorter one could not be told from other text in an answer.
const SECRET_BYTES_MIN: usize = 8;
/// Longest credential for an inspected host.
const SECRET_BYTES_MAX: usize = 8 * 1024;
/// Headers that the plane makes itself, or that say where a request goes.
const NOT_FOR_SECRETS: [HeaderName; 9] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::ACCEPT_ENCODING,
];

/// The name of the sealed secret.
pub(crate) fn secret_name(tenant: &TenantName, name: &UpstreamName) -> String {
    format!("egress-credential/{tenant}/{name}")
}

fn view(row: CredentialRow) -> EgressCredential {
    let upstream::EgressCredential { tenant, name, host, port, header } = row.config;
    let placeholder = CredentialGrant { name: name.clone(), env: None }.placeholder();
    EgressCredential { tenant, name, host, port, header, placeholder, updated: row.updated }
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<EgressCredential>>, Failure> {
    known_tenant(&app, &tenant).await?;
    let page = app.store.credentials(&tenant, &page_of(&query)).await?;
    Ok(Answer(super::on_the_wire(page, view)))
}

async fn found(plane: &Plane, tenant: &TenantName, name: &UpstreamName) -> Result<CredentialRow, Failure> {
    plane.store.credential(tenant, name).await?.ok_or_else(|| Failure::missing("credential", name))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
) -> Result<impl IntoResponse, Failure> {
    let row = found(&app, &tenant, &name).await?;
    Ok(([etag(row.revision)], Answer(view(row))))
}

pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
    headers: HeaderMap,
    body: Json<EgressCredentialPut>,
) -> Result<impl IntoResponse, Failure> {
    let EgressCredentialPut { host, port, header, credential, reason } = body.value;
    bounded_reason(reason.as_deref())?;
    known_tenant(&app, &tenant).await?;
    let host = canonical_host(&host).map_err(|why| Failure::invalid(format!("the host: {why}")).rule("host"))?;
    if port == 0 {
        return Err(Failure::invalid("the port is a number from 1 to 65535").rule("port"));
    }
    let header = usable_header(&header)?;
    let secret = Zeroizing::new(credential.into_exposed());
    usable_secret(&secret)?;
    let config = upstream::EgressCredential { tenant: tenant.clone(), name: name.clone(), host, port, header };

    let mut tx = app.store.begin().await?;
    precondition(&headers, tx.credential(&tenant, &name).await?.map(|row| row.revision))?;
    let at = tx.now();
    let revision = tx.credential_put(&config, &caller.0.name, at).await?;
    keep_secret(&app, &mut tx, &secret_name(&tenant, &name), Some(&secret)).await?;
    let event = by_operator(EventType::CredentialAdded, tenant.clone(), &caller.0, reason.as_deref())
        .public("credential", name.as_str())
        .public("revision", revision)
        .public("host", config.host.as_str())
        .public("port", u64::from(config.port))
        .public("header", config.header.as_str());
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    app.gateway.upstreams().put_egress_credential(config, Credential::new(secret));
    app.journal.publish(
        JournalEvent::tenant("credential.added", tenant.clone())
            .detail(serde_json::json!({ "credential": name, "revision": revision })),
    );
    let row = found(&app, &tenant, &name).await?;
    let status = if revision == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [etag(revision)], Answer(view(row))))
}

fn usable_header(text: &str) -> Result<String, Failure> {
    let refuse = |why: String| Err(Failure::invalid(why).rule("header"));
    let Ok(name) = text.to_ascii_lowercase().parse::<HeaderName>() else {
        return refuse("this is not the name of a header".to_owned());
    };
    let own = name.as_str().starts_with("proxy-") || name.as_str().starts_with("x-cogward-");
    if own || NOT_FOR_SECRETS.contains(&name) {
        return refuse(format!("`{name}` cannot carry a credential: the plane makes or removes it"));
    }
    Ok(name.as_str().to_owned())
}

fn usable_secret(secret: &str) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::invalid(why).rule("credential"));
    if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
        return refuse(format!("a credential has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} characters"));
    }
    if HeaderValue::from_str(secret).is_err() || secret.trim() != secret {
        return refuse("the credential cannot stand in a header".to_owned());
    }
    if secret.contains(PLACEHOLDER_PREFIX) {
        return refuse("this is a placeholder, not the credential".to_owned());
    }
    Ok(())
}

pub(crate) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
    uri: http::Uri,
) -> Result<StatusCode, Failure> {
    let reason = reason_of(&uri)?;
    let mut tx = app.store.begin().await?;
    if !tx.credential_delete(&tenant, &name).await? {
        return Err(Failure::missing("credential", &name));
    }
    keep_secret(&app, &mut tx, &secret_name(&tenant, &name), None).await?;
    let event = by_operator(EventType::CredentialRemoved, tenant.clone(), &caller.0, Some(&reason))
        .public("credential", name.as_str());
    let committed = tx.commit(vec![event]).await?;
    // Runs that use it go on without it: whoever takes a credential back wants that now.
    app.gateway.upstreams().remove_egress_credential(&tenant, &name);
    app.publish(committed).await?;
    app.journal
        .publish(JournalEvent::tenant("credential.removed", tenant).detail(serde_json::json!({ "credential": name })));
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_header_that_reaches_the_host_as_it_is_may_carry_a_secret() {
        assert_eq!(usable_header("Authorization").unwrap(), "authorization");
        assert_eq!(usable_header("X-API-Key").unwrap(), "x-api-key");
        for bad in ["host", "Content-Length", "Proxy-Authorization", "x-cogward-run", "a b", "", "accept-encoding"] {
            assert!(usable_header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_can_be_sent_and_known_again_is_a_secret() {
        assert!(usable_secret("ghp_0123456789").is_ok());
        for bad in ["short", "two\nlines", " spaced before", "cogward-placeholder:github", "\u{7f}0123456789"] {
            assert!(usable_secret(bad).is_err(), "{bad:?}");
        }
        assert!(usable_secret(&"a".repeat(SECRET_BYTES_MAX + 1)).is_err());
    }
}
