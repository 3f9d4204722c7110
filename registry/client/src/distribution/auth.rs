//! Credentials and the token flow: a 401 names a realm, the realm gives a token for a scope.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Response;
use url::Url;

use super::ClientError;

/// Makes tokens by itself, as nodes do with their own key.
pub trait TokenSource: Send + Sync {
    /// A token that is good now.
    ///
    /// # Errors
    /// When it cannot be made, saying why.
    fn token(&self) -> Result<String, String>;
}

/// What a client identifies itself with. Prints nothing of it.
#[derive(Clone)]
pub enum Credential {
    /// Nothing.
    Anonymous,
    /// Name and password.
    Basic {
        /// Name.
        username: String,
        /// Password.
        password: String,
    },
    /// Tokens of the client's own making.
    Tokens(Arc<dyn TokenSource>),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic",
            Self::Tokens(_) => "Tokens",
        })
    }
}

struct Token {
    header: String,
    until: Instant,
}

/// Credentials and the tokens that they brought, by scope.
pub(super) struct Auth {
    credential: Credential,
    tokens: Mutex<HashMap<String, Token>>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credential.fmt(f)
    }
}

impl Auth {
    pub(super) fn new(credential: Credential) -> Self {
        Self {
            credential,
            tokens: Mutex::default(),
        }
    }

    /// The header to try first for `scope`.
    pub(super) async fn header(&self, scope: &str) -> Result<Option<String>, ClientError> {
        if let Credential::Tokens(source) = &self.credential {
            return Ok(Some(format!(
                "Bearer {}",
                source.token().map_err(ClientError::Token)?
            )));
        }
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tokens
            .get(scope)
            .filter(|t| Instant::now() < t.until)
            .map(|t| t.header.clone()))
    }

    /// The header that answers the challenge in `response`, or `None` when we have nothing to answer with.
    pub(super) async fn answer(
        &self,
        http: &reqwest::Client,
        base: &Url,
        response: &Response,
        scope: &str,
    ) -> Result<Option<String>, ClientError> {
        let challenges = response.headers().get_all(http::header::WWW_AUTHENTICATE);
        let challenges: Vec<_> = challenges.iter().filter_map(|v| v.to_str().ok()).collect();
        if matches!(self.credential, Credential::Tokens(_)) {
            return Ok(None);
        }
        if let Some(challenge) = challenges.iter().find_map(|c| Challenge::parse(c)) {
            return self.fetch(http, base, &challenge, scope).await.map(Some);
        }
        let is_basic = challenges
            .iter()
            .any(|c| c.to_ascii_lowercase().starts_with("basic"));
        Ok(self.basic().filter(|_| is_basic))
    }

    fn basic(&self) -> Option<String> {
        match &self.credential {
            Credential::Basic { username, password } => Some(format!(
                "Basic {}",
                BASE64_STANDARD.encode(format!("{username}:{password}"))
            )),
            _ => None,
        }
    }

    async fn fetch(
        &self,
        http: &reqwest::Client,
        base: &Url,
        challenge: &Challenge,
        scope: &str,
    ) -> Result<String, ClientError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let host = base.host_str().unwrap_or_default().to_owned();
        let broken = |what: String| ClientError::Protocol {
            host: host.clone(),
            what,
        };
        let realm: Url = challenge
            .realm
            .parse()
            .map_err(|_| broken(format!("realm {:?}", challenge.realm)))?;
        // A registry must not send our password to a stranger.
        if !is_same_site(&realm, base) || (base.scheme() == "https" && realm.scheme() != "https") {
            return Err(broken(format!(
                "its token realm {realm} is on another site or not encrypted; credentials stay here"
            )));
        }
        let mut request = http.get(realm.clone()).query(&[("scope", scope)]);
        if let Some(service) = &challenge.service {
            request = request.query(&[("service", service)]);
        }
        if let Some(basic) = self.basic() {
            request = request.header(http::header::AUTHORIZATION, basic);
        }
        let transport = |source| ClientError::Transport {
            host: host.clone(),
            source,
        };
        let response = request.send().await.map_err(transport)?;
        let status = response.status();
        if !status.is_success() {
            let message = format!("no token from {realm}: check user name and password");
            return Err(ClientError::Status {
                host,
                status,
                message,
            });
        }
        let answer: Answer = response.json().await.map_err(transport)?;
        let token = answer
            .token
            .or(answer.access_token)
            .ok_or_else(|| broken("an answer without token".into()))?;
        let header = format!("Bearer {token}");
        let life = Duration::from_secs(answer.expires_in.unwrap_or(60).max(60)).mul_f64(0.8);
        let token = Token {
            header: header.clone(),
            until: Instant::now() + life,
        };
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(scope.to_owned(), token);
        Ok(header)
    }
}

/// The same host, or hosts that share their last two labels (`auth.docker.io` for `registry-1.docker.io`).
fn is_same_site(realm: &Url, base: &Url) -> bool {
    let site = |url: &Url| match url.host() {
        Some(url::Host::Domain(domain)) => {
            let labels: Vec<_> = domain.rsplitn(3, '.').take(2).collect();
            Some(labels.into_iter().rev().collect::<Vec<_>>().join("."))
        }
        Some(address) => Some(address.to_string()),
        None => None,
    };
    site(realm).is_some() && site(realm) == site(base)
}

#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    /// Parses `Bearer realm="…",service="…",…`; values may be quoted and hold commas.
    fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut fields = HashMap::new();
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            let Some((name, tail)) = rest.split_once('=') else {
                break;
            };
            let (value, tail) = match tail.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => tail.split_once(',').unwrap_or((tail, "")),
            };
            fields.insert(name.trim().to_ascii_lowercase(), value.to_owned());
            rest = tail;
        }
        Some(Self {
            realm: fields.remove("realm")?,
            service: fields.remove("service"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed_with_quotes_and_commas() {
        let challenge =
            Challenge::parse(r#"Bearer realm="https://a/t",service="a",scope="repository:x:pull,push""#);
        let expected = Challenge {
            realm: "https://a/t".into(),
            service: Some("a".into()),
        };
        assert_eq!(challenge, Some(expected));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), None);
        assert_eq!(Challenge::parse("Bearer service=\"x\""), None);
        assert_eq!(Challenge::parse("Bearer realm=\"open"), None);
    }

    #[test]
    fn passwords_stay_on_their_site() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        assert!(is_same_site(
            &url("https://auth.docker.io/token"),
            &url("https://registry-1.docker.io")
        ));
        assert!(!is_same_site(
            &url("https://evil.example/token"),
            &url("https://registry-1.docker.io")
        ));
        assert!(is_same_site(
            &url("http://127.0.0.1:1/token"),
            &url("http://127.0.0.1:2")
        ));
        assert!(!is_same_site(
            &url("http://127.0.0.2/token"),
            &url("http://127.0.0.1")
        ));
    }
}
