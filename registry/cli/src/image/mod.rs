//! `pierhead image`: images between registries, OCI layouts and docker archives.
//!
//! Every copy goes through an OCI layout, which holds manifests and blobs byte for byte, so digests are kept between
//! registries and layouts. A docker archive holds no manifest: one is made, the same for the same archive.

mod archive;
mod layout;
mod place;
mod registry;

use std::io::Write;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use layout::Layout;
use place::Place;
use registry::Remote;

use crate::output;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Copy an image, with everything an index lists.
    ///
    /// A place is docker-archive:FILE, oci:DIR[:TAG], or HOST[:PORT]/REPOSITORY[:TAG][@DIGEST].
    Copy {
        /// Where from.
        source: Place,
        /// Where to.
        destination: Place,
        #[command(flatten)]
        access: Access,
    },
    /// Print an image's manifest or index, as it is.
    Inspect {
        /// Which.
        image: Place,
        #[command(flatten)]
        access: Access,
    },
    /// List the tags of HOST[:PORT]/REPOSITORY or oci:DIR.
    Ls {
        /// Where.
        repository: Place,
        #[command(flatten)]
        access: Access,
    },
    /// Remove a tag, or with @DIGEST a manifest and its tags, from a registry.
    Rm {
        /// Which.
        image: Place,
        #[command(flatten)]
        access: Access,
    },
}

/// How to reach registries. Those on loopback addresses are spoken to in plain HTTP, others by HTTPS.
///
/// Without a user name, the account of `pierhead login` at the registry is used, else docker's.
#[derive(Clone, Debug, Args)]
pub struct Access {
    /// User name at the registry, that of the destination where there are two; the password comes from
    /// PIERHEAD_PASSWORD or --password-stdin.
    #[arg(long, env = "PIERHEAD_USERNAME")]
    username: Option<String>,
    /// Read the password from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Speak plain HTTP to registries on other machines, too.
    #[arg(long)]
    plain_http: bool,
}

impl Access {
    /// The same without the user name that was given: for a registry that it is not meant for.
    fn of_others(&self) -> Self {
        Self {
            username: None,
            password_stdin: false,
            ..self.clone()
        }
    }
}

/// Does it.
///
/// # Errors
/// When it cannot be done, saying at which step.
pub async fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Copy {
            source,
            destination,
            access,
        } => copy(source, destination, &access).await,
        Verb::Inspect { image, access } => {
            let bytes = match image {
                Place::Registry(image) => Remote::new(image, &access)?.manifest().await?.bytes.to_vec(),
                Place::Layout { directory, tag } => {
                    let layout = Layout::open(&directory)?;
                    layout.read(&layout.tagged(tag.as_deref())?.digest)?
                }
                Place::Archive(path) => {
                    let scratch = tempfile::tempdir()?;
                    let layout = Layout::create(scratch.path())?;
                    let descriptor = archive::read(&path, &layout)?;
                    layout.read(&descriptor.digest)?
                }
            };
            let mut out = output::stdout();
            out.write_all(&bytes)?;
            out.flush()?;
            Ok(())
        }
        Verb::Ls { repository, access } => {
            let tags = match repository {
                Place::Registry(image) => Remote::new(image, &access)?.tags().await?,
                Place::Layout { directory, .. } => Layout::open(&directory)?.tags()?,
                Place::Archive(_) => bail!("a docker archive has no list of tags; inspect it instead"),
            };
            let mut out = output::stdout();
            for tag in tags {
                writeln!(out, "{tag}")?;
            }
            out.flush()?;
            Ok(())
        }
        Verb::Rm {
            image: Place::Registry(image),
            access,
        } => Remote::new(image, &access)?.remove().await,
        Verb::Rm { .. } => {
            bail!("only images in a registry can be removed by this command; delete the file or directory")
        }
    }
}

async fn copy(source: Place, destination: Place, access: &Access) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    // Straight into the destination where that is a layout, so that nothing is written twice.
    let (layout, is_destination) = match (&source, &destination) {
        (Place::Layout { directory, .. }, _) => (Layout::open(directory)?, false),
        (_, Place::Layout { directory, .. }) => (Layout::create(directory)?, true),
        _ => (Layout::create(scratch.path())?, false),
    };
    // One registry's password is no business of another.
    let of_source = match (&source, &destination) {
        (Place::Registry(from), Place::Registry(to)) if from.host != to.host => access.of_others(),
        _ => access.clone(),
    };
    let descriptor = match source {
        Place::Layout { tag, .. } => layout.tagged(tag.as_deref())?,
        Place::Archive(path) => archive::read(&path, &layout)?,
        Place::Registry(image) => Remote::new(image, &of_source)?.pull(&layout).await?,
    };
    match destination {
        Place::Registry(image) => Remote::new(image, access)?.push(&layout, &descriptor).await?,
        Place::Archive(path) => archive::write(&path, &layout, &descriptor)?,
        Place::Layout { directory, tag } => {
            if is_destination {
                layout.tag(&descriptor, tag.as_deref())?;
            } else {
                let target = Layout::create(&directory)?;
                layout.copy(&target, &descriptor)?;
                target.tag(&descriptor, tag.as_deref())?;
            }
        }
    }
    let mut out = output::stdout();
    writeln!(out, "{}", descriptor.digest)?;
    out.flush()?;
    Ok(())
}
