//! Public keys as C2SP signed notes write them: `NAME+HASH+BASE64(kind, key)`.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};

/// An Ed25519 key that signs a note's text.
pub(crate) const ED25519: u8 = 0x01;
/// An Ed25519 key that signs a note's text together with a time: a witness's.
pub(crate) const COSIGNATURE: u8 = 0x04;
/// An ML-DSA-44 key, of a log or of a witness.
pub(crate) const ML_DSA: u8 = 0x06;

/// A key of any kind, whose hash is its own.
pub(crate) struct Vkey<'a> {
    pub(crate) name: &'a str,
    pub(crate) algorithm: u8,
    pub(crate) public: Vec<u8>,
}

/// Whether a name can stand in a note: no white space, no plus, not empty.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
}

/// The short identifier of a key.
pub(crate) fn id(name: &str, algorithm: u8, public: &[u8]) -> [u8; 4] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(name.as_bytes());
    context.update(&[b'\n', algorithm]);
    context.update(public);
    let digest = context.finish();
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

fn hex(bytes: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(bytes))
}

/// The text of a key.
pub(crate) fn text(name: &str, algorithm: u8, public: &[u8]) -> String {
    let mut key = vec![algorithm];
    key.extend_from_slice(public);
    format!("{name}+{}+{}", hex(id(name, algorithm, public)), STANDARD.encode(key))
}

/// Reads one; `None` when it is none or has another's hash.
pub(crate) fn parse(text: &str) -> Option<Vkey<'_>> {
    let (name, rest) = text.split_once('+')?;
    let (hash, key) = rest.split_once('+')?;
    let key = STANDARD.decode(key).ok()?;
    let (algorithm, public) = key.split_first()?;
    let is_own = is_name(name) && !public.is_empty() && hash == hex(id(name, *algorithm, public));
    is_own.then(|| Vkey { name, algorithm: *algorithm, public: public.to_vec() })
}
