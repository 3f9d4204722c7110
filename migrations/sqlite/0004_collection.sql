-- Collection of blobs that nothing needs.

-- Digests to look at once review_after_ms has passed. Whatever uses a digest postpones its review; only a digest with
-- a row here is ever collected.
CREATE TABLE gc_review (
    digest TEXT NOT NULL PRIMARY KEY,
    review_after_ms BIGINT NOT NULL
);
CREATE INDEX gc_review_by_time ON gc_review (review_after_ms);

-- Bytes whose blob row is gone, to be removed from storage once delete_after_ms has passed.
CREATE TABLE gc_object (
    storage_key TEXT NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    delete_after_ms BIGINT NOT NULL
);
CREATE INDEX gc_object_by_time ON gc_object (delete_after_ms);

-- Blobs that are kept whatever links them, by those who need them: what runs on nodes, what may be rolled back to.
CREATE TABLE pin (
    holder TEXT NOT NULL,
    digest TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (holder, digest)
);
CREATE INDEX pin_by_digest ON pin (digest);

-- What came before this table is looked at, too.
INSERT INTO gc_review (digest, review_after_ms) SELECT digest, created_at_ms + 86400000 FROM blob;
