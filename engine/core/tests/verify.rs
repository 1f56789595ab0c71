//! What an online verify finds, and what it must not take for an answer (R7).

mod pair;

use evenkeel_core::volume::{
    io::RequestOutcome,
    operator::{OperatorAnswer, OperatorCommand},
    span::ByteSpan,
};
use pair::{Fail, Held, Pair, Settings};

fn primary() -> Pair {
    Pair::serving(Settings::default())
}

fn verify(repair: bool) -> OperatorCommand {
    OperatorCommand::Verify { peer: evenkeel_core::ids::PeerIndex::FIRST, repair }
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
