-- Approvals that whoever started the run, or for whom it acts, may not give.
ALTER TABLE approvals ADD COLUMN four_eyes BIGINT NOT NULL DEFAULT 0;
