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

UPDATE {schema}.schema_version SET version = 6, oldest = 6;
