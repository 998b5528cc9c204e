-- A credential that was replaced may be valid for a while beside the new one.
ALTER TABLE operators ADD COLUMN rotated BIGINT;
ALTER TABLE operators ADD COLUMN previous_hash TEXT;
ALTER TABLE operators ADD COLUMN previous_until BIGINT;
