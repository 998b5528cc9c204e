//! `cogward verify sandbox`.

use std::collections::BTreeMap;

use cogward_model::manifest::Profile;
use cogward_sandbox::battery::{self, Report, Verdict, VerifyError};

use super::Session;
use crate::{
    args::{DriversFlag, ReportFormat},
    exit::{Exit, Failure},
    output::Format,
    settings,
};

/// Attacks sandboxes of a profile. Exits 9 when one does not hold.
pub fn sandbox(
    profile: Profile,
    format: ReportFormat,
    drivers: &DriversFlag,
    session: &mut Session<'_>,
) -> Result<Exit, Failure> {
    let config = settings::sandbox_config(drivers, session.variables)?;
    let exe = std::env::current_exe().map_err(|e| Failure::local("cannot find this program's own file", e))?;
    // Its mode is 0700: what the sandboxes leave is nobody else's to read.
    let directory = tempfile::Builder::new().prefix("cogward-verify-").tempdir();
    let directory = directory.map_err(|e| Failure::local("cannot make a directory for the sandboxes", e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::local("cannot start", e))?;
    let report = runtime.block_on(battery::verify(&exe, profile, &config, directory.path())).map_err(failure)?;
    match (format, session.output.format) {
        (ReportFormat::Junit, _) => session.output.data(report.junit().as_bytes())?,
        (ReportFormat::Sarif, _) => {
            let mut text = serde_json::to_vec_pretty(&report.sarif()).map_err(|e| Failure::local("cannot write", e))?;
            text.push(b'\n');
            session.output.data(&text)?;
        }
        (ReportFormat::Json, _) | (_, Format::Json | Format::Jsonl) => {
            let mut text = serde_json::to_vec(&report).map_err(|e| Failure::local("cannot write the report", e))?;
            text.push(b'\n');
            session.output.data(&text)?;
        }
        (ReportFormat::Text, _) => {
            for line in text(&report) {
                session.output.line(&line)?;
            }
        }
    }
    Ok(if report.holds() { Exit::Done } else { Exit::Unverified })
}

fn failure(error: VerifyError) -> Failure {
    let cause = error.to_string();
    match error {
        VerifyError::Unenforceable { missing, .. } => {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            Failure::new(Exit::Refused, format!("{cause}: {}", missing.join("; ")))
                .next("`cogward doctor` says how to provide it; `--sandbox-config FILE` names what carries the other profiles")
        }
        // A program that does not notice its own controls may be one that the sandbox failed to contain.
        VerifyError::Blind { .. } => Failure::new(Exit::Unverified, cause),
        _ => Failure::new(Exit::Failed, cause),
    }
}

fn text(report: &Report) -> Vec<String> {
    let mut techniques: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for attempt in &report.attempts {
        let technique = attempt.id.split('.').next().unwrap_or_default();
        let (tried, failed) = techniques.entry(technique).or_default();
        *tried += 1;
        *failed += usize::from(attempt.verdict.failed());
    }
    let mut lines = vec![format!("profile {} on Linux {}", report.profile.as_str(), report.kernel), String::new()];
    for (technique, (tried, failed)) in techniques {
        lines.push(format!("  {technique:<12} {tried:>4} tried  {:>4} refused  {failed:>4} not", tried - failed));
    }
    lines.push(String::new());
    let interesting = report.attempts.iter().filter(|a| a.verdict != Verdict::Refused);
    for attempt in interesting {
        lines.push(format!(
            "{:<10} {} from {}: {}; answered {}, expected {}",
            attempt.verdict.as_str(),
            attempt.id,
            attempt.program.as_str(),
            attempt.tries,
            attempt.answer,
            attempt.expected
        ));
    }
    if report.package == "directory" {
        lines.push(
            "packages are mounted from directories of the host: their paths can be seen (`cogward doctor`)".into(),
        );
    }
    for program in &report.absent {
        lines.push(format!("not tried from {}: it is not there", program.as_str()));
    }
    let failures = report.failures().count();
    lines.push(if failures == 0 {
        let tried = report.count(Verdict::Refused);
        format!(
            "{} attacks, tried in {tried} ways: all refused. {} refusals were reported.",
            report.attacks, report.reported
        )
    } else {
        format!("{} attacks: {failures} attempts were NOT refused. The sandbox does not hold.", report.attacks)
    });
    lines
}

#[cfg(test)]
mod tests {
    use cogward_sandbox::battery::{Attempt, Program};

    use super::*;

    fn report(verdict: Verdict) -> Report {
        let attempt = Attempt {
            id: "network.bind".into(),
            tries: "listen".into(),
            program: Program::Python,
            verdict,
            answer: "success".into(),
            expected: "EACCES".into(),
        };
        Report {
            profile: Profile::Hardened,
            kernel: "6.18".into(),
            attacks: 1,
            package: "erofs".into(),
            absent: vec![],
            reported: 3,
            attempts: vec![attempt],
        }
    }

    #[test]
    fn an_attack_that_succeeds_is_named_in_the_text() {
        let said = text(&report(Verdict::Allowed)).join("\n");
        assert!(said.contains("ALLOWED    network.bind from python") && said.contains("does not hold"), "{said}");
        let said = text(&report(Verdict::Refused)).join("\n");
        assert!(!said.contains("network.bind") && said.contains("all refused"), "{said}");
    }

    #[test]
    fn what_cannot_be_enforced_and_what_does_not_hold_exit_differently() {
        let unenforceable = VerifyError::Unenforceable { profile: Profile::Hardened, missing: vec![] };
        assert_eq!(failure(unenforceable).exit, Exit::Refused);
        let blind = VerifyError::Blind { program: Program::Shell, detail: "\u{1b}".into() };
        assert_eq!(failure(blind).exit, Exit::Unverified);
    }
}
