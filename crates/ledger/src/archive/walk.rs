//! All logs of a plane, leaf by leaf, over the segments of its write-ahead log.

use std::collections::{BTreeMap, HashMap};

use cogward_model::Timestamp;

use crate::{
    Hash,
    leaf::{LEAF_VERSION, Parsed, is_hash_text, leaf_hash},
    note::Checkpoint,
    plane::PlaneLeaf,
    tree::Frontier,
    verify::What,
};

use super::manifest::{Hex, LogPart};

/// The kind of a frame with a leaf of a tenant.
const LEAF: u8 = 1;
/// The kind of a frame with a sealed disclosure.
const SEALED: u8 = 2;
/// The kind of a frame with a leaf of the plane log.
const PLANE: u8 = 16;

/// Something that is wrong in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The origin of the log, when it can be told.
    pub log: Option<String>,
    /// The number of the leaf.
    pub leaf: Option<u64>,
    /// The rule.
    pub what: What,
    /// In words.
    pub detail: String,
}

/// What is known of one log so far.
#[derive(Debug, Clone, Default)]
struct Log {
    tree: Frontier,
    last: Option<Hash>,
    time: String,
    /// Its size before the segment, when the segment has leaves of it.
    first: Option<u64>,
}

/// How far a log came in the segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The number of its first leaf in the segment.
    pub first: u64,
    /// Leaves up to here.
    pub end: u64,
    /// The root over them.
    pub root: Hash,
    /// The hash of the last one.
    pub last: Hash,
    /// The complete subtrees.
    pub edge: Vec<Hash>,
}

/// The state of all logs up to a place in the write-ahead log.
#[derive(Debug, Clone)]
pub struct Walk {
    plane: String,
    /// By tenant; the plane log has the empty name.
    logs: HashMap<String, Log>,
    /// An older checkpoint: the size at which a log must have this root.
    sought: Option<Checkpoint>,
    /// Whether it did, once that size was passed.
    found: Option<bool>,
    leaves: u64,
}

impl Walk {
    /// From the beginning of the log of the plane with this origin.
    #[must_use]
    pub fn new(plane: &str) -> Self {
        Self { plane: plane.to_owned(), logs: HashMap::new(), sought: None, found: None, leaves: 0 }
    }

    /// Looks for the state that a checkpoint speaks of.
    pub(super) fn seek(&mut self, checkpoint: Checkpoint) {
        // What covers nothing is contained in everything.
        self.found = (checkpoint.size == 0).then_some(true);
        self.sought = Some(checkpoint);
    }

    /// Whether the sought state was met; `None` when the log is not that long.
    pub(super) fn found(&self) -> Option<bool> {
        self.found
    }

    /// Leaves that were looked at.
    #[must_use]
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The size of a log.
    #[must_use]
    pub fn size(&self, origin: &str) -> u64 {
        tenant_of(&self.plane, origin).and_then(|tenant| self.logs.get(tenant)).map_or(0, |log| log.tree.size())
    }

    /// The origins and sizes of all logs.
    pub fn sizes(&self) -> BTreeMap<String, u64> {
        self.logs.iter().map(|(tenant, log)| (self.origin_of(tenant), log.tree.size())).collect()
    }

    /// Where the log of a tenant stands, the plane log with the empty name: its size, its root, and its last leaf.
    #[must_use]
    pub fn edge(&self, tenant: &str) -> Option<(u64, Hash, Option<Hash>)> {
        self.logs.get(tenant).map(|log| (log.tree.size(), log.tree.root(), log.last))
    }

    /// Goes on where a manifest says that a log was at the end of its segment.
    #[must_use]
    pub fn goes_on(&mut self, part: &LogPart) -> bool {
        let Some(tenant) = tenant_of(&self.plane, &part.log).map(str::to_owned) else { return false };
        let Some(tree) = Frontier::from_parts(part.end, part.edge.iter().map(|hash| hash.0).collect()) else {
            return false;
        };
        self.logs.insert(tenant, Log { tree, last: Some(part.last.0), time: String::new(), first: None });
        true
    }

    fn origin_of(&self, tenant: &str) -> String {
        if tenant.is_empty() { self.plane.clone() } else { format!("{}/{tenant}", self.plane) }
    }

    /// A new segment begins.
    pub fn begin(&mut self) {
        self.logs.values_mut().for_each(|log| log.first = None);
    }

    /// Where the logs stand that have leaves in the segment, by origin.
    #[must_use]
    pub fn reached(&self) -> BTreeMap<String, Reached> {
        let touched = self.logs.iter().filter_map(|(tenant, log)| {
            let reached = Reached {
                first: log.first?,
                end: log.tree.size(),
                root: log.tree.root(),
                last: log.last?,
                edge: log.tree.subtrees().to_vec(),
            };
            Some((self.origin_of(tenant), reached))
        });
        touched.collect()
    }

    /// Which leaf a damaged frame would have been.
    #[must_use]
    pub fn damaged(&self, kind: u8, payload: &[u8], detail: String) -> Problem {
        let tenant = split_text(payload).map(|(tenant, _)| tenant).filter(|_| matches!(kind, LEAF | SEALED | PLANE));
        let log = tenant.and_then(|tenant| Some((self.origin_of(tenant), self.logs.get(tenant)?.tree.size())));
        let (log, leaf) = log.unzip();
        Problem { log, leaf, what: What::Bytes, detail }
    }

    /// Takes a frame.
    ///
    /// # Errors
    /// A leaf is not the one that belongs here.
    pub fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), Problem> {
        match kind {
            LEAF => self.leaf(payload),
            PLANE => self.plane_leaf(payload),
            // What is sealed stays sealed; the digest of the segment covers it. A later plane may write other kinds.
            _ => Ok(()),
        }
    }

    fn leaf(&mut self, payload: &[u8]) -> Result<(), Problem> {
        let nobodys = |detail: &str| Problem { log: None, leaf: None, what: What::Form, detail: detail.to_owned() };
        let (tenant, bytes) = split_text(payload).ok_or_else(|| nobodys("a leaf without a tenant"))?;
        if tenant.is_empty() || tenant.contains('/') {
            return Err(nobodys("a leaf without a tenant"));
        }
        if !self.logs.contains_key(tenant) {
            self.logs.insert(tenant.to_owned(), Log::default());
        }
        let origin = || format!("{}/{tenant}", self.plane);
        let Some(log) = self.logs.get_mut(tenant) else { return Err(nobodys("a leaf without a log")) };
        let number = log.tree.size();
        let wrong = |what, detail: String| Problem { log: Some(origin()), leaf: Some(number), what, detail };
        // Only then is what is read here what every other reader sees.
        let leaf = Parsed::from_canonical(bytes).map_err(|detail| wrong(What::Form, detail.to_owned()))?;
        if leaf.body.v != LEAF_VERSION {
            return Err(wrong(What::Form, format!("its form is version {}", leaf.body.v)));
        }
        if leaf.body.tenant != tenant {
            return Err(wrong(What::Tenant, "it says that it is another tenant's".to_owned()));
        }
        if leaf.chain.seq != number {
            return Err(wrong(What::Seq, format!("it says that it is leaf {}", leaf.chain.seq)));
        }
        if !is_hash_text(leaf.chain.prev, log.last.as_ref()) {
            return Err(wrong(What::Prev, "it does not name the leaf before".to_owned()));
        }
        if leaf.chain.time.parse::<Timestamp>().is_err() {
            return Err(wrong(What::Time, "chain.time is not a time".to_owned()));
        }
        // One form of time, so their order is that of their texts.
        if leaf.chain.time < log.time.as_str() {
            return Err(wrong(What::Time, format!("{} is before {}", leaf.chain.time, log.time)));
        }
        leaf.chain.time.clone_into(&mut log.time);
        self.push(tenant, leaf_hash(bytes));
        Ok(())
    }

    fn plane_leaf(&mut self, payload: &[u8]) -> Result<(), Problem> {
        let log = self.logs.entry(String::new()).or_default();
        let (origin, number) = (self.plane.clone(), log.tree.size());
        let wrong = |what, detail: &str| {
            Err(Problem { log: Some(origin.clone()), leaf: Some(number), what, detail: detail.to_owned() })
        };
        let Some((name, bytes)) = split_text(payload) else {
            return wrong(What::Form, "not a leaf of the plane log");
        };
        let Some(leaf) = PlaneLeaf::from_bytes(bytes).filter(|_| name.is_empty()) else {
            return wrong(What::Form, "not a leaf of the plane log");
        };
        if leaf.seq != number {
            return wrong(What::Seq, &format!("it says that it is leaf {}", leaf.seq));
        }
        if leaf.time < log.time {
            return wrong(What::Time, &format!("{} is before {}", leaf.time, log.time));
        }
        log.time = leaf.time;
        self.push("", leaf_hash(bytes));
        Ok(())
    }

    fn push(&mut self, tenant: &str, hash: Hash) {
        let Some(log) = self.logs.get_mut(tenant) else { return };
        log.first.get_or_insert(log.tree.size());
        log.tree.push(hash);
        log.last = Some(hash);
        self.leaves += 1;
        let (size, tree) = (log.tree.size(), &log.tree);
        if let Some(sought) = self.sought.as_ref().filter(|sought| sought.size == size)
            && tenant_of(&self.plane, &sought.origin) == Some(tenant)
        {
            self.found = Some(sought.root == tree.root());
        }
    }

    /// Compares what the segment gave with what a manifest says of it.
    ///
    /// # Errors
    /// The manifest says something else.
    pub(super) fn compare(&self, parts: &[LogPart]) -> Result<(), Problem> {
        let reached = self.reached();
        let wrong = |log: &str, leaf: Option<u64>, what, detail: &str| {
            Err(Problem { log: Some(log.to_owned()), leaf, what, detail: detail.to_owned() })
        };
        let named: BTreeMap<&str, &LogPart> = parts.iter().map(|part| (part.log.as_str(), part)).collect();
        if named.len() != parts.len() {
            return Err(Problem {
                log: None,
                leaf: None,
                what: What::Manifest,
                detail: "it names a log twice".to_owned(),
            });
        }
        for (log, found) in &reached {
            let Some(part) = named.get(log.as_str()) else {
                return wrong(log, Some(found.first), What::Manifest, "the manifest does not name this log");
            };
            if (part.first, part.end) != (found.first, found.end) {
                let detail = format!(
                    "the segment has its leaves {} to {}, the manifest says {} to {}",
                    found.first, found.end, part.first, part.end
                );
                return wrong(log, Some(found.first), What::Manifest, &detail);
            }
            let edge: Vec<Hex> = found.edge.iter().copied().map(Hex).collect();
            if part.root.0 != found.root || part.last.0 != found.last || part.edge != edge {
                let last = found.end.saturating_sub(1);
                return wrong(log, Some(last), What::Root, "the leaves up to here do not give the manifest's root");
            }
        }
        match named.keys().find(|log| !reached.contains_key(**log)) {
            Some(log) => wrong(log, None, What::Manifest, "the manifest names leaves that the segment does not have"),
            None => Ok(()),
        }
    }
}

/// The tenant in the origin of a log; the empty name for the plane log.
fn tenant_of<'a>(plane: &str, origin: &'a str) -> Option<&'a str> {
    let rest = origin.strip_prefix(plane)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/').filter(|tenant| !tenant.is_empty()) }
}

/// Takes a text behind its length from the front.
fn split_text(payload: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = payload.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}
