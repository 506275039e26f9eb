//! The SQL functions that append events, and the one that repairs sequences. Each migration creates them anew.
//! A switchover by logical replication brings the rows and leaves the sequences at their beginning: ids and generations
//! would be assigned again. Tests: `tests/it/sequences.rs`, `tests/it/events_append.rs`.

use copyhold_core::domain::SchemaName;

/// Returns the sequences that are behind the numbers in use, and repairs them on request.
pub(crate) const SEQUENCES_BEHIND: &str = "sequences_behind";

/// Levels of an event at most: parsers of several languages refuse 64, and readers get the event in an envelope.
const LEVELS: u32 = 60;

/// Returns the SQL that creates all functions of this file.
pub(crate) fn all(schema: &SchemaName) -> String {
    let functions = [sequences_behind(), append_log(), append_event()].join(";\n");
    let functions = functions.replace("{schema}", &schema.quoted()).replace("{channel}", schema.as_str());
    functions.replace("{levels}", &LEVELS.to_string()).replace("{signature}", &super::functions::signature())
}

/// Reads tens of random pages of `object_copies`, so that it is cheap on a large table: where a sequence began again,
/// hardly any row has a number below it. A sequence that was found is checked against the whole table before it is
/// repaired.
/// It takes the log's lock first, like every append: no id is drawn while its sequence is moved.
fn sequences_behind() -> String {
    "CREATE OR REPLACE FUNCTION {schema}.sequences_behind(mend boolean)
RETURNS TABLE(sequence_name text, stands_at bigint, used bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $behind$
DECLARE
    pages constant bigint := pg_relation_size('{schema}.object_copies') / current_setting('block_size')::bigint;
    share constant real := least(100, 5000.0 / greatest(pages, 1)); -- in percent: 50 pages
    seen record;
BEGIN
    FOR seen IN
        SELECT s.name, s.place, s.greatest_seen, coalesce(s.greatest_of_all, s.greatest_seen) AS greatest_of_all
          FROM (VALUES
            ('log_ids', '{schema}.log_ids',
             'SELECT greatest((SELECT id FROM {schema}.log ORDER BY id DESC LIMIT 1),
                              (SELECT dropped_through FROM {schema}.log_state))', NULL),
            ('log_inbox_id_seq', pg_get_serial_sequence('{schema}.log_inbox', 'id'),
             'SELECT max(id) FROM {schema}.log_inbox', NULL),
            ('multipart_uploads_id_seq', pg_get_serial_sequence('{schema}.multipart_uploads', 'id'),
             'SELECT max(id) FROM {schema}.multipart_uploads', NULL),
            ('scans_id_seq', pg_get_serial_sequence('{schema}.scans', 'id'),
             'SELECT max(id) FROM {schema}.scans', NULL),
            ('object_copies_id_seq', pg_get_serial_sequence('{schema}.object_copies', 'id'),
             'SELECT max(id) FROM {schema}.object_copies TABLESAMPLE SYSTEM ($1)',
             'SELECT max(id) FROM {schema}.object_copies'),
            ('generations', '{schema}.generations',
             'SELECT max(generation) FROM {schema}.object_copies TABLESAMPLE SYSTEM ($1)',
             'SELECT greatest((SELECT max(generation) FROM {schema}.object_copies),
                              (SELECT max(generation) FROM {schema}.multipart_uploads),
                              (SELECT max(generation) FROM {schema}.copy_failures))')
          ) AS s(name, place, greatest_seen, greatest_of_all)
    LOOP
        sequence_name := seen.name;
        EXECUTE seen.greatest_seen INTO used USING share;
        -- Read after the rows: numbers drawn for them are included.
        EXECUTE format('SELECT last_value - (NOT is_called)::int FROM %s', seen.place) INTO stands_at;
        CONTINUE WHEN used IS NULL OR stands_at >= used;
        IF mend THEN
            PERFORM pg_advisory_xact_lock(hashtextextended('{channel}:log', 0));
            PERFORM pg_advisory_xact_lock(hashtextextended('{channel}:sequences', 0));
            EXECUTE seen.greatest_of_all INTO used USING share;
            EXECUTE format('SELECT last_value - (NOT is_called)::int FROM %s', seen.place) INTO stands_at;
            -- Another session has repaired it.
            CONTINUE WHEN stands_at >= used;
            PERFORM setval(seen.place::regclass, used);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$behind$;
REVOKE ALL ON FUNCTION {schema}.sequences_behind(boolean) FROM PUBLIC;
COMMENT ON FUNCTION {schema}.sequences_behind(boolean) IS
    'Sequences that stand before numbers that were drawn from them, as after a switch-over by logical replication. mend: sets them behind these. {signature}'"
        .to_owned()
}

/// As the migrations create it, with one addition: an id that is taken, or that no partition covers, may come from a
/// sequence that began again.
fn append_log() -> String {
    "CREATE OR REPLACE FUNCTION {schema}.append_log(events jsonb[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
AS $append$
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
        EXCEPTION WHEN check_violation OR unique_violation THEN
            IF attempt = 2 THEN
                RAISE;
            END IF;
            -- No partition covers it: the sweeper was off for long, or the sequence began again after a switchover. The
            -- insert above and its locks are rolled back.
            PERFORM {schema}.sequences_behind(true);
            PERFORM {schema}.make_log_partitions();
        END;
    END LOOP;
    PERFORM pg_notify('{channel}_event', last::text);
    RETURN last;
END
$append$"
        .to_owned()
}

/// As the migrations create it, with a limit to the depth.
fn append_event() -> String {
    "CREATE OR REPLACE FUNCTION {schema}.append_event(event_data jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $append$
DECLARE
    most  CONSTANT integer := 65536;
    bytes CONSTANT integer := octet_length(event_data::text);
    kind  CONSTANT jsonb := event_data -> 'kind';
BEGIN
    IF jsonb_typeof(event_data) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'an event is a JSON object, not %', coalesce(jsonb_typeof(event_data), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example {\"kind\": \"door.opened\", \"id\": 3}';
    END IF;
    IF bytes > most THEN
        RAISE EXCEPTION 'an event has % bytes at most, this one has %', most, bytes
            USING ERRCODE = 'program_limit_exceeded', HINT = 'Keep what is large elsewhere, and name it in the event';
    END IF;
    -- A shorter text has no room for so many brackets.
    IF bytes > {levels} AND jsonb_path_exists(event_data, 'strict $.**{{levels}}') THEN
        RAISE EXCEPTION 'an event has {levels} levels at most, this one has more'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Readers in many languages refuse deeper JSON; keep it as text in the event';
    END IF;
    IF jsonb_typeof(kind) <> 'string' OR kind #>> '{}' !~ '^[a-z][a-z0-9_.-]{0,62}$' THEN
        RAISE EXCEPTION 'the event''s \"kind\" is %, not a name', left(kind::text, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'It begins with a lower-case letter, then up to 62 of a-z, 0-9, \".\", \"_\" and \"-\"';
    END IF;
    IF kind #>> '{}' ~ '^(object|copy|lease|replica|daemon)\\.' THEN
        RAISE EXCEPTION 'events of kind % are Copyhold''s own', kind
            USING ERRCODE = 'reserved_name', HINT = 'Choose a kind that does not begin with object., copy., lease., replica. or daemon.';
    END IF;
    INSERT INTO {schema}.log_inbox (event_data) VALUES (append_event.event_data);
    IF EXISTS (SELECT FROM {schema}.daemons
               WHERE inbox_sleeping AND alive_until > (extract(epoch FROM statement_timestamp()) * 1000000)::bigint) THEN
        PERFORM pg_notify('{channel}_work', 'inbox'); -- constant payload: the server folds duplicates
    END IF;
END
$append$"
        .to_owned()
}
