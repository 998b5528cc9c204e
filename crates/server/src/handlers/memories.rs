//! What operators do with the memory of agents: count it, and have it forgotten. What it says is not shown here.

use axum::{Json as Answer, extract::State};
use cogward_api::{MemoryForget, MemoryForgotten, MemoryUsage, ProblemCode};
use cogward_gateway::Credential;
use cogward_journal::JournalEvent;
use cogward_memory::{Memory, StoreError, Whose};
use cogward_model::{TenantName, UpstreamName, event::EventType, memory::MemoryScope, upstream::ToolTransport};
use zeroize::Zeroizing;

use super::{runs::given_reason, tool_servers::found, tool_servers::secret_name};
use crate::{
    events::by_operator,
    extract::{Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
};

/// Longest name of a user, as runs are started with.
const USER_BYTES_MAX: usize = 256;

struct Kept {
    memory: Memory,
    store: &'static str,
    scope: MemoryScope,
}

async fn kept(app: &Plane, tenant: &TenantName, server: &UpstreamName) -> Result<Kept, Failure> {
    let config = found(app, tenant, server).await?.config;
    let ToolTransport::Memory { store, scope, .. } = &config.transport else {
        return Err(Failure::missing("memory", server));
    };
    let sealed = app.secrets.get(&secret_name(tenant, server)).await;
    let sealed = sealed.map_err(|error| Failure::internal("the credential cannot be opened", &error))?;
    let secret = sealed.map(|bytes| String::from_utf8(bytes.to_vec()).map(Zeroizing::new)).transpose();
    let secret = secret.map_err(|error| Failure::internal("the credential is not text", &error.utf8_error()))?;
    let credential = secret.map(Credential::new);
    match app.memories.open(&config, credential.as_ref()) {
        Some(Ok(memory)) => Ok(Kept { memory, store: store.as_str(), scope: *scope }),
        Some(Err(why)) => Err(Failure::invalid(why).rule("transport")),
        None => Err(Failure::missing("memory", server)),
    }
}

fn unavailable(error: &StoreError) -> Failure {
    Failure::new(ProblemCode::UpstreamUnavailable, error.to_string())
        .rule("memory.store")
        .next_step("see that the store of the memory runs and takes the credential, then say it again")
}

pub(crate) async fn usage(
    State(app): State<App>,
    Params((tenant, server)): Params<(TenantName, UpstreamName)>,
) -> Result<Answer<MemoryUsage>, Failure> {
    let Kept { memory, store, scope } = kept(&app, &tenant, &server).await?;
    let usage = memory.usage().await.map_err(|error| unavailable(&error))?;
    let store = store.to_owned();
    Ok(Answer(MemoryUsage { tenant, server, store, scope, items: usage.items, bytes: usage.bytes }))
}

pub(crate) async fn forget(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, server)): Params<(TenantName, UpstreamName)>,
    body: Json<MemoryForget>,
) -> Result<Answer<MemoryForgotten>, Failure> {
    let MemoryForget { user, everybody, reason } = body.value;
    let reason = given_reason(reason)?;
    let whose = match (user.clone(), everybody) {
        (Some(user), false) if !user.is_empty() && user.len() <= USER_BYTES_MAX => Whose::User(user),
        (Some(_), false) => {
            return Err(Failure::invalid(format!("`user` has 1 to {USER_BYTES_MAX} bytes")).rule("user"));
        }
        (None, true) => Whose::Everybody,
        _ => return Err(Failure::invalid("say either `user` or `everybody`").rule("user")),
    };
    let Kept { memory, .. } = kept(&app, &tenant, &server).await?;
    // In a task of its own: a client that goes away must not leave forgotten what is not recorded.
    let task = tokio::spawn(async move {
        let event = |kind| {
            let event = by_operator(kind, tenant.clone(), &caller.0, Some(&reason))
                .public("tool_server", server.as_str())
                .public("whose", if everybody { "everybody" } else { "user" })
                .personal("user", user.clone());
            // The name goes when the evidence of that user is erased, and not with the operator's.
            match &user {
                Some(user) => event.about(user.as_str()),
                None => event,
            }
        };
        // The intent is durable before anything is gone.
        app.record(event(EventType::MemoryForgetRequested)).await?;
        let forgotten = memory.forget(&whose).await.map_err(|error| unavailable(&error))?;
        app.record(event(EventType::MemoryForgotten).public("forgotten", forgotten)).await?;
        app.journal.publish(
            JournalEvent::tenant("memory.forgotten", tenant.clone())
                .detail(serde_json::json!({ "tool_server": server, "forgotten": forgotten })),
        );
        Ok(Answer(MemoryForgotten { tenant, server, forgotten }))
    });
    task.await.map_err(|error| Failure::internal("the forgetting broke off", &error))?
}
