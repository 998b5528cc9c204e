//! The trust store of a run that has inspected hosts: what its programs must trust, and the variables through
//! which common runtimes are told. Everything here is public.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// The certificate of the run's authority alone.
const CA_FILE: &str = "ca.pem";
/// The roots of the sandbox with it.
const BUNDLE_FILE: &str = "ca-bundle.pem";
/// Where systems keep their roots in one file, in the order in which they are looked for.
const STORES: [&str; 5] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];
/// Largest trust store of an image that is read.
const STORE_BYTES_MAX: u64 = 2 * 1024 * 1024;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Runtimes that replace their roots by the file.
const WHOLE: [&str; 10] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "HTTPLIB2_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CARGO_HTTP_CAINFO",
    "COGWARD_CA_BUNDLE",
];
/// Runtimes that add the file to the roots that they bring.
const ADDED: [&str; 3] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT", "COGWARD_CA_FILE"];

/// Files under `/run/cogward` and variables.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) env: Vec<(&'static str, String)>,
}

/// What a run must be given that trusts `authority` beside the roots of its image, or of the host without one.
pub(crate) fn store(authority: &str, image: Option<&Path>) -> Trust {
    // An image without roots gets those of the host: a bundle of one certificate would break every other host.
    let roots = image.and_then(roots_of).or_else(|| roots_of(Path::new("/"))).unwrap_or_default();
    let bundle = format!("{roots}{authority}");
    let mut env = Vec::with_capacity(WHOLE.len() + ADDED.len());
    env.extend(WHOLE.map(|name| (name, format!("/run/cogward/{BUNDLE_FILE}"))));
    env.extend(ADDED.map(|name| (name, format!("/run/cogward/{CA_FILE}"))));
    let files =
        vec![(CA_FILE.to_owned(), authority.as_bytes().to_vec()), (BUNDLE_FILE.to_owned(), bundle.into_bytes())];
    Trust { files, env }
}

fn roots_of(root: &Path) -> Option<String> {
    STORES.iter().find_map(|at| {
        let roots = certificates(&read(root, at)?);
        (!roots.is_empty()).then_some(roots)
    })
}

/// A file beneath `root`. One that a link leads out of it is not read: it would be a file of the host.
fn read(root: &Path, at: &str) -> Option<String> {
    let root: PathBuf = fs::canonicalize(root).ok()?;
    let file = fs::canonicalize(root.join(at)).ok()?;
    if !file.starts_with(&root) || !file.is_file() {
        return None;
    }
    let mut text = Vec::new();
    fs::File::open(file).ok()?.take(STORE_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The certificates in a text, and nothing else of it.
fn certificates(text: &str) -> String {
    let mut all = String::new();
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once(BEGIN) {
        let Some((body, next)) = behind.split_once(END) else { break };
        rest = next;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '\n' | '\r');
        if body.chars().all(plain) {
            all.push_str(BEGIN);
            all.push_str(body);
            all.push_str(END);
            all.push('\n');
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
    const OWN: &str = "-----BEGIN CERTIFICATE-----\nb3du\n-----END CERTIFICATE-----\n";

    fn image(store: &str) -> tempfile::TempDir {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir_all(image.path().join("etc/ssl/certs")).unwrap();
        fs::write(image.path().join("etc/ssl/certs/ca-certificates.crt"), store).unwrap();
        image
    }

    fn file<'a>(trust: &'a Trust, name: &str) -> &'a [u8] {
        &trust.files.iter().find(|(n, _)| n == name).unwrap().1
    }

    #[test]
    fn the_bundle_is_the_image_s_roots_and_the_authority() {
        let image = image(&format!("# a comment\nkey=secret\n{ONE}rest"));
        let trust = store(OWN, Some(image.path()));
        assert_eq!(file(&trust, "ca.pem"), OWN.as_bytes());
        assert_eq!(file(&trust, "ca-bundle.pem"), format!("{ONE}{OWN}").as_bytes());
        let at = |name: &str| trust.env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        assert_eq!(at("SSL_CERT_FILE"), Some("/run/cogward/ca-bundle.pem"));
        assert_eq!(at("NODE_EXTRA_CA_CERTS"), Some("/run/cogward/ca.pem"));
    }

    #[test]
    fn a_link_out_of_an_image_gives_nothing_of_the_host_and_no_key_is_taken_for_a_certificate() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), format!("{ONE}password")).unwrap();
        let image = image("");
        let at = image.path().join("etc/ssl/certs/ca-certificates.crt");
        fs::remove_file(&at).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), &at).unwrap();
        assert_eq!(read(image.path(), STORES[0]), None);
        let key = "-----BEGIN PRIVATE KEY-----\nYWJj\n-----END PRIVATE KEY-----\n";
        assert_eq!(certificates(&format!("{key}{ONE}{BEGIN}no base64!{END}")), ONE);
    }
}
