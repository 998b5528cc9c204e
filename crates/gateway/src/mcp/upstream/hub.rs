//! What a tool server tells without being asked: that its lists changed, that a resource did, what it logs.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::broadcast;

use super::exchange::Peer;

/// Events that wait for a slow watcher. Of more it only learns that something changed.
const WAITING_MAX: usize = 64;
/// Longest message that is passed on as an event.
const EVENT_BYTES_MAX: usize = 64 * 1024;

/// Something that a server told.
#[derive(Debug, Clone)]
pub(in crate::mcp) enum UpEvent {
    /// Its tools are not the same any more.
    ToolsChanged,
    /// Nor its prompts.
    PromptsChanged,
    /// Nor its resources.
    ResourcesChanged,
    /// A resource that was subscribed to is not the same any more.
    ResourceUpdated(String),
    /// It logs.
    Log(Bytes),
    /// The user is done with a web page that the server sent it to.
    ElicitationComplete(Bytes),
    /// A task moved on.
    TaskStatus(Bytes),
}

/// Which session an event came from: a run's own, or the one of all.
pub(super) type Origin = Option<Peer>;

/// Where what a server tells comes together.
#[derive(Debug)]
pub(super) struct Hub {
    changes: [AtomicU64; 3],
    events: broadcast::Sender<(Origin, UpEvent)>,
}

/// A list of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Tools,
    Prompts,
    Resources,
}

impl List {
    const fn place(self) -> usize {
        match self {
            Self::Tools => 0,
            Self::Prompts => 1,
            Self::Resources => 2,
        }
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self { changes: [const { AtomicU64::new(0) }; 3], events: broadcast::channel(WAITING_MAX).0 }
    }
}

impl Hub {
    /// How often a list was said to have changed.
    pub(super) fn changes(&self, list: List) -> u64 {
        self.changes.get(list.place()).map_or(0, |changes| changes.load(Ordering::Acquire))
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<(Origin, UpEvent)> {
        self.events.subscribe()
    }

    /// Takes a notification that belongs to no request. Of what is not known, nothing is kept.
    pub(super) fn take(self: &Arc<Self>, origin: Origin, method: &str, params: &Bytes) {
        if params.len() > EVENT_BYTES_MAX {
            return;
        }
        let event = match method {
            "notifications/tools/list_changed" => self.changed(List::Tools, UpEvent::ToolsChanged),
            "notifications/prompts/list_changed" => self.changed(List::Prompts, UpEvent::PromptsChanged),
            "notifications/resources/list_changed" => self.changed(List::Resources, UpEvent::ResourcesChanged),
            "notifications/resources/updated" => {
                #[derive(Deserialize)]
                struct Updated {
                    uri: String,
                }
                match serde_json::from_slice::<Updated>(params) {
                    Ok(updated) => UpEvent::ResourceUpdated(updated.uri),
                    Err(_) => return,
                }
            }
            "notifications/message" => UpEvent::Log(params.clone()),
            "notifications/elicitation/complete" => UpEvent::ElicitationComplete(params.clone()),
            "notifications/tasks/status" | "notifications/tasks" => UpEvent::TaskStatus(params.clone()),
            _ => return,
        };
        // Nobody may be listening.
        let _ = self.events.send((origin, event));
    }

    fn changed(&self, list: List, event: UpEvent) -> UpEvent {
        self.count(list);
        event
    }

    /// A list changed.
    pub(super) fn count(&self, list: List) {
        if let Some(changes) = self.changes.get(list.place()) {
            changes.fetch_add(1, Ordering::AcqRel);
        }
    }
}
