//! The part of the corpus that is about how a leaf is written.

use super::{Case, key, push, signed};

/// Leaves that readers of JSON might take for different things.
pub(super) fn cases(all: &mut Vec<Case>) {
    let good = concat!(
        r#"{"body":{"act":null,"id":"evt_1","n":1,"run":"run_1","run_prev":null,"run_seq":1,"tenant":"acme","type":"x","v":1},"#,
        r#""chain":{"prev":null,"seq":0,"time":"2026-11-22T10:11:12.123456Z"}}"#
    );
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    // In place of the field's value 1; true where it is one more writing that everybody reads alike.
    let values: &[(&str, String, bool)] = &[
        ("as-it-is", "1".into(), true),
        ("key-twice", "1,\"n\":2".into(), false),
        ("key-twice-further-in", "{\"a\":1,\"a\":2}".into(), false),
        ("key-twice-by-an-escape", "{\"a\":1,\"\\u0061\":2}".into(), false),
        ("keys-not-sorted", "{\"b\":1,\"a\":1}".into(), false),
        ("keys-sorted", "{\"a\":1,\"b\":1}".into(), true),
        ("key-not-ascii", "{\"ä\":1}".into(), false),
        ("key-empty", "{\"\":1}".into(), true),
        ("key-not-a-text", "{1:1}".into(), false),
        ("fraction", "1.0".into(), false),
        ("exponent", "1e2".into(), false),
        ("exponent-upper-case", "1E2".into(), false),
        ("huge-exponent", "1e999".into(), false),
        ("not-a-number", "NaN".into(), false),
        ("infinite", "Infinity".into(), false),
        ("minus-zero", "-0".into(), false),
        ("zero", "0".into(), true),
        ("minus-alone", "-".into(), false),
        ("plus", "+1".into(), false),
        ("leading-zero", "01".into(), false),
        ("hexadecimal", "0x1".into(), false),
        ("greatest-integer", "9007199254740992".into(), true),
        ("beyond-the-greatest-integer", "9007199254740993".into(), false),
        ("least-integer", "-9007199254740992".into(), true),
        ("beyond-the-least-integer", "-9007199254740993".into(), false),
        ("integer-of-64-bits", "18446744073709551615".into(), false),
        ("integer-that-never-ends", "9".repeat(5_000), false),
        ("lone-high-surrogate", "\"\\ud800\"".into(), false),
        ("lone-low-surrogate", "\"\\udc00\"".into(), false),
        ("pair-of-surrogates", "\"\\ud83d\\ude00\"".into(), false),
        ("beyond-the-basic-plane", "\"😀\"".into(), true),
        ("escape-of-a-letter", "\"\\u0041\"".into(), false),
        ("escape-of-a-slash", "\"\\/\"".into(), false),
        ("escape-in-upper-case", "\"\\u001F\"".into(), false),
        ("escape-of-a-line-feed-by-number", "\"\\u000a\"".into(), false),
        ("escapes-as-they-must-be", "\"\\u001f\\b\\t\\n\\f\\r\\\"\\\\\"".into(), true),
        ("control-character", "\"\u{1}\"".into(), false),
        ("delete-character", "\"\u{7f}\"".into(), true),
        ("line-separator", "\"\u{2028}\"".into(), true),
        ("byte-order-mark", "\"\u{feff}\"".into(), true),
        // Texts are bytes: nothing is normalised, the two are different, and both are canonical.
        ("composed", "\"é\"".into(), true),
        ("decomposed", "\"e\u{301}\"".into(), true),
        ("not-closed", "\"a".into(), false),
        ("space", " 1".into(), false),
        ("line-feed", "1\n".into(), false),
        ("comment", "1/**/".into(), false),
        ("single-quotes", "'a'".into(), false),
        ("trailing-comma", "[1,]".into(), false),
        ("leading-comma", "[,1]".into(), false),
        ("no-comma", "[1 2]".into(), false),
        ("no-value", "".into(), false),
        ("undefined", "undefined".into(), false),
        ("true-upper-case", "True".into(), false),
        ("as-deep-as-allowed", deep(65), true),
        ("deeper-than-allowed", deep(66), false),
        ("much-deeper", deep(5_000), false),
    ];
    for (name, value, same) in values {
        let leaf = good.replacen("\"n\":1", &format!("\"n\":{value}"), 1);
        let verdict = if *same { ("ok", Some(1)) } else { ("form", Some(0)) };
        push(all, format!("value-{name}"), signed(&[leaf.into_bytes()], &key(3)), verdict);
    }
    let edits: &[(&str, &str, &str, &'static str)] = &[
        ("version-true", "\"v\":1", "\"v\":true", "form"),
        ("version-text", "\"v\":1", "\"v\":\"1\"", "form"),
        ("version-left-out", ",\"v\":1", "", "form"),
        ("number-false", "\"seq\":0", "\"seq\":false", "form"),
        ("number-text", "\"seq\":0", "\"seq\":\"0\"", "form"),
        ("number-negative", "\"seq\":0", "\"seq\":-1", "form"),
        ("number-of-another", "\"seq\":0", "\"seq\":1", "seq"),
        ("predecessor-a-number", "\"prev\":null", "\"prev\":7", "form"),
        ("predecessor-empty", "\"prev\":null", "\"prev\":\"\"", "prev"),
        ("id-with-an-escape", "\"evt_1\"", "\"evt\\n1\"", "form"),
        ("id-a-number", "\"evt_1\"", "7", "form"),
        ("id-left-out", "\"id\":\"evt_1\",", "", "form"),
        ("type-left-out", "\"type\":\"x\",", "", "form"),
        ("tenant-left-out", "\"tenant\":\"acme\",", "", "form"),
        ("tenant-null", "\"acme\"", "null", "form"),
        ("run-number-true", "\"run_seq\":1", "\"run_seq\":true", "form"),
        ("run-number-two", "\"run_seq\":1", "\"run_seq\":2", "run_chain"),
        ("run-null", "\"run\":\"run_1\"", "\"run\":null", "run_chain"),
        ("run-a-list", "\"run\":\"run_1\"", "\"run\":[]", "form"),
        ("month-thirteen", "2026-11-22", "2026-13-22", "time"),
        ("february-thirtieth", "2026-11-22", "2026-02-30", "time"),
        ("leap-second", "10:11:12", "23:59:60", "time"),
        ("before-the-epoch", "2026-11-22", "1969-11-22", "time"),
        ("other-digits", "2026-11-22", "٢٠٢٦-11-22", "time"),
        ("milliseconds", "12.123456Z", "12.123Z", "time"),
        ("other-zone", "12.123456Z", "12.123456+00:00", "time"),
        ("lower-case-zone", "12.123456Z", "12.123456z", "time"),
        ("more-behind-the-chain", "}}", "},\"extra\":1}", "form"),
        ("more-within-the-chain", "56Z\"}", "56Z\",\"zone\":1}", "form"),
        ("more-before-the-body", "{\"body\"", "{\"a\":1,\"body\"", "form"),
        ("space-behind", "}}", "}} ", "form"),
        ("a-list", good, "[]", "form"),
        ("lists-within", good, "{\"body\":[],\"chain\":[]}", "form"),
        ("nothing", good, "", "form"),
    ];
    for (name, from, to, what) in edits {
        assert!(good.contains(from), "{from}");
        let leaf = good.replacen(from, to, 1);
        push(all, format!("leaf-{name}"), signed(&[leaf.into_bytes()], &key(3)), (what, Some(0)));
    }
    push(all, "leaf-not-utf-8", signed(&[b"\"\xff\"".to_vec()], &key(3)), ("form", Some(0)));
}
