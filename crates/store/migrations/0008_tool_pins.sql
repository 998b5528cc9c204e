-- The definitions of tools as their servers offer them, and as operators approved them. `upstream` is the identity of
-- the server that the row belongs to; `definition` is what is offered, or was last.
CREATE TABLE tool_pins (
    tenant              TEXT   NOT NULL,
    server              TEXT   NOT NULL,
    tool                TEXT   NOT NULL,
    upstream            TEXT   NOT NULL,
    state               TEXT   NOT NULL,
    cause               TEXT,
    offered             BIGINT NOT NULL,
    digest              TEXT   NOT NULL,
    definition          TEXT   NOT NULL,
    approved_digest     TEXT,
    approved_definition TEXT,
    approved_by         TEXT,
    approved            BIGINT,
    reason              TEXT,
    labels              TEXT   NOT NULL,
    idempotent          BIGINT NOT NULL,
    seen                BIGINT NOT NULL,
    revision            BIGINT NOT NULL,
    PRIMARY KEY (tenant, server, tool),
    FOREIGN KEY (tenant, server) REFERENCES tool_servers (tenant, name)
);
