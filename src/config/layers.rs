//! Files and environment variables, one upon the other: the defaults, the files in their order, the environment.
//!
//! The `config` crate merges; what is here remembers where every key was written, so that a mistake can be found.
#![allow(clippy::wildcard_enum_match_arm, reason = "the kinds of values are the config crate's and serde's, not ours")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use config::{Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Key, Mistake, Place, did_you_mean};
use super::outline::Shape;

/// Variables that start like this are configuration; `__` separates the names of a key.
pub(super) const PREFIX: &str = "FAILOVERD__";

/// Longest configuration file, in bytes: far beyond any real one, and nothing that could exhaust the memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// One source of configuration, read.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    tree: Map<String, Value>,
    /// Where each key was written, tables included.
    places: BTreeMap<Key, Place>,
    /// Tables that came into being around a key: this is their place only if no layer below has written them.
    around: BTreeMap<Key, Place>,
    /// Relative paths in this layer are relative to this folder.
    folder: PathBuf,
}

impl Layer {
    /// Reads a file.
    pub(super) fn file(path: &Path, outline: &BTreeMap<Key, Shape>, mistakes: &mut Vec<Mistake>) -> Self {
        let name = path.display().to_string();
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        match read(path) {
            Ok(text) => Self::text(Origin::File(&name), folder, &text, outline, mistakes),
            Err(error) => {
                let text = format!("cannot read the file: {error}");
                mistakes.push(Mistake { place: Place::File(name), key: Key::default(), text });
                Self::empty(folder)
            }
        }
    }

    fn empty(folder: PathBuf) -> Self {
        Self { tree: Map::new(), places: BTreeMap::new(), around: BTreeMap::new(), folder }
    }

    /// Reads the defaults that are compiled in.
    pub(super) fn defaults(text: &str, outline: &BTreeMap<Key, Shape>, mistakes: &mut Vec<Mistake>) -> Self {
        Self::text(Origin::BuiltIn, PathBuf::new(), text, outline, mistakes)
    }

    /// Reads the text of a file, as it would be read from the file `origin`.
    fn text(
        origin: Origin<'_>,
        folder: PathBuf,
        text: &str,
        outline: &BTreeMap<Key, Shape>,
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let mut layer = Self::empty(folder);
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                let text = format!("not valid TOML: {}", error.message());
                mistakes.push(Mistake { place: origin.place(line), key: Key::default(), text });
                return layer;
            }
        };
        let reading = Reading { origin, text };
        for (name, value) in table {
            let key = Key::of([name.get_ref()]);
            let line = reading.line(&name);
            // The crate takes the names at the top for path expressions; only names of ours get that far.
            if outline.contains_key(&key) {
                layer.places.insert(key.clone(), origin.place(line));
                let value = reading.value(&key, value, &mut layer.places, mistakes);
                layer.tree.insert(name.into_inner().into_owned(), value);
            } else {
                let sections = outline.keys().filter(|key| key.names().len() == 1).map(|key| key.names()[0].as_str());
                let (text, _) = unknown_key(&key, sections);
                mistakes.push(Mistake { place: origin.place(line), key, text });
            }
        }
        layer
    }

    /// Reads the environment, on top of `merged`: the names of regions and components are looked up there.
    pub(super) fn environment(
        env: &BTreeMap<String, String>,
        merged: &Value,
        outline: &BTreeMap<Key, Shape>,
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let mut layer = Self::empty(PathBuf::new());
        for (variable, text) in env {
            let Some(names) = variable.strip_prefix(PREFIX) else { continue };
            let place = Place::Variable(variable.clone());
            match resolve(names, merged, outline) {
                Ok((key, shape)) => {
                    let value = value_of(text, shape);
                    for depth in 1..key.names().len() {
                        layer.around.insert(Key::from(key.names()[..depth].to_vec()), place.clone());
                    }
                    layer.places.insert(key.clone(), place);
                    put(&mut layer.tree, key.names(), value);
                }
                Err((key, text)) => mistakes.push(Mistake { place, key, text }),
            }
        }
        layer
    }

    /// What the crate is given. A secret replaces the one below as a whole: `{ env }` over `{ file }` must not be both.
    pub(super) fn without_secrets_of(&mut self, above: &Layer, outline: &BTreeMap<Key, Shape>) {
        for key in above.places.keys().chain(above.around.keys()) {
            if matches!(outline.get(&pattern(key, outline)), Some(Shape::Secret)) {
                take(&mut self.tree, key.names());
            }
        }
    }
}

/// Reads a whole file; bounded, because a path may well name a device.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.tree.clone())
    }
}

/// Where every key of the merged configuration was written last.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    places: BTreeMap<Key, (Place, PathBuf)>,
    /// Where something that is written nowhere should have been written.
    fallback: Option<Place>,
}

impl Places {
    /// Of these layers, the lowest first.
    pub(super) fn of(layers: &[Layer], fallback: Option<Place>) -> Self {
        let mut places = BTreeMap::new();
        for layer in layers {
            for (key, place) in &layer.places {
                places.insert(key.clone(), (place.clone(), layer.folder.clone()));
            }
            for (key, place) in &layer.around {
                places.entry(key.clone()).or_insert_with(|| (place.clone(), layer.folder.clone()));
            }
        }
        Self { places, fallback }
    }

    /// Where `key` was written, or else the nearest thing around it.
    pub(super) fn of_key(&self, key: &Key) -> Place {
        let mut around = Some(key.clone());
        while let Some(key) = around {
            match self.places.get(&key) {
                Some((Place::BuiltIn, _)) | None => {}
                Some((place, _)) => return place.clone(),
            }
            around = key.parent();
        }
        self.fallback.clone().unwrap_or(Place::BuiltIn)
    }

    /// Where exactly `key` was written; the built-in defaults where it was written nowhere.
    pub(super) fn exact(&self, key: &Key) -> Place {
        self.places.get(key).map_or(Place::BuiltIn, |(place, _)| place.clone())
    }

    /// Relative paths under `key` are relative to this folder.
    pub(super) fn folder_of(&self, key: &Key) -> &Path {
        self.places.get(key).map_or(Path::new(""), |(_, folder)| folder)
    }

    /// Whether `key` was set by an environment variable.
    pub(super) fn is_from_environment(&self, key: &Key) -> bool {
        matches!(self.places.get(key), Some((Place::Variable(_), _)))
    }
}

/// The key in the outline that describes `key`: names chosen by operators become `*`, list entries `[]`.
pub(super) fn pattern(key: &Key, outline: &BTreeMap<Key, Shape>) -> Key {
    key.names().iter().fold(Key::default(), |at, name| match outline.get(&at) {
        Some(Shape::Names) => at.child("*"),
        Some(Shape::List) => at.child("[]"),
        Some(Shape::Table(_) | Shape::Choice(_) | Shape::Secret | Shape::Path | Shape::Value) | None => at.child(name),
    })
}

/// A key that nobody knows: what to say of it, and which of the `known` ones was probably meant.
pub(super) fn unknown_key<'a>(key: &Key, known: impl Iterator<Item = &'a str>) -> (String, Option<&'a str>) {
    let known: Vec<&str> = known.collect();
    let name = key.names().last().map(String::as_str).unwrap_or_default();
    let meant = did_you_mean(name, known.iter().copied());
    let text = match meant {
        Some(meant) => format!("unknown key; did you mean `{meant}`?"),
        None => format!("unknown key; the keys here are {}", known.join(", ")),
    };
    (text, meant)
}

/// Sets a value at a path, with tables around it where there are none.
fn put(tree: &mut Map<String, Value>, names: &[String], value: Value) {
    let Some((name, rest)) = names.split_first() else { return };
    if rest.is_empty() {
        tree.insert(name.clone(), value);
        return;
    }
    let entry = tree.entry(name.clone()).or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
    if !matches!(entry.kind, ValueKind::Table(_)) {
        entry.kind = ValueKind::Table(Map::new());
    }
    if let ValueKind::Table(below) = &mut entry.kind {
        put(below, rest, value);
    }
}

/// Removes the value at a path; lists are entered as well.
pub(super) fn take(tree: &mut Map<String, Value>, names: &[String]) -> Option<Value> {
    let (name, rest) = names.split_first()?;
    if rest.is_empty() {
        return tree.remove(name);
    }
    let below = match &mut tree.get_mut(name)?.kind {
        ValueKind::Table(below) => return take(below, rest),
        ValueKind::Array(entries) => entries,
        _ => return None,
    };
    let (index, rest) = rest.split_first()?;
    let index: usize = index.trim_matches(['[', ']']).parse().ok()?;
    if rest.is_empty() {
        return (index < below.len()).then(|| below.remove(index));
    }
    match &mut below.get_mut(index)?.kind {
        ValueKind::Table(below) => take(below, rest),
        _ => None,
    }
}

/// The value at a path of tables.
pub(super) fn get<'a>(tree: &'a Value, names: &[String]) -> Option<&'a Value> {
    names.iter().try_fold(tree, |value, name| match &value.kind {
        ValueKind::Table(below) => below.get(name),
        _ => None,
    })
}

/// Replaces the value at a path of tables.
pub(super) fn set(tree: &mut Map<String, Value>, names: &[String], value: Value) {
    put(tree, names, value);
}

#[derive(Debug, Clone, Copy)]
enum Origin<'a> {
    File(&'a str),
    BuiltIn,
}

impl Origin<'_> {
    fn place(self, line: usize) -> Place {
        match self {
            Self::File(name) => Place::Line(name.to_owned(), line),
            Self::BuiltIn => Place::BuiltIn,
        }
    }
}

struct Reading<'a> {
    origin: Origin<'a>,
    text: &'a str,
}

impl Reading<'_> {
    fn line<T>(&self, spanned: &Spanned<T>) -> usize {
        line_of(self.text, spanned.span().start)
    }

    /// The crate's value for TOML's, with every place noted.
    fn value(
        &self,
        key: &Key,
        value: Spanned<DeValue<'_>>,
        places: &mut BTreeMap<Key, Place>,
        mistakes: &mut Vec<Mistake>,
    ) -> Value {
        let place = self.origin.place(self.line(&value));
        let kind = match value.into_inner() {
            DeValue::String(text) => ValueKind::String(text.into_owned()),
            DeValue::Boolean(truth) => ValueKind::Boolean(truth),
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => ValueKind::I64(number),
                Err(_) => self.refused(key, place, number.as_str(), mistakes),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => ValueKind::Float(number),
                Err(_) => self.refused(key, place, number.as_str(), mistakes),
            },
            DeValue::Array(entries) => ValueKind::Array(
                entries
                    .into_iter()
                    .enumerate()
                    .map(|(index, entry)| {
                        let key = key.index(index);
                        places.insert(key.clone(), self.origin.place(self.line(&entry)));
                        self.value(&key, entry, places, mistakes)
                    })
                    .collect(),
            ),
            DeValue::Table(table) => ValueKind::Table(
                table
                    .into_iter()
                    .map(|(name, entry)| {
                        let key = key.child(name.get_ref().as_ref());
                        places.insert(key.clone(), self.origin.place(self.line(&name)));
                        (name.into_inner().into_owned(), self.value(&key, entry, places, mistakes))
                    })
                    .collect(),
            ),
        };
        Value::new(None, kind)
    }

    fn refused(&self, key: &Key, place: Place, number: &str, mistakes: &mut Vec<Mistake>) -> ValueKind {
        let text = format!("`{number}` is not a number that fits in 64 bits");
        mistakes.push(Mistake { place, key: key.clone(), text });
        ValueKind::I64(0)
    }
}

/// The line of a position in a text, counted from 1.
fn line_of(text: &str, position: usize) -> usize {
    text.as_bytes().iter().take(position).filter(|byte| **byte == b'\n').count() + 1
}

/// The key that a variable names. Names of the schema and names chosen by operators are found whatever their case, and
/// `_` stands for `-` as well, which the names of variables cannot contain: `US_EAST_1` is `us-east-1`.
fn resolve<'a>(
    names: &str,
    merged: &Value,
    outline: &'a BTreeMap<Key, Shape>,
) -> Result<(Key, &'a Shape), (Key, String)> {
    let mut key = Key::default();
    for name in names.split("__") {
        let known: Vec<String> = match outline.get(&pattern(&key, outline)) {
            Some(Shape::Table(fields)) => fields.iter().map(|field| (*field).to_owned()).collect(),
            Some(Shape::Secret) => vec!["env".to_owned(), "file".to_owned()],
            Some(Shape::Names) => match get(merged, key.names()).map(|value| &value.kind) {
                Some(ValueKind::Table(table)) => table.keys().cloned().collect(),
                Some(_) | None => vec![],
            },
            Some(Shape::List | Shape::Choice(_) | Shape::Path | Shape::Value) | None => {
                let text = format!("{key} has no keys below it; set it as a whole");
                return Err((key.child(name.to_lowercase()), text));
            }
        };
        let mut same: Vec<&String> = known.iter().filter(|candidate| plain(candidate) == plain(name)).collect();
        same.sort();
        let below = match same.as_slice() {
            [one] => key.child(one.as_str()),
            [] if name.is_empty() => return Err((key, "two separators in a row; write `__` once".to_owned())),
            // A new region or component.
            [] if matches!(outline.get(&pattern(&key, outline)), Some(Shape::Names)) => key.child(name.to_lowercase()),
            [] => {
                let below = key.child(name.to_lowercase());
                let (text, _) = unknown_key(&below, known.iter().map(String::as_str));
                return Err((below, text));
            }
            [one, another, ..] => {
                let text = format!("could be `{one}` or `{another}`; set it in a file");
                return Err((key.child(name.to_lowercase()), text));
            }
        };
        key = below;
    }
    let pattern = pattern(&key, outline);
    match outline.get(&pattern) {
        Some(shape) => Ok((key, shape)),
        // Below a secret.
        None => Ok((key, &Shape::Value)),
    }
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

/// The value of a variable: text, or TOML where a list or a table is wanted. Numbers are told from text by the reader.
fn value_of(text: &str, shape: &Shape) -> Value {
    let wants_toml = match shape {
        Shape::List | Shape::Names | Shape::Table(_) => true,
        Shape::Secret => text.starts_with('{'),
        Shape::Choice(_) | Shape::Path | Shape::Value => false,
    };
    if wants_toml && let Ok(value) = DeValue::parse(text) {
        let reading = Reading { origin: Origin::BuiltIn, text };
        return reading.value(&Key::default(), value, &mut BTreeMap::new(), &mut vec![]);
    }
    Value::new(None, text)
}
