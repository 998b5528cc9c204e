//! The stateless era: revision 2026-07-28. Every request says its revision, in a header and in the
//! body, and the headers that name method and tool must agree with the body, which is what counts.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, Response, StatusCode};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio_util::sync::CancellationToken;

use super::{
    call,
    caller::{Caller, Era},
    endpoint::{Asked, STATELESS, WITH_SESSIONS, decoded, ok, refused, single},
    legacy, listing, mirror, offers, reading,
    rounds::Brings,
    rpc,
    shelf::{self, Shelf},
    stream::EventLog,
    tasks,
    watch::{self, Ear, NAMED_MAX, Wants},
};
use crate::{
    Inner,
    body::{self, AgentBody},
    run::RunContext,
};

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// How long a client may hold a list to be fresh.
const FRESH_MS: u32 = 5_000;

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
    let params = &asked.params;
    let invalid = |why: &str| refused(StatusCode::BAD_REQUEST, Some(id), rpc::INVALID_PARAMS, why);
    let unknown = || refused(StatusCode::NOT_FOUND, Some(id), rpc::METHOD_NOT_FOUND, "no such method");
    match asked.method {
        "server/discover" => return ok(rpc::result(id, &Box::pin(discovery(inner, run)).await)),
        "tools/list" => {
            return match Box::pin(listing::list(inner, run)).await {
                Ok(served) => listed(run, id, "tools", &served.tools).await,
                Err(refusal) => refused(StatusCode::OK, Some(id), rpc::INTERNAL_ERROR, &refusal.sentence()),
            };
        }
        "subscriptions/listen" => return Box::pin(listen(inner, run, asked, id)).await,
        // These belong to the era with sessions.
        "resources/subscribe" | "resources/unsubscribe" => return unknown(),
        method if !legacy::granted(run, method) => return unknown(),
        _ => {}
    }
    if let Some(shelf) = Shelf::of(asked.method) {
        return match Box::pin(shelf::list(inner, run, shelf)).await {
            Ok(list) => listed(run, id, shelf.member(), &list).await,
            Err(refusal) => refused(StatusCode::OK, Some(id), rpc::INTERNAL_ERROR, &refusal.sentence()),
        };
    }
    let caller = match Caller::of(id, Era::Stateless, params.meta, asked.headers) {
        Ok(caller) => caller,
        Err(why) => return invalid(why),
    };
    if asked.method.starts_with("tasks/") {
        return Box::pin(tasks::answer(inner, run, caller, asked.method, params)).await.unwrap_or_else(unknown);
    }
    if asked.method != "tools/call" {
        return Box::pin(reading::answer(inner, run, caller, asked.method, params)).await.unwrap_or_else(unknown);
    }
    let Some(name) = params.name.as_deref() else { return invalid("`name` is missing") };
    if let Err(why) = mirrored(inner, run, asked, name).await {
        return refused(StatusCode::BAD_REQUEST, Some(id), rpc::HEADER_MISMATCH, &why);
    }
    let brings = Brings { responses: params.input_responses, state: params.request_state.as_deref() };
    let wanted = call::Wanted { body: asked.body, name, arguments: params.arguments, brings };
    call::call(inner, run, caller, wanted).await
}

/// A list, which is the run's own and fresh for a short time.
async fn listed(run: &RunContext, id: &RawValue, member: &str, list: &[u8]) -> Response<AgentBody> {
    let head = format!(r#"{{"{member}":"#);
    let tail = format!(r#","resultType":"complete","ttlMs":{FRESH_MS},"cacheScope":"private"}}"#);
    let parts: [&[u8]; 3] = [head.as_bytes(), list, tail.as_bytes()];
    ok(run.answers.hold(rpc::result(id, &parts.concat())).await)
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
    let params = &asked.params;
    let wanted = match asked.method {
        "tools/call" | "prompts/get" => params.name.as_deref(),
        "resources/read" => params.uri.as_deref(),
        "tasks/get" | "tasks/update" | "tasks/cancel" => params.task_id.as_deref(),
        _ => return Ok(()),
    };
    let named = single(asked.headers, &NAME).map_err(|why| mismatch(&why))?;
    let named = named.ok_or_else(|| mismatch("`Mcp-Name` is missing"))?;
    let named = decoded(named).ok_or_else(|| mismatch("`Mcp-Name` is not as the revision encodes it"))?;
    if wanted.is_some_and(|wanted| wanted != named) {
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

async fn discovery(inner: &Arc<Inner>, run: &Arc<RunContext>) -> Bytes {
    rpc::to_json(&json!({
        "resultType": "complete",
        "supportedVersions": supported(),
        "capabilities": offers::capabilities(inner, run, true).await,
        "ttlMs": FRESH_MS,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "cogward", "version": env!("CARGO_PKG_VERSION")}}
    }))
}

/// What a listener asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
    task_ids: Vec<String>,
}

/// Opens a stream of changes. Its first message says which of them it will tell: those of what is granted.
async fn listen(inner: &Arc<Inner>, run: &Arc<RunContext>, asked: &Asked<'_>, id: &RawValue) -> Response<AgentBody> {
    let invalid = |why: &str| refused(StatusCode::BAD_REQUEST, Some(id), rpc::INVALID_PARAMS, why);
    let filter: Filter = match asked.params.notifications.map(|filter| serde_json::from_str(filter.get())) {
        None => Filter::default(),
        Some(Ok(filter)) => filter,
        Some(Err(_)) => return invalid("`notifications` is not a filter as the revision has it"),
    };
    if filter.resource_subscriptions.len() > NAMED_MAX || filter.task_ids.len() > NAMED_MAX {
        return invalid("`notifications` names too much");
    }
    let caller = match Caller::of(id, Era::Stateless, asked.params.meta, asked.headers) {
        Ok(caller) => caller,
        Err(why) => return invalid(why),
    };
    let mut wants = Wants {
        tools: filter.tools_list_changed,
        prompts: filter.prompts_list_changed && !run.grant.prompts().is_empty(),
        resources: filter.resources_list_changed && !run.grant.resources().is_empty(),
        ..Wants::default()
    };
    let mut heard = serde_json::Map::new();
    for (name, wanted) in [
        ("toolsListChanged", wants.tools),
        ("promptsListChanged", wants.prompts),
        ("resourcesListChanged", wants.resources),
    ] {
        if wanted {
            heard.insert(name.to_owned(), true.into());
        }
    }
    let mut uris = Vec::new();
    for uri in filter.resource_subscriptions {
        match reading::may_watch(inner, run, &uri).await {
            Ok(Some(server)) => {
                wants.uris.entry(server).or_default().push(uri.clone());
                uris.push(uri);
            }
            Ok(None) => {}
            Err(refusal) => return refused(StatusCode::OK, Some(id), rpc::INTERNAL_ERROR, &refusal.sentence()),
        }
    }
    if !uris.is_empty() {
        heard.insert("resourceSubscriptions".to_owned(), uris.into());
    }
    wants.tasks = filter.task_ids;
    wants.tasks.retain(|task| run.mcp.task_owner(task).is_some());
    if !wants.tasks.is_empty() {
        heard.insert("taskIds".to_owned(), wants.tasks.clone().into());
    }
    let Some(place) = run.mcp.stream_place() else { return legacy::crowded(Some(id)) };
    let log = EventLog::passing(Some(place));
    let acknowledged = format!(
        r#"{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{}}},"notifications":{}}}"#,
        id.get(),
        serde_json::Value::Object(heard)
    );
    log.try_write(&rpc::asking(None, "notifications/subscriptions/acknowledged", acknowledged.as_bytes()));
    let (over, ear) = (CancellationToken::new(), Ear::Subscription { log: Arc::clone(&log), id: id.get().into() });
    watch::listen(inner, run, caller.can, wants, ear, over.clone());
    let response = log.body(None);
    let cut = run.cut_signal().clone();
    tokio::spawn(async move {
        let _over = over.drop_guard();
        tokio::select! {
            () = cut.cancelled() => {}
            () = log.left() => {}
        }
        log.end();
    });
    response
}
