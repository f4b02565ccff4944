//! failoverd as a process: started with a configuration, asked, measured from outside.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

const TOKEN: &str = "bench";

/// A running daemon; killed with this value.
pub(crate) struct Daemon {
    child: Child,
    address: SocketAddr,
    /// Its ledger.
    pub(crate) ledger: PathBuf,
}

impl Daemon {
    /// Starts the daemon in `folder` and waits until it listens. What every configuration has is added to `config`.
    pub(crate) fn start(folder: &Path, mode: &str, config: &str) -> Result<Self> {
        let head = format!(
            "[deployment]\nname = \"bench\"\nmode = \"{mode}\"\n[ledger]\npath = \"{}\"\nstop_file = \"{}\"\n\
             [api]\nlisten = \"127.0.0.1:0\"\ntoken = {{ env = \"BENCH_TOKEN\" }}\n",
            folder.join("ledger").display(),
            folder.join("STOP").display(),
        );
        Self::start_as_configured(folder, &(head + config))
    }

    /// The same with a whole configuration, whose token is in `BENCH_TOKEN`.
    pub(crate) fn start_as_configured(folder: &Path, config: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let ledger = folder.join("ledger");
        let file = folder.join("failoverd.toml");
        fs::write(&file, config)?;
        let log = folder.join("failoverd.log");
        let mut child = command()
            .args(["run", "--log-format", "json", "--config"])
            .arg(&file)
            .env("BENCH_TOKEN", TOKEN)
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start failoverd")?;
        let mut lines = BufReader::new(child.stderr.take().context("failoverd has a log")?).lines();
        let mut seen = String::new();
        let address = loop {
            let Some(line) = lines.next() else { bail!("failoverd ended:\n{seen}") };
            let line = line?;
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = event["api"].as_str() {
                break address.parse()?;
            }
            let _ = writeln!(seen, "{line}");
        };
        let mut log = fs::File::create(log)?;
        // Somebody has to go on reading, or the daemon waits.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = writeln!(log, "{line}");
            }
        });
        Ok(Self { child, address, ledger })
    }

    /// Waits until instances are alive, all but one in a hundred: on a busy machine a probe is late now and then.
    pub(crate) fn all_alive(&self, within: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            // A page that comes late on a busy machine is asked for again.
            let status = self.status().unwrap_or_default();
            let instances = status["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
            let not_alive: Vec<&Value> = instances.iter().filter(|instance| instance["verdict"] != "alive").collect();
            if not_alive.len() * 100 <= instances.len() && !instances.is_empty() {
                return Ok(());
            }
            let example = not_alive.first().map(ToString::to_string).unwrap_or_default();
            ensure!(began.elapsed() < within, "{} instances are not alive, such as {example}", not_alive.len());
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Tells the daemon that the placement is the configured one.
    pub(crate) fn adopt(&self) -> Result<()> {
        let adopted = command()
            .args(["adopt", "--as", "bench", "--url", &format!("http://{}", self.address)])
            .env("FAILOVERD_TOKEN", TOKEN)
            .output()?;
        ensure!(adopted.status.success(), "adopt: {}", String::from_utf8_lossy(&adopted.stderr));
        Ok(())
    }

    /// `/v1/status`.
    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get("/v1/status")?)?)
    }

    /// One of the daemon's pages.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        get(self.address, path, Some(TOKEN))
    }

    /// A metric's sum over all labels that contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let page = self.get("/metrics")?;
        let of_name = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(of_name.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    /// Time on a processor so far, in user and kernel mode, of all threads.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("/proc/PID/stat")?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).context("/proc/PID/stat");
        // utime and stime, in hundredths of a second (USER_HZ is 100 everywhere).
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
    }

    /// Resident memory in bytes: now, and at most so far.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        Ok((of("VmRSS:").context("VmRSS")? * 1024, of("VmHWM:").context("VmHWM")? * 1024))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_failoverd"));
    let keep = ["PATH", "HOME", "MALLOC_ARENA_MAX"].map(|name| (name, std::env::var_os(name)));
    command.env_clear().env("LANG", "C.UTF-8").env("USER", "bench").stdin(Stdio::null());
    command.envs(keep.into_iter().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// One GET, in the simplest way there is.
pub(crate) fn get(address: SocketAddr, path: &str, token: Option<&str>) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: bench\r\n{token}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.contains(" 200 "), "{path} was answered with {head}");
    Ok(body.to_owned())
}
