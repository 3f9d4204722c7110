//! The operator's side of `/api/v1`: services, their deployments, tasks and logs, and nodes.

use std::fmt;
use std::time::Duration;

use api::{
    CollectionPass, CollectionStatus, DeployRequest, DeployResponse, Deployment, JoinToken, LogEvent,
    LogQuery, NodeSummary, RollbackRequest, ServiceName, ServiceSpec, ServiceSummary, TaskSummary,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::{Method, RequestBuilder, StatusCode};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;
use url::Url;

use super::{ControlError, Endpoint};

/// How long an answer may take. A deploy may wait for an upstream registry that is asked for a digest.
const DEADLINE: Duration = Duration::from_secs(60);
/// The longest log line accepted, with its JSON around it.
const LINE_MAX_BYTES: usize = 1 << 20;

/// Name and password of an account. Prints nothing of the password.
#[derive(Clone)]
pub struct Account {
    /// Name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// An operator's client of one server; cheap to clone.
#[derive(Clone, Debug)]
pub struct OperatorClient {
    endpoint: Endpoint,
    account: Option<Account>,
}

impl OperatorClient {
    /// A client of the server at `base`, with an account where the server has any.
    pub fn new(http: reqwest::Client, base: Url, account: Option<Account>) -> Self {
        Self {
            endpoint: Endpoint::new(http, base),
            account,
        }
    }

    /// The server's host, with its port if that is not the scheme's own.
    pub fn host(&self) -> String {
        self.endpoint.host()
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.with_account(self.endpoint.request(method, path))
    }

    fn with_account(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.account {
            Some(account) => request.basic_auth(&account.username, Some(&account.password)),
            None => request,
        }
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ControlError> {
        let response = self.endpoint.send(request, DEADLINE).await?;
        self.endpoint.json(response, DEADLINE).await
    }

    /// Asks the registry whether it knows the account (distribution-spec end-1).
    ///
    /// # Errors
    /// [`ControlError::Refused`] with status 401 when it does not.
    pub async fn verify(&self) -> Result<(), ControlError> {
        let request = self.with_account(self.endpoint.registry_root());
        self.endpoint.send(request, DEADLINE).await.map(drop)
    }

    /// Makes a token with which one machine may join.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn join_token(&self) -> Result<JoinToken, ControlError> {
        self.read(self.request(Method::POST, "join-tokens")).await
    }

    /// All nodes.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn nodes(&self) -> Result<Vec<NodeSummary>, ControlError> {
        self.read(self.request(Method::GET, "nodes")).await
    }

    /// Removes a node; with `force` also one that is still heard of or has tasks.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn node_remove(&self, id: &str, force: bool) -> Result<(), ControlError> {
        let mut request = self.request(Method::DELETE, &format!("nodes/{id}"));
        if force {
            request = request.query(&[("force", "true")]);
        }
        self.endpoint.send(request, DEADLINE).await.map(drop)
    }

    /// What collection has before it.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn collection_status(&self) -> Result<CollectionStatus, ControlError> {
        self.read(self.request(Method::GET, "maintenance/collection"))
            .await
    }

    /// Collects what is due now.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn collect(&self) -> Result<CollectionPass, ControlError> {
        self.read(self.request(Method::POST, "maintenance/collection"))
            .await
    }

    /// All services.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn services(&self) -> Result<Vec<ServiceSummary>, ControlError> {
        self.read(self.request(Method::GET, "services")).await
    }

    /// Makes or changes a service. The same spec again changes nothing.
    ///
    /// # Errors
    /// As the server answers: among others when the image is not there.
    pub async fn deploy(
        &self,
        service: &ServiceName,
        spec: ServiceSpec,
    ) -> Result<DeployResponse, ControlError> {
        let request = self.request(Method::PUT, &format!("services/{service}"));
        self.read(request.json(&DeployRequest { spec })).await
    }

    /// A service with everything that the server tells of it, as it tells it.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn service(&self, service: &ServiceName) -> Result<serde_json::Value, ControlError> {
        self.read(self.request(Method::GET, &format!("services/{service}")))
            .await
    }

    /// Removes a service; its tasks are stopped.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn service_remove(&self, service: &ServiceName) -> Result<(), ControlError> {
        let request = self.request(Method::DELETE, &format!("services/{service}"));
        self.endpoint.send(request, DEADLINE).await.map(drop)
    }

    /// Tasks, of one service or all.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn tasks(&self, service: Option<&ServiceName>) -> Result<Vec<TaskSummary>, ControlError> {
        self.read(self.of_service("tasks", service)).await
    }

    /// Deployments, of one service or all, in the server's order.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn deployments(&self, service: Option<&ServiceName>) -> Result<Vec<Deployment>, ControlError> {
        self.read(self.of_service("deployments", service)).await
    }

    fn of_service(&self, path: &str, service: Option<&ServiceName>) -> RequestBuilder {
        let request = self.request(Method::GET, path);
        match service {
            Some(service) => request.query(&[("service", service.as_str())]),
            None => request,
        }
    }

    /// One deployment.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn deployment(&self, id: u64) -> Result<Deployment, ControlError> {
        self.read(self.request(Method::GET, &format!("deployments/{id}")))
            .await
    }

    /// Goes back to `revision`, or to the one before the present.
    ///
    /// # Errors
    /// As the server answers: among others when there is no such revision.
    pub async fn rollback(
        &self,
        service: &ServiceName,
        revision: Option<u64>,
    ) -> Result<DeployResponse, ControlError> {
        let request = self.request(Method::POST, &format!("services/{service}/rollback"));
        self.read(request.json(&RollbackRequest { revision })).await
    }

    /// The lines that the service's containers wrote; with `follow` also those to come.
    ///
    /// # Errors
    /// When the server refuses or does not answer; from the stream also when it breaks off or says what is no line.
    ///
    /// # Cancel safety
    /// Dropping the stream closes the connection.
    pub async fn logs(
        &self,
        service: &ServiceName,
        query: &LogQuery,
    ) -> Result<BoxStream<'static, Result<LogEvent, ControlError>>, ControlError> {
        let request = self.request(Method::GET, &format!("services/{service}/logs"));
        let response = self.endpoint.send(request.query(query), DEADLINE).await?;
        // A quiet container is silent for as long as it likes; a dead connection is noticed by its keep-alive.
        let pieces = response.bytes_stream().map_err(std::io::Error::other);
        let lines = FramedRead::new(
            StreamReader::new(pieces),
            LinesCodec::new_with_max_length(LINE_MAX_BYTES),
        );
        let endpoint = self.endpoint.clone();
        let lines = lines.map(move |line| match line {
            Ok(line) => serde_json::from_str(&line)
                .map_err(|error| endpoint.protocol(format!("a log line that cannot be read: {error}"))),
            Err(LinesCodecError::MaxLineLengthExceeded) => {
                Err(endpoint.protocol(format!("a log line of more than {LINE_MAX_BYTES} bytes")))
            }
            Err(LinesCodecError::Io(error)) => Err(endpoint.protocol(format!("the logs broke off: {error}"))),
        });
        Ok(lines.boxed())
    }
}

impl ControlError {
    /// The status that the server refused with.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
