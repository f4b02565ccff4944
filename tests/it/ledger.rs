//! The file ledger, tortured: what is acknowledged is there, and what is wrong is noticed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use failoverd::cli;
use failoverd::decide::{Fact, Frame};
use failoverd::ledger::{
    self, Contents, FRAME_BYTES_MAX, FileLedger, HEADER, LedgerError, MemoryDisk, MemoryLedger, Sabotage,
};
use failoverd::ports::{AppendError, Ledger, PermitExpired};
use tempfile::TempDir;

use crate::facts::{every_fact, frames, now, small_ledger};

#[test]
fn a_new_ledger_names_itself_and_is_for_its_owner_only() {
    let (_folder, path) = scratch();
    let (ledger, opening) = FileLedger::open(&path, now(0)).expect("opens");
    assert!(opening.created);
    drop(ledger);
    let contents = ledger::read(&path, 0).expect("reads");
    assert!(matches!(contents.frames[0].facts.as_slice(), [Fact::LedgerCreated { .. }]));
    assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
    let again = FileLedger::open(&path, now(1)).expect("opens again").1;
    assert!(!again.created && again.torn.is_none() && again.frames == 1, "{again:?}");
}

#[tokio::test]
async fn frames_come_back_as_they_were_appended_in_an_epoch_that_rises_with_every_daemon() {
    let (_folder, path) = scratch();
    for round in 1..=3 {
        let (ledger, opening) = FileLedger::open(&path, now(0)).expect("opens");
        let lease = ledger.campaign(now(0)).await.expect("leads").lease().expect("leads");
        assert_eq!(lease.epoch, round);
        assert_eq!(ledger.campaign(now(1)).await.expect("renews").lease(), Some(lease));
        let frame = Frame { index: opening.frames, epoch: lease.epoch, at: now(5), facts: every_fact() };
        assert_eq!(ledger.append(frame.clone()).await.expect("appends").index(), frame.index);
        assert_eq!(ledger.read_from(frame.index).await.expect("reads"), [frame]);
    }
}

#[tokio::test]
async fn a_permit_comes_from_a_durable_frame_and_ends() {
    let (_folder, path) = scratch();
    let (ledger, _) = leading(&path).await;
    let permit = ledger.append(next(1)).await.expect("appends").permit(now(10), Duration::from_secs(30));
    assert_eq!(permit.time_left(now(15)), Ok(Duration::from_secs(25)));
    assert_eq!(permit.time_left(now(40)), Err(PermitExpired));
}

#[tokio::test]
async fn a_frame_of_a_lower_epoch_is_fenced_and_a_frame_at_the_wrong_place_halts() {
    let (_folder, path) = scratch();
    let (ledger, _) = leading(&path).await;
    let stale = Frame { epoch: 0, ..next(1) };
    assert_eq!(ledger.append(stale).await.expect_err("fenced"), AppendError::Fenced { epoch: 1 });
    ledger.append(next(1)).await.map(drop).expect("a fenced frame harms nobody");
    assert!(matches!(ledger.append(next(3)).await, Err(AppendError::Halted(why)) if why.contains("frame 2")));
    assert!(matches!(ledger.append(next(2)).await, Err(AppendError::Halted(_))), "and it stays halted");
    assert_eq!(read(&path).count, 2);
}

#[tokio::test]
async fn a_frame_that_is_too_long_is_refused_before_anything_is_written() {
    let (_folder, path) = scratch();
    let (ledger, _) = leading(&path).await;
    let before = fs::read(&path).expect("reads");
    let long = Frame { facts: vec![Fact::Halted { why: "x".repeat(FRAME_BYTES_MAX) }], ..next(1) };
    assert!(matches!(ledger.append(long).await, Err(AppendError::Halted(why)) if why.contains("the longest")));
    assert_eq!(fs::read(&path).expect("reads"), before);
}

#[tokio::test]
async fn a_last_line_torn_at_any_byte_is_cut_and_reported_and_the_ledger_goes_on() {
    let (_folder, path) = scratch();
    let whole = text(&small_ledger());
    let last = text(&small_ledger()[..2]).len();
    for cut in last + 1..whole.len() {
        fs::write(&path, &whole[..cut]).expect("writes");
        let (ledger, opening) = leading(&path).await;
        let torn = opening.torn.unwrap_or_else(|| panic!("not noticed at byte {cut}"));
        assert_eq!((torn.frame, torn.offset, torn.bytes), (2, last as u64, (cut - last) as u64));
        assert_eq!(fs::metadata(&path).expect("is there").len(), last as u64);
        ledger.append(Frame { epoch: 2, ..next(2) }).await.map(drop).expect("goes on");
        assert_eq!(read(&path).frames[..2], small_ledger()[..2]);
        assert_eq!(read(&path).count, 3);
    }
}

#[test]
fn a_creation_torn_at_any_byte_starts_anew() {
    let (_folder, path) = scratch();
    let whole = text(&small_ledger()[..1]);
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).expect("writes");
        let (_, opening) = FileLedger::open(&path, now(0)).unwrap_or_else(|error| panic!("byte {cut}: {error}"));
        assert!(opening.created, "byte {cut}");
        assert_eq!(read(&path).count, 1, "byte {cut}");
    }
}

#[test]
fn any_bit_that_flips_anywhere_is_noticed_and_nothing_is_changed() {
    let (_folder, path) = scratch();
    let whole = text(&small_ledger());
    for byte in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << bit;
            fs::write(&path, &flipped).expect("writes");
            let Err(error) = FileLedger::open(&path, now(0)) else {
                panic!("bit {bit} of byte {byte} flipped unseen");
            };
            assert!(matches!(error, LedgerError::Damaged { .. } | LedgerError::NotALedger { .. }), "{error}");
            assert!(fs::read(&path).expect("reads") == flipped, "bit {bit} of byte {byte}: the file was changed");
        }
    }
}

#[test]
fn a_frame_that_is_missing_swapped_or_doubled_is_damage() {
    let (_folder, path) = scratch();
    let whole = String::from_utf8(text(&small_ledger())).expect("text");
    let lines: Vec<&str> = whole.lines().collect();
    for wrong in [vec![0, 1, 3], vec![0, 2, 1, 3], vec![0, 1, 2, 2, 3], vec![0, 2, 3], vec![0, 3]] {
        let text: String = wrong.iter().map(|line| format!("{}\n", lines[*line])).collect();
        fs::write(&path, text).expect("writes");
        assert!(matches!(FileLedger::open(&path, now(0)), Err(LedgerError::Damaged { .. })), "{wrong:?}");
    }
}

#[test]
fn a_gap_and_a_falling_epoch_are_damage_even_with_a_right_chain() {
    let (_folder, path) = scratch();
    let good = small_ledger();
    let gap = [good[0].clone(), Frame { index: 2, ..good[1].clone() }];
    let falling = [good[0].clone(), Frame { epoch: 7, ..good[1].clone() }, good[2].clone()];
    let nameless = frames(vec![vec![Fact::Resumed { by: "ada".to_owned() }]]);
    for (wrong, words) in
        [(&gap[..], "frame 1 should"), (&falling, "epoch 1 comes after epoch 7"), (&nameless, "which ledger")]
    {
        fs::write(&path, text(wrong)).expect("writes");
        let error = FileLedger::open(&path, now(0)).expect_err("damage").to_string();
        assert!(error.contains(words) && error.contains("failoverd ledger verify"), "{error}");
    }
}

#[test]
fn some_other_file_is_left_alone() {
    let (_folder, path) = scratch();
    fs::write(&path, "[deployment]\nname = \"omnimesh\"\n").expect("writes");
    assert!(matches!(FileLedger::open(&path, now(0)), Err(LedgerError::NotALedger { .. })));
    assert_eq!(fs::read_to_string(&path).expect("reads"), "[deployment]\nname = \"omnimesh\"\n");
}

#[test]
fn a_missing_folder_is_named_with_the_command_that_makes_it() {
    let (folder, _) = scratch();
    let error = FileLedger::open(&folder.path().join("state/ledger"), now(0)).expect_err("no folder").to_string();
    assert!(error.contains("install -d -m 0700") && error.contains("/state"), "{error}");
}

#[test]
fn a_place_where_nobody_may_write_is_refused_with_a_hint() {
    let error = FileLedger::open(Path::new("/sys/failoverd.ledger"), now(0)).expect_err("read-only").to_string();
    assert!(error.contains("cannot open the ledger /sys/failoverd.ledger ("), "{error}");
}

#[test]
fn a_ledger_that_another_process_holds_is_refused_and_the_process_is_named() {
    let (_folder, path) = scratch();
    let mut holder = Daemon::start("hold", &path, None);
    assert_eq!(holder.line().as_deref(), Some("holding"));
    let error = FileLedger::open(&path, now(0)).expect_err("locked");
    assert!(matches!(error, LedgerError::Locked { holder: Some(pid), .. } if pid == holder.child.id()), "{error}");
    assert!(ledger::read(&path, 0).is_ok(), "looking at it needs no lock");
    holder.kill();
    FileLedger::open(&path, now(0)).expect("the lock dies with its holder");
}

#[test]
fn everything_acknowledged_is_there_after_kill_9_in_the_middle_of_appends() {
    let (_folder, path) = scratch();
    let mut acknowledged = 0;
    for round in 0..8 {
        let mut daemon = Daemon::start("append", &path, None);
        for _ in 0..=round * 7 {
            acknowledged = daemon.acknowledged().expect("appends for ever");
        }
        daemon.kill();
        while let Some(index) = daemon.acknowledged() {
            acknowledged = index;
        }
        let count = read(&path).count;
        assert!(count > acknowledged, "{acknowledged} was acknowledged and there are {count} frames");
        assert!(count <= acknowledged + 2, "at most one frame was under way, and there are {count}");
    }
}

#[test]
fn a_disk_that_is_full_halts_the_ledger_and_loses_nothing_that_was_acknowledged() {
    let (_folder, path) = scratch();
    let mut daemon = Daemon::start("append", &path, Some(16));
    let mut acknowledged = 0;
    let refusal = loop {
        let line = daemon.line().expect("says why it stops");
        match line.strip_prefix("ack ") {
            Some(index) => acknowledged = index.parse().expect("a number"),
            None => break line,
        }
    };
    assert!(refusal.contains("the disk is full") && refusal.contains("It is not retried"), "{refusal}");
    assert_eq!(daemon.line().as_deref(), Some("still halted"));
    drop(daemon);
    let contents = read(&path);
    assert_eq!(contents.count, acknowledged + 1);
    let torn = FileLedger::open(&path, now(0)).expect("opens again once there is room").1.torn;
    assert_eq!(torn, contents.torn);
    assert_eq!(read(&path).count, acknowledged + 1);
}

#[test]
fn the_kernels_word_for_a_full_disk_is_said_in_ours() {
    let error = fs::OpenOptions::new().write(true).open("/dev/full").and_then(|mut file| file.write_all(b"x"));
    let text =
        LedgerError::Io { path: "/x".into(), what: "create", source: error.expect_err("always full") }.to_string();
    assert!(text.contains("the disk is full"), "{text}");
}

#[tokio::test]
async fn other_hands_in_the_file_halt_the_ledger() {
    for meddle in [
        (|path| fs::write(path, HEADER).expect("writes")) as fn(&Path),
        |path| fs::OpenOptions::new().append(true).open(path).and_then(|mut f| f.write_all(b"x")).expect("writes"),
        |path| fs::remove_file(path).expect("removes"),
        |path| {
            let copy = fs::read(path).expect("reads");
            fs::remove_file(path).expect("removes");
            fs::write(path, copy).expect("writes");
        },
    ] {
        let (_folder, path) = scratch();
        let (ledger, _) = leading(&path).await;
        meddle(&path);
        let error = ledger.append(next(1)).await.expect_err("halts");
        assert!(matches!(&error, AppendError::Halted(why) if why.contains("nothing was done about it")), "{error}");
    }
}

#[tokio::test]
async fn an_append_that_was_abandoned_halts_the_ledger() {
    let (_folder, path) = scratch();
    let (ledger, _) = leading(&path).await;
    {
        let mut append = ledger.append(next(1));
        assert!(futures::poll!(&mut append).is_pending(), "an fsync is never done at once on the event loop");
    }
    let error = ledger.append(next(1)).await.expect_err("halts");
    assert!(matches!(&error, AppendError::Halted(why) if why.contains("abandoned")), "{error}");
}

#[test]
fn the_golden_ledger_still_replays_and_reads_the_same() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ledger-v1.txt");
    let contents = ledger::read(&golden, 0).expect("replays");
    let written = fs::read_to_string(&golden).expect("reads");
    for (line, frame) in written.lines().skip(1).zip(&contents.frames) {
        let json: serde_json::Value = serde_json::from_str(&line[line.find('{').expect("JSON")..]).expect("JSON");
        assert_eq!(serde_json::to_value(frame).expect("JSON"), json, "a fact is written in other words than in v1");
    }
    let facts: Vec<&Fact> = contents.frames.iter().flat_map(|frame| &frame.facts).collect();
    for fact in every_fact() {
        let kind = std::mem::discriminant(&fact);
        assert!(facts.iter().any(|f| std::mem::discriminant(*f) == kind), "not in the golden ledger: {fact}");
    }
}

#[test]
fn a_hundred_thousand_facts_replay_in_under_a_second() {
    let (_folder, path) = scratch();
    let facts: Vec<Fact> = every_fact().into_iter().skip(1).collect();
    let mut many = vec![vec![every_fact().remove(0)]];
    many.extend((0..50_000).map(|n| vec![facts[n % facts.len()].clone(), facts[(n * 7 + 3) % facts.len()].clone()]));
    fs::write(&path, text(&frames(many))).expect("writes");
    let started = Instant::now();
    let (ledger, opening) = FileLedger::open(&path, now(0)).expect("opens");
    let checked = started.elapsed();
    let frames = read(&path).frames;
    let took = started.elapsed();
    drop(ledger);
    assert_eq!((opening.frames, frames.len()), (50_001, 50_001));
    let size = fs::metadata(&path).expect("is there").len() >> 20;
    println!("100,001 facts, {size} MiB: checked in {checked:?}, checked and read in {took:?}");
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 1 });
    assert!(took < limit, "{took:?}");
}

#[test]
fn the_listing_says_each_fact_in_words_and_the_check_says_whether_the_ledger_is_whole() {
    let (_folder, path) = scratch();
    fs::write(&path, text(&frames(every_fact().into_iter().map(|fact| vec![fact]).collect()))).expect("writes");
    let mut shown = Vec::new();
    cli::ledger::show(&path, 0, false, &mut shown).expect("shows");
    let mut verified = Vec::new();
    cli::ledger::verify(&path, &mut verified).expect("is whole");
    let verified = String::from_utf8(verified).expect("text").replace(&path.display().to_string(), "PATH");
    insta::assert_snapshot!("listing", format!("{}\n{verified}", String::from_utf8(shown).expect("text")));

    let mut json = Vec::new();
    cli::ledger::show(&path, 3, true, &mut json).expect("shows");
    let first: Frame = serde_json::from_slice(json.split(|b| *b == b'\n').next().expect("a line")).expect("JSON");
    assert_eq!(first.index, 3);

    let mut damaged = fs::read(&path).expect("reads");
    damaged[300] ^= 1;
    fs::write(&path, damaged).expect("writes");
    let error = cli::ledger::verify(&path, &mut Vec::new()).expect_err("damaged").to_string();
    assert!(error.contains("damaged in frame"), "{error}");
}

#[tokio::test]
async fn the_memory_ledger_dies_where_it_is_told_to_and_its_disk_remembers() {
    let disk = MemoryDisk::new("ledger", now(0));
    for (round, (sabotage, kept)) in
        [(Sabotage::CrashBefore, 0), (Sabotage::CrashAfter, 1), (Sabotage::Full, 0)].into_iter().enumerate()
    {
        let before = disk.frames().len() as u64;
        let ledger = MemoryLedger::open(&disk);
        let epoch = ledger.campaign(now(0)).await.expect("leads").lease().expect("leads").epoch;
        ledger.append(Frame { epoch, ..next(before) }).await.map(drop).expect("appends");
        ledger.sabotage_next(sabotage);
        assert!(ledger.append(Frame { epoch, ..next(before + 1) }).await.is_err());
        assert!(ledger.append(Frame { epoch, ..next(before + 1) }).await.is_err(), "a dead daemon records nothing");
        assert_eq!(disk.frames().len() as u64, before + 1 + kept);
        assert_eq!(epoch, round as u64 + 1);
    }
}

/// Not a test of its own: what a child process does that another test started. It ends at once otherwise.
#[test]
fn child() {
    let Ok(task) = std::env::var("LEDGER_CHILD") else { return };
    let path = PathBuf::from(std::env::var("LEDGER_PATH").expect("a path"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (ledger, opening) = runtime.block_on(leading(&path));
    if task == "hold" {
        say("holding");
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let epoch = runtime.block_on(ledger.campaign(now(0))).expect("leads").lease().expect("leads").epoch;
    for index in opening.frames.. {
        match runtime.block_on(ledger.append(Frame { epoch, ..next(index) })) {
            Ok(durable) => say(&format!("ack {}", durable.index())),
            Err(error) => {
                say(&error.to_string());
                let again = runtime.block_on(ledger.append(Frame { epoch, ..next(index) }));
                say(if matches!(again, Err(AppendError::Halted(_))) { "still halted" } else { "it was retried" });
                return;
            }
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
}

/// A daemon in a process of its own, which can be killed.
struct Daemon {
    child: Child,
    output: BufReader<ChildStdout>,
    _input: ChildStdin,
}

impl Daemon {
    /// With `blocks`, no file may grow beyond that many blocks of 512 bytes, as on a disk that is full.
    fn start(task: &str, path: &Path, blocks: Option<u32>) -> Self {
        let limit = blocks.map_or(String::new(), |blocks| format!("trap '' XFSZ; ulimit -f {blocks};"));
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("{limit} exec \"$0\" --exact ledger::child --nocapture --test-threads 1"))
            .arg(std::env::current_exe().expect("this program"))
            .env("LEDGER_CHILD", task)
            .env("LEDGER_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let input = child.stdin.take().expect("piped");
        Self { child, output, _input: input }
    }

    /// The next line that the child says, without what the test harness prints around it.
    fn line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("reads") == 0 {
                return None;
            }
            let line = line.trim().trim_start_matches("test ledger::child ... ").to_owned();
            if !line.is_empty() && !line.starts_with("running ") && !line.starts_with("test result") && line != "ok" {
                return Some(line);
            }
        }
    }

    fn acknowledged(&mut self) -> Option<u64> {
        self.line()?.strip_prefix("ack ").map(|index| index.parse().expect("a number"))
    }

    fn kill(&mut self) {
        self.child.kill().expect("dies");
        self.child.wait().expect("is gone");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scratch() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger");
    (folder, path)
}

async fn leading(path: &Path) -> (FileLedger, ledger::Opening) {
    let (ledger, opening) = FileLedger::open(path, now(0)).expect("opens");
    ledger.campaign(now(0)).await.expect("leads");
    (ledger, opening)
}

fn next(index: u64) -> Frame {
    let fact = Fact::Acknowledged {
        incident: "incident-1".into(),
        by: "ada".to_owned(),
        false_positive: false,
        note: "a note of some length, so that frames are not all alike ".repeat(index as usize % 5),
    };
    Frame { index, epoch: 1, at: now(index as i64), facts: vec![fact] }
}

fn read(path: &Path) -> Contents {
    ledger::read(path, 0).expect("is whole")
}

/// The format once more, written down independently.
fn text(frames: &[Frame]) -> Vec<u8> {
    let mut text = HEADER.as_bytes().to_vec();
    let mut head = blake3::hash(HEADER.as_bytes());
    for frame in frames {
        let json = serde_json::to_vec(frame).expect("JSON");
        head = blake3::hash(&[head.as_bytes().as_slice(), &json].concat());
        text.extend(format!("{} {} ", json.len(), head.to_hex()).bytes());
        text.extend(json);
        text.push(b'\n');
    }
    text
}
