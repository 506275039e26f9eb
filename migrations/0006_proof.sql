-- What a recorded time rests on: which reading fixed an object's content, and which writes may still arrive at a store.

-- The reading that fixed content_hash: what the source said of the object then, in the store's own words and clock.
-- A later reading that finds other bytes is judged by it: changed, stale or corrupt.
ALTER TABLE {schema}.object_copies
    ADD COLUMN metadata_hash   bigint,
    ADD COLUMN not_carried     text[],
    ADD COLUMN source_replica  text COLLATE "C",
    ADD COLUMN source_modified bigint,
    ADD COLUMN source_tag      bigint;
COMMENT ON COLUMN {schema}.object_copies.metadata_hash IS
    'Hash of the object''s metadata in canonical form, from the same reading as content_hash; NULL: metadata was not compared.';
COMMENT ON COLUMN {schema}.object_copies.not_carried IS
    'What the object has at its source beside bytes and metadata, which no copy of it gets: tags, object_lock, legal_hold, kms_encryption, redirect, storage_class. NULL: nothing, or it was not read yet.';
COMMENT ON COLUMN {schema}.object_copies.source_replica IS
    'The replica whose answer source_modified and source_tag are from; NULL: nothing is kept of that reading.';
COMMENT ON COLUMN {schema}.object_copies.source_modified IS
    'Last-Modified of the object there, µs since the epoch by that store''s clock; NULL: the store gave none.';
COMMENT ON COLUMN {schema}.object_copies.source_tag IS
    'Hash of the ETag and the version id that the store answered; NULL: the store gave neither.';

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
    -- Small, and its rows live for minutes.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
CREATE INDEX unsettled_verify ON {schema}.unsettled (replica, verify_at);
COMMENT ON TABLE {schema}.unsettled IS
    'Writes whose end was not seen. Until settled_at the store may still carry one out; the recorded copy is read again before it is relied on.';
COMMENT ON COLUMN {schema}.unsettled.size_bytes IS
    'Bytes of the content that was sent, as far as known.';
COMMENT ON COLUMN {schema}.unsettled.content_hash IS
    'Hash of the content that was sent, as in object_copies: if the object still has it, its arrival does no harm. NULL: unknown, or several contents.';
COMMENT ON COLUMN {schema}.unsettled.metadata_hash IS
    'Hash of the metadata that was sent, as in object_copies.';
COMMENT ON COLUMN {schema}.unsettled.noted_at IS
    'µs since the epoch at which the last such write was noted.';
COMMENT ON COLUMN {schema}.unsettled.verify_at IS
    'µs from which on the recorded copy is read; it is read again at growing intervals until settled_at.';
COMMENT ON COLUMN {schema}.unsettled.settled_at IS
    'µs after which the store carries nothing of it out any more. No row is deleted before.';

-- Whether claims may have been lost, and with them the knowledge of who writes what. Claims commit asynchronously. An
-- UNLOGGED table is empty after crash recovery and after the promotion of a standby, and keeps its row over a clean
-- restart: while the row is missing, or until unsettled_until, each copy that is recorded is unsettled as well.
CREATE UNLOGGED TABLE {schema}.claims_intact (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    unsettled_until bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE {schema}.claims_intact IS
    'One row, which a crash of PostgreSQL removes: claims may have been lost with it. A daemon writes it again.';
COMMENT ON COLUMN {schema}.claims_intact.unsettled_until IS
    'µs since the epoch: copies that are recorded before it are read again once they are settled.';
INSERT INTO {schema}.claims_intact DEFAULT VALUES;

-- The holder of a leased row may be writing the object at this moment. Whoever deletes the row takes that knowledge
-- away, and whoever inserts the key again gets a row that looks free.
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
REVOKE ALL ON FUNCTION {schema}.note_deleted_lease(), {schema}.note_truncation() FROM PUBLIC;

-- What was to be read again after a holder had died is now in unsettled.
INSERT INTO {schema}.unsettled (object_key, replica, noted_at, verify_at, settled_at)
SELECT s.object_key, r.name, s.last_at, s.verify_at, s.verify_at
  FROM {schema}.swept_leases s CROSS JOIN {schema}.replicas r
 WHERE s.verify_at IS NOT NULL;
DROP INDEX {schema}.swept_leases_verify;
ALTER TABLE {schema}.swept_leases
    DROP COLUMN verify_at,
    DROP COLUMN primary_too;
COMMENT ON TABLE {schema}.swept_leases IS
    'Objects whose lease ran out without its holder. It explains why a row waits, and which objects are copied alone.';

-- Changes at a replica that nobody registered, counted for all daemons: many at once look like a bucket that was restored.
ALTER TABLE {schema}.replicas
    ADD COLUMN changes_at            bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN changes_refused_since bigint,
    ADD COLUMN changes_refused_at    bigint;
COMMENT ON COLUMN {schema}.replicas.changes_at IS
    'µs at which the latest changes found there began generations, the oldest first; no more are kept than are allowed within some minutes.';
COMMENT ON COLUMN {schema}.replicas.changes_refused_since IS
    'µs since which such changes are parked, because there were too many; NULL: they are not.';
COMMENT ON COLUMN {schema}.replicas.changes_refused_at IS
    'µs at which one was parked last. Some minutes after it they begin generations again.';
-- After a failover to a standby that lacked the last commits, log ids are given again. PostgreSQL begins another
-- timeline then, as it does after a restore to a point in time, and keeps it over a crash, which loses no event.

-- The number alone does not name a history: two standbys of one server can both become its timeline 2. So the
-- timeline is compared, and what readers are told is an incarnation drawn at random once per timeline.
ALTER TABLE {schema}.log_state ADD COLUMN timeline bigint;
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
UPDATE {schema}.log_state SET timeline = {schema}.server_timeline();

-- An object that was there before Copyhold came is told from a copy of ours by its Last-Modified, which is of the store's
-- clock. So what it is compared with is of that clock as well.
ALTER TABLE {schema}.replicas
    ADD COLUMN looked_at bigint,
    ADD COLUMN adopts    boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN {schema}.replicas.looked_at IS
    'µs by the store''s own clock at which its bucket was seen to hold something, before anything was written to it. NULL: it was empty, is to be overwritten, or was opened by a version before 6, which compares with writable_at.';
COMMENT ON COLUMN {schema}.replicas.adopts IS
    'What its bucket holds when it is opened for writing is to be adopted, whatever the configuration says: it was the primary, or a move said so.';

UPDATE {schema}.schema_version SET version = 6, oldest = 6;
