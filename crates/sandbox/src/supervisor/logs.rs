//! The standard output and error of a run, kept up to a bound and counted beyond it.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use cogward_model::limits::RUN_LOG_BYTES_MAX;

use crate::spec::OUTPUT_BYTES_MAX;

/// Bytes taken in one turn of the loop: commands must not wait behind a flood.
const TURN_BYTES_MAX: usize = 256 * 1024;
/// Pause after a turn that dropped bytes: a flood then costs the host little and the agent waits on its own pipe.
const FLOOD_PAUSE: Duration = Duration::from_millis(10);

/// One of the two streams.
#[derive(Debug)]
pub struct Log {
    pipe: Option<OwnedFd>,
    file: Option<File>,
    kept: usize,
    /// Bytes that came, kept or not.
    pub total: u64,
    not_before: Option<Instant>,
    last_line: Option<LastLine>,
}

/// The last complete line, or the incomplete one at the end.
#[derive(Debug, Default)]
struct LastLine {
    complete: Vec<u8>,
    current: Vec<u8>,
    too_long: bool,
}

impl LastLine {
    fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            if self.current.len() + part.len() > OUTPUT_BYTES_MAX {
                self.too_long = true;
                self.current.clear();
            } else if !self.too_long {
                self.current.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                // A line that is too long is no output, and neither is the one before it.
                let line = std::mem::take(&mut self.current);
                if std::mem::take(&mut self.too_long) {
                    self.complete.clear();
                } else if !line.trim_ascii().is_empty() {
                    self.complete = line;
                }
            }
        }
    }

    fn take(self) -> Option<Vec<u8>> {
        let line = match () {
            () if self.too_long => return None,
            () if self.current.trim_ascii().is_empty() => self.complete,
            () => self.current,
        };
        let line = line.trim_ascii();
        if line.is_empty() { None } else { Some(line.to_vec()) }
    }
}

impl Log {
    /// Reads from `pipe` into a new file of the run directory.
    pub fn new(pipe: &OwnedFd, path: &Path, remember_last_line: bool) -> io::Result<Self> {
        let pipe = pipe.try_clone()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(path).ok();
        let last_line = remember_last_line.then(LastLine::default);
        Ok(Self { pipe: Some(pipe), file, kept: 0, total: 0, not_before: None, last_line })
    }

    /// The pipe, when it should be watched now, or the time from when on it should.
    pub fn watched(&self, now: Instant) -> Result<BorrowedFd<'_>, Option<Instant>> {
        match (&self.pipe, self.not_before) {
            (None, _) => Err(None),
            (Some(_), Some(time)) if time > now => Err(Some(time)),
            (Some(pipe), _) => Ok(pipe.as_fd()),
        }
    }

    /// Takes what is there, up to a turn's bound.
    pub fn turn(&mut self) {
        self.read(TURN_BYTES_MAX);
    }

    /// Takes what is still in the pipe once nobody can write to it any more.
    pub fn drain(&mut self) {
        // More than a pipe can hold.
        self.read(2 * 1024 * 1024);
    }

    fn read(&mut self, most: usize) {
        let mut left = most;
        let mut chunk = [0_u8; 64 * 1024];
        let mut dropped = false;
        while left > 0 {
            let Some(pipe) = &self.pipe else { return };
            match rustix::io::read(pipe, &mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    left = left.saturating_sub(n);
                    dropped |= self.take(chunk.get(..n).unwrap_or_default());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => self.pipe = None,
            }
        }
        self.not_before = (dropped && left == 0).then(|| Instant::now() + FLOOD_PAUSE);
    }

    /// Keeps what there is room for; whether something was dropped.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.total += u64::try_from(bytes.len()).unwrap_or_default();
        if let Some(line) = &mut self.last_line {
            line.feed(bytes);
        }
        let room = RUN_LOG_BYTES_MAX - self.kept;
        let keep = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        // A full disk loses the rest of the log, never the run; what is missing shows in the count.
        let written = self.file.as_mut().is_some_and(|f| f.write_all(keep).is_ok());
        if written {
            self.kept += keep.len();
        } else {
            self.file = None;
        }
        keep.len() < bytes.len()
    }

    /// Bytes that were not kept.
    pub fn dropped(&self) -> u64 {
        self.total.saturating_sub(u64::try_from(self.kept).unwrap_or_default())
    }

    /// The last line, if it was asked for and is short enough to be an output.
    pub fn last_line(&mut self) -> Option<Vec<u8>> {
        self.last_line.take()?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(parts: &[&[u8]]) -> Option<Vec<u8>> {
        let mut line = LastLine::default();
        parts.iter().for_each(|p| line.feed(p));
        line.take()
    }

    #[test]
    fn the_last_line_survives_any_cut() {
        assert_eq!(last(&[b"a\nb", b"c\n\n"]).unwrap(), b"bc");
        assert_eq!(last(&[b"a\n", b"tail"]).unwrap(), b"tail");
        assert_eq!(last(&[b"", b"\n"]), None);
    }

    #[test]
    fn a_line_over_the_bound_is_no_output_and_costs_no_memory() {
        let mut line = LastLine::default();
        for _ in 0..64 {
            line.feed(&[b'x'; 64 * 1024]);
            assert!(line.current.len() <= OUTPUT_BYTES_MAX);
        }
        assert_eq!(line.take(), None);
    }
}
