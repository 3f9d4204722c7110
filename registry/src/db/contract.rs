//! The promises of the database layer, kept by SQLite always and by PostgreSQL where `PIERHEAD_TEST_POSTGRES` names
//! a database, each run in a schema of its own.

use oci::{Algorithm, Digest, Reference, RepositoryName, Tag, media_type};

use super::{
    AccountRow, Condition, Db, Named, NewManifest, Pools, ReferrerQuery, RepositorySettingRow, Reviewed,
    UploadLease, UploadStanding, now_ms,
};

fn repository(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn manifest<'a>(
    digest: &'a Digest,
    body: &'a [u8],
    children: &'a [Digest],
    tags: &'a [Tag],
) -> NewManifest<'a> {
    NewManifest {
        digest,
        media_type: "application/vnd.oci.image.manifest.v1+json",
        body,
        subject: None,
        artifact_type: Some("application/x"),
        annotations: "{\"k\":\"v\"}",
        children,
        tags,
        condition: None,
    }
}

async fn accounts_are_replaced_by_name(db: &Db) {
    assert!(!db.account_exists().await.unwrap());
    let mut row = AccountRow {
        name: "a".to_owned(),
        password_hash: "one".to_owned(),
        is_admin: true,
    };
    db.account_put(&row).await.unwrap();
    row.password_hash = "two".to_owned();
    db.account_put(&row).await.unwrap();
    let read = db.account_get("a").await.unwrap().unwrap();
    assert_eq!((read.password_hash.as_str(), read.is_admin), ("two", true));
    assert!(db.account_get("A").await.unwrap().is_none());
}

async fn blobs_are_seen_only_where_they_are_linked(db: &Db) {
    let (here, there) = (repository("blobs/here"), repository("blobs/there"));
    let digest = Digest::sha256(b"blob");
    let size = 5_000_000_000;
    begin(db, "u-1", &here).await;
    for (key, upload) in [("b/first", Some("u-1")), ("b/second", None)] {
        let stored_at = db.blob_commit(&here, &digest, size, key, upload).await.unwrap();
        assert_eq!(stored_at, "b/first", "the bytes that came first stay");
    }
    assert!(db.upload_get(&here, "u-1").await.unwrap().is_none());
    let row = db.blob_linked(&here, &digest).await.unwrap().unwrap();
    assert_eq!(
        (row.size_bytes, row.storage_key.as_str()),
        (5_000_000_000, "b/first")
    );
    assert!(row.review_after_ms.unwrap() > now_ms() + 3_600_000);
    assert_eq!(db.blob_linked(&there, &digest).await.unwrap(), None);
    assert!(
        !db.blob_mount(&there, &repository("blobs/third"), &digest)
            .await
            .unwrap()
    );
    assert!(db.blob_mount(&here, &there, &digest).await.unwrap());
    assert!(db.blob_unlink(&here, &digest).await.unwrap());
    assert!(!db.blob_unlink(&here, &digest).await.unwrap());
    assert!(db.blob_linked(&there, &digest).await.unwrap().is_some());
}

const NOTHING: UploadStanding<'_> = UploadStanding {
    offset_bytes: 0,
    hash_state: b"empty",
    storage_place: "{}",
};

async fn begin(db: &Db, id: &str, repository: &RepositoryName) {
    let began = db
        .upload_create(id, repository, Algorithm::Sha256, &NOTHING)
        .await;
    began.unwrap();
}

async fn uploads_belong_to_their_repository(db: &Db) {
    let (mine, other) = (repository("uploads/mine"), repository("uploads/other"));
    begin(db, "u-2", &mine).await;
    let standing = UploadStanding {
        offset_bytes: 7,
        hash_state: &[0, 255, 1],
        storage_place: "{\"k\":1}",
    };
    let saved = db
        .upload_save("u-2", "", 0, Some((Algorithm::Sha512, &standing)))
        .await;
    assert!(saved.unwrap());
    let row = db.upload_get(&mine, "u-2").await.unwrap().unwrap();
    assert_eq!((row.offset_bytes, row.algorithm.as_str()), (7, "sha512"));
    assert_eq!(
        (row.hash_state.as_slice(), row.storage_place.as_str()),
        (standing.hash_state, standing.storage_place)
    );
    assert!(db.upload_get(&other, "u-2").await.unwrap().is_none());
    let stale = async |before_ms| db.upload_stale(before_ms).await.unwrap();
    assert!(!stale(now_ms() - 60_000).await.contains(&"u-2".to_owned()));
    assert!(stale(now_ms() + 60_000).await.contains(&"u-2".to_owned()));
    assert!(db.upload_delete("u-2").await.unwrap());
    assert!(!db.upload_delete("u-2").await.unwrap());
}

async fn one_at_a_time_writes_to_an_upload(db: &Db) {
    let (mine, other) = (repository("uploads/leased"), repository("uploads/other"));
    begin(db, "u-3", &mine).await;
    let later = now_ms() + 60_000;
    let lease = async |repository, owner, until_ms| match db
        .upload_lease(repository, "u-3", owner, until_ms)
        .await
        .unwrap()
    {
        UploadLease::Held(row) => {
            assert_eq!(row.offset_bytes, 0);
            "held"
        }
        UploadLease::Busy => "busy",
        UploadLease::Unknown => "unknown",
    };
    assert_eq!(lease(Some(&other), "a", later).await, "unknown");
    assert_eq!(lease(Some(&mine), "a", later).await, "held");
    assert_eq!(lease(Some(&mine), "b", later).await, "busy");
    assert_eq!(lease(None, "b", later).await, "busy");
    assert!(!db.upload_save("u-3", "b", 0, None).await.unwrap());
    assert!(db.upload_save("u-3", "a", later, None).await.unwrap());
    assert_eq!(lease(Some(&mine), "b", later).await, "busy");
    assert!(db.upload_save("u-3", "a", 0, None).await.unwrap());
    // Given back; and one that has run out is taken over.
    assert_eq!(lease(Some(&mine), "b", now_ms() - 1).await, "held");
    assert_eq!(lease(None, "c", later).await, "held");
    let standing = Some((Algorithm::Sha256, &NOTHING));
    assert!(!db.upload_save("u-3", "b", 0, standing).await.unwrap());
    assert!(db.upload_delete("u-3").await.unwrap());
    assert_eq!(lease(None, "c", later).await, "unknown");
}

async fn two_at_once_cannot_both_have_an_upload(db: &Db) {
    let mine = repository("uploads/raced");
    begin(db, "u-4", &mine).await;
    let until_ms = now_ms() + 60_000;
    let mut racers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (db, mine) = (db.clone(), mine.clone());
        racers.spawn(async move {
            let owner = number.to_string();
            let lease = db.upload_lease(Some(&mine), "u-4", &owner, until_ms).await;
            matches!(lease.unwrap(), UploadLease::Held(_))
        });
    }
    let held = racers.join_all().await.into_iter().filter(|held| *held).count();
    assert_eq!(held, 1);
}

async fn tags_move_and_go_with_their_manifest(db: &Db) {
    let name = repository("tags");
    let (one, two) = (Digest::sha256(b"one"), Digest::sha256(b"two"));
    let latest = [tag("latest")];
    db.manifest_put(&name, &manifest(&one, b"one", &[], &latest))
        .await
        .unwrap();
    db.manifest_put(
        &name,
        &manifest(&two, b"two", std::slice::from_ref(&one), &latest),
    )
    .await
    .unwrap();
    db.manifest_put(
        &name,
        &manifest(&two, b"two", std::slice::from_ref(&one), &latest),
    )
    .await
    .unwrap();
    let read = db.manifest_by_tag(&name, &latest[0]).await.unwrap().unwrap();
    assert_eq!(
        (read.digest.as_str(), read.body.as_slice()),
        (two.as_str(), b"two".as_slice())
    );
    assert!(db.manifest_by_digest(&name, &one).await.unwrap().is_some());
    assert!(db.manifest_delete(&name, &two).await.unwrap());
    assert!(!db.manifest_delete(&name, &two).await.unwrap());
    assert!(db.tag_get(&name, &latest[0]).await.unwrap().is_none());
    assert!(db.manifest_exists(&name, &one).await.unwrap());
}

async fn tags_are_listed_bytewise_after_any_text(db: &Db) {
    let name = repository("listing");
    let digest = Digest::sha256(b"listing");
    let tags = ["b", "B", "a", "_", "1", "a-b", "a.b"].map(tag);
    db.manifest_put(&name, &manifest(&digest, b"listing", &[], &tags))
        .await
        .unwrap();
    let names = async |after: &str, limit| {
        let rows = db.tag_list(&name, after, limit).await.unwrap();
        rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
    };
    assert_eq!(names("", 100).await, ["1", "B", "_", "a", "a-b", "a.b", "b"]);
    assert_eq!(names("a", 2).await, ["a-b", "a.b"]);
    assert_eq!(names("Z", 1).await, ["_"]);
    assert!(names("", 0).await.is_empty());
    let always = Condition::default();
    assert!(db.tag_delete(&name, &tag("B"), &always).await.unwrap());
    assert!(!db.tag_delete(&name, &tag("B"), &always).await.unwrap());
}

async fn conditions_decide_in_one_statement(db: &Db) {
    let name = repository("conditions");
    let (one, two) = (Digest::sha256(b"c1"), Digest::of(oci::Algorithm::Sha512, b"c2"));
    let (tags, reference) = ([tag("t")], Reference::Tag(tag("t")));
    let put = async |digest: &Digest, reference: &Reference, condition: Condition| {
        let new = NewManifest {
            condition: Some((reference, &condition)),
            ..manifest(digest, b"c", &[], &tags)
        };
        db.manifest_put(&name, &new).await.unwrap()
    };
    let is = |named| Condition {
        is: Some(named),
        is_not: None,
    };
    let is_not = |named| Condition {
        is: None,
        is_not: Some(named),
    };
    let digests = |list: &[&Digest]| Named::OneOf(list.iter().map(|&d| d.clone()).collect());
    assert!(!put(&one, &reference, is(Named::Anything)).await);
    assert!(
        !db.manifest_exists(&name, &one).await.unwrap(),
        "nothing is stored"
    );
    assert!(put(&one, &reference, is_not(Named::Anything)).await);
    assert!(!put(&two, &reference, is_not(Named::Anything)).await);
    assert!(!put(&two, &reference, is_not(digests(&[&two, &one]))).await);
    assert!(!put(&two, &reference, is(digests(&[]))).await);
    assert!(!put(&two, &reference, is(digests(&[&two]))).await);
    assert_eq!(
        db.tag_get(&name, &tags[0]).await.unwrap().as_deref(),
        Some(one.as_str())
    );
    assert!(put(&two, &reference, is(digests(&[&two, &one]))).await);
    assert!(put(&one, &reference, is_not(digests(&[&one]))).await);
    assert!(put(&two, &reference, is(Named::Anything)).await);
    let by_digest = Reference::Digest(one.clone());
    assert!(!put(&one, &by_digest, is_not(Named::Anything)).await);
    assert!(put(&one, &by_digest, is(digests(&[&one]))).await);
    let delete = async |condition| db.tag_delete(&name, &tags[0], &condition).await.unwrap();
    assert!(!delete(is(digests(&[&two]))).await);
    assert!(!delete(is_not(Named::Anything)).await);
    assert!(delete(is(digests(&[&one]))).await);
}

async fn children_are_held_as_blobs_or_as_manifests(db: &Db) {
    let name = repository("children");
    let digests: Vec<Digest> = (0..1200u32).map(|n| Digest::sha256(&n.to_le_bytes())).collect();
    db.blob_commit(&name, &digests[0], 4, "b/some", None)
        .await
        .unwrap();
    let tags = [tag("t")];
    db.manifest_put(&name, &manifest(&digests[1199], b"m", &digests, &tags))
        .await
        .unwrap();
    let held = db.children_held(&name, &digests).await.unwrap();
    assert_eq!(held.len(), 2);
    assert!(held.contains(digests[0].as_str()) && held.contains(digests[1199].as_str()));
}

async fn settings_are_kept_for_repositories_to_come(db: &Db) {
    let name = repository("settings/one");
    let unset = db.repository_setting_get(&name).await.unwrap();
    assert_eq!(unset, RepositorySettingRow::default());
    for accepts_sparse in [Some(true), None, Some(false)] {
        let row = RepositorySettingRow { accepts_sparse };
        db.repository_setting_put(&name, &row).await.unwrap();
        assert_eq!(db.repository_setting_get(&name).await.unwrap(), row);
    }
    assert!(!db.repository_exists(&name).await.unwrap());
}

async fn repositories_that_link_a_blob_are_found(db: &Db) {
    let digest = Digest::sha256(b"linked by many");
    for name in ["link/a", "link/b", "link/c"] {
        db.blob_commit(&repository(name), &digest, 14, "b/some", None)
            .await
            .unwrap();
    }
    let found = db.blob_repositories(&digest, "link/a", 10).await.unwrap();
    assert_eq!(found, [repository("link/b"), repository("link/c")]);
    assert_eq!(db.blob_repositories(&digest, "", 1).await.unwrap().len(), 1);
}

async fn referrers_are_found_by_subject(db: &Db) {
    let name = repository("referrers");
    let subject = Digest::sha256(b"absent");
    let fallback = tag("sha256-absent");
    let mut pushed: Vec<Digest> = (0..5u8).map(|n| Digest::sha256(&[n])).collect();
    pushed.sort();
    for (number, digest) in pushed.iter().enumerate() {
        let row = NewManifest {
            // The last one is known only from the list that a client kept.
            subject: (number < 4).then_some(&subject),
            artifact_type: (number > 0).then_some("application/x"),
            ..manifest(digest, b"signature", &[], &[])
        };
        assert!(db.manifest_put(&name, &row).await.unwrap());
    }
    let list = Digest::sha256(b"list");
    let listed = [
        pushed[4].clone(),
        pushed[0].clone(),
        Digest::sha256(b"never pushed"),
    ];
    let tags = [fallback.clone()];
    let row = NewManifest {
        media_type: media_type::OCI_INDEX,
        ..manifest(&list, b"list", &listed, &tags)
    };
    assert!(db.manifest_put(&name, &row).await.unwrap());
    let find = async |name: &RepositoryName, artifact_type, after: &str, limit, bytes| {
        let query = ReferrerQuery {
            subject: &subject,
            fallback: &fallback,
            artifact_type,
            after,
            limit,
        };
        let (rows, has_more) = db.manifest_referrers(name, query, bytes).await.unwrap();
        let digests: Vec<Digest> = rows.iter().map(|r| r.digest.parse().unwrap()).collect();
        (digests, has_more)
    };
    assert_eq!(find(&name, None, "", 10, 1 << 20).await, (pushed.clone(), false));
    assert_eq!(
        find(&name, None, "", 2, 1 << 20).await,
        (pushed[..2].to_vec(), true)
    );
    let after = pushed[1].as_str();
    assert_eq!(
        find(&name, None, after, 3, 1 << 20).await,
        (pushed[2..].to_vec(), false)
    );
    assert_eq!(find(&name, None, "", 10, 1).await, (pushed[..1].to_vec(), true));
    assert_eq!(
        find(&name, Some("application/x"), "", 10, 1 << 20).await,
        (pushed[1..].to_vec(), false)
    );
    assert_eq!(
        find(&repository("tags"), None, "", 10, 1 << 20).await,
        (Vec::new(), false)
    );
}

async fn repositories_are_listed_bytewise(db: &Db) {
    let listed = db.repository_list("", 100).await.unwrap();
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(listed, sorted);
    assert!(listed.contains(&repository("tags")));
    assert!(db.repository_exists(&repository("tags")).await.unwrap());
    assert!(!db.repository_exists(&repository("nowhere")).await.unwrap());
}

async fn cached_tags_remember_when_they_were_checked(db: &Db) {
    let (name, tag) = (repository("up/stream"), tag("t"));
    assert!(db.upstream_tag_checked(&name, &tag).await.unwrap().is_none());
    let before = now_ms();
    for _ in 0..2 {
        db.upstream_tag_touch(&name, &tag).await.unwrap();
    }
    assert!(db.upstream_tag_checked(&name, &tag).await.unwrap().unwrap() >= before);
}

const DAY_MS: i64 = 24 * 3600 * 1000;

async fn what_nothing_needs_is_collected_after_the_grace(db: &Db) {
    let (here, there) = (repository("gc/here"), repository("gc/there"));
    let digest = Digest::sha256(b"collected");
    let now = now_ms();
    let later = now + DAY_MS + 60_000;
    let review = async |at| db.review(&digest, at, at + 1000).await.unwrap();
    let linked = async |name| db.blob_linked(name, &digest).await.unwrap().is_some();
    let before = db.collection_status(later).await.unwrap();
    db.blob_commit(&here, &digest, 100, "b/gc-1", None).await.unwrap();
    let pending = db.collection_status(now).await.unwrap();
    let due = db.collection_status(later).await.unwrap();
    assert!(pending.pending_bytes >= 100);
    assert_eq!(due.reclaimable_bytes, before.reclaimable_bytes + 100);
    assert_eq!(due.reclaimable_blobs, before.reclaimable_blobs + 1);
    assert_eq!(review(now).await, Reviewed::NotDue);
    assert!(linked(&here).await);

    // A manifest keeps it where it is, and only there.
    let (parent, children) = (Digest::sha256(b"gc parent"), [digest.clone()]);
    assert!(db.blob_mount(&here, &there, &digest).await.unwrap());
    assert!(
        db.manifest_put(&here, &manifest(&parent, b"gc parent", &children, &[]))
            .await
            .unwrap()
    );
    assert_eq!(review(later).await, Reviewed::Kept);
    assert!(linked(&here).await && !linked(&there).await);
    assert_eq!(review(later).await, Reviewed::NotDue, "nothing happened since");

    // Without its manifest it is pending again, and a pin keeps it.
    assert!(db.manifest_delete(&here, &parent).await.unwrap());
    assert_eq!(review(now).await, Reviewed::NotDue);
    db.pin_replace("node", "it runs", &children).await.unwrap();
    assert_eq!(review(later).await, Reviewed::Kept);
    db.pin_replace("node", "it runs", &[]).await.unwrap();
    assert_eq!(review(later).await, Reviewed::NotDue, "a pin postpones");
    let much_later = later + DAY_MS;
    assert!(db.review_due(much_later, 10_000).await.unwrap().contains(&digest));
    assert_eq!(review(much_later).await, Reviewed::Collected);
    assert!(!linked(&here).await);

    // Its bytes stay a while, under a key that a new push does not get.
    let objects = async |at| {
        let due = db.objects_due(at, 10_000).await.unwrap();
        due.into_iter().any(|object| object.storage_key == "b/gc-1")
    };
    assert!(!objects(much_later).await);
    let stored_at = db.blob_commit(&here, &digest, 100, "b/gc-2", None).await.unwrap();
    assert_eq!(stored_at, "b/gc-2");
    assert!(objects(much_later + 1000).await);
    db.object_done("b/gc-1", Some(much_later + 2000)).await.unwrap();
    assert!(!objects(much_later + 1000).await);
    db.object_done("b/gc-1", None).await.unwrap();
    assert!(!objects(i64::MAX).await);
}

async fn a_use_postpones_a_review_that_is_near(db: &Db) {
    let (name, digest) = (repository("gc/near"), Digest::sha256(b"near"));
    let hasty = db.clone().with_grace(std::time::Duration::from_millis(1));
    hasty
        .blob_commit(&name, &digest, 1, "b/near", None)
        .await
        .unwrap();
    let row = db.blob_linked(&name, &digest).await.unwrap().unwrap();
    assert!(db.review_is_near(row.review_after_ms.unwrap()));
    db.review_postpone(std::slice::from_ref(&digest)).await.unwrap();
    let row = db.blob_linked(&name, &digest).await.unwrap().unwrap();
    assert!(!db.review_is_near(row.review_after_ms.unwrap()));
    let in_an_hour = now_ms() + 3_600_000;
    let reviewed = db.review(&digest, in_an_hour, in_an_hour).await.unwrap();
    assert_eq!(reviewed, Reviewed::NotDue);
}

async fn a_review_is_taken_once(db: &Db) {
    let (name, digest) = (repository("gc/raced"), Digest::sha256(b"raced"));
    db.blob_commit(&name, &digest, 1, "b/raced", None).await.unwrap();
    let later = now_ms() + DAY_MS + 60_000;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (db, digest) = (db.clone(), digest.clone());
        racers.spawn(async move { db.review(&digest, later, later).await.unwrap() });
    }
    let outcomes = racers.join_all().await;
    let count = |wanted| outcomes.iter().filter(|o| **o == wanted).count();
    assert_eq!((count(Reviewed::Collected), count(Reviewed::NotDue)), (1, 7));
}

async fn keeps_its_promises(db: &Db) {
    accounts_are_replaced_by_name(db).await;
    blobs_are_seen_only_where_they_are_linked(db).await;
    uploads_belong_to_their_repository(db).await;
    one_at_a_time_writes_to_an_upload(db).await;
    what_nothing_needs_is_collected_after_the_grace(db).await;
    a_use_postpones_a_review_that_is_near(db).await;
    a_review_is_taken_once(db).await;
    two_at_once_cannot_both_have_an_upload(db).await;
    tags_move_and_go_with_their_manifest(db).await;
    tags_are_listed_bytewise_after_any_text(db).await;
    referrers_are_found_by_subject(db).await;
    conditions_decide_in_one_statement(db).await;
    children_are_held_as_blobs_or_as_manifests(db).await;
    settings_are_kept_for_repositories_to_come(db).await;
    repositories_that_link_a_blob_are_found(db).await;
    repositories_are_listed_bytewise(db).await;
    cached_tags_remember_when_they_were_checked(db).await;
    super::fleet::contract::keeps_its_promises(db).await;
}

#[tokio::test]
async fn sqlite_keeps_the_promises_also_when_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("test.db").display());
    let db = Db::connect(&url).await.unwrap();
    keeps_its_promises(&db).await;
    db.close().await;
    let db = Db::connect(&url).await.unwrap();
    assert!(db.account_exists().await.unwrap());
    db.close().await;
}

#[tokio::test]
async fn postgres_keeps_the_promises() {
    let Ok(url) = std::env::var("PIERHEAD_TEST_POSTGRES") else {
        eprintln!("not run: PIERHEAD_TEST_POSTGRES names no database");
        return;
    };
    let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
    let outer = Db::connect_postgres_pool(&url).await;
    let Pools::Postgres(pool) = &outer.pools else {
        unreachable!("it is a PostgreSQL pool")
    };
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}")))
        .execute(pool)
        .await
        .unwrap();
    let separator = if url.contains('?') { '&' } else { '?' };
    let db = Db::connect(&format!("{url}{separator}options=-csearch_path%3D{schema}"))
        .await
        .unwrap();
    keeps_its_promises(&db).await;
    db.close().await;
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE")))
        .execute(pool)
        .await
        .unwrap();
    outer.close().await;
}

impl Db {
    /// A pool without the schema of the product, to make and drop schemas with.
    async fn connect_postgres_pool(url: &str) -> Self {
        Self {
            pools: Pools::Postgres(sqlx::postgres::PgPool::connect(url).await.unwrap()),
            grace_ms: super::GRACE_MS,
        }
    }
}
