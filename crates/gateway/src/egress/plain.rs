//! Plain HTTP: each request is decided for itself and forwarded on a connection of its own.
//!
//! The `Host` header must say what the target says, so that what was decided is what the upstream serves.
//! Redirects go back to the agent, which has to ask again; nothing is followed here.

use std::{convert::Infallible, sync::Arc, time::Duration};

use cogward_model::{
    decision::{Refusal, RefusalCode},
    limits::REQUEST_HEAD_MS_MAX,
    manifest::EgressProtocol,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::{
    Connect, admit, dial_or_settle,
    host::HostPort,
    inspect,
    metered::{Account, RequestBody, ResponseBody},
    not_a_target, refuse_unnamed, refused,
    tunnel::IDLE_MAX,
    tunnel_slot,
};
use crate::{
    Inner,
    body::{self, AgentBody},
    gate::Admitted,
    run::RunContext,
};

/// Longest head of an answer.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Why a message is broken off for which the budget does not reach.
pub(super) const SPENT: &str = "the budget of bytes outside is used up";

/// Headers that belong to one connection (RFC 9110, 7.6.1), in addition to those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] =
    [header::CONNECTION, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE, header::EXPECT];

/// A request that is no CONNECT: absolute form, or a mistake.
pub(super) async fn absolute(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    request: Request<Incoming>,
) -> Result<Response<AgentBody>, Refusal> {
    let uri = request.uri();
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        let refusal = form(
            "this is a proxy and the request names no host",
            "Set HTTP_PROXY and HTTPS_PROXY to this address and ask for whole URLs; the model and MCP base URLs have their own ports",
        );
        return Err(refuse_unnamed(inner, run, "", 0, refusal).await);
    };
    let text = authority.as_str().to_owned();
    if scheme != "http" {
        let refusal = form(
            "only `http://` URLs can be forwarded as they are",
            "Open a tunnel with CONNECT for `https://`, as HTTP clients do by themselves",
        );
        let shown = text.rsplit_once('@').map_or(text.as_str(), |(_, host)| host);
        return Err(refuse_unnamed(inner, run, shown, 0, refusal).await);
    }
    match HostPort::parse(&text, Some(80)) {
        Ok(target) => forward(inner, run, target, request).await,
        Err(error) => Err(not_a_target(inner, run, &text, error).await),
    }
}

/// CONNECT to a host declared for plain HTTP: requests are read out of the tunnel and decided one by one.
/// Nothing is dialled yet. The tunnel counts against the run's connections.
pub(super) async fn tunnel(
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
        let served = async {
            let head = Duration::from_millis(REQUEST_HEAD_MS_MAX);
            let Ok(Ok(opened)) = tokio::time::timeout(head, upgrade).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let (inner, run, target) = (Arc::clone(&inner), Arc::clone(&run), target.clone());
                async move {
                    let answered = if request.uri().authority().is_none() && request.method() != http::Method::CONNECT {
                        forward(&inner, &run, target, request).await
                    } else {
                        let refusal =
                            form("a request in a tunnel names another host", "Ask for a path, without a host");
                        Err(refuse_unnamed(&inner, &run, target.host.as_str(), target.port, refusal).await)
                    };
                    Ok::<_, Infallible>(answered.unwrap_or_else(|refusal| refused(&refusal)))
                }
            });
            let ended = server::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(opened, service)
                .await;
            if let Err(error) = ended {
                tracing::debug!(%error, "plain tunnel ended");
            }
        };
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = served => {}
        }
        drop(slot);
    });
    Ok(body::empty(StatusCode::OK))
}

async fn forward(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    target: HostPort,
    request: Request<Incoming>,
) -> Result<Response<AgentBody>, Refusal> {
    inspect::refuse_in_clear(inner, run, &target, request.uri(), request.headers()).await?;
    let objection = objection(run, &target, request.headers());
    let admitted = admit(inner, run, Connect::to(target), objection, Vec::new()).await?;
    let (admitted, stream) = dial_or_settle(admitted).await?;
    exchange(inner, admitted, stream, request).await
}

/// What is held against a request to a declared host.
fn objection(run: &RunContext, target: &HostPort, headers: &HeaderMap) -> Option<Refusal> {
    if run.grant.egress(target.host.as_str(), target.port) == Some(EgressProtocol::Tls) {
        return Some(Refusal::new(
            RefusalCode::NotDeclared,
            "permissions.egress.protocol",
            format!("`{target}` is declared for TLS, not for plain HTTP"),
            "Use `https://`, or have the agent's owner declare `protocol: http` and register a new version",
        ));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let one = hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok());
    if one.map(|host| HostPort::parse(host, Some(80))) == Some(Ok(target.clone())) {
        return None;
    }
    Some(Refusal::new(
        RefusalCode::InvalidRequest,
        "egress.host",
        "the `Host` header is missing, double, or names another host than the URL",
        "Send one `Host` header with the host of the URL",
    ))
}

/// One request and its answer on a fresh connection.
async fn exchange(
    inner: &Arc<Inner>,
    admitted: Admitted<Connect>,
    stream: TcpStream,
    request: Request<Incoming>,
) -> Result<Response<AgentBody>, Refusal> {
    let run = Arc::clone(admitted.run());
    let cut = run.cut_signal();
    let account = Account::new(inner, admitted, stream.peer_addr().ok());
    let Some(request) = outgoing(request, &account) else {
        account.broken("the request could not be forwarded");
        return Err(form("the request could not be forwarded", "Ask for a plain path"));
    };
    let asked = async {
        account.request_head(&request).await.map_err(|_| SPENT)?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| "the connection could not be used")?;
        let cut = cut.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "upstream connection ended");
                },
            }
        });
        let answer = sender.send_request(request).await.map_err(|_| "it gave no answer that is HTTP")?;
        account.answer_head(&answer).await.map_err(|_| SPENT)?;
        Ok(answer)
    };
    let answered = tokio::select! {
        biased;
        () = cut.cancelled() => Err("the run was stopped"),
        answered = tokio::time::timeout(IDLE_MAX, asked) => answered.unwrap_or(Err("it did not answer in time")),
    };
    match answered {
        Ok(answer) if answer.status() != StatusCode::SWITCHING_PROTOCOLS => Ok(incoming(answer, account, &run)),
        Ok(_) => Err(unavailable(account, "it switched to another protocol")),
        Err(why) => Err(unavailable(account, why)),
    }
}

/// The request as the upstream gets it.
fn outgoing(request: Request<Incoming>, account: &Account) -> Option<Request<RequestBody>> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
    head.version = http::Version::HTTP_11;
    head.extensions.clear();
    strip(&mut head.headers);
    // Framing is made anew from the body that is really sent.
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::HOST, HeaderValue::from_str(&account.target().http_host()).ok()?);
    Some(Request::from_parts(head, RequestBody::new(body, account)))
}

/// The answer as the agent gets it.
pub(super) fn incoming(answer: Response<Incoming>, account: Account, run: &RunContext) -> Response<AgentBody> {
    let (mut head, body) = answer.into_parts();
    // Two lengths are two readings; the length that was read is the one that counts.
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    head.extensions.clear();
    head.version = http::Version::HTTP_11;
    strip(&mut head.headers);
    let body = ResponseBody::new(body, account.answered(head.status), run);
    Response::from_parts(head, body.boxed())
}

/// Removes what belongs to one connection, to a proxy, or to us.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    let ours: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name == "keep-alive" || name.starts_with("proxy-") || name.starts_with("x-cogward-")
        })
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
}

pub(super) fn unavailable(account: Account, why: &str) -> Refusal {
    let (code, rule, next) = match why {
        SPENT => (RefusalCode::BudgetExceeded, "budgets.egressMib", "An operator or the agent's owner can raise it"),
        _ => (RefusalCode::UpstreamUnavailable, "egress.answer", "Try again later"),
    };
    let next = format!("{next}; whether the request had an effect is not known");
    let refusal = Refusal::new(code, rule, format!("`{}` failed: {why}", account.target()), next);
    account.broken(why);
    refusal
}

fn form(detail: &str, next_step: &str) -> Refusal {
    Refusal::new(RefusalCode::InvalidRequest, "egress.form", detail, next_step)
}
