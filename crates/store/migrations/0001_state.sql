-- State of one plane. Rules: TEXT and BIGINT only, times in microseconds since 1970, every key made by
-- the plane (no sequences), nothing that PostgreSQL or CockroachDB would read differently.

CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('outbox', 0);

-- Evidence of committed changes that is not in the ledger yet. A row leaves when its leaf is durable.
CREATE TABLE outbox (
    id       BIGINT NOT NULL PRIMARY KEY,
    event_id TEXT   NOT NULL UNIQUE,
    event    TEXT   NOT NULL,
    created  BIGINT NOT NULL
);

CREATE TABLE tenants (
    name       TEXT   NOT NULL PRIMARY KEY,
    created    BIGINT NOT NULL,
    created_by TEXT   NOT NULL
);

CREATE TABLE operators (
    id              TEXT   NOT NULL PRIMARY KEY,
    name            TEXT   NOT NULL UNIQUE,
    role            TEXT   NOT NULL,
    credential_hash TEXT   NOT NULL,
    created         BIGINT NOT NULL,
    revoked         BIGINT
);

CREATE TABLE agents (
    tenant      TEXT   NOT NULL REFERENCES tenants (name),
    name        TEXT   NOT NULL,
    owner       TEXT   NOT NULL,
    sponsor     TEXT   NOT NULL,
    cost_centre TEXT   NOT NULL,
    created     BIGINT NOT NULL,
    created_by  TEXT   NOT NULL,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE versions (
    tenant          TEXT   NOT NULL,
    agent           TEXT   NOT NULL,
    label           TEXT   NOT NULL,
    manifest_json   TEXT   NOT NULL,
    manifest_digest TEXT   NOT NULL,
    package_digest  TEXT   NOT NULL,
    version_digest  TEXT   NOT NULL,
    tier            TEXT   NOT NULL,
    created         BIGINT NOT NULL,
    created_by      TEXT   NOT NULL,
    PRIMARY KEY (tenant, agent, label),
    FOREIGN KEY (tenant, agent) REFERENCES agents (tenant, name)
);
CREATE INDEX versions_by_age ON versions (tenant, agent, created);

CREATE TABLE tool_servers (
    tenant     TEXT   NOT NULL REFERENCES tenants (name),
    name       TEXT   NOT NULL,
    config     TEXT   NOT NULL,
    revision   BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    updated_by TEXT   NOT NULL,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE providers (
    tenant     TEXT   NOT NULL REFERENCES tenants (name),
    name       TEXT   NOT NULL,
    config     TEXT   NOT NULL,
    revision   BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    updated_by TEXT   NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- Sealed by the identity crate before they come here; base64url text.
CREATE TABLE secrets (
    name    TEXT   NOT NULL PRIMARY KEY,
    sealed  TEXT   NOT NULL,
    updated BIGINT NOT NULL
);

-- uid_slot is NULL once the run has ended, so that the constraint holds among live runs only.
CREATE TABLE runs (
    id           TEXT   NOT NULL PRIMARY KEY,
    tenant       TEXT   NOT NULL,
    agent        TEXT   NOT NULL,
    version      TEXT   NOT NULL,
    digest       TEXT   NOT NULL,
    goal         TEXT   NOT NULL,
    subject      TEXT,
    created_by   TEXT   NOT NULL,
    reason       TEXT,
    input_digest TEXT,
    state        TEXT   NOT NULL,
    desired      TEXT   NOT NULL,
    fence_epoch  BIGINT NOT NULL,
    revision     BIGINT NOT NULL,
    uid_slot     BIGINT UNIQUE,
    created      BIGINT NOT NULL,
    started      BIGINT,
    ended        BIGINT,
    exit_code    BIGINT,
    exit_signal  BIGINT,
    fail_cause   TEXT,
    usage_json   TEXT,
    FOREIGN KEY (tenant, agent, version) REFERENCES versions (tenant, agent, label)
);
CREATE INDEX runs_by_state ON runs (state, id);
CREATE INDEX runs_by_agent ON runs (tenant, agent, id);

CREATE TABLE operations (
    id       TEXT   NOT NULL PRIMARY KEY,
    run      TEXT   NOT NULL REFERENCES runs (id),
    verb     TEXT   NOT NULL,
    reason   TEXT,
    actor    TEXT   NOT NULL,
    state    TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    finished BIGINT,
    receipt  TEXT
);
CREATE INDEX operations_by_run ON operations (run, id);
CREATE INDEX operations_by_state ON operations (state, id);

CREATE TABLE idempotency (
    operator       TEXT   NOT NULL,
    key            TEXT   NOT NULL,
    request_digest TEXT   NOT NULL,
    status         BIGINT NOT NULL,
    response       TEXT   NOT NULL,
    created        BIGINT NOT NULL,
    PRIMARY KEY (operator, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created);
