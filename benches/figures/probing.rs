//! What it costs to probe: a thousand instances once a second, by the daemon itself and over real connections.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::servers::Servers;
use crate::table::{Figure, Goal};

/// Regions, and the second byte of the addresses of their HTTP services.
const REGIONS: [(&str, u8); 2] = [("east", 1), ("west", 2)];
/// Caches fill, connections settle, the allocator finds its size.
const WARM_UP: Duration = Duration::from_secs(8);
/// Long enough that a hundredth of a second more or less is nothing.
const MEASURED: Duration = Duration::from_secs(30);
/// Where nothing is promised, a shorter look is enough.
const LOOKED: Duration = Duration::from_secs(15);

/// One way of probing.
struct Case {
    name: &'static str,
    what: String,
    config: String,
    instances: usize,
    /// Share of one core, in percent; resident bytes.
    goals: (Option<f64>, Option<f64>),
    /// Every probe makes a connection.
    new_connections: bool,
}

/// With plain HTTP and TLS, and what is promised of it.
pub(crate) fn http(folder: &Path) -> Result<Vec<Figure>> {
    let servers = Servers::start(folder)?;
    let mib = 1024.0 * 1024.0;
    let case = |name, what: &str, scheme, keep, goals| Case {
        name,
        what: what.to_owned(),
        config: services(&servers, folder, scheme, keep),
        instances: 1000,
        goals,
        new_connections: !keep,
    };
    let cases = [
        case("http", "HTTP, a new connection each", "http", false, (Some(20.0), Some(64.0 * mib))),
        case("http-kept", "HTTP, kept connections", "http", true, (Some(10.0), None)),
        case("https", "HTTPS, a new connection and session each", "https", false, (None, None)),
        case("https-kept", "HTTPS, kept connections", "https", true, (None, None)),
    ];
    let mut figures = Vec::new();
    for case in cases {
        figures.extend(measure(folder, &servers, case)?);
    }
    Ok(figures)
}

/// With the SDKs: nothing is promised, the figures are there to plan with.
pub(crate) fn sdks(folder: &Path) -> Result<Vec<Figure>> {
    let servers = Servers::start(folder)?;
    let lab = Lab::up("pg,redis")?;
    let case = |name, what: &str, instances, new_connections, config| Case {
        name,
        what: what.to_owned(),
        config,
        instances,
        goals: (None, None),
        new_connections,
    };
    let cases = [
        case("s3", "S3, list one key", 1000, false, buckets(&servers, folder, 500, "")),
        case(
            "kubernetes",
            "Kubernetes, /version over TLS, a new connection each",
            200,
            true,
            clusters(&servers, folder),
        ),
        case("redis", "Redis, PING and INFO, a new connection each", 1000, false, caches(&servers, folder, &lab)),
        // Every connection is a process of the server: more of them would measure PostgreSQL.
        case(
            "postgresql",
            "PostgreSQL, TLS and SCRAM, a new connection each",
            100,
            false,
            databases(&servers, folder, &lab),
        ),
    ];
    let mut figures = Vec::new();
    for case in cases {
        figures.extend(measure(folder, &servers, case)?);
    }
    Ok(figures)
}

fn measure(folder: &Path, servers: &Servers, case: Case) -> Result<Vec<Figure>> {
    let daemon = Daemon::start(&folder.join(case.name), "approve", &case.config)?;
    daemon.all_alive(Duration::from_secs(60))?;
    daemon.adopt()?;
    std::thread::sleep(WARM_UP);
    let lasting = if case.goals.0.is_some() { MEASURED } else { LOOKED };
    let (began, time, (connections, _)) = (Instant::now(), daemon.processor_time()?, servers.counters()?);
    let probes = daemon.metric("failoverd_probes_total", "kind=")?;
    let failed = daemon.metric("failoverd_probes_total", "finding=\"failing\"")?;
    std::thread::sleep(lasting);
    let time = daemon.processor_time()?.saturating_sub(time);
    let took = began.elapsed().as_secs_f64();
    let connections = (servers.counters()?.0 - connections) as f64 / took;
    let probes = (daemon.metric("failoverd_probes_total", "kind=")? - probes) / took;
    let failed = daemon.metric("failoverd_probes_total", "finding=\"failing\"")? - failed;
    let (resident, peak) = daemon.memory()?;
    let expected = case.instances as f64;
    ensure!(probes > 0.95 * expected, "{}: only {probes:.0} probes a second, {expected} were expected", case.name);
    ensure!(failed < 0.01 * expected * took, "{}: {failed} probes failed", case.name);
    ensure!(!case.new_connections || connections > 0.95 * expected, "{}: {connections:.0} connections", case.name);
    let share = 100.0 * time.as_secs_f64() / took;
    let each = 1e6 * time.as_secs_f64() / (probes * took);
    let note = format!("{probes:.0} probes/s, {each:.0} µs each");
    let what = format!("{} × 1/s: {}", case.instances, case.what);
    Ok(vec![
        Figure {
            name: format!("{}-cpu", case.name),
            what: format!("{what}: processor"),
            value: share,
            unit: "% of a core",
            goal: case.goals.0.map(Goal::Below),
            note,
        },
        Figure {
            name: format!("{}-rss", case.name),
            what: format!("{what}: memory"),
            value: resident as f64 / (1024.0 * 1024.0),
            unit: "MiB resident",
            goal: case.goals.1.map(|bytes| Goal::Below(bytes / (1024.0 * 1024.0))),
            note: format!("peak {:.0} MiB", peak as f64 / (1024.0 * 1024.0)),
        },
    ])
}

/// What every configuration of the bench has: two regions, two reference points, one probe a second.
pub(crate) fn ground(servers: &Servers, folder: &Path) -> String {
    let mut text = "[probes]\ninterval = \"1s\"\ntimeout = \"900ms\"\n".to_owned();
    for (region, role) in [("east", "primary"), ("west", "secondary")] {
        let _ = write!(
            text,
            "[regions.{region}]\nrole = \"{role}\"\nca_file = \"{}\"\n\
             credentials = {{ access_key = \"bench\", secret_key = \"bench\" }}\n\
             endpoints = {{ s3 = \"http://127.0.0.1:{}\" }}\n",
            folder.join("ca.crt").display(),
            servers.http,
        );
    }
    for (name, address) in [("one", "127.0.3.1"), ("two", "127.0.3.2")] {
        let _ = writeln!(text, "[references.{name}]\naddress = \"http://{address}:{}/health\"", servers.http);
    }
    text
}

fn services(servers: &Servers, folder: &Path, scheme: &str, keep: bool) -> String {
    let mut text = ground(servers, folder);
    add_services(&mut text, servers, scheme, keep, 500);
    text
}

/// So many services, each with an instance in both regions.
pub(crate) fn add_services(text: &mut String, servers: &Servers, scheme: &str, keep: bool, count: usize) {
    for n in 0..count {
        let _ = writeln!(text, "[http.service-{n}]\nkeep_connection = {keep}");
        for (region, second) in REGIONS {
            let address = format!("127.{second}.{}.{}", n / 250, n % 250 + 1);
            let _ = writeln!(text, "[http.service-{n}.regions.{region}]");
            let _ = if scheme == "http" {
                writeln!(text, "url = \"http://{address}:{}/health\"", servers.http)
            } else {
                let port = servers.https;
                writeln!(text, "url = \"https://bench.test:{port}/health\"\nconnect_to = \"{address}:{port}\"")
            };
        }
    }
}

/// So many buckets in both regions; `more` is said of each.
pub(crate) fn buckets(servers: &Servers, folder: &Path, count: usize, more: &str) -> String {
    let mut text = ground(servers, folder);
    for n in 0..count {
        let _ = writeln!(text, "[buckets.bucket-{n}]\ncheck_replication = false\n{more}");
        for (region, _) in REGIONS {
            let _ = writeln!(text, "[buckets.bucket-{n}.regions.{region}]\nbucket = \"bucket-{n}-{region}\"");
        }
    }
    text
}

fn clusters(servers: &Servers, folder: &Path) -> String {
    let mut text = ground(servers, folder);
    for n in 0..100 {
        let _ = writeln!(text, "[clusters.cluster-{n}]\nnamespace = \"bench\"");
        for (place, (region, _)) in REGIONS.iter().enumerate() {
            let server = format!("https://127.0.0.{}:{}", 1 + place * 4 + n % 4, servers.https);
            let _ = writeln!(text, "[clusters.cluster-{n}.regions.{region}]\nserver = \"{server}\"\ntoken = \"bench\"");
        }
    }
    text
}

fn caches(servers: &Servers, folder: &Path, lab: &Lab) -> String {
    let mut text = ground(servers, folder);
    for n in 0..500 {
        let _ = writeln!(text, "[caches.cache-{n}]\nprovider = \"redis\"");
        for ((region, _), place) in REGIONS.iter().zip(crate::lab::REGIONS) {
            let _ = writeln!(
                text,
                "[caches.cache-{n}.regions.{region}]\nhost = \"{}\"\nport = {}",
                lab.text(&format!("/regions/{place}/redis/host")),
                lab.number(&format!("/regions/{place}/redis/port")),
            );
        }
    }
    text
}

fn databases(servers: &Servers, folder: &Path, lab: &Lab) -> String {
    // One authority for a region: the lab's, which signed the certificates of its databases.
    let text = ground(servers, folder);
    let mut text = text.replace(&folder.join("ca.crt").display().to_string(), lab.text("/ca_file"));
    for n in 0..50 {
        let _ = writeln!(
            text,
            "[databases.database-{n}]\nprovider = \"postgres\"\nname = \"{}\"\nuser = \"failoverd\"\npassword = \"{}\"",
            lab.text("/regions/us-east-1/postgres/database"),
            lab.text("/regions/us-east-1/postgres/passwords/failoverd"),
        );
        for ((region, _), place) in REGIONS.iter().zip(crate::lab::REGIONS) {
            let _ = writeln!(
                text,
                "[databases.database-{n}.regions.{region}]\nhost = \"{}\"\nport = {}",
                lab.text(&format!("/regions/{place}/postgres/host")),
                lab.number(&format!("/regions/{place}/postgres/port")),
            );
        }
    }
    text
}
