//! See `evenkeel_core::volume::codec::fuzzing::raw`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evenkeel_core::volume::codec::fuzzing::raw(data));
