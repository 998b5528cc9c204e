//! Every bad manifest of the corpus and what is said about it. Each `corpus/NAME.yaml` has its
//! expected findings in `corpus/NAME.txt`. Run with `COGWARD_BLESS=1` to write them anew, and review
//! the difference: it is what users read.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{collections::BTreeSet, fs, path::Path};

use cogward_registry::manifest::{canonical_json, parse, schema_text, sha256, template};

#[test]
fn every_bad_manifest_is_explained_as_before() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let bless = std::env::var_os("COGWARD_BLESS").is_some();
    let mut names: Vec<_> = fs::read_dir(&corpus).unwrap().map(|f| f.unwrap().path()).collect();
    names.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    names.sort();
    assert!(names.len() >= 20, "the corpus is there");
    let mut rules = BTreeSet::new();
    for path in names {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let findings = match parse(&file, &fs::read(&path).unwrap()) {
            Ok(_) => panic!("{file} was accepted"),
            Err(findings) => findings,
        };
        rules.extend(findings.findings.iter().map(|f| f.rule.to_string()));
        let said = format!("{findings}\n");
        let golden = path.with_extension("txt");
        if bless {
            fs::write(&golden, &said).unwrap();
        }
        assert_eq!(said, fs::read_to_string(&golden).unwrap_or_default(), "{file}");
    }
    let wanted = [
        "alias",
        "anchor",
        "api-version",
        "audience",
        "bound",
        "budget-contradiction",
        "character",
        "depth",
        "duplicate-grant",
        "duplicate-key",
        "duplicate-name",
        "egress-host",
        "empty",
        "encoding",
        "entrypoint",
        "key-length",
        "key-type",
        "kind",
        "layer-path",
        "memory-store",
        "merge-key",
        "missing-field",
        "model-not-permitted",
        "name",
        "no-float",
        "one-document",
        "output-path",
        "package-path",
        "skill-name",
        "package-source",
        "reserved-variable",
        "scope",
        "secret-in-environment",
        "syntax",
        "tag",
        "tier-package",
        "tool-form",
        "tool-not-permitted",
        "type",
        "unknown-field",
        "variable-name",
        "word",
        "workspace-memory",
    ];
    let missing: Vec<_> = wanted.iter().filter(|r| !rules.contains(**r)).collect();
    assert!(missing.is_empty(), "no example in the corpus for {missing:?}");
}

#[test]
fn the_examples_and_the_template_are_accepted() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for folder in fs::read_dir(examples).unwrap() {
        let path = folder.unwrap().path().join("agent.yaml");
        if let Ok(bytes) = fs::read(&path)
            && let Err(findings) = parse(&path.display().to_string(), &bytes)
        {
            panic!("{findings}");
        }
    }
    let parsed = parse("agent.yaml", template("clerk").as_bytes()).unwrap();
    assert!(parsed.manifest.spec.permissions.tools.is_empty());
    assert_eq!(parsed.manifest.spec.sandbox.grace_seconds, 10);
}

#[test]
fn the_canonical_text_is_one_text() {
    let text = template("clerk");
    let manifest = parse("a", text.as_bytes()).unwrap().manifest;
    let json = canonical_json(&manifest).unwrap();
    let again: cogward_model::manifest::Manifest = serde_json::from_str(&json).unwrap();
    assert_eq!(again, manifest);
    assert_eq!(canonical_json(&again).unwrap(), json);
    let other = text.replace("\"0.50\"", "\"0.5\"").replace("# nothing is permitted yet; for example:", "");
    let other = parse("b", other.as_bytes()).unwrap().manifest;
    assert_eq!(sha256(canonical_json(&other).unwrap().as_bytes()), sha256(json.as_bytes()), "layout does not count");
}

#[test]
fn the_published_schema_is_the_one_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/agent.v1alpha1.schema.json");
    let text = schema_text().unwrap();
    if std::env::var_os("COGWARD_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "run the test with COGWARD_BLESS=1 and commit the schema");
    for part in
        ["oneOf", "\"const\": \"Agent\"", "\"maximum\": 65535", "\"maximum\": 64000", "additionalProperties\": false"]
    {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let schema: serde_json::Value = serde_json::from_str(&schema_text().unwrap()).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manifest.md")).unwrap();
    let whole = guide.split("```yaml").nth(1).unwrap().split("```").next().unwrap().to_owned();
    for text in [template("clerk"), whole] {
        let manifest = parse("a", text.as_bytes()).unwrap().manifest;
        let good: serde_json::Value = serde_json::from_str(&canonical_json(&manifest).unwrap()).unwrap();
        assert!(
            validator.is_valid(&good),
            "{:?}",
            validator.iter_errors(&good).map(|e| e.to_string()).collect::<Vec<_>>()
        );
        for (at, key, value) in [
            ("", "kind", serde_json::json!("Robot")),
            ("/metadata", "name", serde_json::json!("Not_A_Name")),
            ("/metadata", "colour", serde_json::json!("red")),
            ("/metadata", "description", serde_json::Value::Null),
            ("/spec/package", "ociLayout", serde_json::json!("image")),
            ("/spec/sandbox", "graceSeconds", serde_json::json!(601)),
            ("/spec/budgets/run", "costUsd", serde_json::json!(0.5)),
        ] {
            let mut bad = good.clone();
            bad.pointer_mut(at).unwrap().as_object_mut().unwrap().insert(key.into(), value);
            assert!(!validator.is_valid(&bad), "{at}/{key}");
        }
    }
}

#[test]
fn the_guide_names_every_field() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manifest.md");
    let guide = fs::read_to_string(guide).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&schema_text().unwrap()).unwrap();
    let mut names = BTreeSet::new();
    properties(&schema, &mut names);
    assert!(names.len() > 40);
    let missing: Vec<_> = names.iter().filter(|n| !guide.contains(&format!("`{n}`"))).collect();
    assert!(missing.is_empty(), "docs/manifest.md does not say what {missing:?} mean");
    for block in guide.split("```yaml").skip(1).filter(|b| b.trim_start().starts_with("apiVersion")) {
        let text = block.split("```").next().unwrap();
        if let Err(findings) = parse("docs/manifest.md", text.as_bytes()) {
            panic!("{findings}");
        }
    }
}

fn properties(value: &serde_json::Value, names: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                if let ("properties", Some(fields)) = (key.as_str(), value.as_object()) {
                    names.extend(fields.keys().cloned());
                }
                properties(value, names);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|v| properties(v, names)),
        _ => {}
    }
}
