//! Demotions that meet something else on their way (P5, P6, G10). Each history is one that the simulator found.

mod pair;

use std::time::Duration;

use evenkeel_core::{
    generation::verdict::Verdict,
    volume::{
        DiskState, Replication, Role,
        config::{OnPeerLoss, Protocol},
        io::{RequestError, RequestOutcome},
        operator::{Force, OperatorAnswer, OperatorCommand},
        status::Suspended,
    },
};
use pair::{Held, Pair, Settings, write};

fn primary_with(on_peer_loss: OnPeerLoss) -> Pair {
    Pair::serving(Settings { on_peer_loss, ..Settings::default() })
}

#[test]
fn a_write_let_through_while_the_record_is_on_its_way_ends_with_the_role() {
    let mut pair = primary_with(OnPeerLoss::Suspend);
    pair.hold(0, Held::Data);
    let first = pair.begin_request(0, write(1));
    let second = pair.begin_request(0, write(2));
    pair.disconnect();
    assert!(pair.status(0).suspended.is_some());
    pair.hold(0, Held::Meta);
    let command = pair.begin_command(0, OperatorCommand::Secondary { force: true });
    pair.release(0, Held::Data);
    pair.release(0, Held::Meta);
    assert_eq!(pair.answer(command), Some(OperatorAnswer::Done));
    assert_eq!(pair.status(0).role, Role::Secondary);
    for request in [first, second] {
        assert_eq!(pair.reply(request), Some(Err(RequestError::Shutdown)));
    }
    assert_eq!(pair.command(0, OperatorCommand::Shutdown), OperatorAnswer::Done, "nothing is held any more");
}

#[test]
fn who_waits_for_a_promotion_is_told_when_the_role_ends_first() {
    let mut pair = Pair::with(OnPeerLoss::Suspend);
    pair.connect();
    pair.disconnect();
    let promotion = pair.begin_command(0, OperatorCommand::Primary(Force::Yes));
    assert_eq!(pair.answer(promotion), None, "it does not serve: a peer is missing");
    assert_eq!(pair.command(0, OperatorCommand::Secondary { force: true }), OperatorAnswer::Done);
    assert!(matches!(pair.answer(promotion), Some(OperatorAnswer::Refused(_))));
}

#[test]
fn a_primary_that_was_deposed_can_be_shut_down() {
    let mut pair = primary_with(OnPeerLoss::Continue);
    pair.disconnect();
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    for node in 0..2 {
        assert_eq!(pair.request(node, write(1)), Ok(RequestOutcome::Done));
    }
    pair.connect();
    assert_eq!(pair.status(0).role, Role::Secondary, "G10: the lower term gives up");
    assert_eq!(pair.command(0, OperatorCommand::Shutdown), OperatorAnswer::Done);
}

/// Whatever is slow, the images are equal on media when it is answered.
#[test]
fn p5_it_is_answered_when_everything_is_stable_on_both_nodes() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for (node, part) in [0, 1]
            .into_iter()
            .flat_map(|node| [Held::Write, Held::Flush, Held::Data, Held::Meta].map(|part| (node, part)))
        {
            let what = format!("{protocol:?}, node {node}, {part:?}");
            let mut pair = Pair::set_up(Settings { protocol, ..Settings::default() });
            pair.connect();
            assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
            pair.hold(node, part);
            let requests = [1, 2].map(|byte| pair.begin_request(0, write(byte)));
            let command = pair.begin_command(0, OperatorCommand::Secondary { force: false });
            let early = pair.answer(command);
            if early.is_some() {
                assert_eq!(pair.stable_data(0), pair.stable_data(1), "{what}");
            } else {
                assert_eq!(pair.status(0).role, Role::Primary, "{what}");
            }
            // The peer's metadata have no part in it, nor have hot extents.
            let free = (node, part) == (1, Held::Meta);
            assert_eq!(early.is_some(), free, "{what}");
            pair.release(node, part);
            assert_eq!(early.or_else(|| pair.answer(command)), Some(OperatorAnswer::Done), "{what}");
            for request in requests {
                assert_eq!(pair.reply(request), Some(Ok(RequestOutcome::Done)), "{what}");
            }
            assert_eq!(pair.stable_data(0)[0], 2, "{what}");
            assert_eq!(pair.stable_data(0), pair.stable_data(1), "{what}");
        }
    }
}

/// Whoever leaves cleanly says that nothing is open: what it followed is stable before (P6).
#[test]
fn p6_a_secondary_that_leaves_has_everything_stable() {
    let mut pair = primary_with(OnPeerLoss::Continue);
    assert_eq!(pair.request(0, write(1)), Ok(RequestOutcome::Done));
    pair.hold(1, Held::Flush);
    let command = pair.begin_command(1, OperatorCommand::Shutdown);
    assert_eq!(pair.answer(command), None);
    assert_eq!(pair.stable_data(1)[0], 0);
    pair.release(1, Held::Flush);
    assert_eq!(pair.answer(command), Some(OperatorAnswer::Done));
    assert_eq!(pair.stable_data(1)[0], 1);
}

/// A primary that is to become secondary, and whose peer has not flushed yet what was written.
fn waiting_for_a_flush() -> (Pair, u64) {
    let mut pair = primary_with(OnPeerLoss::Continue);
    pair.hold(1, Held::Flush);
    assert_eq!(pair.request(0, write(1)), Ok(RequestOutcome::Done));
    let command = pair.begin_command(0, OperatorCommand::Secondary { force: false });
    (pair, command)
}

/// A peer whose disk flushes nothing is given up like one that applies nothing: who waits for it is not always a client.
#[test]
fn a_peer_that_does_not_flush_is_given_up() {
    let (mut pair, command) = waiting_for_a_flush();
    pair.pass(Duration::from_secs(4));
    assert_eq!(pair.answer(command), None);
    assert!(pair.link().is_some());
    pair.pass(Duration::from_secs(2));
    assert_eq!(pair.link(), None);
    assert_eq!(pair.answer(command), Some(OperatorAnswer::Done));
}

/// What comes while the role is given up is not carried out any more.
#[test]
fn p5_nothing_is_admitted_while_the_role_is_given_up() {
    let (mut pair, command) = waiting_for_a_flush();
    let request = pair.begin_request(0, write(2));
    pair.release(1, Held::Flush);
    assert_eq!(pair.answer(command), Some(OperatorAnswer::Done));
    assert_eq!(pair.reply(request), Some(Err(RequestError::Shutdown)));
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (1, 1));
}

/// Its disk is slow: the generation that it owes since it lost the peer is not begun, so the peer's head is a
/// newer one of its own history. That it is deposed is not stable when they meet again: it is no target yet.
#[test]
fn g10_a_primary_that_was_deposed_follows_on_the_same_link_once_it_is_secondary() {
    let mut pair = Pair::mirrored();
    let head = pair.status(0).head;
    pair.hold(0, Held::Flush);
    pair.disconnect();
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.write(1, 4096, &[2; 4096], false), Ok(RequestOutcome::Done));
    assert_eq!(pair.command(1, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
    assert_eq!((pair.status(0).role, pair.status(0).head), (Role::Primary, head));
    pair.hold(0, Held::Meta);
    pair.connect();
    pair.release(0, Held::Flush);
    pair.disconnect();
    pair.connect();
    let link = pair.link();
    assert_eq!((pair.status(0).role, pair.status(0).suspended), (Role::Primary, Some(Suspended::Deposed)));
    for node in 0..2 {
        assert!(matches!(pair.status(node).peers[0].apart, Some(Verdict::Refused(_))), "node {node}");
    }
    pair.release(0, Held::Meta);
    pair.pass_time();
    assert!(link.is_some() && pair.link() == link, "it has not needed another one");
    for node in 0..2 {
        assert_eq!(pair.status(node).role, Role::Secondary, "node {node}");
        assert_eq!(pair.status(node).peers[0].replication, Replication::Established, "node {node}");
        assert_eq!(pair.status(node).disk, DiskState::UpToDate, "node {node}");
    }
    assert_eq!(pair.data(0), pair.data(1));
}
