//! The one parser of host names and ports that agents send. It takes names only.
//!
//! Two readers that understand the same text differently are how proxies are passed: `0x7f.1`,
//! `2130706433` and `127.1` are names to one and loopback to another, `a@b` is two hosts, a NUL ends
//! a text for C and not for Rust. So there is no normalising here beyond lower case: what is not
//! plainly a name made of letters, digits and hyphens is refused.

use std::fmt;

/// Longest host name (RFC 1035, without the final dot).
const HOST_BYTES_MAX: usize = 253;
/// Longest label.
const LABEL_BYTES_MAX: usize = 63;

/// A canonical host name: lower case, no final dot, never an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostName(String);

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host.
    pub host: HostName,
    /// The port.
    pub port: u16,
}

/// Why a text is not a host, or not a host and a port. Never quotes the text: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is nothing.
    #[error("there is no host name")]
    Empty,
    /// Longer than DNS allows.
    #[error("the host name, or a part of it, is longer than DNS allows")]
    TooLong,
    /// `user@host`.
    #[error("a user name before the host is not allowed")]
    UserInfo,
    /// Anything but letters, digits, hyphens and single dots between them.
    #[error("a host name has letters, digits and hyphens, with single dots between its parts")]
    Character,
    /// An IP address in any spelling.
    #[error("an IP address stands where a declared host name must")]
    Address,
    /// No port where one is needed.
    #[error("there is no port")]
    NoPort,
    /// Not a number from 1 to 65535 in its shortest form.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl HostName {
    /// Parses a host name.
    ///
    /// # Errors
    /// [`HostError`] for everything that is not plainly a name.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        if text.starts_with('[') || text.matches(':').count() > 1 {
            return Err(HostError::Address);
        }
        if text.len() > HOST_BYTES_MAX {
            return Err(HostError::TooLong);
        }
        for label in text.split('.') {
            if label.len() > LABEL_BYTES_MAX {
                return Err(HostError::TooLong);
            }
            let ldh = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if label.is_empty() || !ldh || label.starts_with('-') || label.ends_with('-') {
                return Err(HostError::Character);
            }
        }
        // The last part decides: `inet_aton` and the URL standard read a text as an address exactly
        // when its last part is a number, decimal, octal or hexadecimal.
        if text.rsplit('.').next().is_some_and(is_number) {
            return Err(HostError::Address);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HostPort {
    /// Parses `host:port`, or `host` where the scheme has a `default_port`.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, HostError> {
        // Both before the colon is looked for: `a:b@c:1` and `[::1]:1` have several.
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        if text.starts_with('[') {
            return Err(HostError::Address);
        }
        match text.split_once(':') {
            Some((host, port)) => {
                let host = HostName::parse(host)?;
                if port.contains(':') {
                    return Err(HostError::Port);
                }
                Ok(Self { host, port: parse_port(port)? })
            }
            None => {
                let host = HostName::parse(text)?;
                Ok(Self { host, port: default_port.ok_or(HostError::NoPort)? })
            }
        }
    }

    /// As it stands in a `Host` header of plain HTTP.
    #[must_use]
    pub fn http_host(&self) -> String {
        if self.port == 80 { self.host.0.clone() } else { self.to_string() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn is_number(label: &str) -> bool {
    let digits = |text: &str, radix| text.chars().all(|c| c.is_digit(radix));
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(hex) => digits(hex, 16),
        None => digits(label, 10),
    }
}

fn parse_port(text: &str) -> Result<u16, HostError> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if !plain {
        return Err(if text.is_empty() { HostError::NoPort } else { HostError::Port });
    }
    text.parse().map_err(|_| HostError::Port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_refused() {
        for text in [
            "127.0.0.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0X7F000001",
            "0177.0.0.1",
            "127.1",
            "1.0x",
            "169.254.169.254",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "::1",
            "fe80::1",
            "example.123",
        ] {
            assert_eq!(HostName::parse(text), Err(HostError::Address), "{text}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a_b.com",
            "a b",
            "a\0.com",
            "evil.com\0.api.example.com",
            "api.example.com\0evil.com",
            "a%00b",
            "a%2eb",
            "user@host",
            "host/path",
            "host?x",
            "host#x",
            "host\\x",
            "bücher.example",
            "api。example",
            "a\u{200b}b",
            "*.example.com",
            "a\r\nb",
            "a\tb",
        ] {
            assert!(HostName::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(HostName::parse(&"a".repeat(64)), Err(HostError::TooLong));
        assert_eq!(HostName::parse(&["a"; 128].join(".")), Err(HostError::TooLong));
        assert!(HostName::parse(&["a"; 127].join(".")).is_ok());
    }

    #[test]
    fn names_become_lower_case_and_nothing_else() {
        assert_eq!(HostName::parse("API.Example.COM").unwrap().as_str(), "api.example.com");
        for fine in ["localhost", "xn--bcher-kva.example", "0x7f.example", "1.2.3.4.example", "3com.com", "a"] {
            assert!(HostName::parse(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn ports_have_one_spelling() {
        assert_eq!(HostPort::parse("a.b:443", None).unwrap().port, 443);
        for bad in [
            "a.b",
            "a.b:",
            "a.b:0",
            "a.b:0443",
            "a.b:+443",
            "a.b:65536",
            "a.b:99999",
            "a.b:443x",
            "a.b:443:1",
            "u@a.b:443",
            "u:p@a.b:443",
            "[::1]:443",
            "a.b: 443",
            ":443",
            "a.b:4\u{663}3",
        ] {
            assert!(HostPort::parse(bad, None).is_err(), "{bad}");
        }
        assert_eq!(HostPort::parse("a.b", Some(80)).unwrap().http_host(), "a.b");
        assert_eq!(HostPort::parse("a.b:8080", Some(80)).unwrap().http_host(), "a.b:8080");
    }

    proptest! {
        #[test]
        fn what_passes_is_canonical_and_never_an_address(text in "\\PC{0,80}|[a-z0-9.x-]{1,40}") {
            if let Ok(host) = HostName::parse(&text) {
                prop_assert_eq!(HostName::parse(host.as_str()), Ok(host.clone()));
                prop_assert!(host.as_str().parse::<std::net::IpAddr>().is_err());
                prop_assert!(host.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'));
            }
        }
    }
}
