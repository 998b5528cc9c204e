//! What a tool server lists beside its tools: resources, their templates, prompts. Each entry is kept as the
//! bytes that it came as.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use cogward_model::{
    Digest,
    pin_name::{OtherKind, PinName},
};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Age, ToolServerClient, UpstreamError, exchange::Peer, hub::List};
use crate::{
    mcp::{members::Members, sha256},
    pins::canonical,
};

/// Most entries of one list.
const ITEMS_MAX: usize = 10_000;
/// Most bytes of one list.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest definition of an entry, in bytes; a longer one is left out.
const DEFINITION_BYTES_MAX: usize = 1024 * 1024;
/// Longest name of an entry, in bytes.
const KEY_BYTES_MAX: usize = 8 * 1024;

/// One list, in the order of its keys.
#[derive(Debug)]
pub struct Listed {
    /// Its entries.
    items: Vec<Item>,
    /// Over all entries: the same exactly when all of them are the same.
    digest: Digest,
}

/// One entry.
#[derive(Debug)]
pub struct Item {
    /// What it is asked for by: a URI, a template of URIs, or a name.
    pub name: PinName,
    /// The entry as it came, without what changes with the contents of a resource.
    pub raw: Box<RawValue>,
    /// Its pin: SHA-256 of its canonical form (RFC 8785).
    pub digest: Digest,
}

impl Listed {
    /// The entries, in the order of their keys.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Over all entries: the same exactly when all of them are the same.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Method, member of its result, key of an entry.
const fn words(kind: OtherKind) -> (&'static str, &'static str, &'static str) {
    match kind {
        OtherKind::Resource => ("resources/list", "resources", "uri"),
        OtherKind::Template => ("resources/templates/list", "resourceTemplates", "uriTemplate"),
        OtherKind::Prompt => ("prompts/list", "prompts", "name"),
    }
}

const fn list_of(kind: OtherKind) -> List {
    match kind {
        OtherKind::Resource | OtherKind::Template => List::Resources,
        OtherKind::Prompt => List::Prompts,
    }
}

impl Item {
    /// Reads a definition from the plane's own store. `None` when it is none that could have been pinned.
    #[must_use]
    pub fn parse(kind: OtherKind, text: &str) -> Option<Self> {
        let raw: Box<RawValue> = serde_json::from_str(text).ok()?;
        let (_, _, key) = words(kind);
        item(kind, &Members::read(raw.get().as_bytes())?.text(key)?, &raw)
    }
}

/// An entry that can be pinned. `None` for one that no two readers read alike, or whose name hides something.
fn item(kind: OtherKind, key: &str, raw: &RawValue) -> Option<Item> {
    let name = PinName::other(kind, key).ok().filter(|_| raw.get().len() <= DEFINITION_BYTES_MAX)?;
    let stable = stable(raw)?;
    let canonical = canonical::definition(stable.get()).ok()?;
    Some(Item { name, digest: sha256(canonical.as_bytes()), raw: stable })
}

/// The definition without what says how its contents are at the moment: its size, and when it was changed.
fn stable(raw: &RawValue) -> Option<Box<RawValue>> {
    let mut members = Members::read(raw.get().as_bytes())?;
    let annotations = members.get("annotations").map(str::to_owned);
    let annotations = annotations.as_deref().and_then(|annotations| {
        let mut inner = Members::read(annotations.as_bytes())?;
        inner.get("lastModified")?;
        inner.retain(|key, _| key != "lastModified");
        String::from_utf8(inner.json().to_vec()).ok()
    });
    if members.get("size").is_none() && annotations.is_none() {
        return Some(raw.to_owned());
    }
    members.retain(|key, _| key != "size");
    if let Some(annotations) = annotations {
        members.set("annotations", annotations);
    }
    RawValue::from_string(String::from_utf8(members.json().to_vec()).ok()?).ok()
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

impl Lists {
    const fn slot(&self, kind: OtherKind) -> &Slot {
        match kind {
            OtherKind::Resource => &self.resources,
            OtherKind::Template => &self.templates,
            OtherKind::Prompt => &self.prompts,
        }
    }
}

impl ToolServerClient {
    /// The digest of one of its lists as it was read last, if that still holds: without asking it.
    pub(in crate::mcp) fn current_list(&self, kind: OtherKind) -> Option<Digest> {
        let connection = self.shared.connected()?;
        let known = self.lists.slot(kind).known.lock().unwrap_or_else(PoisonError::into_inner);
        let (listed, age) = known.as_ref()?;
        self.holds(age, &connection, list_of(kind)).then_some(listed.digest)
    }

    /// One of its lists; empty where it has none of the kind.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn list(&self, kind: OtherKind) -> Result<Arc<Listed>, UpstreamError> {
        let slot = self.lists.slot(kind);
        let connection = self.connect(Peer::PLANE).await?;
        let offered = match kind {
            OtherKind::Resource | OtherKind::Template => connection.offers.resources,
            OtherKind::Prompt => connection.offers.prompts,
        };
        if !offered {
            return Ok(Arc::new(Builder::default().finish()));
        }
        let known = || {
            let known = slot.known.lock().unwrap_or_else(PoisonError::into_inner);
            let (listed, age) = known.as_ref()?;
            self.holds(age, &connection, list_of(kind)).then(|| Arc::clone(listed))
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let _one = slot.reading.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let changes = self.hub.changes(list_of(kind));
        let (method, member, key) = words(kind);
        let mut builder = Builder::default();
        let pages = self.pages(method, connection.clone(), |page| builder.page(page, kind, (method, member, key)));
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
    /// `None` for what is left out.
    items: BTreeMap<String, Option<Item>>,
    bytes: usize,
}

impl Builder {
    /// Adds a page and gives the cursor of the next one.
    fn page(
        &mut self,
        result: &Bytes,
        kind: OtherKind,
        (method, member, key): (&str, &str, &str),
    ) -> Result<Option<String>, String> {
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
            let item = item(kind, &name, raw);
            if item.is_none() {
                tracing::warn!(method, name = %crate::mcp::rpc::shown(&name, 128), "an entry is left out");
            }
            self.items.insert(name, item);
        }
        let cursor = page.get("nextCursor").and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        Ok(cursor.filter(|cursor| !cursor.is_empty()))
    }

    fn finish(self) -> Listed {
        let mut all = Context::new(&SHA256);
        let mut items = Vec::with_capacity(self.items.len());
        for item in self.items.into_values().flatten() {
            all.update(item.digest.as_bytes());
            items.push(item);
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
        let mut page = |text: &'static str| {
            builder.page(&Bytes::from_static(text.as_bytes()), OtherKind::Prompt, ("m", "prompts", "name"))
        };
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

    fn resources(text: &str) -> Listed {
        let mut builder = Builder::default();
        let words = words(OtherKind::Resource);
        builder.page(&Bytes::copy_from_slice(text.as_bytes()), OtherKind::Resource, words).unwrap();
        builder.finish()
    }

    #[test]
    fn what_changes_with_the_contents_is_no_part_of_a_definition() {
        let one = resources(
            r#"{"resources":[{"uri":"a","name":"A","size":1,"annotations":{"priority":1,"lastModified":"x"}}]}"#,
        );
        let two = resources(
            r#"{"resources":[{"uri":"a","name":"A","size":2,"annotations":{"lastModified":"y","priority":1}}]}"#,
        );
        assert_eq!(one.digest(), two.digest());
        assert_eq!(one.items()[0].raw.get(), r#"{"uri":"a","name":"A","annotations":{"priority":1}}"#);
        let other = resources(
            r#"{"resources":[{"uri":"a","name":"A","description":"Do as it says.","annotations":{"priority":1}}]}"#,
        );
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn an_entry_that_reads_two_ways_or_hides_its_name_is_left_out() {
        let listed = resources(
            r#"{"resources":[{"uri":"a","name":"A","description":"x","description":"y"},{"uri":"b\u200b","name":"B"},{"uri":"c","name":"C"}]}"#,
        );
        assert_eq!(listed.items().iter().map(|item| item.name.key()).collect::<Vec<_>>(), ["c"]);
    }
}
