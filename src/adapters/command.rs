//! Commands as checks of the end state: an operator's own script, bounded in time and in what it may say.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::connect::one_line;
use crate::config::schema::CommandCheck;
use crate::domain::RegionId;
use crate::domain::time::human;
use crate::ports::Setback;

/// Output beyond this is thrown away.
const OUTPUT_MAX: u64 = 16 * 1024;

/// Runs the command once; `{region}` in its arguments is the region that took over. Exit code 0 is success, any
/// other is `NotYet` with the end of what it said. It is killed at `limit`, and when the caller stops waiting.
///
/// It gets no input and no environment but `PATH`, `HOME`, `LANG` and `FAILOVERD_REGION`, so that no secret of ours
/// leaks into a script.
pub async fn run(check: &CommandCheck, region: &RegionId, limit: Duration) -> Result<String, Setback> {
    run_with(check, region, &[], limit).await
}

/// The same with more in its environment.
pub async fn run_with(
    check: &CommandCheck,
    region: &RegionId,
    variables: &[(&str, String)],
    limit: Duration,
) -> Result<String, Setback> {
    if !check.repeatable {
        return Err(Setback::Refused(
            "the command is not declared repeatable; write repeatable = true if running it twice does no harm".into(),
        ));
    }
    let Some((program, arguments)) = check.argv.split_first() else {
        return Err(Setback::Refused("the command is empty; write argv = [\"program\", \"argument\"]".into()));
    };
    let mut command = Command::new(program);
    command
        .args(arguments.iter().map(|argument| argument.replace("{region}", region.as_str())))
        .env_clear()
        .env("FAILOVERD_REGION", region.as_str())
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what the script started can be ended with it.
        .process_group(0)
        .kill_on_drop(true);
    for name in ["PATH", "HOME", "LANG"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().map_err(|error| Setback::Refused(format!("cannot start `{program}`: {error}")))?;
    let mut group = Group(child.id());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (said, complained, status) = tokio::join!(bounded(stdout), bounded(stderr), child.wait());
        (said, complained, status)
    };
    let Ok((said, complained, status)) = tokio::time::timeout(limit, work).await else {
        drop(group);
        return Err(Setback::NotYet(format!("`{program}` did not end within {} and was killed", human(limit))));
    };
    // It ended by itself and is reaped: its number may belong to somebody else by now.
    group.0 = None;
    let status = status.map_err(|error| Setback::Transient(format!("cannot wait for `{program}`: {error}")))?;
    let last = [said, complained].iter().filter_map(|text| last_line(text)).next_back().unwrap_or_default();
    if status.success() {
        Ok(if last.is_empty() { format!("`{program}` succeeded") } else { format!("`{program}`: {last}") })
    } else {
        Err(Setback::NotYet(format!("`{program}` ended with {status}: {last}")))
    }
}

/// Ends the command's process group when dropped, whoever is left in it.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // The group is usually gone by now, which is what is wanted.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

async fn bounded(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    // A stream that breaks has said what it had to say.
    let _ = (&mut stream).take(OUTPUT_MAX).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

fn last_line(text: &str) -> Option<String> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(|line| one_line(line, 200))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, limit: Duration) -> Result<String, Setback> {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        run(&CommandCheck { argv, repeatable: true }, &RegionId::from("west"), limit).await
    }

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_command_succeeds_with_its_last_line() {
        assert_eq!(shell("echo one; echo $FAILOVERD_REGION", SOON).await, Ok("`sh`: west".into()));
    }

    #[tokio::test]
    async fn a_command_that_fails_may_succeed_later() {
        let failed = shell("echo not ready >&2; exit 3", SOON).await;
        assert!(
            matches!(&failed, Err(Setback::NotYet(why)) if why.contains("not ready") && why.contains('3')),
            "{failed:?}"
        );
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_all_it_started() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 60 & echo $! > {}; wait", file.path().display());
        let hung = shell(&script, Duration::from_millis(500)).await;
        assert!(matches!(&hung, Err(Setback::NotYet(why)) if why.contains("killed")), "{hung:?}");
        let grandchild: i32 = std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{grandchild}/stat")) {
            Ok(stat) => stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')),
            Err(_) => true,
        };
        let until = std::time::Instant::now() + SOON;
        while !gone() {
            assert!(std::time::Instant::now() < until, "{grandchild} is still running");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[tokio::test]
    async fn output_without_end_is_bounded() {
        let said = shell("yes | head -c 5000000", SOON).await.expect("it ends");
        assert!(said.len() < 300, "{}", said.len());
    }

    #[tokio::test]
    async fn a_command_that_is_not_declared_repeatable_is_refused() {
        let check = CommandCheck { argv: vec!["true".into()], repeatable: false };
        let refused = run(&check, &RegionId::from("west"), SOON).await;
        assert!(matches!(refused, Err(Setback::Refused(_))), "{refused:?}");
    }
}
