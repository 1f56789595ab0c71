//! See `evenkeel_core::meta::fuzzing::dirty_runs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evenkeel_core::meta::fuzzing::dirty_runs(data));
