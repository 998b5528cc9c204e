//! A verifier by somebody else: Cloudflare's `signed_note` and `tlog_tiles`, which know the public formats
//! and nothing of cogward. It reads a pack as any C2SP log: what a leaf says does not concern it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{
    Checkpoint, EMPTY_HASH, Error, HashReader, Tile, TileHashReader, TileReader, check_tree, prove_tree, record_hash,
    stored_hash_index,
};

struct Files(PathBuf);

impl TileReader for Files {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        // The library's paths name the height, which is always 8 in C2SP and left out there.
        let read = |tile: &Tile| fs::read(self.0.join(tile.path().replacen("tile/8/", "tile/", 1)));
        tiles.iter().map(|tile| read(tile).map_err(|_| Error::InvalidTile)).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

fn open(note: &str, vkey: &str) -> Option<Checkpoint> {
    let verifier = StandardVerifier::new(vkey).ok()?;
    let origin = vkey.split('+').next()?.to_owned();
    let note = Note::from_bytes(note.as_bytes()).ok()?;
    note.verify(&VerifierList::new(vec![Box::new(verifier)])).ok()?;
    let checkpoint = Checkpoint::from_bytes(note.text()).ok()?;
    (checkpoint.origin() == origin).then_some(checkpoint)
}

/// Whether a public tool takes the pack for a whole log that contains the older checkpoint.
pub fn holds(dir: &Path, key: Option<&str>, against: Option<&str>) -> bool {
    try_holds(dir, key, against).is_some()
}

fn try_holds(dir: &Path, key: Option<&str>, against: Option<&str>) -> Option<()> {
    let own = fs::read_to_string(dir.join("log.vkey")).ok()?;
    // Further keys, of kinds that these programs do not know, stand below the first.
    let mut lines = own.strip_suffix('\n')?.split('\n');
    let own = lines.next()?;
    lines.all(|line| !line.is_empty()).then_some(())?;
    if key.is_some_and(|key| key != own) {
        return None;
    }
    let note = fs::read_to_string(dir.join("checkpoint")).ok()?;
    let checkpoint = open(&note, own)?;
    let (size, root) = (checkpoint.size(), *checkpoint.hash());
    let older = match against {
        Some(note) => Some(open(note, own)?),
        None => None,
    };
    if size == 0 {
        (root.0 == EMPTY_HASH.0).then_some(())?;
        return older.is_none_or(|older| older.size() == 0).then_some(());
    }
    let files = Files(dir.to_path_buf());
    let tiles = TileHashReader::new(size, root, &files);
    let indexes: Vec<u64> = (0..size).map(|leaf| stored_hash_index(0, leaf)).collect();
    let hashes = tiles.read_hashes(&indexes).ok()?;
    let mut bundles: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for bundle in 0..size.div_ceil(256) {
        let width = (size - bundle * 256).min(256);
        let part = if width < 256 { format!(".p/{width}") } else { String::new() };
        bundles.insert(bundle, fs::read(dir.join(format!("tile/entries/{bundle:03}{part}"))).ok()?);
    }
    let mut hashes = hashes.iter();
    for (bundle, bytes) in bundles {
        let (mut rest, width) = (&bytes[..], (size - bundle * 256).min(256));
        for _ in 0..width {
            let (length, behind) = rest.split_first_chunk::<2>()?;
            let (leaf, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            (record_hash(leaf).0 == hashes.next()?.0).then_some(())?;
            rest = behind;
        }
        rest.is_empty().then_some(())?;
    }
    match older {
        Some(older) if older.size() > size => None,
        Some(older) if older.size() > 0 => {
            let proof = prove_tree(size, older.size(), &tiles).ok()?;
            check_tree(&proof, size, root, older.size(), *older.hash()).ok()
        }
        Some(older) => (older.hash().0 == EMPTY_HASH.0).then_some(()),
        None => Some(()),
    }
}
