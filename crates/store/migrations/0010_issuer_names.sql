-- A name stands for one issuer for ever, also when it is trusted no more: manifests, users and records say the name.
CREATE TABLE issuer_names (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    issuer TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT;

INSERT INTO issuer_names (tenant, name, issuer)
SELECT tenant, name, json_extract(config, '$.issuer') FROM issuers;
