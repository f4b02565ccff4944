//! What `INFO`, `CLUSTER INFO` and `CLUSTER NODES` say: text in, facts out. What is missing or not to be understood is
//! not known, never a default.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::adapters::Endpoint;

/// All slots of a cluster.
pub(super) const SLOTS: u16 = 16384;

/// `name:value` lines.
#[derive(Debug, Default)]
pub(super) struct Info<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Info<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        Self(text.lines().filter_map(|line| line.trim_end().split_once(':')).collect())
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The server takes writes, as far as its role goes.
    pub(super) fn is_master(&self) -> Option<bool> {
        match self.text("role") {
            Some("master") => Some(true),
            Some("slave") => Some(false),
            Some(_) | None => None,
        }
    }

    /// How far it is in its primary's stream: what it wrote itself, or what it received.
    pub(super) fn position(&self) -> Option<u64> {
        match self.is_master()? {
            true => self.number("master_repl_offset"),
            false => self.number("slave_read_repl_offset").max(self.number("slave_repl_offset")),
        }
    }

    /// It is full and may not make room: every write is refused with OOM.
    pub(super) fn is_full(&self) -> bool {
        let limit = self.number("maxmemory").filter(|limit| *limit > 0);
        let full = limit.zip(self.number("used_memory")).is_some_and(|(limit, used)| used >= limit);
        full && self.text("maxmemory_policy") == Some("noeviction")
    }
}

/// One line of `CLUSTER NODES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: String,
    /// Where it says that it answers; none while that is not known.
    pub(super) at: Option<Endpoint>,
    /// The node that was asked.
    pub(super) is_asked: bool,
    pub(super) is_master: bool,
    /// Thought or agreed to have failed, or without a link.
    pub(super) is_lost: bool,
    /// Whom it follows.
    pub(super) master: Option<String>,
    pub(super) slots: Vec<RangeInclusive<u16>>,
}

impl Node {
    /// `None` for a line that is not to be understood.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (id, address, flags, master) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let link = fields.nth(3)?;
        let has = |wanted: &str| flags.split(',').any(|flag| flag == wanted);
        let is_asked = has("myself");
        let slots = fields.filter_map(range).collect();
        Some(Self {
            id: id.to_owned(),
            at: endpoint(address),
            is_asked,
            is_master: has("master"),
            is_lost: has("fail") || has("fail?") || has("noaddr") || (link != "connected" && !is_asked),
            master: (master != "-").then(|| master.to_owned()),
            slots,
        })
    }

    /// Its slots, as an operator would say it.
    pub(super) fn slots_shown(&self) -> String {
        let shown = |range: &RangeInclusive<u16>| format!("{}-{}", range.start(), range.end());
        self.slots.iter().map(shown).collect::<Vec<_>>().join(",")
    }

    /// One of its slots.
    pub(super) fn some_slot(&self) -> Option<u16> {
        self.slots.first().map(|range| *range.start())
    }
}

/// All lines of `CLUSTER NODES`.
pub(super) fn nodes(text: &str) -> Vec<Node> {
    text.lines().filter_map(Node::parse).collect()
}

/// `ip:port@bus` and since Redis 7 `ip:port@bus,hostname`; the name is what a certificate would be for.
fn endpoint(address: &str) -> Option<Endpoint> {
    let (address, names) = address.split_once(',').unwrap_or((address, ""));
    let address = address.split_once('@').map_or(address, |(address, _)| address);
    let (ip, port) = address.rsplit_once(':')?;
    let name = names.split(',').next().filter(|name| !name.is_empty() && !name.contains('='));
    let host = name.or(Some(ip)).filter(|host| !host.is_empty())?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some(Endpoint { host: host.to_owned(), port })
}

/// `0-5460` or `5461`; slots on their way (`[…]`) are still where they are.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some(first..=last)
}

/// A short text whose hash slot is `slot`, to be used as `{tag}` in a key.
pub(super) fn tag_for(slot: u16) -> Option<String> {
    // One try in 16384 hits; that this many miss does not happen, and is bounded all the same.
    (0..2_000_000_u32).map(|n| n.to_string()).find(|tag| crc16(tag.as_bytes()) % SLOTS == slot)
}

/// CRC-16/XMODEM, which is how Redis turns keys into slots.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
a1 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460\n\
b2 127.0.0.1:7001@17001,cache-2.example.com master,fail? - 1 2 2 connected 5461-10922 10999 [10923->-c3]\n\
c3 :0@0 slave,noaddr b2 0 0 2 disconnected\n\
d4 [not a line\n";

    #[test]
    fn nodes_are_read_with_what_they_serve_and_whether_they_are_lost() {
        let nodes = nodes(NODES);
        assert_eq!(nodes.len(), 3);
        assert_eq!((nodes[0].is_asked, nodes[0].is_master, nodes[0].is_lost), (true, true, false));
        assert_eq!((nodes[1].is_lost, nodes[1].slots_shown()), (true, "5461-10922,10999-10999".to_owned()));
        assert_eq!(nodes[1].at.as_ref().unwrap().host, "cache-2.example.com");
        assert_eq!((nodes[2].at.as_ref(), nodes[2].is_lost, nodes[2].master.as_deref()), (None, true, Some("b2")));
    }

    #[test]
    fn keys_land_in_the_slots_that_redis_says() {
        // CLUSTER KEYSLOT 123456789 answers 12739.
        assert_eq!(crc16(b"123456789") % SLOTS, 12739);
        for slot in [0, 5461, 16383] {
            assert_eq!(crc16(tag_for(slot).unwrap().as_bytes()) % SLOTS, slot);
        }
    }

    #[test]
    fn a_missing_role_or_offset_is_not_known() {
        let info = Info::parse("# Replication\r\nrole:slave\r\nmaster_link_status:down\r\n");
        assert_eq!((info.is_master(), info.position()), (Some(false), None));
        assert_eq!(Info::parse("nothing of the kind").is_master(), None);
    }

    #[test]
    fn a_server_is_full_only_where_it_may_not_evict() {
        let full = |policy: &str| format!("used_memory:10\r\nmaxmemory:10\r\nmaxmemory_policy:{policy}\r\n");
        assert!(Info::parse(&full("noeviction")).is_full());
        assert!(!Info::parse(&full("allkeys-lru")).is_full());
        assert!(!Info::parse("used_memory:10\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n").is_full());
    }
}
