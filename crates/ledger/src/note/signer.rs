//! Who makes the Ed25519 signatures of a log: a seed in this process, or a device that keeps the key to itself.

use std::sync::Arc;

use aws_lc_rs::signature::{self, Ed25519KeyPair, UnparsedPublicKey};

use super::{KeyError, SigningKey, VerifyingKey};
use crate::vkey;

/// Why something is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// A text that could be taken for something else, or that no note can hold.
    #[error("the text cannot stand in a note")]
    Text,
    /// The device that has the key does not sign.
    #[error("{0}")]
    Device(String),
    /// It signed, and the signature is not of the key.
    #[error("the signature that the device made is not of the key of `{0}`")]
    Other(String),
    /// The ML-DSA-44 key does not sign.
    #[error("the ML-DSA-44 key of `{0}` does not sign")]
    Quantum(String),
}

/// A device with an Ed25519 key that it does not give away.
pub trait Device: Send + Sync {
    /// Signs a message, within a time that the device knows a bound of.
    ///
    /// # Errors
    /// Why it does not, for whoever runs the plane: the cause and what to do.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// The Ed25519 half of a log's key.
pub(super) enum Classic {
    Seed(Box<Ed25519KeyPair>),
    Device(Arc<dyn Device>),
}

impl SigningKey {
    /// An Ed25519 key in a device. What the device signs is checked before anybody sees it.
    ///
    /// # Errors
    /// The origin cannot stand in a note.
    pub fn in_device(origin: &str, public: [u8; 32], device: Arc<dyn Device>) -> Result<Self, KeyError> {
        if !vkey::is_name(origin) {
            return Err(KeyError);
        }
        let verifying = VerifyingKey { origin: origin.to_owned(), public, ml_dsa: None };
        Ok(Self { verifying, classic: Classic::Device(device), ml_dsa: None, older: None })
    }

    pub(super) fn sign_classic(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let VerifyingKey { origin, public, .. } = &self.verifying;
        match &self.classic {
            Classic::Seed(pair) => pair.sign(message).as_ref().try_into().map_err(|_| SignError::Other(origin.clone())),
            Classic::Device(device) => {
                let signed = device.sign(message)?;
                // A signature that does not hold would end on the disk and at witnesses.
                UnparsedPublicKey::new(&signature::ED25519, public)
                    .verify(message, &signed)
                    .map_err(|_| SignError::Other(origin.clone()))?;
                Ok(signed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::Checkpoint;

    const ORIGIN: &str = "cogward.dev/ledger/x";

    /// A device that holds the seed, and may be out of order.
    struct Held(Ed25519KeyPair, Option<SignError>);

    impl Device for Held {
        fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
            match &self.1 {
                Some(error) => Err(error.clone()),
                None => Ok(self.0.sign(message).as_ref().try_into().unwrap()),
            }
        }
    }

    fn in_device(seed: u8, of: &SigningKey, error: Option<SignError>) -> SigningKey {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = SigningKey::in_device(ORIGIN, of.verifying.public, Arc::new(Held(pair, error))).unwrap();
        key.with_ml_dsa(&[8; 32]).unwrap()
    }

    #[test]
    fn a_key_in_a_device_signs_what_its_seed_would() {
        let seed = SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap().with_ml_dsa(&[8; 32]).unwrap();
        let device = in_device(7, &seed, None);
        assert_eq!(device.verifying(), seed.verifying());
        let note = device.signed_checkpoint(5, &[1; 32]).unwrap();
        assert_eq!(Checkpoint::open(&note, seed.verifying()).unwrap().size, 5);
        // Ed25519 has one signature of a message.
        assert_eq!(note.lines().nth(4), seed.checkpoint(5, &[1; 32]).lines().nth(4));
        assert_eq!(device.signed_note("a text\n").unwrap(), seed.note("a text\n").unwrap());
        assert_eq!(device.signed_note(&format!("{ORIGIN}\n5\nAAAA\n")), Err(SignError::Text));
        assert!(device.statement_lines("a text\n").is_ok());
        let both = seed.along_with(Some(device)).signed_checkpoint(5, &[1; 32]).unwrap();
        assert_eq!(both.lines().count(), 8);
    }

    #[test]
    fn without_the_device_or_with_another_key_in_it_nothing_is_signed() {
        let seed = SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap().with_ml_dsa(&[8; 32]).unwrap();
        let gone = SignError::Device("it is gone".to_owned());
        for (device, wanted) in [
            (in_device(7, &seed, Some(gone.clone())), gone.clone()),
            (in_device(9, &seed, None), SignError::Other(ORIGIN.to_owned())),
        ] {
            assert_eq!(device.signed_checkpoint(5, &[1; 32]), Err(wanted.clone()));
            assert_eq!(device.signed_note("a text\n"), Err(wanted.clone()));
            assert_eq!(device.statement_lines("a text\n"), Err(wanted.clone()));
            assert_eq!((device.checkpoint(5, &[1; 32]), device.note("a text\n")), (String::new(), None));
            // The key before cannot be left out in silence while readers count on it.
            let seed = SigningKey::from_seed(ORIGIN, &[3; 32]).unwrap();
            assert_eq!(seed.along_with(Some(device)).signed_checkpoint(5, &[1; 32]), Err(wanted));
        }
    }
}
