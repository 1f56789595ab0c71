//! Promotions beside a primary that does not answer any more (P3).

mod pair;

use evenkeel_core::volume::{
    Role,
    operator::{Force, OperatorAnswer, OperatorCommand},
};
use pair::Pair;

fn mirrored() -> Pair {
    let mut pair = Pair::new();
    pair.connect();
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    pair
}

#[test]
fn a_primary_that_answers_refuses_even_a_forced_promotion() {
    let mut pair = mirrored();
    let OperatorAnswer::Refused(why) = pair.command(1, OperatorCommand::Primary(Force::Yes)) else {
        panic!("it is refused")
    };
    assert!(why.contains("primary"), "{why}");
    assert_eq!(pair.status(0).role, Role::Primary);
}

#[test]
fn a_primary_that_is_silent_for_half_a_second_counts_as_absent() {
    for (force, expected) in [(Force::Yes, Role::Primary), (Force::No, Role::Secondary)] {
        let mut pair = mirrored();
        pair.stop(0);
        let command = pair.begin_command(1, OperatorCommand::Primary(force));
        assert_eq!(pair.answer(command), None, "it is asked first");
        pair.pass_time();
        let answer = pair.answer(command).expect("the peer's time is over");
        assert_eq!(answer == OperatorAnswer::Done, expected == Role::Primary, "{answer:?}");
        assert_eq!(pair.status(1).role, expected);
    }
}
