//! Rules over several fields: what contradicts itself is refused at registration, not found out in a run.

use std::collections::BTreeSet;

use cogward_model::{
    ContentName,
    limits::SKILLS_MAX,
    manifest::{Budgets, Medium, Package, Permissions, Sandbox, Tier, skill_name},
};

use super::{
    environment::{self, Fault},
    fields::{Sink, shown},
    sections::Section,
};

type MaybePackage = Section<Option<Package>>;
type MaybePermissions = Section<Option<Permissions>>;

/// Rules within `spec.package`.
pub(crate) fn package(package: &Package, path: &str, sink: &mut Sink) {
    match (&package.directory, &package.oci_layout) {
        (Some(_), Some(_)) => {
            let problem = "both `directory` and `ociLayout` say where the code is";
            sink.on(&format!("{path}.ociLayout"), "package-source", problem, "keep one of the two");
        }
        (None, None) => {
            let fix = "add `directory: .`, or `ociLayout:` with an image layout";
            sink.on(path, "package-source", "nothing says where the code is", fix);
        }
        _ => {}
    }
    for (name, value) in [("directory", &package.directory), ("ociLayout", &package.oci_layout)] {
        if let Some(value) = value {
            source_path(value, &format!("{path}.{name}"), sink);
        }
    }
    if package.entrypoint.first().is_none_or(String::is_empty) {
        let fix = "write the program and its arguments: `[python3, agent.py]`";
        sink.on(&format!("{path}.entrypoint"), "entrypoint", "there is no program to start", fix);
    }
    for (name, list) in [("prompts", &package.prompts), ("skills", &package.skills), ("policies", &package.policies)] {
        for (place, value) in list.iter().enumerate() {
            inner_path(value, &format!("{path}.{name}[{place}]"), sink);
        }
    }
    skills(package, path, sink);
    for (place, layer) in package.layers.iter().enumerate() {
        if !layer.directory.is_empty() {
            source_path(&layer.directory, &format!("{path}.layers[{place}].directory"), sink);
        }
    }
    mount_points(package, path, sink);
}

/// Each skill is at `/skills/<name>`, by the last part of its path.
fn skills(package: &Package, path: &str, sink: &mut Sink) {
    if package.skills.len() > SKILLS_MAX {
        let problem = format!("{} skills, and {SKILLS_MAX} is the most", package.skills.len());
        sink.on(&format!("{path}.skills"), "bound", problem, "put some together");
    }
    let mut names = BTreeSet::new();
    for (place, skill) in package.skills.iter().enumerate() {
        let name = skill_name(skill);
        let field = format!("{path}.skills[{place}]");
        if name.parse::<ContentName>().is_err() {
            let fix = "name the folder with letters, digits, `.`, `-` and `_`";
            sink.on(&field, "skill-name", format!("`{}` cannot be the name of a skill", shown(name)), fix);
        } else if !names.insert(name) {
            let problem = format!("two skills would be at `/skills/{name}`");
            sink.on(&field, "skill-name", problem, "give the folders different names");
        }
    }
}

/// A path on the author's machine: relative, so that the manifest works wherever it is checked out.
fn source_path(value: &str, path: &str, sink: &mut Sink) {
    if value.starts_with('/') || value.contains('\n') {
        let fix = "write it relative to this file";
        sink.on(path, "package-path", format!("`{}` is not a relative path", shown(value)), fix);
    }
}

/// A path within the package: it cannot leave it.
pub(crate) fn inner_path(value: &str, path: &str, sink: &mut Sink) {
    let parts = value.strip_suffix('/').unwrap_or(value).split('/');
    if value.starts_with('/') || value.contains('\n') || parts.into_iter().any(|p| matches!(p, "" | "." | "..")) {
        let problem = format!("`{}` is not a plain path within the package", shown(value));
        sink.on(path, "package-path", problem, "write it as `prompts/system.md`, without `.` and `..`");
    }
}

fn mount_points(package: &Package, path: &str, sink: &mut Sink) {
    for (place, layer) in package.layers.iter().enumerate() {
        let at = layer.at.as_str();
        let field = format!("{path}.layers[{place}].at");
        if at.is_empty() {
            continue;
        }
        let below = ["/opt/", "/srv/", "/app/"].iter().find_map(|root| at.strip_prefix(root));
        let plain = |p: &str| !matches!(p, "" | "." | "..") && p.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
        if !below.is_some_and(|rest| rest.split('/').all(plain)) {
            let problem = format!("`{}` is not a plain path below `/opt`, `/srv` or `/app`", shown(at));
            sink.on(&field, "layer-path", problem, "write it as `/opt/site`, without a `/` at the end");
            continue;
        }
        for (earlier, other) in package.layers.iter().take(place).enumerate() {
            let inside = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
            if inside(at, &other.at) || inside(&other.at, at) {
                let problem = format!("it overlaps with layer {earlier} at `{}`", shown(&other.at));
                sink.on(&field, "layer-path", problem, "give each layer a place of its own");
                break;
            }
        }
    }
}

/// One variable of `environment`.
pub(crate) fn variable(name: &str, value: &str, path: &str, sink: &mut Sink) {
    let (rule, problem, fix) = match environment::judge(name, value) {
        None => return,
        Some(Fault::Name) => (
            "variable-name",
            "this is not the name of a variable",
            "use letters, digits and `_`, not beginning with a digit",
        ),
        Some(Fault::Reserved) => (
            "reserved-variable",
            "the plane sets this variable, or it would change every program in the sandbox",
            "remove it",
        ),
        Some(Fault::SecretName) => (
            "secret-in-environment",
            "the name says that it holds a secret, and everything in a manifest is public",
            "give the credential to the tool server or the provider; the plane adds it to the calls",
        ),
        Some(Fault::SecretValue) => (
            "secret-in-environment",
            "the value looks like a key, and everything in a manifest is public",
            "revoke it, and give a new one to the tool server or the provider",
        ),
    };
    sink.on(path, rule, problem, fix);
}

/// What the code expects must be permitted. Only told when both sections were read in full.
pub(crate) fn package_and_permissions(package: &MaybePackage, permissions: &MaybePermissions, sink: &mut Sink) {
    let (Some(package), Some(granted)) = (&package.value, &permissions.value) else { return };
    if !permissions.clean {
        return;
    }
    for (place, wanted) in package.tools.iter().enumerate() {
        let path = format!("spec.package.tools[{place}]");
        let Some((server, tool)) = wanted.split_once('/') else {
            let problem = format!("`{}` does not say which server has it", shown(wanted));
            sink.on(&path, "tool-form", problem, "write it as `server/tool`");
            continue;
        };
        let grant = granted.tools.iter().find(|g| g.server.as_str() == server);
        if !grant.is_some_and(|g| g.allow.iter().any(|t| t.as_str() == tool)) {
            let problem = format!("the code expects `{}`, which is not permitted", shown(wanted));
            let fix = "add it to `spec.permissions.tools`, or remove it here";
            sink.on(&path, "tool-not-permitted", problem, fix);
        }
    }
    if let Some(model) = &package.model
        && !granted.models.iter().any(|g| g.name == model.name)
    {
        let problem = format!("the code uses `{}`, which is not permitted", shown(&model.name));
        let fix = "add it to `spec.permissions.models`, or use a permitted model";
        sink.on("spec.package.model.name", "model-not-permitted", problem, fix);
    }
}

/// Above the development tier the whole root of the sandbox belongs to the version.
pub(crate) fn package_and_tier(package: &MaybePackage, tier: Option<Tier>, sink: &mut Sink) {
    let (Some(package), Some(tier)) = (&package.value, tier) else { return };
    if tier != Tier::Development && package.directory.is_some() && package.oci_layout.is_none() {
        let problem = format!(
            "a directory runs on the host's own programs, which the digest of a {} version must cover",
            tier.as_str()
        );
        let fix = "use `ociLayout`, or `tier: development`";
        sink.on("spec.package.directory", "tier-package", problem, fix);
    }
}

/// What is permitted must be possible.
pub(crate) fn permissions_and_budgets(
    permissions: &MaybePermissions,
    budgets: &Section<Option<Budgets>>,
    sink: &mut Sink,
) {
    if let Some(granted) = &permissions.value {
        for (n, wanted) in granted.tools.iter().enumerate().filter_map(|(n, grant)| Some((n, grant.sampling.as_ref()?)))
        {
            if !granted.models.iter().any(|model| model.name == *wanted) {
                let problem = format!("the server is given the model `{}`, which is not permitted", shown(wanted));
                let fix = "add it to `spec.permissions.models`, or name a permitted model";
                let path = format!("spec.permissions.tools[{n}].sampling");
                sink.on(&path, "model-not-permitted", problem, fix);
            }
        }
    }
    let (Some(granted), Some(budgets)) = (&permissions.value, &budgets.value) else { return };
    if !granted.tools.is_empty() && budgets.run.tool_calls == 0 {
        let problem = "tools are permitted, and a run may call none";
        sink.on("spec.budgets.run.toolCalls", "budget-contradiction", problem, "raise it, or remove the tools");
    }
    if !granted.models.is_empty() && budgets.run.tokens == 0 {
        let problem = "models are permitted, and a run may use no token";
        sink.on("spec.budgets.run.tokens", "budget-contradiction", problem, "raise it, or remove the models");
    }
    if !granted.egress.is_empty() && budgets.run.connections == 0 {
        let problem = "hosts are permitted, and a run may open no connection";
        sink.on("spec.budgets.run.connections", "budget-contradiction", problem, "raise it, or remove the hosts");
    }
}

/// Rules within `spec.budgets`.
pub(crate) fn budgets(budgets: &Budgets, sink: &mut Sink) {
    let (run, Some(agent)) = (&budgets.run, &budgets.agent) else { return };
    for (name, short) in [
        ("tokens", agent.tokens < run.tokens),
        ("costUsd", agent.cost_usd < run.cost_usd),
        ("toolCalls", agent.tool_calls < run.tool_calls),
        ("connections", agent.connections.is_some_and(|all| all < run.connections)),
        ("egressMib", agent.egress_mib.zip(run.egress_mib).is_some_and(|(all, one)| all < one)),
    ] {
        if short {
            let problem = "all runs together may use less than one run may";
            let fix = "raise it to at least the value under `run`";
            sink.on(&format!("spec.budgets.agent.{name}"), "budget-contradiction", problem, fix);
        }
    }
}

/// Rules within `spec.sandbox`.
pub(crate) fn sandbox(sandbox: &Sandbox, sink: &mut Sink) {
    let resources = &sandbox.resources;
    if sandbox.workspace.medium == Medium::Memory && resources.workspace_mib >= resources.memory_mib {
        let problem = format!(
            "the workspace ({} MiB) is in memory and leaves nothing of {} MiB for the agent",
            resources.workspace_mib, resources.memory_mib
        );
        let fix = "make `workspaceMib` smaller than `memoryMib`, or write `workspace: {medium: disk}`";
        sink.on("spec.sandbox.resources.workspaceMib", "workspace-memory", problem, fix);
    }
}
