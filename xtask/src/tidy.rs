//! How the tree is kept. Looks only at files that git tracks, so that it says the same everywhere.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::metadata::root;

/// Longest file of code, in lines, without its tests.
const LINES_MAX: usize = 600;
/// Largest tracked file: sources, not artifacts.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 9] = ["utils", "util", "helpers", "helper", "common", "manager", "misc", "stuff", "base"];
/// Ends of type names that say nothing either.
const EMPTY_TYPES: [&str; 4] = ["Manager", "Helper", "Util", "Utils"];

/// Everything that is not tidy, as `path:line: what`.
pub fn check() -> Result<Vec<String>> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().context("running git")?;
    ensure!(listed.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&listed.stderr));
    let mut found = Vec::new();
    for path in String::from_utf8(listed.stdout)?.split('\0').filter(|path| !path.is_empty()) {
        // Deleted and not yet committed.
        let Ok(bytes) = std::fs::read(root().join(path)) else { continue };
        if bytes.len() > FILE_BYTES_MAX {
            found.push(format!("{path}: larger than {FILE_BYTES_MAX} bytes"));
        }
        if is_fixture(path) {
            continue;
        }
        match String::from_utf8(bytes) {
            Ok(text) => found.extend(file(path, &text)),
            Err(_) => found.push(format!("{path}: not text in UTF-8")),
        }
    }
    Ok(found)
}

/// What one file has that it should not.
fn file(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut complain = |line: usize, what: String| found.push(format!("{path}:{line}: {what}"));
    let of = Path::new(path);
    let stem = of.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let kind = of.extension().and_then(|s| s.to_str()).unwrap_or_default();
    let generated = matches!(of.file_name().and_then(|n| n.to_str()), Some("Cargo.lock" | "package-lock.json"));

    if EMPTY_NAMES.contains(&stem) {
        complain(1, format!("the name `{stem}` says nothing about what is inside"));
    }
    if generated {
        if text.contains("\"resolved\"") {
            complain(1, "a lock file names the hosts of a registry: it must work with any mirror".to_owned());
        }
        return found;
    }
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.ends_with([' ', '\t', '\r']) {
            complain(number, "white space at the end of the line".to_owned());
        }
        if !is_test(path) {
            for home in machine_paths(line) {
                complain(number, format!("`{home}` is a path of one machine"));
            }
        }
        if ["<<<<<<< ", ">>>>>>> "].iter().any(|mark| line.starts_with(mark)) {
            complain(number, "a conflict that was not resolved".to_owned());
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        complain(text.lines().count(), "no line end at the end".to_owned());
    }
    match kind {
        "rs" => rust(path, text, &mut complain),
        "md" if !text.starts_with("# ") => complain(1, "a page begins with its title: `# Title`".to_owned()),
        "sh" if !text.contains("\nset -euo pipefail\n") => {
            complain(1, "a script goes on after an error: `set -euo pipefail` is missing".to_owned());
        }
        _ => {}
    }
    found
}

fn rust(path: &str, text: &str, complain: &mut impl FnMut(usize, String)) {
    let test = is_test(path);
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    if !test && lines > LINES_MAX {
        complain(LINES_MAX, format!("{lines} lines of code: more than {LINES_MAX} have more than one subject"));
    }
    if !test && !text.trim_start().starts_with("//!") {
        complain(1, "no module documentation: begin with `//!` and what the file is for".to_owned());
    }
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        for left in [concat!("todo", "!("), concat!("dbg", "!("), concat!("unimplemented", "!(")] {
            if code.contains(left) {
                complain(number, format!("`{left}..)` was left behind"));
            }
        }
        if let Some(name) = declared_type(code)
            && EMPTY_TYPES.iter().any(|empty| name.ends_with(empty))
        {
            complain(number, format!("the type name `{name}` says nothing about what it is"));
        }
    }
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/")
}

/// What tests feed to the code may be as broken as it needs to be.
fn is_fixture(path: &str) -> bool {
    let lock = path.ends_with("/package-lock.json");
    is_test(path) && !lock && ![".rs", ".md", ".sh", ".py"].iter().any(|kind| path.ends_with(kind))
}

fn declared_type(code: &str) -> Option<&str> {
    let rest = code.strip_prefix("pub ").or_else(|| code.strip_prefix("pub(crate) ")).unwrap_or(code);
    let rest = ["struct ", "enum ", "trait "].iter().find_map(|word| rest.strip_prefix(word))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Paths of a developer's own machine. What a hostile agent tries to read is not one.
fn machine_paths(line: &str) -> impl Iterator<Item = String> {
    let homes = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    let allowed = concat!("/ro", "ot/.ssh/");
    homes.into_iter().filter(move |home| line.replace(allowed, "").contains(home)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOC: &str = "//! What it is for.\n";

    #[test]
    fn a_tidy_file_is_left_alone() {
        assert_eq!(file("crates/a/src/gate.rs", &format!("{DOC}\npub struct Gate;\n")), Vec::<String>::new());
        assert_eq!(file("docs/a.md", "# Title\n\nText.\n"), Vec::<String>::new());
    }

    #[test]
    fn each_kind_of_disorder_is_found_with_its_line() {
        let left = concat!("to", "do!()");
        for (path, text, expected) in [
            ("crates/a/src/utils.rs", DOC.to_owned(), "utils.rs:1"),
            ("crates/a/src/a.rs", "pub struct A;\n".to_owned(), "a.rs:1: no module"),
            ("crates/a/src/a.rs", format!("{DOC}fn a() {{ {left} }}\n"), "a.rs:2"),
            ("crates/a/src/a.rs", format!("{DOC}pub struct RunManager;\n"), "a.rs:2"),
            ("crates/a/src/a.rs", format!("{DOC}// x \n"), "a.rs:2: white"),
            ("crates/a/src/a.rs", DOC.trim_end().to_owned(), "a.rs:1: no line end"),
            ("crates/a/src/a.rs", format!("{DOC}{}", "fn a() {}\n".repeat(600)), "a.rs:600"),
            ("docs/a.md", "Text\n".to_owned(), "a.md:1"),
            ("docs/a.md", concat!("# A\n/ro", "ot/x\n").to_owned(), "a.md:2"),
            ("docs/a.md", "# A\n<<<<<<< ours\n".to_owned(), "a.md:2"),
            ("scripts/a.sh", "#!/bin/sh\n".to_owned(), "a.sh:1"),
            ("a/package-lock.json", "{\"resolved\": 1}\n".to_owned(), "package-lock.json:1"),
        ] {
            let found = file(path, &text);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn only_what_tests_feed_to_the_code_may_be_broken() {
        assert!(is_fixture("crates/registry/tests/corpus/encoding.yaml"));
        for held in ["tests/a.rs", "crates/a/src/a.rs", "tests/fixtures/x/package-lock.json", "examples/a/agent.yaml"] {
            assert!(!is_fixture(held), "{held}");
        }
    }

    #[test]
    fn tests_may_be_long() {
        let text = format!("{DOC}#[cfg(test)]\n{}", "fn a() {}\n".repeat(700));
        assert_eq!(file("crates/a/src/a.rs", &text), Vec::<String>::new());
        assert_eq!(file("crates/a/src/a/tests.rs", &text.replace("#[cfg(test)]\n", "")), Vec::<String>::new());
    }
}
