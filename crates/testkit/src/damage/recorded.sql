-- Whatever is put on record, or taken back.
CREATE SCHEMA damage;
CREATE TABLE damage.recorded (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    object_key     text COLLATE "C" NOT NULL,
    replica        text NOT NULL,
    content_hash   bigint,
    was_taken_back boolean NOT NULL
);
CREATE FUNCTION damage.write_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.wasabi IS DISTINCT FROM OLD.wasabi THEN
        INSERT INTO damage.recorded (object_key, replica, content_hash, was_taken_back)
        VALUES (NEW.object_key, 'wasabi', NEW.content_hash, NEW.wasabi IS NULL);
    END IF;
    IF NEW.scw IS DISTINCT FROM OLD.scw THEN
        INSERT INTO damage.recorded (object_key, replica, content_hash, was_taken_back)
        VALUES (NEW.object_key, 'scw', NEW.content_hash, NEW.scw IS NULL);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER write_down AFTER UPDATE ON copyhold.object_copies
    FOR EACH ROW EXECUTE FUNCTION damage.write_down();
