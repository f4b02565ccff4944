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

#[cfg(test)]
mod tests {
    use super::*;

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
