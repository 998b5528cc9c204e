//! C2SP tlog-tiles: a log as static files that anyone can serve, copy and check.
//!
//! `tile/L/N` holds up to 256 hashes of level L, `tile/entries/N` up to 256 leaves, each behind its
//! length in two bytes; a part of a tile is `.p/W`. The writer holds one unfinished tile a level.

use crate::{
    Hash,
    tree::{Frontier, empty_root, node_hash},
};

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

/// The highest level that a tile can be of: 256^8 leaves are more than a size can say.
const LEVELS_MAX: u8 = 8;

/// One tile of a log, as its path names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TilePath {
    /// The level of its hashes; `None` for a bundle of entries.
    pub level: Option<u8>,
    /// Its number in the level.
    pub index: u64,
    /// How many hashes or entries are in it, 1 to 256.
    pub width: usize,
}

impl TilePath {
    /// Reads `tile/L/N` and `tile/L/N.p/W`. Every tile has exactly one path, and nothing else is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 64 {
            return None;
        }
        let (level, rest) = text.strip_prefix("tile/")?.split_once('/')?;
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok()?),
            None => (rest, TILE_WIDTH),
        };
        let index = number.split('/').try_fold(0_u64, |index, part| {
            let digits = part.strip_prefix('x').unwrap_or(part);
            index.checked_mul(1_000)?.checked_add(digits.parse().ok()?)
        })?;
        let level = if level == "entries" { None } else { Some(level.parse().ok()?) };
        let found = Self { level, index, width };
        // Written anew it is the same text, or it was another spelling.
        (found.level.is_none_or(|level| level <= LEVELS_MAX)
            && (1..=TILE_WIDTH).contains(&width)
            && found.to_string() == text)
            .then_some(found)
    }

    /// Whether a log of `size` leaves has this tile.
    #[must_use]
    pub fn is_in(&self, size: u64) -> bool {
        let there = size.checked_shr(8 * u32::from(self.level.unwrap_or(0))).unwrap_or(0);
        let end = self.index.checked_mul(TILE_WIDTH as u64).and_then(|start| start.checked_add(self.width as u64));
        end.is_some_and(|end| end <= there)
    }

    /// Whether it never changes: a full one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The tile of a level that a log of `size` leaves has at `index`, as full as it is there.
    #[must_use]
    pub fn of(level: Option<u8>, index: u64, size: u64) -> Option<Self> {
        let there = size.checked_shr(8 * u32::from(level.unwrap_or(0))).unwrap_or(0);
        let left = there.checked_sub(index.checked_mul(TILE_WIDTH as u64)?)?;
        let width = usize::try_from(left).unwrap_or(usize::MAX).min(TILE_WIDTH);
        (width > 0).then_some(Self { level, index, width })
    }
}

impl std::fmt::Display for TilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.level {
            Some(level) => f.write_str(&path(&level.to_string(), self.index, self.width)),
            None => f.write_str(&path("entries", self.index, self.width)),
        }
    }
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

    /// The state after `size` leaves, from the tiles at the right edge: `read` gives the first `width`
    /// hashes of a tile, and may take them from a fuller one.
    #[must_use]
    pub fn restore(size: u64, mut read: impl FnMut(&TilePath) -> Option<Vec<u8>>) -> Option<Self> {
        let mut tiles = Self::default();
        for number in 0..=LEVELS_MAX {
            let there = size.checked_shr(8 * u32::from(number)).unwrap_or(0);
            if there == 0 {
                break;
            }
            let index = there / TILE_WIDTH as u64;
            let mut level = Level { index, ..Level::default() };
            if let Some(tile) = TilePath::of(Some(number), index, size) {
                level.hashes = read(&tile).filter(|bytes| bytes.len() == tile.width * HASH_BYTES)?;
                level.hashes.as_chunks::<HASH_BYTES>().0.iter().for_each(|hash| level.tree.push(*hash));
            }
            tiles.levels.push(level);
        }
        Some(tiles)
    }

    /// The root over all leaves so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut from_right = self.levels.iter().flat_map(|level| level.tree.subtrees().iter().rev());
        let Some(smallest) = from_right.next() else { return empty_root() };
        from_right.fold(*smallest, |root, left| node_hash(left, &root))
    }

    /// How many leaves there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |level| level.index * TILE_WIDTH as u64 + level.tree.size())
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
    /// The state after `size` leaves, from the bundle at the right edge, which may have more entries by now.
    #[must_use]
    pub fn restore(size: u64, mut read: impl FnMut(&TilePath) -> Option<Vec<u8>>) -> Option<Self> {
        let index = size / TILE_WIDTH as u64;
        let Some(tile) = TilePath::of(None, index, size) else { return Some(Self { index, ..Self::default() }) };
        let mut bytes = read(&tile)?;
        let mut length = 0;
        for _ in 0..tile.width {
            let entry = bytes.get(length..length + 2).and_then(|two| two.try_into().ok())?;
            length += 2 + usize::from(u16::from_be_bytes(entry));
        }
        if bytes.len() < length {
            return None;
        }
        bytes.truncate(length);
        Some(Self { index, count: tile.width, bytes })
    }

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
    fn a_path_has_one_spelling_and_stays_in_the_log() {
        for (text, level, index, width) in [
            ("tile/0/000", Some(0), 0, 256),
            ("tile/entries/x001/x234/067", None, 1_234_067, 256),
            ("tile/1/255.p/12", Some(1), 255, 12),
            ("tile/8/000.p/1", Some(8), 0, 1),
        ] {
            assert_eq!(TilePath::parse(text), Some(TilePath { level, index, width }), "{text}");
        }
        for text in [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/0000",
            "tile/0/x000/001",
            "tile/00/000",
            "tile/+0/000",
            "tile/-1/000",
            "tile/9/000",
            "tile/64/000",
            "tile/0/001/002",
            "tile/0/x001/x002",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/000.p/1/2",
            "tile/0/../../checkpoint",
            "tile/../tile/0/000",
            "/tile/0/000",
            "tile//000",
            "tile/0/000/",
            "TILE/0/000",
            "tile/entries/..",
            "tile/entries/%2e%2e",
            "tile/0/000\0",
            "tile/0/00a",
            "tile/0/+01",
            "tile/0/x0+1/000",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
            "tile/data/000",
            "tile/0/000 ",
            "tile/0/\u{660}00",
        ] {
            assert_eq!(TilePath::parse(text), None, "{text}");
        }
        let tile = |level, index, width| TilePath { level, index, width };
        assert!(tile(Some(0), 273, 112).is_in(70_000) && !tile(Some(0), 273, 113).is_in(70_000));
        assert!(tile(None, 272, 256).is_in(70_000) && !tile(None, 273, 256).is_in(70_000));
        assert!(tile(Some(2), 0, 1).is_in(70_000) && !tile(Some(2), 0, 2).is_in(70_000));
        assert!(!tile(Some(8), u64::MAX, 256).is_in(u64::MAX));
    }

    #[test]
    fn the_state_at_any_size_is_restored_from_tiles_that_went_on() {
        let (mut tiles, mut bundles) = (HashTiles::default(), EntryBundles::default());
        let (mut files, mut tree) = (BTreeMap::new(), Frontier::default());
        let mut states = Vec::new();
        for n in 0_u32..1_300 {
            if n % 37 == 0 || n % 256 < 2 {
                states.push((u64::from(n), tiles.root()));
            }
            let leaf = n.to_be_bytes().repeat(1 + n as usize % 3);
            tree.push(leaf_hash(&leaf));
            let Ok(()) = tiles.push(leaf_hash(&leaf), &mut files);
            let Ok(()) = bundles.push(&leaf, &mut files);
            assert_eq!((tiles.root(), tiles.size()), (tree.root(), tree.size()));
        }
        let Ok(()) = tiles.finish(&mut files);
        let Ok(()) = bundles.finish(&mut files);
        let whole = files.clone();
        for (size, root) in states {
            let read = |tile: &TilePath| {
                let fuller = TilePath::of(tile.level, tile.index, 1_300).unwrap();
                let mut bytes = whole[&fuller.to_string()].clone();
                if tile.level.is_some() {
                    bytes.truncate(tile.width * HASH_BYTES);
                }
                Some(bytes)
            };
            let mut again = HashTiles::restore(size, read).unwrap();
            let mut entries = EntryBundles::restore(size, read).unwrap();
            assert_eq!((again.root(), again.size()), (root, size));
            let mut files = BTreeMap::new();
            for n in u32::try_from(size).unwrap()..1_300 {
                let leaf = n.to_be_bytes().repeat(1 + n as usize % 3);
                let Ok(()) = again.push(leaf_hash(&leaf), &mut files);
                let Ok(()) = entries.push(&leaf, &mut files);
            }
            let Ok(()) = again.finish(&mut files);
            let Ok(()) = entries.finish(&mut files);
            assert!(!files.is_empty());
            files.iter().for_each(|(path, bytes)| assert_eq!(&whole[path], bytes, "{size} {path}"));
        }
        // A tile that is too short is not taken for one.
        assert!(HashTiles::restore(300, |_| Some(vec![0; 32])).is_none());
        assert!(EntryBundles::restore(300, |_| Some(vec![0, 9])).is_none());
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
