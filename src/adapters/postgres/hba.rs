//! The text of `pg_hba.conf` with and without the fence: text in, text out.
//!
//! PostgreSQL takes the first line that matches, so the lines that refuse the application's roles stand at the very
//! top, between two marker lines. What was there before follows unchanged.

/// The first characters of the first marker line. The rest of that line remembers the setting that the fence changed.
const BEGIN: &str = "# BEGIN failoverd fence; do not edit; default_transaction_read_only was ";
const END: &str = "# END failoverd fence";
/// In the marker: no `ALTER SYSTEM` had set it.
const UNSET: &str = "unset";

/// Longer files are not rewritten: a statement carries the whole text.
const BYTES_MAX: usize = 256 * 1024;

/// Why a `pg_hba.conf` cannot be fenced or unfenced by a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// `COPY` could not write the text back as it is.
    #[error("pg_hba.conf has {0}, which would be altered when it is written back; remove that")]
    Contents(&'static str),
    /// The block has no end.
    #[error("pg_hba.conf ends inside the lines that failoverd wrote; put the rest back by hand")]
    Cut,
    /// A role that a quoted name in `pg_hba.conf` cannot mean.
    #[error("the application role `{0}` cannot be written into pg_hba.conf")]
    Role(String),
}

/// A file taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hba {
    /// The block, where there is one.
    pub(super) fence: Option<Fence>,
    /// Everything else, as it is.
    pub(super) rest: String,
}

/// What the block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    /// What `ALTER SYSTEM` had set `default_transaction_read_only` to before; none where it had not.
    pub(super) former: Option<String>,
    lines: String,
    /// Nothing stands above it, so no other line can match first.
    first: bool,
}

impl Hba {
    /// Takes a file apart.
    pub(super) fn parse(text: &str) -> Result<Self, Unfit> {
        let mut next = 0;
        let found = text.split_inclusive('\n').find_map(|line| {
            let at = next;
            next += line.len();
            line.starts_with(BEGIN).then_some(at)
        });
        let Some(start) = found else { return Ok(Self { fence: None, rest: text.to_owned() }) };
        let (before, block) = text.split_at(start);
        let Some((marker, after)) = block.split_once('\n') else { return Err(Unfit::Cut) };
        let former = former_in(marker);
        let end = format!("{END}\n");
        let Some((lines, rest)) = after.split_once(end.as_str()) else { return Err(Unfit::Cut) };
        Ok(Self {
            fence: Some(Fence { former, lines: lines.to_owned(), first: before.is_empty() }),
            rest: format!("{before}{rest}"),
        })
    }

    /// What a file was that ends inside the block: `rest` is what it was before, and its marker says the setting.
    pub(super) fn mended(text: &str, rest: String) -> Self {
        let marker = text.split_inclusive('\n').find(|line| line.starts_with(BEGIN) && line.ends_with('\n'));
        let fence = marker.map(|marker| Fence { former: former_in(marker), lines: String::new(), first: false });
        Self { fence, rest }
    }

    /// The fence is there, at the top, for exactly these roles.
    pub(super) fn fences(&self, roles: &[String]) -> bool {
        self.fence.as_ref().is_some_and(|fence| fence.first && Ok(&fence.lines) == rejections(roles).as_ref())
    }

    /// The file with the fence at its top.
    pub(super) fn fenced(&self, roles: &[String], former: Option<&str>) -> Result<String, Unfit> {
        let former = match &self.fence {
            Some(fence) => fence.former.as_deref(),
            None => former,
        };
        let text = format!("{BEGIN}{}\n{}{END}\n{}", former.unwrap_or(UNSET), rejections(roles)?, self.rest);
        writable(&text)?;
        Ok(text)
    }

    /// This file seems to be the beginning of `whole`: the writing of it was interrupted.
    pub(super) fn is_cut_from(&self, whole: &str) -> bool {
        self.rest.len() < whole.len() && whole.starts_with(&self.rest)
    }
}

/// Whether `COPY … (FORMAT csv)` with the quoting that `fence.rs` uses writes this text back byte by byte.
pub(super) fn writable(text: &str) -> Result<(), Unfit> {
    if text.len() > BYTES_MAX {
        return Err(Unfit::Contents("more than 256 KiB"));
    }
    if text.contains('\r') {
        return Err(Unfit::Contents("carriage returns"));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(Unfit::Contents("control characters"));
    }
    if text.lines().any(|line| line == "\\.") {
        return Err(Unfit::Contents("a line that is only \\."));
    }
    Ok(())
}

/// One line for each way to connect and each role. `all` does not match physical replication, so standbys go on.
fn rejections(roles: &[String]) -> Result<String, Unfit> {
    let mut lines = String::new();
    for role in roles {
        // PostgreSQL 16 reads a leading slash as a regular expression, quoted or not.
        let unfit = role.is_empty() || role.len() > 63 || role.starts_with('/') || role.chars().any(char::is_control);
        if unfit {
            return Err(Unfit::Role(role.clone()));
        }
        let quoted = format!("\"{}\"", role.replace('"', "\"\""));
        lines.push_str(&format!("local all {quoted} reject\nhost all {quoted} all reject\n"));
    }
    Ok(lines)
}

/// What the first marker line says about the setting.
fn former_in(marker: &str) -> Option<String> {
    Some(marker.trim_start_matches(BEGIN).trim()).filter(|former| *former != UNSET).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# comment with \"quotes\" and \\backslashes\n\nlocal all all peer\nhost all all 10.0.0.0/8 scram-sha-256\n";

    fn roles(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_fenced_file_refuses_the_roles_first_and_keeps_everything_else() {
        let text = Hba::parse(FILE).unwrap().fenced(&roles(&["app", "batch jobs"]), None).unwrap();
        assert_eq!(
            text,
            format!(
                "{BEGIN}unset\nlocal all \"app\" reject\nhost all \"app\" all reject\nlocal all \"batch jobs\" reject\n\
                 host all \"batch jobs\" all reject\n{END}\n{FILE}"
            )
        );
    }

    #[test]
    fn unfencing_gives_back_the_file_as_it_was() {
        let fenced = Hba::parse(FILE).unwrap().fenced(&roles(&["app"]), Some("off")).unwrap();
        let again = Hba::parse(&fenced).unwrap();
        assert_eq!(again.rest, FILE);
        assert_eq!(again.fence.unwrap().former.as_deref(), Some("off"));
    }

    #[test]
    fn fencing_twice_is_fencing_once_and_remembers_the_first_setting() {
        let once = Hba::parse(FILE).unwrap().fenced(&roles(&["app"]), None).unwrap();
        assert_eq!(Hba::parse(&once).unwrap().fenced(&roles(&["app"]), Some("on")).unwrap(), once);
    }

    #[test]
    fn a_fence_below_another_line_is_no_fence() {
        let fenced = Hba::parse(FILE).unwrap().fenced(&roles(&["app"]), None).unwrap();
        assert!(Hba::parse(&fenced).unwrap().fences(&roles(&["app"])));
        let covered = format!("host all app 10.0.0.0/8 trust\n{fenced}");
        let parsed = Hba::parse(&covered).unwrap();
        assert!(!parsed.fences(&roles(&["app"])));
        assert_eq!(parsed.rest, format!("host all app 10.0.0.0/8 trust\n{FILE}"), "and what stands above it is kept");
    }

    #[test]
    fn a_fence_for_other_roles_is_no_fence() {
        let fenced = Hba::parse(FILE).unwrap().fenced(&roles(&["app"]), None).unwrap();
        assert!(!Hba::parse(&fenced).unwrap().fences(&roles(&["app", "batch"])));
    }

    #[test]
    fn a_file_that_ends_inside_the_block_is_not_taken_for_the_whole() {
        let fenced = Hba::parse(FILE).unwrap().fenced(&roles(&["app"]), None).unwrap();
        let cut = &fenced[..fenced.find(END).unwrap()];
        assert_eq!(Hba::parse(cut), Err(Unfit::Cut));
        assert_eq!(Hba::mended(cut, FILE.to_owned()).fenced(&roles(&["app"]), Some("on")).unwrap(), fenced);
        let half = &fenced[..fenced.len() - 10];
        assert!(Hba::parse(half).unwrap().is_cut_from(FILE));
        assert!(!Hba::parse(&fenced).unwrap().is_cut_from(FILE));
    }

    #[test]
    fn names_that_would_mean_something_else_are_refused_or_quoted() {
        let fenced = |name: &str| Hba::parse(FILE).unwrap().fenced(&roles(&[name]), None);
        assert_eq!(fenced("/.*"), Err(Unfit::Role("/.*".into())));
        assert_eq!(fenced("a\nhost all all all trust"), Err(Unfit::Role("a\nhost all all all trust".into())));
        assert!(fenced("all").unwrap().contains("local all \"all\" reject"), "the role named all, not every role");
        assert!(fenced("o\"brien").unwrap().contains("\"o\"\"brien\""));
    }

    #[test]
    fn texts_that_copy_would_alter_are_not_written() {
        for text in ["host all\r\n", "a\u{1}b\n", "\\.\n"] {
            assert!(writable(text).is_err(), "{text:?}");
        }
    }
}
