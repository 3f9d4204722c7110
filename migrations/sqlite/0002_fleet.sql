-- Fleet: nodes, services, their revisions and deployments, tasks. Beats of nodes never come here.

-- One row. Whoever holds the lease plans; the epoch grows with every take-over and guards every write of a plan.
CREATE TABLE cluster (
    only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    id TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    lease_holder TEXT,
    lease_expires_at_ms BIGINT NOT NULL
);

CREATE TABLE join_token (
    token_hash TEXT NOT NULL PRIMARY KEY,
    expires_at_ms BIGINT NOT NULL,
    used_at_ms BIGINT,
    used_by TEXT
);

CREATE TABLE node (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    public_key TEXT NOT NULL,
    facts TEXT NOT NULL,
    generation BIGINT NOT NULL,
    joined_at_ms BIGINT NOT NULL
);

-- target_revision is what should run, NULL for nothing; tag_digest is what the followed tag was last seen at, so
-- that a push is noticed even when the server died between the push and its deployment. version grows with every
-- change of the row or of its deployments, so that a plan made from an older view writes nothing.
CREATE TABLE service (
    name TEXT NOT NULL PRIMARY KEY,
    repository TEXT NOT NULL,
    tag TEXT,
    follows_tag BOOLEAN NOT NULL,
    tag_digest TEXT,
    replicas BIGINT NOT NULL,
    target_revision BIGINT,
    stable_revision BIGINT,
    version BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL
);
CREATE INDEX service_by_repository ON service (repository, tag);

CREATE TABLE revision (
    service TEXT NOT NULL,
    number BIGINT NOT NULL,
    repository TEXT NOT NULL,
    spec TEXT NOT NULL,
    digest TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (service, number)
);

-- It keeps its digest, since a service that is deleted takes its revisions along.
CREATE TABLE deployment (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    service TEXT NOT NULL,
    revision BIGINT NOT NULL,
    digest TEXT NOT NULL,
    from_revision BIGINT,
    from_replicas BIGINT,
    cause TEXT NOT NULL,
    state TEXT NOT NULL,
    replicas BIGINT NOT NULL,
    reason TEXT,
    created_at_ms BIGINT NOT NULL,
    finished_at_ms BIGINT
);
CREATE INDEX deployment_by_service ON deployment (service, id);
-- At most one deployment of a service is under way.
CREATE UNIQUE INDEX deployment_active ON deployment (service) WHERE finished_at_ms IS NULL;

CREATE TABLE task (
    id TEXT NOT NULL PRIMARY KEY,
    service TEXT NOT NULL,
    slot BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    node_id TEXT NOT NULL REFERENCES node (id),
    desired TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    container_id TEXT,
    started_at_ms BIGINT,
    starting_at_ms BIGINT,
    exit_code BIGINT,
    reason TEXT,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL
);
CREATE INDEX task_by_service ON task (service, slot);
CREATE INDEX task_by_node ON task (node_id);
