//! Which image of the server's registry a service runs.

use oci::{Digest, ImageReference, RepositoryName, Tag};

/// An image in the server's registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Repository.
    pub repository: RepositoryName,
    /// Tag; `latest` where neither tag nor digest was given.
    pub tag: Option<Tag>,
    /// Digest, where one was given.
    pub digest: Option<Digest>,
}

/// Registries, and the namespaces under which a server's caches usually have them.
const CACHES: [(&str, &str); 4] = [
    ("docker.io", "dockerhub"),
    ("index.docker.io", "dockerhub"),
    ("registry-1.docker.io", "dockerhub"),
    ("ghcr.io", "ghcr"),
];

/// Reads `[HOST/]REPOSITORY[:TAG][@DIGEST]`. Without a host, or with the server's own, the repository is one of the
/// server at `server_host`.
///
/// # Errors
/// When the reference is malformed, or names another registry: nodes pull from their server alone.
pub fn resolve(text: &str, server_host: &str) -> Result<Image, String> {
    if let (Some(host), rest) = ImageReference::split_host(text)
        && without_default_port(host) != without_default_port(server_host)
    {
        return Err(elsewhere(host, rest));
    }
    let image =
        ImageReference::parse_with_default_host(text, server_host).map_err(|error| error.to_string())?;
    let tag = match (image.tag, &image.digest) {
        (None, None) => "latest".parse().ok(),
        (tag, _) => tag,
    };
    Ok(Image {
        repository: image.repository,
        tag,
        digest: image.digest,
    })
}

fn without_default_port(host: &str) -> &str {
    host.strip_suffix(":443")
        .or_else(|| host.strip_suffix(":80"))
        .unwrap_or(host)
}

fn elsewhere(host: &str, rest: &str) -> String {
    let cache = CACHES.iter().find(|(registry, _)| *registry == host);
    let way = match cache {
        Some((_, namespace)) => {
            // Docker Hub's official images lie below `library/`, which people leave out.
            let is_official = *namespace == "dockerhub" && !rest.contains('/');
            let library = if is_official { "library/" } else { "" };
            format!("if the server caches {host} as {namespace}, write {namespace}/{library}{rest}")
        }
        None => format!(
            "if the server has a cache of {host}, write NAMESPACE/{rest} with the namespace of that cache"
        ),
    };
    format!(
        "nodes pull from their own server, not from {host}; {way}; otherwise copy it there with `pierhead image copy`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, Option<String>, bool) {
        let image = resolve(text, "reg.acme.io").unwrap();
        (
            image.repository.to_string(),
            image.tag.map(|t| t.to_string()),
            image.digest.is_some(),
        )
    }

    #[test]
    fn images_are_of_the_servers_registry() {
        let tagged = |repository: &str, tag: &str| (repository.to_owned(), Some(tag.to_owned()), false);
        assert_eq!(parts("acme/web:v1"), tagged("acme/web", "v1"));
        assert_eq!(parts("web"), tagged("web", "latest"));
        assert_eq!(parts("reg.acme.io/acme/web:v1"), tagged("acme/web", "v1"));
        assert_eq!(parts("reg.acme.io:443/acme/web:v1"), tagged("acme/web", "v1"));
        let digest = Digest::sha256(b"x");
        assert_eq!(parts(&format!("web@{digest}")), ("web".to_owned(), None, true));
        assert_eq!(parts(&format!("web:v1@{digest}")).1.as_deref(), Some("v1"));
    }

    #[test]
    fn other_registries_are_refused_with_a_way_out() {
        let error = |text: &str| resolve(text, "reg.acme.io:5000").unwrap_err();
        assert!(error("docker.io/nginx:1").contains("write dockerhub/library/nginx:1;"));
        assert!(error("docker.io/grafana/loki:3").contains("write dockerhub/grafana/loki:3;"));
        assert!(error("ghcr.io/a/b:1").contains("write ghcr/a/b:1;"));
        assert!(error("quay.io/a/b:1").contains("write NAMESPACE/a/b:1 "));
        assert!(error("reg.acme.io:5001/a:1").contains("not from reg.acme.io:5001"));
        assert!(error("UPPER").contains("invalid"));
        assert!(error("a:b:c").contains("invalid"));
        assert!(error("").contains("invalid"));
    }
}
