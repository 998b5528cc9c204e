//! What the supervisor asks for, as it came over the control connection.
//!
//! The supervisor is trusted; the bounds are here so that a mistake shows as a sentence and not as a full memory.

use std::ffi::CString;

use crate::records::{Malformed, Record, Records};

/// Most bytes of one file of a machine.
const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes of everything together.
pub const BYTES_MAX: usize = 24 * 1024 * 1024;
/// Longest argument, variable or path.
const TEXT_BYTES_MAX: usize = 512 * 1024;
/// Most entries of one list.
const ENTRIES_MAX: usize = 1024;

/// The agent and what must hold around it.
#[derive(Debug, Default)]
pub struct Config {
    /// The program and its arguments.
    pub argv: Vec<CString>,
    /// The whole environment.
    pub env: Vec<CString>,
    /// The working directory.
    pub cwd: String,
    /// Bounds of `setrlimit`: the number of the resource, and the most of it.
    pub limits: Vec<(i32, u64)>,
    /// Paths that the agent must not be able to open.
    pub refused: Vec<String>,
    /// Whether a system-call filter must be in force.
    pub filtered: bool,
    /// The output file below `/work`, to be collected from inside.
    pub output: Option<String>,
    /// In a machine: what to attach.
    pub mounts: Vec<Mount>,
    /// In a machine: read-only files under `/run/cogward`.
    pub files: Vec<(String, Vec<u8>)>,
    /// In a machine: the standard input.
    pub stdin: Vec<u8>,
}

/// Something that a machine attaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A read-only drive, whose top-level directories become those of the root.
    Root {
        /// Its device.
        device: String,
        /// The kind of its file system.
        kind: String,
    },
    /// A read-only drive.
    Package {
        /// Its device.
        device: String,
        /// The kind of its file system.
        kind: String,
        /// Where it appears.
        at: String,
    },
    /// A read-only drive of which nothing is executed.
    Input {
        /// Its device.
        device: String,
        /// The kind of its file system.
        kind: String,
        /// Where it appears.
        at: String,
    },
    /// The drive of the workspace.
    Work {
        /// Its device.
        device: String,
        /// The kind of its file system.
        kind: String,
    },
    /// Memory that can be written to.
    Memory {
        /// Where it appears.
        at: String,
        /// Its size.
        mebibytes: u32,
    },
}

/// Why a configuration is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl From<Malformed> for Refused {
    fn from(why: Malformed) -> Self {
        Self(why.to_string())
    }
}

/// Takes in what is there. `true` once the configuration is complete.
pub fn read(config: &mut Config, records: &mut Records) -> Result<bool, Refused> {
    while let Some(record) = records.next(most)? {
        if record.name == "configured" {
            return match () {
                () if config.argv.is_empty() => Err(Refused("names no program".to_owned())),
                () if config.cwd.is_empty() => Err(Refused("names no working directory".to_owned())),
                () => Ok(true),
            };
        }
        config.take(record)?;
    }
    Ok(false)
}

/// How long the payload of a name may be.
fn most(name: &str) -> Option<usize> {
    Some(match name {
        "argv" | "env" => TEXT_BYTES_MAX,
        "cwd" | "limit" | "refused" | "output" | "mount" => 4096,
        "file" | "stdin" => FILE_BYTES_MAX,
        "seccomp" | "configured" => 0,
        _ => return None,
    })
}

impl Config {
    fn take(&mut self, Record { name, payload }: Record) -> Result<(), Refused> {
        let refused = |why: &str| Err(Refused(format!("`{name}` {why}")));
        let entries = [self.argv.len(), self.env.len(), self.limits.len(), self.refused.len(), self.files.len()];
        if entries.into_iter().chain([self.mounts.len()]).any(|n| n >= ENTRIES_MAX) {
            return refused("has too many entries");
        }
        if name == "stdin" {
            self.stdin = payload;
            return Ok(());
        }
        if name == "file" {
            let Some(end) = payload.iter().position(|b| *b == 0) else { return refused("has no name") };
            let (file, bytes) = payload.split_at(end);
            return match std::str::from_utf8(file) {
                Ok(file) if is_file_name(file) => {
                    self.files.push((file.to_owned(), bytes.get(1..).unwrap_or_default().to_vec()));
                    Ok(())
                }
                _ => refused("has a name that is not one of a file"),
            };
        }
        if name == "argv" || name == "env" {
            let Ok(text) = CString::new(payload) else { return refused("contains a NUL byte") };
            if name == "argv" {
                self.argv.push(text)
            } else {
                self.env.push(text)
            }
            return Ok(());
        }
        let Ok(text) = String::from_utf8(payload) else { return refused("is not text") };
        if text.contains('\0') {
            return refused("contains a NUL byte");
        }
        match name.as_str() {
            "cwd" if text.starts_with('/') => self.cwd = text,
            "refused" if text.starts_with('/') => self.refused.push(text),
            "output" if is_relative(&text) => self.output = Some(text),
            "seccomp" => self.filtered = true,
            "limit" => match limit(&text) {
                Some(limit) => self.limits.push(limit),
                None => return refused("is not a resource and a number"),
            },
            "mount" => match mount(&text) {
                Some(mount) => self.mounts.push(mount),
                None => return refused("is not one that is known"),
            },
            _ => return refused("is not a path"),
        }
        Ok(())
    }
}

fn limit(text: &str) -> Option<(i32, u64)> {
    let (resource, most) = text.split_once(' ')?;
    let number = match resource {
        "fsize" => 1,
        "core" => 4,
        "nproc" => 6,
        "nofile" => 7,
        "memlock" => 8,
        "msgqueue" => 12,
        "rtprio" => 14,
        _ => return None,
    };
    Some((number, most.parse().ok()?))
}

fn mount(text: &str) -> Option<Mount> {
    let plain = |s: &str| !s.is_empty() && s.len() <= 16 && s.bytes().all(|b| b.is_ascii_alphanumeric());
    let parts: Vec<&str> = text.split(' ').collect();
    match *parts.as_slice() {
        ["root", device, kind] if plain(device) && plain(kind) => {
            Some(Mount::Root { device: device.to_owned(), kind: kind.to_owned() })
        }
        ["work", device, kind] if plain(device) && plain(kind) => {
            Some(Mount::Work { device: device.to_owned(), kind: kind.to_owned() })
        }
        ["package", device, kind, at] if plain(device) && plain(kind) && is_place(at) => {
            Some(Mount::Package { device: device.to_owned(), kind: kind.to_owned(), at: at.to_owned() })
        }
        ["input", device, kind, at] if plain(device) && plain(kind) && is_place(at) => {
            Some(Mount::Input { device: device.to_owned(), kind: kind.to_owned(), at: at.to_owned() })
        }
        ["memory", mebibytes, at] if is_place(at) => {
            Some(Mount::Memory { at: at.to_owned(), mebibytes: mebibytes.parse().ok()? })
        }
        _ => None,
    }
}

fn is_place(at: &str) -> bool {
    at.strip_prefix('/').is_some_and(is_relative)
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_relative(path: &str) -> bool {
    path.len() <= 512 && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::encode;

    fn config(records: &[(&str, &[u8])]) -> Result<Config, Refused> {
        let mut bytes = Records::default();
        for (name, payload) in records {
            bytes.push(&encode(name, payload));
        }
        let mut config = Config::default();
        match read(&mut config, &mut bytes)? {
            true => Ok(config),
            false => Err(Refused("incomplete".to_owned())),
        }
    }

    const END: (&str, &[u8]) = ("configured", b"");
    const ARGV: (&str, &[u8]) = ("argv", b"/bin/true");
    const CWD: (&str, &[u8]) = ("cwd", b"/");

    #[test]
    fn a_whole_configuration_is_taken() {
        let taken = config(&[
            ARGV,
            ("argv", b"\xff\n"),
            CWD,
            ("env", b"A=B"),
            ("limit", b"nofile 64"),
            ("refused", b"/secret"),
            ("seccomp", b""),
            ("output", b"a/b"),
            ("mount", b"root vda ext4"),
            ("mount", b"package vdb ext4 /app"),
            ("mount", b"input vdc ext4 /inputs/a"),
            ("mount", b"memory 64 /dev/shm"),
            ("file", b"input.json\0\0x"),
            ("stdin", b"in"),
            END,
        ])
        .unwrap();
        assert_eq!(taken.argv.len(), 2);
        assert_eq!(taken.limits, [(7, 64)]);
        assert_eq!(taken.files, [("input.json".to_owned(), b"\0x".to_vec())]);
        assert_eq!(taken.mounts.len(), 4);
        assert!(taken.filtered);
    }

    #[test]
    fn what_is_not_known_or_not_plain_is_refused() {
        for broken in [
            ("argv", &b"a\0b"[..]),
            ("cwd", b"work"),
            ("limit", b"nofile"),
            ("limit", b"cpu 1"),
            ("limit", b"nofile -1"),
            ("output", b"../x"),
            ("output", b"/x"),
            ("refused", b"x"),
            ("mount", b"root ../vda ext4"),
            ("mount", b"package vdb ext4 /../x"),
            ("mount", b"bind /etc /x"),
            ("file", b"../x\0y"),
            ("file", b"x"),
            ("port", b"22"),
            ("seccomp", b"no"),
        ] {
            assert!(config(&[ARGV, CWD, broken, END]).is_err(), "{broken:?}");
        }
        assert!(config(&[CWD, END]).is_err());
        assert!(config(&[ARGV, END]).is_err());
    }
}
