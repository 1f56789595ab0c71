//! What an online verify finds, and what it must not take for an answer (R7).

mod pair;

use evenkeel_core::{
    ids::PeerIndex,
    volume::{
        io::{Channel, Event, RequestOutcome},
        operator::{OperatorAnswer, OperatorCommand},
        span::ByteSpan,
        wire::Frame,
    },
};
use pair::{Fail, Held, Pair, Settings};

fn primary() -> Pair {
    Pair::serving(Settings::default())
}

fn verify(repair: bool) -> OperatorCommand {
    OperatorCommand::Verify { peer: PeerIndex::FIRST, repair }
}

/// The answer when the blocks at these offsets differ.
fn found(blocks: &[u64], repaired: bool) -> OperatorAnswer {
    OperatorAnswer::Verified {
        compared_bytes: 4 << 20,
        differing_bytes: 4096 * blocks.len() as u64,
        differing: blocks.iter().map(|&offset| ByteSpan { offset, len: 4096 }).collect(),
        repaired,
    }
}

#[test]
fn verify_finds_what_was_changed_behind_the_engine_and_repairs_it() {
    let mut pair = primary();
    assert_eq!(pair.write(0, 0, &[1; 65536], false), Ok(RequestOutcome::Done));
    pair.change_behind(1, 4096, &[9]);
    pair.change_behind(1, (4 << 20) - 1, &[9]);
    let blocks = [4096, (4 << 20) - 4096];
    assert_eq!(pair.command(0, verify(false)), found(&blocks, false));
    assert_eq!(pair.command(0, verify(true)), found(&blocks, true));
    assert_eq!(pair.data(0), pair.data(1));
    assert_eq!(pair.command(0, verify(false)), found(&[], false));
}

/// A verify that ends at a block that the primary cannot read, when the peer has compared the first `asked` checks and its
/// answers are on the way.
fn ended_early(asked: usize) -> Pair {
    let mut pair = primary();
    pair.hold(0, Held::Data);
    pair.limit_frames(0, 0);
    let first = pair.begin_command(0, verify(false));
    for _ in 0..asked {
        pair.release_one(0, Held::Data);
    }
    pair.fail_next(0, Fail::Read);
    pair.release_one(0, Held::Data);
    assert!(matches!(pair.answer(first), Some(OperatorAnswer::Refused(_))), "the own disk cannot be read");
    pair.release(0, Held::Data);
    pair
}

#[test]
fn answers_to_a_verify_that_ended_early_count_for_no_later_one() {
    for asked in 0..8 {
        let mut pair = ended_early(asked);
        // The peer has called these equal, and that is over.
        pair.change_behind(1, 4096, &[9]);
        let link = pair.link();
        let second = pair.begin_command(0, verify(true));
        assert_eq!(pair.answer(second), None);
        pair.unlimit_frames();
        assert_eq!(pair.answer(second), Some(found(&[4096], true)), "{asked} answers were on the way");
        assert_eq!(pair.link(), link, "and nobody was taken for a liar");
        assert!(pair.data(0) == pair.data(1));
    }
}

/// What was not written is not called repaired.
#[test]
fn a_repair_that_comes_after_the_role_has_ended_is_refused() {
    let mut pair = primary();
    pair.change_behind(1, 4096, &[9]);
    pair.limit_frames(0, 0);
    let command = pair.begin_command(0, verify(true));
    let secondary = pair.begin_command(0, OperatorCommand::Secondary { force: true });
    pair.unlimit_frames();
    assert_eq!(pair.answer(secondary), Some(OperatorAnswer::Done));
    assert!(matches!(pair.answer(command), Some(OperatorAnswer::Refused(_))));
    assert_eq!(pair.data(1)[4096], 9);
}

/// A peer that answers with blocks that it was not asked for costs its link, and hinders no write later.
#[test]
fn an_answer_about_other_blocks_ends_the_link_and_leaves_no_fence() {
    let mut pair = primary();
    pair.hold(1, Held::Data);
    let command = pair.begin_command(0, verify(true));
    let (peer, link) = (PeerIndex::FIRST, pair.link().unwrap());
    pair.may_fail = true;
    let frame = Frame::Compared { id: 0, differing: vec![16] };
    pair.deliver(vec![(0, Event::Frame { peer, link, channel: Channel::Resync, frame })]);
    assert!(matches!(pair.answer(command), Some(OperatorAnswer::Refused(_))));
    assert_eq!(pair.link(), None);
    pair.release(1, Held::Data);
    assert_eq!(pair.write(0, 0, &[1; 65536], false), Ok(RequestOutcome::Done), "where the check was");
}

#[test]
fn r7_what_the_follower_cannot_read_differs_and_is_written_anew() {
    for repair in [false, true] {
        let mut pair = Pair::mirrored();
        pair.change_behind(1, 4096, &[9]);
        pair.fail_next(1, Fail::Read);
        let blocks: Vec<u64> = (0..16).map(|block| block * 4096).collect();
        assert_eq!(pair.command(0, verify(repair)), found(&blocks, repair), "a comparison has 64 KiB");
        assert_eq!(pair.data(1) == pair.data(0), repair);
    }
}

#[test]
fn r7_of_two_secondaries_none_repairs() {
    for differing in [0, 4096] {
        let mut pair = Pair::mirrored();
        assert_eq!(pair.command(0, OperatorCommand::Secondary { force: false }), OperatorAnswer::Done);
        if differing > 0 {
            pair.change_behind(1, 4096, &[9]);
        }
        let OperatorAnswer::Verified { differing_bytes, .. } = pair.command(0, verify(false)) else {
            panic!("they may be compared")
        };
        assert_eq!(differing_bytes, differing);
        let answer = pair.command(0, verify(true));
        assert!(matches!(answer, OperatorAnswer::Refused(_)), "{differing} bytes differ: {answer:?}");
        assert_eq!(pair.data(1) == pair.data(0), differing == 0);
    }
}
