-- Credentials for inspected hosts: where each belongs. The secret is in `secrets`.
CREATE TABLE credentials (
    tenant     TEXT   NOT NULL REFERENCES tenants (name),
    name       TEXT   NOT NULL,
    config     TEXT   NOT NULL,
    revision   BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    updated_by TEXT   NOT NULL,
    PRIMARY KEY (tenant, name)
);
