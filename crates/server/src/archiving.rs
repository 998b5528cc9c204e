//! Archiving in the background: sealed segments go to where the operator said, one after the other.
//!
//! An archive that fails holds nothing up. It is tried again, and when it has failed for a while that is an alarm;
//! one that gives back other bytes, or holds another history, is an alarm at once.

mod release;
mod s3;
mod sign;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cogward_api::ArchiveStatus;
use cogward_evidence::{
    Evidence, EvidenceOptions,
    archive::{Archive, ArchiveError, Archived, Directory, DirectoryPlace, Place},
};
use cogward_journal::{Journal, JournalEvent, Severity};
use cogward_ledger::archive::Objects;
use cogward_model::{Clock, Timestamp, event::EventType};
use cogward_store::Store;
use tokio_util::sync::CancellationToken;

use crate::{boot::ServeError, events::by_plane};

pub use s3::{Lock, LockMode, S3Error, S3Options};

/// A place that failed is tried again after so long.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Where an archive is.
#[derive(Debug, Clone)]
pub enum ArchivePlace {
    /// A directory.
    Directory(PathBuf),
    /// A bucket of an S3-compatible store.
    S3(S3Options),
}

/// What is archived where.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Nowhere unless given.
    pub place: Option<ArchivePlace>,
    /// An archive that has failed for so long is an alarm.
    pub alarm_after: Duration,
    /// Bytes of a segment of the write-ahead log, where it is not the usual size.
    pub segment_bytes: Option<u64>,
    /// Segments in the archive leave the plane's disk when their last record is older; never without it.
    pub keep_local: Option<Duration>,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self { place: None, alarm_after: Duration::from_secs(900), segment_bytes: None, keep_local: None }
    }
}

impl ArchiveOptions {
    /// How the ledger is opened whose segments are archived. What left the disk is read where they are.
    ///
    /// # Errors
    /// See [`S3Error`].
    pub(crate) fn evidence(&self, dir: PathBuf) -> Result<EvidenceOptions, S3Error> {
        let mut options = EvidenceOptions::new(dir);
        let place = self.place.as_ref().map(|place| place.place(&CancellationToken::new())).transpose()?;
        options.archive = place.map(Arc::from);
        if let Some(bytes) = self.segment_bytes {
            options.wal.segment_bytes = bytes;
            options.wal.first_segment_bytes = options.wal.first_segment_bytes.min(bytes);
        }
        Ok(options)
    }
}

impl ArchivePlace {
    /// An archive that is written to. Requests end when `closing` is cancelled.
    ///
    /// # Errors
    /// See [`S3Error`].
    fn place(&self, closing: &CancellationToken) -> Result<Box<dyn Place>, S3Error> {
        Ok(match self {
            Self::Directory(dir) => Box::new(DirectoryPlace::new(dir)),
            Self::S3(options) => Box::new(s3::Bucket::new(options.clone(), closing.clone())?),
        })
    }

    /// An archive that is only read, from outside of asynchronous code; must be called within a runtime.
    ///
    /// # Errors
    /// See [`S3Error`].
    pub fn objects(&self) -> Result<Box<dyn Objects>, S3Error> {
        Ok(match self {
            Self::Directory(dir) => Box::new(Directory::new(dir)),
            Self::S3(options) => Box::new(s3::Bucket::new(options.clone(), CancellationToken::new())?),
        })
    }
}

/// How the archive does, for whoever asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched(Arc<Mutex<Option<ArchiveStatus>>>);

impl Watched {
    /// What is known; nothing when there is no archive.
    pub(crate) fn status(&self) -> Option<ArchiveStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, status: ArchiveStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }
}

/// Starts archiving, when there is a place for it.
///
/// # Errors
/// The place cannot be used at all: a mistake in the command. One that does not answer now is no error.
pub(crate) fn start(
    evidence: &Evidence,
    store: &Store,
    journal: &Journal,
    clock: &Arc<dyn Clock>,
    options: &ArchiveOptions,
    closing: &CancellationToken,
) -> Result<Watched, ServeError> {
    let watched = Watched::default();
    let Some(place) = &options.place else { return Ok(watched) };
    let place = place.place(closing)?;
    let shown = place.shown();
    let mut task = Task {
        evidence: evidence.clone(),
        store: store.clone(),
        journal: journal.clone(),
        clock: Arc::clone(clock),
        closing: closing.clone(),
        alarm_after: options.alarm_after,
        keep_local: options.keep_local,
        watched: watched.clone(),
        failing: None,
    };
    match Archive::open(evidence, place) {
        Ok(archive) => {
            task.show(&archive);
            tokio::spawn(task.until(archive));
        }
        // The plane goes on without its archive, and says so.
        Err(error) => {
            task.fails(&error);
            task.watched.set(task.status(shown, (0, 0, evidence.released()), None));
        }
    }
    Ok(watched)
}

/// A failure that lasts.
struct Failing {
    since: Instant,
    at: Timestamp,
    why: String,
    alarmed: bool,
}

struct Task {
    evidence: Evidence,
    store: Store,
    journal: Journal,
    clock: Arc<dyn Clock>,
    closing: CancellationToken,
    alarm_after: Duration,
    keep_local: Option<Duration>,
    watched: Watched,
    failing: Option<Failing>,
}

impl Task {
    async fn until(mut self, mut archive: Archive) {
        let closing = self.closing.clone();
        let mut publications = self.evidence.publications();
        loop {
            publications.mark_unchanged();
            // What a step began is repeated by the next plane with the same bytes.
            let Some((back, moved)) = self.blocking(archive, Archive::step).await else { return };
            archive = back;
            if closing.is_cancelled() {
                return;
            }
            let more = match moved {
                Ok(Some(archived)) => self.record(&mut archive, archived).await,
                Ok(None) => {
                    let Some((back, released)) = self.release(archive).await else { return };
                    archive = back;
                    if released {
                        self.works();
                    }
                    false
                }
                Err(error) => {
                    self.fails(&error);
                    false
                }
            };
            self.show(&archive);
            if more {
                continue;
            }
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(RETRY_AFTER), if self.failing.is_some() => {}
                () = tokio::time::sleep(release::LOOK_EVERY), if self.keep_local.is_some() => {}
                changed = publications.changed(), if self.failing.is_none() => if changed.is_err() { return },
            }
        }
    }

    /// Records that a segment is in the archive, and only then counts it.
    async fn record(&mut self, archive: &mut Archive, archived: Archived) -> bool {
        let Archived { segment, digest, manifest } = archived;
        let event = by_plane(EventType::LedgerArchived)
            .public("segment", segment)
            .public("digest", digest)
            .public("manifest", manifest)
            .public("archive", archive.place());
        let noted = match self.evidence.record(event).await {
            Ok(_) => archive.recorded().map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match noted {
            Ok(()) => {
                tracing::info!(segment, "a segment of the ledger is in the archive");
                self.works();
                true
            }
            Err(why) => {
                self.failed(why, false);
                false
            }
        }
    }

    fn works(&mut self) {
        if let Some(failing) = self.failing.take() {
            tracing::info!("the archive is written again");
            if failing.alarmed {
                self.journal.publish(JournalEvent::plane("evidence.archive_restored"));
            }
        }
    }

    fn fails(&mut self, error: &ArchiveError) {
        let mut why = error.to_string();
        // The place's own words, which name no credential.
        if let Some(source) = std::error::Error::source(error) {
            let source = source.to_string();
            if !why.contains(&source) {
                why = format!("{why}: {source}");
            }
        }
        self.failed(why, error.is_alarm());
    }

    /// Says once that the archive fails, and makes it an alarm once: at once, or when it lasts.
    fn failed(&mut self, why: String, at_once: bool) {
        let at = self.clock.now();
        let first = self.failing.is_none();
        let failing = self.failing.get_or_insert_with(|| Failing {
            since: Instant::now(),
            at,
            why: String::new(),
            alarmed: false,
        });
        if first || failing.why != why {
            tracing::warn!(%why, "the ledger is not archived");
        }
        failing.why = why;
        let alarm = at_once || failing.since.elapsed() >= self.alarm_after;
        if !alarm || std::mem::replace(&mut failing.alarmed, true) {
            return;
        }
        tracing::error!(why = %failing.why, since = %failing.at, "alarm: the ledger is not archived");
        let detail = serde_json::json!({ "finding": "archive", "why": failing.why, "since": failing.at.to_string() });
        self.journal
            .publish(JournalEvent::plane("evidence.archive_failing").severity(Severity::Warning).detail(detail));
        if at_once {
            // Somebody did something to the evidence or to its copy: that is evidence too.
            let event =
                by_plane(EventType::SecurityFinding).public("finding", "archive").public("detail", failing.why.clone());
            if let Err(error) = self.evidence.note(event) {
                tracing::error!(%error, "the finding could not be recorded");
            }
        }
    }

    fn show(&self, archive: &Archive) {
        let counts = (archive.stored(), archive.waiting(), archive.released());
        self.watched.set(self.status(archive.place(), counts, archive.newest()));
    }

    fn status(
        &self,
        archive: String,
        (segments, waiting, released): (u64, u64, u64),
        newest_manifest: Option<String>,
    ) -> ArchiveStatus {
        ArchiveStatus {
            archive,
            segments,
            waiting,
            released,
            newest_manifest,
            failing_since: self.failing.as_ref().map(|failing| failing.at),
            failure: self.failing.as_ref().map(|failing| failing.why.clone()),
            alarm: self.failing.as_ref().is_some_and(|failing| failing.alarmed),
        }
    }
}
