//! Licences, sources and bans of everything that goes into the product, read from `deny.toml`.
//!
//! `cargo deny check` says the same and more (advisories); it takes minutes to build and a database from
//! the network, so the check that every build makes is this one: it needs cargo alone.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, Result, ensure};

use crate::metadata::root;

/// Everything that `deny.toml` does not allow.
pub fn check() -> Result<Vec<String>> {
    let rules = std::fs::read_to_string(root().join("deny.toml")).context("reading deny.toml")?;
    let allowed = strings(&rules, "[licenses]", "allow");
    let banned = strings(&rules, "[bans]", "deny");
    ensure!(!allowed.is_empty() && !banned.is_empty(), "deny.toml has no [licenses] allow or no [bans] deny");
    let listed = tree()?;
    ensure!(listed.contains("cogward-cli "), "cargo tree does not list the workspace");
    let found =
        listed.lines().map(|line| line.trim_end_matches(" (*)")).flat_map(|line| judge(line, &allowed, &banned));
    Ok(found.collect::<BTreeSet<_>>().into_iter().collect())
}

/// What is really built, with the features that are really on: one `name version (source)|licence|` a line.
/// The lock file alone lists more, for features that nobody uses.
fn tree() -> Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--workspace", "--edges", "normal,build", "--prefix", "none"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}|{l}|"])
        .current_dir(root())
        .output()
        .context("running cargo tree")?;
    ensure!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn judge(line: &str, allowed: &BTreeSet<String>, banned: &BTreeSet<String>) -> Vec<String> {
    let mut parts = line.split('|');
    let (package, licence) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let name = package.split(' ').next().unwrap_or_default();
    if name.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if !permitted(licence, allowed) {
        found.push(format!("{package} is under `{licence}`, which deny.toml does not allow"));
    }
    // crates.io is shown without a source, our own crates with their folder.
    let elsewhere = |source: &str| source != "proc-macro)" && !source.starts_with('/');
    if package.split('(').skip(1).any(elsewhere) {
        found.push(format!("{package} does not come from crates.io"));
    }
    if banned.contains(name) {
        found.push(format!("{package} is banned by deny.toml"));
    }
    found
}

/// The texts of one list of a section; names in tables (`{ crate = "x" }`) count too.
fn strings(toml: &str, section: &str, key: &str) -> BTreeSet<String> {
    let mut lines = toml.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let opening = format!("{key} = [");
    let list = lines.by_ref().take_while(|line| !line.starts_with('[')).skip_while(|line| !line.starts_with(&opening));
    let mut all = BTreeSet::new();
    for line in list {
        let code = line.split('#').next().unwrap_or_default();
        let listed = code.split("reason").next().unwrap_or_default();
        all.extend(listed.split('"').skip(1).step_by(2).map(str::to_owned));
        if code.trim_end().ends_with(']') {
            break;
        }
    }
    all
}

/// Whether a licence expression (SPDX, or the old `A/B`) can be met with allowed licences alone.
fn permitted(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = either(&mut words, allowed, 0);
    met == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allowed: &BTreeSet<String>, depth: u8) -> Option<bool> {
    let mut met = both(words, allowed, depth)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= both(words, allowed, depth)?;
    }
    Some(met)
}

fn both(words: &mut Words<'_>, allowed: &BTreeSet<String>, depth: u8) -> Option<bool> {
    let mut met = one(words, allowed, depth)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed, depth)?;
    }
    Some(met)
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>, depth: u8) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let met = (depth < 16).then(|| either(words, allowed, depth + 1))??;
        return words.next_if_eq(&")").map(|_| met);
    }
    let mut licence = word.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{word} WITH {}", words.next()?);
    }
    Some(allowed.contains(&licence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_met_only_by_what_is_allowed() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
        for fine in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "GPL-2.0 OR Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(permitted(fine, &allowed), "{fine}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT",
            "MIT )",
            "MIT Apache-2.0",
            "MIT OR",
            "GPL-2.0 WITH LLVM-exception",
        ] {
            assert!(!permitted(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn each_line_is_judged_by_licence_source_and_name() {
        let (allowed, banned) = (["MIT".to_owned()].into(), ["openssl".to_owned()].into());
        for fine in ["serde v1.0.0|MIT|", "derive v1.0.0 (proc-macro)|MIT|", "ours v0.1.0 (/here)|MIT|", ""] {
            assert_eq!(judge(fine, &allowed, &banned), Vec::<String>::new());
        }
        for bad in [
            "a v1|GPL-3.0|",
            "a v1||",
            "a v1 (https://example.com/a#1)|MIT|",
            "openssl v1|MIT|",
            "a v1 (registry `x`)|MIT|",
        ] {
            assert_eq!(judge(bad, &allowed, &banned).len(), 1, "{bad}");
        }
    }

    #[test]
    fn lists_are_read_from_their_own_section() {
        let toml = "[a]\nallow = [\"no\"]\n[licenses]\n# c\nallow = [\n  \"MIT\", # \"why\"\n  \"Zlib\",\n]\nother = [\"no\"]\n\
                    [bans]\ndeny = [\n  { crate = \"openssl\", reason = \"one TLS\" },\n]\n";
        assert_eq!(strings(toml, "[licenses]", "allow"), ["MIT", "Zlib"].map(str::to_owned).into());
        assert_eq!(strings(toml, "[bans]", "deny"), ["openssl"].map(str::to_owned).into());
    }
}
