//! See `evenkeel_core::meta::fuzzing::activity_logs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evenkeel_core::meta::fuzzing::activity_logs(data));
