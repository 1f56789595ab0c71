//! What nodes keep for each other while one of three is away, and what they conclude when it is back: bits for third
//! nodes, extents of the activity log, sessions that end, and what is known of who is away (G9, D8, D10, D11, P1).

mod trio;

use evenkeel_core::{
    ids::PeerIndex,
    volume::{
        DirtyExtent, DiskState, Replication, Role,
        config::OnPeerLoss,
        io::{ClientOperation, RequestError, RequestOutcome, ZeroMode},
        operator::{Force, OperatorAnswer, OperatorCommand},
        span::ByteSpan,
        status::Suspended,
    },
};
use trio::Trio;

const DONE: Option<Result<RequestOutcome, RequestError>> = Some(Ok(RequestOutcome::Done));

/// Node 0 is primary, all three are in sync.
fn formed() -> Trio {
    let mut trio = Trio::new();
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio
}

/// Node 0 is primary; the first four blocks are sevens on all three, stable; then gamma is cut off, then beta.
fn parted() -> Trio {
    let mut trio = formed();
    assert_eq!(trio.write(0, 0, &[7; 16384]), DONE);
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    for (one, other) in [(0, 2), (1, 2), (0, 1)] {
        trio.cut(one, other);
    }
    trio.pass_time();
    trio
}

/// Beta has caught up with alpha, which is lost before gamma is back.
fn gamma_comes_back_to_beta(trio: &mut Trio) {
    trio.join(0, 1);
    trio.pass_time();
    assert_eq!(trio.of(0, 1).replication, Replication::Established);
    assert!(trio.data(0) == trio.data(1), "beta has caught up");
    assert!(trio.of(1, 2).dirty_bytes > 0, "beta knows what gamma lacks");
    trio.crash(0);
    trio.join(1, 2);
    trio.pass_time();
    assert!(trio.data(1) == trio.data(2), "gamma has it from beta");
    let compared = trio.status(2).last_resync.expect("it had to be copied").compared_bytes;
    assert!(compared <= 128 << 10, "{compared} bytes: not by bitmap");
}

#[test]
fn g9_what_a_resync_changes_is_marked_for_a_node_that_is_away() {
    let mut trio = parted();
    assert_eq!(trio.write(0, 4096, &[9; 4096]), DONE);
    gamma_comes_back_to_beta(&mut trio);
    assert_eq!(trio.data(2)[4096..8192], [9; 4096]);
}

#[test]
fn g9_what_a_resync_zeroes_is_marked_for_a_node_that_is_away() {
    let mut trio = parted();
    let zero = ClientOperation::Zero {
        span: ByteSpan { offset: 4096, len: 4096 },
        mode: ZeroMode::Punch,
        fua: false,
    };
    assert_eq!(trio.request(0, zero), DONE);
    gamma_comes_back_to_beta(&mut trio);
    assert_eq!(trio.data(2)[4096..8192], [0; 4096]);
}

/// Beta's process dies at each event of its resync. The next one finds the block as it should be: no change.
#[test]
fn g9_bits_for_third_nodes_are_stable_before_a_resync_changes_blocks() {
    for events in 0.. {
        let mut trio = parted();
        assert_eq!(trio.write(0, 1 << 17, &[9; 4096]), DONE, "in an extent that beta has never used");
        trio.stop_after(events);
        trio.join(0, 1);
        let went_through =
            trio.data(1)[1 << 17] == 9 && trio.of(0, 1).replication == Replication::Established;
        trio.crash(1);
        trio.go_on();
        trio.restart(1);
        trio.pass_time();
        gamma_comes_back_to_beta(&mut trio);
        if went_through {
            break;
        }
        assert!(events < 300, "the resync never ends");
    }
}

/// Once a minute idle extents leave a follower's activity log; beta and alpha die in some seconds of it.
#[test]
fn g9_a_followers_extents_stay_until_their_writes_are_stable_everywhere() {
    for earlier in 0..=20 {
        let mut trio = formed();
        for _ in 0..earlier {
            trio.pass_time();
        }
        trio.stick(0, 2, true);
        assert_eq!(trio.write(0, 0, &[1; 4096]), None, "gamma has not got it");
        trio.pass_time();
        trio.stop_after(0);
        trio.crash(1);
        trio.crash(0);
        trio.go_on();
        assert!(trio.data(1) != trio.data(2));
        trio.restart(1);
        trio.pass_time();
        assert!(trio.data(1) == trio.data(2), "beta's activity log named the block, {earlier}");
    }
}

#[test]
fn g9_a_word_of_the_primary_settles_only_the_writes_that_it_names() {
    let mut trio = formed();
    assert_eq!(trio.write(0, 0, &[1; 4096]), DONE);
    trio.stop_after(1);
    assert_eq!(trio.request(0, ClientOperation::Flush), None);
    trio.stick(0, 2, true);
    assert_eq!(trio.write(0, 4096, &[2; 4096]), None);
    assert!(trio.go_on());
    assert_eq!(trio.data(1)[4096..8192], [2; 4096], "beta has got it before the word about the first one");
    assert_eq!(trio.data(2)[4096..8192], [0; 4096], "gamma has not");
    trio.crash(0);
    trio.pass_time();
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert!(trio.data(1) == trio.data(2), "the survivors have compared it");
}

/// Gamma is linked with beta alone when alpha becomes primary: it is not offered alpha's head.
#[test]
fn g9_a_secondary_leaves_who_is_not_offered_the_head_that_it_takes() {
    let mut trio = Trio::new();
    trio.cut(0, 2);
    trio.pass_time();
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_ne!(trio.of(1, 2).replication, Replication::Established, "beta has left gamma");
    trio.pass_time();
    assert_eq!(trio.write(0, 0, &[5; 4096]), DONE);
    assert_eq!(trio.request(0, ClientOperation::Flush), DONE);
    assert_ne!(trio.of(1, 2).replication, Replication::Established);
    assert_eq!(trio.command(0, OperatorCommand::Shutdown), OperatorAnswer::Done);
    trio.crash(0);
    trio.pass_time();
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert!(trio.data(1) == trio.data(2), "gamma has caught up with beta");
    assert_eq!(trio.data(2)[..4096], [5; 4096]);
}

/// Gamma is away, the second peer of alpha and of beta; its first one lacks nothing.
#[test]
fn d10_the_map_of_dirty_blocks_shows_what_any_peer_lacks() {
    let mut trio = formed();
    trio.cut(0, 2);
    assert_eq!(trio.write(0, 4096, &[9; 4096]), DONE);
    let span = ByteSpan { offset: 0, len: 16384 };
    let clean = |len| DirtyExtent { len, dirty: false };
    let expected = [clean(4096), DirtyExtent { len: 4096, dirty: true }, clean(8192)];
    assert_eq!(trio.dirty_map(0, span, 8), expected);
}

/// Beta has not got a write when gamma is lost and alpha holds everything; then alpha's role ends.
#[test]
fn g9_who_followed_a_primary_that_ends_suspended_decides_anew() {
    let mut trio = Trio::with(OnPeerLoss::Suspend);
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio.stick(0, 1, true);
    assert_eq!(trio.write(0, 4096, &[9; 4096]), None, "beta has not got it");
    trio.cut(0, 2);
    trio.cut(1, 2);
    assert_eq!(trio.status(0).suspended, Some(Suspended::PeerLost));
    assert_eq!(trio.of(0, 1).replication, Replication::Established);
    assert_eq!(trio.command(0, OperatorCommand::Secondary { force: true }), OperatorAnswer::Done);
    assert_eq!(trio.status(0).role, Role::Secondary);
    assert!(trio.data(0) != trio.data(1));
    assert_ne!(trio.of(0, 1).replication, Replication::Established, "they are not equal");
    trio.stick(0, 1, false);
    trio.pass_time();
    assert_eq!(trio.of(0, 1).replication, Replication::Established);
    assert!(trio.data(0) == trio.data(1), "they have compared");
}

/// Alpha wrote alone. Beta, in sync with gamma, meets it, and holds the resync still.
#[test]
fn g9_the_target_of_a_resync_is_in_sync_with_nobody() {
    let mut trio = Trio::new();
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio.cut(0, 1);
    trio.cut(0, 2);
    for _ in 0..2 {
        trio.pass_time();
    }
    assert_eq!(trio.write(0, 0, &[5; 4096]), DONE);
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert_eq!(trio.of(2, 1).replication, Replication::Established);
    assert_eq!(trio.command(1, OperatorCommand::PauseResync(true)), OperatorAnswer::Done);
    trio.join(0, 1);
    assert_eq!(trio.status(1).disk, DiskState::Inconsistent, "it is a target");
    assert_ne!(trio.of(1, 2).replication, Replication::Established);
    assert_ne!(trio.of(2, 1).replication, Replication::Established, "a half-copied node");
    assert_eq!(trio.command(1, OperatorCommand::PauseResync(false)), OperatorAnswer::Done);
    trio.join(0, 2);
    trio.pass_time();
    for node in [1, 2] {
        assert!(trio.data(node)[..4096] == [5; 4096], "node {node}");
        assert_eq!(trio.status(node).disk, DiskState::UpToDate, "node {node}");
    }
    assert_eq!(trio.of(2, 1).replication, Replication::Established);
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
        assert_eq!(trio.write(0, block * 8192, &[5; 4096]), DONE);
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

/// Alpha wrote, and lost it with its power; gamma has it. Beta takes alpha's head, and meets gamma.
#[test]
fn g8_a_head_of_a_node_that_lost_power_is_no_better_with_another() {
    let mut trio = Trio::new();
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    trio.cut(0, 1);
    trio.cut(1, 2);
    assert_eq!(trio.write(0, 0, &[5; 4096]), DONE);
    let head = trio.status(2).head;
    trio.lose_power(0);
    trio.cut(0, 2);
    trio.restart(0);
    trio.join(0, 1);
    assert_eq!((trio.data(0)[0], trio.data(1)[0], trio.data(2)[0]), (0, 0, 5));
    assert_eq!((trio.status(1).head, trio.status(2).head), (head, head));
    trio.cut(0, 1);
    trio.join(1, 2);
    for node in [1, 2] {
        assert_eq!(trio.data(node)[..4096], [5; 4096], "node {node}: gamma kept what was answered");
    }
}

/// Alpha is primary, and gamma has confirmed to it that its copy is old; no cable leads to gamma.
fn without_gamma() -> Trio {
    let mut trio = formed();
    let gamma = PeerIndex::new(1).expect("alpha's second peer");
    assert_eq!(trio.command(0, OperatorCommand::Disconnect(gamma)), OperatorAnswer::Done);
    assert_eq!(trio.status(2).disk, DiskState::Outdated);
    trio.cut(0, 2);
    trio.cut(1, 2);
    trio.pass_time();
    trio
}

/// Alpha has lost power while nothing was under way, and so the certainty of its copy, and has the right still; what it has
/// met and what is known to be old is all there is.
#[test]
fn p1_who_has_met_all_but_those_that_are_known_to_be_old_is_up_to_date() {
    let mut trio = without_gamma();
    trio.lose_power(0);
    trio.cut(0, 1);
    trio.restart(0);
    assert_eq!(trio.status(0).disk, DiskState::Consistent, "beta may have more");
    trio.join(0, 1);
    assert_eq!(trio.of(0, 1).replication, Replication::Established);
    assert_eq!(trio.status(0).disk, DiskState::UpToDate);
    assert_eq!(trio.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
}

/// Beta has filled gamma since, which went on alone: what alpha knew of it is past, and alpha has not the right any more.
#[test]
fn p1_what_was_known_to_be_old_counts_for_the_one_that_is_entitled_only() {
    let mut trio = without_gamma();
    let secondary = OperatorCommand::Secondary { force: false };
    assert_eq!(trio.command(0, secondary.clone()), OperatorAnswer::Done);
    assert_eq!(trio.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    trio.pass_time();
    assert!(!trio.status(0).entitled);
    trio.crash(0);
    trio.join(1, 2);
    assert_eq!(trio.of(1, 2).replication, Replication::Established);
    assert_eq!(trio.command(1, secondary), OperatorAnswer::Done);
    assert_eq!(trio.command(2, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    trio.cut(1, 2);
    assert_eq!(trio.write(2, 0, &[6; 4096]), DONE, "gamma alone");
    trio.restart(0);
    trio.pass_time();
    assert_eq!(trio.of(0, 1).replication, Replication::Established);
    assert_eq!(trio.status(0).disk, DiskState::Consistent, "gamma has more");
}
