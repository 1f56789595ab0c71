//! Whether a verdict about two nodes is acted on at once, when there are more than two of them (design G9).
//!
//! Why: [`decide`](super::decide::decide) knows two copies, and says what they would do if they were alone. With a
//! third node one of the two may be bound: the target of a resync is in sync with nobody and nobody's source; a copy
//! that is in sync with a primary is that primary's, and what it holds in bits and logs for other secondaries counts
//! again when the primary is lost. The result is the same from both sides, as that of `decide` is.
//!
//! | | the two | course |
//! |---|---|---|
//! | C1 | a verdict by which nothing moves | `Act` |
//! | C2 | one is primary, the other in sync with another primary | `Wait` |
//! | C3 | one is primary, the other free or the target of a secondary | `Act`: it leaves that one |
//! | C4 | none is primary, both in sync with the same primary, equal heads | `Fellows` |
//! | C5 | none is primary, one is bound | `Wait` |
//! | C6 | none is primary, both free | `Act` |

use super::{
    verdict::Verdict,
    view::{Bond, Copy, NodeView},
};

/// See the module documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// The verdict is carried out.
    Act,
    /// The two are in sync, because each is with the same primary. Nothing is compared or copied.
    Fellows,
    /// Nothing happens before one of the two reports something else.
    Wait,
}

/// What becomes of the verdict about `mine` and `theirs`.
#[must_use]
pub fn course(verdict: Verdict, mine: &NodeView, theirs: &NodeView) -> Course {
    match verdict {
        Verdict::NoCopy(_) | Verdict::SplitBrain { .. } | Verdict::Unrelated { .. } | Verdict::Refused(_) => {
            return Course::Act;
        } // C1
        Verdict::NoSync | Verdict::FreshPair { .. } | Verdict::Resync { .. } => {}
    }
    match (mine.role.is_primary(), theirs.role.is_primary()) {
        (true, _) => under_primary(theirs),
        (false, true) => under_primary(mine),
        (false, false) => match (mine.bond, theirs.bond) {
            (Bond::Free, Bond::Free) => Course::Act, // C6
            (Bond::InSync(one), Bond::InSync(other)) if one == other && equal(mine, theirs) => {
                Course::Fellows // C4
            }
            (Bond::Free | Bond::Target(_) | Bond::InSync(_), _) => Course::Wait, // C5
        },
    }
}

fn under_primary(secondary: &NodeView) -> Course {
    match secondary.bond {
        Bond::Free | Bond::Target(_) => Course::Act, // C3
        Bond::InSync(_) => Course::Wait,             // C2
    }
}

fn equal(mine: &NodeView, theirs: &NodeView) -> bool {
    let good = mine.copy == Copy::Good && theirs.copy == Copy::Good;
    good && mine.history.head().map(|head| head.id) == theirs.history.head().map(|head| head.id)
}
