-- What is remembered of uploads in parts, so that whoever holds the object next goes on with them, and so that what
-- nobody will go on with is thrown away at the stores, where its parts are paid for.

CREATE TABLE {schema}.multipart_uploads (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    object_key   text COLLATE "C" NOT NULL,
    replica      text COLLATE "C" NOT NULL,
    generation   bigint NOT NULL,
    size_bytes   bigint NOT NULL,
    part_bytes   bigint NOT NULL,
    origin       text NOT NULL,
    -- What a store calls it is the store's own text. Stores were seen to use up to some 300 characters.
    upload_id    text CHECK (octet_length(upload_id) BETWEEN 1 AND 4096),
    begun_at     bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    last_at      bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds(),
    look_at      bigint NOT NULL DEFAULT {schema}.now_utc_micro_seconds() + 600000000, -- ten minutes
    condemned_at bigint
) WITH (
    -- `last_at` moves while an upload goes on: room for that on the row's own page, without another index entry.
    fillfactor = 70,
    -- The table is small and lives fast; a share of it would be too few rows or too many.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
CREATE INDEX multipart_uploads_object ON {schema}.multipart_uploads (object_key, replica);
CREATE INDEX multipart_uploads_look ON {schema}.multipart_uploads (replica, look_at);
COMMENT ON TABLE {schema}.multipart_uploads IS
    'Uploads in parts that were begun, or were about to be, and are not over. Its rows are never needed to claim; one whose object is gone or has another generation is history that is still to be thrown away at the store.';
COMMENT ON COLUMN {schema}.multipart_uploads.generation IS
    'The content of the key that it uploads, as in object_copies.';
COMMENT ON COLUMN {schema}.multipart_uploads.part_bytes IS
    'Of each part but the last, which may be shorter.';
COMMENT ON COLUMN {schema}.multipart_uploads.origin IS
    'Which content of which replica the parts were read from; parts of two origins do not go together.';
COMMENT ON COLUMN {schema}.multipart_uploads.upload_id IS
    'The store''s name for it, as the store spelled it; NULL: whoever asked the store has not heard it, or died before he could say so.';
COMMENT ON COLUMN {schema}.multipart_uploads.begun_at IS
    'µs at which it was about to be begun, by this database''s clock; the store was asked after that.';
COMMENT ON COLUMN {schema}.multipart_uploads.last_at IS
    'µs of its last progress, within some seconds.';
COMMENT ON COLUMN {schema}.multipart_uploads.look_at IS
    'µs from which on one daemon, whichever is first, may look whether anybody will go on with it. It moves this on before it does.';
COMMENT ON COLUMN {schema}.multipart_uploads.condemned_at IS
    'µs since which nobody goes on with it: it is being thrown away at the store, then the row goes. NULL: it may be gone on with.';

-- The reference costs 10 µs for each part (measured: 31 instead of 21), and for that none is left behind, whoever
-- deletes an upload: 100,000 parts go with theirs in a third of a second.
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
    'The parts that the store has taken of each of these uploads. What is missing here is sent again, no more.';
COMMENT ON COLUMN {schema}.multipart_parts.etag IS
    'As the store answered it, for the request that completes the upload.';
COMMENT ON COLUMN {schema}.multipart_parts.md5 IS
    'Of the part''s bytes, as they were sent.';
COMMENT ON COLUMN {schema}.multipart_parts.crc IS
    'The 64 bits of CRC-64/NVME of the part''s bytes; those of all parts make the object''s.';

UPDATE {schema}.schema_version SET version = 3;
