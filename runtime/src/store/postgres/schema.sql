-- Version 2 of dpc's tables (inbox.sql adds to them). A lane is a log of records (docs/stores.md): `lane_head` says who owns
-- it and up to where it is published, `lane_log` holds the records. Both change in one statement.
-- `beat` says who lives: a number that each process writes again and again.
CREATE TABLE dpc.lane_head (
    lane    uuid PRIMARY KEY,
    owner   bigint NOT NULL DEFAULT 0,          -- the start of the process that owns it
    node    text   NOT NULL DEFAULT '',         -- its node's name
    address text   NOT NULL DEFAULT '',         -- where other nodes reach it
    epoch   bigint NOT NULL DEFAULT 0,          -- counts the owners; a lower one is fenced
    state   text   NOT NULL DEFAULT 'owned' CHECK (state IN ('owned', 'dead', 'retired')),
    first   bigint NOT NULL DEFAULT 1,          -- the lowest record that is kept
    number  bigint NOT NULL DEFAULT 0,          -- the last committed record
    hash    bytea  NOT NULL DEFAULT '\x00000000000000000000000000000000',
    began   bigint NOT NULL DEFAULT 0,          -- the last record before the present epoch
    claimed timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);                       -- one row a lane, changed by every commit, in place

CREATE TABLE dpc.lane_log (
    lane    uuid   NOT NULL,
    number  bigint NOT NULL,
    epoch   bigint NOT NULL,
    record  bytea  NOT NULL,
    PRIMARY KEY (lane, number)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
-- Payloads are the clients' bytes and often packed already: no second attempt at it.
ALTER TABLE dpc.lane_log ALTER COLUMN record SET STORAGE EXTERNAL;

CREATE TABLE dpc.beat (
    owner   bigint PRIMARY KEY,                 -- the start of the process
    number  bigint NOT NULL,
    written timestamptz NOT NULL DEFAULT now()  -- for the removal of old rows alone
) WITH (fillfactor = 20);
