//! Proofs by a real solver, which `scripts/setup-tests.sh` installs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cogward_policy::{PolicyScope, Schema, Shape, Version, analysis};
use cogward_prover::{Answer, Proof, ProverError, Solver};

const TIME: Duration = Duration::from_secs(120);

fn solver() -> Solver {
    let program = std::env::var_os("COGWARD_TEST_SOLVER").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/cogward/venvs/solver/bin/cvc5"),
        PathBuf::from,
    );
    Solver::find(&program).unwrap_or_else(|error| panic!("{error}; scripts/setup-tests.sh installs it"))
}

fn schema() -> Schema {
    let mut schema = Schema::new();
    let pay = serde_json::json!({
        "type": "object",
        "required": ["amount", "limit", "to"],
        "properties": {"amount": {"type": "integer"}, "limit": {"type": "integer"}, "to": {"type": "string"}}
    });
    schema.tool("bank", "pay", Arc::new(Shape::of(&pay)));
    schema
}

fn version(text: &str) -> Version {
    let level = PolicyScope::Tenant("acme".parse().unwrap());
    Version::check(level, text, &schema()).unwrap_or_else(|findings| panic!("{findings:?}\n{text}"))
}

fn pay(condition: &str) -> Version {
    version(&format!(
        "@id(\"pay\") permit(principal, action == Cogward::Action::\"tool:bank/pay\", resource) when {{ {condition} }};"
    ))
}

fn proof(before: Option<&Version>, after: Option<&Version>) -> Proof {
    solver().grants_nothing(before, after, &schema(), TIME).unwrap()
}

#[test]
fn what_cannot_be_enumerated_is_proved() {
    // Two values of the call beside one another: a search cannot prove it, the solver can.
    let (before, after) = (
        pay("context.arguments.amount <= context.arguments.limit"),
        pay("context.arguments.amount < context.arguments.limit"),
    );
    let level = PolicyScope::Tenant("acme".parse().unwrap());
    let (old, new) = (
        Arc::new(pay("context.arguments.amount <= context.arguments.limit")),
        Arc::new(pay("context.arguments.amount < context.arguments.limit")),
    );
    let searched = analysis::compare(&level, Some(&old), Some(&new), &schema(), analysis::Bounds::default());
    assert!(searched.grants.is_empty() && matches!(searched.extent, analysis::Extent::Search { .. }));
    let narrower = proof(Some(&before), Some(&after));
    assert!(narrower.holds() && narrower.solver.contains("cvc5"), "{narrower:?}");
    let wider = proof(Some(&after), Some(&before));
    assert!(matches!(&wider.claims[0].answer, Answer::Fails { example } if example.contains("bank/pay")), "{wider:?}");
}

#[test]
fn texts_are_searched_by_the_solver() {
    let (before, after) =
        (pay("context.arguments.to like \"*@acme.com\""), pay("context.arguments.to like \"*@mail.acme.com\""));
    assert!(!proof(Some(&before), Some(&after)).holds(), "x@mail.acme.com does not end in @acme.com");
    let narrower = pay("context.arguments.to like \"a*@acme.com\"");
    assert!(proof(Some(&before), Some(&narrower)).holds());
}

#[test]
fn an_approval_that_goes_is_found() {
    let plain = "permit(principal, action in Cogward::Action::\"tool_call\", resource);";
    let asks = format!("@escalate(\"treasurer\") {plain}");
    let (plain, asks) = (version(plain), version(&asks));
    let gone = proof(Some(&asks), Some(&plain));
    let answers: Vec<bool> = gone.claims.iter().map(|proved| proved.answer == Answer::Holds).collect();
    assert_eq!(answers, [true, false], "{gone:?}");
    assert!(proof(Some(&plain), Some(&asks)).holds());
    assert!(proof(None, Some(&asks)).holds(), "a first version can only narrow");
    assert!(!proof(Some(&asks), None).holds());
}

#[test]
fn a_rule_that_can_fail_is_named() {
    let adds = pay("context.arguments.amount + context.arguments.limit < 100");
    let proof = proof(Some(&adds), Some(&adds));
    assert_eq!(proof.can_fail.iter().map(String::as_str).collect::<Vec<_>>(), ["pay"], "the sum can leave the range");
    assert!(!proof.holds() && proof.claims.iter().all(|proved| proved.answer == Answer::Holds));
}

#[test]
fn a_program_that_is_no_solver_is_refused() {
    assert!(matches!(
        Solver::find(Path::new("/nonexistent/cvc5")),
        Err(ProverError::NotStarted { .. } | ProverError::NoSolver(_))
    ));
    assert!(matches!(Solver::find(Path::new("/bin/true")), Err(ProverError::NoSolver(_))));
}

#[test]
fn a_solver_that_answers_nothing_proves_nothing() {
    let directory = std::env::temp_dir().join(format!("cogward-prover-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let program = directory.join("cvc5");
    std::fs::write(
        &program,
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo this is cvc5; exit; fi\nexec /bin/cat > /dev/null\n",
    )
    .unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let sum = "context.arguments.amount + context.arguments.limit";
    let (before, after) = (pay(&format!("{sum} < 100")), pay(&format!("{sum} < 10")));
    let proof =
        Solver::find(&program).unwrap().grants_nothing(Some(&before), Some(&after), &schema(), Duration::from_secs(2));
    std::fs::remove_dir_all(&directory).unwrap();
    let proof = proof.unwrap();
    assert!(
        !proof.holds() && proof.claims.iter().all(|proved| matches!(proved.answer, Answer::Unknown { .. })),
        "{proof:?}"
    );
    assert_eq!(proof.can_fail.len(), 1, "of what is not known it is not said that it cannot fail");
}
