//! A session made of options and commands, built from the input of a fuzzer.
//!
//! The input is a list of steps: one byte says which, the bytes that follow fill in its fields. Whatever the
//! input is, it means some session; most are nearly right, with a wrong length, flag or order here and there.

use super::harness::{DEVICE_BYTES, Harness};
use crate::wire::{
    client_flag, command_flag,
    option::{self as code, OptionHeader, info},
    transmission::{Cookie, RequestHeader},
};

/// Steps of one session at most: enough to fill every limit of the harness several times.
const MAX_STEPS: usize = 200;

/// The bytes of an option.
#[must_use]
pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("tests are small");
    [&OptionHeader { option, length }.encode()[..], data].concat()
}

/// The bytes of INFO or GO.
#[must_use]
pub fn info_option(which: u32, name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend(u16::try_from(wanted.len()).expect("tests are small").to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    option(which, &data)
}

/// The bytes of LIST_META_CONTEXT or SET_META_CONTEXT.
#[must_use]
pub fn export_option(which: u32, name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend(u32::try_from(queries.len()).expect("tests are small").to_be_bytes());
    data.extend(queries.iter().flat_map(|query| string(query)));
    option(which, &data)
}

fn string(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("tests are small");
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

/// The bytes of a request header.
#[must_use]
pub fn request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    RequestHeader { flags, command, cookie: Cookie(cookie), offset, length }.encode().to_vec()
}

/// The input, read front to back; zeroes follow its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u8()) % from.len()]
    }
}

const NAMES: [&str; 6] = ["r0", "ro", "away", "", "nobody", "r0\u{e9}"];
const QUERIES: [&str; 6] =
    ["base:allocation", "base:", "x-evenkeel:dirty", "x-evenkeel:", "qemu:x", "no colon"];
const OPTIONS: [u32; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut harness = Harness::new();
    let flags = input.pick(&[client_flag::KNOWN, client_flag::FIXED_NEWSTYLE, 0, 4]);
    harness.feed(&flags.to_be_bytes());
    let mut cookie = 0;
    for _ in 0..MAX_STEPS {
        if input.0.is_empty() || harness.is_closed() {
            break;
        }
        if harness.entered().is_none() {
            haggle(&mut input, &mut harness);
        } else {
            cookie += 1;
            transmit(&mut input, &mut harness, cookie);
        }
    }
    harness.check();
}

/// Feeds bytes, sometimes in pieces.
fn feed(input: &mut Input<'_>, harness: &mut Harness, bytes: &[u8]) {
    let cut = usize::from(input.u8());
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    harness.feed(first);
    harness.feed(second);
}

fn haggle(input: &mut Input<'_>, harness: &mut Harness) {
    let name = input.pick(&NAMES);
    let bytes = match input.u8() % 10 {
        0 => option(code::EXPORT_NAME, name.as_bytes()),
        1 => info_option(code::INFO, name, &[info::BLOCK_SIZE, info::NAME, info::DESCRIPTION, 9]),
        2 | 3 => info_option(code::GO, name, &[]),
        4 => option(code::STRUCTURED_REPLY, b""),
        5 | 6 => {
            let which = input.pick(&[code::LIST_META_CONTEXT, code::SET_META_CONTEXT]);
            let queries: Vec<_> = (0..input.u8() % 4).map(|_| input.pick(&QUERIES)).collect();
            export_option(which, name, &queries)
        }
        7 => option(code::LIST, b""),
        8 => {
            // Any option with any data, also too much of it.
            let length = usize::from(input.u16()) % 9000;
            option(input.pick(&OPTIONS), &vec![input.u8(); length])
        }
        _ => {
            // A well-formed option with one byte changed.
            let mut bytes = info_option(input.pick(&[code::INFO, code::GO]), name, &[info::EXPORT]);
            let at = usize::from(input.u8()) % bytes.len();
            bytes[at] = input.u8();
            bytes
        }
    };
    feed(input, harness, &bytes);
}

fn transmit(input: &mut Input<'_>, harness: &mut Harness, cookie: u64) {
    let step = input.u8();
    match step {
        0..=9 => harness.set_reading(step.is_multiple_of(2)),
        10..=19 => harness.set_deferring(step.is_multiple_of(2)),
        20..=49 => harness.complete_one(usize::from(input.u8())),
        50 => harness.drain(),
        51 => harness.finish(),
        _ => {
            let command = input.pick(&[0, 0, 1, 1, 3, 4, 5, 6, 7, 2, 8, 9]);
            let flags = match input.u8() {
                odd @ 200.. => u16::from(odd),
                even => {
                    input.pick(&[0, command_flag::FUA, command_flag::DF, command_flag::REQ_ONE, 0x12])
                        * u16::from(even % 2)
                }
            };
            let length = match input.u8() {
                0 => 0,
                1 => u32::MAX,
                2 => 32 << 10,
                3 => (32 << 10) + 1,
                4 => (64 << 10) + 1,
                block @ 5..=99 => u32::from(block % 8) * 4096,
                _ => u32::from(input.u16() % 8192),
            };
            let offset = match input.u8() {
                0 => DEVICE_BYTES as u64 - 1,
                1 => u64::MAX,
                2 => DEVICE_BYTES as u64,
                block @ 3..=99 => u64::from(block % 16) * 4096,
                _ => u64::from(input.u16()),
            };
            let mut bytes = request(flags, command, cookie, offset, length);
            if command == 1 && length <= 64 << 10 {
                bytes.resize(bytes.len() + length as usize, input.u8());
            }
            feed(input, harness, &bytes);
        }
    }
}
