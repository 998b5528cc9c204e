//! Columns to typed values and back.

use std::{fmt::Display, str::FromStr};

use cogward_model::Timestamp;
use sqlx::{Row, sqlite::SqliteRow};

use crate::StoreError;

/// A column of text that has a type of its own.
pub(crate) fn typed<T: FromStr<Err: Display>>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|e: T::Err| StoreError::Corrupt { column, why: e.to_string() })
}

/// As [`typed`], where NULL is allowed.
pub(crate) fn typed_or_null<T: FromStr<Err: Display>>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|t| t.parse().map_err(|e: T::Err| StoreError::Corrupt { column, why: e.to_string() })).transpose()
}

/// A word of one of the model's own lists.
pub(crate) fn word<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_value(serde_json::Value::String(text))
        .map_err(|e| StoreError::Corrupt { column, why: e.to_string() })
}

/// A number that is not negative.
pub(crate) fn number<T: TryFrom<i64>>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let value: i64 = row.try_get(column)?;
    T::try_from(value).map_err(|_| StoreError::Corrupt { column, why: format!("{value} is out of range") })
}

/// As [`number`], where NULL is allowed.
pub(crate) fn number_or_null<T: TryFrom<i64>>(row: &SqliteRow, column: &'static str) -> Result<Option<T>, StoreError> {
    let value: Option<i64> = row.try_get(column)?;
    value
        .map(|v| T::try_from(v).map_err(|_| StoreError::Corrupt { column, why: format!("{v} is out of range") }))
        .transpose()
}

/// A time.
pub(crate) fn time(row: &SqliteRow, column: &'static str) -> Result<Timestamp, StoreError> {
    number(row, column).map(Timestamp::from_unix_micros)
}

/// As [`time`], where NULL is allowed.
pub(crate) fn time_or_null(row: &SqliteRow, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
    Ok(number_or_null(row, column)?.map(Timestamp::from_unix_micros))
}

/// JSON of a typed value.
pub(crate) fn json<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|e| StoreError::Corrupt { column, why: e.to_string() })
}

/// As [`json`], where NULL is allowed.
pub(crate) fn json_or_null<T: serde::de::DeserializeOwned>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    let read =
        |text: String| serde_json::from_str(&text).map_err(|e| StoreError::Corrupt { column, why: e.to_string() });
    text.map(read).transpose()
}

/// A time as it is stored.
pub(crate) fn micros(time: Timestamp) -> i64 {
    i64::try_from(time.unix_micros()).unwrap_or(i64::MAX)
}

/// A count as it is stored; beyond 2^63 it is held there.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
