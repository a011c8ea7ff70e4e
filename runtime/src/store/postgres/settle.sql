-- From version 2 to version 3 of dpc's tables, second part: objects that callers finalise inside
-- their own transactions (docs/transactions.md). The key is what makes it once: of all transactions
-- that settle an object one commits, whatever became of their leases. The owner of the lease's
-- lane applies it.
CREATE TABLE dpc.settled (
    object  uuid   PRIMARY KEY,
    lane    uuid   NOT NULL,                    -- which gave the lease
    epoch   bigint NOT NULL,
    token   bytea  NOT NULL CHECK (octet_length(token) = 56),
    outcome text,                               -- none yet; 'done', or why the lease was lost
    at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX settled_open ON dpc.settled (lane, epoch) WHERE outcome IS NULL;
CREATE INDEX settled_at ON dpc.settled (at) WHERE outcome = 'done';

CREATE FUNCTION dpc.dpc_settle(token text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bytes bytea;
    giver uuid;
    given bigint;
    head  record;
BEGIN
    IF coalesce(dpc_settle.token, '') !~ '^[A-Za-z0-9_-]{75}$' THEN
        PERFORM dpc.refuse('DPC01', 'TOKEN_MALFORMED', 'token',
            'a lease token is 75 letters of base64url; take it from a delivery unchanged',
            NULL, dpc_settle.token);
    END IF;
    bytes := decode(translate(dpc_settle.token, '-_', '+/') || '=', 'base64');
    giver := encode(substring(bytes FROM 1 FOR 16), 'hex')::uuid;
    given := ('x' || encode(substring(bytes FROM 17 FOR 8), 'hex'))::bit(64)::bigint;
    -- It waits for another transaction that settles the object at the same time.
    INSERT INTO dpc.settled (object, lane, epoch, token)
    VALUES (encode(substring(bytes FROM 41 FOR 16), 'hex')::uuid, giver, given, bytes)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM dpc.refuse('DPC04', 'SETTLED_BEFORE', 'token',
            'a transaction that has settled this object is committed: roll this one back, and '
            'finalise the delivery at its node');
    END IF;
    SELECT h.epoch, h.state INTO head FROM dpc.lane_head h WHERE h.lane = giver;
    IF NOT FOUND THEN
        PERFORM dpc.refuse('DPC01', 'OWNER_UNREACHABLE', 'token',
            'the lease was given by a node that is not kept in this database; settle it there');
    ELSIF head.epoch <> given OR head.state <> 'owned' THEN
        PERFORM dpc.refuse('DPC03', 'LEASE_LOST', 'token',
            'the node that gave the lease has started again or was taken over; the object is or '
            'will be delivered again');
    END IF;
    PERFORM pg_notify('dpc_inbox', '');
END $$;
