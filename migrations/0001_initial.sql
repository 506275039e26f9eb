-- The fixed part of the schema: what does not depend on the replicas' names.
-- `copyhold migrate` derives the columns, indexes and functions that do from the configuration.
-- `{schema}` stands for the configured schema's quoted name, `{channel}` for the same name inside a literal.
--
-- A released migration is never edited: README.md in this folder says why, and what to do instead.
--
-- Times are bigint, in microseconds since 1970 UTC, unless a column is a timestamptz. "µs" in a comment means such a time.
-- 9000000000000000000 (later than any time) stands for "until an operator changes it".

-- Numbers and time ---------------------------------------------------------------------------------------------------

-- One sequence for all rows and times: a key that is deleted and inserted again is another generation.
CREATE SEQUENCE {schema}.generations AS bigint;
COMMENT ON SEQUENCE {schema}.generations IS
    'Numbers of object_copies.generation: one for each content that a key has had.';

-- STABLE, so that a comparison with it is an index condition;
-- with clock_timestamp() an empty claim over 500k waiting rows took 242 ms instead of 0.02 ms.
CREATE FUNCTION {schema}.now_utc_micro_seconds() RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint $$;
COMMENT ON FUNCTION {schema}.now_utc_micro_seconds() IS
    'Microseconds since the epoch, UTC, at the start of the statement.';

-- Objects ------------------------------------------------------------------------------------------------------------

-- One row per object. `migrate` adds two columns per replica x:
--   x     bigint  µs at which the copy at x was verified; NULL: no copy is on record
--   due_x bigint  NULL: no copy is wanted at x; 9000000000000000000: parked; else µs before which it is not claimed
CREATE TABLE {schema}.object_copies (
    object_key      text COLLATE "C" PRIMARY KEY CHECK (octet_length(object_key) BETWEEN 1 AND 1024),
    id              bigint GENERATED ALWAYS AS IDENTITY,
    size_bytes      bigint CHECK (size_bytes >= 0),
    content_hash    bigint,
    generation      bigint NOT NULL DEFAULT nextval('{schema}.generations'),
    created_at      bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    lock            bigint,
    lease           bigint,
    metadata_hash   bigint,
    not_carried     text[],
    source_replica  text COLLATE "C",
    source_modified bigint,
    source_tag      bigint,
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
    'Bytes: first as the registering program states, then as the first complete read of this generation finds. NULL: unknown.';
COMMENT ON COLUMN {schema}.object_copies.content_hash IS
    'CRC-64/NVME of the whole object, as 64 bits, from the first complete read of this generation; NULL until then.';
COMMENT ON COLUMN {schema}.object_copies.generation IS
    'The number of this content of the key. Registering the key again begins the next generation.';
COMMENT ON COLUMN {schema}.object_copies.created_at IS
    'µs at which this generation was registered.';
COMMENT ON COLUMN {schema}.object_copies.lock IS
    'µs until which a daemon holds the row''s lease; NULL: free.';
COMMENT ON COLUMN {schema}.object_copies.lease IS
    'The fence: a random number of the claim that holds the row, its upper 23 bits the daemon''s id; NULL: free.';
-- The reading that fixed content_hash: what the source said of the object then, in the store's own words and clock.
-- A later reading that finds other bytes is judged by it: changed, stale or corrupt.
COMMENT ON COLUMN {schema}.object_copies.metadata_hash IS
    'Hash of the object''s metadata in canonical form, from the same reading as content_hash; NULL: metadata was not compared.';
COMMENT ON COLUMN {schema}.object_copies.not_carried IS
    'What the object has at its source beside bytes and metadata, which no copy of it gets: tags, object_lock, legal_hold, kms_encryption, redirect, storage_class. NULL: nothing, or it was not read yet.';
COMMENT ON COLUMN {schema}.object_copies.source_replica IS
    'The replica whose answer source_modified and source_tag are from; NULL: nothing is kept of that reading.';
COMMENT ON COLUMN {schema}.object_copies.source_modified IS
    'Last-Modified of the object there, µs by that store''s clock; NULL: the store gave none.';
COMMENT ON COLUMN {schema}.object_copies.source_tag IS
    'Hash of the ETag and the version id that the store answered; NULL: the store gave neither.';

-- The leased rows: for the sweeper, and for the count of copies in flight.
CREATE INDEX object_copies_leased ON {schema}.object_copies (lock) WHERE lock IS NOT NULL;

-- Claims do not need this table; it explains.
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
    'Why a copy is missing: the last failure of each copy that failed and is not recorded since. A row whose generation is not the object''s is history.';
COMMENT ON COLUMN {schema}.copy_failures.object_key IS
    'The object, as in object_copies.';
COMMENT ON COLUMN {schema}.copy_failures.replica IS
    'Where the copy is missing.';
COMMENT ON COLUMN {schema}.copy_failures.generation IS
    'The content whose copy failed, as in object_copies.';
COMMENT ON COLUMN {schema}.copy_failures.attempts IS
    'Failed attempts in a row of this class that count; an attempt that failed only because of the store''s state does not.';
COMMENT ON COLUMN {schema}.copy_failures.class IS
    'transient, throttled, full, denied, misconfigured, gone, changed, corrupt, refused or archived; or parked, by an operator, whose reason is the message.';
COMMENT ON COLUMN {schema}.copy_failures.message IS
    'What failed. Of the store''s answer it holds only status, code, request id and the first 300 characters.';
COMMENT ON COLUMN {schema}.copy_failures.first_at IS
    'µs of the first of these attempts.';
COMMENT ON COLUMN {schema}.copy_failures.last_at IS
    'µs of the last of them.';

-- Daemons that died ----------------------------------------------------------------------------------------------------

CREATE TABLE {schema}.swept_leases (
    object_key text COLLATE "C" PRIMARY KEY,
    generation bigint NOT NULL,
    times      integer NOT NULL,
    last_at    bigint NOT NULL
);
COMMENT ON TABLE {schema}.swept_leases IS
    'Objects whose lease expired without its holder. It explains why a row waits, and which objects are copied alone.';
COMMENT ON COLUMN {schema}.swept_leases.object_key IS
    'The object, as in object_copies.';
COMMENT ON COLUMN {schema}.swept_leases.generation IS
    'The content that was being copied, as in object_copies.';
COMMENT ON COLUMN {schema}.swept_leases.times IS
    'How often in a row, within this generation; 0: a holder since has lived to record a copy. From the second time on the object waits longer and longer, and is copied alone.';
COMMENT ON COLUMN {schema}.swept_leases.last_at IS
    'µs at which a sweeper last freed the row.';

-- Writes that were sent and whose end was not seen: the store may carry them out later, over what was recorded meanwhile.
CREATE TABLE {schema}.unsettled (
    object_key    text COLLATE "C" NOT NULL,
    replica       text COLLATE "C" NOT NULL,
    size_bytes    bigint,
    content_hash  bigint,
    metadata_hash bigint,
    noted_at      bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    verify_at     bigint NOT NULL,
    settled_at    bigint NOT NULL,
    PRIMARY KEY (object_key, replica)
) WITH (
    -- The table is small, and its rows live for minutes.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
CREATE INDEX unsettled_verify ON {schema}.unsettled (replica, verify_at);
COMMENT ON TABLE {schema}.unsettled IS
    'Writes whose end was not seen. Until settled_at the store may still carry one out; the recorded copy is read again before it is relied on.';
COMMENT ON COLUMN {schema}.unsettled.object_key IS
    'The key that was written to.';
COMMENT ON COLUMN {schema}.unsettled.replica IS
    'The replica that the write was sent to.';
COMMENT ON COLUMN {schema}.unsettled.size_bytes IS
    'Bytes of the content that was sent, as far as known.';
COMMENT ON COLUMN {schema}.unsettled.content_hash IS
    'Hash of the content that was sent, as in object_copies: if the object still has it, its arrival does no harm. NULL: unknown, or several contents.';
COMMENT ON COLUMN {schema}.unsettled.metadata_hash IS
    'Hash of the metadata that was sent, as in object_copies.';
COMMENT ON COLUMN {schema}.unsettled.noted_at IS
    'µs at which the last such write was noted.';
COMMENT ON COLUMN {schema}.unsettled.verify_at IS
    'µs from which on the recorded copy is read; it is read again at growing intervals until settled_at.';
COMMENT ON COLUMN {schema}.unsettled.settled_at IS
    'µs after which the store carries nothing of it out any more. No row is deleted before.';

-- Claims commit asynchronously, so a crash of PostgreSQL can lose them, and with them the knowledge of which daemon writes
-- what. An UNLOGGED table is empty after crash recovery and after the promotion of a standby, and keeps its row over a
-- clean restart. While the row is missing, or until unsettled_until, each copy that is recorded is unsettled as well.
CREATE UNLOGGED TABLE {schema}.claims_intact (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    unsettled_until bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE {schema}.claims_intact IS
    'One row, which a crash of PostgreSQL removes: claims may have been lost with it. A daemon writes it again.';
COMMENT ON COLUMN {schema}.claims_intact.only_row IS
    'Always true: the table has one row at most.';
COMMENT ON COLUMN {schema}.claims_intact.unsettled_until IS
    'µs: copies that are recorded before it are read again once they are settled.';
INSERT INTO {schema}.claims_intact DEFAULT VALUES;

-- The holder of a leased row may be writing the object at this moment. Deleting the row deletes that knowledge, and the
-- same key, inserted again, is a row that looks free.
CREATE FUNCTION {schema}.note_deleted_lease() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    at     constant bigint := {schema}.now_utc_micro_seconds();
    settle constant bigint := greatest(600000000, (SELECT max(2 * d.lease_timeout_us) FROM {schema}.daemons d));
BEGIN
    INSERT INTO {schema}.unsettled AS u (object_key, replica, size_bytes, content_hash, metadata_hash, noted_at, verify_at, settled_at)
    SELECT OLD.object_key, r.name, OLD.size_bytes, OLD.content_hash, OLD.metadata_hash, at, at + 10000000, at + settle
      FROM {schema}.replicas r
    ON CONFLICT (object_key, replica) DO UPDATE
       SET content_hash = CASE WHEN u.content_hash = excluded.content_hash THEN u.content_hash END,
           metadata_hash = CASE WHEN u.metadata_hash = excluded.metadata_hash THEN u.metadata_hash END,
           noted_at = excluded.noted_at, verify_at = excluded.verify_at,
           settled_at = greatest(u.settled_at, excluded.settled_at);
    RETURN NULL;
END
$$;
CREATE TRIGGER note_deleted_lease AFTER DELETE ON {schema}.object_copies
    FOR EACH ROW WHEN (OLD.lease IS NOT NULL) EXECUTE FUNCTION {schema}.note_deleted_lease();
COMMENT ON FUNCTION {schema}.note_deleted_lease() IS
    'Notes in unsettled, for every replica, the write that the holder of a deleted row may be sending.';

CREATE FUNCTION {schema}.note_truncation() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE {schema}.claims_intact
       SET unsettled_until = {schema}.now_utc_micro_seconds()
                           + greatest(600000000, (SELECT max(2 * d.lease_timeout_us) FROM {schema}.daemons d));
    RETURN NULL;
END
$$;
CREATE TRIGGER note_truncation AFTER TRUNCATE ON {schema}.object_copies
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.note_truncation();
COMMENT ON FUNCTION {schema}.note_truncation() IS
    'The same for TRUNCATE, which names no rows: what is recorded in the next minutes is unsettled.';
REVOKE ALL ON FUNCTION {schema}.note_deleted_lease(), {schema}.note_truncation() FROM PUBLIC;

-- Multipart uploads ----------------------------------------------------------------------------------------------------

-- The next holder of the object resumes these uploads. Those that no daemon will resume are aborted at the store, where
-- their parts are paid for.
CREATE TABLE {schema}.multipart_uploads (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    object_key   text COLLATE "C" NOT NULL,
    replica      text COLLATE "C" NOT NULL,
    generation   bigint NOT NULL,
    size_bytes   bigint NOT NULL,
    part_bytes   bigint NOT NULL,
    origin       text NOT NULL,
    -- The store's own text. Stores were seen to use up to some 300 characters.
    upload_id    text CHECK (octet_length(upload_id) BETWEEN 1 AND 4096),
    begun_at     bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    last_at      bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    look_at      bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds() + 600000000, -- ten minutes
    condemned_at bigint
) WITH (
    -- `last_at` moves while an upload goes on: room for that on the row's own page, without another index entry.
    fillfactor = 70,
    -- The table is small and its rows are short-lived; a share of it would be too few rows or too many.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
CREATE INDEX multipart_uploads_object ON {schema}.multipart_uploads (object_key, replica);
CREATE INDEX multipart_uploads_look ON {schema}.multipart_uploads (replica, look_at);
COMMENT ON TABLE {schema}.multipart_uploads IS
    'Multipart uploads that were begun, or were about to be, and are not over. Claims never need its rows. A row whose object is gone or has another generation is an upload that is still to be aborted at the store.';
COMMENT ON COLUMN {schema}.multipart_uploads.id IS
    'The number that multipart_parts refers to.';
COMMENT ON COLUMN {schema}.multipart_uploads.object_key IS
    'The object, as in object_copies.';
COMMENT ON COLUMN {schema}.multipart_uploads.replica IS
    'The replica that it uploads to.';
COMMENT ON COLUMN {schema}.multipart_uploads.generation IS
    'The content of the key that it uploads, as in object_copies.';
COMMENT ON COLUMN {schema}.multipart_uploads.size_bytes IS
    'Bytes of the whole object.';
COMMENT ON COLUMN {schema}.multipart_uploads.part_bytes IS
    'Bytes of each part but the last, which may be shorter.';
COMMENT ON COLUMN {schema}.multipart_uploads.origin IS
    'Which content of which replica the parts were read from; parts of two origins do not go together.';
COMMENT ON COLUMN {schema}.multipart_uploads.upload_id IS
    'The store''s name for it, as the store spelled it; NULL: the daemon that asked the store has no answer yet, or died before it recorded one.';
COMMENT ON COLUMN {schema}.multipart_uploads.begun_at IS
    'µs at which it was about to be begun, by this database''s clock; the store was asked after that.';
COMMENT ON COLUMN {schema}.multipart_uploads.last_at IS
    'µs of its last progress, within some seconds.';
COMMENT ON COLUMN {schema}.multipart_uploads.look_at IS
    'µs from which on one daemon, whichever is first, checks whether the upload will be resumed. It moves this on before it does.';
COMMENT ON COLUMN {schema}.multipart_uploads.condemned_at IS
    'µs since which no daemon resumes it: it is being aborted at the store, then the row is deleted. NULL: it may be resumed.';

-- The reference costs 10 µs for each part (measured: 31 instead of 21), and for that none is left behind, however an
-- upload is deleted: 100,000 parts go with theirs in a third of a second.
CREATE TABLE {schema}.multipart_parts (
    upload      bigint NOT NULL REFERENCES {schema}.multipart_uploads ON DELETE CASCADE,
    part_number integer NOT NULL CHECK (part_number > 0),
    etag        text NOT NULL CHECK (octet_length(etag) <= 1024),
    md5         bytea NOT NULL CHECK (octet_length(md5) = 16),
    crc         bigint NOT NULL,
    PRIMARY KEY (upload, part_number)
) WITH (
    -- An upload has up to 10,000 of them, which go at once.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000
);
COMMENT ON TABLE {schema}.multipart_parts IS
    'The parts of each of these uploads that the store has accepted. Only a part that is missing here is sent again.';
COMMENT ON COLUMN {schema}.multipart_parts.upload IS
    'The upload, as in multipart_uploads.id.';
COMMENT ON COLUMN {schema}.multipart_parts.part_number IS
    'The part''s number, from 1.';
COMMENT ON COLUMN {schema}.multipart_parts.etag IS
    'As the store answered it, for the request that completes the upload.';
COMMENT ON COLUMN {schema}.multipart_parts.md5 IS
    'MD5 of the part''s bytes, as they were sent.';
COMMENT ON COLUMN {schema}.multipart_parts.crc IS
    'CRC-64/NVME of the part''s bytes, as 64 bits; those of all parts make the object''s.';

-- Replicas -------------------------------------------------------------------------------------------------------------

CREATE TABLE {schema}.replicas (
    name                  text COLLATE "C" PRIMARY KEY,
    created_at            bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    primary_since         bigint,
    -- Which bucket it is, and what it held before the first write.
    endpoint              text,
    bucket                text,
    pinned_at             bigint,
    existing              text CHECK (existing IN ('empty', 'adopt', 'overwrite')),
    writable_at           bigint,
    -- Paused by an operator.
    paused_until          bigint,
    pause_reason          text,
    -- The breaker, which all daemons share. NULL: it is closed.
    breaker_opened_at     bigint,
    breaker_blocks        text CHECK (breaker_blocks IN ('writing', 'all')),
    breaker_class         text,
    breaker_message       text,
    probe_at              bigint,
    probes_failed         integer NOT NULL DEFAULT 0,
    -- Draining, and what it held as a former primary.
    draining_since        bigint,
    drain_reason          text,
    registered_through    bigint,
    begun_through         bigint,
    foreign_before        bigint,
    -- Changes found there that no program registered, counted for all daemons: many at once look like a bucket that was
    -- restored from a backup.
    changes_at            bigint[] NOT NULL DEFAULT '{}',
    changes_refused_since bigint,
    changes_refused_at    bigint,
    -- Last-Modified tells an object that was there before Copyhold came from one of its copies. Last-Modified is of the
    -- store's clock, so what it is compared with is of that clock as well.
    looked_at             bigint,
    adopts                boolean NOT NULL DEFAULT false,
    CHECK ((pinned_at IS NULL) = (endpoint IS NULL) AND (pinned_at IS NULL) = (bucket IS NULL)),
    CHECK ((writable_at IS NULL) = (existing IS NULL)),
    CHECK ((breaker_opened_at IS NULL) = (breaker_blocks IS NULL)
       AND (breaker_opened_at IS NULL) = (breaker_class IS NULL)
       AND (breaker_opened_at IS NULL) = (breaker_message IS NULL)
       AND (breaker_opened_at IS NULL) = (probe_at IS NULL))
);
-- At most one primary.
CREATE UNIQUE INDEX replicas_primary ON {schema}.replicas ((true)) WHERE primary_since IS NOT NULL;
COMMENT ON TABLE {schema}.replicas IS
    'What all daemons agree on about a replica.';
COMMENT ON COLUMN {schema}.replicas.name IS
    'Its name in the configuration; object_copies has a column of this name.';
COMMENT ON COLUMN {schema}.replicas.created_at IS
    'µs at which `copyhold migrate` added it.';
COMMENT ON COLUMN {schema}.replicas.primary_since IS
    'µs since which this is the primary in force; NULL: it is not. The configuration only fills it while there is none.';
COMMENT ON COLUMN {schema}.replicas.endpoint IS
    'The endpoint that it was first used with; NULL: it was not used yet.';
COMMENT ON COLUMN {schema}.replicas.bucket IS
    'The bucket that it was first used with; NULL: it was not used yet.';
COMMENT ON COLUMN {schema}.replicas.pinned_at IS
    'µs at which endpoint and bucket were first used. A daemon whose configuration names others does not use this replica: another bucket must not inherit its proofs.';
COMMENT ON COLUMN {schema}.replicas.existing IS
    'What was decided before the first write: the bucket was ''empty'', or what it held is to be taken over (''adopt'') or replaced (''overwrite''). NULL: nothing was written yet.';
COMMENT ON COLUMN {schema}.replicas.writable_at IS
    'µs at which that was decided. Objects in the bucket that are older are not Copyhold''s.';
COMMENT ON COLUMN {schema}.replicas.paused_until IS
    'µs until which no daemon begins a copy to it; 9000000000000000000: until it is resumed; NULL, or past: it is not paused. It may still be read.';
COMMENT ON COLUMN {schema}.replicas.pause_reason IS
    'The reason that the operator gave for the pause.';
COMMENT ON COLUMN {schema}.replicas.breaker_opened_at IS
    'µs at which failures of the whole store opened the breaker, which stops the work on it; NULL: the breaker is closed.';
COMMENT ON COLUMN {schema}.replicas.breaker_blocks IS
    '''writing'': it may still be read, it is full for example; ''all'': no request is sent to it but probes.';
COMMENT ON COLUMN {schema}.replicas.breaker_class IS
    'The class of the failure that opened the breaker, as in copy_failures.';
COMMENT ON COLUMN {schema}.replicas.breaker_message IS
    'The store''s answer then, shortened as in copy_failures.';
COMMENT ON COLUMN {schema}.replicas.probe_at IS
    'µs from which on one daemon, whichever is first, may try the store again. It moves this on before it does.';
COMMENT ON COLUMN {schema}.replicas.probes_failed IS
    'Probes that failed since the breaker was opened.';
COMMENT ON COLUMN {schema}.replicas.draining_since IS
    'µs since which no copies are made to it and none counted as missing, while new objects still get their due; it remains a source. NULL: it is not draining.';
COMMENT ON COLUMN {schema}.replicas.drain_reason IS
    'The reason that the operator gave for draining it.';
COMMENT ON COLUMN {schema}.replicas.registered_through IS
    'object_copies.id of the last object that was registered before it ceased to be the primary: what it holds under the keys up to there is what was registered then, and not foreign. NULL: it was never the primary.';
COMMENT ON COLUMN {schema}.replicas.begun_through IS
    'The last generation that was registered before that: contents up to it that no daemon has read yet may stand there.';
COMMENT ON COLUMN {schema}.replicas.foreign_before IS
    'µs: of these, what is older in its bucket was there before Copyhold came, and is not Copyhold''s; NULL: nothing is.';
COMMENT ON COLUMN {schema}.replicas.changes_at IS
    'µs at which the latest changes found there began generations, the oldest first; no more are kept than are allowed within some minutes.';
COMMENT ON COLUMN {schema}.replicas.changes_refused_since IS
    'µs since which such changes are parked, because there were too many; NULL: they are not.';
COMMENT ON COLUMN {schema}.replicas.changes_refused_at IS
    'µs at which one was parked last. Some minutes after it they begin generations again.';
COMMENT ON COLUMN {schema}.replicas.looked_at IS
    'µs by the store''s own clock at which its bucket was seen to hold objects, before anything was written to it. NULL: it was empty, is to be overwritten, or was opened under a schema version before 6, whose objects are compared with writable_at.';
COMMENT ON COLUMN {schema}.replicas.adopts IS
    'What its bucket holds when it is opened for writing is to be adopted, whatever the configuration says: it was the primary, or a move decided so.';

-- Daemons --------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE {schema}.daemon_ids AS integer MAXVALUE 8388607 CYCLE; -- 23 bits: the upper part of a fence
COMMENT ON SEQUENCE {schema}.daemon_ids IS
    'Numbers of daemons.id: 23 bits, the upper part of object_copies.lease.';
CREATE TABLE {schema}.daemons (
    id                 integer PRIMARY KEY,
    host               text NOT NULL,
    process_id         integer NOT NULL,
    version            text NOT NULL,
    started_at         bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    alive_until        bigint NOT NULL,
    sleeping           boolean NOT NULL DEFAULT false,
    lease_timeout_us   bigint NOT NULL,
    config_fingerprint text,
    config             jsonb,
    inbox_sleeping     boolean NOT NULL DEFAULT false,
    wakeup             text
);
COMMENT ON TABLE {schema}.daemons IS
    'The daemons at work. One that ends deletes its row; the others delete the row of one that died.';
COMMENT ON COLUMN {schema}.daemons.id IS
    'The daemon''s number, from daemon_ids; it is the upper part of the fence of each of its claims.';
COMMENT ON COLUMN {schema}.daemons.host IS
    'The machine that it runs on.';
COMMENT ON COLUMN {schema}.daemons.process_id IS
    'Its process there.';
COMMENT ON COLUMN {schema}.daemons.version IS
    'The version of its program.';
COMMENT ON COLUMN {schema}.daemons.started_at IS
    'µs at which it registered itself.';
COMMENT ON COLUMN {schema}.daemons.alive_until IS
    'µs; each heartbeat moves it on by the lease timeout. Past it the daemon counts as dead.';
COMMENT ON COLUMN {schema}.daemons.sleeping IS
    'It found nothing to do and wants to be notified. While no daemon sleeps, inserts send no NOTIFY, because NOTIFY serialises commits.';
COMMENT ON COLUMN {schema}.daemons.lease_timeout_us IS
    'Its configured lease timeout, in microseconds.';
COMMENT ON COLUMN {schema}.daemons.config_fingerprint IS
    'Equal where the settings that concern all daemons are equal; NULL: not reported.';
COMMENT ON COLUMN {schema}.daemons.config IS
    'These settings: the primary it names and, by replica, endpoint and bucket. No secrets.';
COMMENT ON COLUMN {schema}.daemons.inbox_sleeping IS
    'It has found the inbox empty and wants to be notified of the next event in it.';
COMMENT ON COLUMN {schema}.daemons.wakeup IS
    '''notify'': notifications reach it; ''poll'': it is configured not to listen; else why it cannot listen and polls. NULL: not reported yet.';

-- Wakes daemons, but only while one is registered as sleeping: an insert while all are busy pays for one look at a tiny
-- table and no NOTIFY. SECURITY DEFINER: the application's role need not see `daemons`. It sets no search_path, because
-- setting it and setting it back cost almost half of what the trigger adds to an INSERT (21 µs with it, 12 without, on one
-- of 107 µs). So every name in it says where it is from, operators too: then no caller's search_path can put another in its
-- place.
CREATE FUNCTION {schema}.wake_sleepers() RETURNS trigger
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
CREATE TRIGGER wake_sleepers AFTER INSERT ON {schema}.object_copies
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.wake_sleepers();
REVOKE ALL ON FUNCTION {schema}.wake_sleepers() FROM PUBLIC;
COMMENT ON FUNCTION {schema}.wake_sleepers() IS
    'Notifies sleeping daemons that objects were registered.';

-- Rules ----------------------------------------------------------------------------------------------------------------

CREATE TABLE {schema}.rules (
    position  integer PRIMARY KEY,
    prefix    text COLLATE "C" NOT NULL,
    min_bytes bigint,
    max_bytes bigint,
    replicas  text[] NOT NULL CHECK (cardinality(replicas) > 0)
);
COMMENT ON TABLE {schema}.rules IS
    'The rules in force, which say at which replicas objects are wanted: the first rule that fits counts; without one, all. The primary always has them. `copyhold migrate` takes them from the configuration.';
COMMENT ON COLUMN {schema}.rules.position IS
    'Their order in the configuration, from 1.';
COMMENT ON COLUMN {schema}.rules.prefix IS
    'What the key begins with, byte for byte; empty: any key.';
COMMENT ON COLUMN {schema}.rules.min_bytes IS
    'The object has at least so many bytes; NULL: any size. No rule with a size fits an object of unknown size.';
COMMENT ON COLUMN {schema}.rules.max_bytes IS
    'The object has at most so many bytes; NULL: any size.';
COMMENT ON COLUMN {schema}.rules.replicas IS
    'The replicas at which an object that the rule fits is wanted.';

CREATE TABLE {schema}.rules_state (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version         bigint NOT NULL DEFAULT 0,
    changed_at      bigint,
    applied         bigint NOT NULL DEFAULT 0,
    applying        bigint,
    applied_through text COLLATE "C",
    newcomers       text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE {schema}.rules_state IS
    'One row: how far the rules in force have been applied to the objects that are there.';
COMMENT ON COLUMN {schema}.rules_state.only_row IS
    'Always true: the table has one row.';
COMMENT ON COLUMN {schema}.rules_state.version IS
    'Raised whenever the rules in force change, or a replica that they name is added.';
COMMENT ON COLUMN {schema}.rules_state.changed_at IS
    'µs at which it was raised last.';
COMMENT ON COLUMN {schema}.rules_state.applied IS
    'The version that was last applied to all objects.';
COMMENT ON COLUMN {schema}.rules_state.applying IS
    'The version that is being applied; NULL: none.';
COMMENT ON COLUMN {schema}.rules_state.applied_through IS
    'It is applied up to and with this key; NULL: to none yet.';
COMMENT ON COLUMN {schema}.rules_state.newcomers IS
    'Replicas that were added while rules were in force and that none of them names: an object that no rule fits is wanted there, and is not due everywhere until the rules have been applied.';
INSERT INTO {schema}.rules_state DEFAULT VALUES;

CREATE FUNCTION {schema}.replicas_by_rule(key text, size bigint) RETURNS text[]
    LANGUAGE sql STABLE
    AS $$
SELECT r.replicas
  FROM {schema}.rules r
 WHERE starts_with(key COLLATE "C", r.prefix)
   AND (r.min_bytes IS NULL OR size >= r.min_bytes)
   AND (r.max_bytes IS NULL OR size <= r.max_bytes)
 ORDER BY r.position
 LIMIT 1
$$;
REVOKE ALL ON FUNCTION {schema}.replicas_by_rule(text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION {schema}.replicas_by_rule(text, bigint) IS
    'The replicas that an object of this key and size is wanted at, by the first rule that fits; NULL: no rule fits. size NULL: unknown. The caller adds the primary in force.';

-- Long commands --------------------------------------------------------------------------------------------------------

-- A command that is resumed after a kill keeps its place here, written in the same transaction as the work up to that place.
CREATE TABLE {schema}.scans (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    replica    text COLLATE "C" NOT NULL,
    arguments  jsonb NOT NULL,
    started_at bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    held_by    bigint,
    held_until bigint,
    ended_at   bigint
);
-- Of two that begin the same scan at the same moment, one succeeds. Arguments may be longer than an index takes.
CREATE UNIQUE INDEX scans_unfinished ON {schema}.scans (replica, md5(arguments::text)) WHERE ended_at IS NULL;
COMMENT ON TABLE {schema}.scans IS
    'Listings of buckets whose objects are registered. The same command resumes one that has not ended.';
COMMENT ON COLUMN {schema}.scans.id IS
    'The number that scan_parts refers to.';
COMMENT ON COLUMN {schema}.scans.replica IS
    'The replica whose bucket is listed.';
COMMENT ON COLUMN {schema}.scans.arguments IS
    'What makes it the same scan: its prefixes, whether copies are adopted, and the bucket.';
COMMENT ON COLUMN {schema}.scans.started_at IS
    'µs at which it was begun.';
COMMENT ON COLUMN {schema}.scans.held_by IS
    'A random number of the process that runs it. It only serves the message that a second process gets.';
COMMENT ON COLUMN {schema}.scans.held_until IS
    'µs until which that process counts as alive; NULL: it has ended.';
COMMENT ON COLUMN {schema}.scans.ended_at IS
    'µs at which the last of its parts was done; NULL: it can be resumed.';

CREATE TABLE {schema}.scan_parts (
    scan             bigint NOT NULL REFERENCES {schema}.scans ON DELETE CASCADE,
    part             integer NOT NULL,
    prefix           text COLLATE "C" NOT NULL,
    after_key        text COLLATE "C",
    through_key      text COLLATE "C",
    reached          text COLLATE "C",
    done             boolean NOT NULL DEFAULT false,
    listed           bigint NOT NULL DEFAULT 0,
    registered       bigint NOT NULL DEFAULT 0,
    registered_bytes bigint NOT NULL DEFAULT 0,
    due              bigint NOT NULL DEFAULT 0,
    adopted          bigint NOT NULL DEFAULT 0,
    unusable         bigint NOT NULL DEFAULT 0,
    unusable_example text,
    PRIMARY KEY (scan, part)
) WITH (
    -- Every page updates one of a few rows: the new versions find room beside the old ones.
    fillfactor = 20
);
COMMENT ON TABLE {schema}.scan_parts IS
    'The ranges of keys that a scan lists at the same time. Together they cover all of its prefixes.';
COMMENT ON COLUMN {schema}.scan_parts.scan IS
    'The scan, as in scans.id.';
COMMENT ON COLUMN {schema}.scan_parts.part IS
    'The part''s number within its scan.';
COMMENT ON COLUMN {schema}.scan_parts.prefix IS
    'It has keys that begin with this, byte for byte.';
COMMENT ON COLUMN {schema}.scan_parts.after_key IS
    'Of these, it has the keys behind this one, which need not be there; NULL: from the first on.';
COMMENT ON COLUMN {schema}.scan_parts.through_key IS
    'It ends with this key, which need not be there; NULL: with the last of its prefix.';
COMMENT ON COLUMN {schema}.scan_parts.reached IS
    'All keys of it up to and with this one are registered; NULL: none yet.';
COMMENT ON COLUMN {schema}.scan_parts.done IS
    'All keys of it are registered.';
COMMENT ON COLUMN {schema}.scan_parts.listed IS
    'Keys that were listed up to there, the unusable ones included.';
COMMENT ON COLUMN {schema}.scan_parts.registered IS
    'Of these, those that were not registered before.';
COMMENT ON COLUMN {schema}.scan_parts.registered_bytes IS
    'Bytes of the objects that were not registered before.';
COMMENT ON COLUMN {schema}.scan_parts.due IS
    'Copies of these that are wanted and were missing then.';
COMMENT ON COLUMN {schema}.scan_parts.adopted IS
    'Copies at other replicas that were recorded, because a listing there showed the same size and checksum.';
COMMENT ON COLUMN {schema}.scan_parts.unusable IS
    'Keys that cannot be registered: too long, with a NUL byte, or no UTF-8.';
COMMENT ON COLUMN {schema}.scan_parts.unusable_example IS
    'The first of these, as printable text; NULL: there was none.';

CREATE TABLE {schema}.resets (
    replica    text COLLATE "C" PRIMARY KEY,
    before     bigint NOT NULL,
    reached    text COLLATE "C",
    cleared    bigint NOT NULL DEFAULT 0,
    started_at bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    moved      boolean NOT NULL DEFAULT false,
    alone      bigint NOT NULL DEFAULT 0,
    sure       boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE {schema}.resets IS
    'Replicas whose recorded copies are being cleared, because the bucket was lost or is another one. The same command resumes it.';
COMMENT ON COLUMN {schema}.resets.replica IS
    'The replica.';
COMMENT ON COLUMN {schema}.resets.before IS
    'µs: copies recorded before it are not to be relied on.';
COMMENT ON COLUMN {schema}.resets.reached IS
    'They are cleared up to and with this key; NULL: none yet.';
COMMENT ON COLUMN {schema}.resets.cleared IS
    'Recorded copies that were cleared so far.';
COMMENT ON COLUMN {schema}.resets.started_at IS
    'µs at which it was begun.';
COMMENT ON COLUMN {schema}.resets.moved IS
    'The replica is another bucket since; false: it has lost what it held.';
COMMENT ON COLUMN {schema}.resets.alone IS
    'Of the objects that it has lost, those of which no other copy was on record.';
COMMENT ON COLUMN {schema}.resets.sure IS
    'The walk through the table began after the end of every transaction that was open when the reset began. Such a transaction could still commit a copy recorded before the reset.';

CREATE TABLE {schema}.imports (
    source      text COLLATE "C" PRIMARY KEY,
    table_is    jsonb NOT NULL,
    arguments   jsonb NOT NULL,
    reached     text COLLATE "C",
    tally       jsonb NOT NULL DEFAULT '{}',
    examples    jsonb NOT NULL DEFAULT '{}',
    started_at  bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    ended_at    bigint,
    held_by     bigint,
    holder      text,
    alive_until bigint
);
COMMENT ON TABLE {schema}.imports IS
    'Tables of other programs whose objects were, or are being, imported.';
COMMENT ON COLUMN {schema}.imports.source IS
    'The table, with its schema, quoted as needed.';
COMMENT ON COLUMN {schema}.imports.table_is IS
    'Which table of that name it is, and in which order it is read: a place in another one means nothing.';
COMMENT ON COLUMN {schema}.imports.arguments IS
    'The command''s arguments: what the table''s columns mean.';
COMMENT ON COLUMN {schema}.imports.reached IS
    'Up to and with this key, in that table''s own order, all is imported; NULL: nothing yet.';
COMMENT ON COLUMN {schema}.imports.tally IS
    'The counts of its report, up to there.';
COMMENT ON COLUMN {schema}.imports.examples IS
    'For each kind of oddity that was counted, its first key.';
COMMENT ON COLUMN {schema}.imports.started_at IS
    'µs at which it was begun.';
COMMENT ON COLUMN {schema}.imports.ended_at IS
    'µs at which the last row was imported; NULL: it can be resumed.';
COMMENT ON COLUMN {schema}.imports.held_by IS
    'The fence: a random number of the run that is, or was last, at work.';
COMMENT ON COLUMN {schema}.imports.holder IS
    'That run''s machine and process, for people.';
COMMENT ON COLUMN {schema}.imports.alive_until IS
    'µs; moved on while it is at work. Past it, the run counts as dead; NULL: none is at work.';

-- The event log --------------------------------------------------------------------------------------------------------

-- What happened, in an order that every reader agrees on; and the inbox, where other programs put their events without
-- taking any lock of Copyhold's.

-- CACHE 1, the default: the holder of the log's lock draws ids in the order of the commits.
CREATE SEQUENCE {schema}.log_ids AS bigint;
COMMENT ON SEQUENCE {schema}.log_ids IS
    'Numbers of log.id.';

-- Only daemons append, always to the table as a whole: the trigger below does not fire for an INSERT into a partition.
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
COMMENT ON FUNCTION {schema}.log_in_order() IS
    'Lets one transaction append at a time, so that ids increase in the order of the commits.';

-- After a failover to a standby that lacked the last commits, log ids are given again. PostgreSQL begins another timeline
-- then, as it does after a restore to a point in time, and keeps it over a crash, which loses no event.
-- The number alone does not name a history: two standbys of one server can both become its timeline 2. So daemons compare
-- the timeline, and give readers an incarnation that is drawn at random once per timeline.
CREATE TABLE {schema}.log_state (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    incarnation     integer NOT NULL DEFAULT 1,
    dropped_through bigint NOT NULL DEFAULT 0,
    timeline        bigint
);
COMMENT ON TABLE {schema}.log_state IS
    'One row: what a reader must know to be sure that it misses nothing.';
COMMENT ON COLUMN {schema}.log_state.only_row IS
    'Always true: the table has one row.';
COMMENT ON COLUMN {schema}.log_state.incarnation IS
    'Together with the server''s system identifier it names this log: ids of another one mean something else. Another is drawn after a restore or a failover.';
COMMENT ON COLUMN {schema}.log_state.dropped_through IS
    'The greatest id of an event that was dropped because of its age or for want of room; 0: none was.';
COMMENT ON COLUMN {schema}.log_state.timeline IS
    'The server''s timeline that incarnation was drawn on. On another one ids may have been given again. NULL: not known yet.';

-- Not pg_control_checkpoint(), which names the timeline before until the first checkpoint after a promotion.
CREATE FUNCTION {schema}.server_timeline() RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN 0;
    END IF;
    RETURN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
EXCEPTION WHEN OTHERS THEN
    -- The role may not ask, or the server is a relative of PostgreSQL that keeps no WAL of this kind.
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION {schema}.server_timeline() FROM PUBLIC;
COMMENT ON FUNCTION {schema}.server_timeline() IS
    'The timeline that the server writes; 0: it is a standby and writes none; NULL: this role cannot find out.';
INSERT INTO {schema}.log_state (timeline) VALUES ({schema}.server_timeline());

-- Some 400 MB of Copyhold's own events. `turn_log_page` begins the next partition earlier if one is old or large.
CREATE FUNCTION {schema}.log_partition_ids() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT 1048576::bigint $$;
COMMENT ON FUNCTION {schema}.log_partition_ids() IS
    'Ids of one partition of the log.';

-- An append calls it too when its partition is missing.
-- LIKE and ATTACH, because PARTITION OF would lock the whole log exclusively: ATTACH takes SHARE UPDATE EXCLUSIVE, which
-- neither appends nor reads wait for.
-- A partition that was detached by hand is attached again: taken for attached, it made every append in its range fail. Its
-- events belong to the log, where none may be missing; to remove them, drop the table or rename it.
-- SECURITY DEFINER: the daemon's role need not own the log.
CREATE FUNCTION {schema}.make_log_partitions() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
    AS $$
DECLARE
    span  CONSTANT bigint := {schema}.log_partition_ids();
    next  bigint;
    first bigint;
    page  regclass;
    made  integer := 0;
BEGIN
    -- The second of two callers finds them made.
    PERFORM pg_advisory_xact_lock(hashtextextended('{channel}:log_partitions', 0));
    SELECT last_value + is_called::int INTO next FROM {schema}.log_ids;
    FOR ahead IN 0..2 LOOP
        first := (next / span + ahead) * span;
        page := to_regclass(format('{schema}.%I', 'log_' || first));
        IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = page AND inhparent = '{schema}.log'::regclass) THEN
            CONTINUE;
        END IF;
        IF page IS NULL THEN
            -- The CHECK spares ATTACH a look at the rows, and is of no use after it.
            EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.log INCLUDING ALL,
                                CONSTRAINT attached CHECK (id >= %s AND id < %s))', 'log_' || first, first, first + span);
        END IF;
        EXECUTE format('ALTER TABLE {schema}.log ATTACH PARTITION {schema}.%I FOR VALUES FROM (%s) TO (%s)',
                       'log_' || first, first, first + span);
        IF page IS NULL THEN
            EXECUTE format('ALTER TABLE {schema}.%I DROP CONSTRAINT attached', 'log_' || first);
        END IF;
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION {schema}.make_log_partitions() IS
    'Makes the partition that the next event goes to, and two more; returns how many it made.';
SELECT {schema}.make_log_partitions();

-- `migrate` replaces this function by the one of its program, which may know more than this file. This one appends,
-- notifies, and returns the last id; NULL for no events. It holds the log's lock to the end of the transaction, so it is the
-- transaction's last step; it waits for the lock no longer than its lock_timeout, because the caller may hold rows.
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
            -- No partition for it: no sweeper ran for long. The ids and the lock from above are given up.
            PERFORM {schema}.make_log_partitions();
        END;
    END LOOP;
    PERFORM pg_notify('{channel}_event', last::text);
    RETURN last;
END
$$;
COMMENT ON FUNCTION {schema}.append_log(jsonb[]) IS
    'For daemons alone. Other programs call append_event.';

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
    'Events of other programs, until a daemon moves them into the log. Written by append_event, or by an operator''s command.';
COMMENT ON COLUMN {schema}.log_inbox.id IS
    'Their order within the inbox; the log gives them other ids.';
COMMENT ON COLUMN {schema}.log_inbox.date_created IS
    'When it was put into the inbox.';
COMMENT ON COLUMN {schema}.log_inbox.event_data IS
    'The event, as in log.';

-- `migrate` replaces this function by the one of its program, which may know more than this file. It may be called in any
-- transaction: it takes no lock of Copyhold's, and notifies once at most, and only while a daemon is registered as waiting
-- for that. SECURITY DEFINER: its caller needs no right on any table.
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

-- One session at a time, or two events that one program has appended in two transactions could change places.
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
COMMENT ON FUNCTION {schema}.move_inbox(integer) IS
    'Moves up to so many events from the inbox into the log, oldest first; returns how many, NULL if another session is moving them.';

-- A partition can only be dropped as a whole, so the next one is begun before the last one is full: each holds at most an
-- eighth of what is kept. The ids in between are never used.
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
    -- The next partition is there before an append has to wait; an append takes the two locks in this order as well.
    PERFORM {schema}.make_log_partitions();
    -- No id is drawn while this lock is held; another session may have begun the next partition already.
    PERFORM pg_advisory_xact_lock(hashtextextended('{channel}:log', 0));
    IF (SELECT last_value / span FROM {schema}.log_ids) <> last / span THEN
        RETURN false;
    END IF;
    PERFORM setval('{schema}.log_ids', (last / span + 1) * span, false);
    RETURN true;
END
$$;
COMMENT ON FUNCTION {schema}.turn_log_page(bigint, bigint) IS
    'Lets the next event begin another partition, if the current one is older than an eighth of keep_us or larger than an eighth of keep_bytes; true: it did.';

-- Not DETACH … CONCURRENTLY, which only the owner can run and no function can; the daemon's role owns nothing. DETACH locks
-- the log exclusively, for a moment: it gives up after 30 ms, and is tried again at the next sweep. Of four clients that append
-- as fast as they can, p99.9, on a busy machine without fsync: 21 ms while nothing is dropped, 21 ms while a partition is dropped
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
COMMENT ON FUNCTION {schema}.drop_log_partition(bigint, bigint) IS
    'Drops the oldest partition if all in it is older than keep_us, or if all partitions together have more than keep_bytes; never the current one. Returns its last event''s id, 0 if it was empty; NULL if there was nothing to drop.';

REVOKE ALL ON FUNCTION {schema}.log_in_order(), {schema}.log_partition_ids(), {schema}.make_log_partitions(), {schema}.append_log(jsonb[]),
    {schema}.append_event(jsonb), {schema}.move_inbox(integer), {schema}.turn_log_page(bigint, bigint),
    {schema}.drop_log_partition(bigint, bigint) FROM PUBLIC;

-- Figures for dashboards -----------------------------------------------------------------------------------------------

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
    took                    interval NOT NULL,
    -- Counted at the same moment: an object that is neither missing nor recorded there is not wanted there.
    recorded                bigint,
    not_wanted              bigint,
    metadata_not_compared   bigint,
    estimated               boolean,
    recorded_as_of          timestamptz
);
COMMENT ON TABLE {schema}.backlog IS
    'Per replica, the copies that are wanted and not recorded, as of a stated time. One daemon at a time refreshes it, so often that counting costs at most 2 % of a core.';
COMMENT ON COLUMN {schema}.backlog.replica IS
    'The replica. One that is draining has no row.';
COMMENT ON COLUMN {schema}.backlog.objects IS
    'All wanted copies that are not recorded: those in flight, waiting and parked included.';
COMMENT ON COLUMN {schema}.backlog.bytes IS
    'Their bytes, as far as sizes are known.';
COMMENT ON COLUMN {schema}.backlog.objects_of_unknown_size IS
    'Copies of unknown size among these.';
COMMENT ON COLUMN {schema}.backlog.oldest_registration IS
    'When the object that was registered first among these was registered; NULL: there is none.';
COMMENT ON COLUMN {schema}.backlog.in_flight IS
    'Copies among these whose row a daemon has leased.';
COMMENT ON COLUMN {schema}.backlog.waiting IS
    'Copies whose next attempt is at a later time.';
COMMENT ON COLUMN {schema}.backlog.parked IS
    'Copies that are not tried again until an operator retries them; copy_failures says why.';
COMMENT ON COLUMN {schema}.backlog.as_of IS
    'When the row was counted.';
COMMENT ON COLUMN {schema}.backlog.took IS
    'How long counting took.';
COMMENT ON COLUMN {schema}.backlog.recorded IS
    'Copies on record at as_of; NULL: not counted. Valid only while recorded_as_of is as_of: a program of schema version 6 counts the other columns alone.';
COMMENT ON COLUMN {schema}.backlog.not_wanted IS
    'Objects that the rules do not want there and that are not recorded there.';
COMMENT ON COLUMN {schema}.backlog.metadata_not_compared IS
    'Recorded copies of objects whose metadata is not on record.';
COMMENT ON COLUMN {schema}.backlog.estimated IS
    'recorded, not_wanted and metadata_not_compared are estimates from a sample of the table''s pages; false: they were counted.';
COMMENT ON COLUMN {schema}.backlog.recorded_as_of IS
    'When recorded, not_wanted and metadata_not_compared were counted.';

-- The schema's version -------------------------------------------------------------------------------------------------

CREATE TABLE {schema}.schema_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  integer NOT NULL,
    oldest   integer NOT NULL
);
COMMENT ON TABLE {schema}.schema_version IS
    'One row: which programs this schema works with.';
COMMENT ON COLUMN {schema}.schema_version.only_row IS
    'Always true: the table has one row.';
COMMENT ON COLUMN {schema}.schema_version.version IS
    'The version of the newest migration that was applied.';
COMMENT ON COLUMN {schema}.schema_version.oldest IS
    'A program whose newest migration has a smaller version than this must not use the schema.';
-- Versions 1 to 7 were seven files of development versions, which together made exactly this schema.
INSERT INTO {schema}.schema_version (version, oldest) VALUES (8, 8);
