//! `spec.access`: who may act as the agent from outside its sandbox.

use std::collections::HashSet;

use cogward_model::{
    UpstreamName,
    manifest::{Access, OutsideGrant},
};

use super::{
    fields::{Field, Sink},
    sections::texts,
};

/// Grants to issuers.
const GRANTS_MAX: usize = 32;
/// Clients, or subjects, of one grant.
const NAMED_MAX: usize = 1_024;

pub(crate) fn access(field: &Field<'_>, sink: &mut Sink) -> Option<Access> {
    let mut map = field.fields(sink)?;
    let outside = map.optional("outside", sink).map(|f| outside(&f, sink)).unwrap_or_default();
    map.finish(sink);
    Some(Access { outside })
}

fn outside(field: &Field<'_>, sink: &mut Sink) -> Vec<OutsideGrant> {
    const NAME: &str = "name an issuer of the tenant: `cogward issuer list`";
    let mut grants = Vec::new();
    let mut seen = HashSet::new();
    for item in field.items(GRANTS_MAX, sink) {
        let Some(mut map) = item.fields(sink) else { continue };
        let issuer = map.required("issuer", NAME, sink);
        let issuer = issuer.and_then(|f| f.typed::<UpstreamName>("name", NAME, sink));
        let clients = map.required("clients", "list the clients, as the issuer names them in `client_id`", sink);
        let clients = clients.map(|f| named(&f, sink));
        let subjects = map.optional("subjects", sink).map(|f| named(&f, sink));
        map.finish(sink);
        let (Some(issuer), Some(clients)) = (issuer, clients) else { continue };
        for client in &clients {
            if !seen.insert((issuer.clone(), client.clone())) {
                let problem = format!("the client `{}` of `{issuer}` is let in twice", super::fields::shown(client));
                sink.on(&item.path, "duplicate-grant", problem, "keep one of the two");
            }
        }
        grants.push(OutsideGrant { issuer, clients, subjects });
    }
    grants
}

/// Names as an issuer writes them. A list of nobody is a mistake: whoever wants nobody leaves the grant out.
fn named(field: &Field<'_>, sink: &mut Sink) -> Vec<String> {
    let names = texts(field, NAMED_MAX, 1..=256, sink);
    if names.is_empty() {
        sink.on(&field.path, "bound", "nobody is named", "name at least one, or remove the grant");
    }
    for name in &names {
        if name.chars().any(char::is_control) || name == "*" {
            sink.on(
                &field.path,
                "name",
                "this is no name; there are no patterns here",
                "write the name as the issuer does",
            );
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use crate::manifest::{parse, template};

    fn rules(section: &str) -> Result<usize, Vec<String>> {
        let text = template("clerk").replace("  budgets:\n", &format!("{section}  budgets:\n"));
        match parse("agent.yaml", text.as_bytes()) {
            Ok(parsed) => Ok(parsed.manifest.spec.access.outside.len()),
            Err(findings) => Err(findings.findings.iter().map(|finding| finding.rule.to_string()).collect()),
        }
    }

    #[test]
    fn the_door_is_closed_unless_it_says_for_whom_it_is_open() {
        assert_eq!(rules(""), Ok(0));
        assert_eq!(rules("  access: {}\n"), Ok(0));
        let open = "  access:\n    outside:\n      - {issuer: corp, clients: [ide], subjects: [alice]}\n";
        assert_eq!(rules(open), Ok(1));
        for (section, rule) in [
            ("  access:\n    outside:\n      - {issuer: corp}\n", "missing-field"),
            ("  access:\n    outside:\n      - {clients: [ide]}\n", "missing-field"),
            ("  access:\n    outside:\n      - {issuer: corp, clients: []}\n", "bound"),
            ("  access:\n    outside:\n      - {issuer: corp, clients: [ide], subjects: []}\n", "bound"),
            ("  access:\n    outside:\n      - {issuer: corp, clients: ['*']}\n", "name"),
            ("  access:\n    outside:\n      - {issuer: Corp, clients: [ide]}\n", "name"),
            ("  access:\n    outside:\n      - {issuer: corp, clients: [ide, ide]}\n", "duplicate-grant"),
        ] {
            let found = rules(section).unwrap_err();
            assert!(found.iter().any(|r| r == rule), "{section}: {found:?}");
        }
        assert!(rules("  access: {everyone: true}\n").is_err());
    }
}
