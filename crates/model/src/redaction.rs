//! Erasing values of the evidence, and holding them: what, on which ground, and where it stands.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de};

use crate::{AgentName, RunId, Timestamp};

/// Longest name of a person, in bytes.
pub const PERSON_BYTES_MAX: usize = 512;
/// Longest name of a legal ground, in bytes.
pub const GROUND_BYTES_MAX: usize = 64;

/// What is to be erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ErasureScope {
    /// Every hidden value of records that were made for this person, or name the person.
    Subject(String),
    /// Every hidden value of a run.
    Run(RunId),
    /// One field of one record.
    Field {
        /// The number of the leaf in the tenant's log.
        leaf: u64,
        /// The field.
        name: String,
    },
}

impl ErasureScope {
    /// The word for its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Run(_) => "run",
            Self::Field { .. } => "field",
        }
    }
}

/// What a legal hold keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HoldScope {
    /// Everything about a person.
    Subject(String),
    /// Everything of a run.
    Run(RunId),
    /// Everything of an agent.
    Agent(AgentName),
    /// Everything that was recorded in a time.
    Window {
        /// From this time on.
        from: Timestamp,
        /// Before this time; without an end while it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
}

impl HoldScope {
    /// The word for its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Run(_) => "run",
            Self::Agent(_) => "agent",
            Self::Window { .. } => "window",
        }
    }
}

/// The legal ground of an erasure: `gdpr-17-1-a` to `gdpr-17-1-f`, or the name of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LegalGround(String);

/// The text names no ground.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a ground is `gdpr-17-1-a` to `gdpr-17-1-f`, or another name of lower-case letters, digits, `-` and `.` with at \
     most {GROUND_BYTES_MAX} bytes"
)]
pub struct ParseGroundError;

impl LegalGround {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the ground says, where it is one of the GDPR's.
    #[must_use]
    pub fn meaning(&self) -> Option<&'static str> {
        Some(match self.0.strip_prefix("gdpr-17-1-")? {
            "a" => "the data are no longer necessary for their purpose (GDPR 17(1)(a))",
            "b" => "consent was withdrawn and there is no other ground (GDPR 17(1)(b))",
            "c" => "the data subject objected (GDPR 17(1)(c))",
            "d" => "the data were processed unlawfully (GDPR 17(1)(d))",
            "e" => "a legal obligation demands the erasure (GDPR 17(1)(e))",
            "f" => "the data were collected from a child for an online service (GDPR 17(1)(f))",
            _ => return None,
        })
    }
}

impl FromStr for LegalGround {
    type Err = ParseGroundError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let shaped = (2..=GROUND_BYTES_MAX).contains(&text.len())
            && text.bytes().all(allowed)
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let ground = Self(text.to_owned());
        // A letter that Article 17(1) does not have is a slip, not another law.
        if !shaped || (text.starts_with("gdpr-17-1") && ground.meaning().is_none()) {
            return Err(ParseGroundError);
        }
        Ok(ground)
    }
}

impl fmt::Display for LegalGround {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for LegalGround {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for LegalGround {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LegalGround".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "pattern": "^[a-z0-9][a-z0-9.-]*$", "minLength": 2, "maxLength": GROUND_BYTES_MAX,
        })
    }
}

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }
        impl $name {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The word.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.as_str()) }
        }
    };
}

states! {
    /// Where an erasure is.
    RedactionState {
        /// Nobody has answered.
        Requested = "requested",
        /// Another operator approved it; nothing is erased yet.
        Approved = "approved",
        /// An operator refused it.
        Denied = "denied",
        /// The keys are being destroyed; a plane that is started again goes on with it.
        Executing = "executing",
        /// The keys are destroyed and the ledger says so.
        Executed = "executed",
    }
}

states! {
    /// Where a legal hold is.
    HoldState {
        /// One operator asked for it. It holds already.
        Requested = "requested",
        /// Another operator placed it.
        Placed = "placed",
        /// One operator asked for its release. It still holds.
        Releasing = "releasing",
        /// Another operator released it.
        Released = "released",
    }
}

impl HoldState {
    /// Whether nothing in the scope may be erased.
    #[must_use]
    pub fn holds(self) -> bool {
        self != Self::Released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ground_is_one_of_article_17_or_a_name() {
        for good in ["gdpr-17-1-a", "gdpr-17-1-f", "hipaa-164.526", "court-order"] {
            assert_eq!(good.parse::<LegalGround>().unwrap().as_str(), good);
        }
        for bad in ["", "x", "gdpr-17-1-g", "gdpr-17-1", "GDPR-17-1-a", "because anna wants it", "-x", &"a".repeat(65)]
        {
            assert!(bad.parse::<LegalGround>().is_err(), "{bad}");
        }
    }

    #[test]
    fn scopes_have_one_form() {
        let scope: ErasureScope = serde_json::from_str(r#"{"field":{"leaf":7,"name":"args"}}"#).unwrap();
        assert_eq!(scope, ErasureScope::Field { leaf: 7, name: "args".to_owned() });
        assert_eq!(serde_json::to_string(&ErasureScope::Subject("a".into())).unwrap(), r#"{"subject":"a"}"#);
        assert!(serde_json::from_str::<HoldScope>(r#"{"window":{"since":1}}"#).is_err());
    }
}
