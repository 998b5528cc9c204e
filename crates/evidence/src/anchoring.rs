//! The sequencer's part of the plane log: a checkpoint of a tenant gets its place like any leaf.

use std::time::{Duration, Instant};

use cogward_ledger::{leaf::leaf_hash, plane::PlaneLeaf};
use tokio::sync::oneshot;

use crate::{
    SignedCheckpoint,
    checkpoint::{Job, Work},
    frames,
    plane::{LogName, Place, Submitted},
    record::RecordError,
    sequencer::Sequencer,
};

/// The plane log is signed this often while there is news.
const PLANE_EVERY: Duration = Duration::from_secs(1);

impl Sequencer {
    /// Puts a tenant's checkpoint into the batch.
    pub(crate) fn anchor(&mut self, submitted: Submitted) {
        if self.shared.check().is_err() {
            return;
        }
        let Submitted { tenant, size, root, checkpoint, log } = submitted;
        let time = self.time().to_string();
        let leaf = PlaneLeaf { checkpoint, log, root, seq: self.plane.tree.size(), size, time };
        let bytes = leaf.to_bytes();
        // The plane log belongs to no tenant: its name is empty, which no tenant's is.
        match self.wal.append(frames::PLANE, &[&frames::tenant_prefix(""), &bytes]) {
            Ok(_) => {
                self.plane.tree.push(leaf_hash(&bytes));
                self.shared.anchors.placed(&tenant, Place { index: leaf.seq, leaf });
            }
            Err(error) => drop(self.shared.fail(&error)),
        }
    }

    /// Has the plane log signed when it has grown and its time has come. Only called when the batch is empty.
    pub(crate) fn plane_tick(&mut self, stop: bool) {
        let grown = self.plane.tree.size() > self.plane.checkpointed;
        if grown && (stop || Instant::now() >= self.plane_at) {
            self.plane_at = Instant::now() + PLANE_EVERY;
            self.plane_checkpoint(None);
        }
    }

    /// Hands the plane log's state over to be signed. Only called when the batch is empty.
    pub(crate) fn plane_checkpoint(&mut self, reply: Option<oneshot::Sender<Result<SignedCheckpoint, RecordError>>>) {
        if let Err(error) = self.shared.check() {
            if let Some(reply) = reply {
                let _gone = reply.send(Err(error));
            }
            return;
        }
        self.plane.checkpointed = self.plane.tree.size();
        let (size, root) = (self.plane.tree.size(), self.plane.tree.root());
        let job = Job { log: LogName::Plane, size, root, end: self.wal.end(), reply };
        if self.checkpoints.send(Work::Sign(job)).is_err() {
            let _told = self.shared.fail(&std::io::Error::other("the thread that signs checkpoints ended"));
        }
    }
}
