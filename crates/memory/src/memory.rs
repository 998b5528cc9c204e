//! What holds for every store: bounds, time, quotas, and the order of what is found.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cogward_model::{
    Clock, Entropy, TenantName, Timestamp, UpstreamName,
    id::MemoryId,
    memory::{MemoryQuota, MemoryScope},
};
use tokio::sync::OnceCell;

use crate::{
    embedding::{DIMENSIONS_MAX, Embedding, EmbeddingError},
    item::{self, Draft, Filter, Invalid, Item},
    moments::Moments,
    owner::{Owner, OwnerError, Space, Subject},
    store::{MemoryStore, Quota, StoreError, Usage, Whose},
    words,
};

/// Memories of an owner, unless the operator says otherwise.
const ITEMS_USUAL: u32 = 10_000;
/// Most memories that one owner can be allowed: a search by vector looks at each of them.
pub(crate) const ITEMS_MAX: u32 = 20_000;
/// Size of an owner's memories in MiB, unless the operator says otherwise.
const MIB_USUAL: u32 = 64;
/// Most MiB that one owner can be allowed.
const MIB_MAX: u32 = 512;
/// Most memories of one answer.
pub(crate) const ANSWERS_MAX: usize = 50;
/// Memories that are ranked for one question: the newest with any of its words.
const CANDIDATES_MAX: usize = 200;
/// Longest question.
const QUERY_BYTES_MAX: usize = 4 * 1024;
/// Longest time for which something is kept, in seconds: a hundred years.
pub(crate) const TTL_SECONDS_MAX: u64 = 100 * 366 * 86_400;
/// How long the memory of a run is kept, unless the operator says otherwise: nobody can reach it when the run has ended.
const RUN_TTL_SECONDS: u64 = 30 * 86_400;
/// How often what has expired is removed, while there is somebody who writes.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How long a store may take for one operation.
const OPERATION_SECONDS_MAX: u64 = 30;

/// How a memory is kept.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// The tenant.
    pub tenant: TenantName,
    /// The name of the tool server.
    pub name: UpstreamName,
    /// Whose it is.
    pub scope: MemoryScope,
    /// Numbers in a vector.
    pub dimensions: Option<u32>,
    /// How much one owner may keep.
    pub quota: MemoryQuota,
}

/// A store with its rules.
pub struct Memory {
    store: Arc<dyn MemoryStore>,
    space: Space,
    scope: MemoryScope,
    dimensions: Option<u32>,
    quota: Quota,
    ttl: Option<u64>,
    moments: Moments,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    ready: OnceCell<()>,
    /// When what has expired was last removed, in microseconds.
    swept: AtomicU64,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("space", &self.space).field("store", &self.store).finish_non_exhaustive()
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Nobody's.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// What was asked is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The vector is wrong.
    #[error(transparent)]
    Embedding(#[from] EmbeddingError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is asked of a memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Question {
    /// In words.
    pub query: Option<String>,
    /// By a vector.
    pub embedding: Option<Vec<f64>>,
    /// Of which.
    pub filter: Filter,
    /// How many at most.
    pub limit: Option<usize>,
}

/// A memory that was found, and how good an answer it is beside the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// It.
    pub item: Item,
    /// Higher is better; of one answer alone.
    pub score: f64,
}

impl Memory {
    /// A memory over a store.
    ///
    /// # Errors
    /// What of the options cannot be.
    pub fn new(
        options: MemoryOptions,
        store: Arc<dyn MemoryStore>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Invalid> {
        let MemoryOptions { tenant, name, scope, dimensions, quota } = options;
        let between = |what: &str, value: Option<u32>, most: u32| match value {
            Some(value) if value == 0 || value > most => Err(Invalid(format!("{what} is from 1 to {most}"))),
            _ => Ok(()),
        };
        between("`dimensions`", dimensions, DIMENSIONS_MAX)?;
        between("`quota.items`", quota.items, ITEMS_MAX)?;
        between("`quota.mib`", quota.mib, MIB_MAX)?;
        if quota.ttl_seconds.is_some_and(|ttl| ttl == 0 || ttl > TTL_SECONDS_MAX) {
            return Err(Invalid(format!("`quota.ttl_seconds` is from 1 to {TTL_SECONDS_MAX}")));
        }
        Ok(Self {
            store,
            space: Space::new(tenant, name),
            scope,
            dimensions,
            quota: Quota {
                items: quota.items.unwrap_or(ITEMS_USUAL).into(),
                bytes: u64::from(quota.mib.unwrap_or(MIB_USUAL)) * 1024 * 1024,
            },
            ttl: quota.ttl_seconds.or(scope.is_by_run().then_some(RUN_TTL_SECONDS)),
            moments: Moments::new(Arc::clone(&clock)),
            clock,
            entropy,
            ready: OnceCell::new(),
            swept: AtomicU64::new(0),
        })
    }

    /// Numbers in a vector; none where no vectors are kept.
    #[must_use]
    pub fn dimensions(&self) -> Option<u32> {
        self.dimensions
    }

    /// Whose it is.
    #[must_use]
    pub fn scope(&self) -> MemoryScope {
        self.scope
    }

    /// Makes its store ready, once.
    ///
    /// # Errors
    /// [`StoreError`]; it is tried again the next time.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let ready = self.ready.get_or_try_init(|| async {
            if let Some(newest) = in_time(self.store.ready(&self.space), false).await? {
                self.moments.not_before(newest);
            }
            Ok(())
        });
        ready.await.copied()
    }

    async fn owner(&self, subject: Subject) -> Result<Owner, MemoryError> {
        let owner = Owner::of(self.space.clone(), self.scope, subject)?;
        self.ready().await?;
        Ok(owner)
    }

    /// Keeps something. Gives it as it is kept.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub async fn remember(&self, subject: Subject, draft: Draft) -> Result<Item, MemoryError> {
        item::checked_text(&draft.text)?;
        let Filter { kind, tags } = Filter::new(draft.kind, draft.tags)?;
        let embedding = draft.embedding.map(|numbers| Embedding::new(&numbers, self.dimensions)).transpose()?;
        let ttl = match (draft.ttl_seconds, self.ttl) {
            (Some(ttl), _) if ttl == 0 || ttl > TTL_SECONDS_MAX => {
                return Err(Invalid(format!("`ttl_seconds` is from 1 to {TTL_SECONDS_MAX}")).into());
            }
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
            (wanted, most) => wanted.or(most),
        };
        let owner = self.owner(subject).await?;
        let replaced = draft.replaces.as_deref().map(known_id).transpose()?;
        let written = self.moments.next();
        let expires = ttl.map(|ttl| {
            Timestamp::from_unix_micros(written.unix_micros().saturating_add(ttl.saturating_mul(1_000_000)))
        });
        let id = replaced.unwrap_or_else(|| MemoryId::new(&*self.clock, &*self.entropy));
        let item = Item { id, text: draft.text, kind, tags, embedding, written, expires };
        self.sweep(written).await;
        in_time(self.store.put(&owner, &item, replaced.is_some(), self.quota), true).await?;
        Ok(item)
    }

    /// Removes what has expired, now and then. What stays until the next time is not found by anybody.
    async fn sweep(&self, now: Timestamp) {
        let (now_micros, last) = (now.unix_micros(), self.swept.load(Ordering::Acquire));
        let due = now_micros.saturating_sub(last) >= u64::try_from(SWEEP_EVERY.as_micros()).unwrap_or(u64::MAX);
        let mine = || self.swept.compare_exchange(last, now_micros, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if due
            && mine()
            // By a clock that was ahead once, what has expired is hidden; it is not destroyed.
            && let Err(error) = in_time(self.store.sweep(&self.space, now.min(self.clock.now())), true).await
        {
            tracing::warn!(store = %self.space.store(), %error, "expired memories are not removed yet");
        }
    }

    /// What answers a question, the best first.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub async fn recall(&self, subject: Subject, question: Question) -> Result<Vec<Found>, MemoryError> {
        let Question { query, embedding, filter, limit } = question;
        let limit = bounded(limit)?;
        let words = match &query {
            Some(query) if query.len() > QUERY_BYTES_MAX => {
                return Err(Invalid(format!("`query` has at most {QUERY_BYTES_MAX} bytes")).into());
            }
            Some(query) => words::query_words(query),
            None => Vec::new(),
        };
        let vector = embedding.map(|numbers| Embedding::new(&numbers, self.dimensions)).transpose()?;
        if words.is_empty() && vector.is_none() {
            let why = if query.is_some() { "`query` has no words" } else { "there is nothing to look for" };
            return Err(Invalid(format!("{why}; `list` gives the newest memories")).into());
        }
        let owner = self.owner(subject).await?;
        let now = self.moments.now();
        let mut by_words = Vec::new();
        if !words.is_empty() {
            let found = self.store.by_words(&owner, &words, &filter, CANDIDATES_MAX, now);
            let found = in_time(found, false).await?;
            // Two hundred long texts take a while, and this thread serves others.
            let ranked = tokio::task::spawn_blocking(move || {
                let scores = words::rank(&words, &found);
                (found, scores)
            });
            let (found, scores) = ranked.await.map_err(|_| StoreError::Unavailable {
                cause: "what was found could not be put in order".to_owned(),
                sent: false,
            })?;
            by_words = found.into_iter().zip(scores).map(|(item, score)| Found { item, score }).collect();
            by_words.sort_by(|a: &Found, b| b.score.total_cmp(&a.score).then(b.item.written.cmp(&a.item.written)));
            by_words.truncate(limit);
        }
        let Some(vector) = vector else { return Ok(by_words) };
        let near = in_time(self.store.by_vector(&owner, &vector, &filter, limit, now), false).await?;
        let near = near.into_iter().map(|item| Found { item, score: 0.0 }).collect();
        Ok(fused(by_words, near, limit))
    }

    /// One memory.
    ///
    /// # Errors
    /// [`MemoryError`]; [`StoreError::Missing`] for another's as for none.
    pub async fn read(&self, subject: Subject, id: &str) -> Result<Item, MemoryError> {
        let owner = self.owner(subject).await?;
        let found = in_time(self.store.get(&owner, known_id(id)?, self.moments.now()), false).await?;
        Ok(found.ok_or(StoreError::Missing)?)
    }

    /// The newest memories; with where to go on, if there may be more.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub async fn list(
        &self,
        subject: Subject,
        filter: Filter,
        cursor: Option<&str>,
        limit: Option<usize>,
    ) -> Result<(Vec<Item>, Option<String>), MemoryError> {
        let limit = bounded(limit)?;
        let before = match cursor.map(str::parse::<u64>) {
            None => None,
            Some(Ok(micros)) => Some(Timestamp::from_unix_micros(micros)),
            Some(Err(_)) => return Err(Invalid("`cursor` is what an answer before gave".to_owned()).into()),
        };
        let owner = self.owner(subject).await?;
        let found = in_time(self.store.list(&owner, &filter, before, limit, self.moments.now()), false).await?;
        let next = found.last().filter(|_| found.len() >= limit).map(|item| item.written.unix_micros().to_string());
        Ok((found, next))
    }

    /// Forgets one memory.
    ///
    /// # Errors
    /// [`MemoryError`]; [`StoreError::Missing`] for another's as for none.
    pub async fn delete(&self, subject: Subject, id: &str) -> Result<(), MemoryError> {
        let owner = self.owner(subject).await?;
        let gone = in_time(self.store.delete(&owner, known_id(id)?, self.moments.now()), true).await?;
        if gone { Ok(()) } else { Err(StoreError::Missing.into()) }
    }

    /// Forgets for an operator; how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget(&self, whose: &Whose) -> Result<u64, StoreError> {
        self.ready().await?;
        in_time(self.store.forget(&self.space, whose), true).await
    }

    /// How much there is, for an operator.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        self.ready().await?;
        in_time(self.store.usage(&self.space), false).await
    }
}

/// A text that is no id is the id of nothing.
fn known_id(text: &str) -> Result<MemoryId, StoreError> {
    text.parse().map_err(|_| StoreError::Missing)
}

fn bounded(limit: Option<usize>) -> Result<usize, Invalid> {
    match limit {
        None => Ok(10),
        Some(limit) if (1..=ANSWERS_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Invalid(format!("`limit` is from 1 to {ANSWERS_MAX}"))),
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>, changes: bool) -> Result<T, StoreError> {
    let most = Duration::from_secs(OPERATION_SECONDS_MAX);
    tokio::time::timeout(most, work).await.unwrap_or_else(|_| {
        let cause = format!("it did not answer within {OPERATION_SECONDS_MAX} seconds");
        Err(StoreError::Unavailable { cause, sent: changes })
    })
}

/// Two orders as one, by reciprocal rank: their scores cannot be compared, their places can.
fn fused(one: Vec<Found>, two: Vec<Found>, limit: usize) -> Vec<Found> {
    const DAMPING: f64 = 60.0;
    let mut all: HashMap<MemoryId, Found> = HashMap::new();
    for list in [one, two] {
        let mut place = DAMPING;
        for found in list {
            place += 1.0;
            let score = 1.0 / place;
            all.entry(found.item.id)
                .and_modify(|known| known.score += score)
                .or_insert(Found { item: found.item, score });
        }
    }
    let mut all: Vec<Found> = all.into_values().collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.item.written.cmp(&a.item.written)));
    all.truncate(limit);
    all
}
