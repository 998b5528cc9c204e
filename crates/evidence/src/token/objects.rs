//! The key objects of a log in a token: made there, found again, used, destroyed.

use aws_lc_rs::signature::{self, UnparsedPublicKey};
use cogward_ledger::note::{Device, SignError};
use cryptoki::{
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
};

use super::{
    ID_BYTES, Token,
    error::{TokenError, is_about_curve, said},
    module::{Failed, Open},
};

/// Ed25519 as `CKA_EC_PARAMS` names it, as the standard says and as modules in the field want it: the curve's name as a
/// printable string, the object identifier of the curve, that of the algorithm.
const CURVES: [&[u8]; 3] = [
    b"\x13\x0cedwards25519",
    &[0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01],
    &[0x06, 0x03, 0x2b, 0x65, 0x70],
];
/// What a key signs to show that it belongs to its public half. No checkpoint, note or statement begins like this.
const PROBE: &[u8] = b"cogward.dev/key-probe@v1\n\0";

/// What tells a log's key from every other object in a token, those of other planes too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(super) id: [u8; ID_BYTES],
    pub(crate) label: String,
}

impl Tag {
    /// The key of a generation. The origin has the name of the plane in it.
    pub(crate) fn new(origin: &str, generation: u64) -> Self {
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            format!("cogward.dev/log-key@v1\n{origin}\n{generation}\n").as_bytes(),
        );
        let id = digest.as_ref().first_chunk().copied().unwrap_or_default();
        Self { id, label: format!("{origin} key {generation}") }
    }

    /// `CKA_ID`, as tools print it.
    pub(crate) fn id_text(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn named(&self, class: ObjectClass) -> Vec<Attribute> {
        vec![Attribute::Class(class), Attribute::Token(true), Attribute::Id(self.id.to_vec())]
    }
}

/// The 32 bytes of a point, bare or in the DER that modules put around it.
pub(crate) fn point(bytes: &[u8]) -> Option<[u8; 32]> {
    match bytes {
        // OCTET STRING, BIT STRING.
        [0x04, 0x20, point @ ..] | [0x03, 0x21, 0x00, point @ ..] if point.len() == 32 => point.try_into().ok(),
        bare => bare.try_into().ok(),
    }
}

impl Open {
    /// The private key; `None` when it is not there.
    fn private(&mut self, tag: &Tag) -> Result<Option<ObjectHandle>, Failed> {
        if let Some(found) = self.found.get(&tag.id) {
            return Ok(Some(*found));
        }
        let found = self.session.find_objects(&tag.named(ObjectClass::PRIVATE_KEY))?;
        match found.as_slice() {
            [] => Ok(None),
            [one] => {
                self.found.insert(tag.id, *one);
                Ok(Some(*one))
            }
            _ => Err(TokenError::KeyTwice { label: tag.label.clone(), token: self.name.clone() }.into()),
        }
    }

    /// The key's public half, after a look at whether the private one can have left the token, and a signature.
    fn checked(&mut self, tag: &Tag, made_here: bool) -> Result<Option<[u8; 32]>, Failed> {
        let Some(private) = self.private(tag)? else { return Ok(None) };
        let loose = |what| TokenError::Loose { label: tag.label.clone(), token: self.name.clone(), what };
        let asked = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::Local];
        let told = self.session.get_attributes(private, &asked)?;
        if !told.contains(&Attribute::Sensitive(true)) || !told.contains(&Attribute::Extractable(false)) {
            return Err(loose("not one that stays in the token (CKA_SENSITIVE, not CKA_EXTRACTABLE)").into());
        }
        if made_here && !told.contains(&Attribute::Local(true)) {
            return Err(loose("not one that was made in the token (CKA_LOCAL)").into());
        }
        let mut halves = self.session.find_objects(&tag.named(ObjectClass::PUBLIC_KEY))?;
        // Newer modules tell it of the private object, where there is no other.
        halves.push(private);
        let mut public = None;
        for half in halves {
            let told = self.session.get_attributes(half, &[AttributeType::EcPoint]).unwrap_or_default();
            public = told.iter().find_map(|told| match told {
                Attribute::EcPoint(bytes) => point(bytes),
                _ => None,
            });
            if public.is_some() {
                break;
            }
        }
        let nameless = || TokenError::NoPublic { label: tag.label.clone(), token: self.name.clone() };
        let public = public.ok_or_else(nameless)?;
        let signed = self.signed(tag, PROBE)?;
        if UnparsedPublicKey::new(&signature::ED25519, public).verify(PROBE, &signed).is_err() {
            return Err(TokenError::Mismatch { label: tag.label.clone(), token: self.name.clone() }.into());
        }
        Ok(Some(public))
    }

    fn signed(&mut self, tag: &Tag, message: &[u8]) -> Result<[u8; 64], Failed> {
        let gone = TokenError::KeyGone { label: tag.label.clone(), token: self.name.clone() };
        let private = self.private(tag)?.ok_or(gone)?;
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        let signed = self.session.sign(&mechanism, private, message)?;
        let wrong = || TokenError::Mismatch { label: tag.label.clone(), token: self.name.clone() };
        Ok(signed.as_slice().try_into().map_err(|_| wrong())?)
    }

    fn generate(&mut self, tag: &Tag) -> Result<(), Failed> {
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
            Attribute::Label(tag.label.clone().into_bytes()),
            Attribute::Id(tag.id.to_vec()),
        ];
        let mut last = None;
        for curve in CURVES {
            let public = [
                Attribute::Token(true),
                Attribute::Private(false),
                Attribute::Verify(true),
                Attribute::EcParams(curve.to_vec()),
                Attribute::Label(tag.label.clone().into_bytes()),
                Attribute::Id(tag.id.to_vec()),
            ];
            match self.session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &private) {
                Ok(_) => return Ok(()),
                Err(error) if is_about_curve(&error) => last = Some(error),
                Err(error @ cryptoki::error::Error::Pkcs11(cryptoki::error::RvError::MechanismInvalid, _)) => {
                    return Err(TokenError::Mechanism { token: self.name.clone(), why: said(&error) }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let why = last.map_or_else(String::new, |error| said(&error));
        Err(TokenError::Mechanism { token: self.name.clone(), why }.into())
    }

    fn destroy(&mut self, tag: &Tag) -> Result<usize, Failed> {
        self.found.remove(&tag.id);
        let mut gone = 0;
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            for object in self.session.find_objects(&tag.named(class))? {
                self.session.destroy_object(object)?;
                gone += usize::from(class == ObjectClass::PRIVATE_KEY);
            }
        }
        Ok(gone)
    }
}

/// A key in a token, and how the token is named.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) public: [u8; 32],
    pub(crate) token: String,
    pub(crate) serial: String,
}

impl Token {
    /// The key of a tag, if it is there; it is one that never left the token.
    pub(crate) fn find(&self, tag: &Tag) -> Result<Option<Held>, TokenError> {
        let tag = tag.clone();
        self.with(move |open| {
            let public = open.checked(&tag, false)?;
            Ok(public.map(|public| Held { public, token: open.name.clone(), serial: open.serial.clone() }))
        })
    }

    /// Makes the key of a tag. What an attempt that broke off made is that key: nothing is ever destroyed to make another.
    pub(crate) fn make(&self, tag: &Tag) -> Result<Held, TokenError> {
        let tag = tag.clone();
        self.with(move |open| {
            if open.private(&tag)?.is_none() {
                open.generate(&tag)?;
            }
            let gone = TokenError::KeyGone { label: tag.label.clone(), token: open.name.clone() };
            let public = open.checked(&tag, true)?.ok_or(gone)?;
            Ok(Held { public, token: open.name.clone(), serial: open.serial.clone() })
        })
    }

    /// Destroys the key of a tag; says how many private keys that were, and the token's serial number.
    pub(crate) fn destroy(&self, tag: &Tag) -> Result<(usize, String), TokenError> {
        let tag = tag.clone();
        self.with(move |open| Ok((open.destroy(&tag)?, open.serial.clone())))
    }
}

/// The key of a tag, as the log's key.
pub(crate) struct TokenKey {
    pub(crate) token: std::sync::Arc<Token>,
    pub(crate) tag: Tag,
}

impl Device for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let (tag, message) = (self.tag.clone(), message.to_vec());
        let signed = self.token.with(move |open| open.signed(&tag, &message));
        signed.map_err(|error| SignError::Device(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_bare_and_in_both_wrappings() {
        let bare = [7; 32];
        assert_eq!(point(&bare), Some(bare));
        assert_eq!(point(&[&[0x04, 0x20][..], &bare].concat()), Some(bare));
        assert_eq!(point(&[&[0x03, 0x21, 0x00][..], &bare].concat()), Some(bare));
        for wrong in [0, 1, 31, 33, 34, 35, 57, 65] {
            assert_eq!(point(&vec![7; wrong]), None, "{wrong}");
        }
        assert_eq!(point(&[&[0x04, 0x21][..], &bare].concat()), None);
        assert_eq!(point(&[&[0x04, 0x1e][..], &[7; 30]].concat()).map(|p| p[0]), Some(4), "a bare point may begin so");
    }

    #[test]
    fn planes_tenants_and_generations_have_tags_of_their_own() {
        let mut tags: Vec<Tag> = Vec::new();
        for origin in ["cogward.dev/ledger/a", "cogward.dev/ledger/b", "cogward.dev/ledger/a/acme"] {
            for generation in [0, 1, 10] {
                let tag = Tag::new(origin, generation);
                assert_eq!(tag, Tag::new(origin, generation));
                assert!(tags.iter().all(|other| other.id != tag.id && other.label != tag.label));
                tags.push(tag);
            }
        }
    }
}
