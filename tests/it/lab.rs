//! A lab of real components for one test, stopped and removed when the test is over, however it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "every area uses a part of it")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What `tests/lab/lab.py up` started.
pub(crate) struct Lab {
    /// The content of `lab.json`.
    pub(crate) json: Value,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Starts `components` (`pg,redis,s3,aws,dns,k8s,app,etcd`) with further options of `lab.py up`.
    pub(crate) fn up(components: &str, options: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("failoverd-test-").tempdir().unwrap();
        let mut lab = Self { json: Value::Null, folder };
        let pid = std::process::id().to_string();
        lab.tell("up", &[&["--only", components, "--parent-pid", &pid], options].concat());
        lab.json = serde_json::from_slice(&std::fs::read(lab.run_dir().join("lab.json")).unwrap()).unwrap();
        lab
    }

    /// `lab.py kill|stop|cont|start|link …`
    pub(crate) fn tell(&self, command: &str, words: &[&str]) -> String {
        let output = Command::new("python3")
            .arg(script())
            .arg(command)
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(words)
            .output()
            .expect("python3 is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "lab.py {command} {words:?}: {text}{} (is the lab installed? run tests/lab/install.sh)",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// A folder for the test's own files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A text of `lab.json` by its JSON pointer.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("lab.json has no text {pointer}"))
    }

    /// A number of `lab.json` by its JSON pointer.
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.json.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("lab.json has no number {pointer}"))
    }

    /// `GET /lab/<what>` of the AWS double: `calls`, `state`, `faults`, `mail`.
    pub(crate) fn aws(&self, what: &str) -> Value {
        self.control("GET", what, "")
    }

    /// `POST /lab/<what>` of the AWS double.
    pub(crate) fn tell_aws(&self, what: &str, body: &Value) {
        let answer = self.control("POST", what, &body.to_string());
        assert!(answer.get("error").is_none(), "POST /lab/{what} {body}: {answer}");
    }

    /// The actions that the AWS double was asked for since the last `POST /lab/calls`.
    pub(crate) fn actions(&self) -> Vec<String> {
        let calls = self.aws("calls");
        calls.as_array().unwrap().iter().map(|call| call["action"].as_str().unwrap().to_owned()).collect()
    }

    /// How many pod templates a deployment of the plan has had, as the cluster's own controller counts them.
    pub(crate) fn revision(&self, region: &str, deployment: &str) -> u64 {
        let text = self.tell("revision", &[region, deployment]);
        text.trim().parse().unwrap_or_else(|_| panic!("no number: {text}"))
    }

    fn control(&self, method: &str, what: &str, body: &str) -> Value {
        let address = self.text("/aws/control").trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(&address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} /lab/{what} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer}"));
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("lab")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Should this fail, the lab's own supervisor stops it when this process is gone.
        let _ = Command::new("python3").arg(script()).args(["down", "--run-dir"]).arg(self.run_dir()).output();
    }
}

/// The lab's script; `FAILOVERD_LAB` names another one.
fn script() -> PathBuf {
    std::env::var_os("FAILOVERD_LAB")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/lab.py"), PathBuf::from)
}
