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
    applied_through text COLLATE "C"
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
INSERT INTO {schema}.rules_state DEFAULT VALUES;

-- Scans -----------------------------------------------------------------------------------------------------------------

CREATE TABLE {schema}.scans (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    replica    text COLLATE "C" NOT NULL,
    arguments  jsonb NOT NULL,
    started_at bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    ended_at   bigint
);
COMMENT ON TABLE {schema}.scans IS
    'Listings of buckets whose objects are registered. One that has not ended is gone on with by the same command.';
COMMENT ON COLUMN {schema}.scans.arguments IS
    'What makes it the same scan: its prefixes, and whether copies are adopted.';
COMMENT ON COLUMN {schema}.scans.ended_at IS
    'µs since the epoch at which the last of its parts was done; NULL: it can be gone on with.';

CREATE TABLE {schema}.scan_parts (
    scan       bigint NOT NULL REFERENCES {schema}.scans ON DELETE CASCADE,
    part       integer NOT NULL,
    after_key  text COLLATE "C",
    until_key  text COLLATE "C",
    reached    text COLLATE "C",
    done       boolean NOT NULL DEFAULT false,
    listed     bigint NOT NULL DEFAULT 0,
    registered bigint NOT NULL DEFAULT 0,
    adopted    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (scan, part)
);
COMMENT ON TABLE {schema}.scan_parts IS
    'The pieces of the order of keys that a scan lists at the same time. Together they leave nothing of its prefixes out.';
COMMENT ON COLUMN {schema}.scan_parts.after_key IS
    'It has the keys behind this one; NULL: from the first on.';
COMMENT ON COLUMN {schema}.scan_parts.until_key IS
    'It ends before this key; NULL: with the last.';
COMMENT ON COLUMN {schema}.scan_parts.reached IS
    'All keys of it up to and with this one are registered; NULL: none yet.';

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
    source     text PRIMARY KEY,
    arguments  jsonb NOT NULL,
    reached    text,
    read       bigint NOT NULL DEFAULT 0,
    imported   bigint NOT NULL DEFAULT 0,
    started_at bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    ended_at   bigint
);
COMMENT ON TABLE {schema}.imports IS
    'Tables of other programs whose objects were, or are being, taken over.';
COMMENT ON COLUMN {schema}.imports.source IS
    'The table, with its schema, quoted as needed.';
COMMENT ON COLUMN {schema}.imports.reached IS
    'Up to and with this key, in that table''s own order, all is taken over; NULL: nothing yet.';

UPDATE {schema}.schema_version SET version = 5;
