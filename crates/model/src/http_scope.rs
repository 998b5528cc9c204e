//! Which paths of a host may be asked for.
//!
//! The server behind a path reads it in its own way: it may resolve `..` after decoding, decode twice, merge
//! slashes or cut off `;parameters`. A path that two readers could read differently is therefore in no scope,
//! except in the one that holds every path.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest pattern of paths.
const PATTERN_BYTES_MAX: usize = 1_024;

/// A pattern of paths: segments as they are, `*` for exactly one segment, `/*` at the end for everything below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct PathPattern(String);

/// Why a text is not a pattern of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It does not begin with `/`.
    #[error("a path begins with `/`")]
    Start,
    /// Longer than any path needs.
    #[error("a path has at most {PATTERN_BYTES_MAX} characters")]
    Length,
    /// A `*` that is only a part of a segment.
    #[error("`*` stands for a whole segment, as in `/repos/*/issues` and `/v1/*`")]
    Star,
    /// A path that servers read in different ways.
    #[error("a path has no `.`, `..` or empty segments, no query, and no encoded `.`, `/`, `\\` or `%`")]
    Ambiguous,
}

impl PathPattern {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it holds every path.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0 == "/*"
    }

    /// Whether a path, as it was sent and without its query, is within the pattern.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        if self.is_everything() {
            return path.starts_with('/');
        }
        if !is_unambiguous(path) {
            return false;
        }
        let mut wanted = self.0.split('/').peekable();
        let mut given = path.split('/');
        while let Some(want) = wanted.next() {
            let Some(segment) = given.next() else { return false };
            if want == "*" {
                if wanted.peek().is_none() {
                    return true;
                }
                if segment.is_empty() {
                    return false;
                }
            } else if want != segment {
                return false;
            }
        }
        given.next().is_none()
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            return Err(PatternError::Start);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::Length);
        }
        if text.split('/').any(|segment| segment.contains('*') && segment != "*") {
            return Err(PatternError::Star);
        }
        if !is_unambiguous(text) {
            return Err(PatternError::Ambiguous);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for PathPattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether every server reads a path in the same way.
#[must_use]
pub fn is_unambiguous(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'?' | b'#')) {
        return false;
    }
    if !escapes_are_plain(path) {
        return false;
    }
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        // What stands before `;` is the segment to servers that know path parameters.
        let name = segment.split(';').next().unwrap_or_default();
        let is_last = segments.peek().is_none();
        if name == "." || name == ".." || (name.is_empty() && (!is_last || !segment.is_empty())) {
            return false;
        }
    }
    true
}

/// Whether each `%` begins an escape, none hides a character that changes what a path means, and all of it is UTF-8:
/// what is not is read in different ways (`%c0%ae` is a dot to some).
fn escapes_are_plain(path: &str) -> bool {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else { return false };
        let hidden = u8::try_from(high * 16 + low).unwrap_or(0);
        if hidden < 0x20 || matches!(hidden, 0x7f | b'.' | b'/' | b'\\' | b'%' | b';' | b'?' | b'#') {
            return false;
        }
        decoded.push(hidden);
    }
    std::str::from_utf8(&decoded).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_holds_what_it_says_and_nothing_beside() {
        for (text, inside, outside) in [
            ("/v1/models", vec!["/v1/models"], vec!["/v1/models/", "/v1/model", "/v1/models/x", "/V1/models", "/"]),
            (
                "/v1/*",
                vec!["/v1/", "/v1/a", "/v1/a/b", "/v1/a%20b", "/v1/caf%C3%A9"],
                vec!["/v1", "/v2/a", "/v11/a", "/"],
            ),
            (
                "/repos/*/issues",
                vec!["/repos/a/issues"],
                vec!["/repos//issues", "/repos/a/b/issues", "/repos/a/issues/1"],
            ),
            ("/repos/*/*", vec!["/repos/a/b/c"], vec!["/repos//b", "/repos/a"]),
            ("/*", vec!["/", "/a", "/a/../b", "/a%2Fb"], vec!["*", ""]),
            ("/", vec!["/"], vec!["/a", "//"]),
        ] {
            for path in inside {
                assert!(pattern(text).holds(path), "{text} {path}");
            }
            for path in outside {
                assert!(!pattern(text).holds(path), "{text} {path}");
            }
        }
    }

    #[test]
    fn no_spelling_leads_out_of_a_pattern() {
        for path in [
            "/v1/../admin",
            "/v1/..",
            "/v1/./x",
            "/v1/%2e%2e/admin",
            "/v1/.%2E/admin",
            "/v1/%252e%252e/admin",
            "/v1/..%2fadmin",
            "/v1/..%5cadmin",
            "/v1/..\\admin",
            "/v1/..;/admin",
            "/v1/..;a=b/admin",
            "/v1/.%3b/admin",
            "/v1//../admin",
            "//v1/a",
            "/v1/;/x",
            "/v1/%00",
            "/v1/%c0%ae%c0%ae/admin",
            "/v1/%e0%80%af",
            "/v1/%ff",
            "/v1/%c3",
            "/v1/%zz",
            "/v1/%",
            "/v1/a b",
            "/v1/\u{e9}",
            "/v1/a#b",
            "/v1/a?b",
        ] {
            assert!(!pattern("/v1/*").holds(path), "{path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_not_one() {
        for (text, error) in [
            ("", PatternError::Start),
            ("v1", PatternError::Start),
            ("*", PatternError::Start),
            ("/v*", PatternError::Star),
            ("/**", PatternError::Star),
            ("/v1/../x", PatternError::Ambiguous),
            ("/v1?x", PatternError::Ambiguous),
            ("//", PatternError::Ambiguous),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(error), "{text}");
        }
        assert_eq!("/a".repeat(600).parse::<PathPattern>(), Err(PatternError::Length));
    }

    proptest! {
        #[test]
        fn a_path_within_a_subtree_never_resolves_out_of_it(path in "(/|\\.|%2e|%2f|%5c|;|a|v1|\\\\|%25){0,16}") {
            let sent = format!("/v1/{path}");
            if pattern("/v1/*").holds(&sent) {
                // The most generous reader there is: decodes twice, drops parameters, resolves dots.
                let mut read = sent.to_lowercase();
                for _ in 0..2 {
                    read = read.replace("%25", "%").replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
                }
                let mut resolved: Vec<&str> = Vec::new();
                let whole = read.replace('\\', "/");
                for segment in whole.split('/') {
                    match segment.split(';').next().unwrap_or("") {
                        "" | "." => {}
                        ".." => { resolved.pop(); }
                        name => resolved.push(name),
                    }
                }
                prop_assert_eq!(resolved.first().copied(), Some("v1"));
            }
        }
    }
}
