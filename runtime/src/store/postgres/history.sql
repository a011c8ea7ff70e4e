-- From version 3 to version 4 of dpc's tables: the histories of lanes (docs/stores.md), in parts that are
-- written once. What ended in the lane of a node that is gone is found here.
CREATE TABLE dpc.history_part (
    lane       uuid   NOT NULL,
    part       uuid   NOT NULL,                 -- named by the hash of its directory
    node       text   NOT NULL,                 -- who had the lane
    first      bigint NOT NULL,                 -- its first record, and the one after its last
    next       bigint NOT NULL,
    whole      boolean NOT NULL,                -- it tells of everything in them
    first_wall timestamptz NOT NULL,            -- when its first and its last record were closed
    last_wall  timestamptz NOT NULL,
    bytes      bigint NOT NULL,
    expires    timestamptz NOT NULL,
    PRIMARY KEY (lane, part)
);
CREATE INDEX history_part_last_wall ON dpc.history_part (last_wall);
CREATE INDEX history_part_expires ON dpc.history_part (expires);

-- Blocks of decisions, of finished objects, and of references sorted by id, several together, packed.
CREATE TABLE dpc.history_row (
    lane    uuid  NOT NULL,
    part    uuid  NOT NULL,
    kind    text  NOT NULL CHECK (kind IN ('decided', 'ended', 'page')),
    key     bytea NOT NULL,                     -- the first number or id in it
    body    bytea NOT NULL,
    expires timestamptz NOT NULL,
    PRIMARY KEY (lane, part, kind, key)
);
CREATE INDEX history_row_expires ON dpc.history_row (expires);
ALTER TABLE dpc.history_row ALTER COLUMN body SET STORAGE EXTERNAL;
