//! `spec.permissions`: what an agent may reach.

use std::collections::HashSet;

use cogward_model::http_scope::PathPattern;
use cogward_model::manifest::{
    CredentialGrant, EgressGrant, EgressProtocol, Inspect, ModelGrant, Permissions, ToolGrant,
};
use cogward_model::name_scope::NamePattern;

use super::{
    environment,
    fields::{Field, Sink, shown},
    hosts::canonical_host,
    sections::texts,
};

/// Entries of each list under `spec.permissions`.
const GRANTS_MAX: usize = 256;
/// Methods of one inspected host.
const METHODS_MAX: usize = 16;
/// Path patterns of one inspected host.
const PATHS_MAX: usize = 256;
/// Tools of one server that a manifest may permit.
const TOOLS_MAX: usize = 1_024;
/// Patterns of resources, and of prompts, of one server.
const NAMES_MAX: usize = 256;
const OUTPUT_TOKENS_DEFAULT: u32 = 4_096;
const NAME: &str = "use 1 to 63 lower-case letters, digits and hyphens, starting with a letter";

pub(crate) fn permissions(field: &Field<'_>, sink: &mut Sink) -> Option<Permissions> {
    let mut map = field.fields(sink)?;
    let tools = map.optional("tools", sink).map(|f| tools(&f, sink)).unwrap_or_default();
    let models = map.optional("models", sink).map(|f| models(&f, sink)).unwrap_or_default();
    let egress = map.optional("egress", sink).map(|f| egress(&f, sink)).unwrap_or_default();
    let memory = match map.optional("memory", sink) {
        Some(f) => {
            let named = texts(&f, GRANTS_MAX, 1..=200, sink);
            if !named.is_empty() {
                let problem = "a memory is a tool server of the plane's own, so the grant could not be enforced here";
                sink.on(&f.path, "memory-store", problem, "grant its tools under `permissions.tools`");
            }
            named
        }
        None => Vec::new(),
    };
    let scopes = map.optional("scopes", sink).map(|f| scopes(&f, sink)).unwrap_or_default();
    let audiences = map.optional("audiences", sink).map(|f| audiences(&f, sink)).unwrap_or_default();
    map.finish(sink);
    Some(Permissions { tools, models, egress, memory, scopes, audiences })
}

/// Refuses what was granted before: two grants of one thing hide which one counts.
fn once<K: Eq + std::hash::Hash>(seen: &mut HashSet<K>, key: K, what: String, path: &str, sink: &mut Sink) {
    if !seen.insert(key) {
        sink.on(path, "duplicate-grant", format!("{what} is granted twice"), "keep one of the two");
    }
}

fn tools(field: &Field<'_>, sink: &mut Sink) -> Vec<ToolGrant> {
    let mut servers = HashSet::new();
    let mut grants = Vec::new();
    for item in field.items(GRANTS_MAX, sink) {
        let Some(mut map) = item.fields(sink) else { continue };
        let server = map.required("server", "name a registered tool server", sink);
        let server = server.and_then(|f| f.typed("name", NAME, sink));
        let (mut allow, mut empty) = (Vec::new(), None);
        if let Some(list) = map.required("allow", "list the tools that may be called", sink) {
            let mut seen = HashSet::new();
            let before = sink.count();
            for tool in list.items(TOOLS_MAX, sink) {
                let fix = "name one tool as its server names it; every tool is named, there are no patterns";
                if let Some(name) = tool.typed::<cogward_model::ToolName>("name", fix, sink) {
                    once(&mut seen, name.clone(), format!("the tool `{name}`"), &tool.path, sink);
                    allow.push(name);
                }
            }
            // A server may be there for its resources or prompts alone.
            empty = (allow.is_empty() && sink.count() == before).then_some(list.path);
        }
        let resources = map.optional("resources", sink).map(|f| names(&f, sink)).unwrap_or_default();
        let prompts = map.optional("prompts", sink).map(|f| names(&f, sink)).unwrap_or_default();
        let sampling = map.optional("sampling", sink).and_then(|f| f.text(1..=200, sink));
        if let Some(path) = empty.filter(|_| resources.is_empty() && prompts.is_empty()) {
            sink.on(&path, "bound", "the list is empty", "name a tool, or remove the whole grant");
        }
        map.finish(sink);
        let Some(server): Option<cogward_model::UpstreamName> = server else { continue };
        once(&mut servers, server.clone(), format!("the server `{server}`"), &item.path, sink);
        grants.push(ToolGrant { server, allow, resources, prompts, sampling });
    }
    grants
}

/// Patterns of the names of resources or prompts.
fn names(field: &Field<'_>, sink: &mut Sink) -> Vec<NamePattern> {
    let mut seen = HashSet::new();
    let mut patterns = Vec::new();
    for item in field.items(NAMES_MAX, sink) {
        let fix = "write the name as its server has it, with at most 4 `*` for any characters";
        if let Some(pattern) = item.typed::<NamePattern>("pattern", fix, sink) {
            once(&mut seen, pattern.to_string(), format!("`{pattern}`"), &item.path, sink);
            patterns.push(pattern);
        }
    }
    patterns
}

fn models(field: &Field<'_>, sink: &mut Sink) -> Vec<ModelGrant> {
    let mut seen = HashSet::new();
    let mut grants = Vec::new();
    for item in field.items(GRANTS_MAX, sink) {
        let Some(mut map) = item.fields(sink) else { continue };
        let provider = map.required("provider", "name a registered provider", sink);
        let provider = provider.and_then(|f| f.typed("name", NAME, sink));
        let name = map.required("name", "name the model as the provider and the agent name it", sink);
        let name = name.and_then(|f| f.text(1..=200, sink));
        let most = match map.optional("maxOutputTokens", sink) {
            Some(f) => f.number32(1..=1_000_000, sink),
            None => Some(OUTPUT_TOKENS_DEFAULT),
        };
        map.finish(sink);
        let (Some(provider), Some(name), Some(max_output_tokens)) = (provider, name, most) else { continue };
        // An agent asks for a model by its name alone, so a name can lead to one provider only.
        once(&mut seen, name.clone(), format!("the model `{}`", shown(&name)), &item.path, sink);
        grants.push(ModelGrant { provider, name, max_output_tokens });
    }
    grants
}

fn egress(field: &Field<'_>, sink: &mut Sink) -> Vec<EgressGrant> {
    let mut seen = HashSet::new();
    let mut grants = Vec::new();
    for item in field.items(GRANTS_MAX, sink) {
        let Some(mut map) = item.fields(sink) else { continue };
        let host = map.required("host", "name one exact host, such as `api.example.com`", sink);
        let host = host.and_then(|f| {
            let text = f.text(1..=1_024, sink)?;
            match canonical_host(&text) {
                Ok(host) => Some(host),
                Err(why) => {
                    let problem = format!("`{}` is not an exact host name: {why}", shown(&text));
                    sink.on(&f.path, "egress-host", problem, "name one exact public host, such as `api.example.com`");
                    None
                }
            }
        });
        let port = map.required("port", "give the TCP port, such as 443", sink);
        let port = port.and_then(|f| f.number(1..=65_535, sink)).and_then(|p| u16::try_from(p).ok());
        let protocol = match map.optional("protocol", sink) {
            Some(f) => f.word(&[("tls", EgressProtocol::Tls), ("http", EgressProtocol::Http)], sink),
            None => Some(EgressProtocol::default()),
        };
        let inspect = map.optional("inspect", sink).and_then(|f| {
            if protocol == Some(EgressProtocol::Http) {
                let problem = "plain HTTP is decided request by request without it, by host and port";
                sink.on(&f.path, "egress-inspect", problem, "remove it, or use `protocol: tls`");
            }
            inspect(&f, sink)
        });
        map.finish(sink);
        let (Some(host), Some(port), Some(protocol)) = (host, port, protocol) else { continue };
        once(&mut seen, (host.clone(), port), format!("`{host}:{port}`"), &item.path, sink);
        grants.push(EgressGrant { host, port, protocol, inspect });
    }
    let mut variables = HashSet::new();
    for grant in &grants {
        let credential = grant.inspect.as_ref().and_then(|i| i.credential.as_ref());
        if let Some(variable) = credential.and_then(|c| c.env.as_ref()) {
            once(&mut variables, variable.clone(), format!("the variable `{variable}`"), &field.path, sink);
        }
    }
    grants
}

fn inspect(field: &Field<'_>, sink: &mut Sink) -> Option<Inspect> {
    let mut map = field.fields(sink)?;
    let (mut methods, mut paths) = (Vec::new(), Vec::new());
    if let Some(list) = map.required("methods", "list the methods, such as `[GET, POST]`", sink) {
        let mut seen = HashSet::new();
        for item in list.items(METHODS_MAX, sink) {
            let Some(method) = item.text(1..=32, sink) else { continue };
            // `CONNECT` and `TRACE` have no place in a request that is forwarded.
            let plain = method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            if !plain || matches!(method.as_str(), "CONNECT" | "TRACE") {
                let problem = format!("`{}` is not a method that can be allowed", shown(&method));
                sink.on(&item.path, "method", problem, "write it in upper case, such as `GET`");
            }
            once(&mut seen, method.clone(), format!("the method `{}`", shown(&method)), &item.path, sink);
            methods.push(method);
        }
        nonempty(&list, methods.is_empty(), "list the methods, such as `[GET, POST]`", sink);
    }
    if let Some(list) = map.required("paths", "list the paths, such as `[/v1/*]`", sink) {
        let mut seen = HashSet::new();
        for item in list.items(PATHS_MAX, sink) {
            let fix = "write a path such as `/v1/models`, `/repos/*/issues` or `/v1/*`";
            if let Some(pattern) = item.typed::<PathPattern>("path", fix, sink) {
                once(&mut seen, pattern.to_string(), format!("the path `{pattern}`"), &item.path, sink);
                paths.push(pattern);
            }
        }
        nonempty(&list, paths.is_empty(), "list the paths, such as `[/v1/*]`", sink);
    }
    let credential = map.optional("credential", sink).and_then(|f| credential(&f, sink));
    map.finish(sink);
    Some(Inspect { methods, paths, credential })
}

fn nonempty(list: &Field<'_>, empty: bool, fix: &str, sink: &mut Sink) {
    if empty {
        sink.on(&list.path, "empty", "nothing is listed, so every request would be refused", fix);
    }
}

fn credential(field: &Field<'_>, sink: &mut Sink) -> Option<CredentialGrant> {
    let mut map = field.fields(sink)?;
    let name = map.required("name", "name a credential that an operator stored for the tenant", sink);
    let name = name.and_then(|f| f.typed("name", NAME, sink));
    let env = map.optional("env", sink).and_then(|f| {
        let variable = f.text(1..=128, sink)?;
        if !environment::is_free(&variable) {
            let problem = format!("`{}` is not the name of a variable, or the plane sets it itself", shown(&variable));
            sink.on(&f.path, "environment", problem, "choose another name, such as `API_TOKEN`");
        }
        Some(variable)
    });
    map.finish(sink);
    Some(CredentialGrant { name: name?, env })
}

fn scopes(field: &Field<'_>, sink: &mut Sink) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut scopes = Vec::new();
    for item in field.items(GRANTS_MAX, sink) {
        let Some(scope) = item.text(1..=256, sink) else { continue };
        // RFC 6749, 3.3.
        if !scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
            sink.on(&item.path, "scope", "this is not an OAuth scope", "use printable ASCII without spaces and quotes");
        }
        once(&mut seen, scope.clone(), format!("the scope `{}`", shown(&scope)), &item.path, sink);
        scopes.push(scope);
    }
    scopes
}

fn audiences(field: &Field<'_>, sink: &mut Sink) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut audiences = Vec::new();
    for item in field.items(GRANTS_MAX, sink) {
        let Some(audience) = item.text(1..=1_024, sink) else { continue };
        // RFC 8707, 2: an absolute URI without a fragment.
        let host = audience.strip_prefix("https://").map(|rest| rest.split(['/', '?', ':']).next().unwrap_or_default());
        let plain = audience.bytes().all(|b| b.is_ascii_graphic()) && !audience.contains(['#', '*', '@']);
        if !plain || host.is_none_or(str::is_empty) {
            let fix = "write the resource as `https://host/path`, without a fragment";
            sink.on(&item.path, "audience", "this is not the URI of a resource", fix);
        }
        once(&mut seen, audience.clone(), format!("the audience `{}`", shown(&audience)), &item.path, sink);
        audiences.push(audience);
    }
    audiences
}
