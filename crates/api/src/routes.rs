//! Every route of the plane, as one table.
//!
//! A row says all that a client must know; the server binds a handler to each row by its constant,
//! and a route that is not in the table does not exist. Paths have the `{name}` form that both axum
//! and OpenAPI read.

use cogward_model::content::Artifact;

use crate::{
    ProblemCode::*,
    route::of,
    types::{
        Agent, AgentQuery, AgentVersion, Approval, ApprovalQuery, ConsistencyQuery, Cosignatures, Doctor,
        EgressCredential, EgressCredentialPut, ErasureReceipt, Event, EventQuery, EvidenceFound, EvidenceIndex,
        EvidenceLeaf, EvidenceQuery, EvidenceStatus, ExplainQuery, ExportQuery, Floor, FloorPut, Hold, HoldRequest,
        Issuer, IssuerPut, KeyRevocation, KeyRotation, KeysQuery, LogKeys, LogQuery, MemoryForget, MemoryForgotten,
        MemoryUsage, NewOperator, Operation, Operator, OperatorAdd, OperatorRoles, OperatorRotate, Page, PageQuery,
        Plane, PolicyActivate, PolicyCheck, PolicyChecked, PolicyDiff, PolicyDiffQuery, PolicyExplanation, PolicyLevel,
        PolicySimulation, PolicyStatus, PolicyVersion, PolicyWrite, Provider, ProviderPut, Ready, Reason, ReasonQuery,
        Redaction, RedactionQuery, RedactionRequest, RegisterQuery, Registration, Retention, RetentionRequest,
        RotatedOperator, Run, RunQuery, RunStart, SampleCommitted, SampleQuery, Shortfall, ShortfallQuery,
        SimulateQuery, Tenant, TenantCreate, TimestampAnswer, TimestampRequest, Tool, ToolApprove, ToolDetail,
        ToolDiff, ToolLabelsPut, ToolListQuery, ToolQuery, ToolServer, ToolServerPut, Upload, UploadQuery,
        VersionSummary, Warm, WarmPut, WhoAmI, WitnessRequestQuery,
    },
};

pub use crate::route::{Method, RequestBody, ResponseBody, Route, SchemaOf};

macro_rules! routes {
    ($($name:ident = $route:expr;)*) => {
        $(
            #[doc = concat!("The row `", stringify!($name), "`.")]
            pub const $name: Route = $route;
        )*
        /// Every row, in the order of the description.
        pub const ROUTES: &[Route] = &[$($name,)*];
    };
}

use Method::{Delete, Get, Post, Put};

routes! {
    LIST_TENANTS = Route::new("list_tenants", "tenants", Get, "/api/v1/tenants", "List the tenants")
        .query(of::<PageQuery>).gives(of::<Page<Tenant>>);
    CREATE_TENANT = Route::new("create_tenant", "tenants", Post, "/api/v1/tenants", "Create a tenant")
        .takes(of::<TenantCreate>).gives(of::<Tenant>).success(&[201]).refuses(&[AlreadyExists]).idempotent()
        .command("tenant.create");

    LIST_FLOORS = Route::new("list_floors", "floors", Get, "/api/v1/floors",
        "List the weakest sandbox profiles that the plane accepts, by tier")
        .gives(of::<Page<Floor>>);
    PUT_FLOOR = Route::new("put_floor", "floors", Put, "/api/v1/floors/{tier}",
        "Set the weakest sandbox profile that the plane accepts for a tier, or go back to the default")
        .takes(of::<FloorPut>).gives(of::<Floor>).reasoned()
        .command("floor.set");
    LIST_TENANT_FLOORS = Route::new("list_tenant_floors", "floors", Get, "/api/v1/tenants/{tenant}/floors",
        "List the weakest sandbox profiles that hold for a tenant, by tier")
        .gives(of::<Page<Floor>>);
    PUT_TENANT_FLOOR = Route::new("put_tenant_floor", "floors", Put, "/api/v1/tenants/{tenant}/floors/{tier}",
        "Raise the weakest sandbox profile for a tier in a tenant, or take that back")
        .takes(of::<FloorPut>).gives(of::<Floor>).refuses(&[ProfileTooWeak]).reasoned()
        .command("floor.set");
    LIST_SHORTFALLS = Route::new("list_shortfalls", "floors", Get, "/api/v1/floor-shortfalls",
        "List registered versions that a floor does not accept any more, with their live runs")
        .query(of::<ShortfallQuery>).gives(of::<Page<Shortfall>>);

    LIST_AGENTS = Route::new("list_agents", "agents", Get, "/api/v1/tenants/{tenant}/agents", "List a tenant's agents")
        .query(of::<AgentQuery>).gives(of::<Page<Agent>>);
    REGISTER_AGENT = Route::new("register_agent", "agents", Post, "/api/v1/tenants/{tenant}/agents",
        "Register an agent version from its package")
        .query(of::<RegisterQuery>).takes_tar().gives(of::<Registration>).success(&[201, 200])
        .refuses(&[
            ManifestInvalid, PackageInvalid, AlreadyExists, ProfileUnenforceable, ProfileTooWeak, ToolNotApproved,
        ])
        .command("agent.register");
    GET_AGENT = Route::new("get_agent", "agents", Get, "/api/v1/tenants/{tenant}/agents/{agent}",
        "Read an agent with its versions")
        .gives(of::<Agent>);
    LIST_VERSIONS = Route::new("list_versions", "agents", Get, "/api/v1/tenants/{tenant}/agents/{agent}/versions",
        "List an agent's versions, newest first")
        .query(of::<PageQuery>).gives(of::<Page<VersionSummary>>);
    GET_VERSION = Route::new("get_version", "agents", Get,
        "/api/v1/tenants/{tenant}/agents/{agent}/versions/{version}", "Read a version with its manifest")
        .gives(of::<AgentVersion>);
    GET_WARM = Route::new("get_warm", "agents", Get,
        "/api/v1/tenants/{tenant}/agents/{agent}/versions/{version}/warm", "Read how many sandboxes are ready")
        .gives(of::<Warm>);
    PUT_WARM = Route::new("put_warm", "agents", Put,
        "/api/v1/tenants/{tenant}/agents/{agent}/versions/{version}/warm", "Say how many sandboxes are to be ready")
        .takes(of::<WarmPut>).gives(of::<Warm>)
        .command("agent.warm");

    LIST_TOOL_SERVERS = Route::new("list_tool_servers", "tool-servers", Get, "/api/v1/tenants/{tenant}/tool-servers",
        "List a tenant's tool servers")
        .query(of::<PageQuery>).gives(of::<Page<ToolServer>>);
    PUT_TOOL_SERVER = Route::new("put_tool_server", "tool-servers", Put,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}", "Add or replace a tool server")
        .takes(of::<ToolServerPut>).gives(of::<ToolServer>).success(&[200, 201])
        .refuses(&[PreconditionFailed, UpstreamUnavailable]).etag()
        .command("tool-server.add");
    GET_TOOL_SERVER = Route::new("get_tool_server", "tool-servers", Get,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}", "Read a tool server")
        .gives(of::<ToolServer>).etag();
    DELETE_TOOL_SERVER = Route::new("delete_tool_server", "tool-servers", Delete,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}", "Remove a tool server and forget its credential")
        .query(of::<ReasonQuery>).success(&[204]).refuses(&[InUse]).reasoned()
        .command("tool-server.remove");

    GET_MEMORY = Route::new("get_memory", "tool-servers", Get,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}/memory", "Read how much there is in a memory")
        .gives(of::<MemoryUsage>).refuses(&[UpstreamUnavailable]);
    FORGET_MEMORY = Route::new("forget_memory", "tool-servers", Post,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}/memory/forget",
        "Forget what was kept for a user, or all of a memory")
        .takes(of::<MemoryForget>).gives(of::<MemoryForgotten>).refuses(&[UpstreamUnavailable]).reasoned()
        .command("memory.forget");

    LIST_TOOLS = Route::new("list_tools", "tools", Get,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}/tools", "List what a tool server defines, and its pins")
        .query(of::<ToolListQuery>).gives(of::<Page<Tool>>);
    GET_TOOL = Route::new("get_tool", "tools", Get,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}/tools/{tool}", "Read a tool with its definition")
        .query(of::<ToolQuery>).gives(of::<ToolDetail>).etag();
    GET_TOOL_DIFF = Route::new("get_tool_diff", "tools", Get,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}/tools/{tool}/diff",
        "Read what is different between the approved definition and the one that is offered")
        .query(of::<ToolQuery>).gives(of::<ToolDiff>);
    APPROVE_TOOL = Route::new("approve_tool", "tools", Post,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}/tools/{tool}/approve", "Approve one definition of a tool")
        .takes(of::<ToolApprove>).gives(of::<Tool>).refuses(&[PreconditionFailed]).reasoned().etag()
        .command("tool.approve");
    BLOCK_TOOL = Route::new("block_tool", "tools", Post,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}/tools/{tool}/block",
        "Block a tool; the next call of it is refused")
        .takes(of::<Reason>).gives(of::<Tool>).refuses(&[PreconditionFailed]).reasoned().etag()
        .command("tool.block");
    LABEL_TOOL = Route::new("label_tool", "tools", Put,
        "/api/v1/tenants/{tenant}/tool-servers/{tool_server}/tools/{tool}/labels",
        "Set the data labels of a tool, and whether a call may be sent twice")
        .takes(of::<ToolLabelsPut>).gives(of::<Tool>).refuses(&[PreconditionFailed]).etag()
        .command("tool.label");

    LIST_PROVIDERS = Route::new("list_providers", "providers", Get, "/api/v1/tenants/{tenant}/providers",
        "List a tenant's model providers")
        .query(of::<PageQuery>).gives(of::<Page<Provider>>);
    PUT_PROVIDER = Route::new("put_provider", "providers", Put, "/api/v1/tenants/{tenant}/providers/{provider}",
        "Add or replace a model provider")
        .takes(of::<ProviderPut>).gives(of::<Provider>).success(&[200, 201]).refuses(&[PreconditionFailed]).etag()
        .command("provider.add");
    GET_PROVIDER = Route::new("get_provider", "providers", Get, "/api/v1/tenants/{tenant}/providers/{provider}",
        "Read a model provider")
        .gives(of::<Provider>).etag();

    LIST_CREDENTIALS = Route::new("list_credentials", "credentials", Get, "/api/v1/tenants/{tenant}/credentials",
        "List a tenant's credentials for inspected hosts")
        .query(of::<PageQuery>).gives(of::<Page<EgressCredential>>);
    PUT_CREDENTIAL = Route::new("put_credential", "credentials", Put,
        "/api/v1/tenants/{tenant}/credentials/{credential}", "Store or replace a credential for an inspected host")
        .takes(of::<EgressCredentialPut>).gives(of::<EgressCredential>).success(&[200, 201])
        .refuses(&[PreconditionFailed]).etag()
        .command("credential.add");
    GET_CREDENTIAL = Route::new("get_credential", "credentials", Get,
        "/api/v1/tenants/{tenant}/credentials/{credential}", "Read where a credential belongs; never the secret")
        .gives(of::<EgressCredential>).etag();
    DELETE_CREDENTIAL = Route::new("delete_credential", "credentials", Delete,
        "/api/v1/tenants/{tenant}/credentials/{credential}", "Forget a credential; the next request does not have it")
        .query(of::<ReasonQuery>).success(&[204]).reasoned()
        .command("credential.remove");

    LIST_ISSUERS = Route::new("list_issuers", "issuers", Get, "/api/v1/tenants/{tenant}/issuers",
        "List the issuers whose access tokens are taken from clients outside")
        .query(of::<PageQuery>).gives(of::<Page<Issuer>>);
    PUT_ISSUER = Route::new("put_issuer", "issuers", Put, "/api/v1/tenants/{tenant}/issuers/{issuer}",
        "Trust an issuer of access tokens, or replace where its keys are")
        .takes(of::<IssuerPut>).gives(of::<Issuer>).success(&[200, 201]).refuses(&[PreconditionFailed]).etag()
        .command("issuer.add");
    GET_ISSUER = Route::new("get_issuer", "issuers", Get, "/api/v1/tenants/{tenant}/issuers/{issuer}",
        "Read a trusted issuer")
        .gives(of::<Issuer>).etag();
    DELETE_ISSUER = Route::new("delete_issuer", "issuers", Delete, "/api/v1/tenants/{tenant}/issuers/{issuer}",
        "Trust an issuer no more; the next request with a token of it is refused")
        .query(of::<ReasonQuery>).success(&[204]).reasoned()
        .command("issuer.remove");

    LIST_RUNS = Route::new("list_runs", "runs", Get, "/api/v1/runs", "List runs, newest first")
        .query(of::<RunQuery>).gives(of::<Page<Run>>);
    START_RUN = Route::new("start_run", "runs", Post, "/api/v1/runs", "Start a run of a registered version")
        .takes(of::<RunStart>).gives(of::<Run>).success(&[201])
        .refuses(&[NotFound, RunRefused, ProfileUnenforceable, ProfileTooWeak, BudgetExceeded, UpstreamUnavailable])
        .idempotent()
        .command("run.start");
    GET_RUN = Route::new("get_run", "runs", Get, "/api/v1/runs/{run}", "Read a run").gives(of::<Run>);
    UPLOAD_INPUT = Route::new("upload_input", "runs", Post,
        "/api/v1/tenants/{tenant}/agents/{agent}/inputs/{input}",
        "Send a file or a directory for an input that a version declares, to start a run with")
        .query(of::<UploadQuery>).takes_content().gives(of::<Upload>).success(&[201]).refuses(&[RunRefused])
        .command("run.upload");
    LIST_ARTIFACTS = Route::new("list_artifacts", "runs", Get, "/api/v1/runs/{run}/artifacts",
        "List what became of a run's declared outputs")
        .gives(of::<Page<Artifact>>);
    GET_ARTIFACT = Route::new("get_artifact", "runs", Get, "/api/v1/runs/{run}/artifacts/{artifact}",
        "Download an output that was kept: a file as it is, a directory as a tar stream")
        .gives_raw(ResponseBody::Content);
    GET_RUN_LOGS = Route::new("get_run_logs", "runs", Get, "/api/v1/runs/{run}/logs", "Read what a run has printed")
        .query(of::<LogQuery>).gives_raw(ResponseBody::Text);
    GET_RUN_TELEMETRY = Route::new("get_run_telemetry", "runs", Get, "/api/v1/runs/{run}/telemetry",
        "Read the OpenTelemetry exports of a run, one a line")
        .gives_raw(ResponseBody::Lines);
    SUSPEND_RUN = Route::new("suspend_run", "runs", Post, "/api/v1/runs/{run}/suspend",
        "Freeze a run and hold its calls")
        .takes(of::<Reason>).gives(of::<Operation>).success(&[200, 202]).refuses(&[BadTransition]).reasoned().idempotent()
        .command("run.suspend");
    RESUME_RUN = Route::new("resume_run", "runs", Post, "/api/v1/runs/{run}/resume", "Let a suspended run go on")
        .takes(of::<Reason>).gives(of::<Operation>).success(&[200, 202]).refuses(&[BadTransition]).reasoned().idempotent()
        .command("run.resume");
    CANCEL_RUN = Route::new("cancel_run", "runs", Post, "/api/v1/runs/{run}/cancel",
        "Ask a run to end, and kill it after its grace period")
        .takes(of::<Reason>).gives(of::<Operation>).success(&[202, 200]).refuses(&[BadTransition]).reasoned().idempotent()
        .command("run.cancel");
    KILL_RUN = Route::new("kill_run", "runs", Post, "/api/v1/runs/{run}/kill", "End a run now")
        .takes(of::<Reason>).gives(of::<Operation>).success(&[200, 202]).refuses(&[BadTransition]).reasoned().idempotent()
        .command("run.kill");
    GET_RUN_EVIDENCE = Route::new("get_run_evidence", "evidence", Get, "/api/v1/runs/{run}/evidence",
        "Read the evidence of a run")
        .query(of::<PageQuery>).gives(of::<Page<EvidenceLeaf>>).refuses(&[ArchiveUnreachable]);

    GET_OPERATION = Route::new("get_operation", "operations", Get, "/api/v1/operations/{operation}",
        "Read an operation and its receipt")
        .gives(of::<Operation>);

    EXPORT_EVIDENCE = Route::new("export_evidence", "evidence", Get, "/api/v1/tenants/{tenant}/evidence/export",
        "Export a tenant's evidence, or a part of it, as a pack that can be verified offline")
        .query(of::<ExportQuery>).gives_raw(ResponseBody::Tar)
        .refuses(&[ArchiveUnreachable, EvidenceUnavailable, IndexUnavailable, PolicyBlocked, ReasonRequired]);
    SEARCH_EVIDENCE = Route::new("search_evidence", "evidence", Get, "/api/v1/tenants/{tenant}/evidence/search",
        "Find leaves of a tenant's ledger by what is in them. The question is recorded, persons as pseudonyms")
        .query(of::<EvidenceQuery>).gives(of::<EvidenceFound>).refuses(&[ArchiveUnreachable, EvidenceUnavailable, IndexUnavailable]);
    PROVE_LEAF = Route::new("prove_leaf", "evidence", Get, "/api/v1/tenants/{tenant}/evidence/leaves/{leaf}/proof",
        "Prove that a leaf is in the ledger: a C2SP tlog-proof")
        .gives_raw(ResponseBody::Text).refuses(&[ArchiveUnreachable, EvidenceUnavailable, IndexUnavailable]);
    PROVE_CONSISTENCY = Route::new("prove_consistency", "evidence", Get,
        "/api/v1/tenants/{tenant}/evidence/consistency",
        "Prove that an older state of the ledger is a beginning of a newer one")
        .query(of::<ConsistencyQuery>).gives_raw(ResponseBody::Text).refuses(&[EvidenceUnavailable, IndexUnavailable]);
    PROVE_RUN = Route::new("prove_run", "evidence", Get, "/api/v1/runs/{run}/evidence/proof",
        "Prove all leaves of a run")
        .gives_raw(ResponseBody::Text).refuses(&[ArchiveUnreachable, EvidenceUnavailable, IndexUnavailable]);
    COMMIT_SAMPLE = Route::new("commit_sample", "evidence", Get, "/api/v1/tenants/{tenant}/evidence/sample",
        "Commit to the number by which a sample will be drawn: its SHA-256 goes into the ledger")
        .query(of::<SampleQuery>).gives(of::<SampleCommitted>).refuses(&[EvidenceUnavailable]);
    REINDEX_EVIDENCE = Route::new("reindex_evidence", "evidence", Post, "/api/v1/evidence/index/rebuild",
        "Make the query index anew from the ledger")
        .takes(of::<Reason>).gives(of::<EvidenceIndex>).reasoned().refuses(&[IndexUnavailable]).command("evidence.reindex");
    GET_CHECKPOINT = Route::new("get_checkpoint", "evidence", Get, "/api/v1/tenants/{tenant}/evidence/checkpoint",
        "Read the signed checkpoint of a tenant's ledger")
        .gives_raw(ResponseBody::Text).refuses(&[EvidenceUnavailable]);

    GET_LOG_FILE = Route::new("get_log_file", "evidence", Get, "/api/v1/tenants/{tenant}/log/{*file}",
        "Read a tenant's log as C2SP tlog-tiles: `checkpoint`, `tile/…`, and its keys in `log.vkey`")
        .gives_raw(ResponseBody::Content).refuses(&[EvidenceUnavailable]);
    GET_PLANE_LOG_FILE = Route::new("get_plane_log_file", "evidence", Get, "/api/v1/evidence/log/{*file}",
        "Read the plane log as C2SP tlog-tiles; its entries are about all tenants and are not given out")
        .gives_raw(ResponseBody::Content).refuses(&[EvidenceUnavailable]);
    GET_EVIDENCE_STATUS = Route::new("get_evidence_status", "evidence", Get, "/api/v1/evidence/status",
        "Say how far the plane log is witnessed")
        .gives(of::<EvidenceStatus>);
    GET_WITNESS_REQUEST = Route::new("get_witness_request", "evidence", Get, "/api/v1/evidence/witness-request",
        "What a witness without a network is handed: the plane's checkpoint, and that the log only grew")
        .query(of::<WitnessRequestQuery>).gives_raw(ResponseBody::Text).refuses(&[EvidenceUnavailable]);
    ADD_COSIGNATURES = Route::new("add_cosignatures", "evidence", Post, "/api/v1/evidence/cosignatures",
        "Take in what witnesses said of a checkpoint of the plane log")
        .takes(of::<Cosignatures>).gives(of::<EvidenceStatus>).refuses(&[SplitView]).command("evidence.witness");
    MAKE_TIMESTAMP_REQUEST = Route::new("make_timestamp_request", "evidence", Post, "/api/v1/evidence/timestamp-requests",
        "Make a request for a time stamp of the plane log, to be carried to an authority")
        .gives(of::<TimestampRequest>).refuses(&[EvidenceUnavailable]).command("evidence.timestamp");
    ADD_TIMESTAMP = Route::new("add_timestamp", "evidence", Post, "/api/v1/evidence/timestamps",
        "Take in what a time stamp authority answered to a request that was carried to it")
        .takes(of::<TimestampAnswer>).gives(of::<EvidenceStatus>).refuses(&[EvidenceUnavailable])
        .command("evidence.timestamp");
    LIST_REDACTIONS = Route::new("list_redactions", "redactions", Get, "/api/v1/tenants/{tenant}/redactions",
        "List the erasures of values of a tenant's evidence, newest first")
        .query(of::<RedactionQuery>).gives(of::<Page<Redaction>>);
    REQUEST_REDACTION = Route::new("request_redaction", "redactions", Post, "/api/v1/tenants/{tenant}/redactions",
        "Ask for values of the evidence to be erased; another operator has to approve it")
        .takes(of::<RedactionRequest>).gives(of::<Redaction>).success(&[201]).refuses(&[ArchiveUnreachable, EvidenceHeld, NotRedactable])
        .reasoned().command("redaction.request");
    GET_REDACTION = Route::new("get_redaction", "redactions", Get, "/api/v1/tenants/{tenant}/redactions/{redaction}",
        "Read an erasure")
        .gives(of::<Redaction>);
    APPROVE_REDACTION = Route::new("approve_redaction", "redactions", Post,
        "/api/v1/tenants/{tenant}/redactions/{redaction}/approve", "Approve an erasure that another operator asked for")
        .takes(of::<Reason>).gives(of::<Redaction>).refuses(&[ArchiveUnreachable, FourEyes, RedactionClosed, EvidenceHeld, NotRedactable]).reasoned()
        .command("redaction.approve");
    DENY_REDACTION = Route::new("deny_redaction", "redactions", Post,
        "/api/v1/tenants/{tenant}/redactions/{redaction}/deny", "Refuse an erasure")
        .takes(of::<Reason>).gives(of::<Redaction>).refuses(&[RedactionClosed]).reasoned()
        .command("redaction.deny");
    EXECUTE_REDACTION = Route::new("execute_redaction", "redactions", Post,
        "/api/v1/tenants/{tenant}/redactions/{redaction}/execute", "Carry out an erasure that was approved, for good")
        .takes(of::<Reason>).gives(of::<Redaction>).refuses(&[ArchiveUnreachable, RedactionClosed, EvidenceHeld, NotRedactable]).reasoned()
        .command("redaction.execute");
    GET_ERASURE_RECEIPT = Route::new("get_erasure_receipt", "redactions", Get,
        "/api/v1/tenants/{tenant}/redactions/{redaction}/receipt", "Read the receipt of an erasure for the data subject")
        .gives(of::<ErasureReceipt>).refuses(&[ArchiveUnreachable, RedactionClosed, EvidenceUnavailable]);
    APPLY_RETENTION = Route::new("apply_retention", "redactions", Post, "/api/v1/tenants/{tenant}/retention",
        "Erase what is older than the manifests of its agents keep it, or say what would go")
        .takes(of::<RetentionRequest>).gives(of::<Retention>).refuses(&[ArchiveUnreachable]).reasoned().command("retention.execute");

    GET_EVIDENCE_KEYS = Route::new("get_evidence_keys", "evidence", Get, "/api/v1/tenants/{tenant}/evidence/keys",
        "Read all keys that the log of a tenant has or had, and what led from each to the next")
        .query(of::<KeysQuery>).gives(of::<LogKeys>);
    ROTATE_EVIDENCE_KEY = Route::new("rotate_evidence_key", "evidence", Post,
        "/api/v1/tenants/{tenant}/evidence/keys/rotate",
        "Ask for the key of a log to be replaced; confirmed by another operator, it is")
        .takes(of::<KeyRotation>).gives(of::<LogKeys>).refuses(&[FourEyes, KeyChangeRefused]).reasoned().command("key.rotate");
    REVOKE_EVIDENCE_KEY = Route::new("revoke_evidence_key", "evidence", Post,
        "/api/v1/tenants/{tenant}/evidence/keys/revoke",
        "Ask for a past key of a log to be revoked; confirmed by another operator, it is")
        .takes(of::<KeyRevocation>).gives(of::<LogKeys>).refuses(&[FourEyes, KeyChangeRefused]).reasoned().command("key.revoke");

    LIST_HOLDS = Route::new("list_holds", "holds", Get, "/api/v1/tenants/{tenant}/holds",
        "List the legal holds of a tenant, newest first")
        .query(of::<PageQuery>).gives(of::<Page<Hold>>);
    REQUEST_HOLD = Route::new("request_hold", "holds", Post, "/api/v1/tenants/{tenant}/holds",
        "Ask for a legal hold; it holds at once, and another operator has to place it")
        .takes(of::<HoldRequest>).gives(of::<Hold>).success(&[201]).reasoned().command("hold.place");
    GET_HOLD = Route::new("get_hold", "holds", Get, "/api/v1/tenants/{tenant}/holds/{hold}", "Read a legal hold")
        .gives(of::<Hold>);
    PLACE_HOLD = Route::new("place_hold", "holds", Post, "/api/v1/tenants/{tenant}/holds/{hold}/place",
        "Place a legal hold that another operator asked for")
        .takes(of::<Reason>).gives(of::<Hold>).refuses(&[FourEyes, RedactionClosed]).reasoned().command("hold.place");
    RELEASE_HOLD = Route::new("release_hold", "holds", Post, "/api/v1/tenants/{tenant}/holds/{hold}/release",
        "Ask for a legal hold to be released; said by another operator too, it is")
        .takes(of::<Reason>).gives(of::<Hold>).refuses(&[FourEyes, RedactionClosed]).reasoned().command("hold.release");

    WATCH_EVENTS = Route::new("watch_events", "events", Get, "/api/v1/events",
        "Watch operational events as they happen (server-sent events)")
        .query(of::<EventQuery>).gives_raw(ResponseBody::Events(of::<Event>)).refuses(&[CursorExpired]);

    LIST_OPERATORS = Route::new("list_operators", "operators", Get, "/api/v1/operators", "List the operators")
        .query(of::<PageQuery>).gives(of::<Page<Operator>>);
    ROTATE_OPERATOR = Route::new("rotate_operator", "operators", Post, "/api/v1/operators/{operator}/rotate",
        "Replace an operator's credential; the new one is in the answer and nowhere else")
        .takes(of::<OperatorRotate>).gives(of::<RotatedOperator>).reasoned()
        .command("operator.rotate");

    ADD_OPERATOR = Route::new("add_operator", "operators", Post, "/api/v1/operators",
        "Add an operator; its credential is in the answer and nowhere else")
        .takes(of::<OperatorAdd>).gives(of::<NewOperator>).success(&[201]).refuses(&[AlreadyExists]).reasoned()
        .command("operator.add");
    PUT_OPERATOR_ROLES = Route::new("put_operator_roles", "operators", Put, "/api/v1/operators/{operator}/roles",
        "Set the roles of an operator")
        .takes(of::<OperatorRoles>).gives(of::<Operator>).reasoned().command("operator.roles");
    REVOKE_OPERATOR = Route::new("revoke_operator", "operators", Delete, "/api/v1/operators/{operator}",
        "Revoke an operator; its credential is dead")
        .query(of::<ReasonQuery>).success(&[204]).refuses(&[InUse]).reasoned().command("operator.revoke");

    LIST_POLICIES = Route::new("list_policies", "policies", Get, "/api/v1/policies",
        "List the levels that have policies, with the version that decides at each")
        .query(of::<PageQuery>).gives(of::<Page<PolicyLevel>>);
    GET_POLICY = Route::new("get_policy", "policies", Get, "/api/v1/policies/{policy_level}",
        "Read which version decides at a level")
        .gives(of::<PolicyLevel>).etag();
    ACTIVATE_POLICY = Route::new("activate_policy", "policies", Put, "/api/v1/policies/{policy_level}/active",
        "Have another version decide, an earlier one to go back, or none")
        .takes(of::<PolicyActivate>).gives(of::<PolicyLevel>)
        .refuses(&[PolicyNotApproved, PolicyLocksOut, PolicyGrants, PolicyInvalid, PreconditionFailed]).reasoned().etag()
        .command("policy.activate");
    CHECK_POLICY = Route::new("check_policy", "policies", Post, "/api/v1/policies/{policy_level}/check",
        "Look at a text as if it were written to a level; nothing is stored")
        .takes(of::<PolicyCheck>).gives(of::<PolicyChecked>).refuses(&[PolicyInvalid]).command("policy.check");
    LIST_POLICY_VERSIONS = Route::new("list_policy_versions", "policies", Get,
        "/api/v1/policies/{policy_level}/versions", "List the versions of a level, newest first")
        .query(of::<PageQuery>).gives(of::<Page<PolicyVersion>>);
    ADD_POLICY_VERSION = Route::new("add_policy_version", "policies", Post,
        "/api/v1/policies/{policy_level}/versions", "Write a version; it decides nothing before it is activated")
        .takes(of::<PolicyWrite>).gives(of::<PolicyVersion>).success(&[201, 200]).refuses(&[PolicyInvalid]).reasoned()
        .command("policy.put");
    GET_POLICY_VERSION = Route::new("get_policy_version", "policies", Get,
        "/api/v1/policies/{policy_level}/versions/{policy_version}", "Read a version with its text")
        .gives(of::<PolicyVersion>);
    APPROVE_POLICY_VERSION = Route::new("approve_policy_version", "policies", Post,
        "/api/v1/policies/{policy_level}/versions/{policy_version}/approve", "Approve a version")
        .takes(of::<Reason>).gives(of::<PolicyVersion>).refuses(&[PolicyFourEyes]).reasoned()
        .command("policy.approve");
    SIMULATE_POLICY_VERSION = Route::new("simulate_policy_version", "policies", Get,
        "/api/v1/policies/{policy_level}/versions/{policy_version}/simulation",
        "Make recorded decisions again with a version and list those that would change")
        .query(of::<SimulateQuery>).gives(of::<PolicySimulation>).refuses(&[ArchiveUnreachable, PolicyInvalid, EvidenceUnavailable]);
    DIFF_POLICY_VERSION = Route::new("diff_policy_version", "policies", Get,
        "/api/v1/policies/{policy_level}/versions/{policy_version}/difference",
        "Find out what a version grants and takes away, and which of its rules do nothing")
        .query(of::<PolicyDiffQuery>).gives(of::<PolicyDiff>).refuses(&[PolicyInvalid]);
    GET_POLICY_STATUS = Route::new("get_policy_status", "policies", Get, "/api/v1/policy-status",
        "Read which versions each gateway applies, and since when")
        .gives(of::<PolicyStatus>);
    EXPLAIN_DECISION = Route::new("explain_decision", "policies", Get,
        "/api/v1/tenants/{tenant}/decisions/{decision}/explanation",
        "Make a recorded decision again with the versions of its time")
        .query(of::<ExplainQuery>).gives(of::<PolicyExplanation>).refuses(&[ArchiveUnreachable, EvidenceUnavailable]);

    LIST_APPROVALS = Route::new("list_approvals", "approvals", Get, "/api/v1/tenants/{tenant}/approvals",
        "List the calls of a tenant that wait, or waited, for a person, newest first")
        .query(of::<ApprovalQuery>).gives(of::<Page<Approval>>);
    GET_APPROVAL = Route::new("get_approval", "approvals", Get, "/api/v1/tenants/{tenant}/approvals/{approval}",
        "Read one call that waits, with its arguments")
        .gives(of::<Approval>).refuses(&[EvidenceUnavailable]);
    APPROVE_CALL = Route::new("approve_call", "approvals", Post,
        "/api/v1/tenants/{tenant}/approvals/{approval}/approve", "Allow exactly this call, once")
        .takes(of::<Reason>).gives(of::<Approval>).refuses(&[ApprovalClosed]).reasoned().command("approval.approve");
    DENY_CALL = Route::new("deny_call", "approvals", Post,
        "/api/v1/tenants/{tenant}/approvals/{approval}/deny", "Refuse this call for the rest of its run")
        .takes(of::<Reason>).gives(of::<Approval>).refuses(&[ApprovalClosed]).reasoned().command("approval.deny");

    GET_PLANE = Route::new("get_plane", "plane", Get, "/api/v1/plane", "Read what the plane is and whether it is well")
        .gives(of::<Plane>);
    GET_DOCTOR = Route::new("get_doctor", "plane", Get, "/api/v1/doctor", "Read what the plane's host can enforce")
        .gives(of::<Doctor>);
    WHO_AM_I = Route::new("who_am_i", "plane", Get, "/api/v1/whoami", "Read who the credential belongs to")
        .gives(of::<WhoAmI>);

    GET_OPENAPI = Route::new("get_openapi", "plane", Get, "/openapi.json", "Read this description")
        .gives_raw(ResponseBody::Document).open();
    GET_HEALTH = Route::new("get_health", "plane", Get, "/healthz", "Ask whether the process lives")
        .gives_raw(ResponseBody::Text).open();
    GET_READY = Route::new("get_ready", "plane", Get, "/readyz", "Ask whether the plane takes requests")
        .gives(of::<Ready>).refuses(&[NotReady]).open();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ProblemCode;

    #[test]
    fn operations_and_paths_are_unique() {
        let ids: BTreeSet<_> = ROUTES.iter().map(|r| r.operation_id).collect();
        assert_eq!(ids.len(), ROUTES.len());
        let places: BTreeSet<_> = ROUTES.iter().map(|r| (r.path, r.method.as_str())).collect();
        assert_eq!(places.len(), ROUTES.len());
    }

    #[test]
    fn every_command_needs_a_credential_and_every_lifecycle_verb_a_reason() {
        for route in ROUTES {
            if route.method != Method::Get {
                assert!(route.authenticated, "{}", route.operation_id);
                assert!(route.problems().contains(&EvidenceUnavailable), "{}", route.operation_id);
            }
            let lifecycle = ["/suspend", "/resume", "/cancel", "/kill"].iter().any(|end| route.path.ends_with(end));
            if lifecycle {
                assert!(route.needs_reason && route.idempotent, "{}", route.operation_id);
            }
        }
    }

    #[test]
    fn whatever_changes_something_has_a_name_that_policies_can_use() {
        for route in ROUTES {
            assert_eq!(route.command.is_some(), route.method != Method::Get, "{}", route.operation_id);
        }
    }

    #[test]
    fn only_what_says_nothing_is_open() {
        let open: Vec<_> = ROUTES.iter().filter(|r| !r.authenticated).map(|r| r.path).collect();
        assert_eq!(open, ["/openapi.json", "/healthz", "/readyz"]);
    }

    #[test]
    fn every_code_that_a_route_can_cause_is_on_some_route() {
        let named: BTreeSet<_> = ROUTES.iter().flat_map(Route::problems).collect();
        // These two are answers to requests that no row matches.
        let unrouted = BTreeSet::from([RouteNotFound, MethodNotAllowed]);
        for code in ProblemCode::ALL {
            assert!(named.contains(code) != unrouted.contains(code), "{code}");
        }
    }
}
