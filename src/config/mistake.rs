//! What is wrong with a configuration, in one line each: where, which key, what is wrong, what to write instead.

use std::fmt;

/// The path of a key: `databases.database.regions.us-east-1.host`, `clusters.main.workloads[0].name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<String>);

impl Key {
    /// The key with these names, outermost first. A place in a list is written `[0]`.
    pub fn of<const N: usize>(names: [&str; N]) -> Self {
        Self(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// The key `name` below this one.
    #[must_use]
    pub fn child(&self, name: impl Into<String>) -> Self {
        let mut names = self.0.clone();
        names.push(name.into());
        Self(names)
    }

    /// The entry `index` of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.child(format!("[{index}]"))
    }

    /// The key that this one stands in; none at the top.
    pub fn parent(&self) -> Option<Self> {
        self.0.split_last().map(|(_, names)| Self(names.to_vec()))
    }

    /// The names, outermost first.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl From<Vec<String>> for Key {
    fn from(names: Vec<String>) -> Self {
        Self(names)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, name) in self.0.iter().enumerate() {
            let index = name.starts_with('[') && name.ends_with(']');
            if n > 0 && !index {
                f.write_str(".")?;
            }
            if index || (!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_*".contains(c))) {
                f.write_str(name)?;
            } else {
                write!(f, "{name:?}")?;
            }
        }
        Ok(())
    }
}

/// Where a key was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file, as it was named on the command line, at a line counted from 1.
    Line(String, usize),
    /// Nowhere in that file, and it should be there; or the file as a whole.
    File(String),
    /// In an environment variable.
    Variable(String),
    /// In the defaults that are compiled in.
    BuiltIn,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, line) => write!(f, "{file}:{line}"),
            Self::File(file) => f.write_str(file),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::BuiltIn => f.write_str("built-in defaults"),
        }
    }
}

/// One thing that is wrong, or that deserves a second look. One line, never with a secret in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where it was written.
    pub place: Place,
    /// Which key; empty for a file as a whole.
    pub key: Key,
    /// What is wrong; what to write instead.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was written is repeated here, and a parser's message may have line breaks: a mistake is one line, and
        // nothing in it reaches the terminal as a control sequence.
        let text = self.text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        let text = text.collect::<Vec<_>>().join(" ");
        if self.key.names().is_empty() {
            return write!(f, "{}: {text}", self.place);
        }
        write!(f, "{}: {}: {text}", self.place, self.key)
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<Mistake>);

/// The candidate that `name` was probably meant to be.
pub(super) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters have to be inserted, removed, replaced or swapped with their neighbour to get from one to the
/// other. Long names are cut: nobody mistypes a hundred letters.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before: Vec<usize> = vec![];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_recognized_and_a_strange_one_is_not() {
        let names = ["interval", "timeout", "jitter"];
        assert_eq!(did_you_mean("intervall", names), Some("interval"));
        assert_eq!(did_you_mean("tiemout", names), Some("timeout"));
        assert_eq!(did_you_mean("colour", names), None);
    }

    #[test]
    fn a_key_is_written_as_in_toml() {
        let key = Key::of(["clusters", "a.b", "workloads"]).index(0).child("name");
        assert_eq!(key.to_string(), "clusters.\"a.b\".workloads[0].name");
    }
}
