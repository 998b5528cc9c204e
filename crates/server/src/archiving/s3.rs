//! An archive in a bucket of an S3-compatible store, each object under a lock until its time is over.
//!
//! Five requests and no more: put, get, head, list, and nothing that deletes. Nothing goes over a network in clear, and
//! a store that does not say of an object that it is locked does not have it.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes};
use cogward_evidence::archive::{Content, Place};
use cogward_ledger::archive::{OBJECTS_MAX, Objects, hex, sha256};
use cogward_model::{Clock, SystemClock, Timestamp};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use tokio::{io::AsyncReadExt, runtime::Handle};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::sign::{Credentials, Unsigned, escaped, signed};
use crate::cosigning;

/// By how many days the lock of an object that is there already may be shorter than that of a new one.
const EARLIER_DAYS: u32 = 3;
/// How long the store may take to begin an answer, and between two parts of one.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// How long one object may take on its way there.
const PUT_WAIT: Duration = Duration::from_secs(900);
/// A page of a list, or an error.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What is read of a file at once.
const PART_BYTES: usize = 256 * 1024;
/// Two lines, or three with a session token.
const CREDENTIALS_BYTES_MAX: u64 = 16 * 1024;
const DAY_US: u64 = 86_400_000_000;

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Http = Client<HttpsConnector<HttpConnector>, Body>;

/// How objects are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody deletes or overwrites it before its time is over, the account's root neither.
    Compliance,
    /// Whoever has a right of its own may.
    Governance,
}

impl LockMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Compliance => "COMPLIANCE",
            Self::Governance => "GOVERNANCE",
        }
    }
}

/// The lock of every object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// How strict.
    pub mode: LockMode,
    /// For how many days from when it is put there.
    pub days: u32,
}

/// Where the bucket is.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// What the names of all objects begin with; empty or with `/` at its end.
    pub prefix: String,
    /// The store, where it is not Amazon's: `https://host[:port]`, or `http://` on this host.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// A file with the credentials, in the form of `~/.aws/credentials`. Read for each request, so it may change.
    pub credentials: PathBuf,
    /// Nothing is put there without a lock unless this is none.
    pub lock: Option<Lock>,
}

impl S3Options {
    /// Takes `s3://bucket/prefix` apart.
    #[must_use]
    pub fn split(url: &str) -> Option<(String, String)> {
        let rest = url.strip_prefix("s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_bucket = (3..=63).contains(&bucket.len())
            && bucket.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
            && bucket.starts_with(|c: char| c.is_ascii_alphanumeric());
        let prefix = prefix.trim_end_matches('/');
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let is_prefix = prefix.is_empty() || (prefix.len() <= 512 && prefix.split('/').all(is_part));
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        (is_bucket && is_prefix).then(|| (bucket.to_owned(), prefix))
    }
}

/// Why the store cannot be used. No message has a credential in it.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// Its address.
    #[error("`{0}` cannot be the address of a store: write https://HOST[:PORT], or http:// when it is on this host")]
    Endpoint(String),
    /// TLS.
    #[error("TLS cannot be used")]
    Tls(#[source] io::Error),
    /// The file with the credentials.
    #[error("the credentials in {} cannot be used: {why}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It does not answer.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// It refuses.
    #[error("the store answered {status}{}", code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default())]
    Status {
        /// The status.
        status: StatusCode,
        /// Its own word for it.
        code: Option<String>,
    },
    /// It answers what is no answer.
    #[error("the store's answer cannot be read")]
    Form,
    /// An object is there and not locked as it should be.
    #[error("the store does not hold the object under lock ({found}): is object lock enabled for the bucket?")]
    NotLocked {
        /// What it says of the lock.
        found: String,
    },
    /// The plane stops.
    #[error("the plane stops")]
    Closing,
}

impl From<S3Error> for io::Error {
    fn from(error: S3Error) -> Self {
        let kind = match &error {
            S3Error::Status { status: StatusCode::NOT_FOUND, .. } => io::ErrorKind::NotFound,
            S3Error::Unreachable(_) => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The bucket.
pub(super) struct Bucket {
    options: S3Options,
    /// `https://host[:port]`
    base: String,
    /// `host[:port]`
    host: String,
    client: Http,
    runtime: Handle,
    closing: CancellationToken,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("base", &self.base).finish_non_exhaustive()
    }
}

/// The store's address and host. In clear only on this host.
fn endpoint(text: &str) -> Result<(String, String), S3Error> {
    let wrong = || S3Error::Endpoint(text.chars().take(200).collect());
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    let host = authority.host();
    let here =
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    let scheme = match uri.scheme_str() {
        Some("https") => "https",
        Some("http") if here => "http",
        _ => return Err(wrong()),
    };
    if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong());
    }
    Ok((format!("{scheme}://{authority}"), authority.to_string()))
}

/// What is between two words in a text that a store wrote; nothing in it is believed.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split_once(from)?.1.split_once(to).map(|(found, _)| found)
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The body of a file, a part at a time.
fn streamed(file: tokio::fs::File) -> Body {
    let parts = futures_util::stream::unfold(Some(file), |file| async {
        let mut file = file?;
        let mut part = vec![0; PART_BYTES];
        match file.read(&mut part).await {
            Ok(0) => None,
            Ok(read) => {
                part.truncate(read);
                Some((Ok(Frame::data(Bytes::from(part))), Some(file)))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(parts))
}

impl Bucket {
    /// Must be made within a runtime.
    pub(super) fn new(options: S3Options, closing: CancellationToken) -> Result<Self, S3Error> {
        let amazon = || format!("https://s3.{}.amazonaws.com", options.region);
        let (base, host) = endpoint(&options.endpoint.clone().unwrap_or_else(amazon))?;
        let client = cosigning::client().map_err(S3Error::Tls)?;
        let bucket = Self { options, base, host, client, runtime: Handle::current(), closing };
        // A mistake in the command is told at the start.
        bucket.credentials()?;
        Ok(bucket)
    }

    fn credentials(&self) -> Result<Credentials, S3Error> {
        let path = &self.options.credentials;
        let wrong = |why: &str| S3Error::Credentials { path: path.clone(), why: why.to_owned() };
        let file = fs::File::open(path).map_err(|error| wrong(&error.to_string()))?;
        let mode = file.metadata().map_err(|error| wrong(&error.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(wrong("others may read the file: chmod 600"));
        }
        let mut text = Zeroizing::new(String::new());
        let read = file.take(CREDENTIALS_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| wrong(&error.to_string()))?;
        Credentials::parse(&text).ok_or_else(|| wrong("one aws_access_key_id and one aws_secret_access_key are wanted"))
    }

    fn key(&self, name: &str) -> String {
        format!("/{}/{}{name}", self.options.bucket, self.options.prefix)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &str,
        headers: &[(&'static str, String)],
        (digest, length, body): (&str, u64, Body),
    ) -> Result<Response<Incoming>, S3Error> {
        let unsigned = Unsigned { method: method.as_str(), host: &self.host, path, query, headers, body: digest };
        let signed = signed(&unsigned, &self.credentials()?, &self.options.region, SystemClock.now());
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let mut request = Request::builder().method(&method).uri(format!("{}{path}{query}", self.base));
        for (name, value) in &signed {
            let value = http::HeaderValue::from_str(value).map(|mut value| {
                value.set_sensitive(true);
                value
            });
            request = request.header(*name, value.map_err(|_| S3Error::Form)?);
        }
        if method == Method::PUT {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        let request = request.body(body).map_err(|_| S3Error::Form)?;
        let wait = if method == Method::PUT { PUT_WAIT } else { ANSWER_WAIT };
        tokio::select! {
            () = self.closing.cancelled() => Err(S3Error::Closing),
            answer = tokio::time::timeout(wait, self.client.request(request)) => match answer {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(S3Error::Unreachable(error.to_string())),
                Err(_) => Err(S3Error::Unreachable("no answer in time".to_owned())),
            },
        }
    }

    async fn ask(&self, method: Method, path: &str, query: &str) -> Result<Response<Incoming>, S3Error> {
        let empty = hex(&sha256(b""));
        self.send(method, path, query, &[], (&empty, 0, whole(Bytes::new()))).await
    }

    /// The answer as text, or the refusal in the store's words.
    async fn text(&self, answer: Response<Incoming>) -> Result<String, S3Error> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), TEXT_BYTES_MAX).collect();
        let body = tokio::time::timeout(ANSWER_WAIT, body).await;
        let body =
            body.map_err(|_| S3Error::Unreachable("no answer in time".to_owned()))?.map_err(|_| S3Error::Form)?;
        let text = String::from_utf8(body.to_bytes().to_vec()).map_err(|_| S3Error::Form)?;
        if status.is_success() {
            return Ok(text);
        }
        let code = between(&text, "<Code>", "</Code>");
        let is_word = |code: &&str| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Err(S3Error::Status { status, code: code.filter(is_word).map(str::to_owned) })
    }

    async fn list_all(&self) -> Result<Vec<String>, S3Error> {
        let (mut names, mut token) = (Vec::new(), None::<String>);
        loop {
            let next = token.as_ref().map(|token| format!("continuation-token={}&", escaped(token)));
            let prefix = escaped(&self.options.prefix);
            let query = format!("{}list-type=2&max-keys=1000&prefix={prefix}", next.unwrap_or_default());
            let answer = self.ask(Method::GET, &format!("/{}", self.options.bucket), &query).await?;
            let text = self.text(answer).await?;
            if !text.contains("<ListBucketResult") {
                return Err(S3Error::Form);
            }
            for part in text.split("<Key>").skip(1) {
                let key = part.split_once("</Key>").ok_or(S3Error::Form)?.0;
                // Something beside the archive in the same bucket is none of ours.
                if let Some(name) = key.strip_prefix(self.options.prefix.as_str()) {
                    names.push(name.to_owned());
                }
            }
            if names.len() > OBJECTS_MAX {
                return Err(S3Error::Form);
            }
            if between(&text, "<IsTruncated>", "</IsTruncated>") != Some("true") {
                return Ok(names);
            }
            let next = between(&text, "<NextContinuationToken>", "</NextContinuationToken>").map(str::to_owned);
            // A list that does not go on would be read for ever.
            token = Some(next.filter(|next| token.as_ref() != Some(next)).ok_or(S3Error::Form)?);
        }
    }

    /// Whether an object is there, and what is said of its lock.
    async fn head(&self, name: &str) -> Result<Option<Response<Incoming>>, S3Error> {
        let answer = self.ask(Method::HEAD, &self.key(name), "").await?;
        match answer.status() {
            status if status.is_success() => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(S3Error::Status { status, code: None }),
        }
    }

    fn is_locked(&self, answer: &Response<Incoming>) -> Result<(), S3Error> {
        let Some(lock) = self.options.lock else { return Ok(()) };
        let said = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (mode, until) = (said("x-amz-object-lock-mode"), said("x-amz-object-lock-retain-until-date"));
        // An object of an earlier attempt may be locked for some days less. Who may write there could have put it there
        // before, under a lock that is over tomorrow.
        let days = u64::from(lock.days.saturating_sub(EARLIER_DAYS).max(1));
        let least = SystemClock.now().unix_micros().saturating_add(days * 86_400_000_000);
        let least = cogward_model::Timestamp::from_unix_micros(least).to_string();
        let is_later = until.get(..10).zip(least.get(..10)).is_some_and(|(until, least)| until >= least);
        let is_strict = mode == LockMode::Compliance.as_str() || mode == lock.mode.as_str();
        if is_strict && is_later {
            return Ok(());
        }
        let found = if mode.is_empty() { "no lock".to_owned() } else { format!("{mode} until {until}") };
        Err(S3Error::NotLocked { found: found.chars().take(100).collect() })
    }

    async fn put_object(&self, name: &str, content: &Content<'_>) -> Result<(), S3Error> {
        if let Some(there) = self.head(name).await? {
            return self.is_locked(&there);
        }
        let digest = content.digest();
        let mut headers = vec![
            // Two planes, or two attempts at once: the first one counts.
            ("if-none-match", "*".to_owned()),
            ("x-amz-checksum-sha256", STANDARD.encode(digest)),
            ("x-amz-sdk-checksum-algorithm", "SHA256".to_owned()),
        ];
        if let Some(lock) = self.options.lock {
            let until = SystemClock.now().unix_micros().saturating_add(u64::from(lock.days).saturating_mul(DAY_US));
            let until = Timestamp::from_unix_micros(until).to_string();
            let second = until.split('.').next().unwrap_or_default().trim_end_matches('Z').to_owned();
            headers.push(("x-amz-object-lock-mode", lock.mode.as_str().to_owned()));
            headers.push(("x-amz-object-lock-retain-until-date", second + "Z"));
        }
        let body = match content {
            Content::Bytes(bytes, _) => whole(Bytes::copy_from_slice(bytes)),
            Content::File(path, ..) => {
                let unreadable = |error: io::Error| S3Error::Unreachable(format!("{}: {error}", path.display()));
                streamed(tokio::fs::File::open(path).await.map_err(unreadable)?)
            }
        };
        let sent = (hex(&digest), content.len(), body);
        let answer = self.send(Method::PUT, &self.key(name), "", &headers, (&sent.0, sent.1, sent.2)).await?;
        if answer.status() != StatusCode::PRECONDITION_FAILED {
            self.text(answer).await?;
        }
        match self.head(name).await? {
            Some(there) => self.is_locked(&there),
            None => Err(S3Error::Form),
        }
    }
}

impl Objects for Bucket {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.runtime.block_on(self.list_all())?)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        let answer = self.runtime.block_on(async {
            let answer = self.ask(Method::GET, &self.key(name), "").await?;
            if answer.status() == StatusCode::OK {
                return Ok(answer);
            }
            let status = answer.status();
            self.text(answer).await.and(Err(S3Error::Status { status, code: None }))
        })?;
        let (runtime, closing) = (self.runtime.clone(), self.closing.clone());
        Ok(Box::new(Arriving { body: answer.into_body(), part: Bytes::new(), runtime, closing }))
    }
}

impl Place for Bucket {
    fn put(&self, name: &str, content: &Content<'_>) -> io::Result<()> {
        Ok(self.runtime.block_on(self.put_object(name, content))?)
    }

    fn shown(&self) -> String {
        format!("s3://{}/{}", self.options.bucket, self.options.prefix).trim_end_matches('/').to_owned()
    }
}

/// The bytes of an object as they arrive.
struct Arriving {
    body: Incoming,
    part: Bytes,
    runtime: Handle,
    closing: CancellationToken,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            let (body, closing) = (&mut self.body, &self.closing);
            let next = self.runtime.block_on(async {
                tokio::select! {
                    () = closing.cancelled() => Err(S3Error::Closing),
                    next = tokio::time::timeout(ANSWER_WAIT, body.frame()) => match next {
                        Ok(Some(Ok(frame))) => Ok(Some(frame)),
                        Ok(None) => Ok(None),
                        Ok(Some(Err(error))) => Err(S3Error::Unreachable(error.to_string())),
                        Err(_) => Err(S3Error::Unreachable("it stopped in the middle of an object".to_owned())),
                    },
                }
            })?;
            match next {
                Some(frame) => self.part = frame.into_data().unwrap_or_default(),
                None => return Ok(0),
            }
        }
        let read = self.part.len().min(buffer.len());
        self.part.copy_to_slice(buffer.get_mut(..read).unwrap_or_default());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_an_address_with_tls_or_on_this_host() {
        for (text, base) in [
            ("https://s3.eu-central-1.amazonaws.com", Some("https://s3.eu-central-1.amazonaws.com")),
            ("https://store.example:9000/", Some("https://store.example:9000")),
            ("http://127.0.0.1:9000", Some("http://127.0.0.1:9000")),
            ("http://[::1]:9000", Some("http://[::1]:9000")),
            ("http://store.example", None),
            ("https://key:secret@store.example", None),
            ("https://store.example/bucket", None),
            ("https://store.example/?a=b", None),
            ("store.example", None),
            ("", None),
        ] {
            assert_eq!(endpoint(text).ok().map(|(base, _)| base).as_deref(), base, "{text}");
        }
    }

    #[test]
    fn a_place_in_a_bucket_has_one_text() {
        let split = |text: &str| S3Options::split(text);
        assert_eq!(split("s3://bank-archive/cogward/a"), Some(("bank-archive".into(), "cogward/a/".into())));
        assert_eq!(split("s3://bank-archive"), Some(("bank-archive".into(), String::new())));
        assert_eq!(split("s3://bank-archive/"), Some(("bank-archive".into(), String::new())));
        for bad in [
            "s3://",
            "s3://ab",
            "s3://Bank",
            "s3://bank/../x",
            "s3://bank//x",
            "s3://bank/a b",
            "s3://bank/a?b",
            "s3://k:s@bank/a",
            "https://bank",
        ] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
