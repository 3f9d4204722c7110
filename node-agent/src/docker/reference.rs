//! Names of images as people type them: Docker's rules for what a short name means, and the images that are here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oci::Digest;
use oci::reference::{ImageReference, ReferenceError};

use super::error::ApiError;
use crate::image::{Image, ImageError, ImageStore};

/// The registry that a name without one means.
pub(super) const DEFAULT_HOST: &str = "docker.io";
/// The repositories that a name without a slash means there.
const DEFAULT_NAMESPACE: &str = "library/";

/// Reads a name; `busybox` is `docker.io/library/busybox`.
///
/// # Errors
/// When it is not one.
pub(super) fn parse(text: &str) -> Result<ImageReference, ReferenceError> {
    let mut reference = ImageReference::parse_with_default_host(text, DEFAULT_HOST)?;
    if reference.host == "index.docker.io" {
        reference.host = DEFAULT_HOST.to_owned();
    }
    if reference.host == DEFAULT_HOST && !reference.repository.as_str().contains('/') {
        reference.repository = format!("{DEFAULT_NAMESPACE}{}", reference.repository).parse()?;
    }
    Ok(reference)
}

/// The form in which a name is kept: complete, with either tag or digest.
pub(super) fn canonical(reference: &ImageReference) -> String {
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => format!("{}/{}@{digest}", reference.host, reference.repository),
        (None, Some(tag)) => format!("{}/{}:{tag}", reference.host, reference.repository),
        (None, None) => format!("{}/{}:latest", reference.host, reference.repository),
    }
}

/// The form in which Docker shows a name: without what a short one means.
pub(super) fn familiar(name: &str) -> &str {
    match name.strip_prefix("docker.io/") {
        Some(rest) => rest.strip_prefix(DEFAULT_NAMESPACE).unwrap_or(rest),
        None => name,
    }
}

/// A name without its tag or digest.
pub(super) fn repository(name: &str) -> &str {
    if let Some((repository, _)) = name.split_once('@') {
        return repository;
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// One image as Docker counts them: by the digest of the configuration, however often and by whatever it was pulled.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// As it was pulled, at least one.
    pub(super) pulled: Vec<Arc<Image>>,
    /// Its names, complete, each with what it was pulled by.
    pub(super) names: BTreeMap<String, Digest>,
}

impl Known {
    pub(super) fn image(&self) -> &Arc<Image> {
        &self.pulled[0]
    }

    /// What Docker calls the image's id.
    pub(super) fn id(&self) -> &Digest {
        &self.image().config_digest
    }

    /// Names with a tag, as Docker shows them.
    pub(super) fn tags(&self) -> Vec<String> {
        let tagged = self.names.keys().filter(|name| !name.contains('@'));
        tagged.map(|name| familiar(name).to_owned()).collect()
    }

    /// Repositories with the digest that the image has there, as Docker shows them.
    pub(super) fn digests(&self) -> Vec<String> {
        let digests: BTreeSet<String> = self
            .names
            .iter()
            .map(|(name, digest)| format!("{}@{digest}", familiar(repository(name))))
            .collect();
        digests.into_iter().collect()
    }
}

/// All images that are here.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn all(images: &ImageStore) -> Result<Vec<Known>, ImageError> {
    let names = images.names().await?;
    let mut known: BTreeMap<Digest, Known> = BTreeMap::new();
    for image in images.list().await? {
        let group = known.entry(image.config_digest.clone()).or_insert_with(|| Known {
            pulled: Vec::new(),
            names: BTreeMap::new(),
        });
        let own = names.iter().filter(|(_, digest)| **digest == image.digest);
        group
            .names
            .extend(own.map(|(name, digest)| (name.clone(), digest.clone())));
        group.pulled.push(image);
    }
    Ok(known.into_values().collect())
}

/// An image that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) known: Known,
    /// Which of its pulls was meant.
    pub(super) image: Arc<Image>,
    /// By which of its names, if not by its id.
    pub(super) name: Option<String>,
}

/// Finds an image by id, by name, or by the beginning of its id, in this order.
///
/// # Errors
/// 404 when there is none, 400 when the text is no name or means several.
pub(super) async fn find(images: &ImageStore, text: &str) -> Result<Found, ApiError> {
    let all = all(images).await?;
    let by_id = |known: Known| Found {
        image: Arc::clone(known.image()),
        known,
        name: None,
    };
    if let Ok(digest) = text.parse::<Digest>() {
        let is_meant =
            |known: &Known| *known.id() == digest || known.pulled.iter().any(|i| i.digest == digest);
        let found = all.into_iter().find(is_meant);
        return found.map(by_id).ok_or_else(|| ApiError::no_image(text));
    }
    let reference = parse(text);
    if let Ok(reference) = &reference {
        let name = canonical(reference);
        let repository_name = repository(&name);
        for known in &all {
            let named = match &reference.digest {
                // Any pull of that digest from that repository, whatever it was asked for by.
                Some(digest) => known
                    .names
                    .iter()
                    .find(|(name, pulled)| *pulled == digest && repository(name) == repository_name),
                None => known.names.get_key_value(&name),
            };
            let image =
                named.and_then(|(_, digest)| known.pulled.iter().find(|image| image.digest == *digest));
            if let (Some((name, _)), Some(image)) = (named, image) {
                return Ok(Found {
                    known: known.clone(),
                    image: Arc::clone(image),
                    name: Some(name.clone()),
                });
            }
        }
    }
    let is_hexadecimal = |c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase();
    let beginning = text.strip_prefix("sha256:").unwrap_or(text);
    if !beginning.is_empty() && beginning.chars().all(is_hexadecimal) {
        let mut begun = all
            .into_iter()
            .filter(|known| known.id().hex().starts_with(beginning));
        if let Some(known) = begun.next() {
            return match begun.next() {
                None => Ok(by_id(known)),
                Some(_) => Err(ApiError::bad(format!(
                    "{text} is the beginning of several image ids"
                ))),
            };
        }
    }
    match reference {
        Ok(reference) => Err(ApiError::no_image(familiar(&canonical(&reference)))),
        Err(error) => Err(ApiError::bad(format!("invalid reference format: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_long_ones_and_back() {
        for (text, expected, shown) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("acme/web:1", "docker.io/acme/web:1", "acme/web:1"),
            (
                "index.docker.io/busybox:1",
                "docker.io/library/busybox:1",
                "busybox:1",
            ),
            (
                "127.0.0.1:5000/a",
                "127.0.0.1:5000/a:latest",
                "127.0.0.1:5000/a:latest",
            ),
        ] {
            let name = canonical(&parse(text).expect("a name"));
            assert_eq!((name.as_str(), familiar(&name)), (expected, shown));
        }
        let digest = Digest::sha256(b"");
        let name = canonical(&parse(&format!("r:1/a:tag@{digest}")).expect("a name"));
        assert_eq!(name, format!("r:1/a@{digest}"));
        assert!(parse("UPPER").is_err() && parse("").is_err());
    }

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(repository("127.0.0.1:5000/a"), "127.0.0.1:5000/a");
        assert_eq!(repository("127.0.0.1:5000/a:b"), "127.0.0.1:5000/a");
        assert_eq!(repository("h/a@sha256:00"), "h/a");
    }
}
