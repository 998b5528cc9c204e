//! `cogward doctor`.

use cogward_api::{Check, CheckStatus, Doctor, ProfileReport, paths};

use super::Session;
use crate::{
    args,
    exit::{Exit, Failure},
    output::{Cell, Format, Show, Tone},
    settings,
};

/// Says what a host can enforce. Exits 4 when it is no profile from `standard` upwards.
pub fn run(doctor: &args::Doctor, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let report: Doctor = if doctor.remote { session.client()?.get(paths::DOCTOR)? } else { local(doctor, session)? };
    // What is weaker than `standard` is accepted nowhere unless an operator says so.
    let enforceable = report.profiles.iter().any(|profile| profile.enforceable && profile.profile != "container");
    if doctor.format == args::DoctorFormat::Json && session.output.format == Format::Table {
        session.output.format = Format::Json;
    }
    match session.output.format {
        Format::Json | Format::Jsonl => session.output.one(&report)?,
        Format::Name => {
            for profile in report.profiles.iter().filter(|profile| profile.enforceable) {
                session.output.line(&profile.profile)?;
            }
        }
        Format::Table => {
            for line in place(&report) {
                session.output.line(&line)?;
            }
            session.output.line("")?;
            session.output.list(&report.checks)?;
            session.output.line("")?;
            session.output.list(&report.profiles)?;
            session.output.line("")?;
            session.output.line(&pod(&report))?;
            for flaw in &report.environment.known_bad {
                session.output.say(&format!("{}: {}. {}. Fix: {}", flaw.id, flaw.what, flaw.in_sandbox, flaw.fix));
            }
            for check in report.checks.iter().filter(|check| check.status == CheckStatus::Missing) {
                if let Some(fix) = &check.fix {
                    session.output.say(&format!("{}: {fix}", check.name));
                }
            }
        }
    }
    Ok(if enforceable { Exit::Done } else { Exit::Refused })
}

/// What kind of place it is, a line for each thing.
fn place(report: &Doctor) -> Vec<String> {
    let seen = &report.environment;
    let mut lines = vec![
        format!("kernel:           {}", report.kernel),
        format!("user:             {}", if seen.root { "root" } else { "not root" }),
        format!("container:        {}", if seen.container { seen.container_signs.join("; ") } else { "no".to_owned() }),
        format!("virtualisation:   {}", seen.virtualisation.as_deref().unwrap_or("none seen")),
        format!("security modules: {}", seen.security_modules.join(", ")),
        format!("control groups:   {}", seen.cgroups),
    ];
    lines.extend(seen.restrictions.iter().map(|restriction| format!("restricted:       {restriction}")));
    lines
}

/// What would hold in a pod, in one line.
fn pod(report: &Doctor) -> String {
    let named = |ok: bool| {
        let names = report.pod.checks.iter().filter(|check| (check.status == CheckStatus::Ok) == ok);
        names.map(|check| check.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (holds, lacks) = (named(true), named(false));
    let would = if holds.is_empty() { "nothing would hold".to_owned() } else { format!("would hold: {holds}") };
    let not = if lacks.is_empty() { String::new() } else { format!("; would not: {lacks}") };
    format!("pod: {would}{not}. This is {}.", report.pod.note)
}

impl Show for Doctor {
    const PLURAL: &'static str = "reports";
    const HEAD: &'static [&'static str] = &["KERNEL"];
    fn row(&self) -> Vec<Cell> {
        vec![Cell::from(&self.kernel)]
    }
    fn name(&self) -> String {
        self.kernel.clone()
    }
}

impl Show for Check {
    const PLURAL: &'static str = "checks";
    const HEAD: &'static [&'static str] = &["CHECK", "STATUS", "FOUND"];
    fn row(&self) -> Vec<Cell> {
        let tone = match self.status {
            CheckStatus::Ok => Tone::Good,
            CheckStatus::Optional => Tone::Plain,
            CheckStatus::Missing => Tone::Bad,
        };
        vec![Cell::from(&self.name), Cell::toned(self.status.as_str(), tone), Cell::from(&self.detail)]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Show for ProfileReport {
    const PLURAL: &'static str = "profiles";
    const HEAD: &'static [&'static str] = &["PROFILE", "ENFORCEABLE", "MISSING"];
    fn row(&self) -> Vec<Cell> {
        let enforceable = if self.enforceable { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Bad) };
        vec![Cell::from(&self.profile), enforceable, self.missing.join(", ").into()]
    }
    fn name(&self) -> String {
        self.profile.clone()
    }
}

/// This host, probed by this program in a process of its own.
fn local(doctor: &args::Doctor, session: &Session<'_>) -> Result<Doctor, Failure> {
    let config = settings::sandbox_config(&doctor.drivers, session.variables)?;
    let exe = std::env::current_exe().map_err(|e| Failure::local("cannot find this program's own file", e))?;
    let report = cogward_sandbox::doctor::probe_with(&exe, std::path::Path::new("/"), &config)
        .map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
    Ok(cogward_server::described(report))
}
