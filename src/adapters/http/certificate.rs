//! When a server's certificate ends.

use std::time::Duration;

use jiff::Timestamp;
use x509_parser::parse_x509_certificate;

/// The end of the certificate; none if it cannot be read.
pub(crate) fn ends(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// One sentence if the certificate ends within `warning` of `now`.
pub(crate) fn warning(ends: Timestamp, warning: Duration, now: Timestamp) -> Option<String> {
    let left = ends.duration_since(now);
    if left > jiff::SignedDuration::try_from(warning).ok()? {
        return None;
    }
    let date = ends.strftime("%Y-%m-%d");
    Some(if left.is_negative() {
        format!("its certificate ended on {date}")
    } else {
        match left.as_hours() / 24 {
            0 => format!("its certificate ends on {date}, in less than a day"),
            1 => format!("its certificate ends on {date}, in one day"),
            days => format!("its certificate ends on {date}, in {days} days"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_warns_only_within_the_configured_time() {
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        let month = Duration::from_secs(30 * 24 * 3600);
        let said = |ends: &str| warning(ends.parse().unwrap(), month, now).unwrap_or_default();
        assert_eq!(said("2026-06-01T00:00:00Z"), "");
        assert_eq!(said("2026-03-11T12:00:00Z"), "its certificate ends on 2026-03-11, in 10 days");
        assert_eq!(said("2026-03-01T12:00:00Z"), "its certificate ends on 2026-03-01, in less than a day");
    }

    #[test]
    fn what_is_not_a_certificate_has_no_end() {
        assert_eq!(ends(b"nonsense"), None);
    }
}
