//! Who may be primary without force (P1, P2, P6, P7): after each history at most one side of a partition.

mod pair;

use std::time::Duration;

use evenkeel_core::volume::{
    DiskState, Role,
    io::RequestOutcome,
    operator::{Force, OperatorAnswer, OperatorCommand},
};
use pair::{Fail, Held, Pair, write};

fn done(pair: &mut Pair, node: usize, command: OperatorCommand) {
    assert_eq!(pair.command(node, command), OperatorAnswer::Done);
}

/// Which nodes take the role without force, each alone.
fn may(pair: &mut Pair) -> [bool; 2] {
    assert!(!(pair.status(0).entitled && pair.status(1).entitled), "one has the right");
    [0, 1].map(|node| pair.command(node, OperatorCommand::Primary(Force::No)) == OperatorAnswer::Done)
}

#[test]
fn p2_the_last_primary_has_the_right_and_nobody_else() {
    let secondary = OperatorCommand::Secondary { force: false };
    let mut pair = Pair::mirrored();
    pair.disconnect();
    assert_eq!(may(&mut pair), [true, false], "the primary itself");

    let mut pair = Pair::mirrored();
    done(&mut pair, 0, secondary.clone());
    pair.disconnect();
    assert_eq!(may(&mut pair), [true, false], "a cut after it became secondary");

    let mut pair = Pair::mirrored();
    done(&mut pair, 0, secondary.clone());
    done(&mut pair, 1, OperatorCommand::Primary(Force::No));
    done(&mut pair, 1, secondary.clone());
    pair.disconnect();
    assert_eq!(may(&mut pair), [false, true], "the role was handed over");

    let mut pair = Pair::mirrored();
    done(&mut pair, 0, secondary.clone());
    let peer = pair.peer();
    done(&mut pair, 0, OperatorCommand::Disconnect(peer));
    assert_eq!(pair.status(1).disk, DiskState::UpToDate, "it left on purpose");
    assert_eq!(may(&mut pair), [true, false], "UpToDate is not the right");

    let mut pair = Pair::mirrored();
    done(&mut pair, 0, secondary);
    done(&mut pair, 1, OperatorCommand::Disconnect(peer));
    assert_eq!(may(&mut pair), [true, false], "the other one left");
}

#[test]
fn p2_the_right_ends_when_another_was_promoted() {
    let mut pair = Pair::mirrored();
    pair.crash(0);
    done(&mut pair, 1, OperatorCommand::Primary(Force::Yes));
    pair.restart(0);
    pair.connect();
    assert_eq!((pair.status(0).entitled, pair.status(1).entitled), (false, true));
    pair.disconnect();
    assert_eq!(may(&mut pair), [false, true], "it has taken the other's head");
    pair.crash(0);
    pair.restart(0);
    assert!(!may(&mut pair)[0], "durably");
}

/// A pair whose first node was primary last, and whose second one is about to be; the first one's metadata are slow.
fn changing_places() -> (Pair, u64) {
    let mut pair = Pair::mirrored();
    done(&mut pair, 0, OperatorCommand::Secondary { force: false });
    pair.hold(0, Held::Meta);
    let promotion = pair.begin_command(1, OperatorCommand::Primary(Force::No));
    (pair, promotion)
}

#[test]
fn p2_the_right_ends_durably_before_the_other_goes_on_wherever_the_last_primary_dies() {
    let mut served = 0;
    for commits in 0..10 {
        let (mut pair, _) = changing_places();
        for _ in 0..commits {
            pair.release_one(0, Held::Meta);
        }
        pair.crash(0);
        pair.pass_time();
        let serves = pair.status(1).role == Role::Primary && pair.write(1, 0, &[2; 4096], true).is_ok();
        served += u32::from(serves);
        pair.crash(1);
        pair.release(0, Held::Meta);
        pair.restart(0);
        pair.pass_time();
        let alone = pair.command(0, OperatorCommand::Primary(Force::No)) == OperatorAnswer::Done;
        assert!(!(serves && alone), "after {commits} commits: it lacks what the other has answered");
    }
    assert!(served > 0, "some of them came so far");
}

#[test]
fn p2_a_slow_disk_of_the_last_primary_is_waited_for() {
    let (mut pair, promotion) = changing_places();
    let link = pair.link();
    pair.pass_time();
    assert_eq!((pair.answer(promotion), pair.status(1).role), (None, Role::Secondary));
    pair.release(0, Held::Meta);
    assert_eq!(pair.answer(promotion), Some(OperatorAnswer::Done));
    assert_eq!(pair.link(), link);
    assert_eq!((pair.status(0).entitled, pair.status(1).entitled), (false, true));
}

#[test]
fn p2_who_cannot_be_promoted_takes_the_right_from_nobody() {
    let mut pair = Pair::mirrored();
    done(&mut pair, 0, OperatorCommand::Secondary { force: false });
    let peer = pair.peer();
    pair.crash(1);
    pair.restart(1);
    pair.begin_connect();
    pair.limit_frames(1, 1);
    let refused = pair.command(1, OperatorCommand::Primary(Force::No));
    assert!(matches!(refused, OperatorAnswer::Refused(_)), "{refused:?}: it has not met its peer");
    assert!(pair.status(0).entitled);
    pair.unlimit_frames();
    assert!(pair.status(0).entitled);
    assert!(pair.status(0).peers[peer.as_usize()].connected);
}

#[test]
fn p1_who_was_dropped_by_a_primary_is_durably_outdated() {
    let mut pair = Pair::mirrored();
    let peer = pair.peer();
    done(&mut pair, 0, OperatorCommand::Disconnect(peer));
    assert_eq!(pair.status(1).disk, DiskState::Outdated);
    assert!(pair.write(0, 0, &[2; 4096], true).is_ok());
    pair.crash(1);
    pair.restart(1);
    assert_eq!(pair.status(1).disk, DiskState::Outdated);
    assert_eq!(may(&mut pair), [true, false]);
}

#[test]
fn p1_a_secondary_whose_primary_vanished_doubts_its_copy() {
    let mut pair = Pair::mirrored();
    pair.crash(0);
    assert_eq!(pair.status(1).disk, DiskState::Consistent);
    assert!(matches!(pair.command(1, OperatorCommand::Primary(Force::No)), OperatorAnswer::Refused(_)));
    pair.crash(1);
    pair.restart(1);
    assert_eq!(pair.status(1).disk, DiskState::Consistent, "nor is it better after a restart");
    assert!(matches!(pair.command(1, OperatorCommand::Primary(Force::No)), OperatorAnswer::Refused(_)));
}

#[test]
fn p6_a_clean_shutdown_leaves_the_right_on_one_node() {
    for (crash_of_heir, power) in [(false, false), (true, false), (true, true)] {
        let mut pair = Pair::mirrored();
        done(&mut pair, 0, OperatorCommand::Shutdown);
        pair.crash(0);
        if crash_of_heir {
            if power {
                pair.lose_power(1);
            } else {
                pair.crash(1);
            }
            pair.restart(1);
        }
        pair.restart(0);
        assert!(!pair.status(0).entitled, "it was handed over");
        assert!(pair.status(1).entitled, "it was taken durably");
        assert!(!may(&mut pair)[0], "power {power}: the heir may be primary");
    }
}

#[test]
fn p6_without_a_peer_the_right_is_kept_through_a_clean_shutdown() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    done(&mut pair, 0, OperatorCommand::Shutdown);
    pair.lose_power(0);
    pair.restart(0);
    assert_eq!(pair.status(0).disk, DiskState::UpToDate, "P1: nothing can be missing");
    assert_eq!(may(&mut pair), [true, false]);
}

/// Nothing was open any more when the power went, so nothing is missing; but somebody may have been promoted since.
#[test]
fn p7_a_primary_at_rest_whose_machine_lost_power_waits() {
    for idle in [0, 1, 45] {
        for seconds in [0, 1, 30, 100, 200] {
            let mut pair = Pair::mirrored();
            for _ in 0..idle {
                // Three seconds; in two minutes idle extents are let go.
                pair.pass_time();
            }
            pair.lose_power(0);
            pair.crash(1);
            pair.skip_time(seconds);
            pair.restart(0);
            pair.pass_time();
            let what = format!("{} s idle, {seconds} s without power", 3 * idle);
            assert_eq!(pair.status(0).role, Role::Secondary, "{what}");
        }
    }
}

#[test]
fn p7_who_takes_its_role_up_again() {
    for (power, seconds, resumes) in
        [(false, 0, true), (false, 100, true), (false, 130, false), (true, 0, false)]
    {
        let mut pair = Pair::mirrored();
        if power {
            pair.lose_power(0);
        } else {
            pair.crash(0);
        }
        pair.crash(1);
        pair.skip_time(seconds);
        pair.restart(0);
        pair.pass_time();
        let role = if resumes { Role::Primary } else { Role::Secondary };
        assert_eq!(pair.status(0).role, role, "power {power}, {seconds} s later");
        let refused = pair.command(0, OperatorCommand::Primary(Force::No)) != OperatorAnswer::Done;
        assert_eq!(refused, power, "power {power}, {seconds} s later: whether something may be missing");
    }
}

#[test]
fn p2_the_heir_keeps_the_right_when_the_last_primary_is_back() {
    let mut pair = Pair::mirrored();
    done(&mut pair, 0, OperatorCommand::Shutdown);
    pair.crash(0);
    pair.restart(0);
    pair.connect();
    pair.pass_time();
    assert_eq!((pair.status(0).entitled, pair.status(1).entitled), (false, true));
    let peer = pair.peer();
    done(&mut pair, 0, OperatorCommand::Disconnect(peer));
    assert_eq!(may(&mut pair), [false, true]);
}

/// The heir has nothing to copy, and learns only by the head that another was promoted.
#[test]
fn p2_the_right_of_an_heir_ends_with_the_head_of_another() {
    let mut pair = Pair::mirrored();
    done(&mut pair, 0, OperatorCommand::Shutdown);
    pair.crash(0);
    pair.restart(0);
    done(&mut pair, 0, OperatorCommand::Primary(Force::Yes));
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.moved_bytes, 0);
    assert_eq!((pair.status(0).entitled, pair.status(1).entitled), (true, false));
}

/// `disconnect` makes the peer durably old, so nothing that a power loss takes from this copy is left anywhere else (P1).
#[test]
fn p1_who_lost_power_is_up_to_date_if_all_peers_have_confirmed_to_be_old() {
    let lose_power = |pair: &mut Pair| {
        pair.lose_power(0);
        pair.restart(0);
        pair.status(0).disk
    };
    for confirmed in [true, false] {
        let mut pair = Pair::mirrored();
        if confirmed {
            let peer = pair.peer();
            done(&mut pair, 0, OperatorCommand::Disconnect(peer));
            assert_eq!(pair.status(1).disk, DiskState::Outdated);
        } else {
            pair.disconnect();
        }
        assert_eq!(pair.request(0, write(7)), Ok(RequestOutcome::Done));
        let expected = if confirmed { DiskState::UpToDate } else { DiskState::Consistent };
        assert_eq!(lose_power(&mut pair), expected, "confirmed: {confirmed}");
        assert_eq!(may(&mut pair), [confirmed, false]);
        if confirmed {
            // Once it is in sync again, it may have more than this copy.
            pair.connect();
            assert_eq!(pair.status(1).disk, DiskState::UpToDate);
            pair.disconnect();
            assert_eq!(lose_power(&mut pair), DiskState::Consistent);
        }
    }
}

/// The peer is old, and this node has not made the generation without it: what both have answered may be in this
/// node's cache alone, and the peer has it still.
#[test]
fn p1_a_confirmation_counts_only_under_a_generation_that_the_peer_lacks() {
    let mut pair = Pair::mirrored();
    assert_eq!(pair.request(0, write(7)), Ok(RequestOutcome::Done));
    pair.hold(0, Held::Flush);
    let peer = pair.peer();
    done(&mut pair, 0, OperatorCommand::Disconnect(peer));
    assert_eq!(pair.status(1).disk, DiskState::Outdated);
    pair.pass_time();
    pair.lose_power(0);
    pair.release(0, Held::Flush);
    pair.restart(0);
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (1, 7), "it was answered");
    assert_eq!(pair.status(0).disk, DiskState::Consistent);
    assert!(!may(&mut pair)[0]);
}

/// A peer that lives and cannot record that it is old is dropped all the same, and nothing is concluded from it.
#[test]
fn p1_a_peer_that_cannot_confirm_is_dropped_in_the_end() {
    let mut pair = Pair::mirrored();
    pair.hold(1, Held::Meta);
    let peer = pair.peer();
    done(&mut pair, 0, OperatorCommand::Disconnect(peer));
    pair.pass(Duration::from_secs(4));
    assert!(pair.link().is_some());
    pair.pass(Duration::from_secs(2));
    assert_eq!(pair.link(), None);
    pair.lose_power(0);
    pair.restart(0);
    assert_eq!(pair.status(0).disk, DiskState::Consistent);
}

/// Clients wait while a node is about to take its role up again; they are not turned away.
#[test]
fn p7_clients_are_held_while_the_role_is_taken_up_again() {
    let mut pair = Pair::mirrored();
    pair.hold(1, Held::Meta);
    pair.crash(0);
    pair.restart(0);
    assert!(pair.status(0).resuming);
    let request = pair.begin_request(0, write(7));
    assert_eq!(pair.reply(request), None);
    pair.release(1, Held::Meta);
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.reply(request), Some(Ok(RequestOutcome::Done)));
    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (7, 7));
}

/// Who followed another primary since its crash is no crashed primary any more.
#[test]
fn p7_a_primary_that_has_followed_since_does_not_take_its_role_up_again() {
    let mut pair = Pair::mirrored();
    pair.crash(0);
    done(&mut pair, 1, OperatorCommand::Primary(Force::Yes));
    pair.restart(0);
    pair.connect();
    pair.pass_time();
    assert_eq!((pair.status(0).role, pair.status(0).disk), (Role::Secondary, DiskState::UpToDate));
    pair.crash(0);
    pair.restart(0);
    assert!(!pair.status(0).resuming);
}

/// The right of a node whose disk fails goes to the peer that has the only copy.
#[test]
fn p2_the_right_of_a_disk_that_fails_goes_to_the_peer() {
    let mut pair = Pair::mirrored();
    done(&mut pair, 0, OperatorCommand::Secondary { force: false });
    pair.fail_next(0, Fail::Flush);
    assert!(matches!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Refused(_)));
    assert_eq!(pair.status(0).disk, DiskState::Failed);
    pair.pass_time();
    assert_eq!(may(&mut pair), [false, true]);
}

/// Wherever the giver of a clean shutdown dies, and whoever of the two is slow, the right is on one node at most.
#[test]
fn p2_a_right_that_is_handed_over_has_ended_before_the_heir_has_it() {
    for slow in 0..2 {
        let mut taken = 0;
        for commits in 0..12 {
            let mut pair = Pair::mirrored();
            pair.hold(slow, Held::Meta);
            pair.begin_command(0, OperatorCommand::Shutdown);
            for _ in 0..commits {
                pair.release_one(slow, Held::Meta);
            }
            pair.crash(0);
            pair.disconnect();
            pair.release(slow, Held::Meta);
            pair.restart(0);
            let [giver, heir] = [0, 1].map(|node| pair.status(node).entitled);
            assert!(!(giver && heir), "node {slow} is slow, after {commits} commits");
            taken += usize::from(heir);
        }
        assert!(taken > 0, "node {slow} is slow: it is handed over in the end");
    }
}

/// It was away for too long to take its role up by itself, and has been in sync as secondary since: its next death is not
/// that of a primary.
#[test]
fn p7_a_primary_that_came_back_as_secondary_is_none_any_more() {
    for other_is_promoted in [false, true] {
        let mut pair = Pair::mirrored();
        pair.crash(0);
        pair.pass(Duration::from_secs(130));
        pair.restart(0);
        pair.connect();
        pair.pass_time();
        assert_eq!((pair.status(0).role, pair.status(0).disk), (Role::Secondary, DiskState::UpToDate));
        if other_is_promoted {
            done(&mut pair, 1, OperatorCommand::Primary(Force::No));
        }
        pair.crash(0);
        pair.restart(0);
        assert!(!pair.status(0).resuming, "the other one is promoted: {other_is_promoted}");
    }
}

/// From the beginning of a resync on the peer may have our head, and at its end what is answered with it. Wherever that
/// stands when this node loses power, the peer's old word counts no more.
#[test]
fn p1_a_confirmation_ends_when_a_resync_into_the_peer_begins() {
    for commits in 0..12 {
        let mut pair = Pair::mirrored();
        let peer = pair.peer();
        done(&mut pair, 0, OperatorCommand::Disconnect(peer));
        assert_eq!(pair.request(0, write(7)), Ok(RequestOutcome::Done));
        pair.hold(1, Held::Meta);
        done(&mut pair, 0, OperatorCommand::Connect(peer));
        pair.connect();
        for _ in 0..commits {
            pair.release_one(1, Held::Meta);
        }
        pair.lose_power(0);
        pair.restart(0);
        assert_eq!(pair.status(0).disk, DiskState::Consistent, "after {commits} commits of the peer");
    }
}

#[test]
fn p2_an_heir_has_the_right_durably_before_it_says_so() {
    let mut answered = Vec::new();
    for commits in 0..8 {
        let mut pair = Pair::mirrored();
        pair.hold(1, Held::Meta);
        let shutdown = pair.begin_command(0, OperatorCommand::Shutdown);
        for _ in 0..commits {
            pair.release_one(1, Held::Meta);
        }
        let left = pair.answer(shutdown) == Some(OperatorAnswer::Done);
        answered.push(left);
        pair.lose_power(1);
        pair.release(1, Held::Meta);
        pair.restart(1);
        assert!(pair.status(1).entitled || !left, "{commits} commits: nobody has the right any more");
    }
    assert!(!answered[0] && answered.contains(&true), "{answered:?}");
}

#[test]
fn p2_who_leaves_keeps_no_right_that_its_heir_may_have() {
    let mut cut_short = 0;
    for frames in 0..8 {
        let mut pair = Pair::mirrored();
        pair.limit_frames(0, frames);
        let shutdown = pair.begin_command(0, OperatorCommand::Shutdown);
        let early = pair.answer(shutdown);
        pair.disconnect();
        pair.unlimit_frames();
        let answer = early.clone().or_else(|| pair.answer(shutdown));
        assert_eq!(answer, Some(OperatorAnswer::Done), "{frames} frames");
        for node in 0..2 {
            pair.crash(node);
            pair.restart(node);
        }
        let entitled = [0, 1].map(|node| pair.status(node).entitled);
        assert_ne!(entitled, [true, true], "{frames} frames");
        cut_short += u32::from(early.is_none() && entitled[1]);
    }
    assert!(cut_short > 0, "once the heir had it, and its word did not come");
}
