//! What has a pin: a tool, a resource, a template of resources, a prompt; each by its kind and its own name.
//!
//! A tool goes by its name alone. The others have their kind before it (`resource:file:///a`, `prompt:greet`), which
//! no tool's name can look like, so one text says what is meant on every wire and in every row.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de};

use crate::{ToolName, visible::hidden};

/// Longest name of a resource, template or prompt, in bytes.
const KEY_BYTES_MAX: usize = 8 * 1024;

/// A kind of what a tool server defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PinKind {
    /// A tool.
    Tool,
    /// A resource, by its URI.
    Resource,
    /// A template of resources, by its URI template.
    Template,
    /// A prompt.
    Prompt,
}

impl PinKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tool, Self::Resource, Self::Template, Self::Prompt];

    /// The word in the API and the evidence.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Resource => "resource",
            Self::Template => "template",
            Self::Prompt => "prompt",
        }
    }
}

/// One of them of a tool server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PinName {
    /// A tool.
    Tool(ToolName),
    /// Something else, by its kind and key.
    Other(OtherKind, String),
}

/// A kind that is not a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OtherKind {
    /// A resource.
    Resource,
    /// A template of resources.
    Template,
    /// A prompt.
    Prompt,
}

impl OtherKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Resource, Self::Template, Self::Prompt];

    /// As one of all kinds.
    #[must_use]
    pub const fn kind(self) -> PinKind {
        match self {
            Self::Resource => PinKind::Resource,
            Self::Template => PinKind::Template,
            Self::Prompt => PinKind::Prompt,
        }
    }
}

/// Why a text names nothing that has a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinNameError {
    /// Neither a tool nor one of the other kinds.
    #[error("it is neither the name of a tool nor `resource:…`, `template:…` or `prompt:…`")]
    Kind,
    /// Nothing, or too much.
    #[error("what has a pin has a name of 1 to {KEY_BYTES_MAX} bytes")]
    Length,
    /// Characters that a person would not see.
    #[error("what has a pin has no hidden characters in its name")]
    Hidden,
}

impl PinName {
    /// What is not a tool.
    ///
    /// # Errors
    /// [`PinNameError`] for a key that nobody could read and approve.
    pub fn other(kind: OtherKind, key: &str) -> Result<Self, PinNameError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(PinNameError::Length);
        }
        if key.chars().any(|letter| hidden(letter).is_some() || matches!(letter, '\n' | '\t')) {
            return Err(PinNameError::Hidden);
        }
        Ok(Self::Other(kind, key.to_owned()))
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> PinKind {
        match self {
            Self::Tool(_) => PinKind::Tool,
            Self::Other(kind, _) => kind.kind(),
        }
    }

    /// The tool, if it is one.
    #[must_use]
    pub fn tool(&self) -> Option<&ToolName> {
        match self {
            Self::Tool(tool) => Some(tool),
            Self::Other(..) => None,
        }
    }

    /// The name at its server, without the kind.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Tool(tool) => tool.as_str(),
            Self::Other(_, key) => key,
        }
    }
}

impl From<ToolName> for PinName {
    fn from(tool: ToolName) -> Self {
        Self::Tool(tool)
    }
}

impl FromStr for PinName {
    type Err = PinNameError;
    fn from_str(text: &str) -> Result<Self, PinNameError> {
        for kind in OtherKind::ALL {
            let rest = text.strip_prefix(kind.kind().as_str()).and_then(|rest| rest.strip_prefix(':'));
            if let Some(key) = rest {
                return Self::other(kind, key);
            }
        }
        text.parse().map(Self::Tool).map_err(|_| PinNameError::Kind)
    }
}

impl fmt::Display for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tool(tool) => fmt::Display::fmt(tool, f),
            Self::Other(kind, key) => f.pad(&format!("{}:{key}", kind.kind().as_str())),
        }
    }
}

impl Serialize for PinName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PinName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for PinName {
    fn schema_name() -> Cow<'static, str> {
        "PinName".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "minLength": 1,
            "pattern": "^([A-Za-z0-9_.-]{1,128}|(resource|template|prompt):.+)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tool_is_called_by_its_name_and_the_others_by_their_kind() {
        for (text, kind) in [
            ("read_file", PinKind::Tool),
            ("resource", PinKind::Tool),
            ("resource:file:///a b", PinKind::Resource),
            ("template:file:///{+path}", PinKind::Template),
            ("prompt:prompt:x", PinKind::Prompt),
        ] {
            let name: PinName = text.parse().unwrap();
            assert_eq!((name.kind(), name.to_string()), (kind, text.to_owned()));
        }
        for bad in ["", "resource:", "tool:read", "prompt:a\u{200b}", "prompt:a\nb", "prompt:\u{1b}[2J", "a b"] {
            assert!(bad.parse::<PinName>().is_err(), "{bad:?}");
        }
        assert!(format!("prompt:{}", "x".repeat(KEY_BYTES_MAX + 1)).parse::<PinName>().is_err());
    }

    proptest! {
        /// No two of different kinds meet under one text.
        #[test]
        fn what_is_read_is_what_was_written(text in "(resource:|template:|prompt:)?[ -~]{0,20}") {
            if let Ok(name) = text.parse::<PinName>() {
                prop_assert_eq!(name.to_string(), text);
                let again = name.to_string().parse::<PinName>();
                prop_assert_eq!(again, Ok(name));
            }
        }
    }
}
