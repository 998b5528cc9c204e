//! `CONNECT` to a host whose requests are decided by themselves.
//!
//! The plane ends the agent's TLS with a certificate of the run's own [`authority`], reads HTTP/1.1 with one
//! strict parser, takes each request through the gate ([`request`]), and speaks verified TLS to the host
//! ([`upstream`]). Framing is made anew on both sides, so nothing that two readers could read differently goes
//! through. Placeholders of credentials become credentials here and nowhere else ([`placeholder`]), and
//! answers are watched for them ([`echo`]).

pub mod authority;
pub(crate) mod echo;
mod finding;
mod placeholder;
mod prefixed;
mod request;
mod upstream;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use cogward_model::{
    RunId,
    action::Action,
    decision::{Refusal, RefusalCode},
    limits::REQUEST_HEAD_MS_MAX,
};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{AlertDescription, ClientConfig};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::{authority::Authority, prefixed::Prefixed, request::Tunnel};
pub use self::{
    authority::{AuthorityError, InspectionKey},
    finding::{Notice, NoticeKind, Notices},
};
use super::{
    EgressOptions,
    connect::{self, HELLO_MAX, NoHello},
    host::HostPort,
    plain::HEAD_BYTES_MAX,
    refused, tunnel_slot,
};
use crate::{
    Inner,
    body::{self, AgentBody},
    grant::RunGrant,
    run::RunContext,
};

/// From the agent's hello to its first request.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What inspection needs in a whole plane.
#[derive(Debug)]
pub(crate) struct Inspection {
    key: Option<InspectionKey>,
    notices: Option<Arc<dyn Notices>>,
    authorities: RwLock<HashMap<RunId, Arc<Authority>>>,
    client: OnceLock<Arc<ClientConfig>>,
}

impl Inspection {
    pub(crate) fn new(options: &EgressOptions) -> Self {
        let client = OnceLock::new();
        if let Some(config) = &options.upstream_tls {
            let _ = client.set(Arc::clone(config));
        }
        Self {
            key: options.inspection_key.clone(),
            notices: options.notices.clone(),
            authorities: RwLock::default(),
            client,
        }
    }

    /// The authority of a run, derived when it is first needed.
    pub(crate) fn authority(&self, grant: &RunGrant) -> Result<Arc<Authority>, AuthorityError> {
        if let Some(known) = self.authorities.read().unwrap_or_else(PoisonError::into_inner).get(&grant.run) {
            return Ok(Arc::clone(known));
        }
        let derived = self.derive(grant)?;
        let mut known = self.authorities.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(known.entry(grant.run).or_insert_with(|| Arc::new(derived))))
    }

    /// The authority of a run that may never be opened; nothing is kept of it.
    pub(crate) fn derive(&self, grant: &RunGrant) -> Result<Authority, AuthorityError> {
        let key = self.key.as_ref().ok_or(AuthorityError::NoKey)?;
        Authority::derive(key, grant.run, &grant.inspected_hosts(), grant.wall_clock)
    }

    /// The run is over, and so is whatever was signed for it.
    pub(crate) fn forget(&self, run: RunId) {
        self.authorities.write().unwrap_or_else(PoisonError::into_inner).remove(&run);
    }

    #[cfg(test)]
    fn known(&self) -> usize {
        self.authorities.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn client(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        if let Some(known) = self.client.get() {
            return Ok(Arc::clone(known));
        }
        let made = upstream::client_config()?;
        Ok(Arc::clone(self.client.get_or_init(|| made)))
    }
}

/// Refuses a request that is forwarded in clear and has a placeholder in its head: no credential belongs to
/// such a host.
pub(super) async fn refuse_in_clear(
    inner: &Inner,
    run: &RunContext,
    target: &HostPort,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let Err(misuse) = placeholder::examine(uri, headers, None) else { return Ok(()) };
    let action = Action::Egress { host: target.host.as_str().to_owned(), port: target.port };
    Err(finding::misused(inner, run, &action, target, misuse).await)
}

/// Answers the `CONNECT` and serves what comes in it. Nothing is dialled and nothing decided yet. The tunnel
/// counts against the run's connections.
pub(super) async fn serve(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    target: HostPort,
    request: Request<Incoming>,
) -> Result<Response<AgentBody>, Refusal> {
    let slot = tunnel_slot(inner, run, &target).await?;
    let (inner, run) = (Arc::clone(inner), Arc::clone(run));
    let cut = run.cut_signal().clone();
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = carry(inner, run, target, upgrade) => {}
        }
        drop(slot);
    });
    Ok(body::empty(StatusCode::OK))
}

type AgentTls = TlsStream<Prefixed<TokioIo<hyper::upgrade::Upgraded>>>;

async fn carry(inner: Arc<Inner>, run: Arc<RunContext>, target: HostPort, upgrade: OnUpgrade) {
    let action = Action::Egress { host: target.host.as_str().to_owned(), port: target.port };
    let stream = match accept(&inner, &run, &target, upgrade).await {
        Ok(stream) => stream,
        Err(None) => return,
        Err(Some(refusal)) => {
            inner.gate.refuse(&run, &action, refusal, Vec::new()).await;
            return;
        }
    };
    let tunnel = Arc::new(Tunnel::new(Arc::clone(&inner), Arc::clone(&run), target));
    let service = service_fn(move |request: Request<Incoming>| {
        let tunnel = Arc::clone(&tunnel);
        async move {
            let answered = tunnel.serve(request).await;
            Ok::<_, Infallible>(answered.unwrap_or_else(|refusal| refused(&refusal)))
        }
    });
    let ended = server::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(REQUEST_HEAD_MS_MAX))
        .max_buf_size(HEAD_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    let Err(error) = ended else { return };
    tracing::debug!(run = %run.grant.run, %error, "inspected tunnel ended");
    if error.is_parse() {
        // It was answered already; what is left is to say that it was there.
        let refusal = Refusal::new(
            RefusalCode::InvalidRequest,
            "egress.form",
            "what came is not an HTTP/1.1 request, or its head is too large",
            "Send plain HTTP/1.1",
        );
        inner.gate.refuse(&run, &action, refusal, Vec::new()).await;
    }
}

/// The agent's TLS, ended here. An error is a refusal to be recorded, or nothing worth it.
async fn accept(
    inner: &Inner,
    run: &RunContext,
    target: &HostPort,
    upgrade: OnUpgrade,
) -> Result<AgentTls, Option<Refusal>> {
    let opened = tokio::time::timeout(HELLO_MAX, upgrade).await.map_err(|_| None)?.map_err(|_| None)?;
    let mut opened = TokioIo::new(opened);
    let hello = match tokio::time::timeout(HELLO_MAX, connect::read_hello(&mut opened, &target.host)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(NoHello::Refused(refusal, error))) => {
            connect::alert(&mut opened, error).await;
            return Err(Some(refusal));
        }
        Ok(Err(_)) | Err(_) => return Err(None),
    };
    let signed = inner.egress.inspection.authority(&run.grant);
    let server = signed.and_then(|authority| authority.server(target.host.as_str(), inner.gate.now()));
    let server = server.map_err(|error| {
        tracing::error!(run = %run.grant.run, %error, "the run has no certificate authority");
        Some(Refusal::new(
            RefusalCode::UpstreamUnavailable,
            "egress.authority",
            error.to_string(),
            "An operator must look at the plane's log",
        ))
    })?;
    let accepting = TlsAcceptor::from(server).accept(Prefixed::new(hello, opened));
    match tokio::time::timeout(HANDSHAKE_MAX, accepting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(distrust(inner, run, target, &error)),
        Err(_) => Err(None),
    }
}

/// A client that does not take the run's authority says so in an alert, or just goes away.
fn distrust(inner: &Inner, run: &RunContext, target: &HostPort, error: &std::io::Error) -> Option<Refusal> {
    let told = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match told {
        Some(rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied,
        )) => "the client does not trust the certificate authority of the run",
        Some(rustls::Error::NoApplicationProtocol) => "the client speaks no HTTP/1.1",
        Some(_) => "the client could not agree on TLS",
        None => "the client went away during the TLS handshake, as one does that knows another certificate",
    };
    let hint = "Use the CA bundle of the run (SSL_CERT_FILE) and no certificate pinning, or declare the host without \
                `inspect`";
    finding::notice(inner, run, NoticeKind::AuthorityNotTrusted, target, &format!("{why}. {hint}"));
    Some(Refusal::new(RefusalCode::InvalidRequest, "egress.trust", why, hint))
}

#[cfg(test)]
mod tests;
