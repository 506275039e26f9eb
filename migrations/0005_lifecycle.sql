-- Objects come in, replicas come and go: which replicas an object is wanted at, what long commands have done so far, and
-- the states in which a replica leaves.
-- What is resumed after a kill keeps its place here, written in the same transaction as the work up to that place.

-- Rules -----------------------------------------------------------------------------------------------------------------

-- Those in force, as the configuration said when they were last taken over. The first that fits an object counts.
CREATE TABLE {schema}.rules (
    position  integer PRIMARY KEY,
    prefix    text COLLATE "C" NOT NULL,
    min_bytes bigint,
    max_bytes bigint,
    replicas  text[] NOT NULL CHECK (cardinality(replicas) > 0)
);
COMMENT ON TABLE {schema}.rules IS
    'Which replicas objects are wanted at: the first rule that fits counts; without one, all. The primary always has them.';
COMMENT ON COLUMN {schema}.rules.position IS
    'Their order in the configuration, from 1.';
COMMENT ON COLUMN {schema}.rules.prefix IS
    'What the key begins with, byte for byte; empty: any key.';
COMMENT ON COLUMN {schema}.rules.min_bytes IS
    'The object has at least so many bytes; NULL: any size. No rule with a size fits an object of unknown size.';
COMMENT ON COLUMN {schema}.rules.max_bytes IS
    'The object has at most so many bytes; NULL: any size.';

CREATE TABLE {schema}.rules_state (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version         bigint NOT NULL DEFAULT 0,
    changed_at      bigint,
    applied         bigint NOT NULL DEFAULT 0,
    applying        bigint,
    applied_through text COLLATE "C",
    newcomers       text[] NOT NULL DEFAULT '{}'
);
COMMENT ON COLUMN {schema}.rules_state.version IS
    'Raised whenever the rules in force change, or a replica comes that they speak of.';
COMMENT ON COLUMN {schema}.rules_state.changed_at IS
    'µs since the epoch at which it was raised last.';
COMMENT ON COLUMN {schema}.rules_state.applied IS
    'The version that all objects that were there have been judged by.';
COMMENT ON COLUMN {schema}.rules_state.applying IS
    'The version that they are being judged by; NULL: none.';
COMMENT ON COLUMN {schema}.rules_state.applied_through IS
    'They were, up to and with this key; NULL: none yet.';
COMMENT ON COLUMN {schema}.rules_state.newcomers IS
    'Replicas that came while rules were in force and that none of them names: what no rule fits is wanted there, and not due everywhere until the rules have been applied.';
INSERT INTO {schema}.rules_state DEFAULT VALUES;

-- What the rules say of one object. Whoever asks adds the primary in force.
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
    'The replicas that an object of this key and size is wanted at, by the first rule that fits; NULL: no rule fits. size NULL: unknown.';

-- Scans -----------------------------------------------------------------------------------------------------------------

CREATE TABLE {schema}.scans (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    replica    text COLLATE "C" NOT NULL,
    arguments  jsonb NOT NULL,
    started_at bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    held_by    bigint,
    held_until bigint,
    ended_at   bigint
);
-- Two that begin the same at the same moment: one of them has begun it. Arguments may be longer than an index takes.
CREATE UNIQUE INDEX scans_unfinished ON {schema}.scans (replica, md5(arguments::text)) WHERE ended_at IS NULL;
COMMENT ON TABLE {schema}.scans IS
    'Listings of buckets whose objects are registered. One that has not ended is gone on with by the same command.';
COMMENT ON COLUMN {schema}.scans.arguments IS
    'What makes it the same scan: its prefixes, whether copies are adopted, and the bucket.';
COMMENT ON COLUMN {schema}.scans.held_by IS
    'A number that the process has drawn which is at it. Nothing depends on it but what is told to a second one.';
COMMENT ON COLUMN {schema}.scans.held_until IS
    'µs until which that process is taken for alive; NULL: it has left.';
COMMENT ON COLUMN {schema}.scans.ended_at IS
    'µs since the epoch at which the last of its parts was done; NULL: it can be gone on with.';

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
    'The pieces of the order of keys that a scan lists at the same time. Together they leave nothing of its prefixes out.';
COMMENT ON COLUMN {schema}.scan_parts.prefix IS
    'It has keys that begin with this, byte for byte.';
COMMENT ON COLUMN {schema}.scan_parts.after_key IS
    'Of these, it has the keys behind this one, which need not be there; NULL: from the first on.';
COMMENT ON COLUMN {schema}.scan_parts.through_key IS
    'It ends with this key, which need not be there; NULL: with the last of its prefix.';
COMMENT ON COLUMN {schema}.scan_parts.reached IS
    'All keys of it up to and with this one are registered; NULL: none yet.';
COMMENT ON COLUMN {schema}.scan_parts.listed IS
    'Keys that were listed up to there, the unusable ones included.';
COMMENT ON COLUMN {schema}.scan_parts.registered IS
    'Of these, those that were not registered before.';
COMMENT ON COLUMN {schema}.scan_parts.due IS
    'Copies of these that are wanted and were missing then.';
COMMENT ON COLUMN {schema}.scan_parts.adopted IS
    'Copies at other replicas that were recorded, because a listing there showed the same size and checksum.';
COMMENT ON COLUMN {schema}.scan_parts.unusable IS
    'Keys that cannot be registered: too long, with a NUL byte, or no UTF-8.';

-- Replicas that leave, or lost their bucket -----------------------------------------------------------------------------

ALTER TABLE {schema}.replicas
    ADD COLUMN draining_since     bigint,
    ADD COLUMN drain_reason       text,
    ADD COLUMN registered_through bigint,
    ADD COLUMN begun_through      bigint,
    ADD COLUMN foreign_before     bigint;
COMMENT ON COLUMN {schema}.replicas.draining_since IS
    'µs since which no copies are made to it and none counted as missing, while new objects still get their due; it remains a source. NULL: it is not draining.';
COMMENT ON COLUMN {schema}.replicas.drain_reason IS
    'What whoever drained it had to say.';
COMMENT ON COLUMN {schema}.replicas.registered_through IS
    'Objects up to this id were registered before it ceased to be the primary: what it holds under their keys is what was registered then, and no stranger''s. NULL: it was never the primary.';
COMMENT ON COLUMN {schema}.replicas.begun_through IS
    'Generations up to this one were registered before that: what nobody has seen of them yet may stand there.';
COMMENT ON COLUMN {schema}.replicas.foreign_before IS
    'µs: of these, what is older in its bucket was there before Copyhold came, and is not ours; NULL: nothing is.';

-- A replica whose recorded copies are being taken back, because its bucket was lost or is another one.
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
    'Replicas whose recorded copies are being taken back, because the bucket was lost or is another one. The command that began it goes on with it.';
COMMENT ON COLUMN {schema}.resets.before IS
    'µs since the epoch: copies recorded before it are not to be relied on.';
COMMENT ON COLUMN {schema}.resets.reached IS
    'They are taken back up to and with this key; NULL: none yet.';
COMMENT ON COLUMN {schema}.resets.moved IS
    'The replica is another bucket since; false: it has lost what it held.';
COMMENT ON COLUMN {schema}.resets.alone IS
    'Of the objects that it has lost, those of which no other copy was on record.';
COMMENT ON COLUMN {schema}.resets.sure IS
    'This walk through the table began after every transaction had ended that was open when the reset did, and might have committed behind its back what it had recorded before.';

-- A recheck leaves the primary out, whose contents are the application's. Where its bucket was lost, that something is
-- missing there says something all the same.
ALTER TABLE {schema}.swept_leases
    ADD COLUMN primary_too boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN {schema}.swept_leases.primary_too IS
    'Its bucket was lost while the object was held: whether its copy is there is looked at as well.';

-- Imports ---------------------------------------------------------------------------------------------------------------

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
    'Tables of other programs whose objects were, or are being, taken over.';
COMMENT ON COLUMN {schema}.imports.source IS
    'The table, with its schema, quoted as needed.';
COMMENT ON COLUMN {schema}.imports.table_is IS
    'Which table of that name it is, and in which order it is read: a place in another one means nothing.';
COMMENT ON COLUMN {schema}.imports.arguments IS
    'What its columns were said to mean.';
COMMENT ON COLUMN {schema}.imports.reached IS
    'Up to and with this key, in that table''s own order, all is taken over; NULL: nothing yet.';
COMMENT ON COLUMN {schema}.imports.tally IS
    'What was counted up to there.';
COMMENT ON COLUMN {schema}.imports.examples IS
    'For what was counted as odd, the first key of which it is so.';
COMMENT ON COLUMN {schema}.imports.ended_at IS
    'µs since the epoch at which the last row was taken over; NULL: it can be gone on with.';
COMMENT ON COLUMN {schema}.imports.held_by IS
    'The fence: a random number of the run that is, or was last, at work.';
COMMENT ON COLUMN {schema}.imports.holder IS
    'Its machine and process, for people.';
COMMENT ON COLUMN {schema}.imports.alive_until IS
    'µs; moved on while it is at work. Past it, it is taken for dead; NULL: none is at work.';

UPDATE {schema}.schema_version SET version = 5;
