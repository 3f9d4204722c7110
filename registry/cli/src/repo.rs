//! `pierhead repo`: what the registry stores.

use anyhow::Context;
use api::{BlobTotal, CollectionStatus};
use clap::Subcommand;

use crate::connection::Connection;
use crate::output::{self, Format, OutputArguments, Table};

/// What to do with what is stored.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Remove blobs that nothing needs and whose grace has passed; the server also does so by itself.
    Gc {
        /// Only tell what could be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: OutputArguments,
    },
}

/// Does it.
///
/// # Errors
/// When the server refuses.
pub async fn run(verb: Verb) -> anyhow::Result<()> {
    let Verb::Gc {
        dry_run,
        connection,
        output,
    } = verb;
    let client = connection.open()?.client;
    if !dry_run {
        let pass = client.collect().await;
        let pass = pass.with_context(|| format!("collect at {}", client.host()))?;
        if output.output == Format::Json {
            return Ok(output::json(&pass)?);
        }
        eprintln!(
            "{} digests looked at, {} blobs collected, the bytes of {} removed",
            pass.reviewed, pass.collected, pass.removed
        );
    }
    let status = client.collection_status().await;
    let status = status.with_context(|| format!("ask {} what it could remove", client.host()))?;
    match output.output {
        Format::Json => output::json(&status)?,
        Format::Table => table(&status).print()?,
    }
    Ok(())
}

fn table(status: &CollectionStatus) -> Table {
    let mut table = Table::new(&["STATE", "BLOBS", "BYTES"]);
    for (state, BlobTotal { blobs, size_bytes }) in [
        ("reclaimable", status.reclaimable),
        ("pending", status.pending),
        ("removable", status.removable),
    ] {
        table.row(vec![state.to_owned(), blobs.to_string(), size_bytes.to_string()]);
    }
    table
}
