//! Placeholders of credentials in a request's head.
//!
//! An agent writes `cogward-placeholder:NAME` where a credential belongs. It is replaced in one header of
//! requests to the one host that the credential was stored for; also inside a `Basic` credential, where it is
//! encoded. Anywhere else in a head or a URL it is an attempt to have the credential sent elsewhere.

use std::ops::Range;

use base64::{
    Engine,
    alphabet::STANDARD as ALPHABET,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
    },
};
use cogward_model::{UpstreamName, manifest::PLACEHOLDER_PREFIX};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use zeroize::Zeroizing;

/// Clients pad or do not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const BASIC: &[u8] = b"basic ";
/// URLs are decoded so often; a reader that decodes more is one that no client meets.
const DECODINGS: usize = 3;

/// What may stand for a credential in a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed<'a> {
    /// The name of the credential.
    pub(super) name: &'a UpstreamName,
    /// The header that it may stand in; any, while the operator has not stored it yet.
    pub(super) header: Option<&'a str>,
}

/// Where a placeholder stands that may not stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misuse {
    /// In the path or the query.
    Url,
    /// In a header that is not the credential's.
    Header,
    /// The name is of a credential that this endpoint does not have.
    Name,
    /// There is more than one: repeated, a credential would be easier to know again in what comes back.
    Several,
}

impl Misuse {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Url => "the placeholder of a credential stands in the URL",
            Self::Header => "the placeholder of a credential stands in a header that is not its own",
            Self::Name => "the placeholder is of a credential that does not belong to this endpoint",
            Self::Several => "the placeholder of a credential stands in the request more than once",
        }
    }
}

/// Whether the head of a request uses the allowed credential.
///
/// # Errors
/// [`Misuse`] when any placeholder stands where it may not.
pub(super) fn examine(uri: &Uri, headers: &HeaderMap, allowed: Option<Allowed<'_>>) -> Result<bool, Misuse> {
    let mut url = uri.to_string().into_bytes();
    for _ in 0..DECODINGS {
        if !found(&url).is_empty() {
            return Err(Misuse::Url);
        }
        if !url.contains(&b'%') {
            break;
        }
        url = decoded(&url);
    }
    let mut used = false;
    for (header, value) in headers {
        let inner = basic(value.as_bytes());
        for text in [Some(value.as_bytes()), inner.as_ref().map(|i| i.as_slice())].into_iter().flatten() {
            for place in found(text) {
                let Some(allowed) = allowed else { return Err(Misuse::Name) };
                let exact = format!("{PLACEHOLDER_PREFIX}{}", allowed.name);
                if text.get(place) != Some(exact.as_bytes()) {
                    return Err(Misuse::Name);
                }
                if allowed.header.is_some_and(|own| own != header.as_str()) {
                    return Err(Misuse::Header);
                }
                if std::mem::replace(&mut used, true) {
                    return Err(Misuse::Several);
                }
            }
        }
    }
    Ok(used)
}

/// Puts the secret where the placeholder stands. `None` when the result is no header value.
pub(super) fn fill(headers: &mut HeaderMap, header: &str, name: &UpstreamName, secret: &str) -> Option<()> {
    let header: HeaderName = header.parse().ok()?;
    let placeholder = format!("{PLACEHOLDER_PREFIX}{name}");
    for (_, value) in headers.iter_mut().filter(|(own, _)| **own == header) {
        let bytes = match basic(value.as_bytes()) {
            Some(inner) if !found(&inner).is_empty() => {
                let inner = replaced(&inner, placeholder.as_bytes(), secret.as_bytes());
                let mut text = Zeroizing::new(b"Basic ".to_vec());
                text.extend_from_slice(Zeroizing::new(STANDARD.encode(inner.as_slice())).as_bytes());
                text
            }
            _ => replaced(value.as_bytes(), placeholder.as_bytes(), secret.as_bytes()),
        };
        let mut filled = HeaderValue::from_bytes(&bytes).ok()?;
        filled.set_sensitive(true);
        *value = filled;
    }
    Some(())
}

/// Where placeholders stand, in whatever case, each with the whole name behind it.
fn found(text: &[u8]) -> Vec<Range<usize>> {
    let prefix = PLACEHOLDER_PREFIX.as_bytes();
    let mut places = Vec::new();
    for (at, window) in text.windows(prefix.len()).enumerate() {
        if window.eq_ignore_ascii_case(prefix) {
            let begin = at + prefix.len();
            let named = text.get(begin..).unwrap_or_default();
            let length = named.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')).count();
            places.push(at..begin + length);
        }
    }
    places
}

fn replaced(text: &[u8], what: &[u8], with: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut whole = Zeroizing::new(Vec::with_capacity(text.len() + with.len()));
    let mut at = 0;
    for place in found(text) {
        if text.get(place.clone()) == Some(what) {
            whole.extend_from_slice(text.get(at..place.start).unwrap_or_default());
            whole.extend_from_slice(with);
            at = place.end;
        }
    }
    whole.extend_from_slice(text.get(at..).unwrap_or_default());
    whole
}

/// What a `Basic` credential says.
fn basic(value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, rest) = value.split_at_checked(BASIC.len())?;
    if !scheme.eq_ignore_ascii_case(BASIC) {
        return None;
    }
    LENIENT.decode(rest.trim_ascii()).ok().map(Zeroizing::new)
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut whole = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                whole.push(high * 16 + low);
                at += 3;
            }
            _ => {
                whole.push(*byte);
                at += 1;
            }
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> UpstreamName {
        "github".parse().unwrap()
    }

    fn asked(header: &str, value: &str) -> (Uri, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert(header.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        (Uri::from_static("/v1/x?y=z"), headers)
    }

    fn judged(header: &str, value: &str) -> Result<bool, Misuse> {
        let (uri, headers) = asked(header, value);
        examine(&uri, &headers, Some(Allowed { name: &name(), header: Some("authorization") }))
    }

    #[test]
    fn it_is_replaced_where_it_belongs() {
        for (value, filled) in [
            ("Bearer cogward-placeholder:github", "Bearer s3cret-value".to_owned()),
            ("cogward-placeholder:github", "s3cret-value".to_owned()),
            ("a cogward-placeholder:github,b", "a s3cret-value,b".to_owned()),
            (
                &format!("basic {}", STANDARD.encode("x-token:cogward-placeholder:github")),
                format!("Basic {}", STANDARD.encode("x-token:s3cret-value")),
            ),
            ("Bearer nothing", "Bearer nothing".to_owned()),
        ] {
            let (_, mut headers) = asked("authorization", value);
            assert_eq!(judged("authorization", value), Ok(value != "Bearer nothing"), "{value}");
            fill(&mut headers, "authorization", &name(), "s3cret-value").unwrap();
            assert_eq!(headers["authorization"].to_str().unwrap(), filled);
        }
    }

    #[test]
    fn it_is_found_where_it_does_not_belong() {
        for (header, value, misuse) in [
            ("x-api-key", "cogward-placeholder:github", Misuse::Header),
            ("user-agent", "x/cogward-placeholder:github", Misuse::Header),
            ("cookie", "a=cogward-placeholder:github", Misuse::Header),
            ("authorization", "Bearer cogward-placeholder:gitlab", Misuse::Name),
            ("authorization", "Bearer cogward-placeholder:githubs", Misuse::Name),
            ("authorization", "Bearer cogward-placeholder:github-2", Misuse::Name),
            ("authorization", "Bearer cogward-placeholder:", Misuse::Name),
            ("authorization", "Bearer COGWARD-placeholder:github", Misuse::Name),
            ("authorization", &format!("Basic {}", STANDARD.encode("a:cogward-placeholder:other")), Misuse::Name),
            ("x-auth", &format!("Basic {}", STANDARD.encode("a:cogward-placeholder:github")), Misuse::Header),
        ] {
            assert_eq!(judged(header, value), Err(misuse), "{header}: {value}");
        }
        let twice = "a cogward-placeholder:github,cogward-placeholder:github b";
        assert_eq!(judged("authorization", twice), Err(Misuse::Several));
        let (uri, mut headers) = asked("authorization", "Bearer cogward-placeholder:github");
        headers.append("authorization", headers["authorization"].clone());
        let allowed = Some(Allowed { name: &name(), header: Some("authorization") });
        assert_eq!(examine(&uri, &headers, allowed), Err(Misuse::Several));
        for url in [
            "/a?t=cogward-placeholder:github",
            "/cogward-placeholder:github",
            "/a?t=cogward-placeholder%3Agithub",
            "/a?t=%63ogward-placeholder%3agithub",
            "/a?t=cogward%252Dplaceholder%253Agithub",
            "http://x.example/?cogward-placeholder:github",
        ] {
            let uri: Uri = url.parse().unwrap();
            let allowed = Some(Allowed { name: &name(), header: Some("authorization") });
            assert_eq!(examine(&uri, &HeaderMap::new(), allowed), Err(Misuse::Url), "{url}");
        }
        let (uri, headers) = asked("authorization", "Bearer cogward-placeholder:github");
        assert_eq!(examine(&uri, &headers, None), Err(Misuse::Name));
    }

    proptest! {
        #[test]
        fn what_was_judged_well_leaves_no_placeholder(before in "[ -~]{0,20}", after in "[ -~]{0,20}") {
            let value = format!("x{before} cogward-placeholder:github {after}x");
            if judged("authorization", &value) == Ok(true) {
                let (_, mut headers) = asked("authorization", &value);
                fill(&mut headers, "authorization", &name(), "s3cret-value").unwrap();
                prop_assert!(found(headers["authorization"].as_bytes()).is_empty());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = (found(&bytes), basic(&bytes), decoded(&bytes), replaced(&bytes, b"a", b"b"));
        }
    }
}
