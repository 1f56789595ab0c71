//! What two nodes tell each other within a session, and what one of them finds in its own metadata afterwards:
//! who has the right (P2), whose copy is whose (R6, D6, D11, G10), what damaged metadata say (D3, G7, P7).

mod pair;
mod trio;

use std::time::Duration;

use evenkeel_core::{
    generation::verdict::Verdict,
    meta::{report::inspect, superblock::Superblock},
    volume::{
        DiskState, Replication, Role,
        io::{RequestError, RequestOutcome},
        operator::{Force, OperatorAnswer, OperatorCommand},
        status::Suspended,
    },
};
use pair::{Held, Pair, SIZE};
use trio::Trio;

const DONE: Result<RequestOutcome, RequestError> = Ok(RequestOutcome::Done);
const MINUTE: Duration = Duration::from_secs(61);
/// Where the two copies of the superblock begin.
const SUPERBLOCKS: [usize; 2] = [0, 64 << 10];
const SUPERBLOCK_BYTES: usize = 8192;

/// What the metadata of a node say on stable media.
fn superblock(pair: &Pair, node: usize) -> Superblock {
    let meta = pair.meta(node);
    let report = inspect(meta.len() as u64, &mut |offset, bytes: &mut [u8]| {
        let start = usize::try_from(offset).expect("small");
        bytes.copy_from_slice(&meta[start..start + bytes.len()]);
        Ok(())
    });
    report.superblock().expect("one is whole").clone()
}

/// Changes the metadata of a node that is down; its data stay as they are in the cache.
fn damage(pair: &mut Pair, node: usize, change: impl FnOnce(&mut [u8])) {
    let mut meta = pair.meta(node).to_vec();
    change(&mut meta);
    let data = pair.data(node).to_vec();
    pair.put_back(node, &(data, meta));
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
    assert_eq!(pair.write(1, 4096, &[2; 4096], false), DONE);
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

#[test]
fn r6_a_target_has_the_head_durably_before_it_counts_as_in_sync() {
    let mut in_sync = Vec::new();
    for commits in 0..10 {
        let mut pair = Pair::mirrored();
        pair.disconnect();
        assert_eq!(pair.write(0, 2 << 20, &[2; 4096], true), DONE);
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

/// The counter has risen within the session, and no handshake has shown it.
#[test]
fn d6_what_a_peer_shows_within_a_session_is_remembered() {
    let mut pair = Pair::mirrored();
    pair.pass(MINUTE);
    let old = pair.snapshot(0);
    assert_eq!(pair.write(0, 2 << 20, &[2; 4096], true), DONE);
    pair.pass(MINUTE);
    assert_eq!(pair.status(0).head, pair.status(1).head, "the heads do not tell");
    pair.crash(0);
    pair.put_back(0, &old);
    pair.restart(0);
    pair.connect();
    pair.pass_time();
    for node in 0..2 {
        assert_eq!(pair.data(node)[2 << 20..][..4096], [2; 4096], "node {node}");
    }
    let last = pair.status(0).last_resync.expect("one ended");
    assert_eq!(last.compared_bytes, SIZE as u64, "nothing of it is believed");
}

#[test]
fn d3_who_has_lost_one_superblock_is_believed_nothing() {
    for start in SUPERBLOCKS {
        for byte in [0x00, 0xEE] {
            let mut pair = Pair::mirrored();
            pair.crash(1);
            damage(&mut pair, 1, |meta| meta[start..start + SUPERBLOCK_BYTES].fill(byte));
            pair.restart(1);
            let what = format!("{byte:#x} at {start}");
            assert_eq!(pair.status(1).disk, DiskState::Inconsistent, "{what}");
            pair.connect();
            pair.pass_time();
            assert_eq!(pair.status(1).disk, DiskState::UpToDate, "{what}");
            let last = pair.status(1).last_resync.expect("one ended");
            assert_eq!(last.compared_bytes, SIZE as u64, "{what}");
        }
    }
}

/// A flipped bit may look like a torn write, and so the copy that is left like the newest one.
#[test]
fn p7_a_primary_with_one_whole_superblock_does_not_take_its_role_up_again() {
    for flipped in [None, Some(SUPERBLOCKS[0]), Some(SUPERBLOCKS[1])] {
        let mut pair = Pair::mirrored();
        pair.crash(0);
        pair.crash(1);
        damage(&mut pair, 0, |meta| {
            if let Some(start) = flipped {
                meta[start + 5000] ^= 1;
            }
        });
        pair.restart(0);
        pair.pass_time();
        let (role, disk) = match flipped {
            None => (Role::Primary, DiskState::UpToDate),
            Some(_) => (Role::Secondary, DiskState::Consistent),
        };
        assert_eq!((pair.status(0).role, pair.status(0).disk), (role, disk), "{flipped:?}");
        let answer = pair.command(0, OperatorCommand::Primary(Force::No));
        assert_eq!(answer == OperatorAnswer::Done, flipped.is_none(), "{flipped:?}: {answer:?}");
    }
}

#[test]
fn g7_a_log_that_cannot_be_read_marks_every_block() {
    let mut pair = Pair::mirrored();
    let log = superblock(&pair, 0).layout.log().bytes();
    pair.crash(0);
    damage(&mut pair, 0, |meta| {
        let [start, end] = [log.start, log.end].map(|at| usize::try_from(at).expect("small"));
        meta[start..end].fill(0xEE);
    });
    pair.restart(0);
    assert_eq!(pair.status(0).peers[0].dirty_bytes, SIZE as u64);
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.status(1).last_resync.expect("one ended").compared_bytes, SIZE as u64);
    assert_eq!(pair.status(0).peers[0].dirty_bytes, 0);
}

/// Beta marks for gamma what it copies from alpha, in alpha's numbering, and is gamma's source in its own,
/// which has not begun: no session with alpha ends between.
#[test]
fn d11_a_source_that_was_a_target_has_its_own_numbers() {
    let mut trio = Trio::new();
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio.crash(1);
    trio.crash(2);
    for block in 0..40 {
        assert_eq!(trio.write(0, block * 8192, &[5; 4096]), Some(DONE));
    }
    let secondary = OperatorCommand::Secondary { force: false };
    assert_eq!(trio.command(0, secondary), OperatorAnswer::Done);
    trio.cut(0, 2);
    trio.restart(1);
    trio.pass_time();
    assert_eq!(trio.data(0), trio.data(1));
    assert!(trio.of(1, 2).dirty_bytes > 0, "it keeps for gamma what it has copied");
    trio.restart(2);
    trio.pass_time();
    assert_eq!(trio.of(1, 0).replication, Replication::Established);
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert_eq!(trio.of(1, 2).dirty_bytes, 0);
    assert_eq!(trio.data(1), trio.data(2));
}
