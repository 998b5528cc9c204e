-- The weakest sandbox profile that is accepted, as operators have set it. `scope` is `plane`, or `tenant/NAME`.
CREATE TABLE floors (
    scope   TEXT   NOT NULL,
    tier    TEXT   NOT NULL,
    profile TEXT   NOT NULL,
    reason  TEXT   NOT NULL,
    updated BIGINT NOT NULL,
    set_by  TEXT   NOT NULL,
    PRIMARY KEY (scope, tier)
);
