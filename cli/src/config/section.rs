//! A table of the file while it is read: typed access to its keys, and at the end an error for every key that
//! nobody asked for.

use std::{cell::RefCell, fmt::Display, str::FromStr};

use toml::de::{DeTable, DeValue};

use super::fault::{Faults, Place};
use crate::units::ByteSize;

/// A value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Section<'t, 'i> {
    /// As in the file, for messages: `[volume.r0]`.
    name: String,
    place: Place,
    table: &'t DeTable<'i>,
    faults: &'t Faults<'i>,
    known: RefCell<Vec<&'static str>>,
}

impl<'t, 'i> Section<'t, 'i> {
    /// The whole file.
    pub(super) fn root(table: &'t DeTable<'i>, faults: &'t Faults<'i>) -> Self {
        Self { name: String::new(), place: Place(0), table, faults, known: RefCell::default() }
    }

    pub(super) fn faults(&self) -> &'t Faults<'i> {
        self.faults
    }

    /// Where the section begins.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The section with its brackets, or words for the whole file.
    pub(super) fn shown(&self) -> String {
        if self.name.is_empty() { "the file".to_owned() } else { format!("[{}]", self.name) }
    }

    fn find(&self, key: &'static str) -> Option<Placed<&'t DeValue<'i>>> {
        self.known.borrow_mut().push(key);
        let value = self.table.get(key)?;
        Some(Placed { value: value.get_ref(), place: value.span().into() })
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> Option<Placed<&'t str>> {
        let Placed { value, place } = self.find(key)?;
        let Some(text) = value.as_str() else {
            let found = value.type_str();
            self.faults.at(place, format!("{key} must be a text in quotes, not {}", with_article(found)));
            return None;
        };
        Some(Placed { value: text, place })
    }

    /// A text that must be there.
    pub(super) fn required_text(&self, key: &'static str, example: &str) -> Option<Placed<&'t str>> {
        if self.is_absent(key) {
            self.missing(key, example);
        }
        self.text(key)
    }

    /// Whether the key is not in the file.
    pub(super) fn is_absent(&self, key: &str) -> bool {
        self.table.get(key).is_none()
    }

    /// Says that a key is missing.
    pub(super) fn missing(&self, key: &str, example: &str) {
        self.faults.at(self.place, format!("{} has no {key}; add: {key} = {example}", self.shown()));
    }

    /// A text with a form of its own.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, key: &'static str) -> Option<Placed<T>> {
        let Placed { value, place } = self.text(key)?;
        match value.parse() {
            Ok(value) => Some(Placed { value, place }),
            Err(error) => {
                self.faults.at(place, format!("{key}: {error}"));
                None
            }
        }
    }

    /// A size: a text with a unit, or a bare number of bytes.
    pub(super) fn size(&self, key: &'static str) -> Option<Placed<ByteSize>> {
        let Placed { value, place } = self.find(key)?;
        let Some(number) = value.as_integer() else { return self.parsed(key) };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(bytes) => Some(Placed { value: ByteSize(bytes), place }),
            Err(_) => {
                self.faults.at(place, format!("{key}: '{}' is not a number of bytes", number.as_str()));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let Placed { value, place } = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == value);
        if found.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.faults.at(place, format!("{key} = \"{value}\" is unknown; write {}", words.join(" or ")));
        }
        found.map(|(_, choice)| *choice)
    }

    /// The tables in a table of tables, by name: `[node.alpha]` and `[node.beta]` for `node`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<(&'t str, Self)> {
        let Some(Placed { value, place }) = self.find(key) else { return Vec::new() };
        let full = |name: &str| {
            if self.name.is_empty() { format!("{key}.{name}") } else { format!("{}.{key}.{name}", self.name) }
        };
        let Some(table) = value.as_table() else {
            self.faults.at(place, format!("{key} must be written as tables: [{}]", full("NAME")));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in table {
            let place = Place::from(name.span());
            let Some(table) = value.get_ref().as_table() else {
                let text = format!("{name} is not a table; write it as [{}]", full(name.get_ref()));
                self.faults.at(place, text);
                continue;
            };
            let name: &str = name.get_ref();
            let section =
                Section { name: full(name), place, table, faults: self.faults, known: RefCell::default() };
            found.push((name, section));
        }
        found.sort_by_key(|(_, section)| section.place);
        found
    }

    /// Every key that was not asked for is a fault.
    pub(super) fn finish(&self) {
        let mut known = self.known.borrow().clone();
        known.sort_unstable();
        known.dedup();
        for key in self.table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let place =
                    if self.name.is_empty() { "here".to_owned() } else { format!("in [{}]", self.name) };
                let text = format!("unknown key {}; {place} can stand: {}", key.get_ref(), known.join(", "));
                self.faults.at(key.span().into(), text);
            }
        }
    }
}

fn with_article(type_name: &str) -> String {
    let vowel = type_name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {type_name}", if vowel { "an" } else { "a" })
}
