-- Registry: accounts, repositories, blobs, manifests, tags, uploads, and the freshness of cached tags.
-- Names and tags compare bytewise; times are UTC milliseconds.

CREATE TABLE account (
    name TEXT NOT NULL PRIMARY KEY,
    password_hash TEXT NOT NULL,
    is_admin BOOLEAN NOT NULL,
    created_at_ms BIGINT NOT NULL
);

CREATE TABLE repository (
    name TEXT NOT NULL PRIMARY KEY,
    created_at_ms BIGINT NOT NULL
);

-- One row per object in storage, whatever the number of repositories that link it. storage_key says where the bytes
-- are; it is written once, so a digest that comes back after its collection has another one.
CREATE TABLE blob (
    digest TEXT NOT NULL PRIMARY KEY,
    size_bytes BIGINT NOT NULL,
    storage_key TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL
);

-- A blob is readable only through a repository that links it.
CREATE TABLE repository_blob (
    repository TEXT NOT NULL REFERENCES repository (name),
    digest TEXT NOT NULL REFERENCES blob (digest),
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (repository, digest)
);
CREATE INDEX repository_blob_by_digest ON repository_blob (digest);

CREATE TABLE manifest (
    repository TEXT NOT NULL REFERENCES repository (name),
    digest TEXT NOT NULL,
    media_type TEXT NOT NULL,
    body BLOB NOT NULL,
    subject TEXT,
    artifact_type TEXT,
    annotations TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (repository, digest)
);
CREATE INDEX manifest_by_subject ON manifest (repository, subject, digest);

CREATE TABLE manifest_reference (
    repository TEXT NOT NULL,
    parent TEXT NOT NULL,
    child TEXT NOT NULL,
    PRIMARY KEY (repository, parent, child),
    FOREIGN KEY (repository, parent) REFERENCES manifest (repository, digest) ON DELETE CASCADE
);
CREATE INDEX manifest_reference_by_child ON manifest_reference (repository, child);

CREATE TABLE tag (
    repository TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    PRIMARY KEY (repository, name),
    FOREIGN KEY (repository, digest) REFERENCES manifest (repository, digest) ON DELETE CASCADE
);
CREATE INDEX tag_by_digest ON tag (repository, digest);

-- All that any process needs to go on with an upload. offset_bytes counts what has been acknowledged, hash_state has
-- taken in as much, and storage_place is what storage itself remembers (JSON). Where several processes share the
-- database, one of them writes at a time: lease_owner until lease_until_ms; nobody when it is empty.
CREATE TABLE upload (
    id TEXT NOT NULL PRIMARY KEY,
    repository TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    offset_bytes BIGINT NOT NULL,
    hash_state BLOB NOT NULL,
    storage_place TEXT NOT NULL,
    lease_owner TEXT NOT NULL,
    lease_until_ms BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL
);
CREATE INDEX upload_by_update ON upload (updated_at_ms);

-- When a cached tag was last found to be what upstream says.
CREATE TABLE upstream_tag (
    repository TEXT NOT NULL,
    tag TEXT NOT NULL,
    checked_at_ms BIGINT NOT NULL,
    PRIMARY KEY (repository, tag)
);
