//! The Cedar schema: what policies can name. A part is fixed, and a part is made from the pinned tools.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt::Write,
    sync::Arc,
};

use crate::{
    ask::Deed,
    shape::{Field, Kind, Shape},
    track::Tracker,
};

mod asked;
mod names;
mod validate;

const ENTITIES: &str = include_str!("schema/entities.cedarschema");

/// What all actions of agents have in their context.
const AGENT: &str = "
      \"tier\": String,
      \"autonomy\": String,
      \"subject\"?: String,
      \"run\"?: String,
      \"budget\": Budget,
      \"time\": Time,
      \"labels\": Set<String>,
      \"history\": History,";

/// What all actions of operators have.
const OPERATOR: &str = "
      \"time\": Time,
      \"command\": String,";

/// What calls of memories have besides.
const OPERATION: &str = "
      \"operation\": String,";

/// The tools that policies can name, with their arguments.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    tools: BTreeMap<(String, String), Arc<Shape>>,
    /// Each shape of a tool that was given more than once, by tenants that have one of the same name.
    shapes: BTreeMap<(String, String), Vec<Arc<Shape>>>,
    /// Those of the tools that are a memory's.
    memories: BTreeSet<(String, String)>,
}

/// The most shapes of one tool that are kept apart.
const SHAPES_MAX: usize = 32;

impl Schema {
    /// The fixed part alone: no tool is pinned.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pinned tool. Of two tools of one name, which a level above tenants can see, what they have in common is
    /// offered.
    pub fn tool(&mut self, server: &str, tool: &str, shape: Arc<Shape>) {
        let name = (server.to_owned(), tool.to_owned());
        match self.tools.entry(name.clone()) {
            Entry::Vacant(place) => drop(place.insert(shape)),
            Entry::Occupied(mut place) => {
                let shapes = self.shapes.entry(name).or_insert_with(|| vec![Arc::clone(place.get())]);
                if !shapes.contains(&shape) {
                    let common = place.get().in_common(&shape);
                    place.insert(Arc::new(common));
                    // One more than the most says that there were more.
                    if shapes.len() <= SHAPES_MAX {
                        shapes.push(shape);
                    }
                }
            }
        }
    }

    /// Each shape that a tool has, one for every tenant whose tool differs; false beside them when there are more.
    pub(crate) fn shapes(&self, server: &str, tool: &str) -> (&[Arc<Shape>], bool) {
        let name = (server.to_owned(), tool.to_owned());
        let several = self.shapes.get(&name).map(Vec::as_slice);
        let all = several.or_else(|| self.tools.get(&name).map(std::slice::from_ref)).unwrap_or_default();
        (all, all.len() <= SHAPES_MAX)
    }

    /// Whether tenants have tools of one name whose arguments differ, so that what is offered is less than each has.
    #[must_use]
    pub fn is_shared_ground(&self) -> bool {
        self.shapes.values().any(|shapes| shapes.len() > 1)
    }

    /// Whether every path of arguments is one that some tool has.
    pub(crate) fn offers(&self, arguments: &crate::path::Paths) -> bool {
        let all = || self.tools.values().chain(self.shapes.values().flatten());
        arguments.ends().iter().all(|path| all().any(|shape| shape.at(path).is_some()))
    }

    /// Adds a pinned tool of a memory: its action is in `memory`. Where tenants disagree on whether a tool is one, it is:
    /// a rule that reads its operation blocks where there is none.
    pub fn memory_tool(&mut self, server: &str, tool: &str, shape: Arc<Shape>) {
        self.tool(server, tool, shape);
        self.memories.insert((server.to_owned(), tool.to_owned()));
    }

    /// The arguments of a pinned tool.
    #[must_use]
    pub fn shape(&self, server: &str, tool: &str) -> Option<&Arc<Shape>> {
        self.tools.get(&(server.to_owned(), tool.to_owned()))
    }

    /// Every pinned tool, by server and name.
    pub fn tools(&self) -> impl Iterator<Item = (&str, &str, &Arc<Shape>)> {
        self.tools.iter().map(|((server, tool), shape)| (server.as_str(), tool.as_str(), shape))
    }

    /// The schema as a text that Cedar reads.
    #[must_use]
    pub fn text(&self, trackers: &[Arc<Tracker>]) -> String {
        self.text_of(self.tools(), trackers)
    }

    /// The fixed part with a preface, as it is published.
    #[must_use]
    pub fn published() -> String {
        let mut text = String::from(
            "// The Cedar schema of cogward's policies: the fixed part. `cogward policy schema` prints it with what is\n\
             // generated for this installation:\n\
             //\n\
             // - `History` has one `Long` for each tracker that the set declares with `@track`;\n\
             // - each approved tool is an action in `tool_call`, one of a memory in `memory`, whose context has the\n\
             //   arguments of the tool with the types of its input schema:\n\
             //\n",
        );
        let example = Shape::of(&serde_json::json!({
            "type": "object",
            "properties": {
                "amount": { "type": "number" },
                "to": { "type": "string" },
                "tags": { "type": "array", "items": { "type": "string" } },
            },
            "required": ["amount", "to"],
        }));
        let mut action = String::new();
        push_tool(&mut action, "bank", "transfer", &example, false);
        for line in action.trim().lines() {
            let _ = writeln!(text, "//     {}", line.strip_prefix("  ").unwrap_or(line));
        }
        text.push('\n');
        text.push_str(&Self::new().text(&[]));
        text
    }
}

impl Schema {
    fn text_of<'a>(
        &self,
        tools: impl Iterator<Item = (&'a str, &'a str, &'a Arc<Shape>)>,
        trackers: &[Arc<Tracker>],
    ) -> String {
        let mut text = String::from("namespace Cogward {\n");
        text.push_str(ENTITIES);
        let history: Vec<String> = trackers.iter().map(|tracker| format!("\"{}\": Long", tracker.name)).collect();
        let _ = writeln!(
            text,
            "\n  /// The trackers that the set declares.\n  type History = {{ {} }};",
            history.join(", ")
        );
        for action in Deed::ACTIONS {
            let (about, principal, resource, more) = applies(action);
            let common = if principal == "Operator" { OPERATOR } else { AGENT };
            let within = if action == "memory" { " in [\"tool_call\"]" } else { "" };
            let _ = writeln!(
                text,
                "\n  /// {about}\n  action \"{action}\"{within} appliesTo {{\n    principal: [{principal}],\n    resource: [{resource}],\n    context: {{{common}{more}\n    }},\n  }};"
            );
        }
        for (server, tool, shape) in tools {
            let memory = self.memories.contains(&(server.to_owned(), tool.to_owned()));
            push_tool(&mut text, server, tool, shape, memory);
        }
        text.push_str("}\n");
        text
    }
}

fn push_tool(text: &mut String, server: &str, tool: &str, shape: &Shape, memory: bool) {
    let (group, operation) = if memory { ("memory", OPERATION) } else { ("tool_call", "") };
    let _ = writeln!(
        text,
        "\n  action \"tool:{server}/{tool}\" in [\"{group}\"] appliesTo {{\n    principal: [AgentVersion],\n    resource: [Tool],\n    context: {{{AGENT}{operation}\n      \"arguments\": {},\n    }},\n  }};",
        record(shape.fields())
    );
}

/// What an action is, for whom, on what, and what is known of it besides.
fn applies(action: &str) -> (&'static str, &'static str, &'static str, &'static str) {
    match action {
        "model_call" => (
            "A model is called.",
            "AgentVersion",
            "Model",
            "\n      \"model\": { \"wire\": String, \"streaming\": Bool, \"tokens_max\": Long },",
        ),
        "egress" => (
            "A host outside is reached; `request` is there for inspected hosts.",
            "AgentVersion",
            "Host",
            "\n      \"request\"?: { \"method\": String, \"path\": String },",
        ),
        "memory" => (
            "A tool of a memory is called; `operation` is `read`, `write` or `delete`. Write `in`, not `==`.",
            "AgentVersion",
            "Tool",
            OPERATION,
        ),
        "token" => (
            "Nothing asks this yet: agents get no tokens. A rule that names it is refused.",
            "AgentVersion",
            "Audience",
            "",
        ),
        "run_command" => ("An operator starts, suspends, resumes, stops or kills a run.", "Operator", "Agent", ""),
        "operator_command" => ("An operator does anything else.", "Operator", "Tenant, Plane", ""),
        "sampling" => ("A tool server asks for a completion.", "AgentVersion", "ToolServer", ""),
        "elicitation" => ("A tool server asks the user.", "AgentVersion", "ToolServer", ""),
        "resource_read" => ("A resource of a tool server is read.", "AgentVersion", "Resource", ""),
        "prompt_get" => ("A prompt of a tool server is taken.", "AgentVersion", "Prompt", ""),
        _ => (
            "A tool is called. Write `in`, not `==`: each approved tool is an action of its own.",
            "AgentVersion",
            "Tool",
            "",
        ),
    }
}

fn record(fields: &BTreeMap<String, Field>) -> String {
    let member = |(name, field): (&String, &Field)| {
        let optional = if field.required { "" } else { "?" };
        format!("\"{}\"{optional}: {}", name.escape_debug(), type_of(&field.kind))
    };
    let all: Vec<String> = fields.iter().map(member).collect();
    if all.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", all.join(", ")) }
}

fn type_of(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "Bool".into(),
        Kind::Long => "Long".into(),
        Kind::Decimal => "decimal".into(),
        Kind::Text => "String".into(),
        Kind::Set(element) => format!("Set<{}>", type_of(element)),
        Kind::Record(fields) => record(fields),
    }
}

#[cfg(test)]
mod tests;
