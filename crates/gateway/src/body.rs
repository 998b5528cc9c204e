//! Bodies towards and from agents: bounded in size and time on the way in, boxed on the way out.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use cogward_model::{
    decision::{Refusal, RefusalCode},
    limits::REQUEST_BODY_MS_MAX,
};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::BoxBody};

/// Why a streamed answer broke off; the connection is closed without an end, so no client takes it for whole.
#[derive(Debug, thiserror::Error)]
#[error("the stream was broken off: {0}")]
pub struct BrokenStream(pub String);

/// A body towards an agent.
pub type AgentBody = BoxBody<Bytes, BrokenStream>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> AgentBody {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// A JSON answer.
pub fn json(status: StatusCode, bytes: impl Into<Bytes>) -> Response<AgentBody> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<AgentBody> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// The status of a refusal, with `retry-after` for a throttle and a word to SDKs not to repeat the rest.
pub fn refusal_head(refusal: &Refusal) -> http::response::Builder {
    let status = StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::FORBIDDEN);
    let head = Response::builder().status(status).header("x-cogward-code", refusal.code.as_str());
    match refusal.retry_after {
        Some(wait) => head.header(header::RETRY_AFTER, wait.as_secs().max(1)),
        None => head.header("x-should-retry", "false"),
    }
}

/// Reads a whole request body.
///
/// # Errors
/// A refusal when it is longer than `max` bytes, slower than the bound, or broken off.
pub async fn read<B>(body: B, max: usize) -> Result<Bytes, Refusal>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = Limited::new(body, max).collect();
    let invalid = |detail: String| {
        Refusal::new(RefusalCode::InvalidRequest, "limits.requestBody", detail, "Send one complete, smaller request")
    };
    match tokio::time::timeout(Duration::from_millis(REQUEST_BODY_MS_MAX), whole).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(invalid(format!("the request body is longer than {max} bytes")))
        }
        Ok(Err(_)) => Err(invalid("the request body was broken off".to_owned())),
        Err(_) => Err(invalid(format!("the request body took longer than {REQUEST_BODY_MS_MAX} ms"))),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    /// A body that says one byte a second, and never ends.
    fn dripping() -> impl http_body::Body<Data = Bytes, Error = Infallible> {
        StreamBody::new(Box::pin(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok(Frame::data(Bytes::from_static(b" "))), ()))
        })))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up_however_steadily_it_does() {
        let begun = tokio::time::Instant::now();
        let refusal = read(dripping(), 1024 * 1024).await.unwrap_err();
        assert_eq!((refusal.code, refusal.rule.as_str()), (RefusalCode::InvalidRequest, "limits.requestBody"));
        assert!(refusal.detail.contains("took longer"), "{}", refusal.detail);
        assert_eq!(begun.elapsed(), Duration::from_millis(REQUEST_BODY_MS_MAX));
        // Length ends it before time does, and without waiting for the rest.
        let long = read(dripping(), 10).await.unwrap_err();
        assert!(long.detail.contains("longer than 10 bytes"), "{}", long.detail);
        assert_eq!(read(Full::new(Bytes::from_static(b"0123456789")), 10).await.unwrap().len(), 10);
    }
}
