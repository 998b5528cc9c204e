//! What an agent is told that there is: what its manifest grants and its tool servers have.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use super::upstream::wire::Offers;
use crate::{FenceState, Inner, run::RunContext};

/// How long a greeting waits for tool servers that do not answer; what they may have is then told as the manifest has it.
const WAIT: Duration = Duration::from_secs(3);

/// The capabilities that an agent sees, in either era.
pub(super) async fn capabilities(inner: &Arc<Inner>, run: &Arc<RunContext>, stateless: bool) -> Value {
    let all = servers(inner, run).await;
    let any = |has: fn(&Offers) -> bool| all.iter().flatten().any(has) || all.iter().any(Option::is_none);
    let grant = &run.grant;
    let (resources, prompts) = (!grant.resources().is_empty(), !grant.prompts().is_empty());
    let mut told = Map::new();
    told.insert("tools".to_owned(), json!({"listChanged": true}));
    if resources && (run.skills.any() || any(|offers| offers.resources)) {
        told.insert("resources".to_owned(), json!({"subscribe": true, "listChanged": true}));
    }
    if prompts && any(|offers| offers.prompts) {
        told.insert("prompts".to_owned(), json!({"listChanged": true}));
    }
    if (resources || prompts) && any(|offers| offers.completions) {
        told.insert("completions".to_owned(), json!({}));
    }
    if any(|offers| offers.logging) {
        told.insert("logging".to_owned(), json!({}));
    }
    // A task outlives its request, which only the stateless era can name.
    if stateless && all.iter().flatten().any(|offers| offers.tasks) {
        told.insert("extensions".to_owned(), json!({"io.modelcontextprotocol/tasks": {}}));
    }
    Value::Object(told)
}

/// What the granted servers have, each as far as it answers in time. A run that may not act starts none.
async fn servers(inner: &Arc<Inner>, run: &Arc<RunContext>) -> Vec<Option<Offers>> {
    let open = [inner.gate.plane_fence(), &run.fence].iter().all(|fence| fence.state() == FenceState::Open);
    let asked = run.grant.tools().keys().map(|server| async move {
        let client = inner.upstreams.tool_server(&run.grant.tenant, server).filter(|_| open)?;
        tokio::time::timeout(WAIT, client.offers()).await.ok()?.ok()
    });
    tokio::select! {
        () = run.cut_signal().cancelled() => Vec::new(),
        all = join_all(asked) => all,
    }
}
