//! Parameters of an operation: where each is sent and how it is written.

use serde_json::{Map, Value};

use crate::{document::Document, name, schema::Schemas};

/// Headers that are not an agent's to set: what carries the request, says who makes it, or where it comes from.
const OWN_HEADERS: [&str; 32] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "cookie2",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "range",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];
/// Beginnings of such headers.
const OWN_HEADERS_BY_PREFIX: [&str; 4] = ["x-forwarded-", "x-real-ip", "x-original-", "x-rewrite-"];

/// Where a parameter is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Path,
    Query,
    Header,
}

impl Place {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
        }
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// `a,b`; members of objects as `k,v`, or as `k=v` when exploded.
    Simple { explode: bool },
    /// `name=a,b`, or `name=a&name=b` when exploded.
    Form { explode: bool },
    /// `name[k]=v`.
    DeepObject,
    /// The value as JSON.
    Json,
}

impl Style {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Simple { explode: false } => "simple",
            Self::Simple { explode: true } => "simple exploded",
            Self::Form { explode: false } => "form",
            Self::Form { explode: true } => "form exploded",
            Self::DeepObject => "deepObject",
            Self::Json => "json",
        }
    }
}

/// One parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    /// The argument that fills it.
    pub(crate) argument: String,
    /// Its name on the wire.
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) style: Style,
    pub(crate) required: bool,
}

/// A parameter that cannot be sent.
pub(crate) struct Unsendable {
    pub(crate) name: String,
    pub(crate) required: bool,
    pub(crate) why: String,
}

/// What the credential has for itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reserved<'a> {
    pub(crate) headers: &'a [String],
    pub(crate) query: &'a [String],
}

/// The place and the name of a parameter: what makes two of them the same.
pub(crate) fn key(parameter: &Value) -> Option<(&str, &str)> {
    Some((parameter.get("in")?.as_str()?, parameter.get("name")?.as_str()?))
}

/// Reads one parameter and its schema.
pub(crate) fn read(
    parameter: &Value,
    document: &Document,
    schemas: &mut Schemas<'_>,
    reserved: &Reserved<'_>,
) -> Result<(Parameter, Value), Unsendable> {
    let (place, name) = key(parameter).unwrap_or_default();
    let required = parameter.get("required") == Some(&Value::Bool(true)) || place == "path";
    let failed = |why: String| Unsendable { name: name.to_owned(), required, why };
    let no = |why: &str| failed(why.to_owned());
    if name.is_empty() {
        return Err(no("it has no name"));
    }
    let place = match place {
        "path" => Place::Path,
        "query" => Place::Query,
        "header" => Place::Header,
        "cookie" => return Err(no("cookies are not sent")),
        _ => return Err(no("it is nowhere that is known")),
    };
    if place == Place::Header {
        header(name, reserved).map_err(no)?;
    }
    let (style, schema) = match parameter.get("content").and_then(Value::as_object) {
        Some(content) => (Style::Json, json_of(content).ok_or_else(|| no("its content is not JSON alone"))?),
        None => {
            let schema = parameter.get("schema").ok_or_else(|| no("it has neither a schema nor a content"))?;
            (style(parameter, place).map_err(no)?, schema)
        }
    };
    if place == Place::Query && reserved.query.iter().any(|own| could_stand_for(style, name, own)) {
        return Err(no("the credential is sent there"));
    }
    if style == (Style::Form { explode: true }) && is_object(schema, document) {
        return Err(no("the members of an object would be parameters of their own (`form`, exploded)"));
    }
    let mut schema = schemas.read(schema).map_err(failed)?;
    if let (Some(text), Value::Object(map)) = (parameter.get("description").and_then(Value::as_str), &mut schema) {
        map.insert("description".to_owned(), text.into());
    }
    let parameter = Parameter { argument: name::argument(name), name: name.to_owned(), place, style, required };
    Ok((parameter, schema))
}

fn header(name: &str, reserved: &Reserved<'_>) -> Result<(), &'static str> {
    let lower = name.to_ascii_lowercase();
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        return Err("its name is not that of a header");
    }
    if OWN_HEADERS.contains(&lower.as_str()) || OWN_HEADERS_BY_PREFIX.iter().any(|own| lower.starts_with(own)) {
        return Err("this header is the plane's own");
    }
    if reserved.headers.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return Err("the credential is sent there");
    }
    Ok(())
}

/// Whether a server may read a query parameter as the one of the credential: many fold case and what stands for nesting, and
/// the members of a `deepObject` are named by whoever fills it.
fn could_stand_for(style: Style, name: &str, own: &str) -> bool {
    let folded = |text: &str| -> String {
        let kept = text.chars().filter(|c| *c != ']');
        kept.flat_map(char::to_lowercase).map(|c| if matches!(c, '.' | ' ' | '[' | '+') { '_' } else { c }).collect()
    };
    let (name, own) = (folded(name), folded(own));
    name == own || (style == Style::DeepObject && own.strip_prefix(&name).is_some_and(|rest| rest.starts_with('_')))
}

fn style(parameter: &Value, place: Place) -> Result<Style, &'static str> {
    let given = parameter.get("style").and_then(Value::as_str);
    let explode = parameter.get("explode").and_then(Value::as_bool);
    match (place, given) {
        (Place::Path | Place::Header, None | Some("simple")) => {
            Ok(Style::Simple { explode: explode.unwrap_or_default() })
        }
        (Place::Query, None | Some("form")) => Ok(Style::Form { explode: explode.unwrap_or(true) }),
        (Place::Query, Some("deepObject")) => Ok(Style::DeepObject),
        _ => Err("its style is not one of `simple`, `form` and `deepObject`"),
    }
}

/// The schema of a content that is JSON and nothing else.
fn json_of(content: &Map<String, Value>) -> Option<&Value> {
    let mut all = content.iter();
    let (media, what) = all.next().filter(|_| content.len() == 1)?;
    is_json(media).then(|| what.get("schema"))?
}

/// Whether a media type is JSON.
pub(crate) fn is_json(media: &str) -> bool {
    let essence = essence(media);
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// A media type without its parameters, in lower case.
pub(crate) fn essence(media: &str) -> String {
    media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a schema says that it is an object, at its surface.
fn is_object(schema: &Value, document: &Document) -> bool {
    let schema = document.resolve(schema).unwrap_or(schema);
    match schema.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => schema.get("properties").is_some(),
    }
}
