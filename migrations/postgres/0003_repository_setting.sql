-- What is set for one repository; where a column is null, the configuration decides. A repository may be given
-- settings before anything is pushed into it.

CREATE TABLE repository_setting (
    repository TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    accepts_sparse BOOLEAN
);
