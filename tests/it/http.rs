//! The HTTP probe, checks and reference points against real HTTP and TLS servers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use failoverd::adapters::http::{HttpChecks, HttpProbe, HttpReference};
use failoverd::adapters::names::Names;
use failoverd::config::Config;
use failoverd::config::schema::{Http, HttpCheck, HttpRegion};
use failoverd::domain::{Finding, InstanceId, Layer, Observation, RegionId};
use failoverd::ports::{Probe, ReferenceProbe, Setback};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::http_server::{Authority, Behaviour, Server, answer, name_server};

const TIMEOUT: Duration = Duration::from_millis(800);

#[tokio::test]
async fn a_service_that_answers_as_configured_is_alive_and_each_probe_connects_anew() {
    let server = Server::start(Behaviour::Answers(answer("200 OK", "all is well")), None).await;
    let probe = probe("/health", &server, |service| service.body_contains = Some("is well".into()));
    for _ in 0..3 {
        let seen = observe(&probe).await;
        assert_eq!(seen.finding, Finding::Alive, "{seen:?}");
        assert!(seen.evidence.latency.is_some());
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_kept_connection_is_used_again() {
    let server = Server::start(Behaviour::Answers(answer("200 OK", "ok")), None).await;
    let probe = probe("/", &server, |service| service.keep_connection = true);
    for _ in 0..3 {
        assert_eq!(observe(&probe).await.finding, Finding::Alive);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn every_layer_that_fails_is_named() {
    let nobody = free_port().await;
    assert_failing(&probe_at("/", nobody), Layer::Tcp, "refused").await;
    let behaviours = [
        (Behaviour::Silent, Layer::Greeting, "no answer"),
        (Behaviour::HangsUp, Layer::Greeting, ""),
        (Behaviour::Answers("SSH-2.0-OpenSSH_9.2\r\n".into()), Layer::Greeting, ""),
        (Behaviour::Answers(answer("503 Service Unavailable", "")), Layer::Query, "answered 503, expected 200"),
        (
            Behaviour::Answers("HTTP/1.1 301 Moved\r\nLocation: https://else/\r\nContent-Length: 0\r\n\r\n".into()),
            Layer::Query,
            "redirect to https://else/",
        ),
    ];
    for (behaviour, layer, said) in behaviours {
        let server = Server::start(behaviour.clone(), None).await;
        assert_failing(&probe("/", &server, |_| {}), layer, said).await;
    }
}

#[tokio::test]
async fn a_wrong_body_is_failing_and_shows_how_it_begins() {
    let server = Server::start(Behaviour::Answers(answer("200 OK", "database unreachable")), None).await;
    let probe = probe("/", &server, |service| service.body_contains = Some("all is well".into()));
    assert_failing(&probe, Layer::Query, "begins with `database unreachable`").await;
}

#[tokio::test]
async fn a_body_without_end_is_read_only_so_far() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n";
    let server = Server::start(Behaviour::Answers(format!("{head}{}", "x".repeat(300_000))), None).await;
    let probe = probe("/", &server, |service| service.body_contains = Some("needle".into()));
    assert_failing(&probe, Layer::Query, "does not contain `needle`").await;
}

#[tokio::test]
async fn a_slow_answer_is_degraded_and_alive() {
    let slow = Behaviour::Slow(Duration::from_millis(300), answer("200 OK", ""));
    let server = Server::start(slow, None).await;
    let probe = probe("/", &server, |service| service.latency_max = Some(Duration::from_millis(100)));
    let seen = observe(&probe).await;
    assert_eq!(seen.finding, Finding::Alive);
    assert!(seen.evidence.degraded.is_some_and(|why| why.contains("the limit is 100 ms")));
}

#[tokio::test]
async fn the_configured_name_is_used_for_tls_and_host_wherever_the_connection_goes() {
    let authority = Authority::new();
    let server =
        Server::start(Behaviour::Answers(answer("200 OK", "")), Some(&authority.issue("api.example", 30))).await;
    let seen = observe(&tls_probe("https://api.example/", &server, &authority, None)).await;
    assert_eq!(seen.finding, Finding::Alive, "{seen:?}");
    // A port in the URL belongs to the Host header, not to where the connection goes.
    let seen = observe(&tls_probe("https://api.example:8443/", &server, &authority, None)).await;
    assert_eq!(seen.finding, Finding::Alive, "{seen:?}");
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_a_warning() {
    let authority = Authority::new();
    let server =
        Server::start(Behaviour::Answers(answer("200 OK", "")), Some(&authority.issue("api.example", 10))).await;
    let month = Some(Duration::from_secs(30 * 24 * 3600));
    let probe = tls_probe("https://api.example/", &server, &authority, month);
    for _ in 0..2 {
        let seen = observe(&probe).await;
        assert_eq!(seen.finding, Finding::Alive);
        assert!(seen.evidence.warnings.iter().any(|warning| warning.contains("certificate ends on")), "{seen:?}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_the_servers_failure() {
    let authority = Authority::new();
    let server =
        Server::start(Behaviour::Answers(answer("200 OK", "")), Some(&authority.issue("api.example", -1))).await;
    assert_failing(&tls_probe("https://api.example/", &server, &authority, None), Layer::Tls, "expired").await;
}

#[tokio::test]
async fn a_certificate_that_we_do_not_trust_says_nothing_about_the_server() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let unknown_issuer = theirs.issue("api.example", 30);
    let wrong_name = ours.issue("other.example", 30);
    for certificate in [unknown_issuer, wrong_name] {
        let server = Server::start(Behaviour::Answers(answer("200 OK", "")), Some(&certificate)).await;
        let seen = observe(&tls_probe("https://api.example/", &server, &ours, None)).await;
        assert!(matches!(&seen.finding, Finding::Unknown { .. }), "{seen:?}");
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_never_speaks_tls_is_failing_at_tls() {
    let authority = Authority::new();
    let server = Server::start(Behaviour::Silent, None).await;
    let probe = tls_probe("https://api.example/", &server, &authority, None);
    assert_failing(&probe, Layer::Tls, "no TLS session").await;
    let server = Server::start(Behaviour::Answers("I speak no TLS\r\n".into()), None).await;
    assert_failing(&tls_probe("https://api.example/", &server, &authority, None), Layer::Tls, "").await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_failing_only_while_a_reference_name_does() {
    let server = Server::start(Behaviour::Answers(answer("200 OK", "")), None).await;
    let url = |host: &str| format!("http://{host}:{}/", server.address.port());
    let dns = name_server(&["service.example", "reference.example"]).await;

    let known = names(dns, "reference.example:53");
    let seen = observe(&build(&url("service.example"), None, &no_tls(), &known, |_| {}).unwrap()).await;
    assert_eq!(seen.finding, Finding::Alive, "{seen:?}");
    let gone = build(&url("gone.example"), None, &no_tls(), &known, |_| {}).unwrap();
    assert_failing(&gone, Layer::Dns, "gone.example").await;

    for doubtful in [names(dns, "also-gone.example:53"), names(dns, "127.0.0.1:53")] {
        let seen = observe(&build(&url("gone.example"), None, &no_tls(), &doubtful, |_| {}).unwrap()).await;
        assert!(matches!(&seen.finding, Finding::Unknown { .. }), "{seen:?}");
    }
}

#[tokio::test]
async fn a_resolver_that_does_not_answer_is_our_own_trouble() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = names(silent.local_addr().unwrap(), "reference.example:53");
    let seen = observe(&build("http://service.example/", None, &no_tls(), &names, |_| {}).unwrap()).await;
    assert!(matches!(&seen.finding, Finding::Unknown { why } if why.contains("resolve")), "{seen:?}");
}

#[tokio::test]
async fn any_answer_of_a_reference_point_counts_and_silence_does_not() {
    let authority = Authority::new();
    let certificate = authority.issue("reference.example", 30);
    let error_page = Server::start(Behaviour::Answers(answer("500 Internal Server Error", "")), None).await;
    let untrusted = Server::start(Behaviour::Answers(answer("200 OK", "")), Some(&certificate)).await;
    let silent = Server::start(Behaviour::Silent, None).await;
    let answering = [
        format!("http://{}/", error_page.address),
        format!("https://{}/", untrusted.address),
        silent.address.to_string(),
    ];
    for address in answering {
        assert_eq!(ask(&address).await, Ok(()), "{address}");
    }
    for address in [format!("http://{}/", silent.address), free_port().await.to_string()] {
        assert!(ask(&address).await.is_err(), "{address}");
    }
}

#[tokio::test]
async fn a_check_sends_what_a_user_would_and_waits_for_what_has_to_come_back() {
    let server = Server::start(Behaviour::Answers(answer("201 Created", r#"{"agent":1}"#)), None).await;
    let west = RegionId::from("us-west-2");
    let mut check = http_check(
        &server,
        "url = 'http://{region}.example/v1/agents'\nmethod = 'post'\nbody = '{}'\nstatus = 201\n\
         body_contains = 'agent'\nrepeatable = true",
    );
    let checks = HttpChecks::new(names_of("127.0.0.1:1"), BTreeMap::new(), Arc::new(no_tls()), TIMEOUT);
    let said = checks.run(&check, &west).await.expect("it is as expected");
    assert!(said.contains("POST http://us-west-2.example/v1/agents answered 201"), "{said}");
    check.status = 200;
    let not_yet = checks.run(&check, &west).await;
    assert!(matches!(&not_yet, Err(Setback::NotYet(why)) if why.contains("answered 201, expected 200")), "{not_yet:?}");
    check.repeatable = false;
    let refused = checks.run(&check, &west).await;
    assert!(matches!(&refused, Err(Setback::Refused(why)) if why.contains("repeatable = true")), "{refused:?}");
    check.method = None;
    check.url = "nonsense".into();
    assert!(matches!(checks.prepare(&check, &west), Err(Setback::Refused(_))));
}

#[tokio::test]
async fn a_check_reads_the_json_that_comes_back_and_says_what_is_wrong_in_it() {
    let said = r#"{"status":"ok","agents":[{"id":7}],"note":null}"#;
    let server = Server::start(Behaviour::Answers(answer("200 OK", said)), None).await;
    let checks = HttpChecks::new(names_of("127.0.0.1:1"), BTreeMap::new(), Arc::new(no_tls()), TIMEOUT);
    let west = RegionId::from("us-west-2");
    let expecting =
        |answer: &str| http_check(&server, &format!("url = 'http://west.example/'\nanswer = {{ {answer} }}"));
    let right = expecting("'/status' = 'ok', '/agents/0/id' = '7', '/agents' = '*'");
    assert!(checks.run(&right, &west).await.is_ok());
    for (wrong, why) in [
        ("'/status' = 'degraded'", "with `\"ok\"` at /status, expected `degraded`"),
        ("'/agents/1/id' = '*'", "with nothing at /agents/1/id"),
        ("'/note' = '*'", "with nothing at /note"),
    ] {
        let not_yet = checks.run(&expecting(wrong), &west).await;
        assert!(matches!(&not_yet, Err(Setback::NotYet(said)) if said.contains(why)), "{wrong}: {not_yet:?}");
    }
    let text = Server::start(Behaviour::Answers(answer("200 OK", "it works")), None).await;
    let no_json = checks.run(&http_check(&text, "url = 'http://west.example/'\nanswer = { '/a' = '*' }"), &west).await;
    assert!(
        matches!(&no_json, Err(Setback::NotYet(why)) if why.contains("no JSON") && why.contains("it works")),
        "{no_json:?}"
    );
}

#[tokio::test]
async fn a_check_sends_its_headers_and_never_shows_a_secret_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "Bearer planted-secret\n").unwrap();
    let server = Server::start(Behaviour::Echoes, None).await;
    let checks = HttpChecks::new(names_of("127.0.0.1:1"), BTreeMap::new(), Arc::new(no_tls()), TIMEOUT);
    let west = RegionId::from("us-west-2");
    let sent = format!(
        "url = 'http://west.example/'\nheaders = {{ X-Canary = 'failoverd' }}\n\
         secret_headers = {{ Authorization = {{ file = '{}' }} }}\nbody_contains = ",
        file.display()
    );
    for echoed in ["x-canary: failoverd", "authorization: bearer planted-secret"] {
        let check = http_check(&server, &format!("{sent}'{echoed}'"));
        let came = checks.run(&check, &west).await;
        assert!(came.is_ok(), "{echoed}: {came:?}");
        assert!(!format!("{:?}{came:?}", check.secret_headers).contains("planted"), "{check:?}");
    }
    std::fs::remove_file(&file).unwrap();
    let gone = checks.run(&http_check(&server, &format!("{sent}'x'")), &west).await;
    assert!(matches!(&gone, Err(Setback::Transient(why)) if why.contains("Authorization")), "{gone:?}");
}

#[tokio::test]
async fn a_right_answer_that_comes_too_late_is_none() {
    let server = Server::start(Behaviour::Answers(answer("200 OK", "ok")), None).await;
    let checks = HttpChecks::new(names_of("127.0.0.1:1"), BTreeMap::new(), Arc::new(no_tls()), TIMEOUT);
    let west = RegionId::from("us-west-2");
    let limited = |limit: &str| http_check(&server, &format!("url = 'http://west.example/'\nlatency_max = '{limit}'"));
    assert!(checks.run(&limited("2s"), &west).await.is_ok());
    let late = checks.run(&limited("1us"), &west).await;
    assert!(matches!(&late, Err(Setback::NotYet(why)) if why.contains("the limit is")), "{late:?}");
}

/// As the configuration has it, led to the server.
fn http_check(server: &Server, text: &str) -> HttpCheck {
    let mut check: HttpCheck = toml::from_str(text).unwrap();
    check.connect_to = BTreeMap::from([("us-west-2".into(), server.address)]);
    check
}

async fn ask(address: &str) -> Result<(), String> {
    let reference = HttpReference::new(address, TIMEOUT, &no_tls(), &names_of("127.0.0.1:1")).unwrap();
    reference.ask().await
}

async fn observe(probe: &HttpProbe) -> Observation {
    let started = tokio::time::Instant::now();
    let seen = probe.observe(Duration::from_secs(7)).await;
    assert!(started.elapsed() < TIMEOUT + Duration::from_millis(300), "it keeps its own timeout: {seen:?}");
    assert_eq!(seen.began, Duration::from_secs(7));
    seen
}

async fn assert_failing(probe: &HttpProbe, layer: Layer, said: &str) {
    let seen = observe(probe).await;
    let named = matches!(&seen.finding, Finding::Failing { layer: at, why } if *at == layer && why.to_lowercase().contains(&said.to_lowercase()));
    assert!(named, "expected {layer} and `{said}`: {seen:?}");
}

fn probe(path: &str, server: &Server, change: impl FnOnce(&mut Http)) -> HttpProbe {
    let url = format!("http://{}{path}", server.address);
    build(&url, None, &no_tls(), &names_of("127.0.0.1:1"), change).unwrap()
}

fn probe_at(path: &str, address: SocketAddr) -> HttpProbe {
    build(&format!("http://{address}{path}"), None, &no_tls(), &names_of("127.0.0.1:1"), |_| {}).unwrap()
}

fn tls_probe(url: &str, server: &Server, authority: &Authority, warning: Option<Duration>) -> HttpProbe {
    let trust = trusting(&authority.ca_file());
    build(url, Some(server.address), &trust, &names_of("127.0.0.1:1"), |service| {
        service.certificate_warning = warning;
    })
    .unwrap()
}

fn build(
    url: &str,
    connect_to: Option<SocketAddr>,
    trust: &ClientConfig,
    names: &Arc<Names>,
    change: impl FnOnce(&mut Http),
) -> Result<HttpProbe, String> {
    let region = HttpRegion { url: url.to_owned(), connect_to };
    let mut service = Http {
        critical: false,
        client_path: false,
        trigger: None,
        probe: Default::default(),
        status: 200,
        body_contains: None,
        latency_max: None,
        certificate_warning: None,
        keep_connection: false,
        regions: BTreeMap::new(),
    };
    change(&mut service);
    HttpProbe::new(InstanceId::new("web", "east"), &service, &region, TIMEOUT, trust, names)
}

pub(crate) fn no_tls() -> ClientConfig {
    roots(rustls::RootCertStore::empty())
}

fn trusting(ca_file: &Path) -> ClientConfig {
    let mut store = rustls::RootCertStore::empty();
    store.add(CertificateDer::from_pem_file(ca_file).unwrap()).unwrap();
    roots(store)
}

fn roots(store: rustls::RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth()
}

pub(crate) fn names_of(reference: &str) -> Arc<Names> {
    Names::new(&configuration("", reference))
}

fn names(name_server: SocketAddr, reference: &str) -> Arc<Names> {
    Names::new(&configuration(&format!("nameservers = [\"{name_server}\"]\n"), reference))
}

fn configuration(probes: &str, reference: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[observer]\nregion = \"eu-west-1\"\n\
         [ledger]\npath = \"{0}/ledger\"\nstop_file = \"{0}/STOP\"\n\
         [probes]\ntimeout = \"800ms\"\n{probes}\
         [references.a]\naddress = \"{reference}\"\n[references.b]\naddress = \"127.0.0.1:2\"\n\
         [regions.east]\nrole = \"primary\"\n[regions.west]\nrole = \"secondary\"\n\
         [http.web.regions.east]\nurl = \"http://127.0.0.1/\"\n[http.web.regions.west]\nurl = \"http://127.0.0.1/\"\n",
        folder.path().display()
    );
    let path = folder.path().join("failoverd.toml");
    std::fs::write(&path, &text).unwrap();
    failoverd::config::load(&[path], &BTreeMap::new()).unwrap_or_else(|error| panic!("{error}\n{text}")).config
}

/// A port that nobody listens on.
async fn free_port() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
