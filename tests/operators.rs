//! Operator credentials: replaced without a new data directory, shown once, the old one dead.

use anyhow::{Context, Result};
use cogward_testkit::Plane;

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

/// The exit code of a command that is sent with a credential.
fn with(plane: &Plane, token: &str) -> Result<i32> {
    let done = plane.command(["tenant", "list"]).env("COGWARD_TOKEN", token).output()?;
    Ok(done.status.code().unwrap_or(-1))
}

fn rotate(plane: &Plane, token: &str, overlap: &str) -> Result<String> {
    let done = plane
        .command(["operator", "rotate", "--overlap", overlap, "--reason", "yearly"])
        .env("COGWARD_TOKEN", token)
        .output()?;
    anyhow::ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout)?;
    anyhow::ensure!(text.lines().count() == 1, "the credential and nothing else: {text}");
    Ok(text.trim().to_owned())
}

#[test]
fn a_replaced_credential_is_dead_at_once_and_the_new_one_is_kept_nowhere() -> Result<()> {
    let mut plane = plane()?;
    let first = plane.token().to_owned();
    let second = rotate(&plane, &first, "0")?;
    assert!(second.starts_with("cwo_") && second != first);
    assert_eq!((with(&plane, &first)?, with(&plane, &second)?), (4, 0));
    // The old one can no longer replace anything, and the id in both is the same operator.
    assert!(rotate(&plane, &first, "0").is_err());
    assert_eq!(first.get(..30), second.get(..30));
    plane.kill_9()?;
    plane.up()?;
    assert_eq!((with(&plane, &first)?, with(&plane, &second)?), (4, 0));
    let secret = second.get(31..).context("a secret")?.as_bytes();
    let mut folders = vec![plane.data_dir()];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                read += 1;
                let bytes = std::fs::read(&path)?;
                assert!(!bytes.windows(secret.len()).any(|w| w == secret), "it is in {}", path.display());
            }
        }
    }
    assert!(read > 3 && !plane.log().contains(second.get(31..).context("a secret")?));
    let listed = plane.command(["operator", "list", "-o", "json"]).env("COGWARD_TOKEN", &second).output()?;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    assert!(listed[0]["rotated"].is_string() && listed[0]["name"] == "operator", "{listed}");
    assert!(listed[0].get("credential").is_none() && listed[0].get("credential_hash").is_none());
    Ok(())
}

#[test]
fn both_are_valid_for_as_long_as_was_said_and_no_longer() -> Result<()> {
    let plane = plane()?;
    let first = plane.token().to_owned();
    let second = rotate(&plane, &first, "600")?;
    assert_eq!((with(&plane, &first)?, with(&plane, &second)?), (0, 0));
    // A third one ends the first: at most one old credential is valid.
    let third = rotate(&plane, &second, "600")?;
    assert_eq!((with(&plane, &first)?, with(&plane, &second)?, with(&plane, &third)?), (4, 0, 0));
    let fourth = rotate(&plane, &third, "1")?;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while with(&plane, &third)? != 4 {
        anyhow::ensure!(std::time::Instant::now() < until, "the overlap does not end");
    }
    assert_eq!((with(&plane, &second)?, with(&plane, &fourth)?), (4, 0));
    for overlap in ["86401", "-1", "x"] {
        let asked = plane.command(["operator", "rotate", "--overlap", overlap, "--reason", "x"]).output()?;
        assert_eq!(asked.status.code(), Some(2), "{overlap}");
    }
    Ok(())
}

#[test]
fn a_replacement_needs_a_reason_and_an_operator_and_is_evidence() -> Result<()> {
    let plane = plane()?;
    let authorization = format!("Bearer {}", plane.token());
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let own = plane.json(["operator", "list"])?[0]["id"].as_str().context("an id")?.to_owned();
    let path = format!("/api/v1/operators/{own}/rotate");
    for (path, body, status) in [
        (path.as_str(), "{}", 400),
        (path.as_str(), r#"{"reason":"x","overlap_seconds":86401}"#, 400),
        ("/api/v1/operators/opr_01KAMZ0000000000000000000A/rotate", r#"{"reason":"x"}"#, 404),
        ("/api/v1/operators/nobody/rotate", r#"{"reason":"x"}"#, 400),
    ] {
        let (answered, said) = plane.http("POST", path, &headers, body.as_bytes())?;
        assert_eq!(answered, status, "{path} {body}: {said}");
        assert!(!said.contains("cwo_"), "{said}");
    }
    assert_eq!(plane.http("POST", &path, &headers[1..], br#"{"reason":"x"}"#)?.0, 401);
    let new = rotate(&plane, plane.token(), "0")?;
    let pack = plane.scratch().join("pack");
    let export = plane.command(["evidence", "export"]).arg(&pack).env("COGWARD_TOKEN", &new).output()?;
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    let (mut folders, mut text) = (vec![pack], String::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path)
            } else {
                text.push_str(&String::from_utf8_lossy(&std::fs::read(path)?))
            }
        }
    }
    assert_eq!(text.matches("operator.rotated").count(), 1);
    assert!(!text.contains(new.get(31..).context("a secret")?));
    Ok(())
}

/// Seen at an auditor's: `--role auditor` made a full operator.
#[test]
fn a_role_of_approvals_is_not_taken_for_one_that_only_reads() -> Result<()> {
    let plane = plane()?;
    let own = plane.json(["operator", "list"])?[0]["id"].as_str().context("an id")?.to_owned();
    for command in [vec!["operator", "add", "erin"], vec!["operator", "roles", &own]] {
        let done = plane.command(command).args(["--role", "auditor", "--reason", "test"]).output()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        anyhow::ensure!(!done.status.success() && said.contains("--auditor"), "{said}");
    }
    assert_eq!(plane.json(["operator", "list"])?.as_array().map(Vec::len), Some(1), "nobody was made");
    Ok(())
}
