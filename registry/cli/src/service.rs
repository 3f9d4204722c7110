//! `pierhead service`: services as the server has them; and how other commands name one.

use std::str::FromStr;

use anyhow::{Context, bail};
use api::{ServiceName, ServiceSummary};
use clap::{Args, Subcommand};
use client::control::operator::OperatorClient;

use crate::connection::Connection;
use crate::output::{self, Format, OutputArguments, Table, short};

/// A service as people name it: with its project, or alone where that is clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// `PROJECT/SERVICE`.
    Full(ServiceName),
    /// `SERVICE`, of whatever project has one.
    Short(String),
}

impl FromStr for Named {
    type Err = api::service::ServiceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('/') {
            Ok(Self::Full(text.parse()?))
        } else {
            // The same grammar holds for the part alone.
            format!("x/{text}").parse::<ServiceName>()?;
            Ok(Self::Short(text.to_owned()))
        }
    }
}

impl Named {
    /// The full name; the server is asked where only a part is known.
    ///
    /// # Errors
    /// When no service or several have the name.
    pub async fn resolve(&self, client: &OperatorClient) -> anyhow::Result<ServiceName> {
        match self {
            Self::Full(name) => Ok(name.clone()),
            Self::Short(name) => {
                let services = client.services().await;
                let services =
                    services.with_context(|| format!("look for service {name} at {}", client.host()))?;
                only(name, &services, &client.host())
            }
        }
    }
}

fn only(name: &str, services: &[ServiceSummary], host: &str) -> anyhow::Result<ServiceName> {
    let found: Vec<&ServiceName> = services
        .iter()
        .map(|service| &service.name)
        .filter(|full| full.service() == name)
        .collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => bail!("{host} has no service {name}; `pierhead service ls` lists them"),
        several => {
            let several: Vec<&str> = several.iter().map(|full| full.as_str()).collect();
            bail!(
                "several projects have a service {name}: {}; name it in full",
                several.join(", ")
            )
        }
    }
}

/// What to do with services.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List services.
    Ls {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Print a service with all that the server knows of it, as JSON.
    Inspect(One),
    /// Remove a service; its containers are stopped.
    Rm(One),
}

/// One service.
#[derive(Debug, Args)]
pub struct One {
    /// The service, SERVICE or PROJECT/SERVICE.
    service: Named,
    #[command(flatten)]
    connection: Connection,
}

/// Does it.
///
/// # Errors
/// When the server refuses.
pub async fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Ls { connection, output } => {
            let client = connection.open()?.client;
            let services = client.services().await;
            let services = services.with_context(|| format!("list the services of {}", client.host()))?;
            match output.output {
                Format::Json => output::json(&services)?,
                Format::Table => table(&services).print()?,
            }
        }
        Verb::Inspect(One { service, connection }) => {
            let client = connection.open()?.client;
            let name = service.resolve(&client).await?;
            let service = client.service(&name).await;
            output::json(&service.with_context(|| format!("inspect service {name}"))?)?;
        }
        Verb::Rm(One { service, connection }) => {
            let client = connection.open()?.client;
            let name = service.resolve(&client).await?;
            let removed = client.service_remove(&name).await;
            removed.with_context(|| format!("remove service {name}"))?;
            eprintln!("{name} is removed; its containers are being stopped");
        }
    }
    Ok(())
}

fn table(services: &[ServiceSummary]) -> Table {
    let mut table = Table::new(&["SERVICE", "READY", "REVISION", "IMAGE", "DIGEST"]);
    for service in services {
        let tag = service
            .tag
            .as_ref()
            .map(|tag| format!(":{tag}"))
            .unwrap_or_default();
        table.row(vec![
            service.name.to_string(),
            format!("{}/{}", service.ready, service.replicas),
            format!("r{}", service.revision),
            format!("{}{tag}", service.repository),
            short(&service.digest),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceSummary {
        ServiceSummary {
            name: name.parse().unwrap(),
            repository: "acme/web".parse().unwrap(),
            tag: None,
            digest: oci::Digest::sha256(b""),
            revision: 1,
            replicas: 2,
            ready: 1,
        }
    }

    #[test]
    fn a_short_name_must_be_the_only_one() {
        let services = [service("acme/web"), service("acme/db"), service("shop/web")];
        assert_eq!(only("db", &services, "h").unwrap().as_str(), "acme/db");
        let error = |name: &str| only(name, &services, "h").unwrap_err().to_string();
        assert!(error("web").contains("acme/web, shop/web"));
        assert!(error("cache").contains("no service cache"));
    }

    #[test]
    fn names_are_checked_before_anything_is_sent() {
        assert_eq!("web".parse(), Ok(Named::Short("web".to_owned())));
        assert!(matches!("acme/web".parse(), Ok(Named::Full(_))));
        for text in ["", "a/b/c", "../x", "A", "a b"] {
            assert!(text.parse::<Named>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_table_shows_counts_and_revision() {
        let text = table(&[service("acme/web")]).to_string();
        assert!(text.contains("acme/web  1/2    r1        acme/web"), "{text}");
    }
}
