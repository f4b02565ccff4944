//! Checks by numbers: an instant query of a Prometheus server (HTTP API, `GET /api/v1/query`), such as an error ratio or a
//! latency, and how far it may go.

use serde::Deserialize;

use super::check::HttpChecks;
use super::probe::BODY_MAX;
use crate::adapters::connect::one_line;
use crate::adapters::failure::describe;
use crate::config::schema::PrometheusCheck;
use crate::domain::RegionId;
use crate::ports::Setback;

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Answer {
    Success { data: Data },
    Error { error: String },
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Scalar((f64, String)),
    Vector(Vec<Sample>),
    /// A range of time, or a text: no numbers of this moment.
    Matrix(serde::de::IgnoredAny),
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Sample {
    value: (f64, String),
}

impl HttpChecks {
    /// One query. Every number of its answer has to be within the limits, and there has to be one: what is not measured is
    /// not known to be well.
    pub async fn query(&self, check: &PrometheusCheck, region: &RegionId) -> Result<String, Setback> {
        let query = check.query.replace("{region}", region.as_str());
        let url = check.url.replace("{region}", region.as_str());
        let asked = format!("{}/api/v1/query", url.trim_end_matches('/'));
        let target = self.target_of(&asked, None, region)?;
        target.phase.reset(target.needs_resolver);
        let mut url = target.url.clone();
        url.query_pairs_mut().append_pair("query", &query);
        let request =
            target.client.get(url).headers(super::check::headers(&Default::default(), &check.secret_headers)?);
        let not_known = |why: String| Setback::NotYet(format!("{asked}: {why}"));
        let mut answer = request.send().await.map_err(|error| not_known(describe(&error.without_url())))?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| not_known(describe(&error.without_url())))? {
            body.extend_from_slice(&piece);
            if body.len() > BODY_MAX {
                return Err(not_known("more than 64 KiB of an answer; aggregate the query".to_owned()));
            }
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| {
            let begins = one_line(&String::from_utf8_lossy(&body[..body.len().min(400)]), 80);
            not_known(format!("answered {}, and not as Prometheus does; it begins with `{begins}`", status.as_u16()))
        })?;
        let numbers = match answer {
            Answer::Success { data: Data::Scalar((_, number)) } => vec![number],
            Answer::Success { data: Data::Vector(samples) } => {
                samples.into_iter().map(|sample| sample.value.1).collect()
            }
            Answer::Success { data: Data::Matrix(_) | Data::String(_) } => {
                return Err(Setback::Refused(
                    "the query answers no numbers of this moment; write an instant query".to_owned(),
                ));
            }
            Answer::Error { error } => return Err(not_known(one_line(&error, 200))),
        };
        judge(check, &numbers).map_err(Setback::NotYet)
    }
}

fn judge(check: &PrometheusCheck, numbers: &[String]) -> Result<String, String> {
    if numbers.is_empty() {
        return Err("the query answers nothing: no such series, or nothing was measured lately".to_owned());
    }
    for text in numbers {
        let number: f64 = text.parse().map_err(|_| format!("the query answers `{}`, no number", one_line(text, 40)))?;
        if number.is_nan() {
            return Err("the query answers NaN: a share of nothing; add `or vector(0)` if that is well".to_owned());
        }
        if check.max.is_some_and(|max| number > max) {
            return Err(format!("the query answers {number}, more than {}", check.max.unwrap_or_default()));
        }
        if check.min.is_some_and(|min| number < min) {
            return Err(format!("the query answers {number}, less than {}", check.min.unwrap_or_default()));
        }
    }
    Ok(format!("the query answers {}", one_line(&numbers.join(", "), 100)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_to_be_within_the_limits_and_there_has_to_be_one() {
        let check = PrometheusCheck {
            url: "http://localhost:9090".to_owned(),
            query: "errors".to_owned(),
            min: None,
            max: Some(0.01),
            secret_headers: Default::default(),
        };
        let judged = |numbers: &[&str]| {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            judge(&check, &numbers)
        };
        assert!(judged(&["0", "0.01"]).is_ok());
        assert!(judged(&["0", "0.02"]).is_err_and(|why| why.contains("0.02, more than 0.01")));
        assert!(judged(&["+Inf"]).is_err_and(|why| why.contains("inf")));
        assert!(judged(&["NaN"]).is_err_and(|why| why.contains("share of nothing")));
        assert!(judged(&[]).is_err_and(|why| why.contains("answers nothing")));
    }
}
