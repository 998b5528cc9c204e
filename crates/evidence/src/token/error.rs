//! What can be wrong with a token, with what to do about it. None of these texts has a PIN in it.

use std::path::PathBuf;

use cryptoki::error::{Error, RvError};

/// Why a text is not the URI of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It is no such URI.
    #[error("it does not begin with `pkcs11:`")]
    Scheme,
    /// It is longer than any.
    #[error("it is too long")]
    Long,
    /// A part without a value.
    #[error("a part of it is not NAME=VALUE")]
    Pair,
    /// A part that stands there twice.
    #[error("`{0}` stands in it twice")]
    Twice(String),
    /// Not of RFC 7512, not used here, or on the wrong side of the `?`.
    #[error(
        "`{0}` is not known in this place: token, serial, manufacturer and model stand before the `?`, \
         module-path and pin-source behind it"
    )]
    Unknown(String),
    /// A value that cannot be.
    #[error("the value of `{0}` is empty, too long, or not well escaped")]
    Value(String),
    /// A PIN where everybody on the host can read it.
    #[error(
        "a PIN does not belong here, where others see it: write it to a file of mode 0600 and name that with pin-source=file:PATH"
    )]
    PinValue,
    /// Where the PIN lies is not said.
    #[error("pin-source=file:PATH is missing, with an absolute path to a file that holds the PIN")]
    Pin,
    /// The plane names its own objects.
    #[error("it names an object: the plane makes and names its keys itself, only the token is wanted")]
    Object,
    /// Nothing that tells the token from others.
    #[error("neither `token` nor `serial` says which token")]
    Which,
    /// The module.
    #[error("module-path=PATH is missing, with an absolute path to the PKCS#11 module")]
    Module,
}

/// Why a token does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The library.
    #[error("the PKCS#11 module {} cannot be used: {why}; install it, or correct module-path", .path.display())]
    Module {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No slot has it.
    #[error("no token of {} is {wanted}; there are: {there}. Connect it, or correct the URI", .module.display())]
    NotThere {
        /// The library.
        module: PathBuf,
        /// What was looked for.
        wanted: String,
        /// What was found.
        there: String,
    },
    /// Several slots have it.
    #[error("several tokens are {wanted}: name one by its serial")]
    Several {
        /// What was looked for.
        wanted: String,
    },
    /// The file with the PIN.
    #[error("the file with the PIN, {}, cannot be used: {why}", .path.display())]
    PinFile {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The token does not take it.
    #[error(
        "the token {token} did not take the PIN in {} ({why}). It is not tried again until that file is written anew, \
         since tokens lock: put the right PIN there", .path.display()
    )]
    PinRefused {
        /// Which token.
        token: String,
        /// Where the PIN lies.
        path: PathBuf,
        /// What the token said.
        why: String,
    },
    /// A further wrong one would lock it.
    #[error(
        "the token {token} is locked, or the next wrong PIN locks it: unlock it, or log in to it once with its own tool"
    )]
    PinLocked {
        /// Which token.
        token: String,
    },
    /// The key is not in it.
    #[error(
        "the key `{label}` is not in the token {token}: connect the one that has it, or restore it from the token's backup"
    )]
    KeyGone {
        /// The object.
        label: String,
        /// Where it was looked for.
        token: String,
    },
    /// More than one object.
    #[error("the token {token} has several keys `{label}`: nobody can say which is the log's")]
    KeyTwice {
        /// The object.
        label: String,
        /// Where.
        token: String,
    },
    /// A key that may have left the token.
    #[error("the key `{label}` in the token {token} is {what}: it is not used")]
    Loose {
        /// The object.
        label: String,
        /// Where.
        token: String,
        /// What it must not be.
        what: &'static str,
    },
    /// The public half is not there, or not in a form that is known.
    #[error("the token {token} does not tell the public half of `{label}`")]
    NoPublic {
        /// The object.
        label: String,
        /// Where.
        token: String,
    },
    /// What it signs does not belong to its public key.
    #[error("what the key `{label}` in the token {token} signs does not belong to its public half: it is not used")]
    Mismatch {
        /// The object.
        label: String,
        /// Where.
        token: String,
    },
    /// It has no such keys.
    #[error("the token {token} makes no Ed25519 keys ({why}): it needs CKM_EC_EDWARDS_KEY_PAIR_GEN and CKM_EDDSA")]
    Mechanism {
        /// Which.
        token: String,
        /// What it said.
        why: String,
    },
    /// It does not answer.
    #[error("the module {} does not answer within {seconds} s", .module.display())]
    Silent {
        /// The library.
        module: PathBuf,
        /// For so long.
        seconds: u64,
    },
    /// Anything else that it says.
    #[error("the token {token} fails: {why}")]
    Call {
        /// Which.
        token: String,
        /// What it said.
        why: String,
    },
}

/// Whether a new session may help: what is left are answers about the request itself.
pub(super) fn needs_session(error: &Error) -> bool {
    let Error::Pkcs11(error, _) = error else { return false };
    matches!(
        error,
        RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::DeviceError
            | RvError::DeviceMemory
            | RvError::DeviceRemoved
            | RvError::HostMemory
            | RvError::SessionClosed
            | RvError::SessionHandleInvalid
            | RvError::KeyHandleInvalid
            | RvError::ObjectHandleInvalid
            | RvError::OperationActive
            | RvError::OperationNotInitialized
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid
            | RvError::UserNotLoggedIn
            | RvError::CryptokiNotInitialized
            | RvError::VendorDefined(_)
            | RvError::UnknownErrorCode(_)
    )
}

/// Whether the token said no to a PIN.
pub(super) fn is_about_pin(error: &Error) -> bool {
    let Error::Pkcs11(error, _) = error else { return false };
    matches!(
        error,
        RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::PinLocked
            | RvError::UserPinNotInitialized
            | RvError::PinTooWeak
    )
}

/// Whether the curve was named in a way that the token does not know.
pub(super) fn is_about_curve(error: &Error) -> bool {
    let Error::Pkcs11(error, _) = error else { return false };
    matches!(
        error,
        RvError::CurveNotSupported
            | RvError::DomainParamsInvalid
            | RvError::AttributeValueInvalid
            | RvError::TemplateInconsistent
            | RvError::ArgumentsBad
            | RvError::GeneralError
            | RvError::FunctionFailed
    )
}

/// What a module said, without the page of prose that belongs to each code.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{function}: {code:?}"),
        other => other.to_string(),
    }
}
