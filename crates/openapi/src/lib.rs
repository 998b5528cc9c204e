//! Tools out of an OpenAPI document (3.0 and 3.1): what can be called, what a caller has to give, and the request that
//! comes of it. No I/O: this crate is told what the document says and what the arguments are, and says what to send.
//!
//! The document comes from whoever runs the API, the arguments from an agent. Neither says where a request goes: that is
//! the operator's word. Arguments fill places that the document has and cannot leave them.

mod arguments;
mod bounds;
mod document;
mod encode;
mod error;
mod name;
mod operation;
mod parameter;
mod request;
mod schema;
mod security;
mod source;
mod template;

#[cfg(test)]
mod tests;

pub use self::{
    bounds::{DEFINITIONS_BYTES_MAX, DOCUMENT_BYTES_MAX, OPERATIONS_MAX},
    document::{Import, LeftOut, Selection, read},
    encode::component,
    error::{ArgumentError, DocumentError},
    operation::{Method, Operation},
    request::{Payload, Planned},
};
