-- Fleet: nodes, services, their revisions and deployments, tasks. Beats of nodes never come here.

-- One row. Whoever holds the lease plans; the epoch grows with every take-over and guards every write of a plan.
CREATE TABLE cluster (
    only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    id TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    lease_holder TEXT COLLATE "C",
    lease_expires_at_ms BIGINT NOT NULL
);

CREATE TABLE join_token (
    token_hash TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    expires_at_ms BIGINT NOT NULL,
    used_at_ms BIGINT,
    used_by TEXT COLLATE "C"
);

CREATE TABLE node (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    public_key TEXT COLLATE "C" NOT NULL,
    facts TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    joined_at_ms BIGINT NOT NULL
);

-- target_revision is what should run, NULL for nothing; tag_digest is what the followed tag was last seen at, so
-- that a push is noticed even when the server died between the push and its deployment. version grows with every
-- change of the row or of its deployments, so that a plan made from an older view writes nothing.
CREATE TABLE service (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    repository TEXT COLLATE "C" NOT NULL,
    tag TEXT COLLATE "C",
    follows_tag BOOLEAN NOT NULL,
    tag_digest TEXT COLLATE "C",
    replicas BIGINT NOT NULL,
    target_revision BIGINT,
    stable_revision BIGINT,
    version BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL
);
CREATE INDEX service_by_repository ON service (repository, tag);

CREATE TABLE revision (
    service TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    repository TEXT COLLATE "C" NOT NULL,
    spec TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (service, number)
);

-- It keeps its digest, since a service that is deleted takes its revisions along.
CREATE TABLE deployment (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    from_revision BIGINT,
    from_replicas BIGINT,
    cause TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    replicas BIGINT NOT NULL,
    reason TEXT COLLATE "C",
    created_at_ms BIGINT NOT NULL,
    finished_at_ms BIGINT
);
CREATE INDEX deployment_by_service ON deployment (service, id);
-- At most one deployment of a service is under way.
CREATE UNIQUE INDEX deployment_active ON deployment (service) WHERE finished_at_ms IS NULL;

CREATE TABLE task (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    service TEXT COLLATE "C" NOT NULL,
    slot BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    node_id TEXT COLLATE "C" NOT NULL REFERENCES node (id),
    desired TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    attempt BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    container_id TEXT COLLATE "C",
    started_at_ms BIGINT,
    starting_at_ms BIGINT,
    exit_code BIGINT,
    reason TEXT COLLATE "C",
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL
);
CREATE INDEX task_by_service ON task (service, slot);
CREATE INDEX task_by_node ON task (node_id);
