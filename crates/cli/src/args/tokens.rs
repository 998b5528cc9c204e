//! What `serve` says of where the keys of logs are.

use clap::{Args, ValueEnum};

/// Where the keys of logs are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TokenFlags {
    /// A PKCS#11 token (RFC 7512) in which the keys that sign the logs are made and stay:
    /// pkcs11:token=LABEL?module-path=FILE&pin-source=file:FILE; new keys are made in the first, up to four
    #[arg(long, value_name = "URI")]
    pub log_keys: Vec<String>,
    /// Where the next keys are made; those that are there are used where they are
    #[arg(long, value_enum, default_value_t, value_name = "PLACE", requires = "log_keys")]
    pub new_log_keys: KeyPlace,
}

/// Where a key is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum KeyPlace {
    /// In the token
    #[default]
    Token,
    /// In a file of the data directory: the way back out of a token
    File,
}
