-- Authorization servers whose tokens are taken from clients outside.
CREATE TABLE issuers (
    tenant     TEXT   NOT NULL REFERENCES tenants (name),
    name       TEXT   NOT NULL,
    config     TEXT   NOT NULL,
    revision   BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    updated_by TEXT   NOT NULL,
    PRIMARY KEY (tenant, name)
);
-- The client outside that a run is of, and what is the same of it in each of its runs.
ALTER TABLE runs ADD COLUMN outside TEXT;
ALTER TABLE runs ADD COLUMN outside_key TEXT;
CREATE INDEX runs_by_outside ON runs (tenant, agent, outside_key, id) WHERE outside_key IS NOT NULL;
