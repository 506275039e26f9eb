-- The log: what happened, in an order that every reader agrees on; and the inbox, where other programs put what they
-- have to say without taking any lock of ours.

-- CACHE 1, as it comes: ids are drawn in the order of the commits, by whoever holds the log's lock.
CREATE SEQUENCE {schema}.log_ids AS bigint;

-- Appended to by daemons alone, always as a whole and never to a partition, or the trigger below would not see it.
CREATE TABLE {schema}.log (
    id           bigint NOT NULL DEFAULT nextval('{schema}.log_ids'),
    date_created timestamptz NOT NULL DEFAULT clock_timestamp(),
    event_data   jsonb NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
COMMENT ON TABLE {schema}.log IS
    'What happened. A reader that has seen an id will never see a smaller one appear.';
COMMENT ON COLUMN {schema}.log.id IS
    'Increases in the order of the commits; ids may be missing, and then stay so.';
COMMENT ON COLUMN {schema}.log.date_created IS
    'When it was appended, a moment before it was committed.';
COMMENT ON COLUMN {schema}.log.event_data IS
    'An object; its member "kind", if it has one, says what the others mean. docs/events.md lists the kinds.';

-- An id is drawn at the INSERT and seen at the COMMIT: without a lock from the one to the other, a reader that goes on
-- from the last id it saw lost 7,421 of 15,646 events of 12 writers. It costs nothing besides: the NOTIFY in the same
-- transaction makes commits wait for one another anyway (348 commits/s with both, 346 with NOTIFY alone, 8,708 with
-- neither, on a disk with 282 fdatasync/s).
-- The lock must come before the ids: a statement's trigger does, a row's would not.
CREATE FUNCTION {schema}.log_in_order() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('{channel}:log', 0));
    RETURN NULL;
END
$$;
CREATE TRIGGER log_in_order BEFORE INSERT ON {schema}.log
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.log_in_order();

-- What a reader must know to be sure that it misses nothing.
CREATE TABLE {schema}.log_state (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    incarnation     integer NOT NULL DEFAULT 1,
    dropped_through bigint NOT NULL DEFAULT 0
);
INSERT INTO {schema}.log_state DEFAULT VALUES;
COMMENT ON COLUMN {schema}.log_state.incarnation IS
    'Together with the server''s system identifier it names this log: ids of another one mean something else. Raised after a restore.';
COMMENT ON COLUMN {schema}.log_state.dropped_through IS
    'The greatest id of an event that was dropped because of its age or for want of room; 0: none was.';

-- Ids of a partition: some 400 MB of our own events. A page is turned earlier if it is old or large.
CREATE FUNCTION {schema}.log_partition_ids() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT 1048576::bigint $$;

-- Makes the partition that the next event goes to, and two more. Whoever appends makes them too when one is missing.
-- LIKE and ATTACH, because PARTITION OF would take the whole log for itself: ATTACH takes SHARE UPDATE EXCLUSIVE, which
-- neither appends nor reads wait for.
-- SECURITY DEFINER: the daemon's role need not own the log.
CREATE FUNCTION {schema}.make_log_partitions() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
    AS $$
DECLARE
    span  CONSTANT bigint := {schema}.log_partition_ids();
    next  bigint;
    first bigint;
    made  integer := 0;
BEGIN
    -- Whoever comes second finds them made.
    PERFORM pg_advisory_xact_lock(hashtextextended('{channel}:log_partitions', 0));
    SELECT last_value + is_called::int INTO next FROM {schema}.log_ids;
    FOR ahead IN 0..2 LOOP
        first := (next / span + ahead) * span;
        IF to_regclass(format('{schema}.%I', 'log_' || first)) IS NOT NULL THEN
            CONTINUE;
        END IF;
        -- The CHECK spares ATTACH a look at the rows, and is of no use after it.
        EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.log INCLUDING ALL,
                            CONSTRAINT attached CHECK (id >= %s AND id < %s))', 'log_' || first, first, first + span);
        EXECUTE format('ALTER TABLE {schema}.log ATTACH PARTITION {schema}.%I FOR VALUES FROM (%s) TO (%s)',
                       'log_' || first, first, first + span);
        EXECUTE format('ALTER TABLE {schema}.%I DROP CONSTRAINT attached', 'log_' || first);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
SELECT {schema}.make_log_partitions();

-- Appends, tells whoever listens, and returns the last id; NULL for no events. The log's lock is held from here to the end of the
-- transaction, so this is its last step; and it is waited for no longer than this, with whatever rows the caller holds.
CREATE FUNCTION {schema}.append_log(events jsonb[]) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
    AS $$
DECLARE
    last bigint;
BEGIN
    IF coalesce(cardinality(events), 0) = 0 THEN
        RETURN NULL;
    END IF;
    FOR attempt IN 1..2 LOOP
        BEGIN
            WITH appended AS (
                INSERT INTO {schema}.log (event_data)
                SELECT event FROM unnest(events) WITH ORDINALITY AS e(event, place) ORDER BY place
                RETURNING id
            )
            SELECT max(id) INTO last FROM appended;
            EXIT;
        EXCEPTION WHEN check_violation THEN
            IF attempt = 2 THEN
                RAISE;
            END IF;
            -- No partition for it: the sweeper was off for long. What was drawn and locked above is given up.
            PERFORM {schema}.make_log_partitions();
        END;
    END LOOP;
    PERFORM pg_notify('{channel}_event', last::text);
    RETURN last;
END
$$;
COMMENT ON FUNCTION {schema}.append_log(jsonb[]) IS
    'For daemons alone. Other programs call append_event.';

-- What other programs have appended, until a daemon moves it into the log.
CREATE TABLE {schema}.log_inbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    date_created timestamptz NOT NULL DEFAULT clock_timestamp(),
    event_data   jsonb NOT NULL
) WITH (
    -- Rows live for milliseconds; their dead entries are what makes moving slow.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000
);
COMMENT ON TABLE {schema}.log_inbox IS
    'Events of other programs on their way into the log. Written by append_event, or by an operator''s command.';

ALTER TABLE {schema}.daemons
    ADD COLUMN inbox_sleeping boolean NOT NULL DEFAULT false,
    ADD COLUMN wakeup text;
COMMENT ON COLUMN {schema}.daemons.inbox_sleeping IS
    'It has found the inbox empty and wants to be notified of the next event in it.';
COMMENT ON COLUMN {schema}.daemons.wakeup IS
    '''notify'': it hears what is announced; ''poll'': it was told not to listen; else why it cannot, and looks by itself. NULL: it has not said.';

-- In any transaction of anybody: takes no lock of ours, and notifies once at most, and only if a daemon has said that it
-- waits for that. SECURITY DEFINER: its caller needs no right on any table.
CREATE FUNCTION {schema}.append_event(event_data jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    most  CONSTANT integer := 65536;
    bytes CONSTANT integer := octet_length(event_data::text);
    kind  CONSTANT jsonb := event_data -> 'kind';
BEGIN
    IF jsonb_typeof(event_data) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'an event is a JSON object, not %', coalesce(jsonb_typeof(event_data), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example {"kind": "door.opened", "id": 3}';
    END IF;
    IF bytes > most THEN
        RAISE EXCEPTION 'an event has % bytes at most, this one has %', most, bytes
            USING ERRCODE = 'program_limit_exceeded', HINT = 'Keep what is large elsewhere, and name it in the event';
    END IF;
    IF jsonb_typeof(kind) <> 'string' OR kind #>> '{}' !~ '^[a-z][a-z0-9_.-]{0,62}$' THEN
        RAISE EXCEPTION 'the event''s "kind" is %, not a name', left(kind::text, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'It begins with a lower-case letter, then up to 62 of a-z, 0-9, ".", "_" and "-"';
    END IF;
    IF kind #>> '{}' ~ '^(object|copy|lease|replica|daemon)\.' THEN
        RAISE EXCEPTION 'events of kind % are Copyhold''s own', kind
            USING ERRCODE = 'reserved_name', HINT = 'Choose a kind that does not begin with object., copy., lease., replica. or daemon.';
    END IF;
    INSERT INTO {schema}.log_inbox (event_data) VALUES (append_event.event_data);
    IF EXISTS (SELECT FROM {schema}.daemons
               WHERE inbox_sleeping AND alive_until > (extract(epoch FROM statement_timestamp()) * 1000000)::bigint) THEN
        PERFORM pg_notify('{channel}_work', 'inbox'); -- constant payload: the server folds duplicates
    END IF;
END
$$;
COMMENT ON FUNCTION {schema}.append_event(jsonb) IS
    'Appends an event to the log, once the transaction is committed: a daemon moves it there within milliseconds.';

-- Moves what is in the inbox into the log, oldest first, `most` events at a time; returns how many, NULL if another session is
-- at it. One at a time, or what one program has said in two transactions could change places.
CREATE FUNCTION {schema}.move_inbox(most integer) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    events jsonb[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('{channel}:log_inbox', 0)) THEN
        RETURN NULL;
    END IF;
    WITH moved AS (
        DELETE FROM {schema}.log_inbox
        WHERE id = ANY (ARRAY(SELECT id FROM {schema}.log_inbox ORDER BY id LIMIT most FOR UPDATE SKIP LOCKED))
        RETURNING id, event_data
    )
    SELECT array_agg(event_data ORDER BY id) INTO events FROM moved;
    PERFORM {schema}.append_log(events);
    RETURN coalesce(cardinality(events), 0);
END
$$;

-- Begins a new partition before the last one is full, so that what is old or large can be dropped: an eighth of what is
-- kept, at most, is in one. The ids in between are never used. True if it did.
CREATE FUNCTION {schema}.turn_log_page(keep_us bigint, keep_bytes bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
    AS $$
DECLARE
    span    CONSTANT bigint := {schema}.log_partition_ids();
    last    bigint;
    begun   timestamptz;
    page    regclass;
BEGIN
    SELECT last_value INTO last FROM {schema}.log_ids WHERE is_called;
    IF last IS NULL OR last % span = span - 1 THEN
        RETURN false;
    END IF;
    page := to_regclass(format('{schema}.%I', 'log_' || last / span * span));
    IF page IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT date_created FROM %s ORDER BY id LIMIT 1', page) INTO begun;
    IF begun IS NULL OR (begun > statement_timestamp() - keep_us / 8.0 * interval '1 microsecond'
                         AND pg_total_relation_size(page) < keep_bytes / 8) THEN
        RETURN false;
    END IF;
    -- The next page is there before anybody is kept waiting; this order of the two locks is an appender's as well.
    PERFORM {schema}.make_log_partitions();
    -- Nobody draws an id meanwhile; whoever has turned it already has done the work.
    PERFORM pg_advisory_xact_lock(hashtextextended('{channel}:log', 0));
    IF (SELECT last_value / span FROM {schema}.log_ids) <> last / span THEN
        RETURN false;
    END IF;
    PERFORM setval('{schema}.log_ids', (last / span + 1) * span, false);
    RETURN true;
END
$$;

-- Drops the oldest partition if all in it is older than `keep_us`, or if all partitions together have more than `keep_bytes`;
-- never the one that is being written. Returns its last event's id, 0 if it was empty; NULL if there was nothing to drop.
--
-- Not DETACH … CONCURRENTLY, which only the owner can run and no function can; the daemon's role owns nothing. DETACH takes the
-- log for itself, for a moment: it gives up after 30 ms, and is tried again at the next sweep. Of four clients that append as
-- fast as they can, p99.9, on a busy machine without fsync: 21 ms while nothing is dropped, 21 ms while a partition is dropped
-- each second, 38 ms while a reader's transaction is open and it is tried in vain each second; CONCURRENTLY, which waits
-- for that reader, 24 ms. Without the limit all appends fail until the reader has ended.
CREATE FUNCTION {schema}.drop_log_partition(keep_us bigint, keep_bytes bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '30ms'
    AS $$
DECLARE
    span    CONSTANT bigint := {schema}.log_partition_ids();
    page    regclass;
    first   bigint;
    last    bigint;
    written timestamptz;
    bytes   bigint;
    current bigint;
BEGIN
    SELECT (last_value + is_called::int) / span * span INTO current FROM {schema}.log_ids;
    SELECT sum(pg_total_relation_size(inhrelid)) INTO bytes
    FROM pg_inherits WHERE inhparent = '{schema}.log'::regclass;
    SELECT c.oid, substr(c.relname, 5)::bigint INTO page, first
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = '{schema}.log'::regclass
    ORDER BY 2 LIMIT 1;
    IF first IS NULL OR first >= current THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT id, date_created FROM %s ORDER BY id DESC LIMIT 1', page) INTO last, written;
    IF written > statement_timestamp() - keep_us * interval '1 microsecond' AND bytes <= keep_bytes THEN
        RETURN NULL;
    END IF;
    EXECUTE format('ALTER TABLE {schema}.log DETACH PARTITION %s', page);
    EXECUTE format('DROP TABLE %s', page);
    -- In the same transaction, so that no reader can see the one without the other.
    UPDATE {schema}.log_state SET dropped_through = greatest(dropped_through, last);
    RETURN coalesce(last, 0);
END
$$;

REVOKE ALL ON FUNCTION {schema}.log_in_order(), {schema}.log_partition_ids(), {schema}.make_log_partitions(), {schema}.append_log(jsonb[]),
    {schema}.append_event(jsonb), {schema}.move_inbox(integer), {schema}.turn_log_page(bigint, bigint),
    {schema}.drop_log_partition(bigint, bigint) FROM PUBLIC;

-- The same as before, for less: setting search_path and setting it back cost almost half of what the trigger adds to an
-- INSERT (21 µs before, 12 now, on one of 107 µs). It is SECURITY DEFINER, so every name in it says where it is from, operators too:
-- then nobody's search_path can put another in its place.
CREATE OR REPLACE FUNCTION {schema}.wake_sleepers() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
BEGIN
    IF EXISTS (SELECT FROM {schema}.daemons
               WHERE sleeping AND alive_until OPERATOR(pg_catalog.>)
                     (pg_catalog.date_part('epoch', pg_catalog.statement_timestamp()) OPERATOR(pg_catalog.*) 1000000)::bigint) THEN
        PERFORM pg_catalog.pg_notify('{channel}_work', '');  -- constant payload: the server folds duplicates
    END IF;
    RETURN NULL;
END
$$;

UPDATE {schema}.schema_version SET version = 4;
