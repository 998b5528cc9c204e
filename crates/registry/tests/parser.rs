//! The reader of manifests against bytes that nobody wrote on purpose, and some that somebody did.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use cogward_registry::manifest::{parse, template};
use proptest::prelude::*;

fn rules(bytes: &[u8]) -> Vec<String> {
    parse("x.yaml", bytes).unwrap_err().findings.iter().map(|f| f.rule.to_string()).collect()
}

#[test]
fn a_manifest_of_ten_megabytes_is_refused_at_once() {
    let started = Instant::now();
    assert_eq!(rules(&b"a: b\n".repeat(2 << 20)), ["size"]);
    assert!(started.elapsed() < Duration::from_millis(100));
}

#[test]
fn bombs_are_refused_quickly() {
    let most = 250 * 1024;
    let nested_maps: String = (0..600).map(|n| format!("{}a:\n", " ".repeat(n.min(400)))).collect();
    let aliases = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n";
    let mut wrong: Vec<String> = Vec::new();
    for (name, text, rule) in [
        ("flow lists", "[".repeat(most), "syntax"),
        ("flow maps", "{a: ".repeat(most / 4), "syntax"),
        ("block lists", "- ".repeat(most / 2), "depth"),
        ("block maps", nested_maps, "depth"),
        ("aliases", aliases.to_owned(), "anchor"),
        ("questions", "? ".repeat(most / 2), "key-type"),
        ("one long scalar", "a".repeat(most), "type"),
        ("many keys", (0..20_000).map(|n| format!("k{n}: 1\n")).collect(), "unknown-field"),
        ("same keys", "k: 1\n".repeat(40_000), "duplicate-key"),
        ("many documents", "---\n".repeat(60_000), "one-document"),
        ("many quotes", "\"".repeat(most), "syntax"),
        ("many colons", ": ".repeat(most / 2), "key-type"),
        ("many anchors", "&a ".repeat(most / 3), "syntax"),
        ("many tags", "!a ".repeat(most / 3), "syntax"),
        ("tabs", "\t".repeat(most), "empty"),
        ("folded", format!("a: >\n{}", " x\n".repeat(most / 3)), "missing-field"),
    ] {
        let started = Instant::now();
        let found = parse("x.yaml", text.as_bytes()).unwrap_err();
        let took = started.elapsed();
        let found: Vec<_> = found.findings.iter().map(|f| f.rule.as_ref()).collect();
        eprintln!("{name}: {took:?} {:?}", &found[..found.len().min(4)]);
        wrong.extend((!found.contains(&rule)).then(|| format!("{name}: {found:?}")));
        assert!(took < Duration::from_secs(2), "{name} took {took:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn findings_are_bounded() {
    let text: String = (0..5_000).map(|n| format!("field{n}: 1\n")).collect();
    let findings = parse("x.yaml", text.as_bytes()).unwrap_err();
    assert_eq!(findings.findings.len(), 100);
    assert!(findings.more > 4_000 && findings.to_string().ends_with("more"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(parse("x.yaml", &bytes).is_err());
    }

    #[test]
    fn any_yaml_like_text_is_read_without_a_panic(text in "([a-z]{0,3}[:\\-\\[\\]{}&*!|>'\"%@`#?,~<= \n\t0-9.]{0,4}){0,60}") {
        let _ = parse("x.yaml", text.as_bytes());
    }

    /// One change to a good manifest is accepted or explained with a place in the file.
    #[test]
    fn a_changed_manifest_is_accepted_or_explained(at in 0_usize..1_900, new in "[ -~\n]{0,3}", cut in 0_usize..6) {
        let good = template("clerk");
        let mut bytes = good.into_bytes();
        let at = at.min(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, new.bytes());
        if let Err(findings) = parse("x.yaml", &bytes) {
            prop_assert!(!findings.is_empty());
            for finding in &findings.findings {
                prop_assert!(finding.line > 0 && finding.column > 0, "{}", finding);
                prop_assert!(!finding.problem.is_empty() && !finding.fix.is_empty());
            }
        }
    }
}
