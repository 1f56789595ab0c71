//! O6: one writer at a time; and a fork that an operator forced is found.
//!
//! Terms only grow, and once a term has answered anything no lower one answers. Without votes an operator can
//! still force a second primary while the first lives on the other side of a cut: then both may answer, and the
//! rule is that the split brain is *found* as soon as the two meet, and that no data moves before `resolve`.
//!
//! Each node is on a *line*. A force puts the forced node, and those connected with it, on a new one; a node that was
//! away stays on the old one, and does not know better when it comes back (design P1, P7), until it meets the other.

use evenkeel_core::ids::GenerationId;

/// Who answers.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    last: Option<(u64, usize)>,
    /// The term in which each node answered last.
    terms: Vec<u64>,
    /// An operator forced a promotion while another node could still be primary: then not all are on one line.
    lines: Vec<usize>,
    next_line: usize,
    /// The newest generation under which each node answered since then.
    answered_in: Vec<Option<GenerationId>>,
    /// Whether a node has answered since then, or has what one of its line has answered.
    has_part: Vec<bool>,
    /// The generation in force when the force was used.
    common: Option<GenerationId>,
}

/// What a reply means for the rest of the oracle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// One writer: the reply is judged.
    Alone,
    /// Two may write: the truth is suspended until they have met.
    Forked,
    /// Two write, and no operator asked for it.
    Wrong(String),
}

impl Writers {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            answered_in: vec![None; nodes],
            has_part: vec![false; nodes],
            lines: vec![0; nodes],
            terms: vec![0; nodes],
            ..Self::default()
        }
    }

    /// An operator's force was accepted by the first of `together` while another node was, or could again become,
    /// primary. `ahead`: the node that answered last, if it has answered for what the forced one lacks.
    pub(crate) fn forced(&mut self, together: &[usize], head: Option<GenerationId>, ahead: Option<usize>) {
        // What those of its line have answered so far is behind it, but for what it lacks.
        let before = together.first().map(|node| self.lines[*node]);
        for node in (0..self.lines.len()).filter(|node| Some(self.lines[*node]) == before) {
            self.answered_in[node] = None;
            self.has_part[node] = false;
        }
        self.next_line += 1;
        for &node in together {
            self.lines[node] = self.next_line;
        }
        match ahead {
            Some(node) => {
                self.common = None;
                self.answered_in[node] = head;
                self.has_part[node] = true;
            }
            None => self.common = head,
        }
    }

    /// A node answered a write or a flush well.
    pub(crate) fn answered(&mut self, node: usize, term: u64, head: Option<GenerationId>) -> Answered {
        self.terms[node] = self.terms[node].max(term);
        if self.fork_possible() {
            if head != self.common {
                self.answered_in[node] = head;
                self.has_part[node] = true;
            }
            let two_lines = self.writers().any(|writer| self.are_apart(writer, node));
            let other_line =
                self.last.is_some_and(|(last_term, last)| self.are_apart(last, node) && term <= last_term);
            if two_lines || other_line {
                return Answered::Forked;
            }
        }
        match self.last {
            Some((last_term, last)) if last != node && term <= last_term => Answered::Wrong(format!(
                "node {node} answered in term {term} after node {last} had answered in term {last_term}"
            )),
            Some((last_term, last)) if last == node && term < last_term => {
                Answered::Wrong(format!("node {node} went back from term {last_term} to term {term}"))
            }
            _ => {
                self.last = Some((term, node));
                Answered::Alone
            }
        }
    }

    /// A node has what another has.
    pub(crate) fn follows(&mut self, node: usize, source: usize) {
        self.has_part[node] |= self.has_part[source] && !self.are_apart(node, source);
    }

    /// Whether both nodes have part in what their lines have answered, if that are two: when they meet, it must be as a
    /// split brain. A node that was away may be on either.
    pub(crate) fn have_parted(&self, one: usize, other: usize) -> bool {
        self.are_apart(one, other) && self.has_part[one] && self.has_part[other]
    }

    /// A node's metadata are gone, or older ones in their place: its own line cannot be known from it any more.
    pub(crate) fn forget(&mut self, node: usize) {
        self.answered_in[node] = None;
        self.has_part[node] = false;
    }

    /// Who answered last.
    pub(crate) fn last(&self) -> Option<usize> {
        self.last.map(|(_, node)| node)
    }

    /// Two nodes have answered under generations of their own: their meeting must be a split brain.
    pub(crate) fn both_advanced(&self) -> bool {
        let head = |node: usize| self.answered_in[node];
        self.writers()
            .any(|one| self.writers().any(|other| self.are_apart(one, other) && head(one) != head(other)))
    }

    /// The nodes that have answered under a generation of their own since the force.
    fn writers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.lines.len()).filter(|node| self.answered_in[*node].is_some())
    }

    /// Whether an operator's force may have made a fork that is not healed yet.
    pub(crate) fn fork_possible(&self) -> bool {
        self.lines.windows(2).any(|pair| pair[0] != pair[1])
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.lines.len()
    }

    /// Whether two nodes are on different lines.
    pub(crate) fn are_apart(&self, one: usize, other: usize) -> bool {
        self.lines[one] != self.lines[other]
    }

    /// `loser` is on the line of `node` from now on. `truth`: on whose image it was settled by a force. Whether no other
    /// line has a writer or the truth: then what that node has is the truth. (Two that were away may meet each other
    /// before either meets the forced one, and that one may not have answered yet.)
    pub(crate) fn joined(&mut self, node: usize, loser: usize, truth: Option<usize>) -> bool {
        let answers = (0..self.lines.len()).filter(|other| !self.are_apart(*other, node));
        let newest = answers.map(|other| (self.terms[other], other)).max();
        let last_loses = self.last.is_none_or(|(_, last)| self.are_apart(last, node));
        self.lines[loser] = self.lines[node];
        self.answered_in[loser] = None;
        self.has_part[loser] = self.has_part[node];
        let elsewhere = self.writers().chain(truth).any(|other| self.are_apart(node, other));
        if !elsewhere {
            self.answered_in.fill(None);
            self.has_part.fill(false);
            if last_loses {
                self.last = newest;
            }
        }
        !elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_term_never_answers_again() {
        let mut writers = Writers::new(2);
        assert_eq!(writers.answered(0, 1, None), Answered::Alone);
        assert_eq!(writers.answered(1, 2, None), Answered::Alone);
        assert!(matches!(writers.answered(0, 1, None), Answered::Wrong(_)));
        assert!(matches!(writers.answered(0, 2, None), Answered::Wrong(_)), "one term, one node");
    }

    #[test]
    fn a_forced_fork_is_no_fault_of_the_engine() {
        let mut writers = Writers::new(2);
        let head = |id| Some(GenerationId(id));
        writers.answered(0, 1, head(1));
        writers.forced(&[1], head(1), None);
        assert_eq!(writers.answered(1, 2, head(2)), Answered::Alone);
        assert_eq!(writers.answered(0, 1, head(3)), Answered::Forked);
        assert!(writers.both_advanced());
        assert!(writers.have_parted(0, 1));
        assert!(writers.joined(1, 0, None));
        assert!(!writers.fork_possible());
    }

    #[test]
    fn two_that_were_away_take_nothing_from_the_forced_one() {
        let mut writers = Writers::new(3);
        writers.answered(0, 1, Some(GenerationId(1)));
        writers.answered(2, 2, Some(GenerationId(1)));
        writers.forced(&[2, 0], Some(GenerationId(1)), None);
        writers.forced(&[2], Some(GenerationId(1)), None);
        assert!(!writers.joined(0, 1, Some(2)), "the truth is on the third line");
        assert_eq!(writers.last(), Some(2));
        assert!(writers.joined(0, 2, Some(2)), "until that is given up");
        assert_eq!(writers.last(), Some(0));
    }

    #[test]
    fn who_was_away_has_parted_from_nobody() {
        let mut writers = Writers::new(3);
        let head = |id| Some(GenerationId(id));
        writers.answered(0, 1, head(1));
        writers.forced(&[1], head(1), None);
        writers.answered(0, 1, head(2));
        writers.answered(1, 2, head(3));
        assert!(writers.have_parted(0, 1) && !writers.have_parted(2, 1), "the third one has seen neither");
        writers.follows(2, 0);
        assert!(writers.have_parted(2, 1), "now it has what the first one has answered");
    }
}
