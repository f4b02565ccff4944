//! The command line as an operator meets it: the real binary, its exit codes and its words.

#![allow(clippy::unwrap_used)]

use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use failoverd::cli::render::{self, Palette};
use failoverd::decide::Status;

#[test]
fn every_command_explains_itself() {
    let mut text = String::new();
    for command in commands() {
        let mut args = command.clone();
        args.push("--help".to_owned());
        let output = failoverd(&args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        text.push_str(&format!("$ failoverd {}\n{}\n", args.join(" "), stdout(&output)));
    }
    insta::assert_snapshot!("help", text);
}

/// Every command with its subcommands, as the definitions have them.
fn commands() -> Vec<Vec<String>> {
    use clap::CommandFactory as _;
    let mut all = vec![vec![]];
    for command in failoverd::cli::args::Args::command().get_subcommands() {
        all.push(vec![command.get_name().to_owned()]);
        all.extend(
            command.get_subcommands().map(|below| vec![command.get_name().to_owned(), below.get_name().to_owned()]),
        );
    }
    all
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_2_and_says_why() {
    for (args, why) in [
        (&["sttus"][..], "similar subcommand exists: 'status'"),
        (&["failover", "--reason", "x"], "--from <REGION>"),
        (&["pause", "--until", "tomorrow", "--reason", "x"], "write \"2h\""),
        (&["approve", "inc-1", "--accept-loss", "5"], "write a number and a unit"),
        (&["adopt", "--placement", "database"], "component=region"),
        (&["status", "--watch", "--json"], "cannot be used with"),
        (&["status", "--url", "nonsense"], "is not a URL"),
        (&["ledger", "verify"], "which ledger?"),
    ] {
        let output = failoverd(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn a_daemon_that_is_not_there_ends_with_69_and_an_order_is_said_not_to_be_in_effect() {
    let url = format!("http://127.0.0.1:{}", closed_port());
    for args in [&["status"][..], &["explain"], &["status", "--watch"], &["plan", "--if", "database"]] {
        let output = failoverd(&[args, &["--url", &url]].concat());
        assert_eq!(output.status.code(), Some(69), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(&format!("cannot reach the daemon at {url}")), "{}", stderr(&output));
        assert!(stderr(&output).contains("\nhint: "), "{}", stderr(&output));
    }
    for args in [&["resume"][..], &["hold", "inc-1"], &["abort", "inc-1"], &["adopt"]] {
        let output = failoverd(&[args, &["--url", &url]].concat());
        assert_eq!(output.status.code(), Some(69), "{args:?}");
        assert!(stderr(&output).starts_with("failoverd: NOT IN EFFECT: cannot reach"), "{}", stderr(&output));
    }
    let output = failoverd(&["resume", "--json", "--url", &url]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["in_effect"], false);
}

#[test]
fn something_else_on_the_daemons_port_is_not_taken_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stranger = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let body = "<html>It works!</html>";
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        }
    });
    let output = failoverd(&["status", "--url", &url]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("does not answer with JSON"), "{}", stderr(&output));
    // It answered, so the order may have gone anywhere.
    let output = failoverd(&["resume", "--url", &url]);
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    assert!(stderr(&output).contains("NOT KNOWN TO BE IN EFFECT"), "{}", stderr(&output));
    stranger.join().unwrap();
}

#[test]
fn a_daemon_that_does_not_answer_in_time_is_said_to_be_silent() {
    // Bound and never accepted from: the kernel completes the connection, and then nothing comes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let output = failoverd(&["status", "--timeout", "300ms", "--url", &url]);
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("did not answer within 0.3 s"), "{}", stderr(&output));
}

#[test]
fn nobody_at_the_keyboard_cannot_confirm_a_failover() {
    // The plan is shown first, which needs the daemon; without one nothing is asked either.
    let url = format!("http://127.0.0.1:{}", closed_port());
    let output = failoverd(&["failover", "--from", "east", "--reason", "x", "--url", &url]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        command(&["ledger", "show", "tests/golden/ledger-v1.txt"]).stdout(writer).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    assert_eq!(stderr(&output), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_token_file_that_cannot_be_read_ends_with_77() {
    let output = failoverd(&["status", "--token-file", "/nonexistent/token"]);
    assert_eq!(output.status.code(), Some(77));
    assert!(stderr(&output).contains("cannot read the token in /nonexistent/token"), "{}", stderr(&output));
}

#[test]
fn a_configuration_with_mistakes_ends_with_78_wherever_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("failoverd.toml");
    std::fs::write(&config, "[deployment]\nnam = \"x\"\n").unwrap();
    let config = config.to_str().unwrap();
    for args in [&["status"][..], &["plan", "--if", "database"], &["ledger", "verify"], &["resume"]] {
        let output = failoverd(&[args, &["--config", config]].concat());
        assert_eq!(output.status.code(), Some(78), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with(&format!("{config}:2: deployment.nam")), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_dry_run_needs_nothing_but_the_configuration() {
    let args = ["plan", "--if", "regional-outage", "--config", "config/omnimesh.toml"];
    let output = failoverd(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    insta::assert_snapshot!("plan_regional_outage", stdout(&output));

    let output = failoverd(&[&args[..], &["--json"]].concat());
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&plan["source"], &plan["target"]), (&"us-east-1".into(), &"us-west-2".into()));

    let output = failoverd(&["plan", "--if", "databas", "--config", "config/omnimesh.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("kubernetes, storage, traffic"), "{}", stderr(&output));
}

#[test]
fn the_readmes_configuration_of_ones_own_is_right() {
    let readme = include_str!("../../README.md");
    let config = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failoverd.toml");
    std::fs::write(&file, config).unwrap();
    let file = file.to_str().unwrap();
    for args in [&["check-config"][..], &["plan", "--if", "database"]] {
        let output = failoverd(&[args, &["--config", file]].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    }
    let policy = readme.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    serde_json::from_str::<serde_json::Value>(policy).unwrap();
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let plan = ["plan", "--if", "database", "--config", "config/omnimesh.toml"];
    let plain = stdout(&failoverd(&plan));
    assert!(!plain.contains('\x1b'), "a pipe gets no colours");
    let coloured = stdout(&failoverd(&[&plan[..], &["--color", "always"]].concat()));
    assert!(coloured.contains("\x1b["));
    let forced = command(&plan).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(stdout(&forced).contains("\x1b["));
    let refused = command(&plan).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    assert_eq!(stdout(&refused), plain, "NO_COLOR wins");
}

#[test]
fn the_status_is_readable_at_a_hundred_columns() {
    for (name, json) in [
        ("quiet", include_str!("data/status_quiet.json")),
        ("failing_over", include_str!("data/status_failing_over.json")),
        ("afterwards", include_str!("data/status_afterwards.json")),
    ] {
        let status: Status = serde_json::from_str(json).unwrap();
        let text = render::status(&status, Palette::new(false, true, 100));
        for line in text.lines().filter(|line| !line.contains("failoverd approve")) {
            assert!(line.chars().count() <= 100, "too long: {line}");
        }
        insta::assert_snapshot!(format!("status_{name}"), text);

        let ascii = render::status(&status, Palette::new(false, false, 100));
        assert!(ascii.is_ascii(), "without UTF-8 nothing but ASCII:\n{ascii}");
    }
}

fn failoverd<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    command(args).output().unwrap()
}

/// The binary in an environment that is the same everywhere.
fn command<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_failoverd"));
    command
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("LANG", "C.UTF-8")
        .env("TERM", "xterm")
        .env("USER", "tester")
        .stdin(Stdio::null());
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
