//! Asking time stamp authorities (RFC 3161): from time to time the newest checkpoint of the plane log goes to each.
//!
//! An authority that does not answer holds nothing up; that there is no newer time stamp than twice the interval is an
//! alarm, and so is a clock of this host that differs from an authority's. What an answer says is checked here but for the
//! authority's signature: `openssl ts -verify` does that, with the files that are kept.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cogward_evidence::{Evidence, LogName, StampError, TimestampAsk, TimestampedCheckpoint};
use cogward_journal::{Journal, JournalEvent, Severity};
use cogward_ledger::timestamp::TIMESTAMP_BYTES_MAX;
use cogward_model::{
    Clock, Digest,
    event::{Event, EventType, Value},
};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use tokio_util::sync::CancellationToken;

use crate::{
    cosigning::{self, Http},
    events::by_plane,
    plane::App,
};

/// How long an authority may take.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// After a failure it is asked again after so long, and then after twice that.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How often it is looked whether the plane log has another key.
const REKEYED_EVERY: Duration = Duration::from_secs(2);
/// Longest time between two attempts, unless the interval is shorter.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A clock may differ so much without an alarm.
const OFFSET_MS_MAX: u64 = 1_000;
/// Authorities that are asked.
const AUTHORITIES_MAX: usize = 4;

/// Which authorities are asked for time stamps, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamping {
    /// Their addresses: https, or http on this host.
    pub urls: Vec<String>,
    /// The time between two.
    pub every: Duration,
}

impl Default for Timestamping {
    fn default() -> Self {
        Self { urls: Vec::new(), every: Duration::from_secs(3_600) }
    }
}

/// Why an authority cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum TimestampUrlError {
    /// Its address is not one.
    #[error("`{url}` cannot be the address of a time stamp authority: {why}")]
    Url {
        /// What was given.
        url: String,
        /// What it is not.
        why: &'static str,
    },
    /// There are too many.
    #[error("{0} time stamp authorities are more than {AUTHORITIES_MAX}")]
    TooMany(usize),
    /// What is kept of earlier time stamps.
    #[error("the time stamps of earlier planes cannot be read")]
    Kept(#[source] std::io::Error),
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("it answered more than {TIMESTAMP_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Stamp(#[from] StampError),
    #[error("it could not be recorded: {0}")]
    Record(#[from] cogward_evidence::RecordError),
}

fn address(url: &str) -> Result<Uri, TimestampUrlError> {
    cosigning::reachable(url).map_err(|why| TimestampUrlError::Url { url: url.chars().take(200).collect(), why })
}

/// Whether every authority can be asked, before anything is opened.
pub(crate) fn check(options: &Timestamping) -> Result<(), TimestampUrlError> {
    if options.urls.len() > AUTHORITIES_MAX {
        return Err(TimestampUrlError::TooMany(options.urls.len()));
    }
    options.urls.iter().try_for_each(|url| address(url).map(drop))
}

/// Starts asking, each authority in a task of its own, and watching that somebody answers.
pub(crate) fn start(app: &App, options: &Timestamping) -> Result<(), TimestampUrlError> {
    app.evidence.restore_timestamps().map_err(TimestampUrlError::Kept)?;
    for url in &options.urls {
        let uri = address(url)?;
        let client = match cosigning::client() {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%uri, %error, "the time stamp authority cannot be asked: TLS cannot be used");
                continue;
            }
        };
        let task = Asking {
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            uri,
            client,
            clock: Arc::clone(&app.clock),
            evidence: app.evidence.clone(),
            journal: app.journal.clone(),
            every: options.every,
            retry: RETRY_AFTER,
            failing: false,
        };
        tokio::spawn(task.until(app.closing.clone()));
    }
    if !options.urls.is_empty() {
        tokio::spawn(watch(app.clone(), options.every));
    }
    Ok(())
}

/// The evidence of a time stamp.
pub(crate) fn anchored(event: Event, taken: &TimestampedCheckpoint, authority: &str) -> Event {
    event
        .public("size", taken.size)
        .public("digest", Digest::from_bytes(taken.note_digest).to_string())
        .public("stamped", taken.time.to_string())
        .public("authority", authority)
        .public("token", Digest::from_bytes(taken.answer_digest).to_string())
        .public("offset_ms", taken.offset_ms.map_or(Value::Null, Value::Int))
}

/// Says that the host's clock differs from an authority's, when it does.
pub(crate) fn tell_offset(evidence: &Evidence, journal: &Journal, taken: &TimestampedCheckpoint, authority: &str) {
    let Some(offset) = taken.offset_ms.filter(|offset| offset.unsigned_abs() > OFFSET_MS_MAX) else { return };
    let which = if offset > 0 { "ahead of" } else { "behind" };
    let detail = format!("the clock of the host is {} ms {which} the time stamp authority's", offset.unsigned_abs());
    tracing::error!(authority, offset_ms = offset, "{detail}");
    alarm(evidence, journal, ["clock_offset", "evidence.clock_offset"], authority, detail);
}

fn alarm(
    evidence: &Evidence,
    journal: &Journal,
    [finding, journalled]: [&'static str; 2],
    authority: &str,
    detail: String,
) {
    let host = (!authority.is_empty()).then(|| authority.to_owned());
    let event = by_plane(EventType::SecurityFinding).public("finding", finding).public("detail", detail.clone());
    if let Err(error) = evidence.note(event.public("host", host)) {
        tracing::error!(%error, "the finding could not be recorded");
    }
    let detail = serde_json::json!({ "finding": finding, "detail": detail });
    journal.publish(JournalEvent::plane(journalled).severity(Severity::Warning).detail(detail));
}

struct Asking {
    uri: Uri,
    authority: String,
    client: Http,
    clock: Arc<dyn Clock>,
    evidence: Evidence,
    journal: Journal,
    every: Duration,
    retry: Duration,
    failing: bool,
}

impl Asking {
    async fn until(mut self, closing: CancellationToken) {
        // What an earlier plane was given counts: a plane that is started often asks no more than another.
        let earlier = self.evidence.timestamp();
        let mut stamped = earlier.as_ref().map_or(0, |stamped| stamped.size);
        let mut wait = earlier.map_or(Duration::ZERO, |stamped| {
            let age = Duration::from_micros(self.clock.now().micros_since(stamped.time));
            self.every.saturating_sub(age)
        });
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                // Of two authorities one answers first, and then there is no hurry for the other.
                () = self.rekeyed(), if !self.failing => {}
            }
            tokio::select! {
                () = closing.cancelled() => return,
                _ = self.evidence.until_published(&LogName::Plane, stamped + 1) => {}
            }
            let answer = tokio::select! {
                () = closing.cancelled() => return,
                answer = self.ask() => answer,
            };
            wait = match answer {
                Ok(size) => {
                    stamped = size;
                    self.retry = RETRY_AFTER;
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(authority = %self.authority, "the time stamp authority answers again");
                    }
                    self.every
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(authority = %self.authority, %error, "no time stamp");
                    }
                    let wait = self.retry;
                    self.retry = self.retry.saturating_mul(2).min(RETRY_MAX);
                    wait.min(self.every)
                }
            };
        }
    }

    /// Waits until the plane log has another key than the one that signed what is stamped: until there is a newer time
    /// stamp no pack has one.
    async fn rekeyed(&self) {
        loop {
            tokio::time::sleep(REKEYED_EVERY).await;
            if !self.evidence.timestamp_is_of_present_key() {
                return;
            }
        }
    }

    async fn ask(&self) -> Result<u64, AskError> {
        let ask = self.evidence.timestamp_ask().ok_or(StampError::Empty)?;
        let answer = self.post(&ask).await?;
        let taken = self.evidence.add_timestamp(&ask, answer).await?;
        self.evidence.record(anchored(by_plane(EventType::TimeAnchored), &taken, &self.authority)).await?;
        tell_offset(&self.evidence, &self.journal, &taken, &self.authority);
        Ok(taken.size)
    }

    async fn post(&self, ask: &TimestampAsk) -> Result<Vec<u8>, AskError> {
        let request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/timestamp-query")
            .header(header::ACCEPT, "application/timestamp-reply")
            .body(Full::new(Bytes::from(ask.to_der())))
            .map_err(|error| AskError::Unreachable(error.to_string()))?;
        let answer = tokio::time::timeout(ANSWER_WAIT, async {
            let answer = self.client.request(request).await.map_err(|e| AskError::Unreachable(e.to_string()))?;
            if answer.status() != StatusCode::OK {
                return Err(AskError::Status(answer.status()));
            }
            let body = Limited::new(answer.into_body(), TIMESTAMP_BYTES_MAX).collect().await;
            Ok(body.map_err(|_| AskError::TooLong)?.to_bytes().to_vec())
        });
        answer.await.unwrap_or_else(|_| Err(AskError::Unreachable("no answer in time".to_owned())))
    }
}

/// Says when the newest time stamp is older than twice the interval, once until there is a newer one.
async fn watch(app: App, every: Duration) {
    let mut said = None;
    loop {
        // While the plane was down nobody could be asked.
        let newest = app.evidence.timestamp().map_or(app.started, |stamped| stamped.time.max(app.started));
        let age = Duration::from_micros(app.clock.now().micros_since(newest));
        let wait = match every.saturating_mul(2).checked_sub(age) {
            Some(left) if !left.is_zero() => left,
            _ => {
                if said != Some(newest) {
                    said = Some(newest);
                    let detail = format!("no authority has stamped the plane log for {} s", age.as_secs());
                    tracing::error!("{detail}");
                    let names = ["timestamp_overdue", "evidence.timestamp_overdue"];
                    alarm(&app.evidence, &app.journal, names, "", detail);
                }
                every
            }
        };
        tokio::select! {
            () = app.closing.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_has_an_address_with_tls_or_on_this_host() {
        for (url, good) in [
            ("https://tsa.example/tsr", true),
            ("http://127.0.0.1:8318/", true),
            ("http://[::1]:8318", true),
            ("http://tsa.example/tsr", false),
            ("https://user@tsa.example/tsr", false),
            ("https://tsa.example/tsr?key=1", false),
            ("tsa.example", false),
        ] {
            assert_eq!(address(url).is_ok(), good, "{url}");
        }
        let many = Timestamping { urls: vec!["https://tsa.example".to_owned(); 5], ..Timestamping::default() };
        assert!(matches!(check(&many), Err(TimestampUrlError::TooMany(5))));
    }
}
