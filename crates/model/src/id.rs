//! Typed identifiers: a prefix that names the kind, then a ULID.
//!
//! `run_01JD...` can be told from `op_01JD...` by a person in a log and by the compiler in code.
//! The text form is the only form; it sorts by creation time.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Serialize, de};

use crate::{Clock, Entropy};

/// The kind of thing an [`Id`] names; its prefix is part of the text.
pub trait Kind {
    /// Lower-case letters that open the text form, without the underscore.
    const PREFIX: &'static str;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $alias:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $kind {}
        impl Kind for $kind { const PREFIX: &'static str = $prefix; }
        $(#[$doc])*
        pub type $alias = Id<$kind>;
    )*};
}

kinds! {
    /// One governed call: a tool call, a model call or a connection.
    Action, ActionId = "act";
    /// One question to a person: may this exact call take place?
    Approval, ApprovalId = "apr";
    /// One evidence event.
    Event, EventId = "evt";
    /// Something that an agent has had kept.
    Memory, MemoryId = "mem";
    /// Files that were sent for a run and that no run has yet.
    Upload, UploadId = "upl";
    /// One operator command and the work that makes it true.
    Operation, OperationId = "op";
    /// An operator credential (never its secret).
    Operator, OperatorId = "opr";
    /// One execution of an agent version.
    Run, RunId = "run";
    /// One erasure of values of the evidence.
    Redaction, RedactionId = "red";
    /// One legal hold, which keeps values from being erased.
    Hold, HoldId = "hld";
}

/// An identifier that cannot be confused with another kind's. At most 36 bytes of ASCII.
pub struct Id<K> {
    ulid: ulid::Ulid,
    kind: PhantomData<fn() -> K>,
}

/// Why a text is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id of the form `{expected}_` and 26 letters or digits, got `{found}`")]
pub struct ParseIdError {
    expected: &'static str,
    found: String,
}

impl<K: Kind> Id<K> {
    /// A new identifier, ordered by the clock's milliseconds and unique by 80 random bits.
    pub fn new(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
        let mut random = [0_u8; 16];
        entropy.fill(&mut random);
        let millis = clock.now().unix_millis();
        Self { ulid: ulid::Ulid::from_parts(millis, u128::from_le_bytes(random)), kind: PhantomData }
    }

    /// The identifier without its kind.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 16] {
        self.ulid.to_bytes()
    }

    /// The identifier of these bytes, which are of this kind because the caller says so.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self { ulid: ulid::Ulid::from_bytes(bytes), kind: PhantomData }
    }
}

impl<K: Kind> FromStr for Id<K> {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseIdError { expected: K::PREFIX, found: text.chars().take(64).collect() };
        let rest = text.strip_prefix(K::PREFIX).and_then(|t| t.strip_prefix('_')).ok_or_else(refuse)?;
        let ulid: ulid::Ulid = rest.parse().map_err(|_| refuse())?;
        // One text per identifier: lower case and look-alike letters would otherwise also parse.
        if ulid.to_string() != rest {
            return Err(refuse());
        }
        Ok(Self { ulid, kind: PhantomData })
    }
}

impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", K::PREFIX, self.ulid)
    }
}

impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.ulid == other.ulid
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.ulid.cmp(&other.ulid)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.ulid.hash(state);
    }
}

impl<K: Kind> Serialize for Id<K> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl<K: Kind> schemars::JsonSchema for Id<K> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Id_{}", K::PREFIX).into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": format!("^{}_[0-9A-HJKMNP-TV-Z]{{26}}$", K::PREFIX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SystemClock, SystemEntropy};

    #[test]
    fn an_id_round_trips_and_keeps_its_kind() {
        let id: RunId = Id::new(&SystemClock, &SystemEntropy);
        assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
        assert!(id.to_string().parse::<OperationId>().is_err());
    }

    #[test]
    fn only_one_text_names_an_id() {
        let id: RunId = Id::new(&SystemClock, &SystemEntropy);
        assert!(id.to_string().to_lowercase().parse::<RunId>().is_err());
        assert!("run_".parse::<RunId>().is_err());
        assert!("run_../../etc/passwd".parse::<RunId>().is_err());
    }
}
