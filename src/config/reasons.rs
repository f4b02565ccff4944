//! Why a default is what it is, out of the comments in `default.toml`: said once there, and shown where it matters.

use super::DEFAULTS;

/// The comment above `key` in `section` of the built-in defaults, as one paragraph.
pub fn reason(section: &str, key: &str) -> Option<String> {
    let header = format!("[{section}]");
    let mut lines = DEFAULTS.lines().skip_while(|line| line.trim() != header).skip(1);
    let mut comment: Vec<&str> = vec![];
    for line in lines.by_ref().take_while(|line| !line.starts_with('[')) {
        match line.strip_prefix('#') {
            Some(text) => comment.push(text.trim()),
            None if line.split('=').next().is_some_and(|name| name.trim() == key) => return Some(comment.join(" ")),
            None => comment.clear(),
        }
    }
    None
}

/// The comment right above a line, counted from 1, of a configuration file: the reason that its author gave.
pub fn comment_above(text: &str, line: usize) -> Option<String> {
    let before: Vec<&str> = text.lines().take(line.saturating_sub(1)).collect();
    let mut comment: Vec<&str> =
        before.iter().rev().map_while(|line| line.trim_start().strip_prefix('#')).map(str::trim).collect();
    comment.reverse();
    (!comment.is_empty()).then(|| comment.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_the_comment_right_above() {
        let text = "# About something else.\n\n[deadlines]\n# Measured: a minute,\n# and half.\npromote = \"90s\"\nfence = \"1s\"\n";
        assert_eq!(comment_above(text, 6).as_deref(), Some("Measured: a minute, and half."));
        for line in [0, 3, 7, 99] {
            assert_eq!(comment_above(text, line), None, "{line}");
        }
    }

    #[test]
    fn every_deadline_has_a_reason() {
        for (_, fields) in crate::config::outline() {
            if let crate::config::Shape::Table(fields) = fields
                && fields.contains(&"promote_managed")
            {
                for field in fields {
                    let reason = reason("deadlines", field).unwrap_or_default();
                    assert!(reason.len() > 30, "deadlines.{field}: {reason}");
                }
            }
        }
    }
}
