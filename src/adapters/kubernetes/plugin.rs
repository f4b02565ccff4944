//! Credential helpers (`aws eks get-token`): run beside everything else, bounded, and never quoted.

use std::process::Stdio;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use kube::config::{AuthInfo, Cluster, ExecConfig};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::adapters::connect::one_line;
use crate::domain::time::human;

/// A credential that a helper handed out.
#[derive(Debug, Clone)]
pub(super) struct Credential {
    token: Option<SecretString>,
    certificate: Option<String>,
    key: Option<SecretString>,
    ends: Option<Timestamp>,
}

/// What a helper prints. More fields may come; these are enough.
#[derive(Deserialize)]
struct Printed {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<SecretString>,
    client_certificate_data: Option<String>,
    client_key_data: Option<SecretString>,
    expiration_timestamp: Option<Timestamp>,
}

/// A helper that takes longer is ended. The caller's own limit is usually shorter.
const LIMIT: Duration = Duration::from_secs(10);
/// A credential is a few kilobytes.
const OUTPUT_MAX: u64 = 256 * 1024;

impl Credential {
    /// Whether it ends within `time` of `now`. One without an end never does.
    pub(super) fn ends_within(&self, time: SignedDuration, now: Timestamp) -> bool {
        self.ends.is_some_and(|ends| ends.duration_since(now) <= time)
    }

    /// As if it had stood in the kubeconfig.
    pub(super) fn put_into(&self, user: &mut AuthInfo) {
        user.token.clone_from(&self.token);
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            user.client_certificate_data = base64(certificate);
            user.client_key_data = base64(key.expose_secret()).map(SecretString::from);
        }
    }
}

/// As the API writes bytes.
fn base64(text: &str) -> Option<String> {
    let bytes = serde_json::to_value(ByteString(text.as_bytes().to_vec())).ok()?;
    bytes.as_str().map(str::to_owned)
}

/// Runs the helper once. The error names the command and what it complained, never what it printed.
pub(super) async fn run(exec: &ExecConfig, cluster: Option<&Cluster>) -> Result<Credential, String> {
    let program = exec.command.as_deref().ok_or("the kubeconfig's exec names no command")?;
    let problem = |why: String| format!("the credential helper `{program}` {why}");
    let mut info = serde_json::json!({
        "apiVersion": exec.api_version,
        "kind": "ExecCredential",
        "spec": { "interactive": false },
    });
    if exec.provide_cluster_info
        && let Some(cluster) = cluster
    {
        info["spec"]["cluster"] = serde_json::json!({
            "server": cluster.server,
            "tls-server-name": cluster.tls_server_name,
            "certificate-authority-data": cluster.certificate_authority_data,
        });
    }
    let mut command = Command::new(program);
    command
        .args(exec.args.iter().flatten())
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().map_err(|error| problem(format!("does not start: {error}")))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (mut printed, mut complaint) = (Vec::new(), Vec::new());
        let read = async {
            if let Some(stdout) = stdout {
                // A helper that breaks off printed something that does not parse, which is reported below.
                let _ = stdout.take(OUTPUT_MAX).read_to_end(&mut printed).await;
            }
        };
        let listen = async {
            if let Some(stderr) = stderr {
                let _ = stderr.take(OUTPUT_MAX).read_to_end(&mut complaint).await;
            }
        };
        let ((), (), status) = tokio::join!(read, listen, child.wait());
        (printed, complaint, status)
    };
    let (printed, complaint, status) =
        tokio::time::timeout(LIMIT, work).await.map_err(|_| problem(format!("did not end within {}", human(LIMIT))))?;
    let status = status.map_err(|error| problem(format!("cannot be waited for: {error}")))?;
    if !status.success() {
        return Err(problem(format!("ended with {status}: {}", one_line(&String::from_utf8_lossy(&complaint), 200))));
    }
    let printed: Printed =
        serde_json::from_slice(&printed).map_err(|_| problem("did not print an ExecCredential".to_owned()))?;
    let status = printed.status.ok_or_else(|| problem("printed an ExecCredential without a status".to_owned()))?;
    Ok(Credential {
        token: status.token,
        certificate: status.client_certificate_data,
        key: status.client_key_data,
        ends: status.expiration_timestamp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(script: &str) -> ExecConfig {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "client.authentication.k8s.io/v1beta1",
            "command": "sh",
            "args": ["-c", script],
            "env": [{ "name": "GREETING", "value": "s3cret" }],
        }))
        .expect("an exec section")
    }

    #[tokio::test]
    async fn a_helper_hands_out_a_credential_with_its_end() {
        let script =
            r#"echo "{\"status\":{\"token\":\"$GREETING\",\"expirationTimestamp\":\"2030-01-01T00:00:00Z\"}}""#;
        let credential = run(&helper(script), None).await.expect("it works");
        let mut user = AuthInfo::default();
        credential.put_into(&mut user);
        assert_eq!(user.token.map(|token| token.expose_secret().to_owned()).as_deref(), Some("s3cret"));
        assert!(credential.ends_within(SignedDuration::from_secs(60), "2029-12-31T23:59:30Z".parse().unwrap()));
        assert!(!credential.ends_within(SignedDuration::from_secs(60), "2029-12-31T23:00:00Z".parse().unwrap()));
    }

    #[tokio::test]
    async fn what_a_helper_printed_is_never_quoted() {
        for script in ["echo $GREETING", "echo $GREETING; echo denied >&2; exit 1"] {
            let refused = run(&helper(script), None).await.expect_err("no credential");
            assert!(!refused.contains("s3cret"), "{refused}");
        }
    }
}
