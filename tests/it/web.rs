//! The HTTP side with real requests: every route, who may do what, and what bad input gets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::time::Duration;

use failoverd::config::SecretSource;
use failoverd::decide::{Fact, Status};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::daemon_shell::{Shell, omnimesh};

#[tokio::test]
async fn every_route_answers_whoever_has_the_token() {
    let lab = Lab::start().await;
    let status: Status = serde_json::from_value(lab.get("/v1/status").await.json()).unwrap();
    assert_eq!(status.deployment, omnimesh().deployment);

    let explained = lab.get("/v1/explain").await;
    assert!(explained.head.contains("text/plain"), "{}", explained.head);
    assert!(explained.body.contains("failoverd adopt"), "{}", explained.body);
    let json = lab.ask("GET", "/v1/explain", &["Accept: application/json"], "").await.json();
    assert_eq!(json["explanation"], Value::String(explained.body));

    let plan = lab.get("/v1/plan?if=region:us-east-1").await.json();
    assert_eq!((&plan["source"], &plan["target"]), (&json!("us-east-1"), &json!("us-west-2")));
    assert!(plan["steps"].as_array().unwrap().len() > 5);
    let plan = lab.get("/v1/plan?if=component:database").await.json();
    assert!(plan["steps"].to_string().contains("database_promoted"), "{plan}");

    let frames = lab.get("/v1/facts").await.json();
    assert_eq!(frames[0]["index"], 0);
    assert_eq!(frames[1]["facts"][0]["fact"], "epoch_started");
    let second = lab.get("/v1/facts?from=1&limit=1").await.json();
    assert_eq!((second.as_array().unwrap().len(), &second[0]["index"]), (1, &json!(1)));

    for open in ["/live", "/ready", "/metrics"] {
        assert_eq!(lab.ask_anonymously("GET", open).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn a_command_is_in_effect_when_it_is_answered_and_refused_with_the_reason() {
    let lab = Lab::start().await;
    let answer = lab.command(r#"{"command":"adopt","by":"alice"}"#).await;
    assert_eq!((answer.status, &answer.json()["in_effect"]), (200, &json!(true)), "{}", answer.body);
    assert!(lab.shell.facts().iter().any(|fact| matches!(fact, Fact::PlacementAdopted { by, .. } if by == "alice")));

    let answer = lab.command(r#"{"command":"hold","by":"alice","incident":"inc-7"}"#).await;
    assert_eq!((answer.status, &answer.json()["in_effect"]), (409, &json!(false)), "{}", answer.body);
    assert!(answer.json()["error"].as_str().unwrap().contains("inc-7"), "{}", answer.body);
}

#[tokio::test]
async fn a_halted_daemon_says_that_a_command_is_not_in_effect_and_is_ready_all_the_same() {
    let clock = super::daemon_shell::TestClock::default();
    let disk = failoverd::ledger::MemoryDisk::new("0190-test", failoverd::ports::Clock::now(&clock));
    let full = Some((1, failoverd::ledger::Sabotage::Full));
    let lab = Lab::on(Shell::start_on(omnimesh(), clock, disk, full).await).await;
    let answer = lab.command(r#"{"command":"adopt","by":"alice"}"#).await;
    // What a disk that failed has kept shows at the next start; after that nothing is recorded any more.
    assert_eq!((answer.status, &answer.json()["in_effect"]), (504, &json!(null)), "{}", answer.body);
    let answer = lab.command(r#"{"command":"adopt","by":"alice"}"#).await;
    assert_eq!((answer.status, &answer.json()["in_effect"]), (503, &json!(false)), "{}", answer.body);
    assert!(answer.body.contains("the disk is full"), "{}", answer.body);
    assert_eq!(lab.get("/ready").await.status, 200);
    assert!(lab.get("/v1/explain").await.body.contains("the disk is full"));
    let metrics = lab.get("/metrics").await.body;
    assert!(metrics.contains("failoverd_ledger_healthy 0") && metrics.contains("failoverd_able_to_act 0"), "{metrics}");
}

#[tokio::test]
async fn without_the_token_nothing_is_changed_or_revealed() {
    let lab = Lab::start().await;
    let before = lab.shell.facts().len();
    for (method, path) in [
        ("GET", "/v1/status"),
        ("GET", "/v1/explain"),
        ("GET", "/v1/plan?if=region:us-east-1"),
        ("GET", "/v1/facts"),
        ("POST", "/v1/command"),
        ("GET", "/v1/no-such-thing"),
        ("DELETE", "/v1/status"),
    ] {
        for token in ["", "Authorization: Bearer ", "Authorization: Bearer wrong", "Authorization: Basic c2VjcmV0"] {
            let headers: Vec<_> =
                [token, "Content-Type: application/json"].into_iter().filter(|h| !h.is_empty()).collect();
            let answer = lab.send(method, path, &headers, r#"{"command":"adopt","by":"mallory"}"#).await;
            assert_eq!((answer.status, answer.body.as_str()), (401, r#"{"error":"unauthorized"}"#), "{method} {path}");
        }
    }
    assert_eq!(lab.shell.facts().len(), before);
    assert!(lab.get("/metrics").await.body.lines().any(|line| line.starts_with("failoverd_api_unauthorized_total 28")));
}

#[tokio::test]
async fn a_token_in_a_file_can_be_rotated_without_a_restart() {
    let lab = Lab::start().await;
    assert_eq!(lab.get("/v1/status").await.status, 200);
    std::fs::write(lab.shell.folder().join("token"), "another one\n").unwrap();
    assert_eq!(lab.get("/v1/status").await.status, 401);
    let header = ["Authorization: Bearer another one"];
    assert_eq!(lab.send("GET", "/v1/status", &header, "").await.status, 200);
    // A token that is gone opens nothing.
    std::fs::remove_file(lab.shell.folder().join("token")).unwrap();
    assert_eq!(lab.send("GET", "/v1/status", &header, "").await.status, 503);
    std::fs::write(lab.shell.folder().join("token"), "").unwrap();
    assert_eq!(lab.send("GET", "/v1/status", &["Authorization: Bearer "], "").await.status, 401);
}

#[tokio::test]
async fn without_a_configured_token_local_clients_may_look_and_nobody_may_order() {
    let shell = Shell::start(omnimesh()).await;
    let address = shell.serve_api(None).await;
    let ask = async |host: &str, method: &str, path: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        );
        raw(address, request.as_bytes()).await
    };
    assert_eq!(ask("127.0.0.1", "GET", "/v1/status").await.status, 200);
    // A web page that points its own name at this machine is no local client.
    assert_eq!(ask("evil.example", "GET", "/v1/status").await.status, 403);
    let refused = ask("127.0.0.1", "POST", "/v1/command").await;
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("NOT IN EFFECT") && refused.body.contains("api.token"), "{}", refused.body);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_what_would() {
    let lab = Lab::start().await;
    let json = ["Content-Type: application/json"];
    for (method, path, headers, body, status, says) in [
        ("GET", "/v1/nothing", &[][..], "", 404, "there is nothing here"),
        ("GET", "/", &[], "", 404, "there is nothing here"),
        ("POST", "/v1/status", &[], "", 405, "method"),
        ("GET", "/v1/command", &[], "", 405, "method"),
        ("GET", "/v1/plan", &[], "", 400, "component:database"),
        ("GET", "/v1/plan?if=everything", &[], "", 400, "component:database"),
        ("GET", "/v1/plan?if=region:mars", &[], "", 422, "mars"),
        ("GET", "/v1/facts?from=-1", &[], "", 400, "from"),
        ("GET", "/v1/facts?limit=0", &[], "", 400, "limit"),
        ("GET", "/v1/facts?limit=100000", &[], "", 400, "limit"),
        ("GET", "/v1/facts?wait=forever", &[], "", 400, "10s"),
        ("GET", "/v1/facts?form=1", &[], "", 400, "form"),
        ("POST", "/v1/command", &json, "", 400, "NOT IN EFFECT"),
        ("POST", "/v1/command", &json, "{", 400, "NOT IN EFFECT"),
        ("POST", "/v1/command", &json, r#"{"command":"explode","by":"alice"}"#, 400, "explode"),
        ("POST", "/v1/command", &json, r#"{"command":"resume","by":"alice","force":true}"#, 400, "force"),
        ("POST", "/v1/command", &json, "\u{0}\u{1}\u{2}", 400, "NOT IN EFFECT"),
        (
            "POST",
            "/v1/command",
            &["Content-Type: text/plain"],
            r#"{"command":"resume","by":"a"}"#,
            415,
            "application/json",
        ),
    ] {
        let answer = lab.ask(method, path, headers, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        assert!(answer.json()["error"].is_string(), "{method} {path}: {}", answer.body);
        assert!(answer.body.contains(says), "{method} {path} {body}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_and_not_read_to_its_end() {
    let lab = Lab::start().await;
    let long = format!(r#"{{"command":"resume","by":"{}"}}"#, "a".repeat(5000));
    let answer = lab.ask("POST", "/v1/command", &["Content-Type: application/json"], &long).await;
    assert_eq!(answer.status, 413, "{}", answer.body);
    assert!(answer.body.contains("NOT IN EFFECT"), "{}", answer.body);
    // Announced, and never sent: the answer does not wait for it.
    let head = format!(
        "POST /v1/command HTTP/1.1\r\nHost: {}\r\n{TOKEN}\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\nConnection: close\r\n\r\n",
        lab.address
    );
    assert_eq!(raw(lab.address, head.as_bytes()).await.status, 413);
}

#[tokio::test]
async fn what_is_no_http_or_never_ends_is_cut_off() {
    let lab = Lab::start().await;
    let nonsense = raw(lab.address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n").await;
    assert!(nonsense.status == 400 || nonsense.status == 0, "{}", nonsense.head);
    let endless = format!("GET /live HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(100_000));
    let endless = raw(lab.address, endless.as_bytes()).await;
    assert!(endless.status == 431 || endless.status == 0, "{}", endless.head);
    // Headers that never end: the connection is closed after a second.
    let mut slow = TcpStream::connect(lab.address).await.unwrap();
    slow.write_all(b"GET /live HTTP/1.1\r\nX: ").await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "a client that never finishes holds its place for ever");
}

#[tokio::test]
async fn clients_that_hold_all_places_do_not_keep_others_out_for_long() {
    let lab = Lab::start().await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(TcpStream::connect(lab.address).await.unwrap());
    }
    let answer = tokio::time::timeout(Duration::from_secs(10), lab.ask_anonymously("GET", "/live")).await;
    assert_eq!(answer.expect("their places are taken away").status, 200);
}

#[tokio::test]
async fn whoever_waits_for_facts_is_told_as_soon_as_there_is_one() {
    let lab = Lab::start().await;
    let next = lab.shell.handle.board().frames();
    let nothing = lab.get(&format!("/v1/facts?from={next}&wait=100ms")).await.json();
    assert_eq!(nothing, json!([]));
    let path = format!("/v1/facts?from={next}&wait=20s");
    let (waited, ()) = tokio::join!(lab.get(&path), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        lab.shell.adopt().await;
    });
    assert!(waited.body.contains("placement_adopted"), "{}", waited.body);
}

#[tokio::test]
async fn every_answer_is_hardened() {
    let lab = Lab::start().await;
    for path in ["/live", "/v1/status", "/v1/nothing"] {
        let head = lab.get(path).await.head.to_ascii_lowercase();
        for header in ["cache-control: no-store", "x-content-type-options: nosniff", "x-frame-options: deny"] {
            assert!(head.contains(header), "{path}: {head}");
        }
    }
}

#[tokio::test]
async fn the_role_listener_tells_roles_and_nothing_else() {
    let lab = Lab::start().await;
    let roles = lab.shell.serve_roles(Duration::from_secs(10)).await;
    let ask = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {roles}\r\nConnection: close\r\n\r\n");
        raw(roles, request.as_bytes()).await.status
    };
    assert_eq!(ask("/v1/role/us-east-1/database").await, 503, "nobody has said yet where it is served");
    lab.shell.adopt().await;
    assert_eq!(ask("/v1/role/us-east-1/database").await, 200);
    assert_eq!(ask("/v1/role/us-west-2/database").await, 503);
    assert_eq!(ask("/v1/role/mars/database").await, 503);
    assert_eq!((ask("/live").await, ask("/ready").await), (200, 200));
    for hidden in ["/v1/status", "/v1/facts", "/metrics", "/v1/command", "/"] {
        assert_eq!(ask(hidden).await, 404, "{hidden}");
    }
}

#[tokio::test]
async fn the_metrics_satisfy_promtool() {
    let lab = Lab::start().await;
    lab.shell.look_at_everything().await;
    lab.shell.adopt().await;
    let text = lab.get("/metrics").await.body;
    for name in
        ["failoverd_build_info", "failoverd_instance_verdict", "failoverd_guards_holding", "failoverd_standby_ready"]
    {
        assert!(text.contains(name), "{name} is missing");
    }
    let mut promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian package prometheus)");
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

// --- what the tests work with -------------------------------------------------------------------------------------

const TOKEN: &str = "Authorization: Bearer secret";

struct Lab {
    shell: Shell,
    address: SocketAddr,
}

impl Lab {
    async fn start() -> Self {
        Self::on(Shell::start(omnimesh()).await).await
    }

    async fn on(shell: Shell) -> Self {
        let file = shell.folder().join("token");
        std::fs::write(&file, "secret\n").unwrap();
        let address = shell.serve_api(Some(SecretSource::File { file })).await;
        let lab = Self { shell, address };
        // The first turn of the loop makes it ready.
        let waiting = async {
            while lab.ask_anonymously("GET", "/ready").await.status != 200 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the loop turns");
        lab
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn command(&self, body: &str) -> Answer {
        self.ask("POST", "/v1/command", &["Content-Type: application/json"], body).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        self.send(method, path, &[headers, &[TOKEN]].concat(), body).await
    }

    async fn ask_anonymously(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, &[], "").await
    }

    async fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        );
        raw(self.address, request.as_bytes()).await
    }
}

struct Answer {
    /// 0 where the connection was closed without one.
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends the bytes as they are and reads until the end.
async fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may have answered and closed before it has read everything.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunked(body) } else { body.to_owned() };
    Answer { status, head: head.to_owned(), body }
}

fn unchunked(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = text.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or(0);
        if length == 0 {
            break;
        }
        body.push_str(&rest[..length]);
        text = rest[length..].trim_start_matches("\r\n");
    }
    body
}
