//! Fuzz targets as plain functions, and what they and the tests have in common.
//!
//! [`raw`] feeds bytes as they are. [`structured`] builds options and commands from the input, so that a fuzzer
//! gets past magics and lengths. Both check: no panic, output and memory bounded, the stream in step, each
//! request answered exactly once. `fuzz/` wraps them for cargo-fuzz; `tests/corpus_replay.rs` runs the corpus.

mod harness;
mod replies;
mod script;

pub use harness::Harness;
pub use replies::{OptionReply, ReplyPart, option_replies, reply_parts};
pub use script::{export_option, info_option, option, request};

use crate::wire::{client_flag, option as code};

/// Sessions that end in the transmission phase, so that raw input can start there too.
fn prefix(selector: u8) -> Vec<u8> {
    let flags = client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES;
    let mut bytes = flags.to_be_bytes().to_vec();
    match selector % 4 {
        0 => bytes.clear(),
        1 => bytes.extend(option(code::EXPORT_NAME, b"r0")),
        2 => bytes.extend(info_option(code::GO, "r0", &[])),
        _ => {
            bytes.extend(option(code::STRUCTURED_REPLY, b""));
            bytes.extend(export_option(
                code::SET_META_CONTEXT,
                "r0",
                &["base:allocation", "x-evenkeel:dirty"],
            ));
            bytes.extend(info_option(code::GO, "r0", &[]));
        }
    }
    bytes
}

/// The first two bytes choose how the session begins and how the rest is cut; the rest is what a client sends.
pub fn raw(data: &[u8]) {
    let Some((&[selector, cut], bytes)) = data.split_first_chunk::<2>() else { return };
    let mut harness = Harness::new();
    harness.feed(&prefix(selector));
    let step = match cut % 4 {
        0 => 1,
        1 => 7,
        2 => 4096,
        _ => usize::MAX,
    };
    for piece in bytes.chunks(step) {
        harness.feed(piece);
    }
    if cut & 4 != 0 {
        harness.drain();
    }
    harness.check();
}

/// Builds a session out of `data`, see the module `script`.
pub fn structured(data: &[u8]) {
    script::run(data);
}
