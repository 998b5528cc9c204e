-- Erasures of values of the evidence. `scope` and `plan` are emptied when the erasure is over: what was erased stands in the
-- ledger, without a name. `plan` is there from before the first key is destroyed until the ledger says that all are.
CREATE TABLE redactions (
    id              TEXT   NOT NULL PRIMARY KEY,
    tenant          TEXT   NOT NULL REFERENCES tenants (name),
    kind            TEXT   NOT NULL,
    scope           TEXT,
    ground          TEXT   NOT NULL,
    reason          TEXT   NOT NULL,
    state           TEXT   NOT NULL,
    found           BIGINT NOT NULL,
    requested       BIGINT NOT NULL,
    requested_by    TEXT   NOT NULL,
    requested_by_id TEXT   NOT NULL,
    answered        TEXT,
    executed        TEXT,
    plan            TEXT
);
CREATE INDEX redactions_by_tenant ON redactions (tenant, id);
CREATE INDEX redactions_by_state ON redactions (state, id);

-- Legal holds. Who did each step is JSON in the column of the step. `scope` is emptied when the hold is released.
CREATE TABLE holds (
    id        TEXT   NOT NULL PRIMARY KEY,
    tenant    TEXT   NOT NULL REFERENCES tenants (name),
    kind      TEXT   NOT NULL,
    scope     TEXT,
    reason    TEXT   NOT NULL,
    state     TEXT   NOT NULL,
    requested TEXT   NOT NULL,
    placed    TEXT,
    releasing TEXT,
    released  TEXT
);
CREATE INDEX holds_by_tenant ON holds (tenant, id);
