//! Names, manifests and segments by themselves; whole archives are in `crates/evidence/tests/archive.rs`.

use proptest::prelude::*;

use super::{manifest::ManifestError, *};
use crate::note::SigningKey;

const ORIGIN: &str = "cogward.dev/ledger/x";

fn signing() -> SigningKey {
    SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap().with_ml_dsa(&[6; 32]).unwrap()
}

fn manifest(number: u64) -> Manifest {
    let sealed = Sealed { index: number, sha256: Hex([1; 32]), bytes: 65_536, from: 32, to: 60_000 };
    let part = LogPart {
        log: format!("{ORIGIN}/acme"),
        keys: "a line\n".to_owned(),
        first: 0,
        end: 3,
        root: Hex([2; 32]),
        last: Hex([3; 32]),
        edge: vec![Hex([4; 32]), Hex([5; 32])],
        checkpoint: "three\nlines\n\n\u{2014} and a signature\n".to_owned(),
        proof: vec![],
    };
    Manifest::new(signing().verifying(), number, (number > 0).then_some([9; 32]), sealed, vec![part])
}

#[test]
fn a_name_has_one_text_and_says_nothing_of_anybody() {
    for name in [Name::Manifest { number: 7, digest: [0xab; 32] }, Name::Segment { index: u64::MAX, digest: [0; 32] }] {
        assert_eq!(Name::parse(&name.to_string()), Some(name));
    }
    let good = Name::Segment { index: 7, digest: [0xab; 32] }.to_string();
    for bad in [
        good.to_uppercase(),
        good.replace("segments", "manifests"),
        good.replace("0000000000000007", "7"),
        good.replace("0000000000000007", "+000000000000007"),
        good.replace("ab.seg", "a.seg"),
        format!("../{good}"),
        good.replace('/', "//"),
        format!("{good}.new"),
        String::new(),
    ] {
        assert_eq!(Name::parse(&bad), None, "{bad}");
    }
}

#[test]
fn a_manifest_is_believed_with_the_key_of_its_plane_and_no_other() {
    let (key, manifest) = (signing(), manifest(4));
    let bytes = manifest.sign(&key).unwrap();
    assert_eq!(Manifest::open(&bytes, key.verifying()).unwrap(), manifest);
    assert_eq!(manifest.sign(&key).unwrap(), bytes, "the same bytes each time: a repeat makes no second object");
    assert!(Manifest::unchecked(&bytes).unwrap().named_keys().unwrap().includes(key.verifying()));
    let stranger = SigningKey::from_seed(ORIGIN, &[8; 32]).unwrap();
    assert!(matches!(Manifest::open(&bytes, stranger.verifying()), Err(ManifestError::Note(_))));
    // Another plane's key under a manifest that speaks of this one.
    let elsewhere = SigningKey::from_seed("cogward.dev/ledger/y", &[7; 32]).unwrap();
    let forged = manifest.sign(&elsewhere).unwrap();
    assert!(Manifest::open(&forged, elsewhere.verifying()).is_err());
    // The note of one manifest over the line of another.
    let text = String::from_utf8(bytes.clone()).unwrap();
    let other = String::from_utf8(self::manifest(5).sign(&key).unwrap()).unwrap();
    let (note, line) = (text.split_once("\n{").unwrap().0, other.split_once("\n{").unwrap().1);
    assert_eq!(Manifest::open(format!("{note}\n{{{line}").as_bytes(), key.verifying()), Err(ManifestError::OtherText));
    // A checkpoint of the log is no manifest, and a manifest no checkpoint.
    assert!(Manifest::open(key.checkpoint(4, &[1; 32]).as_bytes(), key.verifying()).is_err());
    assert!(crate::note::Checkpoint::open(text.split_once("\n{").unwrap().0, key.verifying()).is_err());
    assert!(Manifest::begins(&text) && !Manifest::begins(&key.checkpoint(4, &[1; 32])));
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        assert_ne!(Manifest::open(&bytes, key.verifying()).ok(), Some(manifest.clone()), "byte {at}");
    }
}

/// A segment with these frames.
fn segment(index: u64, size: usize, frames: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = b"cogwal01".to_vec();
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(&(size as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    for (kind, payload) in frames {
        let mut header = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
        header.extend_from_slice(&[*kind, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), payload);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(payload);
    }
    bytes.resize(size, 0);
    bytes
}

type Frames = Vec<(u8, Vec<u8>)>;

fn read(bytes: &[u8], index: u64, size: u64) -> Result<(Frames, Hash), SegmentError> {
    let mut reader = SegmentReader::open(bytes, index, size)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.frame()? {
        frames.push((frame.kind, frame.payload.to_vec()));
    }
    Ok((frames, reader.finish()?))
}

proptest! {
    #[test]
    fn a_segment_is_read_as_it_was_written_and_no_bit_of_it_is_lost(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..6),
        spare in 0_usize..60,
        bit in any::<prop::sample::Index>(),
    ) {
        let frames: Vec<(u8, &[u8])> = payloads.iter().map(|payload| (2, &payload[..])).collect();
        let size = 32 + payloads.iter().map(|payload| 20 + payload.len()).sum::<usize>() + spare;
        let bytes = segment(3, size, &frames);
        let (found, digest) = read(&bytes, 3, size as u64).unwrap();
        prop_assert_eq!(found, payloads.iter().map(|payload| (2, payload.clone())).collect::<Vec<_>>());
        prop_assert_eq!(digest, sha256(&bytes));
        prop_assert!(read(&bytes, 4, size as u64).is_err());
        prop_assert!(read(&bytes[..size - 1], 3, size as u64).is_err());
        prop_assert!(read(&[&bytes[..], &[0]].concat(), 3, size as u64).is_err());
        let mut changed = bytes.clone();
        let bit = bit.index(size * 8);
        changed[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(read(&changed, 3, size as u64).map_or(true, |(_, other)| other != digest));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 0_u64..500) {
        let _read = read(&bytes, 0, size);
        let headed = [&segment(0, 32, &[])[..16], &size.to_le_bytes(), &[0; 4]].concat();
        let crc = crc32c::crc32c(&headed).to_le_bytes();
        let _read = read(&[&headed[..], &crc, &bytes].concat(), 0, size);
        let _manifest = ManifestKeys::default().open(&bytes);
    }
}
