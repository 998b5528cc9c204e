//! The stateless era: revision 2026-07-28. Every request says its revision, in a header and in the
//! body, and the headers that name method and tool must agree with the body, which is what counts.

use std::{
    borrow::Cow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{
    call,
    endpoint::{Asked, STATELESS, WITH_SESSIONS, decoded, ok, refused, single},
    listing, mirror, rpc,
};
use crate::{
    Inner,
    body::{self, AgentBody, BrokenStream},
    rooms::Held,
    run::RunContext,
};

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// How long a client may hold a list to be fresh.
const FRESH_MS: u32 = 5_000;
/// How often an open stream shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What each request says about itself.
#[derive(Debug, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    revision: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Option<&'a RawValue>,
}

/// Whether `_meta` names a revision, which only this era does.
pub(super) fn is_marked(meta: &RawValue) -> bool {
    // A revision of a wrong type is a mark too, and refused later.
    serde_json::from_str::<Meta<'_>>(meta.get()).map_or(meta.get().starts_with('{'), |meta| meta.revision.is_some())
}

/// Answers a message.
pub(super) async fn answer(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    revision: Option<&str>,
    asked: &Asked<'_>,
) -> Response<AgentBody> {
    if let Err(response) = agreed(revision, asked) {
        return *response;
    }
    let Some(id) = asked.id else {
        // The revision has no notification that a client could send this way.
        return body::empty(StatusCode::ACCEPTED);
    };
    match asked.method {
        "server/discover" => ok(rpc::result(id, &discovery())),
        "tools/list" => match listing::list(inner, run).await {
            Ok(served) => {
                let tail = format!(r#","resultType":"complete","ttlMs":{FRESH_MS},"cacheScope":"private"}}"#);
                let parts: [&[u8]; 3] = [br#"{"tools":"#, &served.tools, tail.as_bytes()];
                ok(run.answers.hold(rpc::result(id, &parts.concat())).await)
            }
            Err(refusal) => refused(StatusCode::OK, Some(id), rpc::INTERNAL_ERROR, &refusal.sentence()),
        },
        "tools/call" => {
            let Some(name) = asked.params.name.as_deref() else {
                return refused(StatusCode::BAD_REQUEST, Some(id), rpc::INVALID_PARAMS, "`name` is missing");
            };
            if let Err(why) = mirrored(inner, run, asked, name).await {
                return refused(StatusCode::BAD_REQUEST, Some(id), rpc::HEADER_MISMATCH, &why);
            }
            let answer = call::call(inner, run, asked.body, name, asked.params.arguments).await;
            let bytes = if answer.typed {
                rpc::result(id, &answer.result)
            } else {
                rpc::result(id, &completed(&answer.result))
            };
            ok(Held::bind(answer.room, bytes))
        }
        "subscriptions/listen" => listen(id),
        _ => refused(StatusCode::NOT_FOUND, Some(id), rpc::METHOD_NOT_FOUND, "no such method"),
    }
}

/// Headers and body agree, and on a revision that is spoken here.
fn agreed(header: Option<&str>, asked: &Asked<'_>) -> Result<(), Box<Response<AgentBody>>> {
    let no = |code: i64, why: &str| Box::new(refused(StatusCode::BAD_REQUEST, asked.id, code, why));
    let mismatch = |why: &str| no(rpc::HEADER_MISMATCH, why);
    let meta = match asked.params.meta.map(|raw| serde_json::from_str::<Meta<'_>>(raw.get())) {
        Some(Ok(meta)) => meta,
        Some(Err(_)) => return Err(no(rpc::INVALID_PARAMS, "`_meta` is not as the revision has it")),
        None => Meta { revision: None, capabilities: None },
    };
    match (header, meta.revision.as_deref()) {
        (Some(header), Some(said)) if header != said => {
            return Err(mismatch("`MCP-Protocol-Version` and the revision in `_meta` differ"));
        }
        (None, Some(_)) => return Err(mismatch("`MCP-Protocol-Version` is missing")),
        _ => {}
    }
    if let Some(wanted) = meta.revision.as_deref().or(header).filter(|wanted| *wanted != STATELESS) {
        let data = json!({"supported": supported(), "requested": rpc::shown(wanted, 64)});
        let text = "this revision is not spoken here";
        let bytes = rpc::error(asked.id, rpc::UNSUPPORTED_VERSION, text, Some(&data));
        return Err(Box::new(body::json(StatusCode::BAD_REQUEST, bytes)));
    }
    if meta.revision.is_none() || !meta.capabilities.is_some_and(|raw| raw.get().starts_with('{')) {
        return Err(no(rpc::INVALID_PARAMS, "`_meta` needs the protocol version and the client's capabilities"));
    }
    match single(asked.headers, &METHOD) {
        Ok(Some(method)) if method == asked.method => {}
        Ok(Some(_)) => return Err(mismatch("`Mcp-Method` is not the method of the body")),
        Ok(None) => return Err(mismatch("`Mcp-Method` is missing")),
        Err(why) => return Err(mismatch(&why)),
    }
    if asked.method != "tools/call" {
        return Ok(());
    }
    let named = single(asked.headers, &NAME).map_err(|why| mismatch(&why))?;
    let named = named.ok_or_else(|| mismatch("`Mcp-Name` is missing"))?;
    let named = decoded(named).ok_or_else(|| mismatch("`Mcp-Name` is not as the revision encodes it"))?;
    if asked.params.name.as_deref().is_some_and(|name| name != named) {
        return Err(mismatch("`Mcp-Name` is not the name of the body"));
    }
    Ok(())
}

/// The headers that the tool's definition asks for agree with the arguments. Only of granted tools is
/// anything known here; what is wrong with the others the call itself says.
async fn mirrored(inner: &Inner, run: &RunContext, asked: &Asked<'_>, name: &str) -> Result<(), String> {
    let Some(definition) = call::definition(inner, run, name).await else { return Ok(()) };
    if definition.mirrored.is_empty() {
        return Ok(());
    }
    let arguments = asked.params.arguments.map(|raw| serde_json::from_str(raw.get())).transpose();
    mirror::agree(&definition.mirrored, asked.headers, &arguments.ok().flatten().unwrap_or_default())
}

fn supported() -> Vec<&'static str> {
    std::iter::once(STATELESS).chain(WITH_SESSIONS).collect()
}

fn discovery() -> Bytes {
    rpc::to_json(&json!({
        "resultType": "complete",
        "supportedVersions": supported(),
        "capabilities": {"tools": {}},
        "ttlMs": FRESH_MS,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "cogward", "version": env!("CARGO_PKG_VERSION")}}
    }))
}

/// A result of the older era, as this one wants it.
fn completed(result: &[u8]) -> Bytes {
    let rest = result.strip_prefix(b"{").unwrap_or_default();
    let alone = rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    let parts: [&[u8]; 3] = [br#"{"resultType":"complete""#, if alone { b"" } else { b"," }, rest];
    parts.concat().into()
}

/// A stream that is acknowledged and then only kept alive: nothing that can be subscribed to is offered yet.
fn listen(id: &RawValue) -> Response<AgentBody> {
    let acknowledged = format!(
        "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{{\"_meta\":\
         {{\"io.modelcontextprotocol/subscriptionId\":{}}},\"notifications\":{{}}}}}}\n\n",
        id.get()
    );
    let mut pulse = tokio::time::interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut response = Response::new(Idle { first: Some(acknowledged.into()), pulse }.boxed());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

struct Idle {
    first: Option<Bytes>,
    pulse: Interval,
}

impl http_body::Body for Idle {
    type Data = Bytes;
    type Error = BrokenStream;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenStream>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.pulse.poll_tick(context).map(|_| Some(Ok(Frame::data(Bytes::from_static(b":\n\n")))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_completed_whatever_it_holds() {
        for (result, wanted) in [
            (r#"{}"#, r#"{"resultType":"complete"}"#),
            (r#"{ }"#, r#"{"resultType":"complete" }"#),
            (r#"{"content":[]}"#, r#"{"resultType":"complete","content":[]}"#),
        ] {
            assert_eq!(completed(result.as_bytes()), wanted);
        }
    }
}
