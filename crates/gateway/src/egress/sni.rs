//! The server name in the first message of a TLS client, and nothing more of TLS.
//!
//! Reads the ClientHello (RFC 8446, 4.1.2; RFC 6066, 3) out of as many records as it comes in, within
//! bounds, and refuses whatever is not exactly one. A hello with Encrypted Client Hello is refused:
//! the name that counts would be hidden, and a real one cannot be told from one made up for show (GREASE).
//! The name says where the connection asks to go, not what is said inside it.

/// Most bytes that are read for a hello, record headers included.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// Most records that a hello may be cut into; a real client uses one or two.
const RECORDS_MAX: usize = 64;
/// Longest record (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;

const RECORD_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const NAME_TYPE_HOST: u8 = 0;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// The beginning of a hello; at least so many bytes are needed in all.
    Incomplete {
        /// Counted from the first byte of the connection.
        needed: usize,
    },
    /// A whole hello that asks for this server.
    Complete {
        /// As it was sent.
        server_name: String,
    },
}

/// Why the first bytes are not an acceptable hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The bytes are of something else.
    #[error("the first bytes are not TLS")]
    NotTls,
    /// It is TLS, badly made.
    #[error("the TLS hello is malformed")]
    Malformed,
    /// Beyond the bounds.
    #[error("the TLS hello is longer than {HELLO_BYTES_MAX} bytes or cut into too many pieces")]
    TooLong,
    /// No server name.
    #[error("the TLS hello names no server")]
    NoServerName,
    /// The name is hidden.
    #[error("the TLS hello is encrypted (ECH), so the server that it names cannot be seen")]
    Encrypted,
}

/// Looks at the first bytes that a client sent.
///
/// # Errors
/// [`HelloError`] as soon as they cannot become an acceptable hello.
pub fn inspect(sent: &[u8]) -> Result<Hello, HelloError> {
    let mut message = Vec::new();
    let mut at = 0;
    for _ in 0..RECORDS_MAX {
        let rest = sent.get(at..).unwrap_or_default();
        check_prefix(rest)?;
        let Some(&[_, _, _, high, low]) = rest.first_chunk::<5>() else {
            return incomplete(at + 5);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 {
            return Err(HelloError::Malformed);
        }
        if length > RECORD_BYTES_MAX {
            return Err(HelloError::NotTls);
        }
        let end = at + 5 + length;
        message.extend_from_slice(rest.get(5..rest.len().min(5 + length)).unwrap_or_default());
        if let Some((&kind, _)) = message.split_first()
            && kind != HANDSHAKE_CLIENT_HELLO
        {
            return Err(HelloError::Malformed);
        }
        if let Some(&[_, a, b, c]) = message.first_chunk::<4>() {
            let body = usize::try_from(u32::from_be_bytes([0, a, b, c])).map_err(|_| HelloError::TooLong)?;
            if body > HELLO_BYTES_MAX {
                return Err(HelloError::TooLong);
            }
            if let Some(hello) = message.get(4..4 + body) {
                return client_hello(hello).map(|server_name| Hello::Complete { server_name });
            }
        }
        if sent.len() < end {
            return incomplete(end);
        }
        at = end;
    }
    Err(HelloError::TooLong)
}

fn incomplete(needed: usize) -> Result<Hello, HelloError> {
    if needed > HELLO_BYTES_MAX { Err(HelloError::TooLong) } else { Ok(Hello::Incomplete { needed }) }
}

/// Plain bytes are refused at the first of them, before anyone waits for a whole record.
fn check_prefix(record: &[u8]) -> Result<(), HelloError> {
    let fits = match record {
        [] => true,
        [kind] => *kind == RECORD_HANDSHAKE,
        [kind, major] => *kind == RECORD_HANDSHAKE && *major == 3,
        [kind, major, minor, ..] => *kind == RECORD_HANDSHAKE && *major == 3 && *minor <= 4,
    };
    if fits { Ok(()) } else { Err(HelloError::NotTls) }
}

fn client_hello(body: &[u8]) -> Result<String, HelloError> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?; // legacy version, random
    hello.vector8()?; // legacy session id
    hello.vector16()?; // cipher suites
    hello.vector8()?; // compression methods
    if hello.0.is_empty() {
        return Err(HelloError::NoServerName);
    }
    let mut extensions = Reader(hello.vector16()?);
    hello.end()?;
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        match kind {
            EXTENSION_ENCRYPTED_CLIENT_HELLO => return Err(HelloError::Encrypted),
            // Two of them would be two readings.
            EXTENSION_SERVER_NAME if name.is_some() => return Err(HelloError::Malformed),
            EXTENSION_SERVER_NAME => name = Some(server_name(data)?),
            _ => {}
        }
    }
    name.ok_or(HelloError::NoServerName)
}

fn server_name(data: &[u8]) -> Result<String, HelloError> {
    let mut extension = Reader(data);
    let mut list = Reader(extension.vector16()?);
    extension.end()?;
    let kind = list.u8()?;
    let name = list.vector16()?;
    // RFC 6066 forbids two names of one type, and there is only one type.
    list.end()?;
    if kind != NAME_TYPE_HOST {
        return Err(HelloError::Malformed);
    }
    std::str::from_utf8(name).map(str::to_owned).map_err(|_| HelloError::Malformed)
}

/// Takes bytes off the front; running short is an error, never a panic.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(front)
    }
    fn u8(&mut self) -> Result<u8, HelloError> {
        self.take(1)?.first().copied().ok_or(HelloError::Malformed)
    }
    fn u16(&mut self) -> Result<u16, HelloError> {
        let &[high, low] = self.take(2)? else { return Err(HelloError::Malformed) };
        Ok(u16::from_be_bytes([high, low]))
    }
    fn vector8(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }
    fn vector16(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
    fn end(&self) -> Result<(), HelloError> {
        if self.0.is_empty() { Ok(()) } else { Err(HelloError::Malformed) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// A hello as rustls sends it.
    pub(crate) fn real_hello(host: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(host.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    fn with_length16(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    pub(crate) fn name_extension(host: &[u8]) -> Vec<u8> {
        let entry = [&[NAME_TYPE_HOST][..], &with_length16(host)].concat();
        [&[0, 0][..], &with_length16(&with_length16(&entry))].concat()
    }

    /// A hello by hand, with these extensions, in one record.
    pub(crate) fn hello_with(extensions: &[u8]) -> Vec<u8> {
        let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &with_length16(extensions)].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[HANDSHAKE_CLIENT_HELLO, length[1], length[2], length[3]][..], &body].concat();
        [&[RECORD_HANDSHAKE, 3, 1][..], &with_length16(&message)].concat()
    }

    /// The same handshake message, cut into records of `size` bytes.
    pub(crate) fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        hello[5..].chunks(size).flat_map(|piece| [&hello[..3], &with_length16(piece)].concat()).collect()
    }

    fn name_of(hello: &[u8]) -> Result<String, HelloError> {
        match inspect(hello)? {
            Hello::Complete { server_name } => Ok(server_name),
            Hello::Incomplete { .. } => panic!("incomplete"),
        }
    }

    #[test]
    fn the_name_is_found_in_a_real_hello_however_it_is_cut() {
        let hello = real_hello("api.example.com");
        assert_eq!(name_of(&hello).unwrap(), "api.example.com");
        for size in [hello.len() / 2, 100] {
            assert_eq!(name_of(&in_records(&hello, size)).unwrap(), "api.example.com");
        }
        assert_eq!(inspect(&in_records(&hello, 1)), Err(HelloError::TooLong), "a record for each byte");
        for end in 0..hello.len() {
            let Hello::Incomplete { needed } = inspect(&hello[..end]).unwrap() else { panic!("{end}") };
            assert!(needed > end && needed <= hello.len());
        }
    }

    #[test]
    fn plain_bytes_are_known_at_once() {
        for plain in ["GET / HTTP/1.1\r\n", "SSH-2.0-x", "G", "\u{16}GET", "\u{80}\u{2e}\u{1}"] {
            assert_eq!(inspect(plain.as_bytes()), Err(HelloError::NotTls), "{plain:?}");
        }
        assert_eq!(inspect(&[22, 3, 9]), Err(HelloError::NotTls));
        assert_eq!(inspect(&[22, 3, 1, 0xff, 0xff]), Err(HelloError::NotTls));
        assert_eq!(inspect(&[22, 3, 1, 0, 0]), Err(HelloError::Malformed));
        assert_eq!(inspect(&[22, 3, 1, 0, 4, 2]), Err(HelloError::Malformed), "a ServerHello");
    }

    #[test]
    fn a_hidden_missing_or_second_name_is_refused() {
        let name = name_extension(b"api.example.com");
        let ech = [0xfe, 0x0d, 0, 1, 0];
        assert_eq!(name_of(&hello_with(&name)).unwrap(), "api.example.com");
        assert_eq!(name_of(&hello_with(&[])), Err(HelloError::NoServerName));
        assert_eq!(name_of(&hello_with(&[&name[..], &ech].concat())), Err(HelloError::Encrypted));
        assert_eq!(name_of(&hello_with(&[&name[..], &name].concat())), Err(HelloError::Malformed));
        let two = [&[0][..], &with_length16(b"a.example"), &[0], &with_length16(b"b.example")].concat();
        let two = [&[0, 0][..], &with_length16(&with_length16(&two))].concat();
        assert_eq!(name_of(&hello_with(&two)), Err(HelloError::Malformed));
    }

    #[test]
    fn a_hello_without_end_is_refused_early() {
        assert_eq!(inspect(&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]), Err(HelloError::TooLong));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, tail: Vec<u8>) {
            let _ = inspect(&bytes);
            let _ = inspect(&[&[22, 3, 1], &tail[..]].concat());
            let _ = client_hello(&bytes);
        }

        #[test]
        fn a_damaged_hello_never_panics_and_never_gets_a_name_it_does_not_hold(at in 0_usize..100, to: u8) {
            let mut hello = hello_with(&name_extension(b"api.example.com"));
            let at = at % hello.len();
            hello[at] = to;
            if let Ok(Hello::Complete { server_name }) = inspect(&hello) {
                prop_assert!(hello.windows(server_name.len()).any(|w| w == server_name.as_bytes()));
            }
        }
    }
}
