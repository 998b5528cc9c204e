//! What a tool server lists beside its tools: resources, their templates, prompts. Each entry is kept as the
//! bytes that it came as.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use cogward_model::Digest;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Age, ToolServerClient, UpstreamError, exchange::Peer, hub::List};

/// Most entries of one list.
const ITEMS_MAX: usize = 10_000;
/// Most bytes of one list.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest name of an entry, in bytes.
const KEY_BYTES_MAX: usize = 8 * 1024;

/// One list, in the order of its keys.
#[derive(Debug)]
pub(in crate::mcp) struct Listed {
    /// Its entries.
    pub(in crate::mcp) items: Vec<Item>,
    /// Over all entries: the same exactly when all of them are the same.
    pub(in crate::mcp) digest: Digest,
}

/// One entry.
#[derive(Debug)]
pub(in crate::mcp) struct Item {
    /// What it is asked for by: a URI, a template of URIs, or a name.
    pub(in crate::mcp) key: String,
    /// The entry as it came.
    pub(in crate::mcp) raw: Box<RawValue>,
}

/// A kind of list.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Resources,
    Templates,
    Prompts,
}

impl Kind {
    /// Method, member of its result, key of an entry.
    const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Resources => ("resources/list", "resources", "uri"),
            Self::Templates => ("resources/templates/list", "resourceTemplates", "uriTemplate"),
            Self::Prompts => ("prompts/list", "prompts", "name"),
        }
    }

    const fn list(self) -> List {
        match self {
            Self::Resources | Self::Templates => List::Resources,
            Self::Prompts => List::Prompts,
        }
    }
}

/// The lists as they were read last.
#[derive(Default)]
pub(super) struct Lists {
    resources: Slot,
    templates: Slot,
    prompts: Slot,
}

#[derive(Default)]
struct Slot {
    known: Mutex<Option<(Arc<Listed>, Age)>>,
    reading: tokio::sync::Mutex<()>,
}

impl ToolServerClient {
    /// Its resources.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(in crate::mcp) async fn resources(&self) -> Result<Arc<Listed>, UpstreamError> {
        self.listed(Kind::Resources, &self.lists.resources).await
    }

    /// Its templates of resources.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(in crate::mcp) async fn templates(&self) -> Result<Arc<Listed>, UpstreamError> {
        self.listed(Kind::Templates, &self.lists.templates).await
    }

    /// Its prompts.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(in crate::mcp) async fn prompts(&self) -> Result<Arc<Listed>, UpstreamError> {
        self.listed(Kind::Prompts, &self.lists.prompts).await
    }

    async fn listed(&self, kind: Kind, slot: &Slot) -> Result<Arc<Listed>, UpstreamError> {
        let connection = self.connect(Peer::PLANE).await?;
        let offered = match kind {
            Kind::Resources | Kind::Templates => connection.offers.resources,
            Kind::Prompts => connection.offers.prompts,
        };
        if !offered {
            return Ok(Arc::new(Builder::default().finish()));
        }
        let known = || {
            let known = slot.known.lock().unwrap_or_else(PoisonError::into_inner);
            let (listed, age) = known.as_ref()?;
            self.holds(age, &connection, kind.list()).then(|| Arc::clone(listed))
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let _one = slot.reading.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let changes = self.hub.changes(kind.list());
        let (method, member, key) = kind.words();
        let mut builder = Builder::default();
        let pages = self.pages(method, connection.clone(), |page| builder.page(page, method, member, key));
        let read = match tokio::time::timeout(self.timeouts.start, pages).await {
            Ok(read) => read,
            Err(_) => Err(self.timed_out(self.timeouts.start)),
        };
        let (generation, holds) = match read {
            Ok(read) => read,
            // Some offer resources and have no templates.
            Err(UpstreamError::Rejected { code: crate::mcp::rpc::METHOD_NOT_FOUND, .. }) => {
                (connection.generation, super::CATALOGUE_AGE)
            }
            Err(error) => return Err(error),
        };
        let listed = Arc::new(builder.finish());
        let age = Age { generation, changes, at: Instant::now(), holds };
        *slot.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((Arc::clone(&listed), age));
        Ok(listed)
    }
}

/// Collects the pages of a list.
#[derive(Debug, Default)]
struct Builder {
    items: BTreeMap<String, Box<RawValue>>,
    bytes: usize,
}

impl Builder {
    /// Adds a page and gives the cursor of the next one.
    fn page(&mut self, result: &Bytes, method: &str, member: &str, key: &str) -> Result<Option<String>, String> {
        let wrong = || format!("its answer to `{method}` is not such a list");
        let page: BTreeMap<String, &RawValue> = serde_json::from_slice(result).map_err(|_| wrong())?;
        let items: Vec<&RawValue> =
            page.get(member).and_then(|raw| serde_json::from_str(raw.get()).ok()).ok_or_else(wrong)?;
        for raw in items {
            let entry: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
            let name =
                entry.get(key).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok()).ok_or_else(wrong)?;
            self.bytes = self.bytes.saturating_add(raw.get().len());
            if name.len() > KEY_BYTES_MAX || self.items.len() >= ITEMS_MAX || self.bytes > BYTES_MAX {
                return Err(format!("its answer to `{method}` is too long"));
            }
            if self.items.contains_key(&name) {
                return Err(format!("its answer to `{method}` has `{}` twice", crate::mcp::rpc::shown(&name, 128)));
            }
            self.items.insert(name, raw.to_owned());
        }
        let cursor = page.get("nextCursor").and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        Ok(cursor.filter(|cursor| !cursor.is_empty()))
    }

    fn finish(self) -> Listed {
        let mut all = Context::new(&SHA256);
        let mut items = Vec::with_capacity(self.items.len());
        for (key, raw) in self.items {
            all.update(&(raw.get().len() as u64).to_be_bytes());
            all.update(raw.get().as_bytes());
            items.push(Item { key, raw });
        }
        let mut digest = [0; 32];
        for (to, from) in digest.iter_mut().zip(all.finish().as_ref()) {
            *to = *from;
        }
        Listed { items, digest: Digest::from_bytes(digest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_put_together_in_order_and_doubles_refused() {
        let mut builder = Builder::default();
        let mut page = |text: &'static str| builder.page(&Bytes::from_static(text.as_bytes()), "m", "prompts", "name");
        assert_eq!(page(r#"{"prompts":[{"name":"b","x":1.50}],"nextCursor":"2"}"#).unwrap().as_deref(), Some("2"));
        assert_eq!(page(r#"{"prompts":[{"name":"a"}],"nextCursor":""}"#).unwrap(), None);
        for bad in
            [r#"{"prompts":[{"name":"\u0061"}]}"#, r#"{"prompts":[7]}"#, r#"{"prompts":{}}"#, r#"{"tools":[]}"#, "7"]
        {
            assert!(page(bad).is_err(), "{bad}");
        }
        let listed = builder.finish();
        let raw: Vec<_> = listed.items.iter().map(|item| item.raw.get()).collect();
        assert_eq!(raw, [r#"{"name":"a"}"#, r#"{"name":"b","x":1.50}"#]);
    }
}
