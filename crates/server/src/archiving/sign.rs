//! AWS Signature Version 4, for the few requests that an archive needs.

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use cogward_model::Timestamp;
use zeroize::Zeroizing;

/// Whose requests they are.
pub(super) struct Credentials {
    pub(super) access_key: String,
    pub(super) secret_key: Zeroizing<String>,
    pub(super) session_token: Option<Zeroizing<String>>,
}

impl Credentials {
    /// Reads the form of `~/.aws/credentials`: `name = value` lines; sections and other names are passed over.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut found = text.lines().filter_map(|line| {
                let (key, value) = line.split_once('=')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            });
            // Two of a kind, as in a file with several profiles, would leave open which one is meant.
            found.next().filter(|value| !value.is_empty() && value.is_ascii()).filter(|_| found.next().is_none())
        };
        Some(Self {
            access_key: value("aws_access_key_id")?,
            secret_key: Zeroizing::new(value("aws_secret_access_key")?),
            session_token: value("aws_session_token").map(Zeroizing::new),
        })
    }
}

/// A request before it is signed. The path and the query are in the form that is sent.
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    /// Sorted by name.
    pub(super) query: &'a str,
    /// Further headers, by lower-case name; all of them are signed.
    pub(super) headers: &'a [(&'static str, String)],
    /// The SHA-256 of the body, in hexadecimal digits.
    pub(super) body: &'a str,
}

/// Text for a path or a query: all but the unreserved characters is escaped.
pub(super) fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                // Writing into a text does not fail.
                let _infallible = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

/// `20261123T101112Z`
fn stamp(now: Timestamp) -> String {
    let text = now.to_string();
    let second = text.split('.').next().unwrap_or_default().trim_end_matches('Z');
    let digits: String = second.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    digits + "Z"
}

fn keyed(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _infallible = write!(out, "{byte:02x}");
        out
    })
}

/// All headers that the request needs besides `host`, the signature among them.
pub(super) fn signed(
    request: &Unsigned<'_>,
    credentials: &Credentials,
    region: &str,
    now: Timestamp,
) -> Vec<(&'static str, Zeroizing<String>)> {
    let stamp = stamp(now);
    let day = stamp.get(..8).unwrap_or_default();
    let mut headers: Vec<(&'static str, Zeroizing<String>)> =
        request.headers.iter().map(|(name, value)| (*name, Zeroizing::new(value.clone()))).collect();
    headers.push(("host", Zeroizing::new(request.host.to_owned())));
    headers.push(("x-amz-content-sha256", Zeroizing::new(request.body.to_owned())));
    headers.push(("x-amz-date", Zeroizing::new(stamp.clone())));
    headers.extend(credentials.session_token.clone().map(|token| ("x-amz-security-token", token)));
    headers.sort_by_key(|(name, _)| *name);
    let named = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut canonical = Zeroizing::new(format!("{}\n{}\n{}\n", request.method, request.path, request.query));
    for (name, value) in &headers {
        canonical.push_str(name);
        canonical.push(':');
        canonical.push_str(value.trim());
        canonical.push('\n');
    }
    canonical.push_str(&format!("\n{named}\n{}", request.body));
    let scope = format!("{day}/{region}/s3/aws4_request");
    let digest = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}");
    let first = Zeroizing::new(format!("AWS4{}", credentials.secret_key.as_str()));
    let mut key = keyed(first.as_bytes(), day);
    for part in [region, "s3", "aws4_request"] {
        key = keyed(key.as_ref(), part);
    }
    let signature = hex(keyed(key.as_ref(), &text).as_ref());
    headers.retain(|(name, _)| *name != "host");
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={named}, Signature={signature}",
        credentials.access_key
    );
    headers.push(("authorization", Zeroizing::new(authorization)));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn published() -> (Credentials, Timestamp) {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: Zeroizing::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into()),
            session_token: None,
        };
        (credentials, "2013-05-24T00:00:00.000000Z".parse().unwrap())
    }

    fn signature(headers: &[(&'static str, Zeroizing<String>)]) -> String {
        let (_, value) = headers.iter().find(|(name, _)| *name == "authorization").unwrap();
        value.rsplit('=').next().unwrap().to_owned()
    }

    /// The examples of the S3 API reference, "Authenticating Requests: Using the Authorization Header".
    #[test]
    fn the_published_examples_have_their_signatures() {
        let (credentials, now) = published();
        let host = "examplebucket.s3.amazonaws.com";
        let get = Unsigned {
            method: "GET",
            host,
            path: "/test.txt",
            query: "",
            headers: &[("range", "bytes=0-9".into())],
            body: EMPTY,
        };
        let found = signature(&signed(&get, &credentials, "us-east-1", now));
        assert_eq!(found, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let put = Unsigned {
            method: "PUT",
            host,
            path: "/test%24file.text",
            query: "",
            headers: &[
                ("date", "Fri, 24 May 2013 00:00:00 GMT".into()),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY".into()),
            ],
            body: "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
        };
        let found = signature(&signed(&put, &credentials, "us-east-1", now));
        assert_eq!(found, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
        let list = Unsigned { method: "GET", host, path: "/", query: "max-keys=2&prefix=J", headers: &[], body: EMPTY };
        let found = signature(&signed(&list, &credentials, "us-east-1", now));
        assert_eq!(found, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }

    #[test]
    fn credentials_are_read_from_one_profile_and_nothing_is_guessed() {
        let text = "[default]\naws_access_key_id = AK\naws_secret_access_key=a/b+c==\n";
        let read = Credentials::parse(text).unwrap();
        assert_eq!((read.access_key.as_str(), read.secret_key.as_str()), ("AK", "a/b+c=="));
        assert!(read.session_token.is_none());
        for bad in ["", "aws_access_key_id = AK\n", &text.repeat(2), "aws_access_key_id=\naws_secret_access_key=x\n"] {
            assert!(Credentials::parse(bad).is_none(), "{bad}");
        }
    }
}
