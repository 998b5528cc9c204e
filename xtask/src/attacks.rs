//! `docs/attacks.md`: each attack names tests, and each test that is named is there.
//!
//! A test is written `` `path/of/file.rs::its_name` ``. What stands in `tests/attacks.rs` stands on the page, too.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};

use crate::metadata::root;

const PAGE: &str = "docs/attacks.md";
/// A file whose tests are all of them about attacks.
const ALL_OF: &str = "tests/attacks.rs";

/// What of the page does not hold.
pub fn check() -> Result<Vec<String>> {
    let page = fs::read_to_string(root().join(PAGE)).with_context(|| format!("reading {PAGE}"))?;
    let mut found = Vec::new();
    let mut named = BTreeSet::new();
    for (number, line) in (1..).zip(page.lines()) {
        let tests: Vec<(&str, &str)> = tests_of(line).collect();
        if is_row(line) && tests.is_empty() {
            found.push(format!("{PAGE}:{number}: an attack without a test"));
        }
        for (path, name) in tests {
            named.insert((path.to_owned(), name.to_owned()));
            match fs::read_to_string(root().join(path)) {
                Ok(source) if has_test(&source, name) => {}
                Ok(_) => found.push(format!("{PAGE}:{number}: {path} has no test `{name}`")),
                Err(_) => found.push(format!("{PAGE}:{number}: there is no {path}")),
            }
        }
    }
    let source = fs::read_to_string(root().join(ALL_OF)).with_context(|| format!("reading {ALL_OF}"))?;
    for name in all_tests(&source).filter(|name| !named.contains(&(ALL_OF.to_owned(), (*name).to_owned()))) {
        found.push(format!("{ALL_OF}: `{name}` is not in {PAGE}"));
    }
    Ok(found)
}

/// Whether a line is a row of a table with something in it.
fn is_row(line: &str) -> bool {
    line.starts_with("| ") && !line.ends_with("| tests |")
}

/// The tests that a line names.
fn tests_of(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once("::")).filter(|(path, _)| path.ends_with(".rs"))
}

/// Whether a source has a test of a name that is not left out.
fn has_test(source: &str, name: &str) -> bool {
    all_tests(source).any(|test| test == name)
}

/// The names of the functions that an attribute makes a test.
fn all_tests(source: &str) -> impl Iterator<Item = &str> {
    let mut marked = false;
    source.lines().map(str::trim_start).filter_map(move |line| {
        if line.starts_with("#[") {
            let test = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            marked = (marked || test) && !line.starts_with("#[ignore");
            return None;
        }
        let was = std::mem::take(&mut marked);
        let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
        was.then(|| rest.split(['(', '<']).next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "#[test]\nfn one() {}\nfn two() {}\n    #[tokio::test(start_paused = true)]\n    async fn three() {}\n\
        #[test]\n#[ignore = \"the other side\"]\nfn four() {}\n// #[test]\nfn five() {}\n";

    #[test]
    fn a_test_is_a_function_that_runs_as_one() {
        assert_eq!(all_tests(SOURCE).collect::<Vec<_>>(), ["one", "three"]);
    }

    #[test]
    fn a_row_names_its_tests() {
        let row = "| a | by `b` | `tests/x.rs::one` and `c::d` `y/z.rs::two` |";
        assert_eq!(tests_of(row).collect::<Vec<_>>(), [("tests/x.rs", "one"), ("y/z.rs", "two")]);
        assert!(is_row(row) && !is_row("| attack | what holds | tests |") && !is_row("|---|---|"));
    }
}
