//! Disks that do nothing, or one thing at a time, until a test lets them.

#![allow(dead_code, reason = "each test file uses a part of it")]

use super::{Held, Pair};

impl Pair {
    /// From now on this part of a node's disk does nothing that it is told before [`Pair::release`].
    pub(crate) fn hold(&mut self, node: usize, part: Held) {
        self.held.push((node, part));
    }

    /// It does the first thing that it was told, and goes on waiting with the others.
    pub(crate) fn release_one(&mut self, node: usize, part: Held) {
        let Some(place) = self.late.iter().position(|(of, why, _)| (*of, *why) == (node, part)) else {
            return;
        };
        let (_, _, action) = self.late.remove(place);
        let held = std::mem::take(&mut self.held);
        self.carry_out(node, vec![action]);
        self.held = held;
        self.run();
    }

    pub(crate) fn release(&mut self, node: usize, part: Held) {
        self.held.retain(|held| *held != (node, part));
        for (of, why, action) in std::mem::take(&mut self.late) {
            if (of, why) == (node, part) {
                self.carry_out(of, vec![action]);
            } else {
                self.late.push((of, why, action));
            }
        }
        self.run();
    }

    /// What it was told last, it does first.
    pub(crate) fn release_last_first(&mut self, node: usize, part: Held) {
        self.late.reverse();
        self.release(node, part);
    }

    /// So many actions of this part of a node's disk wait.
    pub(crate) fn held_actions(&self, node: usize, part: Held) -> usize {
        self.late.iter().filter(|(of, why, _)| (*of, *why) == (node, part)).count()
    }
}
