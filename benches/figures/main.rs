//! The figures that failoverd promises (README, "Figures"), measured on this machine. Fails where one is worse than
//! twice its goal.
//!
//! `cargo bench --bench figures` measures everything, `cargo bench --bench figures -- step http` only that.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

mod council;
mod daemon;
mod lab;
mod latency;
mod overhead;
mod probing;
mod servers;
mod step;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use table::{Figure, Verdict};

/// One bench: its name on the command line, and what it does.
type Bench = (&'static str, fn(&Path) -> Result<Vec<Figure>>);

const BENCHES: [Bench; 6] = [
    ("step", step::measure),
    ("latency", latency::measure),
    ("http", probing::http),
    ("council", council::measure),
    ("overhead", overhead::measure),
    ("sdks", probing::sdks),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let ended = match arguments.as_slice() {
        [order, folder] if order == "serve" => servers::serve(Path::new(folder)),
        names => run(names),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("figures: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(names: &[String]) -> Result<ExitCode> {
    let known: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
    for name in names {
        ensure!(known.contains(&name.as_str()), "there is no bench `{name}`; there are {}", known.join(", "));
    }
    let folder = Scratch::new()?;
    certificate(&folder.0)?;
    let mut figures = Vec::new();
    let mut failed = false;
    for (name, bench) in BENCHES {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("measuring: {name} (load {})", load());
        match bench(&folder.0) {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                eprintln!("figures: {name} could not be measured: {error:#}");
                failed = true;
            }
        }
    }
    println!("{}", table::render(&figures));
    println!("load of the machine at the end: {}", load());
    record(&figures)?;
    failed |= figures.iter().any(|figure| figure.verdict() == Verdict::Failed);
    if figures.iter().any(|figure| figure.verdict() == Verdict::Missed) {
        println!("MISSED: worse than the goal, by less than a factor of two. On a busy machine: measure again.");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// For programs: `target/figures.json`.
fn record(figures: &[Figure]) -> Result<()> {
    let of = |figure: &Figure| json!({ "name": figure.name, "value": figure.value, "unit": figure.unit, "note": figure.note });
    let record: Vec<_> = figures.iter().map(of).collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("figures.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&record)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// A folder under `target`, on a disk that has to sync; removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("figures-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("FIGURES_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// An authority and a certificate for the servers.
fn certificate(folder: &Path) -> Result<()> {
    let addresses: Vec<String> = (1..=8).map(|n| format!("IP:127.0.0.{n}")).collect();
    let extensions = format!(
        "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:bench.test,{}\n",
        addresses.join(",")
    );
    std::fs::write(folder.join("ext"), extensions)?;
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req -x509 {key} -keyout ca.key -out ca.crt -days 30 -subj /CN=bench"))?;
    openssl(folder, &format!("req {key} -keyout leaf.key -out leaf.csr -subj /CN=leaf"))?;
    openssl(
        folder,
        "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out leaf.crt",
    )
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.context("openssl is not installed")?;
    ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
