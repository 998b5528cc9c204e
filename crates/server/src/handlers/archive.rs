//! A directory as a tar stream that is made while it is sent.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

const CHUNK: usize = 64 * 1024;
const CHUNKS_AHEAD: usize = 8;

/// A directory that goes away with this.
pub(crate) struct Staging(PathBuf);

impl Staging {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is removed by the next start.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes into the stream; waits for a reader that is slow, fails when it is gone.
struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK * 2)));
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The directory's files, with modes and without owners or times.
pub(crate) fn stream(staging: Staging) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    written(move |pipe| {
        let mut archive = tar::Builder::new(pipe);
        archive.mode(tar::HeaderMode::Deterministic);
        archive.follow_symlinks(false);
        archive.append_dir_all("", staging.path())?;
        archive.into_inner().map(drop)
    })
}

/// Whatever is written, as it is written.
pub(crate) fn written(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let failed = sender.clone();
        let mut pipe = Pipe { sender, buffer: Vec::with_capacity(CHUNK * 2) };
        if let Err(error) = write(&mut pipe).and_then(|()| pipe.flush()) {
            // The client sees a body that broke off, never one that looks whole.
            let _ = failed.blocking_send(Err(error));
        }
    });
    futures_util::stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|chunk| (chunk, receiver)))
}
