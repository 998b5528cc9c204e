//! The names that people give: tenants, agents, versions, upstreams, tools.
//!
//! Each kind has its own type and one alphabet, so that a name can stand in a path, a URL, a log
//! line and a policy without quoting, and no two names look alike.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, de};

/// Why a text is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not {kind}: {rule}")]
pub struct ParseNameError {
    kind: &'static str,
    rule: &'static str,
    found: String,
}

fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last() != Some(&b'-')
}

fn is_version(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn is_tool(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

fn is_role(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
        && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}

fn is_content(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $check:ident, $kind:literal, $rule:literal, $pattern:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl FromStr for $name {
            type Err = ParseNameError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if $check(text) { return Ok(Self(text.into())); }
                Err(ParseNameError { kind: $kind, rule: $rule, found: text.chars().take(64).collect() })
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.serialize_str(&self.0) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    )*};
}

names! {
    /// A tenant: a part of the estate with its own agents, budgets, evidence and keys.
    TenantName, is_dns_label, "a tenant name",
        "use 1 to 63 lower-case letters, digits and hyphens, starting with a letter", "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$";
    /// A registered agent, unique within its tenant.
    AgentName, is_dns_label, "an agent name",
        "use 1 to 63 lower-case letters, digits and hyphens, starting with a letter", "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$";
    /// A tool server or a model provider, unique within its tenant and kind.
    UpstreamName, is_dns_label, "an upstream name",
        "use 1 to 63 lower-case letters, digits and hyphens, starting with a letter", "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$";
    /// A role of operators, as policies name it: `finance-approver`.
    RoleName, is_role, "a role",
        "use 1 to 63 lower-case letters, digits, `.`, `-` and `_`, starting with a letter", "^[a-z][a-z0-9._-]{0,62}$";
    /// The label a person gives to a version of an agent; the digest is its identity.
    VersionLabel, is_version, "a version",
        "use 1 to 64 letters, digits, `.`, `-`, `_` and `+`, starting with a letter or digit", "^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$";
    /// A tool as its server names it (MCP 2025-11-25, tool names).
    ToolName, is_tool, "a tool name",
        "use 1 to 128 letters, digits, `_`, `-` and `.`", "^[A-Za-z0-9_.-]{1,128}$";
    /// A label that an operator gives to the data of a tool: `personal`, `public`.
    DataLabel, is_dns_label, "a data label",
        "use 1 to 63 lower-case letters, digits and hyphens, starting with a letter", "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$";
    /// An input or an output of a run; it is a file's name in the sandbox and on the host.
    ContentName, is_content, "the name of an input or output",
        "use 1 to 64 letters, digits, `.`, `-` and `_`, starting with a letter or digit", "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
}

impl TenantName {
    /// The tenant that a fresh plane has.
    #[must_use]
    pub fn default_tenant() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_or_look_alike_are_refused() {
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", "ä", "а", "a\0", &"a".repeat(64)] {
            assert!(bad.parse::<TenantName>().is_err(), "{bad:?}");
        }
        for bad in ["", "a/b", "read\u{200b}file", "a b", &"a".repeat(129)] {
            assert!(bad.parse::<ToolName>().is_err(), "{bad:?}");
        }
        assert!("..".parse::<VersionLabel>().is_err());
        for bad in ["", ".", "..", ".hidden", "-o", "a/b", "a b", "a\n", "é", &"a".repeat(65)] {
            assert!(bad.parse::<ContentName>().is_err(), "{bad:?}");
        }
        assert!("Claims_2026.csv".parse::<ContentName>().is_ok());
        assert!("1.0.0-rc.1+build".parse::<VersionLabel>().is_ok());
    }
}
