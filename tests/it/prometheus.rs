//! Checks by numbers, on a real Prometheus server (Debian package prometheus).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use failoverd::adapters::http::HttpChecks;
use failoverd::config::schema::PrometheusCheck;
use failoverd::domain::RegionId;
use failoverd::ports::Setback;

use crate::http::{names_of, no_tls};

struct Server {
    child: Child,
    at: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    /// It scrapes itself, and nothing else.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = folder.path().join("prometheus.yml");
        let scrape = format!(
            "scrape_configs: [{{job_name: itself, scrape_interval: 1s, static_configs: [{{targets: ['{at}']}}]}}]\n"
        );
        std::fs::write(&file, scrape).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--web.listen-address={at}"))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed (Debian package prometheus)");
        Self { child, at, _folder: folder }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_number_of_prometheus_is_within_its_limits_or_the_check_says_what_it_is() {
    let server = Server::start();
    let names = names_of("127.0.0.1:1");
    let checks = HttpChecks::new(names, BTreeMap::new(), Arc::new(no_tls()), Duration::from_secs(5));
    let east = RegionId::from("us-east-1");
    let asked = |query: &str, limits: (Option<f64>, Option<f64>)| PrometheusCheck {
        url: format!("http://{}/", server.at),
        query: query.to_owned(),
        min: limits.0,
        max: limits.1,
        secret_headers: BTreeMap::new(),
    };
    // Until it has started and scraped itself once, it is not known: nothing is well because nobody measured it.
    let up = asked("up{job=\"itself\"}", (Some(1.0), None));
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        match checks.query(&up, &east).await {
            Ok(seen) => {
                assert_eq!(seen, "the query answers 1");
                break;
            }
            Err(Setback::NotYet(_)) if Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(checks.query(&asked("0.5", (None, Some(0.5))), &east).await.is_ok(), "a scalar");
    let both = asked("label_replace(vector(3), \"region\", \"{region}\", \"\", \"\")", (Some(1.0), Some(5.0)));
    assert!(checks.query(&both, &east).await.is_ok());
    for (query, why) in [
        ("vector(0.2)", "0.2, more than 0.1"),
        ("errors_in{region=\"{region}\"}", "answers nothing"),
        ("vector(0) / vector(0)", "NaN"),
        ("sum(", "parse error"),
    ] {
        let said = checks.query(&asked(query, (None, Some(0.1))), &east).await;
        assert!(matches!(&said, Err(Setback::NotYet(said)) if said.contains(why)), "{query}: {said:?}");
    }
    let range = checks.query(&asked("up[1m]", (None, Some(1.0))), &east).await;
    assert!(matches!(&range, Err(Setback::Refused(why)) if why.contains("instant query")), "{range:?}");
}
