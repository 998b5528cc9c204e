//! The path of an operation: literal parts and places for parameters.

use crate::encode::is_dots;

/// A part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// As it is sent.
    Literal(String),
    /// The value of a parameter, by its name on the wire.
    Place(String),
}

/// Reads `/invoices/{id}.json`. What could lead elsewhere than below the API's address is refused.
pub(crate) fn parse(path: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    let mut rest = path.strip_prefix('/').ok_or("its path does not begin with `/`")?;
    if rest.starts_with('/') || rest.contains("//") {
        return Err("its path has an empty segment");
    }
    if path.split('/').any(is_dots) {
        return Err("its path has a segment `.` or `..`");
    }
    let mut literal = "/".to_owned();
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("its path has `{` without `}`")?;
        if name.is_empty() || name.contains(['{', '/']) {
            return Err("its path has a place without a name");
        }
        if parts.contains(&Part::Place(name.to_owned())) {
            return Err("its path has one place twice");
        }
        literal.push_str(before);
        parts.push(Part::Literal(std::mem::take(&mut literal)));
        parts.push(Part::Place(name.to_owned()));
        rest = after;
    }
    literal.push_str(rest);
    parts.push(Part::Literal(literal));
    let good = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&b));
    let all_good = parts.iter().all(|part| !matches!(part, Part::Literal(text) if !good(text)));
    if all_good { Ok(parts) } else { Err("its path has a character that a path has only escaped") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_a_path() {
        let place = |name: &str| Part::Place(name.into());
        let literal = |text: &str| Part::Literal(text.into());
        assert_eq!(parse("/").unwrap(), [literal("/")]);
        assert_eq!(parse("/a/{b}.json").unwrap(), [literal("/a/"), place("b"), literal(".json")]);
        for bad in [
            "",
            "a",
            "//evil.example/a",
            "https://evil.example/a",
            "/a//b",
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/..;x/b",
            "/a?b=c",
            "/a#b",
            "/a/{b",
            "/a/{}",
            "/a/{b/c}",
            "/{a}/{a}",
            "/a}b",
            "/a b",
            "/a\\b",
            "/a%2fb",
            "/a\r\nb",
            "/ä",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
