//! Which region serves which component, for load balancers, health checks and applications.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::routing::get;

use super::routes::{live, ready_of};
use super::{harden, problem};
use crate::daemon::handle::Board;
use crate::domain::{ComponentId, RegionId};

#[derive(Clone)]
struct Roles {
    board: Arc<Board>,
    self_fence_after: Duration,
}

/// The listener without a token: roles, `/live`, `/ready`, and nothing else.
///
/// A role is answered for only within `self_fence_after` of the event loop having confirmed that the ledger is ours.
pub fn role_router(board: Arc<Board>, self_fence_after: Duration) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/v1/role/{region}/{component}", get(role))
        .fallback(async || problem(StatusCode::NOT_FOUND, "there is nothing here", None))
        .layer(map_response(harden))
        .with_state(Roles { board, self_fence_after })
}

async fn ready(State(roles): State<Roles>) -> (StatusCode, &'static str) {
    ready_of(&roles.board)
}

async fn role(
    State(roles): State<Roles>,
    Path((region, component)): Path<(String, String)>,
) -> (StatusCode, &'static str) {
    let (region, component) = (RegionId::from(region), ComponentId::from(component));
    if roles.board.serves(&region, &component, roles.self_fence_after) {
        (StatusCode::OK, "serving\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not serving\n")
    }
}
