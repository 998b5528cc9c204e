//! Reading the ledger back: a run's leaves with what the vault still opens, and the budgets' history.
//!
//! Readers walk the write-ahead log's committed part and never disturb the sequencer. Where a run
//! lies is remembered for the newest runs; an older one costs a walk over the whole log.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use cogward_ledger::leaf::{Parsed, hash_text, leaf_hash};
use cogward_model::{
    AgentName, NanoUsd, RunId, TenantName, Timestamp,
    action::Amounts,
    id::{EventId, RedactionId},
};
use cogward_wal::Position;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{
    carried::{Committed, Mark, SealedName},
    frames,
    kept::walk_needed,
    keys::{KeyringError, TenantKeys},
    record::Evidence,
    segments::Segments,
    vault::{self, Sealed},
};

/// Runs whose place in the log is remembered.
const RUNS_MAX: usize = 65_536;
/// All leaves of one answer together, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why the ledger could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log.
    #[error(transparent)]
    Wal(#[from] cogward_wal::ReadError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// A frame is not what the ledger writes.
    #[error("the ledger is damaged in {0}")]
    Damaged(Position),
    /// The thread that reads was ended.
    #[error("reading was interrupted")]
    Interrupted(#[source] io::Error),
}

/// How far the log is committed, and where its runs lie.
#[derive(Default)]
pub(crate) struct Progress(Mutex<Known>);

#[derive(Default)]
struct Known {
    end: Position,
    runs: BTreeMap<RunId, Span>,
    /// Whether older runs were dropped from `runs`.
    incomplete: bool,
}

/// Segment and offset.
type PlaceImage = (u64, u64);

/// Where runs lie, as a snapshot keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SpansImage {
    incomplete: bool,
    spans: Vec<(RunId, TenantName, PlaceImage, PlaceImage)>,
}

struct Span {
    tenant: TenantName,
    from: Position,
    to: Position,
}

impl Progress {
    /// The log is committed up to `end`, with new leaves of these runs.
    pub(crate) fn advance(&self, end: Position, runs: impl Iterator<Item = (TenantName, RunId, Position)>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.end = end;
        for (tenant, run, from) in runs {
            known.runs.entry(run).or_insert(Span { tenant, from, to: end }).to = end;
            if known.runs.len() > RUNS_MAX {
                known.runs.pop_first();
                known.incomplete = true;
            }
        }
    }

    /// What a snapshot keeps.
    pub(crate) fn image(&self) -> SpansImage {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |at: Position| (at.segment, at.offset);
        let spans = known.runs.iter().map(|(run, span)| (*run, span.tenant.clone(), place(span.from), place(span.to)));
        SpansImage { incomplete: known.incomplete, spans: spans.collect() }
    }

    /// As a snapshot kept it.
    pub(crate) fn from_image(image: SpansImage) -> Self {
        let place = |(segment, offset)| Position { segment, offset };
        let spans = image.spans.into_iter();
        let runs = spans.map(|(run, tenant, from, to)| (run, Span { tenant, from: place(from), to: place(to) }));
        Self(Mutex::new(Known { end: Position::default(), runs: runs.collect(), incomplete: image.incomplete }))
    }

    pub(crate) fn end(&self) -> Position {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).end
    }

    /// The part of the log that holds all leaves of a run; empty when there are none.
    pub(crate) fn span(&self, tenant: &TenantName, run: RunId) -> (Position, Position) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.runs.get(&run) {
            // The identifier of a run does not open another tenant's ledger.
            Some(span) if span.tenant == *tenant => (span.from, span.to),
            None if known.incomplete => (Position::default(), known.end),
            _ => Default::default(),
        }
    }
}

/// One leaf, as the operator may see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeafView {
    /// Its number in the tenant's log.
    pub seq: u64,
    /// Its number in the run's chain; 0 for a leaf without a run.
    pub run_seq: u64,
    /// When.
    pub time: Timestamp,
    /// Its hash, as the leaf after it names it.
    pub hash: String,
    /// The leaf's body, with commitments where values are hidden.
    pub body: serde_json::Value,
    /// The hidden values that the vault still opens, by field.
    pub disclosed: BTreeMap<String, serde_json::Value>,
    /// The hidden values that were erased, by field, with the redaction that did it.
    pub erased: BTreeMap<String, RedactionId>,
}

/// What the budgets are rebuilt from: what was reserved and what was really used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecidedOrCompleted {
    /// A decision about a call or a connection.
    Decided {
        /// What was decided about.
        kind: String,
        /// Whether it was let through.
        permitted: bool,
        /// The decision, which its outcome refers to.
        id: EventId,
        /// Whose.
        tenant: TenantName,
        /// The run.
        run: Option<RunId>,
        /// When.
        time: Timestamp,
        /// How much; nothing where it was refused.
        reserved: Amounts,
        /// In which scopes.
        budget: Vec<String>,
        /// What later decisions look back on; none for a call that adds nothing to it.
        lasting: Option<Box<Lasting>>,
    },
    /// An outcome.
    Completed {
        /// Whose.
        tenant: TenantName,
        /// The run.
        run: Option<RunId>,
        /// When.
        time: Timestamp,
        /// What was really used.
        used: Amounts,
        /// The decisions that it settles.
        refs: Vec<EventId>,
        /// How it ended: `ok`, `error` or `unknown`.
        outcome: Option<String>,
    },
}

/// What a decision left behind for later ones: counts, and labels of what was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lasting {
    /// Who acted.
    pub agent: Option<AgentName>,
    /// The user for whom it acted; [`Kept::Lost`] when the person's key was destroyed.
    pub subject: Kept<String>,
    /// What it added to which counts.
    pub added: Kept<BTreeMap<String, i64>>,
    /// The labels of the data that it read.
    pub labels: Vec<String>,
    /// The user's name as it is sealed in the record.
    pub name: Option<SealedName>,
}

/// A value that the ledger only commits to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Kept<T> {
    /// There is none.
    #[default]
    Nothing,
    /// The vault opens it.
    Known(T),
    /// The vault does not open it any more.
    Lost,
}

#[derive(Deserialize)]
struct BudgetLeaf {
    body: BudgetBody,
    chain: BudgetChain,
}

#[derive(Deserialize)]
struct BudgetBody {
    id: EventId,
    tenant: TenantName,
    #[serde(default)]
    run: Option<RunId>,
    #[serde(default)]
    decision: Option<String>,
    #[serde(default)]
    reserved: Option<BudgetAmounts>,
    #[serde(default)]
    budget: Vec<String>,
    #[serde(default)]
    used: Option<BudgetAmounts>,
    #[serde(default)]
    refs: Vec<String>,
    #[serde(default)]
    outcome: Option<String>,
    #[serde(default)]
    act: Option<String>,
    #[serde(default)]
    sub: Option<IgnoredAny>,
    #[serde(default)]
    history: Option<IgnoredAny>,
    #[serde(default)]
    labels_read: Vec<String>,
}

#[derive(Deserialize)]
struct BudgetChain {
    time: Timestamp,
}

#[derive(Deserialize)]
struct BudgetAmounts {
    #[serde(default)]
    tokens: u64,
    #[serde(default)]
    cost_nano: u64,
    #[serde(default)]
    tool_calls: u64,
    #[serde(default)]
    connections: u64,
    #[serde(default)]
    egress_bytes: u64,
}

impl From<BudgetAmounts> for Amounts {
    fn from(amounts: BudgetAmounts) -> Self {
        let BudgetAmounts { tokens, cost_nano, tool_calls, connections, egress_bytes } = amounts;
        Self { tokens, cost: NanoUsd::from_nanos(cost_nano), tool_calls, connections, egress_bytes }
    }
}

/// Walks the leaves between two places: where it is, the tenant, the leaf, and the disclosures sealed for it.
pub(crate) fn walk<E: From<ReadError>>(
    segments: &Arc<Segments>,
    span: (Position, Position),
    mut visit: impl FnMut(Position, &str, &[u8], &mut Vec<Vec<u8>>) -> Result<bool, E>,
) -> Result<(), E> {
    walk_on(segments, span, &mut Vec::new(), &mut visit).map(drop)
}

/// Why a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walked {
    /// It came to its end.
    All,
    /// Whoever was shown the leaves has seen enough.
    Enough,
}

/// The same behind `sealed`, which was found before the first leaf and is what comes behind the last one in the end.
pub(crate) fn walk_on<E: From<ReadError>>(
    segments: &Arc<Segments>,
    (from, to): (Position, Position),
    sealed: &mut Vec<Vec<u8>>,
    visit: &mut impl FnMut(Position, &str, &[u8], &mut Vec<Vec<u8>>) -> Result<bool, E>,
) -> Result<Walked, E> {
    let mut reader = segments.reader(from, to);
    while let Some(frame) = reader.next_frame().map_err(|error| E::from(error.into()))? {
        let damaged = || E::from(ReadError::Damaged(frame.position));
        let (tenant, rest) = frames::split_text(frame.payload).ok_or_else(damaged)?;
        match frame.kind {
            frames::SEALED => sealed.push(rest.to_vec()),
            frames::LEAF => {
                if !visit(frame.position, tenant, rest, sealed)? {
                    return Ok(Walked::Enough);
                }
                sealed.clear();
            }
            // Frames of later versions are not the ledger's.
            _ => {}
        }
    }
    Ok(Walked::All)
}

pub(crate) async fn on_a_thread<T: Send + 'static, E: From<ReadError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(ReadError::Interrupted(io::Error::other(error)).into()))
}

impl Evidence {
    /// A run's leaves behind `after_run_seq` (0 for all), at most `limit` of them, with the values that the vault opens.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run_leaves(
        &self,
        tenant: &TenantName,
        run: RunId,
        after_run_seq: u64,
        limit: usize,
    ) -> Result<Vec<LeafView>, ReadError> {
        let span = self.shared.progress.span(tenant, run);
        // An older run: the index knows where it lies. What it leaves out at the beginning shows as a gap, and then the
        // whole log is read.
        let narrow = if span.0 == Position::default() { self.indexed_span(tenant, run).await } else { None };
        let (evidence, tenant) = (self.clone(), tenant.clone());
        on_a_thread(move || {
            if let Some(narrow) = narrow {
                let found = evidence.read_run(&tenant, run, narrow, after_run_seq, limit)?;
                if found.first().is_none_or(|leaf| leaf.run_seq == after_run_seq + 1) {
                    return Ok(found);
                }
            }
            evidence.read_run(&tenant, run, span, after_run_seq, limit)
        })
        .await
    }

    fn read_run(
        &self,
        tenant: &TenantName,
        run: RunId,
        span: (Position, Position),
        after: u64,
        limit: usize,
    ) -> Result<Vec<LeafView>, ReadError> {
        let shared = &self.shared;
        let (keys, run) = (shared.keyring.tenant(tenant)?, run.to_string());
        let (mut found, mut bytes) = (Vec::new(), 0);
        walk(&shared.segments, span, |at, of, leaf, sealed| {
            if of != tenant.as_str() {
                return Ok(true);
            }
            let parsed = Parsed::from_bytes(leaf).map_err(|_| ReadError::Damaged(at))?;
            if parsed.body.run == Some(run.as_str()) && parsed.body.run_seq.is_some_and(|seq| seq > after) {
                bytes += leaf.len() + sealed.iter().map(Vec::len).sum::<usize>();
                found.push(view(&keys, tenant, &parsed, leaf, sealed).ok_or(ReadError::Damaged(at))?);
            }
            Ok::<_, ReadError>(found.len() < limit && bytes < ANSWER_BYTES_MAX)
        })?;
        Ok(found)
    }

    /// Shows every decision and every outcome, in order, behind a leaf or from the first one, as far as the log was
    /// committed at a moment. Gives the leaf behind which all is shown; none in an empty log.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn replay_decisions(
        &self,
        after: Option<&Mark>,
        upto: Committed,
        visit: &mut dyn FnMut(&DecidedOrCompleted),
    ) -> Result<Option<Mark>, ReadError> {
        let shared = &self.shared;
        let (mut last, mut first) = (None, after);
        let span = (after.map(Mark::at), upto.0);
        walk_needed(&shared.dir, &shared.segments, span, |at, _, leaf, sealed| {
            if let Some(known) = first.take() {
                return if known.is_behind(at, leaf) { Ok(true) } else { Err(ReadError::Damaged(at)) };
            }
            last = Some(at);
            let parsed = Parsed::from_bytes(leaf).map_err(|_| ReadError::Damaged(at))?;
            let kind = parsed.body.kind;
            if !kind.ends_with(".decided") && !kind.ends_with(".completed") {
                return Ok(true);
            }
            let BudgetLeaf { body, chain: BudgetChain { time } } =
                serde_json::from_slice(leaf).map_err(|_| ReadError::Damaged(at))?;
            let lasting = match body.history.is_some() || !body.labels_read.is_empty() {
                true => Some(Box::new(lasting(&*shared.keyring.tenant(&body.tenant)?, &body, &parsed, leaf, sealed))),
                false => None,
            };
            let BudgetBody { id, tenant, run, decision, reserved, budget, used, refs, outcome, .. } = body;
            if kind.ends_with(".decided") {
                let permitted = decision.as_deref() == Some("permit");
                let reserved = reserved.map(Amounts::from).unwrap_or_default();
                let kind = kind.to_owned();
                visit(&DecidedOrCompleted::Decided {
                    kind,
                    permitted,
                    id,
                    tenant,
                    run,
                    time,
                    reserved,
                    budget,
                    lasting,
                });
            } else if let Some(used) = used {
                // An outcome may refer to other things, too; only decisions hold a reservation.
                let refs = refs.iter().filter_map(|id| id.parse().ok()).collect();
                visit(&DecidedOrCompleted::Completed { tenant, run, time, used: used.into(), refs, outcome });
            }
            Ok::<_, ReadError>(true)
        })?;
        let Some(last) = last else { return Ok(after.cloned()) };
        if last.segment < shared.segments.first() {
            // What is kept of a released segment is no place in the log.
            return Ok(None);
        }
        let mut mark = None;
        walk(&shared.segments, (last, upto.0), |at, _, leaf, _| {
            mark = Some(Mark::behind(at, leaf));
            Ok::<_, ReadError>(false)
        })?;
        Ok(mark)
    }

    /// Which of these events are in the log.
    pub(crate) fn find(&self, mut wanted: HashSet<String>) -> Result<HashSet<String>, ReadError> {
        let mut found = HashSet::new();
        let shared = &self.shared;
        let mut look = |span, wanted: &mut HashSet<String>| {
            walk(&shared.segments, span, |at, _, leaf, _| {
                let id = Parsed::from_bytes(leaf).map_err(|_| ReadError::Damaged(at))?.body.id;
                found.extend(wanted.take(id));
                Ok::<_, ReadError>(!wanted.is_empty())
            })
        };
        let here = shared.segments.first_at();
        look((here, shared.progress.end()), &mut wanted)?;
        // Nothing is released while events wait to be published, so what is waiting now was made after the released
        // segments ended. Only in an older copy of the state there are events that are in one of them.
        let gone = shared.segments.gone_until().map_or(0, |until| until.unix_millis());
        wanted.retain(|id| id.parse::<EventId>().is_ok_and(|id| made_at(&id) <= gone));
        if !wanted.is_empty() {
            look((Position::default(), here), &mut wanted)?;
        }
        Ok(found)
    }
}

/// The milliseconds that an identifier begins with.
fn made_at(id: &EventId) -> u64 {
    let [a, b, c, d, e, f, ..] = id.to_bytes();
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

pub(crate) fn view(
    keys: &TenantKeys,
    tenant: &TenantName,
    parsed: &Parsed<'_>,
    leaf: &[u8],
    sealed: &mut Vec<Vec<u8>>,
) -> Option<LeafView> {
    let mut whole: serde_json::Value = serde_json::from_slice(leaf).ok()?;
    let body = whole.get_mut("body")?.take();
    let Opened { disclosed, erased } = opened(keys, tenant, parsed.body.id, &body, sealed)?;
    Some(LeafView {
        seq: parsed.chain.seq,
        run_seq: parsed.body.run_seq.unwrap_or(0),
        time: parsed.chain.time.parse().ok()?,
        hash: hash_text(&leaf_hash(leaf)),
        body,
        disclosed,
        erased,
    })
}

/// What became of a leaf's hidden values.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) disclosed: BTreeMap<String, serde_json::Value>,
    pub(crate) erased: BTreeMap<String, RedactionId>,
}

/// The values that the vault still opens.
pub(crate) fn disclosed(
    keys: &TenantKeys,
    tenant: &TenantName,
    id: &str,
    body: &serde_json::Value,
    sealed: &mut Vec<Vec<u8>>,
) -> Option<BTreeMap<String, serde_json::Value>> {
    opened(keys, tenant, id, body, sealed).map(|opened| opened.disclosed)
}

/// The values that the vault still opens, and which redaction erased the others.
pub(crate) fn opened(
    keys: &TenantKeys,
    tenant: &TenantName,
    id: &str,
    body: &serde_json::Value,
    sealed: &mut Vec<Vec<u8>>,
) -> Option<Opened> {
    let mut found = Opened::default();
    for frame in sealed.drain(..) {
        let sealed = Sealed::parse(&frame)?;
        let field = sealed.field.clone();
        let opened = match vault::key_of(keys, id, sealed) {
            Ok(vault::Openable::With(key, sealed)) => sealed.open(&key, tenant.as_str(), id),
            Ok(vault::Openable::Erased(by)) => {
                found.erased.insert(field, by);
                continue;
            }
            Ok(vault::Openable::Never) => None,
            Err(error) => {
                tracing::error!(%error, "a data key cannot be read");
                None
            }
        };
        // Shown only if it is what the leaf commits to: the vault may be wrong, the ledger is not.
        if let Some(opened) = opened
            && body.get(&field).and_then(|f| f.get("$c")).and_then(|c| c.as_str()) == Some(opened.commitment().as_str())
            && let Some((name, value)) = opened.open()
            && name == field
        {
            found.disclosed.insert(field, value);
        }
    }
    Some(found)
}

fn lasting(
    keys: &TenantKeys,
    known: &BudgetBody,
    parsed: &Parsed<'_>,
    leaf: &[u8],
    sealed: &mut Vec<Vec<u8>>,
) -> Lasting {
    let whole: serde_json::Value = serde_json::from_slice(leaf).unwrap_or_default();
    let body = whole.get("body").cloned().unwrap_or_default();
    let name = SealedName::among(known.id, sealed);
    let mut opened = disclosed(keys, &known.tenant, parsed.body.id, &body, sealed).unwrap_or_default();
    let mut kept = |there: bool, field: &str| match (there, opened.remove(field)) {
        (false, _) => Kept::Nothing,
        (true, Some(value)) => Kept::Known(value),
        (true, None) => Kept::Lost,
    };
    let subject = match kept(known.sub.is_some(), "sub") {
        Kept::Known(serde_json::Value::String(subject)) => Kept::Known(subject),
        Kept::Nothing => Kept::Nothing,
        _ => Kept::Lost,
    };
    let added = match kept(known.history.is_some(), "history") {
        Kept::Known(value) => amounts(&value).map_or(Kept::Lost, Kept::Known),
        Kept::Nothing => Kept::Nothing,
        Kept::Lost => Kept::Lost,
    };
    let agent = known.act.as_deref().and_then(|act| act.strip_prefix("agent:")?.split_once('@')?.0.parse().ok());
    Lasting { agent, subject, added, labels: known.labels_read.clone(), name }
}

/// Amounts by their names; one beyond what a number of the ledger holds is a text.
fn amounts(value: &serde_json::Value) -> Option<BTreeMap<String, i64>> {
    let amount = |value: &serde_json::Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    value.as_object()?.iter().map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
}
