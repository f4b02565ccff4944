//! The operators' API.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, MatchedPath, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use serde_json::json;

use super::access::{Access, Wish};
use super::{harden, problem};
use crate::daemon::handle::{Answer, Board, Handle, NoAnswer};
use crate::daemon::prober::ProberCounters;
use crate::decide::{Command, Frame, Scope, explain};
use crate::domain::time::parse_duration;
use crate::domain::{ComponentId, ObserverId, RegionId};
use crate::ports::Ledger;
use crate::telemetry::{self, Gauges, Machine};

/// The loop turns once a second; silent for longer, it is stuck or starved.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// Longest `wait` of `/v1/facts`.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest answer of `/v1/facts`, in frames, and how many it is without a `limit`.
const FACTS_MAX: usize = 1000;
const FACTS_DEFAULT: usize = 100;
/// Everything has to be answered within this: the longest wait, the longest command, and a margin.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// What the routes work with. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// This daemon.
    pub observer: ObserverId,
    /// The event loop.
    pub handle: Handle,
    /// Who may do what.
    pub access: Access,
    /// Longest request body, in bytes.
    pub body_max: usize,
    /// For frames that are no longer in memory.
    pub ledger: Record,
    /// Renders metrics.
    pub metrics: PrometheusHandle,
    /// The prober of the day.
    pub prober: Arc<ArcSwap<ProberCounters>>,
    /// Remembers which series were shown.
    pub gauges: Arc<Mutex<Gauges>>,
}

/// Where the whole record can be read.
#[derive(Clone)]
pub enum Record {
    /// The file of the one daemon.
    File(PathBuf),
    /// The ledger that several daemons share.
    Shared(Arc<dyn Ledger>),
}

impl Record {
    async fn read(&self, from: u64) -> Result<Vec<Frame>, Response> {
        let read = match self {
            Self::Shared(ledger) => Ok(ledger.read_from(from).await),
            Self::File(path) => {
                let path = path.clone();
                let read = move || crate::ledger::read(&path, from).map(|contents| contents.frames);
                tokio::task::spawn_blocking(read).await
            }
        };
        match read {
            Ok(Ok(frames)) => Ok(frames),
            Ok(Err(error)) => Err(problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), None)),
            Err(_) => {
                let text = "reading the ledger failed; the log says more";
                Err(problem(StatusCode::INTERNAL_SERVER_ERROR, text, None))
            }
        }
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("body_max", &self.body_max).finish_non_exhaustive()
    }
}

/// All routes of the operators' listener.
pub fn router(api: Api) -> Router {
    let guarded = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/explain", get(explanation))
        .route("/v1/plan", get(plan))
        .route("/v1/facts", get(facts))
        .route("/v1/command", post(command))
        .method_not_allowed_fallback(wrong_method)
        .fallback(nothing_here)
        .layer(from_fn_with_state(api.clone(), admit))
        .layer(DefaultBodyLimit::max(api.body_max));
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .route("/v1/roles", get(roles))
        .method_not_allowed_fallback(wrong_method)
        .merge(guarded)
        .layer(from_fn(bounded))
        .layer(map_response(harden))
        .with_state(api)
}

/// The process runs.
pub(super) async fn live() -> &'static str {
    "alive\n"
}

async fn ready(State(api): State<Api>) -> (StatusCode, &'static str) {
    ready_of(api.handle.board())
}

/// The event loop turns. Says nothing about the ledger: a daemon that cannot record still observes and alerts.
pub(super) fn ready_of(board: &Board) -> (StatusCode, &'static str) {
    match board.silent() {
        Some(silent) if silent <= SILENT_MAX => (StatusCode::OK, "ready\n"),
        Some(_) | None => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

async fn scrape(State(api): State<Api>) -> Response {
    let board = api.handle.board();
    let machine = Machine {
        silent: board.silent().unwrap_or_default(),
        frames: board.frames(),
        ledger_healthy: board.is_ledger_healthy(),
        stopped: board.is_stopped(),
    };
    // Without an answer the last values stay, and the loop's silence says how old they are.
    let status = api.handle.status().await.ok();
    {
        let mut gauges = api.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.machine(machine, &api.prober.load());
        if let Some(status) = status {
            gauges.show(&status);
        }
    }
    api.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.metrics.render()).into_response()
}

async fn status(State(api): State<Api>) -> Result<Response, NoAnswer> {
    Ok(Json(&*api.handle.status().await?).into_response())
}

/// For the other daemons, while the ledger cannot be asked. Without a token, as on the listener for roles.
async fn roles(State(api): State<Api>) -> Response {
    Json(api.handle.board().known(&api.observer)).into_response()
}

async fn explanation(State(api): State<Api>, headers: HeaderMap) -> Result<Response, NoAnswer> {
    let text = explain(&*api.handle.status().await?);
    let wants_json = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    Ok(if wants_json { Json(json!({ "explanation": text })).into_response() } else { text.into_response() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanQuery {
    r#if: String,
}

async fn plan(State(api): State<Api>, query: Result<Query<PlanQuery>, QueryRejection>) -> Result<Response, Refusal> {
    const EXAMPLES: &str = "ask /v1/plan?if=region:us-east-1 or /v1/plan?if=component:database";
    let Query(PlanQuery { r#if: lost }) = query.map_err(|error| Refusal::bad(error.body_text(), EXAMPLES))?;
    let scope = match lost.split_once(':') {
        None if lost == "failback" => Scope::Failback,
        Some(("region", region)) => Scope::Region(RegionId::from(region)),
        Some(("switchover", what)) => match what.split_once('/') {
            Some((region, component)) => Scope::Switchover { region: region.into(), component: Some(component.into()) },
            None => Scope::Switchover { region: what.into(), component: None },
        },
        Some(("rejoin", database)) => match database.parse() {
            Ok(database) => Scope::Rejoin(database),
            Err(_) => {
                return Err(Refusal::bad(
                    format!("`{database}` names no database"),
                    "ask /v1/plan?if=rejoin:DATABASE@REGION",
                ));
            }
        },
        Some(("component", component)) => Scope::Component(ComponentId::from(component)),
        Some(("degradation", region)) => Scope::Degradation(RegionId::from(region)),
        Some(("zone", place)) => match place.split_once('/') {
            Some((region, zone)) => Scope::Zone { region: RegionId::from(region), zone: zone.to_owned() },
            None => return Err(Refusal::bad(format!("`{place}` names no zone"), "ask /v1/plan?if=zone:REGION/ZONE")),
        },
        Some(("workload", workload)) => Scope::Workload(workload.to_owned()),
        Some(_) | None => {
            return Err(Refusal::bad(format!("`{lost}` is neither a region nor a component"), EXAMPLES));
        }
    };
    match api.handle.plan_if(scope).await? {
        Ok(dry_run) => Ok(Json(dry_run).into_response()),
        Err(why) => Ok(problem(StatusCode::UNPROCESSABLE_ENTITY, &format!("no plan can be made: {why}"), None)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FactsQuery {
    /// None with a wait means the next frame, whatever its number.
    from: Option<u64>,
    limit: Option<usize>,
    wait: Option<String>,
}

async fn facts(State(api): State<Api>, query: Result<Query<FactsQuery>, QueryRejection>) -> Result<Response, Refusal> {
    const EXAMPLE: &str = "ask /v1/facts?from=0&limit=100, and add &wait=10s to wait for the next";
    let Query(FactsQuery { from, limit, wait }) = query.map_err(|error| Refusal::bad(error.body_text(), EXAMPLE))?;
    let from = from.unwrap_or(if wait.is_some() { api.handle.board().frames() } else { 0 });
    let limit = limit.unwrap_or(FACTS_DEFAULT);
    if !(1..=FACTS_MAX).contains(&limit) {
        return Err(Refusal::bad(format!("limit has to be from 1 to {FACTS_MAX}"), EXAMPLE));
    }
    if let Some(wait) = wait {
        let wait = parse_duration(&wait).map_err(|error| Refusal::bad(error.to_string(), EXAMPLE))?.min(WAIT_MAX);
        let mut frames = api.handle.board().follow();
        // Neither the end of the wait nor that of the daemon is an error: then there is nothing new.
        let _ = tokio::time::timeout(wait, frames.wait_for(|next| *next > from)).await;
    }
    if let Some(frames) = api.handle.board().recent(from, limit) {
        return Ok(Json(frames.iter().map(AsRef::as_ref).collect::<Vec<&Frame>>()).into_response());
    }
    Ok(match api.ledger.read(from).await {
        Ok(frames) => Json(frames.into_iter().take(limit).collect::<Vec<_>>()).into_response(),
        Err(problem) => problem,
    })
}

async fn command(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    const EXAMPLE: &str = r#"send a command as JSON, such as {"command":"resume","by":"alice"}"#;
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("application/json"));
    if !is_json {
        let error = "NOT IN EFFECT: the content type has to be application/json".to_owned();
        return Err(Refusal { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, error, hint: EXAMPLE });
    }
    let body = body.map_err(|error| Refusal {
        status: error.status(),
        error: format!("NOT IN EFFECT: {}", error.body_text()),
        hint: EXAMPLE,
    })?;
    let command: Command = serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad(format!("NOT IN EFFECT: this is not a command: {error}"), EXAMPLE))?;
    let (status, body) = match api.handle.command(command).await {
        Answer::InEffect(answer) => (StatusCode::OK, json!({ "in_effect": true, "answer": answer })),
        Answer::Refused(why) => (StatusCode::CONFLICT, json!({ "in_effect": false, "error": why })),
        Answer::NotRecorded(why) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "in_effect": false, "error": why })),
        Answer::Unknown(why) => (
            StatusCode::GATEWAY_TIMEOUT,
            json!({
                "in_effect": null,
                "error": format!("it is not known whether this is in effect: {why}"),
                "hint": "look at the status before ordering it again",
            }),
        ),
    };
    Ok((status, Json(body)).into_response())
}

/// A request that makes no sense, and what would.
struct Refusal {
    status: StatusCode,
    error: String,
    hint: &'static str,
}

impl Refusal {
    fn bad(error: String, hint: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, hint }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        problem(self.status, &self.error, Some(self.hint))
    }
}

impl From<NoAnswer> for Refusal {
    fn from(error: NoAnswer) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, error: error.to_string(), hint: NO_ANSWER }
    }
}

const NO_ANSWER: &str = "the daemon is starting, ending, or in trouble; its log says which";

impl IntoResponse for NoAnswer {
    fn into_response(self) -> Response {
        problem(StatusCode::SERVICE_UNAVAILABLE, &self.to_string(), Some(NO_ANSWER))
    }
}

/// Before everything that changes or reveals something, unknown paths included.
async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let wish =
        if request.method() == Method::GET || request.method() == Method::HEAD { Wish::Read } else { Wish::Order };
    if let Err(refusal) = api.access.check(request.headers(), wish) {
        return *refusal;
    }
    // Refused as announced: nobody waits for a body that is too long anyway.
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > api.body_max as u64) {
        let error = format!("NOT IN EFFECT: the body is longer than {} bytes", api.body_max);
        return problem(StatusCode::PAYLOAD_TOO_LARGE, &error, None);
    }
    next.run(request).await
}

/// Nothing takes for ever, and everything is counted under a name of ours.
async fn bounded(request: Request, next: Next) -> Response {
    let route = match request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) {
        Some("/live") => "live",
        Some("/ready") => "ready",
        Some("/metrics") => "metrics",
        Some("/v1/status") => "status",
        Some("/v1/explain") => "explain",
        Some("/v1/plan") => "plan",
        Some("/v1/facts") => "facts",
        Some("/v1/roles") => "roles",
        Some("/v1/command") => "command",
        Some(_) | None => "other",
    };
    let response = match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => problem(StatusCode::REQUEST_TIMEOUT, "the request took too long", None),
    };
    telemetry::api_request(route, response.status().as_u16());
    response
}

async fn nothing_here() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "there is nothing here",
        Some("the routes are /v1/status, /v1/explain, /v1/plan, /v1/facts, /v1/command, /metrics, /live and /ready"),
    )
}

async fn wrong_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "this method is not for this route", None)
}
