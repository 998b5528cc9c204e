//! What travels on the routes, a module per noun. JSON names are snake_case; a manifest keeps the
//! camelCase of its YAML wherever it is shown.

pub mod agents;
pub mod events;
pub mod evidence;
pub mod operations;
pub mod page;
pub mod plane;
pub mod runs;
pub mod tenants;
pub mod upstreams;

pub use agents::{Agent, AgentQuery, AgentVersion, RegisterQuery, Registration, VersionSummary, Warm, WarmPut};
pub use events::{Event, EventQuery};
pub use evidence::{EvidenceLeaf, EvidenceRef};
pub use operations::{Operation, OperationState, Receipt};
pub use page::{Page, PageQuery};
pub use plane::{Check, CheckStatus, Doctor, EvidenceHealth, Plane, ProfileReport, Ready, WhoAmI};
pub use runs::{LogQuery, LogStream, Reason, Run, RunLimits, RunQuery, RunStart, RunUsage};
pub use tenants::{Tenant, TenantCreate};
pub use upstreams::{Credential, Provider, ProviderPut, ReasonQuery, ToolServer, ToolServerPut};
