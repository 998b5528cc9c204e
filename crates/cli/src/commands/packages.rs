//! `cogward agent init` and `cogward agent register`: from files on this host to a registered version.
//!
//! The manifest is checked here first, with the registry's own code, so that its faults are told at
//! once and by line. The plane checks everything again: what comes from here is not trusted there.

use std::{
    fs,
    io::{BufWriter, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use cogward_api::{Finding, ProblemCode, RegisterQuery, Registration, paths};
use cogward_model::{AgentName, limits};
use cogward_registry::{Findings, manifest, package};

use super::Session;
use crate::exit::{Exit, Failure};

/// The program of a first agent.
const FIRST_PROGRAM: &str = include_str!("packages/agent.py");

/// Writes a first agent. Nothing that is there is overwritten.
pub fn init(name: &AgentName, directory: &Path, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let files = [("agent.yaml", manifest::template(name.as_str())), ("agent.py", FIRST_PROGRAM.to_owned())];
    for (file, _) in &files {
        let path = directory.join(file);
        if path.symlink_metadata().is_ok() {
            return Err(Failure::new(Exit::Conflict, format!("{} exists already", path.display()))
                .next("name a directory that does not hold an agent yet, with --directory"));
        }
    }
    for (file, text) in &files {
        let path = directory.join(file);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(directory)?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|error| Failure::local(format!("cannot write {}", path.display()), error))?;
        session.output.line(&path.display().to_string())?;
    }
    let manifest = directory.join("agent.yaml");
    session.output.say("Next: say in agent.yaml what it is for and what it may do, then");
    session.output.say(&format!("  cogward agent register -f {}", manifest.display()));
    Ok(Exit::Done)
}

/// Registers what a manifest describes.
pub fn register(
    file: &Path,
    dry_run: bool,
    reason: Option<String>,
    session: &mut Session<'_>,
) -> Result<Exit, Failure> {
    let shown = file.display().to_string();
    let bytes = read_manifest(file)?;
    let parsed = manifest::parse(&shown, &bytes).map_err(|findings| refused(&shown, findings))?;

    // On disk, not in memory: a package with a vendored environment is large.
    let mut packed = tempfile::tempfile().map_err(|error| Failure::local("cannot make a temporary file", error))?;
    pack(file, &bytes, &parsed, &mut packed)?;
    packed.rewind().map_err(|error| Failure::local("cannot read the package back", error))?;

    let tenant = &parsed.manifest.metadata.tenant;
    let query = RegisterQuery { reason, dry_run };
    let path = paths::with_query(&paths::agents(tenant), &query)
        .map_err(|error| Failure::local("cannot make the request", error))?;
    let registration: Registration = session.client()?.post_tar(&path, &mut packed)?;
    if dry_run {
        session.output.say("It would be registered; nothing was.");
    } else if !registration.created {
        session.output.say("This very package is registered under this version already.");
    }
    session.output.one(&registration)?;
    for warning in &registration.warnings {
        session.output.say(&format!("warning: {warning}\n    fix: {}", warning.fix));
    }
    Ok(Exit::Done)
}

fn read_manifest(file: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let limit = u64::try_from(limits::MANIFEST_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|error| {
        Failure::local(format!("cannot read the manifest {}", file.display()), error)
            .next("write one with `cogward agent init NAME`")
    })?;
    // One byte too many is enough for the parser to refuse it with its own rule.
    Ok(bytes)
}

/// Packs what the manifest names, and checks that it is all there.
fn pack(file: &Path, bytes: &[u8], parsed: &manifest::Parsed, into: &mut fs::File) -> Result<(), Failure> {
    let base = file.parent().filter(|p| !p.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned);
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let out = BufWriter::new(into);
    let packed = package::pack(&base, (name, bytes), &parsed.manifest, package::Limits::default(), out)
        .map_err(|error| not_packed(&file.display().to_string(), &base, parsed, &error))?;
    let findings = package::check(parsed, &packed.contents);
    if findings.is_empty() { Ok(()) } else { Err(refused(&file.display().to_string(), findings)) }
}

/// Why there is no package, at the line of the manifest that asks for it.
fn not_packed(file: &str, base: &Path, parsed: &manifest::Parsed, error: &package::PackError) -> Failure {
    let cause = with_sources(error);
    let layers = &parsed.manifest.spec.package.layers;
    let field = match error {
        // Which of several it was is known where it is not there at all; else the cause names the file.
        package::PackError::Walk(_) => match layers.iter().position(|layer| !base.join(&layer.directory).is_dir()) {
            Some(index) => format!("spec.package.layers[{index}].directory"),
            None if layers.is_empty() => "spec.package.directory".to_owned(),
            None => "spec.package".to_owned(),
        },
        package::PackError::Oci(_) => "spec.package.ociLayout".to_owned(),
        package::PackError::ManifestName => return Failure::usage(cause).next("rename it to agent.yaml"),
        _ => return Failure::new(Exit::Failed, cause).next("nothing was sent; repeat the command"),
    };
    let fix = "name what is there, below the manifest, and what a package can hold";
    let mut findings = Findings::default();
    findings.push(parsed.places.finding(&field, "package-content", cause, fix));
    refused(file, findings)
}

/// An error with its causes: which file, and why.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}

/// Every fault, as the plane would tell it.
fn refused(file: &str, findings: Findings) -> Failure {
    let count = findings.len();
    let faults = if count == 1 { "1 fault".to_owned() } else { format!("{count} faults") };
    let mut failure = Failure::new(Exit::Refused, format!("{file} cannot be registered: {faults}"))
        .next("correct the file and register it again; docs/manifest.md has every field");
    failure.code = Some(ProblemCode::ManifestInvalid);
    failure.findings = findings.findings.into_iter().map(finding).collect();
    failure
}

fn finding(found: cogward_registry::Finding) -> Finding {
    Finding {
        file: found.file,
        line: (found.line > 0).then_some(found.line),
        column: (found.line > 0).then_some(found.column),
        path: (!found.path.is_empty()).then_some(found.path),
        rule: found.rule.into_owned(),
        message: found.problem,
        fix: found.fix,
    }
}
