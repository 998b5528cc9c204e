//! Policies and approvals.

use cogward_api::{
    Approval, ApprovalState, ChangedDecision, Grants, NewOperator, PolicyChecked, PolicyDiff, PolicyExplanation,
    PolicyLevel, PolicySimulation, PolicyState, PolicyStatus, PolicyVerdict, PolicyVersion,
};

use super::{maybe, maybe_time, time, yes};
use crate::output::{Cell, Show, Tone};

impl Show for PolicyLevel {
    const PLURAL: &'static str = "policies: the plane applies what cogward comes with";
    const HEAD: &'static [&'static str] = &["LEVEL", "ACTIVE", "REVISION", "VERSIONS", "UPDATED", "BY", "REASON"];
    fn row(&self) -> Vec<Cell> {
        vec![
            Cell::from(&self.level),
            maybe(&self.active),
            self.revision.into(),
            self.versions.into(),
            maybe_time(self.updated),
            maybe(&self.updated_by),
            maybe(&self.reason),
        ]
    }
    fn name(&self) -> String {
        self.level.to_string()
    }
}

fn state(state: PolicyState) -> Cell {
    let tone = match state {
        PolicyState::Active => Tone::Good,
        PolicyState::Draft => Tone::Warn,
        PolicyState::Approved | PolicyState::Superseded => Tone::Plain,
    };
    Cell::toned(state.as_str(), tone)
}

impl Show for PolicyVersion {
    const PLURAL: &'static str = "versions";
    const HEAD: &'static [&'static str] = &["NUMBER", "STATE", "DIGEST", "WRITTEN", "AUTHOR", "REASON", "APPROVED BY"];
    fn row(&self) -> Vec<Cell> {
        vec![
            self.number.into(),
            state(self.state),
            self.digest.into(),
            time(self.written.at),
            Cell::from(&self.written.by),
            Cell::from(&self.written.reason),
            maybe(&self.approved.as_ref().map(|approved| &approved.by)),
        ]
    }
    fn name(&self) -> String {
        self.digest.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all = vec![("LEVEL", Cell::from(&self.level))];
        all.extend(Self::HEAD.iter().copied().zip(self.row()));
        all.push(("FIRST ACTIVE", maybe_time(self.first_active)));
        for line in self.text.as_deref().unwrap_or_default().lines() {
            all.push(("TEXT", line.into()));
        }
        all
    }
}

impl Show for PolicyChecked {
    const PLURAL: &'static str = "texts";
    const HEAD: &'static [&'static str] = &["LEVEL", "RULES", "DIGEST"];
    fn row(&self) -> Vec<Cell> {
        vec![Cell::from(&self.level), self.rules.into(), self.digest.into()]
    }
    fn name(&self) -> String {
        self.digest.to_string()
    }
}

impl Show for PolicyStatus {
    const PLURAL: &'static str = "gateways";
    const HEAD: &'static [&'static str] = &["FOUR EYES", "OPERATORS"];
    fn row(&self) -> Vec<Cell> {
        vec![yes(self.four_eyes).into(), self.operators.into()]
    }
    fn name(&self) -> String {
        "policy".to_owned()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        if let Some(solver) = &self.solver {
            all.push(("SOLVER", Cell::from(solver)));
        }
        if self.four_eyes && self.operators < 2 {
            all.push(("", Cell::toned("nobody can approve: four eyes need a second operator", Tone::Warn)));
        }
        for gateway in &self.gateways {
            all.push(("GATEWAY", Cell::from(&gateway.gateway)));
            all.push(("GENERATION", gateway.generation.into()));
            all.push(("SINCE", maybe_time(gateway.since)));
            let current = if gateway.current { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Bad) };
            all.push(("CURRENT", current));
            for applied in &gateway.levels {
                let built_in = if applied.built_in { "  (what cogward comes with)" } else { "" };
                let text = format!("{}  {}{built_in}", applied.level, applied.digest);
                all.push(match &applied.unusable {
                    None => ("LEVEL", text.into()),
                    Some(why) => ("LEVEL", Cell::toned(format!("{text}  BLOCKED: {why}"), Tone::Bad)),
                });
            }
        }
        all
    }
}

fn verdict(verdict: &PolicyVerdict) -> String {
    let level = verdict.level.as_deref().unwrap_or("");
    let rules = verdict.rules.join(", ");
    match (level, rules.as_str()) {
        ("", _) => verdict.verdict.clone(),
        (_, "") => format!("{} by {level} (no rule matched)", verdict.verdict),
        _ => format!("{} by {level}: {rules}", verdict.verdict),
    }
}

impl Show for PolicyExplanation {
    const PLURAL: &'static str = "explanations";
    const HEAD: &'static [&'static str] = &["DECISION", "TYPE", "TIME", "RECORDED", "AGAIN", "AGREES"];
    fn row(&self) -> Vec<Cell> {
        let agrees = if self.agrees { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Bad) };
        vec![
            Cell::from(self.decision),
            Cell::from(&self.kind),
            time(self.time),
            verdict(&self.recorded).into(),
            self.again.as_ref().map(verdict).unwrap_or_default().into(),
            agrees,
        ]
    }
    fn name(&self) -> String {
        self.decision.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        all.push(("SETTLED BY", Cell::from(&self.settled_by)));
        if let Some(why) = &self.why_not {
            all.push(("WHY NOT", Cell::toned(why.as_str(), Tone::Bad)));
        }
        for version in &self.versions {
            all.push(("VERSION", format!("{}  {}", version.level, version.digest).into()));
        }
        for text in &self.texts {
            all.push(("RULE", text.into()));
        }
        if let Some(input) = &self.input {
            all.push(("INPUT", input.into()));
        }
        all
    }
}

impl Show for PolicySimulation {
    const PLURAL: &'static str = "simulations";
    const HEAD: &'static [&'static str] = &["LEVEL", "VERSION", "TENANT", "DECISIONS", "REPLAYED", "UNKNOWN", "MORE"];
    fn row(&self) -> Vec<Cell> {
        vec![
            Cell::from(&self.level),
            self.version.into(),
            Cell::from(&self.tenant),
            self.decisions.into(),
            self.replayed.into(),
            self.unknown.into(),
            yes(self.more).into(),
        ]
    }
    fn name(&self) -> String {
        self.version.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        if self.changes.is_empty() {
            all.push(("CHANGES", Cell::toned("none", Tone::Good)));
        }
        for change in &self.changes {
            let tone = if change.to == "permit" { Tone::Bad } else { Tone::Warn };
            all.push(("CHANGES", Cell::toned(format!("{} {} -> {}", change.count, change.from, change.to), tone)));
        }
        all
    }
}

impl Show for PolicyDiff {
    const PLURAL: &'static str = "differences";
    const HEAD: &'static [&'static str] = &["LEVEL", "VERSION", "AGAINST", "GRANTS", "METHOD", "QUESTIONS"];
    fn row(&self) -> Vec<Cell> {
        let (grants, tone) = match self.analysis.grants {
            Grants::Nothing => ("nothing", Tone::Good),
            Grants::Something => ("something", Tone::Bad),
            Grants::Unknown => ("nothing that was found", Tone::Warn),
        };
        vec![
            Cell::from(&self.level),
            self.version.into(),
            self.against.map_or_else(|| Cell::from("no say"), Cell::from),
            Cell::toned(grants, tone),
            self.analysis.method.as_str().into(),
            self.analysis.questions.into(),
        ]
    }
    fn name(&self) -> String {
        self.version.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        for why in &self.analysis.because {
            all.push(("NOT EXACT", Cell::toned(why.clone(), Tone::Warn)));
        }
        if let Some(why) = &self.analysis.unproved {
            all.push(("NOT PROVED", Cell::toned(why.clone(), Tone::Warn)));
        }
        if let Some(proof) = &self.proof {
            all.push(("SOLVER", Cell::from(&proof.solver)));
            for claim in &proof.claims {
                let (word, tone) = match claim.holds {
                    Some(true) => ("holds", Tone::Good),
                    Some(false) => ("does not hold", Tone::Bad),
                    None => ("is not known", Tone::Warn),
                };
                let detail = claim.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
                all.push(("PROOF", Cell::toned(format!("{}: {word}{detail}", claim.claim), tone)));
            }
            for rule in &proof.can_fail {
                all.push(("CAN FAIL", Cell::toned(rule.clone(), Tone::Warn)));
            }
        }
        for rule in &self.idle {
            let why = match (rule.dead, rule.shadowed_by.is_empty()) {
                (true, _) => "matches nothing".to_owned(),
                (false, true) => "changes no answer".to_owned(),
                (false, false) => format!("changes no answer beside {}", rule.shadowed_by.join(", ")),
            };
            let sure = if self.idle_exact { "" } else { ", as far as was looked" };
            all.push((
                "IDLE RULE",
                Cell::toned(format!("{} (line {}): {why}{sure}", rule.rule, rule.line), Tone::Warn),
            ));
        }
        all
    }
}

impl Show for ChangedDecision {
    const PLURAL: &'static str = "changed decisions";
    const HEAD: &'static [&'static str] = &["DECISION", "TIME", "RUN", "ON", "FROM", "TO"];
    fn row(&self) -> Vec<Cell> {
        vec![
            Cell::from(self.decision),
            time(self.time),
            maybe(&self.run),
            Cell::from(&self.object),
            verdict(&self.from).into(),
            verdict(&self.to).into(),
        ]
    }
    fn name(&self) -> String {
        self.decision.to_string()
    }
}

impl Show for Approval {
    const PLURAL: &'static str = "approvals";
    const HEAD: &'static [&'static str] =
        &["APPROVAL", "STATE", "ROLE", "AGENT", "ACTION", "ON", "REQUESTED", "EXPIRES"];
    fn row(&self) -> Vec<Cell> {
        let tone = match self.state {
            ApprovalState::Pending => Tone::Warn,
            ApprovalState::Approved | ApprovalState::Consumed => Tone::Good,
            ApprovalState::Denied | ApprovalState::Expired => Tone::Bad,
        };
        vec![
            Cell::from(self.id),
            Cell::toned(self.state.as_str(), tone),
            Cell::from(&self.role),
            Cell::from(&self.agent),
            Cell::from(&self.action),
            Cell::from(&self.object),
            time(self.requested),
            time(self.expires),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        all.push(("RUN", self.run.into()));
        all.push(("FOR", maybe(&self.subject)));
        all.push(("ASKED BY", format!("{}: {}", self.level, self.rules.join(", ")).into()));
        all.push(("WHY", maybe(&self.reason)));
        if self.four_eyes {
            all.push(("FOUR EYES", "not by whoever started the run or is its user".into()));
        }
        all.push(("REQUEST", self.request.into()));
        if let Some(arguments) = &self.arguments {
            all.push(("ARGUMENTS", arguments.into()));
            let shown = arguments.len() as u64;
            if self.arguments_bytes.is_some_and(|whole| whole > shown) {
                let whole = self.arguments_bytes.unwrap_or_default();
                all.push(("", Cell::toned(format!("cut: {shown} of {whole} bytes are shown"), Tone::Warn)));
            }
        }
        if let Some(answered) = &self.answered {
            all.push(("ANSWERED BY", Cell::from(&answered.by)));
            all.push(("ANSWERED", time(answered.at)));
            all.push(("REASON", Cell::from(&answered.reason)));
        }
        all.push(("CONSUMED", maybe_time(self.consumed)));
        all
    }
}

impl Show for NewOperator {
    const PLURAL: &'static str = "operators";
    const HEAD: &'static [&'static str] = &["OPERATOR", "NAME", "ROLE"];
    fn row(&self) -> Vec<Cell> {
        vec![self.operator.id.into(), Cell::from(&self.operator.name), Cell::from(&self.operator.role)]
    }
    fn name(&self) -> String {
        self.operator.id.to_string()
    }
}
