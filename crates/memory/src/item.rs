//! A memory, and what may be asked of memories.

use std::collections::BTreeSet;

use cogward_model::{Timestamp, id::MemoryId};

use crate::embedding::Embedding;

/// Longest text of a memory.
pub(crate) const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Most tags of a memory, and of a filter.
pub(crate) const TAGS_MAX: usize = 16;
/// Longest tag or kind.
pub(crate) const TAG_BYTES_MAX: usize = 64;

/// Something that is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its name; the plane's choice.
    pub id: MemoryId,
    /// What is kept.
    pub text: String,
    /// What kind of thing it is, as the agent says.
    pub kind: Option<String>,
    /// What it is found by beside its words.
    pub tags: BTreeSet<String>,
    /// What it is found by where words differ. Stores need not give it back.
    pub embedding: Option<Embedding>,
    /// When it was written; no two of one plane at the same time.
    pub written: Timestamp,
    /// From when on it is not there any more.
    pub expires: Option<Timestamp>,
}

impl Item {
    /// What it counts for in a quota.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let tags: usize = self.tags.iter().map(String::len).sum();
        let vector = self.embedding.as_ref().map_or(0, |vector| vector.numbers().len() * 4);
        (self.text.len() + self.kind.as_ref().map_or(0, String::len) + tags + vector) as u64
    }
}

/// What an agent wants kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// Of an own memory that it takes the place of.
    pub replaces: Option<String>,
    /// What to keep.
    pub text: String,
    /// What kind of thing it is.
    pub kind: Option<String>,
    /// What it is found by beside its words.
    pub tags: Vec<String>,
    /// A vector for it.
    pub embedding: Option<Vec<f64>>,
    /// How long it is kept, in seconds.
    pub ttl_seconds: Option<u64>,
}

/// Which memories are meant; all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of that kind.
    pub kind: Option<String>,
    /// With all these tags.
    pub tags: BTreeSet<String>,
}

/// What cannot be kept or asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub(crate) String);

impl Filter {
    /// A filter of an agent's words.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn new(kind: Option<String>, tags: Vec<String>) -> Result<Self, Invalid> {
        kind.as_deref().map_or(Ok(()), |kind| word("kind", kind))?;
        Ok(Self { kind, tags: checked_tags(tags)? })
    }

    /// Whether a memory is meant.
    #[must_use]
    pub fn admits(&self, item: &Item) -> bool {
        self.kind.as_ref().is_none_or(|kind| item.kind.as_ref() == Some(kind)) && self.tags.is_subset(&item.tags)
    }
}

pub(crate) fn checked_tags(tags: Vec<String>) -> Result<BTreeSet<String>, Invalid> {
    if tags.len() > TAGS_MAX {
        return Err(Invalid(format!("there are {} tags, and {TAGS_MAX} are allowed", tags.len())));
    }
    tags.iter().try_for_each(|tag| word("tag", tag))?;
    Ok(tags.into_iter().collect())
}

pub(crate) fn word(what: &str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() || text.len() > TAG_BYTES_MAX {
        return Err(Invalid(format!("a {what} has 1 to {TAG_BYTES_MAX} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid(format!("a {what} has no control characters")));
    }
    Ok(())
}

pub(crate) fn checked_text(text: &str) -> Result<(), Invalid> {
    if text.trim().is_empty() || text.len() > TEXT_BYTES_MAX {
        return Err(Invalid(format!("`text` has 1 to {TEXT_BYTES_MAX} bytes that are not only white space")));
    }
    // Not every store can keep it, and nobody can read it.
    if text.contains(|c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        return Err(Invalid("`text` has a control character other than tab and the ends of lines".to_owned()));
    }
    Ok(())
}
