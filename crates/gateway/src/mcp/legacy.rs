//! The era with sessions: revisions 2025-03-26 to 2025-11-25.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::{
    call,
    endpoint::{Asked, SESSION, WITH_SESSIONS, ok, refused, single},
    listing, rpc,
};
use crate::{
    Inner,
    body::{self, AgentBody},
    rooms::Held,
    run::RunContext,
};

/// Answers a message.
pub(super) async fn answer(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    revision: Option<&str>,
    asked: &Asked<'_>,
) -> Response<AgentBody> {
    if asked.method == "initialize" {
        return initialize(run, asked);
    }
    if let Err((status, why)) = in_session(run, revision, asked.headers) {
        return refused(status, asked.id, rpc::INVALID_REQUEST, &why);
    }
    let Some(id) = asked.id else {
        // Notifications: `initialized`, `cancelled` and whatever else needs no answer.
        return body::empty(StatusCode::ACCEPTED);
    };
    match asked.method {
        "ping" => ok(rpc::result(id, b"{}")),
        "tools/list" => match listing::list(inner, run).await {
            Ok(served) => {
                let parts: [&[u8]; 3] = [br#"{"tools":"#, &served.tools, b"}"];
                ok(run.answers.hold(rpc::result(id, &parts.concat())).await)
            }
            Err(refusal) => refused(StatusCode::OK, Some(id), rpc::INTERNAL_ERROR, &refusal.sentence()),
        },
        "tools/call" => {
            let Some(name) = asked.params.name.as_deref() else {
                return refused(StatusCode::OK, Some(id), rpc::INVALID_PARAMS, "`name` is missing");
            };
            let answer = call::call(inner, run, asked.body, name, asked.params.arguments).await;
            ok(Held::bind(answer.room, rpc::result(id, &answer.result)))
        }
        _ => refused(StatusCode::OK, Some(id), rpc::METHOD_NOT_FOUND, "no such method"),
    }
}

/// Ends a session.
pub(super) fn end(run: &RunContext, headers: &HeaderMap) -> Response<AgentBody> {
    match single(headers, &SESSION) {
        Ok(Some(id)) if run.mcp.end_session(run.grant.run, id) => body::empty(StatusCode::OK),
        Ok(Some(_)) => body::empty(StatusCode::NOT_FOUND),
        _ => body::empty(StatusCode::BAD_REQUEST),
    }
}

fn initialize(run: &RunContext, asked: &Asked<'_>) -> Response<AgentBody> {
    let (Some(id), Some(wanted)) = (asked.id, asked.params.protocol_version.as_deref()) else {
        let text = "`initialize` needs an id and a `protocolVersion`";
        return refused(StatusCode::BAD_REQUEST, asked.id, rpc::INVALID_PARAMS, text);
    };
    // A client that wants something else is offered the newest, and decides.
    let revision = WITH_SESSIONS.into_iter().find(|known| *known == wanted).unwrap_or(WITH_SESSIONS[0]);
    let greeting = rpc::to_json(&serde_json::json!({
        "protocolVersion": revision,
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "cogward", "version": env!("CARGO_PKG_VERSION")}
    }));
    let mut response = ok(rpc::result(id, &greeting));
    if let Ok(session) = HeaderValue::from_str(&run.mcp.open_session(run.grant.run, revision)) {
        response.headers_mut().insert(SESSION, session);
    }
    response
}

fn in_session(run: &RunContext, revision: Option<&str>, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
    let id = single(headers, &SESSION).map_err(|why| (StatusCode::BAD_REQUEST, why))?;
    let Some(id) = id else {
        return Err((StatusCode::BAD_REQUEST, "send `initialize` first, then its `Mcp-Session-Id`".to_owned()));
    };
    let Some(agreed) = run.mcp.session(run.grant.run, id) else {
        return Err((StatusCode::NOT_FOUND, "there is no such session; send `initialize` again".to_owned()));
    };
    if revision.is_some_and(|revision| revision != agreed) {
        return Err((StatusCode::BAD_REQUEST, format!("the session was opened with revision {agreed}")));
    }
    Ok(())
}
