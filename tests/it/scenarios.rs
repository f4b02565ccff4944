//! Every story in `tests/scenarios` comes out as it says. `UPDATE_STORIES=1` writes down what came out instead; then
//! read the difference line by line, because it is what failoverd would do to somebody's production.

use std::fs;
use std::path::{Path, PathBuf};

use failoverd::cli::replay;
use failoverd::simulation::{Detail, Options, Report, SEPARATOR, Story, run};

use crate::simulate::in_the_background;

#[test]
fn every_story_comes_out_as_it_says() {
    in_the_background();
    let update = std::env::var_os("UPDATE_STORIES").is_some();
    let mut wrong = Vec::new();
    let paths = stories();
    assert!(paths.len() >= 25, "only {} stories", paths.len());
    for path in paths {
        let (story, report) = play(&path);
        let came = report.render(Detail::Story);
        if !report.broken.is_empty() {
            wrong.push(format!("{}: an invariant broke: {}", name(&path), report.broken.join("; ")));
        }
        if update {
            fs::write(&path, format!("{}\n{SEPARATOR}\n{came}", story.told.trim_end())).expect("writes");
        } else if !replay::is_as_expected(&story, &report) || story.expected.is_none() {
            let expected = story.expected.as_deref().unwrap_or_default();
            wrong.push(format!("{}\n{}", name(&path), difference(expected, &came)));
        }
    }
    assert!(wrong.is_empty(), "{}\n\nIf this is right: UPDATE_STORIES=1, and read `git diff`", wrong.join("\n\n"));
}

#[test]
fn the_same_story_gives_the_same_run() {
    let path = story_path("a_lost_region_is_replaced_after_two_minutes");
    let (first, second) = (play(&path).1, play(&path).1);
    assert_eq!(first.render(Detail::Plans), second.render(Detail::Plans));
}

#[test]
fn a_story_that_makes_no_sense_is_refused_with_the_line_and_what_to_write() {
    for (text, words) in [
        ("+0 database@us-east-1 dies", "line 1: nothing can `dies`; there are answers, fails"),
        ("+0 database@us-east-1 fails tpc", "line 1: `tpc` is no layer; there are dns, tcp"),
        ("\n+10 link cut", "line 2: `+10` is no time; write `+0`, `+30s`"),
        ("+1m link cut\n+30s link restored", "line 2: this happens before the line above"),
        ("+0 link cut\nmode automatic", "line 2: `mode` is no time"),
        ("speed fast", "line 1: `speed` is no setting"),
        ("+0 operator shrug", "line 1: an operator cannot `shrug`"),
        ("+0 promote slowly", "line 1: work does not go `slowly`"),
        ("+0 pause 6m again", "line 1: `again` is too much here"),
        ("+0 everything@us-east-1 flaps every 5s for 10s", "line 1: what flaps fails for a part"),
        ("+9000h link cut", "line 1: a story lasts at most seven days"),
        ("from yesterday", "line 1: `yesterday` is no time"),
    ] {
        let error = failoverd::simulation::parse(text).expect_err(text).to_string();
        assert!(error.starts_with(words), "{text}: {error}");
    }
}

#[test]
fn a_story_about_something_that_is_not_configured_is_refused() {
    let path = story_path("a_cache_is_activated_after_two_minutes");
    for wrong in ["+0 queue@us-east-1 fails tcp", "+0 everything@mars fails tcp", "+0 reference moon fails"] {
        let story = failoverd::simulation::parse(&format!("config ../../config/omnimesh.toml\n{wrong}")).expect(wrong);
        let setup = replay::setup(&path, &story, &[]).expect("a configuration");
        let error = run(&story, &setup, &Options::default()).expect_err(wrong).to_string();
        assert!(error.starts_with("line 2: "), "{error}");
    }
}

#[test]
fn times_of_day_count_from_the_start_and_go_on_past_midnight() {
    let text = "from 2021-12-07T15:30:00Z\n15:31 link cut\n16:00:07 link restored\n01:10 link cut";
    let story = failoverd::simulation::parse(text).expect("reads");
    let at: Vec<u64> = story.lines.iter().map(|line| line.at.as_secs()).collect();
    assert_eq!(at, [60, 1807, 34_800]);
}

/// The page about stories: its whole stories are played, its lines are understood, and no word is left out.
#[test]
fn the_page_about_stories_is_true() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stories.md");
    let text = fs::read_to_string(&page).expect("reads");
    let update = std::env::var_os("UPDATE_STORIES").is_some();
    let (mut wrong, mut renewed) = (Vec::new(), text.clone());
    let whole = blocks(&text, "```story\n");
    assert!(whole.len() >= 2, "{} whole stories", whole.len());
    for block in whole {
        let story = failoverd::simulation::parse(block).unwrap_or_else(|error| panic!("{error}\n{block}"));
        let setup = replay::setup(&page, &story, &[]).unwrap_or_else(|error| panic!("{error:#}\n{block}"));
        let report = run(&story, &setup, &Options::default()).unwrap_or_else(|error| panic!("{error}\n{block}"));
        let came = report.render(Detail::Story);
        assert!(report.broken.is_empty(), "{:?}\n{block}", report.broken);
        assert!(story.expected.is_some(), "a whole story shows what comes of it:\n{block}");
        if !replay::is_as_expected(&story, &report) {
            wrong.push(difference(story.expected.as_deref().unwrap_or_default(), &came));
            renewed = renewed.replace(block, &format!("{}\n{SEPARATOR}\n{came}", story.told.trim_end()));
        }
    }
    for block in blocks(&text, "```story-lines\n") {
        failoverd::simulation::parse(block).unwrap_or_else(|error| panic!("{error}\n{block}"));
    }
    for (nonsense, before) in [
        ("speed fast", "there are "),
        ("+0 database@us-east-1 dies", "there are "),
        ("+0 operator shrug", "there are "),
        ("+0 promote slowly", "there are "),
        ("+0 database@us-east-1 fails tpc", "there are "),
        ("+0 observer failoverd-eu-west-1 naps", "there are "),
        ("+0 nothing", "write an instance (database@us-east-1, everything@us-east-1), "),
    ] {
        let error = failoverd::simulation::parse(nonsense).expect_err(nonsense).to_string();
        let known =
            error.split_once(before).unwrap_or_else(|| panic!("{error}")).1.split(". ").next().unwrap_or_default();
        let words = known.split(|c: char| !c.is_ascii_lowercase() && c != '-' && c != '5' && c != '3');
        for word in words.filter(|word| word.len() > 2 && !["and", "for", "kind", "work"].contains(word)) {
            let is_there = text.split(['`', ' ', '\n', '|']).any(|said| said == word);
            if !is_there {
                wrong.push(format!("docs/stories.md does not tell of `{word}`, which is in: {error}"));
            }
        }
    }
    if update {
        fs::write(&page, renewed).expect("writes");
    } else {
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }
}

/// What stands in fenced blocks that begin so.
fn blocks<'a>(text: &'a str, fence: &str) -> Vec<&'a str> {
    text.split(fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

pub(crate) fn play(path: &Path) -> (Story, Report) {
    let story = replay::read(path).unwrap_or_else(|error| panic!("{error:#}"));
    let setup = replay::setup(path, &story, &[]).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
    let report = run(&story, &setup, &Options::default()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (story, report)
}

pub(crate) fn story_path(name: &str) -> PathBuf {
    folder().join(format!("{name}.txt"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn stories() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().replace('_', " ")
}

/// The lines around the first difference.
fn difference(expected: &str, came: &str) -> String {
    let (expected, came): (Vec<&str>, Vec<&str>) = (expected.trim().lines().collect(), came.trim().lines().collect());
    let same = expected.iter().zip(&came).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for line in &came[same.saturating_sub(2)..same] {
        text += &format!("      {line}\n");
    }
    for line in expected.iter().skip(same).take(6) {
        text += &format!("  -   {line}\n");
    }
    for line in came.iter().skip(same).take(6) {
        text += &format!("  +   {line}\n");
    }
    text
}
