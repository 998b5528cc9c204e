//! Who may use whom. The product's promises are import rules here: a crate that does not know another
//! cannot go around it. A new edge is a decision, made by changing this table in review.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::Value;

use crate::metadata::{packages, text};

/// What each crate may use directly, without `cogward-`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("ledger", &["model"]),
    ("api", &["model"]),
    ("wal", &["model"]),
    ("store", &["model"]),
    ("evidence", &["model", "ledger", "wal", "store"]),
    ("journal", &["model"]),
    ("identity", &["model", "store"]),
    ("memory", &["model"]),
    ("registry", &["model", "store"]),
    ("budget", &["model"]),
    ("policy", &["model"]),
    ("openapi", &["model"]),
    ("prover", &["policy"]),
    ("sandbox", &["model"]),
    ("engine", &["model", "store", "evidence", "journal", "sandbox"]),
    ("gateway", &["model", "budget", "journal", "openapi", "policy"]),
    (
        "server",
        &[
            "model", "ledger", "api", "store", "evidence", "journal", "identity", "registry", "budget", "policy",
            "prover", "sandbox", "engine", "gateway", "memory",
        ],
    ),
    ("cli", &["model", "ledger", "api", "registry", "policy", "sandbox", "server"]),
    ("testkit", &["model", "ledger", "api"]),
];

/// What a crate must never reach, over however many others, and why.
const NEVER: &[(&str, &[&str], &str)] = &[
    ("journal", &["evidence", "ledger", "wal"], "the journal and the ledger are two artifacts"),
    ("evidence", &["journal"], "the journal and the ledger are two artifacts"),
    ("sandbox", &["gateway", "engine", "store", "evidence"], "the sandbox holds without the plane"),
    ("gateway", &["engine", "store", "sandbox"], "the gateway asks; it never changes a run"),
    ("engine", &["gateway"], "neither the engine nor the gateway vouches for the other"),
    ("memory", &["gateway", "store", "evidence", "engine"], "what agents keep is apart from what the plane keeps"),
    ("ledger", &["store", "evidence", "wal"], "an auditor builds the ledger alone"),
];

/// Crates without I/O, and what they therefore cannot use.
const PURE: [&str; 6] = ["model", "ledger", "api", "budget", "openapi", "policy"];
const IMPURE: [&str; 9] = ["tokio", "hyper", "sqlx", "rustix", "nix", "axum", "ureq", "rustls", "cogward-store"];

/// Errors without a type are for the edges: programs and tests.
const ANYHOW: [&str; 3] = ["cli", "testkit", "xtask"];

struct Member {
    uses: BTreeSet<String>,
    outside: BTreeSet<String>,
}

/// Everything that is not as the tables say.
pub fn check() -> Result<Vec<String>> {
    let members =
        packages(&["--no-deps"])?.iter().map(|package| (short(text(package, "name")), member(package))).collect();
    Ok(judge(&members))
}

fn short(name: &str) -> String {
    name.strip_prefix("cogward-").unwrap_or(name).to_owned()
}

/// Development dependencies do not ship, so they are not held to the table.
fn member(package: &Value) -> Member {
    let dependencies = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
    let names = dependencies.filter(|d| text(d, "kind") != "dev").map(|d| text(d, "name").to_owned());
    let (uses, outside): (BTreeSet<_>, BTreeSet<_>) = names.partition(|name| name.starts_with("cogward-"));
    Member { uses: uses.iter().map(|name| short(name)).collect(), outside }
}

fn judge(members: &BTreeMap<String, Member>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, member) in members {
        let Some((_, may)) = MAY_USE.iter().find(|(known, _)| known == name) else {
            if name != "xtask" {
                found.push(format!("`{name}` has no row in xtask/src/layers.rs: say what it may use"));
            }
            continue;
        };
        for used in member.uses.iter().filter(|used| !may.contains(&used.as_str())) {
            found.push(format!("`{name}` uses `{used}`: its layer may use {may:?}"));
        }
        if PURE.contains(&name.as_str()) {
            for used in member.outside.iter().filter(|used| IMPURE.contains(&used.as_str())) {
                found.push(format!("`{name}` uses `{used}`: it has no I/O and is not async"));
            }
        }
        if member.outside.contains("anyhow") && !ANYHOW.contains(&name.as_str()) {
            found.push(format!("`{name}` uses `anyhow`: its callers need errors with a type"));
        }
    }
    for (name, never, why) in NEVER {
        let reached = reach(members, name);
        for forbidden in never.iter().filter(|other| reached.contains(**other)) {
            found.push(format!("`{name}` reaches `{forbidden}`: {why}"));
        }
    }
    found
}

fn reach(members: &BTreeMap<String, Member>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for used in members.get(&name).into_iter().flat_map(|member| &member.uses) {
            if reached.insert(used.clone()) {
                open.push(used.clone());
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(edges: &[(&str, &[&str])]) -> BTreeMap<String, Member> {
        let split = |all: &[&str]| {
            let (uses, outside): (BTreeSet<String>, BTreeSet<String>) =
                all.iter().map(|n| (*n).to_owned()).partition(|n| MAY_USE.iter().any(|(known, _)| known == n));
            Member { uses, outside }
        };
        edges.iter().map(|(name, all)| ((*name).to_owned(), split(all))).collect()
    }

    #[test]
    fn a_forbidden_edge_is_found_directly_and_through_others() {
        assert_eq!(judge(&workspace(&[("model", &[]), ("gateway", &["model", "tokio"])])), Vec::<String>::new());
        let direct = judge(&workspace(&[("gateway", &["store"]), ("store", &[])]));
        assert_eq!(direct.len(), 2, "{direct:?}");
        let through = judge(&workspace(&[("gateway", &["journal"]), ("journal", &["store"]), ("store", &[])]));
        assert!(through.iter().any(|line| line.starts_with("`gateway` reaches `store`")), "{through:?}");
    }

    #[test]
    fn an_unknown_crate_an_async_word_and_an_untyped_error_are_found() {
        let found = judge(&workspace(&[("novelty", &[]), ("model", &["tokio"]), ("engine", &["anyhow"])]));
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
