//! Cosignatures (C2SP tlog-cosignature): a witness says that a log grew only at its end, and when it saw it.
//!
//! Two kinds: Ed25519 over the note's text and a time, and ML-DSA-44 over a structure that names the
//! witness too. Logs of ours sign with the second kind beside their Ed25519 signature.

use aws_lc_rs::signature::{
    self, Ed25519KeyPair, KeyPair, ML_DSA_44, ML_DSA_44_SIGNING, PqdsaKeyPair, UnparsedPublicKey,
};

use crate::{
    Hash,
    note::{Checkpoint, KeyError, Note, NoteSignature, signature_line},
    vkey::{self, COSIGNATURE, ML_DSA},
};

/// Bytes of an ML-DSA-44 public key.
pub(crate) const ML_DSA_BYTES: usize = 1_312;
/// Bytes of an ML-DSA-44 signature.
pub(crate) const ML_DSA_SIGNATURE_BYTES: usize = 2_420;

/// What is signed with ML-DSA-44: a tree by its root, up to `size`. Names are at most 255 bytes long.
pub(crate) fn cosigned_message(name: &str, time: u64, origin: &str, size: u64, root: &Hash) -> Vec<u8> {
    let mut message = b"subtree/v1\n\0".to_vec();
    let opaque = |message: &mut Vec<u8>, text: &str| {
        message.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        message.extend_from_slice(text.as_bytes());
    };
    opaque(&mut message, name);
    message.extend_from_slice(&time.to_be_bytes());
    opaque(&mut message, origin);
    message.extend_from_slice(&0_u64.to_be_bytes());
    message.extend_from_slice(&size.to_be_bytes());
    message.extend_from_slice(root);
    message
}

/// Takes a time from the front of a signature.
pub(crate) fn timestamped(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (time, signature) = bytes.split_first_chunk::<8>()?;
    let time = u64::from_be_bytes(*time);
    (time <= i64::MAX.unsigned_abs()).then_some((time, signature))
}

fn timed_text(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// The public half of a witness's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WitnessKey {
    name: String,
    algorithm: u8,
    public: Vec<u8>,
}

impl WitnessKey {
    /// The witness.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's bytes: two keys with the same are one witness, whatever they are called.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Whether a line claims to be this witness's.
    #[must_use]
    pub fn wrote(&self, line: &NoteSignature<'_>) -> bool {
        line.name == self.name && line.key == vkey::id(&self.name, self.algorithm, &self.public)
    }

    /// When this witness saw the note, in seconds since 1970. `None` when it did not sign it, or when a
    /// line that claims so does not hold.
    #[must_use]
    pub fn saw(&self, note: &Note<'_>) -> Option<u64> {
        let mut newest = None;
        for line in note.signatures.iter().filter(|line| self.wrote(line)) {
            let (time, signature) = timestamped(&line.bytes)?;
            if self.algorithm == COSIGNATURE {
                UnparsedPublicKey::new(&signature::ED25519, &self.public)
                    .verify(timed_text(time, note.text).as_bytes(), signature)
                    .ok()?;
            } else {
                let of = Checkpoint::from_text_extended(note.text).ok().filter(|of| vkey::is_name(&of.origin))?;
                let message = cosigned_message(&self.name, time, &of.origin, of.size, &of.root);
                UnparsedPublicKey::new(&ML_DSA_44, &self.public).verify(&message, signature).ok()?;
            }
            // A time of zero says that the signer makes no statement about the newest tree: no witness's.
            newest = newest.max(Some(time).filter(|time| *time > 0));
        }
        newest
    }
}

impl std::fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&vkey::text(&self.name, self.algorithm, &self.public))
    }
}

impl std::str::FromStr for WitnessKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = vkey::parse(text).ok_or(KeyError)?;
        match (key.algorithm, key.public.len()) {
            (COSIGNATURE, 32) | (ML_DSA, ML_DSA_BYTES) => {}
            _ => return Err(KeyError),
        }
        Ok(Self { name: key.name.to_owned(), algorithm: key.algorithm, public: key.public })
    }
}

/// A witness's keys: it signs with both.
pub struct WitnessSigner {
    name: String,
    pair: Ed25519KeyPair,
    ml_dsa: PqdsaKeyPair,
}

impl std::fmt::Debug for WitnessSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WitnessSigner({})", self.name)
    }
}

impl WitnessSigner {
    /// The keys that belong to two seeds.
    ///
    /// # Errors
    /// The name cannot stand in a note.
    pub fn from_seeds(name: &str, seed: &[u8; 32], ml_dsa: &[u8; 32]) -> Result<Self, KeyError> {
        if !vkey::is_name(name) {
            return Err(KeyError);
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError)?;
        let ml_dsa = PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, ml_dsa).map_err(|_| KeyError)?;
        Ok(Self { name: name.to_owned(), pair, ml_dsa })
    }

    /// The public halves: Ed25519, ML-DSA-44.
    #[must_use]
    pub fn keys(&self) -> [WitnessKey; 2] {
        let key = |algorithm, public: &[u8]| WitnessKey { name: self.name.clone(), algorithm, public: public.to_vec() };
        [key(COSIGNATURE, self.pair.public_key().as_ref()), key(ML_DSA, self.ml_dsa.public_key().as_ref())]
    }

    /// The lines of this witness below a note: that `checkpoint`, which its text says, is the largest tree
    /// that it saw of this log, at `time`.
    #[must_use]
    pub fn cosign(&self, text: &str, checkpoint: &Checkpoint, time: u64) -> String {
        let [classic, quantum] = self.keys();
        let mut signed = time.to_be_bytes().to_vec();
        signed.extend_from_slice(self.pair.sign(timed_text(time, text).as_bytes()).as_ref());
        let mut lines = signature_line(&self.name, vkey::id(&self.name, COSIGNATURE, &classic.public), &signed);
        let message = cosigned_message(&self.name, time, &checkpoint.origin, checkpoint.size, &checkpoint.root);
        let mut signature = vec![0; 8 + ML_DSA_SIGNATURE_BYTES];
        let (head, tail) = signature.split_at_mut(8);
        head.copy_from_slice(&time.to_be_bytes());
        if vkey::is_name(&checkpoint.origin) && self.ml_dsa.sign(&message, tail).is_ok() {
            lines.push_str(&signature_line(&self.name, vkey::id(&self.name, ML_DSA, &quantum.public), &signature));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::SigningKey;

    #[test]
    fn a_cosignature_holds_for_its_note_its_witness_and_its_time() {
        let log = SigningKey::from_seed("cogward.dev/ledger/x", &[7; 32]).unwrap();
        let note = log.checkpoint(42, &[9; 32]);
        let signer = WitnessSigner::from_seeds("witness.example/w1", &[1; 32], &[2; 32]).unwrap();
        let parsed = Note::parse(&note).unwrap();
        let checkpoint = Checkpoint::from_text(parsed.text).unwrap();
        let witnessed = format!("{note}{}", signer.cosign(parsed.text, &checkpoint, 1_700_000_000));
        for key in signer.keys() {
            let key: WitnessKey = key.to_string().parse().unwrap();
            assert_eq!(key.saw(&Note::parse(&witnessed).unwrap()), Some(1_700_000_000));
            assert_eq!(key.saw(&Note::parse(&note).unwrap()), None);
            // Every bit of the witness's own line.
            for at in (note.len() * 8..witnessed.len() * 8).step_by(5) {
                let mut bytes = witnessed.clone().into_bytes();
                bytes[at / 8] ^= 1 << (at % 8);
                let Ok(text) = std::str::from_utf8(&bytes) else { continue };
                let Ok(note) = Note::parse(text) else { continue };
                // A bit in the other kind's line changes nothing for this one; in its own it does.
                assert!(signer.keys().iter().any(|key| key.saw(&note).is_none()), "bit {at}");
            }
            // Moved under another note, and by somebody of the same name.
            let (_, lines) = witnessed.split_at(note.len());
            let other = format!("{}{lines}", log.checkpoint(43, &[9; 32]));
            assert_eq!(key.saw(&Note::parse(&other).unwrap()), None);
        }
        let same_name = WitnessSigner::from_seeds("witness.example/w1", &[3; 32], &[4; 32]).unwrap();
        assert!(same_name.keys().iter().all(|key| key.saw(&Note::parse(&witnessed).unwrap()).is_none()));
        // A log's own signature of the second kind has no time and is not a witness's.
        let own = SigningKey::from_seed("a.example", &[7; 32]).unwrap().with_ml_dsa(&[8; 32]).unwrap();
        let lines = own.verifying().lines();
        let key: WitnessKey = lines.lines().nth(1).unwrap().parse().unwrap();
        assert_eq!(key.saw(&Note::parse(&own.checkpoint(1, &[0; 32])).unwrap()), None);
    }
}
