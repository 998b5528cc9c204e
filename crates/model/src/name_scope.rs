//! Which names of a tool server's resources and prompts may be asked for.
//!
//! A pattern is the name itself, or has `*` for any characters. A name that its server may read in another way
//! than it is written (`..` between slashes, encoded or not) is held only by its own text and by `*` alone.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 512;
/// Most `*` in one pattern; each multiplies what a comparison costs at worst.
const STARS_MAX: usize = 4;

/// A pattern of names: the name as it is, `*` for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct NamePattern(String);

/// Why a text is not a pattern of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NamePatternError {
    /// Empty, or longer than any name needs.
    #[error("a pattern has 1 to {PATTERN_BYTES_MAX} bytes")]
    Length,
    /// More of them than a person can follow.
    #[error("a pattern has at most {STARS_MAX} `*`")]
    Stars,
    /// Characters that no name has.
    #[error("a pattern has no control characters")]
    Control,
}

impl NamePattern {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it holds every name.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0 == "*"
    }

    /// Whether a name is within the pattern.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        self.is_everything() || self.0 == name || (self.0.contains('*') && is_plain(name) && fits(&self.0, name))
    }
}

/// Whether everyone reads a name in the same way.
fn is_plain(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let encoded = ["%2e", "%2f", "%5c", "%25"].iter().any(|code| lower.contains(code));
    let climbs = name.split(['/', '\\']).any(|segment| matches!(segment, "." | ".."));
    !encoded && !climbs && !name.contains('\\') && !name.chars().any(char::is_control)
}

/// Whether the parts between the stars stand in the name in their order. The first match of each is as good as any.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part).and_then(|at| rest.get(at + part.len()..)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl FromStr for NamePattern {
    type Err = NamePatternError;
    fn from_str(text: &str) -> Result<Self, NamePatternError> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(NamePatternError::Length);
        }
        if text.chars().any(char::is_control) {
            return Err(NamePatternError::Control);
        }
        if text.matches('*').count() > STARS_MAX {
            return Err(NamePatternError::Stars);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for NamePattern {
    type Error = NamePatternError;
    fn try_from(text: String) -> Result<Self, NamePatternError> {
        text.parse()
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(pattern: &str, name: &str) -> bool {
        pattern.parse::<NamePattern>().unwrap().holds(name)
    }

    #[test]
    fn a_name_is_held_by_its_text_and_by_stars() {
        for (pattern, name, held) in [
            ("file:///data/a", "file:///data/a", true),
            ("file:///data/a", "file:///data/ab", false),
            ("file:///data/*", "file:///data/x/y", true),
            ("file:///data/*", "file:///other", false),
            ("*.md", "notes.md", true),
            ("*.md", "notes.md.exe", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
        ] {
            assert_eq!(holds(pattern, name), held, "{pattern} {name}");
        }
    }

    #[test]
    fn a_name_that_could_lead_elsewhere_is_held_only_by_its_own_text() {
        for name in [
            "file:///data/../etc",
            "file:///data/%2e%2e/etc",
            "file:///data/..%2Fetc",
            "file:///data\\..\\etc",
            "file:///data/%252e",
        ] {
            assert!(!holds("file:///*", name), "{name}");
            assert!(holds(name, name) && holds("*", name), "{name}");
        }
    }

    #[test]
    fn bounds_hold() {
        assert_eq!("".parse::<NamePattern>(), Err(NamePatternError::Length));
        assert_eq!("x".repeat(513).parse::<NamePattern>(), Err(NamePatternError::Length));
        assert_eq!("*****".parse::<NamePattern>(), Err(NamePatternError::Stars));
        assert_eq!("a\nb".parse::<NamePattern>(), Err(NamePatternError::Control));
    }

    proptest! {
        #[test]
        fn what_replaces_a_star_is_held(head in "[a-z:/]{0,8}", tail in "[a-z]{0,8}", middle in "[a-z0-9_-]{0,16}") {
            let pattern = format!("{head}*{tail}");
            let name = format!("{head}{middle}{tail}");
            prop_assert!(holds(&pattern, &name));
        }
    }
}
