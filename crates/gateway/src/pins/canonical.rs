//! RFC 8785: the one writing of a JSON value, so that a digest is of what is said and not of how it was typed.
//!
//! The ledger has a writer of its own for values without fractions and with ASCII keys; definitions of tools have
//! both. Numbers are doubles, as the RFC has it: integers beyond 2^53 are taken as the nearest double. What is
//! served and checked is the text that was approved, never its canonical form.

use std::fmt::Write as _;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::json::{self, JsonError};

/// Members of `_meta` that belong to one request and not to the definition.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// Why a text has no canonical form.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// It is not JSON that we take: a key twice, too deep.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A text holds half of a character, or a number is beyond every double.
    #[error("it holds a text or a number that has no one form")]
    Form,
}

/// The canonical form of a definition: of the whole of it, except what belongs to the request that it answered.
///
/// # Errors
/// [`CanonicalError`].
pub fn definition(raw: &str) -> Result<String, CanonicalError> {
    json::check(raw.as_bytes())?;
    let mut out = String::with_capacity(raw.len());
    let value: &RawValue = serde_json::from_str(raw).map_err(|_| CanonicalError::Form)?;
    let mut members = members(value)?;
    if let Some((_, meta)) = members.iter_mut().find(|(key, _)| key == "_meta")
        && meta.get().starts_with('{')
    {
        let kept: Vec<_> = self::members(meta)?.into_iter().filter(|(key, _)| !TRACE.contains(&key.as_str())).collect();
        let mut text = String::new();
        object(&mut text, kept)?;
        *meta = RawValue::from_string(text).map_err(|_| CanonicalError::Form)?;
    }
    object(&mut out, members)?;
    Ok(out)
}

/// The canonical form of any value.
///
/// # Errors
/// [`CanonicalError`].
pub fn canonical(raw: &str) -> Result<String, CanonicalError> {
    json::check(raw.as_bytes())?;
    let mut out = String::with_capacity(raw.len());
    value(&mut out, serde_json::from_str(raw).map_err(|_| CanonicalError::Form)?)?;
    Ok(out)
}

// The depth is bounded by the check before.
fn value(out: &mut String, raw: &RawValue) -> Result<(), CanonicalError> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'{') => object(out, members(raw)?)?,
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| CanonicalError::Form)?;
            out.push('[');
            for (place, item) in items.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                value(out, item)?;
            }
            out.push(']');
        }
        Some(b'"') => string(out, &serde_json::from_str::<String>(text).map_err(|_| CanonicalError::Form)?)?,
        Some(b'-' | b'0'..=b'9') => number(out, text.parse().map_err(|_| CanonicalError::Form)?)?,
        _ => out.push_str(text),
    }
    Ok(())
}

fn object(out: &mut String, mut members: Vec<(String, Box<RawValue>)>) -> Result<(), CanonicalError> {
    // By UTF-16 code units: beyond the basic plane that is another order than that of the bytes.
    members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    out.push('{');
    for (place, (key, member)) in members.into_iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        string(out, &key)?;
        out.push(':');
        value(out, &member)?;
    }
    out.push('}');
    Ok(())
}

fn string(out: &mut String, text: &str) -> Result<(), CanonicalError> {
    out.push_str(&serde_json::to_string(text).map_err(|_| CanonicalError::Form)?);
    Ok(())
}

/// A number as ECMAScript writes it.
fn number(out: &mut String, number: f64) -> Result<(), CanonicalError> {
    if !number.is_finite() {
        return Err(CanonicalError::Form);
    }
    if number == 0.0 {
        out.push('0');
        return Ok(());
    }
    // The fewest digits that give the number again and, of so many, the closest; of two as close, the even one.
    let mut text = format!("{:e}", number.abs());
    let digits = text.bytes().take_while(|b| *b != b'e').filter(u8::is_ascii_digit).count();
    let closest = format!("{:.*e}", digits.saturating_sub(1), number.abs());
    if closest.parse() == Ok(number.abs()) {
        text = closest;
    }
    let (mantissa, exponent) = text.split_once('e').ok_or(CanonicalError::Form)?;
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let count = i32::try_from(digits.len()).map_err(|_| CanonicalError::Form)?;
    let point = exponent.parse::<i32>().map_err(|_| CanonicalError::Form)? + 1;
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or_default());
    if number < 0.0 {
        out.push('-');
    }
    if (count..=21).contains(&point) {
        let _ = write!(out, "{digits}{}", zeros(point - count));
    } else if (1..=21).contains(&point) {
        let (whole, part) = digits.split_at(usize::try_from(point).unwrap_or_default());
        let _ = write!(out, "{whole}.{part}");
    } else if (-5..=0).contains(&point) {
        let _ = write!(out, "0.{}{digits}", zeros(-point));
    } else {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        let sign = if point > 0 { '+' } else { '-' };
        let _ = write!(out, "{first}{dot}{rest}e{sign}{}", (point - 1).abs());
    }
    Ok(())
}

/// The members of an object in the order in which they stand.
fn members(raw: &RawValue) -> Result<Vec<(String, Box<RawValue>)>, CanonicalError> {
    struct Members(Vec<(String, Box<RawValue>)>);
    impl<'de> Deserialize<'de> for Members {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct InOrder;
            impl<'de> Visitor<'de> for InOrder {
                type Value = Members;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                    let mut members = Vec::new();
                    while let Some(member) = map.next_entry()? {
                        members.push(member);
                    }
                    Ok(Members(members))
                }
            }
            deserializer.deserialize_map(InOrder)
        }
    }
    serde_json::from_str(raw.get()).map(|Members(members)| members).map_err(|_| CanonicalError::Form)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The samples of the RFC's appendix B.
    #[test]
    fn numbers_as_the_rfc_has_them() {
        for (bits, wanted) in [
            (0x0000_0000_0000_0000_u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            let mut out = String::new();
            number(&mut out, f64::from_bits(bits)).unwrap();
            assert_eq!(out, wanted);
        }
        assert_eq!(canonical("[1e2,1.50,100,-0.0,1E+21,0.1e1]").unwrap(), "[100,1.5,100,0,1e+21,1]");
        assert!(canonical("1e400").is_err());
    }

    /// The samples of the RFC's sections 3.2.2 and 3.2.3.
    #[test]
    fn texts_and_keys_as_the_rfc_has_them() {
        let sample = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
            "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let wanted = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
            \"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(canonical(sample).unwrap(), wanted);
        let keys = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh",
            "1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let order = canonical(keys).unwrap();
        let places: Vec<_> =
            ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"].map(|w| order.find(w).unwrap()).into();
        assert!(places.is_sorted(), "{order}");
    }

    #[test]
    fn what_readers_disagree_on_has_no_form() {
        for bad in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":1}"#, r#""\ud800""#, r#"{"\udc00":1}"#, "{} {}", "", "nul"] {
            assert!(canonical(bad).is_err(), "{bad}");
        }
        assert!(canonical(&format!("{}{}", "[".repeat(65), "]".repeat(65))).is_err());
        assert_eq!(canonical(" [ ] ").unwrap(), "[]");
        assert_eq!(canonical("[[ ],{ }]").unwrap(), "[[],{}]");
    }

    #[test]
    fn a_definition_is_all_of_it_but_the_trace_of_a_request() {
        let one = r#"{"name":"a","description":"d","_meta":{"x":1,"traceparent":"00-1"},"new":[1]}"#;
        let two = r#"{ "new":[1.0], "_meta":{"traceparent":"00-2","x":1e0}, "description":"\u0064","name":"a"}"#;
        assert_eq!(definition(one).unwrap(), definition(two).unwrap());
        for other in [
            r#"{"name":"a","description":"d","_meta":{"x":2},"new":[1]}"#,
            r#"{"name":"a","description":"d","_meta":{"x":1},"new":[2]}"#,
            r#"{"name":"a","description":"d","_meta":{"x":1}}"#,
            r#"{"name":"a","description":"d\u200b","_meta":{"x":1},"new":[1]}"#,
        ] {
            assert_ne!(definition(one).unwrap(), definition(other).unwrap(), "{other}");
        }
        assert!(definition("[1]").is_err());
    }

    fn values() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_filter_map("finite", |n| serde_json::Number::from_f64(n).map(serde_json::Value::Number)),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                proptest::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// However it is typed, it has one form, and that form is its own.
        #[test]
        fn one_form_and_its_own(value in values()) {
            let plain = canonical(&value.to_string()).unwrap();
            let typed = canonical(&serde_json::to_string_pretty(&value).unwrap()).unwrap();
            prop_assert_eq!(&plain, &typed);
            prop_assert_eq!(&canonical(&plain).unwrap(), &plain);
        }

        /// A double is itself again.
        #[test]
        fn a_number_reads_back(bits: u64) {
            let given = f64::from_bits(bits);
            let mut out = String::new();
            if number(&mut out, given).is_ok() {
                prop_assert_eq!(out.parse::<f64>().unwrap(), given);
            }
        }
    }
}
