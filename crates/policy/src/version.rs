//! A policy version: a Cedar text at a level, immutable, named by its digest.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use aws_lc_rs::digest::{Context, SHA256};
use cedar_policy::{EntityUid, Policy, PolicyId, PolicySet, pst};
use cogward_model::Digest;

use crate::{
    annotations::Annotations,
    finding::{Finding, Findings, Severity},
    lean::Dependent,
    level::PolicyScope,
    reads::{self, Reads},
    rule::{Rule, Scope},
    schema::Schema,
    source::Source,
    track::Tracker,
};

/// The longest text.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// The most rules of a version.
pub const RULES_MAX: usize = 20_000;

/// The deepest expression.
pub const DEPTH_MAX: usize = 192;

/// The most trackers of a version.
pub const TRACKERS_MAX: usize = 64;

/// The most sets of conditions that slices of a version share.
const SHARED_MAX: usize = 16 * 1024;

/// The text of the plane's own version, which permits what no other level forbids.
pub const BUILT_IN: &str = "@id(\"built-in\")\npermit(principal, action, resource);\n";

/// One immutable version.
#[derive(Debug)]
pub struct Version {
    level: PolicyScope,
    text: Arc<str>,
    digest: Digest,
    rules: Vec<Arc<Rule>>,
    trackers: Vec<Arc<Tracker>>,
    warnings: Vec<Finding>,
    shared: Mutex<HashMap<Parts, Weak<Dependent>>>,
}

/// The rules of a slice by their number, each with how many of its conjuncts are left away.
type Parts = Vec<(usize, usize)>;

impl Version {
    /// The name of a text at a level.
    #[must_use]
    pub fn digest_of(level: &PolicyScope, text: &str) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(b"cogward.policy.v1\n");
        context.update(level.to_string().as_bytes());
        context.update(b"\n");
        context.update(text.as_bytes());
        let mut bytes = [0_u8; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Digest::from_bytes(bytes)
    }

    /// Reads a text that is written now: everything that it names must exist in the schema.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(level: PolicyScope, text: &str, schema: &Schema) -> Result<Self, Findings> {
        crate::source::on_large_stack(|| {
            let version = Self::read(level, text)?;
            version.against(schema)
        })
    }

    /// Reads a text that was checked when it was written. It is not held against the tools of today: what it names and
    /// is no longer there fails closed when it is evaluated.
    ///
    /// # Errors
    /// Everything that is wrong with it; nothing for a text that was once taken.
    pub fn load(level: PolicyScope, text: &str) -> Result<Self, Findings> {
        crate::source::on_large_stack(|| Self::read(level, text))
    }

    /// The plane's own version.
    ///
    /// # Errors
    /// None; the text is fixed.
    pub fn built_in() -> Result<Self, Findings> {
        Self::load(PolicyScope::Plane, BUILT_IN)
    }

    /// What this version says that the schema of now does not have: findings for a version that is active while tools
    /// change.
    #[must_use]
    pub fn findings(&self, schema: &Schema) -> Vec<Finding> {
        match crate::source::on_large_stack(|| Ok(schema.validate(self))) {
            Ok(findings) => findings,
            Err(Findings(findings)) => findings,
        }
    }

    fn against(mut self, schema: &Schema) -> Result<Self, Findings> {
        let (errors, warnings): (Vec<_>, Vec<_>) =
            schema.validate(&self).into_iter().partition(|finding| finding.severity == Severity::Error);
        if !errors.is_empty() {
            return Err(Findings(errors));
        }
        self.warnings.extend(warnings);
        Ok(self)
    }

    fn read(level: PolicyScope, text: &str) -> Result<Self, Findings> {
        let source = Source::new(text)?;
        let set: PolicySet = text.parse().map_err(|errors| source.parse_errors(&errors))?;
        let mut compiler = Compiler { source: &source, findings: Vec::new(), names: HashMap::new() };
        for template in set.templates() {
            let at = template.as_ref().loc().map(|loc| loc.start());
            compiler.refuse(at, None, "`?principal` and `?resource` have no value here", "Name the entity itself");
        }
        let mut policies: Vec<(usize, &Policy)> =
            set.policies().map(|policy| (policy.as_ref().loc().map_or(0, |loc| loc.start()), policy)).collect();
        policies.sort_by_key(|(at, _)| *at);
        if policies.len() > RULES_MAX {
            compiler.refuse(None, None, &format!("it has more than {RULES_MAX} rules"), "Split it over levels");
            return Err(Findings(compiler.findings));
        }
        let rules: Vec<Arc<Rule>> = policies
            .into_iter()
            .enumerate()
            .filter_map(|(place, (at, policy))| compiler.rule(place, at, policy).map(Arc::new))
            .collect();
        let trackers = compiler.trackers(&rules);
        if !compiler.findings.is_empty() {
            compiler.findings.truncate(crate::finding::FINDINGS_MAX);
            return Err(Findings(compiler.findings));
        }
        let digest = Self::digest_of(&level, text);
        Ok(Self { level, text: text.into(), digest, rules, trackers, warnings: Vec::new(), shared: Mutex::default() })
    }

    /// The conditions of a slice. Most heads have the same ones, so slices share them: a thousand rules for every tool
    /// of every agent are there once.
    pub(crate) fn shared(
        &self,
        parts: Parts,
        make: impl FnOnce() -> Result<Dependent, String>,
    ) -> Result<Arc<Dependent>, String> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shared.get(&parts).and_then(Weak::upgrade) {
            return Ok(known);
        }
        if shared.len() >= SHARED_MAX {
            shared.retain(|_, dependent| dependent.strong_count() > 0);
        }
        let made = Arc::new(make()?);
        if shared.len() < SHARED_MAX {
            shared.insert(parts, Arc::downgrade(&made));
        }
        Ok(made)
    }

    /// The level that it is for.
    #[must_use]
    pub fn level(&self) -> &PolicyScope {
        &self.level
    }

    /// The text, as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its name.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its rules, in the order of the text.
    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The trackers that it declares.
    #[must_use]
    pub fn trackers(&self) -> &[Arc<Tracker>] {
        &self.trackers
    }

    /// The same version with one rule alone, or with one left out; for analysis.
    pub(crate) fn with_rules(&self, keep: impl Fn(&Rule) -> bool) -> Self {
        Self {
            level: self.level.clone(),
            text: Arc::clone(&self.text),
            digest: self.digest,
            rules: self.rules.iter().filter(|rule| keep(rule)).cloned().collect(),
            trackers: self.trackers.clone(),
            warnings: Vec::new(),
            shared: Mutex::default(),
        }
    }

    /// What is doubtful in it.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }
}

/// Compiles the rules of one text and collects what is wrong.
struct Compiler<'a> {
    source: &'a Source<'a>,
    findings: Vec<Finding>,
    names: HashMap<String, u32>,
}

impl Compiler<'_> {
    fn refuse(&mut self, at: Option<usize>, rule: Option<&str>, what: &str, next_step: &str) {
        self.findings.push(self.source.finding(Severity::Error, at, rule, what, next_step));
    }

    fn rule(&mut self, place: usize, at: usize, policy: &Policy) -> Option<Rule> {
        let annotations: BTreeMap<String, String> =
            policy.annotations().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let name = format!("rule-{}", place + 1);
        let shown = annotations.get("id").cloned().unwrap_or_else(|| name.clone());
        let permits = Rule::permits(policy);
        let scope = Scope::of(policy);
        let mut wrong = Vec::new();
        let read = Annotations::read(&annotations, permits, only_tools(&scope), &mut wrong);
        for (what, next_step) in wrong {
            self.refuse(Some(at), Some(&shown), &what, &next_step);
        }
        let id = read.id.unwrap_or(name);
        let (line, column) = self.source.position(at);
        if let Some(other) = self.names.insert(id.clone(), line) {
            let what = format!("the rule on line {other} has the same id");
            self.refuse(Some(at), Some(&id), &what, "Give each rule an id of its own");
        }
        self.exact_group(at, &id, &scope);
        let clauses = self.conditions(at, &id, policy)?;
        Some(Rule {
            policy: policy.new_id(PolicyId::new(&id)),
            id,
            line,
            column,
            forbids: !permits,
            doc: read.doc,
            advice: read.advice,
            escalation: read.escalation,
            obligations: read.obligations,
            require_labels: read.require_labels,
            trackers: read.trackers,
            reads: Reads::of(&clauses),
            scope,
            clauses,
        })
    }

    /// `action == Action::"tool_call"` would match no call of a pinned tool: a forbid that looks right and does nothing.
    fn exact_group(&mut self, at: usize, id: &str, scope: &Scope) {
        let exact = |(uid, exactly): &(EntityUid, bool)| *exactly && uid.id().unescaped() == "tool_call";
        if scope.actions().is_some_and(|actions| actions.iter().any(exact)) {
            self.refuse(
                Some(at),
                Some(id),
                "`action == Cogward::Action::\"tool_call\"` matches no call of an approved tool",
                "Write `action in Cogward::Action::\"tool_call\"`",
            );
        }
    }

    fn conditions(&mut self, at: usize, id: &str, policy: &Policy) -> Option<Vec<pst::Clause>> {
        let tree = match policy.to_pst() {
            Ok(pst::Policy::Static(tree)) => tree,
            Ok(_) => return None,
            Err(error) => {
                self.refuse(Some(at), Some(id), &error.to_string(), "Correct the expression");
                return None;
            }
        };
        let clauses = tree.body().clauses();
        let deep = clauses.iter().any(|clause| match clause {
            pst::Clause::When(expr) | pst::Clause::Unless(expr) => reads::depth(expr) > DEPTH_MAX,
        });
        if deep {
            let what = format!("its condition is nested more than {DEPTH_MAX} deep");
            self.refuse(Some(at), Some(id), &what, "Split it into several rules, or use a set: `[…].contains(…)`");
            return None;
        }
        Some(clauses.clone())
    }

    /// The trackers of the set, and whether every one that is read is declared.
    fn trackers(&mut self, rules: &[Arc<Rule>]) -> Vec<Arc<Tracker>> {
        let mut all: BTreeMap<String, Arc<Tracker>> = BTreeMap::new();
        for rule in rules {
            for tracker in &rule.trackers {
                let before = all.insert(tracker.name.clone(), Arc::clone(tracker));
                if before.is_some_and(|before| before != *tracker) {
                    let what = format!("the tracker `{}` is declared twice, differently", tracker.name);
                    self.refuse_rule(rule, &what, "Give one of them another name");
                }
            }
        }
        if all.len() > TRACKERS_MAX {
            self.refuse(None, None, &format!("it declares more than {TRACKERS_MAX} trackers"), "Declare fewer");
        }
        for rule in rules {
            for name in rule.reads.history.iter().filter(|name| !all.contains_key(*name)) {
                let what = format!("`context.history.{name}` is not declared");
                let next_step = match crate::nearest::nearest(name, all.keys().map(String::as_str)) {
                    Some(known) => format!("Did you mean `context.history.{known}`?"),
                    None => format!("Declare it: `@track(\"{name} = count of tool_call per run\")`"),
                };
                self.refuse_rule(rule, &what, &next_step);
            }
        }
        all.into_values().collect()
    }

    fn refuse_rule(&mut self, rule: &Rule, what: &str, next_step: &str) {
        self.findings.push(Finding {
            severity: Severity::Error,
            line: rule.line,
            column: rule.column,
            rule: Some(rule.id.clone()),
            what: what.to_owned(),
            next_step: next_step.to_owned(),
        });
    }
}

/// Whether the head of a rule matches calls of tools only.
fn only_tools(scope: &Scope) -> bool {
    let of_tools = |(uid, _): &(EntityUid, bool)| {
        let id = uid.id().unescaped();
        id == "tool_call" || id == "memory" || id.starts_with("tool:")
    };
    scope.actions().is_some_and(|actions| !actions.is_empty() && actions.iter().all(of_tools))
}

#[cfg(test)]
mod tests;
