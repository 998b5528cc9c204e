//! The Cedar schema: what policies can name. A part is fixed, and a part is made from the pinned tools.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use crate::{
    ask::Deed,
    finding::{Finding, Severity},
    shape::{Field, Kind, Shape},
    track::Tracker,
    version::Version,
};

const ENTITIES: &str = include_str!("schema/entities.cedarschema");

/// The tools that policies can name, with their arguments.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    tools: BTreeMap<(String, String), Arc<Shape>>,
}

impl Schema {
    /// The fixed part alone: no tool is pinned.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pinned tool.
    pub fn tool(&mut self, server: &str, tool: &str, shape: Arc<Shape>) {
        self.tools.insert((server.to_owned(), tool.to_owned()), shape);
    }

    /// The arguments of a pinned tool.
    #[must_use]
    pub fn shape(&self, server: &str, tool: &str) -> Option<&Arc<Shape>> {
        self.tools.get(&(server.to_owned(), tool.to_owned()))
    }

    /// The schema as a text that Cedar reads.
    #[must_use]
    pub fn text(&self, trackers: &[Arc<Tracker>]) -> String {
        let mut text = String::from("namespace Cogward {\n");
        text.push_str(ENTITIES);
        let history: Vec<String> = trackers.iter().map(|tracker| format!("\"{}\": Long", tracker.name)).collect();
        let _ = writeln!(
            text,
            "\n  /// The trackers that the set declares.\n  type History = {{ {} }};",
            history.join(", ")
        );
        for action in Deed::ACTIONS {
            let (principal, resource, context) = applies(action);
            let _ = writeln!(
                text,
                "\n  action \"{action}\" appliesTo {{\n    principal: [{principal}],\n    resource: [{resource}],\n    context: {{ {context} }},\n  }};"
            );
        }
        for ((server, tool), shape) in &self.tools {
            let (principal, resource, context) = applies("tool_call");
            let _ = writeln!(
                text,
                "\n  action \"tool:{server}/{tool}\" in [\"tool_call\"] appliesTo {{\n    principal: [{principal}],\n    resource: [{resource}],\n    context: {{ {context}, \"arguments\": {} }},\n  }};",
                record(shape.fields())
            );
        }
        text.push_str("}\n");
        text
    }

    pub(crate) fn validate(&self, version: &Version) -> Vec<Finding> {
        let whole = |what: String| Finding {
            severity: Severity::Error,
            line: 0,
            column: 0,
            rule: None,
            what,
            next_step: "Report this as a defect".into(),
        };
        let text = self.text(version.trackers());
        let schema = match cedar_policy::Schema::from_cedarschema_str(&text) {
            Ok((schema, _)) => schema,
            Err(error) => return vec![whole(format!("the schema could not be made: {error}"))],
        };
        let policies = version.rules().iter().map(|rule| rule.policy.clone());
        let set = match cedar_policy::PolicySet::from_policies(policies) {
            Ok(set) => set,
            Err(error) => return vec![whole(error.to_string())],
        };
        let source = match crate::source::Source::new(version.text()) {
            Ok(source) => source,
            Err(findings) => return findings.0,
        };
        let result = cedar_policy::Validator::new(schema).validate(&set, cedar_policy::ValidationMode::Strict);
        let rule = |id: &cedar_policy::PolicyId| id.to_string();
        let errors = result
            .validation_errors()
            .map(|error| source.diagnostic(Severity::Error, Some(&rule(error.policy_id())), error));
        let warnings = result
            .validation_warnings()
            .map(|warning| source.diagnostic(Severity::Warning, Some(&rule(warning.policy_id())), warning));
        errors.chain(warnings).take(crate::finding::FINDINGS_MAX).collect()
    }
}

const AGENT: &str = "\"tier\": String, \"autonomy\": String, \"subject\"?: String, \"run\"?: String, \"budget\": Budget, \
                     \"time\": Time, \"labels\": Set<String>, \"history\": History";

fn applies(action: &str) -> (&'static str, &'static str, String) {
    let agent = |more: &str| format!("{AGENT}{more}");
    match action {
        "model_call" => (
            "AgentVersion",
            "Model",
            agent(", \"model\": { \"wire\": String, \"streaming\": Bool, \"tokens_max\": Long }"),
        ),
        "egress" => ("AgentVersion", "Host", agent(", \"request\"?: { \"method\": String, \"path\": String }")),
        "memory" => ("AgentVersion", "Store", agent(", \"operation\": String")),
        "token" => ("AgentVersion", "Audience", agent("")),
        "run_command" => ("Operator", "Agent", "\"time\": Time, \"command\": String".into()),
        "operator_command" => ("Operator", "Tenant, Plane", "\"time\": Time, \"command\": String".into()),
        "sampling" | "elicitation" => ("AgentVersion", "ToolServer", agent("")),
        "resource_read" => ("AgentVersion", "Resource", agent("")),
        "prompt_get" => ("AgentVersion", "Prompt", agent("")),
        _ => ("AgentVersion", "Tool", agent("")),
    }
}

fn record(fields: &BTreeMap<String, Field>) -> String {
    let all: Vec<String> = fields
        .iter()
        .map(|(name, field)| {
            let optional = if field.required { "" } else { "?" };
            format!("\"{}\"{optional}: {}", name.escape_debug(), kind(&field.kind))
        })
        .collect();
    format!("{{ {} }}", all.join(", "))
}

fn kind(kind_: &Kind) -> String {
    match kind_ {
        Kind::Bool => "Bool".into(),
        Kind::Long => "Long".into(),
        Kind::Decimal => "decimal".into(),
        Kind::Text => "String".into(),
        Kind::Set(element) => format!("Set<{}>", kind(element)),
        Kind::Record(fields) => record(fields),
    }
}
