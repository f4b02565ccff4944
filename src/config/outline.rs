//! The outline of the schema: every key there is and what kind of value it takes, learned from the types themselves.
//!
//! It tells environment variables where `_` belongs to a name, secrets and paths from other texts, and the tests
//! which keys the documentation has to mention. It deliberately knows nothing that the types do not say.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::Config;
use super::mistake::Key;
use super::secret::SECRET;

/// What a key takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A table with these keys and no others.
    Table(&'static [&'static str]),
    /// A table whose keys are names chosen by the operator; in the outline they are called `*`.
    Names,
    /// A list; its entries are called `[]`.
    List,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A secret.
    Secret,
    /// The path of a file or a folder.
    Path,
    /// Any other value.
    Value,
}

/// Every key of the configuration.
pub fn outline() -> BTreeMap<Key, Shape> {
    let shapes = RefCell::new(BTreeMap::new());
    // It cannot fail: every value is made up so that its type accepts it. `the_whole_schema_is_outlined` would notice.
    let _ = Config::deserialize(Outliner { at: Key::default(), shapes: &shapes });
    shapes.into_inner()
}

/// A deserializer without input, which answers every type with a value that it accepts and takes notes.
struct Outliner<'a> {
    at: Key,
    shapes: &'a RefCell<BTreeMap<Key, Shape>>,
}

impl<'a> Outliner<'a> {
    fn note(&self, shape: Shape) {
        self.shapes.borrow_mut().insert(self.at.clone(), shape);
    }

    fn below(&self, name: &str) -> Outliner<'a> {
        Outliner { at: self.at.child(name), shapes: self.shapes }
    }
}

/// Never seen by anybody; see `outline`.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            self.note(Shape::Value);
            visitor.visit_u8(1)
        })*
    };
}

impl<'de> Deserializer<'de> for Outliner<'_> {
    type Error = Refused;

    numbers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.note(Shape::Value);
        visitor.visit_f64(0.5)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.note(Shape::Value);
        visitor.visit_bool(true)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match expected(&visitor).as_str() {
            "socket address" => {
                self.note(Shape::Value);
                visitor.visit_str("127.0.0.1:1")
            }
            "IPv4 address" => {
                self.note(Shape::Value);
                visitor.visit_str("127.0.0.1")
            }
            "path string" => {
                self.note(Shape::Path);
                visitor.visit_str("/")
            }
            // A duration, because the texts that are none accept it as well.
            _ => {
                self.note(Shape::Value);
                visitor.visit_str("1s")
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refused> {
        if name == SECRET {
            self.note(Shape::Secret);
            return visitor.visit_str("1s");
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.note(Shape::Table(fields));
        visitor.visit_map(Entries { of: self, names: fields.iter() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.note(Shape::Names);
        visitor.visit_map(Entries { of: self, names: ["*"].iter() })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.note(Shape::List);
        visitor.visit_seq(Entries { of: self, names: ["[]"].iter() })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.note(Shape::Choice(variants));
        let first: StrDeserializer<'_, Refused> = variants.first().copied().unwrap_or_default().into_deserializer();
        visitor.visit_enum(first)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Entries<'a> {
    of: Outliner<'a>,
    names: std::slice::Iter<'static, &'static str>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        match self.names.as_slice().first() {
            Some(name) => {
                let name: StrDeserializer<'_, Refused> = name.into_deserializer();
                seed.deserialize(name).map(Some)
            }
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let name = self.names.next().copied().unwrap_or_default();
        seed.deserialize(self.of.below(name))
    }
}

impl<'de> SeqAccess<'de> for Entries<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        self.names.next().map(|name| seed.deserialize(self.of.below(name))).transpose()
    }
}

/// What a visitor says that it expects, such as `socket address`.
pub(super) fn expected<'de, V: Visitor<'de>>(visitor: &V) -> String {
    let expected: &dyn de::Expected = visitor;
    expected.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_schema_is_outlined() {
        let shapes = RefCell::new(BTreeMap::new());
        Config::deserialize(Outliner { at: Key::default(), shapes: &shapes }).expect("made-up values are accepted");
        let outline = outline();
        assert_eq!(outline.get(&Key::of(["ledger", "path"])), Some(&Shape::Path));
        assert_eq!(outline.get(&Key::of(["api", "token"])), Some(&Shape::Secret));
        assert_eq!(outline.get(&Key::of(["regions"])), Some(&Shape::Names));
        let last = Key::of(["checks", "*", "command", "repeatable"]);
        assert_eq!(outline.get(&last), Some(&Shape::Value), "{outline:#?}");
    }
}
