//! Texts that have a form: names, addresses, URLs. Each function says what is wrong, or nothing.

use std::net::IpAddr;

/// An id of ours: it stands in plans, step ids, file names, metrics and `component@region`.
pub(super) fn id(text: &str) -> Option<String> {
    let good = !text.is_empty()
        && text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    (!good).then(|| {
        format!(
            "`{text}` is not usable as a name; use up to 63 letters, digits, `-`, `_` and `.`, a letter or digit first"
        )
    })
}

/// A name of a Kubernetes object (RFC 1123).
pub(super) fn kubernetes(text: &str) -> Option<String> {
    let good = !text.is_empty()
        && text.len() <= 253
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    (!good).then(|| {
        format!("`{text}` is not a Kubernetes name; use lower-case letters, digits, `-` and `.`, no `-` at either end")
    })
}

/// A name of an S3 bucket.
pub(super) fn bucket(text: &str) -> Option<String> {
    let good = (3..=63).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    (!good).then(|| {
        format!("`{text}` is not a bucket name; use 3 to 63 lower-case letters, digits, `-` and `.` (without s3://)")
    })
}

/// An identifier of an RDS instance or of a replication group.
pub(super) fn identifier(text: &str) -> Option<String> {
    let good = !text.is_empty()
        && text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !text.ends_with('-')
        && !text.contains("--");
    (!good)
        .then(|| format!("`{text}` is not an identifier; write the name of the instance, not its address or its ARN"))
}

/// A host name or an IP address, without scheme, port and path.
pub(super) fn host(text: &str) -> Option<String> {
    if text.parse::<IpAddr>().is_ok() {
        return None;
    }
    let good = !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len()) && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        });
    (!good).then(|| format!("`{text}` is not a host; write a name or an address only, such as \"db.example.com\""))
}

/// An `http://` or `https://` address without credentials in it.
pub(super) fn url(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return Some("not an address; write http://… or https://…".to_owned());
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some(
            "credentials in an address are shown in logs; use a header, or a token where there is a key for it"
                .to_owned(),
        );
    }
    let wrong = || Some(format!("`{text}` has no usable host; write for example \"https://api.example.com/health\""));
    if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return wrong();
    }
    let (name, port) = match authority.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, "")) => (v6, None),
        Some((v6, rest)) => (v6, rest.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(name, port)| (name, Some(port))),
    };
    if host(name).is_some() || port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return wrong();
    }
    None
}

/// The host in an address that `url` or `reference` accepts.
pub(super) fn host_of(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.split_once(':').map_or(authority, |(name, _)| name),
    }
}

/// `host:port`, without a scheme.
pub(super) fn address(text: &str) -> Option<String> {
    let wrong = || format!("`{text}` is not an address; write \"host:port\", such as \"10.9.0.5:8780\"");
    (text.contains("://") || reference(text).is_some()).then(wrong)
}

/// `host:port` or an address.
pub(super) fn reference(text: &str) -> Option<String> {
    if text.contains("://") {
        return url(text);
    }
    let good = match text.rsplit_once(':') {
        Some((name, port)) => {
            let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
            host(name).is_none() && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        None => false,
    };
    (!good).then(|| format!("`{text}` is not a reference point; write \"host:port\", \"http://…\" or \"https://…\""))
}

/// A PostgreSQL identifier that needs no quotes.
pub(super) fn sql_identifier(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Whether a host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_what_only_looks_like_one() {
        for good in ["https://api.example.com", "http://127.0.0.1:8080/health?x=1", "https://[::1]:6443"] {
            assert_eq!(url(good), None, "{good}");
        }
        for bad in ["api.example.com", "https://", "https://a b/", "https://u:p@host/", "http://host:0/", "http://h:x"]
        {
            assert!(url(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_reference_point_is_a_host_with_a_port_or_an_address() {
        for good in ["1.1.1.1:53", "[2606:4700:4700::1111]:53", "https://www.example.com/"] {
            assert_eq!(reference(good), None, "{good}");
        }
        for bad in ["1.1.1.1", "example.com", ":53", "host:99999", "ftp://x/"] {
            assert!(reference(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn the_host_is_found_in_an_address() {
        assert_eq!(host_of("https://api.example.com:8443/x"), "api.example.com");
        assert_eq!(host_of("[::1]:53"), "::1");
        assert_eq!(host_of("1.1.1.1:53"), "1.1.1.1");
    }
}
