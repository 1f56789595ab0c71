//! What the control side knows of exports: names, promises, and whether clients may come in.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    device::{ExportState, Features},
    session::Catalogue,
    wire::MAX_STRING_BYTES,
};

/// One export.
#[derive(Clone, Debug)]
pub struct Export {
    /// What it promises.
    pub features: Arc<Features>,
    /// Whether clients may come in, as it changes. When the sender is gone the last state stays.
    pub state: watch::Receiver<ExportState>,
    /// How long a client that wants to enter waits while the export is held.
    pub hold: Duration,
}

/// The exports by name. Cloning is cheap and shares the table.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    exports: Arc<RwLock<BTreeMap<String, Export>>>,
}

impl Directory {
    /// Adds an export, or replaces the one of this name.
    ///
    /// # Panics
    /// If the name is empty, longer than 4096 bytes or contains NUL: not a name in NBD.
    pub fn publish(&self, name: &str, export: Export) {
        assert!(
            !name.is_empty() && name.len() <= MAX_STRING_BYTES && !name.contains('\0'),
            "not an export name"
        );
        self.exports.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), export);
    }

    /// Removes an export. Connections that are open are not touched.
    pub fn withdraw(&self, name: &str) {
        self.exports.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The export of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Export> {
        self.exports.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl Catalogue for Directory {
    fn names(&self) -> Vec<String> {
        self.exports.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn features(&self, name: &str) -> Option<Arc<Features>> {
        self.find(name).map(|export| export.features)
    }
}
