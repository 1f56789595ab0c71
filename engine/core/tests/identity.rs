//! What belongs to another time: a copy that was set back (D6), frames of an older connection (D11).

mod pair;

use evenkeel_core::{
    ids::AttachCounter,
    volume::{
        DiskState, Remembered, Role,
        operator::{Force, OperatorAnswer, OperatorCommand},
    },
};
use pair::Pair;

/// Both files of a node are those of an hour ago; whoever it meets knows better.
#[test]
fn d6_a_copy_that_was_set_back_is_compared_whole_and_never_a_source() {
    for node in 0..2 {
        let mut pair = Pair::mirrored();
        let old = pair.snapshot(node);
        for node in 0..2 {
            pair.crash(node);
            pair.restart(node);
        }
        pair.connect();
        pair.pass_time();
        if pair.status(0).role != Role::Primary {
            assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
        }
        assert!(pair.write(0, 0, &[2; 4096], true).is_ok());
        pair.crash(0);
        pair.crash(1);
        pair.put_back(node, &old);
        pair.restart(0);
        pair.restart(1);
        pair.connect();
        pair.pass_time();
        pair.connect();
        pair.pass_time();
        assert_eq!((pair.data(0)[0], pair.data(1)[0]), (2, 2), "node {node} was set back");
        assert_eq!(pair.status(node).disk, DiskState::UpToDate, "node {node} was set back");
    }
}

/// Nobody is met, but the state directory knows better.
#[test]
fn d6_a_copy_that_was_set_back_is_noticed_without_a_peer() {
    let mut pair = Pair::mirrored();
    let old = pair.snapshot(0);
    pair.crash(0);
    pair.restart(0);
    pair.pass_time();
    pair.crash(0);
    pair.put_back(0, &old);
    pair.remembered[0] = Remembered { attach_counter: Some(AttachCounter(1000)), ..Remembered::default() };
    pair.restart(0);
    assert_eq!(pair.status(0).disk, DiskState::Inconsistent);
    for force in [Force::No, Force::Yes] {
        let answer = pair.command(0, OperatorCommand::Primary(force));
        assert!(matches!(answer, OperatorAnswer::Refused(_)), "{force:?}: {answer:?}");
    }
    pair.connect();
    assert_eq!(pair.status(0).disk, DiskState::UpToDate, "its peer has everything");
    assert_eq!(pair.data(0), pair.data(1));
}

/// Every frame of the links of before, to both nodes, at every stage of the next one.
#[test]
fn d11_frames_of_an_older_connection_change_nothing() {
    let mut pair = Pair::new();
    pair.recorded = Some(Vec::new());
    pair.connect();
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    assert!(pair.write(0, 0, &[1; 4096], false).is_ok());
    pair.disconnect();
    assert!(pair.write(0, 4096, &[2; 4096], false).is_ok());
    pair.connect();
    assert!(pair.write(0, 8192, &[3; 4096], true).is_ok());
    let old = pair.recorded.take().expect("it was set");
    assert!(old.len() > 40, "{} frames", old.len());
    pair.disconnect();
    assert!(pair.write(0, 0, &[4; 4096], false).is_ok());
    pair.deliver(old.clone());
    for frames in 0..20 {
        pair.limit_frames(1, frames);
        pair.connect();
        pair.deliver(old.clone());
        pair.unlimit_frames();
        pair.deliver(old.clone());
        assert_eq!(pair.status(0).role, Role::Primary, "{frames} frames");
        assert_eq!(pair.status(1).disk, DiskState::UpToDate, "{frames} frames");
        assert_eq!(pair.data(0), pair.data(1), "{frames} frames");
        assert!(pair.write(0, 0, &[5; 4096], false).is_ok());
    }
}
