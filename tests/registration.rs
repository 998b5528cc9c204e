//! Registration: what is undeclared, unknown or contradictory is refused with file, line, rule and fix.

use std::fs;

use anyhow::Result;
use cogward_testkit::{Agent, Plane};

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

#[test]
fn a_wrong_manifest_is_refused_by_file_line_rule_and_fix() -> Result<()> {
    let plane = plane()?;
    let cases: &[(&str, &str, &str)] = &[
        ("  sandbox:\n", "  sandbocks:\n", "sandbocks"),
        ("tenant: default", "tenant: Default!", "tenant"),
        ("autonomy: autonomous", "autonomy: whatever", "autonomy"),
        ("  goal: Be tested.\n", "  goal: Be tested.\n  goal: Twice.\n", "goal"),
        ("wallClockSeconds: 120", "wallClockSeconds: -1", "wallClockSeconds"),
        ("pids: 32", "pids: 99999999", "pids"),
        ("directory: code", "directory: nothing-here", "nothing-here"),
        ("entrypoint: [python3, -u, agent.py]", "entrypoint: []", "entrypoint"),
        ("    {}\n", "    tools:\n      - {server: nowhere, allow: [x]}\n", "nowhere"),
        ("    {}\n", "    egress:\n      - {host: 169.254.169.254, port: 80}\n", "169.254.169.254"),
        ("    {}\n", "    egress:\n      - {host: localhost, port: 80}\n", "localhost"),
    ];
    for (at, (old, new, named)) in cases.iter().enumerate() {
        let manifest = plane.write_agent(&Agent {
            name: &format!("wrong-{at}"),
            source: "print(1)\n",
            permissions: "",
            changes: &[(old, new)],
        })?;
        let refused = plane.cli(["agent", "register", "-f", &manifest.to_string_lossy()])?;
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert_ne!(refused.code(), 0, "{new:?} was accepted");
        assert!(said.contains(named), "{new:?}: {said}");
        assert!(said.contains("agent.yaml:"), "names the file and line: {said}");
    }
    assert!(!plane.ok(["agent", "list"])?.contains("wrong"));
    Ok(())
}

#[test]
fn a_manifest_that_is_a_bomb_is_refused_quickly() -> Result<()> {
    let plane = plane()?;
    let huge = format!("apiVersion: cogward.dev/v1alpha1\n# {}\n", "x".repeat(10 << 20));
    let deep = format!("a: {}", "[".repeat(100_000));
    let aliases = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n";
    for (name, text) in
        [("huge", huge.as_str()), ("deep", deep.as_str()), ("aliases", aliases), ("empty", ""), ("nul", "a: \u{0}\n")]
    {
        let file = plane.scratch().join(format!("{name}.yaml"));
        fs::write(&file, text)?;
        let refused = plane.cli(["agent", "register", "-f", &file.to_string_lossy()])?;
        assert_ne!(refused.code(), 0, "{name}");
        assert!(refused.stderr.len() < 8_192, "{name}: the error is for a person: {} bytes", refused.stderr.len());
    }
    Ok(())
}

#[test]
fn a_version_is_registered_once_and_its_digest_is_its_content() -> Result<()> {
    let plane = plane()?;
    let agent = |source| Agent { name: "stable", source, permissions: "", changes: &[] };
    plane.register(&agent("print(1)\n"))?;
    let manifest = plane.write_agent(&agent("print(2)\n"))?;
    let again = plane.cli(["agent", "register", "-f", &manifest.to_string_lossy()])?;
    assert_eq!(again.code(), 5, "another content under a used label: {}", again.stderr);
    Ok(())
}

#[test]
fn the_template_of_init_is_accepted_once_its_code_is_there() -> Result<()> {
    let plane = plane()?;
    let dir = plane.scratch().join("fresh");
    fs::create_dir(&dir)?;
    let made = plane.command(["agent", "init", "fresh"]).current_dir(&dir).output()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(dir.join("agent.yaml").exists());
    Ok(())
}
