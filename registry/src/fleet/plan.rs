//! The planner: from what is to what should be next, for one service. A pure function, no I/O.
//!
//! Invariants: ready copies are stopped only when their replacement is ready (or they are surplus); at most
//! `surge` copies start at a time; a rollback is never rolled back; absence of information stops nothing.

use api::{DesiredTask, PortMapping, Protocol, ServiceName, TaskState};

/// A service as the planner sees it.
#[derive(Clone, Debug)]
pub struct ServiceView {
    /// Name.
    pub name: ServiceName,
    /// Copies wanted.
    pub replicas: u32,
    /// Revision wanted; `None` when nothing should run.
    pub target: Option<TargetRevision>,
    /// The deployment under way.
    pub deployment: Option<ActiveDeployment>,
}

/// What the planner needs of a revision.
#[derive(Clone, Debug)]
pub struct TargetRevision {
    /// Number.
    pub number: u64,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// How long a copy may take from its start until it is ready.
    pub ready_deadline_ms: i64,
}

/// A deployment that has not ended.
#[derive(Clone, Debug)]
pub struct ActiveDeployment {
    /// Number.
    pub id: u64,
    /// Whether it is on its way back.
    pub is_rolling_back: bool,
    /// Revision to go back to.
    pub from_revision: Option<u64>,
}

/// A task as the planner sees it.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// Identifier.
    pub id: String,
    /// Service.
    pub service: ServiceName,
    /// Copy, from 1.
    pub slot: u32,
    /// Revision.
    pub revision: u64,
    /// Where it is.
    pub node_id: String,
    /// What is wanted of it.
    pub desired: DesiredTask,
    /// What it was last seen to be.
    pub state: TaskState,
    /// Starts so far.
    pub attempt: u32,
    /// When it was first seen starting, by the server's clock.
    pub starting_at_ms: Option<i64>,
    /// Why it is in its state.
    pub reason: Option<String>,
    /// Ports it holds or will hold.
    pub ports: Vec<PortMapping>,
}

impl TaskView {
    fn is_wanted(&self) -> bool {
        self.desired != DesiredTask::Stop
    }

    fn is_ready(&self) -> bool {
        self.is_wanted() && self.state == TaskState::Ready
    }

    /// Whether something of it may still exist on its node.
    fn occupies(&self) -> bool {
        self.is_wanted() || !self.state.is_final()
    }
}

/// A node as the planner sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// Whether it may get tasks.
    pub is_ready: bool,
    /// Whether it is known to be gone long enough to replace its tasks.
    pub is_down: bool,
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Tasks to create.
    pub create: Vec<NewTask>,
    /// Tasks to stop, by id.
    pub stop: Vec<String>,
    /// How the deployment under way goes on.
    pub outcome: Option<Outcome>,
}

/// A task to create at the target revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// Copy.
    pub slot: u32,
    /// Node.
    pub node_id: String,
}

/// The end of a step of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All copies are at the target and ready.
    Done,
    /// A copy did not become ready, or there is no place for it: go back, or give up where that is not possible.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

/// Plans the next step of `service` among `tasks` and `nodes` of the whole cluster at `now_ms`.
pub fn plan(service: &ServiceView, tasks: &[TaskView], nodes: &[NodeView], now_ms: i64) -> Plan {
    let own: Vec<&TaskView> = tasks.iter().filter(|t| t.service == service.name).collect();
    let mut plan = Plan::default();
    let Some(target) = &service.target else {
        plan.stop
            .extend(own.iter().filter(|t| t.is_wanted()).map(|t| t.id.clone()));
        return plan;
    };
    let is_lost = |task: &TaskView| nodes.iter().any(|n| n.id == task.node_id && n.is_down);
    let (current, old): (Vec<_>, Vec<_>) = own
        .into_iter()
        .filter(|t| t.is_wanted())
        .partition(|t| t.revision == target.number);

    if let Some(deployment) = &service.deployment {
        // Where old and new are one revision, copies that were there before the change of scale are not judged.
        let failure = current
            .iter()
            .filter(|t| t.slot <= service.replicas)
            .find_map(|t| failure(t, target, now_ms));
        if let Some(reason) = failure {
            plan.outcome = Some(Outcome::Failed { reason });
            return plan;
        }
        if deployment.is_rolling_back {
            plan.stop
                .extend(old.iter().filter(|t| !t.is_ready()).map(|t| t.id.clone()));
        }
    }

    let surge = (service.replicas / 4).max(1) as usize;
    let mut starting = current.iter().filter(|t| !t.is_ready() && !is_lost(t)).count();
    let mut ready = 0;
    for slot in 1..=service.replicas {
        let here: Vec<_> = current.iter().filter(|t| t.slot == slot).collect();
        if here.iter().any(|t| t.is_ready() && !is_lost(t)) {
            ready += 1;
            plan.stop
                .extend(old.iter().filter(|t| t.slot == slot).map(|t| t.id.clone()));
            plan.stop
                .extend(here.iter().filter(|t| is_lost(t)).map(|t| t.id.clone()));
            continue;
        }
        if here.iter().any(|t| !is_lost(t)) || starting >= surge {
            continue;
        }
        match place(service, target, tasks, nodes, &plan.create) {
            Ok(node_id) => {
                plan.create.push(NewTask { slot, node_id });
                starting += 1;
            }
            // A lost copy without another place for it waits for its node.
            Err(_) if !here.is_empty() => {}
            Err(reason) if service.deployment.is_some() => {
                plan.outcome = Some(Outcome::Failed { reason });
                return plan;
            }
            Err(_) => {}
        }
    }
    let all_ready = ready == service.replicas;
    let is_surplus = |t: &&&TaskView| t.slot > service.replicas;
    plan.stop
        .extend(current.iter().filter(is_surplus).map(|t| t.id.clone()));
    if all_ready {
        plan.stop
            .extend(old.iter().filter(is_surplus).map(|t| t.id.clone()));
    }
    plan.stop.sort();
    plan.stop.dedup();
    let is_only_current = tasks.iter().filter(|t| t.service == service.name).all(|t| {
        !t.occupies()
            || is_lost(t)
            || (t.revision == target.number && t.slot <= service.replicas && t.is_wanted())
    });
    if service.deployment.is_some() && all_ready && is_only_current {
        plan.outcome = Some(Outcome::Done);
    }
    plan
}

/// Why `task` counts as failed during a deployment; `None` while it may still become ready.
fn failure(task: &TaskView, target: &TargetRevision, now_ms: i64) -> Option<String> {
    let reason = task.reason.as_deref().unwrap_or("no reason was reported");
    let subject = format!("task {} (slot {})", task.id, task.slot);
    match task.state {
        TaskState::Failed | TaskState::Backoff => Some(format!("{subject} exited: {reason}")),
        TaskState::Rejected => Some(format!("{subject} was rejected by its node: {reason}")),
        TaskState::Stopped => Some(format!("{subject} ended by itself: {reason}")),
        TaskState::Ready => None,
        _ if task.attempt > 1 => Some(format!("{subject} had to be restarted: {reason}")),
        _ => {
            let waited_ms = now_ms - task.starting_at_ms?;
            (waited_ms > target.ready_deadline_ms)
                .then(|| format!("{subject} was not ready {waited_ms} ms after its start: {reason}"))
        }
    }
}

/// The node for one more copy: ready, with the host ports free for this service; then the one with the fewest
/// copies of the service, then of anything, then by name.
fn place(
    service: &ServiceView,
    target: &TargetRevision,
    tasks: &[TaskView],
    nodes: &[NodeView],
    planned: &[NewTask],
) -> Result<String, String> {
    if !nodes.iter().any(|n| n.is_ready) {
        return Err("no node is ready; `pierhead node ls` shows them".to_owned());
    }
    let is_current = |t: &TaskView| t.service == service.name && t.is_wanted() && t.revision == target.number;
    let mut taken = None;
    let candidate = nodes
        .iter()
        .filter(|n| n.is_ready)
        .filter(|node| {
            let holder = tasks
                .iter()
                .filter(|t| t.node_id == node.id && t.occupies())
                // An older revision of the same service hands its port over.
                .filter(|t| t.service != service.name || is_current(t))
                .find_map(|t| shared_port(&t.ports, &target.ports).map(|port| (port, t.service.clone())));
            let is_planned = !target.ports.is_empty() && planned.iter().any(|t| t.node_id == node.id);
            if let Some((port, holder)) = &holder {
                taken = Some(format!("host port {port} is taken on {} by {holder}", node.name));
            }
            holder.is_none() && !is_planned
        })
        .min_by_key(|node| {
            let here = |t: &&TaskView| t.node_id == node.id && t.is_wanted();
            let own = tasks.iter().filter(here).filter(|t| is_current(t)).count()
                + planned.iter().filter(|t| t.node_id == node.id).count();
            (own, tasks.iter().filter(here).count(), &node.name)
        });
    candidate.map(|n| n.id.clone()).ok_or_else(|| {
        let why = taken.unwrap_or_else(|| "its host ports fit once on each node".to_owned());
        format!("no node has a place for another copy of {}: {why}", service.name)
    })
}

fn shared_port(held: &[PortMapping], wanted: &[PortMapping]) -> Option<String> {
    let collide = |a: &PortMapping, b: &PortMapping| {
        let same_address = a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip;
        a.host_port == b.host_port && a.protocol == b.protocol && same_address
    };
    let port = wanted.iter().find(|w| held.iter().any(|h| collide(h, w)))?;
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    Some(format!("{}/{protocol}", port.host_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(replicas: u32, revision: u64, deployment: Option<bool>) -> ServiceView {
        ServiceView {
            name: "acme/web".parse().unwrap(),
            replicas,
            target: Some(TargetRevision {
                number: revision,
                ports: Vec::new(),
                ready_deadline_ms: 60_000,
            }),
            deployment: deployment.map(|is_rolling_back| ActiveDeployment {
                id: 1,
                is_rolling_back,
                from_revision: Some(1),
            }),
        }
    }

    fn task(id: &str, slot: u32, revision: u64, state: TaskState) -> TaskView {
        TaskView {
            id: id.into(),
            service: "acme/web".parse().unwrap(),
            slot,
            revision,
            node_id: "n1".into(),
            desired: DesiredTask::Run,
            state,
            attempt: 1,
            starting_at_ms: Some(0),
            reason: None,
            ports: Vec::new(),
        }
    }

    fn nodes() -> Vec<NodeView> {
        ["n1", "n2"]
            .map(|id| NodeView {
                id: id.into(),
                name: id.into(),
                is_ready: true,
                is_down: false,
            })
            .to_vec()
    }

    fn port(number: u16) -> PortMapping {
        PortMapping {
            host_ip: None,
            host_port: number,
            container_port: 80,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn a_new_service_is_spread_one_step_at_a_time() {
        let first = plan(&service(2, 1, Some(false)), &[], &nodes(), 0);
        assert_eq!(
            first.create,
            [NewTask {
                slot: 1,
                node_id: "n1".into()
            }]
        );
        let second = plan(
            &service(2, 1, Some(false)),
            &[task("a", 1, 1, TaskState::Ready)],
            &nodes(),
            0,
        );
        assert_eq!(
            second.create,
            [NewTask {
                slot: 2,
                node_id: "n2".into()
            }]
        );
        assert_eq!(second.outcome, None);
    }

    #[test]
    fn the_old_copy_is_stopped_only_when_the_new_one_is_ready() {
        let old = task("old", 1, 1, TaskState::Ready);
        let service = service(1, 2, Some(false));
        let starting = plan(
            &service,
            &[old.clone(), task("new", 1, 2, TaskState::Starting)],
            &nodes(),
            0,
        );
        assert!(starting.stop.is_empty());
        let ready = plan(
            &service,
            &[old.clone(), task("new", 1, 2, TaskState::Ready)],
            &nodes(),
            0,
        );
        assert_eq!(ready.stop, ["old"]);
        assert_eq!(ready.outcome, None, "the old one is still there");
        let gone = TaskView {
            desired: DesiredTask::Stop,
            state: TaskState::Stopped,
            ..old
        };
        let done = plan(
            &service,
            &[gone, task("new", 1, 2, TaskState::Ready)],
            &nodes(),
            0,
        );
        assert_eq!(done.outcome, Some(Outcome::Done));
    }

    #[test]
    fn a_copy_that_exits_or_misses_its_deadline_fails_the_deployment() {
        let service = service(1, 2, Some(false));
        for (state, now_ms) in [
            (TaskState::Backoff, 0),
            (TaskState::Rejected, 0),
            (TaskState::Running, 60_001),
        ] {
            let tasks = [task("old", 1, 1, TaskState::Ready), task("new", 1, 2, state)];
            let plan = plan(&service, &tasks, &nodes(), now_ms);
            assert!(matches!(plan.outcome, Some(Outcome::Failed { .. })), "{state:?}");
            assert!(plan.stop.is_empty(), "what runs is left alone");
        }
    }

    #[test]
    fn rolling_back_removes_unready_copies_at_once_and_keeps_the_old() {
        let service = service(1, 1, Some(true));
        let tasks = [
            task("old", 1, 1, TaskState::Ready),
            task("new", 1, 2, TaskState::Backoff),
        ];
        let plan = plan(&service, &tasks, &nodes(), 0);
        assert_eq!((plan.stop, plan.create), (vec!["new".to_owned()], vec![]));
    }

    #[test]
    fn a_taken_host_port_names_its_holder_and_is_handed_over_within_a_service() {
        let mut service = service(1, 2, Some(false));
        service.target.as_mut().unwrap().ports = vec![port(80)];
        let one_node = &nodes()[..1];
        let mut own_old = task("old", 1, 1, TaskState::Ready);
        own_old.ports = vec![port(80)];
        assert_eq!(plan(&service, &[own_old.clone()], one_node, 0).create.len(), 1);
        let other = TaskView {
            service: "acme/db".parse().unwrap(),
            ..own_old
        };
        let Some(Outcome::Failed { reason }) = plan(&service, &[other], one_node, 0).outcome else {
            panic!()
        };
        assert!(
            reason.contains("80/tcp") && reason.contains("acme/db"),
            "{reason}"
        );
    }

    #[test]
    fn copies_on_a_down_node_are_replaced_elsewhere_and_otherwise_kept() {
        let mut nodes = nodes();
        nodes[0] = NodeView {
            is_ready: false,
            is_down: true,
            ..nodes[0].clone()
        };
        let tasks = [task("a", 1, 1, TaskState::Ready)];
        let replaced = plan(&service(1, 1, None), &tasks, &nodes, 0);
        assert_eq!(
            replaced.create,
            [NewTask {
                slot: 1,
                node_id: "n2".into()
            }]
        );
        assert!(replaced.stop.is_empty());
        let kept = plan(&service(1, 1, None), &tasks, &nodes[..1], 0);
        assert_eq!(kept, Plan::default());
    }

    #[test]
    fn scaling_down_stops_the_highest_slots() {
        let tasks = [
            task("a", 1, 1, TaskState::Ready),
            task("b", 2, 1, TaskState::Ready),
        ];
        assert_eq!(plan(&service(1, 1, None), &tasks, &nodes(), 0).stop, ["b"]);
    }
}
