//! Whether a number of JSON is more than a whole one, exactly, however it is written. A cap that were off by the last
//! digit would raise a number that it is to hold.

/// The digits of the greatest whole number that a cap can name.
const DIGITS_MAX: i64 = 19;

/// Whether a number is more than `most`; `None` when it is no number as JSON writes them.
pub(super) fn exceeds(text: &str, most: i64) -> Option<bool> {
    let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
        None => (rest, 0),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [integer, fraction].concat();
    if integer.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Some(most < 0);
    }
    // How many of the significant digits stand before the point.
    let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
    let before = length(significant).saturating_sub(length(fraction)).saturating_add(exponent);
    if before > DIGITS_MAX {
        return Some(!negative);
    }
    let before = usize::try_from(before).unwrap_or(0);
    let there = significant.get(..before).unwrap_or(significant);
    let is_whole = significant.get(before..).is_none_or(|after| after.bytes().all(|b| b == b'0'));
    // At most nineteen digits.
    let whole: i128 = format!("{there:0<before$}").parse().unwrap_or(0);
    let most = i128::from(most);
    Some(match negative {
        false => whole > most || (whole == most && !is_whole),
        // Below nought the part behind the point makes it less, but never by a whole one.
        true => -whole > most,
    })
}

/// An exponent; one that is out of all range is held at the end of it.
fn read_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let size = digits.parse::<i64>().unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_compared_to_its_last_digit() {
        for (text, most, more) in [
            ("100", 100, false),
            ("100.0", 100, false),
            ("100.00000000000000000000000000000000001", 100, true),
            ("99.99999999999999999999999999999999999", 100, false),
            ("1e2", 100, false),
            ("1.000000001e2", 100, true),
            ("1000e-1", 100, false),
            ("-0.00001", 0, false),
            ("-0.00001", -1, true),
            ("-1.00001", -1, false),
            ("-1", -1, false),
            ("-0", -1, true),
            ("0.0e99999999999999999999", 0, false),
            ("1e-99999999999999999999", 0, true),
            ("1e-99999999999999999999", 1, false),
            ("1e99999999999999999999", i64::MAX, true),
            ("-1e99999999999999999999", i64::MIN, false),
            ("9223372036854775807", i64::MAX, false),
            ("9223372036854775807.5", i64::MAX, true),
            ("9223372036854775808", i64::MAX, true),
            ("-9223372036854775808", i64::MIN, false),
            ("-9223372036854775808.5", i64::MIN, false),
            ("-9223372036854775807.5", i64::MIN, true),
        ] {
            assert_eq!(exceeds(text, most), Some(more), "{text} > {most}");
        }
        let long = format!("0.{}1", "0".repeat(500));
        assert_eq!((exceeds(&long, 0), exceeds(&long, 1)), (Some(true), Some(false)));
        for text in ["", "-", "x", "\"5\"", "null", "1e", "1e+", "1x", ".5", "1.2.3"] {
            assert_eq!(exceeds(text, 1), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_arithmetic(units in any::<i64>(), places in 0_usize..12, most in -50_i64..50) {
            let size = units.unsigned_abs().to_string();
            let size = format!("{size:0>width$}", width = places + 1);
            let (whole, fraction) = size.split_at(size.len() - places);
            let point = if places > 0 { "." } else { "" };
            let text = format!("{}{whole}{point}{fraction}", if units < 0 { "-" } else { "" });
            let more = i128::from(units) > i128::from(most) * 10_i128.pow(u32::try_from(places).unwrap());
            prop_assert_eq!(exceeds(&text, most), Some(more), "{}", text);
            let shifted = format!("{units}e-{places}");
            prop_assert_eq!(exceeds(&shifted, most), Some(more), "{}", shifted);
        }
    }
}
