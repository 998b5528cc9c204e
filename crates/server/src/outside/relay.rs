//! From the door to the endpoint of the run: the headers that are listed, the body as it comes, and nothing else. The
//! answer ends with the token that let the request in, with the trust in its issuer, and with the plane.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header, request::Parts};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep};
use tokio_util::{sync::CancellationToken, sync::WaitForCancellationFutureOwned, task::AbortOnDropHandle};

use super::boxes::InUse;

/// What goes along of a request.
const FORWARDED: [HeaderName; 4] =
    [header::ACCEPT, header::CONTENT_TYPE, header::USER_AGENT, HeaderName::from_static("last-event-id")];
/// The headers of the protocol.
const PROTOCOL_PREFIX: &str = "mcp-";
/// What belongs to one connection.
const OF_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    HeaderName::from_static("keep-alive"),
];

/// Until when an answer may go on.
pub(super) struct Until {
    /// The token's end.
    pub(super) expires_in: Duration,
    /// The trust in its issuer.
    pub(super) trusted: CancellationToken,
    /// The plane.
    pub(super) closing: CancellationToken,
}

/// The headers that go along. No credential is among them, whatever it is called.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        if FORWARDED.contains(name) || name.as_str().starts_with(PROTOCOL_PREFIX) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept.insert(header::HOST, HeaderValue::from_static("localhost"));
    kept
}

/// Sends a request on and gives its answer.
pub(super) async fn relay(using: InUse, head: Parts, body: Body, until: Until) -> Result<Response, String> {
    let stream = using.0.connect().await.map_err(|e| format!("the endpoint of the run cannot be reached: {e}"))?;
    let broken = |e: hyper::Error| format!("the endpoint of the run broke off: {e}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with this request, and with it the call that it stands for.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a request of a client outside broke off");
        }
    }));
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = http::Uri::from_static("/mcp");
    *request.headers_mut() = forwarded(&head.headers);
    let mut ends = Ends::new(until);
    // An answer that has not begun ends as well.
    let answer = tokio::select! {
        answer = sender.send_request(request) => answer.map_err(broken)?,
        cut = std::future::poll_fn(|cx| ends.poll(cx)) => return Err(cut.to_string()),
    };
    let (mut head, body) = answer.into_parts();
    for name in OF_CONNECTION {
        head.headers.remove(name);
    }
    let body = Watched { body, ends, _held: (using, connection) };
    Ok(Response::from_parts(head, Body::new(body)))
}

/// Says that something is wrong on this side.
pub(super) fn broken_off(why: &str) -> Response {
    tracing::warn!(why, "a request of a client outside was not carried on");
    super::answers::refusal(StatusCode::BAD_GATEWAY, "unavailable", "the run did not answer")
}

struct Watched {
    body: Incoming,
    ends: Ends,
    _held: (InUse, AbortOnDropHandle<()>),
}

/// What ends an answer.
struct Ends {
    over: Pin<Box<Sleep>>,
    trusted: Pin<Box<WaitForCancellationFutureOwned>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Ends {
    fn new(until: Until) -> Self {
        Self {
            over: Box::pin(tokio::time::sleep_until(Instant::now() + until.expires_in)),
            trusted: Box::pin(until.trusted.cancelled_owned()),
            closing: Box::pin(until.closing.cancelled_owned()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CutOff> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(CutOff::Expired);
        }
        if self.trusted.as_mut().poll(cx).is_ready() {
            return Poll::Ready(CutOff::Untrusted);
        }
        self.closing.as_mut().poll(cx).map(|()| CutOff::Closing)
    }
}

/// Why an answer was cut off.
#[derive(Debug, thiserror::Error)]
enum CutOff {
    #[error("the token has expired")]
    Expired,
    #[error("the issuer is not trusted any more")]
    Untrusted,
    #[error("the plane is stopping")]
    Closing,
    #[error("the run broke off")]
    Run(#[source] hyper::Error),
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if let Poll::Ready(cut) = self.ends.poll(cx) {
            return Poll::Ready(Some(Err(cut)));
        }
        Pin::new(&mut self.body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(CutOff::Run)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_goes_along() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "DPoP secret"),
            ("dpop", "secret"),
            ("cookie", "secret"),
            ("proxy-authorization", "secret"),
            ("x-api-key", "secret"),
            ("x-forwarded-for", "secret"),
            ("forwarded", "secret"),
            ("host", "evil.example"),
            ("origin", "https://evil.example"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("connection", "upgrade"),
            ("expect", "100-continue"),
            ("accept", "application/json"),
            ("content-type", "application/json"),
            ("mcp-session-id", "s"),
            ("mcp-param-city", "Bern"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.append("mcp-name", HeaderValue::from_static("one"));
        headers.append("mcp-name", HeaderValue::from_static("two"));
        let kept = forwarded(&headers);
        let mut names: Vec<_> =
            kept.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "accept=application/json",
                "content-type=application/json",
                "host=localhost",
                "mcp-name=one",
                "mcp-name=two",
                "mcp-param-city=Bern",
                "mcp-session-id=s",
            ]
        );
    }
}
