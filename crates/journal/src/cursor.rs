//! A place in the journal that a reader can come back to.

use std::{fmt, str::FromStr};

/// The place after one entry. The text is opaque to readers: it changes when there are several nodes.
///
/// `epoch` counts the opens of the journal: rows that a power loss took were never in a place that a
/// later row gets again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor {
    pub(crate) epoch: u32,
    pub(crate) seq: u64,
}

/// The text is not a cursor of this journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cursor of the event stream")]
pub struct ParseCursorError(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c1{:08x}{:016x}", self.epoch, self.seq)
    }
}

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseCursorError(text.chars().take(64).collect());
        let digits = text.strip_prefix("c1").ok_or_else(refuse)?;
        let plain = digits.len() == 24 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let (Some(epoch), Some(seq), true) = (digits.get(..8), digits.get(8..), plain) else {
            return Err(refuse());
        };
        let epoch = u32::from_str_radix(epoch, 16).map_err(|_| refuse())?;
        let seq = u64::from_str_radix(seq, 16).map_err(|_| refuse())?;
        // The table holds signed 64-bit integers.
        if i64::try_from(seq).is_err() {
            return Err(refuse());
        }
        Ok(Self { epoch, seq })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_back_as_written_and_sorts_as_text(a: u32, b in 0..=i64::MAX as u64, c: u32, d in 0..=i64::MAX as u64) {
            let (left, right) = (Cursor { epoch: a, seq: b }, Cursor { epoch: c, seq: d });
            prop_assert_eq!(left.to_string().parse::<Cursor>().unwrap(), left);
            prop_assert_eq!(left.cmp(&right), left.to_string().cmp(&right.to_string()));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,64}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
