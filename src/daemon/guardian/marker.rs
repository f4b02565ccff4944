//! What a guardian leaves on the disk: the databases for which somebody may count on it.
//!
//! A guardian that starts without a predecessor (the machine was restarted, the container thrown away, memory ran out)
//! inherits no lease. Whoever leads may have moved the role meanwhile, just because there was a guardian. So a database
//! that is named here is fenced until its role is confirmed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use tracing::warn;

use crate::config::Config;
use crate::domain::InstanceId;

/// The file of one guardian.
#[derive(Debug)]
pub(super) struct Marker {
    path: PathBuf,
    /// Held while it is written, from a thread that may hang with its disk.
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    databases: BTreeSet<InstanceId>,
    /// The disk has just these.
    is_written: bool,
    /// Nobody counts on this guardian any more: nothing is written behind that.
    is_over: bool,
}

/// Where the file is: beside the ledger that a single daemon would have, one for each daemon.
pub(super) fn place(config: &Config) -> PathBuf {
    let name = format!("{}.{}.guarded.json", config.deployment.name, config.observer.name);
    config.ledger.path.with_file_name(name)
}

impl Marker {
    /// What was left at `path`. Where that cannot be read, somebody may count on every one of `guarded`.
    pub(super) fn open(path: PathBuf, guarded: &BTreeSet<InstanceId>) -> (Self, BTreeSet<InstanceId>) {
        let (databases, is_written) = match read(&path) {
            Ok(left) => (left.intersection(guarded).cloned().collect(), true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (BTreeSet::new(), false),
            Err(error) => {
                warn!("{} cannot be read, so every database counts as guarded: {error}", path.display());
                (guarded.clone(), false)
            }
        };
        let kept = Kept { databases: databases.clone(), is_written, is_over: false };
        (Self { path, kept: Arc::new(Mutex::new(kept)) }, databases)
    }

    /// Returns once the disk has it that somebody may count on this database's guardian.
    pub(super) async fn keep(&self, database: &InstanceId) -> Result<(), String> {
        let mut kept = self.kept.clone().lock_owned().await;
        if kept.is_over {
            return Err("nobody relies on this guardian any more".to_owned());
        }
        if kept.is_written && kept.databases.contains(database) {
            return Ok(());
        }
        let (path, database) = (self.path.clone(), database.clone());
        let written = tokio::task::spawn_blocking(move || {
            kept.databases.insert(database);
            kept.is_written = false;
            write(&path, &kept.databases)?;
            kept.is_written = true;
            Ok(())
        });
        let written = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        written.map_err(|error| {
            let path = self.path.display();
            format!("{path} cannot be written, so after a restart of this machine nothing would fence it: {error}")
        })
    }

    /// Nobody counts on it any more.
    pub(super) async fn remove(&self) {
        let mut kept = self.kept.clone().lock_owned().await;
        let path = self.path.clone();
        let removed = tokio::task::spawn_blocking(move || {
            kept.is_over = true;
            remove(&path)
        });
        let removed = removed.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        if let Err(error) = removed {
            let path = self.path.display();
            warn!("{path} cannot be removed: {error}; the next guardian fences until the role is confirmed");
        }
    }
}

/// Nothing is left at `path`, whether or not there was something.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => folder_of(path)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> io::Result<BTreeSet<InstanceId>> {
    serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)
}

/// Whole or not at all, and there after a power cut.
fn write(path: &Path, databases: &BTreeSet<InstanceId>) -> io::Result<()> {
    let mut text = serde_json::to_vec(databases).map_err(io::Error::other)?;
    text.push(b'\n');
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = File::create(&new)?;
    let renamed = file.write_all(&text).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&new, path));
    renamed.inspect_err(|_| drop(std::fs::remove_file(&new)))?;
    folder_of(path)?.sync_all()
}

/// A new name is durable once its folder is.
fn folder_of(path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(name: &str) -> InstanceId {
        InstanceId::new(name, "east")
    }

    #[tokio::test]
    async fn what_was_kept_is_found_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.json");
        let guarded = BTreeSet::from([database("a"), database("b")]);
        let (marker, found) = Marker::open(path.clone(), &guarded);
        assert_eq!(found, BTreeSet::new());
        marker.keep(&database("b")).await.unwrap();
        assert_eq!(Marker::open(path.clone(), &guarded).1, BTreeSet::from([database("b")]));
        marker.remove().await;
        assert_eq!(Marker::open(path, &guarded).1, BTreeSet::new());
        assert!(marker.keep(&database("a")).await.is_err(), "nothing is written behind the end");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_that_nobody_can_read_names_every_database_and_a_folder_that_is_not_there_keeps_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.json");
        std::fs::write(&path, "[{").unwrap();
        let guarded = BTreeSet::from([database("a"), database("b")]);
        let (marker, found) = Marker::open(path.clone(), &guarded);
        assert_eq!(found, guarded);
        marker.keep(&database("a")).await.unwrap();
        assert_eq!(Marker::open(path, &guarded).1, guarded);
        let nowhere = Marker::open(folder.path().join("no/where.json"), &guarded).0;
        let why = nowhere.keep(&database("a")).await.unwrap_err();
        assert!(why.contains("cannot be written"), "{why}");
    }
}
