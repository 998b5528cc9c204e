//! Notes that are no checkpoints and count for years: signed with every kind of key that a log has.
//!
//! C2SP has no ML-DSA-44 signature of texts, only of trees. So the line of that key is over a message of our own,
//! which begins with other bytes than any other message that the key ever signs.

use aws_lc_rs::signature::{self, ML_DSA_44, UnparsedPublicKey};

use super::{Note, NoteError, NoteSignature, SignError, SigningKey, VerifyingKey, signature_line};
use crate::{
    cosign::ML_DSA_SIGNATURE_BYTES,
    vkey::{self, ED25519, ML_DSA},
};

/// What the ML-DSA-44 key signs begins with this.
const DOMAIN: &[u8] = b"cogward.dev/key-statement@v1\n\0";

fn message(text: &str) -> Vec<u8> {
    [DOMAIN, text.as_bytes()].concat()
}

impl VerifyingKey {
    /// Whether a line claims to be of one of these keys.
    #[must_use]
    pub fn wrote(&self, line: &NoteSignature<'_>) -> bool {
        let is_of = |algorithm, public: &[u8]| line.key == vkey::id(&self.origin, algorithm, public);
        let quantum = self.ml_dsa.as_ref().is_some_and(|public| is_of(ML_DSA, &public[..]));
        line.name == self.origin && (quantum || is_of(ED25519, &self.public))
    }

    /// Whether every kind of this key has signed a statement.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn signed_statement(&self, note: &Note<'_>) -> Result<(), NoteError> {
        let of = |algorithm, public: &[u8]| {
            let id = vkey::id(&self.origin, algorithm, public);
            note.signatures.iter().filter(move |line| line.name == self.origin && line.key == id)
        };
        let (mut classic, mut quantum) = (false, self.ml_dsa.is_none());
        for line in of(ED25519, &self.public) {
            UnparsedPublicKey::new(&signature::ED25519, self.public)
                .verify(note.text.as_bytes(), &line.bytes)
                .map_err(|_| NoteError::Signature)?;
            classic = true;
        }
        for public in self.ml_dsa.iter().map(|public| &public[..]) {
            for line in of(ML_DSA, public) {
                UnparsedPublicKey::new(&ML_DSA_44, public)
                    .verify(&message(note.text), &line.bytes)
                    .map_err(|_| NoteError::Signature)?;
                quantum = true;
            }
        }
        if classic && quantum { Ok(()) } else { Err(NoteError::Unsigned(self.origin.clone())) }
    }
}

impl SigningKey {
    /// The lines of this key below a statement. A text that could be taken for a checkpoint of the log gets none.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn statement_lines(&self, text: &str) -> Result<String, SignError> {
        let VerifyingKey { origin, public, ml_dsa } = &self.verifying;
        if text.lines().next() == Some(origin) || !text.ends_with('\n') || text.contains("\n\n") {
            return Err(SignError::Text);
        }
        let signed = self.sign_classic(text.as_bytes())?;
        let mut lines = signature_line(origin, vkey::id(origin, ED25519, public), &signed);
        if let (Some(public), Some(pair)) = (ml_dsa, &self.ml_dsa) {
            let mut signature = [0; ML_DSA_SIGNATURE_BYTES];
            pair.sign(&message(text), &mut signature).map_err(|_| SignError::Quantum(origin.clone()))?;
            lines.push_str(&signature_line(origin, vkey::id(origin, ML_DSA, &public[..]), &signature));
        }
        Ok(lines)
    }

    /// A key that signs every checkpoint a second time: the one before, while readers still know no other.
    #[must_use]
    pub fn along_with(mut self, older: Option<Self>) -> Self {
        self.older = older.filter(|older| older.verifying.origin == self.verifying.origin).map(Box::new);
        self
    }

    /// The public half of the key that signs along.
    #[must_use]
    pub fn older(&self) -> Option<&VerifyingKey> {
        self.older.as_ref().map(|older| &older.verifying)
    }
}
