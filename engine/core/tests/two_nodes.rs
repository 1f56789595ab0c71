//! Two volumes joined by perfect links, with disks that lose nothing but what a test takes away: the plain
//! course of things, step by step. Everything that can go wrong is the simulator's.

mod pair;

use evenkeel_core::{
    generation::view::Replies,
    ids::{Generation, GenerationId, Sequence},
    volume::{
        DiskState, Replication, Role,
        io::{Channel, ClientOperation, Event, RequestError, RequestOutcome, ZeroMode},
        operator::{Force, OperatorAnswer, OperatorCommand},
        span::ByteSpan,
        wire::Frame,
    },
};
use pair::{Held, Pair};

fn in_sync_pair() -> Pair {
    let mut pair = Pair::new();
    pair.connect();
    for node in 0..2 {
        assert_eq!(pair.status(node).disk, DiskState::UpToDate, "node {node}");
        assert_eq!(pair.status(node).peers[0].replication, Replication::Established, "node {node}");
    }
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    pair
}

#[test]
fn a_fresh_pair_is_in_sync_without_a_copy() {
    let pair = in_sync_pair();
    assert_eq!(pair.status(0).head, pair.status(1).head);
    assert_eq!(pair.status(0).role, Role::Primary);
    assert_eq!(pair.status(1).role, Role::Secondary);
}

#[test]
fn a_write_is_on_both_nodes_when_it_is_answered() {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(0, 8192, &[7; 4096], false), Ok(RequestOutcome::Done));
    for node in 0..2 {
        assert_eq!(pair.data(node)[8192..12288], [7; 4096], "node {node}");
    }
    assert_eq!(pair.request(0, ClientOperation::Flush), Ok(RequestOutcome::Done));
    for node in 0..2 {
        assert_eq!(pair.stable_data(node)[8192..12288], [7; 4096], "node {node}");
    }
    let read = pair.request(0, ClientOperation::Read(ByteSpan { offset: 8192, len: 512 }));
    assert_eq!(read, Ok(RequestOutcome::Data(vec![7; 512].into())));
    let io = pair.status(0).io;
    assert_eq!((io.writes, io.written_bytes, io.reads, io.read_bytes), (1, 4096, 1, 512));
    assert_eq!((io.flushes, io.held), (1, 0));
}

#[test]
fn a_secondary_refuses_clients() {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(1, 0, &[1; 512], false), Err(RequestError::Shutdown));
}

#[test]
fn what_was_written_alone_is_copied_when_the_peer_is_back() {
    let mut pair = in_sync_pair();
    let before = pair.status(0).head;
    pair.disconnect();
    assert_eq!(pair.write(0, 0, &[1; 4096], false), Ok(RequestOutcome::Done));
    assert_eq!(pair.write(0, 1 << 20, &[2; 65536], true), Ok(RequestOutcome::Done));
    assert_ne!(pair.status(0).head, before, "G1: alone is another generation");
    assert_eq!(pair.status(1).disk, DiskState::Consistent, "P1");
    pair.connect();
    assert_eq!(pair.status(1).disk, DiskState::UpToDate);
    assert_eq!(pair.status(0).head, pair.status(1).head);
    assert_eq!(pair.data(0), pair.data(1));
    assert_eq!(pair.moved_bytes, 4096 + 65536, "by bitmap, not whole");
    for node in 0..2 {
        let last = pair.status(node).last_resync.expect("one ended");
        assert_eq!((last.moved_bytes, last.compared_bytes), (69632, 69632), "node {node}");
        assert_eq!(pair.status(node).peers[0].resync, None, "node {node}");
    }
}

#[test]
fn a_resync_keeps_to_the_limit_of_either_side() {
    for limited in 0..2 {
        let mut pair = in_sync_pair();
        pair.disconnect();
        assert_eq!(pair.write(0, 0, &vec![1; 1 << 20], false), Ok(RequestOutcome::Done));
        // 3 s are needed; `pass_time` is 3 s long, and a tenth of it is granted at once.
        let command = OperatorCommand::LimitResync(Some(350_000));
        assert_eq!(pair.command(limited, command), OperatorAnswer::Done);
        pair.connect();
        assert_eq!(pair.status(1).disk, DiskState::Inconsistent, "R5: it takes its time");
        assert!(pair.moved_bytes <= 256 << 10, "{} bytes at once", pair.moved_bytes);
        pair.pass_time();
        assert_eq!(pair.status(1).disk, DiskState::UpToDate);
        assert_eq!(pair.data(0), pair.data(1));
    }
}

#[test]
fn r5_a_resync_that_is_paused_stands_still_and_goes_on() {
    let mut pair = in_sync_pair();
    pair.disconnect();
    assert_eq!(pair.write(0, 0, &vec![1; 1 << 20], false), Ok(RequestOutcome::Done));
    assert_eq!(pair.command(1, OperatorCommand::PauseResync(true)), OperatorAnswer::Done);
    pair.connect();
    pair.pass_time();
    assert_eq!((pair.moved_bytes, pair.status(1).disk), (0, DiskState::Inconsistent));
    assert_eq!(pair.write(0, 2 << 20, &[2; 4096], false), Ok(RequestOutcome::Done), "it goes on beside");
    assert_eq!(pair.command(1, OperatorCommand::PauseResync(false)), OperatorAnswer::Done);
    pair.pass_time();
    assert_eq!(pair.status(1).disk, DiskState::UpToDate);
    assert_eq!(pair.data(0), pair.data(1));
}

#[test]
fn the_dirty_map_shows_what_a_peer_lacks() {
    let mut pair = in_sync_pair();
    let map = |pair: &Pair, offset, len, limit| -> Vec<(u64, bool)> {
        pair.dirty_map(0, ByteSpan { offset, len }, limit)
            .iter()
            .map(|found| (found.len, found.dirty))
            .collect()
    };
    assert_eq!(map(&pair, 0, 1 << 20, 9), [(1 << 20, false)]);
    pair.disconnect();
    for (offset, len) in [(8192, 1), (12288, 8), (65536, 1)] {
        assert_eq!(pair.write(0, offset, &vec![1; 512 * len], false), Ok(RequestOutcome::Done));
    }
    let start = map(&pair, 0, 16384, 9);
    assert_eq!(start, [(8192, false), (8192, true)], "blocks are dirty as a whole, neighbours are one run");
    assert_eq!(map(&pair, 8704, 4096, 9), [(4096, true)], "from within a block");
    assert_eq!(map(&pair, 0, 4 << 20, 2), start, "no more than asked for");
}

#[test]
fn the_secondary_takes_over_and_the_old_primary_follows() {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(0, 0, &[1; 4096], false), Ok(RequestOutcome::Done));
    pair.crash(0);
    assert!(matches!(pair.command(1, OperatorCommand::Primary(Force::No)), OperatorAnswer::Refused(_)), "P2");
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.write(1, 4096, &[2; 4096], false), Ok(RequestOutcome::Done));
    pair.restart(0);
    pair.connect();
    assert_eq!(pair.status(0).role, Role::Secondary);
    assert_eq!(pair.status(0).disk, DiskState::UpToDate);
    assert_eq!(pair.data(0), pair.data(1));
    assert_eq!(pair.data(0)[..4096], [1; 4096]);
    assert_eq!(pair.data(0)[4096..8192], [2; 4096]);
}

#[test]
fn roles_are_swapped_without_a_copy() {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(0, 0, &[1; 4096], false), Ok(RequestOutcome::Done));
    assert_eq!(pair.command(0, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
    assert_eq!(pair.stable_data(0), pair.stable_data(1), "P5: images are equal when it returns");
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    let zero =
        ClientOperation::Zero { span: ByteSpan { offset: 0, len: 512 }, mode: ZeroMode::Punch, fua: true };
    assert_eq!(pair.request(1, zero), Ok(RequestOutcome::Done));
    assert_eq!(pair.stable_data(0)[..512], [0; 512]);
    assert_eq!(pair.status(0).head, pair.status(1).head);
    assert_eq!(pair.moved_bytes, 0);
}

#[test]
fn two_forced_promotions_are_a_split_brain_and_resolve_ends_it() {
    let mut pair = in_sync_pair();
    pair.disconnect();
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.write(0, 0, &[1; 4096], false), Ok(RequestOutcome::Done));
    assert_eq!(pair.write(1, 4096, &[2; 4096], false), Ok(RequestOutcome::Done));
    pair.connect();
    for node in 0..2 {
        assert_eq!(pair.status(node).peers[0].replication, Replication::SplitBrain, "node {node}");
    }
    assert_eq!(pair.moved_bytes, 0);
    assert_eq!(pair.status(0).role, Role::Secondary, "G10: the lower term gives up");
    assert_eq!(pair.status(1).role, Role::Primary);
    let resolve = OperatorCommand::Resolve {
        peer: pair.peer(),
        discard: evenkeel_core::volume::operator::Discard::Own,
    };
    assert_eq!(pair.command(0, resolve), OperatorAnswer::Done);
    assert_eq!(pair.status(0).disk, DiskState::UpToDate);
    assert_eq!(pair.data(0), pair.data(1));
    assert_eq!(pair.data(0)[4096..8192], [2; 4096]);
    assert_eq!(pair.data(0)[..4096], [0; 4096]);
}

#[test]
fn a_clean_shutdown_hands_the_right_over() {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(0, 0, &[1; 4096], false), Ok(RequestOutcome::Done));
    assert_eq!(pair.command(0, OperatorCommand::Shutdown), OperatorAnswer::Done);
    assert_eq!(pair.status(1).disk, DiskState::UpToDate, "P1: it left cleanly");
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    assert_eq!(pair.write(1, 4096, &[2; 4096], false), Ok(RequestOutcome::Done));
    pair.restart(0);
    pair.connect();
    assert_eq!(pair.data(0), pair.data(1));
    assert_eq!(pair.moved_bytes, 4096);
}

#[test]
fn a_primary_whose_process_died_goes_on_alone() {
    let mut pair = in_sync_pair();
    assert_eq!(pair.write(0, 0, &[1; 4096], false), Ok(RequestOutcome::Done));
    pair.crash(0);
    pair.restart(0);
    pair.pass_time();
    assert_eq!(pair.status(0).role, Role::Primary, "P7: entitled, same kernel, at once");
    assert_eq!(pair.write(0, 4096, &[2; 4096], false), Ok(RequestOutcome::Done));
    pair.connect();
    assert_eq!(pair.data(0), pair.data(1));
}

#[test]
fn g2_heads_that_are_offered_while_the_disk_is_slow_are_all_taken_in_their_order() {
    for last_first in [false, true] {
        heads_are_all_taken(last_first);
    }
}

/// `last_first`: the flush for the last head ends before that for the first.
fn heads_are_all_taken(last_first: bool) {
    let mut pair = in_sync_pair();
    let (peer, link) = (pair.peer(), pair.link().expect("they are linked"));
    let term = pair.status(0).head.expect("a primary has a head").term;
    let offered = [0xb1, 0xb2].map(|id| Generation { id: GenerationId(id), term });
    let offers = offered.map(|generation| {
        let frame = Frame::Offer { generation, replies: Replies::Together };
        (1, Event::Frame { peer, link, channel: Channel::Control, frame })
    });
    pair.hold(1, Held::Flush);
    pair.limit_frames(0, 0);
    pair.deliver(offers.to_vec());
    if last_first {
        pair.release_last_first(1, Held::Flush);
    } else {
        pair.release(1, Held::Flush);
    }
    assert_eq!(pair.status(1).head, Some(offered[1]));
    // A third node may have the first one as its head: it must find it here.
    pair.disconnect();
    pair.unlimit_frames();
    pair.recorded = Some(Vec::new());
    pair.connect();
    let told = pair.recorded.take().expect("recorded").into_iter().find_map(|(to, event)| match event {
        Event::Frame { frame: Frame::Report { view, .. }, .. } if to == 0 => Some(view),
        _ => None,
    });
    let ancestors = told.expect("it reports").history.ancestors().to_vec();
    assert_eq!(ancestors.first(), Some(&offered[0]));
}

/// What a peer asks for and is not answered yet takes memory here: it is limited, whatever the peer does.
#[test]
fn a_target_that_asks_for_more_than_it_can_take_is_left() {
    let mut pair = in_sync_pair();
    pair.disconnect();
    assert_eq!(pair.write(0, 0, &[1; 4096], false), Ok(RequestOutcome::Done));
    assert_eq!(pair.command(1, OperatorCommand::PauseResync(true)), OperatorAnswer::Done);
    pair.connect();
    pair.hold(0, Held::Data);
    let (peer, link) = (pair.peer(), pair.link().unwrap());
    let pull = |id: u64| {
        let (span, after) = (ByteSpan { offset: 0, len: 4096 }, Sequence::ZERO);
        let frame = Frame::Pull { id, span, after, digests: Vec::new() };
        (0, Event::Frame { peer, link, channel: Channel::Resync, frame })
    };
    pair.may_fail = true;
    pair.deliver((0..64).map(pull).collect());
    assert_eq!(pair.link(), Some(link));
    pair.deliver(vec![pull(64)]);
    assert_eq!(pair.link(), None);
    pair.release(0, Held::Data);
    assert_eq!(pair.command(1, OperatorCommand::PauseResync(false)), OperatorAnswer::Done);
    pair.connect();
    assert_eq!(pair.data(0), pair.data(1));
}

#[test]
fn r6_a_target_has_the_head_durably_before_it_counts_as_in_sync() {
    let mut in_sync = Vec::new();
    for commits in 0..10 {
        let mut pair = Pair::mirrored();
        pair.disconnect();
        assert_eq!(pair.write(0, 2 << 20, &[2; 4096], true), Ok(RequestOutcome::Done));
        pair.hold(1, Held::Meta);
        pair.connect();
        for _ in 0..commits {
            pair.release_one(1, Held::Meta);
        }
        let counts = pair.status(0).peers[0].replication == Replication::Established;
        in_sync.push(counts);
        let head = pair.status(0).head;
        pair.lose_power(1);
        pair.crash(0);
        pair.release(1, Held::Meta);
        pair.restart(1);
        if counts {
            assert_eq!(pair.status(1).head, head, "{commits} commits");
            assert_ne!(pair.status(1).disk, DiskState::Inconsistent, "{commits} commits: it was in sync");
        }
    }
    assert!(!in_sync[0] && in_sync.contains(&true), "{in_sync:?}");
}

#[test]
fn r5_a_limit_that_is_raised_counts_at_once() {
    for node in 0..2 {
        let mut pair = Pair::mirrored();
        pair.disconnect();
        assert_eq!(pair.write(0, 0, &vec![5; 1 << 20], false), Ok(RequestOutcome::Done));
        assert_eq!(pair.command(node, OperatorCommand::LimitResync(Some(1))), OperatorAnswer::Done);
        pair.connect();
        pair.pass_time();
        assert_eq!(pair.status(1).disk, DiskState::Inconsistent, "node {node}: a byte a second");
        assert!(pair.moved_bytes > 0, "node {node}: the first pull is to be paid for");
        assert_eq!(pair.command(node, OperatorCommand::LimitResync(Some(50 << 20))), OperatorAnswer::Done);
        pair.pass_time();
        assert_eq!(pair.status(1).disk, DiskState::UpToDate, "node {node}");
        assert!(pair.data(1) == pair.data(0), "node {node}");
    }
}

/// R1: from the first block on the copy is a mixture, and its metadata have to say so before.
#[test]
fn r1_nothing_is_copied_before_it_is_stable_that_the_copy_is_inconsistent() {
    let mut copied = Vec::new();
    for commits in 0..10 {
        let mut pair = in_sync_pair();
        pair.disconnect();
        assert_eq!(pair.write(0, 0, &[7; 4096], true), Ok(RequestOutcome::Done));
        pair.hold(1, Held::Meta);
        pair.connect();
        for _ in 0..commits {
            pair.release_one(1, Held::Meta);
        }
        let begun = pair.data(1)[0] == 7;
        let says_so = !pair.superblock(1).flags.consistent;
        assert!(!begun || says_so || pair.status(1).disk == DiskState::UpToDate, "{commits} commits");
        copied.push(begun);
    }
    assert!(!copied[0] && copied.contains(&true), "{copied:?}");
}
