//! See `evenkeel_core::volume::codec::fuzzing::structured`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evenkeel_core::volume::codec::fuzzing::structured(data));
