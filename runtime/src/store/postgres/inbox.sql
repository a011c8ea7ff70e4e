-- From version 2 to version 3 of dpc's tables: the inbox, by which callers push inside their own
-- transactions (docs/stores.md). A row belongs to the node that has marked it with its lane and
-- epoch, for as long as the lane has that owner; it goes with the commit of the record that holds
-- the object.
CREATE TABLE dpc.inbox (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         uuid  NOT NULL,
    -- What a node could not even read would hold up all the others.
    type       text  NOT NULL CHECK (octet_length(type) <= 255),
    payload    bytea NOT NULL CHECK (octet_length(payload) <= 1048576),
    headers    jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(headers) = 'object'),
    not_before timestamptz CHECK (isfinite(not_before)),
    expires_at timestamptz CHECK (isfinite(expires_at)),
    pushed     timestamptz NOT NULL DEFAULT now(),
    lane       uuid,                            -- who has taken it: the lane and its epoch
    epoch      bigint,
    refused    text                             -- why no node takes it; a person decides
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE dpc.inbox ALTER COLUMN payload SET STORAGE EXTERNAL;

-- Rows that wait for a person.
CREATE INDEX inbox_refused ON dpc.inbox (seq) WHERE refused IS NOT NULL;

-- Which ids were pushed here, for the idempotency time: the row itself is gone long before.
CREATE TABLE dpc.inbox_id (
    id   uuid  PRIMARY KEY,
    hash bytea NOT NULL,                        -- of type, headers and payload
    at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_id_at ON dpc.inbox_id (at);

-- Ends the caller's transaction with an error that programs can read: DETAIL is JSON.
CREATE FUNCTION dpc.refuse(
    state text, reason text, field text, message text, bound bigint DEFAULT NULL, given text DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = state,
        MESSAGE = reason || ': ' || message,
        DETAIL = jsonb_strip_nulls(jsonb_build_object(
            'reason', reason, 'field', field, 'limit', bound, 'given', given))::text,
        COLUMN = field;
END $$;

CREATE FUNCTION dpc.refuse_over(field text, given bigint, bound bigint, unit text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF given > bound THEN
        PERFORM dpc.refuse('DPC01', 'LIMIT_EXCEEDED', field,
            format('%s is %s %s, the limit is %s %s', field, given, unit, bound, unit),
            bound, given::text);
    END IF;
END $$;

CREATE FUNCTION dpc.check_headers(headers jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    wrong boolean;
    keyless boolean;
    count bigint;
    bytes bigint;
    longest bigint;
BEGIN
    IF jsonb_typeof(headers) <> 'object' THEN
        PERFORM dpc.refuse('DPC01', 'HEADERS_MALFORMED', 'headers',
            'headers is a JSON object of texts, like {"tenant": "acme"}');
    END IF;
    SELECT bool_or(jsonb_typeof(h.value) <> 'string'), bool_or(h.key = ''), count(*),
           sum(octet_length(h.key) + octet_length(h.value #>> '{}')), max(octet_length(h.key))
    INTO wrong, keyless, count, bytes, longest FROM jsonb_each(headers) h;
    IF wrong THEN
        PERFORM dpc.refuse('DPC01', 'HEADERS_MALFORMED', 'headers',
            'the value of every header is a text');
    ELSIF keyless THEN
        PERFORM dpc.refuse('DPC01', 'HEADER_KEY_MISSING', 'headers', 'a header has an empty key');
    END IF;
    PERFORM dpc.refuse_over('headers.key', longest, 128, 'bytes');
    PERFORM dpc.refuse_over('headers', count, 64, 'headers');
    PERFORM dpc.refuse_over('headers', bytes, 16384, 'bytes');
END $$;

CREATE FUNCTION dpc.check_time(field text, at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF at < now() THEN
        PERFORM dpc.refuse('DPC01', 'TIME_OUT_OF_RANGE', field, field || ' is in the past',
            NULL, at::text);
    ELSIF at > now() + interval '365 days' THEN
        PERFORM dpc.refuse('DPC01', 'TIME_OUT_OF_RANGE', field,
            field || ' is more than 365 days ahead', 31536000, at::text);
    END IF;
END $$;

-- A UUID of version 7: ids of one time lie together.
CREATE FUNCTION dpc.new_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING
        substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
        FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid
$$;

CREATE FUNCTION dpc.dpc_push(
    type text, payload bytea, id uuid DEFAULT NULL, headers jsonb DEFAULT NULL,
    not_before timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name   text  := regexp_replace(dpc_push.type, '^.*/', '');
    heads  jsonb := coalesce(dpc_push.headers, '{}');
    chosen uuid  := coalesce(dpc_push.id, dpc.new_id());
    hash   bytea;
    before bytea;
BEGIN
    IF coalesce(dpc_push.type, '') = '' THEN
        PERFORM dpc.refuse('DPC01', 'TYPE_MISSING', 'type', 'the object has no type');
    END IF;
    PERFORM dpc.refuse_over('type', octet_length(name), 255, 'bytes');
    IF name !~ '^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*$' THEN
        PERFORM dpc.refuse('DPC01', 'TYPE_MALFORMED', 'type',
            'type must be a protobuf message name: identifiers joined by dots, like '
            'acme.orders.Placed', NULL, name);
    END IF;
    IF dpc_push.payload IS NULL THEN
        PERFORM dpc.refuse('DPC01', 'PAYLOAD_MISSING', 'payload',
            'the payload is NULL; an empty one is written ''''');
    END IF;
    PERFORM dpc.refuse_over('payload', octet_length(dpc_push.payload), 1048576, 'bytes');
    PERFORM dpc.check_headers(heads);
    PERFORM dpc.check_time('not_before', dpc_push.not_before);
    PERFORM dpc.check_time('expires_at', dpc_push.expires_at);
    IF dpc_push.expires_at <= dpc_push.not_before THEN
        PERFORM dpc.refuse('DPC01', 'TIME_OUT_OF_RANGE', 'expires_at',
            'the object would expire before its not_before; choose a later expiry');
    END IF;
    hash := sha256(convert_to(jsonb_build_array(name, heads)::text, 'UTF8') || dpc_push.payload);
    LOOP
        -- It waits for another transaction that pushes the id at the same time.
        INSERT INTO dpc.inbox_id AS k (id, hash) VALUES (chosen, hash) ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;
        SELECT k.hash INTO before FROM dpc.inbox_id k WHERE k.id = chosen;
        CONTINUE WHEN NOT FOUND;
        IF before <> hash THEN
            PERFORM dpc.refuse('DPC02', 'ID_REUSED', 'id',
                'the id was pushed before with other content; use a new id', NULL, chosen::text);
        END IF;
        RETURN chosen;
    END LOOP;
    INSERT INTO dpc.inbox AS i (id, type, payload, headers, not_before, expires_at)
    VALUES (chosen, name, dpc_push.payload, heads, dpc_push.not_before, dpc_push.expires_at);
    -- Told with the commit, once however often it is said.
    PERFORM pg_notify('dpc_inbox', '');
    RETURN chosen;
END $$;
