//! The strict host name: what a person reads is what the resolver is asked for.

use std::net::IpAddr;

/// The host in the one form in which it is compared: lower case, without a dot at the end.
///
/// # Errors
/// Why it is not an exact public host name. Refused are addresses, wildcards, user parts and ports,
/// letters outside ASCII, and names that resolve inside (`localhost`, `.local`, `.internal`).
pub fn canonical_host(host: &str) -> Result<String, &'static str> {
    if host.is_empty() || host.len() > 253 {
        return Err("a host name has 1 to 253 characters");
    }
    if host.contains('*') {
        return Err("wildcards are not allowed: every host is named");
    }
    if host.contains("://") || host.contains('/') || host.contains('@') || host.contains(':') {
        return Err("only the host name belongs here, without scheme, user, port or path");
    }
    if !host.is_ascii() {
        return Err("write an international name in its ASCII form (`xn--...`)");
    }
    let host = host.to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() {
        return Err("an address is not a host name");
    }
    let labels: Vec<&str> = host.split('.').collect();
    for label in &labels {
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if label.is_empty() || label.len() > 63 || !label.bytes().all(letters) {
            return Err("each part has 1 to 63 letters, digits and hyphens");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("no part begins or ends with a hyphen");
        }
    }
    let last = labels.last().copied().unwrap_or_default();
    // `127.1`, `0x7f.1` and `2130706433` are addresses to some resolvers: the last part must be a name.
    if last.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("the last part begins with a digit: some resolvers read it as an address");
    }
    if labels.len() < 2 {
        return Err("the full name is needed, with its domain");
    }
    let inside = [
        "localhost",
        "local",
        "internal",
        "localdomain",
        "lan",
        "home",
        "corp",
        "intranet",
        "private",
        "onion",
        "arpa",
    ];
    if inside.contains(&last) {
        return Err("a name that resolves inside is not reachable by an agent");
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_exact_public_names() {
        assert_eq!(canonical_host("API.Example.com").as_deref(), Ok("api.example.com"));
        assert!(canonical_host("xn--bcher-kva.example").is_ok());
        for bad in [
            "",
            "localhost",
            "x.localhost",
            "printer.local",
            "metadata.google.internal",
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "::1",
            "[::1]",
            "*.example.com",
            "example.com.",
            "example..com",
            "-a.example",
            "a-.example",
            "exämple.com",
            "example.com:443",
            "https://example.com",
            "a@example.com",
            "exa mple.com",
            "example.com\n",
            "example",
            "1.0.0.127.in-addr.arpa",
            "exa_mple.com",
            "example.c0m.0",
            "a.b%00.example",
        ] {
            assert!(canonical_host(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_its_own_canonical_form(text in "[ -~]{0,40}") {
            if let Ok(host) = canonical_host(&text) {
                let again = canonical_host(&host);
                prop_assert_eq!(again.as_deref(), Ok(host.as_str()));
                prop_assert!(host.parse::<IpAddr>().is_err());
            }
        }
    }
}
