-- How far each log of the ledger was on the disk when the state looked last: never ahead of it, so a ledger that is shorter or
-- another one at the next start was rolled back or replaced. `log` is the tenant's name; the plane log's is empty.
CREATE TABLE ledger_seen (
    log         TEXT   NOT NULL PRIMARY KEY,
    size        BIGINT NOT NULL,
    signed_size BIGINT,
    signed_root TEXT,
    seen        BIGINT NOT NULL
);
