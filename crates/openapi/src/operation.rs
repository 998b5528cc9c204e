//! One operation as a tool.

use std::collections::BTreeMap;

use cogward_model::ToolName;
use serde_json::{Map, Value, json};

use crate::{
    bounds::{DEFINITION_BYTES_MAX, PARAMETERS_MAX},
    document::Document,
    error::shown,
    name,
    parameter::{self, Parameter, Place, Reserved, essence, is_json},
    schema::{Schemas, Way},
    template::{self, Part},
};

/// The argument that is the body.
pub(crate) const BODY: &str = "body";

/// A method of HTTP that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Reads the head alone.
    Head,
    /// Asks what can be done.
    Options,
    /// Does something.
    Post,
    /// Puts something in its place.
    Put,
    /// Changes something.
    Patch,
    /// Removes something.
    Delete,
}

impl Method {
    /// As documents write it. `trace` is none: it gives back what was sent, the credential with it.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "get" => Self::Get,
            "head" => Self::Head,
            "options" => Self::Options,
            "post" => Self::Post,
            "put" => Self::Put,
            "patch" => Self::Patch,
            "delete" => Self::Delete,
            _ => return None,
        })
    }

    /// As it is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether it changes nothing, by HTTP.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options)
    }

    /// Whether twice is as good as once, by HTTP.
    #[must_use]
    pub const fn idempotent(self) -> bool {
        self.reads() || matches!(self, Self::Put | Self::Delete)
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it came.
    Json,
    /// `application/x-www-form-urlencoded`.
    Fields,
    /// A text.
    Text,
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) media: String,
    pub(crate) form: Form,
    pub(crate) required: bool,
}

/// One operation that is a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The name of the tool.
    pub name: ToolName,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) parts: Vec<Part>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) body: Option<Body>,
    definition: String,
    output: Option<String>,
}

impl Operation {
    /// How it is sent.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The definition of the tool, as JSON.
    #[must_use]
    pub fn definition(&self) -> &str {
        &self.definition
    }

    /// The schema of its structured answers, where the document promises one.
    #[must_use]
    pub fn output(&self) -> Option<&str> {
        self.output.as_deref()
    }

    /// `GET /invoices/{id}`.
    #[must_use]
    pub fn route(&self) -> String {
        format!("{} {}", self.method.as_str(), shown(&self.path))
    }
}

/// The operation id.
pub(crate) fn id(operation: &Value) -> Option<&str> {
    operation.get("operationId").and_then(Value::as_str)
}

/// An operation as it stands in the document.
pub(crate) struct Reading<'a> {
    pub(crate) document: &'a Document,
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) item: &'a Value,
    pub(crate) operation: &'a Value,
    pub(crate) reserved: &'a Reserved<'a>,
}

/// What was made of it.
pub(crate) struct Read {
    pub(crate) operation: Operation,
    /// Parts of it that cannot be sent and need not be.
    pub(crate) left_out: Vec<(String, String)>,
}

impl Reading<'_> {
    fn name(&self) -> Option<ToolName> {
        name::tool(id(self.operation), self.method.as_str(), self.path)
    }

    /// What the operator can call it by.
    pub(crate) fn names(&self) -> Vec<String> {
        let tags = self.operation.get("tags").and_then(Value::as_array).into_iter().flatten();
        let tags = tags.filter_map(Value::as_str).map(str::to_owned);
        let own = id(self.operation).map(str::to_owned).into_iter();
        own.chain(self.name().map(|name| name.to_string())).chain(tags).collect()
    }

    /// The tool, or why there is none.
    pub(crate) fn read(&self) -> Result<Read, String> {
        if !self.operation.is_object() {
            return Err("it is no object".to_owned());
        }
        for place in [self.item, self.operation] {
            if place.get("servers").and_then(Value::as_array).is_some_and(|servers| !servers.is_empty()) {
                return Err("it names servers of its own; requests go to one address, the operator's".to_owned());
            }
        }
        let name = self.name().ok_or("no name can be made for it")?;
        let parts = template::parse(self.path)?;
        let mut left_out = Vec::new();
        let mut schemas = Schemas::new(self.document, Way::Request);
        let mut parameters = self.parameters(&mut schemas, &mut left_out)?;
        places(&parts, parameters.iter().map(|(parameter, _)| parameter))?;
        let body = self.body(&mut schemas, &mut left_out)?;
        arguments(&mut parameters, body.is_some())?;
        let mut properties = BTreeMap::new();
        let mut required = Vec::new();
        for (parameter, schema) in &parameters {
            properties.insert(parameter.argument.clone(), schema.clone());
            if parameter.required {
                required.push(parameter.argument.clone());
            }
        }
        let body = body.map(|(body, schema)| {
            properties.insert(BODY.to_owned(), schema);
            if body.required {
                required.push(BODY.to_owned());
            }
            body
        });
        let mut input = Map::new();
        input.insert("type".to_owned(), "object".into());
        input.insert("properties".to_owned(), Value::Object(properties.into_iter().collect()));
        input.insert("required".to_owned(), required.into());
        input.insert("additionalProperties".to_owned(), false.into());
        let definitions = schemas.definitions()?;
        if !definitions.is_empty() {
            input.insert("$defs".to_owned(), Value::Object(definitions));
        }
        let mut operation = Operation {
            name,
            method: self.method,
            path: self.path.to_owned(),
            parts,
            parameters: parameters.into_iter().map(|(parameter, _)| parameter).collect(),
            body,
            definition: String::new(),
            output: self.output().map(|schema| schema.to_string()),
        };
        operation.definition = self.definition(&operation, Value::Object(input));
        if operation.definition.len() > DEFINITION_BYTES_MAX {
            return Err(format!("its definition is longer than {DEFINITION_BYTES_MAX} bytes"));
        }
        Ok(Read { operation, left_out })
    }

    /// The parameters of the path and, over them, those of the operation.
    fn parameters(
        &self,
        schemas: &mut Schemas<'_>,
        left_out: &mut Vec<(String, String)>,
    ) -> Result<Vec<(Parameter, Value)>, String> {
        let mut found: BTreeMap<(String, String), &Value> = BTreeMap::new();
        for place in [self.item, self.operation] {
            let Some(list) = place.get("parameters") else { continue };
            let list = list.as_array().ok_or("its parameters are no list")?;
            let mut here = BTreeMap::new();
            for parameter in list {
                let parameter = self.document.resolve(parameter)?;
                let (at, name) = parameter::key(parameter).ok_or("a parameter of it has no name or no place")?;
                // Headers are the same in whatever case.
                let name = if at == "header" { name.to_ascii_lowercase() } else { name.to_owned() };
                if here.insert((at.to_owned(), name.clone()), parameter).is_some() {
                    return Err(format!("it has the parameter `{}` twice", shown(&name)));
                }
            }
            found.extend(here);
        }
        if found.len() > PARAMETERS_MAX {
            return Err(format!("it has more than {PARAMETERS_MAX} parameters"));
        }
        let mut parameters = Vec::new();
        for parameter in found.into_values() {
            match parameter::read(parameter, self.document, schemas, self.reserved) {
                Ok(read) => parameters.push(read),
                Err(no) if no.required => {
                    return Err(format!(
                        "its parameter `{}` is required and cannot be sent: {}",
                        shown(&no.name),
                        no.why
                    ));
                }
                Err(no) => left_out.push((format!("parameter `{}`", shown(&no.name)), no.why)),
            }
        }
        Ok(parameters)
    }

    fn body(
        &self,
        schemas: &mut Schemas<'_>,
        left_out: &mut Vec<(String, String)>,
    ) -> Result<Option<(Body, Value)>, String> {
        let Some(body) = self.operation.get("requestBody") else { return Ok(None) };
        let body = self.document.resolve(body)?;
        let required = body.get("required") == Some(&Value::Bool(true));
        let content = body.get("content").and_then(Value::as_object);
        let found = content.and_then(|content| chosen(content));
        let why = match &found {
            _ if matches!(self.method, Method::Get | Method::Head | Method::Options) => {
                "requests of this method have no body"
            }
            None => "its body is none of JSON, fields of a form, and text",
            Some(_) => "",
        };
        let Some((media, form, what)) = found.filter(|_| why.is_empty()) else {
            if required {
                return Err(why.to_owned());
            }
            left_out.push(("body".to_owned(), why.to_owned()));
            return Ok(None);
        };
        let schema = match what.get("schema") {
            Some(schema) => schemas.read(schema)?,
            None => json!({}),
        };
        let schema = match (form, schema) {
            (Form::Text, _) => json!({ "type": "string" }),
            (_, schema) => schema,
        };
        Ok(Some((Body { media: media.to_owned(), form, required }, schema)))
    }

    /// The schema of the one answer that says it went well, when it is an object.
    fn output(&self) -> Option<Value> {
        let responses = self.operation.get("responses")?.as_object()?;
        let mut well = responses.iter().filter(|(status, _)| status.starts_with('2'));
        let (_, response) = well.next()?;
        if well.next().is_some() || !self.method_answers() {
            return None;
        }
        let content = self.document.resolve(response).ok()?.get("content")?.as_object()?;
        let (media, what) = content.iter().next().filter(|_| content.len() == 1)?;
        let schema = self.document.resolve(what.get("schema").filter(|_| is_json(media))?).ok()?;
        let mut schemas = Schemas::new(self.document, Way::Response);
        let Value::Object(mut read) = schemas.read(schema).ok()? else { return None };
        if read.get("type").and_then(Value::as_str) != Some("object") {
            return None;
        }
        let definitions = schemas.definitions().ok()?;
        if !definitions.is_empty() {
            read.insert("$defs".to_owned(), Value::Object(definitions));
        }
        Some(Value::Object(read))
    }

    fn method_answers(&self) -> bool {
        self.method != Method::Head
    }

    fn definition(&self, operation: &Operation, input: Value) -> String {
        let text = |key: &str| self.operation.get(key).and_then(Value::as_str).map(str::trim).unwrap_or_default();
        let (summary, description) = (text("summary"), text("description"));
        let words = match (summary, description) {
            ("", "") => operation.route(),
            (one, "") | ("", one) => one.to_owned(),
            (summary, description) if description.starts_with(summary) => description.to_owned(),
            (summary, description) => format!("{summary}\n\n{description}"),
        };
        let mut definition = Map::new();
        definition.insert("name".to_owned(), operation.name.as_str().into());
        if !summary.is_empty() {
            definition.insert("title".to_owned(), summary.into());
        }
        definition.insert("description".to_owned(), words.into());
        definition.insert("inputSchema".to_owned(), input);
        let output = operation.output.as_deref().and_then(|output| serde_json::from_str::<Value>(output).ok());
        if let Some(output) = output {
            definition.insert("outputSchema".to_owned(), output);
        }
        definition.insert(
            "annotations".to_owned(),
            json!({
                "readOnlyHint": self.method.reads(),
                "destructiveHint": !self.method.reads(),
                "idempotentHint": self.method.idempotent(),
                "openWorldHint": true,
            }),
        );
        // What is sent is part of what is approved: the same words for another request are another tool.
        definition.insert("_meta".to_owned(), json!({ "cogward/request": operation.plan() }));
        Value::Object(definition).to_string()
    }
}

impl Operation {
    /// What is sent, as one line.
    pub(crate) fn plan(&self) -> String {
        let mut plan = format!("{} {}", self.method.as_str(), self.path);
        for parameter in &self.parameters {
            let Parameter { argument, name, place, style, .. } = parameter;
            plan.push_str(&format!("; {argument:?} is {name:?} in {}, {}", place.as_str(), style.as_str()));
        }
        if let Some(body) = &self.body {
            plan.push_str(&format!("; body {}", body.media));
        }
        plan
    }
}

/// The content that is sent: JSON before fields before text.
fn chosen(content: &Map<String, Value>) -> Option<(&str, Form, &Value)> {
    let find = |is: &dyn Fn(&str) -> bool| content.iter().find(|(media, _)| is(media));
    let plain = find(&|media| essence(media) == "application/json");
    let plain = plain.or_else(|| find(&is_json)).map(|(media, what)| (media.as_str(), Form::Json, what));
    let fields = || find(&|media| essence(media) == "application/x-www-form-urlencoded");
    let text = || find(&|media| essence(media) == "text/plain");
    let found = plain
        .or_else(|| fields().map(|(media, what)| (media.as_str(), Form::Fields, what)))
        .or_else(|| text().map(|(media, what)| (media.as_str(), Form::Text, what)))?;
    found.0.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ').then_some(found)
}

/// Each place of the path has its parameter, and each parameter of the path its place.
fn places<'p>(parts: &[Part], parameters: impl Iterator<Item = &'p Parameter>) -> Result<(), String> {
    let in_path: Vec<_> = parameters.filter(|parameter| parameter.place == Place::Path).collect();
    for part in parts {
        if let Part::Place(name) = part
            && !in_path.iter().any(|parameter| parameter.name == *name)
        {
            return Err(format!("nothing says what `{{{}}}` in its path is", shown(name)));
        }
    }
    match in_path.iter().find(|parameter| !parts.contains(&Part::Place(parameter.name.clone()))) {
        Some(parameter) => Err(format!("its parameter `{}` has no place in its path", shown(&parameter.name))),
        None => Ok(()),
    }
}

/// Arguments with names of their own: where two would have one, both say where they are sent.
fn arguments(parameters: &mut [(Parameter, Value)], body: bool) -> Result<(), String> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    if body {
        times.insert(BODY.to_owned(), 1);
    }
    for (parameter, _) in parameters.iter() {
        *times.entry(parameter.argument.clone()).or_default() += 1;
    }
    let mut taken = std::collections::BTreeSet::new();
    for (parameter, _) in parameters.iter_mut() {
        if times.get(&parameter.argument).is_some_and(|times| *times > 1) {
            parameter.argument = format!("{}_{}", parameter.place.as_str(), parameter.argument);
        }
        if (body && parameter.argument == BODY) || !taken.insert(parameter.argument.clone()) {
            return Err(format!("two parameters of it would be the argument `{}`", parameter.argument));
        }
    }
    Ok(())
}
