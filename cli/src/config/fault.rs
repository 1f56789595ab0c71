//! What is wrong with a configuration: every fault with its line, in the order of the file.

use std::{
    cell::RefCell,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    /// The line, from 1; none if it is about the file as a whole.
    pub(crate) line: Option<usize>,
    /// What is wrong and what mends it.
    pub(crate) text: String,
}

/// A configuration that cannot be used. Nothing of it is applied.
#[derive(Clone, Debug, Error)]
pub(crate) struct ConfigError {
    /// The file.
    pub(crate) file: PathBuf,
    /// At least one, sorted by line.
    pub(crate) faults: Vec<Fault>,
}

impl ConfigError {
    /// A configuration with one fault that has no line.
    pub(crate) fn whole(file: &Path, text: String) -> Self {
        Self { file: file.to_owned(), faults: vec![Fault { line: None, text }] }
    }
}

/// One fault a line: `FILE:LINE: what; remedy`.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some(line) = fault.line {
                write!(f, "{line}:")?;
            }
            write!(f, " {}", fault.text)?;
        }
        Ok(())
    }
}

/// Collects faults while a file is read.
#[derive(Debug)]
pub(super) struct Faults<'i> {
    text: &'i str,
    found: RefCell<Vec<Fault>>,
}

impl<'i> Faults<'i> {
    pub(super) fn new(text: &'i str) -> Self {
        Self { text, found: RefCell::default() }
    }

    /// Notes a fault at a place in the file.
    pub(super) fn at(&self, place: Place, text: impl Into<String>) {
        self.found.borrow_mut().push(Fault { line: Some(self.line(place)), text: text.into() });
    }

    /// Notes a fault of the file as a whole.
    pub(super) fn whole(&self, text: impl Into<String>) {
        self.found.borrow_mut().push(Fault { line: None, text: text.into() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    fn line(&self, place: Place) -> usize {
        let before = &self.text.as_bytes()[..place.0.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// Ends the reading: `value`, if nothing was wrong.
    pub(super) fn result<T>(self, file: &Path, value: Option<T>) -> Result<T, ConfigError> {
        let mut faults = self.found.into_inner();
        faults.sort();
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            Some(_) | None => {
                assert!(!faults.is_empty(), "a configuration is refused only with a reason");
                Err(ConfigError { file: file.to_owned(), faults })
            }
        }
    }
}

/// A place in a file, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) usize);

impl From<Range<usize>> for Place {
    fn from(span: Range<usize>) -> Self {
        Self(span.start)
    }
}
