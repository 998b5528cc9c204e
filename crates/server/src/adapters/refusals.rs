//! What the proxy refused, as a security event: derived from the decision that it has recorded, and from nothing else.

use cogward_gateway::egress::address;
use cogward_model::{
    RunId,
    event::{Event, EventType, Value},
};

/// Names of this host and of the metadata of clouds. They are refused because nobody declares them; that somebody
/// asks for them says more than that.
const INSIDE: [&str; 5] =
    ["localhost", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"];

/// A connection that was refused because of what it asked for, not because of a budget or of the plane's own state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RefusedConnection {
    pub(crate) run: RunId,
    /// What was wrong with it; the words of `cogward_model::violation::CLASSES`.
    pub(crate) action: &'static str,
    /// Host and port.
    pub(crate) object: String,
}

fn text<'a>(event: &'a Event, name: &str) -> &'a str {
    match event.fields.iter().find(|field| field.name == name).map(|field| &field.value) {
        Some(Value::Text(text)) => text,
        _ => "",
    }
}

impl RefusedConnection {
    /// What a record says, if it is of one.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        if event.kind != EventType::EgressDecided || text(event, "decision") != "block" {
            return None;
        }
        let run = event.run?;
        let host = text(event, "host");
        let action = match (text(event, "code"), text(event, "rule")) {
            ("address_refused", "egress.host") if is_public(host) => "address",
            ("address_refused", "egress.host" | "egress.address") => "inside-address",
            ("credential_misused", _) => "misused-credential",
            // Another host, method or path than the one that was asked for; not an address.
            ("address_refused", "egress.host_header") | ("not_declared", "egress.form") => "disguised",
            ("not_declared", _) if is_inside(host) => "inside-address",
            ("not_declared", _) => "undeclared",
            (_, "egress.tls") => "disguised",
            ("invalid_request", _) => "malformed",
            _ => return None,
        };
        let port = event.fields.iter().find(|field| field.name == "port").map(|field| &field.value);
        let object = match port {
            Some(Value::Int(port)) if *port > 0 => format!("{host}:{port}"),
            // Of what could not be parsed, the whole of it is the host.
            _ => host.to_owned(),
        };
        Some(Self { run, action, object })
    }
}

fn is_inside(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    INSIDE.contains(&host.as_str()) || host.ends_with(".localhost")
}

/// Whether it is an address in its plain spelling, with or without a port, that the internet could route. Any other
/// spelling (a number, hexadecimal, octal) is there to hide what it is.
fn is_public(text: &str) -> bool {
    let bare = text.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    bare.or_else(bracketed).is_some_and(|ip| address::check(ip).is_ok())
}

#[cfg(test)]
mod tests {
    use cogward_model::{
        Id, SystemClock, SystemEntropy, TenantName,
        event::Attribution,
        violation::{EGRESS, Severity, severity},
    };

    use super::*;

    fn event(decision: &'static str, code: &'static str, rule: &'static str, host: &str, port: u64) -> Event {
        Event::new(EventType::EgressDecided, TenantName::default_tenant(), Attribution::plane())
            .run(Id::new(&SystemClock, &SystemEntropy))
            .public("decision", decision)
            .public("code", code)
            .public("rule", rule)
            .public("host", host)
            .public("port", port)
    }

    #[test]
    fn refusals_by_what_was_asked_for() {
        for (code, rule, host, port, wanted) in [
            ("address_refused", "egress.host", "169.254.169.254:80", 0, Some(("inside-address", Severity::High))),
            ("address_refused", "egress.host", "169.254.169.254", 80, Some(("inside-address", Severity::High))),
            ("address_refused", "egress.host", "[::1]:443", 0, Some(("inside-address", Severity::High))),
            ("address_refused", "egress.host", "2130706433", 0, Some(("inside-address", Severity::High))),
            ("address_refused", "egress.host", "0x7f.1", 80, Some(("inside-address", Severity::High))),
            ("address_refused", "egress.host", "[::ffff:10.0.0.1]", 80, Some(("inside-address", Severity::High))),
            ("address_refused", "egress.address", "api.example.com", 443, Some(("inside-address", Severity::High))),
            (
                "not_declared",
                "permissions.egress",
                "metadata.google.internal",
                80,
                Some(("inside-address", Severity::High)),
            ),
            ("not_declared", "permissions.egress", "Localhost.", 80, Some(("inside-address", Severity::High))),
            ("address_refused", "egress.host", "1.1.1.1:443", 0, Some(("address", Severity::Warning))),
            ("address_refused", "egress.host", "[2606:4700::1111]:443", 0, Some(("address", Severity::Warning))),
            ("not_declared", "permissions.egress", "pypi.org", 443, Some(("undeclared", Severity::Warning))),
            ("address_refused", "egress.tls", "api.example.com", 443, Some(("disguised", Severity::Warning))),
            ("invalid_request", "egress.tls", "api.example.com", 443, Some(("disguised", Severity::Warning))),
            ("address_refused", "egress.host_header", "api.example.com", 443, Some(("disguised", Severity::Warning))),
            ("not_declared", "egress.form", "api.example.com", 443, Some(("disguised", Severity::Warning))),
            (
                "credential_misused",
                "egress.credential",
                "api.example.com",
                443,
                Some(("misused-credential", Severity::High)),
            ),
            ("invalid_request", "egress.host", "a b", 0, Some(("malformed", Severity::Warning))),
            ("throttled", "limits.callsInFlight", "api.example.com", 443, None),
            ("budget_exceeded", "budgets.run.toolCalls", "api.example.com", 443, None),
            ("lifecycle_fence", "lifecycle.run", "api.example.com", 443, None),
            ("upstream_unavailable", "egress.dial", "api.example.com", 443, None),
        ] {
            let found = RefusedConnection::of(&event("block", code, rule, host, port));
            let said = found.as_ref().map(|f| (f.action, severity(EGRESS, f.action, &f.object)));
            assert_eq!(said, wanted, "{code} {rule} {host}");
            assert!(RefusedConnection::of(&event("permit", code, rule, host, port)).is_none());
        }
        let found = RefusedConnection::of(&event("block", "not_declared", "permissions.egress", "pypi.org", 443));
        assert_eq!(found.unwrap().object, "pypi.org:443");
    }
}
