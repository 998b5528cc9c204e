//! One request in an inspected tunnel: judged, admitted, forwarded, and its answer watched.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cogward_model::{
    action::Outcome,
    decision::{Refusal, RefusalCode},
    manifest::Inspect,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery,
};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    echo::Watched,
    finding::{self, NoticeKind},
    placeholder::{self, Allowed},
    upstream::{NoUpstream, Upstream},
};
use crate::{
    Inner,
    body::AgentBody,
    egress::{
        Connect, Line, admit, counts, dial, dial_or_settle,
        host::HostPort,
        metered::{Account, RequestBody},
        plain,
        resolve::Reachable,
        tunnel::IDLE_MAX,
    },
    gate::{Admitted, Governed, public},
    run::RunContext,
    upstreams::StoredCredential,
};

/// Longest path that is decided on.
const PATH_BYTES_MAX: usize = 8 * 1024;
/// The port that a URL of `https` need not name.
const DEFAULT_PORT: u16 = 443;

/// Headers by which frameworks and proxies take another method or path than the request line says.
const OVERRIDES: [&str; 10] = [
    "forwarded",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
];
/// What an answer that is watched for a credential must not be asked for in: a part, or another alphabet.
const UNWATCHABLE: [HeaderName; 3] = [header::RANGE, header::IF_RANGE, header::ACCEPT_CHARSET];

/// What the requests of one tunnel share.
pub(super) struct Tunnel {
    inner: Arc<Inner>,
    run: Arc<RunContext>,
    target: HostPort,
    kept: Mutex<Kept>,
}

/// Kept from one request to the next: the addresses that were checked, and the connection.
#[derive(Default)]
struct Kept {
    reachable: Reachable,
    upstream: Option<Upstream>,
}

impl Tunnel {
    pub(super) fn new(inner: Arc<Inner>, run: Arc<RunContext>, target: HostPort) -> Self {
        Self { inner, run, target, kept: Mutex::default() }
    }

    /// Decides on a request and carries it out.
    pub(super) async fn serve(&self, request: Request<Incoming>) -> Result<Response<AgentBody>, Refusal> {
        let path = request.uri().path();
        let query = request.uri().query().map(|query| Bytes::copy_from_slice(query.as_bytes()));
        let line = Line { method: request.method().as_str().to_owned(), path: path.to_owned(), query };
        let mut asked = Connect { target: self.target.clone(), reachable: Reachable::default(), request: Some(line) };
        if path.len() > PATH_BYTES_MAX {
            let refusal = form("the path is too long", "Ask for a path of at most 8192 characters");
            return Err(self.inner.gate.refuse(&self.run, &asked.action(), refusal, Vec::new()).await);
        }
        let scope = self.run.grant.inspect(self.target.host.as_str(), self.target.port);
        let stored = scope.and_then(|scope| self.credential(scope));
        let named = scope.and_then(|scope| scope.credential.as_ref()).map(|granted| &granted.name);
        let allowed = named.map(|name| Allowed { name, header: stored.as_ref().map(|s| s.config.header.as_str()) });
        let uses = match placeholder::examine(request.uri(), request.headers(), allowed) {
            Ok(uses) => uses,
            Err(misuse) => {
                let action = asked.action();
                return Err(finding::misused(&self.inner, &self.run, &action, &self.target, misuse).await);
            }
        };
        let mut objection = objection(&request, &self.target);
        if uses && stored.is_none() {
            objection = objection.or_else(|| Some(not_stored()));
        }
        asked.reachable = self.kept().reachable.clone();
        let used = named.filter(|_| uses).map(|name| name.as_str().to_owned());
        let fields = used.map(|name| public("credential", name)).into_iter().collect();
        let admitted = admit(&self.inner, &self.run, asked, objection, fields).await?;
        self.kept().reachable = admitted.target().reachable.clone();
        let (admitted, upstream, fresh) = self.upstream(admitted).await?;
        self.exchange(admitted, upstream, fresh, request, stored, uses).await
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The credential of the endpoint, if the operator stored one for this very host.
    fn credential(&self, scope: &Inspect) -> Option<Arc<StoredCredential>> {
        let name = &scope.credential.as_ref()?.name;
        let stored = self.inner.upstreams.egress_credential(&self.run.grant.tenant, name)?;
        let here = stored.config.host == self.target.host.as_str() && stored.config.port == self.target.port;
        here.then_some(stored)
    }

    /// The connection of the request before, or a new one.
    async fn upstream(&self, admitted: Admitted<Connect>) -> Result<(Admitted<Connect>, Upstream, bool), Refusal> {
        let before = self.kept().upstream.take();
        let again = before.is_some();
        if let Some(before) = before
            && let Some(ready) = before.again().await
        {
            return Ok((admitted, ready, false));
        }
        if again {
            // The first was waited for when it was admitted.
            self.run.dials.next().await;
        }
        let (admitted, stream) = dial_or_settle(admitted).await?;
        match self.open(stream).await {
            Ok(upstream) => Ok((admitted, upstream, true)),
            Err(refusal) => {
                let cause = format!("nothing was sent: {}", refusal.rule);
                admitted.settle(&Outcome::Broken { used: counts::unused(), cause });
                Err(refusal)
            }
        }
    }

    async fn open(&self, stream: tokio::net::TcpStream) -> Result<Upstream, Refusal> {
        let failed = |rule: &str, why: String| {
            Refusal::new(
                RefusalCode::UpstreamUnavailable,
                rule,
                format!("`{}` could not be connected: {why}", self.target),
                "Nothing was sent; an operator can check the host, and which authorities the plane's host trusts",
            )
        };
        let config = self.inner.egress.inspection.client();
        let config = config.map_err(|_| failed("egress.dial", "TLS cannot be set up".to_owned()))?;
        let cut = self.run.cut_signal().clone();
        match Upstream::open(config, &self.target.host, stream, cut).await {
            Ok(upstream) => Ok(upstream),
            Err(NoUpstream::Failed(why)) => Err(failed("egress.dial", why.to_owned())),
            Err(NoUpstream::Certificate(why)) => {
                let detail = format!("its certificate is not valid: {why}");
                finding::notice(&self.inner, &self.run, NoticeKind::CertificateInvalid, &self.target, &detail);
                Err(failed("egress.certificate", detail))
            }
        }
    }

    async fn exchange(
        &self,
        admitted: Admitted<Connect>,
        mut upstream: Upstream,
        fresh: bool,
        request: Request<Incoming>,
        stored: Option<Arc<StoredCredential>>,
        uses: bool,
    ) -> Result<Response<AgentBody>, Refusal> {
        let reachable = admitted.target().reachable.clone();
        let account = Account::new(&self.inner, admitted, upstream.peer);
        let Some(request) = self.outgoing(request, &account, stored.as_deref(), uses) else {
            account.broken("the request could not be forwarded");
            return Err(form("the request could not be forwarded", "Ask for a plain path"));
        };
        let asked = async {
            account.request_head(&request).await.map_err(|_| plain::SPENT)?;
            let answer = match upstream.send(request).await {
                Ok(answer) => Ok(answer),
                // The host closed a connection that was used before, before it saw anything of this request.
                Err(Some(unsent)) if !fresh => {
                    let stream = dial(&self.run, &reachable).await?;
                    upstream = self.open(stream).await.map_err(|_| "it could not be connected again")?;
                    upstream.send(*unsent).await.map_err(|_| "it gave no answer that is HTTP")
                }
                Err(_) => Err("it gave no answer that is HTTP"),
            }?;
            account.answer_head(&answer).await.map_err(|_| plain::SPENT)?;
            Ok(answer)
        };
        let answered = tokio::select! {
            biased;
            () = self.run.cut_signal().cancelled() => Err("the run was stopped"),
            answered = tokio::time::timeout(IDLE_MAX, asked) => answered.unwrap_or(Err("it did not answer in time")),
        };
        match answered {
            Ok(answer) if answer.status() != StatusCode::SWITCHING_PROTOCOLS => {
                self.kept().upstream = Some(upstream);
                self.incoming(answer, account, stored).await
            }
            Ok(_) => Err(plain::unavailable(account, "it switched to another protocol")),
            Err(why) => Err(plain::unavailable(account, why)),
        }
    }

    /// The request as the host gets it.
    fn outgoing(
        &self,
        request: Request<Incoming>,
        account: &Account,
        stored: Option<&StoredCredential>,
        uses: bool,
    ) -> Option<Request<RequestBody>> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        head.uri = Uri::from(path);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        plain::strip(&mut head.headers);
        // Framing is made anew from the body that is really sent.
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.insert(header::HOST, host_header(&self.target)?);
        if let Some(stored) = stored {
            for name in UNWATCHABLE {
                head.headers.remove(name);
            }
            if uses {
                let StoredCredential { config, secret, .. } = stored;
                placeholder::fill(&mut head.headers, &config.header, &config.name, secret.expose())?;
            }
            // What is compressed cannot be watched.
            head.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        Some(Request::from_parts(head, RequestBody::new(body, account)))
    }

    /// The answer as the agent gets it.
    async fn incoming(
        &self,
        answer: Response<Incoming>,
        account: Account,
        stored: Option<Arc<StoredCredential>>,
    ) -> Result<Response<AgentBody>, Refusal> {
        let Some(stored) = stored else { return Ok(plain::incoming(answer, account, &self.run)) };
        if stored.forms.stand_in_headers(answer.headers()) {
            account.broken(ECHOED);
            finding::record(&self.inner, &self.run, NoticeKind::CredentialEchoed, &self.target, ECHOED).await?;
            return Err(echoed(ECHOED));
        }
        if is_encoded(answer.headers()) && !answer.body().is_end_stream() {
            let why = "the answer is encoded although it was asked not to be, so it cannot be watched";
            account.broken(why);
            return Err(echoed(why));
        }
        let (inner, run, target) = (Arc::clone(&self.inner), Arc::clone(&self.run), self.target.clone());
        let found = move || {
            tokio::spawn(async move {
                let recorded = finding::record(&inner, &run, NoticeKind::CredentialEchoed, &target, ECHOED).await;
                if let Err(refusal) = recorded {
                    tracing::error!(run = %run.grant.run, detail = refusal.detail, "a finding is not recorded");
                }
            });
        };
        let forms = Arc::clone(&stored.forms);
        let answer = plain::incoming(answer, account, &self.run);
        Ok(answer.map(|body| Watched::new(body, forms, found).boxed()))
    }
}

const ECHOED: &str = "the host sent a credential back in its answer";

fn echoed(why: &str) -> Refusal {
    Refusal::new(
        RefusalCode::UpstreamUnavailable,
        "egress.echo",
        why,
        "The request may have had its effect; an operator should look at what the host answers",
    )
}

/// Whether the body is anything but plain bytes, in whole or in chunks.
fn is_encoded(headers: &HeaderMap) -> bool {
    let other = |name, plain: &[u8]| {
        headers.get_all(name).iter().any(|value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(plain))
    };
    other(header::CONTENT_ENCODING, b"identity") || other(header::TRANSFER_ENCODING, b"chunked")
}

/// Whether some servers read another method, path or host from this header. Those that make variables of headers
/// do not tell `_` from `-`.
fn is_override(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    OVERRIDES.contains(&name.as_str()) || name.starts_with("x-forwarded")
}

/// What is held against a request, whatever it asks for.
fn objection<B>(request: &Request<B>, target: &HostPort) -> Option<Refusal> {
    let (uri, headers) = (request.uri(), request.headers());
    if request.version() != Version::HTTP_11 {
        return Some(form("the request is not HTTP/1.1", "Speak HTTP/1.1"));
    }
    if uri.authority().is_some() || uri.scheme().is_some() || request.method() == Method::CONNECT {
        return Some(form("a request in a tunnel names a host", "Ask for a path, without a host"));
    }
    if !uri.path().starts_with('/') {
        return Some(form("the request asks for no path", "Ask for a path that begins with `/`"));
    }
    let upgrades = |value: &HeaderValue| value.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("upgrade"));
    if headers.contains_key(header::UPGRADE) || headers.get_all(header::CONNECTION).iter().any(upgrades) {
        return Some(Refusal::new(
            RefusalCode::InvalidRequest,
            "egress.upgrade",
            "the request asks for another protocol on its connection",
            "Speak HTTP/1.1; for a host that speaks something else, declare it without `inspect`",
        ));
    }
    if let Some(name) = headers.keys().find(|name| is_override(name)) {
        return Some(Refusal::new(
            RefusalCode::NotDeclared,
            "egress.form",
            format!("the header `{name}` could make the host read another method, path or host"),
            "Leave the header out and ask for the method and path themselves",
        ));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let one = hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok());
    if one.map(|host| HostPort::parse(host, Some(DEFAULT_PORT))) == Some(Ok(target.clone())) {
        return None;
    }
    Some(Refusal::new(
        RefusalCode::AddressRefused,
        "egress.host_header",
        "the `Host` header is missing, double, or names another host than the tunnel",
        "Send one `Host` header with the host that was connected to",
    ))
}

fn host_header(target: &HostPort) -> Option<HeaderValue> {
    let text = if target.port == DEFAULT_PORT { target.host.to_string() } else { target.to_string() };
    HeaderValue::from_str(&text).ok()
}

fn not_stored() -> Refusal {
    Refusal::new(
        RefusalCode::UpstreamUnavailable,
        "egress.credential",
        "the credential that the manifest names is not stored for this host",
        "An operator can store it with `cogward credential add`",
    )
}

fn form(detail: &str, next_step: &str) -> Refusal {
    Refusal::new(RefusalCode::InvalidRequest, "egress.form", detail, next_step)
}
