//! What was begun and is overtaken on its way: an offer, a promotion, a decision of the operator,
//! the end of a resync. It is overtaken by the loss of its link, by a faster node, or by a disk that fails.

mod pair;
mod trio;

use std::time::Duration;

use evenkeel_core::{
    ids::{Generation, GenerationId},
    volume::{
        DiskState, Origin, Replication, Role,
        io::RequestOutcome,
        operator::{Discard, Force, OperatorAnswer, OperatorCommand},
    },
};
use pair::{Fail, Held, Pair, write};
use trio::Trio;

fn demote(pair: &mut Pair, node: usize) {
    assert_eq!(pair.command(node, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
}

fn promote(pair: &mut Pair, node: usize, force: Force) {
    assert_eq!(pair.command(node, OperatorCommand::Primary(force)), OperatorAnswer::Done);
}

fn roles(pair: &Pair) -> [Role; 2] {
    [0, 1].map(|node| pair.status(node).role)
}

/// The link is lost while the flush for an offered head is under way; a resync brings that head.
#[test]
fn g2_an_offer_ends_with_its_connection() {
    let mut pair = Pair::mirrored();
    demote(&mut pair, 0);
    pair.hold(1, Held::Flush);
    let promotion = pair.begin_command(0, OperatorCommand::Primary(Force::No));
    assert_eq!(pair.held_actions(1, Held::Flush), 1, "the offer has come");
    pair.disconnect();
    pair.release(1, Held::Flush);
    assert_eq!(pair.answer(promotion), Some(OperatorAnswer::Done));
    pair.connect();
    assert_eq!(pair.status(1).head, pair.status(0).head);
    let before = pair.status(0).head;
    demote(&mut pair, 0);
    promote(&mut pair, 0, Force::No);
    assert_ne!(pair.status(0).head, before);
    assert_eq!(pair.status(1).head, pair.status(0).head, "the new head, and nothing besides");
    assert_eq!(pair.request(0, write(3)), Ok(RequestOutcome::Done));
    assert_eq!(pair.data(0), pair.data(1));
}

/// Both are told at once. The lower term is refused and does not come back with a higher one.
#[test]
fn p3_who_agrees_to_the_promotion_of_another_gives_its_own_up() {
    let mut pair = Pair::new();
    pair.connect();
    pair.limit_frames(0, 0);
    pair.hold(1, Held::Flush);
    let higher = pair.begin_command(1, OperatorCommand::Primary(Force::No));
    let lower = pair.begin_command(0, OperatorCommand::Primary(Force::No));
    pair.hold(0, Held::Meta);
    pair.unlimit_frames();
    pair.release(1, Held::Flush);
    pair.release(0, Held::Meta);
    pair.pass_time();
    assert_eq!(pair.answer(higher), Some(OperatorAnswer::Done));
    let refused = pair.answer(lower);
    assert!(matches!(refused, Some(OperatorAnswer::Refused(_))), "{refused:?}");
    assert_eq!(roles(&pair), [Role::Secondary, Role::Primary]);
    assert_eq!(pair.status(0).head, pair.status(1).head);
}

/// Both data were there before, and were adopted apart from each other.
#[test]
fn p2_no_right_is_given_up_for_an_unrelated_copy() {
    let mut pair = Pair::of([7, 8].map(|id| Origin::Adopted(GenerationId(id))));
    promote(&mut pair, 0, Force::Yes);
    demote(&mut pair, 0);
    assert!(pair.status(0).entitled);
    pair.connect();
    assert!(pair.status(0).peers[0].stranger.is_some());
    pair.begin_command(1, OperatorCommand::Primary(Force::Yes));
    pair.pass_time();
    assert!(pair.status(0).entitled, "it has the newest data of its own volume");
    pair.disconnect();
    promote(&mut pair, 0, Force::No);
}

/// The link comes up while the own data are made stable for a forced promotion.
#[test]
fn p3_a_primary_that_appears_during_a_forced_promotion_stops_it() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    pair.hold(1, Held::Flush);
    let command = pair.begin_command(1, OperatorCommand::Primary(Force::Yes));
    assert_eq!((pair.answer(command), pair.held_actions(1, Held::Flush)), (None, 1));
    pair.connect();
    pair.release(1, Held::Flush);
    let refused = pair.answer(command);
    assert!(matches!(refused, Some(OperatorAnswer::Refused(_))), "{refused:?}");
    pair.pass_time();
    assert_eq!(roles(&pair), [Role::Primary, Role::Secondary]);
    assert_eq!(pair.request(0, write(3)), Ok(RequestOutcome::Done));
    assert_eq!(pair.data(0), pair.data(1));
}

/// What was chosen was chosen about the state of before.
#[test]
fn g6_a_decision_to_discard_ends_with_a_promotion() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    promote(&mut pair, 1, Force::Yes);
    for (node, byte) in [(0, 2), (1, 3)] {
        assert_eq!(pair.request(node, write(byte)), Ok(RequestOutcome::Done));
        demote(&mut pair, node);
    }
    pair.connect();
    assert!(pair.status(0).peers[0].parted.is_some());
    pair.limit_frames(1, 0);
    let resolve = OperatorCommand::Resolve { peer: pair.peer(), discard: Discard::Own };
    pair.begin_command(0, resolve);
    pair.disconnect();
    assert_eq!(pair.data(0)[0], 2, "it was not carried out");
    promote(&mut pair, 0, Force::Yes);
    assert_eq!(pair.request(0, write(4)), Ok(RequestOutcome::Done));
    demote(&mut pair, 0);
    pair.unlimit_frames();
    pair.connect();
    pair.pass_time();
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (4, 3), "nothing of either is given up");
    assert!(pair.status(0).peers[0].parted.is_some());
}

/// A primary whose process died, and whose peer was promoted and has written since; that is a secondary by now.
fn crashed_beside_a_newer_copy() -> Pair {
    let mut pair = Pair::mirrored();
    pair.crash(0);
    promote(&mut pair, 1, Force::Yes);
    assert_eq!(pair.request(1, write(5)), Ok(RequestOutcome::Done));
    demote(&mut pair, 1);
    pair.restart(0);
    assert!(pair.status(0).resuming);
    pair
}

fn assert_is_the_newer_copy(pair: &Pair) {
    assert_eq!(pair.status(0).peers[0].parted, None);
    assert_eq!(pair.status(0).head, pair.status(1).head);
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (5, 5));
    assert_eq!(pair.status(0).disk, DiskState::UpToDate);
}

#[test]
fn p7_who_takes_its_role_up_again_becomes_a_target_if_a_newer_copy_appears_meanwhile() {
    let mut pair = crashed_beside_a_newer_copy();
    pair.hold(0, Held::Flush);
    pair.pass(Duration::from_millis(1200));
    assert_eq!(pair.held_actions(0, Held::Flush), 1, "it resumes alone");
    pair.connect();
    pair.release(0, Held::Flush);
    assert_is_the_newer_copy(&pair);
}

#[test]
fn p7_nobody_takes_its_role_up_alone_while_a_link_is_there() {
    for frames in 0..4 {
        let mut pair = crashed_beside_a_newer_copy();
        pair.limit_frames(0, frames);
        pair.connect();
        pair.pass_time();
        assert_eq!(pair.status(0).role, Role::Secondary, "{frames} frames: they have not compared yet");
        pair.unlimit_frames();
        if pair.link().is_none() {
            pair.connect();
        }
        pair.pass_time();
        assert_is_the_newer_copy(&pair);
    }
}

/// What a flush is to make stable includes the writes of the connection of before that are at the disk still.
#[test]
fn g2_a_flush_of_what_was_followed_waits_for_writes_on_their_way() {
    let mut pair = Pair::mirrored();
    pair.hold(1, Held::Write);
    let request = pair.begin_request(0, write(6));
    assert_eq!((pair.reply(request), pair.held_actions(1, Held::Write)), (None, 1));
    pair.hold(1, Held::Flush);
    pair.connect();
    assert_eq!(pair.held_actions(1, Held::Flush), 0, "it would not cover the write");
    pair.release(1, Held::Write);
    assert_eq!(pair.held_actions(1, Held::Flush), 1);
    pair.release(1, Held::Flush);
    assert_eq!(pair.reply(request), Some(Ok(RequestOutcome::Done)));
    assert_eq!(pair.status(1).disk, DiskState::UpToDate);
    assert_eq!((pair.data(0)[0], pair.stable_data(1)[0]), (6, 6));
}

#[test]
fn w4_a_failed_flush_of_a_resync_condemns_the_disk_and_settles_nothing() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    assert_eq!(pair.request(0, write(7)), Ok(RequestOutcome::Done));
    pair.hold(1, Held::Flush);
    pair.connect();
    pair.release_one(1, Held::Flush);
    assert_eq!((pair.status(1).disk, pair.data(1)[0]), (DiskState::Inconsistent, 7), "stored, not stable");
    assert_eq!(pair.held_actions(1, Held::Flush), 1);
    pair.fail_next(1, Fail::Flush);
    pair.release(1, Held::Flush);
    assert_eq!(pair.status(1).disk, DiskState::Failed);
    assert_eq!(pair.status(0).peers[0].dirty_bytes, 4096, "the media may lack it");
    assert_eq!(pair.stable_data(1)[0], 1);
}

/// Node 0 is primary, all three are in sync; then the second and the third one lose sight of each other.
fn formed() -> Trio {
    let mut trio = Trio::new();
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio.cut(1, 2);
    trio.pass_time();
    trio
}

/// The third node is lost while the source makes stable that the target may take its head.
#[test]
fn r6_a_target_is_counted_under_a_stable_head_only() {
    let mut met = 0;
    for events in 0..120 {
        let mut trio = formed();
        trio.crash(1);
        assert!(trio.write(0, 0, &[1; 4096]).is_some_and(|reply| reply.is_ok()));
        trio.stop_after(events);
        trio.restart(1);
        trio.pass_time();
        trio.hold_commits(0);
        trio.go_on();
        let announcing = trio.of(0, 1).dirty_bytes == 0
            && trio.of(0, 1).replication != Replication::Established
            && trio.status(1).disk == DiskState::Inconsistent;
        if announcing {
            met += 1;
            let before = trio.status(0).head;
            trio.cut(0, 2);
            assert_ne!(trio.status(0).head, before, "{events} events: a new one has begun");
            assert!(trio.release_commit(), "{events} events: that of the head of before");
            assert_ne!(trio.status(1).head, trio.status(0).head, "{events} events: it is not stable here");
        }
        trio.release_commits();
        trio.pass_time();
        assert_eq!(trio.status(1).disk, DiskState::UpToDate, "{events} events");
        assert_eq!(trio.status(1).head, trio.status(0).head, "{events} events");
    }
    assert!(met > 0, "the moment was met");
}

/// Node 0 has lost node 2 and waits for the commit of its new head, which is given too. Node 2 was promoted by
/// force, and so many events have happened since its link to node 1 came up.
fn about_to_offer(events: usize) -> (Trio, Option<Generation>) {
    let mut trio = formed();
    trio.hold_commits(0);
    trio.cut(0, 2);
    assert_eq!(trio.command(2, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    let head = trio.status(0).head;
    assert_ne!(trio.status(1).head, head, "it is not offered yet");
    trio.stop_after(events);
    trio.join(1, 2);
    (trio, head)
}

fn has_heard(trio: &Trio) -> bool {
    trio.status(1).term == trio.status(2).term
}

/// After how many events more node 1 has heard of the term of node 2.
fn events_until_heard(trio: &mut Trio) -> usize {
    let mut events = 0;
    while !has_heard(trio) {
        assert!(events < 1000, "it hears of it");
        events += 1;
        trio.stop_after(1);
        // There is no such cable: nothing but the next event.
        trio.cut(0, 2);
    }
    events
}

/// The offer of a primary is on its way while the node hears of another one, which was promoted by force.
#[test]
fn g10_a_head_of_a_term_that_has_passed_is_not_taken() {
    let mut met = 0;
    for events in 0..60 {
        let (mut undisturbed, _) = about_to_offer(events);
        if has_heard(&undisturbed) {
            break;
        }
        let (mut trio, passed) = about_to_offer(events);
        assert!(trio.release_commit(), "{events} events");
        if events_until_heard(&mut trio) != events_until_heard(&mut undisturbed) + 1 {
            continue;
        }
        // The commit has ended before, and nothing that came of it has arrived.
        met += 1;
        trio.go_on();
        trio.release_commits();
        assert_ne!(trio.status(1).head, passed, "{events} events");
        trio.cut(0, 1);
        trio.pass_time();
        assert_eq!(trio.of(1, 2).parted, None, "{events} events: it is the older copy");
        assert_eq!(trio.of(1, 2).replication, Replication::Established, "{events} events");
        assert_eq!(trio.status(1).head, trio.status(2).head, "{events} events");
    }
    assert!(met > 0, "the moment was met");
}
