//! The verifiable index: for a range of leaves, which of them name an agent, a run, a tool, and that no other does.
//!
//! A sorted list of `key digest -> leaf numbers` with a Merkle tree over it. Its root is in a leaf of the log itself
//! (`ledger.index`), so the plane is bound to one answer for each key: "these are all" is one entry with its path,
//! "there is none" are the two entries between which it would stand. Keys are public values of leaves: whoever
//! has the whole log makes the same map, [`check`](crate::map_check). The map of the data subjects is apart; its keys
//! are keyed hashes that only the plane can make, so it binds the plane and cannot be made anew by others.

mod keyed;

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

pub use self::keyed::{Keyed, Said, values};

use crate::{
    Hash,
    leaf::{hash_text, leaf_hash, to_hash},
    proof::verify_inclusion,
    stored::{Proofs, Tiles},
    text::{base64_hash, from_base64},
    tiles::TILE_WIDTH,
    tree::{Frontier, empty_root},
};

/// Leaves of one range; ranges begin at its multiples.
pub const RANGE_LEAVES: u64 = 65_536;
/// The version of the form, in every `ledger.index`.
pub const MAP_VERSION: u64 = 1;
/// How much of a range may be told early, for each of its leaves: see [`is_affordable`].
const EARLY_WORK: u64 = 256;

/// Whether a plane makes one more root of the first `leaves` leaves of a range, when those that it made of this range
/// before it was full were over `spent` leaves in all.
///
/// Whoever checks them makes every such map anew, so a log may not be full of them. The room grows with the range: small ranges
/// have thousands of roots, a nearly full one 256, and then one for each 256 leaves.
#[must_use]
pub fn is_affordable(spent: u64, leaves: u64) -> bool {
    spent.saturating_add(leaves) <= EARLY_WORK * RANGE_LEAVES.saturating_add(leaves.min(RANGE_LEAVES))
}

/// What a key is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An agent, whatever its version.
    Agent,
    /// A run.
    Run,
    /// A tool: `server/tool`.
    Tool,
    /// A tool server.
    ToolServer,
    /// An approval.
    Approval,
    /// A type of event.
    Type,
    /// A data subject's pseudonym: in the map of subjects alone.
    Subject,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Agent, Self::Run, Self::Tool, Self::ToolServer, Self::Approval, Self::Type, Self::Subject];

    /// The word in files and in the digest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Run => "run",
            Self::Tool => "tool",
            Self::ToolServer => "tool_server",
            Self::Approval => "approval",
            Self::Type => "type",
            Self::Subject => "subject",
        }
    }
}

/// The key of a value: SHA-256 of `cogward index v1`, the kind and the value, each behind a zero byte.
#[must_use]
pub fn key(kind: Kind, value: &str) -> Hash {
    let text = ["cogward index v1", kind.as_str(), value].join("\0");
    to_hash(&digest::digest(&digest::SHA256, text.as_bytes()))
}

/// The map of a range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    entries: BTreeMap<Hash, Vec<u64>>,
}

impl Map {
    /// Takes a leaf in under a key. Leaves come in rising order.
    pub fn add(&mut self, key: Hash, leaf: u64) {
        let list = self.entries.entry(key).or_default();
        if list.last() != Some(&leaf) {
            list.push(leaf);
        }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Whether no leaf is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The map of the leaves before `until` alone.
    #[must_use]
    pub fn before(&self, until: u64) -> Self {
        let cut = |list: &Vec<u64>| list.iter().copied().take_while(|leaf| *leaf < until).collect::<Vec<_>>();
        let entries = self.entries.iter().map(|(key, list)| (*key, cut(list)));
        Self { entries: entries.filter(|(_, list)| !list.is_empty()).collect() }
    }

    fn hashes(&self) -> impl Iterator<Item = Hash> {
        self.entries.iter().map(|(key, list)| entry_hash(key, &list_digest(list)))
    }

    /// The root over all entries.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut tree = Frontier::default();
        self.hashes().for_each(|hash| tree.push(hash));
        tree.root()
    }

    /// What proves all leaves of a key, or that there is none.
    #[must_use]
    pub fn prove(&self, key: &Hash) -> MapProof {
        let levels = levels(self.hashes().collect());
        let position = self.entries.range(..*key).count();
        let wanted: Vec<usize> = match self.entries.contains_key(key) {
            true => vec![position],
            false => {
                position.checked_sub(1).into_iter().chain((position < self.entries.len()).then_some(position)).collect()
            }
        };
        let mut proofs = Proofs::new(Levels(&levels), self.len());
        let at = wanted.into_iter().filter_map(|position| {
            let (key, list) = self.entries.iter().nth(position)?;
            let Ok(path) = proofs.inclusion(position as u64);
            let path = path?.iter().map(base64_hash).collect();
            Some(Entry { position: position as u64, key: hash_text(key), leaves: hash_text(&list_digest(list)), path })
        });
        MapProof { at: at.collect(), leaves: self.entries.get(key).cloned().unwrap_or_default() }
    }
}

/// The hashes of every tile level of the map's tree.
fn levels(hashes: Vec<Hash>) -> Vec<Vec<Hash>> {
    let mut all = vec![hashes];
    while let Some(below) = all.last().filter(|below| below.len() >= TILE_WIDTH) {
        let tops = below.chunks_exact(TILE_WIDTH).map(|tile| {
            let mut tree = Frontier::default();
            tile.iter().for_each(|hash| tree.push(*hash));
            tree.root()
        });
        let tops = tops.collect();
        all.push(tops);
    }
    all
}

struct Levels<'a>(&'a [Vec<Hash>]);

impl Tiles for Levels<'_> {
    type Error = std::convert::Infallible;

    fn tile(&mut self, level: u32, index: u64, width: usize) -> Result<Vec<Hash>, Self::Error> {
        let hashes = self.0.get(level as usize).map(Vec::as_slice).unwrap_or_default();
        let from = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(TILE_WIDTH);
        Ok(hashes.get(from..).unwrap_or_default().iter().take(width).copied().collect())
    }
}

fn list_digest(list: &[u64]) -> Hash {
    let mut bytes = Vec::with_capacity(8 * list.len());
    list.iter().for_each(|leaf| bytes.extend_from_slice(&leaf.to_be_bytes()));
    to_hash(&digest::digest(&digest::SHA256, &bytes))
}

/// An entry's hash: that of a tree's leaf over the key and the digest of its leaf numbers, eight bytes each.
fn entry_hash(key: &Hash, list: &Hash) -> Hash {
    leaf_hash(&[*key, *list].concat())
}

/// What is known of a key in one range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapProof {
    /// The key's own entry, or the neighbours between which it would stand.
    pub at: Vec<Entry>,
    /// The leaves under the key; none means that there are none.
    pub leaves: Vec<u64>,
}

/// One entry with its way to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its place in the order of keys.
    pub position: u64,
    /// Its key, base64url.
    pub key: String,
    /// The digest of its leaf numbers, base64url.
    pub leaves: String,
    /// From its sibling to the root, base64.
    pub path: Vec<String>,
}

/// What a leaf of type `ledger.index` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claim {
    /// The version of the form.
    pub map: u64,
    /// The first leaf of the range.
    pub from: u64,
    /// The first leaf behind it.
    pub to: u64,
    /// Keys in the map.
    pub entries: u64,
    /// Its root, base64url.
    pub root: String,
    /// Keys in the map of subjects.
    pub subject_entries: u64,
    /// Its root, base64url.
    pub subject_root: String,
    /// The time of the first leaf of the range.
    pub first_time: String,
    /// The time of its last leaf.
    pub last_time: String,
}

impl Claim {
    /// Reads the claim of a leaf; `None` when it makes none that can be understood.
    #[must_use]
    pub fn of(leaf: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Leaf {
            body: serde_json::Value,
        }
        let body = serde_json::from_slice::<Leaf>(leaf).ok()?.body;
        if body.get("type").and_then(|kind| kind.as_str()) != Some("ledger.index") {
            return None;
        }
        let claim: Self = serde_json::from_value(body).ok()?;
        let ranged =
            claim.from.is_multiple_of(RANGE_LEAVES) && claim.from < claim.to && claim.to - claim.from <= RANGE_LEAVES;
        (claim.map == MAP_VERSION && ranged).then_some(claim)
    }

    /// The map that holds keys of a kind: its root and its number of entries.
    #[must_use]
    pub fn tree(&self, kind: Kind) -> Option<(Hash, u64)> {
        let (root, entries) = match kind {
            Kind::Subject => (&self.subject_root, self.subject_entries),
            _ => (&self.root, self.entries),
        };
        Some((from_base64url(root)?, entries))
    }
}

fn from_base64url(text: &str) -> Option<Hash> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl MapProof {
    /// Whether these are all leaves of the key in the map with this root, which has so many entries.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn verify(&self, key: &Hash, root: &Hash, entries: u64) -> Result<(), &'static str> {
        let mut keys = Vec::with_capacity(2);
        for entry in &self.at {
            let (Some(key), Some(list)) = (from_base64url(&entry.key), from_base64url(&entry.leaves)) else {
                return Err("an entry is not of two digests");
            };
            let path: Option<Vec<Hash>> = entry.path.iter().map(|hash| from_base64(hash)).collect();
            let Some(path) = path else { return Err("a path is not of hashes") };
            if !verify_inclusion(&entry_hash(&key, &list), entry.position, entries, &path, root) {
                return Err("an entry is not in the map");
            }
            keys.push((entry.position, key, list));
        }
        if !self.leaves.is_empty() {
            return match keys.as_slice() {
                [(_, found, list)] if found == key && *list == list_digest(&self.leaves) => Ok(()),
                _ => Err("the leaves are not those of the key's entry"),
            };
        }
        match keys.as_slice() {
            [] if entries == 0 && *root == empty_root() => Ok(()),
            [(0, first, _)] if first > key => Ok(()),
            [(last, before, _)] if before < key && *last + 1 == entries => Ok(()),
            [(left, before, _), (right, after, _)] if *left + 1 == *right && before < key && key < after => Ok(()),
            _ => Err("the neighbours do not show that the key is not there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(keys: &[(u16, u64)]) -> Map {
        let mut keys = keys.to_vec();
        keys.sort_by_key(|(_, leaf)| *leaf);
        let mut map = Map::default();
        keys.iter().for_each(|(name, leaf)| map.add(key(Kind::Agent, &name.to_string()), *leaf));
        map
    }

    proptest! {
        #[test]
        fn every_key_is_proven_and_no_list_is_shortened_or_denied(
            keys in proptest::collection::vec((0_u16..40, 0_u64..500), 0..90), wanted in 0_u16..60,
        ) {
            let map = map(&keys);
            let (wanted, root, entries) = (key(Kind::Agent, &wanted.to_string()), map.root(), map.len());
            let proof = map.prove(&wanted);
            prop_assert_eq!(proof.verify(&wanted, &root, entries), Ok(()));
            prop_assert_eq!(proof.leaves.clone(), map.entries.get(&wanted).cloned().unwrap_or_default());
            // One leaf less, one more, none at all, and another key's answer: refused.
            let mut less = proof.clone();
            less.leaves.pop();
            let mut more = proof.clone();
            more.leaves.push(9_999);
            let mut denied = proof.clone();
            denied.leaves.clear();
            for forged in [less, more, denied] {
                prop_assert!(forged == proof || forged.verify(&wanted, &root, entries).is_err());
            }
            let other = key(Kind::Tool, "x");
            prop_assert!(proof.leaves.is_empty() || proof.verify(&other, &root, entries).is_err());
            // Neighbours that are not next to each other prove no absence.
            if proof.leaves.is_empty() && proof.at.len() == 2 {
                for gone in 0..2 {
                    let mut one = proof.clone();
                    one.at.remove(gone);
                    prop_assert!(one.verify(&wanted, &root, entries).is_err());
                }
            }
            prop_assert!(proof.verify(&wanted, &[7; 32], entries).is_err());
        }

        #[test]
        fn a_map_before_a_leaf_is_the_map_of_those_leaves(
            keys in proptest::collection::vec((0_u16..9, 0_u64..50), 0..60), until in 0_u64..60,
        ) {
            let early: Vec<_> = keys.iter().copied().filter(|(_, leaf)| *leaf < until).collect();
            prop_assert_eq!(map(&keys).before(until), map(&early));
        }
    }

    #[test]
    fn a_neighbour_of_a_longer_map_does_not_close_a_shorter_one() {
        let map = map(&(0..300).map(|n| (n, u64::from(n))).collect::<Vec<_>>());
        let wanted = Hash::from([0xff; 32]);
        let proof = map.prove(&wanted);
        assert_eq!(proof.at.len(), 1);
        assert_eq!(proof.verify(&wanted, &map.root(), map.len()), Ok(()));
        assert!(proof.verify(&wanted, &map.root(), map.len() + 1).is_err());
    }

    #[test]
    fn the_values_of_a_leaf() {
        let leaf = br#"{"body":{"act":"agent:claims@1.0.0","approval":["apr_1","apr_2"],"id":"e","run":"run_1","tool":"crm/read","tenant":"a","type":"tool.call.decided","v":1},"chain":{"prev":null,"seq":0,"time":"t"}}"#;
        let words: Vec<_> =
            values(leaf).unwrap().into_iter().map(|(kind, v)| format!("{} {v}", kind.as_str())).collect();
        assert_eq!(
            words,
            [
                "agent claims",
                "run run_1",
                "tool crm/read",
                "tool_server crm",
                "approval apr_1",
                "approval apr_2",
                "type tool.call.decided"
            ]
        );
        let pin = br#"{"body":{"id":"e","tool":"read","tool_server":"crm","tenant":"a","type":"tool.approved","v":1},"chain":{}}"#;
        assert!(values(pin).unwrap().contains(&(Kind::Tool, "crm/read".to_owned())));
        let hidden = br#"{"body":{"id":"e","tool":{"$c":"x"},"tenant":"a","type":"t","v":1},"chain":{}}"#;
        assert_eq!(values(hidden).unwrap(), [(Kind::Type, "t".to_owned())]);
        // What is no text has no key, whatever it is; an empty name is a name.
        let odd = br#"{"body":{"act":7,"approval":[1,"apr_1"],"id":"e","run":{},"server":"crm","tool":"read","tool_server":"","tenant":"a","type":"t","v":1},"chain":{}}"#;
        let found: Vec<_> =
            values(odd).unwrap().into_iter().map(|(kind, v)| format!("{} {v}", kind.as_str())).collect();
        assert_eq!(found, ["tool /read", "tool_server ", "approval apr_1", "type t"]);
    }

    #[test]
    fn a_range_has_room_for_many_early_roots_and_for_no_endless_number() {
        let early = |mut leaves: u64, step: u64| {
            let (mut spent, mut made) = (0, 0_u64);
            while leaves < RANGE_LEAVES {
                if is_affordable(spent, leaves) {
                    (spent, made) = (spent + leaves, made + 1);
                }
                leaves += step;
            }
            (made, spent / RANGE_LEAVES)
        };
        // Somebody who asks for a part again and again, from the first leaf on and in a full range.
        assert!(early(1, 2).0 > 3_000, "{:?}", early(1, 2));
        assert!(early(60_000, 2).0 > 250, "{:?}", early(60_000, 2));
        // Room comes back with every leaf, and all of it is never more than that of 512 whole ranges.
        assert!((1..70_000).all(|leaves| is_affordable(256 * RANGE_LEAVES, leaves)));
        assert!(early(1, 1).1 <= 512);
        assert!(!is_affordable(u64::MAX, 1) && !is_affordable(512 * RANGE_LEAVES, u64::MAX));
    }
}
