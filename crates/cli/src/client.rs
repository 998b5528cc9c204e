//! The plane's REST API, as the commands use it. There is no other way from here to the plane.
//!
//! Whatever is not a success becomes a [`Failure`] with its exit code: the plane's problem where it
//! sent one, the connection's fault where it could not be asked at all.

use std::{
    fs::File,
    io::Read,
    time::{Duration, Instant},
};

use cogward_api::{IDEMPOTENCY_KEY, LAST_EVENT_ID, Operation, OperationState, Page, Problem, TAR, paths};
use cogward_model::{Entropy, SystemEntropy};
use serde::{Serialize, de::DeserializeOwned};
use ureq::http::{Method, Response};

use crate::{
    exit::{Exit, Failure},
    settings::Settings,
};

/// Largest JSON answer that is taken, in bytes: a page of evidence with disclosures, with room.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Largest problem that is taken, in bytes.
const PROBLEM_BYTES_MAX: u64 = 1024 * 1024;
/// Time to get a connection: the plane is on this host.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Time until an answer begins: a registration unpacks a package, an export gathers a ledger.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);
/// Silence in the middle of an answer that means that the plane is gone; event streams are never silent that long.
const SILENCE_TIME_MAX: Duration = Duration::from_secs(120);

/// A plane.
pub struct Client {
    settings: Settings,
    agent: ureq::Agent,
}

/// What a request carries.
enum Sent<'a> {
    Nothing,
    Json(Vec<u8>),
    File(&'a mut File),
}

/// What a request is.
struct Request<'a> {
    method: Method,
    path: &'a str,
    sent: Sent<'a>,
    idempotency_key: Option<&'a str>,
    last_event: Option<&'a str>,
    if_match: Option<u64>,
    accept: &'static str,
}

impl<'a> Request<'a> {
    fn new(method: Method, path: &'a str) -> Self {
        Self {
            method,
            path,
            sent: Sent::Nothing,
            idempotency_key: None,
            last_event: None,
            if_match: None,
            accept: "application/json",
        }
    }
}

impl Client {
    /// A client; nothing is sent yet.
    pub fn new(settings: Settings) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy variable of the shell must not carry the credential elsewhere.
            .proxy(None)
            .user_agent(concat!("cogward/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIME_MAX))
            .timeout_recv_response(Some(ANSWER_TIME_MAX))
            .timeout_per_read(Some(SILENCE_TIME_MAX))
            .build();
        Self { settings, agent: config.new_agent() }
    }

    /// The plane that it talks to.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Reads a resource.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(self.send(Request::new(Method::GET, path))?)
    }

    /// Reads a list to its end, or to `limit` items, over as many pages as it takes.
    pub fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
        limit: Option<usize>,
    ) -> Result<Vec<T>, Failure> {
        let base = with_query(path, query)?;
        let limit = limit.unwrap_or(usize::MAX);
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let asked = (limit - items.len()).min(cogward_api::PAGE_ITEMS_MAX as usize);
            let mark = if base.contains('?') { '&' } else { '?' };
            let mut page_path = format!("{base}{mark}limit={asked}");
            if let Some(cursor) = &cursor {
                let pair = with_query("", &serde_json::json!({ "cursor": cursor }))?;
                page_path.push('&');
                page_path.push_str(pair.trim_start_matches('?'));
            }
            let page: Page<T> = self.get(&page_path)?;
            let empty = page.items.is_empty();
            items.extend(page.items);
            // A cursor that does not move would be followed for ever.
            let stuck = empty || page.next_cursor == cursor;
            if items.len() >= limit || page.next_cursor.is_none() || stuck {
                items.truncate(limit);
                return Ok(items);
            }
            cursor = page.next_cursor;
        }
    }

    /// Sends a command. It is sent again once when the connection broke: the key makes that safe.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let (body, key) = (to_json(body)?, idempotency_key());
        let attempt = || {
            let sent = Sent::Json(body.clone());
            self.json(self.send(Request { sent, idempotency_key: Some(&key), ..Request::new(Method::POST, path) })?)
        };
        match attempt() {
            Err(failure) if failure.exit == Exit::Unreachable && failure.code.is_none() => attempt(),
            other => other,
        }
    }

    /// Creates or replaces a resource.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let sent = Sent::Json(to_json(body)?);
        self.json(self.send(Request { sent, ..Request::new(Method::PUT, path) })?)
    }

    /// Replaces a resource, if it is still this revision.
    pub fn put_if<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        revision: Option<u64>,
    ) -> Result<T, Failure> {
        let sent = Sent::Json(to_json(body)?);
        self.json(self.send(Request { sent, if_match: revision, ..Request::new(Method::PUT, path) })?)
    }

    /// Removes a resource.
    pub fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(Request::new(Method::DELETE, path)).map(drop)
    }

    /// Sends a package.
    pub fn post_tar<T: DeserializeOwned>(&self, path: &str, package: &mut File) -> Result<T, Failure> {
        let sent = Sent::File(package);
        self.json(self.send(Request { sent, ..Request::new(Method::POST, path) })?)
    }

    /// Reads bytes as they come: a log, a pack, a signed note.
    pub fn read(&self, path: &str, accept: &'static str) -> Result<impl Read + use<>, Failure> {
        let answer = self.send(Request { accept, ..Request::new(Method::GET, path) })?;
        Ok(answer.into_body().into_reader())
    }

    /// Opens the event stream, after the event that was seen last.
    pub fn events(&self, path: &str, last_event: Option<&str>) -> Result<impl Read + Send + use<>, Failure> {
        let request = Request { accept: "text/event-stream", last_event, ..Request::new(Method::GET, path) };
        Ok(self.send(request)?.into_body().into_reader())
    }

    /// Waits until an operation has ended.
    pub fn finish(&self, mut operation: Operation, until: Option<Instant>) -> Result<Operation, Failure> {
        while operation.state == OperationState::Pending {
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Failure::new(Exit::TimedOut, format!("{} is still pending", operation.id))
                    .next(format!("cogward operation show {}", operation.id)));
            }
            std::thread::sleep(Duration::from_millis(50));
            operation = self.get(&paths::operation(operation.id))?;
        }
        Ok(operation)
    }

    fn send(&self, request: Request<'_>) -> Result<Response<ureq::Body>, Failure> {
        let url = format!("{}{}", self.settings.url, request.path);
        let mut head = ureq::http::Request::builder()
            .method(request.method)
            .uri(&url)
            .header("accept", format!("{}, application/problem+json", request.accept));
        if let Some(token) = &self.settings.token {
            head = head.header("authorization", format!("Bearer {token}"));
        }
        if let Some(key) = request.idempotency_key {
            head = head.header(IDEMPOTENCY_KEY, key);
        }
        if let Some(revision) = request.if_match {
            head = head.header("if-match", format!("\"{revision}\""));
        }
        if let Some(event) = request.last_event {
            head = head.header(LAST_EVENT_ID, event);
        }
        let invalid = |_| Failure::usage("the credential or the address cannot be in an HTTP request");
        let sent = match request.sent {
            Sent::Nothing => self.agent.run(head.body(()).map_err(invalid)?),
            Sent::Json(bytes) => {
                let head = head.header("content-type", "application/json");
                self.agent.run(head.body(bytes).map_err(invalid)?)
            }
            Sent::File(file) => {
                let size = file.metadata().map_err(|error| Failure::local("cannot read the package", error))?.len();
                let head = head.header("content-type", TAR).header("content-length", size);
                self.agent.run(head.body(ureq::SendBody::from_reader(file)).map_err(invalid)?)
            }
        };
        let answer = sent.map_err(|error| self.unreachable(&error))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refused(answer)) }
    }

    fn json<T: DeserializeOwned>(&self, answer: Response<ureq::Body>) -> Result<T, Failure> {
        let read = answer.into_body().into_with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let bytes = read.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("{} answered something that is not of this API: {error}", self.settings.url),
            )
            .next("compare `cogward --version` with the plane's")
        })
    }

    /// What a connection's fault means.
    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let why = match error {
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                "nothing listens there".to_owned()
            }
            other => other.to_string(),
        };
        let url = &self.settings.url;
        Failure::new(Exit::Unreachable, format!("no plane answers at {url} ({}): {why}", self.settings.url_from))
            .next("start one with `cogward serve`, or name another with --plane or COGWARD_URL")
    }

    /// What an answer that is no success means.
    fn refused(&self, answer: Response<ureq::Body>) -> Failure {
        let status = answer.status();
        let read = answer.into_body().into_with_config().limit(PROBLEM_BYTES_MAX).read_to_vec();
        if let Ok(problem) = serde_json::from_slice::<Problem>(&read.unwrap_or_default()) {
            let mut failure = Failure::from(problem);
            if failure.code == Some(cogward_api::ProblemCode::Unauthenticated) && self.settings.token.is_none() {
                failure.cause = format!("no credential was given for {}", self.settings.url);
            }
            return failure;
        }
        let cause = format!("{} answered {status} without a problem document", self.settings.url);
        Failure::new(Exit::of_status(status.as_u16()), cause)
            .next("is it a cogward plane? `cogward context show` tells where the address comes from")
    }
}

pub fn with_query(path: &str, query: &impl Serialize) -> Result<String, Failure> {
    paths::with_query(path, query).map_err(|error| Failure::local("cannot make the request", error))
}

fn to_json(body: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body).map_err(|error| Failure::local("cannot make the request", error))
}

/// 128 random bits, as hex.
fn idempotency_key() -> String {
    let mut random = [0_u8; 16];
    SystemEntropy.fill(&mut random);
    format!("{:032x}", u128::from_le_bytes(random))
}
