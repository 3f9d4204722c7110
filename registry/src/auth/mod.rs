//! Who calls and what they may do.
//!
//! A handler reaches content only with a proof of permission, [`RepositoryAccess`], which nothing but
//! [`Auth::access`] makes. Credentials are Basic (verified off the async threads, remembered for a minute) or
//! Bearer: tokens of our own token endpoint, or tokens that a node signed with its own key.

pub mod password;
pub mod scope;
pub mod token;

use std::marker::PhantomData;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use oci::RepositoryName;

use crate::db::{AccountRow, Db, DbError};
use crate::fleet;
use password::{PasswordError, Passwords};
use scope::{Action, Grant};
use token::{SigningKey, TokenError};

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credentials where some are needed.
    #[error("authentication required: log in, or send a token from the realm in WWW-Authenticate")]
    Required,
    /// A wrong name or password; which of both is not told.
    #[error("the user name or the password is wrong")]
    BadCredentials,
    /// An `Authorization` header that cannot be read.
    #[error("the Authorization header is malformed; send `Basic` or `Bearer` credentials")]
    Malformed,
    /// A token that is not valid, or no longer.
    #[error("the token is not valid: {0}")]
    InvalidToken(TokenError),
    /// A good token that does not cover the request.
    #[error("the token does not grant this; ask for one with the scope in WWW-Authenticate")]
    InsufficientScope,
    /// Known, and not allowed.
    #[error("{0}")]
    Denied(String),
    /// Passwords cannot be verified.
    #[error("cannot verify the password")]
    Password(#[from] PasswordError),
    /// The database failed.
    #[error("look up the caller")]
    Db(#[from] DbError),
}

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// A person or program with an account.
    User {
        /// Account name.
        name: String,
        /// Whether it may do everything.
        is_admin: bool,
    },
    /// A node of the fleet.
    Node {
        /// Its id.
        id: String,
    },
}

/// A caller: who, and to what their token limits them.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who is calling.
    pub principal: Principal,
    /// With a token of the token endpoint, all that it grants; otherwise policy decides.
    grants: Option<Vec<Grant>>,
}

impl Caller {
    fn of(principal: Principal) -> Self {
        Self {
            principal,
            grants: None,
        }
    }

    /// Whether the caller proved who they are.
    pub fn is_authenticated(&self) -> bool {
        self.principal != Principal::Anonymous || self.grants.is_some()
    }

    /// The administrator's name, for the control plane.
    ///
    /// # Errors
    /// [`AuthError::Required`] or [`AuthError::Denied`] for anybody else.
    pub fn admin(&self) -> Result<&str, AuthError> {
        match &self.principal {
            Principal::User { name, is_admin: true } if self.grants.is_none() => Ok(name),
            Principal::Anonymous => Err(AuthError::Required),
            _ => Err(AuthError::Denied("only an administrator may do this".to_owned())),
        }
    }

    /// The node's id, for the agent's channel.
    ///
    /// # Errors
    /// [`AuthError::Required`] or [`AuthError::Denied`] for anybody else.
    pub fn node(&self) -> Result<&str, AuthError> {
        match &self.principal {
            Principal::Node { id } => Ok(id),
            Principal::Anonymous => Err(AuthError::Required),
            Principal::User { .. } => Err(AuthError::Denied("only a node may do this".to_owned())),
        }
    }
}

/// Permission to read a repository.
#[derive(Debug)]
pub enum Pull {}
/// Permission to add to a repository.
#[derive(Debug)]
pub enum Push {}
/// Permission to delete from a repository.
#[derive(Debug)]
pub enum Delete {}

/// What a proof of permission is for.
pub trait Permission {
    /// The action in scopes.
    const ACTION: Action;
}
impl Permission for Pull {
    const ACTION: Action = Action::Pull;
}
impl Permission for Push {
    const ACTION: Action = Action::Push;
}
impl Permission for Delete {
    const ACTION: Action = Action::Delete;
}

/// Proof that the caller may do `P` in a repository. Only [`Auth::access`] makes it.
#[derive(Debug)]
pub struct RepositoryAccess<P> {
    repository: RepositoryName,
    permission: PhantomData<P>,
}

impl<P> RepositoryAccess<P> {
    /// The repository.
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }
}

/// Verifies credentials and decides.
#[derive(Debug)]
pub struct Auth {
    db: Db,
    passwords: Passwords,
    key: SigningKey,
    is_open: bool,
}

/// The account that the first start creates.
pub const FIRST_ADMIN: &str = "admin";

impl Auth {
    /// Loads the signing key from `data`, making it at the first start.
    ///
    /// # Errors
    /// When the key cannot be read or written.
    pub fn open(db: Db, data: &Path, is_open: bool) -> Result<Self, TokenError> {
        Ok(Self {
            db,
            passwords: Passwords::new(),
            key: SigningKey::load_or_create(data)?,
            is_open,
        })
    }

    /// Creates the first administrator if there is no account yet and returns the password then. One that is made
    /// here goes to `keep` first, so that no crash leaves an account whose password nobody knows.
    ///
    /// # Errors
    /// When `keep`, hashing or the database fails.
    pub async fn ensure_admin(
        &self,
        given: Option<String>,
        keep: impl FnOnce(&str) -> std::io::Result<()>,
    ) -> Result<Option<String>, AuthError> {
        if self.db.account_exists().await? {
            return Ok(None);
        }
        let password = match given {
            Some(password) => password,
            None => {
                let password = password::generate()?;
                keep(&password).map_err(PasswordError::Keep)?;
                password
            }
        };
        let password_hash = self.passwords.hash(password.clone()).await?;
        let admin = AccountRow {
            name: FIRST_ADMIN.to_owned(),
            password_hash,
            is_admin: true,
        };
        self.db.account_put(&admin).await?;
        Ok(Some(password))
    }

    /// Whether everyone may do everything.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Who sends `headers`.
    ///
    /// # Errors
    /// When credentials are present and not good. Absent ones are [`Principal::Anonymous`].
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, AuthError> {
        if self.is_open && !headers.contains_key(AUTHORIZATION) {
            return Ok(Caller::of(Principal::User {
                name: "open".to_owned(),
                is_admin: true,
            }));
        }
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Ok(Caller::of(Principal::Anonymous));
        };
        let value = value.to_str().map_err(|_| AuthError::Malformed)?;
        let (scheme, credentials) = value.split_once(' ').ok_or(AuthError::Malformed)?;
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = BASE64_STANDARD
                .decode(credentials.trim())
                .map_err(|_| AuthError::Malformed)?;
            let decoded = String::from_utf8(decoded).map_err(|_| AuthError::Malformed)?;
            let (name, password) = decoded.split_once(':').ok_or(AuthError::Malformed)?;
            self.log_in(name, password).await.map(Caller::of)
        } else if scheme.eq_ignore_ascii_case("bearer") {
            self.bearer(credentials.trim()).await
        } else {
            Err(AuthError::Malformed)
        }
    }

    /// Verifies a name and a password.
    ///
    /// # Errors
    /// [`AuthError::BadCredentials`] for an unknown name as for a wrong password, after the same work.
    pub async fn log_in(&self, name: &str, password: &str) -> Result<Principal, AuthError> {
        let account = self.db.account_get(name).await?;
        let hash = account.as_ref().map(|a| a.password_hash.as_str());
        match (self.passwords.verify(name, password, hash).await?, account) {
            (true, Some(account)) => Ok(Principal::User {
                name: account.name,
                is_admin: account.is_admin,
            }),
            // In open mode nobody has an account, and clients may still send what they were configured with.
            _ if self.is_open => Ok(Principal::User {
                name: "open".to_owned(),
                is_admin: true,
            }),
            _ => Err(AuthError::BadCredentials),
        }
    }

    /// As [`Self::log_in`], as a caller whom no token limits.
    ///
    /// # Errors
    /// As [`Self::log_in`].
    pub async fn log_in_caller(&self, name: &str, password: &str) -> Result<Caller, AuthError> {
        self.log_in(name, password).await.map(Caller::of)
    }

    async fn bearer(&self, token: &str) -> Result<Caller, AuthError> {
        if let Some(node_id) = token::node_id(token) {
            let key = fleet::node_public_key(&self.db, &node_id).await?;
            let key = key.ok_or(AuthError::InvalidToken(TokenError::UnknownNode))?;
            token::verify_node(token, &node_id, &key).map_err(AuthError::InvalidToken)?;
            return Ok(Caller::of(Principal::Node { id: node_id }));
        }
        let claims = self.key.verify(token).map_err(AuthError::InvalidToken)?;
        let principal = match claims.sub {
            name if name.is_empty() => Principal::Anonymous,
            name => Principal::User {
                name,
                is_admin: false,
            },
        };
        Ok(Caller {
            principal,
            grants: Some(claims.access),
        })
    }

    /// A token for `caller` with as much of `wanted` as policy allows, and its life in seconds.
    ///
    /// # Errors
    /// When the database fails or the token cannot be signed.
    pub async fn issue(&self, caller: &Caller, wanted: Vec<Grant>) -> Result<(String, u64), AuthError> {
        let mut granted = Vec::new();
        for mut grant in wanted {
            if grant.is_catalog() {
                // What is listed is decided for each repository.
                granted.push(grant);
                continue;
            }
            let mut actions = Vec::new();
            for action in grant.actions {
                if self.allows(caller, &grant.name, action).await? {
                    actions.push(action);
                }
            }
            grant.actions = actions;
            if !grant.actions.is_empty() {
                granted.push(grant);
            }
        }
        let subject = match &caller.principal {
            Principal::Anonymous => String::new(),
            Principal::User { name, .. } => name.clone(),
            Principal::Node { id } => format!("node:{id}"),
        };
        self.key.sign(subject, granted).map_err(AuthError::InvalidToken)
    }

    /// Proves that `caller` may do `P` in `repository`.
    ///
    /// # Errors
    /// [`AuthError::Required`] for anonymous callers, [`AuthError::InsufficientScope`] for tokens that do not cover
    /// it, [`AuthError::Denied`] for those who are known and may not.
    pub async fn access<P: Permission>(
        &self,
        caller: &Caller,
        repository: &RepositoryName,
    ) -> Result<RepositoryAccess<P>, AuthError> {
        if self.allows(caller, repository.as_str(), P::ACTION).await? {
            return Ok(RepositoryAccess {
                repository: repository.clone(),
                permission: PhantomData,
            });
        }
        Err(match &caller.principal {
            _ if caller.grants.is_some() => AuthError::InsufficientScope,
            Principal::Anonymous => AuthError::Required,
            _ => AuthError::Denied(format!("you may not {} {repository}", P::ACTION.as_str())),
        })
    }

    /// Proves that whoever `caller` is may pull from `repository`, whatever scope their token was made for: a token to
    /// push into one repository names no others, and yet blobs are to be mounted from them. No more than that is read
    /// this way, and only by digest, which nobody knows who has not seen it named.
    ///
    /// # Errors
    /// As [`Self::access`].
    pub async fn mount_source(
        &self,
        caller: &Caller,
        repository: &RepositoryName,
    ) -> Result<RepositoryAccess<Pull>, AuthError> {
        let unlimited = Caller::of(caller.principal.clone());
        self.access(&unlimited, repository).await
    }

    /// Whether the catalog shows `repository` to `caller`: one whose token grants the catalog sees all that they could
    /// pull from.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lists(&self, caller: &Caller, repository: &RepositoryName) -> Result<bool, AuthError> {
        let is_catalog = caller.grants.iter().flatten().any(Grant::is_catalog);
        if !is_catalog {
            return self.allows(caller, repository.as_str(), Action::Pull).await;
        }
        let caller = Caller::of(caller.principal.clone());
        self.allows(&caller, repository.as_str(), Action::Pull).await
    }

    async fn allows(&self, caller: &Caller, repository: &str, action: Action) -> Result<bool, AuthError> {
        if let Some(grants) = &caller.grants {
            return Ok(grants.iter().any(|g| g.allows(repository, action)));
        }
        Ok(match &caller.principal {
            Principal::Anonymous => false,
            Principal::User { is_admin, .. } => *is_admin || action == Action::Pull,
            Principal::Node { id } => {
                action == Action::Pull && fleet::node_may_pull(&self.db, id, repository).await?
            }
        })
    }
}
