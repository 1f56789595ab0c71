//! The oracle as a whole: on whose image the truth is, when lines part and meet.

use super::*;

const SPAN: ByteSpan = ByteSpan { offset: 0, len: SECTOR as u64 };

fn writes(oracle: &mut Oracle, node: usize, term: u64, fua: bool) -> Vec<u8> {
    let write = oracle.write_begins(SPAN, false, fua, None);
    let head = Some(GenerationId(term.into()));
    oracle.write_answered(write, Answerer { node, term, head, own_disk: true });
    payload::make(write, 0, 1).to_vec()
}

fn reads(oracle: &mut Oracle, node: usize, image: &[u8]) {
    let asked = oracle.asks(true);
    oracle.read_answered(SPAN, asked, image, node);
}

/// Two nodes are away, on lines of their own, when the third, which went on alone with a stable write and lost power, is
/// promoted by force. Gives back what the two have, and what the third has.
fn third_is_forced() -> (Oracle, Vec<u8>, Vec<u8>) {
    let mut oracle = Oracle::new(3, SECTOR as u64, Protocol::B, 0, false);
    oracle.sees(2, 0, true);
    let old = writes(&mut oracle, 2, 1, false);
    oracle.fork_possible(2, &[2, 0]);
    oracle.promoted(2, &old, Some(DiskState::Consistent));
    oracle.sees(2, 0, false);
    let new = writes(&mut oracle, 2, 2, true);
    oracle.process_gone(2, true);
    oracle.power_lost(2);
    oracle.fork_possible(2, &[2]);
    oracle.promoted(2, &new, Some(DiskState::Consistent));
    assert_eq!(oracle.violation(), None);
    (oracle, old, new)
}

#[test]
fn two_that_were_away_and_meet_each_other_do_not_bring_back_what_they_have() {
    let (mut oracle, old, new) = third_is_forced();
    oracle.joined(0, 1, &old);
    reads(&mut oracle, 2, &new);
    oracle.joined(2, 0, &new);
    oracle.joined(2, 1, &new);
    oracle.final_image(0, &new);
    assert_eq!(oracle.violation(), None);
    oracle.final_image(1, &old);
    assert!(
        oracle.violation().is_some_and(|violation| violation.rule == "O1"),
        "what was stable is still owed"
    );
}

#[test]
fn what_a_force_gave_up_comes_back_when_the_forced_line_is_given_up() {
    let (mut oracle, old, new) = third_is_forced();
    oracle.joined(0, 1, &old);
    oracle.joined(0, 2, &old);
    oracle.final_image(2, &old);
    assert_eq!(oracle.violation(), None);
    reads(&mut oracle, 0, &new);
    assert!(oracle.violation().is_some());
}

#[test]
fn who_answers_says_that_a_copy_counts() {
    for counts in [false, true] {
        let mut oracle = Oracle::new(2, 4096, Protocol::C, 0, false);
        oracle.sees(0, 1, counts);
        let write = oracle.write_begins(SPAN, false, false, None);
        oracle.write_answered(write, Answerer { node: 0, term: 1, head: None, own_disk: false });
        assert_eq!(oracle.violation().is_none(), counts);
    }
}
