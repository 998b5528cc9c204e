//! What a run is given: declared, complete and within its bounds, or the run is refused.

use std::{collections::BTreeSet, path::PathBuf};

use cogward_model::{
    ContentName,
    content::{Content, GivenInput},
    event::Value,
    manifest,
};

use crate::errors::StartError;

/// A file or a directory that was sent for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartInput {
    /// The input of the manifest that it is for.
    pub name: ContentName,
    /// The directory of the upload, which the run takes over. The file or the directory is [`UPLOADED`] in it.
    pub upload: PathBuf,
    /// What it is.
    pub content: Content,
}

/// What an upload is called in its directory.
pub const UPLOADED: &str = "content";

/// Checks what is given against what is declared.
pub(crate) fn check(declared: &[manifest::Input], given: &[StartInput]) -> Result<(), StartError> {
    let refuse = |name: &ContentName, why: String| Err(StartError::Input { name: name.clone(), why });
    let mut names = BTreeSet::new();
    for input in given {
        let Some(wanted) = declared.iter().find(|d| d.name == input.name) else {
            let known: Vec<_> = declared.iter().map(|d| format!("`{}`", d.name)).collect();
            return refuse(
                &input.name,
                match known.as_slice() {
                    [] => "the version declares no inputs".to_owned(),
                    _ => format!("the version does not declare it; it declares {}", known.join(", ")),
                },
            );
        };
        if !names.insert(&input.name) {
            return refuse(&input.name, "it is given twice".to_owned());
        }
        if input.content.bytes > u64::from(wanted.max_mib) * 1024 * 1024 {
            let why = format!("it has {} bytes, and the version takes {} MiB", input.content.bytes, wanted.max_mib);
            return refuse(&input.name, why);
        }
    }
    match declared.iter().find(|wanted| wanted.required && !names.contains(&wanted.name)) {
        Some(missing) => refuse(&missing.name, "it is required and was not given".to_owned()),
        None => Ok(()),
    }
}

/// As it is recorded.
pub(crate) fn recorded(given: &[GivenInput]) -> Value {
    let one = |input: &GivenInput| {
        Value::Map(
            [("name".to_owned(), input.name.as_str().into())].into_iter().chain(content(&input.content)).collect(),
        )
    };
    Value::List(given.iter().map(one).collect())
}

/// What a file or a directory is, for the evidence.
pub(crate) fn content(content: &Content) -> [(String, Value); 4] {
    [
        ("kind".to_owned(), content.kind.as_str().into()),
        ("digest".to_owned(), content.digest.to_string().into()),
        ("bytes".to_owned(), content.bytes.into()),
        ("entries".to_owned(), content.entries.into()),
    ]
}

#[cfg(test)]
mod tests {
    use cogward_model::{Digest, content::ContentKind};

    use super::*;

    fn given(name: &str, bytes: u64) -> StartInput {
        let content = Content { kind: ContentKind::File, digest: Digest::from_bytes([1; 32]), bytes, entries: 1 };
        StartInput { name: name.parse().unwrap(), upload: "/nowhere".into(), content }
    }

    #[test]
    fn what_is_not_declared_too_large_missing_or_given_twice_is_refused() {
        let wants = |name: &str, required| manifest::Input { name: name.parse().unwrap(), max_mib: 1, required };
        let declared = [wants("claims", true), wants("rules", false)];
        let check = |given: &[StartInput]| check(&declared, given).map_err(|e| e.to_string());
        assert_eq!(check(&[given("claims", 1 << 20)]), Ok(()));
        assert_eq!(check(&[given("rules", 0), given("claims", 5)]), Ok(()));
        for (inputs, why) in [
            (vec![], "the input `claims`: it is required and was not given"),
            (vec![given("rules", 1)], "the input `claims`: it is required and was not given"),
            (
                vec![given("claims", 1), given("other", 1)],
                "the input `other`: the version does not declare it; it declares `claims`, `rules`",
            ),
            (vec![given("claims", 1), given("claims", 1)], "the input `claims`: it is given twice"),
            (
                vec![given("claims", (1 << 20) + 1)],
                "the input `claims`: it has 1048577 bytes, and the version takes 1 MiB",
            ),
        ] {
            assert_eq!(check(&inputs), Err(why.to_owned()));
        }
        let none = super::check(&[], &[given("claims", 1)]).unwrap_err().to_string();
        assert_eq!(none, "the input `claims`: the version declares no inputs");
    }
}
