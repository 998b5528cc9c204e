//! `spec.sandbox.workspace`, `inputs` and `outputs`: the files of a run.

use std::collections::BTreeSet;

use cogward_model::{
    ContentName,
    limits::{CONTENT_MIB_MAX, CONTENTS_MAX},
    manifest::{Input, Medium, Output, Workspace},
};

use super::{
    check,
    fields::{Field, Fields, Sink, shown},
};

type Files = (Workspace, Vec<Input>, Vec<Output>);

const NAME: &str = "use 1 to 64 letters, digits, `.`, `-` and `_`, starting with a letter or digit";

/// The three sections; `None` when one could not be read whole.
pub(crate) fn files(map: &mut Fields<'_>, sink: &mut Sink) -> Option<Files> {
    let workspace = match map.optional("workspace", sink) {
        Some(field) => workspace(&field, sink),
        None => Some(Workspace::default()),
    };
    let before = sink.count();
    let inputs = map.optional("inputs", sink).map(|field| inputs(&field, sink)).unwrap_or_default();
    let outputs = map.optional("outputs", sink).map(|field| outputs(&field, sink)).unwrap_or_default();
    if sink.count() != before {
        return None;
    }
    Some((workspace?, inputs, outputs))
}

/// `resources.workspaceInodes`.
pub(crate) fn inodes(map: &mut Fields<'_>, sink: &mut Sink) -> Option<Option<u32>> {
    match map.optional("workspaceInodes", sink) {
        Some(field) => field.number32(64..=1_048_576, sink).map(Some),
        None => Some(None),
    }
}

fn workspace(field: &Field<'_>, sink: &mut Sink) -> Option<Workspace> {
    let mut map = field.fields(sink)?;
    let medium = match map.optional("medium", sink) {
        Some(f) => f.word(&[("memory", Medium::Memory), ("disk", Medium::Disk)], sink),
        None => Some(Medium::default()),
    };
    let from = match map.optional("from", sink) {
        Some(f) => f.text(1..=1_024, sink).map(|path| {
            check::inner_path(&path, &f.path, sink);
            Some(path)
        }),
        None => Some(None),
    };
    map.finish(sink);
    Some(Workspace { medium: medium?, from: from? })
}

/// What inputs and outputs share: the name, which is used once, and the bound.
fn named(
    map: &mut Fields<'_>,
    names: &mut BTreeSet<ContentName>,
    sink: &mut Sink,
) -> (Option<ContentName>, Option<u32>, bool) {
    let name = map.required("name", NAME, sink);
    let path = name.as_ref().map(|f| f.path.clone());
    let name: Option<ContentName> = name.and_then(|f| f.typed("name", NAME, sink));
    if let (Some(name), Some(path)) = (&name, path)
        && !names.insert(name.clone())
    {
        sink.on(&path, "duplicate-name", format!("`{name}` is there twice"), "give each a name of its own");
    }
    let most = map.required("maxMib", "limit its size in MiB", sink);
    let most = most.and_then(|f| f.number32(1..=CONTENT_MIB_MAX, sink));
    let required = map.optional("required", sink).and_then(|f| f.truth(sink)).unwrap_or_default();
    (name, most, required)
}

fn inputs(field: &Field<'_>, sink: &mut Sink) -> Vec<Input> {
    let (mut inputs, mut names) = (Vec::new(), BTreeSet::new());
    for item in field.items(CONTENTS_MAX, sink) {
        let Some(mut map) = item.fields(sink) else { continue };
        let (name, max_mib, required) = named(&mut map, &mut names, sink);
        map.finish(sink);
        if let (Some(name), Some(max_mib)) = (name, max_mib) {
            inputs.push(Input { name, max_mib, required });
        }
    }
    inputs
}

fn outputs(field: &Field<'_>, sink: &mut Sink) -> Vec<Output> {
    const PATH: &str = "write it as `/work/report.pdf`, without `.` and `..`";
    let (mut outputs, mut names) = (Vec::new(), BTreeSet::new());
    for item in field.items(CONTENTS_MAX, sink) {
        let Some(mut map) = item.fields(sink) else { continue };
        let (name, max_mib, required) = named(&mut map, &mut names, sink);
        let path = map.required("path", PATH, sink);
        let at = path.as_ref().map(|f| f.path.clone()).unwrap_or_default();
        let path = path.and_then(|f| f.text(1..=1_024, sink));
        map.finish(sink);
        if let (Some(name), Some(max_mib), Some(path)) = (name, max_mib, path) {
            let output = Output { name, path, max_mib, required };
            if output.below_work().is_none() {
                let problem = format!("`{}` is not a plain path under `/work`", shown(&output.path));
                sink.on(&at, "output-path", problem, PATH);
            }
            outputs.push(output);
        }
    }
    outputs
}
