//! The steps of attaching and detaching a container, in their order.
//!
//! The address is reserved before anything is made and released after everything is gone, so a crash in between leaves
//! an entry in the ledger that a repeated call completes or undoes.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use runtime::container::ContainerId;

use super::link::ContainerEnd;
use super::{
    Attachment, Holder, MacAddress, Network, NetworkError, PortRequest, namespace, publish::close_proxies,
};

impl Network {
    pub(super) async fn attach_tracked(
        &self,
        container: &ContainerId,
        ports: Vec<PortRequest>,
    ) -> Result<Attachment, NetworkError> {
        let path = self.0.namespace_path(container.as_str());
        let was_alive = {
            let path = path.clone();
            self.blocking(move |_| namespace::is_alive(&path)).await
        };
        let made = self.attach_steps(container, path, was_alive, ports).await;
        if made.is_err()
            && !was_alive
            && let Err(leftover) = self.detach_tracked(container).await
        {
            tracing::warn!(container_id = container.as_str(), error = %leftover, "a failed attachment was not undone");
        }
        made
    }

    async fn attach_steps(
        &self,
        container: &ContainerId,
        path: PathBuf,
        is_alive: bool,
        ports: Vec<PortRequest>,
    ) -> Result<Attachment, NetworkError> {
        let id = container.as_str().to_owned();
        let address = self.blocking({
            let id = id.clone();
            move |inner| {
                let mut state = inner.lock();
                let mut next = state.ledger.clone();
                let address = next.reserve(&id)?;
                inner.replace_ledger(&mut state, next).map(|()| address)
            }
        });
        let address = address.await?;
        if !is_alive {
            let host_interface = self.0.config.host_interface(&id);
            // What a crash between the steps, or a reboot, has left.
            self.0.links.remove(&host_interface).await?;
            self.blocking({
                let path = path.clone();
                move |_| namespace::remove(&path)
            })
            .await?;
            let mac = MacAddress::of(address);
            let end = ContainerEnd {
                host_interface: host_interface.clone(),
                address,
                mac,
                subnet: self.0.subnet,
            };
            namespace::create(path, end).await?;
            let bridge_index = self.0.bridge_index.load(Ordering::Relaxed);
            self.0.links.join_bridge(&host_interface, bridge_index).await?;
        }
        let holder = Holder::container(container);
        self.blocking(move |inner| {
            if !ports.is_empty() {
                inner.publish(&holder, &id, &ports)?;
            }
            inner
                .attachment(&inner.lock().ledger, &id)
                .ok_or(NetworkError::NotAttached { container: id })
        })
        .await
    }

    pub(super) async fn detach_tracked(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let id = container.as_str().to_owned();
        let withdrawn = self.blocking({
            let id = id.clone();
            move |inner| {
                let mut state = inner.lock();
                let mut next = state.ledger.clone();
                let holders = next.withdraw(&id);
                let replaced = inner.replace_ledger(&mut state, next);
                close_proxies(&mut state, &holders);
                replaced.and(namespace::remove(&inner.namespace_path(&id)))
            }
        });
        let outcome = withdrawn.await;
        // The kernel tears namespaces down later; the pair goes now, so that its name is free.
        let outcome = outcome.and(self.0.links.remove(&self.0.config.host_interface(&id)).await);
        outcome?;
        self.blocking(move |inner| {
            let mut state = inner.lock();
            let mut next = state.ledger.clone();
            next.attachments.remove(&id);
            inner.replace_ledger(&mut state, next)
        })
        .await
    }

    /// Puts the host ends of attached containers on the bridge, which somebody may have removed meanwhile.
    pub(super) async fn rejoin(&self, bridge_index: u32) {
        for container in self.attached().await {
            let host_interface = self.0.config.host_interface(&container);
            match self.0.links.index(&host_interface).await {
                Ok(None) => {}
                Ok(Some(_)) => {
                    if let Err(error) = self.0.links.join_bridge(&host_interface, bridge_index).await {
                        tracing::warn!(%error, container_id = container, "attached container is off the bridge");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, container_id = container, "cannot look for the interface")
                }
            }
        }
    }
}
