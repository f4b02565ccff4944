//! The ledger in a bucket: on a real store with conditional writes, and refused by one without.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use failoverd::config::SecretSource;
use failoverd::config::schema::{Credentials, S3Ledger as Settings};
use failoverd::daemon::clock::SystemClock;
use failoverd::domain::Now;
use failoverd::ledger::S3Ledger;
use failoverd::ports::{AppendError, Clock, Ledger, Unusable};

use super::etcd::Links;
use super::{Daemon, Place, Site, ballot, frame, promises, words};
use crate::lab::Lab;
use crate::link::TcpLink;

const LEASE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_keeps_what_a_ledger_promises_to_one_daemon() {
    promises::to_one_daemon(&Bucket::up()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_keeps_what_a_ledger_promises_to_several_daemons() {
    promises::to_several_daemons(&Bucket::up(), 0..3).await;
}

/// A process that was stopped wakes up in the middle of its append, long after another one led.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_through_its_lease_records_nothing_behind_the_fence() {
    let bucket = Bucket::up();
    let site = bucket.site("slept");
    let (old, new) = (site.daemon("old").await, site.daemon("new").await);
    let first = old.lead(&site).await;
    old.say(&first, "old").await.map(drop).expect("appends");
    let second = new.lead_in_time(&site).await;
    // The new leader has recorded nothing yet: its mark alone is in the way.
    let late = old.ledger.append(frame(2, first.epoch, "late")).await;
    assert!(matches!(late, Err(AppendError::Fenced { epoch }) if epoch == second.epoch), "{late:?}");
    assert_eq!(new.next().await, 2);
    new.say(&second, "new").await.map(drop).expect("appends");
    assert_eq!(old.heard().await, ["old", "new"]);
    // A person may look at it without taking part.
    let contents = S3Ledger::contents(&site.settings, "slept", &[]).await.expect("reads");
    assert_eq!((contents.count, words(&contents.frames)), (3, vec!["old".into(), "new".into()]));
    let none = S3Ledger::contents(&site.settings, "elsewhere", &[]).await.expect_err("is not there");
    assert!(none.to_string().contains("there is none yet"), "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_missing_in_the_middle_halts_whoever_reads() {
    let bucket = Bucket::up();
    let site = bucket.site("gap");
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(&site).await;
    for word in ["a", "b", "c"] {
        daemon.say(&lease, word).await.map(drop).expect("appends");
    }
    bucket.remove("failoverd/gap/frames/00000000000000000003");
    let other = site.daemon("other").await;
    let error = other.ledger.read_from(0).await.expect_err("a gap").to_string();
    assert!(error.contains("is damaged in frame 3: it is missing"), "{error}");
    assert!(matches!(other.ledger.campaign(site.now()).await, Ok(_) | Err(Unusable::Halted(_))));
    daemon.ledger.resign().await;
    let candidacy = other.ledger.campaign(site.now()).await;
    assert!(matches!(&candidacy, Err(Unusable::Halted(why)) if why.contains("missing")), "{candidacy:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_credential_is_named() {
    let bucket = Bucket::up();
    let right = bucket.site("refused").settings;
    let literal = |text: &str| SecretSource::Literal(text.into());
    let wrong = Credentials { access_key: literal("labkey"), secret_key: literal("wrong-secret") };
    let unknown = Credentials { access_key: literal("nobody"), secret_key: literal("wrong-secret") };
    for (settings, words) in [
        (Settings { credentials: Some(wrong), ..right.clone() }, "SignatureDoesNotMatch"),
        (Settings { credentials: Some(unknown), ..right.clone() }, "InvalidAccessKeyId"),
    ] {
        let ledger = open(&settings, "refused", "one");
        let error = ledger.campaign(SystemClock.now()).await.expect_err(words);
        assert!(matches!(&error, Unusable::Refused(why) if why.contains(words)), "{error:?}");
        assert!(!error.to_string().contains("wrong-secret"), "{error}");
        assert_eq!(ledger.standing().trouble, Some(error));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ignores_the_conditions_of_a_write_is_refused_before_anything_is_recorded() {
    let store = careless::Store::start().await;
    for (ignored, words) in [("if-none-match", "ignores If-None-Match"), ("if-match", "ignores If-Match")] {
        store.ignore(ignored);
        let settings = Settings { endpoint: Some(store.endpoint()), ..settings("http://127.0.0.1:1") };
        let ledger = open(&settings, ignored, "one");
        let error = ledger.campaign(SystemClock.now()).await.expect_err("is refused");
        assert!(matches!(&error, Unusable::Refused(why) if why.contains(words)), "{error:?}");
        assert!(error.to_string().contains("two daemons could act at once"), "{error}");
        assert!(ledger.read_from(0).await.is_err());
        assert_eq!(store.keys(), [""; 0], "nothing was recorded");
    }
    store.ignore("");
    let settings = Settings { endpoint: Some(store.endpoint()), ..settings("http://127.0.0.1:1") };
    let ledger = open(&settings, "careful", "one");
    ledger.campaign(SystemClock.now()).await.expect("answers").lease().expect("leads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_won_the_record_and_not_set_its_fence_confirms_nothing() {
    let store = careless::Store::start().await;
    let rarely = Duration::from_secs(3600);
    let settings = Settings { endpoint: Some(store.endpoint()), poll: rarely, ..settings("http://127.0.0.1:1") };
    let ledger = open(&settings, "unfenced", "one");
    // The one look that it has.
    let began = SystemClock.now();
    let confirmed = || ledger.standing().confirmed;
    while confirmed().is_none() {
        assert!(SystemClock.now().monotonic < began.monotonic + LEASE, "{:?}", ledger.standing());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = confirmed();
    store.refuse("/frames/");
    // The record is written, then renewed; what others recorded meanwhile is not known either time.
    for _ in 0..2 {
        ledger.campaign(SystemClock.now()).await.expect_err("there is no fence");
        assert_eq!(confirmed(), before);
    }
    assert!(store.keys().iter().any(|key| key.ends_with("live/leader")), "{:?}", store.keys());
    store.refuse("no such key");
    ledger.campaign(SystemClock.now()).await.expect("answers").lease().expect("leads");
    assert!(confirmed() > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bucket_costs_when_nothing_happens_is_known() {
    let bucket = Bucket::up();
    let site = bucket.site("traffic");
    let daemons = [site.linked("a").await, site.linked("b").await, site.linked("c").await];
    daemons[0].0.lead(&site).await;
    let bytes = || daemons.iter().map(|(_, links)| links.bytes()).max().unwrap_or(0);
    let mut before = 0;
    for round in 0..5 {
        for ((daemon, _), name) in daemons.iter().zip(["a", "b", "c"]) {
            daemon.ledger.publish(&ballot(name, round)).await.expect("publishes");
        }
        daemons[0].0.ledger.renew(site.now()).await.expect("answers").expect("leads");
        tokio::time::sleep(Duration::from_secs(2)).await;
        if round == 0 {
            before = bytes();
        }
    }
    // Every request carries a signature and every answer a name: with looks every 250 ms as here, 8 times the default.
    let each = (bytes() - before) as f64 / 8.0;
    println!("idle traffic of the busiest of three daemons: {each:.0} bytes/s, both ways");
    assert!(each < 64.0 * 1024.0, "{each:.0} bytes/s");
}

fn open(settings: &Settings, deployment: &str, observer: &str) -> S3Ledger {
    S3Ledger::open(settings, deployment, observer.into(), &[], Arc::new(SystemClock)).expect("opens")
}

fn settings(endpoint: &str) -> Settings {
    let literal = |text: &str| SecretSource::Literal(text.into());
    Settings {
        bucket: "omnimesh-prod-us-east-1".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        ca_file: None,
        credentials: Some(Credentials { access_key: literal("labkey"), secret_key: literal("labsecret") }),
        prefix: "failoverd/".to_owned(),
        lease: LEASE,
        poll: Duration::from_millis(250),
    }
}

struct Bucket {
    lab: Lab,
}

impl Bucket {
    fn up() -> Self {
        Self { lab: Lab::up("s3", &[]) }
    }

    fn site(&self, name: &str) -> OneBucket {
        OneBucket { settings: settings(self.lab.text("/regions/us-east-1/s3/endpoint")), name: name.to_owned() }
    }

    /// As somebody with too many rights would do.
    fn remove(&self, key: &str) {
        let endpoint = self.lab.text("/regions/us-east-1/s3/endpoint");
        let python = format!("{}/venv/bin/python", cache());
        let script = "import sys; sys.path.insert(0, sys.argv[1]); from components import s3; \
                      s3.client(sys.argv[2], 'us-east-1').delete_object(Bucket='omnimesh-prod-us-east-1', Key=sys.argv[3])";
        let lab = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab");
        let status = std::process::Command::new(python).args(["-B", "-c", script, lab, endpoint, key]).status();
        assert!(status.expect("python is installed").success());
    }
}

fn cache() -> String {
    let home = || format!("{}/.cache/failoverd-lab", std::env::var("HOME").expect("a home"));
    std::env::var("FAILOVERD_LAB_CACHE").unwrap_or_else(|_| home())
}

#[async_trait]
impl Place for Bucket {
    async fn ledger(&self, name: &str) -> Box<dyn Site> {
        Box::new(self.site(name))
    }
}

struct OneBucket {
    settings: Settings,
    name: String,
}

impl OneBucket {
    async fn linked(&self, observer: &str) -> (Daemon, Arc<Links>) {
        let endpoint = self.settings.endpoint.as_deref().expect("an endpoint");
        let address: SocketAddr = endpoint.trim_start_matches("http://").parse().expect("an address");
        let link = TcpLink::to(address).await;
        let settings = Settings { endpoint: Some(format!("http://{}", link.address)), ..self.settings.clone() };
        let links = Arc::new(Links(vec![link]));
        let ledger = Arc::new(open(&settings, &self.name, observer));
        (Daemon { ledger, link: links.clone() }, links)
    }
}

#[async_trait]
impl Site for OneBucket {
    async fn daemon(&self, observer: &str) -> Daemon {
        self.linked(observer).await.0
    }

    fn now(&self) -> Now {
        SystemClock.now()
    }

    async fn wait(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn lasting(&self) -> Duration {
        LEASE
    }
}

/// A store in memory that keeps some conditions of a write and ignores others, as many S3-compatible ones do.
mod careless {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::State;
    use axum::http::{HeaderMap, Method, StatusCode, Uri};
    use axum::response::{IntoResponse, Response};

    #[derive(Clone, Default)]
    struct Content {
        ignored: Arc<Mutex<String>>,
        refused: Arc<Mutex<Option<String>>>,
        objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    }

    pub(super) struct Store {
        content: Content,
        address: std::net::SocketAddr,
        task: tokio::task::JoinHandle<()>,
    }

    impl Store {
        pub(super) async fn start() -> Self {
            let content = Content::default();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let router = Router::new().fallback(serve).with_state(content.clone());
            let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
            Self { content, address, task }
        }

        pub(super) fn endpoint(&self) -> String {
            format!("http://{}", self.address)
        }

        pub(super) fn ignore(&self, header: &str) {
            *self.content.ignored.lock().expect("no panic") = header.to_owned();
        }

        /// Writes of keys with this in them fail from now on.
        pub(super) fn refuse(&self, part: &str) {
            *self.content.refused.lock().expect("no panic") = Some(part.to_owned());
        }

        pub(super) fn keys(&self) -> Vec<String> {
            self.content.objects.lock().expect("no panic").keys().cloned().collect()
        }
    }

    impl Drop for Store {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    fn tag(body: &[u8]) -> String {
        format!("\"{}\"", &blake3::hash(body).to_hex()[..32])
    }

    fn error(status: StatusCode, code: &str) -> Response {
        (status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>"))
            .into_response()
    }

    async fn serve(
        State(store): State<Content>,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Response {
        let key = uri.path().splitn(3, '/').nth(2).unwrap_or_default().to_owned();
        let ignored = store.ignored.lock().expect("no panic").clone();
        let refused = store.refused.lock().expect("no panic").clone();
        if method == Method::PUT && refused.is_some_and(|refused| key.contains(&refused)) {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        let mut objects = store.objects.lock().expect("no panic");
        let there = objects.get(&key).cloned();
        let condition = |name: &str| (name != ignored).then(|| headers.get(name)).flatten();
        match method {
            Method::PUT => {
                let is = |value: &axum::http::HeaderValue| {
                    there.as_ref().is_some_and(|there| value.as_bytes() == tag(there).as_bytes())
                };
                if (condition("if-none-match").is_some() && there.is_some())
                    || condition("if-match").is_some_and(|value| !is(value))
                {
                    return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
                }
                let tag = tag(&body);
                objects.insert(key, body);
                [("etag", tag)].into_response()
            }
            Method::GET if uri.query().is_some_and(|query| query.contains("list-type")) => {
                "<?xml version=\"1.0\"?><ListBucketResult><Name>b</Name></ListBucketResult>".into_response()
            }
            Method::GET => match there {
                Some(there) => ([("etag", tag(&there))], there).into_response(),
                None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
            },
            Method::DELETE => {
                objects.remove(&key);
                StatusCode::NO_CONTENT.into_response()
            }
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }
}
