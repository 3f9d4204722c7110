//! Services and their deployments, from the operator's side and from a push: what should run, written down. What
//! follows from it is the reconciler's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use api::{
    DeployResponse, Deployment, DeploymentCause, DeploymentState, PinnedImage, ServiceName, ServiceSpec,
    ServiceSummary, TaskState, TaskSummary, Trigger,
};
use oci::Digest;

use super::{Fleet, FleetError, ResolvedImage, count, json, signed, spec, unsigned, word};
use crate::db::{DbError, DeploymentRow, NewDeployment, RevisionChoice, RevisionRow, ServiceRow, TagDrift};

/// How often a change is tried again when others change the same service meanwhile.
const ATTEMPTS: usize = 5;
/// The most deployments that are listed.
const DEPLOYMENTS_MAX: i64 = 200;
/// How long a list of deployments waits for pushes that are not yet among them.
const PUSH_NOTICE: Duration = Duration::from_secs(2);

/// What a deployment of a service starts from.
struct Before {
    row: ServiceRow,
    /// The revision that is wanted now.
    target: Option<RevisionRow>,
    /// The deployment that has not ended.
    active: Option<DeploymentRow>,
}

impl Before {
    /// Where to go back to when the next deployment fails: the last revision that ran well, with the copies it had.
    fn way_back(&self) -> Option<(i64, i64)> {
        match &self.active {
            Some(active) => active.from_revision.zip(active.from_replicas),
            None => self
                .row
                .stable_revision
                .map(|revision| (revision, self.row.replicas)),
        }
    }

    /// Whether the wanted revision runs well, or is still to show it.
    fn is_settled(&self) -> bool {
        self.active.is_some() || self.row.stable_revision == self.row.target_revision
    }
}

/// Whether containers of both would run alike: all but how many there are and what deploys them.
fn runs_alike(a: &ServiceSpec, b: &ServiceSpec) -> bool {
    let essence = |spec: &ServiceSpec| ServiceSpec {
        tag: None,
        digest: None,
        replicas: 0,
        trigger: Trigger::default(),
        ..spec.clone()
    };
    essence(a) == essence(b)
}

/// A specification as kept: what goes into a revision is always JSON, maps with keys that are texts included.
fn spec_json(spec: &ServiceSpec) -> Result<String, FleetError> {
    serde_json::to_string(spec).map_err(|error| FleetError::SpecInvalid(vec![error.to_string()]))
}

impl Fleet {
    /// Makes a service what `spec` says, with the image that it was resolved to. The same again changes nothing,
    /// unless it failed before: then it is tried anew.
    ///
    /// # Errors
    /// [`FleetError::SpecInvalid`] with all that is wrong, [`FleetError::PlatformMissing`],
    /// [`FleetError::Contended`], or when the database fails.
    pub async fn deploy(
        &self,
        name: &ServiceName,
        spec: &ServiceSpec,
        image: &ResolvedImage,
    ) -> Result<DeployResponse, FleetError> {
        let wrong = spec::mistakes(spec);
        if !wrong.is_empty() {
            return Err(FleetError::SpecInvalid(wrong));
        }
        self.require_platform(spec, image).await?;
        for _ in 0..ATTEMPTS {
            let before = self.before(name.as_str()).await?;
            if let Some(response) = self.deploy_once(name, spec, image, before).await? {
                self.0.wake.notify_one();
                return Ok(response);
            }
        }
        Err(FleetError::Contended(name.clone()))
    }

    /// One attempt; `None` when somebody was faster.
    async fn deploy_once(
        &self,
        name: &ServiceName,
        spec: &ServiceSpec,
        image: &ResolvedImage,
        before: Option<Before>,
    ) -> Result<Option<DeployResponse>, FleetError> {
        let is_followed = spec.digest.is_none() && spec.tag.is_some();
        let tag_digest = is_followed.then(|| image.digest.to_string());
        let follows_tag = is_followed && spec.trigger == Trigger::Push && !image.is_cached;
        let row = ServiceRow {
            name: name.to_string(),
            repository: spec.repository.to_string(),
            tag: spec.tag.as_ref().map(ToString::to_string),
            follows_tag,
            tag_digest,
            replicas: i64::from(spec.replicas),
            target_revision: before.as_ref().and_then(|b| b.row.target_revision),
            stable_revision: before.as_ref().and_then(|b| b.row.stable_revision),
            version: before.as_ref().map_or(0, |b| b.row.version),
        };
        let text = spec_json(spec)?;
        let mut choice = RevisionChoice::New { spec: &text };
        if let Some(before) = before.as_ref().filter(|b| b.is_settled())
            && let Some(number) = self.same_revision(before, spec, &image.digest).await?
        {
            if before.row.target_revision == Some(number) && before.row.replicas == row.replicas {
                let is_done = before.row == row || self.0.db.service_follow(&row, None).await?;
                return Ok(is_done.then(|| DeployResponse {
                    revision: unsigned(number),
                    deployment_id: None,
                    digest: image.digest.clone(),
                }));
            }
            choice = RevisionChoice::Existing(number);
        }
        let new = NewDeployment {
            service: &row,
            revision: choice,
            digest: image.digest.as_str(),
            from: before.as_ref().and_then(Before::way_back),
            cause: cause_text(DeploymentCause::Command),
            epoch: None,
        };
        let begun = self.0.db.deployment_begin(&new).await?;
        Ok(begun.map(|(revision, id)| {
            tracing::info!(
                deployment_id = id,
                digest = %image.digest,
                "deployment {id} brings {name} to revision {revision}"
            );
            DeployResponse {
                revision: unsigned(revision),
                deployment_id: Some(unsigned(id)),
                digest: image.digest.clone(),
            }
        }))
    }

    /// The wanted revision, or the last that ran well, if it runs what is asked for.
    async fn same_revision(
        &self,
        before: &Before,
        wanted: &ServiceSpec,
        digest: &Digest,
    ) -> Result<Option<i64>, FleetError> {
        let is_same = |row: &RevisionRow| {
            let spec: ServiceSpec = json("spec", &row.spec)?;
            Ok::<_, DbError>(row.digest == digest.as_str() && runs_alike(&spec, wanted))
        };
        if let Some(target) = &before.target
            && is_same(target)?
        {
            return Ok(Some(target.number));
        }
        if let Some(number) = before.row.stable_revision {
            let stable = self.0.db.revision_get(&before.row.name, number).await?;
            if let Some(stable) = stable {
                return Ok(is_same(&stable)?.then_some(number));
            }
        }
        Ok(None)
    }

    async fn before(&self, name: &str) -> Result<Option<Before>, FleetError> {
        let Some(row) = self.0.db.service_get(name).await? else {
            return Ok(None);
        };
        let target = match row.target_revision {
            Some(number) => self.0.db.revision_get(name, number).await?,
            None => None,
        };
        let last = self.0.db.deployment_list(Some(name), 1).await?;
        let active = last.into_iter().find(|d| d.finished_at_ms.is_none());
        Ok(Some(Before { row, target, active }))
    }

    /// Takes a service back to a revision: the given one, or the last good one before the current.
    ///
    /// # Errors
    /// [`FleetError::ServiceUnknown`], [`FleetError::RevisionUnknown`], [`FleetError::NothingToGoBackTo`],
    /// [`FleetError::Contended`], or when the database fails.
    pub async fn rollback(
        &self,
        name: &ServiceName,
        revision: Option<u64>,
    ) -> Result<DeployResponse, FleetError> {
        for _ in 0..ATTEMPTS {
            let before = self.before(name.as_str()).await?;
            let Some((before, current)) = before.and_then(|b| b.row.target_revision.map(|t| (b, t))) else {
                return Err(FleetError::ServiceUnknown(name.clone()));
            };
            let number = match revision {
                Some(revision) => signed(revision),
                None => {
                    let good = self.0.db.revision_good_before(name.as_str(), current).await?;
                    good.ok_or_else(|| FleetError::NothingToGoBackTo(name.clone()))?
                }
            };
            let found = self.0.db.revision_get(name.as_str(), number).await?;
            let found = found.ok_or_else(|| FleetError::RevisionUnknown {
                service: name.clone(),
                revision: unsigned(number),
            })?;
            let digest = DbError::parse("digest", &found.digest)?;
            if number == current && before.is_settled() {
                return Ok(DeployResponse {
                    revision: unsigned(number),
                    deployment_id: None,
                    digest,
                });
            }
            let new = NewDeployment {
                service: &before.row,
                revision: RevisionChoice::Existing(number),
                digest: &found.digest,
                from: before.way_back(),
                cause: cause_text(DeploymentCause::Command),
                epoch: None,
            };
            if let Some((_, id)) = self.0.db.deployment_begin(&new).await? {
                tracing::info!(
                    deployment_id = id,
                    "deployment {id} takes {name} back to revision {number}"
                );
                self.0.wake.notify_one();
                return Ok(DeployResponse {
                    revision: unsigned(number),
                    deployment_id: Some(unsigned(id)),
                    digest,
                });
            }
        }
        Err(FleetError::Contended(name.clone()))
    }

    /// Deploys what a followed tag names now, unless that runs already or has failed before. Part of a pass of the
    /// reconciler, which comes back to it when somebody else was faster.
    pub(super) async fn follow(&self, drift: &TagDrift, epoch: i64) -> Result<(), FleetError> {
        let Some(before) = self.before(&drift.service).await? else {
            return Ok(());
        };
        let Some(target) = &before.target else {
            return Ok(());
        };
        let row = ServiceRow {
            tag_digest: Some(drift.digest.clone()),
            ..before.row.clone()
        };
        let (service, digest) = (&drift.service, &drift.digest);
        if target.digest == *digest {
            self.0.db.service_follow(&row, Some(epoch)).await?;
            return Ok(());
        }
        if let Some((id, state)) = self.0.db.deployment_last_of(service, digest).await? {
            let state: DeploymentState = word("state of a deployment", &state)?;
            let has_failed = matches!(
                state,
                DeploymentState::RollingBack | DeploymentState::RolledBack | DeploymentState::Failed
            );
            if has_failed {
                tracing::warn!(
                    digest,
                    "{service} follows a tag that was moved to {digest}, which failed in deployment {id}; it is not \
                     deployed again unless by command"
                );
                self.0.db.service_follow(&row, Some(epoch)).await?;
                return Ok(());
            }
        }
        let mut spec: ServiceSpec = json("spec", &target.spec)?;
        spec.replicas = count(row.replicas);
        spec.tag = row
            .tag
            .as_deref()
            .map(|tag| DbError::parse("tag", tag))
            .transpose()?;
        let text = spec_json(&spec)?;
        let new = NewDeployment {
            service: &row,
            revision: RevisionChoice::New { spec: &text },
            digest,
            from: before.way_back(),
            cause: cause_text(DeploymentCause::Push),
            epoch: Some(epoch),
        };
        if let Some((revision, id)) = self.0.db.deployment_begin(&new).await? {
            tracing::info!(
                deployment_id = id,
                digest,
                "a push: deployment {id} brings {service} to revision {revision}"
            );
        }
        Ok(())
    }

    /// Asks for a service to go.
    ///
    /// # Errors
    /// [`FleetError::ServiceUnknown`], or when the database fails.
    pub async fn service_remove(&self, name: &ServiceName) -> Result<(), FleetError> {
        if !self.0.db.service_retire(name.as_str()).await? {
            return Err(FleetError::ServiceUnknown(name.clone()));
        }
        tracing::info!("service {name} is being removed");
        self.0.wake.notify_one();
        Ok(())
    }

    /// All services, by name; those that are being removed are not among them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn services(&self) -> Result<Vec<ServiceSummary>, FleetError> {
        let rows = self.0.db.service_list().await?;
        let revisions = self.0.db.revision_list_used().await?;
        let digests: HashMap<_, _> = revisions
            .iter()
            .map(|r| ((r.service.as_str(), r.number), &r.digest))
            .collect();
        let mut ready: HashMap<String, u32> = HashMap::new();
        for task in self.0.db.task_list(None).await? {
            if task.state == TaskState::Ready.as_str() && task.desired == "run" {
                *ready.entry(task.service).or_default() += 1;
            }
        }
        let mut summaries = Vec::new();
        for row in &rows {
            let Some(target) = row.target_revision else {
                continue;
            };
            let Some(digest) = digests.get(&(row.name.as_str(), target)) else {
                continue;
            };
            summaries.push(summary(
                row,
                target,
                digest,
                ready.get(&row.name).copied().unwrap_or(0),
            )?);
        }
        Ok(summaries)
    }

    /// One service.
    ///
    /// # Errors
    /// [`FleetError::ServiceUnknown`], or when the database fails.
    pub async fn service(&self, name: &ServiceName) -> Result<ServiceSummary, FleetError> {
        let unknown = || FleetError::ServiceUnknown(name.clone());
        let before = self.before(name.as_str()).await?.ok_or_else(unknown)?;
        let target = before.target.ok_or_else(unknown)?;
        let tasks = self.0.db.task_list(Some(name.as_str())).await?;
        let is_ready = |t: &&crate::db::TaskRow| t.state == TaskState::Ready.as_str() && t.desired == "run";
        let ready = tasks.iter().filter(is_ready).count();
        Ok(summary(
            &before.row,
            target.number,
            &target.digest,
            u32::try_from(ready).unwrap_or(u32::MAX),
        )?)
    }

    /// Tasks that are wanted or of which something is left: of one service, or of all.
    ///
    /// # Errors
    /// [`FleetError::ServiceUnknown`] for a service that is not there, or when the database fails.
    pub async fn tasks(&self, service: Option<&ServiceName>) -> Result<Vec<TaskSummary>, FleetError> {
        if let Some(name) = service
            && self.0.db.service_get(name.as_str()).await?.is_none()
        {
            return Err(FleetError::ServiceUnknown(name.clone()));
        }
        let rows = self.0.db.task_list(service.map(ServiceName::as_str)).await?;
        let mut revisions = HashMap::new();
        for row in self.0.db.revision_list_used().await? {
            let spec: ServiceSpec = json("spec", &row.spec)?;
            let digest: Digest = DbError::parse("digest", &row.digest)?;
            revisions.insert((row.service, row.number), (spec, digest));
        }
        let mut tasks = Vec::new();
        for row in rows {
            // A service that was removed between the two looks takes its tasks along.
            let Some((spec, digest)) = revisions.get(&(row.service.clone(), row.revision)) else {
                continue;
            };
            tasks.push(TaskSummary {
                id: row.id,
                service: DbError::parse("service name", &row.service)?,
                slot: count(row.slot),
                revision: unsigned(row.revision),
                image: PinnedImage {
                    repository: spec.repository.clone(),
                    digest: digest.clone(),
                },
                node: row.node,
                desired: word("desired", &row.desired)?,
                state: word("state of a task", &row.state)?,
                attempt: count(row.attempt),
                container_id: row.container_id,
                started_at_ms: row.started_at_ms,
                exit_code: row.exit_code.and_then(|code| i32::try_from(code).ok()),
                reason: row.reason,
                ports: spec.ports.clone(),
                labels: spec.container.labels.clone(),
            });
        }
        Ok(tasks)
    }

    /// Deployments, newest first: of one service, also one that is gone, or of all. A push that was acknowledged before
    /// the call has its deployment in the list, unless nobody plans the fleet now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deployments(&self, service: Option<&ServiceName>) -> Result<Vec<Deployment>, FleetError> {
        let deadline = Instant::now() + PUSH_NOTICE;
        while !self.0.db.tag_drifts().await?.is_empty() && Instant::now() < deadline {
            self.0.wake.notify_one();
            tokio::time::sleep(PUSH_NOTICE / 100).await;
        }
        let rows = self
            .0
            .db
            .deployment_list(service.map(ServiceName::as_str), DEPLOYMENTS_MAX)
            .await?;
        rows.into_iter().map(deployment).collect()
    }

    /// One deployment.
    ///
    /// # Errors
    /// [`FleetError::DeploymentUnknown`], or when the database fails.
    pub async fn deployment(&self, id: u64) -> Result<Deployment, FleetError> {
        let row = self.0.db.deployment_get(signed(id)).await?;
        deployment(row.ok_or(FleetError::DeploymentUnknown(id))?)
    }
}

fn cause_text(cause: DeploymentCause) -> &'static str {
    match cause {
        DeploymentCause::Command => "command",
        DeploymentCause::Push => "push",
    }
}

fn summary(row: &ServiceRow, target: i64, digest: &str, ready: u32) -> Result<ServiceSummary, DbError> {
    Ok(ServiceSummary {
        name: DbError::parse("service name", &row.name)?,
        repository: DbError::parse("repository name", &row.repository)?,
        tag: row
            .tag
            .as_deref()
            .map(|tag| DbError::parse("tag", tag))
            .transpose()?,
        digest: DbError::parse("digest", digest)?,
        revision: unsigned(target),
        replicas: count(row.replicas),
        ready,
    })
}

fn deployment(row: DeploymentRow) -> Result<Deployment, FleetError> {
    Ok(Deployment {
        id: unsigned(row.id),
        service: DbError::parse("service name", &row.service)?,
        revision: unsigned(row.revision),
        from_revision: row.from_revision.map(unsigned),
        digest: DbError::parse("digest", &row.digest)?,
        cause: word("cause of a deployment", &row.cause)?,
        state: word("state of a deployment", &row.state)?,
        ready: count(row.ready),
        replicas: count(row.replicas),
        reason: row.reason,
        created_at_ms: row.created_at_ms,
        finished_at_ms: row.finished_at_ms,
    })
}
