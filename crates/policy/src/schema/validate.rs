//! Holds a version against the schema, strictly: what does not exist, or has another type, is found when it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cedar_policy::{PolicySet, ValidationMode, Validator};

use super::Schema;
use crate::{
    finding::{FINDINGS_MAX, Finding, Severity},
    rule::Rule,
    shape::Shape,
    source::Source,
    version::Version,
};

/// Rules about single tools are checked against so many tools at a time: the cost is the product of both.
const TOOLS_AT_ONCE: usize = 16;

/// What to do where a rule reads labels of what has none.
const LABELLED: &str = "Tools, resources, prompts and models carry labels; hosts and tool servers do not. Name those \
                        actions in the head, or ask first: `resource has labels && …`. A host is told by its domain";

/// A pinned tool by server and name.
pub(super) type Tool = (String, String);

impl Schema {
    /// Everything that is wrong with a version, in the order of its text.
    pub(crate) fn validate(&self, version: &Version) -> Vec<Finding> {
        let source = match Source::new(version.text()) {
            Ok(source) => source,
            Err(findings) => return findings.0,
        };
        let mut about: BTreeMap<Tool, Vec<&Arc<Rule>>> = BTreeMap::new();
        let mut general: Vec<&Arc<Rule>> = Vec::new();
        for rule in version.rules() {
            match self.only_tool(rule) {
                Some(tool) => about.entry(tool).or_default().push(rule),
                None => general.push(rule),
            }
        }
        let mut findings = Vec::new();
        let about: Vec<(Tool, Vec<&Arc<Rule>>)> = about.into_iter().collect();
        for batch in about.chunks(TOOLS_AT_ONCE) {
            let tools: BTreeSet<&Tool> = batch.iter().map(|(tool, _)| tool).collect();
            let rules: Vec<&Arc<Rule>> = batch.iter().flat_map(|(_, rules)| rules.iter().copied()).collect();
            self.types(version, &source, &rules, Some(&tools), &mut findings);
        }
        if !general.is_empty() || about.is_empty() {
            self.types(version, &source, &general, None, &mut findings);
        }
        self.names(version, &mut findings);
        super::asked::asked(version, &mut findings);
        findings.sort_by(|a, b| {
            (b.severity, a.line, a.column, &a.rule, &a.what).cmp(&(a.severity, b.line, b.column, &b.rule, &b.what))
        });
        findings.dedup();
        findings.truncate(FINDINGS_MAX);
        findings
    }

    /// The one pinned tool that the head of a rule is about.
    fn only_tool(&self, rule: &Rule) -> Option<Tool> {
        match self.exact_tools(rule).as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        }
    }

    /// The pinned tools whose calls are all that the head of a rule matches; nothing when it matches others too.
    pub(super) fn exact_tools(&self, rule: &Rule) -> Vec<Tool> {
        let tool = |id: &str| {
            let (server, tool) = id.strip_prefix("tool:")?.split_once('/')?;
            let tool = (server.to_owned(), tool.to_owned());
            self.tools.contains_key(&tool).then_some(tool)
        };
        let actions = rule.scope.actions().unwrap_or_default();
        actions.iter().map(|(uid, _)| tool(uid.id().unescaped())).collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// Cedar's own strict check of some rules with some tools.
    fn types(
        &self,
        version: &Version,
        source: &Source<'_>,
        rules: &[&Arc<Rule>],
        tools: Option<&BTreeSet<&Tool>>,
        findings: &mut Vec<Finding>,
    ) {
        let wanted = |(server, tool, _): &(&str, &str, &Arc<Shape>)| {
            tools.is_none_or(|tools| tools.contains(&((*server).to_owned(), (*tool).to_owned())))
        };
        let text = self.text_of(self.tools().filter(wanted), version.trackers());
        let whole = |what: String| Finding {
            severity: Severity::Error,
            line: 0,
            column: 0,
            rule: None,
            what,
            next_step: "Report this as a defect: the schema is generated".into(),
        };
        let schema = match cedar_policy::Schema::from_cedarschema_str(&text) {
            Ok((schema, _)) => schema,
            Err(error) => return findings.push(whole(format!("the schema could not be made: {error}"))),
        };
        let set = match PolicySet::from_policies(rules.iter().map(|rule| rule.policy.clone())) {
            Ok(set) => set,
            Err(error) => return findings.push(whole(error.to_string())),
        };
        let by_id: BTreeMap<&str, &Arc<Rule>> = rules.iter().map(|rule| (rule.id.as_str(), *rule)).collect();
        let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
        for error in result.validation_errors() {
            let id: &str = error.policy_id().as_ref();
            let mut finding = source.diagnostic(Severity::Error, Some(id), error);
            if let Some(rule) = by_id.get(id) {
                self.reason(rule, &mut finding);
            }
            findings.push(finding);
        }
        for warning in result.validation_warnings() {
            let id: &str = warning.policy_id().as_ref();
            findings.push(source.diagnostic(Severity::Warning, Some(id), warning));
        }
    }

    /// Says why an argument of a tool is not offered, and what else there is; and what carries labels.
    fn reason(&self, rule: &Rule, finding: &mut Finding) {
        if finding.what.contains("`labels`") && finding.what.contains("attribute") {
            finding.next_step = LABELLED.into();
            return;
        }
        let Some(path) = argument(&finding.what) else { return };
        let tools = self.exact_tools(rule);
        let shapes = tools.iter().filter_map(|tool| self.tools.get(tool).map(|shape| (tool, shape)));
        for ((server, tool), shape) in shapes {
            if let Some(why) = shape.why_not(&path) {
                finding.what = format!("policies cannot read the argument `{path}` of `{server}/{tool}`: {why}");
                finding.next_step = "Decide by another argument, or without it".into();
                return;
            }
            let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
            if finding.what.contains("optional attribute") {
                let (above, last) = path
                    .rsplit_once('.')
                    .map_or((String::new(), path.as_str()), |(above, last)| (format!(".{above}"), last));
                finding.what = format!("the argument `{path}` of `{server}/{tool}` is optional");
                finding.next_step =
                    format!("Ask first whether it is there: `context.arguments{above} has {last} && …`");
                return;
            }
            if shape.at(&steps).is_none() {
                finding.what = format!("`{server}/{tool}` has no argument `{path}`");
                finding.next_step = match nearest_argument(shape, &steps) {
                    Some(known) => format!("Did you mean `{known}`?"),
                    None => "`cogward tool show` lists its arguments".into(),
                };
                return;
            }
        }
    }
}

/// The argument that a message of Cedar is about: its text names the attribute in backquotes.
fn argument(what: &str) -> Option<String> {
    let quoted = what.split('`').skip(1).step_by(2);
    let mut paths = quoted.filter_map(|part| {
        let part = part.strip_prefix("context.").unwrap_or(part);
        part.strip_prefix("arguments.")
    });
    paths.next().map(str::to_owned)
}

/// The argument that is nearest to a path that does not exist.
pub(super) fn nearest_argument(shape: &Shape, steps: &[String]) -> Option<String> {
    let (last, above) = steps.split_last()?;
    let fields = if above.is_empty() {
        shape.fields()
    } else {
        match shape.at(above)? {
            crate::shape::Kind::Record(fields) => fields,
            _ => return None,
        }
    };
    let known = crate::nearest::nearest(last, fields.keys().map(String::as_str))?;
    let mut steps = above.to_vec();
    steps.push(known.to_owned());
    Some(steps.join("."))
}
