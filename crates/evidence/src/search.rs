//! Finding leaves by what is in them, with the index that says where they are and the log that says what they are.
//!
//! Every leaf that is shown was read from the log, has the hash that the index keeps for its place, and has what was
//! asked for; a leaf that has not means that the index is wrong, which is an error and has it made anew. What the
//! index leaves out is not seen here: for that there are the roots in the log ([`crate::prove`]).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use cogward_ledger::{
    Hash,
    leaf::{Parsed, leaf_hash},
};
use cogward_model::{
    AgentName, RunId, TenantName, Timestamp, VersionLabel,
    event::{EventType, Value},
    id::ApprovalId,
};
use cogward_wal::Position;

use crate::{
    index::{
        Found, IndexError, Leaves, Table,
        terms::{self, Term, hex},
    },
    keys::TenantKeys,
    read::{self, LeafView, ReadError, on_a_thread},
    record::{Evidence, RecordError},
    vault::KEY_ID_BYTES,
};

/// How long a question waits for the index to reach the end of the log.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long one page is looked for; then it says up to where it has looked.
const LOOKS: Duration = Duration::from_secs(5);
/// Leaves of the log that one look covers.
const SLICE: u64 = 131_072;
/// All leaves of one answer together, in bytes.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest value that is asked for.
const VALUE_BYTES_MAX: usize = 512;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The log or the keys.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The checkpoint.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The cursor is not one that this question gave.
    #[error("the cursor is not one of this search")]
    Cursor,
    /// What is asked for is longer than anything that is there.
    #[error("a value that is searched for has at most {VALUE_BYTES_MAX} bytes")]
    Value,
    /// The pseudonym is not one.
    #[error("a pseudonym has 32 hexadecimal digits")]
    Pseudonym,
    /// The log has no such leaf, or no such run.
    #[error("the log has no {0}")]
    Missing(String),
    /// Who acted in some of the leaves is erased.
    #[error(
        "persons were erased from leaves {0} to {1}, so the index of persons there cannot be shown any more: nothing can \
         be proven by a person in a window that touches them; ask by agent, run or time, or name another window"
    )]
    Erased(u64, u64),
    /// More than one answer can hold.
    #[error("that is {0} leaves; at most {1} at once: name a shorter window, or export the whole log")]
    TooMany(u64, u64),
    /// A file could not be written.
    #[error("the pack could not be written")]
    Io(#[from] std::io::Error),
}

impl From<crate::keys::KeyringError> for SearchError {
    fn from(error: crate::keys::KeyringError) -> Self {
        Self::Read(error.into())
    }
}

/// Who a leaf is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By name. The name goes no further than into a keyed hash.
    Name(String),
    /// By the pseudonym that an answer or a record named.
    Pseudonym(String),
}

/// What is searched for. What is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// The agent that acted.
    pub agent: Option<AgentName>,
    /// Its version.
    pub version: Option<VersionLabel>,
    /// The person on whose authority.
    pub user: Option<User>,
    /// The run.
    pub run: Option<RunId>,
    /// The tool, `server/tool`.
    pub tool: Option<String>,
    /// The tool server.
    pub tool_server: Option<String>,
    /// The type of event.
    pub kind: Option<String>,
    /// The decision or the verdict of the policies.
    pub decision: Option<String>,
    /// The digest of a policy version that was asked.
    pub policy: Option<String>,
    /// The approval.
    pub approval: Option<ApprovalId>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

impl Query {
    fn terms(&self, keys: &TenantKeys) -> Result<BTreeMap<Term, String>, SearchError> {
        let mut terms = BTreeMap::new();
        let mut put = |term, value: Option<String>| -> Result<(), SearchError> {
            match value {
                Some(value) if value.len() > VALUE_BYTES_MAX => Err(SearchError::Value),
                Some(value) => {
                    terms.insert(term, value);
                    Ok(())
                }
                None => Ok(()),
            }
        };
        put(Term::Agent, self.agent.as_ref().map(ToString::to_string))?;
        put(Term::Version, self.version.as_ref().map(ToString::to_string))?;
        put(Term::Run, self.run.map(|run| run.to_string()))?;
        put(Term::Tool, self.tool.clone())?;
        put(Term::ToolServer, self.tool_server.clone())?;
        put(Term::Type, self.kind.clone())?;
        put(Term::Decision, self.decision.clone())?;
        put(Term::Policy, self.policy.clone())?;
        put(Term::Approval, self.approval.map(|approval| approval.to_string()))?;
        put(Term::User, self.user.as_ref().map(|user| pseudonym(keys, user)).transpose()?)?;
        Ok(terms)
    }
}

/// The pseudonym that a user has in this tenant.
pub(crate) fn pseudonym(keys: &TenantKeys, user: &User) -> Result<String, SearchError> {
    match user {
        User::Name(name) if name.len() > VALUE_BYTES_MAX => Err(SearchError::Value),
        User::Name(name) => Ok(hex(&keys.data.subject_tag(name))),
        User::Pseudonym(text) => {
            let text = text.to_ascii_lowercase();
            let is = text.len() == 2 * KEY_ID_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is { Ok(text) } else { Err(SearchError::Pseudonym) }
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The leaves, in the order of the log.
    pub leaves: Vec<LeafView>,
    /// Where to go on; `None` when all of the index was looked at.
    pub cursor: Option<String>,
    /// Leaves of the tenant's log that the index knows: what is behind them was not looked at.
    pub current: u64,
    /// The query as it may be recorded: the person as a pseudonym.
    pub public: Value,
}

/// One tenant's part of the index, while it is asked.
pub(crate) struct View {
    pub(crate) table: Table,
    pub(crate) log: i64,
    pub(crate) size: u64,
}

impl Evidence {
    /// The tenant's part of the index, brought up to now as far as that takes no long time; `None` for an empty log.
    pub(crate) async fn indexed(&self, tenant: &TenantName) -> Result<Option<View>, IndexError> {
        let index = &self.shared.index;
        index.caught_up(PATIENCE).await;
        let opened = async {
            let mut table = Table::read(&index.path).await?;
            let row = table.log(tenant.as_str()).await?;
            Ok(row.map(|row| View { table, log: row.id, size: row.size }))
        };
        opened.await.map_err(|error| index.checked(error))
    }

    /// The part of the write-ahead log between a run's first leaf and its last, as the index has it now.
    pub(crate) async fn indexed_span(&self, tenant: &TenantName, run: RunId) -> Option<(Position, Position)> {
        let found = async {
            let keys = self.shared.keyring.tenant(tenant)?;
            let Some(mut view) = self.indexed(tenant).await? else { return Ok(None) };
            let tag = terms::tag(&keys, Term::Run, &run.to_string());
            let Some((first, last)) = view.table.ends(view.log, &tag).await? else { return Ok(None) };
            let places = (view.table.leaf(view.log, first).await?, view.table.leaf(view.log, last).await?);
            let (Some((from, _)), Some((at, _))) = places else { return Ok(None) };
            let end = self.shared.progress.end();
            // What is not indexed yet may be the run's, too.
            if view.table.position().await? < end {
                return Ok(Some((from, end)));
            }
            let mut leaves = Leaves::new(&self.shared.segments, at, end);
            on_a_thread(move || {
                let mut found = Found::default();
                Ok::<_, SearchError>(leaves.next(&mut found)?.then_some((from, found.end)))
            })
            .await
        };
        let found: Result<_, SearchError> = found.await;
        found.inspect_err(|error| tracing::debug!(%error, "a run is read without the index")).ok().flatten()
    }

    /// Makes the query index anew from the log. Returns when the old one is gone; searches say how far the new one is.
    ///
    /// # Errors
    /// The ledger is being closed.
    pub async fn reindex(&self) -> Result<(), IndexError> {
        self.shared.index.rebuild().await
    }

    /// Finds leaves, at most `limit` of them, behind the cursor of the page before.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub async fn search(
        &self,
        tenant: &TenantName,
        query: &Query,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, SearchError> {
        let keys = self.shared.keyring.tenant(tenant)?;
        let terms = query.terms(&keys)?;
        let public = public(&terms, query);
        let from = match cursor {
            Some(cursor) => opened(&keys, &public, cursor).ok_or(SearchError::Cursor)?,
            None => 0,
        };
        let Some(view) = self.indexed(tenant).await? else {
            return Ok(Page { leaves: Vec::new(), cursor: None, current: 0, public });
        };
        let (evidence, tenant, query) = (self.clone(), tenant.clone(), query.clone());
        let handle = tokio::runtime::Handle::current();
        let found = on_a_thread(move || {
            let index = &evidence.shared.index;
            let looked = handle.block_on(evidence.look(&tenant, &query, &terms, view, from, limit));
            looked.map_err(|error| match error {
                SearchError::Index(error) => index.checked(error).into(),
                other => other,
            })
        });
        let (leaves, next, current) = found.await?;
        let cursor = next.map(|next| sealed_cursor(&keys, &public, next));
        Ok(Page { leaves, cursor, current, public })
    }

    async fn look(
        &self,
        tenant: &TenantName,
        query: &Query,
        terms: &BTreeMap<Term, String>,
        mut view: View,
        from: u64,
        limit: usize,
    ) -> Result<(Vec<LeafView>, Option<u64>, u64), SearchError> {
        let keys = self.shared.keyring.tenant(tenant)?;
        let tags: Vec<_> = terms.iter().map(|(term, value)| terms::tag(&keys, *term, value)).collect();
        let end = view.first_from(query.until).await?;
        let mut at = from.max(view.first_from_start(query.since).await?);
        let mut reader = Leaves::new(&self.shared.segments, Position::default(), self.shared.progress.end());
        let (mut found, mut leaves, mut bytes, mut hashes) = (Found::default(), Vec::new(), 0, None);
        let begun = Instant::now();
        while at < end {
            let until = end.min(at.saturating_add(SLICE));
            let wanted = limit.saturating_sub(leaves.len());
            let places = view.table.find(view.log, &tags, (at, until), wanted).await?;
            let all_of_slice = places.len() < wanted;
            for (seq, place) in places {
                reader.find(place, &mut found)?;
                let leaf = Self::checked(&mut view, tenant, seq, &found, &mut hashes).await?;
                let has = terms::of(&keys, &found.leaf, &found.sealed)?.unwrap_or_default();
                let fits = terms.iter().all(|(term, value)| has.iter().any(|(of, is)| of == term && is == value))
                    && query.since.is_none_or(|since| leaf >= since)
                    && query.until.is_none_or(|until| leaf < until);
                if !fits {
                    return Err(IndexError::Damaged("a leaf is not what was asked for").into());
                }
                bytes += found.leaf.len() + found.sealed.iter().map(Vec::len).sum::<usize>();
                let parsed = Parsed::from_bytes(&found.leaf).map_err(|_| ReadError::Damaged(found.at))?;
                let seen = read::view(&keys, tenant, &parsed, &found.leaf, &mut found.sealed.clone());
                leaves.push(seen.ok_or(ReadError::Damaged(found.at))?);
                at = seq + 1;
                if leaves.len() >= limit || bytes >= ANSWER_BYTES_MAX {
                    return Ok((leaves, (at < end).then_some(at), view.size));
                }
            }
            if all_of_slice {
                at = until;
            }
            if begun.elapsed() >= LOOKS && at < end {
                return Ok((leaves, Some(at), view.size));
            }
        }
        Ok((leaves, None, view.size))
    }

    /// The time of a leaf, once it is the one that the index means.
    async fn checked(
        view: &mut View,
        tenant: &TenantName,
        seq: u64,
        found: &Found,
        hashes: &mut Option<(u64, Vec<Hash>)>,
    ) -> Result<Timestamp, SearchError> {
        let wrong = |what| SearchError::from(IndexError::Damaged(what));
        let parsed = Parsed::from_bytes(&found.leaf).map_err(|_| wrong("a place holds no leaf"))?;
        if found.tenant != tenant.as_str() || parsed.chain.seq != seq {
            return Err(wrong("a place holds another leaf"));
        }
        if hashes.as_ref().is_none_or(|(number, _)| *number != seq / 256) {
            // As many as were there when the search began: leaves of one tile are looked at one behind the other.
            let width = usize::try_from((view.size - seq / 256 * 256).min(256)).unwrap_or(0);
            *hashes = Some((seq / 256, view.table.tile(view.log, 0, seq / 256, width).await?));
        }
        let at = usize::try_from(seq % 256).unwrap_or(0);
        let kept = hashes.as_ref().and_then(|(_, hashes)| hashes.get(at));
        if kept != Some(&leaf_hash(&found.leaf)) {
            return Err(wrong("a leaf has another hash"));
        }
        parsed.chain.time.parse().map_err(|_| ReadError::Damaged(found.at).into())
    }
}

impl View {
    /// The first leaf at or behind a time; the number of leaves when there is none, or no time.
    pub(crate) async fn first_from(&mut self, time: Option<Timestamp>) -> Result<u64, IndexError> {
        let Some(time) = time else { return Ok(self.size) };
        let (mut low, mut high) = (0, self.size);
        while low < high {
            let middle = low + (high - low) / 2;
            let (_, at) = self.table.leaf(self.log, middle).await?.ok_or(IndexError::Damaged("a leaf is not there"))?;
            if at < time.unix_micros() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    async fn first_from_start(&mut self, time: Option<Timestamp>) -> Result<u64, IndexError> {
        if time.is_none() { Ok(0) } else { self.first_from(time).await }
    }
}

/// The query in clear, but for the person.
fn public(terms: &BTreeMap<Term, String>, query: &Query) -> Value {
    let known = |kind: &str| EventType::ALL.iter().any(|known| known.as_str() == kind);
    let mut said: BTreeMap<String, Value> = BTreeMap::new();
    for (term, value) in terms {
        let value = match term {
            // What is no type of event may be anything, a name too.
            Term::Type if !known(value) => "(not a type of event)".to_owned(),
            Term::Decision if !["permit", "block", "escalate"].contains(&value.as_str()) => {
                "(not a decision)".to_owned()
            }
            _ => value.clone(),
        };
        said.insert(term.as_str().to_owned(), value.into());
    }
    for (name, time) in [("since", query.since), ("until", query.until)] {
        said.extend(time.map(|time| (name.to_owned(), Value::from(time.to_string()))));
    }
    Value::Map(said)
}

fn cursor_tag(keys: &TenantKeys, public: &Value, next: u64) -> [u8; KEY_ID_BYTES] {
    let query = serde_json::to_string(public).unwrap_or_default();
    keys.data.index_tag(&format!("cursor\0{next}\0{query}"))
}

/// A cursor belongs to its query: another's is refused, and so is one that was made up.
fn sealed_cursor(keys: &TenantKeys, public: &Value, next: u64) -> String {
    format!("{next}-{}", hex(&cursor_tag(keys, public, next)))
}

fn opened(keys: &TenantKeys, public: &Value, cursor: &str) -> Option<u64> {
    let (next, tag) = cursor.split_once('-')?;
    let next: u64 = next.parse().ok()?;
    let wanted = hex(&cursor_tag(keys, public, next));
    verify_slices_are_equal(wanted.as_bytes(), tag.as_bytes()).ok().map(|()| next)
}
