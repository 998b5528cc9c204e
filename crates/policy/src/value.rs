//! Values of arguments as policies see them. There are no floats: a number is a whole one of 64 bits or a decimal of
//! four places, exactly as written, or it is not seen at all.

use std::{collections::BTreeMap, fmt, str::FromStr};

use cedar_policy::RestrictedExpression;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The key that carries a decimal in JSON. An argument of that name is never offered to policies.
pub const DECIMAL_KEY: &str = "$decimal";

/// The most nested value that is taken.
pub const VALUE_DEPTH_MAX: usize = 16;

/// One record of values by name.
pub type Record = BTreeMap<String, Value>;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Long(i64),
    /// A number with up to four decimal places.
    Decimal(Decimal),
    /// Text.
    Text(String),
    /// A set, written as a list.
    Set(Vec<Value>),
    /// A record.
    Record(Record),
}

/// A number of ten-thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(i64);

/// Why a number cannot be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not a number as JSON writes them.
    #[error("it is not a number")]
    NotANumber,
    /// Too many decimal places.
    #[error("it has more than four decimal places")]
    TooFine,
    /// Out of range.
    #[error("it is out of the range that policies can compare")]
    OutOfRange,
}

impl Decimal {
    /// From ten-thousandths.
    #[must_use]
    pub fn from_ten_thousandths(units: i64) -> Self {
        Self(units)
    }

    /// In ten-thousandths.
    #[must_use]
    pub fn ten_thousandths(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:04}", units / 10_000, units % 10_000)
    }
}

impl FromStr for Decimal {
    type Err = NumberError;

    /// Reads a JSON number exactly, with its exponent.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        scaled(text, 4).map(Self)
    }
}

/// A JSON number as a whole number of 64 bits; `5`, `5.0` and `5e0` are the same number in JSON Schema.
pub(crate) fn whole(text: &str) -> Result<i64, NumberError> {
    scaled(text, 0)
}

/// The number times ten to the `places`, exactly or not at all.
fn scaled(text: &str, places: i64) -> Result<i64, NumberError> {
    if text.len() > 64 {
        return Err(NumberError::OutOfRange);
    }
    let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let digits = exponent.trim_start_matches(['+', '-']);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(NumberError::NotANumber);
            }
            (mantissa, exponent.trim_start_matches('+').parse::<i64>().map_err(|_| NumberError::OutOfRange)?)
        }
        None => (rest, 0),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = [integer, fraction].concat();
    if integer.is_empty() || !whole.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NumberError::NotANumber);
    }
    let digits = whole.trim_end_matches('0');
    let dropped = i64::try_from(whole.len() - digits.len()).unwrap_or(i64::MAX);
    let fraction = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    if digits.trim_start_matches('0').is_empty() {
        return Ok(0);
    }
    let shift = exponent.saturating_sub(fraction).saturating_add(dropped).saturating_add(places);
    if shift < 0 {
        return Err(NumberError::TooFine);
    }
    let shift = u32::try_from(shift).map_err(|_| NumberError::OutOfRange)?;
    let magnitude: i128 = digits.parse().map_err(|_| NumberError::OutOfRange)?;
    let scaled = 10_i128.checked_pow(shift).and_then(|factor| magnitude.checked_mul(factor));
    let scaled = scaled.ok_or(NumberError::OutOfRange)?;
    i64::try_from(if negative { -scaled } else { scaled }).map_err(|_| NumberError::OutOfRange)
}

impl Value {
    pub(crate) fn expression(&self) -> RestrictedExpression {
        match self {
            Self::Bool(value) => RestrictedExpression::new_bool(*value),
            Self::Long(value) => RestrictedExpression::new_long(*value),
            Self::Decimal(value) => RestrictedExpression::new_decimal(value.to_string()),
            Self::Text(value) => RestrictedExpression::new_string(value.clone()),
            Self::Set(values) => RestrictedExpression::new_set(values.iter().map(Self::expression)),
            Self::Record(record) => record_expression(record),
        }
    }
}

/// A record as Cedar reads it. Names in a map are unique, which is all that Cedar asks of them.
pub(crate) fn record_expression(record: &Record) -> RestrictedExpression {
    RestrictedExpression::new_record(record.iter().map(|(name, value)| (name.clone(), value.expression())))
        .unwrap_or_else(|_| RestrictedExpression::new_bool(false))
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => s.serialize_bool(*value),
            Self::Long(value) => s.serialize_i64(*value),
            Self::Decimal(value) => s.collect_map([(DECIMAL_KEY, value.to_string())]),
            Self::Text(value) => s.serialize_str(value),
            Self::Set(values) => s.collect_seq(values),
            Self::Record(record) => s.collect_map(record),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(d)?;
        read(value, 0).map_err(de::Error::custom)
    }
}

fn read(value: serde_json::Value, depth: usize) -> Result<Value, String> {
    if depth > VALUE_DEPTH_MAX {
        return Err("a value is nested too deeply".into());
    }
    match value {
        serde_json::Value::Bool(value) => Ok(Value::Bool(value)),
        serde_json::Value::Number(number) => {
            number.as_i64().map(Value::Long).ok_or_else(|| format!("`{number}` is not a whole number of 64 bits"))
        }
        serde_json::Value::String(text) => Ok(Value::Text(text)),
        serde_json::Value::Array(values) => {
            values.into_iter().map(|value| read(value, depth + 1)).collect::<Result<_, _>>().map(Value::Set)
        }
        serde_json::Value::Object(object) => {
            if let Some(serde_json::Value::String(text)) = object.get(DECIMAL_KEY).filter(|_| object.len() == 1) {
                return text.parse().map(Value::Decimal).map_err(|error: NumberError| error.to_string());
            }
            let read_one = |(name, value)| read(value, depth + 1).map(|value| (name, value));
            object.into_iter().map(read_one).collect::<Result<_, _>>().map(Value::Record)
        }
        serde_json::Value::Null => Err("a value is never null".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_exact_or_refused() {
        for (text, want) in [
            ("0", Ok(0)),
            ("-0.0", Ok(0)),
            ("5", Ok(50_000)),
            ("5.0", Ok(50_000)),
            ("1.5", Ok(15_000)),
            ("1e2", Ok(1_000_000)),
            ("12.3400", Ok(123_400)),
            ("1.5e-3", Ok(15)),
            ("-0.0001", Ok(-1)),
            ("0.00001", Err(NumberError::TooFine)),
            ("1e300", Err(NumberError::OutOfRange)),
            ("1e99999999999999999999", Err(NumberError::OutOfRange)),
            ("922337203685477.5807", Ok(i64::MAX)),
            ("922337203685477.5808", Err(NumberError::OutOfRange)),
            ("-922337203685477.5808", Ok(i64::MIN)),
            ("", Err(NumberError::NotANumber)),
            ("1e", Err(NumberError::NotANumber)),
            (".5", Err(NumberError::NotANumber)),
            ("NaN", Err(NumberError::NotANumber)),
            ("1.2.3", Err(NumberError::NotANumber)),
        ] {
            assert_eq!(text.parse::<Decimal>().map(Decimal::ten_thousandths), want, "{text}");
        }
        assert_eq!(whole("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(whole("9223372036854775808"), Err(NumberError::OutOfRange));
        assert_eq!(whole("5.0"), Ok(5));
        assert_eq!(whole("5.5"), Err(NumberError::TooFine));
        assert_eq!(whole("1e18"), Ok(1_000_000_000_000_000_000));
        assert_eq!(whole("1e19"), Err(NumberError::OutOfRange));
    }

    proptest! {
        #[test]
        fn a_decimal_comes_back_from_its_text(units: i64) {
            let decimal = Decimal::from_ten_thousandths(units);
            prop_assert_eq!(decimal.to_string().parse::<Decimal>(), Ok(decimal));
        }

        #[test]
        fn no_text_of_a_number_panics(text in "[-+0-9.eE]{0,40}") {
            let _ = text.parse::<Decimal>();
            let _ = whole(&text);
        }
    }

    #[test]
    fn values_come_back_from_json() {
        let value = Value::Record(Record::from([
            ("a".into(), Value::Set(vec![Value::Long(1), Value::Decimal(Decimal(15_000))])),
            ("b".into(), Value::Text("x".into())),
        ]));
        let text = serde_json::to_string(&value).unwrap();
        assert_eq!(text, r#"{"a":[1,{"$decimal":"1.5000"}],"b":"x"}"#);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(serde_json::from_str::<Value>("null").is_err());
        assert!(serde_json::from_str::<Value>("1.5").is_err());
    }
}
