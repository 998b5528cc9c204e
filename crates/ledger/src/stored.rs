//! Proofs from stored hash tiles: a few tiles are read, however long the log is.
//!
//! Whoever keeps tiles (an index, files of a served log) gives them through [`Tiles`]. What comes out is
//! only as good as what was stored: compare [`Proofs::root`] with a signed root before a proof is handed out.

use std::collections::HashMap;

use crate::{
    Hash,
    tiles::TILE_WIDTH,
    tree::{Frontier, empty_root, node_hash},
};

/// Nodes that are remembered between proofs.
const KNOWN_MAX: usize = 65_536;
/// Levels of tiles that a log can have.
const TILE_BITS: u32 = 8;

/// Where hash tiles come from.
pub trait Tiles {
    /// Why a tile cannot be had.
    type Error;

    /// At least the first `width` hashes of a tile.
    ///
    /// # Errors
    /// The source's own; a tile that is not there or shorter is one.
    fn tile(&mut self, level: u32, index: u64, width: usize) -> Result<Vec<Hash>, Self::Error>;
}

/// Makes the proofs of one size of a log.
#[derive(Debug)]
pub struct Proofs<T> {
    tiles: T,
    size: u64,
    /// The newest tile of each level.
    held: HashMap<u32, (u64, Vec<Hash>)>,
    /// Complete subtrees by height and number.
    known: HashMap<(u32, u64), Hash>,
}

impl<T: Tiles> Proofs<T> {
    /// Proofs in the tree over the first `size` leaves.
    pub fn new(tiles: T, size: u64) -> Self {
        Self { tiles, size, held: HashMap::new(), known: HashMap::new() }
    }

    /// The same tiles for an older size.
    #[must_use]
    pub fn resized(self, size: u64) -> Self {
        Self { size, held: HashMap::new(), ..self }
    }

    /// The root over all leaves.
    ///
    /// # Errors
    /// Those of the tiles.
    pub fn root(&mut self) -> Result<Hash, T::Error> {
        self.root_of(self.size)
    }

    /// The root over the first `size` leaves, which are not more than there are.
    ///
    /// # Errors
    /// Those of the tiles.
    pub fn root_of(&mut self, size: u64) -> Result<Hash, T::Error> {
        if size == 0 { Ok(empty_root()) } else { self.range(0, size) }
    }

    /// The stored hash of a leaf, `None` when it is behind the end.
    ///
    /// # Errors
    /// Those of the tiles.
    pub fn leaf(&mut self, index: u64) -> Result<Option<Hash>, T::Error> {
        if index < self.size { self.node(0, index).map(Some) } else { Ok(None) }
    }

    /// The path from a leaf to the root, `None` when the leaf is behind the end.
    ///
    /// # Errors
    /// Those of the tiles.
    pub fn inclusion(&mut self, index: u64) -> Result<Option<Vec<Hash>>, T::Error> {
        if index >= self.size {
            return Ok(None);
        }
        let (mut from, mut to, mut siblings) = (0, self.size, Vec::new());
        while to - from > 1 {
            let middle = from + split(to - from);
            if index < middle {
                siblings.push((middle, to));
                to = middle;
            } else {
                siblings.push((from, middle));
                from = middle;
            }
        }
        siblings.into_iter().rev().map(|(from, to)| self.range(from, to)).collect::<Result<_, _>>().map(Some)
    }

    /// That the tree over `old` leaves is a beginning of this one; `None` for no leaves and for more than there are.
    ///
    /// # Errors
    /// Those of the tiles.
    pub fn consistency(&mut self, old: u64) -> Result<Option<Vec<Hash>>, T::Error> {
        if old == 0 || old > self.size {
            return Ok(None);
        }
        let (mut from, mut to, mut ranges) = (0, self.size, Vec::new());
        // Whether the part that is left is a whole tree of the older log.
        while old != to {
            let middle = from + split(to - from);
            if old <= middle {
                ranges.push((middle, to));
                to = middle;
            } else {
                ranges.push((from, middle));
                from = middle;
            }
        }
        if from > 0 {
            ranges.push((from, to));
        }
        ranges.into_iter().rev().map(|(from, to)| self.range(from, to)).collect::<Result<_, _>>().map(Some)
    }

    /// The root over a part that begins where a subtree of its size may begin.
    fn range(&mut self, from: u64, to: u64) -> Result<Hash, T::Error> {
        let (mut at, mut parts) = (from, Vec::new());
        while at < to {
            let height = 63 - (to - at).leading_zeros();
            parts.push(self.node(height, at >> height)?);
            at += 1 << height;
        }
        let mut parts = parts.into_iter().rev();
        let Some(last) = parts.next() else { return Ok(empty_root()) };
        Ok(parts.fold(last, |right, left| node_hash(&left, &right)))
    }

    /// The root of a complete subtree of 2^height leaves.
    fn node(&mut self, height: u32, number: u64) -> Result<Hash, T::Error> {
        if let Some(hash) = self.known.get(&(height, number)) {
            return Ok(*hash);
        }
        let (level, inner) = (height / TILE_BITS, height % TILE_BITS);
        let first = number << inner;
        let (index, at) = (first / TILE_WIDTH as u64, (first % TILE_WIDTH as u64) as usize);
        let end = at + (1 << inner);
        let held = matches!(self.held.get(&level), Some((held, hashes)) if *held == index && hashes.len() >= end);
        if !held {
            let there = (self.size >> (TILE_BITS * level)) - index * TILE_WIDTH as u64;
            let width = usize::try_from(there).unwrap_or(usize::MAX).min(TILE_WIDTH);
            let hashes = self.tiles.tile(level, index, width)?;
            self.held.insert(level, (index, hashes));
        }
        let hashes = self.held.get(&level).and_then(|(_, hashes)| hashes.get(at..end)).unwrap_or_default();
        let mut tree = Frontier::default();
        hashes.iter().for_each(|hash| tree.push(*hash));
        let hash = tree.root();
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert((height, number), hash);
        Ok(hash)
    }
}

/// The largest power of two smaller than a number of 2 and more.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap, convert::Infallible};

    use super::*;
    use crate::{
        leaf::leaf_hash,
        proof::{Tree, verify_consistency, verify_inclusion},
        tiles::{HashTiles, path},
    };

    struct Kept<'a>(&'a BTreeMap<String, Vec<u8>>, &'a Cell<usize>);

    impl Tiles for Kept<'_> {
        type Error = Infallible;
        fn tile(&mut self, level: u32, index: u64, width: usize) -> Result<Vec<Hash>, Infallible> {
            self.1.set(self.1.get() + 1);
            Ok(self.0[&path(&level.to_string(), index, width)].as_chunks::<32>().0.to_vec())
        }
    }

    fn kept(size: u64) -> (Vec<Hash>, BTreeMap<String, Vec<u8>>) {
        let (mut tiles, mut files, mut leaves) = (HashTiles::default(), BTreeMap::new(), Vec::new());
        for n in 0..size {
            leaves.push(leaf_hash(&n.to_be_bytes()));
            let Ok(()) = tiles.push(*leaves.last().unwrap(), &mut files);
        }
        let Ok(()) = tiles.finish(&mut files);
        (leaves, files)
    }

    #[test]
    fn proofs_from_tiles_are_those_of_the_whole_tree() {
        for size in (1..40).chain([255, 256, 257, 511, 512, 700]) {
            let (leaves, files) = kept(size);
            let (tree, reads) = (Tree::new(leaves), Cell::new(0));
            let n = usize::try_from(size).unwrap();
            let mut proofs = Proofs::new(Kept(&files, &reads), size);
            assert_eq!(proofs.root().ok(), tree.root(n));
            for index in 0..n {
                assert_eq!(proofs.inclusion(index as u64).unwrap(), tree.inclusion(index, n), "{index} of {size}");
                assert_eq!(proofs.consistency(index as u64 + 1).unwrap(), tree.consistency(index + 1, n));
            }
            assert_eq!(proofs.inclusion(size).unwrap(), None);
            assert_eq!((proofs.consistency(0).unwrap(), proofs.consistency(size + 1).unwrap()), (None, None));
        }
    }

    #[test]
    fn a_proof_reads_a_few_tiles_of_a_long_log() {
        let size = 200_000;
        let (leaves, files) = kept(size);
        for index in [0, 1, 77_777, 131_072, 199_999] {
            let reads = Cell::new(0);
            let mut proofs = Proofs::new(Kept(&files, &reads), size);
            let proof = proofs.inclusion(index).unwrap().unwrap();
            let old = proofs.consistency(index + 1).unwrap().unwrap();
            let (root, older) = (proofs.root().unwrap(), proofs.root_of(index + 1).unwrap());
            assert!(verify_inclusion(&leaves[usize::try_from(index).unwrap()], index, size, &proof, &root));
            assert!(verify_consistency(index + 1, &older, size, &root, &old));
            assert!(reads.get() <= 24, "{} tiles", reads.get());
        }
    }
}
