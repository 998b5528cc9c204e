//! What is wrong with a document, or with arguments.

/// Why a document makes no tools.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It cannot be read.
    #[error("the OpenAPI document, line {line} column {column}: {why}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong.
        why: String,
    },
    /// It says something that cannot be.
    #[error("the OpenAPI document, at `{at}`: {why}")]
    Wrong {
        /// A JSON pointer.
        at: String,
        /// What is wrong.
        why: String,
    },
    /// It is too large.
    #[error("the OpenAPI document {0}")]
    TooLarge(String),
    /// The operator chose what is not there.
    #[error("no operation and no tag is called `{0}`")]
    NotThere(String),
}

impl DocumentError {
    pub(crate) fn wrong(at: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Wrong { at: at.into(), why: why.into() }
    }
}

/// Why arguments make no request. It names the argument and never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// They are no JSON object.
    #[error("the arguments are not an object")]
    NoObject,
    /// One that the tool does not have.
    #[error("there is no such argument as one of those given")]
    Unknown,
    /// One that is needed.
    #[error("the argument `{0}` is missing")]
    Missing(String),
    /// One that cannot be sent.
    #[error("the argument `{argument}` {why}")]
    Wrong {
        /// Its name.
        argument: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// All of them together.
    #[error("the arguments make a request whose address is too long")]
    TooLong,
}

impl ArgumentError {
    pub(crate) fn wrong(argument: &str, why: &'static str) -> Self {
        Self::Wrong { argument: argument.to_owned(), why }
    }
}

/// Some text for a message, bounded and without what could not be seen.
pub(crate) fn shown(text: &str) -> String {
    let visible = |c: char| if c.is_control() || is_invisible(c) { '\u{fffd}' } else { c };
    let mut short: String = text.chars().take(96).map(visible).collect();
    if text.chars().nth(96).is_some() {
        short.push('…');
    }
    short
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}
