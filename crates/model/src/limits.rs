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
/// Request bodies that are held for one run at once, in bytes: four of the largest, or a hundred of a long
/// conversation. What a call sends on is held until the call has ended.
pub const RUN_BODY_BYTES_MAX: usize = 4 * REQUEST_BYTES_MAX;
/// Request bodies that are held for the whole plane at once, in bytes; less where memory is small. A tenant takes
/// at most half as much as it leaves free.
pub const PLANE_BODY_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Answers that are held for one run until its agent has read them, in bytes: two of the largest.
pub const RUN_ANSWER_BYTES_MAX: usize = 2 * RESPONSE_BYTES_MAX;
/// Answers that are held for the whole plane, in bytes; less where memory is small. A tenant takes at most half as much
/// as it leaves free.
pub const PLANE_ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Bodies and answers may each take one part in so many of the memory that the plane has.
pub const MEMORY_SHARE: usize = 8;
/// An answer up to this length, in bytes, is read before room is taken for it; calls in flight are counted.
pub const FREE_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Pieces of one streamed answer that wait for its agent, in bytes.
pub const STREAM_WAITING_BYTES_MAX: usize = 64 * 1024;
/// How long an agent that may run is waited for, in milliseconds, until it has taken [`AGENT_TAKES_BYTES_MIN`] of what
/// waits for it.
pub const AGENT_STALL_MS_MAX: u64 = 120_000;
/// What an agent takes of an answer in that time, in bytes: the largest is not held for longer than eight minutes.
pub const AGENT_TAKES_BYTES_MIN: usize = 4 * 1024 * 1024;
/// Connections that a run may open outside at once, after a time without any.
pub const CONNECT_BURST: u32 = 50;
/// Time for each connection outside after that, in milliseconds: 20 a second. It delays, it does not refuse, and
/// never longer than [`RUN_CONNECTIONS_MAX`] of them take.
pub const CONNECT_INTERVAL_MS: u64 = 50;
/// Bytes outside that a connection reserves first where they are limited; doubled with each further instalment.
pub const EGRESS_INSTALMENT_BYTES_MIN: u64 = 256 * 1024;
/// The largest instalment.
pub const EGRESS_INSTALMENT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Largest telemetry export, in bytes as it is sent.
pub const TELEMETRY_REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Largest telemetry export, in bytes when it is unpacked.
pub const TELEMETRY_INFLATED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What is kept of a run's telemetry, in bytes; the rest is counted and dropped.
pub const RUN_TELEMETRY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Telemetry exports of a run that are taken at once, after a time without any.
pub const TELEMETRY_BURST: u32 = 64;
/// Time for each telemetry export after that, in milliseconds.
pub const TELEMETRY_INTERVAL_MS: u64 = 125;
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
