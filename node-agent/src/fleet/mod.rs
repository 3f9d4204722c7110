//! The node's part in a fleet: who it is (`identity`) and how it comes to belong (`join`); what it is told (`channel`),
//! whether it believes that (`ledger`), and what it does about it (`reconcile`, and one `task` each); what it tells
//! (`reports`, `sessions`); which images it keeps (`collect`).
//!
//! The server decides what runs where. The agent keeps assigned tasks alive with and without a server: it starts from
//! the document that it has kept, and only a newer document that it believes changes what it does. Owns restart policy,
//! readiness, and the host ports of services; leaves running containers to `engine`.
//!
//! ```text
//! DATA/fleet/
//!   key.der  node.json      identity
//!   desired.json            the last document that was believed
//!   reports.json            the newest report of each task
//!   images.json             images that the fleet brought here
//! ```

mod channel;
mod collect;
mod containers;
pub mod identity;
pub mod join;
mod ledger;
mod node_containers;
mod ports;
mod readiness;
mod reconcile;
mod reports;
mod retry;
mod sessions;
mod task;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::control::node::NodeClient;
use client::distribution::{Credential, RegistryClient, TokenSource};
use tokio::sync::watch;
use tokio::task::JoinSet;

use identity::{Membership, NodeKey};
use ledger::Ledger;
use node_containers::NodeContainers;
use ports::Ports;
use reconcile::Reconciler;
use reports::Reports;
use sessions::Sessions;
use task::{Pace, Surroundings};

use crate::engine::Engine;
use crate::host;
use crate::image::ImageStore;
use crate::network::Network;

/// Why the node cannot take its part.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No client can be made.
    #[error("set up TLS")]
    Tls(#[source] client::HttpError),
    /// What was reported before cannot be read.
    #[error("read the reports below {}", data.display())]
    Reports {
        /// The data directory.
        data: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part of the work broke off.
    #[error("a part of the fleet's work broke off; this is a defect, and the log tells where")]
    Ended,
}

/// The node at work in its fleet. Dropping it ends the work; containers go on.
#[derive(Debug)]
pub struct Fleet(JoinSet<()>);

impl Fleet {
    /// Begins to work: every task of the kept document has been taken over when this returns, whether or not the server
    /// answers.
    ///
    /// # Errors
    /// When what was kept cannot be read.
    pub async fn start(
        data: &Path,
        membership: Membership,
        key: NodeKey,
        keep_unused_images: Duration,
        (engine, images, network): (Engine, ImageStore, Network),
    ) -> Result<Self, FleetError> {
        let http = client::http().map_err(FleetError::Tls)?;
        let tokens: Arc<dyn TokenSource> = Arc::new(key);
        let credential = Credential::Tokens(tokens.clone());
        let registry = RegistryClient::new(http.clone(), membership.server.clone(), credential);
        let client = NodeClient::new(http, membership.server.clone(), tokens);
        let containers = NodeContainers::new(engine.clone(), images.clone(), network, registry);
        let reports = Reports::load(data).map_err(|source| FleetError::Reports {
            data: data.to_owned(),
            source,
        })?;
        let ledger = Ledger::load(data, &membership.cluster_id);
        let held = ledger.held();
        let has_document = held.is_some();
        let (desired, wanted) = watch::channel(held);
        let (applied, mut has_applied) = watch::channel(0);
        let (ports, serving_ports) = Ports::new(containers.clone());
        let around = Surroundings {
            containers: containers.clone(),
            ports,
            reports: reports.clone(),
            pace: Pace::default(),
        };
        let sessions = Sessions::new(client.clone(), containers.clone());
        let incarnation = uuid::Uuid::new_v4().to_string();
        let mut loops = JoinSet::new();
        loops.spawn(serving_ports);
        loops.spawn(Reconciler::new(around).run(wanted.clone(), applied));
        if has_document && has_applied.changed().await.is_err() {
            return Err(FleetError::Ended);
        }
        loops.spawn({
            let client = client.clone();
            async move { reports.send(&client).await }
        });
        loops.spawn(collect::collect(
            images,
            engine,
            data.to_owned(),
            keep_unused_images,
            wanted,
        ));
        loops.spawn(channel::beat(
            client.clone(),
            incarnation,
            host::boot_id(),
            has_applied,
        ));
        loops.spawn(channel::watch(client, ledger, containers, desired, sessions));
        tracing::info!(
            node_id = membership.node_id,
            server = %membership.server,
            "node {} works for {}",
            membership.name,
            membership.server
        );
        Ok(Self(loops))
    }

    /// Waits for ever; returns only when a part of the work has broken off, which is a defect. The agent must be
    /// started again then, which containers do not notice.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn broken(&mut self) -> FleetError {
        match self.0.join_next().await {
            Some(_) => FleetError::Ended,
            None => std::future::pending().await,
        }
    }
}
