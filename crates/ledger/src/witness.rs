//! The C2SP witness protocol as text and rules: what is asked, what a witness checks, what it answers.
//!
//! The rules need no clock, disk or network: [`examine`] decides from what the witness remembers of a
//! log. Whoever serves it must remember what [`Examined::Cosign`] says before anybody sees a signature.

use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    Hash,
    note::{Checkpoint, NOTE_BYTES_MAX, Note, VerifyingKey},
    proof::verify_consistency,
};

/// Hashes of one consistency proof.
const PROOF_LINES_MAX: usize = 63;
/// Longest request.
pub const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + 64 * 64;

/// Asks a witness for its cosignature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size that the witness saw last, 0 for none.
    pub old: u64,
    /// That the log of that size is a beginning of the new one.
    pub proof: Vec<Hash>,
    /// The signed checkpoint.
    pub note: String,
}

impl AddCheckpoint {
    /// The body of the request.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("old {}\n", self.old);
        for hash in &self.proof {
            // Writing into a text does not fail.
            let _infallible = writeln!(text, "{}", STANDARD.encode(hash));
        }
        text + "\n" + &self.note
    }

    /// Reads the body of a request; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > REQUEST_BYTES_MAX {
            return None;
        }
        let (head, note) = text.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let number = lines.next()?.strip_prefix("old ")?;
        let old: u64 = number.parse().ok()?;
        let hash = |line: &str| STANDARD.decode(line).ok()?.try_into().ok();
        let proof: Vec<Hash> = lines.take(PROOF_LINES_MAX + 1).map(hash).collect::<Option<_>>()?;
        let fits = old.to_string() == number && proof.len() <= PROOF_LINES_MAX;
        fits.then(|| Self { old, proof, note: note.to_owned() })
    }
}

/// What a witness remembers of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remembered {
    /// The largest size that it cosigned.
    pub size: u64,
    /// The root of that size.
    pub root: Hash,
    /// The signed checkpoint, as it came: the proof, should the log ever say something else.
    pub note: String,
}

/// What a witness answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examined {
    /// It signs, once `remember` is on its disk.
    Cosign {
        /// What the checkpoint says.
        checkpoint: Checkpoint,
        /// What is signed.
        text: String,
        /// What it knows from now on.
        remember: Remembered,
    },
    /// The request is not one, or asks for less than nothing: 400.
    Malformed,
    /// It does not know this log: 404.
    UnknownLog,
    /// No signature of a key that it trusts for this log: 403.
    Unsigned,
    /// It has seen another size than the request says: 409 with this size.
    Conflict {
        /// What it has seen.
        size: u64,
    },
    /// The log signed another root for the size that the witness has: 409, and a proof of fraud.
    SplitView {
        /// What the witness has.
        ours: Box<Remembered>,
        /// What was signed besides.
        theirs: String,
    },
    /// The proof does not show that the log only grew: 422.
    Inconsistent,
}

/// The rules, in the order of the specification. `keys` and `remembered` answer for an origin.
pub fn examine(
    request: &str,
    keys: impl FnOnce(&str) -> Option<VerifyingKey>,
    remembered: impl FnOnce(&str) -> Remembered,
) -> Examined {
    let Some(asked) = AddCheckpoint::parse(request) else { return Examined::Malformed };
    let Ok(note) = Note::parse(&asked.note) else { return Examined::Malformed };
    let Ok(checkpoint) = Checkpoint::from_text_extended(note.text) else { return Examined::Malformed };
    let Some(key) = keys(&checkpoint.origin) else { return Examined::UnknownLog };
    // A log may have got its second key later than the witness's list says, and the other way round.
    let Ok(checkpoint) = checkpoint.signed(&note, &key, true) else { return Examined::Unsigned };
    if asked.old > checkpoint.size {
        return Examined::Malformed;
    }
    let ours = remembered(&checkpoint.origin);
    if ours.size == checkpoint.size && ours.size > 0 && ours.root != checkpoint.root {
        // Said whatever size the request gives: two roots for one size need no proof.
        return Examined::SplitView { ours: Box::new(ours), theirs: asked.note };
    }
    if asked.old != ours.size {
        return Examined::Conflict { size: ours.size };
    }
    let grew = match asked.old {
        0 => asked.proof.is_empty(),
        old => verify_consistency(old, &ours.root, checkpoint.size, &checkpoint.root, &asked.proof),
    };
    if !grew {
        return Examined::Inconsistent;
    }
    let remember = Remembered { size: checkpoint.size, root: checkpoint.root, note: asked.note.clone() };
    Examined::Cosign { checkpoint, text: note.text.to_owned(), remember }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{leaf::leaf_hash, note::SigningKey, proof::Tree, tree::empty_root};

    fn log() -> SigningKey {
        SigningKey::from_seed("cogward.dev/ledger/x", &[7; 32]).unwrap().with_ml_dsa(&[8; 32]).unwrap()
    }

    fn tree(salt: u8) -> Tree {
        Tree::new((0..40_u8).map(|n| leaf_hash(&[n, if n < 10 { 0 } else { salt }])).collect())
    }

    fn note(tree: &Tree, size: usize) -> String {
        log().checkpoint(size as u64, &tree.root(size).unwrap())
    }

    fn asked(tree: &Tree, old: usize, size: usize) -> AddCheckpoint {
        let proof = tree.consistency(old, size).unwrap_or_default();
        AddCheckpoint { old: old as u64, proof, note: note(tree, size) }
    }

    fn seen(tree: &Tree, size: usize) -> Remembered {
        Remembered { size: size as u64, root: tree.root(size).unwrap(), note: note(tree, size) }
    }

    fn ask(request: &str, ours: &Remembered) -> Examined {
        let key = |origin: &str| (origin == "cogward.dev/ledger/x").then(|| log().verifying().clone());
        examine(request, key, |_| ours.clone())
    }

    #[test]
    fn a_log_that_grows_is_cosigned_and_everything_else_has_its_own_answer() {
        let (a, none) = (tree(1), Remembered::default());
        let first = ask(&asked(&a, 0, 5).to_text(), &none);
        let Examined::Cosign { remember, checkpoint, .. } = first else { panic!("{first:?}") };
        assert_eq!((remember.size, checkpoint.size), (5, 5));
        for (old, size) in [(5, 5), (5, 6), (5, 40), (39, 40)] {
            let answer = ask(&asked(&a, old, size).to_text(), &seen(&a, old));
            assert!(matches!(answer, Examined::Cosign { .. }), "{old} {size}: {answer:?}");
        }
        // Sizes that do not meet: the witness says which it has.
        assert_eq!(ask(&asked(&a, 0, 7).to_text(), &seen(&a, 5)), Examined::Conflict { size: 5 });
        assert_eq!(ask(&asked(&a, 3, 4).to_text(), &seen(&a, 5)), Examined::Conflict { size: 5 });
        assert_eq!(ask(&AddCheckpoint { old: 8, ..asked(&a, 5, 7) }.to_text(), &seen(&a, 5)), Examined::Malformed);
        // A proof that is missing, of another log, or one hash too long.
        let good = asked(&a, 5, 12);
        for proof in [Vec::new(), tree(2).consistency(5, 13).unwrap(), [good.proof.clone(), vec![[0; 32]]].concat()] {
            let bad = AddCheckpoint { proof, ..good.clone() };
            assert_eq!(ask(&bad.to_text(), &seen(&a, 5)), Examined::Inconsistent);
        }
        let with_proof = AddCheckpoint { old: 0, ..good.clone() };
        assert_eq!(ask(&with_proof.to_text(), &none), Examined::Inconsistent);
        // Foreign logs and keys.
        let foreign = SigningKey::from_seed("else.example", &[7; 32]).unwrap().checkpoint(5, &[1; 32]);
        let foreign = AddCheckpoint { old: 0, proof: Vec::new(), note: foreign };
        assert_eq!(ask(&foreign.to_text(), &none), Examined::UnknownLog);
        let thief = SigningKey::from_seed("cogward.dev/ledger/x", &[6; 32]).unwrap().checkpoint(5, &[1; 32]);
        let thief = AddCheckpoint { old: 0, proof: Vec::new(), note: thief };
        assert_eq!(ask(&thief.to_text(), &none), Examined::Unsigned);
        // Only one of the two signatures that the witness knows the keys of.
        let half = SigningKey::from_seed("cogward.dev/ledger/x", &[7; 32]).unwrap().checkpoint(0, &empty_root());
        let half = AddCheckpoint { old: 0, proof: Vec::new(), note: half };
        assert_eq!(ask(&half.to_text(), &none), Examined::Unsigned);
    }

    #[test]
    fn two_histories_of_one_key_are_found_whichever_comes_second() {
        let (a, b) = (tree(1), tree(2));
        assert_eq!(a.root(10), b.root(10));
        // The same size with another root: both notes are in the answer.
        for old in [0, 10, 20] {
            let answer = ask(&asked(&b, old, 20).to_text(), &seen(&a, 20));
            let Examined::SplitView { ours, theirs } = answer else { panic!("{old}: {answer:?}") };
            // ML-DSA-44 signs with randomness: the lines up to the Ed25519 signature are always the same.
            let said = |note: &str| note.lines().take(5).map(ToOwned::to_owned).collect::<Vec<_>>();
            assert_eq!(said(&ours.note), said(&note(&a, 20)), "{old}");
            assert_eq!(said(&theirs), said(&note(&b, 20)), "{old}");
        }
        // A larger one of the other history has no proof that fits.
        assert_eq!(ask(&asked(&b, 20, 30).to_text(), &seen(&a, 20)), Examined::Inconsistent);
        // And a smaller one is refused, whatever history it is of: nothing is rolled back.
        assert_eq!(ask(&asked(&a, 10, 15).to_text(), &seen(&a, 20)), Examined::Conflict { size: 20 });
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let good = asked(&tree(1), 5, 12);
        assert_eq!(AddCheckpoint::parse(&good.to_text()), Some(good.clone()));
        let text = good.to_text();
        for bad in [
            text.replacen("old 5", "old 05", 1),
            text.replacen("old 5", "old +5", 1),
            text.replacen("old 5", "old", 1),
            text.replacen("old 5", "Old 5", 1),
            text.replacen("old 5\n", "old 5\r\n", 1),
            text.replacen("\n\n", "\n", 2),
            text.replacen("old 5\n", "old 5\nAAAA\n", 1),
            text.trim_end().to_owned(),
            AddCheckpoint { proof: vec![[0; 32]; 64], ..good }.to_text(),
            "x".repeat(REQUEST_BYTES_MAX + 1),
            String::new(),
        ] {
            assert_eq!(ask(&bad, &seen(&tree(1), 5)), Examined::Malformed, "{:.80}", bad);
        }
    }
}
