//! While the ledger cannot be asked: a region keeps its roles as long as every other daemon answers directly that it knows
//! them to be just these.
//!
//! That is safe without anything to be remembered. Whoever takes a role away waits for `self_fence_after` from when it
//! knows that to be durable, and from then on it gives another answer here. An answer that agreed was given before, and
//! what it confirmed is over by the end of that wait. Whoever does not answer may have taken a role away: then nothing is
//! confirmed.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::handle::Board;
use crate::config::Config;
use crate::decide::Known;
use crate::domain::ObserverId;
use crate::ports::Clock;

/// How often, in that time: one answer may be lost.
const ASKS: u32 = 8;
/// Longest answer: a name for each of a thousand components.
const ANSWER_MAX: usize = 256 * 1024;

/// Asks the others where the ledger is silent. Ends at once where they cannot all be asked.
pub(super) async fn keep_roles(config: Arc<Config>, observer: ObserverId, board: Arc<Board>, clock: Arc<dyn Clock>) {
    let within = config.api.self_fence_after;
    let others = config.council.observers.iter().filter(|(name, _)| **name != observer);
    let others: Option<Vec<(ObserverId, String)>> =
        others.map(|(name, seat)| Some((name.clone(), seat.api.clone()?))).collect();
    let client = reqwest::Client::builder().no_proxy().timeout(within / 4).build();
    let (Some(others), Ok(client)) = (others.filter(|others| !others.is_empty()), client) else {
        return std::future::pending().await;
    };
    let mut tick = interval(within / ASKS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_on = false;
    let mut refused: Option<String> = None;
    loop {
        tick.tick().await;
        let own = board.known(&observer);
        let sent = clock.now();
        let Some(age) = board.is_to_be_promised(within) else {
            if std::mem::take(&mut is_on) {
                info!("the ledger confirms the roles again");
            }
            refused = None;
            continue;
        };
        let answers = others.iter().map(|(name, api)| ask(&client, name, api, &own));
        let refusals: Vec<String> =
            futures::future::join_all(answers).await.into_iter().filter_map(Result::err).collect();
        if refusals.is_empty() {
            refused = None;
            board.promised(sent);
            if !std::mem::replace(&mut is_on, true) {
                warn!(
                    ?age,
                    "the ledger confirms no roles; every other daemon does, so this one keeps answering for them"
                );
            }
            continue;
        }
        // Each reason once, and not each question: the same one comes again until the ledger confirms the roles.
        let why = refusals.join("; ");
        if refused.as_ref() != Some(&why) {
            warn!(?age, "the ledger confirms no roles, and not every other daemon does, so they end: {why}");
            refused = Some(why);
        }
        is_on = false;
    }
}

async fn ask(client: &reqwest::Client, name: &ObserverId, api: &str, own: &Known) -> Result<(), String> {
    let unheard = |error: reqwest::Error| {
        format!("{name} at {api} does not answer: {}", crate::adapters::failure::describe(&error.without_url()))
    };
    let mut response = client.get(format!("http://{api}/v1/roles")).send().await.map_err(unheard)?;
    if !response.status().is_success() {
        return Err(format!("{name} at {api} answers {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unheard)? {
        if body.len() + chunk.len() > ANSWER_MAX {
            return Err(format!("{name} at {api} says more than {} KiB", ANSWER_MAX >> 10));
        }
        body.extend_from_slice(&chunk);
    }
    let said: Known =
        serde_json::from_slice(&body).map_err(|error| format!("{name} at {api} says no roles: {error}"))?;
    if said.observer != *name {
        return Err(format!("at {api} there is {}, and not {name}", said.observer));
    }
    own.agrees(&said).map_err(|difference| format!("{name} {difference}"))
}
