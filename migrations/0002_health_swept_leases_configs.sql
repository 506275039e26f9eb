-- What all daemons must know to leave a sick replica alone, to be wary of an object whose holders die, and to see
-- that they were not configured alike.

-- The breaker of a replica. NULL: it is closed.
ALTER TABLE {schema}.replicas
    ADD COLUMN breaker_opened_at bigint,
    ADD COLUMN breaker_blocks    text CHECK (breaker_blocks IN ('writing', 'all')),
    ADD COLUMN breaker_class     text,
    ADD COLUMN breaker_message   text,
    ADD COLUMN probe_at          bigint,
    ADD COLUMN probes_failed     integer NOT NULL DEFAULT 0,
    ADD CHECK ((breaker_opened_at IS NULL) = (breaker_blocks IS NULL)
           AND (breaker_opened_at IS NULL) = (breaker_class IS NULL)
           AND (breaker_opened_at IS NULL) = (breaker_message IS NULL)
           AND (breaker_opened_at IS NULL) = (probe_at IS NULL));
COMMENT ON COLUMN {schema}.replicas.breaker_opened_at IS
    'µs at which failures that speak of the whole store stopped the work on it; NULL: nothing is wrong.';
COMMENT ON COLUMN {schema}.replicas.breaker_blocks IS
    '''writing'': it may still be read, it is full for example; ''all'': it is not asked at all.';
COMMENT ON COLUMN {schema}.replicas.breaker_class IS
    'The class of the failure that opened it, as in copy_failures.';
COMMENT ON COLUMN {schema}.replicas.breaker_message IS
    'What the store said then, shortened as in copy_failures.';
COMMENT ON COLUMN {schema}.replicas.probe_at IS
    'µs from which on one daemon, whichever is first, may try the store again. It moves this on before it does.';
COMMENT ON COLUMN {schema}.replicas.probes_failed IS
    'Tries since it was opened that failed.';

-- An object whose holders died. It explains why a row waits, and names copies to be looked at once more.
CREATE TABLE {schema}.swept_leases (
    object_key text COLLATE "C" PRIMARY KEY,
    generation bigint NOT NULL,
    times      integer NOT NULL,
    last_at    bigint NOT NULL,
    verify_at  bigint
);
CREATE INDEX swept_leases_verify ON {schema}.swept_leases (verify_at) WHERE verify_at IS NOT NULL;
COMMENT ON TABLE {schema}.swept_leases IS
    'Objects whose lease ran out without its holder: the dead holder''s last request may still arrive at a store.';
COMMENT ON COLUMN {schema}.swept_leases.times IS
    'How often in a row, within this generation; 0: a holder since has lived to record a copy. From the second time on the object waits longer and longer, and is copied alone.';
COMMENT ON COLUMN {schema}.swept_leases.last_at IS
    'µs at which it was last swept.';
COMMENT ON COLUMN {schema}.swept_leases.verify_at IS
    'µs from which on the recorded copies are read once more; NULL: none was recorded since.';

-- How each daemon is configured, as far as the others are concerned.
ALTER TABLE {schema}.daemons
    ADD COLUMN config_fingerprint text,
    ADD COLUMN config jsonb;
COMMENT ON COLUMN {schema}.daemons.config_fingerprint IS
    'Equal where the settings that concern all daemons are equal; NULL: a daemon from before this column.';
COMMENT ON COLUMN {schema}.daemons.config IS
    'These settings: the primary it names and, by replica, endpoint and bucket. No secrets.';

UPDATE {schema}.schema_version SET version = 2;
