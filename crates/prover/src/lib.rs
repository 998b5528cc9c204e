//! Proves what a change of policy grants, with Cedar's symbolic compiler and a solver that the operator installed.
//!
//! It is a crate of its own because it starts a process and waits for it, which the decision function never does. The
//! solver is a program of the host (cvc5 1.3.1 or later): it gets formulas on its standard input, an empty environment,
//! and bounds on its time and memory. Its answers are taken for what they are: `unsat` is a proof for all questions at
//! which no rule fails, so which rules can fail is asked too.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use cedar_policy::{PolicySet, RequestEnv, Schema as CedarSchema};
use cedar_policy_symcc::{
    CedarSymCompiler, CompiledPolicy, CompiledPolicySet,
    solver::{LocalSolver, SolverError},
};
use cogward_policy::{
    Schema, Version,
    analysis::sets::{self, Claim, SetError},
};
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::Instant};

/// The memory that a solver may use, in bytes.
pub const SOLVER_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// The time that one formula may take; one that takes longer is not known.
pub const FORMULA_TIME_MAX: Duration = Duration::from_secs(20);
/// The time for a solver to say what it is.
const GREETING_TIME_MAX: Duration = Duration::from_secs(10);
/// What is said of questions that were not come to.
const NO_TIME: &str = "there was no time left";
/// The longest example that is shown, in characters.
const EXAMPLE_CHARS_MAX: usize = 4_000;

/// A solver of the host.
#[derive(Debug, Clone)]
pub struct Solver {
    program: PathBuf,
    version: String,
}

/// What a solver says of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The solver as it names itself.
    pub solver: String,
    /// Each claim with its answer.
    pub claims: Vec<Proved>,
    /// Kinds of questions that were looked at; others have the same rules before and after.
    pub kinds: usize,
    /// Rules that can fail at some question. Nothing is proved of those questions: a forbid that fails blocks, a permit
    /// that fails does not permit.
    pub can_fail: BTreeSet<String>,
}

/// A claim with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proved {
    /// The claim in words.
    pub claim: String,
    /// Whether it holds.
    pub answer: Answer,
}

/// Whether a claim holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Answer {
    /// For every question at which no rule fails.
    Holds,
    /// Not for this one.
    Fails {
        /// A question for which it does not hold, as the solver found it.
        example: String,
    },
    /// Not known.
    Unknown {
        /// Why.
        why: String,
    },
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProverError {
    /// The program is not there or cannot be started.
    #[error("the solver {program} cannot be started: {source}")]
    NotStarted {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program is no cvc5.
    #[error("{0} does not answer as cvc5 does: install cvc5 1.3.1 or later, or name another program")]
    NoSolver(PathBuf),
    /// The versions cannot be put to it.
    #[error(transparent)]
    Sets(#[from] SetError),
    /// The plane cannot wait for a process.
    #[error("the solver cannot be waited for: {0}")]
    Runtime(#[source] io::Error),
}

impl Solver {
    /// Finds out what a program is. Blocks for as long as it takes to answer, ten seconds at most.
    ///
    /// # Errors
    /// When it is not there, or no cvc5.
    pub fn find(program: &Path) -> Result<Self, ProverError> {
        let not_started = |source| ProverError::NotStarted { program: program.to_owned(), source };
        let asked = runtime()?.block_on(async {
            let mut command = bare(program);
            command.arg("--version").stdin(std::process::Stdio::null());
            tokio::time::timeout(GREETING_TIME_MAX, command.output()).await
        });
        let output = match asked {
            Ok(output) => output.map_err(not_started)?,
            Err(_) => return Err(ProverError::NoSolver(program.to_owned())),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.to_ascii_lowercase().contains("cvc5"));
        let line = line.ok_or_else(|| ProverError::NoSolver(program.to_owned()))?;
        Ok(Self { program: program.to_owned(), version: line.trim().chars().take(200).collect() })
    }

    /// The solver as it names itself.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether the change grants nothing. Blocks until it is known or `time` is over.
    ///
    /// # Errors
    /// When the versions cannot be put to the solver at all.
    pub fn grants_nothing(
        &self,
        before: Option<&Version>,
        after: Option<&Version>,
        schema: &Schema,
        time: Duration,
    ) -> Result<Proof, ProverError> {
        let claims = sets::grants_nothing(before, after)?;
        let cedar = sets::schema_of(schema, [before, after])?;
        runtime()?.block_on(async {
            let mut session = Session { solver: self, until: Instant::now() + time, kinds: BTreeSet::new() };
            let mut proved = Vec::new();
            for claim in &claims {
                let answer = session.claim(claim, &cedar).await;
                proved.push(Proved { claim: claim.text.to_owned(), answer });
            }
            let can_fail = session.can_fail([before, after], &cedar).await;
            Ok(Proof { solver: self.version.clone(), claims: proved, kinds: session.kinds.len(), can_fail })
        })
    }
}

impl Proof {
    /// Whether every claim holds, and for every question: no rule can fail.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.can_fail.is_empty() && self.claims.iter().all(|proved| proved.answer == Answer::Holds)
    }
}

/// Formulas about one change.
struct Session<'a> {
    solver: &'a Solver,
    until: Instant,
    kinds: BTreeSet<String>,
}

impl Session<'_> {
    async fn claim(&mut self, claim: &Claim, schema: &CedarSchema) -> Answer {
        for kind in schema.request_envs() {
            // What is done before a solver is asked takes its time too, of many rules more than the solver.
            if self.is_over() {
                return unknown(&kind, NO_TIME);
            }
            if relevant(&claim.first, &kind, schema) == relevant(&claim.second, &kind, schema) {
                continue;
            }
            self.kinds.insert(shown(&kind));
            let mut compiled = Vec::new();
            for set in [&claim.first, &claim.second] {
                if self.is_over() {
                    return unknown(&kind, NO_TIME);
                }
                match CompiledPolicySet::compile(set, &kind, schema) {
                    Ok(set) => compiled.push(set),
                    Err(error) => return unknown(&kind, &error.to_string()),
                }
            }
            let [first, second] = compiled.as_slice() else { return unknown(&kind, NO_TIME) };
            let found =
                self.ask(async |compiler| compiler.check_implies_with_counterexample_opt(first, second).await).await;
            match found {
                Ok(None) => {}
                Ok(Some(example)) => {
                    let text = format!("{}\nwith {}", example.request, example.entities.to_dot_str());
                    return Answer::Fails { example: text.chars().take(EXAMPLE_CHARS_MAX).collect() };
                }
                Err(why) => return unknown(&kind, &why),
            }
        }
        Answer::Holds
    }

    /// The rules that can fail, or of which it is not known.
    async fn can_fail(&mut self, versions: [Option<&Version>; 2], schema: &CedarSchema) -> BTreeSet<String> {
        let mut can_fail = BTreeSet::new();
        for (rule, _, policy) in versions.into_iter().flatten().flat_map(sets::rules) {
            for kind in schema.request_envs() {
                if self.is_over() {
                    can_fail.insert(rule.to_owned());
                    break;
                }
                if !can_fail.contains(rule) && concerns(policy, &kind, schema) {
                    let never = match CompiledPolicy::compile(policy, &kind, schema) {
                        Ok(compiled) => {
                            self.ask(async |compiler| compiler.check_never_errors_opt(&compiled).await).await
                        }
                        Err(error) => Err(error.to_string()),
                    };
                    if never != Ok(true) {
                        can_fail.insert(rule.to_owned());
                    }
                }
            }
        }
        can_fail
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// One formula, to a solver of its own: whatever becomes of one says nothing of the next.
    async fn ask<T>(
        &self,
        formula: impl AsyncFnOnce(&mut CedarSymCompiler<LocalSolver>) -> Result<T, cedar_policy_symcc::err::Error>,
    ) -> Result<T, String> {
        let left = self.until.saturating_duration_since(Instant::now()).min(FORMULA_TIME_MAX);
        if left.is_zero() {
            return Err(NO_TIME.to_owned());
        }
        let started = self.start(left).map_err(|error| error.to_string())?;
        let mut compiler = CedarSymCompiler::new(started).map_err(|error| error.to_string())?;
        match tokio::time::timeout(left, formula(&mut compiler)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the solver did not answer within {} s", left.as_secs())),
        }
    }

    fn start(&self, time: Duration) -> Result<LocalSolver, SolverError> {
        let mut command = bare(&self.solver.program);
        command.args(["--lang=smt", &format!("--tlimit={}", time.as_millis())]);
        LocalSolver::from_command(&mut command)
    }
}

/// The program with nothing of ours: no environment, bounds on memory and processor time where the host can set them.
fn bare(program: &Path) -> Command {
    const PRLIMIT: &str = "/usr/bin/prlimit";
    let mut command = if Path::new(PRLIMIT).exists() {
        let mut command = Command::new(PRLIMIT);
        command.args([
            &format!("--as={SOLVER_BYTES_MAX}"),
            &format!("--cpu={}", FORMULA_TIME_MAX.as_secs()),
            "--core=0",
        ]);
        command.arg("--").arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env_clear().current_dir("/").kill_on_drop(true);
    command
}

fn runtime() -> Result<tokio::runtime::Runtime, ProverError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProverError::Runtime)
}

/// Whether the head of a rule can match a kind of question.
fn concerns(policy: &cedar_policy::Policy, kind: &RequestEnv, schema: &CedarSchema) -> bool {
    use cedar_policy::ActionConstraint as Action;
    let action = kind.action();
    let within = |wanted: &cedar_policy::EntityUid| {
        wanted == action || schema.action_entities().is_ok_and(|all| all.is_ancestor_of(wanted, action))
    };
    match policy.action_constraint() {
        Action::Any => true,
        Action::Eq(wanted) => wanted == *action,
        Action::In(wanted) => wanted.iter().any(within),
    }
}

/// The rules of a set that concern a kind of question, as texts without their names.
fn relevant(set: &PolicySet, kind: &RequestEnv, schema: &CedarSchema) -> BTreeSet<String> {
    let text = |policy: &cedar_policy::Policy| {
        policy.to_json().map_or_else(
            |_| policy.to_string(),
            |mut json| {
                if let Some(object) = json.as_object_mut() {
                    object.remove("annotations");
                }
                json.to_string()
            },
        )
    };
    set.policies().filter(|policy| concerns(policy, kind, schema)).map(text).collect()
}

fn shown(kind: &RequestEnv) -> String {
    format!("{} {} {}", kind.principal(), kind.action(), kind.resource())
}

fn unknown(kind: &RequestEnv, why: &str) -> Answer {
    Answer::Unknown { why: format!("{}: {}", shown(kind), why.chars().take(500).collect::<String>()) }
}
