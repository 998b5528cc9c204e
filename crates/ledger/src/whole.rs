//! Walking the leaves of an exported log, a bundle at a time.

use std::{fs::File, io::Read, path::Path};

use crate::{
    tiles::{self, TILE_WIDTH},
    verify::{Finding, What},
};

/// Largest entry bundle: a full one of the longest entries.
const BUNDLE_BYTES_MAX: u64 = TILE_WIDTH as u64 * (2 + 65_535);

/// Shows each leaf with its number.
///
/// # Errors
/// A bundle cannot be read or is not one, or what `each` found.
pub fn leaves(dir: &Path, size: u64, mut each: impl FnMut(u64, &[u8]) -> Result<(), Finding>) -> Result<(), Finding> {
    let mut index = 0;
    while index < size {
        let width = usize::try_from(size - index).unwrap_or(usize::MAX).min(TILE_WIDTH);
        let name = tiles::path("entries", index / TILE_WIDTH as u64, width);
        let bad = |what, detail: String| Finding { leaf: None, what, detail };
        let mut bytes = Vec::new();
        let read = File::open(dir.join(&name)).and_then(|file| file.take(BUNDLE_BYTES_MAX).read_to_end(&mut bytes));
        read.map_err(|error| bad(What::Missing, format!("{name}: {error}")))?;
        let mut rest = bytes.as_slice();
        for _ in 0..width {
            let entry = rest
                .split_first_chunk::<2>()
                .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
            let Some((leaf, behind)) = entry else { return Err(bad(What::Bytes, format!("{name} ends too early"))) };
            each(index, leaf)?;
            (rest, index) = (behind, index + 1);
        }
    }
    Ok(())
}
