//! Where the plane is and with which credential, from flags, environment and the context file.
//!
//! A flag goes before a `COGWARD_*` variable, which goes before the context file. A credential is
//! never taken from a flag's value: other users of the host can read those.

use std::{
    ffi::OsString,
    fs,
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use cogward_registry::manifest::document;
use cogward_sandbox::SandboxConfig;
use serde::{Deserialize, Serialize};

use crate::{
    args::DriversFlag,
    exit::{Exit, Failure},
};

/// Where `cogward serve` listens unless it is told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7420";
/// Longest credential that is read from a file, in bytes.
const CREDENTIAL_BYTES_MAX: u64 = 16 * 1024;
/// Largest file that says what carries the profiles.
const SANDBOX_CONFIG_BYTES_MAX: u64 = 64 * 1024;

/// Reads a variable of the environment.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The process's own environment.
pub fn process_variables(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What `cogward login` keeps.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The operator's credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// The plane to talk to.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Base URL, without a slash at its end.
    pub url: String,
    /// Where the URL was found, for a person.
    pub url_from: &'static str,
    /// The credential, if there is one.
    pub token: Option<String>,
    /// Where the credential was found, for a person.
    pub token_from: &'static str,
}

/// What the flags say about the plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct PlaneFlags {
    /// The plane, such as `http://127.0.0.1:7420`; else COGWARD_URL, else what `cogward login` kept
    #[arg(long = "plane", global = true, value_name = "URL", help_heading = "Plane")]
    pub url: Option<String>,
    /// A file with the operator's credential; else COGWARD_TOKEN or COGWARD_TOKEN_FILE, else what
    /// `cogward login` kept
    #[arg(long, global = true, value_name = "FILE", help_heading = "Plane")]
    pub token_file: Option<PathBuf>,
}

impl Settings {
    /// Finds the plane and the credential.
    pub fn resolve(flags: &PlaneFlags, variables: Variables<'_>) -> Result<Self, Failure> {
        let context = read_context(variables)?;
        let text = |name: &str| variables(name).and_then(|v| v.into_string().ok()).filter(|v| !v.is_empty());
        let (url, url_from) = if let Some(url) = &flags.url {
            (url.clone(), "--plane")
        } else if let Some(url) = text("COGWARD_URL") {
            (url, "COGWARD_URL")
        } else if let Some(url) = &context.url {
            (url.clone(), "the context file")
        } else if let Some(listen) = plane_of_data_dir(&data_dir(variables)) {
            (format!("http://{listen}"), "the data directory")
        } else {
            (format!("http://{DEFAULT_LISTEN}"), "the default")
        };
        let url = check_url(&url)?;
        let (token, token_from) = if let Some(file) = &flags.token_file {
            (Some(read_credential(file)?), "--token-file")
        } else if let Some(token) = text("COGWARD_TOKEN") {
            (Some(token.trim().to_owned()), "COGWARD_TOKEN")
        } else if let Some(file) = text("COGWARD_TOKEN_FILE") {
            (Some(read_credential(Path::new(&file))?), "COGWARD_TOKEN_FILE")
        } else if context.token.is_some() && (context.url.is_none() || context.url.as_deref() == Some(url.as_str())) {
            (context.token, "the context file")
        } else {
            // A kept credential goes to the plane that it was kept for and to no other.
            (None, "nowhere")
        };
        Ok(Self { url, url_from, token, token_from })
    }
}

/// The directory that a plane keeps everything in, unless told otherwise.
pub fn data_dir(variables: Variables<'_>) -> PathBuf {
    let path = |name: &str| variables(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    path("COGWARD_DATA_DIR")
        .or_else(|| path("XDG_DATA_HOME").map(|dir| dir.join("cogward")))
        .or_else(|| path("HOME").map(|dir| dir.join(".local/share/cogward")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/cogward"))
}

/// What carries the profiles that the kernel's own means do not: what the file says, or nothing.
pub fn sandbox_config(flag: &DriversFlag, variables: Variables<'_>) -> Result<SandboxConfig, Failure> {
    let named = flag.sandbox_config.clone();
    let named = named.or_else(|| variables("COGWARD_SANDBOX_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from));
    let Some(path) = named else { return Ok(SandboxConfig::default()) };
    let shown = path.display();
    let file = fs::File::open(&path).map_err(|e| Failure::local(format!("cannot read {shown}"), e))?;
    let mut bytes = Vec::new();
    file.take(SANDBOX_CONFIG_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::local(format!("cannot read {shown}"), e))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > SANDBOX_CONFIG_BYTES_MAX {
        return Err(Failure::new(Exit::Usage, format!("{shown} is larger than 64 KiB")));
    }
    let refused = |what: String| Failure::new(Exit::Usage, what).next("docs/operations.md says what it may hold");
    // A file with nothing in it configures nothing.
    if bytes.trim_ascii().is_empty() {
        return Ok(SandboxConfig::default());
    }
    let value = document(&shown.to_string(), &bytes).map_err(|findings| refused(findings.to_string()))?;
    SandboxConfig::from_value(value).map_err(|error| refused(format!("{shown}: {error}")))
}

/// The file that `cogward login` writes.
pub fn context_path(variables: Variables<'_>) -> PathBuf {
    let path = |name: &str| variables(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config = path("XDG_CONFIG_HOME").or_else(|| path("HOME").map(|dir| dir.join(".config")));
    config.unwrap_or_else(|| PathBuf::from("/etc")).join("cogward/context.json")
}

/// The address that a plane on this host has written down for us.
fn plane_of_data_dir(dir: &Path) -> Option<String> {
    let bytes = read_bounded(&dir.join("plane.json")).ok()?;
    let written: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    written.get("listen").and_then(serde_json::Value::as_str).map(str::to_owned)
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(CREDENTIAL_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CREDENTIAL_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {CREDENTIAL_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// A credential from a file, or from standard input for `-`.
pub fn read_credential(file: &Path) -> Result<String, Failure> {
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(CREDENTIAL_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| Failure::local("cannot read the credential from standard input", error))?;
        bytes
    } else {
        read_bounded(file)
            .map_err(|error| Failure::local(format!("cannot read the credential in {}", file.display()), error))?
    };
    let text = String::from_utf8(bytes).map_err(|_| Failure::usage("the credential is not text"))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::usage("no credential was given")
            .next("the first start of the plane printed it; give it with --credential-file FILE"));
    }
    if text.contains(char::is_control) {
        return Err(Failure::usage("the credential must be one line of text").next("put it alone into the file"));
    }
    Ok(text.to_owned())
}

/// A URL that a credential may be sent to: plain HTTP to this host only.
fn check_url(url: &str) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::usage(format!("`{url}` cannot be a plane's address: {why}"));
    let uri: ureq::http::Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(wrong("a credential must not be in it").next("give the credential to `cogward login`"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("it must end after the port"));
    }
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(wrong("this release speaks plain HTTP on its own host only")
                .next("forward the port: ssh -L 7420:127.0.0.1:7420 HOST, then --plane http://127.0.0.1:7420"));
        }
        _ => return Err(wrong("it must begin with http://").next("for example --plane http://127.0.0.1:7420")),
    }
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !loopback {
        return Err(wrong("the credential would cross a network in clear")
            .next("forward the port: ssh -L 7420:127.0.0.1:7420 HOST, then --plane http://127.0.0.1:7420"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// Reads what `cogward login` kept. A file that others may read is refused: they have the credential.
pub fn read_context(variables: Variables<'_>) -> Result<Context, Failure> {
    let path = context_path(variables);
    let mode = match fs::metadata(&path) {
        Ok(found) => found.permissions().mode(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Context::default()),
        Err(error) => return Err(Failure::local(format!("cannot read {}", path.display()), error)),
    };
    if mode & 0o077 != 0 {
        return Err(Failure::new(Exit::Refused, format!("{} can be read by others", path.display())).next(format!(
            "chmod 600 {}; whoever read it can act as you: docs/operations.md, Credentials",
            path.display()
        )));
    }
    let bytes =
        read_bounded(&path).map_err(|error| Failure::local(format!("cannot read {}", path.display()), error))?;
    // The error of the parser could quote the credential, so it is not shown.
    serde_json::from_slice(&bytes).map_err(|_| {
        Failure::new(Exit::Failed, format!("{} is not a context", path.display()))
            .next("write it anew with `cogward login`")
    })
}

/// Keeps the context for later commands, readable by this user alone.
pub fn write_context(variables: Variables<'_>, context: &Context) -> Result<PathBuf, Failure> {
    let path = context_path(variables);
    let write = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let fresh = dir.join(format!(".context.{}", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        let written = serde_json::to_writer(&mut file, context).map_err(std::io::Error::from);
        let whole = written.and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all());
        let moved = whole.and_then(|()| fs::rename(&fresh, &path));
        if moved.is_err() {
            let _gone = fs::remove_file(&fresh);
        }
        moved
    };
    write().map_err(|error| Failure::local(format!("cannot write {}", path.display()), error))?;
    Ok(path)
}

/// Forgets the context. Says whether there was one.
pub fn forget_context(variables: Variables<'_>) -> Result<bool, Failure> {
    let path = context_path(variables);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::local(format!("cannot remove {}", path.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + use<> {
        let map: BTreeMap<String, OsString> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), OsString::from(*v))).collect();
        move |name: &str| map.get(name).cloned()
    }

    #[test]
    fn a_flag_goes_before_a_variable_and_that_before_the_context() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().to_str().unwrap();
        let bare = variables(&[("XDG_CONFIG_HOME", config), ("XDG_DATA_HOME", config)]);
        let none = PlaneFlags::default();
        assert_eq!(Settings::resolve(&none, &bare).unwrap().url, "http://127.0.0.1:7420");

        let kept = Context { url: Some("http://127.0.0.1:1".into()), token: Some("kept".into()) };
        write_context(&bare, &kept).unwrap();
        let found = Settings::resolve(&none, &bare).unwrap();
        assert_eq!((found.url.as_str(), found.token.as_deref()), ("http://127.0.0.1:1", Some("kept")));

        let set = variables(&[
            ("XDG_CONFIG_HOME", config),
            ("COGWARD_URL", "http://localhost:2/"),
            ("COGWARD_TOKEN", "set\n"),
        ]);
        let found = Settings::resolve(&none, &set).unwrap();
        assert_eq!((found.url.as_str(), found.token.as_deref()), ("http://localhost:2", Some("set")));

        let file = home.path().join("token");
        fs::write(&file, "flag\n").unwrap();
        let flags = PlaneFlags { url: Some("http://[::1]:3".into()), token_file: Some(file) };
        let found = Settings::resolve(&flags, &set).unwrap();
        assert_eq!((found.url.as_str(), found.token.as_deref()), ("http://[::1]:3", Some("flag")));
    }

    #[test]
    fn a_kept_credential_goes_to_its_own_plane_only() {
        let home = tempfile::tempdir().unwrap();
        let vars = variables(&[("XDG_CONFIG_HOME", home.path().to_str().unwrap())]);
        write_context(&vars, &Context { url: Some("http://127.0.0.1:1".into()), token: Some("kept".into()) }).unwrap();
        let flags = PlaneFlags { url: Some("http://127.0.0.1:2".into()), token_file: None };
        assert_eq!(Settings::resolve(&flags, &vars).unwrap().token, None);
    }

    #[test]
    fn the_context_is_readable_by_its_user_alone_or_refused() {
        let home = tempfile::tempdir().unwrap();
        let vars = variables(&[("XDG_CONFIG_HOME", home.path().to_str().unwrap())]);
        let path = write_context(&vars, &Context { url: None, token: Some("secret".into()) }).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = read_context(&vars).err().unwrap();
        assert_eq!(refused.exit, Exit::Refused);
        assert!(refused.report().contains("chmod 600"));
    }

    #[test]
    fn a_credential_is_not_sent_in_clear_over_a_network() {
        for bad in [
            "http://10.0.0.1:7420",
            "http://plane.example",
            "https://127.0.0.1",
            "ftp://127.0.0.1",
            "127.0.0.1:7420",
            "http://user:pass@127.0.0.1:1",
            "http://127.0.0.1:1/x",
            "http://127.0.0.1.example:1",
            "",
        ] {
            let refused = check_url(bad).err().unwrap_or_else(|| panic!("{bad}"));
            assert_eq!(refused.exit, Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn a_damaged_context_does_not_show_the_credential() {
        let home = tempfile::tempdir().unwrap();
        let vars = variables(&[("XDG_CONFIG_HOME", home.path().to_str().unwrap())]);
        let path = write_context(&vars, &Context::default()).unwrap();
        fs::write(&path, r#"{"token": hunter2}"#).unwrap();
        assert!(!read_context(&vars).err().unwrap().report().contains("hunter2"));
    }
}
