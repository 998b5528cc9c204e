use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// An answer of `openssl ts -reply` to the request below (tests/fixtures/tsa).
static GRANTED: LazyLock<Vec<u8>> = LazyLock::new(|| from_lines(include_str!("granted.tsr.base64")));
/// One that it refused.
static REFUSED: LazyLock<Vec<u8>> = LazyLock::new(|| from_lines(include_str!("refused.tsr.base64")));
const DATA: &[u8] = b"what is stamped\n";

fn from_lines(text: &str) -> Vec<u8> {
    crate::text::bytes_from_base64(&text.replace('\n', "")).unwrap()
}

fn request() -> TimestampRequest {
    let mut nonce = [0; NONCE_BYTES];
    for (n, byte) in (0..).zip(&mut nonce) {
        *byte = n;
    }
    nonce[0] = 0x40;
    TimestampRequest { imprint: imprint(DATA), nonce }
}

#[test]
fn the_request_is_the_one_that_was_answered() {
    let wanted = "304b0201013031300d060960864801650304020105000420";
    let der = request().to_der();
    assert!(hex(&der).starts_with(wanted), "{}", hex(&der));
    assert!(hex(&der).ends_with("0210400102030405060708090a0b0c0d0e0f0101ff"));
    let stamped = request().answered(&GRANTED).unwrap();
    assert_eq!(stamped.time.to_string(), "2026-11-23T18:25:42.000000Z");
    assert_eq!((stamped.policy.as_str(), stamped.serial.as_str()), ("1.3.6.1.4.1.99999.1", "01"));
    assert_eq!(stamped.within, (500_000, 1_000_000));
    assert_eq!(stamped.imprint, imprint(DATA));
}

#[test]
fn an_answer_to_another_request_is_refused() {
    let other = TimestampRequest { imprint: imprint(b"what is stampee\n"), ..request() };
    assert_eq!(other.answered(&GRANTED), Err(TimestampError::Imprint));
    let mut other = request();
    other.nonce[7] ^= 1;
    assert_eq!(other.answered(&GRANTED), Err(TimestampError::Nonce));
    let why = Some("the algorithm is not supported");
    assert_eq!(request().answered(&REFUSED), Err(TimestampError::Refused { status: 2, why }));
    assert_eq!(request().answered(&vec![0x30; TIMESTAMP_BYTES_MAX + 1]), Err(TimestampError::TooLong));
    for cut in 0..GRANTED.len() {
        assert!(request().answered(&GRANTED[..cut]).is_err(), "{cut}");
    }
    let more = [&GRANTED[..], &[0]].concat();
    assert!(request().answered(&more).is_err());
}

#[test]
fn two_requests_are_never_the_same() {
    let [one, other] = [(); 2].map(|()| TimestampRequest::new(DATA, &cogward_model::SystemEntropy));
    assert_ne!(one.nonce(), other.nonce());
    assert_eq!((one.nonce().len(), one.imprint), (32, other.imprint));
}

#[test]
fn a_time_is_read_as_der_writes_it() {
    for (text, time) in [
        ("20261123101112Z", Some(("2026-11-23T10:11:12.000000Z", 1_000_000))),
        ("20261123101112.5Z", Some(("2026-11-23T10:11:12.500000Z", 100_000))),
        ("20261123101112.123456Z", Some(("2026-11-23T10:11:12.123456Z", 1))),
        ("20261123101112.123456789Z", Some(("2026-11-23T10:11:12.123456Z", 1))),
        ("20240229000000Z", Some(("2024-02-29T00:00:00.000000Z", 1_000_000))),
        ("20250229000000Z", None),
        ("20261123101160Z", None),
        ("20261123101112.Z", None),
        ("20261123101112.50Z", None),
        ("20261123101112,5Z", None),
        ("20261123101112.-5Z", None),
        ("20261123101112", None),
        ("20261123101112+0000", None),
        ("202611231011Z", None),
        ("2026112310111Z", None),
        ("19691231235959Z", None),
        ("+0261123101112Z", None),
        ("2026112310111\u{664}Z", None),
        ("", None),
    ] {
        let read = general_time(text.as_bytes()).map(|(time, exact)| (time.to_string(), exact));
        assert_eq!(read.as_ref().map(|(time, exact)| (time.as_str(), *exact)), time, "{text}");
    }
}

/// Every bit of what is checked: the way to the stamped bytes, and these.
#[test]
fn no_changed_bit_of_what_is_checked_goes_unseen() {
    let good = request().answered(&GRANTED).unwrap();
    let end = GRANTED.windows(16).position(|bytes| bytes == request().nonce).unwrap() + 16;
    // These say what they say, and only the authority's signature holds them: policy, number, time, accuracy.
    let free: Vec<usize> = [
        (&b"\x06\x09\x2b\x06\x01\x04\x01"[..], 2..11),
        (&b"\x02\x01\x01\x18\x0f"[..], 2..3),
        (&b"\x02\x01\x01\x18\x0f"[..], 5..19),
        (&b"\x80\x02\x01\xf4"[..], 0..4),
    ]
    .into_iter()
    .flat_map(|(before, place)| {
        let at = GRANTED.windows(before.len()).position(|bytes| bytes == before).unwrap();
        at + place.start..at + place.end
    })
    .collect();
    let mut caught = 0;
    for bit in 0..end * 8 {
        let mut bytes = GRANTED.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match request().answered(&bytes) {
            Err(_) => caught += 1,
            // A status of 1, the version of the message, an algorithm that only the signature needs, or one of these.
            Ok(read) => {
                assert!(read.imprint == good.imprint && (bit / 8 < 52 || free.contains(&(bit / 8))), "bit {bit}")
            }
        }
    }
    assert!(caught > 1_000, "{caught}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(request().answered(&bytes).is_err());
    }

    /// Real answers with bytes changed, removed and put in: no panic, and never other data or another request.
    #[test]
    fn a_mutated_answer_is_refused_or_is_over_the_same_data(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..6),
    ) {
        let mut bytes = GRANTED.to_vec();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        if let Ok(read) = request().answered(&bytes) {
            prop_assert_eq!(read.imprint, imprint(DATA));
        }
    }
}
