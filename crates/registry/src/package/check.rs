//! Whether a package holds what its manifest names.

use cogward_model::{
    Digest,
    content::TreeError,
    manifest::{Manifest, skill_name},
};

use super::contents::Contents;
use crate::{
    Findings,
    manifest::{Parsed, sha256},
};

/// Everything that the manifest names and the package does not hold, and the other way round.
#[must_use]
pub fn check(parsed: &Parsed, contents: &Contents) -> Findings {
    let mut findings = Findings::default();
    let mut add = |path: &str, rule, problem: String, fix: &str| {
        findings.push(parsed.places.finding(path, rule, problem, fix));
    };
    let package = &parsed.manifest.spec.package;
    for (tree, wanted, field) in [
        ("code", package.directory.is_some(), "spec.package.directory"),
        ("root", package.oci_layout.is_some(), "spec.package.ociLayout"),
    ] {
        if contents.has_directory(tree) != wanted {
            let problem = format!("the package and the manifest do not agree on `{tree}`");
            add(field, "package-shape", problem, "pack it again with this manifest");
        }
    }
    if contents.layers() != package.layers.len() {
        let problem =
            format!("the manifest names {} layers, the package has {}", package.layers.len(), contents.layers());
        add("spec.package.layers", "package-shape", problem, "pack it again with this manifest");
    }
    let base = code_root(&parsed.manifest);
    for (field, list, wants_directory) in [
        ("prompts", &package.prompts, false),
        ("skills", &package.skills, true),
        ("policies", &package.policies, false),
    ] {
        for (place, name) in list.iter().enumerate() {
            let path = format!("{base}/{}", name.strip_suffix('/').unwrap_or(name));
            // A skill is mounted at a place of its own, and a mount follows no link.
            let there = if wants_directory { contents.is_directory(&path) } else { contents.has_file(&path) };
            if !there {
                let noun = if wants_directory { "directory" } else { "file" };
                let problem = format!("the package has no {noun} `{name}`");
                let fix = "add it, or correct the name; it is relative to the package's directory";
                add(&format!("spec.package.{field}[{place}]"), "package-file", problem, fix);
            }
        }
    }
    if let Err(error) = skills(&parsed.manifest, contents) {
        add("spec.package.skills", "skill-tree", error.to_string(), "make it flatter");
    }
    workspace(&parsed.manifest, contents, &mut add);
    entrypoint(&parsed.manifest, contents, &mut add);
    findings
}

/// The files that a workspace begins with are there and fit into it.
fn workspace(manifest: &Manifest, contents: &Contents, add: &mut impl FnMut(&str, &'static str, String, &str)) {
    const FIELD: &str = "spec.sandbox.workspace.from";
    let sandbox = &manifest.spec.sandbox;
    let Some(from) = &sandbox.workspace.from else { return };
    let path = format!("{}/{}", code_root(manifest), from.strip_suffix('/').unwrap_or(from));
    if !contents.is_directory(&path) {
        let fix = "add it, or correct the name; it is relative to the package's directory";
        add(FIELD, "package-file", format!("the package has no directory `{from}`"), fix);
        return;
    }
    match contents.below(&path) {
        Ok(tree) => {
            let room = u64::from(sandbox.resources.workspace_mib) * 1024 * 1024;
            if tree.bytes() > room || tree.entries() > u64::from(sandbox.resources.inodes()) {
                let problem = format!(
                    "`{from}` has {} bytes in {} entries, and the workspace has room for {room} in {}",
                    tree.bytes(),
                    tree.entries(),
                    sandbox.resources.inodes()
                );
                let fix = "raise `resources.workspaceMib` or `workspaceInodes`: what a workspace begins with counts";
                add(FIELD, "workspace-size", problem, fix);
            }
        }
        Err(error) => add(FIELD, "workspace-tree", error.to_string(), "make it flatter"),
    }
}

/// The digest of each skill of a version, by the name under which the agent finds it.
///
/// # Errors
/// [`TreeError`] when one is nested too deep.
pub fn skills(manifest: &Manifest, contents: &Contents) -> Result<Vec<(String, Digest)>, TreeError> {
    let base = code_root(manifest);
    let digest = |skill: &String| {
        let tree = contents.below(&format!("{base}/{}", skill.strip_suffix('/').unwrap_or(skill)))?;
        Ok((skill_name(skill).to_owned(), sha256(tree.listing().as_bytes())))
    };
    manifest.spec.package.skills.iter().map(digest).collect()
}

/// Where the agent's own files are: `/app` in the sandbox.
pub(super) fn code_root(manifest: &Manifest) -> &'static str {
    if manifest.spec.package.directory.is_some() { "code" } else { "root/app" }
}

/// A program or a script within the package must be there; what is found in `PATH` is the sandbox's.
fn entrypoint(manifest: &Manifest, contents: &Contents, add: &mut impl FnMut(&str, &'static str, String, &str)) {
    let base = code_root(manifest);
    let command = &manifest.spec.package.entrypoint;
    let Some(program) = command.first() else { return };
    let inside = |name: &str| format!("{base}/{}", name.strip_prefix("./").unwrap_or(name));
    if program.contains('/') && !program.starts_with('/') {
        if !contents.has_program(&inside(program)) {
            let problem = format!("the package has no executable file `{program}`");
            add("spec.package.entrypoint[0]", "package-file", problem, "add it, and make it executable");
        }
        return;
    }
    let name = program.rsplit('/').next().unwrap_or(program);
    let script = command.get(1).filter(|arg| !arg.starts_with(['-', '/']));
    if let Some(script) = script
        && (name.starts_with("python") || name.starts_with("node"))
        && !contents.has_file(&inside(script))
        && !contents.has_directory(&inside(script))
    {
        let problem = format!("the package has no file `{script}`");
        add("spec.package.entrypoint[1]", "package-file", problem, "add it, or correct the name");
    }
}
