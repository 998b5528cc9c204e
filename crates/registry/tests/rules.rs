//! Rules that compare a manifest with what the plane has.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use cogward_registry::{
    manifest::{Parsed, parse, template},
    rules::{Known, check},
};

fn parsed() -> Parsed {
    let text = template("clerk").replace(
        "  permissions: {}             # nothing is permitted yet; for example:\n",
        "  permissions:\n    tools:\n      - server: files\n        allow: [read_text_file, list_directory]\n    models:\n      - provider: scripted\n        name: demo-model\n",
    );
    parse("agent.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

fn known() -> Known {
    let tools: BTreeSet<_> = ["read_text_file", "list_directory"].map(|t| t.parse().unwrap()).into();
    Known {
        tenants: ["default".parse().unwrap()].into(),
        tool_servers: BTreeMap::from([("files".parse().unwrap(), Some(tools))]),
        providers: BTreeMap::from([("scripted".parse().unwrap(), BTreeSet::from(["demo-model".to_owned()]))]),
        ..Known::default()
    }
}

fn said(known: &Known) -> String {
    check(&parsed(), known).to_string()
}

#[test]
fn what_the_plane_has_is_accepted() {
    assert_eq!(said(&known()), "");
}

#[test]
fn what_the_plane_does_not_have_is_named_with_its_line() {
    let mut none = known();
    none.tool_servers.clear();
    none.providers.clear();
    assert_eq!(
        said(&none),
        "agent.yaml:25:9: spec.permissions.tools[0].server: tenant `default` has no tool server `files` \
         [unknown-tool-server]; fix: add it with `cogward tool-server add files`\n\
         agent.yaml:28:9: spec.permissions.models[0].provider: tenant `default` has no provider `scripted` \
         [unknown-provider]; fix: add it with `cogward provider add scripted`"
    );
    let mut less = known();
    less.tool_servers.insert("files".parse().unwrap(), Some(["read_text_file".parse().unwrap()].into()));
    less.providers.insert("scripted".parse().unwrap(), BTreeSet::new());
    assert_eq!(
        said(&less),
        "agent.yaml:26:33: spec.permissions.tools[0].allow[1]: the tool server `files` does not offer \
         `list_directory` [unknown-tool]; fix: use one of `read_text_file`\n\
         agent.yaml:29:9: spec.permissions.models[0].name: the provider `scripted` has no price for `demo-model`, \
         so its cost cannot be limited [model-without-price]; fix: add its price to the provider"
    );
    let mut silent = known();
    silent.tool_servers.insert("files".parse().unwrap(), None);
    assert!(said(&silent).contains("[tool-server-silent]"));
    assert!(said(&Known::default()).contains("agent.yaml:7:3: metadata.tenant: there is no tenant `default`"));
}
