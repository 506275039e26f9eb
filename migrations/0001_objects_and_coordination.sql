-- The fixed part of the schema: what does not depend on the replicas' names.
-- Columns, lanes and functions that do are derived from the configuration by `copyhold migrate`.
-- `{schema}` stands for the configured schema, quoted; `{channel}` for its name as a literal's text.

-- One sequence for all rows and times: a key that is deleted and inserted again is another generation.
CREATE SEQUENCE {schema}.generations AS bigint;

-- Microseconds since 1970, UTC. STABLE, so that a comparison with it is an index condition;
-- with clock_timestamp() an empty claim over 500k waiting rows took 242 ms instead of 0.02 ms.
CREATE FUNCTION {schema}.now_utc_micro_seconds() RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint $$;
COMMENT ON FUNCTION {schema}.now_utc_micro_seconds() IS
    'Microseconds since the epoch, UTC, at the start of the statement.';

-- One row per object; two columns per replica are added to it, alike for all:
--   x     bigint  µs at which the copy was verified there; NULL: not recorded
--   due_x bigint  NULL: not wanted; 9000000000000000000: parked; else µs before which it is not claimed
CREATE TABLE {schema}.object_copies (
    object_key   text COLLATE "C" PRIMARY KEY CHECK (octet_length(object_key) BETWEEN 1 AND 1024),
    id           bigint GENERATED ALWAYS AS IDENTITY,
    size_bytes   bigint CHECK (size_bytes >= 0),
    content_hash bigint,
    generation   bigint NOT NULL DEFAULT nextval('{schema}.generations'),
    created_at   bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    lock         bigint,
    lease        bigint,
    CHECK ((lock IS NULL) = (lease IS NULL))
) WITH (
    -- Vacuum after a number of dead rows, not a share of the table: the lanes' dead entries
    -- are what slows claims down, and they are as many at 10k rows as at 100M.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.02
);
COMMENT ON TABLE {schema}.object_copies IS
    'One row per object. A row that lacks a wanted copy is work: the table is the queue.';
COMMENT ON COLUMN {schema}.object_copies.object_key IS
    'The key, byte-exact, 1 to 1,024 bytes of UTF-8.';
COMMENT ON COLUMN {schema}.object_copies.id IS
    'Order of arrival. It ends the lanes'' keys, so that a claim reads neighbouring rows; it has no index of its own.';
COMMENT ON COLUMN {schema}.object_copies.size_bytes IS
    'Bytes; what the registrar stated, then what the first complete read of this generation found.';
COMMENT ON COLUMN {schema}.object_copies.content_hash IS
    'The 64 bits of CRC-64/NVME over the whole object, from the first complete read of this generation; NULL until then.';
COMMENT ON COLUMN {schema}.object_copies.generation IS
    'One content of the key. Registering the key again begins the next.';
COMMENT ON COLUMN {schema}.object_copies.created_at IS
    'µs since the epoch at which this generation was registered.';
COMMENT ON COLUMN {schema}.object_copies.lock IS
    'µs until which the row is leased; NULL: free.';
COMMENT ON COLUMN {schema}.object_copies.lease IS
    'The fence: a random number of the claim that holds the row, its upper 23 bits the daemon''s id; NULL: free.';

-- What is leased. The sweeper and the count of copies in flight read it.
CREATE INDEX object_copies_leased ON {schema}.object_copies (lock) WHERE lock IS NOT NULL;

-- Why a copy is not there yet. It explains; claims do not need it.
CREATE TABLE {schema}.copy_failures (
    object_key text COLLATE "C" NOT NULL,
    replica    text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    attempts   integer NOT NULL,
    class      text NOT NULL,
    message    text NOT NULL,
    first_at   bigint NOT NULL,
    last_at    bigint NOT NULL,
    PRIMARY KEY (object_key, replica)
);
COMMENT ON TABLE {schema}.copy_failures IS
    'The last failure of each copy that failed and is not recorded since. A row whose generation is not the object''s is history.';
COMMENT ON COLUMN {schema}.copy_failures.attempts IS
    'Failed attempts in a row of this class that count; those that only speak of the store do not.';
COMMENT ON COLUMN {schema}.copy_failures.class IS
    'transient, throttled, full, denied, misconfigured, gone, changed, corrupt, refused or archived; or parked, by an operator, whose reason is the message.';
COMMENT ON COLUMN {schema}.copy_failures.message IS
    'Of the store''s answer only status, code, request id and the first 300 characters.';

-- What all daemons agree on about a replica.
CREATE TABLE {schema}.replicas (
    name          text COLLATE "C" PRIMARY KEY,
    created_at    bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    primary_since bigint,
    endpoint      text,
    bucket        text,
    pinned_at     bigint,
    existing      text CHECK (existing IN ('empty', 'adopt', 'overwrite')),
    writable_at   bigint,
    paused_until  bigint,
    pause_reason  text,
    CHECK ((pinned_at IS NULL) = (endpoint IS NULL) AND (pinned_at IS NULL) = (bucket IS NULL)),
    CHECK ((writable_at IS NULL) = (existing IS NULL))
);
-- At most one primary.
CREATE UNIQUE INDEX replicas_primary ON {schema}.replicas ((true)) WHERE primary_since IS NOT NULL;
COMMENT ON COLUMN {schema}.replicas.primary_since IS
    'µs since which this is the primary in force; NULL: it is not. The configuration only fills it while there is none.';
COMMENT ON COLUMN {schema}.replicas.pinned_at IS
    'µs at which endpoint and bucket were first used. A daemon whose configuration names others leaves this replica alone: another bucket must not inherit its proofs.';
COMMENT ON COLUMN {schema}.replicas.existing IS
    'What was decided before the first write: the bucket was ''empty'', or what it held is to be taken over (''adopt'') or replaced (''overwrite''). NULL: nothing was written yet.';
COMMENT ON COLUMN {schema}.replicas.writable_at IS
    'µs at which that was decided. Objects in the bucket that are older are not ours.';
COMMENT ON COLUMN {schema}.replicas.paused_until IS
    'µs until which no daemon begins a copy to it; 9000000000000000000: until it is resumed; NULL, or past: it is not paused. It may still be read.';
COMMENT ON COLUMN {schema}.replicas.pause_reason IS
    'What whoever paused it had to say.';

-- Who is at work.
CREATE SEQUENCE {schema}.daemon_ids AS integer MAXVALUE 8388607 CYCLE; -- 23 bits: the upper part of a fence
CREATE TABLE {schema}.daemons (
    id               integer PRIMARY KEY,
    host             text NOT NULL,
    process_id       integer NOT NULL,
    version          text NOT NULL,
    started_at       bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    alive_until      bigint NOT NULL,
    sleeping         boolean NOT NULL DEFAULT false,
    lease_timeout_us bigint NOT NULL
);
COMMENT ON COLUMN {schema}.daemons.alive_until IS
    'µs; each heartbeat moves it on by the lease timeout. Past it the daemon is taken for dead.';
COMMENT ON COLUMN {schema}.daemons.sleeping IS
    'It found nothing to do and wants to be notified. Inserts notify nobody while no daemon sleeps, because NOTIFY serialises commits.';

-- Figures for dashboards, refreshed by one daemon at a time.
CREATE TABLE {schema}.backlog (
    replica                 text COLLATE "C" PRIMARY KEY,
    objects                 bigint NOT NULL,
    bytes                   bigint NOT NULL,
    objects_of_unknown_size bigint NOT NULL,
    oldest_registration     timestamptz,
    in_flight               bigint NOT NULL,
    waiting                 bigint NOT NULL,
    parked                  bigint NOT NULL,
    as_of                   timestamptz NOT NULL,
    took                    interval NOT NULL
);
COMMENT ON TABLE {schema}.backlog IS
    'Per replica, the copies that are wanted and not recorded, as of a stated time. Refreshed so often that counting costs at most 2 % of a core.';
COMMENT ON COLUMN {schema}.backlog.objects IS
    'All wanted copies that are not recorded: those in flight, waiting and parked included.';
COMMENT ON COLUMN {schema}.backlog.bytes IS
    'Their bytes, as far as sizes are known.';
COMMENT ON COLUMN {schema}.backlog.in_flight IS
    'Rows that a daemon holds at the moment.';
COMMENT ON COLUMN {schema}.backlog.waiting IS
    'Copies whose next attempt is at a later time.';
COMMENT ON COLUMN {schema}.backlog.parked IS
    'Copies that are not tried again until somebody says so; copy_failures says why.';

-- Wakes daemons, but only if one has said that it sleeps: an insert while all are busy pays for one look
-- at a tiny table and no NOTIFY. SECURITY DEFINER: the application's role need not see `daemons`.
CREATE FUNCTION {schema}.wake_sleepers() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM {schema}.daemons
               WHERE sleeping AND alive_until > (extract(epoch FROM statement_timestamp()) * 1000000)::bigint) THEN
        PERFORM pg_notify('{channel}_work', '');  -- constant payload: the server folds duplicates
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER wake_sleepers AFTER INSERT ON {schema}.object_copies
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.wake_sleepers();

-- Which programs this schema works with.
CREATE TABLE {schema}.schema_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  integer NOT NULL,
    oldest   integer NOT NULL
);
COMMENT ON COLUMN {schema}.schema_version.version IS
    'The newest migration that was applied.';
COMMENT ON COLUMN {schema}.schema_version.oldest IS
    'A program that was built with an older newest migration than this must not use the schema.';
INSERT INTO {schema}.schema_version (version, oldest) VALUES (1, 1);

REVOKE ALL ON FUNCTION {schema}.wake_sleepers() FROM PUBLIC;
