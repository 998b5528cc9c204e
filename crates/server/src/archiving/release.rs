//! Segments that the archive has leave the plane's disk, where the operator wants that.

use std::time::Duration;

use cogward_evidence::archive::{Archive, ArchiveError, Released, Ripe};
use cogward_model::{event::EventType, redaction::RedactionState};

use super::Task;
use crate::events::by_plane;

/// How often it is looked whether a segment has become old enough.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Task {
    /// Releases segments for as long as there is one that may go. Gives the archive back, and whether nothing failed; `None`
    /// when the plane ends.
    pub(super) async fn release(&mut self, mut archive: Archive) -> Option<(Archive, bool)> {
        let Some(keep) = self.keep_local else { return Some((archive, true)) };
        loop {
            if self.is_read().await {
                return Some((archive, true));
            }
            let found: Result<Option<Ripe>, ArchiveError>;
            (archive, found) = self.blocking(archive, move |archive| archive.ripe(keep)).await?;
            let ripe = match found {
                Ok(Some(ripe)) if !self.closing.is_cancelled() => ripe,
                Ok(_) => return Some((archive, true)),
                Err(error) => {
                    self.fails(&error);
                    return Some((archive, false));
                }
            };
            let Released { segment, digest, manifest, bytes, until } = ripe.told();
            let event = by_plane(EventType::LedgerReleased)
                .public("segment", segment)
                .public("digest", digest)
                .public("manifest", manifest)
                .public("bytes", bytes)
                .public("last_time", until.to_string())
                .public("archive", archive.place());
            // Recorded first: what is missing here was said to be.
            if let Err(error) = self.evidence.record(event).await {
                self.failed(error.to_string(), false);
                return Some((archive, false));
            }
            let gone: Result<(), ArchiveError>;
            (archive, gone) = self.blocking(archive, move |archive| archive.release(ripe)).await?;
            if let Err(error) = gone {
                self.fails(&error);
                return Some((archive, false));
            }
            tracing::info!(segment, bytes, "a segment of the ledger is only in the archive now");
            self.show(&archive);
        }
    }

    /// Whether the log is needed here just now: an erasure that is carried out reads it, and the next start looks there
    /// for events that wait to be published.
    async fn is_read(&self) -> bool {
        let erasing = self.store.redactions_open().await;
        let erasing = erasing.map(|open| open.iter().any(|row| row.state == RedactionState::Executing));
        let waiting = self.store.outbox_pending(1).await.map(|rows| !rows.is_empty());
        erasing.unwrap_or(true) || waiting.unwrap_or(true)
    }

    /// Does something with the archive on a thread that may block; `None` when that was interrupted.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        mut archive: Archive,
        work: impl FnOnce(&mut Archive) -> T + Send + 'static,
    ) -> Option<(Archive, T)> {
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut archive);
            (archive, done)
        });
        done.await.ok()
    }
}
