//! What tool servers tell without being asked, on its way to the agents that listen.
//!
//! An agent hears of changes only of what it was granted, and of a resource only when it may read it. Who does not
//! read fast enough misses notices, never the connection.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use cogward_model::UpstreamName;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    caller::level,
    members::Members,
    rpc,
    session::Session,
    stream::EventLog,
    upstream::{
        exchange::{ClientCan, LogLevel, Peer},
        watch::{UpEvent, WatchFor},
    },
};
use crate::{Inner, run::RunContext};

/// How long a server that cannot be listened to is left alone.
const AGAIN: Duration = Duration::from_secs(5);
/// The most that a listener may name.
pub(super) const NAMED_MAX: usize = 256;

/// What a listener wants to hear.
#[derive(Debug, Clone, Default)]
pub(super) struct Wants {
    pub(super) tools: bool,
    pub(super) prompts: bool,
    pub(super) resources: bool,
    /// The resources, by the server that has them.
    pub(super) uris: BTreeMap<UpstreamName, Vec<String>>,
    pub(super) tasks: Vec<String>,
    /// What servers log and the like, which only sessions hear.
    pub(super) rest: bool,
}

/// Where it hears.
#[derive(Clone)]
pub(super) enum Ear {
    /// In the stream of its subscription, under the id of that.
    Subscription { log: Arc<EventLog>, id: Arc<str> },
    /// In the stream of its session for what belongs to no request.
    Session(Arc<Session>),
}

impl Ear {
    fn hear(&self, method: &str, params: &[u8]) {
        match self {
            Self::Subscription { log, id } => {
                let Some(mut members) = Members::read(params) else { return };
                let meta = members.get("_meta").unwrap_or("{}").to_owned();
                let Some(mut meta) = Members::read(meta.as_bytes()) else { return };
                meta.set("io.modelcontextprotocol/subscriptionId", id.as_ref());
                members.set("_meta", String::from_utf8_lossy(&meta.json()).into_owned());
                log.try_write(&rpc::asking(None, method, &members.json()));
            }
            Self::Session(session) => {
                if let Some(log) = session.standing() {
                    log.try_write(&rpc::asking(None, method, params));
                }
            }
        }
    }

    fn level(&self) -> Option<LogLevel> {
        match self {
            Self::Subscription { .. } => None,
            Self::Session(session) => session.level(),
        }
    }
}

/// Listens for as long as `over` is not cancelled and the run lasts.
pub(super) fn listen(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    can: ClientCan,
    wants: Wants,
    ear: Ear,
    over: CancellationToken,
) {
    let (inner, run) = (Arc::clone(inner), Arc::clone(run));
    tokio::spawn(async move {
        let mut all = JoinSet::new();
        let some = wants.tools || wants.prompts || wants.resources || wants.rest || !wants.tasks.is_empty();
        for server in run.grant.tools().keys() {
            if some || wants.uris.contains_key(server) {
                let server = server.clone();
                let (inner, run, wants, ear) = (Arc::clone(&inner), Arc::clone(&run), wants.clone(), ear.clone());
                all.spawn(async move { attend(&inner, &run, can, &server, &wants, &ear).await });
            }
        }
        tokio::select! {
            () = run.cut_signal().cancelled() => {}
            () = over.cancelled() => {}
            () = async { while all.join_next().await.is_some() {} } => {}
        }
    });
}

/// Listens to one server, again and again.
async fn attend(inner: &Inner, run: &RunContext, can: ClientCan, server: &UpstreamName, wants: &Wants, ear: &Ear) {
    let peer = Peer { run: Some(run.grant.run), can };
    loop {
        for fence in [inner.gate.plane_fence(), &run.fence] {
            if fence.pass().await.is_err() {
                return;
            }
        }
        let Some(client) = inner.upstreams.tool_server(&run.grant.tenant, server) else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let what = WatchFor {
            tools: wants.tools,
            prompts: wants.prompts && run.grant.prompts().contains_key(server),
            resources: wants.resources && run.grant.resources().contains_key(server),
            uris: wants.uris.get(server).cloned().unwrap_or_default(),
        };
        if let Ok(mut watch) = client.watch(peer, what).await {
            while let Some(event) = watch.next().await {
                if let Some((method, params)) = told(run, server, wants, ear, event) {
                    ear.hear(method, &params);
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What of an event a listener is told.
fn told(
    run: &RunContext,
    server: &UpstreamName,
    wants: &Wants,
    ear: &Ear,
    event: UpEvent,
) -> Option<(&'static str, Bytes)> {
    let none = || Bytes::from_static(b"{}");
    match event {
        UpEvent::ToolsChanged if wants.tools => Some(("notifications/tools/list_changed", none())),
        UpEvent::PromptsChanged if wants.prompts && run.grant.prompts().contains_key(server) => {
            Some(("notifications/prompts/list_changed", none()))
        }
        UpEvent::ResourcesChanged if wants.resources && run.grant.resources().contains_key(server) => {
            Some(("notifications/resources/list_changed", none()))
        }
        UpEvent::ResourceUpdated(uri) if wants.uris.get(server).is_some_and(|uris| uris.contains(&uri)) => {
            Some(("notifications/resources/updated", rpc::to_json(&serde_json::json!({ "uri": uri }))))
        }
        UpEvent::Log(params) if wants.rest && !run.mcp.quiet.is_hushed(server) => {
            let said = Members::read(&params)?.text("level").and_then(|text| level(&text).ok())?;
            ear.level().is_none_or(|wanted| said >= wanted).then_some(("notifications/message", params))
        }
        UpEvent::ElicitationComplete(params) if wants.rest => Some(("notifications/elicitation/complete", params)),
        UpEvent::TaskStatus(params) => {
            let task = Members::read(&params)?.text("taskId")?;
            let own = run.mcp.task_owner(&task).is_some_and(|owner| owner.server == *server);
            (own && wants.tasks.contains(&task)).then_some(("notifications/tasks", params))
        }
        _ => None,
    }
}
