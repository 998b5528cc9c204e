//! The doctor's report in the words of the API.

use std::collections::HashSet;

use cogward_api::{Check, CheckStatus, Doctor, Environment, KnownBad, Pod, ProfileReport};
use cogward_sandbox::{HostReport, doctor};

/// A report of the sandbox in the words of the API.
pub fn described(report: HostReport) -> Doctor {
    let needed: HashSet<String> =
        report.profiles.iter().flat_map(|p| p.missing.iter().map(|m| m.mechanism.clone())).collect();
    let profiles = report.profiles.iter().map(|profile| ProfileReport {
        profile: profile.profile.as_str().to_owned(),
        enforceable: profile.enforceable,
        missing: profile.missing.iter().map(|m| m.mechanism.clone()).collect(),
    });
    let profiles = profiles.collect();
    let lacking = |name: &str| if needed.contains(name) { CheckStatus::Missing } else { CheckStatus::Optional };
    let doctor::Pod { launchable, note, checks } = report.pod;
    let pod =
        Pod { launchable, note, checks: checks.into_iter().map(|c| check(c, |_| CheckStatus::Missing)).collect() };
    Doctor {
        kernel: report.kernel,
        checks: report.checks.into_iter().map(|c| check(c, lacking)).collect(),
        profiles,
        environment: environment(report.environment),
        pod,
    }
}

fn check(check: doctor::Check, lacking: impl Fn(&str) -> CheckStatus) -> Check {
    let status = if check.ok { CheckStatus::Ok } else { lacking(&check.mechanism) };
    Check { name: check.mechanism, status, detail: check.detail, fix: check.fix }
}

fn environment(seen: doctor::Environment) -> Environment {
    let known_bad = seen.known_bad.into_iter().map(|flaw| {
        let doctor::KnownBad { id, what, in_sandbox, fix } = flaw;
        KnownBad { id, what, in_sandbox, fix }
    });
    Environment {
        root: seen.root,
        container: !seen.container_signs.is_empty(),
        container_signs: seen.container_signs,
        virtualisation: seen.virtualisation,
        security_modules: seen.security_modules,
        cgroups: seen.cgroups,
        restrictions: seen.restrictions,
        known_bad: known_bad.collect(),
    }
}
