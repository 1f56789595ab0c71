//! The configuration file: one TOML file, the same on every node, the only truth (design section 8).
//!
//! A file is taken whole or refused whole, with every fault that it has: file, line, what is wrong and what mends
//! it. Unknown keys are faults: a misspelt option must not be a default.
//!
//! | file | noun |
//! |---|---|
//! | `fault` | what is wrong, with its line |
//! | `section` | one table of the file while it is read |
//! | `node`, `volume` | the tables `[node.NAME]` and `[volume.NAME]` |
//! | `check` | what must hold between them |
//! | `own` | the part of one node, with the defaults of its state directory |

mod check;
mod fault;
mod node;
mod own;
mod section;
#[cfg(test)]
mod tests;
mod volume;

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use toml::de::DeTable;

pub(crate) use self::{
    fault::ConfigError,
    node::Node,
    own::{OwnConfig, OwnVolume},
    volume::Volume,
};
use self::{
    fault::Faults,
    section::{Placed, Section},
};

/// A longer file is refused before it is read: a thousand volumes need less.
const MAX_BYTES: u64 = 1 << 20;

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// At least one.
    pub(crate) nodes: BTreeMap<String, Node>,
    /// By name, which is also the NBD export's.
    pub(crate) volumes: BTreeMap<String, Volume>,
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let fail = |error: String| {
            ConfigError::whole(file, format!("cannot be read: {error}; name the file with --config"))
        };
        let open = fs::File::open(file).map_err(|error| fail(error.to_string()))?;
        let mut text = String::new();
        let len =
            open.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
        if len as u64 > MAX_BYTES {
            let text = format!("is larger than {MAX_BYTES} bytes; that is no configuration of Evenkeel");
            return Err(ConfigError::whole(file, text));
        }
        Self::parse(file, &text)
    }

    /// Checks the text of a file.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let faults = Faults::new(text);
        let (table, syntax) = DeTable::parse_recoverable(text);
        for error in syntax {
            let place = error.span().unwrap_or_default().into();
            faults.at(place, format!("{}; this is no valid TOML", error.message().trim_end()));
        }
        if !faults.is_empty() {
            // What could be read of a broken file would bring errors that the reader did not make.
            return faults.result(file, None);
        }
        let config = Self::read(&Section::root(table.get_ref(), &faults));
        faults.result(file, config)
    }

    fn read(root: &Section<'_, '_>) -> Option<Self> {
        let cluster = root.required_text("cluster", "\"NAME\"");
        if let Some(Placed { value, place }) = cluster {
            check::name(root, "cluster", value, place);
        }
        let nodes: Vec<_> = root.tables("node").into_iter().map(Node::read).collect();
        let volumes: Vec<_> = root.tables("volume").into_iter().map(Volume::read).collect();
        root.finish();
        check::nodes(root, &nodes);
        check::volumes(root, &volumes, &nodes);
        Some(Self {
            cluster: cluster?.value.to_owned(),
            nodes: node::all(nodes)?,
            volumes: volume::all(volumes)?,
        })
    }

    /// The part of the node `name`, with defaults below `state_dir`.
    pub(crate) fn own(&self, file: &Path, name: &str, state_dir: &Path) -> Result<OwnConfig, ConfigError> {
        own::select(self, name, state_dir).map_err(|text| ConfigError::whole(file, text))
    }
}
