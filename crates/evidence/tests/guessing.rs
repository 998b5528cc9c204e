//! Whoever holds an exported pack and no disclosure guesses what is hidden in it: with every word that is likely, and every way of
//! hashing that a careless ledger would use.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_ledger::commitment::Disclosure;
use cogward_model::event::{Attribution, Event, EventType, Value};
use support::{new_run, open, tenant};

/// What a hidden value is likely to be. Each is recorded in every hidden field that can hold it.
const LIKELY: [&str; 6] = ["anna@example.org", "1970-01-01", "approved", "yes", "", "0"];

/// The hidden fields of every event, by the schema that the plane is held to: event, field, class, kind of value.
fn hidden() -> Vec<(String, String, String, String)> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/events.v1.json");
    let schema: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut found = Vec::new();
    for (kind, event) in schema["events"].as_object().unwrap() {
        let groups = event["groups"].as_array().unwrap().iter().map(|group| &schema["groups"][group.as_str().unwrap()]);
        let fields: BTreeMap<_, _> =
            groups.chain([&event["fields"]]).flat_map(|fields| fields.as_object().unwrap()).collect();
        for (field, of) in fields {
            let (class, value) = of.as_str().unwrap().split_once(' ').unwrap();
            if class != "public" {
                found.push((kind.clone(), field.clone(), class.to_owned(), value.to_owned()));
            }
        }
    }
    found
}

/// Every commitment in a leaf, with the field whose value it hides.
fn commitments(body: &serde_json::Value) -> impl Iterator<Item = (&String, &str)> {
    body.as_object().unwrap().iter().filter_map(|(field, value)| Some((field, value.get("$c")?.as_str()?)))
}

/// What a guesser hashes for a value of a field: without a salt, with an empty one, with one that can be known from the leaf.
fn guesses(field: &str, value: &str, public: &[String]) -> Vec<String> {
    let json = serde_json::to_string(value).unwrap();
    let mut texts = vec![
        value.to_owned(),
        json.clone(),
        format!("{field}{value}"),
        format!("{field}:{value}"),
        format!("{{\"{field}\":{json}}}"),
    ];
    texts.push(format!("[{json}]"));
    texts.push(format!("[\"{field}\",{json}]"));
    let zero = URL_SAFE_NO_PAD.encode([0; 16]);
    for salt in ["", "0", &zero].into_iter().chain(public.iter().map(String::as_str)) {
        texts.push(format!("[\"{salt}\",\"{field}\",{json}]"));
        texts.push(format!("[\"{}\",\"{field}\",{json}]", URL_SAFE_NO_PAD.encode(salt)));
        texts.push(format!("{salt}{value}"));
    }
    let encoded: Vec<String> = texts.iter().map(|text| URL_SAFE_NO_PAD.encode(text)).collect();
    texts.extend(encoded);
    texts.iter().map(|text| URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))).collect()
}

#[tokio::test]
async fn no_likely_value_opens_a_commitment_of_an_exported_pack() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let fields = hidden();
    assert!(fields.len() > 100, "{}", fields.len());
    let kinds: BTreeMap<&str, EventType> = EventType::ALL.iter().map(|kind| (kind.as_str(), *kind)).collect();
    let run = new_run();
    for likely in LIKELY {
        let mut by_kind: BTreeMap<&str, Event> = BTreeMap::new();
        for (kind, field, class, of) in &fields {
            let event = by_kind.entry(kind.as_str()).or_insert_with(|| {
                let agent = Some(("claims".parse().unwrap(), "1.0.0".parse().unwrap()));
                Event::new(
                    kinds[kind.as_str()],
                    tenant("acme"),
                    Attribution { agent, subject: Some(likely.to_owned()) },
                )
            });
            let name: &'static str = field.clone().leak();
            let value = if of == "map" {
                Value::Map(BTreeMap::from([("is".to_owned(), likely.into())]))
            } else {
                likely.into()
            };
            let taken = std::mem::replace(event, Event::new(event.kind, tenant("acme"), Attribution::plane()));
            *event = match class.as_str() {
                "personal" => taken.personal(name, value),
                "confidential" => taken.confidential(name, value),
                other => panic!("a class that this test does not know: {other}"),
            };
        }
        for event in by_kind.into_values() {
            let event = if event.kind == EventType::ToolCallDecided { event.run(run) } else { event };
            evidence.record(event).await.unwrap();
        }
    }
    let pack = dir.path().join("pack");
    let leaves = evidence.export(&tenant("acme"), &pack).await.unwrap().leaves;
    let (mut seen, mut found, mut tried) = (BTreeMap::<String, usize>::new(), BTreeSet::new(), 0_u64);
    cogward_ledger::whole::leaves(&pack, leaves, |number, leaf| {
        let leaf: serde_json::Value = serde_json::from_slice(leaf).unwrap();
        let (body, chain) = (&leaf["body"], &leaf["chain"]);
        let mut public: Vec<String> =
            body.as_object().unwrap().values().filter_map(|value| value.as_str().map(str::to_owned)).collect();
        public.extend([number.to_string(), chain["time"].to_string(), chain["time"].as_str().unwrap().to_owned()]);
        public.extend(chain["prev"].as_str().map(str::to_owned));
        for (field, commitment) in commitments(body) {
            *seen.entry(format!("{} {field}", body["type"].as_str().unwrap())).or_default() += 1;
            assert!(found.insert(commitment.to_owned()), "the same commitment twice: equal values can be seen");
            for likely in LIKELY {
                let guesses = guesses(field, likely, &public);
                tried += guesses.len() as u64;
                assert!(!guesses.iter().any(|guess| guess == commitment), "{likely:?} opens {field} of leaf {number}");
            }
        }
        // Nor is anything of it in clear beside its commitment.
        let text = leaf.to_string();
        assert!(!text.contains("anna@example.org") && !text.contains("1970-01-01"), "{text}");
        Ok(())
    })
    .unwrap();
    for (kind, field, ..) in &fields {
        assert_eq!(
            seen.get(&format!("{kind} {field}")),
            Some(&LIKELY.len()),
            "{kind} {field} is not in the pack as a commitment"
        );
    }
    assert!(tried > 100_000, "{tried}");
    // No other file of the pack has them either.
    for path in support::files(&pack) {
        let bytes = std::fs::read(&path).unwrap();
        for likely in ["anna@example.org", "1970-01-01"] {
            assert!(!bytes.windows(likely.len()).any(|part| part == likely.as_bytes()), "{}", path.display());
        }
    }
}

/// The guesser above is a real one: a commitment whose salt can be known is opened.
#[test]
fn a_commitment_with_a_salt_that_can_be_known_would_be_guessed() {
    let opened = |commitment: &str, public: &[String]| {
        LIKELY.iter().any(|likely| guesses("args", likely, public).iter().any(|guess| guess == commitment))
    };
    let salted = |salt: &[u8; 16]| Disclosure::new(salt, "args", &Value::from("1970-01-01")).unwrap().commitment();
    assert!(opened(&salted(&[0; 16]), &[]));
    let plain = URL_SAFE_NO_PAD.encode(digest(&SHA256, b"1970-01-01"));
    assert!(opened(&plain, &[]));
    let of_its_number = URL_SAFE_NO_PAD.encode(digest(&SHA256, b"71970-01-01"));
    assert!(opened(&of_its_number, &["7".to_owned()]) && !opened(&of_its_number, &["8".to_owned()]));
    assert!(!opened(&salted(&[7; 16]), &[]));
}
