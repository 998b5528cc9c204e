//! The plane log: a log of the tenants' checkpoints, one leaf each, so that one anchor outside serves all.
//!
//! A leaf says which checkpoint and hides whose: the tenant's origin is a salted commitment (RFC 9901),
//! with another salt in every leaf. A tenant's pack shows its own leaf, what opens it, and the path to
//! the signed checkpoint of the plane log ([`Anchor`]); the hashes on that path tell nothing of others.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use cogward_model::event::Value;
use serde::Deserialize;

use crate::{
    Hash,
    canonical::CanonicalError,
    commitment::{Disclosure, SALT_BYTES},
    leaf::{leaf_hash, to_hash},
    note::{Checkpoint, NoteError, VerifyingKey},
    proof::verify_inclusion,
};

/// The version of the leaf's form.
const VERSION: u64 = 1;
/// Longest leaf.
pub const PLANE_LEAF_BYTES_MAX: usize = 1_024;
/// The field that the disclosure of a leaf names.
const FIELD: &str = "log";
/// The first line of a proof (C2SP tlog-proof).
const PROOF_HEADER: &str = "c2sp.org/tlog-proof@v1";

/// A leaf of the plane log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaneLeaf {
    /// The SHA-256 of the tenant's signed checkpoint, all its bytes.
    pub checkpoint: Hash,
    /// The commitment to the origin of the tenant's log.
    pub log: String,
    /// The root of the tenant's log.
    pub root: Hash,
    /// The leaf's number in the plane log.
    pub seq: u64,
    /// The size of the tenant's log.
    pub size: u64,
    /// When it came into the plane log: the text of a timestamp.
    pub time: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    checkpoint: String,
    log: Committed,
    root: String,
    seq: u64,
    size: u64,
    time: String,
    v: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Committed {
    #[serde(rename = "$c")]
    commitment: String,
}

fn hash_of(text: &str) -> Option<Hash> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// The SHA-256 of a signed checkpoint.
#[must_use]
pub fn checkpoint_digest(note: &str) -> Hash {
    to_hash(&digest::digest(&digest::SHA256, note.as_bytes()))
}

/// What opens the commitment of a leaf to the origin of a tenant's log.
///
/// # Errors
/// The origin has no JSON form, which none of ours is.
pub fn disclosure(salt: &[u8; SALT_BYTES], origin: &str) -> Result<Disclosure, CanonicalError> {
    Disclosure::new(salt, FIELD, &Value::from(origin.to_owned()))
}

impl PlaneLeaf {
    /// The leaf's bytes: canonical JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { checkpoint, log, root, seq, size, time } = self;
        let (checkpoint, root) = (URL_SAFE_NO_PAD.encode(checkpoint), URL_SAFE_NO_PAD.encode(root));
        format!(
            r#"{{"checkpoint":"{checkpoint}","log":{{"$c":"{log}"}},"root":"{root}","seq":{seq},"size":{size},"time":"{time}","v":{VERSION}}}"#
        )
        .into_bytes()
    }

    /// Reads a leaf; `None` when these are not exactly the bytes of one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > PLANE_LEAF_BYTES_MAX {
            return None;
        }
        let form: Form = serde_json::from_slice(bytes).ok()?;
        let time: cogward_model::Timestamp = form.time.parse().ok()?;
        hash_of(&form.log.commitment)?;
        let leaf = Self {
            checkpoint: hash_of(&form.checkpoint)?,
            log: form.log.commitment,
            root: hash_of(&form.root)?,
            seq: form.seq,
            size: form.size,
            time: time.to_string(),
        };
        (form.v == VERSION && leaf.to_bytes() == bytes).then_some(leaf)
    }
}

/// What shows that a tenant's checkpoint is in the plane log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The bytes of the leaf.
    pub leaf: Vec<u8>,
    /// What opens its commitment.
    pub disclosure: String,
    /// The leaf's number.
    pub index: u64,
    /// The path from the leaf to the root of the plane's checkpoint.
    pub proof: Vec<Hash>,
    /// The signed checkpoint of the plane log, with what witnesses said of it.
    pub note: String,
}

/// Why an anchor shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// It is not a proof.
    #[error("not a proof in the form of C2SP tlog-proof")]
    Form,
    /// The leaf is not one, or speaks of another checkpoint.
    #[error("the leaf of the plane log is not one of this checkpoint")]
    Leaf,
    /// The leaf is of another tenant's log.
    #[error("the disclosure does not open the leaf to this log")]
    Log,
    /// The plane's checkpoint is not signed by the plane's key.
    #[error("the plane's checkpoint: {0}")]
    Note(#[from] NoteError),
    /// The leaf is not under the plane's root.
    #[error("the leaf is not in the plane log at its place")]
    Proof,
}

impl Anchor {
    /// The proof as a C2SP tlog-proof, the plane's checkpoint in it.
    #[must_use]
    pub fn tlog_proof(&self) -> String {
        let mut text = format!("{PROOF_HEADER}\nindex {}\n", self.index);
        for hash in &self.proof {
            // Writing into a text does not fail.
            let _infallible = writeln!(text, "{}", STANDARD.encode(hash));
        }
        text + "\n" + &self.note
    }

    /// Puts an anchor together from the parts in a pack.
    ///
    /// # Errors
    /// The proof has not the form.
    pub fn from_parts(leaf: Vec<u8>, disclosure: String, proof: &str) -> Result<Self, AnchorError> {
        let (head, note) = proof.split_once("\n\n").ok_or(AnchorError::Form)?;
        let mut lines = head.split('\n');
        if lines.next() != Some(PROOF_HEADER) {
            return Err(AnchorError::Form);
        }
        let number = lines.next().and_then(|line| line.strip_prefix("index ")).ok_or(AnchorError::Form)?;
        let index: u64 = number.parse().map_err(|_| AnchorError::Form)?;
        if index.to_string() != number {
            return Err(AnchorError::Form);
        }
        let hash = |line: &str| STANDARD.decode(line).ok()?.try_into().ok();
        // No log of 2^64 leaves has a longer path.
        let proof: Vec<Hash> = lines.take(65).map(hash).collect::<Option<_>>().ok_or(AnchorError::Form)?;
        if proof.len() > 64 {
            return Err(AnchorError::Form);
        }
        Ok(Self { leaf, disclosure, index, proof, note: note.to_owned() })
    }

    /// Whether it shows that `note`, the signed checkpoint of the log `origin`, is in the plane log of `key`.
    ///
    /// # Errors
    /// See [`AnchorError`].
    pub fn verify(&self, origin: &str, note: &str, key: &VerifyingKey) -> Result<(PlaneLeaf, Checkpoint), AnchorError> {
        let leaf = PlaneLeaf::from_bytes(&self.leaf).ok_or(AnchorError::Leaf)?;
        let of = Checkpoint::from_text(crate::note::Note::parse(note).map_err(|_| AnchorError::Leaf)?.text);
        let said = of.map_err(|_| AnchorError::Leaf)?;
        if leaf.checkpoint != checkpoint_digest(note) || leaf.size != said.size || leaf.root != said.root {
            return Err(AnchorError::Leaf);
        }
        self.placed(origin, key, leaf)
    }

    /// Whether it shows that a checkpoint of the log `origin`, whichever it was, is in the plane log of `key`. What the
    /// log was then is in the leaf that is returned.
    ///
    /// # Errors
    /// See [`AnchorError`].
    pub fn verify_earlier(&self, origin: &str, key: &VerifyingKey) -> Result<(PlaneLeaf, Checkpoint), AnchorError> {
        let leaf = PlaneLeaf::from_bytes(&self.leaf).ok_or(AnchorError::Leaf)?;
        self.placed(origin, key, leaf)
    }

    fn placed(
        &self,
        origin: &str,
        key: &VerifyingKey,
        leaf: PlaneLeaf,
    ) -> Result<(PlaneLeaf, Checkpoint), AnchorError> {
        let opens = Disclosure::from_text(self.disclosure.clone());
        if opens.commitment() != leaf.log || origin_in(&self.disclosure).as_deref() != Some(origin) {
            return Err(AnchorError::Log);
        }
        let plane = Checkpoint::open(&self.note, key)?;
        let is_in = verify_inclusion(&leaf_hash(&self.leaf), self.index, plane.size, &self.proof, &plane.root);
        if !is_in || leaf.seq != self.index {
            return Err(AnchorError::Proof);
        }
        Ok((leaf, plane))
    }
}

/// The origin that a disclosure speaks of.
fn origin_in(disclosure: &str) -> Option<String> {
    let json = URL_SAFE_NO_PAD.decode(disclosure).ok()?;
    let (_salt, field, origin): (String, String, String) = serde_json::from_slice(&json).ok()?;
    (field == FIELD).then_some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{note::SigningKey, proof::Tree};

    const ORIGIN: &str = "cogward.dev/ledger/x/acme";

    fn leaf(seq: u64, note: &str, log: String) -> PlaneLeaf {
        let time = "2026-11-22T10:11:12.123456Z".to_owned();
        PlaneLeaf { checkpoint: checkpoint_digest(note), log, root: [9; 32], seq, size: 42, time }
    }

    fn anchor() -> (Anchor, String, VerifyingKey) {
        let tenant = SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap();
        let plane = SigningKey::from_seed("cogward.dev/ledger/x", &[6; 32]).unwrap().with_ml_dsa(&[5; 32]).unwrap();
        let note = tenant.checkpoint(42, &[9; 32]);
        let opens = disclosure(&[3; 16], ORIGIN).unwrap();
        let leaves: Vec<Vec<u8>> = (0..11)
            .map(|seq| {
                let other = disclosure(&[seq; 16], "cogward.dev/ledger/x/other").unwrap().commitment();
                let log = if seq == 4 { opens.commitment() } else { other };
                leaf(seq.into(), &note, log).to_bytes()
            })
            .collect();
        let tree = Tree::new(leaves.iter().map(|leaf| leaf_hash(leaf)).collect());
        let anchor = Anchor {
            leaf: leaves[4].clone(),
            disclosure: opens.as_str().to_owned(),
            index: 4,
            proof: tree.inclusion(4, 11).unwrap(),
            note: plane.checkpoint(11, &tree.root(11).unwrap()),
        };
        (anchor, note, plane.verifying().clone())
    }

    #[test]
    fn an_anchor_shows_its_own_checkpoint_and_no_other() {
        let (anchor, note, key) = anchor();
        let text = anchor.tlog_proof();
        assert_eq!(Anchor::from_parts(anchor.leaf.clone(), anchor.disclosure.clone(), &text).unwrap(), anchor);
        assert_eq!(anchor.verify(ORIGIN, &note, &key).unwrap().1.size, 11);
        assert_eq!(anchor.verify("cogward.dev/ledger/x/evil", &note, &key), Err(AnchorError::Log));
        assert_eq!(anchor.verify(ORIGIN, &note.replace("\n42\n", "\n43\n"), &key), Err(AnchorError::Leaf));
        let other = SigningKey::from_seed("cogward.dev/ledger/x", &[1; 32]).unwrap();
        assert!(matches!(anchor.verify(ORIGIN, &note, other.verifying()), Err(AnchorError::Note(_))));
        // Another tenant's leaf, for which the disclosure is made up.
        let forged = Anchor { disclosure: disclosure(&[4; 16], ORIGIN).unwrap().as_str().to_owned(), ..anchor.clone() };
        assert_eq!(forged.verify(ORIGIN, &note, &key), Err(AnchorError::Log));
        let moved = Anchor { index: 5, ..anchor };
        assert_eq!(moved.verify(ORIGIN, &note, &key), Err(AnchorError::Proof));
    }

    #[test]
    fn no_changed_bit_of_an_anchor_is_believed() {
        let (anchor, note, key) = anchor();
        let parts = [anchor.leaf.clone(), anchor.disclosure.clone().into_bytes(), anchor.tlog_proof().into_bytes()];
        for (n, part) in parts.iter().enumerate() {
            let step = if n == 2 { 7 } else { 1 };
            for at in (0..part.len() * 8).step_by(step) {
                let mut parts = parts.clone();
                parts[n][at / 8] ^= 1 << (at % 8);
                let [leaf, disclosure, proof] = parts;
                let (Ok(disclosure), Ok(proof)) = (String::from_utf8(disclosure), String::from_utf8(proof)) else {
                    continue;
                };
                let read = Anchor::from_parts(leaf, disclosure, &proof);
                assert!(read.is_err() || read.unwrap().verify(ORIGIN, &note, &key).is_err(), "part {n} bit {at}");
            }
        }
    }
}
