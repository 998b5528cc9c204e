-- How many sandboxes of a version are kept ready before they are asked for.
CREATE TABLE warm (
    tenant TEXT   NOT NULL,
    agent  TEXT   NOT NULL,
    label  TEXT   NOT NULL,
    count  BIGINT NOT NULL,
    PRIMARY KEY (tenant, agent, label),
    FOREIGN KEY (tenant, agent, label) REFERENCES versions (tenant, agent, label)
);
