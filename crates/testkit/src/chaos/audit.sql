-- What watches the daemons' writes from inside the database. Each daemon comes as a role of its own, so that a write
-- can be held against whose lease it was: the upper bits of a lease are its holder's number.
CREATE SCHEMA chaos;

CREATE TABLE chaos.daemons (id integer PRIMARY KEY, role text NOT NULL);

-- Leases that ended in another way than by their holder's word.
CREATE TABLE chaos.taken (object_key text NOT NULL, lease bigint NOT NULL, daemon integer NOT NULL);

CREATE TABLE chaos.violations (said text NOT NULL);

CREATE FUNCTION chaos.enlisted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.daemons (id, role) VALUES (NEW.id, session_user) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER enlisted AFTER INSERT ON copyhold.daemons FOR EACH ROW EXECUTE FUNCTION chaos.enlisted();

CREATE FUNCTION chaos.judge() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    holder constant text := (SELECT d.role FROM chaos.daemons d WHERE d.id = OLD.lease >> 40);
    taker constant text := (SELECT d.role FROM chaos.daemons d WHERE d.id = NEW.lease >> 40);
    mine constant boolean := coalesce(holder = session_user, false);
    over constant boolean := OLD.lock < copyhold.now_utc_micro_seconds();
    proves constant boolean := (NEW.b2 IS NOT NULL AND NEW.b2 IS DISTINCT FROM OLD.b2)
        OR (NEW.wasabi IS NOT NULL AND NEW.wasabi IS DISTINCT FROM OLD.wasabi)
        OR (NEW.scw IS NOT NULL AND NEW.scw IS DISTINCT FROM OLD.scw);
BEGIN
    IF proves AND NOT mine THEN
        INSERT INTO chaos.violations SELECT format('%s recorded a copy of %s under the lease of %s',
            session_user, OLD.object_key, coalesce(holder, 'nobody'));
    END IF;
    IF OLD.lease IS NOT NULL AND NEW.lease IS DISTINCT FROM OLD.lease AND NOT mine THEN
        IF NOT over THEN
            INSERT INTO chaos.violations SELECT format('%s ended the lease of %s on %s, which had %s µs left',
                session_user, holder, OLD.object_key, OLD.lock - copyhold.now_utc_micro_seconds());
        END IF;
        INSERT INTO chaos.taken SELECT OLD.object_key, OLD.lease, OLD.lease >> 40;
    END IF;
    IF OLD.lease IS NOT NULL AND NEW.lease = OLD.lease AND NOT mine THEN
        INSERT INTO chaos.violations SELECT format('%s changed %s, which %s held', session_user, OLD.object_key, holder);
    END IF;
    IF NEW.lease IS NOT NULL AND NEW.lease IS DISTINCT FROM OLD.lease AND taker IS DISTINCT FROM session_user THEN
        INSERT INTO chaos.violations SELECT format('%s took %s in the name of %s', session_user, OLD.object_key, taker);
    END IF;
    RETURN NULL;
END
$$;
-- What the application itself writes is its own business.
CREATE TRIGGER judge AFTER UPDATE ON copyhold.object_copies FOR EACH ROW
    WHEN (session_user LIKE 'daemon%') EXECUTE FUNCTION chaos.judge();
