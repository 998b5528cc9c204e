//! An API over HTTP as a tool server of the plane's own: what an OpenAPI document describes (see [`cogward_openapi`]).
//!
//! The tools are what the document says, the address is what the operator says, and the request of a call is made of
//! both here. A redirect is not followed. The credential is put in last; nothing that an agent gives can stand in its
//! place, and an answer in which it comes back is dropped.

mod answer;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, OnceLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cogward_model::{
    UpstreamName,
    upstream::{ApiCredential, OAuthClient, OpenApiDocument},
};
use cogward_openapi::{Import, LeftOut, Operation, Planned, Selection, component};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{
    UpstreamError,
    credential::Credentials,
    http::connect::{self, HttpClient},
};
use crate::{
    egress::inspect::echo::Forms,
    inside::{AnswerRoom, InsideError, InsideOffers, InsideRequest, InsideServer},
    mcp::{catalogue::ToolDefinition, rpc, schema::ToolSchema, sha256},
    tool_process::Pending,
    upstreams::Credential,
};

/// How an API is reached.
pub(super) struct Registration {
    pub(super) url: String,
    pub(super) document: OpenApiDocument,
    pub(super) credential: ApiCredential,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) oauth: Option<OAuthClient>,
}

/// One API.
#[derive(Clone)]
pub(super) struct RestServer(Arc<Inner>);

struct Inner {
    name: UpstreamName,
    client: HttpClient,
    /// Without `/` at its end.
    base: String,
    credentials: Credentials,
    /// A parameter of the query with the secret, as it is sent.
    query: Option<Zeroizing<String>>,
    forms: Vec<Forms>,
    tools: BTreeMap<String, Tool>,
    list: Bytes,
    from: MadeFrom,
}

struct Tool {
    operation: Operation,
    output: OnceLock<Option<ToolSchema>>,
}

impl Tool {
    /// What its answers have to be, compiled when first asked for.
    fn output(&self) -> Option<&ToolSchema> {
        self.output.get_or_init(|| self.operation.output().map(ToolSchema::compile)).as_ref()
    }

    /// Whether its arguments and answers can be checked.
    fn usable(&self) -> Result<(), String> {
        match ToolDefinition::parse(self.operation.definition())? {
            Some(definition) => definition.schema().usable()?,
            None => return Err("its definition cannot be offered".to_owned()),
        }
        self.output().map_or(Ok(()), ToolSchema::usable)
    }
}

impl RestServer {
    pub(super) fn made_from(&self) -> &MadeFrom {
        &self.0.from
    }

    /// The tools that could never be called, and why. It compiles all of them, which takes its time.
    pub(super) fn unusable(&self) -> Vec<LeftOut> {
        let why = |(name, tool): (&String, &Tool)| {
            let why = tool.usable().err()?;
            Some(LeftOut { what: name.clone(), why: rpc::shown(&why, 300) })
        };
        self.0.tools.iter().filter_map(why).collect()
    }
}

impl fmt::Debug for RestServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RestServer({})", self.0.name)
    }
}

/// What a document gave, for whoever added it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFrom {
    /// What the document is called.
    pub title: String,
    /// The version that it says it is.
    pub version: String,
    /// How many of its operations are tools.
    pub operations: usize,
    /// What is not one, and why.
    pub left_out: Vec<LeftOut>,
    /// What credentials it asks for, in words.
    pub credentials: Vec<String>,
}

/// What comes of a registration.
pub(super) struct Made {
    pub(super) server: RestServer,
    /// The tools that HTTP lets be called twice.
    pub(super) idempotent: BTreeSet<String>,
}

/// Reads the document and makes the server.
pub(super) fn make(name: &UpstreamName, from: Registration, secret: Option<Credential>) -> Result<Made, String> {
    let Registration { url, document, credential, headers, oauth } = from;
    if let Some(digest) = document.digest
        && digest != sha256(document.text.as_bytes())
    {
        return Err("`document.digest` is not that of `document.text`".to_owned());
    }
    let import = imported(&document, &credential, &headers, oauth.is_some())?;
    if url.is_empty() {
        let says = import.server.as_ref().map(|server| format!(" (the document says `{server}`)"));
        return Err(format!("`url` is missing: say where its requests go{}", says.unwrap_or_default()));
    }
    let (client, uri) = connect::to(&url)?;
    if uri.query().is_some() || url.contains('#') {
        return Err("`url` of an API has neither a query nor a fragment".to_owned());
    }
    if secret.is_none() && oauth.is_none() && credential != ApiCredential::Bearer {
        return Err("`credential` says how one is sent, and there is none".to_owned());
    }
    let forms = forms(secret.as_ref());
    let (credentials, query) = placed(&url, credential, &headers, oauth, secret)?;
    let tools = import.operations.into_iter().map(|operation| {
        let name = operation.name.to_string();
        (name, Tool { operation, output: OnceLock::new() })
    });
    let tools: BTreeMap<String, Tool> = tools.collect();
    let definitions: Vec<&str> = tools.values().map(|tool| tool.operation.definition()).collect();
    let list = format!(r#"{{"resultType":"complete","tools":[{}]}}"#, definitions.join(","));
    let idempotent = tools.iter().filter(|(_, tool)| tool.operation.method().idempotent());
    let idempotent = idempotent.map(|(name, _)| name.clone()).collect();
    let from = MadeFrom {
        title: import.title,
        version: import.version,
        operations: tools.len(),
        left_out: import.left_out,
        credentials: import.credentials,
    };
    let base = url.trim_end_matches('/').to_owned();
    let name = name.clone();
    let inner = Inner { name, client, base, credentials, query, forms, tools, list: list.into(), from };
    Ok(Made { server: RestServer(Arc::new(inner)), idempotent })
}

fn imported(
    document: &OpenApiDocument,
    credential: &ApiCredential,
    headers: &BTreeMap<String, String>,
    oauth: bool,
) -> Result<Import, String> {
    let mut credential_headers: Vec<String> = headers.keys().cloned().collect();
    let mut credential_query = Vec::new();
    match credential {
        ApiCredential::Header { .. } | ApiCredential::Query { .. } if oauth => {
            return Err("with `oauth`, nothing else carries the credential".to_owned());
        }
        ApiCredential::Header { name } => credential_headers.push(name.clone()),
        ApiCredential::Query { name } => credential_query.push(name.clone()),
        ApiCredential::Bearer | ApiCredential::Basic => {}
    }
    let selection = Selection {
        include: document.include.clone(),
        exclude: document.exclude.clone(),
        deprecated: document.deprecated,
        credential_headers,
        credential_query,
    };
    cogward_openapi::read(document.text.as_bytes(), &selection).map_err(|error| error.to_string())
}

/// What the secret could come back as: itself, and its members where it has some.
fn forms(secret: Option<&Credential>) -> Vec<Forms> {
    let Some(secret) = secret else { return Vec::new() };
    let mut forms = vec![Forms::of(secret.expose())];
    if let Ok(members) = serde_json::from_str::<BTreeMap<String, String>>(secret.expose()) {
        forms.extend(members.into_values().map(|member| Forms::of(&Zeroizing::new(member))));
    } else if let Some((_, password)) = secret.expose().split_once(':') {
        forms.push(Forms::of(password));
    }
    forms
}

type Placed = (Credentials, Option<Zeroizing<String>>);

/// The credential in its place.
fn placed(
    url: &str,
    place: ApiCredential,
    headers: &BTreeMap<String, String>,
    oauth: Option<OAuthClient>,
    secret: Option<Credential>,
) -> Result<Placed, String> {
    Ok(match place {
        ApiCredential::Bearer => (Credentials::of(url, None, headers, oauth, secret)?, None),
        ApiCredential::Header { name } => (Credentials::of(url, Some(&name), headers, oauth, secret)?, None),
        ApiCredential::Basic => {
            let basic = secret.map(|secret| {
                let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(secret.expose())));
                Credential::new(text)
            });
            (Credentials::of(url, Some("authorization"), headers, oauth, basic)?, None)
        }
        ApiCredential::Query { name } => {
            let query = secret.as_ref().map(|secret| {
                Zeroizing::new(format!("{}={}", component(&name), *Zeroizing::new(component(secret.expose()))))
            });
            // Templates may name it as well; without any it would go into a header by itself.
            let secret = secret.filter(|_| !headers.is_empty());
            (Credentials::of(url, None, headers, oauth, secret)?, query)
        }
    })
}

impl super::ToolServerClient {
    /// What a document gave, where its tools are made of one.
    #[must_use]
    pub fn made_from(&self) -> Option<&MadeFrom> {
        self.rest.as_ref().map(RestServer::made_from)
    }

    /// The tools of a document that could never be called, since their schemas cannot be used. It takes its time.
    #[must_use]
    pub fn unusable(&self) -> Vec<LeftOut> {
        self.rest.as_ref().map(RestServer::unusable).unwrap_or_default()
    }
}

impl InsideServer for RestServer {
    fn offers(&self) -> InsideOffers {
        InsideOffers { tools: true, resources: false }
    }

    fn answer(&self, request: InsideRequest) -> Pending<'static, Result<Bytes, InsideError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            match request.method {
                "tools/list" => Ok(inner.list.clone()),
                "tools/call" => inner.call(&request.params, &request.room).await,
                method => Err(rejected(rpc::METHOD_NOT_FOUND, format!("there is no `{method}` here"))),
            }
        })
    }
}

fn rejected(code: i64, message: String) -> InsideError {
    InsideError::Rejected { code, message }
}

fn unavailable(cause: impl Into<String>, sent: bool) -> InsideError {
    InsideError::Unavailable { cause: cause.into(), sent }
}

impl Inner {
    async fn call(&self, params: &[u8], room: &AnswerRoom) -> Result<Bytes, InsideError> {
        #[derive(Deserialize)]
        struct Call<'a> {
            name: String,
            #[serde(borrow, default)]
            arguments: Option<&'a RawValue>,
        }
        let wrong = |message: String| rejected(rpc::INVALID_PARAMS, message);
        let call: Call<'_> = serde_json::from_slice(params).map_err(|_| wrong("this is no call".to_owned()))?;
        let tool = self.tools.get(&call.name).ok_or_else(|| wrong("there is no such tool".to_owned()))?;
        let arguments = call.arguments.map_or("{}", RawValue::get);
        let planned = tool.operation.plan_request(arguments);
        let planned = match planned {
            Ok(planned) => planned,
            // The model can mend it.
            Err(error) => return Ok(answer::refused(&error.to_string())),
        };
        let response = self.send(&planned).await?;
        answer::of(self, tool, response, room).await
    }

    /// Sends a request; once more with another token where the first is not taken any more.
    async fn send(&self, planned: &Planned) -> Result<Response<Incoming>, InsideError> {
        let mut renewed = false;
        loop {
            let request = self.request(planned).await?;
            let sent = self.client.request(request).await;
            let response = sent.map_err(|error| {
                let sent = !error.is_connect();
                tracing::debug!(server = %self.name, %error, "API not reached");
                unavailable(if sent { "the connection broke off" } else { "no connection to it can be made" }, sent)
            })?;
            if response.status() == StatusCode::UNAUTHORIZED && !renewed && self.credentials.renew() {
                renewed = true;
                continue;
            }
            return Ok(response);
        }
    }

    async fn request(&self, planned: &Planned) -> Result<Request<Full<Bytes>>, InsideError> {
        let cannot = || rejected(rpc::INVALID_PARAMS, "the request cannot be made of these arguments".to_owned());
        let mut target = Zeroizing::new(format!("{}{}", self.base, planned.target));
        if let Some(query) = &self.query {
            target.push(if planned.target.contains('?') { '&' } else { '?' });
            target.push_str(query);
        }
        let uri: Uri = target.parse().map_err(|_| cannot())?;
        let (media, body) = match &planned.body {
            Some(payload) => (Some(payload.media.as_str()), Bytes::copy_from_slice(&payload.bytes)),
            None => (None, Bytes::new()),
        };
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = uri;
        *request.method_mut() = planned.method.parse().map_err(|_| cannot())?;
        let headers = request.headers_mut();
        for (name, value) in &planned.headers {
            let name: HeaderName = name.parse().map_err(|_| cannot())?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| cannot())?);
        }
        if let Some(media) = media {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(media).map_err(|_| cannot())?);
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/*;q=0.9, */*;q=0.1"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("cogward/", env!("CARGO_PKG_VERSION"))));
        // Last, so that nothing else can stand in their place.
        self.credentials.put(&self.name, headers).await.map_err(|error| match error {
            UpstreamError::Unavailable { cause, .. } => unavailable(cause, false),
            error => unavailable(error.to_string(), false),
        })?;
        Ok(request)
    }
}
