//! The receipt of an erasure: what a data subject can keep, and check without the plane.
//!
//! A text that the log's key signs says what was erased, when and on which ground, and names nobody. Beside it
//! are the leaves that say the same, with the proofs that they are in the log, and the signed checkpoint.

use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_ledger::{
    Hash,
    leaf::{Parsed, hash_text, leaf_hash},
    note::SignError,
    proof::PassingPaths,
    tree::Frontier,
};
use cogward_model::{TenantName, event::EventType, id::RedactionId, redaction::LegalGround};
use cogward_wal::Position;
use serde::Serialize;

use crate::{
    keys::KeyringError,
    read::{ReadError, on_a_thread, walk},
    record::{Evidence, RecordError},
};

/// The first line of the text, and the form of the whole.
const FORM: &str = "cogward erasure receipt v1";
/// Leaves that are in one receipt, with their proofs. An erasure of more than some 200,000 values takes more:
/// the text counts them and has one hash over them, so that they cannot be exchanged.
const LEAVES_MAX: usize = 4_096;
/// Bytes of those leaves.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why there is no receipt.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The log does not say that it was carried out.
    #[error("the log does not say that {0} was carried out")]
    NotExecuted(RedactionId),
    /// The log could not be signed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The key does not sign.
    #[error("the receipt could not be signed: {0}")]
    Unsigned(#[from] SignError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The keys are not usable.
    #[error(transparent)]
    Keys(#[from] KeyringError),
}

/// A leaf with the proof that it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProvenLeaf {
    /// Its number.
    pub index: u64,
    /// Its bytes, in base64.
    pub leaf: String,
    /// The path to the root of the checkpoint, from the leaf up, in base64.
    pub proof: Vec<String>,
}

/// A receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The form.
    pub form: &'static str,
    /// The erasure.
    pub redaction: RedactionId,
    /// The signed text: a C2SP note.
    pub text: String,
    /// The leaves that the text is about.
    pub leaves: Vec<ProvenLeaf>,
    /// The signed checkpoint that the proofs lead to.
    pub checkpoint: String,
    /// The log's public key.
    pub key: String,
}

/// A leaf that was found.
struct FoundLeaf {
    seq: u64,
    time: String,
    bytes: Vec<u8>,
    body: serde_json::Value,
}

/// What the log says of an erasure.
#[derive(Default)]
struct About {
    leaves: Vec<FoundLeaf>,
    /// What is not in the receipt because there is too much of it: all that comes behind what is.
    left_out: LeftOut,
}

/// Leaves that the text only counts.
#[derive(Default)]
struct LeftOut {
    /// Over the hashes of their bytes.
    tree: Frontier,
    values: usize,
    keys: usize,
    first: u64,
    last: u64,
}

fn texts(body: &serde_json::Value, field: &str) -> usize {
    body.get(field).and_then(|list| list.as_array()).map_or(0, Vec::len)
}

impl About {
    fn add(&mut self, leaf: FoundLeaf, bytes: &mut usize) {
        *bytes += leaf.bytes.len();
        if self.left_out.tree.size() == 0 && self.leaves.len() < LEAVES_MAX && *bytes <= BYTES_MAX {
            self.leaves.push(leaf);
            return;
        }
        let left = &mut self.left_out;
        if left.tree.size() == 0 {
            left.first = leaf.seq;
        }
        left.last = leaf.seq;
        left.values += texts(&leaf.body, "commitments");
        left.keys += texts(&leaf.body, "keys");
        left.tree.push(leaf_hash(&leaf.bytes));
    }
}

impl FoundLeaf {
    fn is(&self, kind: EventType) -> bool {
        self.body.get("type").and_then(|kind| kind.as_str()) == Some(kind.as_str())
    }

    fn texts(&self, field: &str) -> Vec<String> {
        let list = self.body.get(field).and_then(|list| list.as_array());
        list.into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    }

    fn text(&self, field: &str) -> Option<String> {
        self.body.get(field)?.as_str().map(str::to_owned)
    }
}

impl Evidence {
    /// The receipt of an erasure that was carried out.
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub async fn erasure_receipt(&self, tenant: &TenantName, redaction: RedactionId) -> Result<Receipt, ReceiptError> {
        let signed = self.checkpoint(tenant).await?;
        let (evidence, tenant) = (self.clone(), tenant.clone());
        on_a_thread(move || {
            let all = (Position::default(), signed.end);
            let About { leaves: found, left_out } = evidence.leaves_about(&tenant, redaction, all)?;
            let executed: Vec<&FoundLeaf> = found
                .iter()
                .filter(|leaf| leaf.is(EventType::RedactionExecuted) || leaf.is(EventType::RetentionExecuted))
                .collect();
            let Some(first) = executed.first() else { return Err(ReceiptError::NotExecuted(redaction)) };
            let keys = evidence.shared.keyring.tenant(&tenant)?;
            let text = text_of(keys.log.key().verifying().origin(), redaction, (first, &executed, &found), &left_out);
            let text = keys.log.key().signed_note(&text)?;
            let indexes: Vec<u64> = found.iter().map(|leaf| leaf.seq).collect();
            let proofs = evidence.inclusions(&tenant, &indexes, signed.size, all)?;
            let leaves = found.iter().zip(proofs).map(|(leaf, proof)| ProvenLeaf {
                index: leaf.seq,
                leaf: STANDARD.encode(&leaf.bytes),
                proof: proof.iter().map(|hash| STANDARD.encode(hash)).collect(),
            });
            Ok(Receipt {
                form: FORM,
                redaction,
                text,
                leaves: leaves.collect(),
                checkpoint: signed.note,
                key: keys.log.key().verifying().to_string(),
            })
        })
        .await
    }

    fn leaves_about(
        &self,
        tenant: &TenantName,
        redaction: RedactionId,
        span: (Position, Position),
    ) -> Result<About, ReceiptError> {
        let (mut found, mut bytes, name) = (About::default(), 0, redaction.to_string());
        let kinds = [
            EventType::RedactionRequested,
            EventType::RedactionApproved,
            EventType::RedactionExecuted,
            EventType::RetentionExecuted,
        ];
        walk(&self.shared.segments, span, |at, of, leaf, _| {
            let damaged = |_| ReadError::Damaged(at);
            if of != tenant.as_str() || !leaf.windows(name.len()).any(|part| part == name.as_bytes()) {
                return Ok(true);
            }
            let parsed = Parsed::from_bytes(leaf).map_err(damaged)?;
            let whole: serde_json::Value = serde_json::from_slice(leaf).map_err(damaged)?;
            let body = whole.get("body").cloned().unwrap_or_default();
            let about = body.get("redaction").and_then(|id| id.as_str()) == Some(name.as_str());
            if about && kinds.iter().any(|kind| kind.as_str() == parsed.body.kind) {
                let (seq, time) = (parsed.chain.seq, parsed.chain.time.to_owned());
                found.add(FoundLeaf { seq, time, bytes: leaf.to_vec(), body }, &mut bytes);
            }
            Ok::<_, ReceiptError>(true)
        })?;
        Ok(found)
    }

    /// The paths of some leaves to the root over the first `size`, in one reading and little memory.
    fn inclusions(
        &self,
        tenant: &TenantName,
        indexes: &[u64],
        size: u64,
        span: (Position, Position),
    ) -> Result<Vec<Vec<Hash>>, ReceiptError> {
        let missing = || ReadError::Damaged(span.1);
        let mut paths = PassingPaths::new(indexes, size).ok_or_else(missing)?;
        walk(&self.shared.segments, span, |_, of, leaf, _| {
            if of == tenant.as_str() {
                paths.push(leaf_hash(leaf));
            }
            Ok::<_, ReceiptError>(true)
        })?;
        Ok(paths.finish().ok_or_else(missing)?)
    }
}

/// What the receipt says, a line for each matter. Nothing in it is about a person.
fn text_of(
    origin: &str,
    redaction: RedactionId,
    (first, executed, all): (&FoundLeaf, &[&FoundLeaf], &[FoundLeaf]),
    left_out: &LeftOut,
) -> String {
    let ground = first.text("ground").unwrap_or_default();
    let meaning = ground.parse::<LegalGround>().ok().and_then(|ground| ground.meaning());
    let joined = |field: &str| {
        let mut named: Vec<String> = Vec::new();
        for text in executed.iter().flat_map(|leaf| leaf.texts(field)) {
            if named.last() != Some(&text) && (field == "leaves" || !named.contains(&text)) {
                named.push(text);
            }
        }
        named.join(" ")
    };
    let at = |kind: EventType| all.iter().find(|leaf| leaf.is(kind)).map(|leaf| leaf.time.clone());
    let values = first.body.get("values").and_then(serde_json::Value::as_u64).unwrap_or_default();
    let keys: usize = executed.iter().map(|leaf| texts(&leaf.body, "keys")).sum::<usize>() + left_out.keys;
    let mut lines = vec![FORM.to_owned(), format!("redaction: {redaction}"), format!("log: {origin}")];
    lines.push(match meaning {
        Some(meaning) => format!("ground: {ground}: {meaning}"),
        None => format!("ground: {ground}"),
    });
    for (what, kind) in [("requested", EventType::RedactionRequested), ("approved", EventType::RedactionApproved)] {
        lines.extend(at(kind).map(|time| format!("{what}: {time}")));
    }
    lines.push(format!("executed: {}", first.time));
    lines.push(format!("values erased: {values}"));
    let partly = if left_out.tree.size() > 0 { " (of those that are named here)" } else { "" };
    lines.push(format!("of leaves{partly}: {}", joined("leaves")));
    lines.push(format!("of fields{partly}: {}", joined("erased_fields")));
    lines.push(format!("keys destroyed: {keys}"));
    for leaf in executed {
        lines.push(format!("recorded in leaf {}: {}", leaf.seq, hash_text(&leaf_hash(&leaf.bytes))));
    }
    if left_out.tree.size() > 0 {
        let LeftOut { tree, values, first, last, .. } = left_out;
        let size = tree.size();
        lines.push(format!("left out: {size} leaves with {values} values, {first} to {last}"));
        lines.push(format!("tree over the leaves that are left out: {}", hash_text(&tree.root())));
        lines
            .push("They are in the log: part N of all parts is one leaf, and the tree is that of RFC 6962.".to_owned());
    }
    lines
        .push("The records stay, with a commitment in the place of each value that nothing opens any more.".to_owned());
    lines.join("\n") + "\n"
}
