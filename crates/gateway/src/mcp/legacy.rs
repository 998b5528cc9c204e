//! The era with sessions: revisions 2025-03-26 to 2025-11-25.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{
    call,
    caller::{self, Caller, Era, takes_streams},
    can,
    endpoint::{Asked, SESSION, WITH_SESSIONS, ok, refused, single},
    listing, offers, question, reading,
    rounds::Brings,
    rpc::{self, Message},
    session::{Agreed, Session},
    shelf::{self, Shelf},
    watch::{self, Ear, Wants},
};
use crate::{
    Inner,
    body::{self, AgentBody},
    run::RunContext,
};

const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// Answers a message.
pub(super) async fn answer(inner: &Arc<Inner>, run: &Arc<RunContext>, asked: &Asked<'_>) -> Response<AgentBody> {
    if asked.method == "initialize" {
        return Box::pin(initialize(inner, run, asked)).await;
    }
    let session = match in_session(run, asked.headers) {
        Ok(session) => session,
        Err((status, why)) => return refused(status, asked.id, rpc::INVALID_REQUEST, &why),
    };
    let Some(id) = asked.id else {
        // Of the notifications of a client one changes something here.
        if let ("notifications/cancelled", Some(called_off)) = (asked.method, asked.params.request_id) {
            session.call_off(called_off.get());
        }
        return body::empty(StatusCode::ACCEPTED);
    };
    let params = &asked.params;
    let invalid = |why: &str| refused(StatusCode::OK, Some(id), rpc::INVALID_PARAMS, why);
    let unknown = || refused(StatusCode::OK, Some(id), rpc::METHOD_NOT_FOUND, "no such method");
    match asked.method {
        "ping" => return ok(rpc::result(id, b"{}")),
        "tools/list" => {
            return match Box::pin(listing::list(inner, run)).await {
                Ok(served) => {
                    let parts: [&[u8]; 3] = [br#"{"tools":"#, &served.tools, b"}"];
                    ok(run.answers.hold(rpc::result(id, &parts.concat())).await)
                }
                Err(refusal) => refused(StatusCode::OK, Some(id), rpc::INTERNAL_ERROR, &refusal.sentence()),
            };
        }
        "logging/setLevel" => {
            return match params.level.as_deref().map(caller::level) {
                Some(Ok(level)) => {
                    session.set_level(level);
                    ok(rpc::result(id, b"{}"))
                }
                _ => invalid("`level` is missing or none of RFC 5424"),
            };
        }
        method if !granted(run, method) => return unknown(),
        _ => {}
    }
    if let Some(shelf) = Shelf::of(asked.method) {
        return match Box::pin(shelf::list(inner, run, shelf)).await {
            Ok(list) => {
                let head = format!(r#"{{"{}":"#, shelf.member());
                let parts: [&[u8]; 3] = [head.as_bytes(), &list, b"}"];
                ok(run.answers.hold(rpc::result(id, &parts.concat())).await)
            }
            Err(refusal) => refused(StatusCode::OK, Some(id), rpc::INTERNAL_ERROR, &refusal.sentence()),
        };
    }
    let caller = match Caller::of(id, Era::Session(Arc::clone(&session)), params.meta, asked.headers) {
        Ok(caller) => caller,
        Err(why) => return invalid(why),
    };
    match asked.method {
        "tools/call" => {
            let Some(name) = params.name.as_deref() else { return invalid("`name` is missing") };
            // A session is asked back, it does not bring answers by itself.
            let brings = Brings::default();
            let wanted = call::Wanted { body: asked.body, name, arguments: params.arguments, brings };
            call::call(inner, run, caller, wanted).await
        }
        "resources/subscribe" | "resources/unsubscribe" => {
            let Some(uri) = params.uri.as_deref() else { return invalid("`uri` is missing") };
            if asked.method == "resources/unsubscribe" {
                session.unwatch(uri);
                return ok(rpc::result(id, b"{}"));
            }
            Box::pin(subscribe(inner, run, &session, &caller, uri)).await
        }
        method => Box::pin(reading::answer(inner, run, caller, method, params)).await.unwrap_or_else(unknown),
    }
}

/// Whether the manifest grants anything that a method is for.
pub(super) fn granted(run: &RunContext, method: &str) -> bool {
    let (resources, prompts) = (!run.grant.resources().is_empty(), !run.grant.prompts().is_empty());
    match method {
        "completion/complete" => resources || prompts,
        method if method.starts_with("resources/") => resources,
        method if method.starts_with("prompts/") => prompts,
        _ => true,
    }
}

/// Takes the answer of a client to a question.
pub(super) fn answered(
    run: &RunContext,
    headers: &HeaderMap,
    body: &Bytes,
    message: &Message<'_>,
) -> Response<AgentBody> {
    let accepted = || body::empty(StatusCode::ACCEPTED);
    if !headers.contains_key(&SESSION) {
        return accepted();
    }
    let session = match in_session(run, headers) {
        Ok(session) => session,
        Err((status, why)) => return refused(status, None, rpc::INVALID_REQUEST, &why),
    };
    let Some(number) = message.id.map(RawValue::get).and_then(question::number) else { return accepted() };
    let answer = match (message.result, &message.error) {
        (Some(result), _) if result.get().starts_with('{') => Ok(body.slice_ref(result.get().as_bytes())),
        (_, Some(error)) => Err((error.code, rpc::shown(&error.message, 1_000))),
        _ => Err((rpc::INVALID_PARAMS, "the client's answer is not a result".to_owned())),
    };
    // One that nobody waits for any more means nothing.
    session.answer(number, answer);
    accepted()
}

/// Opens the stream for what belongs to no request, or takes one up again that was cut off.
pub(super) async fn listen(inner: &Arc<Inner>, run: &Arc<RunContext>, headers: &HeaderMap) -> Response<AgentBody> {
    let session = match in_session(run, headers) {
        Ok(session) => session,
        Err((status, why)) => return refused(status, None, rpc::INVALID_REQUEST, &why),
    };
    if !takes_streams(headers) {
        let why = "send `accept: text/event-stream`";
        return refused(StatusCode::NOT_ACCEPTABLE, None, rpc::INVALID_REQUEST, why);
    }
    match single(headers, &LAST_EVENT) {
        Ok(Some(last)) => {
            if let Some((stream, place)) = session.stream_after(last) {
                return stream.body(Some(place));
            }
        }
        Ok(None) => {}
        Err(why) => return refused(StatusCode::BAD_REQUEST, None, rpc::INVALID_REQUEST, &why),
    }
    let Some(place) = run.mcp.stream_place() else { return crowded(None) };
    let stream = session.stand(place);
    if session.agreed.revision == "2025-11-25" {
        stream.prime();
    }
    let wants = Wants { tools: true, prompts: true, resources: true, rest: true, ..Wants::default() };
    let over = CancellationToken::new();
    watch::listen(inner, run, session.agreed.can, wants, Ear::Session(Arc::clone(&session)), over.clone());
    let response = stream.body(None);
    let cut = run.cut_signal().clone();
    tokio::spawn(async move {
        let _over = over.drop_guard();
        tokio::select! {
            () = cut.cancelled() => {}
            () = stream.left() => {}
        }
        session.stands_no_more(&stream);
    });
    response
}

/// Too many streams are open.
pub(super) fn crowded(id: Option<&RawValue>) -> Response<AgentBody> {
    let why = "too many streams are open; close one first";
    let mut response = refused(StatusCode::TOO_MANY_REQUESTS, id, rpc::INTERNAL_ERROR, why);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Watches a resource that may be read.
async fn subscribe(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    session: &Arc<Session>,
    caller: &Caller,
    uri: &str,
) -> Response<AgentBody> {
    let refuse = |code: i64, why: &str| refused(StatusCode::OK, Some(&caller.id), code, why);
    let server = match reading::may_watch(inner, run, uri).await {
        Ok(Some(server)) => server,
        Ok(None) => return refuse(caller.not_found(), "there is no such resource, or it is not declared"),
        Err(refusal) => return refuse(rpc::INTERNAL_ERROR, &refusal.sentence()),
    };
    let over = CancellationToken::new();
    let wants = Wants { uris: [(server, vec![uri.to_owned()])].into(), ..Wants::default() };
    if !session.watch(uri, over.clone().drop_guard()) {
        return refuse(rpc::INTERNAL_ERROR, "too many resources are watched; give one up first");
    }
    watch::listen(inner, run, session.agreed.can, wants, Ear::Session(Arc::clone(session)), over);
    ok(rpc::result(&caller.id, b"{}"))
}

/// Ends a session.
pub(super) fn end(run: &RunContext, headers: &HeaderMap) -> Response<AgentBody> {
    match single(headers, &SESSION) {
        Ok(Some(id)) if run.mcp.end_session(run.grant.run, id) => body::empty(StatusCode::OK),
        Ok(Some(_)) => body::empty(StatusCode::NOT_FOUND),
        _ => body::empty(StatusCode::BAD_REQUEST),
    }
}

async fn initialize(inner: &Arc<Inner>, run: &Arc<RunContext>, asked: &Asked<'_>) -> Response<AgentBody> {
    let (Some(id), Some(wanted)) = (asked.id, asked.params.protocol_version.as_deref()) else {
        let text = "`initialize` needs an id and a `protocolVersion`";
        return refused(StatusCode::BAD_REQUEST, asked.id, rpc::INVALID_PARAMS, text);
    };
    // A client that wants something else is offered the newest, and decides.
    let revision = WITH_SESSIONS.into_iter().find(|known| *known == wanted).unwrap_or(WITH_SESSIONS[0]);
    let can = asked.params.capabilities.map(|all| can::declared(all.get())).unwrap_or_default();
    let greeting = rpc::to_json(&serde_json::json!({
        "protocolVersion": revision,
        "capabilities": offers::capabilities(inner, run, false).await,
        "serverInfo": {"name": "cogward", "version": env!("CARGO_PKG_VERSION")}
    }));
    let mut response = ok(rpc::result(id, &greeting));
    if let Ok(session) = HeaderValue::from_str(&run.mcp.open_session(run.grant.run, Agreed { revision, can })) {
        response.headers_mut().insert(SESSION, session);
    }
    response
}

/// The session of a request. What it says of its revision may be any that has sessions: clients take that header from
/// elsewhere than from what was agreed on.
fn in_session(run: &RunContext, headers: &HeaderMap) -> Result<Arc<Session>, (StatusCode, String)> {
    let id = single(headers, &SESSION).map_err(|why| (StatusCode::BAD_REQUEST, why))?;
    let Some(id) = id else {
        return Err((StatusCode::BAD_REQUEST, "send `initialize` first, then its `Mcp-Session-Id`".to_owned()));
    };
    let Some(session) = run.mcp.session(run.grant.run, id) else {
        return Err((StatusCode::NOT_FOUND, "there is no such session; send `initialize` again".to_owned()));
    };
    Ok(session)
}
