//! From method-less path to a route value: a pure parser. Names contain slashes and may even contain the words of
//! routes, so the path is scanned from the right (distribution-spec, Endpoints).

use oci::name::NameError;
use oci::reference::ReferenceError;
use oci::{Digest, Reference, RepositoryName};

/// Where a path under `/v2/` leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/` (end-1).
    Ping,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/NAME/blobs/DIGEST` (end-2, end-10).
    Blob(RepositoryName, Digest),
    /// `/v2/NAME/blobs/uploads/` (end-4a, end-4b, end-11).
    Uploads(RepositoryName),
    /// `/v2/NAME/blobs/uploads/ID` (end-5, end-6, end-13).
    Upload(RepositoryName, String),
    /// `/v2/NAME/manifests/REFERENCE` (end-3, end-7, end-9).
    Manifest(RepositoryName, Reference),
    /// `/v2/NAME/tags/list` (end-8).
    Tags(RepositoryName),
    /// `/v2/NAME/referrers/DIGEST` (end-12).
    Referrers(RepositoryName, Digest),
}

/// Why a path leads nowhere.
#[derive(Debug, PartialEq, Eq)]
pub enum RouteError {
    /// No route has this shape.
    NotFound,
    /// The name is malformed.
    Name(NameError),
    /// The digest or reference is malformed.
    Reference(ReferenceError),
}

impl Route {
    /// Parses a path as it is on the wire; the grammar has nothing that would need percent-encoding but the colon
    /// of digests, which some clients encode.
    ///
    /// # Errors
    /// When the path has no route's shape, or a part of it is malformed.
    pub fn parse(path: &str) -> Result<Self, RouteError> {
        let rest = path.strip_prefix("/v2").ok_or(RouteError::NotFound)?;
        let rest = match rest {
            "" | "/" => return Ok(Self::Ping),
            rest => rest.strip_prefix('/').ok_or(RouteError::NotFound)?,
        };
        if rest == "_catalog" {
            return Ok(Self::Catalog);
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Ok(Self::Tags(parse_name(name)?));
        }
        let trimmed = rest.strip_suffix('/').unwrap_or(rest);
        if let Some(name) = trimmed.strip_suffix("/blobs/uploads") {
            return Ok(Self::Uploads(parse_name(name)?));
        }
        let (head, last) = rest.rsplit_once('/').ok_or(RouteError::NotFound)?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            return Ok(Self::Upload(parse_name(name)?, parse_upload_id(last)?));
        }
        if last.is_empty() {
            return Err(RouteError::NotFound);
        }
        let last = last.replace("%3A", ":").replace("%3a", ":");
        if let Some(name) = head.strip_suffix("/blobs") {
            return Ok(Self::Blob(parse_name(name)?, parse_digest(&last)?));
        }
        if let Some(name) = head.strip_suffix("/manifests") {
            let name = parse_name(name)?;
            return Ok(Self::Manifest(name, last.parse().map_err(RouteError::Reference)?));
        }
        if let Some(name) = head.strip_suffix("/referrers") {
            return Ok(Self::Referrers(parse_name(name)?, parse_digest(&last)?));
        }
        Err(RouteError::NotFound)
    }
}

impl Route {
    /// The methods that the route has, as `Allow` lists them.
    pub fn methods(&self) -> &'static str {
        match self {
            Self::Ping | Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
        }
    }
}

fn parse_name(text: &str) -> Result<RepositoryName, RouteError> {
    text.parse().map_err(RouteError::Name)
}

fn parse_digest(text: &str) -> Result<Digest, RouteError> {
    text.parse()
        .map_err(|error| RouteError::Reference(ReferenceError::Digest(error)))
}

fn parse_upload_id(text: &str) -> Result<String, RouteError> {
    let is_ours = text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if is_ours {
        Ok(text.to_owned())
    } else {
        Err(RouteError::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn every_route_is_recognised() {
        let digest = Digest::sha256(b"");
        let id = "0d6ee6b5-5d3f-4a39-bd0c-6ad6b1b1a1c2";
        for (path, route) in [
            ("/v2".to_owned(), Route::Ping),
            ("/v2/".to_owned(), Route::Ping),
            ("/v2/_catalog".to_owned(), Route::Catalog),
            ("/v2/a/b/tags/list".to_owned(), Route::Tags(name("a/b"))),
            ("/v2/a/blobs/uploads/".to_owned(), Route::Uploads(name("a"))),
            ("/v2/a/blobs/uploads".to_owned(), Route::Uploads(name("a"))),
            (
                format!("/v2/a/blobs/uploads/{id}"),
                Route::Upload(name("a"), id.to_owned()),
            ),
            (
                format!("/v2/a/blobs/{digest}"),
                Route::Blob(name("a"), digest.clone()),
            ),
            (
                format!("/v2/a/blobs/sha256%3A{}", digest.hex()),
                Route::Blob(name("a"), digest.clone()),
            ),
            (
                "/v2/a/manifests/t".to_owned(),
                Route::Manifest(name("a"), "t".parse().unwrap()),
            ),
            (
                format!("/v2/a/referrers/{digest}"),
                Route::Referrers(name("a"), digest),
            ),
        ] {
            assert_eq!(Route::parse(&path), Ok(route), "{path}");
        }
    }

    #[test]
    fn names_may_contain_the_words_of_routes() {
        let digest = Digest::sha256(b"");
        assert_eq!(
            Route::parse("/v2/a/tags/list/tags/list"),
            Ok(Route::Tags(name("a/tags/list")))
        );
        let path = format!("/v2/x/blobs/blobs/{digest}");
        assert_eq!(Route::parse(&path), Ok(Route::Blob(name("x/blobs"), digest)));
    }

    #[test]
    fn nonsense_is_refused_for_its_reason() {
        assert_eq!(Route::parse("/v2x"), Err(RouteError::NotFound));
        assert_eq!(Route::parse("/v2/a"), Err(RouteError::NotFound));
        assert!(matches!(
            Route::parse("/v2/A/tags/list"),
            Err(RouteError::Name(_))
        ));
        assert!(matches!(
            Route::parse("/v2/a/../b/tags/list"),
            Err(RouteError::Name(_))
        ));
        assert!(matches!(
            Route::parse("/v2/a%2fb/tags/list"),
            Err(RouteError::Name(_))
        ));
        assert!(matches!(
            Route::parse("/v2/a/blobs/sha256:x"),
            Err(RouteError::Reference(_))
        ));
        assert!(matches!(
            Route::parse("/v2/a/manifests/.x"),
            Err(RouteError::Reference(_))
        ));
        assert_eq!(
            Route::parse("/v2/a/blobs/uploads/../../x"),
            Err(RouteError::NotFound)
        );
    }

    const NAME: &str = "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}";

    fn names() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            NAME.prop_map(|n| n),
            Just("blobs".to_owned()),
            Just("manifests".to_owned()),
            Just("uploads".to_owned()),
            Just("tags".to_owned()),
            Just("list".to_owned()),
            Just("referrers".to_owned()),
        ];
        vec(word, 1..6).prop_map(|words| words.join("/"))
    }

    proptest! {
        #[test]
        fn any_name_reaches_its_own_routes(text in names(), content in any::<[u8; 4]>()) {
            let digest = Digest::sha256(&content);
            let id = Uuid::new_v4().to_string();
            for (path, route) in [
                (format!("/v2/{text}/tags/list"), Route::Tags(name(&text))),
                (format!("/v2/{text}/blobs/uploads/"), Route::Uploads(name(&text))),
                (format!("/v2/{text}/blobs/uploads/{id}"), Route::Upload(name(&text), id)),
                (format!("/v2/{text}/blobs/{digest}"), Route::Blob(name(&text), digest.clone())),
                (format!("/v2/{text}/manifests/{digest}"), Route::Manifest(name(&text), digest.clone().into())),
                (format!("/v2/{text}/referrers/{digest}"), Route::Referrers(name(&text), digest)),
            ] {
                prop_assert_eq!(Route::parse(&path), Ok(route), "{}", path);
            }
        }

        #[test]
        fn no_path_makes_a_name_that_leads_out(path in "/v2(/|\\.|%2[fFeE]|[a-zA-Z0-9:_\\-@%]){0,60}") {
            if let Ok(Route::Tags(name) | Route::Uploads(name) | Route::Upload(name, _) | Route::Blob(name, _)
                | Route::Manifest(name, _) | Route::Referrers(name, _)) = Route::parse(&path) {
                prop_assert!(name.as_str().split('/').all(|c| !c.starts_with('.') && !c.is_empty()));
                prop_assert!(!name.as_str().contains('%'));
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(path in ".{0,200}") {
            let _ = Route::parse(&path);
            let _ = Route::parse(&format!("/v2/{path}"));
        }
    }
}
