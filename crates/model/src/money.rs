//! Money as integers: nano-dollars, so that a price per token is exact and a sum never drifts.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};

/// An amount of US dollars in units of 10⁻⁹. At most about 18.4 billion dollars.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NanoUsd(u64);

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an amount in dollars such as `0.50` with at most nine decimals, got `{0}`")]
pub struct ParseMoneyError(String);

impl NanoUsd {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The largest amount; what an overflowing sum is held at, so that it can only refuse.
    pub const MAX: Self = Self(u64::MAX);

    /// From nano-dollars.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nano-dollars.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The sum, held at [`Self::MAX`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, held at zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This price times a count, held at [`Self::MAX`].
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

impl fmt::Display for NanoUsd {
    /// Dollars with the decimals that are needed, at least two: `0.50`, `0.000125`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let decimals = format!("{rest:09}");
        let kept = decimals.trim_end_matches('0').len().max(2);
        write!(f, "{whole}.{}", decimals.get(..kept).unwrap_or(&decimals))
    }
}

impl fmt::Debug for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${self}")
    }
}

impl FromStr for NanoUsd {
    type Err = ParseMoneyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseMoneyError(text.chars().take(40).collect());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 9 {
            return Err(refuse());
        }
        let whole: u64 = whole.parse().map_err(|_| refuse())?;
        let rest: u64 = format!("{decimals:0<9}").parse().map_err(|_| refuse())?;
        whole.checked_mul(1_000_000_000).and_then(|n| n.checked_add(rest)).map(Self).ok_or_else(refuse)
    }
}

impl Serialize for NanoUsd {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NanoUsd {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl schemars::JsonSchema for NanoUsd {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Dollars".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": r"^[0-9]+(\.[0-9]{1,9})?$" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_amount_reads_back_as_written(nanos: u64) {
            let amount = NanoUsd::from_nanos(nanos);
            prop_assert_eq!(amount.to_string().parse::<NanoUsd>().unwrap(), amount);
        }

        #[test]
        fn sums_never_wrap(a: u64, b: u64) {
            let sum = NanoUsd::from_nanos(a).saturating_add(NanoUsd::from_nanos(b));
            prop_assert!(sum.nanos() >= a && sum.nanos() >= b);
        }
    }

    #[test]
    fn only_plain_decimals() {
        for bad in ["", ".", "1.", "-1", "1e3", "0.0000000001", "99999999999999", " 1", "1,5", "+1"] {
            assert!(bad.parse::<NanoUsd>().is_err(), "{bad}");
        }
    }
}
