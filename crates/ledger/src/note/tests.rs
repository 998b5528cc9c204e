use super::*;

const ORIGIN: &str = "cogward.dev/ledger/x/acme";

fn both() -> SigningKey {
    SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap().with_ml_dsa(&[5; 32]).unwrap()
}

fn read(lines: &str) -> VerifyingKey {
    lines.strip_suffix('\n').unwrap().parse().unwrap()
}

#[test]
fn a_checkpoint_opens_with_its_key_and_with_no_other() {
    let key = SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap();
    let note = key.checkpoint(42, &[9; 32]);
    let read: VerifyingKey = key.verifying().to_string().parse().unwrap();
    let opened = Checkpoint::open(&note, &read).unwrap();
    assert_eq!((opened.size, opened.root), (42, [9; 32]));
    let other = SigningKey::from_seed(ORIGIN, &[8; 32]).unwrap();
    assert!(matches!(Checkpoint::open(&note, other.verifying()), Err(NoteError::Unsigned(_))));
    // A witness's line beside it does not disturb.
    let witnessed = format!("{note}\u{2014} witness.example AAAAAAAA\n");
    assert!(Checkpoint::open(&witnessed, &read).is_ok());
}

#[test]
fn both_signatures_must_be_there_for_whoever_knows_both_keys() {
    let key = both();
    let note = key.checkpoint(42, &[9; 32]);
    let keys = read(&key.verifying().lines());
    assert_eq!(&keys, key.verifying());
    assert_eq!(Checkpoint::open(&note, &keys).unwrap().size, 42);
    // Whoever knows only the Ed25519 key reads the same note.
    let pinned: VerifyingKey = keys.to_string().parse().unwrap();
    assert!(Checkpoint::open(&note, &pinned).is_ok());
    assert!(keys.includes(&pinned) && !pinned.includes(&keys));
    // A forger of one algorithm leaves the other's line away, puts an older one there, or one of another key.
    let older = SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap().checkpoint(42, &[9; 32]);
    assert!(matches!(Checkpoint::open(&older, &keys), Err(NoteError::Unsigned(_))));
    assert!(Checkpoint::open_older(&older, &keys).is_ok());
    let stale = key.checkpoint(41, &[9; 32]);
    let replayed = format!("{older}{}\n", stale.lines().last().unwrap());
    assert_eq!(Checkpoint::open(&replayed, &keys), Err(NoteError::Signature));
    assert_eq!(Checkpoint::open_older(&replayed, &keys), Err(NoteError::Signature));
    let other = SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap().with_ml_dsa(&[6; 32]).unwrap();
    let foreign = other.checkpoint(42, &[9; 32]);
    assert!(matches!(Checkpoint::open(&foreign, &keys), Err(NoteError::Unsigned(_))));
}

#[test]
fn the_ml_dsa_line_has_the_published_form() {
    let note = both().checkpoint(3, &[1; 32]);
    let note = Note::parse(&note).unwrap();
    assert_eq!(note.signatures.len(), 2);
    // A time of eight bytes, then the signature of FIPS 204.
    assert_eq!(note.signatures[1].bytes.len(), 8 + 2_420);
    assert_eq!(note.signatures[1].bytes[..8], [0; 8]);
    let message = cosign::cosigned_message("w", 7, "log", 3, &[1; 32]);
    let mut expected = b"subtree/v1\n\0\x01w\0\0\0\0\0\0\0\x07\x03log".to_vec();
    expected.extend_from_slice(&[0; 15]);
    expected.push(3);
    expected.extend_from_slice(&[1; 32]);
    assert_eq!(message, expected);
}

#[test]
fn keys_are_one_of_a_kind_and_unknown_kinds_are_ignored() {
    let key = both();
    let lines = key.verifying().lines();
    let [first, second] = lines.lines().collect::<Vec<_>>()[..] else { panic!("two lines") };
    let unknown = vkey::text(ORIGIN, 0x77, b"a key of a later time");
    let elsewhere = vkey::text("other.example", 0x77, b"x");
    for (text, good) in [
        (format!("{first}\n{second}\n{unknown}"), true),
        (format!("{first}\n{unknown}"), true),
        (format!("{second}\n{first}"), false),
        (format!("{first}\n{first}"), false),
        (format!("{first}\n{second}\n{second}"), false),
        (format!("{first}\n{elsewhere}"), false),
        (format!("{first}\n"), false),
        (format!("{first}\n\n{second}"), false),
        (String::new(), false),
    ] {
        assert_eq!(text.parse::<VerifyingKey>().is_ok(), good, "{text}");
    }
}

#[test]
fn no_changed_bit_of_a_checkpoint_or_key_is_believed() {
    for key in [SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap(), both()] {
        let lines = key.verifying().lines();
        let note = key.checkpoint(42, &[9; 32]);
        // Every bit of a short note; of the long signature one bit in each place of its base64.
        let step = if note.len() > 1_000 { 7 } else { 1 };
        for at in (0..note.len() * 8).step_by(step) {
            let mut bytes = note.clone().into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            let opened = std::str::from_utf8(&bytes).map(|text| Checkpoint::open(text, key.verifying()));
            assert!(!matches!(opened, Ok(Ok(_))), "bit {at}");
        }
        for at in (0..lines.len() * 8).step_by(step) {
            let mut bytes = lines.clone().into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            let text = std::str::from_utf8(&bytes).ok().and_then(|t| t.strip_suffix('\n'));
            let read = text.and_then(|t| t.parse::<VerifyingKey>().ok());
            assert!(read.is_none_or(|read| Checkpoint::open(&note, &read).is_err()), "bit {at}");
        }
    }
}
