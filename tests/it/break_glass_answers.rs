//! The glass is not broken while anybody answers: not when it is asked, not when it was typed, not when it is done.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use failoverd::daemon::break_glass::Ended;
use failoverd::daemon::handle::Answer;

use crate::break_glass::{Desk, err, interrupt, nobody};

#[test]
fn whoever_answers_while_the_words_are_typed_is_heard() {
    let desk = desk(silent_until(2));
    let output = desk.break_glass(&["--reason", "x", "--confirm", "desk west"]);
    assert_eq!(output.status.code(), Some(75), "{}", err(&output));
    assert!(err(&output).contains("it answers 200") && err(&output).contains("hint: order it"), "{}", err(&output));
    assert!(!desk.folder.path().join("break-glass").exists(), "nothing was begun");
}

#[test]
fn whoever_answers_before_the_order_is_given_is_heard() {
    let desk = desk(silent_until(3));
    let output = desk.break_glass(&["--reason", "x", "--confirm", "desk west"]);
    assert_eq!(output.status.code(), Some(75), "{}", err(&output));
    assert!(err(&output).contains("NOT IN EFFECT") && err(&output).contains("it answers 200"), "{}", err(&output));
    let begun = std::fs::read_dir(desk.folder.path().join("break-glass")).unwrap().next().unwrap().unwrap();
    let record = begun.path().join("ledger").display().to_string();
    let merged = desk.command(&["ledger", "merge", &record]);
    assert!(err(&merged).contains("is no record of break-glass"), "{}", err(&merged));
}

#[test]
fn whoever_answers_while_the_words_to_go_on_are_typed_is_heard() {
    // Begun: asked three times. To go on: asked, and asked again.
    let desk = desk(silent_until(5));
    let words = ["failover", "--break-glass", "--from", "east", "--reason", "fire", "--confirm", "desk west"];
    let (running, _) = desk.begin(&words, "target not ready");
    interrupt(running);
    let begun = std::fs::read_dir(desk.folder.path().join("break-glass")).unwrap().next().unwrap().unwrap();
    let record = begun.path().join("ledger").display().to_string();
    let before = std::fs::read(&record).unwrap();
    let output = desk.command(&["failover", "--break-glass", "--continue", &record, "--confirm", "desk west"]);
    assert_eq!(output.status.code(), Some(75), "{}", err(&output));
    assert!(err(&output).contains("it answers 200"), "{}", err(&output));
    assert_eq!(std::fs::read(&record).unwrap(), before, "nothing went on");
}

#[test]
fn an_order_of_which_nobody_knows_is_not_called_refused() {
    assert!(matches!(Ended::by(Answer::Unknown("no answer".into())), Some(Ended::NotKnown(why)) if why == "no answer"));
    assert!(matches!(Ended::by(Answer::NotRecorded("full".into())), Some(Ended::Refused(_))));
    assert!(matches!(Ended::by(Answer::Refused("no".into())), Some(Ended::Refused(_))));
    assert!(Ended::by(Answer::InEffect("yes".into())).is_none());
}

/// A desk that has another daemon at `other`.
fn desk(other: SocketAddr) -> Desk {
    let [one, two, three] = [nobody(), nobody(), nobody()];
    Desk::new(&format!(
        "[ledger.etcd]\nendpoints = [\"http://{one}\", \"http://{two}\", \"http://{three}\"]\n\
         [council.observers.failoverd]\nregion = \"elsewhere\"\n\
         [council.observers.other]\nregion = \"east\"\napi = \"{other}\"\n\
         [council.observers.unknown]\nregion = \"west\"\n"
    ))
}

/// Somebody who takes the first requests and says nothing, and answers from the `nth` on.
fn silent_until(nth: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (n, mut stream) in (1..).zip(listener.incoming().map_while(Result::ok)) {
            let mut request = [0; 2048];
            if n >= nth && stream.read(&mut request).is_ok_and(|length| length > 0) {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        }
    });
    address
}
