-- From version 1 to version 2 of dpc's tables: who owns a lane, in which state it is, and who lives.
ALTER TABLE dpc.lane_head
    ADD COLUMN owner   bigint NOT NULL DEFAULT 0,
    ADD COLUMN address text   NOT NULL DEFAULT '',
    ADD COLUMN state   text   NOT NULL DEFAULT 'owned' CHECK (state IN ('owned', 'dead', 'retired')),
    ADD COLUMN began   bigint NOT NULL DEFAULT 0;
-- Owners of version 1 know nothing of verdicts: from here on none of their commits succeeds.
UPDATE dpc.lane_head SET epoch = epoch + 1, began = number;
CREATE TABLE dpc.beat (
    owner   bigint PRIMARY KEY,
    number  bigint NOT NULL,
    written timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);
