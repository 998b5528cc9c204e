//! Time stamps of RFC 3161: the request for one, and what an answer says.
//!
//! Over a signed checkpoint, all bytes of the note with the log's own signatures: so it shows when the signatures were
//! there as well. Read here, strictly: that the authority granted it, that it is over exactly our bytes and answers exactly
//! our request (nonce), and its time. **Not checked here: the authority's own signature.** Whoever relies on the time runs
//! `openssl ts -verify -in FILE.tsr -data FILE -CAfile ca.pem`, which checks all of it.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use cogward_model::{Entropy, Timestamp};

use crate::{
    Hash,
    der::{self, Der, DerError, context, element},
    leaf::to_hash,
};

/// Largest answer: a token with some certificates has 5 KiB.
pub const TIMESTAMP_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;
/// Longest serial number: RFC 3161 asks for 160 bits, and a sign.
const SERIAL_BYTES_MAX: usize = 21;

/// `id-sha256`.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// `id-signedData`.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// `id-ct-TSTInfo`.
const TST_INFO: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01, 0x04];

/// Why an answer is no time stamp of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// It is longer than any time stamp.
    #[error("it is longer than {TIMESTAMP_BYTES_MAX} bytes")]
    TooLong,
    /// The authority did not grant it.
    #[error("the authority refused it with status {status}{}", why.map(|why| format!(": {why}")).unwrap_or_default())]
    Refused {
        /// The status of RFC 3161.
        status: u8,
        /// What it says was wrong.
        why: Option<&'static str>,
    },
    /// It is not of the form.
    #[error("it is not an answer in the form of RFC 3161: {0}")]
    Form(&'static str),
    /// It is over something else.
    #[error("it is over other data")]
    Imprint,
    /// It answers another request.
    #[error("it answers another request")]
    Nonce,
}

fn form(at: &'static str) -> impl Fn(DerError) -> TimestampError {
    move |DerError| TimestampError::Form(at)
}

/// The SHA-256 of what is stamped.
#[must_use]
pub fn imprint(data: &[u8]) -> Hash {
    to_hash(&digest::digest(&digest::SHA256, data))
}

/// A request for a time stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimestampRequest {
    imprint: Hash,
    nonce: [u8; NONCE_BYTES],
}

impl TimestampRequest {
    /// A request for a time stamp over `data`, unlike every other one.
    #[must_use]
    pub fn new(data: &[u8], entropy: &dyn Entropy) -> Self {
        let mut nonce = [0; NONCE_BYTES];
        entropy.fill(&mut nonce);
        let [first, ..] = &mut nonce;
        // Positive, and in its shortest form as it stands.
        *first = (*first & 0x7f) | 0x40;
        Self { imprint: imprint(data), nonce }
    }

    /// The request with a nonce that was given out before.
    #[must_use]
    pub fn again(data: &[u8], nonce: &str) -> Option<Self> {
        let digits =
            nonce.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        let nonce: Vec<u8> = digits.collect::<Option<_>>()?;
        Some(Self { imprint: imprint(data), nonce: nonce.try_into().ok()? })
    }

    /// The number that the answer must repeat, in hex.
    #[must_use]
    pub fn nonce(&self) -> String {
        hex(&self.nonce)
    }

    /// The request as it is sent: version 1, SHA-256, the nonce, with the authority's certificate asked for.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let algorithm = element(der::SEQUENCE, &[&element(der::OID, &[SHA256]), &element(der::NULL, &[])]);
        let imprint = element(der::SEQUENCE, &[&algorithm, &element(der::OCTET_STRING, &[&self.imprint])]);
        let (version, nonce) = (element(der::INTEGER, &[&[1]]), element(der::INTEGER, &[&self.nonce]));
        element(der::SEQUENCE, &[&version, &imprint, &nonce, &element(der::BOOLEAN, &[&[0xff]])])
    }

    /// Reads the answer to this request.
    ///
    /// # Errors
    /// See [`TimestampError`].
    pub fn answered(&self, answer: &[u8]) -> Result<Timestamped, TimestampError> {
        let stamped = Timestamped::read(answer)?;
        if stamped.nonce.as_ref() != Some(&self.nonce()) {
            return Err(TimestampError::Nonce);
        }
        if stamped.imprint != self.imprint {
            return Err(TimestampError::Imprint);
        }
        Ok(stamped)
    }
}

/// What a time stamp says. Whether the authority signed it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamped {
    /// The SHA-256 of what it is over.
    pub imprint: Hash,
    /// The time.
    pub time: Timestamp,
    /// How far the truth may be from `time`, in microseconds, as far as it is said: by its accuracy, and by how many
    /// digits the time is written with.
    pub within: (u64, u64),
    /// The policy under which it was made, dotted.
    pub policy: String,
    /// Its number with the authority, in hex.
    pub serial: String,
    /// The nonce of the request, in hex.
    pub nonce: Option<String>,
}

impl Timestamped {
    /// Reads an answer, over whatever it is.
    ///
    /// # Errors
    /// See [`TimestampError`].
    pub fn read(answer: &[u8]) -> Result<Self, TimestampError> {
        if answer.len() > TIMESTAMP_BYTES_MAX {
            return Err(TimestampError::TooLong);
        }
        let whole = form("the answer");
        let mut outer = Der::new(answer);
        let mut response = outer.within(der::SEQUENCE).map_err(&whole)?;
        outer.end().map_err(&whole)?;
        granted(response.within(der::SEQUENCE).map_err(form("the status"))?)?;
        let info = token(response).map_err(form("the token"))?;
        info_of(info).map_err(form("what is stamped"))
    }
}

/// Whether the authority granted it, with changes or without.
fn granted(mut status: Der<'_>) -> Result<(), TimestampError> {
    let bad = form("the status");
    let number = match status.integer().map_err(&bad)? {
        [number] => *number,
        _ => return Err(TimestampError::Form("the status")),
    };
    let _text = status.maybe(der::SEQUENCE).map_err(&bad)?;
    let failure = status.maybe(der::BIT_STRING).map_err(&bad)?;
    status.end().map_err(&bad)?;
    if number < 2 {
        return Ok(());
    }
    let set = |bit: usize| {
        let byte = failure.and_then(|bits| bits.get(1 + bit / 8)).copied().unwrap_or_default();
        byte & (0x80 >> (bit % 8)) != 0
    };
    let known = [
        (0, "the algorithm is not supported"),
        (2, "the request is not permitted"),
        (5, "the request has the wrong form"),
        (14, "its clock is not available"),
        (15, "the policy is not supported"),
        (16, "the extension is not supported"),
        (17, "further information is not available"),
        (25, "a failure of its system"),
    ];
    let why = known.iter().find(|(bit, _)| set(*bit)).map(|(_, why)| *why);
    Err(TimestampError::Refused { status: number, why })
}

/// The bytes of the `TSTInfo` in the signed message (CMS).
fn token(mut response: Der<'_>) -> Result<Der<'_>, DerError> {
    let mut content = response.within(der::SEQUENCE)?;
    response.end()?;
    if content.of(der::OID)? != SIGNED_DATA {
        return Err(DerError);
    }
    let mut explicit = content.within(context(0))?;
    content.end()?;
    let mut signed = explicit.within(der::SEQUENCE)?;
    explicit.end()?;
    signed.integer()?;
    signed.of(der::SET)?;
    let mut inner = signed.within(der::SEQUENCE)?;
    // Certificates, lists of revoked ones, and who signed: for whoever checks the signature.
    signed.maybe(context(0))?;
    signed.maybe(context(1))?;
    signed.within(der::SET)?.of(der::SEQUENCE)?;
    signed.end()?;
    if inner.of(der::OID)? != TST_INFO {
        return Err(DerError);
    }
    let mut explicit = inner.within(context(0))?;
    inner.end()?;
    let info = explicit.within(der::OCTET_STRING)?;
    explicit.end()?;
    Ok(info)
}

fn info_of(mut info: Der<'_>) -> Result<Timestamped, DerError> {
    let mut fields = info.within(der::SEQUENCE)?;
    info.end()?;
    if fields.integer()? != [1] {
        return Err(DerError);
    }
    let policy = der::oid(fields.of(der::OID)?)?;
    let mut over = fields.within(der::SEQUENCE)?;
    let mut algorithm = over.within(der::SEQUENCE)?;
    let is_sha256 = algorithm.of(der::OID)? == SHA256;
    let parameters = algorithm.maybe(der::NULL)?.unwrap_or_default();
    algorithm.end()?;
    let imprint: Hash = over.of(der::OCTET_STRING)?.try_into().map_err(|_| DerError)?;
    over.end()?;
    let serial = fields.integer()?;
    if !is_sha256 || !parameters.is_empty() || serial.len() > SERIAL_BYTES_MAX {
        return Err(DerError);
    }
    let (time, digits) = general_time(fields.of(der::GENERALIZED_TIME)?).ok_or(DerError)?;
    let accuracy = match fields.maybe(der::SEQUENCE)? {
        Some(accuracy) => accuracy_of(Der::new(accuracy))?,
        None => 0,
    };
    if let Some(ordering) = fields.maybe(der::BOOLEAN)?
        && !matches!(ordering, [0 | 0xff])
    {
        return Err(DerError);
    }
    let nonce = fields.maybe(der::INTEGER)?.map(der::integer).transpose()?;
    if nonce.is_some_and(|nonce| nonce.len() > 64) {
        return Err(DerError);
    }
    fields.maybe(context(0))?;
    fields.maybe(context(1))?;
    fields.end()?;
    Ok(Timestamped { imprint, time, within: (accuracy, digits), policy, serial: hex(serial), nonce: nonce.map(hex) })
}

/// Microseconds.
fn accuracy_of(mut accuracy: Der<'_>) -> Result<u64, DerError> {
    let number = |content: Option<&[u8]>, max: u64| match content {
        None => Ok(0),
        Some(content) => {
            let content = der::integer(content)?;
            let is_small = content.len() <= 4 && content.first().is_some_and(|first| first & 0x80 == 0);
            let number = content.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            if is_small && number <= max { Ok(number) } else { Err(DerError) }
        }
    };
    let seconds = number(accuracy.maybe(der::INTEGER)?, u64::from(u32::MAX))?;
    let millis = number(accuracy.maybe(0x80)?, 999)?;
    let micros = number(accuracy.maybe(0x81)?, 999)?;
    accuracy.end()?;
    Ok(seconds * 1_000_000 + millis * 1_000 + micros)
}

/// `YYYYMMDDHHMMSS[.f]Z`, and to how many microseconds that is exact.
fn general_time(content: &[u8]) -> Option<(Timestamp, u64)> {
    let text = std::str::from_utf8(content).ok().filter(|text| text.is_ascii())?.strip_suffix('Z')?;
    let (seconds, fraction) = match text.split_once('.') {
        // DER: no fraction that is empty or ends with 0.
        Some((_, fraction)) if fraction.is_empty() || fraction.len() > 9 || fraction.ends_with('0') => return None,
        Some((seconds, fraction)) if fraction.bytes().all(|byte| byte.is_ascii_digit()) => (seconds, fraction),
        Some(_) => return None,
        None => (text, ""),
    };
    if seconds.len() != 14 {
        return None;
    }
    let part = |from: usize, to: usize| seconds.get(from..to);
    let (date, time) = (
        format!("{}-{}-{}", part(0, 4)?, part(4, 6)?, part(6, 8)?),
        format!("{}:{}:{}", part(8, 10)?, part(10, 12)?, part(12, 14)?),
    );
    let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let exact = 10_u64.pow(u32::try_from(6_usize.saturating_sub(fraction.len())).ok()?);
    Some((format!("{date}T{time}.{micros}Z").parse().ok()?, exact))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a text does not fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
