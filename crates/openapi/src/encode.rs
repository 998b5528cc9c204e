//! Percent-encoding: everything but the unreserved characters of RFC 3986.

use std::fmt::Write as _;

use unicode_normalization::UnicodeNormalization;

/// Some text as one component of a URL.
///
/// ```
/// assert_eq!(cogward_openapi::component("a/b?c=ä"), "a%2Fb%3Fc%3D%C3%A4");
/// ```
#[must_use]
pub fn component(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push(&mut out, text);
    out
}

pub(crate) fn push(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// One round of decoding; what is no escape stays as it is.
pub(crate) fn decoded(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// How often a server and what stands before it may decode a path.
const DECODED_MAX: usize = 4;

/// Whether a text stays in its segment of a path, however often it is decoded on the way.
///
/// Many servers decode a path before they look for its route: an escaped `/` in it would lead to another operation, and
/// after a `?`, `#` or `;` they see a path that ends there. So a value that has one, in clear, escaped, or in a form that a
/// server may take for one (compatible characters, bytes that are no UTF-8), is not sent at all.
pub(crate) fn stays_in_segment(text: &str) -> bool {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..DECODED_MAX {
        let Ok(text) = std::str::from_utf8(&bytes) else { return false };
        if text.nfkc().any(|c| c.is_control() || matches!(c, '/' | '\\' | '?' | '#' | ';')) {
            return false;
        }
        let next = decoded(&bytes);
        if next == bytes {
            return true;
        }
        bytes = next;
    }
    false
}

/// Whether a whole segment is one that leads to itself or up, however often it is decoded. What stands after `;` is no part
/// of it for some servers.
pub(crate) fn is_dots(segment: &str) -> bool {
    let mut bytes = segment.as_bytes().to_vec();
    for _ in 0..=DECODED_MAX {
        let text: String = String::from_utf8_lossy(&bytes).nfkc().collect();
        // Some servers take space away before they look.
        let name = text.split(';').next().unwrap_or_default().trim();
        if matches!(name, "." | "..") {
            return true;
        }
        bytes = decoded(&bytes);
    }
    false
}
