//! What a start would otherwise have to read all decisions for, carried from one plane to the next.
//!
//! What it is, only the plane knows; here it is a text that belongs to a place in the log. It is kept sealed beside
//! the log, and handed out only when the leaf at that place is the one that it was made behind: in every other case
//! the whole log is read. An old one is as good as a new one, because what came since is read again. Names of
//! persons are not in it: a [`SealedName`] is the value as the log has it, and opens as long as the log's does.

use std::io;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use cogward_ledger::leaf::leaf_hash;
use cogward_model::{TenantName, id::EventId};
use cogward_wal::Position;
use serde::{Deserialize, Serialize};

use crate::{
    durable,
    keys::TenantKeys,
    read::{Kept, ReadError, walk},
    record::Evidence,
    snapshot,
    vault::{self, Openable, Sealed},
};

/// What is carried for a full history of some dozens of tenants is a tenth of this.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
const FORM: &[u8] = b"cogward carried decisions v1";
const FIELD: &str = "sub";

/// A place behind a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    segment: u64,
    offset: u64,
    /// The leaf's hash.
    leaf: cogward_ledger::Hash,
}

impl Mark {
    pub(crate) fn behind(at: Position, leaf: &[u8]) -> Self {
        Self { segment: at.segment, offset: at.offset, leaf: leaf_hash(leaf) }
    }

    pub(crate) fn at(&self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }

    pub(crate) fn is_behind(&self, at: Position, leaf: &[u8]) -> bool {
        *self == Self::behind(at, leaf)
    }

    /// The segment that its leaf is in.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.segment
    }
}

/// The end of the log at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Committed(pub(crate) Position);

impl Committed {
    /// The segment that it is in.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.0.segment
    }
}

/// The name of a person as a record has it: sealed under a key that erasing the person destroys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedName {
    event: EventId,
    sealed: Vec<u8>,
}

impl SealedName {
    /// The name among the sealed values of a leaf.
    pub(crate) fn among(event: EventId, sealed: &[Vec<u8>]) -> Option<Self> {
        let named = |frame: &&Vec<u8>| Sealed::peek(frame).is_some_and(|(_, field)| field == FIELD);
        Some(Self { event, sealed: sealed.iter().find(named)?.clone() })
    }

    fn open(&self, keys: &TenantKeys, tenant: &TenantName) -> Result<Kept<String>, ReadError> {
        let Some(sealed) = Sealed::parse(&self.sealed) else { return Ok(Kept::Lost) };
        let event = self.event.to_string();
        let Openable::With(key, sealed) = vault::key_of(keys, &event, sealed)? else { return Ok(Kept::Lost) };
        Ok(match sealed.open(&key, tenant.as_str(), &event).and_then(|disclosure| disclosure.open()) {
            Some((_, serde_json::Value::String(name))) => Kept::Known(name),
            _ => Kept::Lost,
        })
    }
}

/// What was carried, and behind which leaf it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Where it was made.
    pub upto: Mark,
    /// What the plane wrote.
    pub text: Vec<u8>,
}

impl Evidence {
    /// How far the log is committed now.
    #[must_use]
    pub fn committed(&self) -> Committed {
        Committed(self.shared.progress.end())
    }

    /// What was carried here, if it is whole and belongs to this log.
    #[must_use]
    pub fn carried(&self) -> Option<Carried> {
        let carried = self.read_carried();
        if let Err(why) = &carried {
            tracing::warn!(why, "what was carried from the last plane is not believed; all decisions are read again");
        }
        carried.ok().flatten()
    }

    fn read_carried(&self) -> Result<Option<Carried>, &'static str> {
        let path = self.shared.dir.join("carried");
        let bytes = durable::read(&path, BYTES_MAX).map_err(|_| "it cannot be read")?;
        let Some(bytes) = bytes else { return Ok(None) };
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>().ok_or("it is too short")?;
        let mut sealed = sealed.to_vec();
        let key = self.carried_key().map_err(|_| "its key cannot be read")?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.open_in_place(nonce, Aad::from(FORM), &mut sealed).map_err(|_| "its seal is not ours")?;
        let length = plain.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length)) as usize;
        let (mark, text) = plain.get(4..).and_then(|rest| rest.split_at_checked(length)).ok_or("it is cut off")?;
        let upto: Mark = serde_json::from_slice(mark).map_err(|_| "it is of another form")?;
        if !self.has(&upto) {
            return Err("it is not of this log");
        }
        Ok(Some(Carried { upto, text: text.to_vec() }))
    }

    /// Whether the leaf of a mark is where it says.
    fn has(&self, mark: &Mark) -> bool {
        let (end, mut there) = (self.shared.progress.end(), false);
        if mark.segment < self.shared.segments.first() {
            // It is not worth asking the archive: what is kept of released segments is enough.
            return false;
        }
        let read = walk(&self.shared.segments, (mark.at(), end), |at, _, leaf, _| {
            there = mark.is_behind(at, leaf);
            Ok::<_, ReadError>(false)
        });
        read.is_ok() && there
    }

    /// Keeps a text for the next start, in place of the one before.
    ///
    /// # Errors
    /// It cannot be written; the one before is still there.
    pub fn carry(&self, upto: &Mark, text: &[u8]) -> io::Result<()> {
        let mark = serde_json::to_vec(upto).map_err(io::Error::other)?;
        let length = u32::try_from(mark.len()).map_err(io::Error::other)?.to_le_bytes();
        let mut plain = Vec::with_capacity(4 + mark.len() + text.len() + AES_256_GCM.tag_len());
        [&length[..], &mark, text].iter().for_each(|part| plain.extend_from_slice(part));
        if plain.len() as u64 + 64 > BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut nonce = [0; NONCE_LEN];
        self.shared.entropy.fill(&mut nonce);
        let sealing = Nonce::assume_unique_for_key(nonce);
        let sealed = self.carried_key()?.seal_in_place_append_tag(sealing, Aad::from(FORM), &mut plain);
        sealed.map_err(|_| io::Error::other("it cannot be sealed"))?;
        durable::replace(&self.shared.dir.join("carried"), &[&nonce[..], &plain].concat())
    }

    fn carried_key(&self) -> io::Result<LessSafeKey> {
        let key = snapshot::derived_key(&self.shared.dir, &*self.shared.entropy, FORM)?;
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref());
        Ok(LessSafeKey::new(key.map_err(|_| io::Error::other("the key is of another length"))?))
    }

    /// Opens a name, as long as its person was not erased.
    ///
    /// # Errors
    /// The keys of the tenant cannot be read.
    pub fn open_name(&self, tenant: &TenantName, name: &SealedName) -> Result<Kept<String>, ReadError> {
        name.open(&*self.shared.keyring.tenant(tenant)?, tenant)
    }
}
