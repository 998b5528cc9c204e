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
const NOT_FOR_SECRETS: [HeaderName; 12] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_CHARSET,
    header::RANGE,
    header::IF_RANGE,
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
    let host = canonical_host(&host).map_err(|why| Failure::invalid(format!("the host: {why}")).rule("host"))?;
    if port == 0 {
        return Err(Failure::invalid("the port is a number from 1 to 65535").rule("port"));
    }
    let header = usable_header(&header)?;
    let secret = Zeroizing::new(credential.into_exposed());
    usable_secret(&secret)?;
    let config = upstream::EgressCredential { tenant: tenant.clone(), name: name.clone(), host, port, header };

    let plane = app;
    let (row, revision) = to_the_end(async move {
        known_tenant(&plane, &tenant).await?;
        let turn = plane.credential_changes.lock().await;
        let mut tx = plane.store.begin().await?;
        precondition(&headers, tx.credential(&tenant, &name).await?.map(|row| row.revision))?;
        let at = tx.now();
        let revision = tx.credential_put(&config, &caller.0.name, at).await?;
        // Read here: when it is answered, somebody else may have taken it back.
        let row = tx.credential(&tenant, &name).await?.ok_or_else(|| Failure::missing("credential", &name))?;
        keep_secret(&plane, &mut tx, &secret_name(&tenant, &name), Some(&secret)).await?;
        let event = by_operator(EventType::CredentialAdded, tenant.clone(), &caller.0, reason.as_deref())
            .public("credential", name.as_str())
            .public("revision", revision)
            .public("host", config.host.as_str())
            .public("port", u64::from(config.port))
            .public("header", config.header.as_str());
        let committed = tx.commit(vec![event]).await?;
        plane.gateway.upstreams().put_egress_credential(config, Credential::new(secret));
        drop(turn);
        plane.publish(committed).await?;
        plane.journal.publish(
            JournalEvent::tenant("credential.added", tenant.clone())
                .detail(serde_json::json!({ "credential": name, "revision": revision })),
        );
        Ok((row, revision))
    })
    .await?;
    let status = if revision == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [etag(revision)], Answer(view(row))))
}

/// Carries a change out, also when the client goes away meanwhile: the store and the memory change together.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    tokio::spawn(change).await.unwrap_or_else(|error| Err(Failure::internal("the change was cut off", &error)))
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
    // What watches answers for it holds back printed characters and nothing else.
    if HeaderValue::from_str(secret).is_err() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("a credential has printed ASCII characters, without spaces".to_owned());
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
    to_the_end(async move {
        let turn = app.credential_changes.lock().await;
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
        drop(turn);
        app.publish(committed).await?;
        let event = JournalEvent::tenant("credential.removed", tenant);
        app.journal.publish(event.detail(serde_json::json!({ "credential": name })));
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use cogward_identity::Operator;
    use cogward_model::Id;
    use cogward_store::Role;

    use super::*;

    async fn running(home: &tempfile::TempDir) -> crate::Running {
        let options = crate::ServeOptions {
            data_dir: home.path().join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            supervisor_exe: "/bin/false".into(),
            egress_hosts: std::collections::HashMap::new(),
            sandboxes: cogward_sandbox::SandboxConfig::default(),
            attesting: crate::Attesting::default(),
            four_eyes: false,
            outside: None,
            policy_solver: None,
            log_listen: None,
            witnesses: Default::default(),
            timestamps: Default::default(),
            archive: Default::default(),
            tokens: Default::default(),
        };
        crate::start(options).await.unwrap()
    }

    fn github() -> (TenantName, UpstreamName) {
        (TenantName::default_tenant(), "github".parse().unwrap())
    }

    fn caller(app: &App) -> Caller {
        Caller(Operator {
            id: Id::new(&*app.clock, &*app.entropy),
            name: "test".to_owned(),
            role: Role::Operator,
            roles: Vec::new(),
        })
    }

    async fn putting(app: App) -> Result<StatusCode, Failure> {
        let value = serde_json::json!({ "host": "api.example.com", "port": 443, "header": "authorization",
            "credential": "ghp_0123456789" });
        let body = Json { value: serde_json::from_value(value).unwrap(), bytes: bytes::Bytes::new() };
        let caller = caller(&app);
        let answer = put(State(app), caller, Params(github()), HeaderMap::new(), body).await?;
        Ok(answer.into_response().status())
    }

    async fn removing(app: App) -> Result<StatusCode, Failure> {
        let caller = caller(&app);
        remove(State(app), caller, Params(github()), http::Uri::from_static("/?reason=test")).await
    }

    fn in_memory(app: &App) -> bool {
        let (tenant, name) = github();
        app.gateway.upstreams().egress_credential(&tenant, &name).is_some()
    }

    async fn stored(app: &App) -> bool {
        let (tenant, name) = github();
        app.store.credential(&tenant, &name).await.unwrap().is_some()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_credential_that_was_taken_back_does_not_come_again() {
        let home = tempfile::TempDir::new().unwrap();
        let app = running(&home).await.app;
        for _ in 0..20 {
            putting(App::clone(&app)).await.unwrap();
            let put = tokio::spawn(putting(App::clone(&app)));
            let removed = tokio::spawn(removing(App::clone(&app)));
            put.await.unwrap().unwrap();
            removed.await.unwrap().unwrap();
            assert_eq!(in_memory(&app), stored(&app).await, "the memory has what the store has");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_goes_away_cuts_no_change_in_two() {
        let home = tempfile::TempDir::new().unwrap();
        let app = running(&home).await.app;
        for wanted in [true, false] {
            let held = app.credential_changes.lock().await;
            let mut asked: std::pin::Pin<Box<dyn Future<Output = Result<StatusCode, Failure>> + Send>> =
                if wanted { Box::pin(putting(App::clone(&app))) } else { Box::pin(removing(App::clone(&app))) };
            let waits = std::future::poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx).is_pending())).await;
            drop(asked);
            assert!(waits && in_memory(&app) != wanted, "it waits for its turn");
            drop(held);
            let done = async {
                while stored(&app).await != wanted || in_memory(&app) != wanted {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(30), done).await.expect("it is carried out");
        }
    }

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
        for bad in [
            "short",
            "two\nlines",
            " spaced before",
            "spaced within",
            "tab\twithin",
            "caf\u{e9}-012345",
            "cogward-placeholder:github",
            "\u{7f}0123456789",
        ] {
            assert!(usable_secret(bad).is_err(), "{bad:?}");
        }
        assert!(usable_secret(&"a".repeat(SECRET_BYTES_MAX + 1)).is_err());
    }
}
