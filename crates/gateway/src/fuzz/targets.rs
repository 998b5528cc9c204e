//! What is tried, and what must hold.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Class, Finding, ITERATIONS, Until, found_out, hold, hold_for, hunt, seeds};
use crate::{
    egress::{
        address,
        host::{HostName, HostPort},
        sni::{self, Hello, tests as hellos},
    },
    json,
    mcp::{self, FuzzedPairs, FuzzedState},
};

pub(super) fn class(of: impl Hash) -> Class {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

const HOSTS: &[&[u8]] = &[
    b"xn--",
    b"0x7f",
    b"127.1",
    b"::1",
    b"%00",
    b"%2e",
    b"\xe2\x80\x8b",
    b"\xef\xbc\x8e",
    b"@",
    b":443",
    b":0",
    b"..",
    b"[::ffff:127.0.0.1]",
    b"localhost",
    b"2130706433",
    b"\\",
    b"#",
    b"?",
];

/// The host and port that a URL standard reader finds in the same text.
fn read_by_others(url: &str) -> Option<(String, u16)> {
    let url = url::Url::parse(url).ok()?;
    match url.host()? {
        url::Host::Domain(name) => Some((name.to_owned(), url.port_or_known_default()?)),
        url::Host::Ipv4(_) | url::Host::Ipv6(_) => Some(("an address".to_owned(), 0)),
    }
}

fn agrees(parse: impl Fn(&str) -> Option<(String, u16)>, bytes: &[u8]) -> Class {
    let text = String::from_utf8_lossy(bytes);
    let Some((host, port)) = parse(&text) else { return class("refused") };
    let punycode = host.split('.').any(|label| label.starts_with("xn--"));
    match read_by_others(&format!("http://{text}/")) {
        Some(theirs) => assert_eq!(theirs, (host.clone(), port), "two readers, two hosts: {text:?}"),
        // A label that says it is punycode and is not; whoever looks it up finds nothing.
        None => assert!(punycode, "we take what nobody else takes: {text:?}"),
    }
    if let Ok(authority) = text.parse::<http::uri::Authority>() {
        assert_eq!(authority.host().to_ascii_lowercase(), host, "two readers, two hosts: {text:?}");
        assert_eq!(authority.port_u16().unwrap_or(80), port, "two readers, two ports: {text:?}");
    }
    class((host.split('.').count(), punycode, port == 80))
}

#[test]
fn host() {
    hold("host", include_str!("../../fuzz/host.txt"), HOSTS, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match HostPort::parse(&text, Some(80)) {
            Ok(_) => agrees(|text| HostPort::parse(text, Some(80)).ok().map(|p| (p.host.to_string(), p.port)), bytes),
            Err(error) => class(error.to_string()),
        }
    });
}

/// Parsers with one mistake each, as they have been seen elsewhere.
#[test]
fn a_host_parser_with_a_mistake_is_found_out() {
    let strict = |text: &str| HostPort::parse(text, Some(80)).ok().map(|p| (p.host.to_string(), p.port));
    type Parser = Box<dyn Fn(&str) -> Option<(String, u16)>>;
    let mistakes: [(&str, Parser); 4] = [
        ("what stands before the @", Box::new(move |text| strict(text.split('@').next()?))),
        ("a name that ends at a NUL", Box::new(move |text| strict(text.split('\0').next()?))),
        (
            "the port is what the last colon says",
            Box::new(move |text| strict(text.split_once(':')?.0).map(|p| (p.0, 80))),
        ),
        (
            "escapes are decoded",
            Box::new(move |text| {
                strict(&text.replace("%2e", ".")).filter(|p| p.0 != text).map(|p| (format!("{}.x", p.0), p.1))
            }),
        ),
    ];
    for (mistake, parser) in mistakes {
        let found = hunt((7, Until::Inputs(ITERATIONS)), seeds(include_str!("../../fuzz/host.txt")), HOSTS, |bytes| {
            agrees(&parser, bytes)
        });
        assert!(matches!(found, Err(Finding { .. })), "{mistake}: {found:?}");
    }
}

/// Request targets as a proxy gets them: the host that is decided about is the host in the whole URL.
#[test]
fn target() {
    let words: Vec<&[u8]> = HOSTS.iter().copied().chain([&b"http://"[..], b"//", b"HTTP://", b"https://"]).collect();
    hold("target", include_str!("../../fuzz/target.txt"), &words, |bytes| {
        let Ok(uri) = http::Uri::try_from(bytes) else { return class("no target") };
        let Some(authority) = uri.authority() else { return class("no authority") };
        let whole = uri.scheme_str() == Some("http");
        let Ok(target) = HostPort::parse(authority.as_str(), whole.then_some(80)) else { return class("refused") };
        let text = &*String::from_utf8_lossy(bytes);
        if whole {
            let punycode = target.host.as_str().split('.').any(|label| label.starts_with("xn--"));
            match read_by_others(text) {
                Some(theirs) => assert_eq!(theirs, (target.host.to_string(), target.port), "{text:?}"),
                None => assert!(punycode, "{text:?}"),
            }
        }
        class((whole, uri.scheme_str().map(str::to_owned), uri.query().is_some(), target.port))
    });
}

#[test]
fn address() {
    hold("address", include_str!("../../fuzz/address.txt"), &[&[0xff, 0xff], &[127, 0, 0, 1], &[0x20, 2]], |bytes| {
        let mut octets = [0_u8; 16];
        for (to, from) in octets.iter_mut().zip(bytes) {
            *to = *from;
        }
        let six = Ipv6Addr::from(octets);
        let four = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
        let inner = four.is_private() || four.is_loopback() || four.is_link_local() || four.is_multicast();
        let inner = inner || four.is_broadcast() || four.is_documentation() || four.is_unspecified();
        let judged = address::check(IpAddr::V4(four));
        assert!(!inner || judged.is_err(), "{four}");
        assert_eq!(address::check(IpAddr::V6(four.to_ipv6_mapped())), judged, "{four} in another coat");
        let refused = six.is_loopback() || six.is_unspecified() || six.is_multicast() || six.is_unique_local();
        let refused = refused || six.is_unicast_link_local();
        let judged_six = address::check(IpAddr::V6(six));
        assert!(!refused || judged_six.is_err(), "{six}");
        if let Some(mapped) = six.to_ipv4_mapped() {
            assert_eq!(judged_six, address::check(IpAddr::V4(mapped)), "{six}");
        }
        class((format!("{judged:?}"), format!("{judged_six:?}")))
    });
}

/// What rustls, as a server, reads in the same bytes: the name of a hello that it takes.
fn accepted(bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
        }
    }
    None
}

fn hello(bytes: &[u8]) -> Class {
    let read = sni::inspect(bytes);
    match &read {
        Ok(Hello::Complete { server_name }) => {
            let longer = [bytes, b"\x17\x03\x03\x00\x01x"].concat();
            assert_eq!(sni::inspect(&longer), read, "what comes behind changes nothing");
            if let (Ok(ours), Some(theirs)) = (HostName::parse(server_name), accepted(bytes)) {
                assert_eq!(theirs.as_deref(), Some(ours.as_str()), "two readers, two names");
            }
        }
        Ok(Hello::Incomplete { needed }) => {
            assert!(*needed > bytes.len() && *needed <= sni::HELLO_BYTES_MAX, "{needed} of {}", bytes.len());
        }
        Err(_) => {}
    }
    // Arriving in two parts it is read alike, or not yet.
    let early = sni::inspect(bytes.get(..bytes.len() / 2).unwrap_or_default());
    match &early {
        Ok(Hello::Incomplete { .. }) => {}
        Ok(Hello::Complete { .. }) => assert_eq!(early, read, "half of it says otherwise"),
        // Why it is refused may be seen better later; that it is may not change.
        Err(_) => assert!(read.is_err(), "what half of it was refused for is gone"),
    }
    class(match read {
        Ok(Hello::Complete { .. }) => (accepted(bytes).is_some(), String::from("complete")),
        Ok(Hello::Incomplete { needed }) => (false, format!("{}", needed / 64)),
        Err(error) => (false, error.to_string()),
    })
}

#[test]
fn tls() {
    let whole = hellos::real_hello("api.example.com");
    let name = hellos::name_extension(b"api.example.com");
    let words: [&[u8]; 6] =
        [&name, b"\xfe\x0d\x00\x01\x00", b"\x16\x03\x01", b"\x00\x00", b"API.EXAMPLE.COM", b"evil\0."];
    let (seed, until) = super::wishes(ITERATIONS);
    let mut given = seeds(include_str!("../../fuzz/tls.txt"));
    given.extend([hellos::in_records(&whole, 100), hellos::hello_with(&name), whole.clone()]);
    match hunt((seed, until), given, &words, hello) {
        Ok(tried) => {
            println!("tls: {} inputs, {} classes of outcomes, seed {seed}", tried.inputs, tried.classes);
            assert!(tried.classes > 5);
        }
        Err(Finding { input, said }) => panic!("tls, seed {seed}: {said}\n{}", super::hex(&input)),
    }
}

/// On hellos as they are really sent both readers say the same, and not nothing.
#[test]
fn real_hellos_are_read_as_rustls_reads_them() {
    for host in ["a.b", "api.example.com", "xn--bcher-kva.example", &format!("{}.example", "a".repeat(63))] {
        for bytes in [hellos::real_hello(host), hellos::in_records(&hellos::real_hello(host), 64)] {
            assert_eq!(sni::inspect(&bytes), Ok(Hello::Complete { server_name: host.to_owned() }));
            assert_eq!(accepted(&bytes), Some(Some(host.to_owned())));
        }
    }
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

const JSON: &[&[u8]] = &[
    b"\"jsonrpc\":\"2.0\",",
    b"\"method\":\"tools/call\",",
    b"\"id\":1,",
    b"\"\\u0061\"",
    b"\\ud800",
    b"1e999",
    b"[[[[",
    b"{\"a\":",
    b"null",
    b"-0",
    b"\"id\":\"1\",",
    b"\"result\":{}",
    b"\"params\":{}",
];

#[test]
fn json_check() {
    hold("json", include_str!("../../fuzz/json.txt"), JSON, |bytes| {
        if let Err(error) = json::check(bytes) {
            return class(error.to_string().split(" at line").next());
        }
        let value: serde_json::Value = serde_json::from_slice(bytes).expect("what is checked can be read");
        assert!(depth(&value) <= cogward_model::limits::JSON_DEPTH_MAX);
        // Keys that are told apart stay apart, whoever writes them again.
        let again = serde_json::to_vec(&value).expect("it can be written");
        json::check(&again).expect("and is still taken");
        class((depth(&value), value.is_object()))
    });
}

#[test]
fn message() {
    hold("message", include_str!("../../fuzz/message.txt"), JSON, |bytes| {
        crate::mcp::fuzz_message(bytes).map_or(0, class)
    });
}

#[test]
fn events() {
    let words: &[&[u8]] =
        &[b"data:", b"data: ", b"\r\n\r\n", b"\n\n", b"\r", b": x\n", b"event: message_stop\n", b"data\n"];
    hold_for(ITERATIONS / 4, "events", include_str!("../../fuzz/events.txt"), words, |bytes| {
        class((crate::model::fuzz_events(bytes), crate::mcp::fuzz_events(bytes)))
    });
}

#[test]
fn otlp() {
    let words: &[&[u8]] = &[
        b"cogward.run.id",
        b"\x0a\x00",
        b"\x12\x00",
        b"\x0a\x80\x01",
        b"\xff\xff\xff\xff\x0f",
        b"\"resourceSpans\":[",
        b"{\"key\":\"cogward.tenant\"}",
        b"\x1f\x8b\x08",
    ];
    let file = include_str!("../../fuzz/otlp.txt");
    hold_for(ITERATIONS / 4, "otlp", file, words, |bytes| class(crate::telemetry::fuzz_export(bytes)));
}

const MEMBERS: &[&[u8]] = &[
    b"\"name\":1,",
    b"\"n\\u0061me\":2",
    b"\"_meta\":{}",
    b"\"\":0",
    b"1.50",
    b"\\n",
    b"\\ud83d\\ude00",
    b" \t",
    b"{}",
];

#[test]
fn members() {
    hold("members", include_str!("../../fuzz/members.txt"), MEMBERS, |bytes| {
        class(mcp::fuzz_members(mcp::fuzz_members_of, bytes))
    });
}

#[test]
fn members_with_a_mistake_are_found_out() {
    type Change = fn(FuzzedPairs) -> FuzzedPairs;
    let mistakes: [(&str, Change); 4] = [
        ("a key as it is written", |pairs| {
            let written = |key: String| serde_json::Value::from(key).to_string().trim_matches('"').to_owned();
            pairs.into_iter().map(|(key, value)| (written(key), value)).collect()
        }),
        ("no key without letters", |pairs| pairs.into_iter().filter(|(key, _)| !key.is_empty()).collect()),
        ("numbers as a float has them", |pairs| {
            let float = |text: &str| text.parse().map_or_else(|_| text.to_owned(), |number: f64| number.to_string());
            pairs.into_iter().map(|(key, value)| (key, float(&value))).collect()
        }),
        ("in the order of the alphabet", |mut pairs| {
            pairs.sort();
            pairs
        }),
    ];
    let wrong = mistakes.map(|(mistake, change)| {
        let read = move |bytes: &[u8]| mcp::fuzz_members_of(bytes).map(change);
        (mistake, move |bytes: &[u8]| class(mcp::fuzz_members(read, bytes)))
    });
    found_out(include_str!("../../fuzz/members.txt"), MEMBERS, wrong);
}

const STATES: &[&[u8]] = &[b"=", b"+/", b"-_", b"AAAA", b"\n", b" "];

#[test]
fn state() {
    let given = FuzzedState::new();
    let file = format!("{}\n{}", include_str!("../../fuzz/state.txt"), given.text);
    hold("state", &file, STATES, |bytes| class(mcp::fuzz_state(&given, |text| given.shown(text), bytes)));
}

#[test]
fn a_reader_of_states_with_a_mistake_is_found_out() {
    let given = FuzzedState::new();
    let file = format!("{}\n{}", include_str!("../../fuzz/state.txt"), given.text);
    type Reader<'a> = Box<dyn Fn(&str) -> &'static str + 'a>;
    let mistakes: [(&str, Reader<'_>); 3] = [
        ("spaces are passed over", Box::new(|text| given.shown(&text.replace([' ', '\n', '\r', '\t'], "")))),
        ("what follows is not looked at", Box::new(|text| given.shown(text.get(..given.text.len()).unwrap_or(text)))),
        (
            "only the beginning has to fit",
            Box::new(|text| if text.get(..40) == given.text.get(..40) { "other" } else { "forged" }),
        ),
    ];
    let wrong = mistakes.into_iter().map(|(mistake, reader)| {
        let given = &given;
        (mistake, move |bytes: &[u8]| class(mcp::fuzz_state(given, &reader, bytes)))
    });
    found_out(&file, STATES, wrong);
}
