//! `CONNECT host:port`.
//!
//! To a host declared for TLS: a tunnel, dialled before it is answered, in which the agent's first bytes
//! must be a TLS hello for that host. To a host declared for plain HTTP (some clients tunnel `http://`
//! too): not a tunnel but an HTTP server of ours, so that each request in it is seen and decided.

use std::{sync::Arc, time::Duration};

use cogward_model::{
    action::Outcome,
    decision::{Refusal, RefusalCode},
    manifest::EgressProtocol,
};
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Connect, admit,
    counts::{Counts, Way},
    dial_or_settle,
    host::{HostError, HostName, HostPort},
    inspect, not_a_target, plain,
    sni::{self, HELLO_BYTES_MAX, Hello, HelloError},
    tunnel::{self, End},
};
use crate::{
    Inner,
    body::{self, AgentBody},
    gate::{Admitted, public},
    run::RunContext,
};

/// Time for the agent to take the answer, and then to send its hello.
pub(super) const HELLO_MAX: Duration = Duration::from_secs(10);
/// TLS alert `access_denied`, fatal: clients say it instead of "connection reset".
const ALERT_ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

pub(super) async fn serve(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    request: Request<Incoming>,
) -> Result<Response<AgentBody>, Refusal> {
    let uri = request.uri();
    // Authority form and nothing else: no scheme, no path.
    let text = match uri.authority() {
        Some(authority) if uri.scheme().is_none() && uri.path_and_query().is_none() => authority.as_str().to_owned(),
        _ => return Err(not_a_target(inner, run, "", HostError::Character).await),
    };
    let target = match HostPort::parse(&text, None) {
        Ok(target) => target,
        Err(error) => return Err(not_a_target(inner, run, &text, error).await),
    };
    if run.grant.inspect(target.host.as_str(), target.port).is_some() {
        return inspect::serve(inner, run, target, request).await;
    }
    if run.grant.egress(target.host.as_str(), target.port) == Some(EgressProtocol::Http) {
        return plain::tunnel(inner, run, target, request).await;
    }
    let admitted = admit(inner, run, Connect::to(target), None, Vec::new()).await?;
    let (admitted, upstream) = dial_or_settle(admitted).await?;
    tokio::spawn(carry(Arc::clone(inner), admitted, upstream, hyper::upgrade::on(request)));
    Ok(body::empty(StatusCode::OK))
}

/// Why a tunnel ended before anything was forwarded in it.
pub(super) enum NoHello {
    /// The agent closed it without a word.
    Unused,
    /// It was broken off, or nothing came.
    Broken(&'static str),
    /// What came may not go through.
    Refused(Refusal, HelloError),
    Cut,
}

/// The life of a tunnel after its answer. Whatever happens, the call is settled once.
async fn carry(inner: Arc<Inner>, admitted: Admitted<Connect>, upstream: TcpStream, upgrade: OnUpgrade) {
    let run = Arc::clone(admitted.run());
    let cut = run.cut_signal();
    let counts = Counts::of(&inner, &admitted);
    let peer = upstream.peer_addr().ok();
    let opened = tokio::select! {
        biased;
        () = cut.cancelled() => None,
        opened = tokio::time::timeout(HELLO_MAX, upgrade) => opened.ok().and_then(Result::ok),
    };
    let end = match opened {
        None => Err(NoHello::Broken("the agent went away")),
        Some(opened) => through(TokioIo::new(opened), upstream, &admitted, &counts).await,
    };
    let fields = |word: &'static str| {
        vec![
            public("bytes_up", counts.up()),
            public("bytes_down", counts.down()),
            public("peer", peer.map(|peer| peer.to_string())),
            public("end", word),
        ]
    };
    let used = counts.close();
    let completed = Outcome::Completed { used, estimated: false, upstream_error: false, result: None };
    let broken = |cause: &str| Outcome::Broken { used, cause: cause.to_owned() };
    match end {
        Ok(End::Closed) => admitted.settle_with(&completed, fields("closed")),
        Ok(End::Idle) => admitted.settle_with(&completed, fields("idle")),
        Ok(End::Broken) => admitted.settle_with(&broken("one side broke off"), fields("broken")),
        Ok(End::Spent) => admitted.settle_with(&broken("its budget is used up"), fields("budget")),
        Ok(End::Cut) | Err(NoHello::Cut) => admitted.settle_with(&broken("the run was stopped"), fields("cut")),
        Err(NoHello::Unused) => admitted.settle_with(&completed, fields("unused")),
        Err(NoHello::Broken(cause)) => admitted.settle_with(&broken(cause), fields("broken")),
        Err(NoHello::Refused(refusal, _)) => {
            // The connection was permitted, what was said on it is not: a decision of its own.
            let (decision, action) = (admitted.decision().to_string(), admitted.action().clone());
            admitted.settle_with(&broken("refused before anything was forwarded"), fields("refused"));
            inner.gate.refuse(&run, &action, refusal, vec![public("refs", vec![decision])]).await;
        }
    }
}

/// The hello, then everything else.
async fn through<A>(
    mut agent: A,
    mut upstream: TcpStream,
    admitted: &Admitted<Connect>,
    counts: &Counts,
) -> Result<End, NoHello>
where
    A: AsyncRead + AsyncWrite + Unpin,
{
    let cut = admitted.run().cut_signal();
    let host = &admitted.target().target.host;
    let hello = tokio::select! {
        biased;
        () = cut.cancelled() => return Err(NoHello::Cut),
        read = tokio::time::timeout(HELLO_MAX, read_hello(&mut agent, host)) => {
            read.unwrap_or(Err(NoHello::Broken("no TLS hello came in time")))
        }
    };
    let hello = match hello {
        Ok(hello) => hello,
        Err(why) => {
            if let NoHello::Refused(_, error) = &why {
                alert(&mut agent, *error).await;
            }
            return Err(why);
        }
    };
    // A fresh connection has room for a hello; if not, the agent waits no longer than for anything idle.
    tokio::select! {
        biased;
        () = cut.cancelled() => return Err(NoHello::Cut),
        sent = tokio::time::timeout(tunnel::IDLE_MAX, tunnel::forward(&mut upstream, &hello, counts, Way::Up)) => {
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(end)) => return Ok(end),
                Err(_) => return Ok(End::Broken),
            }
        }
    }
    drop(hello);
    Ok(tunnel::carry(agent, upstream, counts, cut).await)
}

/// Tells a client that its hello was refused. Only one that speaks TLS understands an alert.
pub(super) async fn alert<A: AsyncWrite + Unpin>(agent: &mut A, error: HelloError) {
    if error != HelloError::NotTls {
        let _ = tokio::time::timeout(Duration::from_secs(1), agent.write_all(&ALERT_ACCESS_DENIED)).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), agent.shutdown()).await;
    }
}

/// Reads until there is a whole hello for `host`; gives all that was read.
pub(super) async fn read_hello<A: AsyncRead + Unpin>(agent: &mut A, host: &HostName) -> Result<Vec<u8>, NoHello> {
    let mut sent = Vec::with_capacity(2048);
    let mut needed = 1;
    loop {
        while sent.len() < needed {
            let room = u64::try_from(HELLO_BYTES_MAX.saturating_sub(sent.len())).unwrap_or(0);
            let before = sent.len();
            let read = (&mut *agent).take(room).read_buf(&mut sent).await;
            match read {
                Ok(_) if sent.len() > before => {
                    // What cannot become a hello is refused at its first byte, not at its last.
                    if before < 5 {
                        break;
                    }
                }
                Ok(_) if sent.is_empty() => return Err(NoHello::Unused),
                Ok(_) => return Err(NoHello::Broken("it ended in the middle of the TLS hello")),
                Err(_) => return Err(NoHello::Broken("the agent broke off")),
            }
        }
        match sni::inspect(&sent) {
            Ok(Hello::Incomplete { needed: more }) => needed = more,
            Ok(Hello::Complete { server_name }) => {
                return if HostName::parse(&server_name).as_ref() == Ok(host) {
                    Ok(sent)
                } else {
                    Err(refused(HelloError::NoServerName, "the TLS hello names another server".to_owned()))
                };
            }
            Err(error) => return Err(refused(error, error.to_string())),
        }
    }
}

fn refused(error: HelloError, detail: String) -> NoHello {
    let code = match error {
        HelloError::NotTls | HelloError::Malformed | HelloError::TooLong => RefusalCode::InvalidRequest,
        HelloError::NoServerName | HelloError::Encrypted => RefusalCode::AddressRefused,
    };
    let refusal = Refusal::new(
        code,
        "egress.tls",
        detail,
        "Speak TLS with the declared host as server name and without ECH, or have the manifest declare `protocol: http`",
    );
    NoHello::Refused(refusal, error)
}
