//! Promotions beside a primary (P3), their terms (P4) and generations (G1).

mod pair;

use bytes::Bytes;
use evenkeel_core::volume::{
    DiskState, Replication, Role,
    config::{OnPeerLoss, Protocol},
    io::{ClientOperation, RequestOutcome},
    operator::{Force, OperatorAnswer, OperatorCommand},
};
use pair::{Held, Pair, Settings};

fn mirrored() -> Pair {
    Pair::serving(Settings::default())
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

fn write(byte: u8, fua: bool) -> ClientOperation {
    ClientOperation::Write { offset: 0, payload: Bytes::from(vec![byte; 4096]), fua }
}

/// The asker knows nothing yet: it asks with its first frame, after each number of frames that came to it.
#[test]
fn p3_a_primary_refuses_also_who_does_not_know_it() {
    for frames in 0..12 {
        for force in [Force::Yes, Force::Inconsistent] {
            let mut pair = mirrored();
            pair.disconnect();
            assert_eq!(pair.request(0, write(1, false)), Ok(RequestOutcome::Done));
            pair.limit_frames(1, frames);
            pair.begin_connect();
            let command = pair.begin_command(1, OperatorCommand::Primary(force));
            pair.unlimit_frames();
            let answer = pair.answer(command);
            assert!(matches!(answer, Some(OperatorAnswer::Refused(_))), "{frames} frames: {answer:?}");
            let roles = (pair.status(0).role, pair.status(1).role);
            assert_eq!(roles, (Role::Primary, Role::Secondary), "{frames} frames");
            pair.pass_time();
            assert_eq!(pair.status(1).disk, DiskState::UpToDate, "{frames} frames");
            assert_eq!(pair.data(0), pair.data(1));
        }
    }
}

/// Both were primary. The one with the lower term has seen the other's report, and what follows is on its way.
#[test]
fn g10_a_primary_that_meets_a_higher_term_answers_nothing_any_more() {
    for frames in 0..8 {
        for advanced in [true, false] {
            let mut pair = mirrored();
            if !advanced {
                pair.hold(0, Held::Flush);
            }
            pair.disconnect();
            assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
            assert_eq!(pair.request(1, write(2, true)), Ok(RequestOutcome::Done));
            pair.limit_frames(0, frames);
            pair.connect();
            if !advanced {
                pair.release(0, Held::Flush);
            }
            let requests = [false, true].map(|fua| pair.begin_request(0, write(3, fua)));
            let met = frames >= 2;
            for request in requests {
                let reply = pair.reply(request);
                assert!(
                    !met || !matches!(reply, Some(Ok(_))),
                    "{frames} frames, advanced {advanced}: {reply:?}"
                );
            }
            pair.unlimit_frames();
            assert_eq!(pair.status(0).role, Role::Secondary, "{frames} frames, advanced {advanced}");
            assert_eq!(pair.status(1).role, Role::Primary, "{frames} frames, advanced {advanced}");
            assert_eq!(pair.status(1).disk, DiskState::UpToDate);
        }
    }
}

/// However a node has learnt of a term, it never takes one that was used, also after a crash.
#[test]
fn p4_a_promotion_takes_a_term_above_every_one_that_was_used() {
    for (resynced, power) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut pair = mirrored();
        if resynced {
            pair.disconnect();
            assert_eq!(pair.request(0, write(1, true)), Ok(RequestOutcome::Done));
            pair.crash(0);
            // Another term, of which the peer learns with the blocks.
            pair.lose_power(0);
            pair.restart(0);
            assert_eq!(pair.command(0, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
            pair.connect();
        }
        let used = pair.status(0).term.expect("a primary has one");
        assert_eq!(pair.status(1).disk, DiskState::UpToDate);
        pair.crash(0);
        if power {
            pair.lose_power(1);
        } else {
            pair.crash(1);
        }
        pair.restart(1);
        assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
        let taken = pair.status(1).term.expect("a primary has one");
        assert!(taken.number > used.number, "resynced {resynced}, power {power}: {taken:?} after {used:?}");
    }
}

#[test]
fn g1_a_promotion_waits_for_the_generation_on_every_node_in_sync() {
    for (node, part) in [(0, Held::Meta), (0, Held::Flush), (1, Held::Meta), (1, Held::Flush)] {
        let mut pair = Pair::new();
        pair.connect();
        pair.hold(node, part);
        let command = pair.begin_command(0, OperatorCommand::Primary(Force::No));
        let request = pair.begin_request(0, write(1, false));
        assert_eq!(pair.answer(command), None, "node {node}, {part:?}");
        assert!(!matches!(pair.reply(request), Some(Ok(_))), "node {node}, {part:?}");
        pair.release(node, part);
        assert_eq!(pair.answer(command), Some(OperatorAnswer::Done), "node {node}, {part:?}");
        assert_eq!(pair.status(0).head, pair.status(1).head);
    }
}

#[test]
fn g1_a_primary_that_lost_its_peer_answers_under_a_stable_generation_only() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for part in [Held::Meta, Held::Flush] {
            for fua in [false, true] {
                let settings =
                    Settings { protocol, on_peer_loss: OnPeerLoss::Continue, ..Settings::default() };
                let mut pair = Pair::set_up(settings);
                pair.connect();
                assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
                assert_eq!(pair.request(0, write(1, false)), Ok(RequestOutcome::Done));
                let before = pair.status(0).head;
                pair.hold(0, part);
                let early = pair.begin_request(0, ClientOperation::Flush);
                pair.disconnect();
                let late = pair.begin_request(0, write(2, fua));
                for request in [early, late] {
                    let reply = pair.reply(request);
                    assert!(reply.is_none() || request == early, "{protocol:?} {part:?} {fua}: {reply:?}");
                }
                pair.release(0, part);
                assert_eq!(pair.reply(late), Some(Ok(RequestOutcome::Done)), "{protocol:?} {part:?} {fua}");
                assert_ne!(pair.status(0).head, before);
            }
        }
    }
}

/// The link flaps while the new generation is on its way: each loss is no excuse for the one before.
#[test]
fn g1_a_link_that_flaps_does_not_hurry_the_generation() {
    for frames in 0..16 {
        let mut pair = mirrored();
        assert_eq!(pair.request(0, write(1, false)), Ok(RequestOutcome::Done));
        pair.hold(0, Held::Meta);
        pair.disconnect();
        let request = pair.begin_request(0, write(2, true));
        for _ in 0..2 {
            pair.limit_frames(0, frames);
            pair.connect();
            pair.disconnect();
            pair.unlimit_frames();
            assert_eq!(pair.reply(request), None, "{frames} frames");
        }
        pair.release(0, Held::Meta);
        assert_eq!(pair.reply(request), Some(Ok(RequestOutcome::Done)), "{frames} frames");
    }
}

/// A generation never names data that a loss of power can take back.
#[test]
fn g1_the_data_are_stable_before_the_generation() {
    let mut pair = mirrored();
    assert_eq!(pair.request(0, write(7, false)), Ok(RequestOutcome::Done));
    let before = pair.status(0).head;
    pair.hold(0, Held::Flush);
    pair.disconnect();
    pair.lose_power(0);
    pair.release(0, Held::Flush);
    pair.restart(0);
    assert_eq!(pair.status(0).head, before, "what it would name is gone");
    pair.connect();
    assert_eq!(pair.status(0).disk, DiskState::UpToDate);
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (7, 7), "from the node that kept power (G8)");
}

/// The link comes up while the promotion makes its data stable, and the peer begins to copy to this node: a primary
/// follows nobody (the simulator found one that did, and whose writes nobody else got).
#[test]
fn p3_who_becomes_primary_while_a_resync_into_it_begins_follows_nobody() {
    for frames in 0..24 {
        for force in [Force::No, Force::Yes] {
            let mut pair = mirrored();
            assert_eq!(pair.request(0, write(1, false)), Ok(RequestOutcome::Done));
            for node in 0..2 {
                pair.crash(node);
            }
            for node in 0..2 {
                // The last primary does not take its role up again by itself.
                pair.lose_power(node);
                pair.restart(node);
            }
            pair.hold(1, Held::Flush);
            let command = pair.begin_command(1, OperatorCommand::Primary(force));
            pair.limit_frames(1, frames);
            pair.connect();
            pair.release(1, Held::Flush);
            pair.unlimit_frames();
            for _ in 0..3 {
                if pair.status(1).peers[0].replication != Replication::Established {
                    pair.connect();
                }
                pair.pass_time();
            }
            let what = format!("{frames} frames, {force:?}");
            let done = pair.answer(command) == Some(OperatorAnswer::Done);
            assert!(done || force == Force::No, "{what}");
            if !done {
                assert_eq!(
                    pair.command(1, OperatorCommand::Primary(Force::No)),
                    OperatorAnswer::Done,
                    "{what}"
                );
            }
            assert_eq!(
                (pair.status(0).role, pair.status(1).role),
                (Role::Secondary, Role::Primary),
                "{what}"
            );
            assert_eq!(pair.request(1, write(9, false)), Ok(RequestOutcome::Done), "{what}");
            assert_eq!((pair.data(0)[0], pair.data(1)[0]), (9, 9), "{what}");
            assert_eq!(pair.status(0).disk, DiskState::UpToDate, "{what}");
        }
    }
}

/// Beta is promoted, and its link is lost while alpha takes its head. Alpha is not counted yet: it led before.
#[test]
fn g1_a_head_is_given_up_when_the_peer_that_may_have_it_is_lost() {
    let mut pair = Pair::new();
    pair.connect();
    pair.hold(0, Held::Meta);
    let promotion = pair.begin_command(1, OperatorCommand::Primary(Force::No));
    assert_eq!(pair.held_actions(0, Held::Meta), 1, "alpha gives up its right");
    pair.release_one(0, Held::Meta);
    assert_eq!(pair.status(1).role, Role::Primary);
    assert_eq!(pair.held_actions(0, Held::Meta), 1, "alpha takes the head");
    let offered = pair.status(1).head;
    pair.disconnect();
    pair.release(0, Held::Meta);
    assert_eq!(pair.status(0).head, offered, "it has it, and beta does not know");
    assert_eq!(pair.answer(promotion), Some(OperatorAnswer::Done));
    assert_ne!(pair.status(1).head, offered, "beta goes on under another one");
    assert_eq!(pair.write(1, 0, &[1; 4096], true), Ok(RequestOutcome::Done));
    pair.crash(1);
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.write(0, 4096, &[2; 4096], true), Ok(RequestOutcome::Done));
    pair.restart(1);
    pair.connect();
    assert_eq!(pair.status(0).peers[0].replication, Replication::SplitBrain, "both have gone on");
    assert_eq!(pair.data(1)[..4096], [1; 4096], "nothing is overwritten");
}
