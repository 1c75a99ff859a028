//! Addresses: one list, which the router is built of and the OpenAPI file is written from.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::StatusCode;
use axum::routing::MethodRouter;
use axum::{Router, middleware};
use serde_json::Value;

use crate::guard;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::{a1111, native, openai, page};

/// Bytes of a request's body.
pub(crate) const MOST_BYTES: usize = 64 << 20;
/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(60);

/// An address and what is done there.
pub(crate) struct Route {
    /// In lower case, as OpenAPI has it.
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// One sentence.
    pub(crate) about: &'static str,
    /// What is sent there, as a schema's name.
    pub(crate) takes: Option<&'static str>,
    /// What comes back, as a schema's name or a kind of content.
    pub(crate) gives: &'static str,
    pub(crate) handler: MethodRouter<Arc<Shared>>,
}

/// All of them.
pub(crate) fn all() -> Vec<Route> {
    [native::routes(), openai::routes(), a1111::routes()].into_iter().flatten().collect()
}

pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    let routes = all().into_iter().fold(page::router(), |router, route| router.route(route.path, route.handler));
    routes
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(shared), guard::guard))
        .with_state(Arc::clone(shared))
}

/// A body of JSON; nothing is an empty object.
pub(crate) struct Sent(pub(crate) Value);

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = in_time(Bytes::from_request(request, state)).await?;
        let bytes = bytes.map_err(|refused| {
            let status = refused.status();
            if status == StatusCode::PAYLOAD_TOO_LARGE {
                let most = MOST_BYTES >> 20;
                return Refusal::new(
                    status,
                    "too_large",
                    format!("the body is larger than this server reads, {most} MiB"),
                );
            }
            Refusal::bad("the body cannot be read")
        })?;
        if bytes.is_empty() {
            return Ok(Sent(Value::Object(serde_json::Map::new())));
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Sent(value)),
            Err(error) => Err(Refusal::bad(format!("the body is no JSON: {error}"))),
        }
    }
}

/// What is read of a body, if it comes in time.
pub(crate) async fn in_time<T>(reading: impl Future<Output = T>) -> Result<T, Refusal> {
    let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come in time");
    tokio::time::timeout(BODY_TIME, reading).await.map_err(late)
}
