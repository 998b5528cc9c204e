//! Every bound that more than one crate must agree on, in one place, each with its reason.

/// Largest manifest, in bytes: a page of YAML is 4 KiB; nobody reviews a quarter of a megabyte.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting of a manifest.
pub const MANIFEST_DEPTH_MAX: usize = 32;
/// Largest request body that an agent may send to a gateway, in bytes.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest unstreamed response that is taken from an upstream, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest single event of a streamed response, in bytes.
pub const STREAM_EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Deepest nesting of JSON that is parsed from an agent or an upstream.
pub const JSON_DEPTH_MAX: usize = 64;
/// Connections that one run may hold open to its gateways at once.
pub const RUN_CONNECTIONS_MAX: usize = 256;
/// Governed calls that one run may have in flight at once.
pub const RUN_CALLS_IN_FLIGHT_MAX: usize = 64;
/// Time an agent has to send the head of a request, in milliseconds.
pub const REQUEST_HEAD_MS_MAX: u64 = 10_000;
/// Time an agent has to send the body of a request, in milliseconds.
pub const REQUEST_BODY_MS_MAX: u64 = 60_000;
/// An entry of a C2SP tlog-tiles log is at most this long, in bytes.
pub const LEAF_BYTES_MAX: usize = 65_535;
/// Longest run input, in bytes.
pub const RUN_INPUT_BYTES_MAX: usize = 1024 * 1024;
/// What is kept of each of a run's stdout and stderr, in bytes; the rest is counted and dropped.
pub const RUN_LOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest reason that an operator may give, in bytes.
pub const REASON_BYTES_MAX: usize = 1_000;
/// Inputs that a manifest may declare, and outputs.
pub const CONTENTS_MAX: usize = 16;
/// Largest input or output that a manifest may allow, in MiB.
pub const CONTENT_MIB_MAX: u32 = 4_096;
/// Files and directories of one input or output: beyond it, an archive serves everyone better.
pub const CONTENT_ENTRIES_MAX: u64 = 10_000;
/// Free space that files of runs leave on the plane's disk, in bytes: twice of what stops agents for the evidence's sake.
pub const DISK_RESERVE_BYTES: u64 = 512 * 1024 * 1024;
/// Skills of one package: each is a mount of its own.
pub const SKILLS_MAX: usize = 64;
