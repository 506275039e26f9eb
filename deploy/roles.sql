-- Grants for two least-privileged roles. docs/postgresql.md explains each role.
--
-- Run it as the schema's owner, the role that `copyhold migrate` connects as. Run it after `copyhold migrate`, and again
-- after each update of Copyhold. It can be run any number of times.
--
--   psql -d app -f deploy/roles.sql
--
-- Replace these names if yours differ:
--   copyhold_daemon  the role that `copyhold run` connects as
--   copyhold_app     the role that the application connects as
--   copyhold         the schema (database.schema), in the first statement and in the three grants on it
--   b2               the replicas that the application names in its INSERTs: usually the primary
--
-- The roles must exist:
--   CREATE ROLE copyhold_daemon LOGIN PASSWORD '…' CONNECTION LIMIT …;   six connections per daemon

BEGIN;
SET LOCAL search_path = copyhold;

-- The application registers objects. It cannot forge a lease or a generation, and cannot read other keys.
GRANT USAGE ON SCHEMA copyhold TO copyhold_app;
GRANT INSERT (object_key, size_bytes, b2) ON object_copies TO copyhold_app;
GRANT USAGE ON SEQUENCE generations TO copyhold_app; -- the default of object_copies.generation
-- The default of object_copies.created_at, also used in INSERTs. Granted for databases that revoke it from PUBLIC.
GRANT EXECUTE ON FUNCTION now_utc_micro_seconds() TO copyhold_app;
GRANT EXECUTE ON FUNCTION register(text, bigint, text[]), register_many(text[], bigint[], text[]) TO copyhold_app;
GRANT EXECUTE ON FUNCTION want(text, text[]), unwant(text, text[]) TO copyhold_app;
-- Its own events: it can append events, but read none.
GRANT EXECUTE ON FUNCTION append_event(jsonb) TO copyhold_app;

-- The daemon, and an operator who runs `copyhold retry`, `park`, `pause`, `resume`, `explain`, `status`, `promote` or
-- `replica`. The role changes copies, and never adds or removes a row of the application: `copyhold forget`, `import` and
-- `replica remove` need the owner. The grants on object_copies cover the whole table, so that another replica needs no
-- further grants.
GRANT USAGE ON SCHEMA copyhold TO copyhold_daemon;
GRANT SELECT, UPDATE ON object_copies, replicas TO copyhold_daemon;
-- For `copyhold replica reset` and `move`; `promote` reads the order of arrival.
GRANT SELECT, INSERT, UPDATE, DELETE ON resets TO copyhold_daemon;
GRANT SELECT ON SEQUENCE object_copies_id_seq, generations TO copyhold_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON copy_failures, daemons, swept_leases, unsettled, claims_intact, multipart_uploads, multipart_parts
    TO copyhold_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON backlog TO copyhold_daemon;
GRANT SELECT ON backlog_exact, schema_version TO copyhold_daemon;
-- The positions of scans.
GRANT SELECT, INSERT, UPDATE, DELETE ON scans, scan_parts TO copyhold_daemon;
GRANT USAGE ON SEQUENCE daemon_ids TO copyhold_daemon;
-- The rules in force, for objects that are registered over HTTP; and the position of `copyhold rules apply`, which begins
-- again when another replica is promoted.
GRANT SELECT ON rules TO copyhold_daemon;
GRANT SELECT, UPDATE ON rules_state TO copyhold_daemon;
-- The log: the daemon appends and reads. Functions with the owner's rights create and drop partitions. PostgreSQL requires
-- UPDATE on the inbox to lock a row before it is deleted.
GRANT SELECT, INSERT ON log TO copyhold_daemon;
GRANT USAGE ON SEQUENCE log_ids TO copyhold_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON log_inbox TO copyhold_daemon;
GRANT SELECT, UPDATE ON log_state TO copyhold_daemon;
-- `register` for `copyhold enqueue`, and the claim functions, which do nothing that these grants do not allow. For the claim
-- functions of a replica that is added later, `copyhold migrate` grants the same to every role that may UPDATE object_copies.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA copyhold TO copyhold_daemon;

COMMIT;
