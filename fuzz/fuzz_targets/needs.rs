#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringmark_machine::fuzzing::needs(bytes));
