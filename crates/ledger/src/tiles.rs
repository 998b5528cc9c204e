//! C2SP tlog-tiles: a log as static files that anyone can serve, copy and check.
//!
//! `tile/L/N` holds up to 256 hashes of level L, `tile/entries/N` up to 256 leaves, each behind its
//! length in two bytes; a part of a tile is `.p/W`. The writer holds one unfinished tile a level.

use crate::{Hash, tree::Frontier};

/// Hashes or entries of one full tile.
pub const TILE_WIDTH: usize = 256;
/// Bytes of a hash.
const HASH_BYTES: usize = 32;

/// The path of a tile below the log's directory: `level` is a number or `entries`.
#[must_use]
pub fn path(level: &str, index: u64, width: usize) -> String {
    let mut text = format!("{:03}", index % 1_000);
    let mut rest = index / 1_000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1_000);
        rest /= 1_000;
    }
    if width < TILE_WIDTH { format!("tile/{level}/{text}.p/{width}") } else { format!("tile/{level}/{text}") }
}

/// Where finished tiles go: to files when a log is exported, to a comparison when it is verified.
pub trait TileSink {
    /// Why a tile was not taken.
    type Error;

    /// Takes the tile at `path`.
    ///
    /// # Errors
    /// The sink's own.
    fn tile(&mut self, path: &str, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Makes the hash tiles of a log, leaf by leaf.
#[derive(Debug, Default)]
pub struct HashTiles {
    levels: Vec<Level>,
    /// The number of the lowest level that is made.
    lowest: usize,
}

#[derive(Debug, Default)]
struct Level {
    /// Index of the tile that is being filled.
    index: u64,
    hashes: Vec<u8>,
    /// The tree over this tile, whose root is a hash of the level above.
    tree: Frontier,
}

impl HashTiles {
    /// Makes the tiles above those of the leaves: what is pushed are the roots of full tiles of level 0.
    #[must_use]
    pub fn above_leaves() -> Self {
        Self { levels: Vec::new(), lowest: 1 }
    }

    /// Adds a leaf's hash.
    ///
    /// # Errors
    /// The sink's.
    pub fn push<S: TileSink>(&mut self, leaf: Hash, sink: &mut S) -> Result<(), S::Error> {
        let mut hash = leaf;
        for number in 0.. {
            if self.levels.len() == number {
                self.levels.push(Level::default());
            }
            let Some(level) = self.levels.get_mut(number) else { break };
            level.hashes.extend_from_slice(&hash);
            level.tree.push(hash);
            if level.hashes.len() < TILE_WIDTH * HASH_BYTES {
                break;
            }
            hash = level.tree.root();
            sink.tile(&path(&(self.lowest + number).to_string(), level.index, TILE_WIDTH), &level.hashes)?;
            *level = Level { index: level.index + 1, ..Level::default() };
        }
        Ok(())
    }

    /// Hands over the tiles that are not full.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish<S: TileSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        for (number, level) in self.levels.iter().enumerate() {
            if !level.hashes.is_empty() {
                let width = level.hashes.len() / HASH_BYTES;
                sink.tile(&path(&(self.lowest + number).to_string(), level.index, width), &level.hashes)?;
            }
        }
        Ok(())
    }
}

/// Makes the entry bundles of a log, leaf by leaf.
#[derive(Debug, Default)]
pub struct EntryBundles {
    index: u64,
    count: usize,
    bytes: Vec<u8>,
}

impl EntryBundles {
    /// Adds a leaf, which is at most 65,535 bytes long.
    ///
    /// # Errors
    /// The sink's.
    pub fn push<S: TileSink>(&mut self, leaf: &[u8], sink: &mut S) -> Result<(), S::Error> {
        let length = u16::try_from(leaf.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(leaf);
        self.count += 1;
        if self.count == TILE_WIDTH {
            sink.tile(&path("entries", self.index, TILE_WIDTH), &self.bytes)?;
            self.bytes.clear();
            (self.index, self.count) = (self.index + 1, 0);
        }
        Ok(())
    }

    /// Hands over the bundle that is not full.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish<S: TileSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        if self.count > 0 {
            sink.tile(&path("entries", self.index, self.count), &self.bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::leaf::leaf_hash;

    impl TileSink for BTreeMap<String, Vec<u8>> {
        type Error = std::convert::Infallible;
        fn tile(&mut self, path: &str, bytes: &[u8]) -> Result<(), Self::Error> {
            self.insert(path.to_owned(), bytes.to_vec());
            Ok(())
        }
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(path("0", 0, 256), "tile/0/000");
        assert_eq!(path("entries", 1_234_067, 256), "tile/entries/x001/x234/067");
        assert_eq!(path("1", 255, 12), "tile/1/255.p/12");
    }

    #[test]
    fn a_log_of_70000_leaves_has_the_tiles_of_the_specification() {
        let (mut tiles, mut files, mut tree) = (HashTiles::default(), BTreeMap::new(), Frontier::default());
        for n in 0_u32..70_000 {
            let hash = leaf_hash(&n.to_be_bytes());
            tree.push(hash);
            let Ok(()) = tiles.push(hash, &mut files);
        }
        let Ok(()) = tiles.finish(&mut files);
        // 70,000 = 273 x 256 + 112; 273 = 256 + 17; 1.
        assert_eq!(files["tile/0/273.p/112"].len(), 112 * 32);
        assert_eq!(files["tile/1/000"].len(), 256 * 32);
        assert_eq!(files["tile/1/001.p/17"].len(), 17 * 32);
        assert_eq!(files["tile/2/000.p/1"].len(), 32);
        assert_eq!(files.len(), 273 + 1 + 2 + 1);
        // The right edge of the tiles gives the root: level 2, then 17 of level 1, then 112 leaves.
        let root_of = |path: &str| {
            let mut frontier = Frontier::default();
            files[path].as_chunks::<32>().0.iter().for_each(|h| frontier.push(*h));
            frontier.root()
        };
        let low = crate::tree::node_hash(&root_of("tile/1/001.p/17"), &root_of("tile/0/273.p/112"));
        // 17 x 256 + 112 leaves: 16 x 256 first, then 256 + 112.
        let mut sixteen = Frontier::default();
        files["tile/1/001.p/17"].as_chunks::<32>().0[..16].iter().for_each(|h| sixteen.push(*h));
        let seventeenth = files["tile/1/001.p/17"].as_chunks::<32>().0[16];
        let right = crate::tree::node_hash(&seventeenth, &root_of("tile/0/273.p/112"));
        assert_ne!(low, right);
        let right = crate::tree::node_hash(&sixteen.root(), &right);
        let left = files["tile/2/000.p/1"].as_chunks::<32>().0[0];
        assert_eq!(crate::tree::node_hash(&left, &right), tree.root());
    }
}
