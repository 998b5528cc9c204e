//! Which token: a PKCS#11 URI (RFC 7512), with what the plane needs of it and nothing that it must not have.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::token::error::UriError;

/// Longest URI.
const URI_BYTES_MAX: usize = 4_096;
/// PKCS#11 keeps labels in 32 bytes, serial numbers in 16.
const TEXT_BYTES_MAX: usize = 32;

/// A token and how it is reached. It holds no PIN, only where that lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenUri {
    /// The module of the token's maker: a shared library.
    pub module: PathBuf,
    /// The file with the PIN.
    pub pin_file: PathBuf,
    /// The token's label.
    pub token: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its maker.
    pub manufacturer: Option<String>,
    /// Its model.
    pub model: Option<String>,
}

impl FromStr for TokenUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > URI_BYTES_MAX {
            return Err(UriError::Long);
        }
        let rest = text.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let [mut token, mut serial, mut manufacturer, mut model, mut module, mut pin] = [const { None }; 6];
        let attributes = path.split(';').map(|part| (part, false)).chain(query.split('&').map(|part| (part, true)));
        for (part, in_query) in attributes.filter(|(part, _)| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or(UriError::Pair)?;
            let slot = match (name, in_query) {
                ("token", false) => &mut token,
                ("serial", false) => &mut serial,
                ("manufacturer", false) => &mut manufacturer,
                ("model", false) => &mut model,
                ("module-path", true) => &mut module,
                ("pin-source", true) => &mut pin,
                ("pin-value", _) => return Err(UriError::PinValue),
                ("object" | "id" | "type", false) => return Err(UriError::Object),
                _ => return Err(UriError::Unknown(name.chars().take(32).collect())),
            };
            if slot.is_some() {
                return Err(UriError::Twice(name.chars().take(32).collect()));
            }
            let value = decoded(value).ok_or_else(|| UriError::Value(name.to_owned()))?;
            if !in_query && value.len() > TEXT_BYTES_MAX {
                return Err(UriError::Value(name.to_owned()));
            }
            *slot = Some(value);
        }
        if token.is_none() && serial.is_none() {
            return Err(UriError::Which);
        }
        let module = module.filter(|path| path.starts_with('/')).ok_or(UriError::Module)?;
        let pin = pin.ok_or(UriError::Pin)?;
        let pin = pin.strip_prefix("file://").or_else(|| pin.strip_prefix("file:")).unwrap_or(&pin);
        if !pin.starts_with('/') {
            return Err(UriError::Pin);
        }
        let (module, pin_file) = (PathBuf::from(module), PathBuf::from(pin));
        Ok(Self { module, pin_file, token, serial, manufacturer, model })
    }
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let named = [
            ("token", &self.token),
            ("serial", &self.serial),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
        ];
        let mut first = true;
        for (name, value) in named.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            let between = if std::mem::take(&mut first) { "" } else { ";" };
            write!(f, "{between}{name}={}", encoded(value))?;
        }
        let path = |path: &PathBuf| encoded(&path.to_string_lossy());
        write!(f, "?module-path={}&pin-source=file:{}", path(&self.module), path(&self.pin_file))
    }
}

/// What stands for itself in each part.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]@!$'()*+,/".contains(&byte)
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}

/// A value without its escapes: some text that a path or a label can be.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit =
                    |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                (high << 4) | low
            }
            byte if byte.is_ascii_graphic() => byte,
            _ => return None,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "pkcs11:token=log%20keys;serial=abc?module-path=/usr/lib/p.so&pin-source=file:/etc/pin";

    #[test]
    fn it_says_which_token_and_where_the_pin_lies() {
        let uri: TokenUri = GOOD.parse().unwrap();
        assert_eq!(uri.token.as_deref(), Some("log keys"));
        assert_eq!((uri.module.to_str(), uri.pin_file.to_str()), (Some("/usr/lib/p.so"), Some("/etc/pin")));
        let slashes = GOOD.replace("file:/etc", "file:///etc").parse::<TokenUri>().unwrap();
        assert_eq!(slashes, uri);
        assert_eq!(GOOD.replace("file:/etc", "/etc").parse::<TokenUri>().unwrap(), uri);
    }

    #[test]
    fn what_is_missing_too_much_or_a_secret_is_refused_and_not_repeated() {
        for (from, to, wanted) in [
            ("pkcs11:", "pkcs12:", UriError::Scheme),
            ("pin-source=file:/etc/pin", "pin-value=4711", UriError::PinValue),
            ("pin-source=file:/etc/pin", "pin-source=|program", UriError::Pin),
            ("pin-source=file:/etc/pin", "", UriError::Pin),
            ("pin-source=file:/etc", "pin-source=file:etc", UriError::Pin),
            ("module-path=/usr", "module-path=usr", UriError::Module),
            ("token=log%20keys;serial=abc", "model=x", UriError::Which),
            ("serial=abc", "token=b", UriError::Twice("token".into())),
            ("serial=abc", "object=b", UriError::Object),
            ("serial=abc", "x-vendor=b", UriError::Unknown("x-vendor".into())),
            ("serial=abc", "module-path=/b", UriError::Unknown("module-path".into())),
            ("serial=abc", "serial", UriError::Pair),
            ("%20", "%2", UriError::Value("token".into())),
            ("%20", "%00", UriError::Value("token".into())),
            ("%20", "%ff", UriError::Value("token".into())),
            ("%20", " ", UriError::Value("token".into())),
            ("abc", "0123456789012345678901234567890123456789", UriError::Value("serial".into())),
        ] {
            let refused = GOOD.replace(from, to).parse::<TokenUri>().unwrap_err();
            assert!(!refused.to_string().contains("4711"));
            assert_eq!(refused, wanted, "{to}");
        }
        assert_eq!(format!("{GOOD}{}", "a".repeat(5_000)).parse::<TokenUri>(), Err(UriError::Long));
    }

    proptest! {
        #[test]
        fn what_it_prints_it_reads(
            token in proptest::option::of("[^\\p{C}]{1,8}"),
            serial in "[ -~]{1,16}",
            model in proptest::option::of("[ -~]{1,16}"),
            module in "/[^\\p{C}]{1,40}",
            pin in "/[a-z%&;?=# é]{1,40}",
        ) {
            let (module, pin_file) = (PathBuf::from(module), PathBuf::from(&pin));
            let uri = TokenUri { module, pin_file, token, serial: Some(serial), manufacturer: None, model };
            prop_assert_eq!(uri.to_string().parse::<TokenUri>(), Ok(uri));
        }

        #[test]
        fn no_text_makes_it_panic_and_what_it_takes_is_stable(text in "(pkcs11:)?[ -~]{0,80}") {
            if let Ok(uri) = text.parse::<TokenUri>() {
                prop_assert_eq!(uri.to_string().parse::<TokenUri>(), Ok(uri));
            }
        }
    }
}
