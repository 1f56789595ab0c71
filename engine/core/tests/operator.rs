//! What an operator orders across two nodes: a peer's copy declared bad, a handshake foretold, two unrelated copies
//! made one.

mod pair;

use evenkeel_core::{
    ids::{GenerationId, Timestamp},
    volume::{
        DiskState, Origin, Replication, Role, Stranger,
        io::RequestOutcome,
        operator::{Discard, Force, OperatorAnswer, OperatorCommand},
    },
};
use pair::{Held, Pair};

/// Node 0 is primary and in sync with node 1.
fn in_sync() -> Pair {
    let mut pair = Pair::new();
    pair.connect();
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    assert_eq!(pair.write(0, 0, &[1; 8192], true), Ok(RequestOutcome::Done));
    pair
}

fn refused(answer: &OperatorAnswer, part: &str) {
    let OperatorAnswer::Refused(why) = answer else {
        panic!("{answer:?} instead of a refusal with '{part}'")
    };
    assert!(why.contains(part), "'{part}' is missing: {why}");
}

fn foretell(pair: &Pair) -> OperatorCommand {
    OperatorCommand::Foretell { peer: pair.peer(), until: Timestamp(u64::MAX) }
}

fn foretold(answer: &OperatorAnswer, part: &str) {
    let OperatorAnswer::Foretold(text) = answer else { panic!("{answer:?} instead of '{part}'") };
    assert!(text.contains(part), "'{part}' is missing: {text}");
}

#[test]
fn a_peers_copy_is_declared_bad_and_filled_whole() {
    let mut pair = in_sync();
    // Behind the engine's back: only a comparison of everything finds it.
    pair.change_behind(1, 1 << 20, &[9; 4096]);
    let command = OperatorCommand::InvalidatePeer(pair.peer());
    assert_eq!(pair.command(0, command), OperatorAnswer::Done);
    assert_eq!(pair.status(1).disk, DiskState::Inconsistent, "durably, before the answer");
    pair.connect();
    assert_eq!(pair.status(1).disk, DiskState::UpToDate);
    assert_eq!(pair.data(0), pair.data(1));
    let last = pair.status(1).last_resync.expect("a resync ended");
    assert_eq!(last.compared_bytes, pair.data(0).len() as u64);
}

#[test]
fn the_last_good_copy_is_not_given_up() {
    let mut pair = in_sync();
    let command = OperatorCommand::InvalidatePeer(pair.peer());
    refused(&pair.command(1, command.clone()), "primary");
    pair.disconnect();
    refused(&pair.command(0, command.clone()), "not in sync");
    assert_eq!(pair.status(1).disk, DiskState::Consistent);
    // A node that is not UpToDate has nothing to fill the other with.
    refused(&pair.command(1, command), "UpToDate");
}

#[test]
fn a_peer_that_dies_before_it_has_answered_is_no_success() {
    let mut pair = in_sync();
    pair.stop(1);
    let id = pair.begin_command(0, OperatorCommand::InvalidatePeer(pair.peer()));
    assert_eq!(pair.answer(id), None);
    pair.crash(1);
    refused(&pair.answer(id).expect("answered"), "lost before");
}

#[test]
fn a_handshake_is_foretold_without_anything_being_noted() {
    let mut pair = in_sync();
    foretold(&pair.command(0, foretell(&pair)), "in sync");
    assert_eq!(pair.command(0, OperatorCommand::Disconnect(pair.peer())), OperatorAnswer::Done);
    pair.disconnect();
    assert_eq!(pair.write(0, 4096, &[2; 4096], true), Ok(RequestOutcome::Done));
    let before = [pair.meta(0).to_vec(), pair.meta(1).to_vec()];
    let id = pair.begin_command(0, foretell(&pair));
    assert_eq!(pair.answer(id), None, "it waits for the peer");
    pair.connect();
    foretold(&pair.answer(id).expect("answered"), "beta is resynced from alpha");
    assert_eq!(pair.status(0).peers[0].replication, Replication::Off);
    assert!(!pair.status(0).peers[0].connected, "the link was there only for this");
    assert_eq!(before, [pair.meta(0).to_vec(), pair.meta(1).to_vec()], "metadata changed");
    assert_ne!(pair.data(0), pair.data(1), "data moved");
    // The next link is none again.
    pair.connect();
    assert!(!pair.status(0).peers[0].connected);
}

#[test]
fn nobody_waits_for_a_foretelling_for_ever() {
    let mut pair = in_sync();
    assert_eq!(pair.command(0, OperatorCommand::Disconnect(pair.peer())), OperatorAnswer::Done);
    pair.disconnect();
    let late = OperatorCommand::Foretell { peer: pair.peer(), until: Timestamp(1) };
    let id = pair.begin_command(0, late);
    pair.connect();
    assert_eq!(pair.answer(id), None);
    assert!(!pair.status(0).peers[0].connected);
}

#[test]
fn a_split_brain_is_foretold_and_both_branches_are_known() {
    let mut pair = in_sync();
    pair.disconnect();
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.write(0, 0, &[3; 4096], true), Ok(RequestOutcome::Done));
    assert_eq!(pair.write(1, 4096, &[4; 8192], true), Ok(RequestOutcome::Done));
    pair.connect();
    for node in 0..2 {
        foretold(&pair.command(node, foretell(&pair)), "Split brain");
        let parted = pair.status(node).peers[0].parted.expect("both reports are there");
        let (first, second) =
            if node == 0 { (parted.mine, parted.theirs) } else { (parted.theirs, parted.mine) };
        // The first write was not yet known to be stable on the other when the link went.
        assert_eq!((first.dirty_blocks, second.dirty_bytes), (Some(2), Some(8192)), "node {node}");
        assert!(first.term < second.term && parted.common.is_some(), "{parted:?}");
        assert_ne!(first.head, second.head);
    }
}

fn adopted() -> Pair {
    let mut pair = Pair::of([Origin::Adopted(GenerationId(0xa1)), Origin::Adopted(GenerationId(0xb2))]);
    pair.change_behind(0, 0, &[1; 4096]);
    pair.change_behind(1, 8192, &[2; 4096]);
    pair.connect();
    pair
}

#[test]
fn unrelated_copies_are_named_on_both_sides_and_change_nothing() {
    let mut pair = adopted();
    let before = [pair.meta(0).to_vec(), pair.meta(1).to_vec()];
    pair.connect();
    for node in 0..2 {
        let peer = pair.status(node).peers[0].clone();
        assert!(!peer.connected);
        let Some(Stranger::Unrelated { own, theirs }) = peer.stranger else { panic!("{peer:?}") };
        assert_ne!(own, theirs);
        assert!(own.1.is_some() && theirs.1.is_some());
        foretold(&pair.command(node, foretell(&pair)), "never had anything in common");
    }
    assert_eq!(before, [pair.meta(0).to_vec(), pair.meta(1).to_vec()]);
}

#[test]
fn resolve_makes_unrelated_copies_one_from_either_side() {
    for (at, discard) in [(0, Discard::Peers), (1, Discard::Own), (1, Discard::Peers), (0, Discard::Own)] {
        let mut pair = adopted();
        let command = OperatorCommand::Resolve { peer: pair.peer(), discard };
        assert_eq!(pair.command(at, command), OperatorAnswer::Done);
        let loser = if discard == Discard::Own { at } else { 1 - at };
        let winner = 1 - loser;
        let case = format!("node {at}: {discard:?}");
        assert_eq!(pair.data(0), pair.data(1), "{case}");
        assert_eq!(pair.status(loser).disk, DiskState::UpToDate, "{case}");
        assert_eq!(pair.data(loser)[0] == 1, winner == 0, "{case}: the other copy was kept");
        // From now on they belong together, also after a restart.
        pair.crash(loser);
        pair.restart(loser);
        pair.connect();
        assert_eq!(pair.status(winner).peers[0].stranger, None, "{case}");
        assert!(pair.status(winner).peers[0].connected, "{case}");
        assert_eq!(pair.status(0).peers[0].replication, Replication::Established, "{case}");
    }
}

#[test]
fn a_resync_of_an_unrelated_copy_goes_on_after_a_broken_link() {
    let mut pair = adopted();
    assert_eq!(pair.command(0, OperatorCommand::PauseResync(true)), OperatorAnswer::Done);
    assert_eq!(pair.command(1, OperatorCommand::PauseResync(true)), OperatorAnswer::Done);
    let command = OperatorCommand::Resolve { peer: pair.peer(), discard: Discard::Own };
    assert_eq!(pair.command(1, command), OperatorAnswer::Done);
    assert_eq!(pair.status(1).peers[0].replication, Replication::SyncTarget);
    pair.crash(1);
    pair.restart(1);
    for node in 0..2 {
        assert_eq!(pair.command(node, OperatorCommand::PauseResync(false)), OperatorAnswer::Done);
    }
    pair.connect();
    assert_eq!(pair.status(1).disk, DiskState::UpToDate);
    assert_eq!(pair.data(0), pair.data(1));
}

#[test]
fn a_disk_that_was_adopted_anew_can_win_over_a_peer_that_knew_the_former_one() {
    for (keep, discard) in [(1, Discard::Own), (0, Discard::Peers)] {
        let mut pair = in_sync();
        assert_eq!(pair.command(0, OperatorCommand::Secondary { force: true }), OperatorAnswer::Done);
        pair.crash(1);
        pair.replace_disk(1, 7, Origin::Adopted(GenerationId(0xc3)));
        pair.change_behind(1, 0, &[5; 4096]);
        pair.restart(1);
        pair.connect();
        assert!(matches!(pair.status(0).peers[0].stranger, Some(Stranger::Unrelated { .. })));
        let command = OperatorCommand::Resolve { peer: pair.peer(), discard };
        assert_eq!(pair.command(0, command), OperatorAnswer::Done);
        assert_eq!(pair.status(0).peers[0].replication, Replication::Established, "{keep} is kept");
        assert_eq!(pair.data(0), pair.data(1));
        assert_eq!(pair.data(0)[0], if keep == 1 { 5 } else { 1 });
    }
}

#[test]
fn one_node_id_twice_is_named_on_both_sides() {
    let mut pair = Pair::twins();
    let before = [pair.meta(0).to_vec(), pair.meta(1).to_vec()];
    pair.connect();
    for node in 0..2 {
        let stranger = pair.status(node).peers[0].stranger;
        assert!(matches!(stranger, Some(Stranger::SameNode(_))), "{stranger:?}");
    }
    assert_eq!(before, [pair.meta(0).to_vec(), pair.meta(1).to_vec()]);
}

#[test]
fn r1_a_peer_answers_that_its_copy_is_bad_when_that_is_stable() {
    for loses_power in [false, true] {
        let mut pair = Pair::mirrored();
        pair.hold(1, Held::Meta);
        let peer = pair.peer();
        let order = pair.begin_command(0, OperatorCommand::InvalidatePeer(peer));
        assert!(pair.held_actions(1, Held::Meta) > 0);
        assert_eq!(pair.answer(order), None, "nothing of it is stable");
        if loses_power {
            pair.lose_power(1);
            refused(&pair.answer(order).expect("the link is lost"), "before the peer had answered");
        } else {
            pair.release(1, Held::Meta);
            assert_eq!(pair.answer(order), Some(OperatorAnswer::Done));
            pair.crash(1);
            pair.restart(1);
            assert_eq!(pair.status(1).disk, DiskState::Inconsistent);
        }
    }
}

#[test]
fn g6_a_primary_does_not_let_its_changes_be_discarded_from_the_other_node() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.write(0, 0, &[2; 4096], true), Ok(RequestOutcome::Done));
    assert_eq!(pair.write(1, 0, &[3; 4096], true), Ok(RequestOutcome::Done));
    pair.connect();
    assert_eq!((pair.status(0).role, pair.status(1).role), (Role::Secondary, Role::Primary), "G10");
    let peer = pair.peer();
    let order = OperatorCommand::Resolve { peer, discard: Discard::Peers };
    refused(&pair.command(0, order.clone()), "the peer is primary");
    pair.pass_time();
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (2, 3), "nothing has moved");
    assert_eq!(pair.command(1, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
    assert_eq!(pair.command(0, order), OperatorAnswer::Done);
    pair.pass_time();
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (2, 2), "now it has");
}
