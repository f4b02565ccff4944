//! What a ledger looks like in a file: a header line, then one line per frame.
//!
//! ```text
//! failoverd-ledger 1
//! <length of the JSON> <chain hash> <the frame as JSON>
//! ```
//!
//! The chain hash covers the hash before it and the JSON, so that no line can be changed, removed or swapped unseen.
//! It is text because people read it with `less` on a bad night. The length tells a line that was cut short by a
//! crash (harmless: it was never acknowledged) from a line whose end was damaged (not harmless).

use std::io::{self, BufRead, Read};

use crate::decide::{Fact, Frame};

/// The first line of every ledger. The number is the version of the format.
pub const HEADER: &str = "failoverd-ledger 1\n";

/// Longest frame, in bytes of JSON. The largest real one is a regional plan of a big deployment, some 200 kB; a frame
/// beyond this is a bug, and it is refused before anything is written.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Length digits, a space, the hash, a space, and the end of the line.
const OVERHEAD: usize = 7 + 1 + HASH_DIGITS + 1 + 1;
const HASH_DIGITS: usize = 64;

/// The hash up to a certain line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head(blake3::Hash);

impl Head {
    /// Before the first frame.
    pub(super) fn start() -> Self {
        Self(blake3::hash(HEADER.as_bytes()))
    }

    fn next(self, json: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.0.as_bytes());
        hasher.update(json);
        Self(hasher.finalize())
    }

    /// As it stands in the file.
    pub(super) fn text(self) -> String {
        self.0.to_hex().to_string()
    }
}

/// Why a frame cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum EncodeError {
    #[error("frame {index} has {bytes} bytes; the longest that is allowed has {FRAME_BYTES_MAX}")]
    TooLong { index: u64, bytes: usize },
    #[error("frame {index} cannot be written as JSON: {why}")]
    Unwritable { index: u64, why: String },
}

/// The line of `frame` after `head`, with the new head.
pub(super) fn encode(head: Head, frame: &Frame) -> Result<(Vec<u8>, Head), EncodeError> {
    let json = serde_json::to_vec(frame)
        .map_err(|error| EncodeError::Unwritable { index: frame.index, why: error.to_string() })?;
    if json.len() > FRAME_BYTES_MAX {
        return Err(EncodeError::TooLong { index: frame.index, bytes: json.len() });
    }
    let next = head.next(&json);
    let mut line = format!("{} {} ", json.len(), next.text()).into_bytes();
    line.extend_from_slice(&json);
    line.push(b'\n');
    Ok((line, next))
}

/// A last line that a crash cut short. It was never acknowledged, so nothing was done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// The frame that would have been here.
    pub frame: u64,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How much of it is there.
    pub bytes: u64,
}

/// Something that a crash does not do to a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) frame: u64,
    pub(super) offset: u64,
    pub(super) what: String,
}

#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    NotALedger,
    Damaged(Damage),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What the frames so far say about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) head: Head,
    /// Its index.
    pub(super) next: u64,
    /// Its epoch is no lower.
    pub(super) epoch: u64,
}

impl Chain {
    /// Before the first frame.
    pub(super) fn start() -> Self {
        Self { head: Head::start(), next: 0, epoch: 0 }
    }

    /// After a line whose own hash is taken on trust.
    pub(super) fn after(line: &[u8]) -> Result<Self, String> {
        let Split { hash, json, .. } = split(line).ok_or("the line does not begin with a length and a hash")?;
        let head = std::str::from_utf8(hash).ok().and_then(|hash| blake3::Hash::from_hex(hash).ok());
        let head = Head(head.ok_or("the line does not begin with a length and a hash")?);
        let frame: Frame = serde_json::from_slice(json).map_err(|error| format!("it cannot be read ({error})"))?;
        Ok(Self { head, next: frame.index.saturating_add(1), epoch: frame.epoch })
    }

    /// The frame in `line` (without its line break), checked: the hash, the index without gaps, the epoch that never
    /// goes down. The chain stays where it is when something is wrong.
    pub(super) fn follow(&mut self, line: &[u8]) -> Result<Frame, String> {
        let Split { announced, hash, json } = split(line).ok_or("the line does not begin with a length and a hash")?;
        if json.len() != announced {
            return Err(format!("the line announces {announced} bytes and has {}", json.len()));
        }
        let head = self.head.next(json);
        // Compared as text: a hash in other letters is a changed hash.
        if head.text().as_bytes() != hash {
            return Err("the hash does not fit the line and the lines before it".to_owned());
        }
        let frame: Frame = serde_json::from_slice(json).map_err(|error| {
            format!("the hash is right, but this version of failoverd cannot read the frame ({error})")
        })?;
        if frame.index != self.next {
            return Err(format!("frame {} stands where frame {} should", frame.index, self.next));
        }
        if frame.epoch < self.epoch {
            return Err(format!("epoch {} comes after epoch {}", frame.epoch, self.epoch));
        }
        if self.next == 0 && !matches!(frame.facts.as_slice(), [Fact::LedgerCreated { .. }, ..]) {
            return Err("the first frame does not say which ledger this is".to_owned());
        }
        *self = Self { head, next: self.next + 1, epoch: frame.epoch };
        Ok(frame)
    }
}

/// Reads frame after frame of a file, and checks each.
pub(super) struct Scanner<R> {
    reader: R,
    line: Vec<u8>,
    chain: Chain,
    /// Behind the last whole line.
    offset: u64,
    torn: Option<Torn>,
}

impl<R: BufRead> Scanner<R> {
    /// Reads the header. A file that ends within its header is an empty ledger whose creation was cut short.
    pub(super) fn new(mut reader: R) -> Result<Self, ReadError> {
        let mut header = Vec::new();
        reader.by_ref().take(HEADER.len() as u64).read_to_end(&mut header)?;
        if !HEADER.as_bytes().starts_with(&header) {
            return Err(ReadError::NotALedger);
        }
        let whole = header.len() == HEADER.len();
        let torn = (!whole).then_some(Torn { frame: 0, offset: 0, bytes: header.len() as u64 });
        let offset = if whole { HEADER.len() as u64 } else { 0 };
        Ok(Self { reader, line: Vec::new(), chain: Chain::start(), offset, torn })
    }

    /// The next frame; `None` at the end, where [`Scanner::torn`] says whether something was cut short there.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        if self.torn.is_some() {
            return Ok(None);
        }
        self.line.clear();
        let limit = (FRAME_BYTES_MAX + OVERHEAD) as u64;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') {
            if read as u64 == limit {
                return Err(self.damage("the line is longer than any frame may be".to_owned()));
            }
            if has_more_than_announced(&self.line) {
                return Err(self.damage("the line goes on where it should end".to_owned()));
            }
            self.torn = Some(Torn { frame: self.chain.next, offset: self.offset, bytes: read as u64 });
            return Ok(None);
        }
        let frame = self.chain.follow(&self.line[..read - 1]).map_err(|what| self.damage(what))?;
        self.offset += read as u64;
        Ok(Some(frame))
    }

    fn damage(&self, what: String) -> ReadError {
        ReadError::Damaged(Damage { frame: self.chain.next, offset: self.offset, what })
    }

    pub(super) fn chain(&self) -> Chain {
        self.chain
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn torn(&self) -> Option<Torn> {
        self.torn
    }
}

struct Split<'a> {
    announced: usize,
    hash: &'a [u8],
    json: &'a [u8],
}

fn split(line: &[u8]) -> Option<Split<'_>> {
    let space = line.iter().take(OVERHEAD).position(|byte| *byte == b' ')?;
    let (digits, rest) = (&line[..space], &line[space + 1..]);
    let canonical = !digits.is_empty() && digits[0] != b'0' && digits.iter().all(u8::is_ascii_digit);
    if !canonical || rest.get(HASH_DIGITS) != Some(&b' ') {
        return None;
    }
    let announced = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(Split { announced, hash: &rest[..HASH_DIGITS], json: &rest[HASH_DIGITS + 1..] })
}

/// A line without an end that has everything and then more was not cut short: its end was overwritten.
fn has_more_than_announced(line: &[u8]) -> bool {
    split(line).is_some_and(|split| split.json.len() > split.announced)
}
