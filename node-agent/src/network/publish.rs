//! Publishing ports: listeners, ledger and rules change together or not at all.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use crate::chain::Chain;

use super::ledger::{Ledger, Publication};
use super::proxy::Proxy;
use super::{Holder, Inner, NetworkError, PortRequest, Protocol, PublishedPort, State};

impl Inner {
    pub(super) fn publish(
        &self,
        holder: &Holder,
        container: &str,
        requests: &[PortRequest],
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        let mut state = self.lock();
        let Some(held) = state.ledger.attachments.get(container) else {
            return Err(NetworkError::NotAttached {
                container: container.to_owned(),
            });
        };
        let address = held.address;
        let mut before: Vec<Option<Proxy>> = state
            .proxies
            .remove(&holder.0)
            .unwrap_or_default()
            .into_iter()
            .map(Some)
            .collect();
        // What was held before is taken over by index, so that a failure can put all of it back.
        let mut kept: Vec<(usize, Proxy)> = Vec::new();
        let mut opened: Vec<Proxy> = Vec::new();
        let mut bind = || -> Result<Vec<PublishedPort>, NetworkError> {
            for request in requests {
                let same = before
                    .iter()
                    .position(|slot| slot.as_ref().is_some_and(|proxy| proxy.port().answers(request)));
                match same.and_then(|at| Some((at, before[at].take()?))) {
                    Some(proxy) => kept.push(proxy),
                    None => opened.push(self.open_proxy(&state.ledger, holder, request, address)?),
                }
            }
            let ports = kept
                .iter()
                .map(|(_, proxy)| proxy)
                .chain(&opened)
                .map(|proxy| proxy.port().clone());
            Ok(ports.collect())
        };
        let published = bind().and_then(|ports| {
            let mut next = state.ledger.clone();
            let publication = Publication {
                container: container.to_owned(),
                ports: ports.clone(),
            };
            next.publications.insert(holder.0.clone(), publication);
            self.replace_ledger(&mut state, next).map(|()| ports)
        });
        if published.is_err() {
            opened.drain(..).for_each(Proxy::close);
            for (at, proxy) in kept {
                before[at] = Some(proxy);
            }
            state
                .proxies
                .insert(holder.0.clone(), before.into_iter().flatten().collect());
            return published;
        }
        before.into_iter().flatten().for_each(Proxy::close);
        let proxies: Vec<Proxy> = kept.into_iter().map(|(_, proxy)| proxy).chain(opened).collect();
        for proxy in &proxies {
            proxy.point_to(address);
        }
        state.proxies.insert(holder.0.clone(), proxies);
        published
    }

    fn open_proxy(
        &self,
        ledger: &Ledger,
        holder: &Holder,
        request: &PortRequest,
        address: Ipv4Addr,
    ) -> Result<Proxy, NetworkError> {
        let asked = PublishedPort {
            protocol: request.protocol,
            host_address: request.host_address,
            host_port: request.host_port,
            container_port: request.container_port,
        };
        if request.host_port != 0
            && let Some(other) = ledger.holder_of(&asked, &holder.0)
        {
            return Err(NetworkError::PortHeld {
                address: asked.shown_address(),
                port: request.host_port,
                protocol: request.protocol,
                holder: other.to_owned(),
            });
        }
        if request.protocol == Protocol::Udp {
            let refused = |reason| NetworkError::UdpUnavailable {
                address: asked.shown_address(),
                port: request.host_port,
                reason,
            };
            if asked.translated().is_none() {
                return Err(refused("only IPv4 addresses can be translated"));
            }
            if !self.has_translation.load(Ordering::Relaxed) {
                return Err(refused("this kernel has no nf_tables"));
            }
        }
        Proxy::open(request, address)
    }

    /// Brings the kernel and the listeners to what the ledger says, after a start.
    pub(super) fn adopt(&self) {
        let mut state = self.lock();
        if let Err(error) = self.table.replace(state.ledger.translations()) {
            self.has_translation.store(false, Ordering::Relaxed);
            tracing::warn!(
                error = %Chain(&error),
                "no address translation: published TCP ports are proxied, and containers do not reach other networks"
            );
        }
        let publications = state.ledger.publications.clone();
        for (holder, publication) in publications {
            let Some(held) = state.ledger.attachments.get(&publication.container).copied() else {
                continue;
            };
            let mut proxies = Vec::new();
            for port in &publication.ports {
                let request = PortRequest {
                    protocol: port.protocol,
                    host_address: port.host_address,
                    host_port: port.host_port,
                    container_port: port.container_port,
                };
                match Proxy::open(&request, held.address) {
                    Ok(proxy) => proxies.push(proxy),
                    Err(error) => {
                        tracing::warn!(error = %Chain(&error), holder, "published port is translated, not listened on");
                    }
                }
            }
            state.proxies.insert(holder, proxies);
        }
    }
}

/// Closes the listeners of these holders.
pub(super) fn close_proxies(state: &mut State, holders: &[String]) {
    for holder in holders {
        state
            .proxies
            .remove(holder)
            .into_iter()
            .flatten()
            .for_each(Proxy::close);
    }
}
