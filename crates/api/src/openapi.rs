//! The OpenAPI 3.1 description, made from the table of routes and the schemas of the wire types.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    BYTES, IDEMPOTENCY_KEY, LAST_EVENT_ID, PROBLEM_JSON, Problem, ProblemCode, TAR,
    routes::{ROUTES, RequestBody, ResponseBody, Route},
};

/// The whole description. The same input gives the same bytes: keys are sorted.
#[must_use]
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>().to_value();

    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operation(route, &problem, &mut generator);
        if let Value::Object(item) = paths.entry(route.path.replace("{*", "{")).or_insert_with(|| json!({})) {
            item.insert(route.method.as_str().to_ascii_lowercase(), operation);
        }
    }
    let mut schemas = generator.take_definitions(true);
    for route in ROUTES {
        // A query's type stands in the description as parameters only.
        if let Some(name) = route.query.and_then(|of| schema_name(&of(&mut generator))) {
            schemas.remove(&name);
        }
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "cogward",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The public API of a cogward plane. Whatever the command line does, it does with this.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "operator": { "type": "http", "scheme": "bearer", "description": "An operator's credential." },
            },
        },
        "security": [{ "operator": [] }],
    });
    // Whatever order a build of serde_json keeps.
    document.sort_all_objects();
    document
}

/// The name of a schema that is referred to.
fn schema_name(schema: &schemars::Schema) -> Option<String> {
    schema.get("$ref").and_then(Value::as_str)?.rsplit('/').next().map(str::to_owned)
}

/// The description as it is checked in and served: indented, with a newline at its end.
#[must_use]
pub fn document_text() -> String {
    format!("{:#}\n", document())
}

fn operation(route: &Route, problem: &Value, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for status in route.success {
        responses.insert(status.to_string(), success(route, *status, generator));
    }
    for (status, codes) in by_status(&route.problems()) {
        let words = codes.iter().map(|code| format!("`{code}`: {}.", code.title())).collect::<Vec<_>>().join(" ");
        let answer = json!({ "description": words, "content": { PROBLEM_JSON: { "schema": problem } } });
        responses.insert(status.to_string(), answer);
    }

    let mut operation = Map::new();
    operation.insert("operationId".into(), route.operation_id.into());
    operation.insert("tags".into(), json!([route.noun]));
    operation.insert("summary".into(), route.summary.into());
    let parameters = parameters(route, generator);
    if !parameters.is_empty() {
        operation.insert("parameters".into(), parameters.into());
    }
    match route.request {
        RequestBody::None => {}
        RequestBody::Json(of) => {
            let schema = of(generator).to_value();
            let body = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
            operation.insert("requestBody".into(), body);
        }
        RequestBody::Content => {
            let body = json!({
                "description": "One entry `content` that is a file, or a directory `content` with its files, as a plain \
                    tar stream without links.",
                "required": true,
                "content": { TAR: {} },
            });
            operation.insert("requestBody".into(), body);
        }
        RequestBody::Tar => {
            let body = json!({
                "description": "The package: `agent.yaml` and what it names, as a plain tar stream.",
                "required": true,
                "content": { TAR: {} },
            });
            operation.insert("requestBody".into(), body);
        }
    }
    operation.insert("responses".into(), responses.into());
    if !route.authenticated {
        operation.insert("security".into(), json!([]));
    }
    operation.into()
}

fn success(route: &Route, status: u16, generator: &mut SchemaGenerator) -> Value {
    let words = match status {
        201 => "Created.",
        202 => "Taken; the operation tells when it is done.",
        204 => "Done; there is nothing to say.",
        _ => "Done.",
    };
    let content = match route.response {
        ResponseBody::None => None,
        ResponseBody::Json(of) => Some(json!({ "application/json": { "schema": of(generator).to_value() } })),
        ResponseBody::Text => Some(json!({ "text/plain": { "schema": { "type": "string" } } })),
        ResponseBody::Lines => Some(json!({ "application/x-ndjson": { "schema": { "type": "string" } } })),
        ResponseBody::Tar => Some(json!({ TAR: {} })),
        ResponseBody::Content => Some(json!({ BYTES: {}, TAR: {} })),
        // OpenAPI 3.1 has no word for the items of a stream; the schema is that of each event's `data`.
        ResponseBody::Events(of) => Some(json!({ "text/event-stream": { "schema": of(generator).to_value() } })),
        ResponseBody::Document => Some(json!({ "application/json": { "schema": { "type": "object" } } })),
    };
    let mut answer = Map::new();
    answer.insert("description".into(), words.into());
    if let Some(content) = content {
        answer.insert("content".into(), content);
    }
    if route.etag {
        let header = json!({ "ETag": { "description": "Its revision.", "schema": { "type": "string" } } });
        answer.insert("headers".into(), header);
    }
    answer.into()
}

fn parameters(route: &Route, generator: &mut SchemaGenerator) -> Vec<Value> {
    let mut all = Vec::new();
    for name in route.path_parameters() {
        let schema = path_parameter(name, generator);
        all.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
    }
    if let Some(of) = route.query {
        all.extend(query_parameters(of, generator));
    }
    let header = |name: &str, description: &str| {
        json!({
            "name": name, "in": "header", "required": false, "description": description,
            "schema": { "type": "string" },
        })
    };
    if route.idempotent {
        all.push(header(
            IDEMPOTENCY_KEY,
            "A text of the client's own, at most 128 bytes. Sent again with the same request, the command is not \
             carried out again and the first answer is repeated.",
        ));
    }
    if route.etag && route.method == crate::Method::Put {
        all.push(header("if-match", "Replace only this revision."));
    }
    if matches!(route.response, ResponseBody::Events(_)) {
        all.push(header(LAST_EVENT_ID, "Go on after this event."));
    }
    all
}

fn path_parameter(name: &str, generator: &mut SchemaGenerator) -> Value {
    use cogward_model::{
        AgentName, ContentName, Digest, PolicyScope, RunId, TenantName, UpstreamName, VersionLabel,
        id::{ApprovalId, EventId, HoldId, OperationId, OperatorId, RedactionId},
        manifest::Tier,
    };
    let schema = match name {
        "tenant" => generator.subschema_for::<TenantName>(),
        "agent" => generator.subschema_for::<AgentName>(),
        "version" => generator.subschema_for::<VersionLabel>(),
        "tool_server" | "provider" | "credential" | "issuer" => generator.subschema_for::<UpstreamName>(),
        "run" => generator.subschema_for::<RunId>(),
        "operation" => generator.subschema_for::<OperationId>(),
        "input" | "artifact" => generator.subschema_for::<ContentName>(),
        "tier" => generator.subschema_for::<Tier>(),
        "operator" => generator.subschema_for::<OperatorId>(),
        "policy_level" => generator.subschema_for::<PolicyScope>(),
        "policy_version" => generator.subschema_for::<Digest>(),
        "approval" => generator.subschema_for::<ApprovalId>(),
        "redaction" => generator.subschema_for::<RedactionId>(),
        "hold" => generator.subschema_for::<HoldId>(),
        "decision" => generator.subschema_for::<EventId>(),
        _ => schemars::json_schema!({ "type": "string" }),
    };
    schema.to_value()
}

/// The fields of a query type, each as a parameter; the type itself is not part of the description.
fn query_parameters(of: crate::routes::SchemaOf, generator: &mut SchemaGenerator) -> Vec<Value> {
    let name = schema_name(&of(generator));
    let Some(Value::Object(schema)) = name.and_then(|name| generator.definitions().get(&name)).cloned() else {
        return Vec::new();
    };
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(Value::Object(fields)) = schema.get("properties").cloned() else {
        return Vec::new();
    };
    let parameter = |(field, mut schema): (String, Value)| {
        let description = schema.as_object_mut().and_then(|s| s.remove("description"));
        json!({
            "name": field,
            "in": "query",
            "required": required.iter().any(|r| r == &field),
            "description": description.unwrap_or_default(),
            "schema": schema,
        })
    };
    fields.into_iter().map(parameter).collect()
}

/// Codes that share a status, in order.
fn by_status(codes: &[ProblemCode]) -> Vec<(u16, Vec<ProblemCode>)> {
    let mut groups: Vec<(u16, Vec<ProblemCode>)> = Vec::new();
    for code in codes {
        match groups.last_mut() {
            Some((status, group)) if *status == code.status() => group.push(*code),
            _ => groups.push((code.status(), vec![*code])),
        }
    }
    groups
}
