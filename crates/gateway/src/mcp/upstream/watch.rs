//! Hearing of changes at a tool server: subscribed for as long as somebody watches.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(in crate::mcp) use super::hub::UpEvent;
use super::{
    Connection, Link, RequestError, ToolServerClient, UpstreamError,
    exchange::{ClientCan, Flow, Peer, UpRequest},
    hub::{Hub, List, Origin},
};
use crate::mcp::rpc;

/// Events that wait for whoever watches.
const WAITING_MAX: usize = 64;
/// Most resources that one watch is for.
const URIS_MAX: usize = 1_000;
/// The first wait before a broken subscription is made again.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest wait before a broken subscription is made again.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What is to be heard of.
#[derive(Debug, Clone, Default)]
pub(in crate::mcp) struct WatchFor {
    /// Changes of the list of tools.
    pub(in crate::mcp) tools: bool,
    /// Of prompts.
    pub(in crate::mcp) prompts: bool,
    /// Of resources.
    pub(in crate::mcp) resources: bool,
    /// Updates of these resources.
    pub(in crate::mcp) uris: Vec<String>,
}

/// A subscription; it ends when dropped.
#[derive(Debug)]
pub(in crate::mcp) struct Watch {
    events: mpsc::Receiver<UpEvent>,
    _stop: DropGuard,
}

impl Watch {
    /// What is told next. `None` when nothing more comes. Can be given up and called again.
    pub(in crate::mcp) async fn next(&mut self) -> Option<UpEvent> {
        self.events.recv().await
    }
}

/// How many watch each resource, by the session that is subscribed.
#[derive(Debug, Default)]
pub(super) struct Subscribed(Mutex<BTreeMap<(u64, String), u32>>);

impl Subscribed {
    fn all(&self) -> MutexGuard<'_, BTreeMap<(u64, String), u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more. Whether it is the first.
    fn add(&self, generation: u64, uri: &str) -> bool {
        let mut all = self.all();
        // Of sessions that are over nothing is left to count.
        all.retain(|(known, _), _| known.saturating_add(1_000) > generation);
        let count = all.entry((generation, uri.to_owned())).or_default();
        *count += 1;
        *count == 1
    }

    /// One less. Whether it was the last.
    fn remove(&self, generation: u64, uri: &str) -> bool {
        let mut all = self.all();
        let key = (generation, uri.to_owned());
        match all.get_mut(&key) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            Some(_) => all.remove(&key).is_some(),
            None => false,
        }
    }
}

impl ToolServerClient {
    /// Hears of changes until the watch is dropped.
    ///
    /// # Errors
    /// [`UpstreamError`] when it cannot be subscribed to in the first place.
    pub(in crate::mcp) async fn watch(self: &Arc<Self>, peer: Peer, what: WatchFor) -> Result<Watch, UpstreamError> {
        if what.uris.len() > URIS_MAX {
            return Err(self.protocol(format!("more than {URIS_MAX} resources cannot be watched at once")));
        }
        let (sender, events) = mpsc::channel(WAITING_MAX);
        let stop = CancellationToken::new();
        let connection = self.connect(peer).await?;
        let hub = if connection.offers.modern && matches!(connection.link, Link::Http(_)) {
            Arc::default()
        } else {
            Arc::clone(&self.hub)
        };
        let heard = hub.listen();
        let mut watching = Watching { client: Arc::clone(self), peer, what, hub, connection, sender };
        let subscription = watching.subscribe().await?;
        let stopped = stop.clone();
        tokio::spawn(async move { watching.run(subscription, heard, stopped).await });
        Ok(Watch { events, _stop: stop.drop_guard() })
    }
}

/// The task of a watch.
struct Watching {
    client: Arc<ToolServerClient>,
    peer: Peer,
    what: WatchFor,
    hub: Arc<Hub>,
    connection: Connection,
    sender: mpsc::Sender<UpEvent>,
}

/// What holds a subscription open.
enum Subscription {
    /// The session; it is over when the session is.
    Session,
    /// The answer to `subscriptions/listen` that has not come.
    Listening(Flow),
    /// Its stream.
    Stream(tokio::task::JoinHandle<()>),
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Self::Stream(task) = self {
            task.abort();
        }
    }
}

impl Watching {
    fn origin(&self) -> Origin {
        (self.peer.own() && !self.connection.offers.modern).then_some(self.peer)
    }

    async fn subscribe(&mut self) -> Result<Subscription, UpstreamError> {
        let server = &self.client.name;
        if self.connection.offers.modern {
            let mut wanted = serde_json::Map::new();
            let flags = [
                ("toolsListChanged", self.what.tools),
                ("promptsListChanged", self.what.prompts),
                ("resourcesListChanged", self.what.resources),
            ];
            wanted.extend(flags.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name.to_owned(), true.into())));
            if !self.what.uris.is_empty() {
                wanted.insert("resourceSubscriptions".to_owned(), self.what.uris.clone().into());
            }
            let params = rpc::to_json(&serde_json::json!({ "notifications": wanted }));
            return match &self.connection.link {
                Link::Stdio(session) => {
                    let request = UpRequest::plain("subscriptions/listen", &params);
                    let pending = session.begin(&request, ClientCan::NONE, None).await;
                    Ok(Subscription::Listening(Flow::Stdio(pending.map_err(RequestError::into_inner)?)))
                }
                Link::Http(session) => {
                    let changes = session.subscribe(&params, &self.hub).await?;
                    Ok(Subscription::Stream(tokio::spawn(async move {
                        changes.follow().await;
                    })))
                }
                // What it offers changes only by being added again, which ends this.
                Link::Inside(_) => Ok(Subscription::Session),
            };
        }
        if let Link::Http(session) = &self.connection.link {
            session.listen().await;
        }
        for uri in &self.what.uris {
            if !self.client.subscribed.add(self.connection.generation, uri) {
                continue;
            }
            let params = rpc::to_json(&serde_json::json!({ "uri": uri }));
            let request = UpRequest::plain("resources/subscribe", &params);
            if let Err(error) = self.connection.ask(server, &request).await {
                self.client.subscribed.remove(self.connection.generation, uri);
                return Err(error.into_inner());
            }
        }
        Ok(Subscription::Session)
    }

    async fn unsubscribe(&self) {
        for uri in &self.what.uris {
            if self.connection.offers.modern || !self.client.subscribed.remove(self.connection.generation, uri) {
                continue;
            }
            let params = rpc::to_json(&serde_json::json!({ "uri": uri }));
            let request = UpRequest::plain("resources/unsubscribe", &params);
            let asked = self.connection.ask(&self.client.name, &request);
            // The session may be over, and its subscriptions with it.
            let _ = tokio::time::timeout(self.client.timeouts.start, asked).await;
        }
    }

    async fn run(
        mut self,
        mut subscription: Subscription,
        mut heard: tokio::sync::broadcast::Receiver<(Origin, UpEvent)>,
        stop: CancellationToken,
    ) {
        let mut due: VecDeque<UpEvent> = VecDeque::new();
        loop {
            while let Some(event) = due.pop_front() {
                self.count(&event);
                if self.sender.try_send(event).is_err() {
                    // Whoever does not listen learns at the next change that there was one.
                    due.clear();
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                event = heard.recv() => match event {
                    Ok((origin, event)) => due.extend(self.wanted(origin, event)),
                    Err(RecvError::Lagged(_)) => due.extend(self.everything()),
                    Err(RecvError::Closed) => break,
                },
                () = over(&mut subscription, &self.connection) => {
                    match self.again(&stop).await {
                        Some(fresh) => subscription = fresh,
                        None => break,
                    }
                    // What happened meanwhile is not known.
                    due.extend(self.everything());
                }
            }
        }
        drop(subscription);
        self.unsubscribe().await;
    }

    /// Subscribes again; `None` when nobody watches any more.
    async fn again(&mut self, stop: &CancellationToken) -> Option<Subscription> {
        let mut wait = AGAIN;
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
            wait = wait.saturating_mul(2).min(AGAIN_MAX);
            let Ok(connection) = self.client.connect(self.peer).await else { continue };
            self.connection = connection;
            if let Ok(subscription) = self.subscribe().await {
                return Some(subscription);
            }
        }
    }

    /// A stream of its own counts for the lists of the client too.
    fn count(&self, event: &UpEvent) {
        if Arc::ptr_eq(&self.hub, &self.client.hub) {
            return;
        }
        match event {
            UpEvent::ToolsChanged => self.client.hub.count(List::Tools),
            UpEvent::PromptsChanged => self.client.hub.count(List::Prompts),
            UpEvent::ResourcesChanged => self.client.hub.count(List::Resources),
            _ => {}
        }
    }

    fn wanted(&self, origin: Origin, event: UpEvent) -> Option<UpEvent> {
        let own = origin.is_some() && origin == self.origin();
        let wanted = match &event {
            UpEvent::ToolsChanged => self.what.tools,
            UpEvent::PromptsChanged => self.what.prompts,
            UpEvent::ResourcesChanged => self.what.resources,
            UpEvent::ResourceUpdated(uri) => origin == self.origin() && self.what.uris.contains(uri),
            // Of the session of all runs nobody knows whose these are.
            UpEvent::Log(_) | UpEvent::ElicitationComplete(_) | UpEvent::TaskStatus(_) => own,
        };
        wanted.then_some(event)
    }

    fn everything(&self) -> Vec<UpEvent> {
        let flags = [
            (self.what.tools, UpEvent::ToolsChanged),
            (self.what.prompts, UpEvent::PromptsChanged),
            (self.what.resources, UpEvent::ResourcesChanged),
        ];
        let lists = flags.into_iter().filter(|(on, _)| *on).map(|(_, event)| event);
        lists.chain(self.what.uris.iter().cloned().map(UpEvent::ResourceUpdated)).collect()
    }
}

/// When a subscription is over.
async fn over(subscription: &mut Subscription, connection: &Connection) {
    match subscription {
        Subscription::Session => match &connection.link {
            Link::Stdio(session) => session.ended().await,
            Link::Http(session) => session.lost().await,
            Link::Inside(_) => std::future::pending().await,
        },
        Subscription::Listening(flow) => {
            // Its answer says that it ends.
            let _: Result<_, RequestError> = flow.next().await;
        }
        Subscription::Stream(task) => {
            let _ = task.await;
        }
    }
}
