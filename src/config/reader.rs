//! From the merged layers to the types of the schema, with every mistake of shape found in one go and named by its key.
//!
//! A deserializer of our own, because a derived one stops at the first mistake, and because it can say more: which keys
//! there are, what was probably meant, what to write.
#![allow(clippy::wildcard_enum_match_arm, reason = "the kinds of values are the config crate's and serde's, not ours")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use config::{Map, Value, ValueKind};
use serde::Deserialize;
use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::Config;
use super::layers::{Places, get, pattern, set, take, unknown_key};
use super::mistake::{Key, Mistake, did_you_mean};
use super::outline::{Shape, expected};
use super::secret::SECRET;

/// After this many mistakes nobody reads on.
const MISTAKES_MAX: usize = 100;

const MISSING: &str = "missing; it has no default";

/// Reads a configuration. After a mistake the value is replaced by its default (`defaults`), or what it is part of is
/// left out, and the reading starts again, until there are no more mistakes to find.
pub(super) fn read(
    merged: Map<String, Value>,
    defaults: &Value,
    outline: &BTreeMap<Key, Shape>,
    places: &Places,
    mistakes: &mut Vec<Mistake>,
) -> Option<Config> {
    let mut tree = merged;
    let unknown = RefCell::new(BTreeSet::<Unknown>::new());
    let mut wrong_keys = BTreeSet::new();
    let mut config = None;
    for _ in 0..MISTAKES_MAX {
        let value = Value::new(None, ValueKind::Table(tree.clone()));
        let wrong = match Config::deserialize(Node { value, at: Key::default(), unknown: &unknown }) {
            Ok(read) => {
                config = Some(read);
                break;
            }
            Err(wrong) => wrong,
        };
        let mut key = wrong.key.unwrap_or_default();
        if let Some(field) = wrong.missing {
            key = key.child(field);
        }
        if wrong_keys.insert(key.clone()) {
            // A value that was wrong and was taken out for it is not missing as well.
            mistakes.push(Mistake { place: places.of_key(&key), text: wrong.text, key: key.clone() });
            if let Some(default) = get(defaults, key.names()) {
                set(&mut tree, key.names(), default.clone());
                continue;
            }
            if wrong.missing.is_none() {
                take(&mut tree, key.names());
                continue;
            }
        }
        let Some(entry) = entry_around(&key, outline) else { break };
        if take(&mut tree, entry.names()).is_none() {
            break;
        }
    }
    for Unknown { key, text, meant } in unknown.into_inner() {
        // What was meant is not missing as well.
        mistakes.retain(|mistake| mistake.text != MISSING || Some(&mistake.key) != meant.as_ref());
        mistakes.push(Mistake { place: places.of_key(&key), key, text });
    }
    config
}

/// A key that is in no table of the schema.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Unknown {
    key: Key,
    text: String,
    meant: Option<Key>,
}

/// The region, component or list entry that `key` is a part of.
fn entry_around(key: &Key, outline: &BTreeMap<Key, Shape>) -> Option<Key> {
    let mut entry = key.parent();
    while let Some(candidate) = entry {
        let table = candidate.parent()?;
        if matches!(outline.get(&pattern(&table, outline)), Some(Shape::Names | Shape::List)) {
            return Some(candidate);
        }
        entry = Some(table);
    }
    None
}

/// What is wrong, and where once the way back up has told.
#[derive(Debug)]
struct Wrong {
    key: Option<Key>,
    missing: Option<&'static str>,
    text: String,
}

impl Wrong {
    fn at(mut self, key: &Key) -> Self {
        self.key.get_or_insert_with(|| key.clone());
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self { key: None, missing: None, text: text.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { key: None, missing: Some(field), text: MISSING.to_owned() }
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match unexpected {
            de::Unexpected::Bool(_) => "true or false",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => "a number",
            de::Unexpected::Str(_) | de::Unexpected::Char(_) => "a text",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a table",
            _ => "something else",
        };
        Self::custom(format!("found {found}, expected {expected}"))
    }
}

/// A value, its key, and where unknown keys are collected.
struct Node<'a> {
    value: Value,
    at: Key,
    unknown: &'a RefCell<BTreeSet<Unknown>>,
}

impl<'a> Node<'a> {
    fn below(&self, name: String, value: Value) -> Node<'a> {
        Node { value, at: self.at.child(name), unknown: self.unknown }
    }

    fn wrong(&self, text: impl Into<String>) -> Wrong {
        Wrong { key: Some(self.at.clone()), missing: None, text: text.into() }
    }

    /// What was found, for the message. Without the value: it might be a secret in the wrong place.
    fn found(&self) -> &'static str {
        match &self.value.kind {
            ValueKind::Nil => "nothing",
            ValueKind::Boolean(_) => "true or false",
            ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) | ValueKind::Float(_) => {
                "a number"
            }
            ValueKind::String(_) => "a text",
            ValueKind::Table(_) => "a table",
            ValueKind::Array(_) => "a list",
        }
    }

    /// A whole number; texts are numbers where a variable of the environment says so.
    fn whole(&self, max: u64) -> Result<u64, Wrong> {
        let number = match &self.value.kind {
            ValueKind::I64(number) => u64::try_from(*number).ok(),
            ValueKind::String(text) if text.trim().parse::<u64>().is_ok() => text.trim().parse().ok(),
            _ => return Err(self.wrong(format!("found {}; write a whole number without quotes", self.found()))),
        };
        match number {
            Some(number) if number <= max => Ok(number),
            Some(_) | None => Err(self.wrong(format!("out of range; write a whole number from 0 to {max}"))),
        }
    }

    fn text(&self) -> Result<String, Wrong> {
        match &self.value.kind {
            ValueKind::String(text) => Ok(text.clone()),
            // `after = 30` is told what a duration looks like rather than what a text looks like.
            ValueKind::I64(number) => Ok(number.to_string()),
            ValueKind::Float(number) => Ok(number.to_string()),
            _ => Err(self.wrong(format!("found {}; write a text in quotes", self.found()))),
        }
    }

    fn table(&mut self, wanted: &str) -> Result<Map<String, Value>, Wrong> {
        match std::mem::take(&mut self.value.kind) {
            ValueKind::Table(table) => Ok(table),
            other => {
                self.value.kind = other;
                Err(self.wrong(format!("found {}; {wanted}", self.found())))
            }
        }
    }
}

macro_rules! whole {
    ($($method:ident $type:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            let number = self.whole(u64::from(<$type>::MAX))?;
            visitor.visit_u64(number).map_err(|wrong: Wrong| wrong.at(&self.at))
        })*
    };
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Wrong;

    whole! {
        deserialize_u8 u8;
        deserialize_u16 u16;
        deserialize_u32 u32;
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        // TOML has no larger ones.
        let number = self.whole(i64::MAX.unsigned_abs())?;
        visitor.visit_u64(number).map_err(|wrong: Wrong| wrong.at(&self.at))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let number = match &self.value.kind {
            ValueKind::Float(number) => Some(*number),
            #[allow(clippy::cast_precision_loss)] // ratios and shares
            ValueKind::I64(number) => Some(*number as f64),
            ValueKind::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if number.is_finite() => visitor.visit_f64(number),
            Some(_) | None => Err(self.wrong(format!("found {}; write a number such as 0.95", self.found()))),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.value.kind {
            ValueKind::Boolean(truth) => visitor.visit_bool(*truth),
            ValueKind::String(text) if text == "true" => visitor.visit_bool(true),
            ValueKind::String(text) if text == "false" => visitor.visit_bool(false),
            _ => Err(self.wrong(format!("found {}; write true or false, without quotes", self.found()))),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let text = self.text()?;
        if expected(&visitor) == "socket address" {
            return visitor.visit_str::<Wrong>(&text).map_err(|_| {
                self.wrong(format!("`{text}` is not an address with a port; write for example \"127.0.0.1:8080\""))
            });
        }
        visitor.visit_string(text).map_err(|wrong: Wrong| wrong.at(&self.at))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_str(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let at = self.at.clone();
        match &self.value.kind {
            ValueKind::Table(_) => self.deserialize_map(visitor),
            ValueKind::Array(_) => self.deserialize_seq(visitor),
            ValueKind::String(_) => self.deserialize_str(visitor),
            ValueKind::Boolean(truth) => visitor.visit_bool(*truth),
            ValueKind::I64(number) => visitor.visit_i64(*number),
            ValueKind::Float(number) => visitor.visit_f64(*number),
            ValueKind::Nil | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => visitor.visit_unit(),
        }
        .map_err(|wrong: Wrong| wrong.at(&at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        let at = self.at.clone();
        if name == SECRET && matches!(self.value.kind, ValueKind::Array(_)) {
            return Err(self.wrong("found a list; write { env = \"NAME\" } or { file = \"/path\" }"));
        }
        visitor.visit_newtype_struct(self).map_err(|wrong: Wrong| wrong.at(&at))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let mut table = self.table(&format!("write a table with these keys: {}", fields.join(", ")))?;
        table.retain(|name, _| {
            let known = fields.contains(&name.as_str());
            if !known {
                let key = self.at.child(name.as_str());
                let (text, meant) = unknown_key(&key, fields.iter().copied());
                let meant = meant.map(|meant| self.at.child(meant));
                self.unknown.borrow_mut().insert(Unknown { key, text, meant });
            }
            known
        });
        let at = self.at.clone();
        visitor.visit_map(Entries::new(self, table)).map_err(|wrong: Wrong| wrong.at(&at))
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Wrong> {
        let table = self.table("write a table, one name per entry")?;
        let at = self.at.clone();
        visitor.visit_map(Entries::new(self, table)).map_err(|wrong: Wrong| wrong.at(&at))
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Wrong> {
        let entries = match std::mem::take(&mut self.value.kind) {
            ValueKind::Array(entries) => entries,
            other => {
                self.value.kind = other;
                return Err(self.wrong(format!("found {}; write a list in brackets: [ … ]", self.found())));
            }
        };
        let at = self.at.clone();
        let entries = entries.into_iter().enumerate().map(|(index, value)| (format!("[{index}]"), value)).collect();
        visitor.visit_seq(Entries { of: self, left: entries }).map_err(|wrong: Wrong| wrong.at(&at))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let text = self.text()?;
        match variants.iter().find(|variant| **variant == text) {
            Some(variant) => {
                let variant: StrDeserializer<'_, Wrong> = (*variant).into_deserializer();
                visitor.visit_enum(variant).map_err(|wrong: Wrong| wrong.at(&self.at))
            }
            None => {
                let meant = did_you_mean(&text, variants.iter().copied());
                let hint = meant.map(|meant| format!(" (did you mean \"{meant}\"?)")).unwrap_or_default();
                let choices = variants.iter().map(|variant| format!("\"{variant}\"")).collect::<Vec<_>>().join(" or ");
                Err(self.wrong(format!("`{text}` is not possible here; write {choices}{hint}")))
            }
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Entries<'a> {
    of: Node<'a>,
    /// In the order in which they are handed out: sorted, so that the same configuration has the same first mistake.
    left: std::collections::VecDeque<(String, Value)>,
}

impl<'a> Entries<'a> {
    fn new(of: Node<'a>, table: Map<String, Value>) -> Self {
        Self { of, left: table.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect() }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        match self.left.front() {
            Some((name, _)) => {
                let name: StringDeserializer<Wrong> = name.clone().into_deserializer();
                seed.deserialize(name).map(Some)
            }
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let Some((name, value)) = self.left.pop_front() else { return Err(self.of.wrong("a name without a value")) };
        let below = self.of.below(name, value);
        let at = below.at.clone();
        seed.deserialize(below).map_err(|wrong| wrong.at(&at))
    }
}

impl<'de> SeqAccess<'de> for Entries<'_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        let Some((name, value)) = self.left.pop_front() else { return Ok(None) };
        let below = self.of.below(name, value);
        let at = below.at.clone();
        seed.deserialize(below).map(Some).map_err(|wrong| wrong.at(&at))
    }
}
