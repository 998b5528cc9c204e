//! A whole document: what it is called, what can be called, and what cannot.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::Value;

use crate::{
    DocumentError, Method, Operation,
    bounds::{DEFINITIONS_BYTES_MAX, LEFT_OUT_MAX, OPERATIONS_MAX, REFERENCES_MAX, TITLE_MAX, WORK_MAX},
    encode::decoded,
    error::shown,
    operation::{self, Reading},
    parameter::Reserved,
    security, source,
};

/// Which operations become tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// By operation id, tool name or tag; all when empty.
    pub include: Vec<String>,
    /// Which of those do not.
    pub exclude: Vec<String>,
    /// Deprecated ones as well.
    pub deprecated: bool,
    /// Headers that carry the credential.
    pub credential_headers: Vec<String>,
    /// Query parameters that carry the credential.
    pub credential_query: Vec<String>,
}

/// What a document gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// What it is called.
    pub title: String,
    /// The version that it says it is.
    pub version: String,
    /// The first server that it names with `https://` and without variables: for the operator to look at.
    pub server: Option<String>,
    /// What became tools, in the order of their names.
    pub operations: Vec<Operation>,
    /// What did not.
    pub left_out: Vec<LeftOut>,
    /// What credentials it asks for, in words.
    pub credentials: Vec<String>,
}

/// Something that is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// What: `GET /invoices`, or a parameter of it.
    pub what: String,
    /// Why.
    pub why: String,
}

/// The value of a document, and where its references lead.
pub(crate) struct Document {
    root: Value,
    is_3_0: bool,
    /// What it has cost so far, over all operations.
    work: Cell<usize>,
}

impl Document {
    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    pub(crate) fn is_3_0(&self) -> bool {
        self.is_3_0
    }

    /// Counts what is about to be read or copied.
    pub(crate) fn spend(&self, values: usize) -> Result<(), String> {
        self.work.set(self.work.get().saturating_add(values));
        if self.is_spent() { Err("the document asks for too much work".to_owned()) } else { Ok(()) }
    }

    fn is_spent(&self) -> bool {
        self.work.get() > WORK_MAX
    }

    /// The pointer that a reference is.
    pub(crate) fn pointer(&self, reference: &Value) -> Result<String, String> {
        let text = reference.as_str().ok_or("a reference of it is no text")?;
        let outside = || format!("the reference `{}` leads out of the document", shown(text));
        let fragment = text.strip_prefix('#').ok_or_else(outside)?;
        if !fragment.is_empty() && !fragment.starts_with('/') {
            return Err(format!("the reference `{}` is no JSON pointer", shown(text)));
        }
        String::from_utf8(decoded(fragment.as_bytes())).map_err(|_| outside())
    }

    /// What is at a pointer.
    pub(crate) fn pointed(&self, pointer: &str) -> Result<&Value, String> {
        self.root.pointer(pointer).ok_or_else(|| format!("the reference `#{}` leads nowhere", shown(pointer)))
    }

    /// What a value stands for: itself, or what it refers to.
    pub(crate) fn resolve<'a>(&'a self, value: &'a Value) -> Result<&'a Value, String> {
        let mut at = value;
        for _ in 0..REFERENCES_MAX {
            let Some(reference) = at.get("$ref") else { return Ok(at) };
            at = self.pointed(&self.pointer(reference)?)?;
        }
        let reference = value.get("$ref").and_then(Value::as_str).unwrap_or_default();
        Err(format!("the reference `{}` leads in a circle", shown(reference)))
    }
}

/// Reads a document and makes tools of it.
///
/// # Errors
/// [`DocumentError`] when it is no document that makes tools; a part that cannot be one is left out, and said.
pub fn read(bytes: &[u8], selection: &Selection) -> Result<Import, DocumentError> {
    let document = opened(source::value(bytes)?)?;
    let root = document.root();
    let paths = match root.get("paths") {
        None => return Err(DocumentError::wrong("/paths", "it is missing: there is nothing to call")),
        Some(Value::Object(paths)) => paths,
        Some(_) => return Err(DocumentError::wrong("/paths", "it is no object")),
    };
    let mut left_out = LeftOuts::default();
    let webhooks = root.get("webhooks").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    if webhooks > 0 {
        left_out.push("webhooks", "the server calls them, not an agent")?;
    }
    let ids = ids(&document, paths);
    let reserved = Reserved { headers: &selection.credential_headers, query: &selection.credential_query };
    let (mut count, mut bytes) = (0_usize, 0_usize);
    let mut chosen = Chosen::new(selection);
    let mut made: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    let mut schemes = BTreeSet::new();
    // By path, whatever the order in the file.
    for (path, item) in paths.iter().collect::<BTreeMap<_, _>>() {
        if path.starts_with("x-") {
            continue;
        }
        let item = match document.resolve(item) {
            Ok(item) if item.is_object() => item,
            Ok(_) => return Err(DocumentError::wrong(format!("/paths/{}", shown(path)), "it is no object")),
            Err(why) => {
                left_out.push(&shown(path), &why)?;
                continue;
            }
        };
        for (method, operation) in methods(item) {
            count += 1;
            if count > OPERATIONS_MAX {
                let why = format!("has more than {OPERATIONS_MAX} operations: take a part of it");
                return Err(DocumentError::TooLarge(why));
            }
            let what = format!("{} {}", method.to_ascii_uppercase(), shown(path));
            let Some(method) = Method::of(method) else {
                left_out.push(&what, "the method is not sent")?;
                continue;
            };
            let reading = Reading { document: &document, method, path, item, operation, reserved: &reserved };
            if let Some(why) = chosen.leaves_out(&reading) {
                if !why.is_empty() {
                    left_out.push(&what, why)?;
                }
                continue;
            }
            if let Some(id) = operation::id(operation)
                && ids.get(id).is_some_and(|times| *times > 1)
            {
                left_out.push(&what, &format!("its operationId `{}` is there more than once", shown(id)))?;
                continue;
            }
            let read = reading.read();
            if document.is_spent() {
                let why = format!("takes more than {WORK_MAX} steps to read, at {what}: take a part of it");
                return Err(DocumentError::TooLarge(why));
            }
            match read {
                Ok(read) => {
                    bytes += read.operation.definition().len();
                    if bytes > DEFINITIONS_BYTES_MAX {
                        let why = format!(
                            "makes tools of more than {DEFINITIONS_BYTES_MAX} bytes together: take a part of it"
                        );
                        return Err(DocumentError::TooLarge(why));
                    }
                    let security = operation.get("security").or_else(|| root.get("security"));
                    schemes.extend(security::named(security));
                    for (part, why) in read.left_out {
                        left_out.push(&format!("{what}, {part}"), &why)?;
                    }
                    made.entry(read.operation.name.to_string()).or_default().push(read.operation);
                }
                Err(why) => left_out.push(&what, &why)?,
            }
        }
    }
    chosen.all_there()?;
    let operations = apart(made, &mut left_out)?;
    let info = |key: &str| {
        let text = root.get("info").and_then(|info| info.get(key)).and_then(Value::as_str).unwrap_or_default();
        shown(text).chars().take(TITLE_MAX).collect::<String>()
    };
    Ok(Import {
        title: info("title"),
        version: info("version"),
        server: server(root),
        credentials: security::wanted(&document, &schemes),
        operations,
        left_out: left_out.0,
    })
}

/// Tools of one name: none of them is taken, so that none takes the place of another.
fn apart(made: BTreeMap<String, Vec<Operation>>, left_out: &mut LeftOuts) -> Result<Vec<Operation>, DocumentError> {
    let mut operations = Vec::new();
    for (name, mut same) in made {
        if same.len() > 1 {
            for operation in &same {
                let why =
                    format!("another operation would be the tool `{name}` too: give them operationIds of their own");
                left_out.push(&operation.route(), &why)?;
            }
        } else if let Some(one) = same.pop() {
            operations.push(one);
        }
    }
    Ok(operations)
}

fn opened(root: Value) -> Result<Document, DocumentError> {
    let version = match root.get("openapi") {
        Some(Value::String(version)) => version.clone(),
        Some(other) => other.to_string(),
        None if root.get("swagger").is_some() => {
            return Err(DocumentError::wrong("/swagger", "Swagger 2.0 is not read: convert it to OpenAPI 3"));
        }
        None => return Err(DocumentError::wrong("/openapi", "it is missing: this is no OpenAPI document")),
    };
    let is_3_0 = version.starts_with("3.0");
    if !is_3_0 && !version.starts_with("3.1") {
        return Err(DocumentError::wrong("/openapi", format!("the version `{}` is not read", shown(&version))));
    }
    let dialect = root.get("jsonSchemaDialect").and_then(Value::as_str).unwrap_or_default();
    let known = dialect.is_empty()
        || dialect.starts_with("https://spec.openapis.org/oas/3.1/")
        || dialect == "https://json-schema.org/draft/2020-12/schema";
    if !known {
        return Err(DocumentError::wrong("/jsonSchemaDialect", "schemas of this dialect are not read"));
    }
    Ok(Document { root, is_3_0, work: Cell::new(0) })
}

/// The operations of a path, by method.
fn methods(item: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let about = ["parameters", "summary", "description", "servers", "$ref"];
    let members = item.as_object().into_iter().flatten();
    let found = members.filter(move |(key, _)| !about.contains(&key.as_str()) && !key.starts_with("x-"));
    found.map(|(key, value)| (key.as_str(), value)).collect::<BTreeMap<_, _>>().into_iter()
}

/// How often each operation id is there.
fn ids(document: &Document, paths: &serde_json::Map<String, Value>) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for item in paths.values() {
        let Ok(item) = document.resolve(item) else { continue };
        for (_, operation) in methods(item) {
            if let Some(id) = operation::id(operation) {
                *ids.entry(id.to_owned()).or_default() += 1;
            }
        }
    }
    ids
}

fn server(root: &Value) -> Option<String> {
    let servers = root.get("servers").and_then(Value::as_array)?;
    let mut urls = servers.iter().filter_map(|server| server.get("url")?.as_str());
    urls.find(|url| url.starts_with("https://") && !url.contains(['{', '}'])).map(shown)
}

#[derive(Default)]
struct LeftOuts(Vec<LeftOut>);

impl LeftOuts {
    fn push(&mut self, what: &str, why: &str) -> Result<(), DocumentError> {
        if self.0.len() >= LEFT_OUT_MAX {
            let many = format!("has more than {LEFT_OUT_MAX} parts that cannot be tools: take a part of it");
            return Err(DocumentError::TooLarge(many));
        }
        self.0.push(LeftOut { what: what.to_owned(), why: why.to_owned() });
        Ok(())
    }
}

/// The operator's choice, and what of it was found.
struct Chosen<'a> {
    selection: &'a Selection,
    found: BTreeSet<&'a str>,
}

impl<'a> Chosen<'a> {
    fn new(selection: &'a Selection) -> Self {
        Self { selection, found: BTreeSet::new() }
    }

    /// Why an operation is not taken; an empty reason where the operator said so.
    fn leaves_out(&mut self, reading: &Reading<'_>) -> Option<&'static str> {
        let names = reading.names();
        let mut of = |list: &'a [String]| {
            let mut hit = false;
            for entry in list.iter().filter(|entry| names.iter().any(|name| name == *entry)) {
                self.found.insert(entry);
                hit = true;
            }
            hit
        };
        let (included, excluded) = (of(&self.selection.include), of(&self.selection.exclude));
        if excluded || !(included || self.selection.include.is_empty()) {
            return Some("");
        }
        let deprecated = reading.operation.get("deprecated") == Some(&Value::Bool(true));
        (deprecated && !self.selection.deprecated).then_some("it is deprecated, and those are not asked for")
    }

    fn all_there(&self) -> Result<(), DocumentError> {
        let mut all = self.selection.include.iter().chain(&self.selection.exclude);
        match all.find(|entry| !self.found.contains(entry.as_str())) {
            Some(entry) => Err(DocumentError::NotThere(shown(entry))),
            None => Ok(()),
        }
    }
}
