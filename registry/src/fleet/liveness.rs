//! Which nodes are heard of, from their beats alone. Kept in memory, never in the database; time is passed in.
//!
//! A process that has just started, or has slept, knows nothing: nodes get time to be heard of before any counts as
//! down. When many go down at once, the fault is more likely ours or the network's than theirs, and nothing is moved.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use api::{BeatRequest, NodeStatus};

/// Silence after which a node gets no new tasks.
const SUSPECT: Duration = Duration::from_secs(9);
/// Silence after which its tasks are replaced.
const DOWN: Duration = Duration::from_secs(15);
/// Time after a start in which no node counts as down.
const GRACE: Duration = Duration::from_secs(30);
/// Nodes that go down within this time are one storm.
const STORM: Duration = Duration::from_secs(60);
/// A pause between two assessments from which we conclude that this process was stopped or starved.
const STALL: Duration = Duration::from_secs(5);
/// How long two living incarnations of one node keep it from new tasks.
const CLONE: Duration = Duration::from_secs(60);
/// Incarnations remembered of a node: a clone alternates between two.
const INCARNATIONS_MAX: usize = 4;

/// What is known of one node.
#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    at_ms: i64,
    applied_generation: u64,
    /// Newest first.
    incarnations: Vec<String>,
    cloned_at: Option<Instant>,
}

/// What a beat tells about others with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing.
    Plain,
    /// The node was silent, or is new: it may take tasks again.
    Back,
    /// Two machines beat with one key.
    Cloned,
}

/// One node as assessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assessment {
    pub status: NodeStatus,
    /// Whether it may get new tasks.
    pub is_ready: bool,
    /// Whether its tasks are to be replaced.
    pub is_down: bool,
}

/// Beats of all nodes.
#[derive(Debug)]
pub(super) struct Liveness {
    started: Instant,
    assessed: Instant,
    nodes: HashMap<String, Seen>,
    down_since: HashMap<String, Instant>,
    is_frozen: bool,
}

impl Liveness {
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            assessed: now,
            nodes: HashMap::new(),
            down_since: HashMap::new(),
            is_frozen: false,
        }
    }

    /// Starts the grace anew, for a process that could not hear nodes until now.
    pub fn reset(&mut self, now: Instant) {
        self.started = now;
        self.assessed = now;
        self.down_since.clear();
    }

    /// A node has joined, which is a sign of life.
    pub fn joined(&mut self, id: &str, now: Instant, now_ms: i64) {
        let seen = self.nodes.entry(id.to_owned()).or_insert_with(|| Seen {
            at: now,
            at_ms: now_ms,
            applied_generation: 0,
            incarnations: Vec::new(),
            cloned_at: None,
        });
        (seen.at, seen.at_ms) = (now, now_ms);
    }

    /// A node has beaten.
    pub fn beat(&mut self, id: &str, beat: &BeatRequest, now: Instant, now_ms: i64) -> Beat {
        let was_ready = self.nodes.contains_key(id) && self.status(id, now) == NodeStatus::Ready;
        self.joined(id, now, now_ms);
        let Some(seen) = self.nodes.get_mut(id) else {
            return Beat::Plain;
        };
        seen.applied_generation = beat.applied_generation;
        let place = seen.incarnations.iter().position(|i| *i == beat.incarnation);
        if let Some(place) = place {
            seen.incarnations.remove(place);
        }
        seen.incarnations.insert(0, beat.incarnation.clone());
        seen.incarnations.truncate(INCARNATIONS_MAX);
        // An agent that was replaced never beats again; one that does lives beside its replacement.
        if place.is_some_and(|place| place > 0) {
            seen.cloned_at = Some(now);
            return Beat::Cloned;
        }
        if was_ready { Beat::Plain } else { Beat::Back }
    }

    /// A node was removed.
    pub fn forget(&mut self, id: &str) {
        self.nodes.remove(id);
        self.down_since.remove(id);
    }

    /// When a node was last heard of, and what it had applied then.
    pub fn last(&self, id: &str) -> Option<(i64, u64)> {
        self.nodes.get(id).map(|s| (s.at_ms, s.applied_generation))
    }

    fn status(&self, id: &str, now: Instant) -> NodeStatus {
        let silent_since = match self.nodes.get(id) {
            Some(seen) if seen.at >= self.started => seen.at,
            // As if it had fallen silent so late that it counts as down when the grace ends.
            _ => self.started + (GRACE - DOWN),
        };
        match now.saturating_duration_since(silent_since) {
            silence if silence >= DOWN => NodeStatus::Down,
            silence if silence >= SUSPECT => NodeStatus::Suspect,
            _ => NodeStatus::Ready,
        }
    }

    fn is_cloned(&self, id: &str, now: Instant) -> bool {
        let cloned_at = self.nodes.get(id).and_then(|s| s.cloned_at);
        cloned_at.is_some_and(|at| now.saturating_duration_since(at) < CLONE)
    }

    /// How a node appears to operators. A cloned one is suspect: it gets no new tasks.
    pub fn shown(&self, id: &str, now: Instant) -> NodeStatus {
        match self.status(id, now) {
            NodeStatus::Ready if self.is_cloned(id, now) => NodeStatus::Suspect,
            status => status,
        }
    }

    /// Assesses all nodes for the planner.
    pub fn assess(&mut self, ids: &[&str], now: Instant) -> Vec<Assessment> {
        if now.saturating_duration_since(self.assessed) > STALL {
            tracing::warn!("this process was stopped or starved; nodes get time to be heard of again");
            self.reset(now);
        }
        self.assessed = now;
        let statuses: Vec<NodeStatus> = ids.iter().map(|id| self.status(id, now)).collect();
        self.guard(ids, &statuses, now);
        let assess = |(id, &status): (&&str, &NodeStatus)| Assessment {
            status,
            is_ready: status == NodeStatus::Ready && !self.is_cloned(id, now),
            is_down: status == NodeStatus::Down && !self.is_frozen,
        };
        ids.iter().zip(&statuses).map(assess).collect()
    }

    /// Freezes rescheduling while too many nodes went down at once, until most of them are back or removed.
    fn guard(&mut self, ids: &[&str], statuses: &[NodeStatus], now: Instant) {
        let mut down = HashMap::new();
        for (id, status) in ids.iter().zip(statuses) {
            if *status == NodeStatus::Down {
                let since = self.down_since.get(*id).copied().unwrap_or(now);
                down.insert((*id).to_owned(), since);
            }
        }
        self.down_since = down;
        let limit = (ids.len() * 33 / 100).max(2);
        let recent = self.down_since.values();
        let recent = recent
            .filter(|since| now.saturating_duration_since(**since) <= STORM)
            .count();
        let count = self.down_since.len();
        if !self.is_frozen && recent > limit {
            tracing::error!(
                count,
                "{recent} of {} nodes went down within a minute; no task is moved until at most {limit} are down",
                ids.len()
            );
            self.is_frozen = true;
        } else if self.is_frozen && count <= limit {
            tracing::info!(count, "{count} nodes are down; tasks are moved again");
            self.is_frozen = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(incarnation: &str) -> BeatRequest {
        BeatRequest {
            incarnation: incarnation.to_owned(),
            boot_id: "b".to_owned(),
            applied_generation: 1,
        }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// Beats of `ids` every second from one moment until before another, with assessments of all of `all`.
    fn pass(
        liveness: &mut Liveness,
        start: Instant,
        seconds: std::ops::Range<u64>,
        ids: &[&str],
        all: &[&str],
    ) {
        for second in seconds {
            let now = after(start, second);
            for id in ids {
                liveness.beat(id, &beat("i"), now, 0);
            }
            liveness.assess(all, now);
        }
    }

    #[test]
    fn silence_makes_a_node_suspect_and_then_down_and_a_beat_brings_it_back() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.beat("a", &beat("i"), start, 0), Beat::Back);
        for (second, status) in [
            (8, NodeStatus::Ready),
            (9, NodeStatus::Suspect),
            (15, NodeStatus::Down),
        ] {
            assert_eq!(liveness.shown("a", after(start, second)), status, "{second}");
        }
        assert_eq!(liveness.beat("a", &beat("i"), after(start, 16), 0), Beat::Back);
        assert_eq!(liveness.beat("a", &beat("i"), after(start, 19), 0), Beat::Plain);
        assert_eq!(liveness.shown("a", after(start, 19)), NodeStatus::Ready);
    }

    #[test]
    fn nobody_is_down_within_30_s_of_a_start() {
        let start = Instant::now();
        let liveness = Liveness::new(start);
        assert_eq!(liveness.shown("a", after(start, 20)), NodeStatus::Ready);
        assert_eq!(liveness.shown("a", after(start, 29)), NodeStatus::Suspect);
        assert_eq!(liveness.shown("a", after(start, 30)), NodeStatus::Down);
    }

    #[test]
    fn a_process_that_slept_believes_nobody_to_be_down() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        pass(&mut liveness, start, 0..60, &["a"], &["a"]);
        let assessed = liveness.assess(&["a"], after(start, 120));
        assert!(!assessed[0].is_down && assessed[0].is_ready);
    }

    #[test]
    fn a_storm_freezes_until_it_is_over() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let all = ["a", "b", "c", "d"];
        pass(&mut liveness, start, 0..40, &all, &all);
        pass(&mut liveness, start, 40..150, &["a"], &all);
        let assessed = liveness.assess(&all, after(start, 150));
        assert!(assessed.iter().all(|a| !a.is_down), "{assessed:?}");
        assert_eq!(assessed[1].status, NodeStatus::Down);
        pass(&mut liveness, start, 150..160, &["a", "b", "c"], &all);
        let assessed = liveness.assess(&all, after(start, 160));
        assert!(assessed[3].is_down && !assessed[1].is_down, "{assessed:?}");
    }

    #[test]
    fn one_lost_node_is_no_storm() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        pass(&mut liveness, start, 0..40, &["a", "b"], &["a", "b"]);
        pass(&mut liveness, start, 40..55, &["a"], &["a", "b"]);
        assert!(liveness.assess(&["a", "b"], after(start, 55))[1].is_down);
    }

    #[test]
    fn two_living_incarnations_are_a_clone_and_a_restart_is_not() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        for (second, incarnation, expected) in [
            (0, "one", Beat::Back),
            (3, "one", Beat::Plain),
            (6, "two", Beat::Plain),
            (9, "two", Beat::Plain),
            (10, "one", Beat::Cloned),
            (12, "two", Beat::Cloned),
        ] {
            let now = after(start, second);
            assert_eq!(
                liveness.beat("a", &beat(incarnation), now, 0),
                expected,
                "{second}"
            );
            liveness.assess(&["a"], now);
        }
        assert!(!liveness.assess(&["a"], after(start, 13))[0].is_ready);
        assert_eq!(liveness.shown("a", after(start, 13)), NodeStatus::Suspect);
        pass(&mut liveness, start, 14..80, &[], &["a"]);
        for second in 70..80 {
            liveness.beat("a", &beat("two"), after(start, second), 0);
        }
        assert_eq!(liveness.shown("a", after(start, 80)), NodeStatus::Ready);
    }
}
