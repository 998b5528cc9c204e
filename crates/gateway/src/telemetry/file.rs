//! The exports of one run, kept in a bounded file of its directory.
//!
//! A frame is its length, the signal, the encoding, when it came, how many items it has, and the export. What a
//! crash cut short at the end is cut off when the file is opened again.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cogward_model::{Timestamp, limits::RUN_TELEMETRY_BYTES_MAX};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Encoding, Signal};

/// Its name in the run's directory.
pub const FILE: &str = "telemetry.otlp";

/// Length of a frame's head behind its length: signal, encoding, time, items.
const HEAD: usize = 1 + 1 + 8 + 8;

/// An open file.
#[derive(Debug)]
pub(super) struct Kept {
    file: File,
    length: u64,
    pub(super) exports: u64,
    pub(super) items: u64,
}

/// One export.
struct Frame<'a> {
    signal: Signal,
    encoding: Encoding,
    received: Timestamp,
    items: u64,
    export: &'a [u8],
}

impl Kept {
    /// Opens or makes the file, as its owner's alone.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nofollow)
            .open(path)?;
        let mut bytes = Vec::new();
        (&mut file).take(bound()).read_to_end(&mut bytes)?;
        let (mut rest, mut exports, mut items) = (&bytes[..], 0, 0);
        while let Some((frame, next)) = split(rest) {
            (rest, exports, items) = (next, exports + 1, items + frame.items);
        }
        let length = u64::try_from(bytes.len() - rest.len()).unwrap_or(0);
        file.set_len(length)?;
        Ok(Self { file, length, exports, items })
    }

    /// Adds an export. False when there is no room for it.
    pub(super) fn add(
        &mut self,
        (signal, encoding): (Signal, Encoding),
        received: Timestamp,
        items: u64,
        export: &[u8],
    ) -> io::Result<bool> {
        let Ok(length) = u32::try_from(HEAD + export.len()) else { return Ok(false) };
        let after = self.length + 4 + u64::from(length);
        if after > bound() {
            return Ok(false);
        }
        let mut frame = Vec::with_capacity(4 + HEAD + export.len());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.push(signal.byte());
        frame.push(encoding.byte());
        frame.extend_from_slice(&received.unix_micros().to_be_bytes());
        frame.extend_from_slice(&items.to_be_bytes());
        frame.extend_from_slice(export);
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(&frame)?;
        self.length = after;
        self.exports += 1;
        self.items += items;
        Ok(true)
    }
}

fn bound() -> u64 {
    u64::try_from(RUN_TELEMETRY_BYTES_MAX).unwrap_or(u64::MAX)
}

fn split(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (frame, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let (&[signal, encoding], frame) = frame.split_first_chunk::<2>()?;
    let (received, frame) = frame.split_first_chunk::<8>()?;
    let (items, export) = frame.split_first_chunk::<8>()?;
    let frame = Frame {
        signal: Signal::of_byte(signal)?,
        encoding: Encoding::of_byte(encoding)?,
        received: Timestamp::from_unix_micros(u64::from_be_bytes(*received)),
        items: u64::from_be_bytes(*items),
        export,
    };
    Some((frame, rest))
}

/// All exports of a run as lines of JSON, in the order in which they came. Nothing where there is no file.
///
/// # Errors
/// What the system says about the file.
pub fn lines(path: &Path) -> io::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Line<'a> {
        signal: &'static str,
        received: Timestamp,
        items: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        otlp_json: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        otlp_protobuf: Option<String>,
    }
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(nofollow).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let (mut bytes, mut lines) = (Vec::new(), Vec::new());
    file.take(bound()).read_to_end(&mut bytes)?;
    let mut rest = &bytes[..];
    while let Some((frame, next)) = split(rest) {
        rest = next;
        let json = std::str::from_utf8(frame.export).ok().filter(|_| frame.encoding == Encoding::Json);
        let json = json.and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
        let line = Line {
            signal: frame.signal.as_str(),
            received: frame.received,
            items: frame.items,
            otlp_json: json,
            otlp_protobuf: json.is_none().then(|| STANDARD.encode(frame.export)),
        };
        serde_json::to_writer(&mut lines, &line)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: (Signal, Encoding) = (Signal::Logs, Encoding::Json);

    #[test]
    fn exports_are_kept_over_a_restart_and_a_torn_one_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut kept = Kept::open(&path).unwrap();
        let now = Timestamp::from_unix_micros(1_700_000_000_000_000);
        assert!(kept.add(KIND, now, 3, b"{\"resourceLogs\":[]}").unwrap());
        assert!(kept.add((Signal::Traces, Encoding::Protobuf), now, 1, &[10, 0]).unwrap());
        drop(kept);
        let whole = std::fs::read(&path).unwrap();
        for torn in [&[0, 0, 0][..], &[0, 0, 0, 99, 1, 1], &[0, 0, 0, 2, 1, 1], &[0xff; 40]] {
            std::fs::write(&path, [&whole[..], torn].concat()).unwrap();
            let mut kept = Kept::open(&path).unwrap();
            assert_eq!((kept.exports, kept.items), (2, 4));
            assert!(kept.add(KIND, now, 1, b"{}").unwrap());
            let text = String::from_utf8(lines(&path).unwrap()).unwrap();
            let shown: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(shown.len(), 3);
            assert_eq!(
                (&shown[0]["otlp_json"], &shown[0]["signal"]),
                (&serde_json::json!({"resourceLogs": []}), &"logs".into())
            );
            assert_eq!((&shown[1]["otlp_protobuf"], &shown[1]["items"]), (&"CgA=".into(), &1.into()));
        }
    }

    #[test]
    fn the_file_does_not_outgrow_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut kept = Kept::open(&path).unwrap();
        let export = vec![b' '; RUN_TELEMETRY_BYTES_MAX / 3];
        let added = (0..5).filter(|_| kept.add(KIND, Timestamp::from_unix_micros(0), 1, &export).unwrap()).count();
        assert_eq!(added, 2);
        assert!(std::fs::metadata(&path).unwrap().len() <= bound());
        assert!(
            !Kept::open(&path).unwrap().add(KIND, Timestamp::from_unix_micros(0), 1, &export).unwrap(),
            "nor after a restart"
        );
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join(FILE), dir.path().join("secret"));
        std::fs::write(&secret, "x").unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert!(Kept::open(&path).is_err() && lines(&path).is_err());
    }
}
