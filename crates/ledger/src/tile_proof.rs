//! Proofs out of tiles: a few tiles are read, whatever the size of the log.

use crate::{
    Hash,
    tiles::{TILE_WIDTH, TilePath},
    tree::{Frontier, node_hash},
};

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum TileProofError<E> {
    /// The log has no such leaf or no such older size.
    #[error("the log has no such place")]
    Range,
    /// A tile is not what a tile is.
    #[error("{0} is not a whole tile")]
    Tile(TilePath),
    /// A tile could not be read.
    #[error(transparent)]
    Read(E),
}

/// The tiles of a log of `size` leaves, by a function that reads one.
pub struct TiledLog<R> {
    size: u64,
    read: R,
}

impl<E, R: FnMut(&TilePath) -> Result<Vec<u8>, E>> TiledLog<R> {
    /// A log of `size` leaves.
    pub fn new(size: u64, read: R) -> Self {
        Self { size, read }
    }

    /// The root over all leaves.
    ///
    /// # Errors
    /// See [`TileProofError`]; the empty log has none that is in a tile.
    pub fn whole(&mut self) -> Result<Hash, TileProofError<E>> {
        if self.size == 0 { Err(TileProofError::Range) } else { self.root(0, self.size) }
    }

    /// The path from a leaf to the root (RFC 6962, 2.1.1).
    ///
    /// # Errors
    /// See [`TileProofError`].
    pub fn inclusion(&mut self, index: u64) -> Result<Vec<Hash>, TileProofError<E>> {
        if index >= self.size {
            return Err(TileProofError::Range);
        }
        let (mut start, mut end, mut proof) = (0, self.size, Vec::new());
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                proof.push(self.root(middle, end)?);
                end = middle;
            } else {
                proof.push(self.root(start, middle)?);
                start = middle;
            }
        }
        proof.reverse();
        Ok(proof)
    }

    /// That the log of `old` leaves is a beginning of this one (RFC 6962, 2.1.2).
    ///
    /// # Errors
    /// See [`TileProofError`]. There is none from the empty log: nothing is to be shown.
    pub fn consistency(&mut self, old: u64) -> Result<Vec<Hash>, TileProofError<E>> {
        if old == 0 || old > self.size {
            return Err(TileProofError::Range);
        }
        let (mut start, mut end, mut whole, mut proof) = (0, self.size, true, Vec::new());
        while old != end {
            let middle = start + split(end - start);
            if old <= middle {
                proof.push(self.root(middle, end)?);
                end = middle;
            } else {
                proof.push(self.root(start, middle)?);
                start = middle;
                whole = false;
            }
        }
        if !whole {
            proof.push(self.root(start, end)?);
        }
        proof.reverse();
        Ok(proof)
    }

    /// The root over the leaves from `start` to `end`, as it stands in the tree.
    fn root(&mut self, start: u64, end: u64) -> Result<Hash, TileProofError<E>> {
        let leaves = end - start;
        if !leaves.is_power_of_two() {
            let middle = start + split(leaves);
            let (left, right) = (self.root(start, middle)?, self.root(middle, end)?);
            return Ok(node_hash(&left, &right));
        }
        // A complete subtree lies within one tile of the level below it.
        let height = leaves.trailing_zeros();
        let level = u8::try_from(height / 8).map_err(|_| TileProofError::Range)?;
        let (first, count) = (start >> (8 * u32::from(level)), 1_usize << (height % 8));
        let tile = TilePath::of(Some(level), first / TILE_WIDTH as u64, self.size).ok_or(TileProofError::Range)?;
        let bytes = (self.read)(&tile).map_err(TileProofError::Read)?;
        let (hashes, rest) = bytes.as_chunks::<32>();
        let from = usize::try_from(first % TILE_WIDTH as u64).unwrap_or(TILE_WIDTH);
        let wanted = hashes.get(from..from + count).filter(|_| hashes.len() == tile.width && rest.is_empty());
        let mut tree = Frontier::default();
        wanted.ok_or(TileProofError::Tile(tile))?.iter().for_each(|hash| tree.push(*hash));
        Ok(tree.root())
    }
}

/// The largest power of two smaller than `leaves`, which is at least 2.
fn split(leaves: u64) -> u64 {
    1 << (u64::BITS - 1 - (leaves - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, convert::Infallible};

    use super::*;
    use crate::{leaf::leaf_hash, proof, tiles::HashTiles};

    #[test]
    fn proofs_out_of_tiles_are_those_out_of_the_leaves() {
        let leaves: Vec<Hash> = (0_u32..66_300).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let tree = proof::Tree::new(leaves.clone());
        for size in [1_u64, 2, 3, 255, 256, 257, 511, 600, 65_536, 65_537, 66_300] {
            let (mut tiles, mut files) = (HashTiles::default(), BTreeMap::<String, Vec<u8>>::new());
            for leaf in leaves.iter().take(usize::try_from(size).unwrap()) {
                let Ok(()) = tiles.push(*leaf, &mut files);
            }
            let Ok(()) = tiles.finish(&mut files);
            let mut log = TiledLog::new(size, |tile: &TilePath| Ok::<_, Infallible>(files[&tile.to_string()].clone()));
            for index in [0, 1, 2, 100, 254, 255, 256, 300, 65_535, 65_536, size.saturating_sub(2), size - 1] {
                if index >= size {
                    assert!(matches!(log.inclusion(index), Err(TileProofError::Range)));
                    continue;
                }
                let (at, n) = (usize::try_from(index).unwrap(), usize::try_from(size).unwrap());
                assert_eq!(log.inclusion(index).unwrap(), tree.inclusion(at, n).unwrap(), "{index} of {size}");
                assert_eq!(log.consistency(index + 1).unwrap(), tree.consistency(at + 1, n).unwrap(), "{size}");
            }
            assert!(matches!(log.consistency(0), Err(TileProofError::Range)));
            assert!(matches!(log.consistency(size + 1), Err(TileProofError::Range)));
        }
        let mut damaged = TiledLog::new(3, |_: &TilePath| Ok::<_, Infallible>(vec![0; 95]));
        assert!(matches!(damaged.inclusion(0), Err(TileProofError::Tile(_))));
    }
}
