//! The port: what a store of memories does. What it must hold is in the suite that is run over every one of them.

use std::{fmt, pin::Pin};

use cogward_model::{Timestamp, id::MemoryId};

use crate::{
    embedding::Embedding,
    item::{Filter, Item},
    owner::{Owner, Space},
};

/// Something that is under way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A store of memories. An operation gives and changes what is the owner's, and is the same for another's as for what is
/// not there. Expired memories are not there.
pub trait MemoryStore: Send + Sync + fmt::Debug {
    /// Makes it ready, the first time and again; gives the time of the newest memory of a space.
    fn ready<'a>(&'a self, space: &'a Space) -> Pending<'a, Result<Option<Timestamp>, StoreError>>;

    /// Keeps a memory. One that `replaces` must be there, and takes the place of the one with its id.
    fn put<'a>(
        &'a self,
        owner: &'a Owner,
        item: &'a Item,
        replaces: bool,
        quota: Quota,
    ) -> Pending<'a, Result<(), StoreError>>;

    /// The memory of an id.
    fn get<'a>(
        &'a self,
        owner: &'a Owner,
        id: MemoryId,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Item>, StoreError>>;

    /// Memories with any of some words (letters and digits, in lower case), the newest first.
    fn by_words<'a>(
        &'a self,
        owner: &'a Owner,
        words: &'a [String],
        filter: &'a Filter,
        limit: usize,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>>;

    /// Memories with a vector, the nearest by cosine first.
    fn by_vector<'a>(
        &'a self,
        owner: &'a Owner,
        vector: &'a Embedding,
        filter: &'a Filter,
        limit: usize,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>>;

    /// Memories that were written before a time, the newest first.
    fn list<'a>(
        &'a self,
        owner: &'a Owner,
        filter: &'a Filter,
        before: Option<Timestamp>,
        limit: usize,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>>;

    /// Forgets a memory. False when there is none.
    fn delete<'a>(&'a self, owner: &'a Owner, id: MemoryId, now: Timestamp) -> Pending<'a, Result<bool, StoreError>>;

    /// Forgets memories for an operator, expired ones included; how many.
    fn forget<'a>(&'a self, space: &'a Space, whose: &'a Whose) -> Pending<'a, Result<u64, StoreError>>;

    /// Removes what has expired, whoever's it was; how many.
    fn sweep<'a>(&'a self, space: &'a Space, now: Timestamp) -> Pending<'a, Result<u64, StoreError>>;

    /// How much there is, for an operator, expired memories included until they are removed.
    fn usage<'a>(&'a self, space: &'a Space) -> Pending<'a, Result<Usage, StoreError>>;
}

/// Whose memories an operator has forgotten.
#[derive(Clone, PartialEq, Eq)]
pub enum Whose {
    /// All that were written for a user, whatever their scope.
    User(String),
    /// All of the space.
    Everybody,
}

impl fmt::Debug for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User(_) => "User(not shown)",
            Self::Everybody => "Everybody",
        })
    }
}

/// How much one owner may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Memories.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memories.
    pub items: u64,
    /// Their bytes, where the store counts them.
    pub bytes: Option<u64>,
}

/// Why a store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The owner has as much as it may have.
    #[error("the memory is full: {0}")]
    Full(&'static str),
    /// There is no such memory, or it is another's: the same.
    #[error("there is no such memory")]
    Missing,
    /// The store cannot be used as it is configured.
    #[error("the store of the memory cannot be used: {0}")]
    Unusable(String),
    /// The store cannot be reached or failed.
    #[error("the store of the memory cannot be reached: {cause}")]
    Unavailable {
        /// What was seen, without secrets and without what is kept.
        cause: String,
        /// Whether it may have been done nevertheless.
        sent: bool,
    },
}
