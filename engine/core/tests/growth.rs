//! A volume that grows while it is served.

mod pair;

use std::time::Duration;

use evenkeel_core::volume::{
    DiskState, Replication, Role,
    io::{Event, RequestError, RequestOutcome},
    operator::{Force, OperatorAnswer, OperatorCommand},
    wire::Frame,
};
use pair::{Fail, Held, Pair, SIZE, Settings};

/// The old size in bytes, and one that is no whole number of blocks.
const OLD: u64 = SIZE as u64;
const NEW: u64 = OLD + (1 << 20) + 512;

fn resize(pair: &mut Pair, node: usize, size_bytes: u64) -> OperatorAnswer {
    pair.command(node, OperatorCommand::Resize(size_bytes))
}

fn refusal(answer: OperatorAnswer) -> String {
    match answer {
        OperatorAnswer::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

fn sizes(pair: &Pair) -> [u64; 2] {
    [0, 1].map(|node| pair.status(node).size_bytes)
}

#[track_caller]
fn assert_in_sync(pair: &Pair) {
    for node in 0..2 {
        let status = pair.status(node);
        assert_eq!(status.disk, DiskState::UpToDate, "node {node}");
        assert_eq!(status.peers[0].replication, Replication::Established, "node {node}");
        assert_eq!(status.peers[0].dirty_bytes, 0, "node {node}");
    }
    let size = usize::try_from(pair.status(0).size_bytes).unwrap();
    assert!(pair.data(0)[..size] == pair.data(1)[..size], "equal images");
}

#[test]
fn a_volume_grows_on_both_nodes_and_nothing_is_copied() {
    let mut pair = Pair::mirrored();
    assert_eq!(pair.write(0, OLD, &[7; 512], false), Err(RequestError::Invalid));
    let moved = pair.moved_bytes;
    assert_eq!(resize(&mut pair, 0, NEW), OperatorAnswer::Done);
    assert_eq!((sizes(&pair), pair.moved_bytes), ([NEW; 2], moved));
    assert!(pair.write(0, NEW - 512, &[7; 512], true).is_ok());
    assert_eq!(pair.write(0, NEW, &[7; 512], false), Err(RequestError::Invalid));
    assert_in_sync(&pair);
    for node in [0, 1] {
        pair.lose_power(node);
        pair.restart(node);
        assert_eq!(pair.status(node).size_bytes, NEW, "the size is on stable media");
    }
    pair.connect();
    pair.pass_time();
    assert_in_sync(&pair);
    assert_eq!(pair.data(1)[usize::try_from(NEW).unwrap() - 1], 7);
    // And once more: the place that the first growth has left is used again.
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    assert_eq!(resize(&mut pair, 0, NEW + 4096), OperatorAnswer::Done);
    assert_eq!(sizes(&pair), [NEW + 4096; 2]);
}

#[test]
fn bits_move_with_the_volume() {
    let mut pair = Pair::mirrored();
    pair.crash(1);
    pair.pass(Duration::from_secs(7));
    assert!(pair.write(0, 8192, &[2; 4096], true).is_ok());
    let dirty = pair.status(0).peers[0].dirty_bytes;
    assert_eq!(resize(&mut pair, 0, NEW), OperatorAnswer::Done);
    assert_eq!(pair.status(0).peers[0].dirty_bytes, dirty);
    assert!(pair.write(0, OLD, &[3; 4096], true).is_ok());
    assert_eq!(pair.status(0).peers[0].dirty_bytes, dirty + 4096);
    pair.crash(0);
    pair.restart(0);
    pair.restart(1);
    let moved = pair.moved_bytes;
    pair.connect();
    pair.pass_time();
    assert_eq!(sizes(&pair), [NEW; 2], "the peer that was away grew when it was back");
    assert_in_sync(&pair);
    assert!(pair.moved_bytes - moved <= dirty + 4096, "what was written meanwhile, and no more");
}

#[test]
fn a_size_that_is_not_possible_is_refused() {
    let mut pair = Pair::mirrored();
    assert_eq!(resize(&mut pair, 0, OLD), OperatorAnswer::Done, "it has it");
    assert!(refusal(resize(&mut pair, 0, OLD - 512)).contains("only grows"));
    assert!(refusal(resize(&mut pair, 0, OLD + 100)).contains("multiple of 512"));
    assert!(refusal(resize(&mut pair, 0, 2 * OLD + 512)).contains("change it on every node first"));
    assert!(refusal(resize(&mut pair, 1, NEW)).contains("order it there"));
    assert_eq!(sizes(&pair), [OLD; 2]);
}

#[test]
fn without_room_on_either_disk_nothing_has_changed() {
    for node in [0, 1] {
        let mut pair = Pair::mirrored();
        pair.fail_next(node, Fail::Room);
        assert!(refusal(resize(&mut pair, 0, NEW)).contains("room"), "on node {node}");
        assert_eq!(sizes(&pair), [OLD; 2]);
        assert_in_sync(&pair);
        assert!(pair.write(0, 4096, &[5; 4096], true).is_ok());
        assert_eq!(resize(&mut pair, 0, NEW), OperatorAnswer::Done, "now there is room");
        assert_eq!(sizes(&pair), [NEW; 2]);
    }
}

#[test]
fn a_copy_without_room_for_a_larger_one_waits_and_is_not_asked_again_and_again() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    assert_eq!(resize(&mut pair, 0, NEW), OperatorAnswer::Done);
    pair.fail_next(1, Fail::Room);
    pair.connect();
    pair.pass_time();
    assert_eq!(sizes(&pair), [NEW, OLD]);
    assert_eq!(pair.status(1).peers[0].replication, Replication::Off);
    assert!(pair.write(0, OLD, &[9; 4096], false).is_ok(), "the primary goes on");
    pair.connect();
    pair.pass_time();
    assert_eq!(sizes(&pair), [NEW; 2], "a new link, a new attempt");
    assert_in_sync(&pair);
}

#[test]
fn the_configuration_of_each_node_is_the_limit_and_may_be_raised_while_it_runs() {
    let mut pair = Pair::mirrored();
    pair.allow(1, OLD);
    assert!(refusal(resize(&mut pair, 0, NEW)).contains("beta cannot"), "its own limit");
    assert_eq!(sizes(&pair), [OLD; 2]);
    pair.allow(0, OLD);
    assert!(refusal(resize(&mut pair, 0, NEW)).contains("change it on every node first"));
    pair.allow(0, NEW);
    pair.allow(1, NEW);
    assert_eq!(resize(&mut pair, 0, NEW), OperatorAnswer::Done);
    assert_eq!(sizes(&pair), [NEW; 2]);
    assert_in_sync(&pair);
}

#[test]
fn a_smaller_copy_grows_when_its_configuration_allows_it() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    pair.allow(1, OLD);
    assert_eq!(resize(&mut pair, 0, NEW), OperatorAnswer::Done);
    pair.connect();
    pair.pass_time();
    assert_eq!(sizes(&pair), [NEW, OLD]);
    assert_eq!(pair.status(1).peers[0].replication, Replication::Off);
    pair.allow(1, NEW);
    pair.pass_time();
    assert_eq!(sizes(&pair), [NEW; 2]);
    assert_in_sync(&pair);
}

#[test]
fn w4_a_disk_that_fails_while_room_is_made_has_failed() {
    let mut pair = Pair::mirrored();
    pair.fail_next(0, Fail::Extend);
    assert!(refusal(resize(&mut pair, 0, NEW)).contains("disk"));
    assert_eq!(pair.status(0).disk, DiskState::Failed);
    assert!(pair.write(0, 4096, &[5; 4096], true).is_ok(), "served by the peer (W7)");
    assert_eq!(sizes(&pair)[1], OLD);
}

#[test]
fn a_growth_that_is_not_allowed_any_more_ends() {
    let mut pair = Pair::mirrored();
    pair.hold(0, Held::Write);
    let order = pair.begin_command(0, OperatorCommand::Resize(NEW));
    pair.allow(0, OLD);
    assert!(refusal(pair.answer(order).expect("it has ended")).contains("allow"));
    pair.release(0, Held::Write);
    assert_eq!(sizes(&pair), [OLD; 2]);
    assert_in_sync(&pair);
}

/// Whichever node dies, and however far the growth was: the volume has the old size or the new one, nothing is lost,
/// and when the two meet both have the same.
#[test]
fn a_death_at_any_step_leaves_two_copies_that_become_one() {
    for victim in [0, 1] {
        for slow in [0, 1] {
            for part in [Held::Data, Held::Meta] {
                for steps in 0..4 {
                    let mut pair = Pair::mirrored();
                    pair.hold(slow, part);
                    let order = pair.begin_command(0, OperatorCommand::Resize(NEW));
                    for _ in 0..steps {
                        pair.release_one(slow, part);
                    }
                    pair.crash(victim);
                    pair.release(slow, part);
                    pair.restart(victim);
                    let case = format!("victim {victim}, slow {slow} {part:?}, {steps} steps");
                    let size = pair.status(victim).size_bytes;
                    assert!([OLD, NEW].contains(&size), "{case}");
                    pair.connect();
                    pair.pass_time();
                    let [first, second] = sizes(&pair);
                    assert_eq!(first, second, "{case}");
                    assert!(first >= size, "{case}");
                    assert_in_sync(&pair);
                    let done = pair.answer(order) == Some(OperatorAnswer::Done);
                    assert!(!done || first == NEW, "{case}");
                    if pair.status(0).role != Role::Primary {
                        let promoted = pair.command(0, OperatorCommand::Primary(Force::No));
                        assert_eq!(promoted, OperatorAnswer::Done, "{case}");
                    }
                    assert_eq!(
                        pair.write(0, first - 512, &[4; 512], true),
                        Ok(RequestOutcome::Done),
                        "{case}"
                    );
                    assert_in_sync(&pair);
                    assert_eq!((pair.data(0)[0], pair.data(1)[0]), (1, 1), "{case}");
                }
            }
        }
    }
}

/// Clients may use the new part only once it is on stable media that it is there.
#[test]
fn the_size_is_in_force_when_it_is_stable_and_not_before() {
    let mut pair = Pair::serving(Settings::default());
    pair.hold(0, Held::Meta);
    let order = pair.begin_command(0, OperatorCommand::Resize(NEW));
    let mut commits = 0;
    while pair.status(0).size_bytes == OLD {
        assert_eq!(pair.write(0, OLD, &[1; 512], false), Err(RequestError::Invalid));
        assert_eq!(pair.answer(order), None);
        pair.release_one(0, Held::Meta);
        commits += 1;
        assert!(commits < 10, "it never ends");
    }
    assert!(commits >= 2, "bitmaps first, then the superblock that names them");
    pair.release(0, Held::Meta);
    assert_eq!(pair.answer(order), Some(OperatorAnswer::Done));
}

/// A follower never has less than its leader: else the leader would send it writes behind its end.
#[test]
fn the_leader_takes_the_size_last() {
    let mut pair = Pair::serving(Settings::default());
    pair.hold(1, Held::Meta);
    let order = pair.begin_command(0, OperatorCommand::Resize(NEW));
    while pair.status(1).size_bytes == OLD {
        assert_eq!((pair.status(0).size_bytes, pair.answer(order)), (OLD, None));
        assert!(pair.held_actions(1, Held::Meta) > 0, "it goes on");
        pair.release_one(1, Held::Meta);
    }
    assert_eq!((sizes(&pair), pair.answer(order)), ([NEW; 2], Some(OperatorAnswer::Done)));
}

#[test]
fn a_peer_that_is_lost_before_it_had_room_ends_the_growth() {
    let mut pair = Pair::mirrored();
    pair.hold(1, Held::Data);
    let order = pair.begin_command(0, OperatorCommand::Resize(NEW));
    pair.crash(1);
    assert!(refusal(pair.answer(order).expect("an answer")).contains("lost"));
    assert_eq!(pair.status(0).size_bytes, OLD);
}

/// The room that an abandoned growth has left is not that of another layout.
#[test]
fn every_growth_makes_its_own_room() {
    let mut pair = Pair::mirrored();
    pair.fail_next(1, Fail::Room);
    assert!(refusal(resize(&mut pair, 0, 2 * OLD)).contains("beta cannot"));
    assert_eq!(resize(&mut pair, 0, NEW), OperatorAnswer::Done);
    pair.fail_next(0, Fail::Room);
    assert!(refusal(resize(&mut pair, 0, 2 * OLD)).contains("room"), "it was asked for anew");
    assert_eq!(resize(&mut pair, 0, 2 * OLD), OperatorAnswer::Done);
    assert_in_sync(&pair);
}

#[test]
fn room_that_is_slow_to_make_hinders_no_handshake_and_can_be_given_up() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    pair.hold(0, Held::Data);
    let order = pair.begin_command(0, OperatorCommand::Resize(NEW));
    assert!(refusal(resize(&mut pair, 0, 2 * OLD)).contains("grows already"));
    assert_eq!(resize(&mut pair, 0, OLD), OperatorAnswer::Done);
    assert!(refusal(pair.answer(order).expect("an answer")).contains("another"));
    let again = pair.begin_command(0, OperatorCommand::Resize(NEW));
    pair.connect();
    pair.release(0, Held::Data);
    pair.pass_time();
    assert_in_sync(&pair);
    let answer = pair.answer(again).expect("an answer");
    assert_eq!(sizes(&pair), if answer == OperatorAnswer::Done { [NEW; 2] } else { [OLD; 2] });
}

/// However the steps of a growth and of a shutdown fall: it ends, and what is on disk opens.
#[test]
fn a_growth_beside_a_shutdown() {
    for order in 0..1_u32 << 10 {
        let mut pair = Pair::mirrored();
        pair.disconnect();
        pair.hold(0, Held::Data);
        pair.hold(0, Held::Meta);
        let grown = pair.begin_command(0, OperatorCommand::Resize(NEW));
        let closed = pair.begin_command(0, OperatorCommand::Shutdown);
        for step in 0..32 {
            let part = if order >> (step % 10) & 1 == 0 { Held::Data } else { Held::Meta };
            pair.release_one(0, part);
        }
        pair.release(0, Held::Data);
        pair.release(0, Held::Meta);
        assert_eq!(pair.answer(closed), Some(OperatorAnswer::Done), "{order:b}");
        let done = pair.answer(grown).expect("an answer") == OperatorAnswer::Done;
        pair.crash(0);
        pair.restart(0);
        assert!(!done || pair.status(0).size_bytes == NEW, "{order:b}");
        pair.connect();
        pair.pass_time();
        assert_in_sync(&pair);
    }
}

/// The follower has grown, and the leader's disk fails over its own growth: it goes on through the follower (W7), also
/// when they meet anew, although it cannot grow any more.
#[test]
fn a_primary_whose_disk_fails_while_it_grows_is_served_by_its_larger_peer() {
    let mut pair = Pair::mirrored();
    pair.fail_next(0, Fail::Commit);
    assert!(refusal(resize(&mut pair, 0, NEW)).contains("disk failed"));
    for _ in 0..2 {
        let status = pair.status(0);
        assert_eq!((status.role, status.disk), (Role::Primary, DiskState::Failed));
        assert_eq!(sizes(&pair), [OLD, NEW]);
        assert_eq!(pair.write(0, 4096, &[6; 4096], true), Ok(RequestOutcome::Done));
        pair.connect();
        pair.pass_time();
    }
    assert_eq!(pair.data(1)[4096], 6);
}

#[test]
fn a_peer_that_shows_a_size_that_cannot_be_keeps_no_growth_waiting() {
    let mut pair = Pair::mirrored();
    pair.disconnect();
    pair.recorded = Some(Vec::new());
    pair.connect();
    let frames = pair.recorded.take().expect("recorded");
    let report = frames.into_iter().find_map(|(node, event)| match event {
        Event::Frame { channel, frame: Frame::Report { number, view }, .. } if node == 0 => {
            Some((channel, number, view))
        }
        _ => None,
    });
    let (channel, number, mut view) = report.expect("the other one has reported");
    view.size_bytes = OLD + 1;
    pair.limit_frames(0, 1);
    pair.begin_connect();
    pair.deliver(Vec::new());
    let link = pair.link().expect("a link");
    pair.freeze(1);
    pair.limit_frames(0, 1);
    let peer = pair.peer();
    pair.deliver(vec![(0, Event::Frame { peer, link, channel, frame: Frame::Report { number, view } })]);
    assert_eq!(resize(&mut pair, 0, NEW), OperatorAnswer::Done, "nothing is in the way");
    assert_eq!(pair.status(0).size_bytes, NEW);
}
