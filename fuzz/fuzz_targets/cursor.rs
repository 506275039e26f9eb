#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| copyhold_testkit::fuzz::cursor(data));
