//! The report for scanners: SARIF 2.1.0 of OASIS.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    Report, Verdict,
    attacks::{self, Attack},
    plan,
};

pub(super) fn write(report: &Report) -> Value {
    let tried: BTreeSet<&str> = report.attempts.iter().map(|a| a.id.as_str()).collect();
    let tried: Vec<&Attack> = attacks::all().filter(|a| tried.contains(a.id)).collect();
    let places: BTreeMap<&str, usize> = tried.iter().enumerate().map(|(place, a)| (a.id, place)).collect();
    let results: Vec<Value> = report
        .failures()
        .map(|attempt| {
            let said = format!(
                "{} (tried from {}): {}; answered {}, expected {}.",
                attempt.tries,
                attempt.program.as_str(),
                attempt.verdict.as_str(),
                attempt.answer,
                attempt.expected
            );
            let place = format!("{}/{}", report.profile.as_str(), attempt.program.as_str());
            json!({
                "ruleId": attempt.id,
                "ruleIndex": places.get(attempt.id.as_str()).map_or(json!(-1), |place| json!(place)),
                "kind": "fail",
                "level": "error",
                "message": { "text": printable(&said) },
                "locations": [{ "logicalLocations": [{ "fullyQualifiedName": place, "kind": "module" }] }],
                "partialFingerprints": { "attempt/v1": format!("{}:{place}", attempt.id) },
            })
        })
        .collect();
    let counts = |verdict| report.count(verdict);
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "cogward verify sandbox",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": tried.into_iter().map(|attack| rule(attack, report)).collect::<Vec<_>>(),
            } },
            "invocations": [{ "executionSuccessful": true }],
            "columnKind": "unicodeCodePoints",
            "results": results,
            "properties": {
                "profile": report.profile.as_str(),
                "kernel": printable(&report.kernel),
                "attacks": report.attacks,
                "attempts": report.attempts.len(),
                "refused": counts(Verdict::Refused),
                "allowed": counts(Verdict::Allowed),
                "unexpected": counts(Verdict::Unexpected),
                "skipped": counts(Verdict::Skipped),
                "notRun": counts(Verdict::NotRun),
                "reported": report.reported,
                "absentPrograms": report.absent.iter().map(|p| p.as_str()).collect::<Vec<_>>(),
            },
        }],
    })
}

fn rule(attack: &Attack, report: &Report) -> Value {
    let refusal = attack.refusal_in(report.profile).unwrap_or_default();
    let help = attacks::help(attack.technique());
    json!({
        "id": attack.id,
        "shortDescription": { "text": attack.tries },
        "fullDescription": { "text": help },
        "help": { "text": format!("Must be refused with {}. {help}", plan::expected(&refusal)) },
        "defaultConfiguration": { "level": "error" },
        "properties": { "tags": ["sandbox", attack.technique()] },
    })
}

/// What the sandbox said may hold anything; a report is read in terminals.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use cogward_model::manifest::Profile;

    use super::*;
    use crate::battery::{Attempt, Program};

    fn report(verdicts: &[Verdict]) -> Report {
        let attempt = |verdict: &Verdict| Attempt {
            id: "kernel.bpf".into(),
            tries: "load".into(),
            program: Program::Static,
            verdict: *verdict,
            answer: "\u{1b}[2J".into(),
            expected: "EPERM".into(),
        };
        Report {
            profile: Profile::Hardened,
            kernel: "6.18".into(),
            attacks: 1,
            package: "erofs".into(),
            absent: vec![Program::Python],
            reported: 3,
            attempts: verdicts.iter().map(attempt).collect(),
        }
    }

    /// What the schema of SARIF 2.1.0 requires of each object that is used here.
    #[test]
    fn it_has_what_the_standard_requires() {
        let log = report(&[Verdict::Allowed, Verdict::Refused, Verdict::Skipped, Verdict::Unexpected]).sarif();
        assert_eq!(log["version"], "2.1.0");
        let run = &log["runs"][0];
        assert!(run["tool"]["driver"]["name"].is_string() && run["invocations"][0]["executionSuccessful"] == true);
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 1);
        for text in ["shortDescription", "fullDescription", "help"] {
            assert!(rules[0][text]["text"].as_str().is_some_and(|t| t.len() > 10), "{text}");
        }
        assert_eq!(rules[0]["properties"]["tags"], serde_json::json!(["sandbox", "kernel"]));
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), 2, "what was refused or skipped is no result");
        for result in results {
            let place = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(rules[place]["id"], result["ruleId"]);
            assert_eq!((&result["level"], &result["kind"]), (&"error".into(), &"fail".into()));
            let text = result["message"]["text"].as_str().unwrap();
            assert!(text.contains("tried from static") && !text.contains('\u{1b}'), "{text}");
            assert_eq!(result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"], "hardened/static");
        }
        let said = &run["properties"];
        assert_eq!(
            (&said["profile"], &said["kernel"], &said["reported"]),
            (&"hardened".into(), &"6.18".into(), &3.into())
        );
        assert_eq!(
            (&said["attempts"], &said["refused"], &said["absentPrograms"][0]),
            (&4.into(), &1.into(), &"python".into())
        );
    }

    #[test]
    fn a_sandbox_that_holds_has_no_results_and_all_its_rules() {
        let mut all = report(&[]);
        all.attempts = attacks::all()
            .map(|attack| Attempt {
                id: attack.id.to_owned(),
                tries: attack.tries.to_owned(),
                program: Program::Binary,
                verdict: Verdict::Refused,
                answer: "EPERM".into(),
                expected: "EPERM".into(),
            })
            .collect();
        let log = all.sarif();
        assert_eq!(log["runs"][0]["results"], serde_json::json!([]));
        assert_eq!(log["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap().len(), attacks::all().count());
    }
}
