//! What travels on the routes, a module per noun. JSON names are snake_case; a manifest keeps the
//! camelCase of its YAML wherever it is shown.

pub mod agents;
pub mod approvals;
pub mod events;
pub mod evidence;
pub mod evidence_query;
pub mod floors;
pub mod inputs;
pub mod issuers;
pub mod keys;
pub mod memory;
pub mod operations;
pub mod operators;
pub mod page;
pub mod plane;
pub mod policies;
pub mod policy_diff;
pub mod redactions;
pub mod runs;
pub mod tenants;
pub mod tools;
pub mod upstreams;

pub use agents::{Agent, AgentQuery, AgentVersion, RegisterQuery, Registration, VersionSummary, Warm, WarmPut};
pub use approvals::{Approval, ApprovalQuery, ApprovalState};
pub use events::{Event, EventQuery};
pub use evidence::{
    ArchiveStatus, Cosignatures, EvidenceLeaf, EvidenceRef, EvidenceStatus, TimestampAnswer, TimestampRequest,
    TimestampStatus, WitnessRequestQuery, WitnessedCheckpoint,
};
pub use evidence_query::{
    ConsistencyQuery, EvidenceFound, EvidenceIndex, EvidenceQuery, ExportQuery, SampleCommitted, SampleQuery,
};
pub use floors::{Floor, FloorPut, Shortfall, ShortfallQuery};
pub use inputs::{RunInput, Upload, UploadQuery};
pub use issuers::{Issuer, IssuerPut};
pub use keys::{
    KeyChangeRequest, KeyRevocation, KeyRole, KeyRotation, KeyStatement, KeyWhy, KeysQuery, LogKey, LogKeys,
};
pub use memory::{MemoryForget, MemoryForgotten, MemoryUsage};
pub use operations::{Operation, OperationState, Receipt};
pub use operators::{NewOperator, Operator, OperatorAdd, OperatorRoles, OperatorRotate, RotatedOperator};
pub use page::{Page, PageQuery};
pub use plane::{
    Check, CheckStatus, Doctor, Environment, EvidenceHealth, KnownBad, Plane, Pod, ProfileReport, Ready, WhoAmI,
};
pub use policies::{
    Answered, AppliedPolicy, ChangedDecision, ExplainQuery, GatewayPolicies, PolicyActivate, PolicyChange, PolicyCheck,
    PolicyChecked, PolicyExplanation, PolicyLevel, PolicySimulation, PolicyState, PolicyStatus, PolicyVerdict,
    PolicyVersion, PolicyWrite, SimulateQuery,
};
pub use policy_diff::{
    AnalysisMethod, Grants, IdleRule, PolicyAnalysis, PolicyClaim, PolicyDiff, PolicyDiffQuery, PolicyExample,
    PolicyProof,
};
pub use redactions::{
    ErasureReceipt, Hold, HoldRequest, ReceiptLeaf, Redaction, RedactionQuery, RedactionRequest, Retained, Retention,
    RetentionRequest,
};
pub use runs::{LogQuery, LogStream, Reason, Run, RunLimits, RunQuery, RunStart, RunUsage};
pub use tenants::{Tenant, TenantCreate};
pub use tools::{
    DiffLine, Known, LineChange, Tool, ToolApprove, ToolCounts, ToolDetail, ToolDiff, ToolLabelsPut, ToolListQuery,
    ToolQuery,
};
pub use upstreams::{
    Credential, EgressCredential, EgressCredentialPut, LeftOut, MadeFrom, Provider, ProviderPut, ReasonQuery,
    ToolServer, ToolServerPut,
};
