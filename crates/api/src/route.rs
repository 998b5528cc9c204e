//! What a row of the table of routes can say: a method, a path, what goes in and out, and how it is decided.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::ProblemCode::{self, *};

/// Gives the schema of a wire type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

pub(crate) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The method of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Commands.
    Post,
    /// Creates or replaces.
    Put,
    /// Removes.
    Delete,
}

impl Method {
    /// As it is on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// What a request carries.
#[derive(Debug, Clone, Copy)]
pub enum RequestBody {
    /// Nothing.
    None,
    /// JSON of this type.
    Json(SchemaOf),
    /// A package as a tar stream.
    Tar,
    /// A file or a directory as a tar stream.
    Content,
}

/// What an answer carries.
#[derive(Debug, Clone, Copy)]
pub enum ResponseBody {
    /// Nothing.
    None,
    /// JSON of this type.
    Json(SchemaOf),
    /// Bytes as text: the output of a run, a signed note.
    Text,
    /// One JSON object a line.
    Lines,
    /// A tar stream.
    Tar,
    /// A file as it is, or a directory as a tar stream.
    Content,
    /// Server-sent events whose data is this type.
    Events(SchemaOf),
    /// The description of the API itself.
    Document,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Unique; the name of the function that clients generate.
    pub operation_id: &'static str,
    /// The noun that it belongs to.
    pub noun: &'static str,
    /// The method.
    pub method: Method,
    /// The path, with `{name}` for its parameters.
    pub path: &'static str,
    /// One line for the reader of the description.
    pub summary: &'static str,
    /// What the query may hold.
    pub query: Option<SchemaOf>,
    /// What the request carries.
    pub request: RequestBody,
    /// What the answer carries.
    pub response: ResponseBody,
    /// The statuses of success, the usual one first.
    pub success: &'static [u16],
    /// The problems that are this route's own; [`Route::problems`] has those of every route as well.
    pub own_problems: &'static [ProblemCode],
    /// Whether a reason must be given: in the body, or in the query where there is no body.
    pub needs_reason: bool,
    /// Whether `Idempotency-Key` is honoured.
    pub idempotent: bool,
    /// Whether `ETag` is sent and `If-Match` honoured.
    pub etag: bool,
    /// Whether a credential is needed.
    pub authenticated: bool,
    /// What policies call it, where it changes something: `policy.activate`, `run.kill`.
    pub command: Option<&'static str>,
}

impl Route {
    pub(crate) const fn new(
        operation_id: &'static str,
        noun: &'static str,
        method: Method,
        path: &'static str,
        summary: &'static str,
    ) -> Self {
        Self {
            operation_id,
            noun,
            method,
            path,
            summary,
            query: None,
            request: RequestBody::None,
            response: ResponseBody::None,
            success: &[200],
            own_problems: &[],
            needs_reason: false,
            idempotent: false,
            etag: false,
            authenticated: true,
            command: None,
        }
    }
    pub(crate) const fn query(mut self, of: SchemaOf) -> Self {
        self.query = Some(of);
        self
    }
    pub(crate) const fn takes(mut self, of: SchemaOf) -> Self {
        self.request = RequestBody::Json(of);
        self
    }
    pub(crate) const fn takes_tar(mut self) -> Self {
        self.request = RequestBody::Tar;
        self
    }
    pub(crate) const fn takes_content(mut self) -> Self {
        self.request = RequestBody::Content;
        self
    }
    pub(crate) const fn gives(mut self, of: SchemaOf) -> Self {
        self.response = ResponseBody::Json(of);
        self
    }
    pub(crate) const fn gives_raw(mut self, body: ResponseBody) -> Self {
        self.response = body;
        self
    }
    pub(crate) const fn success(mut self, statuses: &'static [u16]) -> Self {
        self.success = statuses;
        self
    }
    pub(crate) const fn refuses(mut self, problems: &'static [ProblemCode]) -> Self {
        self.own_problems = problems;
        self
    }
    pub(crate) const fn reasoned(mut self) -> Self {
        self.needs_reason = true;
        self
    }
    pub(crate) const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
    pub(crate) const fn etag(mut self) -> Self {
        self.etag = true;
        self
    }
    pub(crate) const fn command(mut self, name: &'static str) -> Self {
        self.command = Some(name);
        self
    }
    pub(crate) const fn open(mut self) -> Self {
        self.authenticated = false;
        self
    }

    /// Every problem that the route may answer with, in the order of their statuses.
    #[must_use]
    pub fn problems(&self) -> Vec<ProblemCode> {
        let mut all = vec![Internal];
        if self.authenticated {
            all.extend([Unauthenticated, Forbidden, Throttled, NotReady]);
        }
        if self.query.is_some() || self.path.contains('{') || !matches!(self.request, RequestBody::None) {
            all.push(InvalidRequest);
        }
        if self.path.contains('{') {
            all.push(NotFound);
        }
        if !matches!(self.request, RequestBody::None) {
            all.extend([PayloadTooLarge, UnsupportedMediaType]);
        }
        if self.needs_reason {
            all.push(ReasonRequired);
        }
        if self.idempotent {
            all.push(IdempotencyConflict);
        }
        if self.command.is_some() {
            all.push(PolicyBlocked);
        }
        if self.method != Method::Get {
            // Nothing changes without its record.
            all.push(EvidenceUnavailable);
        }
        all.extend(self.own_problems);
        all.sort_by_key(|code| (code.status(), *code));
        all.dedup();
        all
    }

    /// The names of the path's parameters, in their order.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        let named = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        // `{*file}` stands for the rest of the path.
        named.map(|name| name.trim_start_matches('*'))
    }
}
