//! Documents of APIs, which come from whoever runs the API and become tools and requests.

use std::collections::BTreeSet;

use cogward_openapi::{DocumentError, Import, Selection, read};

use super::{Class, ITERATIONS, found_out, hold_for, targets::class};
use crate::json;

const WORDS: &[&[u8]] = &[
    b"\"$ref\":\"#/components/schemas/A\"",
    b"{\"$ref\":\"#\"}",
    b"/{id}",
    b"/../",
    b"%2e%2e",
    b"\"in\":\"header\",\"name\":\"Host\"",
    b"\"in\":\"path\"",
    b"\"required\":true",
    b"\"operationId\":\"a b\"",
    b"&a [*a]",
    b"\"get\":{}",
    b"\"schema\":{}",
    b"\"servers\":[{\"url\":\"http://169.254.169.254\"}]",
];
/// Arguments of all kinds for whatever parameters there are.
const ARGUMENTS: [&str; 3] =
    ["{}", r#"{"id":"../..","q":"a&b=c#","X-Note":"a\r\nb","body":{}}"#, r#"{"id":"a/b?c","q":[1,2]}"#];

fn document(reader: impl Fn(&[u8]) -> Result<Import, DocumentError>, bytes: &[u8]) -> Class {
    let import = match reader(bytes) {
        Ok(import) => import,
        Err(error) => return class(error.to_string().chars().take(24).collect::<String>()),
    };
    assert_eq!(reader(bytes).ok().as_ref(), Some(&import), "another reading, another document");
    let names: BTreeSet<&str> = import.operations.iter().map(|operation| operation.name.as_str()).collect();
    assert!(
        names.iter().copied().eq(import.operations.iter().map(|o| o.name.as_str())),
        "one name, one tool, in order"
    );
    let mut requests = 0;
    for operation in &import.operations {
        let definition = operation.definition();
        json::check(definition.as_bytes()).expect("a definition is JSON that is read in one way");
        let value: serde_json::Value = serde_json::from_str(definition).expect("as was checked");
        assert_eq!(value["name"], operation.name.as_str());
        assert!(value["inputSchema"].is_object(), "{definition}");
        for arguments in ARGUMENTS {
            let Ok(planned) = operation.plan_request(arguments) else { continue };
            requests += 1;
            let path = planned.target.split('?').next().unwrap_or_default();
            assert!(path.starts_with('/') && !path.starts_with("//"), "{path}");
            assert!(planned.target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{}", planned.target);
            let leaves =
                |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
            assert!(!path.split(['/', '\\']).any(leaves), "{path}");
            for (name, value) in &planned.headers {
                let own = ["host", "authorization", "cookie", "content-length", "transfer-encoding", "connection"];
                assert!(!own.contains(&name.to_ascii_lowercase().as_str()), "{name}");
                assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{value:?}");
            }
        }
    }
    class((import.operations.len(), import.left_out.len().min(4), requests))
}

fn ours(bytes: &[u8]) -> Result<Import, DocumentError> {
    read(bytes, &Selection::default())
}

#[test]
fn openapi() {
    hold_for(ITERATIONS / 8, "openapi", include_str!("../../fuzz/openapi.txt"), WORDS, |bytes| document(ours, bytes));
}

#[test]
fn a_reader_of_documents_with_a_mistake_is_found_out() {
    type Change = fn(&mut Import);
    let mistakes: [(&str, Change); 3] = [
        ("a tool twice", |import| import.operations.extend(import.operations.first().cloned())),
        ("tools in the order of the file", |import| import.operations.reverse()),
        ("the last tool has the name of the first", |import| {
            let first = import.operations.first().map(|operation| operation.name.clone());
            if let (Some(first), Some(last)) = (first, import.operations.last_mut()) {
                last.name = first;
            }
        }),
    ];
    let wrong = mistakes.map(|(mistake, change)| {
        let reader = move |bytes: &[u8]| {
            ours(bytes).map(|mut import| {
                change(&mut import);
                import
            })
        };
        (mistake, move |bytes: &[u8]| document(reader, bytes))
    });
    found_out(include_str!("../../fuzz/openapi.txt"), WORDS, wrong);
}
