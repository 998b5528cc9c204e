-- Calls that wait for a person. `request` is the digest of the exact call. `slot` is run, request and role for as long as the
-- row is the answer to that call, and NULL after: the constraint holds among those only. The arguments are in `secrets`.
CREATE TABLE approvals (
    id              TEXT   NOT NULL PRIMARY KEY,
    slot            TEXT   UNIQUE,
    tenant          TEXT   NOT NULL REFERENCES tenants (name),
    run             TEXT   NOT NULL REFERENCES runs (id),
    agent           TEXT   NOT NULL,
    version         TEXT   NOT NULL,
    subject         TEXT,
    request         TEXT   NOT NULL,
    action          TEXT   NOT NULL,
    object          TEXT   NOT NULL,
    arguments_bytes BIGINT,
    level           TEXT   NOT NULL,
    rules           TEXT   NOT NULL,
    policy          TEXT   NOT NULL,
    role            TEXT   NOT NULL,
    reason          TEXT,
    state           TEXT   NOT NULL,
    requested       BIGINT NOT NULL,
    expires         BIGINT NOT NULL,
    decided         BIGINT,
    decided_by      TEXT,
    decided_by_id   TEXT,
    decision_reason TEXT,
    consumed        BIGINT
);
CREATE INDEX approvals_by_tenant ON approvals (tenant, id);
CREATE INDEX approvals_by_run ON approvals (run, state);
CREATE INDEX approvals_by_state ON approvals (state, expires);
