-- Versions of policies. A row never changes but for its approval and its first activation; its text is kept for ever,
-- so that every decision that was made under it can be made again. `scope` is as cogward_model::PolicyScope writes it.
CREATE TABLE policy_versions (
    scope           TEXT   NOT NULL,
    digest          TEXT   NOT NULL,
    number          BIGINT NOT NULL,
    text            TEXT   NOT NULL,
    author          TEXT   NOT NULL,
    author_id       TEXT   NOT NULL,
    reason          TEXT   NOT NULL,
    created         BIGINT NOT NULL,
    approved        BIGINT,
    approved_by     TEXT,
    approved_by_id  TEXT,
    approval_reason TEXT,
    first_active    BIGINT,
    PRIMARY KEY (scope, digest),
    UNIQUE (scope, number)
);

-- What decides now. A row stays when its level has no version any more, so that its revision never comes again.
CREATE TABLE policy_active (
    scope      TEXT   NOT NULL PRIMARY KEY,
    digest     TEXT,
    revision   BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    updated_by TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    FOREIGN KEY (scope, digest) REFERENCES policy_versions (scope, digest)
);

-- Roles of operators, as policies name them: a JSON list of words.
ALTER TABLE operators ADD COLUMN roles TEXT NOT NULL DEFAULT '[]';
