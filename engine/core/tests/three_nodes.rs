//! Three nodes joined by perfect links: what a third node changes (G9), step by step. Everything that can go wrong is
//! the simulator's.

mod trio;

use evenkeel_core::volume::{
    DiskState, Replication, Role,
    io::{ClientOperation, RequestOutcome},
    operator::{Force, OperatorAnswer, OperatorCommand},
};
use trio::Trio;

const DONE: Option<Result<RequestOutcome, evenkeel_core::volume::io::RequestError>> =
    Some(Ok(RequestOutcome::Done));

fn all_well(trio: &Trio) {
    for node in 0..3 {
        assert_eq!(trio.status(node).disk, DiskState::UpToDate, "node {node}");
        for other in (0..3).filter(|other| *other != node) {
            let peer = trio.of(node, other);
            assert_eq!(peer.replication, Replication::Established, "node {node} of node {other}");
            assert_eq!(peer.dirty_bytes, 0, "node {node} of node {other}");
            assert_eq!(peer.disk, Some(DiskState::UpToDate), "node {node} of node {other}");
        }
        assert_eq!(trio.status(node).head, trio.status(0).head, "node {node}");
        assert!(trio.data(node) == trio.data(0), "the image of node {node} is that of node 0");
    }
}

/// Node 0 is primary, all three are in sync.
fn formed() -> Trio {
    let mut trio = Trio::new();
    all_well(&trio);
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio
}

#[test]
fn g3_three_new_nodes_make_one_generation_without_a_copy() {
    let trio = formed();
    assert_eq!(trio.moved_bytes, 0);
    all_well(&trio);
}

#[test]
fn two_secondaries_that_meet_again_know_each_others_disks() {
    let mut trio = formed();
    trio.cut(1, 2);
    trio.pass_time();
    trio.join(1, 2);
    all_well(&trio);
}

#[test]
fn a_write_is_on_all_three() {
    let mut trio = formed();
    assert_eq!(trio.write(0, 4096, &[7; 4096]), DONE);
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    all_well(&trio);
}

#[test]
fn g9_survivors_of_a_lost_primary_compare_before_one_calls_itself_up_to_date() {
    let mut trio = formed();
    trio.stick(0, 2, true);
    assert_eq!(trio.write(0, 0, &[1; 4096]), None, "gamma has not got it");
    assert_eq!(trio.data(1)[..4096], [1; 4096]);
    assert_eq!(trio.data(2)[..4096], [0; 4096]);
    trio.crash(0);
    for node in [1, 2] {
        assert_eq!(trio.status(node).disk, DiskState::Consistent, "node {node}");
    }
    assert_eq!(trio.of(1, 2).replication, Replication::Off, "they left each other with the primary");
    trio.pass_time();
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert!(trio.data(1) == trio.data(2), "the union was compared");
    assert_eq!(trio.moved_bytes, 4096, "by bits, not whole");
    let answer = trio.command(2, OperatorCommand::Primary(Force::No));
    assert!(matches!(answer, OperatorAnswer::Refused(_)), "alpha may be primary");
    trio.stick(0, 2, false);
    trio.restart(0);
    trio.pass_time();
    all_well(&trio);
}

#[test]
fn g9_what_a_secondary_applied_survives_its_crash_as_bits() {
    let mut trio = formed();
    trio.stick(0, 2, true);
    assert_eq!(trio.write(0, 0, &[1; 4096]), None);
    trio.crash(1);
    trio.crash(0);
    trio.restart(1);
    trio.pass_time();
    assert!(trio.data(1) == trio.data(2), "beta's activity log named the block");
}

/// The session that began last is not the one with the node that becomes primary; and that tells its role before it
/// offers its head, because by force its disk's state changes.
#[test]
fn g9_a_secondary_keeps_bits_whichever_of_its_leaders_becomes_primary() {
    let mut trio = formed();
    let handover = [
        (0, OperatorCommand::Secondary { force: false }),
        (1, OperatorCommand::Primary(Force::No)),
        (1, OperatorCommand::Secondary { force: false }),
    ];
    for (node, command) in handover {
        assert_eq!(trio.command(node, command), OperatorAnswer::Done);
    }
    trio.crash(0);
    trio.cut(0, 1);
    trio.pass_time();
    trio.restart(0);
    trio.pass_time();
    trio.cut(1, 2);
    trio.pass_time();
    trio.join(1, 2);
    for leader in [0, 1] {
        assert_eq!(trio.of(2, leader).replication, Replication::Established);
    }
    assert_eq!(trio.status(0).disk, DiskState::Consistent, "it has not met beta");
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(trio.write(0, 4096, &[7; 4096]), DONE);
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    assert!(trio.of(2, 1).dirty_bytes >= 4096, "gamma knows what beta lacks");
    trio.crash(0);
    for _ in 0..3 {
        trio.pass_time();
    }
    assert!(trio.data(1) == trio.data(2), "the survivors have compared");
    assert_eq!(trio.data(1)[4096..8192], [7; 4096]);
}

#[test]
fn g9_a_secondary_keeps_bits_for_a_third_node_that_is_away() {
    let mut trio = formed();
    trio.crash(2);
    assert_eq!(trio.write(0, 8192, &[3; 4096]), DONE);
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    assert_eq!(trio.of(1, 2).dirty_bytes, 4096);
    trio.lose_power(0);
    trio.restart(2);
    trio.pass_time();
    assert_eq!(trio.data(2)[8192..12288], [3; 4096], "from beta");
    assert_eq!(trio.moved_bytes, 4096, "by bits, not whole");
    assert_eq!(trio.of(1, 2).dirty_bytes, 0);
}

#[test]
fn d11_the_word_of_the_primary_clears_what_fellows_have_marked() {
    let mut trio = formed();
    trio.crash(2);
    assert_eq!(trio.write(0, 8192, &[3; 4096]), DONE);
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    assert_eq!(trio.of(1, 2).dirty_bytes, 4096);
    trio.restart(2);
    trio.pass_time();
    all_well(&trio);
    assert_eq!(trio.moved_bytes, 4096, "from the primary alone");
    assert_eq!(trio.status(0).role, Role::Primary);
}

#[test]
fn r6_nobody_is_brought_up_to_date_behind_the_primarys_back() {
    let mut trio = formed();
    trio.cut(0, 2);
    assert_eq!(trio.write(0, 0, &[9; 4096]), DONE);
    trio.pass_time();
    assert_eq!(trio.status(2).disk, DiskState::Consistent, "beta alone cannot say that it is the newest");
    assert_ne!(trio.of(1, 2).replication, Replication::Established);
    trio.join(0, 2);
    // What the resync changed is marked for beta until the primary says that beta has it stable.
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    all_well(&trio);
}

#[test]
fn p3_a_node_in_sync_with_a_primary_refuses_as_that_would() {
    let mut trio = formed();
    trio.cut(0, 2);
    trio.pass_time();
    let answer = trio.command(2, OperatorCommand::Primary(Force::Yes));
    assert!(matches!(answer, OperatorAnswer::Refused(_)), "{answer:?}");
    assert_eq!(trio.status(0).role, Role::Primary);
}

#[test]
fn the_role_moves_without_a_copy() {
    let mut trio = formed();
    assert_eq!(trio.write(0, 0, &[4; 4096]), DONE);
    for (from, to) in [(0, 1), (1, 2)] {
        assert_eq!(trio.command(from, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
        assert_eq!(trio.command(to, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
        assert_eq!(trio.write(to, 4096, &[5; 4096]), DONE);
        assert_eq!(trio.request(to, ClientOperation::Flush), DONE);
    }
    trio.pass_time();
    all_well(&trio);
    assert_eq!(trio.moved_bytes, 0);
}

#[test]
fn r7_a_secondary_does_not_verify_while_another_node_is_primary() {
    let mut trio = formed();
    let fellow = trio.of(1, 2).index;
    let answer = trio.command(1, OperatorCommand::Verify { peer: fellow, repair: false });
    assert!(matches!(answer, OperatorAnswer::Refused(_)), "{answer:?}");
}

/// Beta loses power at each event after gamma is lost: what its newest head names, it has.
#[test]
fn g2_a_head_is_taken_when_the_own_data_are_stable() {
    let mut taken = [0, 0];
    for events in 0.. {
        let mut trio = formed();
        let before = trio.status(0).head;
        assert_eq!(trio.write(0, 4096, &[6; 4096]), DONE);
        trio.stop_after(events);
        trio.crash(2);
        trio.lose_power(1);
        let waited = trio.go_on();
        trio.restart(1);
        let has_it = trio.data(1)[4096..8192] == [6; 4096];
        let is_new = trio.status(1).head != before;
        assert!(!is_new || has_it, "{events} events later");
        taken[usize::from(is_new)] += 1;
        if !waited && is_new {
            break;
        }
        assert!(events < 500, "beta never takes the head");
    }
    assert!(taken[0] > 2 && taken[1] > 0, "{taken:?}");
}

/// Alpha is primary, in sync with beta. Gamma was promoted by force where it could ask nobody, and meets beta only.
#[test]
fn g10_a_primary_that_hears_of_a_higher_term_stops() {
    let mut trio = formed();
    trio.cut(0, 2);
    trio.cut(1, 2);
    trio.pass_time();
    assert_eq!(trio.command(2, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(trio.write(0, 0, &[1; 4096]), DONE);
    assert!(trio.status(2).term > trio.status(0).term);
    trio.join(1, 2);
    assert_eq!(trio.status(0).role, Role::Secondary, "beta has told it");
    let write = trio.write(0, 0, &[2; 4096]);
    assert!(matches!(write, Some(Err(_))), "{write:?}");
    assert_eq!(trio.status(0).disk, DiskState::UpToDate, "its own copy is what it was");
}

#[test]
fn a_volume_grows_on_all_three_and_on_one_that_was_away() {
    let mut trio = formed();
    let old = trio.status(0).size_bytes;
    trio.crash(2);
    trio.pass_time();
    let new = old + (64 << 10) + 512;
    assert_eq!(trio.command(0, OperatorCommand::Resize(new)), OperatorAnswer::Done);
    assert_eq!([0, 1].map(|node| trio.status(node).size_bytes), [new; 2]);
    assert_eq!(trio.write(0, old, &[9; 4096]), DONE);
    trio.restart(2);
    for other in [0, 1] {
        trio.join(2, other);
    }
    trio.pass_time();
    assert_eq!(trio.status(2).size_bytes, new);
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    all_well(&trio);
}

/// Node 0 has lost both others, and has written a block since, whose extent is in the activity log.
fn alone() -> Trio {
    let mut trio = formed();
    for peer in [1, 2] {
        trio.crash(peer);
    }
    trio.pass_time();
    trio.pass_time();
    assert_eq!(trio.write(0, 0, &[1; 4096]), DONE);
    trio
}

/// A bit that is set when the page that it is in was moved already is flushed in its new place only: an extent that left
/// the activity log because its bits were flushed in the old one would be lost with a crash.
#[test]
fn d8_bits_wait_while_their_pages_move() {
    let mut trio = alone();
    trio.hold_commits(0);
    let new = trio.status(0).size_bytes + (64 << 10);
    let growth = trio.begin_command(0, OperatorCommand::Resize(new));
    assert_eq!(trio.write(0, 8192, &[2; 4096]), DONE, "in the same extent, after its page was moved");
    for _ in 0..30 {
        trio.pass_time();
    }
    assert!(trio.release_commit(), "the pages of the first peer");
    assert_eq!(trio.answer(growth), None, "those of the second follow");
    trio.release_commits();
    assert_eq!(trio.answer(growth), Some(OperatorAnswer::Done));
    for _ in 0..60 {
        trio.pass_time();
    }
    trio.crash(0);
    trio.restart(0);
    for peer in [1, 2] {
        assert_eq!(
            trio.of(0, peer).dirty_bytes,
            8192,
            "what node {peer} lacks: no bit lost, no extent left open"
        );
    }
}

/// A copy that may show what its media do not have is written over without a comparison. What is the same already is no
/// change for the other nodes: else it would go from one source to the next and back, each time whole.
#[test]
fn g9_a_copy_in_doubt_is_done_with_both_of_its_sources() {
    let mut trio = formed();
    for block in 0..8 {
        assert_eq!(trio.write(0, block << 16, &[9; 4096]), DONE);
    }
    assert_eq!(trio.command(0, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
    let mut moved = trio.moved_bytes;
    for _ in 0..2 {
        trio.crash(2);
        trio.restart(2);
        for _ in 0..2 {
            trio.pass_time();
        }
        all_well(&trio);
        let now = trio.moved_bytes - std::mem::replace(&mut moved, trio.moved_bytes);
        assert!(now <= 2 * trio.data(2).len() as u64, "at most once from each: {now}");
        trio.pass_time();
        assert_eq!(trio.moved_bytes, moved, "and then no more");
    }
}

/// The first peer is in sync and lacks nothing, so all of its bits are stable; those of the second are not.
#[test]
fn d8_an_extent_is_let_go_when_the_bits_of_every_peer_are_stable() {
    let mut trio = formed();
    assert_eq!(trio.command(0, OperatorCommand::Resize(2 << 20)), OperatorAnswer::Done);
    trio.crash(2);
    trio.pass_time();
    trio.pass_time();
    for extent in 0..32 {
        assert_eq!(trio.write(0, extent << 16, &[1; 4096]), DONE, "there are 16 slots");
        assert_eq!(trio.request(0, ClientOperation::Flush), DONE, "only the bits hinder it from leaving");
    }
    trio.crash(0);
    for node in [0, 2] {
        trio.restart(node);
    }
    for _ in 0..4 {
        trio.pass_time();
    }
    all_well(&trio);
    assert!(trio.data(0) == trio.data(2));
}

/// G5: whatever happens among the others, who was away comes back by bitmap: the generations that its window needs are kept
/// beyond the 64 of the history.
#[test]
fn g5_who_was_away_for_more_generations_than_are_kept_comes_back_by_bitmap() {
    let mut trio = formed();
    trio.crash(2);
    trio.pass_time();
    assert_eq!(trio.write(0, 0, &[1; 4096]), DONE);
    let first = trio.status(0).head;
    for _ in 0..70 {
        trio.cut(0, 1);
        assert_eq!(trio.write(0, 0, &[2; 4096]), DONE);
        trio.join(0, 1);
        trio.pass_time();
    }
    assert_ne!(trio.status(0).head, first);
    trio.restart(2);
    trio.pass_time();
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    for _ in 0..40 {
        trio.pass_time();
    }
    all_well(&trio);
    let compared = trio.status(2).last_resync.expect("it had to be copied").compared_bytes;
    assert!(compared <= 128 << 10, "{compared} bytes: not by bitmap");
}

/// The bitmaps of all peers move when the volume grows, not only those that change afterwards.
#[test]
fn d10_what_every_peer_lacks_survives_a_growth() {
    let mut trio = alone();
    for _ in 0..60 {
        trio.pass_time();
    }
    let new = trio.status(0).size_bytes + (64 << 10);
    assert_eq!(trio.command(0, OperatorCommand::Resize(new)), OperatorAnswer::Done);
    trio.crash(0);
    trio.restart(0);
    for peer in [1, 2] {
        assert_eq!(trio.of(0, peer).dirty_bytes, 4096, "what node {peer} lacks");
    }
}
