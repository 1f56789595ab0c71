//! O10: nothing in a node's metadata goes backwards, and it can be read at every moment.
//!
//! The metadata on media is read from outside at every crash and at the end. Only an operator who puts an older
//! copy back, or a fault that damages the file itself, may set it back.

use crate::engine::MetaFacts;

/// The highest that each node's metadata has shown.
#[derive(Debug)]
pub(crate) struct Metadata {
    highest: Vec<Option<MetaFacts>>,
}

impl Metadata {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { highest: vec![None; nodes] }
    }

    /// The metadata on a node's media, or `None` when it cannot be read.
    pub(crate) fn seen(&mut self, node: usize, facts: Option<MetaFacts>) -> Result<(), String> {
        let highest = &mut self.highest[node];
        match (*highest, facts) {
            (None, None) => Ok(()),
            (Some(_), None) => Err(format!("the metadata of node {node} cannot be read any more")),
            (before, Some(now)) => {
                if let Some(before) = before
                    && (now.term < before.term || now.attach < before.attach)
                {
                    return Err(format!(
                        "the metadata of node {node} went back: term {} -> {}, attach counter {} -> {}",
                        before.term, now.term, before.attach, now.attach
                    ));
                }
                *highest = Some(now);
                Ok(())
            }
        }
    }

    /// An older copy was put back, or the file was damaged.
    pub(crate) fn forget(&mut self, node: usize) {
        self.highest[node] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_back_is_found_unless_a_copy_was_put_back() {
        let mut metadata = Metadata::new(1);
        let facts = |term, attach| Some(MetaFacts { term, attach });
        metadata.seen(0, facts(2, 5)).expect("first");
        metadata.seen(0, facts(2, 6)).expect("grows");
        assert!(metadata.seen(0, facts(1, 7)).is_err());
        assert!(metadata.seen(0, None).is_err());
        metadata.forget(0);
        metadata.seen(0, facts(1, 1)).expect("a restored copy");
    }
}
