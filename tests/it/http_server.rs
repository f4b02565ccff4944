//! HTTP and TLS servers that behave as the test says, certificates for them, and a name server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// What a server does with a connection once it stands.
#[derive(Debug, Clone)]
pub(crate) enum Behaviour {
    /// Answers every request with these bytes.
    Answers(String),
    /// Answers with the request itself, in small letters.
    Echoes,
    /// Answers after a while.
    Slow(Duration, String),
    /// Reads and says nothing.
    Silent,
    /// Closes after the request.
    HangsUp,
}

/// A server on a port of its own; ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Plain HTTP, or TLS with that certificate.
    pub(crate) async fn start(behaviour: Behaviour, certificate: Option<&Certificate>) -> Self {
        let acceptor = certificate.map(Certificate::acceptor);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                let (behaviour, acceptor) = (behaviour.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, behaviour).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, behaviour).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, connections, task: task.abort_handle() }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, behaviour: Behaviour) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let echo;
        let answer = match &behaviour {
            Behaviour::Answers(answer) => answer,
            Behaviour::Echoes => {
                echo = answer("200 OK", &String::from_utf8_lossy(&buffer[..length]).to_lowercase());
                &echo
            }
            Behaviour::Slow(delay, answer) => {
                tokio::time::sleep(*delay).await;
                answer
            }
            Behaviour::Silent => continue,
            Behaviour::HangsUp => return,
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// An HTTP answer.
pub(crate) fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A certificate authority in a folder.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
}

/// A server's certificate with its key.
pub(crate) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        openssl(folder.path(), &[&ca[..], &["-keyout", "ca.key", "-out", "ca.crt", "-days", "30", "-subj", "/CN=ca"]]);
        Self { folder }
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// For `name`, ending in `days` (negative: it has ended).
    pub(crate) fn issue(&self, name: &str, days: i32) -> Certificate {
        let folder = self.folder.path();
        let extensions = format!("basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:{name}\n");
        std::fs::write(folder.join("ext"), extensions).unwrap();
        let request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        openssl(folder, &[&request[..], &["-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=leaf"]]);
        let (file, days) = (format!("{name}{days}"), days.to_string());
        let sign = ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(folder, &[&sign[..], &["-days", &days, "-extfile", "ext", "-out", &format!("{file}.crt")]]);
        std::fs::rename(folder.join("leaf.key"), folder.join(format!("{file}.key"))).unwrap();
        Certificate { certificate: folder.join(format!("{file}.crt")), key: folder.join(format!("{file}.key")) }
    }
}

impl Certificate {
    fn acceptor(&self) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(&self.certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn openssl(folder: &Path, arguments: &[&[&str]]) {
    let output = Command::new("openssl").args(arguments.concat()).current_dir(folder).output().expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A name server that knows `known` as 127.0.0.1 and answers that nothing else exists.
pub(crate) async fn name_server(known: &'static [&'static str]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            socket.send_to(&dns_answer(&question[..length], known), from).await.unwrap();
        }
    });
    address
}

fn dns_answer(question: &[u8], known: &[&str]) -> Vec<u8> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while question[at] != 0 {
        let length = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let end = at + 5;
    let is_a = question[at + 1..at + 3] == [0, 1];
    let exists = known.contains(&labels.join(".").as_str());
    let answers = u8::from(exists && is_a);
    let code = if exists { 0 } else { 3 };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    if answers == 1 {
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    answer
}
