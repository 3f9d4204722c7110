//! The desired state: which documents are believed, and where the last one is kept.
//!
//! ```text
//! DATA/fleet/desired.json   the sealed document, replaced and synced before anything is done about it
//! ```
//! Absence is never a command: a document that is missing, older, altered or of another cluster stops nothing, and one
//! that would stop most of what runs by merely not naming it is refused.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::{DesiredState, DesiredStateError, DesiredTask, TaskAssignment};
use oci::Digest;

use crate::chain::Chain;
use crate::durable;

/// A document stopping at least so many tasks by absence, and more than half of what runs, is refused.
const MASS_STOP: usize = 3;

/// A document that is believed.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub(super) epoch: u64,
    pub(super) generation: u64,
    hash: Digest,
    pub(super) tasks: Vec<TaskAssignment>,
}

/// Why a document is not believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// It is another cluster's.
    #[error("it is of cluster {theirs}, and this node belongs to {ours}")]
    Cluster { theirs: String, ours: String },
    /// It is older than what is held.
    #[error(
        "it is of epoch {epoch}, generation {generation}, and this node has seen epoch {held_epoch}, generation \
         {held_generation}; was the server restored from a backup?"
    )]
    Older {
        epoch: u64,
        generation: u64,
        held_epoch: u64,
        held_generation: u64,
    },
    /// It is as old as what is held and says something else.
    #[error(
        "it differs from the document of the same epoch {epoch} and generation {generation} that this node holds"
    )]
    Forked { epoch: u64, generation: u64 },
    /// It was cut or altered.
    #[error(transparent)]
    Content(#[from] DesiredStateError),
    /// A task's id could not be a container's name, or is there twice.
    #[error("its task id {id:?} is malformed or repeated")]
    TaskId { id: String },
    /// It would stop most of what runs by not naming it.
    #[error(
        "it would stop {absent} of {running} running tasks by not naming them; tasks are to be named with desired \
         `stop` first"
    )]
    MassStop { absent: usize, running: usize },
    /// It cannot be kept, so it must not be acted on.
    #[error("it cannot be written to {}: {source}", path.display())]
    Keep { path: PathBuf, source: io::Error },
}

/// Decides about `document` while the tasks `running` run. `None`: it is the one that is held.
fn admit(
    held: Option<&Desired>,
    cluster_id: &str,
    running: &BTreeSet<String>,
    document: &DesiredState,
) -> Result<Option<Desired>, Refusal> {
    if document.cluster_id != cluster_id {
        return Err(Refusal::Cluster {
            theirs: document.cluster_id.clone(),
            ours: cluster_id.to_owned(),
        });
    }
    let (epoch, generation) = (document.epoch, document.generation);
    if let Some(held) = held {
        let (held_epoch, held_generation) = (held.epoch, held.generation);
        if (epoch, generation) < (held_epoch, held_generation) {
            return Err(Refusal::Older {
                epoch,
                generation,
                held_epoch,
                held_generation,
            });
        }
        if (epoch, generation) == (held_epoch, held_generation) {
            return if document.hash == held.hash {
                Ok(None)
            } else {
                Err(Refusal::Forked { epoch, generation })
            };
        }
    }
    let tasks = document.open()?;
    let mut named = HashSet::new();
    for task in &tasks {
        if !is_task_id(&task.id) || !named.insert(task.id.as_str()) {
            return Err(Refusal::TaskId { id: task.id.clone() });
        }
    }
    let was_told_to_stop = |id: &str| {
        held.is_some_and(|held| {
            let mut tasks = held.tasks.iter();
            tasks.any(|task| task.id == id && task.desired == DesiredTask::Stop)
        })
    };
    let is_absent = |id: &&String| !named.contains(id.as_str()) && !was_told_to_stop(id);
    let absent = running.iter().filter(is_absent).count();
    if absent >= MASS_STOP && absent * 2 > running.len() {
        return Err(Refusal::MassStop {
            absent,
            running: running.len(),
        });
    }
    Ok(Some(Desired {
        epoch,
        generation,
        hash: document.hash.clone(),
        tasks,
    }))
}

fn is_task_id(id: &str) -> bool {
    let is_good = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !id.is_empty() && id.len() <= 40 && id.bytes().all(is_good)
}

/// Where the document lies, and the one that is held.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    cluster_id: String,
    held: Option<Arc<Desired>>,
}

impl Ledger {
    /// Reads what is held. A file that cannot be read or is altered is logged and counts as none: nothing is stopped
    /// by that, and the server sends the document again.
    pub(super) fn load(data: &Path, cluster_id: &str) -> Self {
        let path = data.join("fleet/desired.json");
        let read = || -> Result<Option<Desired>, Box<dyn std::error::Error>> {
            let Some(content) = durable::read(&path)? else {
                return Ok(None);
            };
            let document: DesiredState = serde_json::from_slice(&content)?;
            Ok(admit(None, cluster_id, &BTreeSet::new(), &document)?)
        };
        let held = read().unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), error = %Chain(&*error), "the kept desired state is unusable");
            None
        });
        Self {
            cluster_id: cluster_id.to_owned(),
            held: held.map(Arc::new),
            path,
        }
    }

    /// What is held.
    pub(super) fn held(&self) -> Option<Arc<Desired>> {
        self.held.clone()
    }

    /// Takes `document` over: it is on disk when this returns. `None`: it is the one that is held. Blocks.
    pub(super) fn take_over(
        &mut self,
        document: &DesiredState,
        running: &BTreeSet<String>,
    ) -> Result<Option<Arc<Desired>>, Refusal> {
        let Some(desired) = admit(self.held.as_deref(), &self.cluster_id, running, document)? else {
            return Ok(None);
        };
        let written = serde_json::to_vec(document)
            .map_err(io::Error::from)
            .and_then(|content| durable::replace(&self.path, &content));
        written.map_err(|source| Refusal::Keep {
            path: self.path.clone(),
            source,
        })?;
        let desired = Arc::new(desired);
        self.held = Some(desired.clone());
        Ok(Some(desired))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assignment;
    use super::*;

    fn document(epoch: u64, generation: u64, tasks: &[(&str, DesiredTask)]) -> DesiredState {
        let tasks: Vec<_> = tasks
            .iter()
            .map(|(id, desired)| assignment(id, *desired))
            .collect();
        DesiredState::seal("c", epoch, generation, &tasks).unwrap()
    }

    fn ids(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|&id| id.to_owned()).collect()
    }

    fn held(document: &DesiredState) -> Desired {
        admit(None, "c", &BTreeSet::new(), document).unwrap().unwrap()
    }

    #[test]
    fn only_newer_documents_of_this_cluster_are_taken() {
        use DesiredTask::Run;
        let first = held(&document(2, 5, &[("a", Run)]));
        let decide = |document: &DesiredState| admit(Some(&first), "c", &ids(&["a"]), document);
        assert!(matches!(decide(&document(2, 4, &[])), Err(Refusal::Older { .. })));
        assert!(matches!(decide(&document(1, 9, &[])), Err(Refusal::Older { .. })));
        assert!(matches!(
            decide(&document(2, 5, &[])),
            Err(Refusal::Forked { .. })
        ));
        assert!(matches!(decide(&document(2, 5, &[("a", Run)])), Ok(None)));
        assert!(matches!(decide(&document(2, 6, &[("b", Run)])), Ok(Some(_))));
        assert!(matches!(decide(&document(3, 1, &[("b", Run)])), Ok(Some(_))));
        let foreign = DesiredState::seal("d", 9, 9, &[]).unwrap();
        assert!(matches!(decide(&foreign), Err(Refusal::Cluster { .. })));
    }

    #[test]
    fn most_of_what_runs_is_not_stopped_by_absence() {
        use DesiredTask::{Run, Stop};
        let running = ids(&["a", "b", "c", "d", "e"]);
        let named = |names: &[&str]| -> Vec<(&'static str, DesiredTask)> {
            let all = ["a", "b", "c", "d", "e"].into_iter();
            all.filter(|name| names.contains(name))
                .map(|name| (name, Run))
                .collect()
        };
        let before = held(&document(1, 1, &named(&["a", "b", "c", "d", "e"])));
        let decide = |names: &[&str]| admit(Some(&before), "c", &running, &document(1, 2, &named(names)));
        assert!(matches!(
            decide(&[]),
            Err(Refusal::MassStop {
                absent: 5,
                running: 5
            })
        ));
        assert!(matches!(
            decide(&["a", "b"]),
            Err(Refusal::MassStop { absent: 3, .. })
        ));
        assert!(decide(&["a", "b", "c"]).is_ok(), "two of five may go");
        // Without any document before, containers of tasks that nobody names are as dear.
        assert!(admit(None, "c", &running, &document(1, 2, &[])).is_err());
        // Two are fewer than three, even though they are all.
        assert!(admit(None, "c", &ids(&["a", "b"]), &document(1, 2, &[])).is_ok());
        // Named as `stop` before, they may be absent.
        let told = held(&document(
            1,
            2,
            &[("a", Stop), ("b", Stop), ("c", Stop), ("d", Run), ("e", Run)],
        ));
        assert!(admit(Some(&told), "c", &running, &document(1, 3, &named(&["d", "e"]))).is_ok());
        // Naming all of them as `stop` is a command.
        let all = [("a", Stop), ("b", Stop), ("c", Stop), ("d", Stop), ("e", Stop)];
        assert!(admit(Some(&before), "c", &running, &document(1, 2, &all)).is_ok());
    }

    #[test]
    fn ids_are_unique_and_names() {
        use DesiredTask::Run;
        let decide =
            |tasks: &[(&str, DesiredTask)]| admit(None, "c", &BTreeSet::new(), &document(1, 1, tasks));
        for bad in ["", "../x", "A", "a b", &"x".repeat(41)] {
            assert!(
                matches!(decide(&[(bad, Run)]), Err(Refusal::TaskId { .. })),
                "{bad}"
            );
        }
        assert!(decide(&[("a", Run), ("a", Run)]).is_err());
    }

    #[test]
    fn what_was_taken_over_is_there_after_a_restart() {
        let place = tempfile::tempdir().unwrap();
        durable::make_private_directory(&place.path().join("fleet")).unwrap();
        let mut ledger = Ledger::load(place.path(), "c");
        assert!(ledger.held().is_none());
        let document = document(1, 7, &[("a", DesiredTask::Run)]);
        assert!(ledger.take_over(&document, &BTreeSet::new()).unwrap().is_some());
        assert!(ledger.take_over(&document, &BTreeSet::new()).unwrap().is_none());
        let again = Ledger::load(place.path(), "c").held().unwrap();
        assert_eq!((again.generation, again.tasks.len()), (7, 1));
        // Of another cluster, or cut, it counts as none.
        assert!(Ledger::load(place.path(), "d").held().is_none());
        let path = place.path().join("fleet/desired.json");
        let mut content = std::fs::read(&path).unwrap();
        content.truncate(content.len() / 2);
        std::fs::write(&path, content).unwrap();
        assert!(Ledger::load(place.path(), "c").held().is_none());
    }
}
