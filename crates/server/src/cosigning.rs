//! Asking witnesses: each new checkpoint of the plane log goes to every witness that has an address.
//!
//! A witness that does not answer holds nothing up. What comes back counts only when it holds under a key of the
//! policy; a witness that saw another history of ours is an alarm with both notes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cogward_evidence::{CosignError, Evidence, LogName, PublishedCheckpoint};
use cogward_journal::{Journal, JournalEvent, Severity};
use cogward_ledger::{policy::Policy, witness::AddCheckpoint};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio_util::sync::CancellationToken;

use crate::split_view::SplitView;

/// How long one witness may take.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A few lines with signatures.
const ANSWER_BYTES_MAX: usize = 32 * 1024;
/// A witness says once which size it has; more than that is no conversation.
const ATTEMPTS: usize = 3;
/// A witness that failed is asked again after so long, with what is newest then.
const RETRY_AFTER: Duration = Duration::from_secs(5);

pub(crate) type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Why the address of a witness cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` cannot be the address of a witness: {why}")]
pub struct WitnessUrlError {
    url: String,
    why: &'static str,
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("it answered what is no answer")]
    Form,
    #[error("it has seen {0} leaves, more than there are: this log was rolled back, or another one has its key")]
    Ahead(u64),
    #[error("it has seen another root of {0} leaves")]
    SplitView(u64),
    #[error(transparent)]
    Cosign(#[from] CosignError),
}

/// Where something of the plane's may be sent, or why not. Without TLS only on this host.
pub(crate) fn reachable(url: &str) -> Result<Uri, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "it is no URL")?;
    let host = uri.host().ok_or("it has no host")?;
    let here =
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if here => {}
        _ => return Err("it begins with https://, or with http:// when it is on this host"),
    }
    if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("it has a query or a user");
    }
    Ok(uri)
}

/// Where a witness takes checkpoints.
pub(crate) fn address(url: &str) -> Result<Uri, WitnessUrlError> {
    let wrong = |why| WitnessUrlError { url: url.chars().take(200).collect(), why };
    reachable(url).map_err(wrong)?;
    let prefix = url.trim_end_matches('/');
    format!("{prefix}/add-checkpoint").parse().map_err(|_| wrong("it is no URL"))
}

/// A client that trusts the host's authorities, or the public ones where there are none.
pub(crate) fn client<B>() -> Result<Client<HttpsConnector<HttpConnector>, B>, std::io::Error>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_WAIT));
    let crypto = rustls::crypto::aws_lc_rs::default_provider();
    // A customer's own authority is in the system's store; where there is none the public ones remain.
    let tls = match HttpsConnectorBuilder::new().with_provider_and_native_roots(crypto.clone()) {
        Ok(builder) => builder,
        Err(_) => {
            let builder = HttpsConnectorBuilder::new().with_provider_and_webpki_roots(crypto);
            builder.map_err(std::io::Error::other)?
        }
    };
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .build(tls.https_or_http().enable_http1().wrap_connector(tcp)))
}

/// Whether every witness can be asked, before anything is opened.
pub(crate) fn check(policy: &Policy) -> Result<(), WitnessUrlError> {
    policy.witnesses().iter().filter_map(|witness| witness.url.as_deref()).try_for_each(|url| address(url).map(drop))
}

/// Starts asking. Every witness has a task of its own: a slow one delays no other.
pub(crate) fn start(evidence: &Evidence, journal: &Journal, policy: &Policy, closing: &CancellationToken) {
    let asked = policy.witnesses().iter().filter_map(|witness| {
        let url = witness.url.as_deref()?;
        Some((witness.name.clone(), address(url).ok()?))
    });
    for (name, uri) in asked {
        let client = match client() {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(witness = %name, %error, "the witness cannot be asked: TLS cannot be used");
                continue;
            }
        };
        let task = Asking {
            name,
            uri,
            client,
            evidence: evidence.clone(),
            journal: journal.clone(),
            seen: 0,
            failing: false,
            alarmed: false,
        };
        tokio::spawn(task.until(closing.clone()));
    }
}

struct Asking {
    name: String,
    uri: Uri,
    client: Http,
    evidence: Evidence,
    journal: Journal,
    /// What the witness has seen, as far as we know.
    seen: u64,
    failing: bool,
    alarmed: bool,
}

impl Asking {
    async fn until(mut self, closing: CancellationToken) {
        let mut publications = self.evidence.publications();
        loop {
            publications.mark_unchanged();
            let published = self.evidence.published(&LogName::Plane).filter(|published| published.size > self.seen);
            let mut again = false;
            if let Some(published) = published {
                let answer = tokio::select! {
                    () = closing.cancelled() => return,
                    answer = self.ask(&published) => answer,
                };
                again = answer.is_err();
                self.tell(answer).await;
            }
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(RETRY_AFTER), if again => {}
                changed = publications.changed(), if !again => if changed.is_err() { return },
            }
        }
    }

    async fn ask(&mut self, published: &Arc<PublishedCheckpoint>) -> Result<(), AskError> {
        for _ in 0..ATTEMPTS {
            let proof = self.evidence.plane_consistency(self.seen, published.size).await?;
            let request = AddCheckpoint { old: self.seen, proof, note: published.note.clone() }.to_text();
            let (status, text) = self.post(request).await?;
            match status {
                StatusCode::OK => {
                    let note = published.note.clone() + &text;
                    self.evidence.cosign(&note).await?;
                    self.seen = published.size;
                    return Ok(());
                }
                StatusCode::CONFLICT => {
                    let size: u64 = text.strip_suffix('\n').and_then(|size| size.parse().ok()).ok_or(AskError::Form)?;
                    if size > published.size {
                        return Err(AskError::Ahead(size));
                    }
                    if size == self.seen {
                        return Err(AskError::SplitView(size));
                    }
                    self.seen = size;
                }
                // Our proof is out of tiles that give our own root: the witness has another history.
                StatusCode::UNPROCESSABLE_ENTITY => return Err(AskError::SplitView(self.seen)),
                other => return Err(AskError::Status(other)),
            }
        }
        Err(AskError::Form)
    }

    async fn post(&self, body: String) -> Result<(StatusCode, String), AskError> {
        let request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| AskError::Form)?;
        let answer = tokio::time::timeout(ANSWER_WAIT, async {
            let answer = self.client.request(request).await.map_err(|e| AskError::Unreachable(e.to_string()))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|_| AskError::Form)?.to_bytes();
            Ok((status, String::from_utf8(body.to_vec()).map_err(|_| AskError::Form)?))
        });
        answer.await.unwrap_or_else(|_| Err(AskError::Unreachable("no answer in time".to_owned())))
    }

    /// Says once that a witness fails and once that it is back; a split view is an event of the ledger.
    async fn tell(&mut self, answer: Result<(), AskError>) {
        let error = match answer {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(witness = %self.name, at = %self.uri, "the witness answers again");
                }
                return;
            }
            Err(error) => error,
        };
        let alarm = matches!(
            error,
            AskError::SplitView(_) | AskError::Ahead(_) | AskError::Cosign(CosignError::SplitView { .. })
        );
        if alarm && !std::mem::replace(&mut self.alarmed, true) {
            let note = self.evidence.published(&LogName::Plane).map(|ours| ours.note.clone()).unwrap_or_default();
            tracing::error!(witness = %self.name, %error, ours = %note, "a witness has seen another history of the plane log");
            // Of the other history the witness has told no note, but where it stands: the note is with the witness.
            let both = match &error {
                AskError::Cosign(split @ CosignError::SplitView { .. }) => format!("{split}\n"),
                other => format!(
                    "--- this plane\n{note}\n--- the witness {} at {}\n{other}\nThe checkpoint that it saw is in the \
                     witness's own directory, in `logs`: ask whoever runs it.\n",
                    self.name, self.uri
                ),
            };
            let (theirs, detail) = match &error {
                AskError::Cosign(CosignError::SplitView { theirs, .. }) => (Some(theirs.as_str()), String::new()),
                other => (None, other.to_string()),
            };
            let split = SplitView { both: &both, ours: &note, theirs, detail: &detail };
            let event = split.keep(&self.evidence).public("witness", self.name.clone());
            if let Err(error) = self.evidence.note(event) {
                tracing::error!(%error, "the finding could not be recorded");
            }
            let detail = serde_json::json!({ "finding": "split_view", "witness": self.name });
            self.journal.publish(JournalEvent::plane("evidence.split_view").severity(Severity::Warning).detail(detail));
        }
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(witness = %self.name, at = %self.uri, %error, "a witness does not cosign");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_has_an_address_with_tls_or_on_this_host() {
        for (url, ask) in [
            ("https://w.example/", Some("https://w.example/add-checkpoint")),
            ("https://w.example/a/b", Some("https://w.example/a/b/add-checkpoint")),
            ("http://127.0.0.1:7422", Some("http://127.0.0.1:7422/add-checkpoint")),
            ("http://[::1]:7422/", Some("http://[::1]:7422/add-checkpoint")),
            ("http://w.example/", None),
            ("https://u@w.example/", None),
            ("https://w.example/?a=b", None),
            ("ftp://w.example/", None),
            ("w.example", None),
            ("", None),
        ] {
            assert_eq!(address(url).ok().map(|uri| uri.to_string()).as_deref(), ask, "{url}");
        }
    }
}
