//! Metadata that cannot be read, or were changed behind the node: what is left is believed only as far as nothing newer
//! can be missing (D3), and what is lost counts as different (G7). Crash points of each part alone: `meta` in the sources.

mod pair;

use std::ops::Range;

use evenkeel_core::volume::{
    DiskState, Role,
    operator::{Force, OperatorAnswer, OperatorCommand},
};
use pair::{Fail, Pair, SIZE, write};

/// Where the two copies of the superblock begin.
const SUPERBLOCKS: [usize; 2] = [0, 64 << 10];
const SUPERBLOCK_BYTES: usize = 8192;

fn fill(meta: &mut [u8], part: &Range<u64>) {
    let [start, end] = [part.start, part.end].map(|at| usize::try_from(at).expect("small"));
    meta[start..end].fill(0xEE);
}

#[test]
fn d3_nothing_of_the_metadata_is_read_before_it_is_stable() {
    let mut pair = Pair::mirrored();
    pair.crash(1);
    pair.fail_next(1, Fail::Commit);
    pair.restart(1);
    let status = pair.status(1);
    assert_eq!(status.disk, DiskState::Failed);
    assert_eq!((status.node, status.size_bytes), (None, 0), "the flush failed, and it has read on");
    pair.restart(1);
    assert_eq!(pair.status(1).size_bytes, SIZE as u64, "a flush that works opens it");
}

#[test]
fn d3_who_has_lost_one_superblock_is_believed_nothing() {
    for start in SUPERBLOCKS {
        for byte in [0x00, 0xEE] {
            let mut pair = Pair::mirrored();
            pair.crash(1);
            pair.damage(1, |meta| meta[start..start + SUPERBLOCK_BYTES].fill(byte));
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
        pair.damage(0, |meta| {
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

/// A superblock is torn, so it does not take up its role by itself; as secondary it is the source of its peer.
#[test]
fn p7_who_is_in_sync_as_secondary_is_no_crashed_primary_any_more() {
    let mut pair = Pair::mirrored();
    pair.crash(0);
    // As a write of the first superblock that was torn.
    pair.damage(0, |meta| meta[200] ^= 1);
    pair.restart(0);
    assert_eq!((pair.status(0).disk, pair.status(0).resuming), (DiskState::Consistent, false));
    pair.connect();
    for node in 0..2 {
        assert_eq!(pair.status(node).disk, DiskState::UpToDate, "node {node}");
        assert_eq!(pair.status(node).role, Role::Secondary, "node {node}");
    }
    pair.crash(0);
    pair.restart(0);
    assert!(!pair.status(0).resuming, "it died as secondary");
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.status(0).role, Role::Secondary);
}

#[test]
fn g7_a_log_that_cannot_be_read_marks_every_block() {
    let mut pair = Pair::mirrored();
    let log = pair.superblock(0).layout.log().bytes();
    pair.crash(0);
    pair.damage(0, |meta| fill(meta, &log));
    pair.restart(0);
    assert_eq!(pair.status(0).peers[0].dirty_bytes, SIZE as u64);
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.status(1).last_resync.expect("one ended").compared_bytes, SIZE as u64);
    assert_eq!(pair.status(0).peers[0].dirty_bytes, 0);
}

/// A write has come to the disk of the primary alone, and the log that names its extent is damaged.
#[test]
fn g7_a_damaged_activity_log_marks_everything() {
    let mut pair = Pair::mirrored();
    pair.limit_frames(1, 0);
    let answer = pair.begin_request(0, write(2));
    assert_eq!(pair.reply(answer), None);
    let log = pair.superblock(0).layout.log().bytes();
    pair.crash(0);
    pair.crash(1);
    pair.unlimit_frames();
    assert!(pair.data(0)[..4096] == [2; 4096] && pair.data(1)[..4096] == [1; 4096], "they differ");
    pair.damage(0, |meta| fill(meta, &log));
    pair.restart(0);
    pair.restart(1);
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.data(0), pair.data(1));
    assert!(pair.data(1)[..4096] == [2; 4096], "the primary had it");
    assert_eq!(pair.status(1).last_resync.expect("one ended").compared_bytes, SIZE as u64);
}
