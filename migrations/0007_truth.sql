-- How many copies are on record, counted at the same moment as the backlog: what is neither missing nor recorded is not
-- wanted, and is no difference of two figures.
ALTER TABLE {schema}.backlog
    ADD COLUMN recorded              bigint,
    ADD COLUMN not_wanted            bigint,
    ADD COLUMN metadata_not_compared bigint,
    ADD COLUMN estimated             boolean,
    ADD COLUMN recorded_as_of        timestamptz;
COMMENT ON COLUMN {schema}.backlog.recorded IS
    'Copies on record at as_of; NULL: not counted. Only good while recorded_as_of is as_of: a program of schema version 6 counts the backlog alone.';
COMMENT ON COLUMN {schema}.backlog.not_wanted IS
    'Objects that the rules do not want there and that are not recorded there.';
COMMENT ON COLUMN {schema}.backlog.metadata_not_compared IS
    'Recorded copies of objects whose metadata is not on record.';
COMMENT ON COLUMN {schema}.backlog.estimated IS
    'recorded, not_wanted and metadata_not_compared are estimates from a sample of the table''s pages; false: they were counted.';
COMMENT ON COLUMN {schema}.backlog.recorded_as_of IS
    'When recorded, not_wanted and metadata_not_compared were counted.';
UPDATE {schema}.schema_version SET version = 7, oldest = 6;
