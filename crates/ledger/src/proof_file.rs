//! One proof in one file: an inclusion as a C2SP `.tlog-proof`, a consistency or a whole run as JSON.
//!
//! Each carries the signed checkpoint that it leads to; nothing else is needed but the log's key.

use serde::{Deserialize, Serialize};

use crate::{
    Hash,
    extract::{Extract, Extracted, LeafLine, Scope},
    leaf::{Parsed, leaf_hash},
    note::{Checkpoint, VerifyingKey},
    proof::{verify_consistency, verify_inclusion},
    text::{base64_bytes, base64_hash, bytes_from_base64, from_base64},
    verify::{Finding, What},
};

const TLOG_PROOF: &str = "c2sp.org/tlog-proof@v1";
/// The `form` of the others.
pub const PROOF_FORM: &str = "cogward.dev/proof@v1";

/// A proof that is no inclusion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ProofFile {
    /// That a log of `old` leaves is a beginning of one of `new` leaves, and that of the signed one.
    Consistency {
        /// [`PROOF_FORM`].
        form: String,
        /// The signed checkpoint.
        checkpoint: String,
        /// The older state.
        old: State,
        /// The newer state.
        new: State,
        /// From the older to the newer, base64.
        proof: Vec<String>,
        /// From the newer to the signed one, base64; none when it is the signed one.
        to_checkpoint: Vec<String>,
    },
    /// All leaves of a run.
    Run {
        /// [`PROOF_FORM`].
        form: String,
        /// The signed checkpoint.
        checkpoint: String,
        /// The run.
        run: String,
        /// Its leaves in order.
        leaves: Vec<LeafLine>,
    },
}

/// What a log was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Leaves.
    pub size: u64,
    /// The root, base64 as in a checkpoint.
    pub root: String,
}

/// What a proof shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "proof", rename_all = "snake_case")]
pub enum Proven {
    /// A leaf is in the log.
    Inclusion {
        /// The log.
        origin: String,
        /// Leaves that the checkpoint covers.
        size: u64,
        /// The leaf's number.
        index: u64,
        /// Its type.
        event: String,
        /// Its time.
        time: String,
        /// Its bytes, as text.
        leaf: String,
    },
    /// One state is a beginning of the other.
    Consistency {
        /// The log.
        origin: String,
        /// Leaves that the checkpoint covers.
        size: u64,
        /// The older state: compare it with the checkpoint that you kept.
        old: State,
        /// The newer state.
        new: State,
    },
    /// A run.
    Run {
        /// The log.
        origin: String,
        /// Leaves that the checkpoint covers.
        size: u64,
        /// The run.
        run: String,
        /// Its leaves.
        #[serde(flatten)]
        extracted: Extracted,
    },
}

/// The proof of one leaf, whose bytes are its extra data.
#[must_use]
pub fn inclusion(leaf: &[u8], index: u64, proof: &[Hash], checkpoint: &str) -> String {
    let mut text = format!("{TLOG_PROOF}\nextra {}\nindex {index}\n", base64_bytes(leaf));
    for hash in proof {
        text.push_str(&base64_hash(hash));
        text.push('\n');
    }
    text + "\n" + checkpoint
}

fn finding(what: What, detail: impl Into<String>) -> Finding {
    Finding { leaf: None, what, detail: detail.into() }
}

fn opened(note: &str, key: &VerifyingKey) -> Result<Checkpoint, Finding> {
    Checkpoint::open(note, key).map_err(|error| finding(What::Signature, error.to_string()))
}

fn path(texts: &[String]) -> Result<Vec<Hash>, Finding> {
    let path: Option<Vec<Hash>> = texts.iter().map(|hash| from_base64(hash)).collect();
    path.ok_or_else(|| finding(What::Form, "a path is not of hashes"))
}

/// Verifies a proof against the log's key.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(text: &str, key: &VerifyingKey) -> Result<Proven, Finding> {
    if let Some(rest) = text.strip_prefix(TLOG_PROOF) {
        return verify_tlog_proof(rest, key);
    }
    let file: ProofFile = serde_json::from_str(text).map_err(|error| finding(What::Form, error.to_string()))?;
    match file {
        ProofFile::Consistency { form, checkpoint, old, new, proof, to_checkpoint } => {
            known(&form)?;
            let checkpoint = opened(&checkpoint, key)?;
            let root = |state: &State| from_base64(&state.root).ok_or_else(|| finding(What::Form, "not a root"));
            let (old_root, new_root) = (root(&old)?, root(&new)?);
            let links = verify_consistency(old.size, &old_root, new.size, &new_root, &path(&proof)?)
                && verify_consistency(new.size, &new_root, checkpoint.size, &checkpoint.root, &path(&to_checkpoint)?);
            if !links {
                return Err(finding(What::Root, "one state does not lead to the other"));
            }
            Ok(Proven::Consistency { origin: checkpoint.origin, size: checkpoint.size, old, new })
        }
        ProofFile::Run { form, checkpoint, run, leaves } => {
            known(&form)?;
            let checkpoint = opened(&checkpoint, key)?;
            let mut extract = Extract::new(&checkpoint, Scope::Run { run: run.clone() });
            leaves.iter().try_for_each(|line| extract.leaf(line).map(drop))?;
            let Checkpoint { origin, size, .. } = checkpoint;
            Ok(Proven::Run { origin, size, run, extracted: extract.finish()? })
        }
    }
}

fn known(form: &str) -> Result<(), Finding> {
    if form == PROOF_FORM { Ok(()) } else { Err(finding(What::Form, "a proof of another form")) }
}

fn verify_tlog_proof(rest: &str, key: &VerifyingKey) -> Result<Proven, Finding> {
    let form = |detail: &str| finding(What::Form, detail);
    let (head, note) = rest.split_once("\n\n").ok_or_else(|| form("no empty line before the checkpoint"))?;
    let mut lines = head.strip_prefix('\n').ok_or_else(|| form("the first line is another one"))?.split('\n');
    let leaf = lines.next().and_then(|line| line.strip_prefix("extra ")).and_then(bytes_from_base64);
    let leaf = leaf.ok_or_else(|| form("the leaf is not there: a proof of this log has it as its extra data"))?;
    let index = lines.next().and_then(|line| line.strip_prefix("index ")).ok_or_else(|| form("no index"))?;
    let number: u64 = index.parse().map_err(|_| form("the index is not a number"))?;
    if number.to_string() != index {
        return Err(form("the index is not a number"));
    }
    let path: Option<Vec<Hash>> = lines.map(from_base64).collect();
    let path = path.ok_or_else(|| form("a line of the path is not a hash"))?;
    let checkpoint = opened(note, key)?;
    let bad = |what, detail: &str| Finding { leaf: Some(number), what, detail: detail.to_owned() };
    if !verify_inclusion(&leaf_hash(&leaf), number, checkpoint.size, &path, &checkpoint.root) {
        return Err(bad(What::Bytes, "its proof does not lead from its bytes to the signed root"));
    }
    let parsed = Parsed::from_canonical(&leaf).map_err(|detail| bad(What::Form, detail))?;
    if parsed.chain.seq != number {
        return Err(bad(What::Seq, "it says that it is another leaf"));
    }
    if parsed.body.tenant != checkpoint.tenant() {
        return Err(bad(What::Tenant, "it belongs to another tenant than the log"));
    }
    Ok(Proven::Inclusion {
        origin: checkpoint.origin,
        size: checkpoint.size,
        index: number,
        event: parsed.body.kind.to_owned(),
        time: parsed.chain.time.to_owned(),
        leaf: String::from_utf8_lossy(&leaf).into_owned(),
    })
}
