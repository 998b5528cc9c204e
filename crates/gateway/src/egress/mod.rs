//! Connections to hosts outside, through the HTTP proxy that each sandbox has.
//!
//! `CONNECT host:port` opens a tunnel to a host that the manifest declares for TLS; absolute-form
//! requests and tunnels to a host declared for plain HTTP are forwarded request by request. Names are
//! parsed by one strict parser ([`host`]), looked up in the plane only when they are declared
//! ([`resolve`]: a look-up is a message to whoever owns the name), and every address is checked
//! ([`address`]) before it is dialled. In a TLS tunnel the first bytes must be a hello that names the
//! same host ([`sni`]); a host that is declared with `inspect` gets single requests and no tunnel ([`inspect`]).
//!
//! What a tunnel does not stop: a declared host that serves others behind its name (domain fronting by the
//! `Host` header inside TLS); `inspect` does. Nothing stops what a declared host does with what it is sent.

pub mod address;
mod connect;
mod counts;
pub mod host;
pub mod inspect;
mod metered;
mod plain;
pub mod resolve;
pub mod sni;
mod tunnel;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cogward_model::{
    action::{Action, Outcome},
    decision::{Refusal, RefusalCode},
    event::Field,
};
use http::{HeaderValue, Method, Request, Response, header};
use hyper::{body::Incoming, ext::ReasonPhrase};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};

use self::{
    host::{HostError, HostPort},
    resolve::{Reachable, Resolver},
};
use crate::{
    Inner, approvals,
    body::{self, AgentBody},
    gate::{self, Admitted, Call, Governed},
    mcp::sha256,
    policy::Content,
    run::RunContext,
};

pub use resolve::EgressOptions;

/// How long reaching a host may take, over all its addresses.
const DIAL_MAX: Duration = Duration::from_secs(10);
/// How long one of several addresses is tried.
const DIAL_ONE_MAX: Duration = Duration::from_secs(5);

/// How much of a query is kept sealed in the vault, in bytes; of a longer one there is the digest.
const QUERY_KEPT_BYTES_MAX: usize = 16 * 1024;

/// What the egress of a plane needs beside the gate.
#[derive(Debug)]
pub struct Egress {
    resolver: Resolver,
    pub(crate) inspection: inspect::Inspection,
}

impl Egress {
    pub(crate) fn new(options: EgressOptions) -> Self {
        Self { inspection: inspect::Inspection::new(&options), resolver: Resolver::new(options) }
    }
}

/// A connection that is asked for, or one request to an inspected host.
#[derive(Debug)]
struct Connect {
    target: HostPort,
    /// Looked up when it is admitted, unless it is known from an earlier request.
    reachable: Reachable,
    request: Option<Line>,
}

/// What a request asks for.
#[derive(Debug, Clone)]
struct Line {
    method: String,
    path: String,
    /// What follows the path, without the `?`.
    query: Option<Bytes>,
}

impl Connect {
    fn to(target: HostPort) -> Self {
        Self { target, reachable: Reachable::default(), request: None }
    }
}

impl Governed for Connect {
    fn action(&self) -> Action {
        let (host, port) = (self.target.host.as_str().to_owned(), self.target.port);
        match self.request.clone() {
            None => Action::Egress { host, port },
            Some(Line { method, path, .. }) => Action::Request { host, port, method, path },
        }
    }

    fn content(&self) -> Content<'_> {
        Content { beside: self.request.as_ref().and_then(|line| line.query.as_ref()), ..Content::default() }
    }

    fn fields(&self, run: &RunContext) -> Vec<Field> {
        let query = self.request.as_ref().and_then(|line| line.query.as_ref());
        let shown = |query: &Bytes| match std::str::from_utf8(query) {
            Ok(text) if run.grant.evidence.keep_arguments && text.len() <= QUERY_KEPT_BYTES_MAX => text.to_owned(),
            _ => sha256(query).to_string(),
        };
        query.map(|query| gate::confidential("query", shown(query))).into_iter().collect()
    }
}

/// A request on a run's proxy listener.
pub async fn serve(inner: Arc<Inner>, run: Arc<RunContext>, request: Request<Incoming>) -> Response<AgentBody> {
    let answered = if request.method() == Method::CONNECT {
        connect::serve(&inner, &run, request).await
    } else {
        plain::absolute(&inner, &run, request).await
    };
    answered.unwrap_or_else(|refusal| refused(&refusal))
}

/// Takes a connection or a request through the gate. The name is looked up only if it is declared, nothing
/// else is held against it, no policy blocks it, and the run may act.
async fn admit(
    inner: &Inner,
    run: &Arc<RunContext>,
    mut asked: Connect,
    mut objection: Option<Refusal>,
    fields: Vec<Field>,
) -> Result<Admitted<Connect>, Refusal> {
    // What was looked up for an earlier request on this connection holds for this one.
    let declared = asked.reachable.addresses().is_empty() && run.grant.permits(&asked.action()).is_ok();
    if declared && objection.is_none() {
        tokio::select! {
            biased;
            () = run.cut_signal().cancelled() => {}
            () = run.dials.next() => {}
        }
    }
    if declared
        && objection.is_none()
        && inner.gate.plane_fence().pass().await.is_ok()
        && run.fence.pass().await.is_ok()
        && !inner.gate.would_block(run, &asked)
    {
        tokio::select! {
            biased;
            () = run.cut_signal().cancelled() => {}
            found = inner.egress.resolver.resolve(&asked.target) => match found {
                Ok(addresses) => asked.reachable = addresses,
                Err(refusal) => objection = Some(refusal),
            },
        }
    }
    let worst = counts::first(inner.gate.limits_egress_bytes(run));
    let call = Call { target: asked, worst, objection, fields };
    inner.gate.admit(run, call).await
}

/// Dials addresses that were checked, for something that was admitted.
async fn dial(run: &RunContext, reachable: &Reachable) -> Result<TcpStream, &'static str> {
    let attempts = async {
        let mut last = "there is no address to dial";
        for address in reachable.addresses() {
            match tokio::time::timeout(DIAL_ONE_MAX, TcpStream::connect(address)).await {
                // Interactive protocols run through here: no waiting for more to send.
                Ok(Ok(stream)) if stream.set_nodelay(true).is_ok() => return Ok(stream),
                Ok(Ok(_)) => last = "the connection was lost at once",
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    last = "it refuses connections";
                }
                Ok(Err(_)) => last = "it cannot be reached",
                Err(_) => last = "it does not answer",
            }
        }
        Err(last)
    };
    tokio::select! {
        biased;
        () = run.cut_signal().cancelled() => Err("the run was stopped"),
        dialled = tokio::time::timeout(DIAL_MAX, attempts) => dialled.unwrap_or(Err("it does not answer")),
    }
}

/// Dials; a failure ends the admitted call and is answered with a refusal.
async fn dial_or_settle(admitted: Admitted<Connect>) -> Result<(Admitted<Connect>, TcpStream), Refusal> {
    match dial(admitted.run(), &admitted.target().reachable).await {
        Ok(stream) => Ok((admitted, stream)),
        Err(why) => {
            let refusal = Refusal::new(
                RefusalCode::UpstreamUnavailable,
                "egress.dial",
                format!("`{}` could not be connected: {why}", admitted.target().target),
                "Try again later; an operator can check that the plane's host reaches it",
            );
            // It was tried, and a try is what the other side sees.
            admitted.settle(&Outcome::Broken { used: counts::unused(), cause: why.to_owned() });
            Err(refusal)
        }
    }
}

/// A place for a tunnel in which requests are decided one by one. It counts against the run's connections.
async fn tunnel_slot(inner: &Inner, run: &RunContext, target: &HostPort) -> Result<OwnedSemaphorePermit, Refusal> {
    if let Ok(slot) = Arc::clone(&run.connections).try_acquire_owned() {
        return Ok(slot);
    }
    let mut refusal = Refusal::new(
        RefusalCode::Throttled,
        "limits.connections",
        "the run has too many connections open",
        "Close some of them",
    );
    refusal.retry_after = Some(Duration::from_secs(1));
    Err(refuse_unnamed(inner, run, target.host.as_str(), target.port, refusal).await)
}

/// Records and gives the refusal of a text that is no host and port.
async fn not_a_target(inner: &Inner, run: &RunContext, text: &str, error: HostError) -> Refusal {
    let code = match error {
        HostError::Address => RefusalCode::AddressRefused,
        _ => RefusalCode::InvalidRequest,
    };
    let refusal = Refusal::new(
        code,
        "egress.host",
        error.to_string(),
        "Ask for a host and port exactly as the manifest declares them under `spec.permissions.egress`",
    );
    // What stands before an `@` may be a password.
    let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
    refuse_unnamed(inner, run, shown, 0, refusal).await
}

/// Records the refusal of a request that asks for no one target; `shown` is what it seems to ask for.
async fn refuse_unnamed(inner: &Inner, run: &RunContext, shown: &str, port: u16, refusal: Refusal) -> Refusal {
    let action = Action::Egress { host: shown.to_owned(), port };
    inner.gate.refuse(run, &action, refusal, vec![gate::public("parsed", port != 0)]).await
}

/// A refusal as a proxy says it. Most clients show their users only the status line of a refused
/// CONNECT, so the rule stands there too.
fn refused(refusal: &Refusal) -> Response<AgentBody> {
    let mut told = serde_json::json!({
        "error": {
            "type": "cogward_refusal",
            "code": refusal.code.as_str(),
            "rule": refusal.rule,
            "message": refusal.sentence(),
            "next_step": refusal.next_step,
        }
    });
    if let (Some(approval), Some(error)) = (&refusal.approval, told.get_mut("error").and_then(|e| e.as_object_mut())) {
        error.insert("approval".to_owned(), approvals::told(approval));
    }
    let built = body::refusal_head(refusal)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(body::full(told.to_string()));
    let Ok(mut response) = built else { return body::empty(http::StatusCode::FORBIDDEN) };
    let phrase = format!("Refused by cogward: {} (rule {})", refusal.code.as_str(), refusal.rule);
    if let Ok(phrase) = ReasonPhrase::try_from(phrase.into_bytes()) {
        response.extensions_mut().insert(phrase);
    }
    response
}

#[cfg(test)]
mod tests;
