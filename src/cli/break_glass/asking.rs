//! Who answers? Break-glass is for the day on which nobody does.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::config::Config;
use crate::daemon::break_glass::others;
use crate::ledger::{self, LedgerError, S3Ledger};

/// Longer, and it is no answer that anybody could work with.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// What became of asking somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// They are there. What they said, and what to do instead of breaking the glass.
    Is(String, String),
    /// They did not answer; what was seen.
    Silent(String),
    /// Nobody knows how to ask them.
    NotAsked(String),
}

/// Somebody who could act, or without whom nobody can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) whom: String,
    pub(super) answer: Answer,
}

/// Asks the ledger, every other daemon, and whatever runs on this machine, all at the same time.
pub(super) async fn ask_everybody(config: &Config, deployment: &str) -> Vec<Asked> {
    let (mut asked, here) = tokio::join!(ask_others(config, deployment), ask_here(config));
    asked.push(here);
    asked
}

/// Asks the ledger and every other daemon, all at the same time.
pub(super) async fn ask_others(config: &Config, deployment: &str) -> Vec<Asked> {
    let (ledger, daemons) = tokio::join!(ask_ledger(config, deployment), ask_daemons(config));
    [ledger, daemons].concat()
}

/// Who of them is there, in words, and what to do instead of breaking the glass; none where nobody is.
pub(super) fn who_answers(asked: &[Asked]) -> Option<(String, String)> {
    let answers = asked.iter().filter_map(|asked| match &asked.answer {
        Answer::Is(said, instead) => Some((format!("{}: {said}", asked.whom), instead)),
        Answer::Silent(_) | Answer::NotAsked(_) => None,
    });
    let (who, instead): (Vec<String>, Vec<&String>) = answers.unzip();
    let instead = instead.first()?;
    Some((format!("the glass is not broken while anybody answers. {}", who.join("; ")), (*instead).clone()))
}

async fn ask_ledger(config: &Config, deployment: &str) -> Vec<Asked> {
    let instead = |what: &str| {
        format!(
            "mend {what}, and the daemons decide again; or, where that would take too long, stop what still answers and \
             break the glass then"
        )
    };
    if let Some(etcd) = &config.ledger.etcd {
        let answers = ledger::etcd_answers(etcd).await.into_iter();
        let asked = answers.map(|(endpoint, answer)| Asked {
            whom: format!("etcd at {endpoint}"),
            answer: match answer {
                Ok(said) => Answer::Is(said, instead("its quorum")),
                Err(why) => Answer::Silent(why),
            },
        });
        return asked.collect();
    }
    if let Some(bucket) = &config.ledger.s3 {
        let (whom, answer) = S3Ledger::answers(bucket, deployment, &config.probes.nameservers).await;
        let answer = match answer {
            Ok(said) => Answer::Is(said, instead("what keeps the daemons from using it")),
            Err(why) => Answer::Silent(why),
        };
        return vec![Asked { whom: format!("the ledger in {whom}"), answer }];
    }
    let path = &config.ledger.path;
    let answer = match ledger::in_use(path) {
        Ok(Some(holder)) => Answer::Is(
            format!("it is in use by {holder}"),
            "that failoverd can act: `failoverd status`, then `failoverd failover` without --break-glass".to_owned(),
        ),
        Ok(None) => Answer::Silent("nobody uses it; where it is whole, `failoverd run` is the better way".to_owned()),
        Err(LedgerError::Missing { .. }) => Answer::Silent("it is not there".to_owned()),
        Err(error) => Answer::Silent(crate::adapters::failure::describe(&error)),
    };
    vec![Asked { whom: format!("the ledger {}", path.display()), answer }]
}

async fn ask_daemons(config: &Config) -> Vec<Asked> {
    let asked = others(config).into_iter().map(|(name, region, api)| async move {
        let Some(api) = api else {
            let why = format!("the configuration has no council.observers.{name}.api");
            return Asked { whom: format!("{name} in {region}"), answer: Answer::NotAsked(why) };
        };
        let answer = match http(&api).await {
            Ok(said) => Answer::Is(
                said,
                format!(
                    "order it there: `failoverd failover --url http://{api} …`; where that daemon cannot act either (its \
                     status says so), stop it, and break the glass then"
                ),
            ),
            Err(why) => Answer::Silent(why),
        };
        Asked { whom: format!("{name} in {region} ({api})"), answer }
    });
    futures::future::join_all(asked).await
}

/// Whatever holds the address here is a daemon that may go on at any moment, even where it says nothing.
async fn ask_here(config: &Config) -> Asked {
    let mut here = config.api.listen;
    if here.ip().is_unspecified() {
        here.set_ip(match here {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let instead = "a failoverd runs on this machine: `failoverd status`, then `failoverd failover` without --break-glass; \
                   where it cannot act either, stop it (systemctl stop failoverd), and break the glass then";
    let connected = tokio::time::timeout(ANSWER_WITHIN, TcpStream::connect(here)).await;
    let answer = match connected {
        // Nothing can listen there before it begins.
        _ if here.port() == 0 => Answer::Silent("api.listen names no port".to_owned()),
        Ok(Err(error)) => Answer::Silent(error.to_string()),
        Err(_elapsed) => Answer::Silent("no connection in time".to_owned()),
        Ok(Ok(_)) => match http(&here.to_string()).await {
            Ok(said) => Answer::Is(said, instead.to_owned()),
            Err(why) => Answer::Is(format!("it takes connections ({why})"), instead.to_owned()),
        },
    };
    Asked { whom: format!("this machine ({here})"), answer }
}

/// Any answer counts: one that refuses us comes from somebody who is there.
async fn http(address: &str) -> Result<String, String> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().map_err(|e| e.to_string())?;
    match client.get(format!("http://{address}/live")).send().await {
        Ok(response) => Ok(format!("it answers {}", response.status())),
        Err(error) if error.is_timeout() => Err(format!("no answer within {ANSWER_WITHIN:?}")),
        Err(error) => Err(crate::adapters::failure::describe(&error.without_url())),
    }
}
