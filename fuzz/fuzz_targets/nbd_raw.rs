//! See `evenkeel_nbd::fuzzing::raw`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evenkeel_nbd::fuzzing::raw(data));
