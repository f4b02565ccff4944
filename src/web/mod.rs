//! The HTTP side: what operators ask and order, what Prometheus scrapes, what load balancers check.
//!
//! | request | answer |
//! |---|---|
//! | `GET /live` | 200 while the process runs |
//! | `GET /ready` | 200 while the event loop turns; does not depend on the ledger |
//! | `GET /metrics` | Prometheus text |
//! | `GET /v1/status` | [`crate::decide::Status`] as JSON |
//! | `GET /v1/explain` | text; with `Accept: application/json` as `{"explanation": …}` |
//! | `GET /v1/plan?if=region:us-east-1`, `?if=component:database` | [`crate::decide::DryRun`] as JSON |
//! | `GET /v1/facts?from=0&limit=100&wait=10s` | frames as a JSON array; with `wait`, once there is one; without `from`, the next one |
//! | `POST /v1/command` | a [`crate::decide::Command`] as JSON; see below |
//!
//! A command is answered once its facts are durable: 200 `{"in_effect": true, "answer": …}`. Refused is 409, not
//! recorded is 503, both with `"in_effect": false`; 504 with `"in_effect": null` where nobody knows. Every error is
//! `{"error": …}`, with a `"hint"` where there is one.
//!
//! With a token configured, everything but `/live`, `/ready` and `/metrics` needs `Authorization: Bearer …`. Without
//! one, reading is allowed on a loopback address only, and commands are switched off.
//!
//! A listener of its own, without a token, answers `GET /v1/role/{region}/{component}` with 200 where that region
//! serves that component and 503 elsewhere, and `/live` and `/ready`. Nothing else, and nothing about why.
//!
//! Deliberately without state and without decisions: everything is asked of the event loop, with a time limit.

mod access;
mod role;
mod routes;
mod server;

pub use access::Access;
pub use role::role_router;
pub use routes::{Api, Record, router};
pub use server::{Limits, serve};

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error as every client sees it: one sentence, and what to do where there is something.
fn problem(status: StatusCode, error: &str, hint: Option<&str>) -> Response {
    let body = match hint {
        Some(hint) => json!({ "error": error, "hint": hint }),
        None => json!({ "error": error }),
    };
    (status, Json(body)).into_response()
}

/// No answer is for a cache, a frame or a guess at its type.
async fn harden(mut response: Response) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
