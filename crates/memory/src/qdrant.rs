//! A store in a customer's Qdrant, over its REST interface.
//!
//! Every search, scroll, count and delete has the owner's conditions in `filter.must`; nothing is ever addressed by the id of
//! a point alone. The id of a point is made of the owner and of the memory's id, so that what is written for one owner
//! cannot take the place of another's. Words are kept beside the text and matched whole, so that what is found does not
//! depend on how a collection cuts texts.

mod rest;

use std::collections::BTreeSet;

use cogward_model::{Timestamp, id::MemoryId};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};
use zeroize::Zeroizing;

use self::rest::Rest;
use crate::{
    embedding::Embedding,
    item::{Filter, Item},
    owner::{Column, Owner, Space, digest},
    store::{MemoryStore, Pending, Quota, StoreError, Usage, Whose},
    words,
};

/// Most different words of a text by which it is found.
const WORDS_MAX: usize = 4_096;
/// Locks of owners: two owners can have one and then wait for each other, and an owner always has the same.
const OWNER_LOCKS: usize = 64;
/// The name of the vector of a point.
const VECTOR: &str = "memory";

/// How a Qdrant is used.
#[derive(Debug)]
pub struct QdrantOptions<'a> {
    /// Where it is.
    pub url: &'a str,
    /// The collection.
    pub collection: Option<&'a str>,
    /// Numbers in a vector.
    pub dimensions: Option<u32>,
}

/// A collection of memories in a Qdrant.
pub struct QdrantMemory {
    rest: Rest,
    collection: String,
    dimensions: Option<u32>,
    made: OnceCell<()>,
    /// Held while one of an owner's memories is counted and written: a Qdrant has no transactions.
    owners: Vec<Mutex<()>>,
}

impl std::fmt::Debug for QdrantMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QdrantMemory").field("collection", &self.collection).finish_non_exhaustive()
    }
}

impl QdrantMemory {
    /// A collection of a Qdrant.
    ///
    /// # Errors
    /// What of the options cannot be.
    pub fn new(options: &QdrantOptions<'_>, api_key: Option<Zeroizing<String>>) -> Result<Self, String> {
        let collection = options.collection.unwrap_or("cogward-memory");
        let good = collection.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !good || collection.is_empty() || collection.len() > 255 {
            return Err("the name of a collection is of letters, digits, `_` and `-`".to_owned());
        }
        Ok(Self {
            rest: Rest::new(options.url, api_key)?,
            collection: collection.to_owned(),
            dimensions: options.dimensions,
            made: OnceCell::new(),
            owners: std::iter::repeat_with(Mutex::default).take(OWNER_LOCKS).collect(),
        })
    }

    fn path(&self, rest: &str) -> String {
        format!("collections/{}{rest}", self.collection)
    }

    /// Makes the collection and its indexes, where they are not there.
    async fn make(&self) -> Result<(), StoreError> {
        let path = self.path("");
        match self.rest.ask(Method::GET, &path, None).await? {
            (StatusCode::OK, found) => self.fits(&found)?,
            (StatusCode::NOT_FOUND, _) => {
                let vectors = match self.dimensions {
                    Some(size) => json!({ VECTOR: { "size": size, "distance": "Cosine" } }),
                    None => json!({}),
                };
                let (status, _) = self.rest.ask(Method::PUT, &path, Some(&json!({ "vectors": vectors }))).await?;
                // Another plane may have made it just now.
                if !status.is_success() && status != StatusCode::CONFLICT {
                    return Err(StoreError::Unusable(format!("its collection cannot be made: status {status}")));
                }
            }
            (status, _) => return Err(refused(status)),
        }
        let keyword = |tenant: bool| json!({ "type": "keyword", "is_tenant": tenant });
        let mut indexes = vec![("owner", keyword(true)), ("words", keyword(false)), ("id", keyword(false))];
        for column in [Column::Tenant, Column::Store, Column::Scope, Column::Agent, Column::Subject, Column::Run] {
            indexes.push((column.name(), keyword(false)));
        }
        indexes.extend([("kind", keyword(false)), ("tags", keyword(false))]);
        // An index of numbers that is sorted by: only then the newest can be asked for.
        indexes.extend(
            ["written", "expires"].map(|name| (name, json!({ "type": "integer", "range": true, "lookup": false }))),
        );
        for (name, schema) in indexes {
            let body = json!({ "field_name": name, "field_schema": schema });
            self.done(Method::PUT, &self.path("/index?wait=true"), &body).await?;
        }
        Ok(())
    }

    /// Whether a collection that is there keeps such vectors.
    fn fits(&self, found: &Value) -> Result<(), StoreError> {
        let Some(wanted) = self.dimensions else { return Ok(()) };
        let vector = found.pointer(&format!("/result/config/params/vectors/{VECTOR}"));
        let size = vector.and_then(|vector| vector.get("size")).and_then(Value::as_u64);
        let cosine = vector.and_then(|vector| vector.get("distance")).and_then(Value::as_str) == Some("Cosine");
        if size == Some(u64::from(wanted)) && cosine {
            return Ok(());
        }
        Err(StoreError::Unusable(format!(
            "its collection has no vector `{VECTOR}` of {wanted} numbers that are compared by cosine"
        )))
    }

    async fn ready_to_use(&self) -> Result<(), StoreError> {
        self.made.get_or_try_init(|| self.make()).await.copied()
    }

    /// A request that must succeed; its result.
    async fn done(&self, method: Method, path: &str, body: &Value) -> Result<Value, StoreError> {
        let (status, mut answer) = self.rest.ask(method, path, Some(body)).await?;
        if !status.is_success() {
            return Err(refused(status));
        }
        Ok(answer.get_mut("result").map(Value::take).unwrap_or_default())
    }

    async fn points(&self, path: &str, body: &Value) -> Result<Vec<Item>, StoreError> {
        #[derive(Deserialize)]
        struct Points {
            points: Vec<Point>,
        }
        #[derive(Deserialize)]
        struct Point {
            payload: Payload,
        }
        let result = self.done(Method::POST, &self.path(path), body).await?;
        let points: Points = serde_json::from_value(result).map_err(|_| unreadable())?;
        points.points.into_iter().map(|point| point.payload.item()).collect()
    }

    async fn newest(&self, filter: Value, before: Option<Timestamp>, limit: usize) -> Result<Vec<Item>, StoreError> {
        let mut order = json!({ "key": "written", "direction": "desc" });
        if let (Some(before), Some(order)) = (before, order.as_object_mut()) {
            order.insert("start_from".to_owned(), before.unix_micros().into());
        }
        let body =
            json!({ "filter": filter, "limit": limit, "with_payload": true, "with_vector": false, "order_by": order });
        self.points("/points/scroll", &body).await
    }

    async fn count(&self, filter: &Value) -> Result<u64, StoreError> {
        let body = json!({ "filter": filter, "exact": true });
        let result = self.done(Method::POST, &self.path("/points/count"), &body).await?;
        result.get("count").and_then(Value::as_u64).ok_or_else(unreadable)
    }

    async fn delete_all(&self, filter: &Value) -> Result<(), StoreError> {
        let path = self.path("/points/delete?wait=true&ordering=strong");
        self.done(Method::POST, &path, &json!({ "filter": filter })).await.map(drop)
    }

    fn lock(&self, owner: &Owner) -> Result<&Mutex<()>, StoreError> {
        let key = owner.key();
        let number = usize::from_str_radix(key.get(..4).unwrap_or("0"), 16).unwrap_or_default();
        self.owners.get(number % OWNER_LOCKS).ok_or_else(unreadable)
    }
}

#[derive(Deserialize)]
struct Payload {
    id: String,
    body: String,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    tags: BTreeSet<String>,
    written: u64,
    #[serde(default)]
    expires: Option<u64>,
}

impl Payload {
    fn item(self) -> Result<Item, StoreError> {
        Ok(Item {
            id: self.id.parse().map_err(|_| unreadable())?,
            text: self.body,
            kind: self.kind,
            tags: self.tags,
            embedding: None,
            written: Timestamp::from_unix_micros(self.written),
            expires: self.expires.map(Timestamp::from_unix_micros),
        })
    }
}

fn unreadable() -> StoreError {
    StoreError::Unavailable { cause: "it answered with something that cannot be read".to_owned(), sent: false }
}

fn refused(status: StatusCode) -> StoreError {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            StoreError::Unusable(format!("the Qdrant does not take the credential: status {status}"))
        }
        // Its text can quote what was sent.
        _ => StoreError::Unavailable { cause: format!("the Qdrant answered with status {status}"), sent: false },
    }
}

fn is(key: &str, value: impl Into<Value>) -> Value {
    json!({ "key": key, "match": { "value": value.into() } })
}

/// The conditions that every request has, as one list of which all must hold.
fn conditions(all: Vec<(Column, String)>) -> Vec<Value> {
    all.into_iter().map(|(column, value)| is(column.name(), value)).collect()
}

fn of_owner(owner: &Owner) -> Vec<Value> {
    let mut must = vec![is("owner", owner.key())];
    must.extend(conditions(owner.conditions()));
    must
}

/// An owner's memories that are there, with more that must hold.
fn alive(owner: &Owner, more: impl IntoIterator<Item = Value>, now: Timestamp) -> Value {
    let mut must = of_owner(owner);
    must.extend(more);
    json!({ "must": must, "must_not": [expired(now)] })
}

fn expired(now: Timestamp) -> Value {
    json!({ "key": "expires", "range": { "lte": now.unix_micros() } })
}

fn meant(filter: &Filter) -> Vec<Value> {
    let tags = filter.tags.iter().map(|tag| is("tags", tag.as_str()));
    filter.kind.iter().map(|kind| is("kind", kind.as_str())).chain(tags).collect()
}

/// The id of a point: nobody but this owner can have one like it.
fn point_id(owner: &Owner, id: MemoryId) -> String {
    let key = digest(["point", &owner.key(), &id.to_string()]);
    let part = |from: usize, to: usize| key.get(from..to).unwrap_or_default();
    // The form of a UUID whose bits mean what their maker says.
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

impl MemoryStore for QdrantMemory {
    fn ready<'a>(&'a self, space: &'a Space) -> Pending<'a, Result<Option<Timestamp>, StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let filter = json!({ "must": conditions(space.conditions()) });
            Ok(self.newest(filter, None, 1).await?.first().map(|item| item.written))
        })
    }

    fn put<'a>(
        &'a self,
        owner: &'a Owner,
        item: &'a Item,
        replaces: bool,
        quota: Quota,
    ) -> Pending<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let _one = self.lock(owner)?.lock().await;
            // What has expired counts until it is gone.
            let mut gone = of_owner(owner);
            gone.push(expired(item.written));
            self.delete_all(&json!({ "must": gone })).await?;
            let has = self.count(&json!({ "must": of_owner(owner) })).await?;
            if replaces {
                if self.count(&alive(owner, [is("id", item.id.to_string())], item.written)).await? == 0 {
                    return Err(StoreError::Missing);
                }
            } else if has >= quota.items {
                return Err(StoreError::Full("there are as many memories as there may be"));
            }
            let mut payload = serde_json::Map::new();
            payload.insert("owner".to_owned(), owner.key().into());
            for (column, value) in owner.written() {
                if let Some(value) = value {
                    payload.insert(column.name().to_owned(), value.into());
                }
            }
            let distinct: BTreeSet<String> = words::words(&item.text).take(WORDS_MAX).collect();
            payload.extend([
                ("id".to_owned(), item.id.to_string().into()),
                ("body".to_owned(), item.text.as_str().into()),
                ("words".to_owned(), distinct.into_iter().collect::<Vec<_>>().into()),
                ("tags".to_owned(), item.tags.iter().cloned().collect::<Vec<_>>().into()),
                ("written".to_owned(), item.written.unix_micros().into()),
                ("bytes".to_owned(), item.bytes().into()),
            ]);
            if let Some(kind) = &item.kind {
                payload.insert("kind".to_owned(), kind.as_str().into());
            }
            if let Some(expires) = item.expires {
                payload.insert("expires".to_owned(), expires.unix_micros().into());
            }
            let vector = match &item.embedding {
                Some(vector) => json!({ VECTOR: vector.numbers() }),
                None => json!({}),
            };
            let point = json!({ "id": point_id(owner, item.id), "vector": vector, "payload": payload });
            let path = self.path("/points?wait=true&ordering=strong");
            self.done(Method::PUT, &path, &json!({ "points": [point] })).await.map(drop)
        })
    }

    fn get<'a>(
        &'a self,
        owner: &'a Owner,
        id: MemoryId,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Item>, StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let filter = alive(owner, [is("id", id.to_string())], now);
            Ok(self.newest(filter, None, 1).await?.pop())
        })
    }

    fn by_words<'a>(
        &'a self,
        owner: &'a Owner,
        words: &'a [String],
        filter: &'a Filter,
        limit: usize,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let mut more = meant(filter);
            more.push(json!({ "key": "words", "match": { "any": words } }));
            self.newest(alive(owner, more, now), None, limit).await
        })
    }

    fn by_vector<'a>(
        &'a self,
        owner: &'a Owner,
        vector: &'a Embedding,
        filter: &'a Filter,
        limit: usize,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let body = json!({
                "query": vector.numbers(), "using": VECTOR, "filter": alive(owner, meant(filter), now),
                "limit": limit, "with_payload": true, "with_vector": false,
            });
            self.points("/points/query", &body).await
        })
    }

    fn list<'a>(
        &'a self,
        owner: &'a Owner,
        filter: &'a Filter,
        before: Option<Timestamp>,
        limit: usize,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let mut more = meant(filter);
            if let Some(before) = before {
                more.push(json!({ "key": "written", "range": { "lt": before.unix_micros() } }));
            }
            self.newest(alive(owner, more, now), before, limit).await
        })
    }

    fn delete<'a>(&'a self, owner: &'a Owner, id: MemoryId, now: Timestamp) -> Pending<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let _one = self.lock(owner)?.lock().await;
            let filter = alive(owner, [is("id", id.to_string())], now);
            if self.count(&filter).await? == 0 {
                return Ok(false);
            }
            self.delete_all(&filter).await?;
            Ok(true)
        })
    }

    fn forget<'a>(&'a self, space: &'a Space, whose: &'a Whose) -> Pending<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let mut must = conditions(space.conditions());
            if let Whose::User(user) = whose {
                must.push(is(Column::Subject.name(), user.as_str()));
            }
            let filter = json!({ "must": must });
            let forgotten = self.count(&filter).await?;
            self.delete_all(&filter).await?;
            Ok(forgotten)
        })
    }

    fn sweep<'a>(&'a self, space: &'a Space, now: Timestamp) -> Pending<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let mut must = conditions(space.conditions());
            must.push(expired(now));
            let filter = json!({ "must": must });
            let gone = self.count(&filter).await?;
            self.delete_all(&filter).await?;
            Ok(gone)
        })
    }

    fn usage<'a>(&'a self, space: &'a Space) -> Pending<'a, Result<Usage, StoreError>> {
        Box::pin(async move {
            self.ready_to_use().await?;
            let items = self.count(&json!({ "must": conditions(space.conditions()) })).await?;
            Ok(Usage { items, bytes: None })
        })
    }
}

#[cfg(test)]
mod tests;
