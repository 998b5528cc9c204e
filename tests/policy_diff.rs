//! What a change of a policy grants is known before it decides anything: exactly, by proof, or not for certain.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use cogward_testkit::Plane;
use serde_json::{Value, json};

const OPERATORS: &str = "@id(\"operators\") permit (principal is Cogward::Operator, action, resource);\n";
const SMALL: &str = "@id(\"small\") permit (principal is Cogward::AgentVersion, action == Cogward::Action::\"model_call\", resource) \
                     when { context.model.tokens_max <= 1000 };\n";
const LARGE: &str = "@id(\"large\") permit (principal is Cogward::AgentVersion, action == Cogward::Action::\"model_call\", resource) \
                     when { context.model.tokens_max <= 5000 };\n";
/// Two values beside one another: questions about constants do not stand for all.
const WITHIN: &str = "@id(\"within\") permit (principal is Cogward::AgentVersion, action == Cogward::Action::\"model_call\", resource) \
                      when { context.model.tokens_max <= context.budget.tokens && context.model.tokens_max <= 1000 };\n";

fn solver() -> Result<String> {
    let home = std::env::var_os("HOME").context("HOME")?;
    let given = std::env::var_os("COGWARD_TEST_SOLVER").map(PathBuf::from);
    let program = given.unwrap_or_else(|| PathBuf::from(home).join(".cache/cogward/venvs/solver/bin/cvc5"));
    anyhow::ensure!(program.exists(), "{} is missing: run scripts/setup-tests.sh", program.display());
    Ok(program.to_string_lossy().into_owned())
}

fn put(plane: &Plane, text: &str) -> Result<String> {
    let path = plane.scratch().join("policy.cedar");
    fs::write(&path, text)?;
    let put = plane.json(["policy", "put", &path.to_string_lossy(), "--reason", "test"])?;
    let digest = put["digest"].as_str().context("a digest")?.to_owned();
    plane.ok(["policy", "approve", &digest, "--reason", "test"])?;
    Ok(digest)
}

/// The exit code and the answer.
fn diff(plane: &Plane, version: &str, more: &[&str]) -> Result<(i32, Value)> {
    let args = ["policy", "diff", version, "-o", "json"].into_iter().chain(more.iter().copied());
    let done = plane.cli(args)?;
    let answer = serde_json::from_str(&done.stdout).with_context(|| done.stderr.clone())?;
    Ok((done.code(), answer))
}

#[test]
fn what_a_version_grants_and_takes_is_said_exactly_and_activation_can_be_held_to_it() -> Result<()> {
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    let small = put(&plane, &format!("{OPERATORS}{SMALL}"))?;
    let large = put(&plane, &format!("{OPERATORS}{LARGE}"))?;
    // Against what cogward comes with, which permits everything, any text only takes away.
    let (code, first) = diff(&plane, &small, &[])?;
    assert_eq!((code, &first["analysis"]["grants"]), (0, &json!("nothing")), "{first:#}");
    assert!(first["takes"].as_array().is_some_and(|takes| !takes.is_empty()));
    plane.ok(["policy", "activate", &small, "--if-grants-nothing", "--reason", "test"])?;

    let (code, more) = diff(&plane, &large, &[])?;
    assert_eq!(
        (code, &more["analysis"]["grants"], &more["analysis"]["method"]),
        (1, &json!("something"), &json!("exact"))
    );
    assert_eq!(
        (&more["grants"][0]["from"]["verdict"], &more["grants"][0]["to"]["verdict"]),
        (&json!("block"), &json!("permit"))
    );
    assert_eq!(more["against"], json!(small));
    let held = plane.cli(["policy", "activate", &large, "--if-grants-nothing", "--reason", "test"])?;
    assert_eq!(held.code(), 4, "{}", held.stderr);
    assert!(held.stderr.contains("policy_grants") && held.stderr.contains("block to permit"), "{}", held.stderr);
    assert_eq!(plane.json(["policy", "list"])?[0]["active"], json!(small), "nothing was changed");
    plane.ok(["policy", "activate", &large, "--reason", "test"])?;
    // And back: what is narrower goes through.
    let (code, back) = diff(&plane, &small, &["--against", "2"])?;
    assert_eq!((code, &back["analysis"]["grants"]), (0, &json!("nothing")), "{back:#}");
    plane.ok(["policy", "activate", &small, "--if-grants-nothing", "--reason", "test"])?;
    Ok(())
}

#[test]
fn a_change_for_calls_of_tools_is_asked_about_the_tools_that_are_approved() -> Result<()> {
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    let server = format!(
        "{}/../../tests/fixtures/mcp-servers/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js",
        env!("CARGO_MANIFEST_DIR")
    );
    anyhow::ensure!(PathBuf::from(&server).exists(), "{server} is missing: run scripts/setup-tests.sh");
    let files = plane.scratch().join("files");
    fs::create_dir_all(&files)?;
    let add =
        ["tool-server", "add", "files", "--approve-tools", "--reason", "test", "--sandbox", "none", "--stdio", "--"];
    plane.ok(add.into_iter().chain(["/usr/bin/node", server.as_str(), &files.to_string_lossy()]))?;

    let all = "@id(\"all\") permit (principal, action, resource);\n";
    let tools = "principal, action in Cogward::Action::\"tool_call\", resource";
    let etc = format!(
        "@id(\"etc\") forbid ({tools}) when {{ context has arguments && context.arguments has path && \
         context.arguments.path like \"/etc/*\" }};\n"
    );
    let counted = |what: &str| {
        format!(
            "@track(\"n = count of {what} per run\") {OPERATORS}permit (principal is Cogward::AgentVersion, action, \
             resource);\n@id(\"lim\") forbid (principal is Cogward::AgentVersion, \
             action in Cogward::Action::\"tool_call\", resource) when {{ context.history.n > 3 }};\n"
        )
    };
    for (what, before, after) in [
        ("a forbid on the arguments of every tool", format!("{all}{etc}"), all.to_owned()),
        ("a count of something else", counted("tool_call"), counted("prompt_get")),
        (
            "everybody but one",
            format!(
                "{OPERATORS}permit ({tools}) when {{ context has subject && \
                 [\"alice\", \"something-else\"].contains(context.subject) }};\n"
            ),
            format!("{OPERATORS}permit ({tools}) when {{ context has subject }};\n"),
        ),
        (
            "an approval in place of a redaction",
            format!("{OPERATORS}@redact(\"result.iban\") permit ({tools});\n"),
            format!("{OPERATORS}@escalate(\"boss\") permit ({tools});\n"),
        ),
    ] {
        let (before, after) = (put(&plane, &before)?, put(&plane, &after)?);
        plane.ok(["policy", "activate", &before, "--reason", "test"])?;
        let (code, more) = diff(&plane, &after, &[])?;
        assert_eq!((code, &more["analysis"]["grants"]), (1, &json!("something")), "{what}: {more:#}");
        let held = plane.cli(["policy", "activate", &after, "--if-grants-nothing", "--reason", "test"])?;
        assert!(held.code() == 4 && held.stderr.contains("policy_grants"), "{what}: {}", held.stderr);
    }
    Ok(())
}

#[test]
fn rules_that_do_nothing_are_named() -> Result<()> {
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    let never = "@id(\"never\") permit (principal is Cogward::AgentVersion, action == Cogward::Action::\"model_call\", resource) \
                 when { context.model.tokens_max < 10 && context.model.tokens_max > 20 };\n";
    let version = put(&plane, &format!("{OPERATORS}{LARGE}{SMALL}{never}"))?;
    let (_, diff) = diff(&plane, &version, &[])?;
    let idle: Vec<_> = diff["idle"]
        .as_array()
        .context("a list")?
        .iter()
        .map(|one| (one["rule"].clone(), one["dead"].clone()))
        .collect();
    assert_eq!(idle, [(json!("small"), json!(false)), (json!("never"), json!(true))], "{diff:#}");
    assert_eq!(diff["idle_exact"], true);
    Ok(())
}

#[test]
fn what_questions_cannot_settle_a_solver_proves_and_without_one_it_is_not_certain() -> Result<()> {
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    let small = put(&plane, &format!("{OPERATORS}{SMALL}"))?;
    let within = put(&plane, &format!("{OPERATORS}{WITHIN}"))?;
    let (code, unsure) = diff(&plane, &within, &["--against", &small])?;
    assert_eq!((code, &unsure["analysis"]["grants"]), (9, &json!("unknown")), "{unsure:#}");
    assert!(unsure["analysis"]["unproved"].as_str().is_some_and(|why| why.contains("--policy-solver")), "{unsure:#}");
    plane.ok(["policy", "activate", &small, "--reason", "test"])?;
    let held = plane.cli(["policy", "activate", &within, "--if-grants-nothing", "--reason", "test"])?;
    assert_eq!(held.code(), 4, "what is not certain is not let through: {}", held.stderr);

    let solver = solver()?;
    let plane = Plane::start_serving(env!("CARGO_BIN_EXE_cogward"), &["--policy-solver", &solver])?;
    assert!(plane.json(["policy", "status"])?["solver"].as_str().is_some_and(|name| name.contains("cvc5")));
    let small = put(&plane, &format!("{OPERATORS}{SMALL}"))?;
    let within = put(&plane, &format!("{OPERATORS}{WITHIN}"))?;
    let (code, sure) = diff(&plane, &within, &["--against", &small])?;
    assert_eq!((code, &sure["analysis"]["method"]), (0, &json!("proof")), "{sure:#}");
    assert!(sure["proof"]["claims"].as_array().is_some_and(|all| all.iter().all(|one| one["holds"] == true)));
    plane.ok(["policy", "activate", &small, "--reason", "test"])?;
    plane.ok(["policy", "activate", &within, "--if-grants-nothing", "--reason", "test"])?;
    Ok(())
}

#[test]
fn a_solver_that_is_none_keeps_the_plane_from_starting() -> Result<()> {
    let Err(error) = Plane::start_serving(env!("CARGO_BIN_EXE_cogward"), &["--policy-solver", "/bin/true"]) else {
        anyhow::bail!("it came up")
    };
    let told = format!("{error:#}");
    assert!(told.contains("does not answer as cvc5 does"), "{told}");
    Ok(())
}
