//! What a version of a policy grants that another one does not: asked before it is activated.
//!
//! First by the bounded method of the policy crate, which is exact for most texts. Where it is not, by a solver, if the
//! operator has named one. The answer says how it is known.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cogward_api::{AnalysisMethod, Grants, PolicyAnalysis, PolicyClaim, PolicyProof};
use cogward_model::PolicyScope;
use cogward_policy::{
    Schema, Version,
    analysis::{self, Bounds, Comparison, Extent, QUESTIONS_MAX},
};
use cogward_prover::{Answer, Proof, Solver};

/// Time for the bounded method.
const COMPARES: Duration = Duration::from_secs(20);
/// Time for the bounded method where somebody waits for an activation.
const GLANCES: Duration = Duration::from_secs(1);
/// Time for the solver.
const PROVES: Duration = Duration::from_secs(60);

/// Two versions of one level, and what may be named there.
pub(crate) struct Change {
    /// The level.
    pub(crate) level: PolicyScope,
    /// What decides; none has no say.
    pub(crate) before: Option<Arc<Version>>,
    /// What would decide.
    pub(crate) after: Option<Arc<Version>>,
    /// The tools that policies of this level can name.
    pub(crate) schema: Schema,
}

/// What is known of a change.
pub(crate) struct Known {
    /// What it grants, and how that is known.
    pub(crate) analysis: PolicyAnalysis,
    /// What both versions answer differently.
    pub(crate) comparison: Comparison,
    /// What the solver said, if it was asked.
    pub(crate) proof: Option<PolicyProof>,
}

impl Change {
    /// Finds out. Blocks for as long as it takes, which is bounded; `short` where something waits for it that may be
    /// urgent, and then no solver is asked.
    pub(crate) fn analyse(&self, solver: Option<&Solver>, short: bool) -> Known {
        let time = if short { GLANCES } else { COMPARES };
        let bounds = Bounds { questions: QUESTIONS_MAX, until: Some(Instant::now() + time) };
        let comparison =
            analysis::compare(&self.level, self.before.as_ref(), self.after.as_ref(), &self.schema, bounds);
        let because = match &comparison.extent {
            Extent::Exact => Vec::new(),
            Extent::Search { because } => because.iter().cloned().collect(),
        };
        let mut analysis = PolicyAnalysis {
            grants: Grants::Unknown,
            method: if because.is_empty() { AnalysisMethod::Exact } else { AnalysisMethod::Search },
            questions: comparison.questions as u64,
            because,
            unproved: None,
        };
        let mut proof = None;
        if !comparison.grants.is_empty() {
            analysis.grants = Grants::Something;
        } else if analysis.method == AnalysisMethod::Exact {
            analysis.grants = Grants::Nothing;
        } else if !short {
            match self.prove(solver) {
                Ok(found) => {
                    self.weigh(&found, &mut analysis);
                    proof = Some(on_wire(found));
                }
                Err(why) => analysis.unproved = Some(why),
            }
        }
        Known { analysis, comparison, proof }
    }

    fn prove(&self, solver: Option<&Solver>) -> Result<Proof, String> {
        let solver = solver.ok_or("this plane has no solver: `cogward serve --policy-solver PROGRAM`")?;
        let proof = solver.grants_nothing(self.before.as_deref(), self.after.as_deref(), &self.schema, PROVES);
        proof.map_err(|error| error.to_string())
    }

    fn weigh(&self, proof: &Proof, analysis: &mut PolicyAnalysis) {
        if proof.claims.iter().any(|proved| matches!(proved.answer, Answer::Fails { .. })) {
            (analysis.grants, analysis.method) = (Grants::Something, AnalysisMethod::Proof);
        } else if !proof.holds() {
            analysis.unproved = Some(match proof.can_fail.is_empty() {
                true => "the solver does not know".to_owned(),
                false => "some rules can fail, and nothing is proved of such questions".to_owned(),
            });
        } else if self.obliges() {
            // Verdicts are what is proved; that no field is redacted less was only searched for.
            analysis.unproved = Some("verdicts are proved, obligations are not".to_owned());
        } else {
            (analysis.grants, analysis.method) = (Grants::Nothing, AnalysisMethod::Proof);
        }
    }

    /// Whether what decides now asks for more than a verdict, so that a new version could ask for less.
    fn obliges(&self) -> bool {
        let rules = self.before.iter().flat_map(|version| version.rules());
        let mut obliging = rules.filter(|rule| !rule.obligations.is_empty() || !rule.require_labels.is_empty());
        let roles = |version: &Option<Arc<Version>>| {
            let rules = version.iter().flat_map(|version| version.rules().iter());
            let asked = rules.filter_map(|rule| rule.escalation.as_ref());
            asked.map(|one| (one.role.clone(), one.four_eyes)).collect::<Vec<_>>()
        };
        // One approver instead of another one is a difference that no verdict shows.
        obliging.next().is_some() || roles(&self.before) != roles(&self.after)
    }
}

fn on_wire(proof: Proof) -> PolicyProof {
    let claim = |proved: cogward_prover::Proved| {
        let (holds, detail) = match proved.answer {
            Answer::Holds => (Some(true), None),
            Answer::Fails { example } => (Some(false), Some(example)),
            Answer::Unknown { why } => (None, Some(why)),
        };
        PolicyClaim { claim: proved.claim, holds, detail }
    };
    PolicyProof {
        solver: proof.solver,
        claims: proof.claims.into_iter().map(claim).collect(),
        kinds: proof.kinds as u64,
        can_fail: proof.can_fail.into_iter().collect(),
    }
}
