//! `docs/limits.md`: every bound of the code, with its value and its reason, as the code has them.
//!
//! A bound is a constant whose name ends like one ([`ENDS`]), outside of tests. The page is read from the constants and
//! their comments, so that no bound is missing from it and none is told wrongly.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::metadata::root;

/// How the names of bounds end.
const ENDS: [&str; 8] = ["_MAX", "_MIN", "_EVERY", "_BURST", "_INTERVAL_MS", "_RESERVE_BYTES", "_SLOTS", "_SHARE"];
/// The crates whose bounds are on the page, in the order in which a reader asks for them.
const CRATES: [(&str, &str); 18] = [
    ("model", "What several parts share"),
    ("sandbox", "Sandboxes and their supervisors"),
    ("engine", "Runs"),
    ("gateway", "What an agent may send, hold and be sent"),
    ("openapi", "Tools out of OpenAPI documents"),
    ("policy", "Policies"),
    ("memory", "Memory"),
    ("registry", "Manifests and packages"),
    ("budget", "Budgets"),
    ("identity", "Operators and credentials"),
    ("evidence", "Evidence"),
    ("wal", "The write-ahead log"),
    ("ledger", "Leaves, trees and their verification"),
    ("journal", "Operational events"),
    ("store", "State"),
    ("server", "The API"),
    ("api", "The wire types of the API"),
    ("cli", "The command line"),
];
const PAGE: &str = "docs/limits.md";
const BEGIN: &str = "<!-- bounds: begin -->\n";

/// One constant.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    name: String,
    /// Its value as a reader says it.
    value: String,
    /// Its comment.
    says: String,
}

/// What of the page is not as the code is.
pub fn check() -> Result<Vec<String>> {
    let path = root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("reading {PAGE}"))?;
    let (wanted, mut found) = generated()?;
    match page.split_once(BEGIN) {
        Some((_, current)) if current == wanted => {}
        Some(_) => found.push(format!("{PAGE}: not as the code is; `cargo xtask limits --write` writes it anew")),
        None => found.push(format!("{PAGE}: has no line {BEGIN}")),
    }
    Ok(found)
}

/// Writes the page anew.
pub fn write() -> Result<()> {
    let path = root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("reading {PAGE}"))?;
    let (head, _) = page.split_once(BEGIN).with_context(|| format!("{PAGE} has no line {BEGIN}"))?;
    Ok(fs::write(&path, format!("{head}{BEGIN}{}", generated()?.0))?)
}

/// The part of the page that is read from the code, and the bounds that say nothing about themselves.
fn generated() -> Result<(String, Vec<String>)> {
    let (mut text, mut silent) = (String::new(), Vec::new());
    for (name, title) in CRATES {
        let mut rows = String::new();
        let source = root().join("crates").join(name).join("src");
        for path in sources(&source)? {
            let shown = path.strip_prefix(&source).unwrap_or(&path).with_extension("");
            let shown = shown.display().to_string().replace("/mod", "");
            for bound in bounds(&fs::read_to_string(&path)?) {
                if bound.says.is_empty() {
                    silent.push(format!("{}: {} has no comment", path.display(), bound.name));
                }
                let says = bound.says.replace('|', "\\|");
                let _ = writeln!(rows, "| {} | {says} | `{shown}` `{}` |", bound.value, bound.name);
            }
        }
        if !rows.is_empty() {
            let _ = write!(text, "\n## {title}\n\n| bound | of what | in crate `{name}` |\n|---|---|---|\n{rows}");
        }
    }
    Ok((text, silent))
}

/// The files of a crate that are not tests, in a stable order.
fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            if path.is_dir() && stem != "tests" {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !matches!(stem, "tests" | "testing") {
                all.push(path);
            }
        }
    }
    all.sort();
    Ok(all)
}

fn bounds(source: &str) -> Vec<Bound> {
    let (mut all, mut says, mut values) = (Vec::new(), String::new(), BTreeMap::new());
    for line in source.lines() {
        if line.starts_with("#[cfg(test)]") || line.starts_with("mod tests {") {
            break;
        }
        let line = line.trim_start();
        if let Some(text) = line.strip_prefix("/// ") {
            let _ = write!(says, "{}{text}", if says.is_empty() { "" } else { " " });
            continue;
        }
        if let Some((name, expression)) = constant(line)
            && ENDS.iter().any(|end| name.ends_with(end))
        {
            let value = product(expression, &values);
            if let Some(value) = value {
                values.insert(name.to_owned(), value);
            }
            let value = said(name, expression, value);
            all.push(Bound { name: name.to_owned(), value, says: plain(&says) });
        }
        if !line.starts_with("#[") {
            says.clear();
        }
    }
    all
}

/// The name and the expression of a constant that is on one line.
fn constant(line: &str) -> Option<(&str, &str)> {
    let rest =
        ["pub const ", "pub(crate) const ", "pub(super) const ", "const "].iter().find_map(|s| line.strip_prefix(s));
    let (name, rest) = rest?.split_once(':')?;
    let (_, expression) = rest.split_once('=')?;
    Some((name.trim(), expression.trim().strip_suffix(';')?))
}

/// A product, or a shift, of numbers and of constants that came before.
fn product(expression: &str, values: &BTreeMap<String, u64>) -> Option<u64> {
    let one = |text: &str| -> Option<u64> {
        let text = text.trim();
        let name = text.rsplit("::").next().unwrap_or(text);
        values.get(name).copied().or_else(|| text.replace('_', "").parse().ok())
    };
    if let Some((number, by)) = expression.split_once("<<") {
        return one(number)?.checked_shl(u32::try_from(one(by)?).ok()?);
    }
    expression.split('*').map(one).try_fold(1_u64, |all, factor| all.checked_mul(factor?))
}

/// A value in the unit that its name or its type says.
fn said(name: &str, expression: &str, value: Option<u64>) -> String {
    for (unit, word) in [("from_secs(", "s"), ("from_millis(", "ms"), ("from_micros(", "µs")] {
        if let Some(number) = expression.split_once(unit).and_then(|(_, rest)| rest.strip_suffix(')')) {
            return match product(number, &BTreeMap::new()) {
                Some(number) => format!("{} {word}", grouped(number)),
                None => format!("`{number}` {word}"),
            };
        }
    }
    let Some(value) = value else { return format!("`{expression}`") };
    let is = |part: &str| name.split('_').any(|p| p == part);
    let whole = |unit: u64| value >= unit && value.is_multiple_of(unit);
    match () {
        () if is("MIB") => format!("{} MiB", grouped(value)),
        () if is("KIB") => format!("{} KiB", grouped(value)),
        () if is("MS") && whole(1_000) => format!("{} s", grouped(value / 1_000)),
        () if is("MS") => format!("{} ms", grouped(value)),
        () if is("BYTES") && whole(1 << 20) => format!("{} MiB", grouped(value >> 20)),
        () if is("BYTES") && whole(1 << 10) => format!("{} KiB", grouped(value >> 10)),
        () if is("BYTES") => format!("{} bytes", grouped(value)),
        () => grouped(value),
    }
}

fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A comment without the brackets of its links.
fn plain(says: &str) -> String {
    says.replace("[`", "`").replace("`]", "`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_with_their_reasons_and_values() {
        let source = "/// Most bytes,\n/// of [`Thing`].\npub const A_BYTES_MAX: usize = 4 * 1024;\nconst B_MAX: u64 = 2 * A_BYTES_MAX;\n\
                      /// How long.\n#[doc(hidden)]\npub(crate) const C_EVERY: Duration = Duration::from_secs(3_600);\n\
                      /// Not a bound.\nconst OTHER: usize = 1;\n/// Odd.\nconst D_MAX: usize = size_of::<u8>();\n\
                      /// Shifted.\nconst E_BYTES_MAX: usize = 1 << 14;\n#[cfg(test)]\nmod tests {\nconst F_MAX: u8 = 1;\n}";
        let found = bounds(source);
        let row =
            |name: &str, value: &str, says: &str| Bound { name: name.into(), value: value.into(), says: says.into() };
        let wanted = [
            row("A_BYTES_MAX", "4 KiB", "Most bytes, of `Thing`."),
            row("B_MAX", "8,192", ""),
            row("C_EVERY", "3,600 s", "How long."),
            row("D_MAX", "`size_of::<u8>()`", "Odd."),
            row("E_BYTES_MAX", "16 KiB", "Shifted."),
        ];
        assert_eq!(found, wanted);
    }
}
