//! The one EC2 call, signed by hand: an SDK of a hundred megabytes for counting instances would be out of proportion.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;

use super::classify::{Trouble, TroubleKind, no_answer, of_code, of_status};
use super::clients::{Aws, Clients};
use crate::adapters::failure::{NetworkFailure, describe, from_chain};
use crate::domain::RegionId;

const CALL: &str = "ec2 DescribeInstances";
/// So many pages of 1,000 instances are counted.
const PAGES_MAX: usize = 20;
/// A page of 1,000 instances has about 6 MiB.
const ANSWER_MAX: usize = 32 << 20;

/// What runs in a region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) instances: u32,
    /// By availability zone; complete where counting did not stop early.
    pub(super) zones: BTreeMap<String, u32>,
}

impl Aws {
    /// How many instances of the region are running, by zone. Counting stops once there are `enough`; 0 counts all.
    pub(super) async fn running_instances(
        &self,
        region: &RegionId,
        enough: u32,
        limit: Duration,
    ) -> Result<Running, Trouble> {
        let counting = async {
            let (clients, _) = self.clients(region, limit).await?;
            let mut running = Running::default();
            let mut token: Option<String> = None;
            for _ in 0..PAGES_MAX {
                let page = read_page(&ask(&clients, region, token.as_deref()).await?)?;
                running.instances += page.running;
                for (zone, count) in page.zones {
                    *running.zones.entry(zone).or_default() += count;
                }
                token = page.next;
                if token.is_none() || (enough > 0 && running.instances >= enough) {
                    break;
                }
            }
            Ok(running)
        };
        tokio::time::timeout(limit, counting).await.unwrap_or_else(|_| Err(no_answer(CALL, limit)))
    }
}

async fn ask(clients: &Clients, region: &RegionId, token: Option<&str>) -> Result<String, Trouble> {
    let own = |why: String| Trouble::own(CALL, why);
    let mut body = "Action=DescribeInstances&Version=2016-11-15&MaxResults=1000\
                    &Filter.1.Name=instance-state-name&Filter.1.Value.1=running"
        .to_owned();
    if let Some(token) = token {
        body.push_str("&NextToken=");
        body.push_str(&form_encoded(token));
    }
    let uri: http::Uri =
        clients.ec2.parse().map_err(|error| own(format!("the endpoint {} is no URL: {error}", clients.ec2)))?;
    let host = uri.authority().ok_or_else(|| own(format!("the endpoint {} names no host", clients.ec2)))?.to_string();
    let uri = format!("{}/", clients.ec2.trim_end_matches('/'));
    let content_type = "application/x-www-form-urlencoded; charset=utf-8";

    let identity: Identity =
        clients.keyring.held().ok_or_else(|| own("no AWS credentials were found yet".to_owned()))?.into();
    let settings = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_str())
        .name("ec2")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| own(describe(&error)))?
        .into();
    let headers = [("host", host.as_str()), ("content-type", content_type)];
    let signable = SignableRequest::new("POST", &uri, headers.into_iter(), SignableBody::Bytes(body.as_bytes()))
        .map_err(|error| own(describe(&error)))?;
    let (instructions, _) = sign(signable, &settings).map_err(|error| own(describe(&error)))?.into_parts();
    let mut request = http::Request::post(&uri)
        .header("host", &host)
        .header("content-type", content_type)
        .body(SdkBody::from(body))
        .map_err(|error| own(error.to_string()))?;
    instructions.apply_to_request_http1x(&mut request);
    let request = HttpRequest::try_from(request).map_err(|error| own(describe(&error)))?;

    let answer = clients.connector.call(request).await.map_err(|error| {
        let kind = match from_chain(&error) {
            Some(network) => TroubleKind::Network(network),
            None if error.is_timeout() || error.is_io() => TroubleKind::Network(NetworkFailure::Tcp),
            None => TroubleKind::NoAnswer,
        };
        Trouble { call: CALL.to_owned(), kind, why: describe(&error) }
    })?;
    let status = answer.status().as_u16();
    let text = collect(answer.into_body()).await?;
    if status == 200 {
        return Ok(text);
    }
    Err(match (element(&text, "Code"), element(&text, "Message")) {
        (Some(code), message) => Trouble {
            call: CALL.to_owned(),
            kind: of_code(code, status),
            why: format!("{code}: {}", message.unwrap_or_default()),
        },
        (None, _) => Trouble {
            call: CALL.to_owned(),
            kind: if status >= 500 { of_status(status) } else { TroubleKind::Unreadable },
            why: format!("HTTP {status} without an error code"),
        },
    })
}

async fn collect(body: SdkBody) -> Result<String, Trouble> {
    let mut stream = ByteStream::new(body);
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| Trouble {
            call: CALL.to_owned(),
            kind: from_chain(&error).map_or(TroubleKind::NoAnswer, TroubleKind::Network),
            why: describe(&error),
        })?;
        bytes.extend_from_slice(&part);
        if bytes.len() > ANSWER_MAX {
            return Err(Trouble::unreadable(CALL, "the answer has no end"));
        }
    }
    String::from_utf8(bytes).map_err(|_| Trouble::unreadable(CALL, "the answer is not UTF-8"))
}

/// One page of the answer.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    running: u32,
    zones: BTreeMap<String, u32>,
    next: Option<String>,
}

/// Counts what is running. The answer is XML of a fixed shape, so elements are found by their tags; an answer that
/// does not end properly counts as none.
fn read_page(xml: &str) -> Result<Page, Trouble> {
    if !xml.contains("<DescribeInstancesResponse") || !xml.trim_end().ends_with("</DescribeInstancesResponse>") {
        return Err(Trouble::unreadable(CALL, "the answer is no DescribeInstancesResponse"));
    }
    let running = xml
        .split("<instanceState>")
        .skip(1)
        .filter(|state| {
            let state = state.split("</instanceState>").next().unwrap_or_default();
            element(state, "name") == Some("running")
        })
        .count();
    // Only running instances were asked for, and each names the zone that it is placed in once.
    let mut zones: BTreeMap<String, u32> = BTreeMap::new();
    for placement in xml.split("<placement>").skip(1) {
        let placement = placement.split("</placement>").next().unwrap_or_default();
        if let Some(zone) = element(placement, "availabilityZone").filter(|zone| !zone.is_empty()) {
            *zones.entry(zone.to_owned()).or_default() += 1;
        }
    }
    let next = element(xml, "nextToken").filter(|token| !token.is_empty()).map(str::to_owned);
    Ok(Page { running: u32::try_from(running).unwrap_or(u32::MAX), zones, next })
}

/// The text of the first `<name>` element.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

/// A token in a form body: everything but letters, digits and `-._~` as `%XX`.
fn form_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_running_instances_are_counted_and_the_token_is_found() {
        let xml = "<?xml version=\"1.0\"?><DescribeInstancesResponse xmlns=\"x\"><reservationSet><item>\
            <instanceState><code>16</code><name>running</name></instanceState><architecture>x</architecture>\
            <instanceState><code>80</code><name>stopped</name></instanceState>\
            <instanceState> <code>16</code>\n <name>running</name> </instanceState>\
            <placement><availabilityZone>us-east-1a</availabilityZone><tenancy>x</tenancy></placement>\
            <placement><availabilityZone>us-east-1b</availabilityZone></placement>\
            <placement><availabilityZone>us-east-1b</availabilityZone></placement>\
            </item></reservationSet><nextToken>a+b=</nextToken></DescribeInstancesResponse>\n";
        let zones = BTreeMap::from([("us-east-1a".to_owned(), 1), ("us-east-1b".to_owned(), 2)]);
        assert_eq!(read_page(xml), Ok(Page { running: 2, zones, next: Some("a+b=".into()) }));
        assert_eq!(form_encoded("a+b="), "a%2Bb%3D");
    }

    #[test]
    fn half_an_answer_is_no_answer() {
        let trouble = read_page("<DescribeInstancesResponse><reservationSet>").expect_err("cut off");
        assert_eq!(trouble.kind, TroubleKind::Unreadable);
        assert!(read_page("").is_err() && read_page("<html>maintenance</html>").is_err());
    }
}
